#!/usr/bin/env bash
# make test-all: make test, then every test that has long rounds again, with all of them; at last the soak.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Those that ask `rounds(…)` how much to do: subjects of the one program, and programs of their own. The soak has a stage
# of its own: it takes a quarter of an hour, and says what it measured.
long_subjects() {
    grep -lE '\brounds\(' softhsm-tests/tests/all/*.rs | sed -E 's|.*/([^/.]+)\.rs$|\1::|'
}

long_programs() {
    local name
    while read -r name; do
        [[ $name =~ ^(all|soak)$ ]] || printf '%s\n' --test "$name"
    done < <(grep -rlE '\brounds\(' softhsm-tests/tests | sed -E 's|^softhsm-tests/tests/([^/.]+).*|\1|' | sort -u)
    printf '%s\n' --test targets
}

exec </dev/null
stages_begin
stage 'set-up' softhsm-tests/scripts/setup.sh test-all
stage 'make test' softhsm-tests/scripts/test.sh
mapfile -t subjects < <(long_subjects)
mapfile -t programs < <(long_programs)
export KEYWARD_TEST_FULL=1
stage 'full rounds' within 3600 cargo test --locked --workspace "${programs[@]}"
stage 'full rounds of subjects' within 3600 cargo test --locked --workspace --test all -- "${subjects[@]}"
stage 'Node.js' within 600 cargo test --locked --workspace --test all -- --ignored clients::
stage 'soak' within 3600 cargo test --locked --workspace --test soak -- --nocapture
