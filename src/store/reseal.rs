//! Sealing every row of a wrapped key anew, when the erasure key was replaced.

use super::error::StoreError;
use super::records::{Changes, Records};
use super::tables::Table;
use crate::id::ErasureGeneration;
use crate::secret::Key256;

/// How far the sealing has come: the key of the last row that was looked at.
pub type Cursor = Vec<u8>;

/// Some rows, as they are to be sealed anew.
#[derive(Debug)]
pub struct Batch {
    /// The change; a commit of it seals the rows under the newest erasure key.
    pub changes: Changes,
    /// Where the next batch begins; `None` when every row was looked at.
    pub next: Option<Cursor>,
}

impl Records {
    /// Opens rows of a generation of the erasure key from now on.
    pub fn open_erasure_key(&self, generation: ErasureGeneration, secret: Key256) {
        self.inner.keys.erasure.add(generation, secret);
    }

    /// Seals rows under a generation that was opened before. When this returns, every
    /// later change does so, and no change that did otherwise is under way.
    pub async fn seal_under(&self, generation: ErasureGeneration) {
        let _alone = self.inner.writer.lock().await;
        self.inner.keys.erasure.seal_under(generation);
    }

    /// Wipes the secret of a generation.
    pub fn forget_erasure_key(&self, generation: ErasureGeneration) {
        self.inner.keys.erasure.forget(generation);
    }

    /// Looks at about `limit` rows of wrapped keys after `after` for those that are not sealed
    /// under `generation`.
    ///
    /// # Errors
    /// [`StoreError::Erased`] when a row is sealed under a generation that is not open.
    pub async fn to_reseal(
        &self,
        generation: ErasureGeneration,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Batch, StoreError> {
        let mut view = self.view().await?;
        let mut batch = Batch { changes: Changes::new(), next: None };
        let mut left = limit;
        let begun = after.and_then(|key| key.first()).copied().unwrap_or_default();
        for table in sealed_tables().into_iter().filter(|table| table.byte() >= begun) {
            let rows = view.range(&[table.byte()], after, left).await?;
            left -= rows.len();
            for (key, row) in rows {
                batch.next = Some(key.clone());
                if row.sealed_under() != Some(generation) {
                    let payload = row.payload(&key, &self.inner.keys)?.into_owned();
                    batch.changes.again(key, row.revision, payload);
                }
            }
            if left == 0 {
                return Ok(batch);
            }
        }
        batch.next = None;
        Ok(batch)
    }
}

/// The tables of wrapped keys, in the order of their rows.
fn sealed_tables() -> Vec<Table> {
    let mut tables: Vec<Table> = Table::ALL.into_iter().filter(|table| table.sealed()).collect();
    tables.sort_unstable_by_key(|table| table.byte());
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;
    use crate::store::testing::{Place, add, dek, dek_path, erasure_secret};
    use crate::store::{Changes, check::check};

    const NEXT: u32 = 2;
    const DEKS: u32 = 7;

    fn next() -> ErasureGeneration {
        ErasureGeneration::new(NEXT).unwrap()
    }

    async fn filled(place: &Place) -> Records {
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        let mut changes = Changes::new();
        for number in 0..DEKS {
            changes.create(&dek_path(number), &dek(number as u8));
        }
        records.commit(changes).await.unwrap();
        records
    }

    async fn reseal(records: &Records, limit: usize) -> usize {
        let (mut after, mut batches) = (None, 0);
        loop {
            let batch = records.to_reseal(next(), after.as_deref(), limit).await.unwrap();
            if !batch.changes.is_empty() {
                records.commit(batch.changes).await.unwrap();
            }
            batches += 1;
            match batch.next {
                Some(next) => after = Some(next),
                None => return batches,
            }
        }
    }

    async fn replace(records: &Records, limit: usize) -> usize {
        records.open_erasure_key(next(), erasure_secret(9));
        records.seal_under(next()).await;
        reseal(records, limit).await
    }

    #[tokio::test]
    async fn after_a_replacement_nothing_is_left_of_the_old_key() {
        let place = Place::new();
        let records = filled(&place).await;
        let before = place.image();
        assert!(matches!(records.leave_behind(next()).await, Err(StoreError::NotResealed { .. })));
        assert_eq!(replace(&records, 2).await, 4);
        records.leave_behind(next()).await.unwrap();
        records.forget_erasure_key(ErasureGeneration::FIRST);
        for number in 0..DEKS {
            let found = records.get(&dek_path(number)).await.unwrap().unwrap();
            assert_eq!(found.record, dek(number as u8));
        }
        let keys = std::sync::Arc::new(crate::store::testing::keys_without_erasure());
        let report = check(place.kv().await.as_ref(), &place.journal(), keys).await.unwrap();
        assert!(report.is_whole(), "{:?}", report.lines());
        // The old copy opens with every other key, and has nothing to give.
        let (old, _) = before.open().await.unwrap();
        assert!(old.get(&dek_path(1)).await.unwrap().is_some(), "while its erasure key lives");
        old.forget_erasure_key(ErasureGeneration::FIRST);
        let error = old.get(&dek_path(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Erased { .. }), "{error}");
    }

    #[tokio::test]
    async fn no_file_holds_an_old_row_after_it() {
        let place = Place::new();
        let records = filled(&place).await;
        let old = place.peek(&dek_path(1).key());
        replace(&records, 500).await;
        records.leave_behind(next()).await.unwrap();
        for file in std::fs::read_dir(place.dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(old.len()).any(|window| window == old));
        }
    }

    #[tokio::test]
    async fn a_batch_that_lost_a_race_changes_nothing() {
        let place = Place::new();
        let records = filled(&place).await;
        records.open_erasure_key(next(), erasure_secret(9));
        records.seal_under(next()).await;
        let batch = records.to_reseal(next(), None, 500).await.unwrap();
        let stored = records.get(&dek_path(3)).await.unwrap().unwrap();
        let mut changes = Changes::new();
        changes.replace(&dek_path(3), &dek(77), stored.revision);
        records.commit(changes).await.unwrap();
        assert!(matches!(records.commit(batch.changes).await, Err(StoreError::Changed { .. })));
        reseal(&records, 500).await;
        assert_eq!(records.get(&dek_path(3)).await.unwrap().unwrap().record, dek(77));
        records.leave_behind(next()).await.unwrap();
    }
}
