//! What the rest of the program uses: typed records, verified reads, atomic changes.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::commit::Writer;
use super::error::StoreError;
use super::kv::{Kv, Write};
use super::log::{Cause, Log};
use super::mac::StoreKeys;
use super::meta::{Meta, StoreChange};
use super::newest::{Found, Newest};
use super::recover::{self, OpenReport};
use super::tables::{self, Path, Prefix, Record, Table, describe};
use super::timeline::Timeline;
use super::view::{Complete, Listing, Pass, Row, Stored, View};
use crate::clock::Day;
use crate::id::DeploymentId;
use crate::keyring::agenda::{Due, DueDay};
use crate::keyring::remains::Tombstone;

/// The records of one installation. Cheap to clone: all clones are the same store.
#[derive(Clone)]
pub struct Records {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) keys: Arc<StoreKeys>,
    pub(super) deployment: DeploymentId,
    pub(super) timeline: Timeline,
    pub(super) log: Log,
    // Changes are made one after the other.
    pub(super) writer: Mutex<Writer>,
    // At most one compaction runs.
    pub(super) compacting: Mutex<()>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The newest revision.
    pub revision: u64,
    /// Records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub record_bytes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
}

impl Records {
    /// Makes a new store in an empty backend, with a new journal at `journal`,
    /// and commits `initial` as its first change.
    ///
    /// # Errors
    /// [`Refusal::NotEmpty`](super::Refusal::NotEmpty) when the backend has
    /// records or there is a journal already.
    pub async fn create(
        kv: Arc<dyn Kv>,
        journal: &FilePath,
        deployment: DeploymentId,
        keys: StoreKeys,
        initial: Changes,
    ) -> Result<(Self, StoreChange), StoreError> {
        recover::create(kv, journal, deployment, Arc::new(keys), initial).await
    }

    /// Opens a store: compares it with its journal and with `anchor`, the newest
    /// change that the audit log knows of, and repairs what a crash left. The
    /// work does not grow with the number of records.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the two do not fit together,
    /// [`StoreError::Tampered`] when the store's own rows are not genuine.
    pub async fn open(
        kv: Arc<dyn Kv>,
        journal: &FilePath,
        deployment: DeploymentId,
        keys: StoreKeys,
        anchor: Option<StoreChange>,
    ) -> Result<(Self, OpenReport), StoreError> {
        recover::open(kv, journal, deployment, Arc::new(keys), anchor, recover::Rollback::Refuse).await
    }

    /// As [`open`](Self::open), but takes a store that is older than `anchor` or
    /// has another history: the operator restored a backup on purpose. The caller
    /// writes an audit record about it.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for the anchor.
    pub async fn open_accepting_rollback(
        kv: Arc<dyn Kv>,
        journal: &FilePath,
        deployment: DeploymentId,
        keys: StoreKeys,
        anchor: StoreChange,
    ) -> Result<(Self, OpenReport), StoreError> {
        recover::open(kv, journal, deployment, Arc::new(keys), Some(anchor), recover::Rollback::Accept).await
    }

    pub(super) fn new(
        kv: Arc<dyn Kv>,
        keys: Arc<StoreKeys>,
        deployment: DeploymentId,
        meta: Meta,
        writer: Writer,
    ) -> Self {
        let log = Log::new(&meta.log);
        let timeline = Timeline::new(meta);
        let (writer, compacting) = (Mutex::new(writer), Mutex::new(()));
        let inner = Inner { kv, keys, deployment, timeline, log, writer, compacting };
        Self { inner: Arc::new(inner) }
    }

    /// Everything at its newest revision, for several reads that must fit together.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when the store is not as the daemon left it.
    pub async fn view(&self) -> Result<View, StoreError> {
        self.inner.view().await
    }

    /// One record.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when it, or its absence, is not genuine.
    pub async fn get<T: Record>(&self, path: &Path<T>) -> Result<Option<Stored<T>>, StoreError> {
        self.view().await?.get(path).await
    }

    /// Records whose path begins with `prefix`, to be shown; see [`View::page`].
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn page<T: Record>(
        &self,
        prefix: &Prefix<T>,
        after: Option<&Path<T>>,
        limit: usize,
    ) -> Result<Listing<T>, StoreError> {
        self.view().await?.page(prefix, after, limit).await
    }

