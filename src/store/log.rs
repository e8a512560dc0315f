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

use std::path::Path as FilePath;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::blocking::blocking;
use super::error::StoreError;
use super::journal::{Reader, Step};
use super::kv::Kv;
use super::meta::{Intent, LogState, Meta, StoreChange};
use super::records::Records;
use crate::clock::Moment;

/// Bytes of a name in an intent: the list stands in each entry of the journal, and its record must fit the log.
const LONGEST: usize = 512;

/// On whose word a change is made, and what the audit log calls it.
#[derive(Debug, Clone)]
pub struct Cause {
    /// The operation.
    pub operation: String,
    /// What it is about.
    pub resource: String,
    /// Who asked for it; nobody for what the daemon does by itself.
    pub principal: Option<String>,
    /// The user id of who asked.
    pub uid: Option<u32>,
    /// Lives as long as the call that may still make the record; none for work that no caller can cut short.
    pub call: Option<Weak<()>>,
}

impl Cause {
    /// A change of the daemon's own.
    pub fn own(operation: &str, resource: impl Into<String>) -> Self {
        let (operation, resource) = (operation.to_owned(), resource.into());
        Self { operation, resource, principal: None, uid: None, call: None }
    }
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
    /// What is durable now; `None` when the log is closed. Called at each change, so it waits for nothing but, at
    /// most, a checkpoint that is being written.
    fn newest(&self) -> Option<LogPoint>;
}

/// What is known of the audit log.
pub(super) struct Log {
    known: Mutex<Known>,
    // The newest record that the store had seen when it was opened.
    found: u64,
}

struct Known {
    witness: Option<Arc<dyn Witness>>,
    // In the order in which they were made.
    unrecorded: Vec<Unrecorded>,
}

/// A change of which no record is known to be durable.
struct Unrecorded {
    intent: Intent,
    made: Moment,
    call: Option<Weak<()>>,
    // What is put in force by the record.
    effects: Vec<Effect>,
}

type Effect = Box<dyn FnOnce() + Send>;

impl Unrecorded {
    fn new(intent: Intent, call: Option<Weak<()>>) -> Self {
        Self { intent, made: Moment::now(), call, effects: Vec::new() }
    }

    /// Whether the call that made it has ended: its record is queued, or will never be.
    fn is_left(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.strong_count() == 0)
    }
}

impl Log {
    /// What the newest change said of it.
    pub(super) fn new(log: &LogState) -> Self {
        let unrecorded = log.unrecorded.iter().map(|intent| Unrecorded::new(intent.clone(), None)).collect();
        Self { known: Mutex::new(Known { witness: None, unrecorded }), found: log.sequence }
    }

    /// What the entry of a change says of the log; `before` is what the one before it said.
    pub(super) fn at(&self, before: LogState, cause: Option<Cause>, made: StoreChange) -> LogState {
        let (mut unrecorded, witness) = {
            let known = self.known.lock();
            let all = known.unrecorded.iter().map(|open| open.intent.clone());
            (all.collect::<Vec<_>>(), known.witness.clone())
        };
        unrecorded.extend(cause.map(|cause| intent(cause, made)));
        // After the list: what was taken off it is durable in what is seen now. Without the lock, which the log's
        // writer takes: whoever asks the log last may have to wait for that writer to end.
        match witness.and_then(|witness| witness.newest()) {
            // The log is closed, or not opened yet: what was seen before still holds.
            None => LogState { unrecorded, ..before },
            Some(LogPoint { sequence, chain, tree_size, tree_root }) => {
                LogState { sequence, chain, tree_size, tree_root, unrecorded }
            }
        }
    }

    /// The change `revision` is being made; its record may come at any time from now on.
    pub(super) fn made(&self, log: &LogState, revision: u64, call: Option<Weak<()>>) {
        let mut known = self.known.lock();
        // Only its own: an older one that stands there too may have been recorded meanwhile.
        if let Some(own) = log.unrecorded.last().filter(|newest| newest.revision == revision)
            && !known.unrecorded.iter().any(|open| open.intent.revision == revision)
        {
            known.unrecorded.push(Unrecorded::new(own.clone(), call));
        }
    }
}

fn intent(cause: Cause, made: StoreChange) -> Intent {
    let Cause { mut operation, mut resource, mut principal, uid, call: _ } = cause;
    for name in [Some(&mut operation), Some(&mut resource), principal.as_mut()].into_iter().flatten() {
        name.truncate(name.floor_char_boundary(LONGEST));
    }
    Intent { revision: made.revision, digest: made.digest, operation, resource, principal, uid }
}

