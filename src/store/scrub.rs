//! Getting deleted values out of the files, and having another process look whether they are.

use std::io;
use std::path::{Path, PathBuf};

use super::commit::lock;
use super::error::StoreError;
use super::kv::KvError;
use super::records::{Inner, Records};
use super::search::search;
use super::tables::{Path as Grave, describe};
use crate::keyring::remains::{Remains, Tombstone};

/// What a search of the files found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// The files that were read: database, its log, key journal.
    pub files: Vec<String>,
    /// How many bytes they had.
    pub bytes: u64,
    /// Destroyed keys that still stand there; none, or something is wrong.
    pub found: Vec<Remains>,
    /// Older copies beside them, such as a repair leaves, in which a destroyed key may
    /// still stand, under keys that may still be there.
    pub copies: Vec<String>,
}

impl Records {
    /// Compacts the journal, takes deleted values out of the backend's files, and has a process of its own
    /// read all of them once more, looking for destroyed keys.
    ///
    /// # Errors
    /// As [`compact`](Self::compact), or when the files cannot be read to their ends.
    pub async fn scrub(&self, destroyed: &[Remains]) -> Result<Scrubbed, StoreError> {
        self.compact().await?;
        self.inner.kv.scrub(false).await?;
        let scrubbed = self.inner.search(destroyed).await?;
        if scrubbed.found.is_empty() {
            return Ok(scrubbed);
        }
        // Where rows were moved between pages, a copy of one can be left in a gap that is free but not
        // overwritten. Files that are written anew have no gaps.
        tracing::info!("deleted keys still stood in gaps of the database: it is written anew");
        self.inner.kv.scrub(true).await?;
        self.inner.search(destroyed).await
    }
}

impl Records {
    /// The names of records that are there although they have tombstones.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when one, or its absence, is not genuine.
    pub async fn unburied(
        &self,
        tombstones: impl IntoIterator<Item = &Grave<Tombstone>>,
    ) -> Result<Vec<String>, StoreError> {
        let keys: Vec<Vec<u8>> = tombstones.into_iter().map(|path| path.id.key().to_vec()).collect();
        let rows = self.view().await?.rows(&keys).await?;
        Ok(keys.iter().zip(rows).filter(|(_, row)| row.is_some()).map(|(key, _)| describe(key)).collect())
    }
}

impl Inner {
    async fn search(&self, destroyed: &[Remains]) -> Result<Scrubbed, StoreError> {
        let journal = {
            let writer = self.writer.lock().await;
            lock(&writer.journal).source().path().to_owned()
        };
        let mut files = self.kv.files();
        files.push(journal);
        let unreadable = |error: io::Error| KvError::Other(error.to_string());
        let copies = copies(&files).map_err(unreadable)?;
        // Whether it is there is all that this process may ask of a file of the database.
        let there = |path: PathBuf| path.try_exists().map(|there| there.then_some(path)).transpose();
        let files: Vec<PathBuf> =
            files.into_iter().filter_map(there).collect::<Result<_, _>>().map_err(unreadable)?;
        let searched = search(&files, destroyed).await?;
        let files = files.iter().map(|path| path.display().to_string()).collect();
        Ok(Scrubbed { files, bytes: searched.bytes, found: searched.found, copies })
    }
}

/// Files beside these whose names begin like theirs: what repairs and migrations left.
fn copies(files: &[PathBuf]) -> io::Result<Vec<String>> {
    let mut copies = Vec::new();
    for path in files {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        for entry in std::fs::read_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })? {
            let other = entry?.file_name();
            let suffix = other.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
            if suffix.is_some_and(|suffix| {
                suffix.starts_with(b".before-repair") || suffix.starts_with(b".format-")
            }) {
                copies.push(parent.join(other).display().to_string());
            }
        }
    }
    copies.sort();
    copies.dedup();
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::record::Dek;
    use crate::keyring::wrapped::SealedKey;
    use crate::store::testing::{Place, add, dek, dek_path};
    use crate::store::{Changes, Stored};

    /// A wrapped key whose bytes occur nowhere else.
    fn distinct(number: u32) -> Dek {
        let mut ciphertext = [0x5a; 48];
        ciphertext[..4].copy_from_slice(&number.to_be_bytes());
        Dek { sealed: SealedKey { ciphertext, ..dek(1).sealed }, ..dek(1) }
    }

    async fn remains(records: &Records, numbers: &[u32]) -> Vec<Remains> {
        let mut all = Vec::new();
        for number in numbers {
            all.push(records.remains(&dek_path(*number)).await.unwrap().unwrap().1);
        }
        all
    }

    async fn delete(records: &Records, number: u32) {
        let Stored { revision, .. } = records.get(&dek_path(number)).await.unwrap().unwrap();
        let mut changes = Changes::new();
        changes.delete(&dek_path(number), revision);
        records.commit(changes).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_deleted_is_in_no_file_any_more() {
        let place = Place::new();
        let records = place.create().await;
        for number in 0..300 {
            let mut changes = Changes::new();
            changes.create(&dek_path(number), &distinct(number));
            records.commit(changes).await.unwrap();
        }
        let deleted: Vec<u32> = (0..300).step_by(3).collect();
        let gone = remains(&records, &deleted).await;
        let kept = remains(&records, &[1, 2, 299]).await;
        for number in &deleted {
            delete(&records, *number).await;
        }
        let before = records.inner.search(&gone).await.unwrap();
        assert!(before.found.len() >= deleted.len(), "the journal and the log have them: {before:?}");
        std::fs::write(place.dir.path().join("store.db.before-repair-1"), "old").unwrap();
        let after = records.scrub(&gone).await.unwrap();
        assert_eq!((after.found.len(), after.files.len()), (0, 3), "{after:?}");
        assert_eq!(after.copies.len(), 1, "{after:?}");
        // The others are where they were, and there is exactly one copy in the store and one in the journal.
        let kept = records.inner.search(&kept).await.unwrap();
        assert_eq!(kept.found.len(), 6, "{kept:?}");
        add(&records, 9).await.unwrap();
        assert_eq!(records.get(&dek_path(1)).await.unwrap().unwrap().record, distinct(1));
    }
}
