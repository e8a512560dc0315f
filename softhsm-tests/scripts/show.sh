# shellcheck shell=bash
# Sourced after common.sh, token.sh and daemon.sh: a demo in the folder $dir shows its
# commands as a user would type them, and ends with the daemon's log when it fails.

daemon_pid=
reader_pid=
step=0

title() { step=$((step + 1)) && printf '\n%s%d. %s%s\n' "$bold" "$step" "$*" "$plain"; }
fact() { printf '   %s\n' "$*"; }

# Shows a command as a user would type it, and runs it.
run() {
    show "$@"
    "$@" </dev/null | indent
}

show() { printf '   %s$ %s%s\n' "$dim" "$(quoted "$@")" "$plain"; }

quoted() {
    local word line=()
    for word in "$@"; do
        # Ciphertexts are long: their beginning says enough.
        ((${#word} <= 60)) || word="${word:0:24}…"
        [[ $word =~ ^[a-zA-Z0-9_./:=,…@%+-]+$ ]] || word="'$word'"
        line+=("$word")
    done
    printf '%s' "${line[*]}"
}

indent() { sed 's/^/   /'; }

# timed VARIABLE COMMAND…: shows and runs it, notes the microseconds.
timed() {
    local -n elapsed=$1
    local started
    shift
    started=$(now)
    run "$@"
    # shellcheck disable=SC2034  # a reference to the caller's variable
    elapsed=$(($(now) - started))
}

on_exit() {
    local status=$?
    trap - EXIT
    [[ -z $reader_pid ]] || kill "$reader_pid" 2>/dev/null || true
    [[ -z $daemon_pid ]] || daemon_stop || true
    ((status == 0)) && exit 0
    # After Ctrl-C the log would only tell of the stop.
    if [[ -n ${begun:-} ]] && ((status != 130)) && [[ -s $dir/keywardd.log ]]; then
        printf '\n--- the end of %s/keywardd.log\n' "$dir" >&2
        tail -n 25 "$dir/keywardd.log" >&2
    fi
    printf '\nDEMO FAILED (exit code %d)\n' "$status" >&2
    exit "$status"
}
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fresh_folder() {
    rm -rf "${root:?}/$dir" || die "cannot remove $root/$dir; it belongs to $(stat -c %U "$root/$dir"): remove it as that user"
    (umask 077 && mkdir "$dir")
}
