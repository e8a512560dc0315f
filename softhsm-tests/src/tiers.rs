//! How much of a test runs: a part in `make test`, all of it in `make test-all`.

/// The variable that `make test-all` sets to 1.
const FULL: &str = "KEYWARD_TEST_FULL";

/// Picks how often a test repeats what takes long: `reduced` in `make test`, `complete` in `make test-all`.
pub fn rounds<T>(reduced: T, complete: T) -> T {
    if std::env::var_os(FULL).is_some_and(|value| value == "1") { complete } else { reduced }
}
