#!/usr/bin/env bash
# Checks that what a task needs is installed. As root on Debian or Ubuntu it
# installs what is missing; anybody else is told the one command to run.
#
#   setup.sh [demo|demo-login|test|bench]
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=token.sh
. "$root/softhsm-tests/scripts/token.sh"

compiles_c() { printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | cc -x c -fsyntax-only - 2>/dev/null; }
has() { command -v "$1" >/dev/null 2>&1; }

# The packages that are missing for a task, one per line.
missing() {
    has cc || echo gcc
    has make || echo make
    has cc && compiles_c || echo libc6-dev
    has softhsm2-util && softhsm_library >/dev/null || echo softhsm2
    has pkcs11-tool || echo opensc
    [[ ! $1 =~ ^(test|test-all|demo-login)$ ]] || has curl || echo curl
    [[ $1 =~ ^test ]] || return 0
    # The Node.js of docs/clients.md.
    [[ $1 != test-all ]] || has node || echo nodejs
    [[ $1 != test-all ]] || has npm || echo npm
    /usr/bin/python3 -c 'import cryptography' 2>/dev/null || echo python3-cryptography
    has pgrep || echo procps
    has systemd-analyze || echo systemd
    # The Python of docs/clients.md.
    /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    # The units run under a systemd of their own: rig.sh.
    has systemd-nspawn || echo systemd-container
    [[ -e /usr/lib/systemd/system/dbus.service || -e /lib/systemd/system/dbus.service ]] || echo dbus
    has newuidmap || echo uidmap
    # Tests of schedules set the clock of the daemon.
    compgen -G '/usr/lib*/*/faketime/libfaketimeMT.so.1' >/dev/null ||
        compgen -G '/usr/lib64/faketime/libfaketimeMT.so.1' >/dev/null || echo libfaketime
    # Kryoptic, the second PKCS#11 module, is built from source; NSS is the one that must be refused.
    has clang || echo clang
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || echo libclang-dev
    has pkg-config || echo pkg-config
    { has pkg-config && pkg-config --exists openssl; } || echo libssl-dev
    { has pkg-config && pkg-config --exists sqlite3; } || echo libsqlite3-dev
    has certutil || echo libnss3-tools
    has pkcsslotd || [[ -x /usr/sbin/pkcsslotd ]] || echo opencryptoki
    has swtpm || echo swtpm
    compgen -G '/usr/lib/*/libtpm2_pkcs11.so.1' >/dev/null || echo libtpm2-pkcs11-1
    compgen -G '/usr/lib/*/libtss2-tcti-swtpm.so*' >/dev/null || echo libtss2-tcti-swtpm0
    compgen -G '/usr/lib/*/libsoftokn3.so' >/dev/null || echo libnss3
    # PIV cards are tested with card readers in software, in a network of their own.
    has pcscd || [[ -x /usr/sbin/pcscd ]] || echo pcscd
    compgen -G '/usr/lib*/pcsc/drivers/serial/libifdvpcd.so' >/dev/null || echo vsmartcard-vpcd
    compgen -G '/usr/lib/*/opensc-pkcs11.so' >/dev/null || echo opensc-pkcs11
    [[ -e /usr/include/PCSC/winscard.h ]] || echo libpcsclite-dev
    has yubico-piv-tool || echo yubico-piv-tool
    has openssl || echo openssl
    # It is what holds cards on real desktops.
    [[ -x /usr/lib/gnupg/scdaemon ]] || echo scdaemon
    has ip || [[ -x /sbin/ip ]] || echo iproute2
    # The pages of the example, and its extension, in a browser.
    [[ -x /usr/lib/chromium/chromium ]] || echo chromium
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    say "installing: $*"
    apt-get update -qq </dev/null || say 'setup: warning: apt-get update failed; trying with the lists that are here'
    apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null ||
        die "apt-get could not install: $*"
}

main() {
    local task=${1:-test} packages
    [[ $task =~ ^(demo|demo-login|test|test-all|bench)$ ]] || die "unknown task $task; expected demo, demo-login, test, test-all or bench"
    has cargo || die 'cargo is missing; install Rust 1.95 or newer from https://rustup.rs'
    mapfile -t packages < <(missing "$task")
    ((${#packages[@]})) || return 0
    if ! has apt-get; then
        die "missing (names as in Debian): ${packages[*]}; install them with your package manager"
    fi
    if ((EUID != 0)); then
        die "packages are missing; run:  sudo apt-get install --no-install-recommends ${packages[*]}"
    fi
    install_packages "${packages[@]}"
    mapfile -t packages < <(missing "$task")
    ((${#packages[@]} == 0)) || die "still missing after the installation: ${packages[*]}"
}

main "$@"
