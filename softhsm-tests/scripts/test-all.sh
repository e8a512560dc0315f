#!/usr/bin/env bash
# make test-all: make test, then every test that has long rounds again, with all of them; at last the soak.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Those that ask `rounds(…)` how much to do, and the fuzzing targets: --test NAME for each. The soak has a stage of
# its own: it takes a quarter of an hour, and says what it measured.
long_tests() {
    local name
    while read -r name; do
        [[ $name == soak ]] || printf '%s\n' --test "$name"
    done < <(grep -rlE '\brounds\(' softhsm-tests/tests | sed -E 's|^softhsm-tests/tests/([^/.]+).*|\1|' | sort -u)
    printf '%s\n' --test targets
}

exec </dev/null
stages_begin
stage 'set-up' softhsm-tests/scripts/setup.sh test-all
stage 'make test' softhsm-tests/scripts/test.sh
mapfile -t long < <(long_tests)
export KEYWARD_TEST_FULL=1
stage 'full rounds' cargo test --locked --workspace "${long[@]}"
stage 'Node.js' cargo test --locked --workspace --test clients -- --ignored
stage 'soak' cargo test --locked --workspace --test soak -- --nocapture
