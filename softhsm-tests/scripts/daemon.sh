# shellcheck shell=bash
# Sourced after common.sh and token.sh: a daemon with a throw-away root.
# shellcheck disable=SC2154  # bin comes from common.sh

# daemon_socket WANTED: WANTED, or a short path (always the same) when it is too long for a Unix socket.
daemon_socket() {
    local wanted=$1 folder
    ((${#wanted} > 107)) || { printf '%s\n' "$wanted" && return; }
    folder=${XDG_RUNTIME_DIR:-/tmp}/keyward-$(id -u)-$(cksum <<<"$wanted" | cut -d ' ' -f 1)
    mkdir -m 0700 "$folder" 2>/dev/null || [[ -d $folder && ! -L $folder && -O $folder ]] ||
        die "$folder belongs to somebody else; remove it"
    printf 'note: %s is too long for a Unix socket; using %s\n' "$wanted" "$folder/keyward.sock" >&2
    printf '%s\n' "$folder/keyward.sock"
}

# daemon_config FOLDER LABEL SOCKET PRINCIPAL [PIN-FILE]: writes FOLDER/keywardd.toml. The calling
# user is the one principal: operator, with every operation on every key. The token is the one in
# the folder of the PIN file, as token_create makes it.
daemon_config() {
    local folder=$1 library
    library=$(softhsm_library) || die 'SoftHSM is not installed; run softhsm-tests/scripts/setup.sh'
    cat >"$folder/keywardd.toml" <<TOML
state_dir = "$folder/state"
custody = "operator"

[server]
socket = "$3"
socket_mode = "0600"
# One user is everybody here.
allow_own_user = true

[log]
format = "text"

[hsm]
module = "$library"
token = "$2"
pin_file = "${5:-$folder/pin}"
allow_paths = ["$(dirname "${5:-$folder/pin}")/tokens"]

[[principal]]
name = "$4"
role = "operator"
users = [$(id -u)]

[[principal.allow]]
keys = ["tenants/*/keys/*"]
operations = ["encrypt", "decrypt", "re-encrypt", "generate-data-key", "decrypt-data-key", "blind-index"]
TOML
}

# daemon_init FOLDER: makes the root, the store and the audit log.
daemon_init() {
    (umask 077 && mkdir -p "$1/state")
    "$bin/keyward" init --config "$1/keywardd.toml" --backup-key "$1/backup-key"
}

# daemon_start FOLDER: starts keywardd; its log goes to FOLDER/keywardd.log. Sets daemon_pid.
daemon_start() {
    # A session of its own: Ctrl-C reaches this script, which then stops the daemon in order.
    # If this script dies without a chance to do so, the kernel does.
    setsid setpriv --pdeathsig TERM "$bin/keywardd" --config "$1/keywardd.toml" </dev/null >>"$1/keywardd.log" 2>&1 &
    daemon_pid=$!
}

# Whether the daemon at $KEYWARD_SOCKET says that it is ready.
daemon_ready() {
    local status
    status=$(timeout 5 "$bin/keyward" status --json 2>/dev/null </dev/null) || return 1
    grep -qiE '"serving"[[:space:]]*:[[:space:]]*"(serving_)?ready"' <<<"$status"
}

# daemon_wait PID SECONDS: until it is ready. Says why not on stderr.
daemon_wait() {
    local deadline=$((SECONDS + $2))
    until daemon_ready; do
        kill -0 "$1" 2>/dev/null || { printf 'the daemon stopped while starting\n' >&2 && return 1; }
        ((SECONDS < deadline)) || { printf 'the daemon is not ready after %d s\n' "$2" >&2 && return 1; }
        sleep 0.05
    done
}

# daemon_stop: asks it to stop, waits, answers with its exit code.
daemon_stop() {
    local pid=$daemon_pid
    daemon_pid=
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid"
}
