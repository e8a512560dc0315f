//! Building a store out of records that come from elsewhere: an export or a journal.

use std::path::Path;
use std::sync::Arc;

use super::blocking::blocking;
use super::compact::{Base, draft_of, drop_draft};
use super::error::StoreError;
use super::journal::Journal;
use super::kv::{Kv, Transaction, Write};
use super::mac::StoreKeys;
use super::mend::wrong_nodes;
use super::meta::{JournalPoint, LogState, Meta, Totals};
use super::scan::{CHUNK, Found, Scan, Sum};
use crate::id::DeploymentId;

/// Writes records into an empty backend, some at a time. Without its meta row
/// nobody takes it for a store, so a crash in between leaves nothing to trust.
pub(super) struct Filler {
    kv: Arc<dyn Kv>,
    writes: Vec<Write>,
}

impl Filler {
    /// Begins.
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv, writes: Vec::new() }
    }

    /// Writes or deletes records, in any order but each key's own.
    pub(super) async fn put(&mut self, writes: impl IntoIterator<Item = Write>) -> Result<(), StoreError> {
        self.writes.extend(writes);
        if self.writes.len() >= CHUNK { self.flush().await } else { Ok(()) }
    }

    /// Writes what is left.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        let writes = newest_only(std::mem::take(&mut self.writes));
        self.kv.commit(Transaction { expect: Vec::new(), writes }).await?;
        Ok(())
    }
}

/// The last write of each key: a transaction has each at most once.
fn newest_only(writes: Vec<Write>) -> Vec<Write> {
    let newest: std::collections::BTreeMap<_, _> =
        writes.into_iter().map(|write| (write.key, write.value)).collect();
    newest.into_iter().map(|(key, value)| Write { key, value }).collect()
}

/// Verifies every record of a backend that was filled up to `revision`, and sees to it that
/// it has the digest's nodes and no others. Answers what the records add up to: the caller compares.
pub(super) async fn verify_and_hash(
    kv: &dyn Kv,
    keys: &StoreKeys,
    revision: u64,
) -> Result<Found, StoreError> {
    let mut sum = Sum::new();
    let mut scan = Scan::new(kv.snapshot().await?);
    loop {
        let rows = scan.next().await?;
        if rows.is_empty() {
            break;
        }
        for (key, value) in rows {
            sum.add(&key, value, keys, revision)?;
        }
    }
    let (found, nodes) = sum.finish(revision);
    let wrong = wrong_nodes(&mut scan, nodes).await?;
    // While a snapshot is read, SQLite uses no page of its log again, and all the nodes would be added to it.
    drop(scan);
    write_nodes(kv, &wrong).await?;
    Ok(found)
}

async fn write_nodes(kv: &dyn Kv, nodes: &[Write]) -> Result<(), StoreError> {
    for writes in nodes.chunks(CHUNK) {
        kv.commit(Transaction { expect: Vec::new(), writes: writes.to_vec() }).await?;
    }
    Ok(())
}

/// Writes the meta row, which makes the backend a store.
pub(super) async fn write_meta(
    kv: &dyn Kv,
    keys: &StoreKeys,
    deployment: DeploymentId,
    totals: Totals,
    log: LogState,
    journal: JournalPoint,
) -> Result<(), StoreError> {
    let meta = Meta { deployment, totals, journal, log };
    let writes = vec![Write { key: Meta::key(), value: Some(meta.seal(keys)?) }];
    kv.commit(Transaction { expect: Vec::new(), writes }).await?;
    Ok(())
}

/// Makes a journal out of the records of a store and tells the store of it. Until
/// the last step the journal before, if there is one, stays in its place.
pub(super) async fn write_journal(
    kv: &dyn Kv,
    path: &Path,
    deployment: DeploymentId,
    keys: &Arc<StoreKeys>,
    totals: Totals,
    log: LogState,
) -> Result<(), StoreError> {
    let base = Base { deployment, totals, log: log.clone() };
    let draft = async {
        let draft = draft_of(kv.snapshot().await?, path, keys, base, None).await?;
        blocking(move || finished(draft)).await
    };
    let draft = draft.await;
    if draft.is_err() {
        drop_draft(path).await;
    }
    // From the meta row on it is the journal, whatever its name.
    let draft = draft?;
    write_meta(kv, keys, deployment, totals, log, draft.end()).await?;
    let path = path.to_owned();
    blocking(move || named(draft, &path)).await
}

fn finished(mut draft: Journal) -> Result<Journal, StoreError> {
    draft.finish()?;
    Ok(draft)
}

fn named(mut draft: Journal, path: &Path) -> Result<(), StoreError> {
    draft.rename(path)?;
    draft.sync_name()
}
