//! Walking over every record, and adding them up.

use super::digest::{Place, Tree, row_hash};
use super::error::StoreError;
use super::kv::{Snapshot, Write};
use super::mac::StoreKeys;
use super::meta::{Totals, is_covered};
use super::tables::Table;
use super::view::Row;

/// Rows that are held in memory at a time.
pub(super) const CHUNK: usize = 1000;

/// Walks over the records of a snapshot in key order.
pub(super) struct Scan {
    snapshot: Box<dyn Snapshot>,
    after: Option<Vec<u8>>,
}

impl Scan {
    /// Begins with the first record.
    pub(super) fn new(snapshot: Box<dyn Snapshot>) -> Self {
        Self { snapshot, after: None }
    }

    /// The next rows, as they are; none at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let found = self.snapshot.range(b"", self.after.as_deref(), CHUNK).await?;
        // The store's own rows sort behind all records.
        let records = found.into_iter().take_while(|(key, _)| key.first() < Some(&Table::Digest.byte()));
        let records: Vec<_> = records.map(|(key, entry)| (key, entry.value)).collect();
        if let Some((last, _)) = records.last() {
            self.after = Some(last.clone());
        }
        Ok(records)
    }

    /// When the records are at their end: the next stored nodes of the digest's
    /// hash tree, in order; none at the end.
    pub(super) async fn next_nodes(&mut self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let found = self.snapshot.range(&[Table::Digest.byte()], self.after.as_deref(), CHUNK).await?;
        if let Some((last, _)) = found.last() {
            self.after = Some(last.clone());
        }
        Ok(found.into_iter().map(|(key, entry)| (key, entry.value)).collect())
    }

    /// One row.
    pub(super) async fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.snapshot.get(key).await?.map(|entry| entry.value))
    }
}

/// What some records add up to.
pub(super) struct Sum {
    totals: Totals,
    tree: Tree,
}

impl Sum {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { totals: Totals::EMPTY, tree: Tree::new(Totals::EMPTY.digest) }
    }

    /// Checks a record of a store at revision `newest` and adds it.
    pub(super) fn add(
        &mut self,
        key: &[u8],
        value: Vec<u8>,
        keys: &StoreKeys,
        newest: u64,
    ) -> Result<(), StoreError> {
        let row = Row::open(key, value, keys, newest)?;
        self.totals.add(key, &row.value);
        if is_covered(key) {
            self.tree.set(Place::of(key), Some(row_hash(key, &row.value)));
        }
        Ok(())
    }

    /// What a store of exactly these records holds at `revision`, and the rows of
    /// its nodes, in falling order of their keys.
    pub(super) fn finish(self, revision: u64) -> (Totals, Vec<Write>) {
        let (digest, nodes) = self.tree.finish();
        (Totals { revision, digest, ..self.totals }, nodes)
    }
}
