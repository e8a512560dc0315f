//! The HSM for one command, without a daemon.

use crate::config::Config;
use crate::hsm::process;
use crate::hsm::{Hsm, HsmError, Status};
use crate::keyring::record::{Root, SystemSecret};
use crate::ops::erasure::{self, ErasureError};
use crate::secret::Key256;
use crate::store::ErasureList;

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
    /// The wrapped keys can no longer be read.
    #[error(transparent)]
    Erasure(#[from] ErasureError),
}

/// Opens the secret of a store with the configured HSM, and sees that at least one of the
/// copies of its records, whose erasure keys are `copies`, can still be read.
///
/// # Errors
/// [`SecretError`] when the HSM is away, refused, or not the one of this store, and
/// [`ErasureError::Destroyed`] for old copies.
pub(super) async fn secret(
    config: &Config,
    root: &Root,
    secret: &SystemSecret,
    copies: &[ErasureList],
) -> Result<Key256, SecretError> {
    let hsm = process::start(settings::hsm(config)?, Some(root.canary.clone()));
    let opened = async {
        wait_until_ready(&*hsm).await?;
        let secret = open_secret(&*hsm, root, secret).await?;
        readable(&*hsm, root, copies).await?;
        Ok::<_, SecretError>(secret)
    };
    let opened = opened.await;
    if !hsm.shutdown().await {
        tracing::warn!("a call still hung in the PKCS#11 module; its process was ended");
    }
    opened
}

/// That the erasure keys of one of the copies are there.
async fn readable(hsm: &dyn Hsm, root: &Root, copies: &[ErasureList]) -> Result<(), ErasureError> {
    let mut gone = Ok(());
    for copy in copies {
        let mut found = Ok(());
        for (generation, record) in copy {
            if let Err(error) = erasure::open(hsm, root.deployment, *generation, record).await {
                found = Err(error);
            }
        }
        match found {
            Ok(()) => return Ok(()),
            Err(error) => gone = Err(error),
        }
    }
    gone
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
