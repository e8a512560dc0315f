#!/usr/bin/env bash
# make test: set-up, build, all tests. Works with no terminal and no stdin.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

exec </dev/null
stages_begin
stage 'set-up' softhsm-tests/scripts/setup.sh test
# Tests that start the daemon need the binaries of every member, and the PKCS#11 module that fails on command.
stage 'build' cargo build --locked --workspace
stage 'build Kryoptic' softhsm-tests/scripts/kryoptic.sh
stage 'build the PIV card' softhsm-tests/scripts/piv-card.sh
stage 'build tests' cargo test --locked --workspace --no-run
stage 'tests' within 1200 cargo test --locked --workspace
# README's first steps as they are printed; the demos among them are where all parts of a ceremony meet, and of a login.
stage "README's first steps" softhsm-tests/scripts/readme.sh
