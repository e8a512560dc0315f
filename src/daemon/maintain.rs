//! Work on the store by hand: export, import, check, repair, and accepting an
//! older store. All of it needs the daemon stopped, for whoever reads the files beside it may read a store of
//! before; a running daemon exports and checks its store itself. What changes something leaves an audit record.

use std::fs::File as StdFile;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::fs::File;
use tokio::io::{BufReader, BufWriter};

use super::bond;
use super::history::{self, History, PutBack};
use super::lock::{LockError, StateLock};
use super::once::{self, SecretError};
use super::settings;
use crate::access::Action;
use crate::audit::checkpoint::NoteKey;
use crate::audit::file::OpenError;
use crate::audit::{self, AuditError, FileLog, Outcome, Pending};
use crate::config::Config;
use crate::id::DeploymentId;
use crate::keyring::record::{Export, Root, SigningPurpose, SystemSecret};
use crate::ops::Error;
use crate::ops::destroy::destroy_again;
use crate::secret::Key256;
use crate::store::check::{self, CheckReport};
use crate::store::kv::KvError;
use crate::store::repair::{self, RepairReport};
use crate::store::transfer::{self, Exported};
use crate::store::{
    self, ErasureList, LogPoint, Records, Refusal, SqliteKv, StoreChange, StoreError, StoreKeys,
};

