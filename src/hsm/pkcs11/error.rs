//! Words for what a module answered, and why a connection did not come about.

use cryptoki::error::{Error, RvError};
use minicbor::{Decode, Encode};

/// Why there is no connection to the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum ConnectError {
    /// The token is away or unwell; trying again is safe.
    #[error("{0}")]
    #[n(0)]
    Away(#[n(0)] String),
    /// Trying again is useless or harmful until a person acts.
    #[error("{0}")]
    #[n(1)]
    Refused(#[n(0)] String),
    /// The module failed its self-test. It is tested again from time to time:
    /// a hiccup in the middle of the test must not last.
    #[error("{0}")]
    #[n(3)]
    Unfit(#[n(0)] String),
    /// The token is not the one whose root the store was made with.
    #[error("{0}")]
    #[n(2)]
    Foreign(#[n(0)] String),
}

/// A module's error in one short clause, without the specification's paragraphs.
pub(crate) fn words(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{code:?} in C_{function:?}"),
        Error::NullFunctionPointer => "the module lacks the function".to_owned(),
        other => other.to_string(),
    }
}

/// The return code, when it came from the module.
pub(crate) fn code(error: &Error) -> Option<RvError> {
    match error {
        Error::Pkcs11(code, _) => Some(*code),
        _ => None,
    }
}
