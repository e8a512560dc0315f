//! Verified reads of one revision.

use std::borrow::Cow;
use std::sync::Arc;

use super::digest::{NodeId, Place, Tree, row_hash};
use super::error::StoreError;
use super::kv::{Entry, Kv, Snapshot};
use super::mac::{Genuine, StoreKeys, is_sealed, sealed_under};
use super::meta::{Meta, StoreChange, is_covered};
use super::tables::{Path, Prefix, Record, Span};
use super::timeline::{Timeline, Verdict};
use crate::id::ErasureGeneration;

/// A record and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub record: T,
    /// The store revision of the change that wrote it.
    pub revision: u64,
}

/// Some records of a list, each of them genuine and the newest; but others may be missing. Good for showing
/// a page to somebody, and for nothing that decides: that takes a [`Complete`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T: Record>(Vec<(Path<T>, Stored<T>)>);

impl<T: Record> Listing<T> {
    /// The records, in the order of their names.
    pub fn into_rows(self) -> Vec<(Path<T>, Stored<T>)> {
        self.0
    }
}

/// Every record of a table, at one revision. It comes from one view that was read to its end, with names that
/// rise strictly, each record held against the digest, and as many of them as the authenticated totals
/// count: so "there is none" and "these are all" may be concluded from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complete<T: Record>(Vec<(Path<T>, Stored<T>)>);

impl<T: Record> Complete<T> {
    /// The records, in the order of their names.
    pub fn rows(&self) -> &[(Path<T>, Stored<T>)] {
        &self.0
    }

    /// The records, in the order of their names.
    pub fn into_rows(self) -> Vec<(Path<T>, Stored<T>)> {
        self.0
    }
}

