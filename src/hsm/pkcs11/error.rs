//! Words for what a module answered, and why a connection did not come about.

use cryptoki::error::{Error, RvError};
use minicbor::{Decode, Encode};

use crate::hsm::pin::PinError;

/// Why there is no connection to the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum ConnectError {
    /// The token is away or unwell; trying again is safe.
    #[error("{0}")]
    #[n(0)]
    Away(#[n(0)] String),
    /// The token refused the PIN: trying again is harmful until a person acts.
    #[error("{0}")]
    #[n(1)]
    Refused(#[n(0)] String),
    /// The module failed its self-test, or no PIN can be presented. It is tried again from time to time: neither a
    /// hiccup in the middle of the test may last, nor a full disk, nor a file that cannot be read for a while.
    #[error("{0}")]
    #[n(3)]
    Unfit(#[n(0)] String),
    /// The token is not the one whose root the store was made with.
    #[error("{0}")]
    #[n(2)]
    Foreign(#[n(0)] String),
}

impl From<PinError> for ConnectError {
    /// Only what the token refused, and what nobody types, waits for a person. Everything else presents no PIN, so it
    /// is tried again.
    fn from(error: PinError) -> Self {
        match error {
            PinError::Refused { .. } | PinError::Prompt(_) => Self::Refused(error.to_string()),
            _ => Self::Unfit(error.to_string()),
        }
    }
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
