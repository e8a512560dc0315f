//! What went wrong with a call, as a program can act on it.

use std::error::Error as _;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt};

pub use tonic::Code;

/// Reason of an error made here: no connection, or the connection was lost.
pub const UNREACHABLE: &str = "UNREACHABLE";
/// Reason of an error made here: the operating system forbids to open the socket.
pub const SOCKET_FORBIDDEN: &str = "SOCKET_FORBIDDEN";
/// Reason of an error made here: no answer before the deadline.
pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
/// Reason of an error made here: the answer does not fit the question.
pub const PROTOCOL: &str = "PROTOCOL";

/// A call that failed, or one item of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::error_impl_error, reason = "read as client::Error, as std names its errors")]
pub struct Error {
    /// The gRPC code.
    pub code: Code,
    /// Which refusal, in one word (google.rpc.ErrorInfo, docs/errors.md); `None` when the daemon gave none.
    pub reason: Option<String>,
    /// What happened and what to do.
    pub message: String,
    /// When to try again, where the daemon says so (google.rpc.RetryInfo).
    pub retry_after: Option<Duration>,
}

impl Error {
    fn new(code: Code, message: impl Into<String>, details: &ErrorDetails) -> Self {
        Self {
            code,
            reason: details.error_info().map(|info| info.reason.clone()),
            message: message.into(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }

    pub(super) fn local(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: Some(reason.into()), message: message.into(), retry_after: None }
    }

    pub(super) fn lost(why: impl fmt::Display) -> Self {
        Self::local(Code::Unavailable, UNREACHABLE, format!("the connection to keywardd was lost: {why}"))
    }

    pub(super) fn late(limit: Duration) -> Self {
        let limit = humantime::format_duration(limit);
        let message = format!("keywardd did not answer within {limit}");
        Self::local(Code::DeadlineExceeded, DEADLINE_EXCEEDED, message)
    }

    pub(crate) fn protocol() -> Self {
        let message =
            "keywardd answered something else than was asked; client and daemon versions may differ";
        Self::local(Code::Internal, PROTOCOL, message)
    }

    /// The reason, or an empty text.
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }

    /// Whether the same call may succeed a little later: the connection broke, the daemon is
    /// restarting, or it names a time to try again.
    pub fn is_transient(&self) -> bool {
        match self.code {
            Code::Unavailable => {
                self.retry_after.is_some() || matches!(self.reason(), UNREACHABLE | "SHUTTING_DOWN")
            }
            Code::ResourceExhausted => self.retry_after.is_some(),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        match status.source() {
            // Only what the transport made up has a source; what the daemon said has none.
            Some(source) => Self::from_transport(source),
            None => Self::new(status.code(), status.message(), &status.get_error_details()),
        }
    }
}

impl From<tonic_types::Status> for Error {
    fn from(status: tonic_types::Status) -> Self {
        let details = status.get_error_details();
        Self::new(Code::from_i32(status.code), status.message, &details)
    }
}

impl From<tonic::transport::Error> for Error {
    fn from(error: tonic::transport::Error) -> Self {
        Self::from_transport(&error)
    }
}

impl Error {
    fn from_transport(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = || std::iter::successors(Some(error), |&cause| cause.source());
        match causes().find_map(|cause| cause.downcast_ref::<NotConnected>()) {
            Some(cause) => cause.into(),
            None => Self::lost(causes().last().unwrap_or(error)),
        }
    }
}

/// The socket could not be opened.
#[derive(Debug)]
pub(super) struct NotConnected {
    path: PathBuf,
    source: std::io::Error,
}

impl NotConnected {
    pub(super) fn new(path: &Path, source: std::io::Error) -> Self {
        Self { path: path.into(), source }
    }
}

impl std::error::Error for NotConnected {}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::io::ErrorKind;
        let path = self.path.display();
        match self.source.kind() {
            ErrorKind::NotFound => write!(f, "is keywardd running? there is no socket at {path}"),
            ErrorKind::ConnectionRefused => {
                write!(f, "is keywardd running? nobody answers at the socket {path}")
            }
            ErrorKind::PermissionDenied => {
                let group = owning_group(&self.path).unwrap_or_else(|| "that owns it".into());
                write!(f, "you may not open the socket {path}: your user must be in the group {group}")
            }
            _ => write!(f, "cannot connect to the socket {path}: {}", self.source),
        }
    }
}

impl From<&NotConnected> for Error {
    fn from(cause: &NotConnected) -> Self {
        match cause.source.kind() {
            std::io::ErrorKind::PermissionDenied => {
                Self::local(Code::PermissionDenied, SOCKET_FORBIDDEN, cause.to_string())
            }
            _ => Self::local(Code::Unavailable, UNREACHABLE, cause.to_string()),
        }
    }
}

/// The group of the socket, or of the nearest directory above it that can be seen.
fn owning_group(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let gid = path.ancestors().find_map(|place| place.metadata().ok())?.gid();
    let name = uzers::get_group_by_gid(gid).map(|group| group.name().to_string_lossy().into_owned());
    Some(name.unwrap_or_else(|| gid.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::client::fake;

    fn details(retry: Option<Duration>) -> ErrorDetails {
        let mut details = ErrorDetails::with_error_info("HSM_BUSY", "keyward", HashMap::new());
        details.set_retry_info(retry);
        details
    }

    #[test]
    fn reason_and_hint_are_read_from_a_status() {
        let hint = Duration::from_millis(250);
        let status = tonic::Status::with_error_details(
            Code::ResourceExhausted,
            "the HSM queue is full",
            details(Some(hint)),
        );
        let error = Error::from(status);
        assert_eq!((error.code, error.reason()), (Code::ResourceExhausted, "HSM_BUSY"));
        assert_eq!((error.retry_after, error.to_string()), (Some(hint), "the HSM queue is full".into()));
        assert!(error.is_transient());
    }

    #[test]
    fn reason_is_read_from_an_item() {
        let error = Error::from(fake::rpc(&fake::refusal(Code::NotFound, "NOT_FOUND", None)));
        assert_eq!((error.code, error.reason(), error.retry_after), (Code::NotFound, "NOT_FOUND", None));
        assert!(!error.is_transient());
    }

    #[test]
    fn only_what_can_pass_is_transient() {
        let unavailable =
            |reason: &str| Error::local(Code::Unavailable, reason, String::new()).is_transient();
        assert!(unavailable(UNREACHABLE) && unavailable("SHUTTING_DOWN"));
        assert!(!unavailable("AUDIT_UNAVAILABLE"));
        assert!(!Error::from(tonic::Status::resource_exhausted("full")).is_transient());
        assert!(!Error::from(tonic::Status::invalid_argument("odd")).is_transient());
    }

    #[test]
    fn a_missing_socket_explains_itself() {
        let cause = |kind: std::io::ErrorKind| {
            Error::from(&NotConnected::new(Path::new("/nowhere/keyward.sock"), kind.into()))
        };
        let missing = cause(std::io::ErrorKind::NotFound);
        assert_eq!(missing.to_string(), "is keywardd running? there is no socket at /nowhere/keyward.sock");
        assert!(missing.is_transient());
        let forbidden = cause(std::io::ErrorKind::PermissionDenied);
        assert_eq!((forbidden.code, forbidden.reason()), (Code::PermissionDenied, SOCKET_FORBIDDEN));
        assert!(forbidden.to_string().contains("must be in the group"), "{forbidden}");
    }
}
