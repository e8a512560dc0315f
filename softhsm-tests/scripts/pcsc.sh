#!/usr/bin/env bash
# Runs a program beside a PC/SC daemon of its own, with two card readers in software, where
# 127.0.0.1:35963 and :35964 are cards. FOLDER gets the daemon's configuration and log.
#
#   pcsc.sh FOLDER PROGRAM [ARGUMENT]…
#
# It has a network of its own, since anybody who reaches these ports can insert a card, and a /run of
# its own, since there is one PC/SC daemon in it. Everything else is shared. `nsenter --target PID --net
# --mount` (and `--user --preserve-credentials`, when not root), with the PID of this script, comes in.
set -euo pipefail
folder=$1
shift

# What to do where users may not make namespaces.
refused() {
    local knob=kernel.unprivileged_userns_clone=1
    [[ ! -e /proc/sys/kernel/apparmor_restrict_unprivileged_userns ]] ||
        knob=kernel.apparmor_restrict_unprivileged_userns=0
    printf 'pcsc: error: this user may not make namespaces; run:  sudo sysctl -w %s\n' "$knob" >&2
    exit 1
}

if [[ -z ${KEYWARD_PCSC_INSIDE:-} ]]; then
    namespaces=(--net --mount)
    ((EUID == 0)) || namespaces+=(--user --map-root-user)
    unshare "${namespaces[@]}" true || refused
    KEYWARD_PCSC_INSIDE=1 exec unshare "${namespaces[@]}" bash "${BASH_SOURCE[0]}" "$folder" "$@"
fi
unset KEYWARD_PCSC_INSIDE

PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir /run/pcscd "$folder/readers"
for driver in /usr/lib/pcsc/drivers/serial/libifdvpcd.so /usr/lib64/pcsc/drivers/serial/libifdvpcd.so; do
    [[ ! -e $driver ]] || break
done
# The name of a YubiKey's reader: some programs look for it. 0x8C7B is 35963.
cat >"$folder/readers/vpcd" <<READER
FRIENDLYNAME "Yubico YubiKey OTP+FIDO+CCID"
DEVICENAME /dev/null:0x8C7B
LIBPATH $driver
CHANNELID 0x8C7B
READER
options=(--foreground --info --config "$folder/readers")
# Newer ones ask polkit, which is not here.
! pcscd --help 2>&1 | grep -q -- --disable-polkit || options+=(--disable-polkit)
# It ends with this script, and with what becomes of it.
setpriv --pdeathsig KILL pcscd "${options[@]}" >"$folder/pcscd.log" 2>&1 </dev/null &
daemon=$!
until [[ -S /run/pcscd/pcscd.comm ]]; do
    kill -0 "$daemon" 2>/dev/null || { cat "$folder/pcscd.log" >&2 && exit 1; }
    sleep 0.01
done
exec "$@"
