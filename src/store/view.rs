//! Verified reads of one revision.

use std::borrow::Cow;
use std::sync::Arc;

use super::digest::{NodeId, Place, Tree, row_hash};
use super::error::StoreError;
use super::kv::{Entry, Kv, Snapshot};
use super::mac::{Genuine, StoreKeys, sealed_under};
use super::meta::{Meta, StoreChange, is_covered};
use super::tables::{Path, Prefix, Record};
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

    /// Records whose path begins with `prefix`, after `after`, in order, at most `limit`.
    ///
    /// Each is genuine and newest, but one that was deleted behind the daemon's
    /// back is not missed here: count what must be there.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn list<T: Record>(
        &mut self,
        prefix: &Prefix<T>,
        after: Option<&Path<T>>,
        limit: usize,
    ) -> Result<Vec<(Path<T>, Stored<T>)>, StoreError> {
        let after = after.map(Path::key);
        let rows = self.range(prefix.as_bytes(), after.as_deref(), limit).await?;
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
        value.map(|value| Row::open(key, value, &self.keys, self.meta.totals.revision)).transpose()
    }
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
    use crate::store::testing::{Place as Dir, add, dek, dek_path, read, set, tenant_path};
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
        assert!(records.list(&Prefix::<crate::keyring::record::Tenant>::all(), None, 10).await.is_err());
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
