#!/usr/bin/env bash
# make demo-login: a staff member, a token, a web login, in .demo-login/.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=token.sh
. "$root/softhsm-tests/scripts/token.sh"
# shellcheck source=daemon.sh
. "$root/softhsm-tests/scripts/daemon.sh"

dir=.demo-login        # as it is typed in commands; "$root/$dir" where it must be absolute
config=$dir/keywardd.toml
origin=https://crm.example.com
counter=0              # of the one-time passwords
web_pid=
# shellcheck source=show.sh
. "$root/softhsm-tests/scripts/show.sh"

# as_alice COMMAND…: runs a command with her token, as on a workstation of her own.
as_alice() {
    # A person is asked for the PIN; a script has a file.
    set -- "$@" --token alice-token --pin-file "$dir/alice/pin"
    printf '   %salice$ %s%s\n' "$dim" "$(quoted "$@")" "$plain"
    SOFTHSM2_CONF=$root/$dir/alice/softhsm2.conf "$@" </dev/null 2>&1 | indent
}

otp() { # the next one-time password, to $otp
    otp=$("$bin/authenticator" "$dir/alice.otpauth" "$counter")
    counter=$((counter + 1))
}

browser() { curl --silent --show-error --max-time 20 --cookie "$dir/cookies" --cookie-jar "$dir/cookies" "$@"; }

# The value of the hidden field of the page on stdin.
hidden() { grep -oE 'name="form" value="[0-9a-f]+"' | head -n 1 | grep -oE '[0-9a-f]{64}'; }

# The line for the helper, from the page on stdin.
line() {
    sed -n 's/.*<textarea id="request"[^>]*>\(.*\)<\/textarea>.*/\1/p' |
        sed -e 's/&quot;/"/g' -e "s/&#39;/'/g" -e 's/&lt;/</g' -e 's/&gt;/>/g' -e 's/&amp;/\&/g'
}

begin() { # step 1: $page asks for a signature
    local first
    first=$(browser "$web/")
    page=$(browser "$web/login" --data-urlencode "form=$(hidden <<<"$first")" --data-urlencode 'account=alice')
}

sign() { # the helper's answer to $page, to $answer
    answer=$(line <<<"$page" | SOFTHSM2_CONF=$root/$dir/alice/softhsm2.conf keyward token agent --origin "$origin" \
        --token alice-token --pin-file "$dir/alice/pin" 2>"$dir/helper")
}

complete() { # OTP: step 2; the status goes to $status
    status=$(browser --output "$dir/page" --write-out '%{http_code}' "$web/login/complete" \
        --data-urlencode "form=$(hidden <<<"$page")" --data-urlencode "otp=$1" --data-urlencode "answer=$answer")
}

refused() { # what the page and the audit log say of the last login
    ((status == 401)) || die "expected a refused login, got $status"
    fact "the page: $(grep -oE 'The login failed[^<]*' "$dir/page" | head -n 1)"
    refused_inside "$1"
}

refused_inside() { # what the audit log says of the last login
    local why
    why=$(keyward audit show --config "$config" --json </dev/null | grep -oE '"detail": "login of [^"]*"' | tail -n 1)
    fact "the audit log: ${why#\"detail\": }"
    [[ $why == *"$1"* ]] || die "expected: $1"
}

stop_web() { [[ -z $web_pid ]] || { kill "$web_pid" 2>/dev/null && wait "$web_pid" 2>/dev/null; } || true; }

started=$(now)
say "${bold}Keyward login demo${plain}: account + one-time password + USB token, and data for whoever is logged in."

title 'Build'
"$root/softhsm-tests/scripts/setup.sh" demo-login
cargo build --locked "${buildable[@]}" --bins </dev/null
export PATH="$bin:$PATH"
begun=$(now)
fact "done in $(seconds $((begun - started))) s"

title 'An HSM, a daemon, and an application that staff log in to'
fresh_folder
KEYWARD_TOKEN_MODULE=$(softhsm_library) || die 'SoftHSM is not installed; run softhsm-tests/scripts/setup.sh'
KEYWARD_SOCKET=$(daemon_socket "$root/$dir/keyward.sock")
export KEYWARD_TOKEN_MODULE KEYWARD_SOCKET
token_create "$root/$dir/hsm" hsm
daemon_config "$root/$dir" hsm "$KEYWARD_SOCKET" crm "$root/$dir/hsm/pin"
# The token of this demo is software: nothing attests to its key.
sed -i "s|^users = .*|&\norigin = \"$origin\"|" "$config"
printf '\n[login]\nassurance = ["witnessed"]\n' >>"$config"
run keyward init --config "$config" --backup-key "$dir/backup-key"
daemon_start "$root/$dir"
daemon_wait "$daemon_pid" 60
run keyward tenant create acme
run keyward key create acme/customer-pii --class 2
run keyward key update acme/customer-pii --staff-required yes

title 'The operator makes an account and its one-time password'
run keyward account create alice --display-name 'Alice Adams' --level 2
run keyward account otp alice --hotp --out "$dir/alice.otpauth"
otp
(umask 077 && printf '%s\n' "$otp" >"$dir/first")
run keyward account otp-confirm alice --password-file "$dir/first"

