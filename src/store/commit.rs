//! One change: check, journal, commit. A replayed change takes the same way.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::blocking::blocking;
use super::digest::{Place, row_hash};
use super::error::{Refusal, StoreError};
use super::journal::{Entry, Journal, Kind, Reader, Source, Step};
use super::kv::{Expect, Transaction, Write};
use super::log::Cause;
use super::mac::StoreKeys;
use super::meta::{JournalPoint, LogState, Meta, StoreChange, Totals, is_covered};
use super::newest;
use super::records::{Changes, Inner};
use super::view::{Row, View};

/// The right to change the store: whoever holds it changes alone.
pub(super) struct Writer {
    pub(super) journal: Arc<Mutex<Journal>>,
    // The store has everything that the journal has.
    settled: bool,
}

/// A checked change, ready to be journalled and committed.
struct Prepared {
    entry: Entry,
    nodes: Vec<Write>,
    // Backend revision of the meta row that it builds on.
    meta_revision: u64,
    // The call that is to make its record.
    call: Option<Weak<()>>,
}

impl Inner {
    /// Makes a change: the journal first, then the store.
    pub(super) async fn commit(&self, changes: Changes) -> Result<StoreChange, StoreError> {
        let mut writer = self.writer.lock().await;
        self.settle(&mut writer).await?;
        let mut view = self.view().await?;
        let old = view.rows(&changes.keys()?).await?;
        if let Some((newest, rows)) = changes.buried(&old) {
            newest::judge(&writer, &newest, rows).await?;
        }
        let cause = changes.cause();
        let call = cause.as_ref().and_then(|cause| cause.call.clone());
        let (writes, old) = changes.writes(old, view.position().revision + 1, &self.keys)?;
        let known = view.meta.log.clone();
        let prepared = prepare(view, writes, &old, &self.keys, |made| self.log.at(known, cause, made))?;
        let prepared = Prepared { call, ..prepared };
        let (prepared, point) = writer.append(prepared).await?;
        self.apply(&mut writer, prepared, point).await.map_err(StoreError::unsettled)
    }

    /// Commits what stands in the journal up to `point`.
    async fn apply(
        &self,
        writer: &mut Writer,
        prepared: Prepared,
        point: JournalPoint,
    ) -> Result<StoreChange, StoreError> {
        writer.settled = false;
        let Prepared { entry: Entry { totals, writes, log, .. }, nodes, meta_revision, call } = prepared;
        // Before the store has it: a record of it may be durable before this thread goes on.
        self.log.made(&log, totals.revision, call);
        let meta = Meta { deployment: self.deployment, totals, journal: point, log };
        self.put_meta(meta, meta_revision, writes.into_iter().chain(nodes).collect()).await?;
        writer.settled = true;
        Ok(totals.change())
    }

    /// Commits rows together with a new meta row.
    async fn put_meta(&self, meta: Meta, expected: u64, mut writes: Vec<Write>) -> Result<(), StoreError> {
        writes.push(Write { key: Meta::key(), value: Some(meta.seal(&self.keys)?) });
        let expect = vec![Expect { key: Meta::key(), revision: Some(expected) }];
        self.timeline.announce(meta.clone());
        self.kv.commit(Transaction { expect, writes }).await?;
        self.timeline.publish(meta);
        Ok(())
    }

    /// Tells a store that has everything where the end of its journal is now.
    pub(super) async fn tell_place(&self, writer: &mut Writer, end: JournalPoint) -> Result<(), StoreError> {
        let View { meta, meta_revision: expected, .. } = self.view().await?;
        let meta = Meta { journal: end, ..meta };
        self.put_meta(meta, expected, Vec::new()).await?;
        writer.settled = true;
        Ok(())
    }

    /// Brings the store to the end of the journal if an earlier change failed in between.
    pub(super) async fn settle(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if !writer.settled {
            self.catch_up(writer).await?;
        }
        Ok(())
    }

