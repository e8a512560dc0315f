#!/usr/bin/env bash
# A real systemd over this machine's /usr, for tests of the units; nothing of it is left behind.
#
#   rig.sh boot FOLDER             boots, says `running`, and powers off when its standard input ends
#   rig.sh enter FOLDER COMMAND…   runs a command in it, as its root
#
# FOLDER/destination is /mnt in there, and FOLDER/destination/usr/local is /usr/local: where `make install
# DESTDIR=FOLDER/destination` writes. /etc and /var begin empty, /usr cannot be written, and there is no
# network. All mounts and processes are in namespaces that end with the rig, however it ends.
set -euo pipefail
umask 022   # the daemon refuses what a group may write
action=${1:-} folder=$(realpath -e "${2:?FOLDER is missing}")
shift 2
patience=60   # seconds that a boot may take
there=(--mount --pid --uts --ipc --net --cgroup)   # the namespaces of its first process

fail() { printf 'rig: error: %s\n' "$*" >&2; exit 1; }

# The first child of a process; nothing when there is none.
child() {
    local children
    read -r children _ <"/proc/$1/task/$1/children" || true
    printf '%s' "$children"
}

# Prints a folder in each cgroup hierarchy that systemd uses, for this rig alone.
cgroups() {
    local controllers path mount=/sys/fs/cgroup
    while IFS=: read -r _ controllers path; do
        case $controllers in
            '') [[ -e $mount/cgroup.procs ]] || controllers=unified ;;
            name=systemd | memory | pids) controllers=${controllers#name=} ;;
            *) continue ;;
        esac
        printf '%s\n' "$mount/$controllers$path/keyward-rig-$$"
    done </proc/self/cgroup
}

