//! One daemon for one state directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

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
    #[error("{0} is in use by another keywardd (or by keyward init or a repair); stop that first")]
    InUse(String),
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
