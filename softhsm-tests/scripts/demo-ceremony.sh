#!/usr/bin/env bash
# make demo-ceremony: three custodians, three tokens, one root, in .demo-ceremony/.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=token.sh
. "$root/softhsm-tests/scripts/token.sh"
# shellcheck source=daemon.sh
. "$root/softhsm-tests/scripts/daemon.sh"

dir=.demo-ceremony     # as it is typed in commands; "$root/$dir" where it must be absolute
tenants=(acme globex)
columns=phone,id_number,bank_card,address
rows=500               # for each tenant
config=$dir/keywardd.toml
# shellcheck source=show.sh
. "$root/softhsm-tests/scripts/show.sh"
# shellcheck source=reader.sh
. "$root/softhsm-tests/scripts/reader.sh"

# as NAME COMMAND…: runs a command with the token of a custodian, as on a workstation of their own.
as() {
    local name=$1
    shift
    # A person is asked for the PIN; a script has a file.
    set -- "$@" --token "$name-token" --pin-file "$dir/$name/pin"
    printf '   %s%s$ %s%s\n' "$dim" "$name" "$(quoted "$@")" "$plain"
    SOFTHSM2_CONF=$root/$dir/$name/softhsm2.conf "$@" </dev/null 2>&1 | indent
}

enrol() { # NAME: a token with two keys, and a card
    (token_create "$root/$dir/$1" "$1-token")
    as "$1" keyward token generate --name "$1" --quiet
    as "$1" keyward token card --name "$1" --out "$dir/$1.card"
}

