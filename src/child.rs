//! Processes that the program starts of itself, to load a vendor's library in: a crash, a leak
//! or a hanging call is theirs, not ours.
//!
//! The socket to such a process is its standard input; [`frame`] says how messages look on it.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Child;

pub(crate) mod frame;
mod spawn;

pub use spawn::Program;

/// How long a process may take to end by itself once its socket is closed.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Why a process ended before its work was done.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// A person started it.
    #[error("this command is for keyward itself: its standard input must be a socket")]
    NotStartedByKeyward,
    /// The program that started it is gone, or does not speak the same protocol.
    #[error("the socket to keyward: {0}")]
    Socket(#[from] io::Error),
}

/// Takes the socket on standard input, in the process that was started: its library must not find it there.
///
/// # Errors
/// [`ChildError`] when there is none.
pub(crate) fn take_socket() -> Result<UnixStream, ChildError> {
    let stdin = io::stdin();
    rustix::net::sockopt::socket_type(&stdin).map_err(|_| ChildError::NotStartedByKeyward)?;
    let socket = UnixStream::from(stdin.as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?).map_err(io::Error::from)?;
    Ok(socket)
}

/// How a process that has closed its socket came to its end; it is ended if it has not. `what`
/// it is begins the sentence.
pub(crate) async fn last_words(what: &str, child: &mut Child) -> String {
    match tokio::time::timeout(LAST_BREATH, child.wait()).await {
        Ok(Ok(status)) => format!("{what} {}", manner(status)),
        Ok(Err(error)) => format!("{what} is lost: {error}"),
        Err(_) => format!("{what} closed its socket"),
    }
}

fn manner(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => match rustix::process::Signal::from_named_raw(signal) {
            Some(name) => format!("was ended by signal {signal} ({name:?})"),
            None => format!("was ended by signal {signal}"),
        },
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended".to_owned(),
    }
}