impl<T: Record> IntoIterator for Complete<T> {
    type Item = (Path<T>, Stored<T>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A walk over every record of a table, some at a time, for tables that are too large for a [`Complete`]. What
/// it gives out decides nothing until [`next`](Self::next) has answered `None`: only then it is known that none
/// was missing.
pub struct Pass<T: Record> {
    view: View,
    last: Option<Vec<u8>>,
    found: u64,
    of: std::marker::PhantomData<fn() -> T>,
}

impl<T: Record> Pass<T> {
    /// The next records in the order of their names; `None` behind the last one, when all were there.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when a record is not genuine, stands twice or is missing.
    pub async fn next(&mut self) -> Result<Option<Vec<(Path<T>, Stored<T>)>>, StoreError> {
        self.view.forget_nodes();
        let page = self.view.list(&Prefix::<T>::all(), self.last.as_deref(), PAGE).await?;
        let Some((last, _)) = page.last() else {
            return match self.view.meta.totals.counts.of(T::TABLE.byte()) {
                all if all == self.found => Ok(None),
                all => Err(StoreError::incomplete(T::TABLE, all, self.found)),
            };
        };
        self.last = Some(last.key());
        self.found += page.len() as u64;
        Ok(Some(page))
    }
}

/// Records of a list that are read at a time.
const PAGE: usize = 500;

/// One revision of the store. Everything read from it is verified: the MAC of
/// each record and, for a covered table, the record's place in the digest, so
/// that an old record put back, a deleted and an inserted one all show.
///
/// Keep a view for one use and drop it: the backend keeps old pages for it.
pub struct View {
    pub(super) snapshot: Box<dyn Snapshot>,
    keys: Arc<StoreKeys>,
    pub(super) meta: Meta,
    // Backend revision of the meta row; what a commit expects.
    pub(super) meta_revision: u64,
    pub(super) tree: Tree,
}

impl View {
    /// Opens a view of the newest revision, which must be one of `timeline`.
    pub(super) async fn open(
        kv: &dyn Kv,
        keys: &Arc<StoreKeys>,
        timeline: &Timeline,
    ) -> Result<Self, StoreError> {
        loop {
            let since = timeline.current();
            let view = Self::open_any(kv, keys).await?;
            match timeline.judge(&view.meta, &since) {
                Verdict::Ours => return Ok(view),
                Verdict::Forgotten => (),
                Verdict::Foreign => {
                    return Err(StoreError::tampered(&Meta::key(), "it is not as the daemon left it"));
                }
            }
        }
    }

    /// Opens a view of the newest revision, whatever it is, as long as it is genuine.
    pub(super) async fn open_any(kv: &dyn Kv, keys: &Arc<StoreKeys>) -> Result<Self, StoreError> {
        let mut snapshot = kv.snapshot().await?;
        let entry = Meta::entry(snapshot.as_mut()).await?;
        let entry = entry.ok_or_else(|| StoreError::tampered(&Meta::key(), "it is gone"))?;
        let meta = Meta::open(&entry.value, keys)?;
        let tree = Tree::new(meta.totals.digest);
        Ok(Self { snapshot, keys: keys.clone(), meta, meta_revision: entry.revision, tree })
    }

    /// The revision seen, and the digest at it.
    pub fn position(&self) -> StoreChange {
        self.meta.totals.change()
    }

    /// One record.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when it, its absence or the digest is not genuine.
    pub async fn get<T: Record>(&mut self, path: &Path<T>) -> Result<Option<Stored<T>>, StoreError> {
        Ok(self.get_many(std::slice::from_ref(path)).await?.pop().flatten())
    }

    /// Several records, in the order of `paths`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_many<T: Record>(
        &mut self,
        paths: &[Path<T>],
    ) -> Result<Vec<Option<Stored<T>>>, StoreError> {
        let keys: Vec<Vec<u8>> = paths.iter().map(Path::key).collect();
        let rows = self.rows(&keys).await?;
        let decode =
            |(key, row): (&Vec<u8>, Option<Row>)| row.map(|row| row.decode(key, &self.keys)).transpose();
        keys.iter().zip(rows).map(decode).collect()
    }

    /// Records whose path begins with `prefix`, after `after`, in order, at most `limit`, to be shown.
    ///
    /// # Errors
    /// As [`get`](Self::get); also when the backend gives rows that are not asked for, or not in order.
    pub async fn page<T: Record>(
        &mut self,
        prefix: &Prefix<T>,
        after: Option<&Path<T>>,
        limit: usize,
    ) -> Result<Listing<T>, StoreError> {
        let after = after.map(Path::key);
        self.list(prefix, after.as_deref(), limit).await.map(Listing)
    }

    /// Every record of a table.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] and [`StoreError::Tampered`] when one is missing, doubled or not genuine.
    pub async fn complete<T: Record>(&mut self) -> Result<Complete<T>, StoreError> {
        let count = self.meta.totals.counts.of(T::TABLE.byte());
        self.counted(&Prefix::all(), count).await
    }

    /// The records whose path begins with `prefix`, of which there must be `count`: that stands in a covered
    /// record of this very view.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when one is missing, doubled or not genuine.
    pub async fn counted<T: Record>(
        &mut self,
        prefix: &Prefix<T>,
        count: u64,
    ) -> Result<Complete<T>, StoreError> {
        const { assert!(T::TABLE.covered()) };
        let mut all: Vec<(Path<T>, Stored<T>)> = Vec::new();
        loop {
            self.forget_nodes();
            let after = all.last().map(|(path, _)| path.key());
            let page = self.list(prefix, after.as_deref(), PAGE).await?;
            match page.is_empty() {
                true if all.len() as u64 == count => return Ok(Complete(all)),
                true => return Err(StoreError::incomplete(T::TABLE, count, all.len() as u64)),
                false => all.extend(page),
            }
        }
    }

    /// As [`counted`](Self::counted), of neighbouring records.
    ///
    /// # Errors
    /// As [`counted`](Self::counted).
    pub async fn counted_in<T: Record>(
        &mut self,
        span: &Span<T>,
        count: u64,
    ) -> Result<Complete<T>, StoreError> {
        const { assert!(T::TABLE.covered()) };
        let (mut all, mut after) = (Vec::new(), span.from.clone());
        loop {
            self.forget_nodes();
            let page = self.list(&Prefix::all(), Some(&after), PAGE).await?;
            let inside = page.into_iter().take_while(|(path, _): &(Path<T>, _)| path.key() < span.to);
            let before = all.len();
            all.extend(inside);
            match all.last() {
                Some((path, _)) if all.len() == before + PAGE => after = path.key(),
                _ if all.len() as u64 == count => return Ok(Complete(all)),
                _ => return Err(StoreError::incomplete(T::TABLE, count, all.len() as u64)),
            }
        }
    }

    /// Walks over every record of a table.
    pub fn pass<T: Record>(self) -> Pass<T> {
        // Nothing says of an uncovered record whether it is the newest, so a count of them proves nothing.
        const { assert!(T::TABLE.covered()) };
        Pass { view: self, last: None, found: 0, of: std::marker::PhantomData }
    }

    /// Gives back the nodes of pages before: they are not needed again, and a million records have 200 MB of them.
    fn forget_nodes(&mut self) {
        self.tree = Tree::new(self.meta.totals.digest);
    }

    async fn list<T: Record>(
        &mut self,
        prefix: &Prefix<T>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Path<T>, Stored<T>)>, StoreError> {
        let rows = self.range(prefix.as_bytes(), after, limit).await?;
        rows.iter().map(|(key, row)| listed(key, row, &self.keys)).collect()
    }

    /// The verified rows whose key begins with `prefix`, after the key `after`, in order, at most `limit`.
    pub(super) async fn range(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Row)>, StoreError> {
        let found = self.snapshot.range(prefix, after, limit).await?;
        in_order(prefix, after, found.iter().map(|(key, _)| key.as_slice()))?;
        let (keys, values): (Vec<_>, Vec<_>) =
            found.into_iter().map(|(key, entry)| (key, entry.value)).unzip();
        let ids = self.missing_nodes(&keys);
        let node_keys: Vec<Vec<u8>> = ids.iter().map(|id| id.key()).collect();
        let nodes = self.snapshot.get_many(&node_keys).await?;
        self.take_nodes(ids, nodes)?;
        let mut rows = Vec::with_capacity(keys.len());
        for (key, value) in keys.into_iter().zip(values) {
            rows.extend(self.verify(&key, Some(value))?.map(|row| (key, row)));
        }
        Ok(rows)
    }

    /// The verified rows of some keys.
    pub(super) async fn rows(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Row>>, StoreError> {
        let nodes = self.missing_nodes(keys);
        let wanted: Vec<Vec<u8>> = keys.iter().cloned().chain(nodes.iter().map(|id| id.key())).collect();
        let mut found = self.snapshot.get_many(&wanted).await?;
        self.take_nodes(nodes, found.split_off(keys.len()))?;
        let values = found.into_iter().map(|entry| entry.map(|entry| entry.value));
        keys.iter().zip(values).map(|(key, value)| self.verify(key, value)).collect()
    }

    fn missing_nodes(&self, keys: &[Vec<u8>]) -> Vec<NodeId> {
        self.tree.missing(keys.iter().filter(|key| is_covered(key)).map(|key| Place::of(key)))
    }

    fn take_nodes(&mut self, ids: Vec<NodeId>, nodes: Vec<Option<Entry>>) -> Result<(), StoreError> {
        for (id, node) in ids.into_iter().zip(nodes) {
            let forged = |_| StoreError::tampered(&id.key(), "the node is not the one that belongs here");
            self.tree.add(id, node.map(|entry| entry.value)).map_err(forged)?;
        }
        Ok(())
    }

    fn verify(&self, key: &[u8], value: Option<Vec<u8>>) -> Result<Option<Row>, StoreError> {
        if is_covered(key) {
            let found = value.as_ref().map(|value| row_hash(key, value));
            match (found, self.tree.find(Place::of(key))) {
                (found, belongs) if found == belongs => (),
                (Some(_), Some(_)) => return Err(StoreError::tampered(key, "it is not the newest one")),
                (Some(_), None) => return Err(StoreError::tampered(key, "it does not belong there")),
                (None, _) => return Err(StoreError::tampered(key, "it was removed")),
            }
        }
        let row =
            value.map(|value| Row::open(key, value, &self.keys, self.meta.totals.revision)).transpose()?;
        let generations = &self.meta.totals.generations;
        match &row {
            // An old row that was put back, of a table that the digest does not cover.
            Some(row) if is_sealed(key) && generations.under(row.sealed_under()) == 0 => {
                Err(StoreError::tampered(key, "no row is sealed under its erasure key any more"))
            }
            _ => Ok(row),
        }
    }
}

/// The tree of a database file can be built by hand, with a row in it twice or in another row's place.
fn in_order<'a>(
    prefix: &[u8],
    after: Option<&'a [u8]>,
    keys: impl Iterator<Item = &'a [u8]>,
) -> Result<(), StoreError> {
    let mut last = after;
    for key in keys {
        if !key.starts_with(prefix) || last.is_some_and(|last| key <= last) {
            return Err(StoreError::tampered(key, "it stands twice, or out of its place"));
        }
        last = Some(key);
    }
    Ok(())
}

fn listed<T: Record>(key: &[u8], row: &Row, keys: &StoreKeys) -> Result<(Path<T>, Stored<T>), StoreError> {
    let path = Path::parse(key).ok_or_else(|| StoreError::tampered(key, "its name is malformed"))?;
    Ok((path, row.decode(key, keys)?))
}

/// A genuine row.
pub(super) struct Row {
    /// The stored value, with revision and MAC.
    pub value: Vec<u8>,
    /// The revision that wrote it.
    pub revision: u64,
    payload_at: usize,
    sealed: bool,
}

impl Row {
    /// Checks the MAC, and that the row is not from after `newest`.
    pub(super) fn open(
        key: &[u8],
        value: Vec<u8>,
        keys: &StoreKeys,
        newest: u64,
    ) -> Result<Self, StoreError> {
        let opened = keys
            .open(key, &value)
            .map(|Genuine { revision, sealed, payload }| (revision, sealed, value.len() - payload.len()));
        match opened {
            None => Err(StoreError::tampered(key, "its code does not match")),
            Some((revision, ..)) if revision > newest => {
                Err(StoreError::tampered(key, "it is newer than the store"))
            }
            Some((revision, sealed, payload_at)) => Ok(Self { value, revision, payload_at, sealed }),
        }
    }

