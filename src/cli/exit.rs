//! Exit codes: fixed, so that scripts can rely on them (docs/cli.md).

use std::process::ExitCode;

use crate::client::{Code, Error};

use super::hint;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The daemon refused, or the input is not what it must be.
    Refused = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The caller may not do this.
    NotPermitted = 3,
    /// The tenant, key or version does not exist.
    NotFound = 4,
    /// The daemon or the HSM is away; trying again later may help.
    Unavailable = 5,
    /// A ciphertext was refused, or a record does not verify.
    Integrity = 6,
    /// Some items of many failed.
    Partial = 7,
    /// A defect of Keyward.
    Internal = 70,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl Exit {
    /// The exit code for an answer of the daemon: by its reason, or else by its gRPC code.
    pub fn of(error: &Error) -> Self {
        hint::row(error.reason()).map_or_else(|| Self::of_code(error.code), |row| row.exit)
    }

    fn of_code(code: Code) -> Self {
        match code {
            Code::Ok => Self::Ok,
            Code::PermissionDenied | Code::Unauthenticated => Self::NotPermitted,
            Code::NotFound => Self::NotFound,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unavailable,
            Code::DataLoss => Self::Integrity,
            Code::Internal | Code::Unknown | Code::Unimplemented => Self::Internal,
            Code::Aborted
            | Code::AlreadyExists
            | Code::Cancelled
            | Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::OutOfRange
            | Code::ResourceExhausted => Self::Refused,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_without_a_reason_have_an_exit_code() {
        let exit = |code| Exit::of(&Error { code, reason: None, message: String::new(), retry_after: None });
        assert_eq!(exit(Code::PermissionDenied) as u8, 3);
        assert_eq!(exit(Code::NotFound) as u8, 4);
        assert_eq!(exit(Code::Unavailable) as u8, 5);
        assert_eq!(exit(Code::DataLoss) as u8, 6);
        assert_eq!(exit(Code::Unknown) as u8, 70);
        assert_eq!(exit(Code::AlreadyExists) as u8, 1);
    }

    #[test]
    fn a_reason_wins_over_its_code() {
        let exit = |reason: &str| {
            let reason = Some(reason.into());
            Exit::of(&Error {
                code: Code::InvalidArgument,
                reason,
                message: String::new(),
                retry_after: None,
            })
        };
        assert_eq!(exit("CIPHERTEXT_REFUSED") as u8, 6);
        assert_eq!(exit("SHUTTING_DOWN") as u8, 5);
        assert_eq!(exit("CONTEXT_INVALID") as u8, 1);
        assert_eq!(exit("SOMETHING_NEW") as u8, 1);
    }
}
