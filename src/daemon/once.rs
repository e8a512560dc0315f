//! The HSM for one command, without a daemon.

use crate::config::Config;
use crate::hsm::process;
use crate::hsm::{Hsm, HsmError, Status};
use crate::keyring::record::{Root, SystemSecret};
use crate::secret::Key256;

use super::settings::{self, TokenError};
use super::unlock::open_secret;

/// Why the secret of a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// `hsm.token` is not one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The HSM did not serve.
    #[error("the HSM: {0}")]
    Hsm(#[from] HsmError),
}

/// Opens the secret of a store with the configured HSM.
///
/// # Errors
/// [`SecretError`] when the HSM is away, refused, or not the one of this store.
pub(super) async fn secret(
    config: &Config,
    root: &Root,
    secret: &SystemSecret,
) -> Result<Key256, SecretError> {
    let hsm = process::start(settings::hsm(config)?, Some(root.canary.clone()));
    let opened = async {
        wait_until_ready(&*hsm).await?;
        open_secret(&*hsm, root, secret).await
    };
    let opened = opened.await;
    if !hsm.shutdown().await {
        tracing::warn!("a call still hung in the PKCS#11 module; its process was ended");
    }
    Ok(opened?)
}

/// Waits for the first connection; there is no second try.
pub(super) async fn wait_until_ready(hsm: &dyn Hsm) -> Result<(), HsmError> {
    let mut status = hsm.status();
    loop {
        match &*status.borrow_and_update() {
            Status::Ready { .. } => return Ok(()),
            Status::Refused { reason } | Status::Down { reason } => {
                return Err(HsmError::Unavailable(reason.clone()));
            }
            Status::Starting => {}
        }
        if status.changed().await.is_err() {
            return Err(HsmError::Unavailable("it was shut down".into()));
        }
    }
}
