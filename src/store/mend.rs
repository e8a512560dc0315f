//! Rows of the store that are not those of the key journal are put back from it, while the daemon works.
//!
//! ```text
//! a full scan has found that the records are not those of the totals ─ no change is made meanwhile
//!   ─ the journal up to the place in the meta row: which version of each record is the newest ─ every row against that
//!   ─ digest and counts of the covered records must come out as the meta row says ─ rows and nodes, beside the same meta row
//!   ─ where a change was made on top of an old row: the totals anew, in a change of its own
//! ```
//!
//! The journal is a chain of codes from its header to the place that the meta row in the daemon's memory names, so
//! up to there it is what the daemon wrote; it began with records that added up. It needs about 100 bytes of
//! memory for each record, and the digest's hash tree, as a check does.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use super::blocking::blocking;
use super::check::{Copy, half};
use super::commit::lock;
use super::digest::Place;
use super::error::{Refusal, StoreError};
use super::journal::Journal;
use super::kv::{Expect, Transaction, Write};
use super::log::Cause;
use super::mac::StoreKeys;
use super::meta::{JournalPoint, Meta, StoreChange, Totals};
use super::records::{Inner, Records};
use super::scan::{Scan, Sum};
use super::tables::describe;
use super::view::View;

/// Names of rows that are told; the rest is only counted.
const TOLD: usize = 50;

/// What was put back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Names of rows that were put back or taken away, the first fifty of them.
    pub rows: Vec<String>,
    /// How many rows there were.
    pub count: usize,
    /// Nodes of the digest that were put back or taken away.
    pub nodes: usize,
    /// The change that corrected the totals; none where they were right.
    pub change: Option<StoreChange>,
}

impl Restored {
    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows of the store are again as the key journal has them", self.count)?;
        if !self.rows.is_empty() {
            write!(f, ": {}", self.rows.join(", "))?;
        }
        if self.count > self.rows.len() {
            write!(f, " and {} more", self.count - self.rows.len())?;
        }
        if self.nodes > 0 {
            write!(f, "; {} nodes of the digest too", self.nodes)?;
        }
        match self.change {
            Some(_) => {
                f.write_str("; a change had been made on top of an old row, and the totals are corrected")
            }
            None => Ok(()),
        }
    }
}

impl Records {
    /// Puts back from the key journal every row that is not the newest one, missing or foreign. Changes wait
    /// until it is done. `cause` is what the audit log calls it, if the totals have to be corrected.
    ///
    /// # Errors
    /// When the journal does not have what the digest says, or is damaged: then nothing was done, and the store
    /// is for `keyward store check`. Also when a row stands twice in the database, which no writing mends.
    pub async fn restore_rows(&self, cause: Cause) -> Result<Restored, StoreError> {
        let inner = self.inner.clone();
        match tokio::spawn(async move { inner.restore_rows(cause).await }).await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => Err(StoreError::Stopped),
        }
    }
}

impl Inner {
    async fn restore_rows(&self, cause: Cause) -> Result<Restored, StoreError> {
        // Held to the end: the journal ends where the meta row says, and goes on ending there.
        let mut writer = self.writer.lock().await;
        self.settle(&mut writer).await?;
        let View { snapshot, meta, meta_revision, .. } = self.view().await?;
        let (journal, end) = (writer.journal.clone(), meta.journal);
        let newest = blocking(move || newest_versions(&journal, end)).await?;
        let mut scan = Scan::new(snapshot);
        let survey = self.survey(&mut scan, newest, meta.totals.revision).await?;
        let (journal, keys, expected) = (writer.journal.clone(), self.keys.clone(), meta.totals);
        let plan = blocking(move || survey.plan(&journal, end, &keys, &expected)).await?;
        let nodes = wrong_nodes(&mut scan, plan.nodes).await?;
        // Its snapshot is of no more use, and keeps the database's log from being cut.
        drop(scan);
        let rows = plan.rows.iter().map(|write| describe(&write.key)).take(TOLD).collect();
        let mut restored = Restored { rows, count: plan.rows.len(), nodes: nodes.len(), change: None };
        let writes: Vec<Write> = plan.rows.into_iter().chain(nodes).collect();
        if !writes.is_empty() {
            // The meta row stays: what is written is what it says of the store already.
            let expect = vec![Expect { key: Meta::key(), revision: Some(meta_revision) }];
            self.kv.commit(Transaction { expect, writes }).await?;
        }
        // Only now: a crash before leaves totals that the next scan finds wrong once more, and never rows
        // that are not those of the journal beside totals that say they were.
        if plan.totals != meta.totals {
            restored.change = Some(self.recount(&mut writer, &plan.totals, cause).await?);
        }
        Ok(restored)
    }

