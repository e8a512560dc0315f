//! One daemon for one state directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Held as long as this process owns the state directory.
#[derive(Debug)]
pub struct StateLock {
    file: File,
}

/// Why the state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{0} is in use by another keywardd (or by an init or a repair); stop that first")]
    InUse(String),
    /// Another user's, and root would leave files of its own in it.
    #[error(
        "the state directory {0} belongs to the user {1}, and files that root makes there would lock that user out; run this as that user, for the service `as_keyward` instead of `keyward`"
    )]
    OfAnother(String, String),
    /// Root was here, as the daemon or by a command.
    #[error(
        "{path} belongs to root, and this user cannot write it: root ran the daemon or a command here once; as root, run `chown -R {user} '{state}'`"
    )]
    OfRoot {
        /// The file or folder.
        path: String,
        /// This user, as chown(1) takes it.
        user: String,
        /// The state directory.
        state: String,
    },
    /// The system refused.
    #[error("cannot use the state directory {0}: {1}")]
    Io(String, #[source] io::Error),
}

impl StateLock {
    /// Makes the directory (0700) when it is missing and takes it, or says who cannot.
    ///
    /// # Errors
    /// [`LockError::InUse`] when another process has it.
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        check_owner(state_dir)?;
        let shown = || state_dir.display().to_string();
        let failed = |error| LockError::Io(shown(), error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(state_dir.join("lock"))
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::InUse(shown())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Names this node among those that may share a store one day: 16 random bytes that stay the
    /// same as long as the state directory does. They stand in the lock file.
    ///
    /// # Errors
    /// When the file cannot be read or written, or there is no randomness.
    pub fn node(&self) -> io::Result<[u8; 16]> {
        let mut node = [0; 16];
        match self.file.read_exact_at(&mut node, 0) {
            Ok(()) => Ok(node),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                getrandom::fill(&mut node).map_err(io::Error::other)?;
                self.file.write_all_at(&node, 0)?;
                self.file.sync_all()?;
                Ok(node)
            }
            Err(error) => Err(error),
        }
    }
}

/// That what this process writes there can be written by the daemon, and the other way round.
/// # Errors
/// [`LockError::OfAnother`] and [`LockError::OfRoot`], with the command that mends it.
pub fn check_owner(state_dir: &Path) -> Result<(), LockError> {
    let us = rustix::process::geteuid().as_raw();
    // Where there is none, or none that this user may look at, opening it says so.
    let Ok(found) = state_dir.metadata() else { return Ok(()) };
    let state = state_dir.display().to_string();
    if us == 0 {
        return match found.uid() {
            0 => Ok(()),
            other => Err(LockError::OfAnother(state, name_of(other))),
        };
    }
    match roots_own(state_dir) {
        Some(path) => {
            Err(LockError::OfRoot { path: path.display().to_string(), user: with_group(us), state })
        }
        None => Ok(()),
    }
}

/// What the daemon writes in its state directory, and in the folders there.
const FILES: [&str; 6] = ["lock", "store.db", "store.db-wal", "store.db-shm", "journal.kwj", "pin-refused"];
const FOLDERS: [&str; 3] = ["audit", "audit/tree", "pins"];

/// Something of the daemon's that root owns and this user cannot write.
fn roots_own(state_dir: &Path) -> Option<PathBuf> {
    let files = FILES.iter().chain(&FOLDERS).map(|name| state_dir.join(name));
    let inside = FOLDERS.iter().filter_map(|name| state_dir.join(name).read_dir().ok());
    let inside = inside.flat_map(|entries| entries.flatten().map(|entry| entry.path()));
    files.chain(inside).find(|path| {
        let Ok(found) = path.symlink_metadata() else { return false };
        let writable = || rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
        found.uid() == 0 && !found.is_symlink() && !writable()
    })
}

/// As chown(1) takes a user, with the group of theirs where they have a name.
fn with_group(uid: u32) -> String {
    uzers::get_user_by_uid(uid).map_or_else(|| uid.to_string(), |_| format!("{}:", name_of(uid)))
}

fn name_of(uid: u32) -> String {
    uzers::get_user_by_uid(uid)
        .map_or_else(|| uid.to_string(), |user| user.name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::take(dir.path()).unwrap();
        assert!(matches!(StateLock::take(dir.path()), Err(LockError::InUse(_))));
        drop(first);
        StateLock::take(dir.path()).unwrap();
    }
}
