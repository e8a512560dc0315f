#!/usr/bin/env bash
# Builds Kryoptic, the second PKCS#11 module of the tests: a minute once, nothing after.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cargo build --locked --release --manifest-path softhsm-tests/kryoptic/Cargo.toml --target-dir "$target/kryoptic"
# Where tests find every program and module.
mkdir -p "$bin"
cp -u "$target/kryoptic/release/libkryoptic_pkcs11.so" "$bin/"