    /// Every record of a table, to decide from; see [`Complete`].
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when one is missing, doubled or not genuine.
    pub async fn complete<T: Record>(&self) -> Result<Complete<T>, StoreError> {
        self.view().await?.complete().await
    }

    /// Walks over every record of a table; see [`Pass`].
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when the store is not as the daemon left it.
    pub async fn pass<T: Record>(&self) -> Result<Pass<T>, StoreError> {
        Ok(self.view().await?.pass())
    }

    /// Makes all changes or none. It runs to its end even if the caller stops waiting.
    ///
    /// # Errors
    /// [`StoreError::Exists`] and [`StoreError::Changed`] when a record is not as
    /// expected, and nothing was changed. After [`StoreError::Unsettled`] the
    /// change may have been made or be made later: read again.
    pub async fn commit(&self, changes: Changes) -> Result<StoreChange, StoreError> {
        let inner = self.inner.clone();
        match tokio::spawn(async move { inner.commit(changes).await }).await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => Err(StoreError::Stopped.unsettled()),
        }
    }

    /// Brings the store to the end of the journal, so that what is read from now on is what stays: a
    /// change that failed with [`StoreError::Unsettled`] is made then, or was not begun.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn settle(&self) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        let settle = async move {
            let mut writer = inner.writer.lock().await;
            inner.settle(&mut writer).await
        };
        match tokio::spawn(settle).await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => Err(StoreError::Stopped),
        }
    }

    /// The newest acknowledged revision and its digest.
    pub fn position(&self) -> StoreChange {
        self.inner.timeline.current().totals.change()
    }

    /// The backend, in a word.
    pub fn backend(&self) -> &'static str {
        self.inner.kv.name()
    }

    /// The days of an agenda from before they were counted; `None` when there is nothing to do.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] and [`StoreError::Tampered`] when a line is missing or not genuine.
    pub async fn count_agenda(&self) -> Result<Option<Changes>, StoreError> {
        let mut view = self.view().await?;
        let of = |table: Table| view.meta.totals.counts.of(table.byte());
        if of(Table::Agenda) == 0 || of(Table::AgendaDay) > 0 {
            return Ok(None);
        }
        let lines = view.complete::<Due>().await?;
        let mut changes = Changes::new();
        changes.count_all(lines.into_iter().map(|(path, _)| path));
        Ok(Some(changes))
    }

    /// How much there is.
    pub fn stats(&self) -> Stats {
        let Meta { totals, journal, .. } = self.inner.timeline.current();
        Stats {
            revision: totals.revision,
            records: totals.records(),
            record_bytes: totals.bytes,
            journal_bytes: journal.offset,
        }
    }
}

impl Inner {
    pub(super) async fn view(&self) -> Result<View, StoreError> {
        View::open(self.kv.as_ref(), &self.keys, &self.timeline).await
    }
}

/// Changes to be made together. Each record stands in it at most once.
#[derive(Debug, Default)]
pub struct Changes {
    planned: Vec<Planned>,
    // By how much the number of lines changes that the agenda has for a day.
    days: BTreeMap<Day, i64>,
    cause: Option<Cause>,
    // What makes sure that rows which are buried are the newest.
    newest: Option<Newest>,
}

#[derive(Debug)]
struct Planned {
    key: Vec<u8>,
    // The revision that wrote the record to be changed; none for a new one.
    expect: Option<u64>,
    effect: Effect,
}

/// What is done with a record that is as expected.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    Write(Vec<u8>),
    Delete,
    // Only the newest row, as the journal has it.
    Bury,
    Nothing,
}

impl Changes {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new record; there must be none at `path`.
    pub fn create<T: Record>(&mut self, path: &Path<T>, record: &T) -> &mut Self {
        self.count(path, 1);
        self.plan(path, None, record)
    }

    /// A new value for the record that the change `revision` wrote.
    pub fn replace<T: Record>(&mut self, path: &Path<T>, record: &T, revision: u64) -> &mut Self {
        self.plan(path, Some(revision), record)
    }

    /// No longer the record that the change `revision` wrote.
    pub fn delete<T: Record>(&mut self, path: &Path<T>, revision: u64) -> &mut Self {
        self.count(path, -1);
        self.planned.push(Planned { key: path.key(), expect: Some(revision), effect: Effect::Delete });
        self
    }

