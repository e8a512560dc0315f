#!/usr/bin/env bash
# Builds piv-card, the PIV card of the tests: a minute once, nothing after.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cargo build --locked --manifest-path softhsm-tests/piv-card/Cargo.toml --target-dir "$target/piv-card"
# Where tests find every program and module.
mkdir -p "$bin"
cp -u "$target/piv-card/debug/piv-card" "$bin/"
