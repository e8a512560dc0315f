//! The listening socket: systemd's, or our own.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;

use tokio::net::UnixListener;

use crate::config::Server;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something that is not a socket is in the way.
    #[error("{0} exists and is not a socket; move it away or change server.socket")]
    InTheWay(String),
    /// The system refused.
    #[error("cannot listen on {0}: {1}")]
    Io(String, io::Error),
}

/// Takes the socket that systemd passed, or makes one. The caller owns the
/// state directory, so a socket that is there already is left over.
pub(super) fn listen(server: &Server) -> Result<UnixListener, ListenError> {
    let failed = |error| ListenError::Io(server.socket.display().to_string(), error);
    let passed = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(failed)?;
    let listener = match passed {
        Some(listener) => listener,
        None => bind(&server.socket, server.socket_mode.0)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}

fn bind(path: &Path, mode: u32) -> Result<StdListener, ListenError> {
    let failed = |error| ListenError::Io(path.display().to_string(), error);
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(ListenError::InTheWay(path.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // The umask keeps the socket to this user until its mode is set.
    let listener = StdListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// Removes our own socket at the end; systemd keeps its own.
pub(super) fn remove(server: &Server, passed: bool) {
    if !passed && let Err(error) = std::fs::remove_file(&server.socket) {
        tracing::warn!(socket = %server.socket.display(), %error, "cannot remove the socket");
    }
}

/// Whether systemd passed a socket.
pub(super) fn was_passed() -> bool {
    std::env::var_os("LISTEN_FDS").is_some()
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
}