    async fn survey(&self, scan: &mut Scan, newest: Copy, revision: u64) -> Result<Survey, StoreError> {
        let mut survey =
            Survey { newest, sum: Sum::new(), wanted: HashSet::new(), foreign: Vec::new(), last: None };
        loop {
            let rows = scan.next().await?;
            if rows.is_empty() {
                return Ok(survey);
            }
            let keys = self.keys.clone();
            survey = blocking(move || survey.take(rows, &keys, revision)).await?;
        }
    }
}

fn newest_versions(journal: &Mutex<Journal>, end: JournalPoint) -> Result<Copy, StoreError> {
    let mut newest = Copy::default();
    lock(journal).source().reader()?.each_until(end, |entry| newest.apply(&entry.writes))?;
    Ok(newest)
}

/// The newest rows at some places.
fn rows_at(
    journal: &Mutex<Journal>,
    end: JournalPoint,
    wanted: &HashSet<Place>,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
    let mut rows = BTreeMap::new();
    lock(journal).source().reader()?.each_until(end, |entry| {
        for Write { key, value } in entry.writes {
            if wanted.contains(&Place::of(&key)) {
                match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
        }
    })?;
    Ok(rows)
}

/// The rows of the store, held against the journal.
struct Survey {
    // Records of the journal that were not met yet.
    newest: Copy,
    // The rows that are as the journal has them.
    sum: Sum,
    // The others, where the journal has one.
    wanted: HashSet<Place>,
    // Where it has none.
    foreign: Vec<Vec<u8>>,
    last: Option<Vec<u8>>,
}

impl Survey {
    fn take(
        mut self,
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        keys: &StoreKeys,
        revision: u64,
    ) -> Result<Self, StoreError> {
        for (key, value) in rows {
            rising(self.last.as_deref(), &key)?;
            let place = Place::of(&key);
            match self.newest.0.remove(&place) {
                Some(version) if version == half(&value) && keys.open(&key, &value).is_some() => {
                    self.sum.add(&key, value, keys, revision)?;
                }
                Some(_) => {
                    self.wanted.insert(place);
                }
                None => self.foreign.push(key.clone()),
            }
            self.last = Some(key);
        }
        Ok(self)
    }

    /// What is to be written, if that makes the covered records those of `expected`.
    fn plan(
        self,
        journal: &Mutex<Journal>,
        end: JournalPoint,
        keys: &StoreKeys,
        expected: &Totals,
    ) -> Result<Plan, StoreError> {
        let Self { newest, mut sum, mut wanted, foreign, .. } = self;
        wanted.extend(newest.0.into_keys());
        let found = if wanted.is_empty() { BTreeMap::new() } else { rows_at(journal, end, &wanted)? };
        let mut rows: Vec<Write> = foreign.into_iter().map(|key| Write { key, value: None }).collect();
        let all = found.len() == wanted.len();
        for (key, value) in found {
            sum.add(&key, value.clone(), keys, expected.revision)?;
            rows.push(Write { key, value: Some(value) });
        }
        let (found, nodes) = sum.finish(expected.revision);
        if !all || !found.totals.covers_the_same(expected) {
            return Err(Refusal::Diverged { revision: expected.revision }.into());
        }
        Ok(Plan { rows, nodes, totals: found.totals })
    }
}

/// What makes the store that of the journal again.
struct Plan {
    rows: Vec<Write>,
    // All nodes of the digest.
    nodes: Vec<Write>,
    // What the records add up to then.
    totals: Totals,
}

/// The writes that make the stored nodes these.
pub(super) async fn wrong_nodes(scan: &mut Scan, nodes: Vec<Write>) -> Result<Vec<Write>, StoreError> {
    let mut right: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
        nodes.into_iter().map(|Write { key, value }| (key, value)).collect();
    let (mut wrong, mut last) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let stored = scan.next_nodes().await?;
        if stored.is_empty() {
            break;
        }
        for (key, node) in stored {
            rising(last.as_deref(), &key)?;
            match right.remove(&key) {
                Some(Some(same)) if same == node => (),
                value => wrong.push(Write { key: key.clone(), value: value.flatten() }),
            }
            last = Some(key);
        }
    }
    // Those that are missing.
    wrong.extend(
        right.into_iter().filter(|(_, node)| node.is_some()).map(|(key, value)| Write { key, value }),
    );
    Ok(wrong)
}

/// A row that stands twice in the tree of the database file cannot be written away.
fn rising(last: Option<&[u8]>, key: &[u8]) -> Result<(), StoreError> {
    match last {
        Some(last) if last >= key => Err(StoreError::tampered(key, "it stands twice, or out of its place")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