/// What the newest change of a store saw of the audit log, read without any key.
///
/// # Errors
/// When the store cannot be read.
pub async fn log_seen(kv: &dyn Kv) -> Result<Option<LogPoint>, StoreError> {
    let entry = Meta::entry(kv.snapshot().await?.as_mut()).await?;
    let meta = entry.and_then(|entry| Meta::unauthenticated(&entry.value));
    Ok(meta.map(|meta| LogPoint::of(&meta.log)))
}

/// The newest revision that the store has, or its journal, with which a start would complete it; not verified. The
/// journal is only read where the store has less than `enough`, and one that cannot be read completes nothing.
///
/// # Errors
/// When the store cannot be read.
pub async fn newest_revision(kv: &dyn Kv, journal: &FilePath, enough: u64) -> Result<u64, StoreError> {
    let entry = Meta::entry(kv.snapshot().await?.as_mut()).await?;
    let meta = entry.and_then(|entry| Meta::unauthenticated(&entry.value));
    let store = meta.map_or(0, |meta| meta.totals.revision);
    if store >= enough {
        return Ok(store);
    }
    let journal = journal.to_owned();
    blocking(move || {
        let mut newest = store;
        let Ok(mut reader) = Reader::unauthenticated(&journal) else { return Ok(newest) };
        while let Ok(Step::Entry(entry)) = reader.next() {
            newest = newest.max(entry.totals.revision);
        }
        Ok(newest)
    })
    .await
}

impl LogPoint {
    fn of(log: &LogState) -> Self {
        let LogState { sequence, chain, tree_size, tree_root, .. } = *log;
        Self { sequence, chain, tree_size, tree_root }
    }
}

impl Records {
    /// From now on each change says what `witness` knows of the audit log.
    pub fn follow_log(&self, witness: Arc<dyn Witness>) {
        self.inner.log.known.lock().witness = Some(witness);
    }

    /// What the newest change saw of the audit log.
    pub fn log_seen(&self) -> LogPoint {
        LogPoint::of(&self.inner.timeline.current().log)
    }

    /// The newest record that the store had seen when it was opened, before its journal was replayed: the record of
    /// a change that was on the list then stands there or behind it.
    pub fn log_found(&self) -> u64 {
        self.inner.log.found
    }

    /// The records of the changes `revisions` are durable.
    pub fn recorded(&self, revisions: &[u64]) {
        let mut known = self.inner.log.known.lock();
        let all = std::mem::take(&mut known.unrecorded).into_iter();
        let (paid, open): (Vec<_>, Vec<_>) = all.partition(|one| revisions.contains(&one.intent.revision));
        known.unrecorded = open;
        // An effect may ask for the list.
        drop(known);
        paid.into_iter().flat_map(|paid| paid.effects).for_each(|effect| effect());
    }

    /// Does `effect` once the record of the change `revision` is durable: at once when it is. It runs in the log's
    /// writer, so it waits for nothing.
    pub fn when_recorded(&self, revision: u64, effect: impl FnOnce() + Send + 'static) {
        let mut known = self.inner.log.known.lock();
        if let Some(open) = known.unrecorded.iter_mut().find(|open| open.intent.revision == revision) {
            open.effects.push(Box::new(effect));
            return;
        }
        drop(known);
        effect();
    }

    /// The changes of which no record is known to be durable, the oldest first.
    pub fn unrecorded(&self) -> Vec<Intent> {
        self.inner.log.known.lock().unrecorded.iter().map(|open| open.intent.clone()).collect()
    }

