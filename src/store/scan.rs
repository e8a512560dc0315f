//! Walking over every record, and adding them up.

use std::sync::Arc;

use super::blocking::blocking;
use super::digest::{Forged, Place, Tree, Walk, leaf_entry, row_hash};
use super::error::StoreError;
use super::kv::{Snapshot, Write};
use super::mac::{StoreKeys, mac_of};
use super::meta::{Meta, Totals, add, is_covered};
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
    // Sum of the MACs, as format 2 has it.
    macs: [u8; 32],
    tree: Tree,
}

/// What some records add up to at a revision.
pub(super) struct Found {
    /// As this program counts.
    pub totals: Totals,
    /// As format 2 does: without counts, and with another sum.
    format_2: Totals,
}

impl Found {
    /// Whether a store that says `expected`, in this format or in format 2, has exactly these records.
    pub(super) fn add_up_to(&self, expected: &Totals) -> bool {
        *expected == self.totals || *expected == self.format_2
    }
}

impl Sum {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { totals: Totals::EMPTY, macs: Totals::EMPTY.sum, tree: Tree::new(Totals::EMPTY.digest) }
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
        self.totals.add(key, &row.value, keys);
        self.macs = add(self.macs, mac_of(&row.value));
        if is_covered(key) {
            self.tree.set(Place::of(key), Some(row_hash(key, &row.value)));
        }
        Ok(())
    }

    /// What a store of exactly these records holds at `revision`, and the rows of
    /// its nodes, in falling order of their keys.
    pub(super) fn finish(self, revision: u64) -> (Found, Vec<Write>) {
        let (digest, nodes) = self.tree.finish();
        let totals = Totals { revision, digest, ..self.totals };
        let Totals { counts, generations, .. } = Totals::EMPTY;
        let format_2 = Totals { counts, generations, sum: self.macs, ..totals };
        (Found { totals, format_2 }, nodes)
    }
}

/// Whether the records of a snapshot are those of its totals: each of them, the newest version, and no other. It takes
/// no memory for each record.
///
/// The keyed sum in the totals says so of all records, and the digest once more of the covered ones: a second keyed
/// sum, over what the leaves of the hash tree must say of each, is that of the leaves, which lead up to the digest.
pub(super) struct Proof {
    found: Totals,
    // Of the covered records that were found: the sum of `leaf_element` of each.
    covered: [u8; 32],
}

impl Proof {
    /// Begins; revision and digest are taken from `expected`, and proved in the end.
    pub(super) fn new(expected: &Totals) -> Self {
        let found = Totals { revision: expected.revision, digest: expected.digest, ..Totals::EMPTY };
        Self { found, covered: [0; 32] }
    }

    /// What was found so far.
    pub(super) fn found(&self) -> Totals {
        self.found
    }

    /// Adds a genuine record.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8], keys: &StoreKeys) {
        self.found.add(key, value, keys);
        if is_covered(key) {
            self.covered = add(self.covered, keys.leaf_element(&leaf_entry(key, value)));
        }
    }

    /// Ends it behind the last record: reads the hash tree and compares.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when a record is missing, old or foreign, or a node is.
    pub(super) async fn finish(
        self,
        scan: &mut Scan,
        keys: &Arc<StoreKeys>,
        expected: &Totals,
    ) -> Result<(), StoreError> {
        if self.found != *expected {
            return Err(StoreError::tampered(&Meta::key(), "the records do not add up to what it says"));
        }
        let mut leaves = Leaves { walk: Walk::new(expected.digest), sum: [0; 32] };
        loop {
            let nodes = scan.next_nodes().await?;
            if nodes.is_empty() {
                break;
            }
            let keys = keys.clone();
            leaves = blocking(move || leaves.take(nodes, &keys)).await?;
        }
        let whole = leaves.walk.finish() == Ok(()) && leaves.sum == self.covered;
        let not =
            || StoreError::tampered(&Meta::key(), "the digest's hash tree is not the one of the records");
        whole.then_some(()).ok_or_else(not)
    }
}

/// The leaves of the hash tree that were read.
struct Leaves {
    walk: Walk,
    sum: [u8; 32],
}

impl Leaves {
    fn take(mut self, nodes: Vec<(Vec<u8>, Vec<u8>)>, keys: &StoreKeys) -> Result<Self, StoreError> {
        for (key, node) in nodes {
            let entries = self.walk.take(&key, &node);
            let forged = |Forged| StoreError::tampered(&key, "the node is not the one that belongs here");
            for entry in entries.map_err(forged)? {
                self.sum = add(self.sum, keys.leaf_element(entry));
            }
        }
        Ok(self)
    }
}
