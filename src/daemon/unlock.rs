//! Opening the vault, once the HSM is there: the daemon's secret is opened, the
//! records are verified with keys derived from it, the vault goes up.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::bond;
use crate::access::Action;
use crate::access::Policy;
use crate::audit::{AuditError, FileLog, Outcome, Pending};
use crate::hsm::{Hsm, HsmError, Kek, Operation, Reply, Status};
use crate::id::DeploymentId;
use crate::keyring::binding;
use crate::keyring::record::{Root, SystemSecret};
use crate::ops::erasure::{self, ErasureError};
use crate::ops::login::keys::LoginKeys;
use crate::ops::vault::Settings;
use crate::ops::{Error, Vault};
use crate::secret::Key256;
use crate::store::kv::Kv;
use crate::store::{Records, StoreChange, StoreError, StoreKeys};

/// How long it is waited before the erasure keys are asked for again.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// What is needed to open the vault.
pub struct Locked {
    /// The HSM; its connection may still be made.
    pub hsm: Arc<dyn Hsm>,
    /// The backend of the store.
    pub kv: Arc<dyn Kv>,
    /// The path of the key journal.
    pub journal: PathBuf,
    /// The audit log, open.
    pub audit: Arc<FileLog>,
    /// The newest change of the store that the audit log knows.
    pub anchor: Option<StoreChange>,
    /// The root, as it stands in the store; nothing has verified it yet.
    pub root: Root,
    /// The daemon's secret, sealed, as it stands in the store.
    pub secret: SystemSecret,
    /// Who may do what.
    pub policy: Arc<Policy>,
    /// What configuration says about the operations.
    pub settings: Settings,
}

