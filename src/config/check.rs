//! Checks that several parts share.

use std::fmt::Display;
use std::ops::RangeInclusive;

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
