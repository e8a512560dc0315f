#!/usr/bin/env bash
# make test-all: make test, then every test that has long rounds again, with all of them.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Those that ask `rounds(…)` how much to do, and the fuzzing targets: --test NAME for each.
long_tests() {
    local name
    while read -r name; do
        printf '%s\n' --test "$name"
    done < <(grep -rlE '\brounds\(' softhsm-tests/tests | sed -E 's|^softhsm-tests/tests/([^/.]+).*|\1|' | sort -u)
    printf '%s\n' --test targets
}

exec </dev/null
stages_begin
stage 'make test' softhsm-tests/scripts/test.sh
mapfile -t long < <(long_tests)
export KEYWARD_TEST_FULL=1
stage 'full rounds' cargo test --locked --workspace "${long[@]}"
