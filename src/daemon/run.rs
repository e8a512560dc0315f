//! The daemon from start to stop.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes;

use tonic_health::pb::health_server::Health;

use super::admission::{Door, Places};
use super::check::{self, Checked};
use super::lock::{self, LockError, StateLock};
use super::logging::Levels;
use super::reload::{Current, Parts};
use super::stop::Deadline;
use super::unlock::{Locked, UnlockError};
use super::{bond, hardening, listen, logging, schedule, settings, state, stop, transport};
use crate::access::Action;
use crate::access::Policy;
use crate::access::policy::PolicyError;
use crate::audit::refusals::Budget;
use crate::audit::{self, FileLog, Outcome, Pending};
use crate::clock;
use crate::config::{Config, CustodyMode};
use crate::hsm::pin::PinError;
use crate::hsm::process::{self, HsmGroup};
use crate::hsm::{Hsm, Status};
use crate::keyring::record::{Custody, Root};
use crate::modes::Untrusted;
use crate::ops::schedule::Node;
use crate::rpc::admission::Admission;
use crate::rpc::call::Gate;
use crate::rpc::{ceremonies, reload, services};
use crate::store::kv::KvError;
use crate::store::{self, Refusal, SqliteKv, StoreChange, StoreError};

/// Why the daemon did not start, or did not stop well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another process owns the state directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Others may write what everything rests on.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The principals cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// `hsm.token` is not one.
    #[error(transparent)]
    Token(#[from] settings::TokenError),
    /// There is no store yet.
    #[error("{0} has no store: run `as_keyward init --backup-key FILE` first")]
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
    /// There is no PIN.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The PKCS#11 library is not there.
    #[error("hsm.module: {0}: {1}")]
    Module(String, #[source] std::io::Error),
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
    let levels = logging::start(&config.log);
    let runtime = transport::runtime()?;
    let outcome = runtime.block_on(serve(config, levels));
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
    made: Option<listen::Made>,
}

async fn serve(config: &Config, levels: Levels) -> Result<(), RunError> {
    // From here on it ends nothing.
    let hangup = signal(SignalKind::hangup())?;
    // First: not even the lock is worth anything in a folder of somebody else.
    lock::check_owner(&config.state_dir)?;
    settings::check_hands(config, false)?;
    let lock = StateLock::take(&config.state_dir)?;
    let daemon = rustix::process::geteuid().as_raw();
    let (principals, Checked { faults, warnings }) = check::principals(config, Some(daemon));
    faults.into_iter().next().map_or(Ok(()), Err)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let policy = Arc::new(Policy::new(principals));
    let hsm_settings = settings::hsm(config)?;
    let node = node(&lock)?;
    let vault_settings = settings::vault(config, node)?;
    if !config.database().try_exists()? {
        return Err(no_store(config)?);
    }
    // A store of an older format is copied first, however large it is.
    let telling = tokio::spawn(stop::extend_timeout());
    let kv = SqliteKv::open(config.database()).await.map(Arc::new);
    telling.abort();
    let kv = kv?;
    let (root, secret) = match store::bootstrap(&*kv).await? {
        Some(found) => found,
        None => return Err(no_store(config)?),
    };
    check_custody(config, &root)?;
    let (audit, opened) = FileLog::open(settings::audit(config, false), root.deployment)?;
    tell_opened(&opened);
    let (listener, made) = listen::listen(&config.server)?;
    let hsm = process::start(hsm_settings, Some(root.canary.clone()));
    let (waiting, waiting_for) = watch::channel("the daemon has just started".to_owned());
    let refusals = Budget::of(config.limits.refusals_per_second);
    let (reloads, reloading) = reload::ends(config.digest);
    let gate = Gate::new(policy.clone(), audit.clone(), hsm.clone(), waiting_for, refusals, reloads)?;
    gate.turned_away.keep();
    let health = services::health();
    let served = services::services(&gate, &health, &config.limits)
        .map_err(|error| RunError::Descriptors(error.to_string()))?;
    services::report_health(&health.reporter, false).await;
    let digest = hex::encode(config.digest);
    record(
        &audit,
        Action::Start,
        &format!("keyward {}, configuration sha256 {digest}", env!("CARGO_PKG_VERSION")),
    )?;
    let (places, admission) = (Places::new(&config.server), Admission::new(gate.clone(), served));
    let door = (places.clone(), admission.clone());
    let reporter = health.reporter.clone();
    let parts = Parts { gate: gate.clone(), audit: audit.clone(), admission, health, places, levels };
    let current =
        Current::new(config, (node, root.custody), vault_settings.clone(), parts, reloading.in_force.clone());
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
    let unlocking = tokio::spawn(unlock(locked, gate.clone(), waiting, current.clone()));
    tokio::spawn(state::tell(gate.clone(), unlocking));
    tokio::spawn(services::follow_health(gate.clone(), reporter));
    tokio::spawn(current.follow(reloading, hangup));
    let open = Open { _lock: lock, audit, hsm, gate, watcher, made };
    serve_until_told(config, open, listener, door).await
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
fn no_store(config: &Config) -> std::io::Result<RunError> {
    let journal = config.journal();
    Ok(match journal.try_exists()? {
        true => StoreError::from(Refusal::StoreLost(journal.display().to_string())).into(),
        false => RunError::NotInitialised(config.state_dir.display().to_string()),
    })
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

async fn unlock<H: Health>(
    locked: Locked,
    gate: Arc<Gate>,
    waiting: watch::Sender<String>,
    current: Arc<Current<H>>,
) {
    let log = Arc::downgrade(&locked.audit);
    match locked.open(&waiting).await {
        Ok(Some(vault)) => {
            let unfinished = vault.unfinished_rotations().await;
            let ceremonies = vault.unfinished_ceremonies().await;
            tokio::spawn(vault.clone().watch_over_keys());
            tokio::spawn(vault.clone().keep_journal_short());
            let settling = vault.clone();
            let settle = move || -> BoxFuture<'static, _> {
                let vault = settling.clone();
                Box::pin(async move { vault.settle().await })
            };
            tokio::spawn(bond::tell_overdue(vault.records().clone(), log, Box::new(settle)));
            tokio::spawn(vault.clone().keep_checkpoints());
            current.opened(vault.clone());
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

/// Stays up and says why: a restart would not mend it.
fn refuse(error: &UnlockError, waiting: &watch::Sender<String>) {
    tracing::error!(%error, "the vault stays closed");
    waiting.send_replace(error.to_string());
}

/// One log line and one record for each change of the HSM connection.
async fn watch_hsm(mut status: watch::Receiver<Status>, audit: Arc<FileLog>) {
    let mut told = String::new();
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        let detail = match &now {
            Status::Starting => "starting".to_owned(),
            Status::Ready { epoch, token } => {
                format!("ready: connection {epoch}, token {} serial {}", token.label, token.serial)
            }
            Status::Down { reason } => format!("down: {reason}"),
            Status::Refused { reason } => format!("refused: {reason}"),
        };
        // What is tried again in vain is no change.
        if detail == told {
            continue;
        }
        told.clone_from(&detail);
        match &now {
            Status::Starting => {}
            Status::Ready { epoch, token } => {
                tracing::info!(epoch, token = token.label, serial = token.serial, "HSM ready");
            }
            Status::Down { reason } => tracing::warn!("HSM down: {reason}"),
            Status::Refused { reason } => tracing::error!("HSM refused: {reason}"),
        }
        if let Err(error) = record(&audit, Action::HsmState, &detail) {
            tracing::error!(%error, "cannot record the state of the HSM");
        }
    }
}

/// A record of the daemon's own.
fn record(audit: &Arc<FileLog>, action: Action, detail: &str) -> Result<(), audit::AuditError> {
    let mut record = Pending::begin(audit.clone(), None, action, "", 0);
    record.detail(detail);
    record.finish(Outcome::Ok).map(drop)
}

/// Serves until a signal comes, and stops then.
async fn serve_until_told(
    config: &Config,
    open: Open,
    listener: UnixListener,
    (places, admission): (Arc<Places>, Admission),
) -> Result<(), RunError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // The senders live until the end of this function.
    let (tell, mut told) = watch::channel(false);
    let (close, closed) = watch::channel(false);
    let incoming = Door::new(open.gate.clone(), places, closed).incoming(listener);
    let none = Routes::default();
    let server = transport::server().layer(admission).add_routes(none).serve_with_incoming_shutdown(
        incoming,
        async move {
            told.wait_for(|told| *told).await.map(drop).ok();
        },
    );
    // A task, so that it accepts nothing more and closes what is idle while calls are waited for.
    let mut server = tokio::spawn(server);
    let early = tokio::select! {
        ended = &mut server => Some(stop::served(ended)),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let deadline = Deadline::new(config.server.shutdown_grace.0);
    let telling = tokio::spawn(stop::tell_systemd(deadline));
    tracing::info!("keywardd stops: calls in flight are finished");
    // Calls are refused first, so that none begins on a connection that is being closed.
    open.gate.shut();
    tell.send_replace(true);
    let served = match early {
        Some(ended) => ended,
        None => stop::drain(&open.gate, server, &close, deadline).await,
    };
    let Open { _lock, audit, hsm, gate, watcher, made } = open;
    // That the HSM goes now is no news.
    watcher.abort();
    let finished = stop::finish(&gate, &hsm, audit, deadline).await;
    if let Some(socket) = made {
        socket.remove();
    }
    telling.abort();
    finished?;
    tracing::info!("keywardd has stopped");
    served
}

/// Tells systemd; without systemd there is nobody to tell.
pub(super) fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