# propose WHAT…: shows and runs `ceremony propose`; the ceremony's id goes to $ceremony.
propose() {
    local answer
    show keyward ceremony propose "$@"
    answer=$(keyward ceremony propose "$@" --json </dev/null)
    ceremony=$(grep -oE 'ceremonies/[0-9a-f]{32}' <<<"$answer" | head -n 1)
    ceremony=${ceremony#ceremonies/}
    ceremony=${ceremony:0:8}
    [[ -n $ceremony ]] || die "no ceremony was proposed: $answer"
    fact "proposed: $ceremony"
}

approved_by() { # NAME…: each approves $ceremony
    as "$1" keyward ceremony approve "$ceremony"
    local name
    for name in "${@:2}"; do
        as "$name" keyward ceremony approve "$ceremony" | fold_statement
    done
}

# A statement that was shown before.
fold_statement() { sed '/^ *KEYWARD CEREMONY$/,/^ *\(Expires: \|Reason: "HSM\).*/c\   (the same text)'; }

# refused EXIT-CODE COMMAND…: must fail so.
refused() {
    local expected=$1 status=0
    shift
    show "$@"
    "$@" </dev/null >"$dir/refusal" 2>&1 || status=$?
    ((status == expected)) || die "expected exit code $expected, got $status: $(<"$dir/refusal")"
    indent <"$dir/refusal"
    fact "refused, exit code $status"
}

start() {
    daemon_start "$root/$dir"
    daemon_wait "$daemon_pid" 60
}

stop() { daemon_stop || die "the daemon stopped with exit code $?"; }

configure() { # KEY VALUE: changes one line of the configuration
    grep -q "^$1 = " "$config" || die "$config has no $1"
    sed -i "s|^$1 = .*|$1 = \"$2\"|" "$config"
    fact "$config: $1 = \"$2\""
}

# Decrypts every row of a tenant and compares it with what was encrypted in the beginning.
same() {
    rm -f "$dir/$1.dec.csv"
    run keyward decrypt "$1/customer-pii" --csv --columns "$columns" --in "$dir/$1.sample.enc.csv" --out "$dir/$1.dec.csv"
    run cmp "$dir/$1.sample.csv" "$dir/$1.dec.csv"
}

# Waits for a file of the process $1.
await() {
    local deadline=$((SECONDS + 60))
    until [[ -e $2 ]]; do
        kill -0 "$1" 2>/dev/null || die "it ended early: $(<"$dir/restore.log")"
        ((SECONDS < deadline)) || die "$2 did not appear within 60 s"
        sleep 0.05
    done
}

started=$(now)
say "${bold}Keyward ceremony demo${plain}: three custodians, real signatures, a software HSM (SoftHSM2)."

title 'Build'
"$root/softhsm-tests/scripts/setup.sh" demo
cargo build --locked "${buildable[@]}" --bins </dev/null
export PATH="$bin:$PATH"
begun=$(now)
fact "done in $(seconds $((begun - started))) s"

title 'An HSM, a daemon and two tenants, in the hands of one operator so far'
fresh_folder
KEYWARD_TOKEN_MODULE=$(softhsm_library) || die 'SoftHSM is not installed; run softhsm-tests/scripts/setup.sh'
KEYWARD_SOCKET=$(daemon_socket "$root/$dir/keyward.sock")
export KEYWARD_TOKEN_MODULE KEYWARD_SOCKET
token_create "$root/$dir/hsm-1" hsm-1
daemon_config "$root/$dir" hsm-1 "$KEYWARD_SOCKET" ops "$root/$dir/hsm-1/pin"
run keyward init --config "$config" --backup-key "$dir/backup-key"
start
for tenant in "${tenants[@]}"; do
    run keyward tenant create "$tenant"
    run keyward key create "$tenant/customer-pii" --class 2
    "$bin/customers" "$dir/$tenant.sample.csv" "$rows" "$tenant"
    run keyward encrypt "$tenant/customer-pii" --csv --columns "$columns" \
        --in "$dir/$tenant.sample.csv" --out "$dir/$tenant.sample.enc.csv"
done

title 'Three custodians make keys on their tokens and hand in a card'
for name in alice bob carol; do
    enrol "$name"
done

title 'Founding: all three sign the same text; from then on any two decide'
propose found --quorum 2 --card "$dir/alice.card" --card "$dir/bob.card" --card "$dir/carol.card" \
    --reason 'board decision of 3 May'
approved_by alice bob carol
run keyward ceremony transcript "$ceremony" --out "$dir/founding.json" --html "$dir/founding.html"
rm "$dir/backup-key" && fact "the backup key file of init opens nothing any more; removed"
stop
configure custody custodians
start
run keyward ceremony roster

title 'Nobody does it alone'
refused 1 keyward key destroy acme/customer-pii --yes --reason 'one operator in a hurry'

title 'The root is rotated while an application keeps decrypting'
propose rotate-root --reason 'yearly rotation'
reader_start
rounds_before=$(reader_rounds)
as alice keyward ceremony approve "$ceremony"
rotation=$(now)
as bob keyward ceremony approve "$ceremony" | fold_statement
rotation=$(($(now) - rotation))
reader_stop
(($(reader_rounds) > rounds_before)) || die 'the application did not decrypt during the rotation'
calls=$((2 * $(reader_rounds)))
fact "the application: $calls calls, $(thousands $((calls * rows))) rows, 0 failures"
run keyward ceremony transcript "$ceremony" --out "$dir/rotation.json" --html "$dir/rotation.html"
run keyward ceremony verify "$dir/rotation.json" --anchor "$dir/founding.json"

title 'What a restore needs: a recovery export and the escrow (neither opens anything by itself)'
run keyward backup create --out "$dir/today.kwb" --keep-for 35d
run keyward root escrow --out "$dir/root.escrow"
stop

title 'The HSM burns, and bob loses his token'
rm -rf "${root:?}/$dir/hsm-1" "${root:?}/$dir/bob"
token_create "$root/$dir/hsm-2" hsm-2
configure token hsm-2
configure pin_file "$root/$dir/hsm-2/pin"
sed -i 's|/hsm-1/tokens"|/hsm-2/tokens"|' "$config"
mkdir "$dir/meeting"
show keyward root restore --config "$config" --escrow "$dir/root.escrow" --folder "$dir/meeting" --reason 'HSM 1 burnt'
keyward root restore --config "$config" --escrow "$dir/root.escrow" --folder "$dir/meeting" \
    --reason 'HSM 1 burnt' </dev/null >"$dir/restore.log" 2>&1 &
restore_pid=$!
await "$restore_pid" "$dir/meeting/restore.request"
for name in alice carol; do
    as "$name" keyward ceremony share "$dir/meeting/restore.request" --out "$dir/meeting/$name.share"
done
wait "$restore_pid" || die "the restore failed: $(<"$dir/restore.log")"
indent <"$dir/restore.log" | fold_statement
run keyward ceremony verify "$dir/meeting/restore.json" --anchor "$dir/founding.json"
fact 'the erasure key burnt with the HSM, so the store comes from the recovery export'
mkdir "$dir/burnt"
mv "$dir"/state/store.db* "$dir/state/journal.kwj" "$dir/burnt"
run keyward backup restore --config "$config" --in "$dir/today.kwb"
run keyward store accept-rollback --config "$config"
start

title 'Everything decrypts as before'
for tenant in "${tenants[@]}"; do
    same "$tenant"
done

title "Dave takes bob's place; bob's share opens nothing any more"
enrol dave
propose change-roster --remove bob --add "$dir/dave.card" --reason 'bob lost his token'
approved_by alice carol
run keyward ceremony roster
run keyward root escrow --out "$dir/root.escrow" --force

title "A tenant's key is destroyed, with a certificate that the auditor verifies"
propose destroy acme/customer-pii --reason 'contract ended'
approved_by carol dave
refused 1 keyward decrypt acme/customer-pii --csv --columns "$columns" --in "$dir/acme.sample.enc.csv" --out "$dir/acme.dec2.csv"
keyward audit keys </dev/null >"$dir/audit-keys.txt"
run keyward certificate get acme/customer-pii --out "$dir/certificate.json"
run keyward certificate verify "$dir/certificate.json" --key "$dir/audit-keys.txt"
run keyward certificate show "$dir/certificate.json" --key "$dir/audit-keys.txt"
same globex

title 'Every step is in the audit log'
stop
run keyward audit verify --config "$config"
run keyward store check --config "$config"

title 'Summary'
fact 'ceremonies       found, rotate-root, restore, change-roster, destroy; all by custodians, on record'
fact "root rotation    $(seconds "$rotation") s, $calls calls of an application meanwhile, 0 failures"
fact 'restore          onto another token with 2 of 3 shares, data byte-identical'
fact 'destruction      certified, verified offline'
fact "durations        demo $(seconds $(($(now) - begun))) s, build $(seconds $((begun - started))) s"
fact "look at          $dir/*.html (the transcripts, to be printed)"
printf '\nDEMO OK\n'