/// Why the store was not touched, or not read.
#[derive(Debug, thiserror::Error)]
pub enum MaintainError {
    /// Another process owns the state directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store's secret could not be opened.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    AuditOpen(#[from] audit::file::OpenError),
    /// The audit log does not take records.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// A file cannot be used.
    #[error("{0}: {1}")]
    File(String, #[source] io::Error),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The audit log cannot be read.
    #[error("the audit log: {0}")]
    Unreadable(String),
    /// What was destroyed since cannot be destroyed again.
    #[error("what was destroyed since cannot be destroyed again: {0}")]
    Again(Box<Error>),
    /// There is nothing to accept.
    #[error("the audit log knows of no change of a store: there is nothing to accept")]
    NothingToAccept,
}

impl From<KvError> for MaintainError {
    fn from(error: KvError) -> Self {
        Self::Store(error.into())
    }
}

/// The state directory, kept from daemons as long as its files are read.
#[derive(Debug)]
pub struct Idle {
    _lock: Option<StateLock>,
}

/// Takes the state directory if nobody has it. Where there is none, nobody needs to be kept from it.
///
/// # Errors
/// [`LockError::InUse`] while a daemon runs: it must be asked instead. [`LockError::Io`] where this user may not look.
pub fn idle(config: &Config) -> Result<Idle, LockError> {
    let failed = |error| LockError::Io(config.state_dir.display().to_string(), error);
    let there = config.state_dir.try_exists().map_err(failed)?;
    let lock = there.then(|| StateLock::take(&config.state_dir)).transpose()?;
    Ok(Idle { _lock: lock })
}

/// Writes all records to a new file (0600), while no daemon runs.
///
/// # Errors
/// [`MaintainError`]; an unfinished file is removed.
pub fn export(_: &Idle, config: &Config, output: &Path) -> Result<Exported, MaintainError> {
    let failed = |error| MaintainError::File(output.display().to_string(), error);
    let file = StdFile::options().write(true).create_new(true).mode(0o600).open(output).map_err(failed)?;
    let synced = file.try_clone().map_err(failed)?;
    let written = block_on(async {
        let kv = open_store(config).await?;
        Ok(transfer::export(&kv, BufWriter::new(File::from_std(file))).await?)
    });
    let written = written.and_then(|exported| synced.sync_all().map(|()| exported).map_err(failed));
    if written.is_err() {
        std::fs::remove_file(output).map_err(failed)?;
    }
    written
}

/// Fills a new store from an export; makes an audit log where there is none.
///
/// # Errors
/// [`MaintainError`]; a store that exists is never touched.
pub fn import(config: &Config, input: &Path) -> Result<Exported, MaintainError> {
    let _lock = StateLock::take(&config.state_dir)?;
    let failed = |error| MaintainError::File(input.display().to_string(), error);
    block_on(async {
        if is_there(&config.database())? {
            return Err(StoreError::from(Refusal::NotEmpty(config.database().display().to_string())).into());
        }
        let open = async || File::open(input).await.map(BufReader::new).map_err(failed);
        let found = transfer::bootstrap_export(open().await?)
            .await?
            .ok_or_else(|| StoreError::from(Refusal::NoStore))?;
        let erasure = transfer::erasure_keys_of_export(open().await?).await?;
        let secret = once::secret(config, &found.0, &found.1, &[erasure]).await?;
        let kv = Arc::new(SqliteKv::open(config.database()).await?);
        let keys = StoreKeys::derive(&secret);
        let done = transfer::import(open().await?, kv, &config.journal(), keys).await;
        if done.is_err() {
            // What was begun is no store; nothing was there before.
            std::fs::remove_file(config.database())?;
        }
        let imported = done?;
        let detail = format!("{} records at revision {}", imported.records, imported.position.revision);
        if is_there(&config.audit_dir())? {
            // A start holds the store against it.
            let event = (Action::StoreImport, Outcome::Ok);
            record::<MaintainError>(config, imported.deployment, event, &detail, None).await?;
            return Ok(imported);
        }
        let (log, _) = FileLog::open(settings::audit(config, true), imported.deployment)?;
        let kv = Arc::new(open_store(config).await?);
        let keys = StoreKeys::derive(&secret);
        let (records, _) = Records::open(kv, &config.journal(), imported.deployment, keys, None).await?;
        let position = bind_anew(&records, &log, Action::StoreImport, &detail).await?;
        log.close()?;
        Ok(Exported { position, ..imported })
    })
}

/// Binds a store to a log that does not have what it has seen, and records that, with what is known of changes
/// that have no record.
async fn bind_anew(
    records: &Records,
    log: &Arc<FileLog>,
    action: Action,
    detail: &str,
) -> Result<StoreChange, MaintainError> {
    let bound = bond::accept(records, log, action).await?;
    let mut record = Pending::begin(log.clone(), None, action, "", 0);
    record.detail(detail);
    record.change(audit::StoreChange { revision: bound.revision, digest: bound.digest });
    record.finish(Outcome::Ok)?.await?;
    records.recorded(&[bound.revision]);
    bond::tell(&records.unrecorded(), log).await?;
    Ok(bound)
}

/// Verifies every record of store and journal, and compares what was decided with what is there, while no daemon
/// runs.
///
/// # Errors
/// [`MaintainError`] when that is not possible; what is wrong stands in the report.
pub fn check(_: &Idle, config: &Config) -> Result<CheckReport, MaintainError> {
    block_on(async {
        let (_, secret) = secret(config).await?;
        let keys = Arc::new(StoreKeys::derive(&secret));
        match open_store(config).await {
            Ok(kv) => {
                let mut report = check::check(&kv, &config.journal(), keys.clone()).await?;
                // Records that are not all there say nothing of what was decided.
                if report.is_whole() {
                    report.decided = check::decided(&kv, keys).await?;
                }
                Ok(report)
            }
            // Nothing of it is read; what it holds is what is wrong with it.
            Err(MaintainError::Store(StoreError::Kv(foreign @ KvError::Foreign(_)))) => {
                Ok(check::check_journal(&config.journal(), keys, foreign.to_string()).await?)
            }
            Err(error) => Err(error),
        }
    })
}

/// Rebuilds the store from the journal, or the journal from the store, whichever is whole.
///
/// # Errors
/// [`MaintainError`] when neither is whole, or the daemon runs.
pub fn repair(config: &Config) -> Result<RepairReport, MaintainError> {
    let _lock = StateLock::take(&config.state_dir)?;
    block_on(async {
        let (root, secret) = secret(config).await?;
        let repaired =
            repair::repair(&config.database(), &config.journal(), root.deployment, &secret).await?;
        if !repaired.notes.is_empty() {
            record::<MaintainError>(
                config,
                root.deployment,
                (Action::StoreRepair, Outcome::Ok),
                &repaired.notes.join("; "),
                None,
            )
            .await?;
        }
        Ok(repaired)
    })
}

/// Accepts that store and audit log do not belong together: the store is older than the log or has another history,
/// because a backup was restored on purpose, and what was changed since is lost; or the log, or its checkpoints, are
/// older than the store, and what they told is lost. From then on the store is bound to the log that is there.
///
/// # Errors
/// [`MaintainError`] when store and journal do not even fit each other.
pub fn accept_rollback(config: &Config) -> Result<StoreChange, MaintainError> {
    let _lock = StateLock::take(&config.state_dir)?;
    block_on(async {
        let (root, secret) = secret(config).await?;
        let (log, opened) = FileLog::open(settings::audit(config, false), root.deployment)?;
        let known = opened.last_change;
        let anchor = known.map(|known| StoreChange { revision: known.revision, digest: known.digest });
        let kv = Arc::new(open_store(config).await?);
        let (keys, journal) = (StoreKeys::derive(&secret), config.journal());
        let (records, _) = match anchor {
            Some(anchor) => {
                Records::open_accepting_rollback(kv, &journal, root.deployment, keys, anchor).await?
            }
            None => Records::open(kv, &journal, root.deployment, keys, None).await?,
        };
        let (accepted, seen) = (records.position(), records.log_seen().sequence);
        if anchor.is_none() && seen == 0 {
            return Err(MaintainError::NothingToAccept);
        }
        let doomed = destroyed_since(config, &records).await?;
        let again =
            destroy_again(&records, &doomed).await.map_err(|error| MaintainError::Again(error.into()))?;
        let detail = format!(
            "from revision {} to {}; {again} of {} destructions since then are done again; the store had seen {seen} records of the log, which had {}",
            anchor.map_or(0, |anchor| anchor.revision),
            accepted.revision,
            doomed.len(),
            opened.last_sequence
        );
        // Last: whatever was planned again is told behind it, in the history that begins here.
        let position = bind_anew(&records, &log, history::ACCEPTED, &detail).await?;
        log.close()?;
        Ok(position)
    })
}

/// The names of what the audit log knows to be destroyed since the store was as it is.
async fn destroyed_since(config: &Config, records: &Records) -> Result<Vec<String>, MaintainError> {
    let failed = |error: audit::VerifyError| MaintainError::Unreadable(error.to_string());
    let StoreChange { revision, digest } = records.position();
    let exports = records.complete::<Export>().await?.into_rows();
    let newest = exports.iter().max_by_key(|(_, stored)| stored.record.created);
    let store = PutBack {
        position: audit::StoreChange { revision, digest },
        export: newest.map(|(path, _)| format!("backups/{}", path.id)),
    };
    let mut history = History::of(&store);
    for item in audit::verify::read(&config.audit_dir()).map_err(failed)? {
        let (sequence, record) = item.map_err(failed)?;
        history.see(sequence, record);
    }
    Ok(history.destroyed_since())
}

/// What the store says that the audit log had at its newest change, unverified; `None` without a store that says so.
///
/// # Errors
/// [`MaintainError`] when the store cannot be read.
pub async fn log_seen(config: &Config) -> Result<Option<LogPoint>, MaintainError> {
    if !is_there(&config.database())? {
        return Ok(None);
    }
    Ok(store::log_seen(&open_store(config).await?).await?)
}

/// Whether store and journal have the revision, by what they say themselves.
///
/// # Errors
/// [`MaintainError`] when they cannot be read.
pub async fn has_revision(config: &Config, revision: u64) -> Result<bool, MaintainError> {
    let kv = open_store(config).await?;
    Ok(store::newest_revision(&kv, &config.journal(), revision).await? >= revision)
}

/// The keys of the audit log as they stand in the store, which is not verified.
///
/// # Errors
/// [`MaintainError`] when the store cannot be read.
pub async fn audit_keys(config: &Config) -> Result<Vec<NoteKey>, MaintainError> {
    let kv = open_store(config).await?;
    let Some((root, _)) = store::bootstrap(&kv).await? else { return Ok(Vec::new()) };
    let keys = store::signing_keys(&kv, SigningPurpose::Audit).await?;
    Ok(keys.into_iter().map(|record| NoteKey::new(root.deployment, record.key.public)).collect())
}

/// The root and the open secret, from the store or, when that is lost, from the journal.
async fn secret(config: &Config) -> Result<(Root, Key256), MaintainError> {
    let (root, sealed) = first_records(config).await?.ok_or_else(|| StoreError::from(Refusal::NoStore))?;
    let secret = once::secret(config, &root, &sealed, &erasure_keys(config).await).await?;
    Ok((root, secret))
}

/// The erasure keys of the store and of the journal, as far as they can be read.
async fn erasure_keys(config: &Config) -> Vec<ErasureList> {
    let mut copies = Vec::new();
    if let Ok(kv) = open_store(config).await {
        copies.extend(store::erasure_keys(&kv).await.ok());
    }
    copies.extend(repair::erasure_keys_of_journal(&config.journal()).await.ok());
    copies
}

async fn first_records(config: &Config) -> Result<Option<(Root, SystemSecret)>, MaintainError> {
    if is_there(&config.database())? {
        let found = match SqliteKv::open_current(config.database()).await {
            Ok(kv) => store::bootstrap(&kv).await,
            Err(error) => Err(error.into()),
        };
        match found {
            Ok(Some(found)) => return Ok(Some(found)),
            // A damaged store: the journal has both too.
            Ok(None)
            | Err(
                StoreError::Tampered { .. }
                | StoreError::Incomplete { .. }
                | StoreError::Kv(KvError::Damaged(_) | KvError::Foreign(_)),
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(repair::bootstrap_journal(&config.journal()).await?)
}

async fn open_store(config: &Config) -> Result<SqliteKv, MaintainError> {
    match is_there(&config.database())? {
        true => Ok(SqliteKv::open_current(config.database()).await?),
        false => Err(no_store(config)?.into()),
    }
}

/// Why there is no database: it is lost, or there was never one.
fn no_store(config: &Config) -> Result<StoreError, MaintainError> {
    let journal = config.journal();
    Ok(match is_there(&journal)? {
        true => Refusal::StoreLost(journal.display().to_string()).into(),
        false => Refusal::NoStore.into(),
    })
}

/// Whether something is there. Where this user may not look, that is not known.
fn is_there(path: &Path) -> Result<bool, MaintainError> {
    path.try_exists().map_err(|error| MaintainError::File(path.display().to_string(), error))
}

/// One record about what was done by hand, while no daemon runs.
pub(crate) async fn record<E: From<OpenError> + From<AuditError>>(
    config: &Config,
    deployment: DeploymentId,
    (action, outcome): (Action, Outcome),
    detail: &str,
    change: Option<StoreChange>,
) -> Result<(), E> {
    let dir = config.audit_dir();
    let missing = !dir.try_exists().map_err(|source| OpenError::Io { path: dir, source })?;
    let (log, _) = FileLog::open(settings::audit(config, missing), deployment)?;
    let mut pending = Pending::begin(log.clone(), None, action, "", 0);
    pending.detail(detail);
    if let Some(change) = change {
        pending.change(audit::StoreChange { revision: change.revision, digest: change.digest });
    }
    pending.finish(outcome)?.await?;
    Ok(log.close()?)
}

fn block_on<T>(work: impl Future<Output = Result<T, MaintainError>>) -> Result<T, MaintainError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