    /// Replays into the store what only the journal has. Returns how many changes.
    pub(super) async fn catch_up(&self, writer: &mut Writer) -> Result<u64, StoreError> {
        let View { meta, meta_revision, .. } = self.view().await?;
        self.timeline.publish(meta.clone());
        let (journal, place) = (writer.journal.clone(), meta.clone());
        let mut reader = blocking(move || locate(lock(&journal).source(), &place)).await?;
        if reader.point() != meta.journal {
            // The journal was compacted or rebuilt, and the store has not heard of it.
            let meta = Meta { journal: reader.point(), ..meta };
            self.put_meta(meta, meta_revision, Vec::new()).await?;
        }
        let end = lock(&writer.journal).end();
        let mut replayed = 0;
        while reader.point() != end {
            let (entry, point);
            (reader, entry, point) = next_change(reader).await?;
            self.replay(writer, entry, point).await?;
            replayed += 1;
        }
        writer.settled = true;
        Ok(replayed)
    }

    /// Says in a change of its own what the records add up to, where the totals were wrong: store and journal
    /// have the same records already.
    pub(super) async fn recount(
        &self,
        writer: &mut Writer,
        found: &Totals,
        cause: Cause,
    ) -> Result<StoreChange, StoreError> {
        let View { meta, meta_revision, .. } = self.view().await?;
        let totals = Totals { revision: meta.totals.revision + 1, ..*found };
        let log = self.log.at(meta.log, Some(cause), totals.change());
        let entry = Entry { kind: Kind::Recount, totals, writes: Vec::new(), log };
        refuse_other_records(&meta.totals, &entry)?;
        let prepared = Prepared { entry, nodes: Vec::new(), meta_revision, call: None };
        let (prepared, point) = writer.append(prepared).await?;
        self.apply(writer, prepared, point).await.map_err(StoreError::unsettled)
    }

    async fn replay(&self, writer: &mut Writer, entry: Entry, point: JournalPoint) -> Result<(), StoreError> {
        let mut view = self.view().await?;
        if entry.kind == Kind::Recount {
            refuse_other_records(&view.meta.totals, &entry)?;
            let prepared =
                Prepared { entry, nodes: Vec::new(), meta_revision: view.meta_revision, call: None };
            return self.apply(writer, prepared, point).await.map(drop);
        }
        let keys: Vec<Vec<u8>> = entry.writes.iter().map(|write| write.key.clone()).collect();
        let old = view.rows(&keys).await?;
        let log = entry.log;
        let prepared = prepare(view, entry.writes, &old, &self.keys, |_| log)?;
        if prepared.entry.totals != entry.totals {
            return Err(Refusal::Diverged { revision: entry.totals.revision }.into());
        }
        self.apply(writer, prepared, point).await?;
        Ok(())
    }
}

impl Writer {
    /// A writer whose store may be behind the journal.
    pub(super) fn unsettled(journal: Journal) -> Self {
        Self { journal: Arc::new(Mutex::new(journal)), settled: false }
    }

    /// The journal may be ahead of what the store knows.
    pub(super) fn unsettle(&mut self) {
        self.settled = false;
    }

    async fn append(&mut self, prepared: Prepared) -> Result<(Prepared, JournalPoint), StoreError> {
        let journal = self.journal.clone();
        let append = move || {
            let point = lock(&journal).append(&prepared.entry)?;
            Ok((prepared, point))
        };
        // A failed append may have reached the disk, and would be replayed after a crash.
        blocking(append).await.map_err(StoreError::unsettled)
    }
}

/// Works out what a change makes of the store: the totals and the digest after it.
fn prepare(
    mut view: View,
    writes: Vec<Write>,
    old: &[Option<Row>],
    keys: &StoreKeys,
    log: impl FnOnce(StoreChange) -> LogState,
) -> Result<Prepared, StoreError> {
    let mut totals = view.meta.totals;
    totals.revision += 1;
    for (write, old) in writes.iter().zip(old) {
        if let Some(old) = old {
            let removed = totals.remove(&write.key, &old.value, keys);
            removed.ok_or_else(|| StoreError::tampered(&write.key, "the store counts fewer records"))?;
        }
        if let Some(value) = &write.value {
            totals.add(&write.key, value, keys);
        }
        if is_covered(&write.key) {
            let row = write.value.as_ref().map(|value| row_hash(&write.key, value));
            view.tree.set(Place::of(&write.key), row);
        }
    }
    let (digest, nodes) = view.tree.finish();
    totals.digest = digest;
    Ok(Prepared {
        entry: Entry { kind: Kind::Change, totals, writes, log: log(totals.change()) },
        nodes,
        meta_revision: view.meta_revision,
        call: None,
    })
}