    /// Those of them that nobody will tell of: their call has ended and they were made longer than `grace` ago, or
    /// they were made longer than `limit` ago.
    pub fn overdue(&self, grace: Duration, limit: Duration) -> Vec<Intent> {
        let (known, now) = (self.inner.log.known.lock(), Moment::now());
        let overdue = |open: &&Unrecorded| {
            let age = now.since(open.made);
            age >= limit || (age >= grace && open.is_left())
        };
        known.unrecorded.iter().filter(overdue).map(|open| open.intent.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{DEPLOYMENT, Fault, FaultyKv, Place, crash, keys, tenant, tenant_path};
    use crate::store::{Changes, StoreError};

    struct Fixed(u64);

    impl Witness for Fixed {
        fn newest(&self) -> Option<LogPoint> {
            (self.0 > 0).then_some(LogPoint { sequence: self.0, chain: [7; 32], ..LogPoint::default() })
        }
    }

    async fn change(
        records: &Records,
        number: u32,
        call: Option<Weak<()>>,
    ) -> Result<StoreChange, StoreError> {
        let mut changes = Changes::new();
        changes.create(&tenant_path(number), &tenant(0));
        changes.because(Cause { call, ..Cause::own("create-tenant", format!("tenants/t{number}")) });
        records.commit(changes).await
    }

    fn revisions(intents: &[Intent]) -> Vec<u64> {
        intents.iter().map(|intent| intent.revision).collect()
    }

    #[tokio::test]
    async fn what_is_not_recorded_outlives_a_crash_and_what_is_does_not() {
        let place = Place::new();
        let records = place.create().await;
        records.follow_log(Arc::new(Fixed(9)));
        let first = change(&records, 1, None).await.unwrap();
        let second = change(&records, 2, None).await.unwrap();
        assert_eq!(revisions(&records.unrecorded()), [first.revision, second.revision]);
        records.recorded(&[first.revision]);
        let third = change(&records, 3, None).await.unwrap();
        crash(records);
        let (records, _) = place.open().await.unwrap();
        let kept = records.unrecorded();
        assert_eq!(revisions(&kept), [second.revision, third.revision]);
        assert_eq!((kept[1].digest, kept[1].resource.as_str()), (third.digest, "tenants/t3"));
        assert_eq!((records.log_seen().sequence, records.log_found()), (9, 9));
    }

    #[tokio::test]
    async fn a_change_that_only_the_journal_has_is_kept_too() {
        let place = Place::new();
        let kv = FaultyKv::new(place.kv().await);
        let records = place.create_on(kv.clone()).await;
        kv.commits.next(Fault::NotDone);
        assert!(matches!(change(&records, 1, None).await, Err(StoreError::Unsettled(_))));
        crash(records);
        let (records, report) = place.open().await.unwrap();
        assert_eq!((report.replayed, revisions(&records.unrecorded()).len()), (1, 1));
    }

    #[tokio::test]
    async fn a_closed_log_is_not_taken_for_an_empty_one() {
        let place = Place::new();
        let records = place.create().await;
        records.follow_log(Arc::new(Fixed(9)));
        change(&records, 1, None).await.unwrap();
        records.follow_log(Arc::new(Fixed(0)));
        change(&records, 2, None).await.unwrap();
        assert_eq!(records.log_seen().sequence, 9);
    }

    #[tokio::test]
    async fn only_a_call_that_has_ended_is_overdue_early() {
        let place = Place::new();
        let records = place.create().await;
        let call = Arc::new(());
        change(&records, 1, Some(Arc::downgrade(&call))).await.unwrap();
        change(&records, 2, None).await.unwrap();
        let late = Duration::from_secs(3600);
        assert_eq!(records.overdue(Duration::ZERO, late), []);
        drop(call);
        let left = records.overdue(Duration::ZERO, late);
        assert_eq!((left.len(), left[0].resource.as_str()), (1, "tenants/t1"));
        assert_eq!(records.overdue(late, late), []);
        assert_eq!(records.overdue(late, Duration::ZERO).len(), 2);
    }

    #[tokio::test]
    async fn an_effect_waits_for_its_record() {
        let place = Place::new();
        let records = place.create().await;
        let made = change(&records, 1, None).await.unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let note = |word: &'static str| {
            let done = done.clone();
            move || done.lock().push(word)
        };
        records.when_recorded(made.revision, note("waited"));
        records.when_recorded(made.revision + 1, note("at once"));
        assert_eq!(*done.lock(), ["at once"]);
        records.recorded(&[made.revision]);
        assert_eq!(*done.lock(), ["at once", "waited"]);
    }

    #[test]
    fn an_older_change_does_not_come_back_with_a_newer_one() {
        let log = Log::new(&LogState::default());
        let made = |revision| StoreChange { revision, digest: [1; 32] };
        let first = log.at(LogState::default(), Some(Cause::own("freeze", "a")), made(2));
        log.made(&first, 2, None);
        // A change without a cause, whose list ends with the older one, which is recorded before it is made.
        let second = log.at(first, None, made(3));
        log.known.lock().unrecorded.clear();
        log.made(&second, 3, None);
        assert!(log.known.lock().unrecorded.is_empty());
    }

    #[tokio::test]
    async fn an_empty_change_says_what_the_log_has() {
        let place = Place::new();
        let records = place.create().await;
        let before = records.position();
        records.follow_log(Arc::new(Fixed(5)));
        let mut changes = Changes::new();
        changes.because(Cause::own("store-rollback-accepted", "x".repeat(2000)));
        let made = records.commit(changes).await.unwrap();
        assert_eq!((made.revision, made.digest), (before.revision + 1, before.digest));
        assert_eq!(records.unrecorded()[0].resource.len(), LONGEST);
        crash(records);
        let opened =
            Records::open(place.kv().await, &place.journal(), DEPLOYMENT, keys(), Some(made)).await.unwrap();
        assert_eq!(opened.0.log_seen().sequence, 5);
    }
}