    /// The generation of the erasure key that it is sealed under; `None` when it is not sealed.
    pub(super) fn sealed_under(&self) -> Option<ErasureGeneration> {
        sealed_under(&self.value)
    }

    /// The record's bytes, opened when they are sealed.
    ///
    /// # Errors
    /// [`StoreError::Erased`] when the erasure key that they are sealed under is not open.
    pub(super) fn payload(&self, key: &[u8], keys: &StoreKeys) -> Result<Cow<'_, [u8]>, StoreError> {
        let payload = self.value.get(self.payload_at..).unwrap_or_default();
        match self.sealed {
            true => keys.erasure.open(key, self.revision, payload).map(Cow::Owned),
            false => Ok(Cow::Borrowed(payload)),
        }
    }

    pub(super) fn decode<T: Record>(&self, key: &[u8], keys: &StoreKeys) -> Result<Stored<T>, StoreError> {
        let record = minicbor::decode(&self.payload(key, keys)?)
            .map_err(|_| StoreError::tampered(key, "it is genuine but cannot be read by this version"))?;
        Ok(Stored { record, revision: self.revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::record::Tenant;
    use crate::store::testing::{FaultyKv, Lie, Place as Dir, add, dek, dek_path, read, set, tenant_path};
    use crate::store::{Changes, Records};

    /// Two tenants, the second one changed once; what the rows were before.
    async fn store(place: &Dir) -> (Records, Vec<u8>, Vec<u8>) {
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        add(&records, 2).await.unwrap();
        let (old, meta) = (place.peek(&tenant_path(2).key()), place.peek(&Meta::key()));
        set(&records, 2, 5).await.unwrap();
        (records, old, meta)
    }

    async fn assert_tampered(records: &Records, number: u32, how: &str) {
        match records.get(&tenant_path(number)).await {
            Err(error @ StoreError::Tampered { .. }) => assert!(error.to_string().contains(how), "{error}"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_old_record_put_back_is_noticed_at_once_and_after_a_restart() {
        let place = Dir::new();
        let (records, old, _) = store(&place).await;
        place.poke(&tenant_path(2).key(), &old);
        assert_tampered(&records, 2, "tenants/t2 was tampered with or damaged: it is not the newest").await;
        assert!(records.page(&Prefix::<crate::keyring::record::Tenant>::all(), None, 10).await.is_err());
        assert!(set(&records, 2, 6).await.is_err(), "it cannot be changed either");
        assert_eq!(read(&records, 1).await, Some(0), "others are not affected");
        drop(records);
        let (records, _) = place.open().await.unwrap();
        assert_tampered(&records, 2, "not the newest").await;
    }

    #[tokio::test]
    async fn a_removed_record_is_noticed_at_once_and_after_a_restart() {
        let place = Dir::new();
        let (records, ..) = store(&place).await;
        assert_eq!(place.sql("DELETE FROM kv WHERE key = ?1", &tenant_path(2).key()), 1);
        assert_tampered(&records, 2, "it was removed").await;
        assert!(add(&records, 2).await.is_err(), "a frozen one cannot be made anew");
        drop(records);
        assert_tampered(&place.open().await.unwrap().0, 2, "it was removed").await;
    }

    #[tokio::test]
    async fn a_deleted_record_put_back_is_noticed() {
        let place = Dir::new();
        let (records, ..) = store(&place).await;
        let key = tenant_path(2).key();
        let genuine = place.peek(&key);
        let mut changes = Changes::new();
        changes.delete(&tenant_path(2), records.position().revision);
        records.commit(changes).await.unwrap();
        place.poke(&key, &genuine);
        assert_tampered(&records, 2, "it does not belong there").await;
    }

    #[tokio::test]
    async fn a_list_to_decide_from_has_every_record_or_is_refused() {
        const TENANTS: u32 = 2 * PAGE as u32 + 3;
        let place = Dir::new();
        let kv = FaultyKv::new(place.kv().await);
        let records = place.create_on(kv.clone()).await;
        let mut changes = Changes::new();
        for number in 0..TENANTS {
            changes.create(&tenant_path(number), &crate::store::testing::tenant(0));
        }
        records.commit(changes).await.unwrap();
        let names: Vec<_> = records.complete().await.unwrap().into_rows();
        assert_eq!(names.len(), TENANTS as usize);
        // First, last, in between, and at the borders of pages.
        for at in [0, 1, PAGE - 1, PAGE, PAGE + 1, names.len() - 2, names.len() - 1] {
            let path: &Path<Tenant> = &names[at].0;
            for lie in Lie::ALL {
                kv.lie(lie, path.key());
                let lied = records.complete::<Tenant>().await;
                // The first one of a list cannot be told from one that was put there.
                let harmless = lie == Lie::Misplaced && (at == 0 || at == PAGE);
                assert_eq!(lied.is_err(), !harmless, "{lie:?} at {at}");
                let mut pass = records.pass::<Tenant>().await.unwrap();
                let walked = async {
                    while pass.next().await?.is_some() {}
                    Ok::<_, StoreError>(())
                }
                .await;
                assert_eq!(walked.is_err(), !harmless, "{lie:?} at {at}");
            }
            kv.be_honest();
            assert_eq!(records.complete::<Tenant>().await.unwrap().rows().len(), names.len());
        }
    }

    #[tokio::test]
    async fn none_is_an_answer_only_when_there_never_was_one() {
        let place = Dir::new();
        let (records, ..) = store(&place).await;
        assert!(records.complete::<crate::keyring::roster::Roster>().await.unwrap().rows().is_empty());
        for number in 1..=2 {
            assert_eq!(place.sql("DELETE FROM kv WHERE key = ?1", &tenant_path(number).key()), 1);
        }
        let error = records.complete::<Tenant>().await.unwrap_err();
        assert!(matches!(error, StoreError::Incomplete { expected: 2, found: 0, .. }), "{error}");
        drop(records);
        let (records, _) = place.open().await.unwrap();
        assert!(records.complete::<Tenant>().await.is_err(), "nor after a restart");
    }

    #[tokio::test]
    async fn a_changed_or_moved_record_is_noticed() {
        let place = Dir::new();
        let (records, ..) = store(&place).await;
        let mut changes = Changes::new();
        changes.create(&dek_path(1), &dek(1)).create(&dek_path(2), &dek(2));
        records.commit(changes).await.unwrap();
        place.poke(&dek_path(1).key(), &place.peek(&dek_path(2).key()));
        assert!(matches!(records.get(&dek_path(1)).await, Err(StoreError::Tampered { .. })));
        let mut value = place.peek(&dek_path(2).key());
        *value.last_mut().unwrap() ^= 1;
        place.poke(&dek_path(2).key(), &value);
        assert!(matches!(records.get(&dek_path(2)).await, Err(StoreError::Tampered { .. })));
    }

    #[tokio::test]
    async fn a_record_from_the_future_is_noticed() {
        let place = Dir::new();
        let (records, ..) = store(&place).await;
        let mut changes = Changes::new();
        changes.create(&dek_path(1), &dek(1));
        let made = records.commit(changes).await.unwrap();
        let image = place.image();
        let mut changes = Changes::new();
        changes.replace(&dek_path(1), &dek(2), made.revision);
        records.commit(changes).await.unwrap();
        let (old, _) = image.open().await.unwrap();
        image.poke(&dek_path(1).key(), &place.peek(&dek_path(1).key()));
        let error = old.get(&dek_path(1)).await.unwrap_err().to_string();
        assert!(error.contains("newer than the store"), "{error}");
    }

    #[tokio::test]
    async fn edited_nodes_are_noticed_at_every_level() {
        for node in Place::of(&tenant_path(2).key()).nodes() {
            let place = Dir::new();
            let (records, ..) = store(&place).await;
            let genuine = place.peek(&node.key());
            let mut edited = genuine.clone();
            edited[17] ^= 1;
            place.poke(&node.key(), &edited);
            assert_tampered(&records, 2, "digest record").await;
            place.poke(&node.key(), &genuine);
            assert_eq!(read(&records, 2).await, Some(5));
            place.sql("DELETE FROM kv WHERE key = ?1", &node.key());
            assert_tampered(&records, 2, "digest record").await;
            drop(records);
            match place.open().await {
                Ok((records, _)) => assert_tampered(&records, 2, "digest record").await,
                // Opening reads records too, and may come past the node.
                Err(error) => assert!(matches!(error, StoreError::Tampered { .. }), "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn an_old_meta_row_is_noticed_at_once_and_after_a_restart() {
        let place = Dir::new();
        let (records, old, meta) = store(&place).await;
        place.poke(&Meta::key(), &meta);
        assert_tampered(&records, 1, "it is not as the daemon left it").await;
        // With the old record the meta row fits better, but the nodes are still the new ones.
        place.poke(&tenant_path(2).key(), &old);
        assert!(matches!(set(&records, 2, 6).await, Err(StoreError::Tampered { .. })));
        drop(records);
        let error = place.open().await.err().unwrap();
        assert!(matches!(error, StoreError::Tampered { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_whole_old_store_put_back_under_the_daemon_is_noticed() {
        let place = Dir::new();
        let (records, ..) = store(&place).await;
        let image = place.image();
        set(&records, 2, 6).await.unwrap();
        let old = image.open().await.unwrap().0;
        // The old store is consistent in itself, but it is not where this daemon left it.
        let since = records.inner.timeline.current();
        let view = View::open_any(old.inner.kv.as_ref(), &old.inner.keys).await.unwrap();
        assert_eq!(records.inner.timeline.judge(&view.meta, &since), Verdict::Foreign);
    }

    #[tokio::test]
    async fn an_old_wrapped_dek_is_genuine_to_a_reader() {
        // Not covered by the digest; the full check and the key hierarchy notice it.
        let place = Dir::new();
        let (records, ..) = store(&place).await;
        let mut changes = Changes::new();
        changes.create(&dek_path(1), &dek(1));
        let made = records.commit(changes).await.unwrap();
        let old = place.peek(&dek_path(1).key());
        let mut changes = Changes::new();
        changes.replace(&dek_path(1), &dek(2), made.revision);
        records.commit(changes).await.unwrap();
        place.poke(&dek_path(1).key(), &old);
        assert_eq!(records.get(&dek_path(1)).await.unwrap().unwrap().record, dek(1));
    }
}
