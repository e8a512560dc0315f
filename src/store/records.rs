//! What the rest of the program uses: typed records, verified reads, atomic changes.

use std::path::Path as FilePath;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::commit::Writer;
use super::error::StoreError;
use super::kv::{Kv, Write};
use super::mac::StoreKeys;
use super::meta::{Meta, StoreChange};
use super::recover::{self, OpenReport};
use super::tables::{Path, Prefix, Record, describe};
use super::timeline::Timeline;
use super::view::{Row, Stored, View};
use crate::id::DeploymentId;
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
        let timeline = Timeline::new(meta);
        let inner =
            Inner { kv, keys, deployment, timeline, writer: Mutex::new(writer), compacting: Mutex::new(()) };
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

    /// Records whose path begins with `prefix`; see [`View::list`].
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn list<T: Record>(
        &self,
        prefix: &Prefix<T>,
        after: Option<&Path<T>>,
        limit: usize,
    ) -> Result<Vec<(Path<T>, Stored<T>)>, StoreError> {
        self.view().await?.list(prefix, after, limit).await
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

    /// How much there is.
    pub fn stats(&self) -> Stats {
        let Meta { totals, journal, .. } = self.inner.timeline.current();
        Stats {
            revision: totals.revision,
            records: totals.records,
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
pub struct Changes(Vec<Planned>);

#[derive(Debug)]
struct Planned {
    key: Vec<u8>,
    // The revision that wrote the record to be changed; none for a new one.
    expect: Option<u64>,
    effect: Effect,
}

/// What is done with a record that is as expected.
#[derive(Debug)]
enum Effect {
    Write(Vec<u8>),
    Delete,
    Nothing,
}

impl Changes {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new record; there must be none at `path`.
    pub fn create<T: Record>(&mut self, path: &Path<T>, record: &T) -> &mut Self {
        self.plan(path, None, record)
    }

    /// A new value for the record that the change `revision` wrote.
    pub fn replace<T: Record>(&mut self, path: &Path<T>, record: &T, revision: u64) -> &mut Self {
        self.plan(path, Some(revision), record)
    }

    /// No longer the record that the change `revision` wrote.
    pub fn delete<T: Record>(&mut self, path: &Path<T>, revision: u64) -> &mut Self {
        self.0.push(Planned { key: path.key(), expect: Some(revision), effect: Effect::Delete });
        self
    }

    /// Only if the record is still the one that the change `revision` wrote: what is changed here was worked out from it.
    pub fn require<T: Record>(&mut self, path: &Path<T>, revision: u64) -> &mut Self {
        self.0.push(Planned { key: path.key(), expect: Some(revision), effect: Effect::Nothing });
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
            self.0.push(Planned { key, expect: Some(revision), effect: Effect::Delete });
        }
        self.create(tombstone, record)
    }

    /// The same record once more, so that it is sealed under the newest erasure key.
    pub(super) fn again(&mut self, key: Vec<u8>, revision: u64, payload: Vec<u8>) {
        self.0.push(Planned { key, expect: Some(revision), effect: Effect::Write(payload) });
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn plan<T: Record>(&mut self, path: &Path<T>, expect: Option<u64>, record: &T) -> &mut Self {
        let payload = minicbor::to_vec(record).expect("encoding into memory cannot fail");
        self.0.push(Planned { key: path.key(), expect, effect: Effect::Write(payload) });
        self
    }

    /// Makes these changes too.
    pub fn add(&mut self, others: Self) -> &mut Self {
        self.0.extend(others.0);
        self
    }

    /// The keys that change, in order.
    pub(super) fn keys(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let keys: Vec<Vec<u8>> = self.0.iter().map(|planned| planned.key.clone()).collect();
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
        for (planned, old) in self.0.into_iter().zip(old) {
            if let Some(write) = planned.write(old.as_ref(), revision, keys)? {
                writes.push(write);
                replaced.push(old);
            }
        }
        Ok((writes, replaced))
    }
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
            Effect::Delete => None,
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
            let page = records.list(&Prefix::all(), after.as_ref(), 3).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            seen.extend(page.into_iter().map(|(path, stored)| (path.id, stored.record)));
        }
        assert_eq!(seen, (0..10).map(|number| (tenant_id(number), tenant(number))).collect::<Vec<_>>());
        assert_eq!(records.list(&tables::deks(&key_name()), None, 100).await.unwrap().len(), 10);
        assert!(records.list(&tables::deks_of(&tenant_id(1)), None, 100).await.unwrap().is_empty());
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