# Moves this process into cgroups of its own; what an earlier rig left because it was killed goes.
own_cgroups() {
    local cgroup old
    mapfile -t own < <(cgroups)
    for cgroup in "${own[@]}"; do
        for old in "${cgroup%-*}"-*; do
            [[ -e /proc/${old##*-} ]] || remove_cgroup "$old"
        done
        { mkdir "$cgroup" && echo "$$" >"$cgroup/cgroup.procs"; } 2>/dev/null || needless "$cgroup" || return 1
    done
}

# Whether systemd boots without this one: MemoryMax= and TasksMax= do nothing then, with cgroup version 1.
needless() { [[ $1 =~ ^/sys/fs/cgroup/(memory|pids)/ ]]; }

remove_cgroup() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true; }

# Boots: in new namespaces, with those as root. Stays to clean up.
boot() {
    local namespaces=(--mount --pid --fork --kill-child --mount-proc) init deadline=$((SECONDS + patience))
    if ((EUID != 0)); then
        namespaces+=(--user --map-auto --map-root-user)
        unshare "${namespaces[@]}" true || no_namespaces
    fi
    own_cgroups || delegated "$@"
    rm -f "$folder"/{ready,init}
    mkdir -p "$folder"/{root,destination/usr/local}
    unshare "${namespaces[@]}" bash "${BASH_SOURCE[0]}" inside "$folder" <&0 &
    outside=$!
    trap end EXIT
    trap 'exit 130' INT TERM HUP
    until [[ -e $folder/ready ]]; do
        kill -0 "$outside" 2>/dev/null || fail "it did not boot: $(tail -n 20 "$folder/console")"
        ((SECONDS < deadline)) || fail "no boot within $patience s: $(tail -n 20 "$folder/console")"
        sleep 0.02
    done
    # unshare, this script, systemd-nspawn, and the first process in there.
    init=$(child "$(child "$(child "$outside")")")
    [[ -n $init ]] || fail 'its first process cannot be found'
    printf '%s\n' "$init" >"$folder/init"
    cat "$folder/ready"
    wait "$outside"
}

end() {
    trap '' INT TERM HUP
    # It takes everything with it that it started.
    kill -KILL "$outside" 2>/dev/null || true
    wait "$outside" 2>/dev/null || true
    local cgroup deadline=$((SECONDS + 10))
    # We are in these ourselves.
    for cgroup in "${own[@]}"; do
        echo "$$" 2>/dev/null >"${cgroup%/*}/cgroup.procs" || true
        # Killed processes take a moment to go.
        remove_cgroup "$cgroup"
        while [[ -e $cgroup ]] && ((SECONDS < deadline)); do
            sleep 0.02
            remove_cgroup "$cgroup"
        done
    done
}

no_namespaces() {
    local knob=kernel.unprivileged_userns_clone=1
    [[ ! -e /proc/sys/kernel/apparmor_restrict_unprivileged_userns ]] ||
        knob=kernel.apparmor_restrict_unprivileged_userns=0
    fail "this user may not make namespaces; run:  sudo sysctl -w $knob"
}

# The same in a scope that the user's systemd gives away: cgroups of one's own, without root.
delegated() {
    if [[ -n ${KEYWARD_RIG_DELEGATED:-} ]] || ! systemd-run --user --scope --quiet true 2>/dev/null; then
        fail "no cgroup of one's own here; run as root, or where \`systemd-run --user --scope true\` works"
    fi
    KEYWARD_RIG_DELEGATED=1 exec systemd-run --user --scope --quiet --collect --property=Delegate=yes \
        bash "${BASH_SOURCE[0]}" boot "$folder" "$@"
}

# In the namespaces: lays out the system, boots it, waits for the end of standard input, powers off.
inside() {
    local system=$folder/root link nspawn deadline=$((SECONDS + patience))
    # systemd-nspawn keeps its own things in there.
    mount -t tmpfs tmpfs /run
    mount -t tmpfs -o mode=0755 tmpfs "$system"
    mkdir "$system"/{usr,etc,var,run,tmp,dev,proc,sys,root,mnt}
    mount --rbind -o ro /usr "$system/usr"
    mount --bind "$folder/destination/usr/local" "$system/usr/local"
    mount --bind "$folder/destination" "$system/mnt"
    for link in bin sbin lib lib32 lib64 libx32; do
        [[ ! -L /$link ]] || cp -P "/$link" "$system/$link"
    done
    # Else systemd takes it for the first boot and enables every unit that it finds.
    tr -d - </proc/sys/kernel/random/uuid >"$system/etc/machine-id"
    # Its own filter would refuse calls that the units allow; the units' filters are not touched by this.
    SYSTEMD_SECCOMP=0 systemd-nspawn --quiet --directory="$system" --boot --register=no --keep-unit \
        --private-network --machine="keyward-rig-$$" --hostname=rig </dev/null >"$folder/console" 2>&1 &
    nspawn=$!
    until system=$(child "$nspawn") && [[ -S /proc/$system/root/run/systemd/private ]]; do
        kill -0 "$nspawn" 2>/dev/null || exit 1
        ((SECONDS < deadline)) || exit 1
        sleep 0.02
    done
    report "$system"
    # Until whoever started us closes this, or is gone.
    cat >/dev/null
    nsenter --target "$system" "${there[@]}" systemctl poweroff >>"$folder/console" 2>&1 || true
    timeout 30 tail --pid="$nspawn" --sleep-interval=0.05 -f /dev/null || true
}

# Waits for the end of the boot; says how it ended, with what failed.
report() {
    local state
    state=$(timeout "$patience" nsenter --target "$1" "${there[@]}" systemctl is-system-running --wait) || true
    {
        printf '%s\n' "${state:-nothing}"
        [[ $state == running ]] ||
            nsenter --target "$1" "${there[@]}" systemctl list-units --failed --plain --no-legend || true
    } >"$folder/ready.new"
    mv "$folder/ready.new" "$folder/ready"
}

case $action in
    boot) boot "$@" ;;
    inside) inside ;;
    enter)
        ((EUID == 0)) || there+=(--user)
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin LANG=C.UTF-8 SYSTEMD_COLORS=0 SYSTEMD_PAGER='' \
            nsenter --target "$(<"$folder/init")" "${there[@]}" "$@"
        ;;
    *) fail "unknown action $action; expected boot or enter" ;;
esac
