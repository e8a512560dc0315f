#!/usr/bin/env bash
# make run: a development daemon in the foreground, open to the calling user.
# Token, store and keys stay in target/dev/ from one run to the next.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=token.sh
. "$root/softhsm-tests/scripts/token.sh"
# shellcheck source=daemon.sh
. "$root/softhsm-tests/scripts/daemon.sh"

dir=$root/target/dev

# ensure COMMAND…: creates something; that it exists already is fine.
ensure() {
    local output
    output=$("$bin/keyward" "$@" </dev/null 2>&1) || grep -qi 'already' <<<"$output" ||
        { printf 'run: error: keyward %s: %s\n' "$*" "$output" >&2 && return 1; }
}

# Runs beside the daemon until the tenants are there; a failure stops the daemon.
prepare() {
    local daemon=$1 tenant
    daemon_wait "$daemon" 60 || return 1
    for tenant in demo-a demo-b; do
        ensure tenant create "$tenant" || return 1
        ensure key create "$tenant/customer-pii" || return 1
    done
    printf '\n%sready: tenants demo-a and demo-b, each with a key customer-pii. In another terminal:%s\n' "$bold" "$plain"
    # shellcheck disable=SC2016  # the reader's shell shall expand $PATH
    printf '  export KEYWARD_SOCKET=%q PATH=%q:$PATH\n' "$KEYWARD_SOCKET" "$bin"
    printf '  printf 13812345678 | keyward encrypt demo-a/customer-pii --context column=phone\n\n'
}

"$root/softhsm-tests/scripts/setup.sh" demo
cargo build --locked "${buildable[@]}" --bins </dev/null
[[ ! -e $dir || -O $dir ]] || die "$dir belongs to $(stat -c %U "$dir"); run as that user, or remove it"
(umask 077 && mkdir -p "$dir")

# A first run that was cut short leaves no `made`: it starts afresh, before any data could exist.
if [[ ! -e $dir/made ]]; then
    rm -rf "${dir:?}" && (umask 077 && mkdir "$dir")
    token_create "$dir" dev
fi
token_use "$dir"
KEYWARD_SOCKET=$(daemon_socket "$dir/keyward.sock")
export KEYWARD_SOCKET
! daemon_ready || die "a development daemon is running already at $KEYWARD_SOCKET"
daemon_config "$dir" dev "$KEYWARD_SOCKET" developer
if [[ ! -e $dir/made ]]; then
    daemon_init "$dir"
    touch "$dir/made"
fi

prepare $$ || kill -TERM $$ 2>/dev/null &
# The daemon takes this process over: Ctrl-C and its exit code are its own.
exec "$bin/keywardd" --config "$dir/keywardd.toml"