/// Why the vault stays closed although the HSM is there.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The secret is sealed under a root of another token, or was damaged.
    #[error(
        "the store's secret does not open on this token: the store belongs to root key {0} of another token, or was damaged; check hsm.token, or restore the store that belongs to this token"
    )]
    OtherToken(crate::id::RootId),
    /// The verified records have another root or secret than was read before.
    #[error("the store's root or secret was replaced while the daemon started; run `keyward store check`")]
    Replaced,
    /// The HSM answered what waiting does not mend.
    #[error("the HSM: {0}")]
    Hsm(HsmError),
    /// The records cannot be read.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The audit log is not the one that the store has seen.
    #[error(transparent)]
    Bond(#[from] bond::BondError),
    /// The erasure keys are not open.
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    /// The vault did not go up over them.
    #[error(transparent)]
    Vault(#[from] Error),
}

impl Locked {
    /// Waits for the HSM and opens the vault. Says in `waiting_for` what it
    /// waits for. `None` when the HSM was shut down before.
    ///
    /// # Errors
    /// [`UnlockError`]: what no waiting mends.
    pub async fn open(self, waiting_for: &watch::Sender<String>) -> Result<Option<Arc<Vault>>, UnlockError> {
        loop {
            if !wait_until_ready(&mut self.hsm.status(), waiting_for).await {
                return Ok(None);
            }
            match open_secret(&*self.hsm, &self.root, &self.secret).await {
                Ok(secret) => return self.open_with(&secret, waiting_for).await,
                Err(HsmError::Integrity | HsmError::UnknownRoot(_)) => {
                    return Err(UnlockError::OtherToken(self.root.id));
                }
                Err(error @ (HsmError::Busy { .. } | HsmError::Unavailable(_))) => {
                    waiting_for.send_replace(error.to_string());
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
                Err(error) => return Err(UnlockError::Hsm(error)),
            }
        }
    }

    async fn open_with(
        mut self,
        secret: &Key256,
        waiting_for: &watch::Sender<String>,
    ) -> Result<Option<Arc<Vault>>, UnlockError> {
        let keys = StoreKeys::derive(secret);
        let (records, report) =
            Records::open(self.kv.clone(), &self.journal, self.root.deployment, keys, self.anchor).await?;
        match report.bootstrap {
            Some((root, secret)) if (&root, &secret) == (&self.root, &self.secret) => {}
            // A crash between the journal and the store, in the very change that put another root in force: what was
            // read first is from before it, and what is verified now is what counts.
            Some((root, secret)) if report.replayed > 0 || report.migrated.is_some() => {
                self.hsm.expect(root.canary.clone());
                (self.root, self.secret) = (root, secret);
            }
            _ => return Err(UnlockError::Replaced),
        }
        bond::bind(&records, &self.audit)?;
        // Before anything is served.
        while let Err(error) = bond::tell_missing(&records, &self.audit).await {
            if matches!(error, AuditError::Stopped) {
                return Ok(None);
            }
            // Its disk may be full still.
            waiting_for.send_replace(error.to_string());
            tokio::time::sleep(PAUSE).await;
        }
        self.tell_recovered(report.migrated, report.notes)?;
        while let Err(error) = self.open_erasure_keys(&records).await {
            // A token of the group may be missing still.
            waiting_for.send_replace(passing(error)?);
            tokio::time::sleep(PAUSE).await;
            if !wait_until_ready(&mut self.hsm.status(), waiting_for).await {
                return Ok(None);
            }
        }
        let login = LoginKeys::derive(secret)?;
        let vault = Vault::open(self.hsm, records, self.audit, self.root, self.policy, self.settings, login);
        Ok(Some(vault.await?))
    }

    /// Says, and puts on record, what was done to the store before it could be used. A migration is expected after
    /// an upgrade; what came from the journal is not after an orderly stop.
    fn tell_recovered(&self, migrated: Option<String>, notes: Vec<String>) -> Result<(), UnlockError> {
        if let Some(migrated) = &migrated {
            tracing::info!("{migrated}");
        }
        if !notes.is_empty() {
            tracing::warn!(repaired = notes.join("; "), "the store was brought up to its journal");
        }
        let done: Vec<String> = migrated.into_iter().chain(notes).collect();
        if done.is_empty() {
            return Ok(());
        }
        let mut record = Pending::begin(self.audit.clone(), None, Action::StoreRecovered, "", 0);
        record.detail(done.join("; "));
        record.finish(Outcome::Ok).map_err(Error::from)?;
        Ok(())
    }

    /// Opens the erasure keys of the store; one of before there were any gets its first.
    async fn open_erasure_keys(&self, records: &Records) -> Result<(), UnlockError> {
        let (hsm, deployment) = (&*self.hsm, self.root.deployment);
        if !erasure::open_all(hsm, deployment, records).await? {
            erasure::found(hsm, &self.root, records, self.audit.clone()).await?;
            erasure::open_all(hsm, deployment, records).await?;
        }
        Ok(())
    }
}

/// The words of a failure that passes by itself; any other one is given back.
fn passing(error: UnlockError) -> Result<String, UnlockError> {
    match error {
        UnlockError::Erasure(ErasureError::Hsm(HsmError::Busy { .. } | HsmError::Unavailable(_)))
        | UnlockError::Vault(Error::Hsm(HsmError::Busy { .. } | HsmError::Unavailable(_))) => {
            Ok(error.to_string())
        }
        lasting => Err(lasting),
    }
}

/// Opens the daemon's own secret.
pub(super) async fn open_secret(
    hsm: &dyn Hsm,
    root: &Root,
    secret: &SystemSecret,
) -> Result<Key256, HsmError> {
    open_system_secret(hsm, root.deployment, secret).await
}

/// As [`open_secret`], where only the installation is known.
pub(super) async fn open_system_secret(
    hsm: &dyn Hsm,
    deployment: DeploymentId,
    secret: &SystemSecret,
) -> Result<Key256, HsmError> {
    let operation = Operation::OpenKey {
        kek: Kek::Sealed { root: secret.root, wrapped: secret.kek.clone() },
        aad: binding::system_secret(deployment),
        sealed: secret.sealed.clone(),
    };
    match hsm.run(vec![operation]).await.pop() {
        Some(Ok(Reply::Key(key))) => Ok(key),
        Some(Err(error)) => Err(error),
        _ => Err(HsmError::Misbehaved("it gave another answer than asked for".into())),
    }
}

async fn wait_until_ready(status: &mut watch::Receiver<Status>, waiting_for: &watch::Sender<String>) -> bool {
    loop {
        let reason = match &*status.borrow_and_update() {
            Status::Ready { .. } => return true,
            Status::Starting => "the first connection to the HSM is being made".to_owned(),
            Status::Down { reason } => format!("the HSM is away: {reason}"),
            Status::Refused { reason } => format!("the HSM is refused: {reason}"),
        };
        waiting_for.send_replace(reason);
        if status.changed().await.is_err() {
            return false;
        }
    }
}
