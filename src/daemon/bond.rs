//! The bond between store and audit log: neither goes back behind the other, and no change stays without a record.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::access::Action;
use crate::audit::file::Creditor;
use crate::audit::{AuditError, AuditLog, FileLog, Outcome, Record, StoreChange};
use crate::audit::{TreeError, VerifyError};
use crate::clock::Date;
use crate::ops::Error;
use crate::store::{self, Cause, Changes, Intent, LogPoint, Records, StoreError, Witness};

/// How long after its change a call that has ended may leave it without a record: its record is queued, or will
/// never be.
const GRACE: Duration = Duration::from_millis(500);

/// How long other work may take from its change to its record, before the daemon tells of the change.
const OVERDUE: Duration = Duration::from_secs(60);

/// Why store and log do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum BondError {
    /// The log does not have a record that the store has seen.
    #[error(
        "the audit log is older than the store, or another one: the store has seen record {sequence}, and the log {}; put the log back that belongs to the store, or accept this one with `as_keyward store accept-rollback`",
        has(*.newest)
    )]
    Log {
        /// The record.
        sequence: u64,
        /// The newest record of the log.
        newest: u64,
    },
    /// The log has no checkpoint that the store has seen.
    #[error(
        "the checkpoints of the audit log are older than the store, or others: the store has seen one over {size} records; put `checkpoints` and `checkpoint` back, or accept these with `as_keyward store accept-rollback`"
    )]
    Checkpoint {
        /// Records that it covered.
        size: u64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Unreadable(#[from] VerifyError),
    /// The log cannot be read.
    #[error("the audit log: {0}")]
    Io(#[from] std::io::Error),
    /// The tree over the log cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

fn has(newest: u64) -> String {
    match newest {
        0 => "has no records".to_owned(),
        newest => format!("has another one there, or ends with {newest}"),
    }
}

/// What the store wants to know of the log. It does not keep the log open.
struct Seen(Weak<FileLog>);

impl Witness for Seen {
    fn newest(&self) -> Option<LogPoint> {
        let log = self.0.upgrade()?;
        let (sequence, chain) = log.newest();
        let head = log.checkpoint().map(|note| note.checkpoint.head);
        let (tree_size, tree_root) = head.map_or((0, [0; 32]), |head| (head.size, head.root));
        Some(LogPoint { sequence, chain: chain.0, tree_size, tree_root })
    }
}

/// What the log wants to know of the store.
struct Owed(Records);

impl Creditor for Owed {
    fn paid(&self, revisions: &[u64]) {
        self.0.recorded(revisions);
    }

    fn owed(&self) -> Vec<Record> {
        // The log was broken until now. A call that is under way may still make its record: then two tell of it.
        self.0.unrecorded().iter().map(record_of).collect()
    }
}

fn record_of(intent: &Intent) -> Record {
    let change = StoreChange { revision: intent.revision, digest: intent.digest };
    own(Action::ChangeRecovered, intent.resource.clone(), change, words(intent))
}

fn own(action: Action, resource: String, change: StoreChange, detail: String) -> Record {
    Record {
        time: Date::now(),
        request_id: 0,
        caller: None,
        operation: action.word().to_owned(),
        resource,
        outcome: Outcome::Ok,
        policy: String::new(),
        latency_us: 0,
        items: None,
        change: Some(change),
        detail: Some(detail),
    }
}

fn words(intent: &Intent) -> String {
    let who = match (&intent.principal, intent.uid) {
        (Some(principal), Some(uid)) => format!("principal {principal} (uid {uid})"),
        (None, Some(uid)) => format!("uid {uid}"),
        _ => "the daemon itself".to_owned(),
    };
    format!("{} by {who}: the change is in force, and no record of its own was durable", intent.operation)
}

/// Holds a store that was just opened against the log, and binds the two from then on.
///
/// # Errors
/// [`BondError`] when the log does not have what the store has seen.
pub(super) fn bind(records: &Records, log: &Arc<FileLog>) -> Result<(), BondError> {
    compare(&records.log_seen(), log)?;
    settle(records, log)?;
    log.owes(Arc::new(Owed(records.clone())));
    records.follow_log(Arc::new(Seen(Arc::downgrade(log))));
    Ok(())
}

/// Takes off the list what the log tells of.
fn settle(records: &Records, log: &FileLog) -> Result<(), VerifyError> {
    let listed = records.unrecorded();
    if listed.is_empty() {
        return Ok(());
    }
    // One before what the store had seen: that record may have been the one that was not taken off yet.
    let told = log.told_since(records.log_found().saturating_sub(1))?;
    let known = |intent: &&Intent| told.contains(&(intent.revision, intent.digest));
    records.recorded(&listed.iter().filter(known).map(|intent| intent.revision).collect::<Vec<_>>());
    Ok(())
}

/// Tells of each change whose record is missing, and then where the store stands: from the first such record on, each
/// change has one. Answers how many were missing.
///
/// # Errors
/// [`AuditError`] when the log does not take records now.
pub(super) async fn tell_missing(records: &Records, log: &Arc<FileLog>) -> Result<usize, AuditError> {
    let missing = records.unrecorded();
    tell(&missing, log).await?;
    let store::StoreChange { revision, digest } = records.position();
    let detail = format!("revision {revision}; changes whose record was missing: {}", missing.len());
    let opened = own(Action::StoreOpened, String::new(), StoreChange { revision, digest }, detail);
    log.submit(opened)?.await?;
    Ok(missing.len())
}

/// Binds a store to a log that does not have what it has seen, by a change that says only that. The caller records
/// it as the same action.
///
/// # Errors
/// When the store does not take the change.
pub(super) async fn accept(
    records: &Records,
    log: &Arc<FileLog>,
    action: Action,
) -> Result<store::StoreChange, StoreError> {
    records.follow_log(Arc::new(Seen(Arc::downgrade(log))));
    let mut changes = Changes::new();
    changes.because(Cause::own(action.word(), ""));
    records.commit(changes).await
}

fn compare(seen: &LogPoint, log: &FileLog) -> Result<(), BondError> {
    let LogPoint { sequence, chain, tree_size, tree_root } = *seen;
    if sequence > 0 && log.chain_at(sequence)?.map(|found| found.0) != Some(chain) {
        return Err(BondError::Log { sequence, newest: log.newest().0 });
    }
    let newest = log.checkpoint().map_or(0, |note| note.checkpoint.head.size);
    let same = tree_size == 0 || (newest >= tree_size && log.tree().head(tree_size)?.root == tree_root);
    if same { Ok(()) } else { Err(BondError::Checkpoint { size: tree_size }) }
}

/// Writes the records of changes that have none.
///
/// # Errors
/// [`AuditError`] when the log does not take records now.
pub(super) async fn tell(missing: &[Intent], log: &Arc<FileLog>) -> Result<(), AuditError> {
    for intent in missing {
        log.submit(record_of(intent))?.await?;
        tracing::warn!(
            revision = intent.revision,
            operation = intent.operation,
            resource = intent.resource,
            "a change had no record of its own: it is on record now"
        );
    }
    Ok(())
}

/// Brings the store to the end of its journal, with everything that is kept of it in memory.
pub(super) type Settle = Box<dyn Fn() -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// Runs until it is dropped: tells of changes whose call went away before it could.
pub(super) async fn tell_overdue(records: Records, log: Weak<FileLog>, settle: Settle) {
    let mut look = tokio::time::interval(GRACE);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut said = None;
    loop {
        look.tick().await;
        let overdue = records.overdue(GRACE, OVERDUE);
        let Some(log) = log.upgrade() else { return };
        if overdue.is_empty() {
            continue;
        }
        // The change may stand in the journal only, where the store's file was held: what is on record is in force.
        if let Err(error) = settle().await {
            let reason = error.to_string();
            // Once, and not twice a second for as long as a disk is full.
            if said.as_ref() != Some(&reason) {
                tracing::warn!(
                    reason,
                    "a change that may have been made is not finished yet; it is tried again"
                );
                said = Some(reason);
            }
            continue;
        }
        said = None;
        // While the log is broken nothing is told; it asks for what it is owed when it goes on.
        if let Err(error) = tell(&overdue, &log).await {
            tracing::debug!(%error, "overdue records wait");
        }
    }
}

#[cfg(test)]
mod tests;
