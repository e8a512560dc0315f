#!/usr/bin/env bash
# Runs a program beside an openCryptoki daemon and a fresh token of its own, for
# the tests: inside private namespaces (unshare), since paths are compiled in.
#
#   opencryptoki.sh FOLDER PIN PROGRAM [ARGUMENT]…
set -euo pipefail
folder=$1 pin=$2
shift 2

mkdir -p "$folder/etc"
printf 'version opencryptoki-3.1\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n' >"$folder/etc/opencryptoki.conf"
mount --bind "$folder/etc" /etc/opencryptoki
# Its group is ours: in a user namespace there is no other.
printf 'root:x:0:\npkcs11:x:0:root\n' >"$folder/group"
mount --bind "$folder/group" /etc/group
for place in /var/lib/opencryptoki /dev/shm /run; do
    mount -t tmpfs tmpfs "$place"
done
mkdir -p /var/lib/opencryptoki/swtok/TOK_OBJ /run/lock/opencryptoki/swtok

pkcsslotd -f >"$folder/pkcsslotd.log" 2>&1 &
for _ in {1..200}; do
    pkcsconf -s >/dev/null 2>&1 && break
    sleep 0.05
done
{
    echo token | pkcsconf -I -c 3 -S 87654321
    pkcsconf -P -c 3 -S 87654321 -n so-pin12
    pkcsconf -u -c 3 -S so-pin12 -n 11111111
    pkcsconf -p -c 3 -U 11111111 -n "$pin"
} >>"$folder/pkcsslotd.log" 2>&1 || { cat "$folder/pkcsslotd.log" >&2; exit 1; }
exec "$@"
