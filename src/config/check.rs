//! Checks that several parts share.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// What is wrong of several checks.
pub(super) fn faults(checked: impl IntoIterator<Item = Result<(), String>>) -> Vec<String> {
    checked.into_iter().filter_map(Result::err).collect()
}

/// That something is not so, or what to say of it.
pub(super) fn unless(wrong: bool, fault: impl FnOnce() -> String) -> Result<(), String> {
    if wrong { Err(fault()) } else { Ok(()) }
}

/// That a number lies where it may.
pub(super) fn within<T: PartialOrd + Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), String> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(format!("{key} is {value}; expected {} to {}", range.start(), range.end())),
    }
}
