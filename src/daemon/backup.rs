//! Recovery exports without a daemon: a store restored from one, and the drill
//! that proves that it could be.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::fs::File;
use tokio::io::BufReader;

use super::lock::LockError;
use super::once::wait_until_ready;
use super::settings::TokenError;
use super::unlock::open_system_secret;
use crate::audit;
use crate::hsm::process::{self, HsmGroup};
use crate::hsm::{Hsm, HsmError, Kek, Operation, Reply};
use crate::keyring::binding;
use crate::secret::Key256;
use crate::store::StoreError;
use crate::store::kv::KvError;
use crate::store::recovery::{Closed, Head, Opened};

mod drill;
mod restore;

pub use drill::{Drill, DrillReport, Sample, drill};
pub use restore::{Restore, restore};

/// Why an export was not restored, or not proved.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    File(String, #[source] io::Error),
    /// Another process owns the state directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The token's name is not one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The HSM did not serve, or has another root.
    #[error("the HSM: {0}")]
    Hsm(HsmError),
    /// The export's key does not open.
    #[error(
        "the export's key does not open on this token although it has the root: the export was changed or damaged"
    )]
    Changed,
    /// The export or the store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The erasure key of the restored store could not be made or opened.
    #[error(transparent)]
    Erasure(#[from] crate::ops::erasure::ErasureError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    AuditOpen(#[from] audit::file::OpenError),
    /// The audit log does not take records.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No randomness.
    #[error("the operating system's random generator failed: {0}")]
    Entropy(#[from] getrandom::Error),
    /// A proof of the drill failed.
    #[error("{0}")]
    NotProved(String),
}

impl From<KvError> for BackupError {
    fn from(error: KvError) -> Self {
        Self::Store(error.into())
    }
}

impl From<HsmError> for BackupError {
    fn from(error: HsmError) -> Self {
        Self::Hsm(error)
    }
}

/// An export whose key a token has opened.
struct Unlocked {
    head: Head,
    opened: Opened<BufReader<File>>,
    /// The daemon's secret, which verifies the records.
    secret: Key256,
}

/// Reads the head of an export.
async fn read_head(input: &Path) -> Result<Closed<BufReader<File>>, BackupError> {
    let failed = |error| BackupError::File(input.display().to_string(), error);
    Ok(Closed::read(BufReader::new(File::open(input).await.map_err(failed)?)).await?)
}

/// An HSM group that must have the root of the export.
async fn connect(settings: process::Settings, head: &Head) -> Result<Arc<HsmGroup>, BackupError> {
    let hsm = process::start(settings, Some(head.header.canary.clone()));
    match wait_until_ready(&*hsm).await {
        Ok(()) => Ok(hsm),
        Err(error) => {
            hsm.shutdown().await;
            Err(error.into())
        }
    }
}

/// Opens the key of the export, which proves its header, and the daemon's secret.
async fn unlock(hsm: &dyn Hsm, closed: Closed<BufReader<File>>) -> Result<Unlocked, BackupError> {
    let head = closed.head.clone();
    let header = &head.header;
    let kek = Kek::Sealed { root: header.root, wrapped: header.kek.clone() };
    let aad = binding::export_key(header.deployment, &head.hash);
    let operation = Operation::OpenKey { kek, aad, sealed: head.sealed.clone() };
    let key = match hsm.run(vec![operation]).await.pop() {
        Some(Ok(Reply::Key(key))) => key,
        Some(Err(HsmError::Integrity)) => return Err(BackupError::Changed),
        Some(Err(error)) => return Err(error.into()),
        _ => return Err(HsmError::Misbehaved("it gave another answer than asked for".into()).into()),
    };
    let secret = open_system_secret(hsm, header.deployment, &header.secret).await?;
    let opened = closed.open(key).await?;
    Ok(Unlocked { head, opened, secret })
}

fn block_on<T>(work: impl Future<Output = Result<T, BackupError>>) -> Result<T, BackupError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
