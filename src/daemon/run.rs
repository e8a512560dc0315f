//! The daemon from start to stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tower::util::MapResponseLayer;

use super::lock::{LockError, StateLock};
use super::unlock::{Locked, UnlockError};
use super::{bond, hardening, listen, logging, schedule, settings, transport};
use crate::access::Policy;
use crate::access::policy::PolicyError;
use crate::audit::{self, FileLog, Outcome, Pending};
use crate::clock;
use crate::config::{Config, CustodyMode};
use crate::hsm::process::{self, HsmGroup};
use crate::hsm::{Hsm, Status};
use crate::keyring::record::{Custody, Root};
use crate::ops::schedule::Node;
use crate::rpc::call::Gate;
use crate::rpc::undecodable::name_undecodable;
use crate::rpc::{ceremonies, services};
use crate::store::kv::KvError;
use crate::store::{self, Records, Refusal, SqliteKv, StoreChange, StoreError};

/// Why the daemon did not start, or did not stop well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another process owns the state directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The principals cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// `hsm.token` is not one.
    #[error(transparent)]
    Token(#[from] settings::TokenError),
    /// There is no store yet.
    #[error("{0} has no store: run `keyward init` first")]
    NotInitialised(String),
    /// The root has no custodians, and the configuration does not say that this is meant.
    #[error(
        "the root key is unfounded: one operator holds its backup key; say `custody = \"operator\"` in the configuration to accept that"
    )]
    Unfounded,
    /// The store cannot be opened.
    #[error("the store: {0}")]
    Kv(#[from] KvError),
    /// The store cannot be read.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    AuditOpen(#[from] audit::file::OpenError),
    /// The audit log does not take records.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// There is no socket.
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    /// A root of attestations cannot be used.
    #[error(transparent)]
    Roots(#[from] settings::RootsError),
    /// The server failed.
    #[error("the server: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// No randomness.
    #[error("the operating system's random generator failed: {0}")]
    Entropy(#[from] getrandom::Error),
    /// The descriptors do not decode.
    #[error("the service descriptors do not decode: {0}")]
    Descriptors(String),
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`RunError`] when it could not start.
pub fn run(config: &Config) -> Result<(), RunError> {
    hardening::harden(config.secret_memory)?;
    logging::start(&config.log);
    let runtime = transport::runtime()?;
    let outcome = runtime.block_on(serve(config));
    // A call that hangs in the vendor library must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

/// What is open while the daemon runs.
struct Open {
    _lock: StateLock,
    audit: Arc<FileLog>,
    hsm: Arc<HsmGroup>,
    gate: Arc<Gate>,
    watcher: JoinHandle<()>,
}

/// Checks of a configuration what can be checked without starting: principals, tokens, and the files of `[login]`.
///
/// # Errors
/// [`RunError`] with what `run` would say, or a login.
pub fn check(config: &Config) -> Result<(), RunError> {
    Policy::new(&config.principals)?;
    settings::hsm(config)?;
    Ok(settings::check_login(&config.login)?)
}

async fn serve(config: &Config) -> Result<(), RunError> {
    let lock = StateLock::take(&config.state_dir)?;
    let policy = Arc::new(Policy::new(&config.principals)?);
    let hsm_settings = settings::hsm(config)?;
    let vault_settings = settings::vault(config, node(&lock)?)?;
    if !config.database().exists() {
        return Err(no_store(config));
    }
    let kv = Arc::new(SqliteKv::open(config.database()).await?);
    let (root, secret) = store::bootstrap(&*kv).await?.ok_or_else(|| no_store(config))?;
    check_custody(config, &root)?;
    let (audit, opened) = FileLog::open(settings::audit(config, false), root.deployment)?;
    tell_opened(&opened);
    let listener = listen::listen(&config.server)?;
    let hsm = process::start(hsm_settings, Some(root.canary.clone()));
    let (waiting, waiting_for) = watch::channel("the daemon has just started".to_owned());
    let gate = Gate::new(policy.clone(), audit.clone(), hsm.clone(), waiting_for)?;
    let (routes, health) = services::services(&gate, &config.limits)
        .map_err(|error| RunError::Descriptors(error.to_string()))?;
    services::report_health(&health, false).await;
    record(&audit, "start", &format!("keyward {}", env!("CARGO_PKG_VERSION")))?;
    let locked = Locked {
        hsm: hsm.clone(),
        kv,
        journal: config.journal(),
        audit: audit.clone(),
        anchor: opened
            .last_change
            .map(|change| StoreChange { revision: change.revision, digest: change.digest }),
        root,
        secret,
        policy,
        settings: vault_settings,
    };
    let watcher = tokio::spawn(watch_hsm(hsm.status(), audit.clone()));
    tokio::spawn(unlock(locked, gate.clone(), waiting, config.audit.checkpoint_interval.0));
    tokio::spawn(services::follow_health(gate.clone(), health));
    let open = Open { _lock: lock, audit, hsm, gate, watcher };
    let served = serve_until_told(config, &open, listener, routes).await;
    stop(config, open).await?;
    served
}

/// Which daemon this is, on which boot of its machine.
fn node(lock: &StateLock) -> std::io::Result<Node> {
    let mut boot = clock::boot_id().unwrap_or_default();
    if boot == [0; 16] {
        // Nobody says which boot it is: then moments of this process fit those of no other, and dates decide.
        getrandom::fill(&mut boot).map_err(std::io::Error::other)?;
    }
    Ok(Node { id: lock.node()?, boot })
}

/// There was never a store, or it is lost.
fn no_store(config: &Config) -> RunError {
    let journal = config.journal();
    match journal.exists() {
        true => StoreError::from(Refusal::StoreLost(journal.display().to_string())).into(),
        false => RunError::NotInitialised(config.state_dir.display().to_string()),
    }
}

fn check_custody(config: &Config, root: &Root) -> Result<(), RunError> {
    match (root.custody, config.custody) {
        (Custody::Unfounded, Some(CustodyMode::Operator)) | (Custody::Founded, _) => Ok(()),
        (Custody::Unfounded, _) => Err(RunError::Unfounded),
    }
}

fn tell_opened(opened: &audit::file::Opened) {
    if opened.torn_bytes > 0 {
        tracing::warn!(bytes = opened.torn_bytes, "cut an unfinished write from the audit log");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        audit_sequence = opened.last_sequence,
        "keywardd starts"
    );
}

async fn unlock(locked: Locked, gate: Arc<Gate>, waiting: watch::Sender<String>, checkpoints: Duration) {
    let log = Arc::downgrade(&locked.audit);
    match locked.open(&waiting).await {
        Ok(Some(vault)) => {
            let unfinished = vault.unfinished_rotations().await;
            let ceremonies = vault.unfinished_ceremonies().await;
            tokio::spawn(vault.clone().watch_over_keys());
            tokio::spawn(keep_journal_short(vault.records().clone()));
            tokio::spawn(bond::tell_overdue(vault.records().clone(), log));
            tokio::spawn(vault.clone().keep_checkpoints(checkpoints));
            if gate.vault.set(vault.clone()).is_err() {
                tracing::error!("the vault was opened twice");
            }
            tracing::info!("the vault is open");
            services::keep_erasure_key(&gate);
            match unfinished {
                Ok(tenants) => tenants.into_iter().for_each(|tenant| services::go_on_rotating(&gate, tenant)),
                Err(error) => tracing::error!(%error, "cannot find the rotations to finish"),
            }
            match ceremonies {
                Ok(ids) => ids.into_iter().for_each(|id| ceremonies::go_on_with_ceremony(&gate, id)),
                Err(error) => tracing::error!(%error, "cannot find the ceremonies to finish"),
            }
            tokio::spawn(schedule::follow_agenda(gate, vault));
        }
        Ok(None) => {}
        Err(error) => refuse(&error, &waiting),
    }
}

/// Compacts the journal when it has grown far beyond what it holds; looks once an hour.
async fn keep_journal_short(records: Records) {
    let mut hourly = tokio::time::interval(Duration::from_secs(3600));
    loop {
        hourly.tick().await;
        match records.compact_if_due().await {
            Ok(None) => {}
            Ok(Some(done)) => tracing::info!(before = done.before, after = done.after, "journal compacted"),
            Err(error) => tracing::error!(%error, "cannot compact the journal"),
        }
    }
}

/// Stays up and says why: a restart would not mend it.
fn refuse(error: &UnlockError, waiting: &watch::Sender<String>) {
    tracing::error!(%error, "the vault stays closed");
    waiting.send_replace(error.to_string());
}

/// One log line and one record for each change of the HSM connection.
async fn watch_hsm(mut status: watch::Receiver<Status>, audit: Arc<FileLog>) {
    while status.changed().await.is_ok() {
        let detail = match &*status.borrow_and_update() {
            Status::Starting => "starting".to_owned(),
            Status::Ready { epoch, token } => {
                tracing::info!(epoch, token = token.label, serial = token.serial, "HSM ready");
                format!("ready: connection {epoch}, token {} serial {}", token.label, token.serial)
            }
            Status::Down { reason } => {
                tracing::warn!(reason, "HSM down");
                format!("down: {reason}")
            }
            Status::Refused { reason } => {
                tracing::error!(reason, "HSM refused");
                format!("refused: {reason}")
            }
        };
        if let Err(error) = record(&audit, "hsm-state", &detail) {
            tracing::error!(%error, "cannot record the state of the HSM");
        }
    }
}

/// A record of the daemon's own.
fn record(audit: &Arc<FileLog>, operation: &'static str, detail: &str) -> Result<(), audit::AuditError> {
    let mut record = Pending::begin(audit.clone(), None, operation, "", 0);
    record.detail(detail);
    record.finish(Outcome::Ok).map(drop)
}

async fn serve_until_told(
    config: &Config,
    open: &Open,
    listener: UnixListener,
    routes: Routes,
) -> Result<(), RunError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, mut stopped) = watch::channel(false);
    let incoming = transport::incoming(listener);
    let named = MapResponseLayer::new(name_undecodable);
    let server = transport::server().layer(named).add_routes(routes).serve_with_incoming_shutdown(
        incoming,
        async move {
            // The sender lives until the end of this function.
            stopped.wait_for(|stop| *stop).await.map(drop).ok();
        },
    );
    tokio::pin!(server);
    notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("keywardd stops: calls in flight are finished");
    open.gate.shut();
    stop.send_replace(true);
    match tokio::time::timeout(config.server.shutdown_grace.0, server).await {
        Ok(ended) => Ok(ended?),
        Err(_) => {
            tracing::warn!("some calls did not end in time");
            Ok(())
        }
    }
}

async fn stop(config: &Config, open: Open) -> Result<(), RunError> {
    let Open { _lock, audit, hsm, gate, watcher } = open;
    gate.shut();
    if tokio::time::timeout(config.server.shutdown_grace.0, gate.idle()).await.is_err() {
        tracing::warn!("some work did not end in time; it is resumed at the next start");
    }
    // That the HSM goes now is no news.
    watcher.abort();
    let mut last = Pending::begin(audit.clone(), None, "stop", "", 0);
    last.detail("");
    let stopped = last.finish(Outcome::Ok)?.await?;
    last_checkpoint(config, &gate, stopped.sequence()).await;
    if !hsm.shutdown().await {
        tracing::warn!("a call still hung in a PKCS#11 module; its process was ended");
    }
    audit.close()?;
    listen::remove(&config.server, listen::was_passed());
    tracing::info!("keywardd has stopped");
    Ok(())
}

/// Covers everything to the end; the HSM is given as long as the calls were.
async fn last_checkpoint(config: &Config, gate: &Gate, sequence: u64) {
    let Some(vault) = gate.vault.get() else { return };
    match tokio::time::timeout(config.server.shutdown_grace.0, vault.checkpoint(sequence)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the last records have no checkpoint"),
        Err(_) => tracing::warn!("the last records have no checkpoint: the HSM did not sign in time"),
    }
}

/// Tells systemd; without systemd there is nobody to tell.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
