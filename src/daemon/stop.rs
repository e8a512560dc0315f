//! The end of the daemon. One deadline is computed when the signal comes, and everything works against it:
//! calls in flight, their records, the last checkpoint, the HSM, the log.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::run::RunError;
use crate::access::Action;
use crate::audit::{AuditError, Committed, FileLog, Outcome, Pending};
use crate::hsm::process::HsmGroup;
use crate::rpc::call::Gate;

/// How long an answer that was written may take to be read, when nothing else is waited for.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// The longest grace that can be reckoned with.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often systemd is told that the stop goes on.
const TELL: Duration = Duration::from_secs(1);
/// How long systemd waits after the last word.
const PATIENCE: Duration = Duration::from_secs(10);

/// When each part of a stop must be over. Each part may take what those before it left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    began: Instant,
    grace: Duration,
}

impl Deadline {
    /// The deadline of a stop that begins now and is over after `grace`, or after a year.
    pub(super) fn new(grace: Duration) -> Self {
        Self { began: Instant::now(), grace: grace.min(LONGEST) }
    }

    /// Calls in flight have three quarters of it.
    fn calls(self) -> Instant {
        self.after(12)
    }

    /// Then connections are closed,
    fn connections(self) -> Instant {
        self.after(13)
    }

    /// the last records are written,
    fn records(self) -> Instant {
        self.after(14)
    }

    /// the HSM signs the last checkpoint,
    fn checkpoint(self) -> Instant {
        self.after(15)
    }

    /// and its processes end.
    fn end(self) -> Instant {
        self.after(16)
    }

    fn after(self, sixteenths: u32) -> Instant {
        self.began + self.grace / 16 * sixteenths
    }
}

/// A server that runs in a task of its own.
pub(super) type Server = JoinHandle<Result<(), tonic::transport::Error>>;

/// How a server that has ended did.
///
/// # Errors
/// [`RunError`] when it failed.
pub(super) fn served(
    ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> Result<(), RunError> {
    Ok(ended.map_err(std::io::Error::other)??)
}

/// Lets calls in flight finish, after [`Gate::shut`], and ends what does not in time: streams with an error and
/// their record, then connections. When it returns no client is connected, whatever it does.
///
/// # Errors
/// [`RunError`] when the server failed.
pub(super) async fn drain(
    gate: &Gate,
    mut server: Server,
    close: &watch::Sender<bool>,
    deadline: Deadline,
) -> Result<(), RunError> {
    if timeout_at(deadline.calls(), gate.idle()).await.is_err() {
        tracing::warn!("some calls did not end in time and are cut");
    }
    gate.cut();
    // What was answered is on its way. A client that does not read it, or only holds its connection, is not
    // waited for.
    let read_by = deadline.connections().min(Instant::now() + READ_WITHIN);
    let ended = match timeout_at(read_by, &mut server).await {
        Ok(ended) => served(ended),
        Err(_) => Ok(()),
    };
    close.send_replace(true);
    if timeout_at(deadline.records(), gate.idle()).await.is_err() {
        tracing::warn!("some work did not end in time; it is resumed at the next start");
    }
    ended
}

/// Records the stop, signs the last checkpoint, ends the HSM processes and closes the log.
///
/// # Errors
/// [`AuditError`] when the log does not take its last records. The rest is done all the same.
pub(super) async fn finish(
    gate: &Gate,
    hsm: &HsmGroup,
    audit: Arc<FileLog>,
    deadline: Deadline,
) -> Result<(), AuditError> {
    // Who was turned away in the last second.
    if timeout_at(deadline.records(), gate.turned_away.write()).await.is_err() {
        tracing::warn!("the last callers who were turned away are not on record");
    }
    let stopped = last_record(&audit, deadline).await;
    if let Ok(stopped) = &stopped {
        last_checkpoint(gate, stopped.sequence(), deadline).await;
    }
    // Never without a moment of its own: a process that is killed while it logs in costs a software token.
    let ended_by = deadline.end().max(Instant::now() + READ_WITHIN);
    if !timeout_at(ended_by, hsm.shutdown()).await.unwrap_or(false) {
        tracing::warn!("a call still hung in a PKCS#11 module; its process was ended");
    }
    // Waits for the disk, so in a thread; a disk that hangs must not hold the process longer than systemd does.
    let closed = tokio::task::spawn_blocking(move || audit.close());
    let closed = timeout_at(ended_by + READ_WITHIN, closed).await;
    stopped?;
    match closed {
        Ok(Ok(closed)) => closed,
        Ok(Err(_)) | Err(_) => Err(AuditError::Unwritable("it did not close in time".to_owned())),
    }
}

async fn last_record(audit: &Arc<FileLog>, deadline: Deadline) -> Result<Committed, AuditError> {
    let mut last = Pending::begin(audit.clone(), None, Action::Stop, "", 0);
    last.detail("");
    let written = last.finish(Outcome::Ok)?;
    let late = |_| AuditError::Unwritable("the disk did not take the last record in time".to_owned());
    timeout_at(deadline.checkpoint(), written).await.map_err(late)?
}

/// Covers everything to the end.
async fn last_checkpoint(gate: &Gate, sequence: u64, deadline: Deadline) {
    let Some(vault) = gate.vault.get() else { return };
    match timeout_at(deadline.checkpoint(), vault.checkpoint(sequence)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the last records have no checkpoint"),
        Err(_) => tracing::warn!("the last records have no checkpoint: the HSM did not sign in time"),
    }
}

/// Tells systemd that the daemon stops, and until the deadline is over that it goes on: a grace longer than
/// `TimeoutStopSec` is not cut short. Behind the deadline systemd waits no longer either.
pub(super) async fn tell_systemd(deadline: Deadline) {
    super::run::notify(&[sd_notify::NotifyState::Stopping]);
    // An error says that the time is over.
    timeout_at(deadline.end(), extend_timeout()).await.ok();
}

/// Runs until it is dropped: tells systemd that work goes on.
pub(super) async fn extend_timeout() {
    let patience = u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX);
    let mut tick = tokio::time::interval(TELL);
    loop {
        tick.tick().await;
        super::run::notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(patience)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_time_and_all_fit_the_grace() {
        for grace in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3600)] {
            let deadline = Deadline::new(grace);
            let parts = [
                deadline.began,
                deadline.calls(),
                deadline.connections(),
                deadline.records(),
                deadline.checkpoint(),
                deadline.end(),
            ];
            assert!(parts.is_sorted(), "{parts:?}");
            assert!(deadline.end() <= deadline.began + grace);
            assert!(deadline.calls() - deadline.began >= grace / 16 * 12);
        }
    }
}
