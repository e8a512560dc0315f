//! What commands on the daemon's own files have in common: they read its configuration.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use crate::config::Config;
use crate::daemon;
use crate::secret::SecretMemory;

/// The daemon's configuration file.
#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// Configuration of keywardd
    #[arg(long, value_name = "FILE", default_value = "/etc/keyward/keywardd.toml")]
    config: PathBuf,
}

impl ConfigFile {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`Failure::Input`] that names line, key and expectation.
    pub(crate) fn read(&self) -> Result<Config, Failure> {
        Config::read(&self.config).map_err(|error| Failure::local(&error))
    }
}

impl ConfigFile {
    /// Reads and checks it; nothing where this user may not read it, as an operator may not.
    ///
    /// # Errors
    /// As [`read`](Self::read), for anything else.
    pub(crate) fn read_if_allowed(&self) -> Result<Option<Config>, Failure> {
        match self.read() {
            Ok(config) => Ok(Some(config)),
            Err(Failure::Forbidden(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

/// Runs work that blocks: the HSM, files, a runtime of its own.
///
/// # Errors
/// [`Failure::Forbidden`] where this user may not, and otherwise [`Failure::Input`], with what the work said.
pub(crate) async fn blocking<T: Send + 'static, E: Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Failure> {
    // These commands handle the PIN and keys: the process gives up what the daemon gives up.
    daemon::harden(SecretMemory::default()).map_err(Failure::file("protect", "this process".as_ref()))?;
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|error| Failure::local(&error)),
        Err(panicked) => {
            Err(Failure::Refused { reason: "INTERNAL", message: format!("a defect of keyward: {panicked}") })
        }
    }
}