title 'Alice makes a key in her token and enrols it; the operator approves'
(token_create "$root/$dir/alice" alice-token)
as_alice keyward token generate --name alice --login
run keyward account enroll alice --out "$dir/alice.ticket"
as_alice keyward token enroll --ticket "$dir/alice.ticket" --name blue-key --out "$dir/alice.enrolment"
credential=$(keyward account submit "$dir/alice.enrolment" --json </dev/null | grep -oE '"credential": "[0-9a-f]+"' | grep -oE '[0-9a-f]{64}')
fact "handed in: credential ${credential:0:16}…"
run keyward account approve alice "$credential"

title 'The web login (examples/web-login)'
show web-login --socket "$KEYWARD_SOCKET" --listen 127.0.0.1:0
setsid setpriv --pdeathsig TERM "$bin/web-login" --socket "$KEYWARD_SOCKET" --listen 127.0.0.1:0 </dev/null 2>"$dir/web.log" &
web_pid=$!
trap 'stop_web; on_exit' EXIT
for ((tries = 0; tries < 200; tries++)); do
    web=$(grep -oE 'http://[0-9.:]+' "$dir/web.log" || true)
    [[ -z $web ]] || break
    kill -0 "$web_pid" 2>/dev/null || die "web-login ended: $(<"$dir/web.log")"
    sleep 0.05
done
[[ -n $web ]] || die 'web-login does not listen'
fact "$web"

title 'Alice logs in: what her helper shows before it asks for the PIN'
begin
sign
indent <"$dir/helper"
otp
used=$otp
complete "$otp"
((status == 303)) || die "the login failed: $(<"$dir/page")"
fact "logged in: $(browser "$web/" | grep -oE 'You are.*level [0-9]' | sed 's/<[^>]*>//g')"

title 'She works with customers: encrypted and decrypted for her'
form=$(browser "$web/customers" | hidden)
browser --output "$dir/page" "$web/customers" --data-urlencode "form=$form" \
    --data-urlencode 'name=Bob Brown' --data-urlencode 'phone=0912 345 678'
browser --output "$dir/page" "$web/customers"
grep -q '0912 345 678' "$dir/page" || die "not decrypted: $(<"$dir/page")"
fact "$(grep -oE '<tr><td>.*</td></tr>' "$dir/page" | sed -e 's/<\/td><td>/: /g' -e 's/<[^>]*>//g')"
keyward audit show --config "$config" --json </dev/null >"$dir/records.json"
grep -q '"staff": "accounts/alice"' "$dir/records.json" || die 'the audit log does not say for whom'
fact 'the audit log has both: application crm, staff accounts/alice, client 127.0.0.1'

title 'The application alone decrypts nothing of this key'
show keyward encrypt acme/customer-pii --text x
refusal=$(printf x | keyward encrypt acme/customer-pii 2>&1) && die 'it encrypted'
indent <<<"$refusal"

title 'Refused: the same login again'
seen=$(<"$dir/cookies")
browser --output /dev/null "$web/logout" --data-urlencode "form=$form"
# What somebody recorded on the way to the application: cookies, form, password and signature.
printf '%s\n' "$seen" >"$dir/cookies"
complete "$used"
((status == 403)) || die "expected the form to be over, got $status"
fact "the page: $(grep -oE 'This form is over' "$dir/page" | head -n 1)"
# And on the way from the application to the daemon.
otp
(umask 077 && printf '%s\n' "$otp" >"$dir/next")
SOFTHSM2_CONF=$root/$dir/alice/softhsm2.conf replay "$KEYWARD_SOCKET" accounts/alice "$dir/next" \
    keyward token agent --origin "$origin" --token alice-token --pin-file "$dir/alice/pin" | indent
refused_inside 'there is no such login open'
used=$otp

title 'Refused: the answer to another challenge'
first=$answer
begin
sign
second=$answer
answer=$first
otp
complete "$otp"
refused "signature does not verify"

title 'Refused: a one-time password that was used'
begin
sign
[[ $answer != "$second" ]] || die 'two challenges have one answer'
complete "$used"
refused 'the one-time password was used before'

title 'Refused: a wrong one-time password'
begin
sign
complete "$("$bin/authenticator" "$dir/alice.otpauth" 4711)"
refused 'the one-time password is wrong'

title 'Refused: a token that was revoked'
begin
sign
run keyward account revoke alice "$credential" --reason 'lost on the train'
otp
complete "$otp"
refused 'is not active any more'

title 'Every step is in the audit log'
stop_web
web_pid=
daemon_stop || die "the daemon stopped with exit code $?"
run keyward audit verify --config "$config"

title 'Summary'
fact 'login            account + one-time password + token signature over the text that was shown'
fact 'data             decrypted for a staff member of level 2, with a proof by the session; the application alone is refused'
fact 'refused          a login again, another challenge, a used and a wrong one-time password, a revoked token: outside all the same'
fact "durations        demo $(seconds $(($(now) - begun))) s, build $(seconds $((begun - started))) s"
printf '\nDEMO OK\n'
