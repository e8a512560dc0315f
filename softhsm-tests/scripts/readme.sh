#!/usr/bin/env bash
# README's first steps as they are printed, in their order: each `make` in the repository, the rest in a folder of its own,
# with what `make run` says to do in another terminal.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

section='## Five minutes'
printed='kw1:S1cBAZLIjukbBRQa…' # a ciphertext in the page, for the one that was made before
elsewhere=$(mktemp -d)
daemon=

end() {
    local status=$?
    if [[ -n $daemon ]]; then
        # make hands it on to the daemon.
        kill -TERM "$daemon" 2>/dev/null || true
        wait "$daemon" || true
    fi
    rm -rf "$elsewhere"
    exit "$status"
}

# A development daemon, until it says that it is ready.
start() {
    local log=$elsewhere/run.log
    "$@" >"$log" 2>&1 &
    daemon=$!
    for ((tries = 0; tries < 1200; tries++)); do
        ! grep -q '^ready: ' "$log" || break
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    grep -q '^ready: ' "$log" || { cat "$log" && die "$* does not become ready"; }
    # What it says to do in another terminal.
    eval "$(grep -m 1 '^  export KEYWARD_SOCKET=' "$log")"
}

# Runs a line in the other folder, with the newest ciphertext in the place of the page's.
step() {
    local line=${1//"$printed"/${ciphertext:-none}} output
    say "\$ $line"
    output=$(cd "$elsewhere" && bash -ec "$line")
    [[ -z $output ]] || say "$output"
    [[ $output != kw1:* ]] || ciphertext=$output
    [[ $1 != *"keyward decrypt"*"$printed"* || $output == 13812345678 ]] || die "this is not what was encrypted"
}

mapfile -t commands < <(awk -v section="$section" '/^## / { on = $0 == section } on && /^\$ / { print substr($0, 3) }' README.md)
((${#commands[@]} > 8)) || die "README prints ${#commands[@]} commands under $section"
# shellcheck disable=SC2034  # where `stage` notes times; nobody reads them when this runs by itself
stages=${KEYWARD_STAGES:-/dev/null}
trap end EXIT
for command in "${commands[@]}"; do
    read -ra words <<<"$command"
    case $command in
    'make run') start "${words[@]}" ;;
    'make '*) stage "$command" "${words[@]}" </dev/null ;;
    *) step "$command" </dev/null ;;
    esac
done
cmp "$elsewhere/customers.csv" "$elsewhere/customers.again.csv"