    /// No longer the record that the change `revision` wrote, which must be the newest one by `newest`.
    pub fn bury<T: Record>(&mut self, path: &Path<T>, revision: u64, newest: &Newest) -> &mut Self {
        self.planned.push(Planned { key: path.key(), expect: Some(revision), effect: Effect::Bury });
        self.newest = Some(newest.clone());
        self
    }

    /// What makes sure that rows which are buried are the newest, and by what those of `rows` are recognised.
    pub(super) fn buried(&self, rows: &[Option<Row>]) -> Option<(Newest, Vec<Found>)> {
        let newest = self.newest.clone()?;
        let buried = self.planned.iter().zip(rows).filter(|(planned, _)| planned.effect == Effect::Bury);
        Some((newest, buried.map(|(planned, row)| Found::of(&planned.key, row.as_ref())).collect()))
    }

    /// Counts a line of the agenda in or out of its day. The commit works out the number, so that two
    /// changes of the same day do not stand in each other's way.
    fn count<T: Record>(&mut self, path: &Path<T>, lines: i64) {
        if let Some(due) = Path::<Due>::parse(&path.key()) {
            *self.days.entry(Day::of(due.id.0)).or_default() += lines;
        }
    }

    /// As if every line that the agenda has were entered now: for a store of before days were counted.
    pub(super) fn count_all(&mut self, lines: impl IntoIterator<Item = Path<Due>>) {
        lines.into_iter().for_each(|line| self.count(&line, 1));
    }

    /// Only if the record is still the one that the change `revision` wrote: what is changed here was worked out from it.
    pub fn require<T: Record>(&mut self, path: &Path<T>, revision: u64) -> &mut Self {
        self.planned.push(Planned { key: path.key(), expect: Some(revision), effect: Effect::Nothing });
        self
    }

    /// Puts a tombstone that is known from elsewhere in place of the row at `key`, which the change
    /// `revision` wrote, or where there is none.
    pub(super) fn bury_again(
        &mut self,
        tombstone: &Path<Tombstone>,
        record: &Tombstone,
        revision: Option<u64>,
    ) -> &mut Self {
        if let Some(revision) = revision {
            let key = tombstone.id.key().to_vec();
            self.planned.push(Planned { key, expect: Some(revision), effect: Effect::Delete });
        }
        self.create(tombstone, record)
    }

    /// The same record once more, so that it is sealed under the newest erasure key.
    pub(super) fn again(&mut self, key: Vec<u8>, revision: u64, payload: Vec<u8>) {
        self.planned.push(Planned { key, expect: Some(revision), effect: Effect::Write(payload) });
    }

    /// On whose word they are made, and what the audit log calls it. It is kept with the change until the
    /// record of it is durable.
    pub fn because(&mut self, cause: Cause) -> &mut Self {
        self.cause = Some(cause);
        self
    }

    /// Whether it is said on whose word they are made.
    pub fn has_cause(&self) -> bool {
        self.cause.is_some()
    }

    /// The name of the first record that they change, for people.
    pub fn subject(&self) -> String {
        self.planned.first().map(|planned| describe(&planned.key)).unwrap_or_default()
    }

    pub(super) fn cause(&self) -> Option<Cause> {
        self.cause.clone()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.planned.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.planned.is_empty()
    }

    fn plan<T: Record>(&mut self, path: &Path<T>, expect: Option<u64>, record: &T) -> &mut Self {
        let payload = minicbor::to_vec(record).expect("encoding into memory cannot fail");
        self.planned.push(Planned { key: path.key(), expect, effect: Effect::Write(payload) });
        self
    }

    /// Makes these changes too.
    pub fn add(&mut self, others: Self) -> &mut Self {
        self.planned.extend(others.planned);
        self.newest = others.newest.or_else(|| self.newest.take());
        for (day, lines) in others.days {
            *self.days.entry(day).or_default() += lines;
        }
        self
    }

    /// The keys that change, in order.
    pub(super) fn keys(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let days = self.days.keys().map(|day| tables::due_day(*day).key());
        let keys: Vec<Vec<u8>> = self.planned.iter().map(|planned| planned.key.clone()).chain(days).collect();
        let mut sorted: Vec<&Vec<u8>> = keys.iter().collect();
        sorted.sort_unstable();
        match sorted.array_windows().find(|[a, b]| a == b) {
            Some([twice, _]) => Err(StoreError::Repeated { what: describe(twice) }),
            None => Ok(keys),
        }
    }

