//! What the key journal has of some records, before they are destroyed.
//!
//! Of data keys and index keys the digest cannot say that they are the newest ones: an older row, put into the
//! database by somebody else, is genuine too. A tombstone says by which bytes a destroyed key is found, and what is
//! certified is that these are in no file: so it must be the newest row that is buried, and no other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::blocking::blocking;
use super::commit::{Writer, lock};
use super::error::StoreError;
use super::journal::{Entry, Journal, Reader};
use super::kv::Write;
use super::mac::MAC_AT;
use super::meta::JournalPoint;
use super::records::{Inner, Records};
use super::tables::{Path, Record, describe};
use super::view::{Row, Stored};
use crate::keyring::remains::{Remains, Tombstone};

/// The newest rows of some records. A change that buries one is made only if the row that it finds is the newest, by
/// what the journal has in that moment.
#[derive(Clone)]
pub struct Newest(Arc<Mutex<Seen>>);

struct Seen {
    // What is looked for in the journal.
    wanted: HashSet<Vec<u8>>,
    // What it had up to here.
    rows: HashMap<Vec<u8>, Remains>,
    end: JournalPoint,
}

impl std::fmt::Debug for Newest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Newest").finish_non_exhaustive()
    }
}

impl Seen {
    /// Reads on from where it was read last; from its beginning where a compaction has made it anew.
    fn catch_up(&mut self, journal: &Journal) -> Result<(), StoreError> {
        let reader = match journal.source().reader_at(self.end)? {
            Some(reader) => reader,
            None => {
                self.rows.clear();
                journal.source().reader()?
            }
        };
        self.read(reader, journal.end())
    }

    fn read(&mut self, reader: Reader, end: JournalPoint) -> Result<(), StoreError> {
        let Self { wanted, rows, .. } = self;
        reader.each_until(end, |Entry { writes, .. }| {
            for Write { key, value } in writes.into_iter().filter(|write| wanted.contains(&write.key)) {
                match value {
                    Some(value) => rows.insert(key, remains_of(&value)),
                    None => rows.remove(&key),
                };
            }
        })?;
        self.end = end;
        Ok(())
    }

    /// That what the store has is the newest.
    fn judge(&self, found: &Found) -> Result<(), StoreError> {
        let Found { key, remains } = found;
        match (remains, self.rows.get(key)) {
            // Made since, or buried since.
            _ if !self.wanted.contains(key) => Err(StoreError::Changed { what: describe(key) }),
            (None, None) => Err(StoreError::Changed { what: describe(key) }),
            (Some(found), Some(newest)) if found == newest => Ok(()),
            (None, Some(_)) => Err(StoreError::tampered(key, "it was removed")),
            (Some(_), Some(_)) => Err(StoreError::tampered(key, "it is not the newest one")),
            (Some(_), None) => Err(StoreError::tampered(key, "it was deleted before")),
        }
    }
}

/// What the store has at a place, by what it is recognised.
pub(super) struct Found {
    key: Vec<u8>,
    remains: Option<Remains>,
}

impl Found {
    pub(super) fn of(key: &[u8], row: Option<&Row>) -> Self {
        Self { key: key.to_vec(), remains: row.map(|row| remains_of(&row.value)) }
    }
}

impl Records {
    /// Reads the key journal for the newest rows of the records for which these graves are. It takes the time of
    /// reading the journal once, and changes go on meanwhile.
    ///
    /// # Errors
    /// When the journal cannot be read or is damaged.
    pub async fn newest_of(&self, graves: &[Path<Tombstone>]) -> Result<Newest, StoreError> {
        let wanted = graves.iter().map(|grave| grave.id.key().to_vec()).collect();
        let (reader, end) = self.inner.whole_journal().await?;
        let mut seen = Seen { wanted, rows: HashMap::new(), end };
        blocking(move || {
            seen.read(reader, end)?;
            Ok(Newest(Arc::new(Mutex::new(seen))))
        })
        .await
    }

    /// The record at `path` as it stands in the store, and by what it is recognised in a file. Only a covered one is
    /// known to be the newest; of others the change that buries it makes sure.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when it, or its absence, is not genuine.
    pub async fn remains<T: Record>(
        &self,
        path: &Path<T>,
    ) -> Result<Option<(Stored<T>, Remains)>, StoreError> {
        let key = path.key();
        let row = self.view().await?.rows(std::slice::from_ref(&key)).await?.pop().flatten();
        let Some(row) = row else { return Ok(None) };
        let remains = remains_of(&row.value);
        Ok(Some((row.decode(&key, &self.inner.keys)?, remains)))
    }
}

