//! A new journal that begins with the store as it is, without its past.

use std::path::Path;
use std::sync::Arc;

use super::blocking::blocking;
use super::commit::{Writer, lock};
use super::error::{Refusal, StoreError};
use super::files;
use super::journal::{Entry, Journal, Kind, Step, draft_path, journal_error};
use super::kv::{Snapshot, Write};
use super::mac::{StoreKeys, is_sealed, sealed_under};
use super::meta::{JournalPoint, LogState, Meta, Totals};
use super::records::{Inner, Records};
use super::recover::new_header;
use super::scan::{Proof, Scan};
use super::tables::describe;
use super::view::Row;
use crate::id::{DeploymentId, ErasureGeneration};

/// A journal below this size is left alone.
const MIN_BYTES: u64 = 64 << 20;

/// How many times larger than its records a journal may grow.
const MAX_RATIO: u64 = 4;

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the journal before.
    pub before: u64,
    /// Bytes of the journal after.
    pub after: u64,
}

impl Records {
    /// Compacts the journal if it is over 64 MiB and over four times the size of the records.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub async fn compact_if_due(&self) -> Result<Option<Compacted>, StoreError> {
        let stats = self.stats();
        let due = stats.journal_bytes > MIN_BYTES && stats.journal_bytes > MAX_RATIO * stats.record_bytes;
        if due { self.compact().await.map(Some) } else { Ok(None) }
    }

    /// Replaces the journal by one that begins with the records as they are now.
    /// Changes go on meanwhile, but for the last step.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when the records are not genuine or not complete:
    /// then the journal, which may be the only good copy, stays as it is.
    pub async fn compact(&self) -> Result<Compacted, StoreError> {
        self.compact_sealed(None).await
    }

    /// As [`compact`](Self::compact), and nothing stays of what was sealed under
    /// an erasure key before `oldest`, or not at all: neither in the journal nor
    /// in the backend's own files.
    ///
    /// # Errors
    /// [`StoreError::NotResealed`] when a record is: then nothing was done.
    pub async fn leave_behind(&self, oldest: ErasureGeneration) -> Result<Compacted, StoreError> {
        let done = self.compact_sealed(Some(oldest)).await?;
        self.inner.kv.scrub(false).await?;
        Ok(done)
    }

    async fn compact_sealed(&self, oldest: Option<ErasureGeneration>) -> Result<Compacted, StoreError> {
        let inner = self.inner.clone();
        match tokio::spawn(async move { inner.compact(oldest).await }).await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => Err(StoreError::Stopped),
        }
    }
}

impl Inner {
    async fn compact(&self, oldest: Option<ErasureGeneration>) -> Result<Compacted, StoreError> {
        let _alone = self.compacting.lock().await;
        let path = {
            let mut writer = self.writer.lock().await;
            self.settle(&mut writer).await?;
            lock(&writer.journal).source().path().to_owned()
        };
        let view = self.view().await?;
        let Meta { deployment, totals, journal: since, log } = view.meta;
        let base = Base { deployment, totals, log };
        let done = async {
            let draft = draft_of(view.snapshot, &path, &self.keys, base, oldest).await?;
            let mut writer = self.writer.lock().await;
            self.settle(&mut writer).await?;
            self.switch(&mut writer, draft, since).await
        };
        let done = done.await;
        if done.is_err() {
            drop_draft(&path).await;
        }
        done
    }

    /// Adds to the draft what changed since it was begun, and puts it in the journal's place.
    async fn switch(
        &self,
        writer: &mut Writer,
        mut draft: Journal,
        since: JournalPoint,
    ) -> Result<Compacted, StoreError> {
        let before = lock(&writer.journal).end().offset;
        let journal = writer.journal.clone();
        let end = blocking(move || {
            let mut journal = lock(&journal);
            copy(&journal, since, &mut draft)?;
            draft.finish()?;
            draft.rename(journal.source().path())?;
            *journal = draft;
            journal.sync_name()?;
            Ok::<_, StoreError>(journal.end())
        });
        writer.unsettle();
        let end = end.await?;
        self.tell_place(writer, end).await?;
        Ok(Compacted { before, after: end.offset })
    }
}