    /// The writes of revision `revision`, if the rows at the keys are as expected, and the row that each replaces.
    pub(super) fn writes(
        self,
        old: Vec<Option<Row>>,
        revision: u64,
        keys: &StoreKeys,
    ) -> Result<(Vec<Write>, Vec<Option<Row>>), StoreError> {
        let (mut writes, mut replaced) = (Vec::with_capacity(old.len()), Vec::with_capacity(old.len()));
        let mut old = old.into_iter();
        // The old rows are in the order of `keys`: the planned ones, then the days.
        for (planned, old) in self.planned.into_iter().zip(old.by_ref()) {
            if let Some(write) = planned.write(old.as_ref(), revision, keys)? {
                writes.push(write);
                replaced.push(old);
            }
        }
        for ((day, lines), old) in self.days.into_iter().zip(old) {
            if lines != 0 {
                writes.push(count_day(day, lines, old.as_ref(), revision, keys)?);
                replaced.push(old);
            }
        }
        Ok((writes, replaced))
    }
}

/// The row of a day that has so many lines more, or less; a day without lines has none.
fn count_day(
    day: Day,
    lines: i64,
    old: Option<&Row>,
    revision: u64,
    keys: &StoreKeys,
) -> Result<Write, StoreError> {
    let path = tables::due_day(day);
    let key = path.key();
    let before = old.map(|row| row.decode::<DueDay>(&key, keys)).transpose()?;
    let before = before.map_or(0, |stored| stored.record.lines);
    let lines = before.checked_add_signed(lines).ok_or_else(|| StoreError::miscounted(&path))?;
    let payload = minicbor::to_vec(DueDay { lines }).expect("encoding into memory cannot fail");
    let value = if lines == 0 { None } else { Some(keys.seal(&key, revision, &payload)?) };
    Ok(Write { key, value })
}