/// A recount follows `before`, and leaves everything as it is that the digest covers.
fn refuse_other_records(before: &Totals, recount: &Entry) -> Result<(), StoreError> {
    let Entry { totals, writes, .. } = recount;
    let follows = totals.revision == before.revision + 1 && writes.is_empty();
    match follows && totals.covers_the_same(before) {
        true => Ok(()),
        false => Err(Refusal::Diverged { revision: totals.revision }.into()),
    }
}

/// Finds the place in the journal where the store became what `meta` says.
///
/// The meta row names the place. Only when it names another file, because the
/// daemon stopped in the middle of a compaction, the journal is searched.
pub(super) fn locate(journal: &Source, meta: &Meta) -> Result<Reader, StoreError> {
    match journal.reader_at(meta.journal)? {
        Some(reader) => Ok(reader),
        None => search(journal.reader()?, meta),
    }
}

fn search(mut reader: Reader, meta: &Meta) -> Result<Reader, StoreError> {
    let store = meta.totals.revision;
    let mut last = None;
    while let Step::Entry(entry) = reader.next()? {
        if entry.kind == Kind::Part {
            continue;
        }
        let revision = entry.totals.revision;
        if entry.totals == meta.totals {
            return Ok(reader);
        }
        if revision >= store {
            return Err(match last {
                None if revision > store => Refusal::StoreCut { store, journal: revision }.into(),
                _ => Refusal::Diverged { revision: store }.into(),
            });
        }
        last = Some(revision);
    }
    Err(Refusal::JournalCut { store, journal: last.unwrap_or_default() }.into())
}

async fn next_change(mut reader: Reader) -> Result<(Reader, Entry, JournalPoint), StoreError> {
    blocking(move || {
        let offset = reader.point().offset;
        match reader.next()? {
            Step::Entry(entry) if entry.kind.is_change() => {
                let point = reader.point();
                Ok((reader, entry, point))
            }
            _ => Err(Refusal::JournalDamaged { offset, revision: 0 }.into()),
        }
    })
    .await
}

