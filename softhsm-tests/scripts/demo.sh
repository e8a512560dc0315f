#!/usr/bin/env bash
# make demo: the main job, once, on a throw-away token and store in .demo/.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=token.sh
. "$root/softhsm-tests/scripts/token.sh"
# shellcheck source=daemon.sh
. "$root/softhsm-tests/scripts/daemon.sh"

rows=10000             # for each tenant
columns=phone,id_number,bank_card,address
tenants=(acme globex)
dir=.demo              # as it is typed in commands; "$root/$dir" where it must be absolute
# shellcheck source=show.sh
. "$root/softhsm-tests/scripts/show.sh"
# shellcheck source=reader.sh
. "$root/softhsm-tests/scripts/reader.sh"

# expect_refused WHAT COMMAND…: must answer with exit code 6 and nothing on stdout.
expect_refused() {
    local what=$1 output status=0
    shift
    show "$@"
    output=$("$@" </dev/null 2>"$dir/refusal") || status=$?
    ((status == 6)) || die "$what: expected exit code 6, got $status: $output $(<"$dir/refusal")"
    [[ -z $output ]] || die "$what: a refused ciphertext must print nothing, printed: $output"
    indent <"$dir/refusal"
    fact "exit code 6: refused ($what)"
}

crypt_csv() { # VERB IN-SUFFIX OUT-SUFFIX: both tenants; sums microseconds into $spent
    local tenant one
    spent=0
    for tenant in "${tenants[@]}"; do
        timed one keyward "$1" "$tenant/customer-pii" --csv --columns "$columns" \
            --in "$dir/$tenant.$2" --out "$dir/$tenant.$3"
        spent=$((spent + one))
    done
    fact "$(thousands $((2 * rows))) rows, $(thousands "$cells") cells in $(seconds "$spent") s:" \
        "$(thousands $((2 * rows * 1000000 / spent))) rows/s"
}

started=$(now)
say "${bold}Keyward demo${plain}: real data, a software HSM (SoftHSM2), about a minute after the build."

title 'Build'
"$root/softhsm-tests/scripts/setup.sh" demo
cargo build --locked "${buildable[@]}" --bins </dev/null
fact "done in $(seconds $(($(now) - started))) s"
export PATH="$bin:$PATH"
begun=$(now)

title 'A token, a root key that never leaves it, a store and an audit log'
fresh_folder
token_create "$root/$dir" demo
KEYWARD_SOCKET=$(daemon_socket "$root/$dir/keyward.sock")
export KEYWARD_SOCKET
daemon_config "$root/$dir" demo "$KEYWARD_SOCKET" demo
run keyward init --config "$dir/keywardd.toml" --backup-key "$dir/backup-key"
daemon_start "$root/$dir"
daemon_wait "$daemon_pid" 30
run keyward status

title 'Two tenants, each with a key for customer data'
for tenant in "${tenants[@]}"; do
    run keyward tenant create "$tenant"
    run keyward key create "$tenant/customer-pii" --class 2
done

title "Encrypt the sensitive columns of $(thousands $((2 * rows))) customers"
for tenant in "${tenants[@]}"; do
    "$bin/customers" "$dir/$tenant.csv" "$rows" "$tenant"
    head -n 501 "$dir/$tenant.csv" >"$dir/$tenant.sample.csv"
done
fact "before: $(sed -n 2p "$dir/acme.csv")"
cells=$((2 * rows * 4))
crypt_csv encrypt csv enc.csv
encrypt_spent=$spent
fact "after:  $(sed -n 2p "$dir/acme.enc.csv" | cut -c 1-100)…"
for tenant in "${tenants[@]}"; do
    head -n 501 "$dir/$tenant.enc.csv" >"$dir/$tenant.sample.enc.csv"
    # No phone or id number may be left in the encrypted file; the ids must still be there.
    tail -n +2 "$dir/$tenant.csv" | cut -d, -f3,4 | tr , '\n' | grep . >"$dir/secrets"
    ! grep -qFf "$dir/secrets" "$dir/$tenant.enc.csv" || die "plaintext is left in $dir/$tenant.enc.csv"
    cmp -s <(cut -d, -f1 "$dir/$tenant.csv") <(cut -d, -f1 "$dir/$tenant.enc.csv") ||
        die "the column id of $dir/$tenant.enc.csv has changed"
done
secret=$(printf 13812345678 | keyward encrypt acme/customer-pii --context column=phone)
[[ $secret == kw1:* ]] || die "expected a ciphertext that starts with kw1:, got $secret"

title 'Rotate the key-encryption keys of both tenants while a second client keeps decrypting'
reader_start
rounds_before=$(reader_rounds)
rotate_spent=0
for tenant in "${tenants[@]}"; do
    timed one keyward tenant rotate "$tenant" --wait
    rotate_spent=$((rotate_spent + one))
done
reader_stop
reads=$((2 * $(reader_rounds)))
fact "rotations: 2, in $(seconds "$rotate_spent") s; second client: $(thousands $((reads * 500))) rows" \
    "in $reads calls (from before the first to after the last), 0 failures"
(($(reader_rounds) > rounds_before)) || die 'the second client did not decrypt during the rotation'

title 'Decrypt what was encrypted before the rotation, and compare'
crypt_csv decrypt enc.csv dec.csv
decrypt_spent=$spent
for tenant in "${tenants[@]}"; do
    run cmp "$dir/$tenant.csv" "$dir/$tenant.dec.csv"
done
fact 'byte for byte the same'

title 'What it refuses'
show keyward decrypt acme/customer-pii "$secret" --context column=phone
answer=$(keyward decrypt acme/customer-pii "$secret" --context column=phone)
fact "$answer"
[[ $answer == 13812345678 ]] || die "expected 13812345678, got $answer"
expect_refused 'the key of another tenant' keyward decrypt globex/customer-pii "$secret" --context column=phone
expect_refused 'another context' keyward decrypt acme/customer-pii "$secret" --context column=fax
middle=$((${#secret} / 2))
[[ ${secret:middle:1} == A ]] && other=B || other=A
flipped=${secret:0:middle}$other${secret:middle+1}
expect_refused 'changed bits' keyward decrypt acme/customer-pii "$flipped" --context column=phone

title 'Stop the daemon and verify the audit log'
status=$(keyward status --json)
daemon_stop || die "the daemon stopped with exit code $?"
fact 'the daemon stopped in order'
run keyward audit verify --config "$dir/keywardd.toml"
run keyward store check --config "$dir/keywardd.toml"

operations=$(json_number operations <<<"$status")
records=$(json_number sequence <<<"$status")
[[ -n $operations && -n $records ]] || die "the status lacks hsm.operations or audit.sequence: $status"

title 'Summary'
fact "encrypted        $(thousands "$cells") cells, $(thousands $((2 * rows * 1000000 / encrypt_spent))) rows/s"
fact "decrypted        $(thousands "$cells") cells, $(thousands $((2 * rows * 1000000 / decrypt_spent))) rows/s, byte-identical"
fact "rotations        2 tenants in $(seconds "$rotate_spent") s, $reads calls of a second client meanwhile, 0 failures"
fact "refused          3 of 3: wrong tenant, wrong context, changed bits"
fact "HSM operations   $(thousands "$operations") for $(thousands $((2 * cells + reads * 2000))) cells"
fact "audit records    $(thousands "$records"), verified"
fact "durations        demo $(seconds $(($(now) - begun))) s, build $(seconds $((begun - started))) s"
fact "everything lies in $dir/ (files of this run only; the next run starts afresh)"
printf '\nDEMO OK\n'
