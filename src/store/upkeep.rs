//! Check and export of a store that is open: by whoever has it open, so that both see every change that was
//! acknowledged.

use tokio::io::AsyncWrite;

use super::check::{CheckReport, Problems, check, decided};
use super::commit::lock;
use super::error::StoreError;
use super::records::Records;
use super::transfer::{Exported, export_verified};

impl Records {
    /// Reads everything and verifies it, as [`check`] does. No compaction and no destruction ends meanwhile.
    ///
    /// # Errors
    /// When reading fails; what is wrong with the contents stands in the report.
    pub async fn check(&self) -> Result<CheckReport, StoreError> {
        // A journal that is replaced between two reads of it would look cut.
        let _same_journal = self.inner.compacting.lock().await;
        self.settle().await?;
        let journal = {
            let writer = self.inner.writer.lock().await;
            lock(&writer.journal).source().path().to_owned()
        };
        check(self.inner.kv.as_ref(), &journal, self.inner.keys.clone()).await
    }

    /// Compares what was decided with what is there, as [`decided`] does, at the newest revision.
    ///
    /// # Errors
    /// When reading fails.
    pub async fn compare_decided(&self) -> Result<Problems, StoreError> {
        decided(self.inner.kv.as_ref(), self.inner.keys.clone()).await
    }

    /// Writes all records at their newest revision, as [`export`](super::transfer::export) does, and verifies each.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when a record is not genuine or missing, and failures of reading and writing; what
    /// was written is of no use then.
    pub async fn export(&self, writer: impl AsyncWrite + Unpin) -> Result<Exported, StoreError> {
        self.settle().await?;
        export_verified(self.inner.kv.as_ref(), writer, &self.inner.keys).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::store::testing::{Place, add, keys, read};
    use crate::store::transfer::import;

    #[tokio::test]
    async fn an_open_store_is_checked_and_exported_with_its_newest_change() {
        let (here, there) = (Place::new(), Place::new());
        let records = here.create().await;
        for number in 1..20 {
            add(&records, number).await.unwrap();
            let report = records.check().await.unwrap();
            assert!(report.is_whole(), "{:?}", report.lines());
            assert_eq!(report.revision, records.position().revision);
        }
        let mut file = Vec::new();
        let exported = records.export(&mut file).await.unwrap();
        assert_eq!(exported.position, records.position());
        import(file.as_slice(), there.kv().await, &there.journal(), keys()).await.unwrap();
        let (moved, _) = there.open().await.unwrap();
        assert_eq!(read(&moved, 19).await, Some(0));
    }

    #[tokio::test]
    async fn a_check_and_a_compaction_do_not_disturb_each_other() {
        let place = Place::new();
        let records = Arc::new(place.create().await);
        for number in 1..50 {
            add(&records, number).await.unwrap();
        }
        let compacting = records.clone();
        let compacting = tokio::spawn(async move {
            for _ in 0..20 {
                compacting.compact().await.unwrap();
            }
        });
        while !compacting.is_finished() {
            let report = records.check().await.unwrap();
            assert!(report.is_whole(), "{:?}", report.lines());
        }
        compacting.await.unwrap();
    }
}