/// By what a stored value is recognised in a file.
fn remains_of(value: &[u8]) -> Remains {
    Remains::of(value.get(MAC_AT..).unwrap_or_default())
}

impl Inner {
    /// The journal from its beginning, and where it ends.
    async fn whole_journal(&self) -> Result<(Reader, JournalPoint), StoreError> {
        let mut writer = self.writer.lock().await;
        self.settle(&mut writer).await?;
        let journal = lock(&writer.journal);
        // A compaction gives its name to another file; what was opened here stays as it is up to this end.
        Ok((journal.source().reader()?, journal.end()))
    }
}

/// That what is about to be buried is the newest: nothing is written to the journal until `writer` is given up.
pub(super) async fn judge(writer: &Writer, newest: &Newest, found: Vec<Found>) -> Result<(), StoreError> {
    let (journal, newest) = (writer.journal.clone(), newest.clone());
    blocking(move || {
        let mut seen = newest.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.catch_up(&lock(&journal))?;
        found.iter().try_for_each(|one| seen.judge(one))
    })
    .await
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

    async fn bury(records: &Records, number: u32, newest: &Newest) -> Result<Remains, StoreError> {
        let path = dek_path(number);
        let (stored, remains) = records.remains(&path).await?.ok_or_else(|| StoreError::lost(&path))?;
        let mut changes = Changes::new();
        changes.bury(&path, stored.revision, newest);
        records.commit(changes).await.map(|_| remains)
    }

    fn told(refused: Result<Remains, StoreError>, words: &str) {
        let error = refused.unwrap_err();
        assert!(error.is_edited() && error.to_string().contains(words), "{error}");
    }

    #[tokio::test]
    async fn only_the_row_that_the_journal_has_last_is_buried() {
        for compact in [false, true] {
            let place = Place::new();
            let records = place.create().await;
            put(&records, 1, 1).await;
            let key = dek_path(1).key();
            let oldest = place.peek(&key);
            put(&records, 1, 2).await;
            let newest = newest(&records, &[1]).await;
            let old = place.peek(&key);
            // What the daemon itself writes after the journal was read is the newest then.
            put(&records, 1, 3).await;
            if compact {
                records.compact().await.unwrap();
            }
            let genuine = place.peek(&key);
            for older in [&oldest, &old] {
                place.poke(&key, older);
                told(bury(&records, 1, &newest).await, "not the newest");
            }
            place.sql("DELETE FROM kv WHERE key = ?1", &key);
            told(bury(&records, 1, &newest).await, "removed");
            place.poke(&key, &genuine);
            assert_eq!(bury(&records, 1, &newest).await.unwrap(), remains_of(&genuine));
            assert_eq!(records.get(&dek_path(1)).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_is_put_back_or_exchanged_at_the_last_moment_is_not_buried() {
        let place = Place::new();
        let records = place.create().await;
        // With none that is left, the totals would refuse every data key.
        put(&records, 2, 2).await;
        put(&records, 1, 1).await;
        let (path, key) = (dek_path(1), dek_path(1).key());
        let newest = newest(&records, &[1]).await;
        let old = place.peek(&key);
        // Read, then written anew by the daemon, then put back as it was read: the commit finds what it expects.
        let (stored, _) = records.remains(&path).await.unwrap().unwrap();
        put(&records, 1, 3).await;
        place.poke(&key, &old);
        let mut changes = Changes::new();
        changes.bury(&path, stored.revision, &newest);
        let refused = records.commit(changes).await.unwrap_err();
        assert!(refused.is_edited(), "{refused}");
        records.restore_rows(crate::store::Cause::own("test", "store")).await.unwrap();
        bury(&records, 1, &newest).await.unwrap();
        place.poke(&key, &old);
        told(bury(&records, 1, &newest).await, "deleted before");
    }

    #[tokio::test]
    async fn what_was_made_since_is_a_conflict() {
        let place = Place::new();
        let records = place.create().await;
        let newest = newest(&records, &[]).await;
        put(&records, 1, 1).await;
        let refused = bury(&records, 1, &newest).await;
        assert!(matches!(refused, Err(StoreError::Changed { .. })), "{refused:?}");
    }
}