/// The journal, whatever happened to the thread that had it last: it keeps its
/// own account of what is durable.
pub(super) fn lock(journal: &Mutex<Journal>) -> std::sync::MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::check::check;
    use crate::store::testing::{Fault, FaultyKv, FileFaults, Place as Dir, add, crash, keys, read, set};
    use crate::store::{Records, kv::Kv};

    /// Where a change can fail.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Step {
        Write,
        Sync,
        Commit,
    }

    struct Setup {
        place: Dir,
        kv: Arc<FaultyKv>,
        file: FileFaults,
        records: Records,
    }

    impl Setup {
        async fn new() -> Self {
            let place = Dir::new();
            let kv = FaultyKv::new(place.kv().await);
            let records = place.create_on(kv.clone()).await;
            let file = FileFaults::default();
            file.install(&records).await;
            add(&records, 1).await.unwrap();
            Self { place, kv, file, records }
        }

        /// Makes the creation of tenant 2 fail.
        async fn fail(&self, step: Step, fault: Fault) {
            let faults = match step {
                Step::Write => &self.file.write,
                Step::Sync => &self.file.sync,
                Step::Commit => &self.kv.commits,
            };
            let before = self.records.position();
            faults.next(fault);
            let error = add(&self.records, 2).await.unwrap_err();
            assert!(matches!(error, StoreError::Unsettled(_)), "{step:?} {fault:?}: {error}");
            assert!(faults.is_spent());
            assert_eq!(self.records.position(), before, "nothing new is acknowledged");
        }

        async fn assert_whole(place: &Dir) {
            let report = check(place.kv().await.as_ref(), &place.journal(), Arc::new(keys())).await.unwrap();
            assert!(report.is_whole(), "{:?}", report.lines());
            assert_eq!(report.revision, report.journal_revision);
        }
    }

    fn cases() -> impl Iterator<Item = (Step, Fault)> {
        [Step::Write, Step::Sync, Step::Commit]
            .into_iter()
            .flat_map(|step| Fault::BOTH.map(|fault| (step, fault)))
    }

    #[tokio::test]
    async fn after_a_failure_the_next_change_finds_everything_in_order() {
        for (step, fault) in cases() {
            let setup = Setup::new().await;
            setup.fail(step, fault).await;
            // What reached the journal durably is finished, what did not is taken back.
            let made = (step == Step::Commit).then_some(0);
            add(&setup.records, 3).await.unwrap();
            assert_eq!(read(&setup.records, 2).await, made, "{step:?} {fault:?}");
            assert_eq!(read(&setup.records, 3).await, Some(0));
            let position = setup.records.position();
            crash(setup.records);
            Setup::assert_whole(&setup.place).await;
            let (records, report) = setup.place.open_after(Some(position)).await.unwrap();
            assert_eq!((report.position, report.replayed), (position, 0), "{step:?} {fault:?}");
            assert_eq!(read(&records, 2).await, made);
        }
    }

    #[tokio::test]
    async fn after_a_failure_and_a_crash_the_next_start_finds_everything_in_order() {
        for (step, fault) in cases() {
            let setup = Setup::new().await;
            setup.fail(step, fault).await;
            let acknowledged = setup.records.position();
            crash(setup.records);
            // Here the file has what was written, synced or not.
            let made = (step, fault) != (Step::Write, Fault::NotDone);
            let (records, report) = setup.place.open_after(Some(acknowledged)).await.unwrap();
            assert_eq!(read(&records, 2).await.is_some(), made, "{step:?} {fault:?}");
            assert_eq!(read(&records, 1).await, Some(0), "what was acknowledged is there");
            let replayed = made && (step, fault) != (Step::Commit, Fault::DoneButFailed);
            assert_eq!(report.replayed, u64::from(replayed), "{step:?} {fault:?}");
            assert_eq!(report.notes.len(), usize::from(replayed), "{:?}", report.notes);
            set(&records, 1, 7).await.unwrap();
            crash(records);
            Setup::assert_whole(&setup.place).await;
        }
    }

    #[tokio::test]
    async fn reads_go_on_after_a_failure() {
        for (step, fault) in cases() {
            let setup = Setup::new().await;
            setup.fail(step, fault).await;
            assert_eq!(read(&setup.records, 1).await, Some(0), "{step:?} {fault:?}");
        }
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_cut_takes_nothing_more() {
        for fault in Fault::BOTH {
            let setup = Setup::new().await;
            setup.fail(Step::Sync, Fault::DoneButFailed).await;
            setup.file.truncate.next(fault);
            assert!(add(&setup.records, 3).await.is_err());
            assert_eq!(read(&setup.records, 3).await, None);
            add(&setup.records, 3).await.unwrap();
            assert_eq!(read(&setup.records, 2).await, None);
            crash(setup.records);
            Setup::assert_whole(&setup.place).await;
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_again_and_again_is_settled_in_the_end() {
        let setup = Setup::new().await;
        setup.fail(Step::Commit, Fault::NotDone).await;
        for fault in [Fault::NotDone, Fault::NotDone, Fault::DoneButFailed] {
            setup.kv.commits.next(fault);
            assert!(add(&setup.records, 3).await.is_err());
        }
        add(&setup.records, 3).await.unwrap();
        assert_eq!((read(&setup.records, 2).await, read(&setup.records, 3).await), (Some(0), Some(0)));
        assert_eq!(setup.records.position().revision, 4);
    }

    #[tokio::test]
    async fn a_second_writer_is_kept_out() {
        let setup = Setup::new().await;
        let second = setup.place.open().await.err().unwrap();
        assert!(matches!(second, StoreError::Refused(Refusal::InUse(_))), "{second}");
        // Even one that ignores the lock only gets a conflict.
        let meta = setup.kv.snapshot().await.unwrap().get(&Meta::key()).await.unwrap().unwrap();
        let stale = Expect { key: Meta::key(), revision: Some(meta.revision - 1) };
        let commit = setup.kv.commit(Transaction { expect: vec![stale], writes: Vec::new() }).await;
        assert!(matches!(commit, Err(crate::store::kv::KvError::Conflict)));
    }
}
