//! What binds the store to the audit log: each change says what the log had, and what the log is still to say.
//!
//! ```text
//! commit   what the log has + changes without a record + this one  ─ into the journal's entry and the meta row
//! record   of a change is durable                                  ─ it is taken off the list
//! start    the log must have what the newest change saw; what is on the list and not in the log is recorded now
//! ```
//!
//! So a log that was put back is missed by the store, as an old store is by the log, and no change is in force
//! of which the log never tells.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::meta::{Intent, LogState, StoreChange};
use super::records::Records;
use crate::clock::Moment;

/// On whose word a change is made, and what the audit log calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The operation.
    pub operation: String,
    /// What it is about.
    pub resource: String,
    /// Who asked for it; nobody for what the daemon does by itself.
    pub principal: Option<String>,
    /// The user id of who asked.
    pub uid: Option<u32>,
}

/// The newest durable record of the audit log, and its newest checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogPoint {
    /// Sequence number of the record; 0 for none.
    pub sequence: u64,
    /// Chain hash of the record.
    pub chain: [u8; 32],
    /// Records that the newest checkpoint covers; 0 without one.
    pub tree_size: u64,
    /// Root of the tree that it signs.
    pub tree_root: [u8; 32],
}

/// Who knows what the audit log has.
pub trait Witness: Send + Sync {
    /// What is durable now. Called at each change, so it waits for nothing.
    fn newest(&self) -> LogPoint;
}

/// What is known of the audit log.
pub(super) struct Log(Mutex<Known>);

struct Known {
    witness: Option<Arc<dyn Witness>>,
    // In the order in which they were made, and when.
    unrecorded: Vec<(Intent, Moment)>,
}

impl Log {
    pub(super) fn new(unrecorded: Vec<Intent>) -> Self {
        let now = Moment::now();
        let unrecorded = unrecorded.into_iter().map(|intent| (intent, now)).collect();
        Self(Mutex::new(Known { witness: None, unrecorded }))
    }

    /// What the entry of a change says of the log; `before` is what the one before it said.
    pub(super) fn at(&self, before: LogState, cause: Option<Cause>, made: StoreChange) -> LogState {
        let known = self.0.lock();
        let mut unrecorded: Vec<Intent> = known.unrecorded.iter().map(|(intent, _)| intent.clone()).collect();
        unrecorded.extend(cause.map(|cause| intent(cause, made)));
        let Some(witness) = &known.witness else { return LogState { unrecorded, ..before } };
        let LogPoint { sequence, chain, tree_size, tree_root } = witness.newest();
        LogState { sequence, chain, tree_size, tree_root, unrecorded }
    }

    /// A change is being made; its record may come at any time from now on.
    pub(super) fn made(&self, log: &LogState) {
        let mut known = self.0.lock();
        if let Some(newest) = log.unrecorded.last()
            && !known.unrecorded.iter().any(|(intent, _)| intent.revision == newest.revision)
        {
            known.unrecorded.push((newest.clone(), Moment::now()));
        }
    }
}

fn intent(cause: Cause, made: StoreChange) -> Intent {
    let Cause { operation, resource, principal, uid } = cause;
    Intent { revision: made.revision, digest: made.digest, operation, resource, principal, uid }
}

impl Records {
    /// From now on each change says what `witness` knows of the audit log.
    pub fn follow_log(&self, witness: Arc<dyn Witness>) {
        self.inner.log.0.lock().witness = Some(witness);
    }

    /// What the newest change saw of the audit log.
    pub fn log_seen(&self) -> LogPoint {
        let LogState { sequence, chain, tree_size, tree_root, .. } = self.inner.timeline.current().log;
        LogPoint { sequence, chain, tree_size, tree_root }
    }

    /// The records of the changes `revisions` are durable.
    pub fn recorded(&self, revisions: &[u64]) {
        self.inner.log.0.lock().unrecorded.retain(|(intent, _)| !revisions.contains(&intent.revision));
    }

    /// The changes that were made longer than `age` ago and of which no record is known to be durable, the oldest first.
    pub fn unrecorded(&self, age: Duration) -> Vec<Intent> {
        let (known, now) = (self.inner.log.0.lock(), Moment::now());
        let old = known.unrecorded.iter().filter(|(_, made)| now.since(*made) >= age);
        old.map(|(intent, _)| intent.clone()).collect()
    }
}
