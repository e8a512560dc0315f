//! `keyward init`: an unfounded root, its backup key in a file, an empty store
//! and an empty audit log.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use super::lock::{self, LockError, StateLock};
use super::once::wait_until_ready;
use super::settings;
use crate::access::Action;
use crate::audit::{self, FileLog, Outcome, Pending};
use crate::clock::Date;
use crate::config::{Config, CustodyMode};
use crate::hsm::birth::{Backup, BackupPlan, NewRoot, Newborn, Purpose};
use crate::hsm::pkcs11::root::Settled;
use crate::hsm::process::{self, TaskError};
use crate::hsm::{Hsm, HsmError, Kek, Operation, Reply};
use crate::id::{DeploymentId, ErasureGeneration, RootGeneration, RootId, SigningGeneration};
use crate::keyring::binding;
use crate::keyring::record::{
    Custody, ErasureState, Root, RootState, SigningPurpose, SystemKey, SystemSecret,
};
use crate::keyring::wrapped::WrappedKek;
use crate::modes::Untrusted;
use crate::ops::erasure;
use crate::secret::Key256;
use crate::store::kv::KvError;
use crate::store::{Changes, Records, SqliteKv, StoreError, StoreKeys, tables};

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The root key's name.
    pub root: RootId,
    /// The installation's name.
    pub deployment: DeploymentId,
    /// The labels of the tokens that hold the root.
    pub tokens: Vec<String>,
    /// Where the backup key is.
    pub backup_key: PathBuf,
    /// What the module is known to get wrong, in words.
    pub quirks: Vec<String>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Another process owns the state directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Others may write what everything rests on.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The configuration does not accept an unfounded root.
    #[error(
        "init makes a root key whose backup one operator holds; say `custody = \"operator\"` in the configuration to accept that"
    )]
    NotAccepted,
    /// There is something already.
    #[error(
        "{0} exists already; init never replaces an installation (if an init was interrupted before it said that it was done, move this and the state directory away and run it again)"
    )]
    Exists(String),
    /// The token has a root key already.
    #[error(
        "the token has Keyward root key {0} already; it may belong to another installation: use another token, or say --beside-existing to make one more"
    )]
    RootExists(RootId),
    /// `hsm.token` is not one.
    #[error(transparent)]
    Token(#[from] settings::TokenError),
    /// No root was made.
    #[error(transparent)]
    Root(#[from] TaskError),
    /// The HSM did not serve.
    #[error("the HSM: {0}")]
    Hsm(#[from] HsmError),
    /// The store could not be made.
    #[error("the store: {0}")]
    Kv(#[from] KvError),
    /// The store could not be made.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The audit log could not be made.
    #[error(transparent)]
    AuditOpen(#[from] audit::file::OpenError),
    /// The audit log does not take records.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No randomness.
    #[error("the operating system's random generator failed: {0}")]
    Entropy(#[from] getrandom::Error),
}

/// Makes an installation. The backup key is in its file before the root is on the token.
///
/// # Errors
/// [`InitError`]; what exists is never replaced.
pub fn init(config: &Config, backup_key: &Path, beside_existing: bool) -> Result<Made, InitError> {
    if config.custody != Some(CustodyMode::Operator) {
        return Err(InitError::NotAccepted);
    }
    lock::check_owner(&config.state_dir)?;
    settings::check_hands(config, false)?;
    let _lock = StateLock::take(&config.state_dir)?;
    for path in [config.database(), config.journal(), config.audit_dir(), backup_key.to_owned()] {
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path.display().to_string()));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(make(config, backup_key, beside_existing))
}

async fn make(config: &Config, backup_key: &Path, beside_existing: bool) -> Result<Made, InitError> {
    let hsm_settings = settings::hsm(config)?;
    if let Some(root) =
        process::roots(&hsm_settings, Purpose::Root).await?.first().filter(|_| !beside_existing)
    {
        return Err(InitError::RootExists(*root));
    }
    let deployment = DeploymentId::random()?;
    let keep = async |newborn: Newborn| match &newborn.backup {
        Backup::HandedOut(key) => {
            write_backup(backup_key, deployment, key, &newborn.wrapped).map_err(|error| error.to_string())
        }
        _ => Err("the HSM process kept the backup key to itself".to_owned()),
    };
    let made = process::create_root(&hsm_settings, Purpose::Root, BackupPlan::HandOut, keep).await?;
    let hsm = process::start(hsm_settings, Some(made.born().canary.clone()));
    let written = write_records(config, &*hsm, deployment, &made).await;
    hsm.shutdown().await;
    written?;
    Ok(Made {
        root: made.id,
        deployment,
        tokens: made.settled.iter().map(|settled| settled.token.label.clone()).collect(),
        backup_key: backup_key.to_owned(),
        quirks: quirks(&made.settled),
    })
}

/// What the modules are known to get wrong, each once.
fn quirks(settled: &[Settled]) -> Vec<String> {
    let all = settled.iter().flat_map(|settled| settled.quirks.iter().cloned());
    let mut once: Vec<String> = Vec::new();
    all.for_each(|quirk| {
        if !once.contains(&quirk) {
            once.push(quirk);
        }
    });
    once
}

/// Makes store, journal and audit log of an installation whose root stands on the tokens already, with
/// their first records: root, daemon's secret, signing key, erasure key. The folder of the state is there,
/// and has none of them.
///
/// # Errors
/// [`InitError`]; what was made until then stays.
pub async fn write_records(
    config: &Config,
    hsm: &dyn Hsm,
    deployment: DeploymentId,
    made: &NewRoot,
) -> Result<(), InitError> {
    wait_until_ready(hsm).await?;
    let root = Root {
        id: made.id,
        generation: RootGeneration::FIRST,
        deployment,
        custody: Custody::Unfounded,
        escrow: made.escrow.clone(),
        canary: made.born().canary.clone(),
        token_serial: made.born().token.serial.clone(),
        token_label: made.born().token.label.clone(),
        created: Date::now(),
        state: Some(RootState::Active),
    };
    let (secret, key) = new_secret(hsm, &root).await?;
    let first = ErasureGeneration::FIRST;
    let erasure =
        erasure::make(hsm, deployment, first, ErasureState::Current, erasure::keep_nothing()).await?;
    if erasure.record.root == root.id {
        // Replaced in a month, it would be destroyed, and the root with it.
        return Err(HsmError::Misbehaved("it named two new keys alike".into()).into());
    }
    let (audit, _) = FileLog::open(settings::audit(config, true), deployment)?;
    let kv = Arc::new(SqliteKv::open(config.database()).await?);
    let mut initial = Changes::default();
    initial.create(&tables::root(root.generation), &root);
    initial.create(&tables::system_secret(), &secret);
    if let Some(key) = new_audit_key(hsm, root.id).await {
        initial.create(&tables::system_key(SigningPurpose::Audit, SigningGeneration::FIRST), &key);
    }
    initial.create(&tables::erasure(first), &erasure.record);
    let (_, change) =
        Records::create(kv, &config.journal(), deployment, StoreKeys::derive(&key), initial).await?;
    let mut record = Pending::begin(audit.clone(), None, Action::Init, "", 0);
    let tokens: Vec<String> = made
        .settled
        .iter()
        .map(|settled| format!("token {} serial {}", settled.token.label, settled.token.serial))
        .collect();
    record.detail(format!("root {} on {}", made.id, tokens.join(" and ")));
    record.change(audit::StoreChange { revision: change.revision, digest: change.digest });
    record.finish(Outcome::Ok)?.await?;
    audit.close()?;
    Ok(())
}

/// The key that signs checkpoints. Without it there is an installation all the same; a start tries again.
async fn new_audit_key(hsm: &dyn Hsm, root: RootId) -> Option<SystemKey> {
    match hsm.run(vec![Operation::GenerateSigningKey { root }]).await.pop() {
        Some(Ok(Reply::NewSigningKey(key))) => Some(SystemKey { key, created: Date::now(), handover: None }),
        other => {
            tracing::warn!(?other, "the HSM made no key to sign checkpoints with");
            None
        }
    }
}

/// The daemon's secret under a KEK of its own.
async fn new_secret(hsm: &dyn Hsm, root: &Root) -> Result<(SystemSecret, Key256), HsmError> {
    let misfit = || HsmError::Misbehaved("it gave another answer than asked for".into());
    let one = async |operation| hsm.run(vec![operation]).await.pop().ok_or_else(misfit)?;
    let Reply::Wrapped(wrapped) = one(Operation::GenerateKek { root: root.id }).await? else {
        return Err(misfit());
    };
    let kek = Kek::Sealed { root: root.id, wrapped: wrapped.clone() };
    let aad = binding::system_secret(root.deployment);
    let Reply::NewKey { key, sealed } = one(Operation::GenerateKey { kek, aad }).await? else {
        return Err(misfit());
    };
    Ok((SystemSecret { root: root.id, kek: wrapped, sealed }, key))
}

/// Writes the backup key durably, for its owner alone, and never over another file.
fn write_backup(path: &Path, deployment: DeploymentId, key: &Key256, escrow: &WrappedKek) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let text = Zeroizing::new(format!(
        "# Backup key of a Keyward root, and the root wrapped under it (AES key wrap, RFC 3394). No\n\
         # command puts it onto a token: it is what is left when the HSM is lost before custodians\n\
         # found the root, for whoever has a copy of the store, too. Keep it offline, away from every\n\
         # copy of the store, under two locks. The founding makes it worthless: destroy it then.\n\
         deployment = \"{deployment}\"\n\
         wrapped_root = \"{}\"\n\
         backup_key = \"{}\"\n",
        STANDARD_NO_PAD.encode(&escrow.bytes),
        *Zeroizing::new(STANDARD_NO_PAD.encode(key.expose())),
    ));
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent)?.sync_all()
}