/// Removes what there is of a draft. On a full disk it would keep journal and audit log from being written; one that
/// has its name already is not there any more.
pub(super) async fn drop_draft(path: &Path) {
    let draft = draft_path(path);
    let removed = blocking(move || {
        let failed = |error| journal_error(&draft, error);
        files::remove_if_there(&draft).map_err(failed)
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "the draft of a key journal was not removed");
    }
}

fn copy(journal: &Journal, since: JournalPoint, draft: &mut Journal) -> Result<(), StoreError> {
    let damaged = |offset| StoreError::from(Refusal::JournalDamaged { offset, revision: 0 });
    let mut reader = journal.source().reader_at(since)?.ok_or_else(|| damaged(since.offset))?;
    while reader.point() != journal.end() {
        match reader.next()? {
            Step::Entry(entry) => draft.put(&entry)?,
            _ => return Err(damaged(reader.point().offset)),
        }
    }
    Ok(())
}

/// What a journal begins with, besides records.
pub(super) struct Base {
    pub(super) deployment: DeploymentId,
    pub(super) totals: Totals,
    pub(super) log: LogState,
}

/// A draft of a journal for `path` that holds the records of `snapshot`, which must be exactly those of
/// the totals of `base` and, with `oldest`, be sealed under no erasure key before it.
pub(super) async fn draft_of(
    snapshot: Box<dyn Snapshot>,
    path: &Path,
    keys: &Arc<StoreKeys>,
    base: Base,
    oldest: Option<ErasureGeneration>,
) -> Result<Journal, StoreError> {
    let Base { deployment, totals, log } = base;
    let (path, draft_keys) = (path.to_owned(), keys.clone());
    let mut draft =
        blocking(move || Journal::draft(&path, new_header(&path, deployment, &draft_keys)?, &draft_keys))
            .await?;
    let mut scan = Scan::new(snapshot);
    let mut proof = Proof::new(&totals);
    loop {
        let rows = scan.next().await?;
        if rows.is_empty() {
            break;
        }
        if let Some(oldest) = oldest {
            refuse_older(&rows, oldest, &totals)?;
        }
        let keys = keys.clone();
        (draft, proof) = blocking(move || put_part(draft, rows, &keys, proof)).await?;
    }
    proof.finish(&mut scan, keys, &totals).await?;
    blocking(move || {
        draft.put(&Entry { kind: Kind::Base, totals, writes: Vec::new(), log })?;
        Ok(draft)
    })
    .await
}

/// Whether a row of an older erasure key is a reason to wait, the totals say: a row that contradicts them was put there.
fn refuse_older(
    rows: &[(Vec<u8>, Vec<u8>)],
    oldest: ErasureGeneration,
    totals: &Totals,
) -> Result<(), StoreError> {
    let older = |(key, value): &&(Vec<u8>, Vec<u8>)| is_sealed(key) && sealed_under(value) < Some(oldest);
    match rows.iter().find(older) {
        None => Ok(()),
        Some((key, _)) if totals.generations.before(oldest) == 0 => {
            Err(StoreError::tampered(key, "no row is sealed under its erasure key any more"))
        }
        Some((key, _)) => Err(StoreError::NotResealed { what: describe(key) }),
    }
}