impl Planned {
    fn write(self, old: Option<&Row>, revision: u64, keys: &StoreKeys) -> Result<Option<Write>, StoreError> {
        let found = old.map(|row| row.revision);
        if found != self.expect {
            let what = describe(&self.key);
            let exists = self.expect.is_none();
            return Err(if exists { StoreError::Exists { what } } else { StoreError::Changed { what } });
        }
        let value = match self.effect {
            Effect::Write(payload) => Some(keys.seal(&self.key, revision, &payload)?),
            Effect::Delete | Effect::Bury => None,
            Effect::Nothing => return Ok(None),
        };
        Ok(Some(Write { key: self.key, value }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tables;
    use crate::store::testing::{
        Place, add, dek, dek_path, key_name, read, set, tenant, tenant_id, tenant_path,
    };
    use futures_util::FutureExt;

    #[tokio::test]
    async fn records_are_made_read_changed_and_deleted() {
        let place = Place::new();
        let records = place.create().await;
        assert_eq!(records.position().revision, 1);
        let made = add(&records, 1).await.unwrap();
        assert_eq!((made.revision, made), (2, records.position()));
        let stored = records.get(&tenant_path(1)).await.unwrap().unwrap();
        assert_eq!(stored, Stored { record: tenant(0), revision: 2 });
        assert_ne!(set(&records, 1, 5).await.unwrap().digest, made.digest);
        assert_eq!(read(&records, 1).await, Some(5));
        let mut changes = Changes::new();
        changes.delete(&tenant_path(1), 3);
        records.commit(changes).await.unwrap();
        assert_eq!(read(&records, 1).await, None);
        assert_eq!(records.stats().records, 2);
    }

    #[tokio::test]
    async fn an_unmet_expectation_changes_nothing() {
        let place = Place::new();
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        let before = records.stats();
        let cases: [fn(&mut Changes); 5] = [
            |changes| {
                changes.create(&tenant_path(1), &tenant(9));
            },
            |changes| {
                changes.replace(&tenant_path(1), &tenant(9), 1);
            },
            |changes| {
                changes.replace(&tenant_path(2), &tenant(9), 2);
            },
            |changes| {
                changes.delete(&tenant_path(1), 3);
            },
            |changes| {
                changes.delete(&tenant_path(2), 2);
            },
        ];
        for (number, case) in cases.into_iter().enumerate() {
            let mut changes = Changes::new();
            changes.create(&tenant_path(3), &tenant(0));
            case(&mut changes);
            let error = records.commit(changes).await.unwrap_err();
            match number {
                0 => {
                    assert!(matches!(&error, StoreError::Exists { what } if what == "tenants/t1"), "{error}");
                }
                _ => assert!(matches!(error, StoreError::Changed { .. }), "case {number}: {error}"),
            }
        }
        assert_eq!(records.stats(), before);
        assert_eq!(read(&records, 3).await, None);
    }

    #[tokio::test]
    async fn a_change_may_rest_on_records_that_it_leaves_alone() {
        let place = Place::new();
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        let mut changes = Changes::new();
        changes.require(&tenant_path(1), 2).create(&tenant_path(2), &tenant(7));
        let made = records.commit(changes).await.unwrap();
        assert_eq!((made.revision, read(&records, 2).await), (3, Some(7)));
        assert_eq!(records.get(&tenant_path(1)).await.unwrap().unwrap().revision, 2);
        set(&records, 1, 5).await.unwrap();
        let mut changes = Changes::new();
        changes.create(&tenant_path(3), &tenant(7)).require(&tenant_path(1), 2);
        assert!(matches!(records.commit(changes).await, Err(StoreError::Changed { .. })));
        assert_eq!(read(&records, 3).await, None);
    }

    #[tokio::test]
    async fn a_record_stands_in_a_change_once() {
        let place = Place::new();
        let records = place.create().await;
        let mut changes = Changes::new();
        changes.create(&tenant_path(1), &tenant(0)).create(&tenant_path(2), &tenant(0));
        changes.create(&tenant_path(1), &tenant(1));
        let error = records.commit(changes).await.unwrap_err();
        assert!(matches!(error, StoreError::Repeated { what } if what == "tenants/t1"));
    }

    #[tokio::test]
    async fn lists_are_ordered_and_go_on_where_they_stopped() {
        let place = Place::new();
        let records = place.create().await;
        let mut changes = Changes::new();
        for number in 0..10 {
            changes.create(&tenant_path(number), &tenant(number));
            changes.create(&dek_path(number), &dek(1));
        }
        records.commit(changes).await.unwrap();
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = records.page(&Prefix::all(), after.as_ref(), 3).await.unwrap().into_rows();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            seen.extend(page.into_iter().map(|(path, stored)| (path.id, stored.record)));
        }
        assert_eq!(seen, (0..10).map(|number| (tenant_id(number), tenant(number))).collect::<Vec<_>>());
        assert_eq!(records.page(&tables::deks(&key_name()), None, 100).await.unwrap().into_rows().len(), 10);
        assert!(
            records.page(&tables::deks_of(&tenant_id(1)), None, 100).await.unwrap().into_rows().is_empty()
        );
    }

    #[tokio::test]
    async fn a_view_stays_at_its_revision() {
        let place = Place::new();
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        let mut view = records.view().await.unwrap();
        set(&records, 1, 5).await.unwrap();
        add(&records, 2).await.unwrap();
        let many = view.get_many(&[tenant_path(2), tenant_path(1)]).await.unwrap();
        assert_eq!(many[0], None);
        assert_eq!(many[1].as_ref().unwrap().record.keys, 0);
        assert_eq!(view.position().revision, 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn readers_and_writers_do_not_disturb_each_other() {
        let place = Place::new();
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        let writers = (0..3).map(|_| tokio::spawn(count(records.clone(), 20)));
        let readers = (0..3).map(|_| tokio::spawn(watch(records.clone())));
        for task in writers.chain(readers).collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(read(&records, 1).await, Some(60));
    }

    async fn count(records: Records, times: u32) {
        for _ in 0..times {
            loop {
                let stored = records.get(&tenant_path(1)).await.unwrap().unwrap();
                let mut changes = Changes::new();
                changes.replace(&tenant_path(1), &tenant(stored.record.keys + 1), stored.revision);
                match records.commit(changes).await {
                    Ok(_) => break,
                    Err(StoreError::Changed { .. }) => (),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    async fn watch(records: Records) {
        let mut last = 0;
        while last < 60 {
            let now = read(&records, 1).await.unwrap();
            assert!(now >= last);
            last = now;
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_commit_outlives_its_caller() {
        let place = Place::new();
        let records = place.create().await;
        let mut changes = Changes::new();
        changes.create(&tenant_path(1), &tenant(1));
        let mut commit = Box::pin(records.commit(changes));
        assert!(commit.as_mut().now_or_never().is_none());
        drop(commit);
        add(&records, 2).await.unwrap();
        assert_eq!(read(&records, 1).await, Some(1));
    }
}
