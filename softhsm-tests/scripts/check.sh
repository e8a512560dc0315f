#!/usr/bin/env bash
# make check: format, lints and unit tests, for each commit; everything else is in make test.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

exec </dev/null
stages_begin
stage 'format' cargo fmt --all --check
stage 'set-up' softhsm-tests/scripts/setup.sh demo
stage 'lint' cargo clippy --locked "${buildable[@]}" --all-targets -- -D warnings
stage 'unit tests' cargo test --locked "${buildable[@]}" --lib --bins