fn put_part(
    mut draft: Journal,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    keys: &StoreKeys,
    mut proof: Proof,
) -> Result<(Journal, Proof), StoreError> {
    let mut writes = Vec::with_capacity(rows.len());
    for (key, value) in rows {
        let row = Row::open(&key, value, keys, proof.found().revision)?;
        proof.add(&key, &row.value, keys);
        writes.push(Write { key, value: Some(row.value) });
    }
    let totals = proof.found();
    draft.put(&Entry { kind: Kind::Part, totals, writes, log: LogState::default() })?;
    Ok((draft, proof))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::check::check;
    use crate::store::journal::draft_path;
    use crate::store::testing::{Fault, FaultyKv, Place as Dir, add, crash, dek, dek_path, keys, read, set};
    use crate::store::{Changes, StoreError};

    async fn grown(place: &Dir) -> Records {
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        for number in 0..50 {
            set(&records, 1, number).await.unwrap();
        }
        records
    }

    async fn assert_whole(place: &Dir) {
        let report = check(place.kv().await.as_ref(), &place.journal(), Arc::new(keys())).await.unwrap();
        assert!(report.is_whole(), "{:?}", report.lines());
    }

    #[tokio::test]
    async fn a_compacted_journal_has_the_records_and_not_their_past() {
        let place = Dir::new();
        let records = grown(&place).await;
        let position = records.position();
        let done = records.compact().await.unwrap();
        assert!(done.after * 4 < done.before, "{done:?}");
        assert_eq!(records.stats().journal_bytes, done.after);
        assert_eq!(records.position(), position);
        assert_whole(&place).await;
        set(&records, 1, 77).await.unwrap();
        let newest = records.position();
        assert_whole(&place).await;
        crash(records);
        // The audit log may end before, at or behind the place where the new journal begins.
        for anchor in [None, Some(position), Some(newest)] {
            let (records, report) = place.open_after(anchor).await.unwrap();
            assert_eq!((report.position, report.notes.len()), (newest, 0));
            assert_eq!(read(&records, 1).await, Some(77));
        }
        let old = crate::store::StoreChange { revision: 3, digest: [0; 32] };
        let (_, report) = place.open_after(Some(old)).await.unwrap();
        assert!(report.notes[0].starts_with("not compared with the audit log"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn changes_go_on_meanwhile() {
        let place = Dir::new();
        let records = grown(&place).await;
        let other = records.clone();
        let writer = tokio::spawn(async move {
            for number in 100..140 {
                add(&other, number).await.unwrap();
            }
        });
        for _ in 0..5 {
            records.compact().await.unwrap();
        }
        writer.await.unwrap();
        assert_whole(&place).await;
        crash(records);
        let (records, report) = place.open().await.unwrap();
        assert_eq!(report.replayed, 0);
        assert_eq!(read(&records, 139).await, Some(0));
    }

    #[tokio::test]
    async fn a_crash_in_between_leaves_one_good_journal() {
        let place = Dir::new();
        let kv = FaultyKv::new(place.kv().await);
        let records = place.create_on(kv.clone()).await;
        add(&records, 1).await.unwrap();
        let before = place.image();
        for fault in Fault::BOTH {
            // The one commit of a compaction tells the store where its journal is.
            kv.commits.next(fault);
            assert!(records.compact().await.is_err());
            let image = place.image();
            let (opened, _) = image.open().await.unwrap();
            assert_eq!(read(&opened, 1).await, Some(0));
            crash(opened);
            assert_whole(&image).await;
            // Without a crash the next change settles it.
            add(&records, 2 + fault as u32).await.unwrap();
            assert_whole(&place).await;
        }
        // A draft that was not finished goes away.
        std::fs::write(draft_path(&before.journal()), "half").unwrap();
        before.open().await.unwrap();
        assert!(!draft_path(&before.journal()).exists());
    }

    #[tokio::test]
    async fn a_store_that_was_tampered_with_does_not_replace_its_second_copy() {
        let place = Dir::new();
        let records = grown(&place).await;
        let mut changes = Changes::new();
        changes.create(&dek_path(1), &dek(1));
        let made = records.commit(changes).await.unwrap();
        let old = place.peek(&dek_path(1).key());
        let mut changes = Changes::new();
        changes.replace(&dek_path(1), &dek(2), made.revision);
        records.commit(changes).await.unwrap();
        let genuine = std::fs::read(place.journal()).unwrap();
        place.poke(&dek_path(1).key(), &old);
        assert!(matches!(records.compact().await, Err(StoreError::Tampered { .. })));
        assert!(!draft_path(&place.journal()).exists(), "a draft takes room that others need");
        place.sql("DELETE FROM kv WHERE key = ?1", &dek_path(1).key());
        assert!(matches!(records.compact().await, Err(StoreError::Tampered { .. })));
        assert!(!draft_path(&place.journal()).exists());
        assert_eq!(std::fs::read(place.journal()).unwrap(), genuine);
        add(&records, 9).await.unwrap();
    }

    #[tokio::test]
    async fn a_small_journal_is_left_alone() {
        let place = Dir::new();
        assert_eq!(grown(&place).await.compact_if_due().await.unwrap(), None);
    }
}
