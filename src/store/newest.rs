//! What the key journal has of some records, before they are destroyed.
//!
//! Of data keys and index keys the digest cannot say that they are the newest ones: an older row, put into the
//! database by somebody else, is genuine too. A tombstone says by which bytes a destroyed key is found, and what is
//! certified is that these are in no file: so it must be the newest row that is buried, and no other.

use std::collections::{HashMap, HashSet};

use super::blocking::blocking;
use super::commit::lock;
use super::error::StoreError;
use super::journal::Reader;
use super::kv::Write;
use super::mac::MAC_AT;
use super::meta::JournalPoint;
use super::records::{Inner, Records};
use super::tables::{Path, Record, describe};
use super::view::{Row, Stored};
use crate::keyring::remains::{Remains, Tombstone};

/// The newest rows of some records at one revision.
#[derive(Debug, Default)]
pub struct Newest {
    revision: u64,
    rows: HashMap<Vec<u8>, Remains>,
}

impl Newest {
    /// By what the row that the store has at `key` is recognised, if it is the newest one.
    fn judge(&self, key: &[u8], row: &Row) -> Result<Remains, StoreError> {
        if row.revision > self.revision {
            return Err(StoreError::Changed { what: describe(key) });
        }
        let remains = remains_of(&row.value);
        match self.rows.get(key) {
            Some(newest) if *newest == remains => Ok(remains),
            Some(_) => Err(StoreError::tampered(key, "it is not the newest one")),
            None => Err(StoreError::tampered(key, "it was deleted before")),
        }
    }
}

impl Records {
    /// Reads the key journal for the newest rows of the records for which these graves are. It takes the time of
    /// reading the journal once, and changes go on meanwhile.
    ///
    /// # Errors
    /// When the journal cannot be read or is damaged.
    pub async fn newest_of(&self, graves: &[Path<Tombstone>]) -> Result<Newest, StoreError> {
        if graves.is_empty() {
            return Ok(Newest { revision: self.position().revision, ..Newest::default() });
        }
        let wanted = graves.iter().map(|grave| grave.id.key().to_vec()).collect();
        let (reader, end, revision) = self.inner.whole_journal().await?;
        let rows = blocking(move || read(reader, end, &wanted)).await?;
        Ok(Newest { revision, rows })
    }

    /// The record at `path`, which must be the one in `newest`, and by what it is recognised in a file.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when what the store has is not the newest one, or was taken away;
    /// [`StoreError::Changed`] when it was changed since.
    pub async fn newest<T: Record>(
        &self,
        path: &Path<T>,
        newest: &Newest,
    ) -> Result<(Stored<T>, Remains), StoreError> {
        let key = path.key();
        let row = self.view().await?.rows(std::slice::from_ref(&key)).await?.pop().flatten();
        let row = row.ok_or_else(|| StoreError::lost(path))?;
        let remains = newest.judge(&key, &row)?;
        Ok((row.decode(&key, &self.inner.keys)?, remains))
    }
}

/// By what a stored value is recognised in a file.
pub(super) fn remains_of(value: &[u8]) -> Remains {
    Remains::of(value.get(MAC_AT..).unwrap_or_default())
}

impl Inner {
    /// The journal from its beginning, where it ends, and the revision there.
    async fn whole_journal(&self) -> Result<(Reader, JournalPoint, u64), StoreError> {
        let mut writer = self.writer.lock().await;
        self.settle(&mut writer).await?;
        let journal = lock(&writer.journal);
        // A compaction gives its name to another file; what was opened here stays as it is up to this end.
        Ok((journal.source().reader()?, journal.end(), self.timeline.current().totals.revision))
    }
}

fn read(
    reader: Reader,
    end: JournalPoint,
    wanted: &HashSet<Vec<u8>>,
) -> Result<HashMap<Vec<u8>, Remains>, StoreError> {
    let mut rows = HashMap::new();
    reader.each_until(end, |entry| {
        for Write { key, value } in entry.writes {
            match value {
                Some(value) if wanted.contains(&key) => {
                    rows.insert(key, remains_of(&value));
                }
                Some(_) => (),
                None => {
                    rows.remove(&key);
                }
            }
        }
    })?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::record::Dek;
    use crate::store::testing::{Place, dek, dek_path};
    use crate::store::{Changes, tables};

    async fn put(records: &Records, number: u32, value: u8) -> u64 {
        let path = dek_path(number);
        let mut changes = Changes::new();
        match records.get(&path).await.unwrap() {
            Some(Stored { revision, .. }) => changes.replace(&path, &dek(value), revision),
            None => changes.create(&path, &dek(value)),
        };
        records.commit(changes).await.unwrap().revision
    }

    async fn newest(records: &Records, numbers: &[u32]) -> Newest {
        let graves: Vec<_> =
            numbers.iter().map(|number| tables::tombstone::<Dek>(&dek_path(*number))).collect();
        records.newest_of(&graves).await.unwrap()
    }

    #[tokio::test]
    async fn only_the_row_that_the_journal_has_last_is_the_newest() {
        let place = Place::new();
        let records = place.create().await;
        let first = put(&records, 1, 1).await;
        let (path, key) = (dek_path(1), dek_path(1).key());
        let older = place.peek(&key);
        for compact in [false, true] {
            put(&records, 1, 2).await;
            let revision = put(&records, 1, 3).await;
            assert!(revision > first);
            if compact {
                records.compact().await.unwrap();
            }
            let newest = newest(&records, &[1, 7]).await;
            let (stored, remains) = records.newest(&path, &newest).await.unwrap();
            assert_eq!((stored.record, stored.revision), (dek(3), revision));
            let genuine = place.peek(&key);
            assert_eq!(remains, remains_of(&genuine));

            place.poke(&key, &older);
            let error = records.newest(&path, &newest).await.unwrap_err();
            assert!(error.is_edited() && error.to_string().contains("not the newest"), "{error}");
            place.sql("DELETE FROM kv WHERE key = ?1", &key);
            let error = records.newest(&path, &newest).await.unwrap_err();
            assert!(error.is_edited() && error.to_string().contains("removed"), "{error}");
            place.poke(&key, &genuine);
            records.newest(&path, &newest).await.unwrap();

            // What the daemon itself has changed since is read anew.
            put(&records, 1, 4).await;
            let changed = records.newest(&path, &newest).await;
            assert!(matches!(changed, Err(StoreError::Changed { .. })), "{changed:?}");
        }
    }

    #[tokio::test]
    async fn a_row_that_was_deleted_is_not_the_newest() {
        let place = Place::new();
        let records = place.create().await;
        // With none that is left, the totals would refuse every data key.
        put(&records, 2, 2).await;
        let revision = put(&records, 1, 1).await;
        let (path, key) = (dek_path(1), dek_path(1).key());
        let gone = place.peek(&key);
        let mut changes = Changes::new();
        changes.delete(&path, revision);
        records.commit(changes).await.unwrap();
        let newest = newest(&records, &[1]).await;
        place.poke(&key, &gone);
        let error = records.newest(&path, &newest).await.unwrap_err();
        assert!(error.is_edited() && error.to_string().contains("deleted before"), "{error}");
    }
}
