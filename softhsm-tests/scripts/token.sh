# shellcheck shell=bash
# Sourced after common.sh: fresh SoftHSM tokens with random PINs.
#
# PINs go through files (0600) and the environment of one process, never
# through arguments, which everybody on the machine could read in `ps`.

# The path of SoftHSM's PKCS#11 library; $KEYWARD_SOFTHSM wins.
softhsm_library() {
    local path
    for path in "${KEYWARD_SOFTHSM:-}" /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
        /usr/lib64/pkcs11/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
        [[ -z $path || ! -f $path ]] || { printf '%s\n' "$path" && return; }
    done
    return 1
}

# A random PIN of 24 letters and digits in a new file.
token_pin() {
    local pin
    pin=$(head -c 512 /dev/urandom | LC_ALL=C tr -dc 'a-zA-Z0-9' | cut -c 1-24)
    ((${#pin} == 24)) || die 'could not make a PIN'
    (umask 077 && printf '%s\n' "$pin" >"$1")
}

# token_create FOLDER LABEL: a new token in FOLDER, with softhsm2.conf, pin and so-pin beside it.
# Exports SOFTHSM2_CONF.
token_create() {
    local folder=$1 label=$2 library
    library=$(softhsm_library) || die 'SoftHSM is not installed; run softhsm-tests/scripts/setup.sh'
    (umask 077 && mkdir -p "$folder/tokens")
    token_use "$folder"
    (umask 077 && printf '%s\n' "directories.tokendir = $folder/tokens" 'objectstore.backend = file' \
        'log.level = ERROR' 'slots.removable = false' >"$SOFTHSM2_CONF")
    token_pin "$folder/so-pin"
    token_pin "$folder/pin"
    SO_PIN=$(<"$folder/so-pin") token_tool "$library" --slot-index 0 --init-token --label "$label" --so-pin env:SO_PIN
    SO_PIN=$(<"$folder/so-pin") USER_PIN=$(<"$folder/pin") token_tool "$library" --token-label "$label" \
        --login --login-type so --so-pin env:SO_PIN --init-pin --new-pin env:USER_PIN
}

# token_use FOLDER: what every process that opens the token needs in its environment.
token_use() { export SOFTHSM2_CONF=$1/softhsm2.conf; }

token_tool() {
    local output
    output=$(pkcs11-tool --module "$@" 2>&1) || die "the token was not made: $output"
}
