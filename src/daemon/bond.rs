//! The bond between store and audit log: neither goes back behind the other, and no change stays without a record.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::audit::file::Creditor;
use crate::audit::{AuditError, AuditLog, FileLog, Outcome, Pending, Record, StoreChange};
use crate::audit::{TreeError, VerifyError};
use crate::clock::Date;
use crate::store::{Changes, Intent, LogPoint, Records, StoreError, Witness};

/// The audit log's word for a change that is told by another record than its own.
const RECOVERED: &str = "change-recovered";

/// How long a call may take from its change to its record, before the daemon tells of the change.
const OVERDUE: Duration = Duration::from_secs(60);

/// Why store and log do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum BondError {
    /// The log does not have a record that the store has seen.
    #[error(
        "the audit log is older than the store, or another one: the store has seen record {sequence}, and the log {}; put the log back that belongs to the store, or accept this one with `keyward store accept-rollback`",
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
        "the checkpoints of the audit log are older than the store, or others: the store has seen one over {size} records; put `checkpoints` and `checkpoint` back, or accept these with `keyward store accept-rollback`"
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
    /// The log does not take records.
    #[error(transparent)]
    Audit(#[from] AuditError),
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
    fn newest(&self) -> LogPoint {
        let Some(log) = self.0.upgrade() else { return LogPoint::default() };
        let (sequence, chain) = log.newest();
        let head = log.checkpoint().map(|note| note.checkpoint.head);
        let (tree_size, tree_root) = head.map_or((0, [0; 32]), |head| (head.size, head.root));
        LogPoint { sequence, chain: chain.0, tree_size, tree_root }
    }
}

/// What the log wants to know of the store.
struct Owed(Records);

impl Creditor for Owed {
    fn paid(&self, revisions: &[u64]) {
        self.0.recorded(revisions);
    }

    fn owed(&self) -> Vec<Record> {
        // The log was broken until now: no call that is under way has made its record.
        self.0.unrecorded(Duration::ZERO).into_iter().map(record_of).collect()
    }
}

fn record_of(intent: Intent) -> Record {
    Record {
        time: Date::now(),
        request_id: 0,
        caller: None,
        operation: RECOVERED.into(),
        resource: intent.resource.clone(),
        outcome: Outcome::Ok,
        policy: String::new(),
        latency_us: 0,
        items: None,
        change: Some(StoreChange { revision: intent.revision, digest: intent.digest }),
        detail: Some(words(&intent)),
    }
}

fn words(intent: &Intent) -> String {
    let who = match (&intent.principal, intent.uid) {
        (Some(principal), Some(uid)) => format!("principal {principal} (uid {uid})"),
        (None, Some(uid)) => format!("uid {uid}"),
        _ => "the daemon itself".to_owned(),
    };
    format!("{} by {who}: the change was made, and its own record could not be written", intent.operation)
}

/// Holds a store that was just opened against the log, and binds the two from then on. Answers how many
/// changes are told now whose records were missing.
///
/// # Errors
/// [`BondError`] when the log does not have what the store has seen.
pub(super) async fn bind(records: &Records, log: &Arc<FileLog>) -> Result<usize, BondError> {
    compare(&records.log_seen(), log)?;
    let told = log.told_since(records.log_seen().sequence)?;
    records.recorded(&told.into_iter().collect::<Vec<_>>());
    let missing = records.unrecorded(Duration::ZERO);
    log.owes(Arc::new(Owed(records.clone())));
    records.follow_log(Arc::new(Seen(Arc::downgrade(log))));
    tell(&missing, log).await?;
    Ok(missing.len())
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

/// Takes a log that does not have what the store has seen as the one that belongs to it from now on, by a change
/// of nothing else. The caller writes the record about it.
///
/// # Errors
/// When the store does not serve.
pub(super) async fn accept(records: &Records, log: &Arc<FileLog>) -> Result<(), StoreError> {
    if compare(&records.log_seen(), log).is_err() {
        records.follow_log(Arc::new(Seen(Arc::downgrade(log))));
        records.commit(Changes::new()).await?;
    }
    Ok(())
}

async fn tell(missing: &[Intent], log: &Arc<FileLog>) -> Result<(), AuditError> {
    for intent in missing {
        tracing::warn!(
            revision = intent.revision,
            operation = intent.operation,
            resource = intent.resource,
            "a change has no record yet: it is told now"
        );
        let mut record = Pending::begin(log.clone(), None, RECOVERED, intent.resource.clone(), 0);
        record.change(StoreChange { revision: intent.revision, digest: intent.digest });
        record.detail(words(intent));
        record.finish(Outcome::Ok)?.await?;
    }
    Ok(())
}

/// Runs until it is dropped: tells of changes whose call went away before it could.
pub(super) async fn tell_overdue(records: Records, log: Arc<FileLog>) {
    let mut look = tokio::time::interval(OVERDUE / 4);
    loop {
        look.tick().await;
        // While the log is broken nothing is told; it asks for what it is owed when it goes on.
        if let Err(error) = tell(&records.unrecorded(OVERDUE), &log).await {
            tracing::debug!(%error, "overdue records wait");
        }
    }
}
