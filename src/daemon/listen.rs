//! The listening socket: systemd's, or our own.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

use crate::config::Server;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something that is not a socket is in the way.
    #[error("{0} exists and is not a socket; move it away or change server.socket")]
    InTheWay(String),
    /// Somebody listens there.
    #[error(
        "another process listens on {0}: stop it (systemd's socket by `systemctl stop keywardd.socket`), or change server.socket"
    )]
    InUse(String),
    /// The system refused.
    #[error("cannot listen on {0}: {1}")]
    Io(String, #[source] io::Error),
}

/// A socket that this process made, and no other that may lie at its path later.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Made {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Made {
    fn at(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    /// Removes it at the end, unless another socket has taken its place.
    pub(super) fn remove(&self) {
        let removed = Self::at(&self.path).and_then(|there| match there == *self {
            true => std::fs::remove_file(&self.path),
            false => Ok(()),
        });
        // Gone is what it is to be.
        if let Err(error) = removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }) {
            tracing::warn!(socket = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Takes the socket that systemd passed, which systemd keeps, or makes one. A socket on which nobody listens is left
/// over, and goes away.
pub(super) fn listen(server: &Server) -> Result<(UnixListener, Option<Made>), ListenError> {
    let failed = |error| ListenError::Io(server.socket.display().to_string(), error);
    // This takes what systemd passed out of the environment, too: nobody can ask for it there later.
    let passed = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(failed)?;
    let (listener, made) = match passed {
        Some(listener) => (listener, None),
        None => {
            let listener = bind(&server.socket, server.socket_mode.0)?;
            (listener, Some(Made::at(&server.socket).map_err(failed)?))
        }
    };
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((UnixListener::from_std(listener).map_err(failed)?, made))
}

fn bind(path: &Path, mode: u32) -> Result<StdListener, ListenError> {
    let failed = |error| ListenError::Io(path.display().to_string(), error);
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => remove_left_over(path)?,
        Ok(_) => return Err(ListenError::InTheWay(path.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // The umask keeps the socket to this user until its mode is set.
    let listener = StdListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// Removes a socket on which nobody listens. One that another process makes in the same moment stays: it is looked at
/// under a name of its own, which nobody else removes.
fn remove_left_over(path: &Path) -> Result<(), ListenError> {
    let failed = |error| ListenError::Io(path.display().to_string(), error);
    if is_answered(path).map_err(failed)? {
        return Err(ListenError::InUse(path.display().to_string()));
    }
    let aside = crate::store::files::beside(path, &format!(".{}", std::process::id()));
    std::fs::rename(path, &aside).map_err(failed)?;
    if is_answered(&aside).map_err(failed)? {
        renameat_with(CWD, &aside, CWD, path, RenameFlags::NOREPLACE)
            .map_err(|error| failed(error.into()))?;
        return Err(ListenError::InUse(path.display().to_string()));
    }
    std::fs::remove_file(&aside).map_err(failed)
}

/// Whether somebody listens on a socket. One that is full is answered too, and is not waited for.
fn is_answered(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_over_socket_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(bind(&path, 0o600).unwrap());
        assert!(path.exists());
        drop(bind(&path, 0o660).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path, 0o600), Err(ListenError::InTheWay(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_socket_on_which_somebody_listens_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = bind(&path, 0o600).unwrap();
        let made = Made::at(&path).unwrap();
        assert!(matches!(bind(&path, 0o600), Err(ListenError::InUse(_))));
        // Full, too: nobody accepts, and whoever connects would wait.
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        let full = (0..10).find(|_| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            let connected = rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap());
            waiting.push(socket);
            connected == Err(Errno::AGAIN)
        });
        assert!(full.is_some());
        assert!(matches!(bind(&path, 0o600), Err(ListenError::InUse(_))));
        assert_eq!(Made::at(&path).unwrap(), made);
    }

    #[test]
    fn a_socket_is_removed_by_who_made_it_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(bind(&path, 0o600).unwrap());
        let first = Made::at(&path).unwrap();
        // The old one is kept from being freed, so that its inode is not used again.
        std::fs::hard_link(&path, dir.path().join("kept")).unwrap();
        let _second = bind(&path, 0o600).unwrap();
        let second = Made::at(&path).unwrap();
        first.remove();
        assert!(path.exists());
        second.remove();
        assert!(!path.exists());
        second.remove();
    }
}
