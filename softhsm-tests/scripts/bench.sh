#!/usr/bin/env bash
# make bench: measures a release build; the result is target/bench/summary.json. With --quick, or with
# --against FOLDER (keyward, keywardd and bench of an older version), it is target/bench/quick.json.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

exec </dev/null
stages_begin
stage 'set-up' softhsm-tests/scripts/setup.sh bench
stage 'build' cargo build --locked --workspace --exclude keyward-piv --bins --release
stage 'bench' "$target/release/bench" "$@"
