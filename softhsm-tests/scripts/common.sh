# shellcheck shell=bash
# Sourced by every script: where things are, how to say and how to fail.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit
# Cargo reads a relative CARGO_TARGET_DIR from here, and so do we.
target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$root/$target
# shellcheck disable=SC2034  # used by the scripts that source this one
bin=$target/debug

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: error: %s\n' "$(basename "$0" .sh)" "$*" >&2
    exit 1
}

# What a demo builds: everything, or all but the program for PIV cards where nothing links it. The same
# set as the tests have, where they run: another one would compile half of it again.
if compgen -G '/usr/include/PCSC/winscard.h' >/dev/null; then
    # shellcheck disable=SC2034  # the same
    buildable=(--workspace)
else
    # shellcheck disable=SC2034  # the same
    buildable=(--workspace --exclude keyward-piv)
fi

# Colours only for people.
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
else
    # shellcheck disable=SC2034  # the same
    bold='' dim='' plain=''
fi

# A number from the JSON on stdin: json_number operations. Nothing when it is not there.
json_number() {
    { grep -oE "\"$1\"[[:space:]]*:[[:space:]]*\"?[0-9]+" || true; } | head -n 1 | grep -oE '[0-9]+$' || true
}

# Microseconds since 1970.
now() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }

# Seconds with two decimals from microseconds.
seconds() { printf '%d.%02d' $(($1 / 1000000)) $(($1 % 1000000 / 10000)); }

# 20000 -> 20 000
thousands() { sed -E ':a; s/^([0-9]+)([0-9]{3})/\1 \2/; ta' <<<"$1"; }

# Runs one stage and notes how long it took. Nested scripts add to the same list.
stage() {
    local name=$1 started status=0
    shift
    printf '%s==> %s%s\n' "$bold" "$name" "$plain"
    started=$(now)
    "$@" || status=$?
    local verdict=ok
    ((status == 0)) || verdict="FAILED ($status)"
    printf '%9s s  %-24s %s\n' "$(seconds $(($(now) - started)))" "$name" "$verdict" >>"$stages"
    return "$status"
}

# Runs a command, for so many seconds at most: within 1200 cargo test. One that hangs is stopped, after what it was at is told.
within() {
    local limit=$1 status=0 over
    shift
    exec {over}> >(end_after "$limit" $$)
    "$@" {over}>&- || status=$?
    exec {over}>&-
    return "$status"
}

# Waits for the end of its input; when that does not come, ends what the process has started.
end_after() {
    local limit=$1 shell=$2 status=0 self=$BASHPID
    read -r -t "$limit" || status=$?
    # 1 is the end of input.
    ((status > 128)) || return 0
    local started
    mapfile -t started < <(descendants "$shell" | grep -vx "$self")
    say "not ended after $limit seconds. What runs (a test's thread has the first 15 letters of its name):"
    ps -L -o pid,lwp,etimes,stat,wchan:20,comm,args -p "$(IFS=,; printf '%s' "${started[*]}")" | cut -c -200 || true
    kill -KILL "${started[@]}" 2>/dev/null || true
}

descendants() {
    local child
    for child in $(pgrep -P "$1"); do
        printf '%s\n' "$child"
        descendants "$child"
    done
}

# Opens the list of stages; whoever opened it prints it at the end, whatever happens.
stages_begin() {
    stages=${KEYWARD_STAGES:-}
    [[ -z $stages ]] || return 0
    stages=$(mktemp)
    export KEYWARD_STAGES=$stages
    trap 'stages_end' EXIT
}

stages_end() {
    local status=$?
    printf '\n%sstage times%s\n' "$bold" "$plain"
    cat "$stages"
    printf '%9s s  %-24s\n' "$SECONDS" 'in all'
    rm -f "$stages"
    ((status == 0)) || printf '%s: error: failed; see above\n' "$(basename "$0" .sh)" >&2
    exit "$status"
}
