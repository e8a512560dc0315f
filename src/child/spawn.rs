//! Starting a process.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// What concerns the daemon alone: its service manager, its sockets, its credentials.
const NOT_INHERITED: [&str; 7] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "CREDENTIALS_DIRECTORY",
];

/// The program that becomes the process.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// This very program, even when its file has been replaced since.
    pub fn this(arguments: Vec<OsString>) -> Self {
        Self::new("/proc/self/exe".into(), arguments)
    }

    /// A program by its path.
    pub fn new(path: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { path, arguments }
    }

    /// Starts a process with a socket as its standard input, under a title for lists of processes. Its other streams
    /// are null and our stderr; it leads a process group of its own, so that
    /// Ctrl-C does not end it while calls are being finished; it is killed when dropped.
    pub(crate) fn spawn(&self, title: &str) -> std::io::Result<(Child, UnixStream)> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&self.path);
        command
            .arg0(title)
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        for variable in NOT_INHERITED {
            command.env_remove(variable);
        }
        Ok((command.spawn()?, UnixStream::from_std(ours)?))
    }
}
