//! The embedded backend: one SQLite file in WAL mode, every commit synced.
//!
//! The file is an enemy's: whoever can write it may put triggers, views and indexes in it. So a connection
//! works only while its list of objects is the one that this program makes (`guard.rs`), and nothing in this
//! process but SQLite opens it: locks of POSIX end when any descriptor of the file is closed.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::broadcast;

use super::blocking::blocking;
use super::files;
use super::kv::{Change, Entry, Expect, Kv, KvError, Snapshot, Transaction, Write};

mod file;
mod guard;
mod schema;

use guard::Guarded;
use schema::{Object, SCHEMA};

/// Changes that a watcher may fall behind before it is told to read again.
const WATCH_BUFFER: usize = 1024;

/// Idle connections kept for readers.
const IDLE_READERS: usize = 4;

/// A store in one SQLite file.
pub struct SqliteKv {
    writer: Arc<Mutex<Guarded>>,
    readers: Arc<Readers>,
    changes: broadcast::Sender<Change>,
}

impl SqliteKv {
    /// Opens the store at `path`, mode 0600; makes it when there is no file. A
    /// store of an older format is backed up beside itself and migrated.
    ///
    /// # Errors
    /// [`KvError::Damaged`] when the file is not a store of this program, [`KvError::Foreign`] when it holds
    /// more than that, [`KvError::Newer`] when a newer program wrote it, and whatever SQLite answers.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, KvError> {
        Self::open_by(path.as_ref(), file::open).await
    }

    /// As [`open`](Self::open), but a store of an older format is left as it is.
    ///
    /// # Errors
    /// [`KvError::Older`] for one, and those of [`open`](Self::open).
    pub async fn open_current(path: impl AsRef<Path>) -> Result<Self, KvError> {
        Self::open_by(path.as_ref(), file::open_current).await
    }

    async fn open_by(
        path: &Path,
        open: fn(&Path, &schema::Schema) -> Result<Guarded, KvError>,
    ) -> Result<Self, KvError> {
        let path = path.to_owned();
        blocking(move || {
            let writer = open(&path, &SCHEMA)?;
            let readers = Arc::new(Readers { path, expected: writer.expected(), idle: Mutex::default() });
            Ok(Self {
                writer: Arc::new(Mutex::new(writer)),
                readers,
                changes: broadcast::Sender::new(WATCH_BUFFER),
            })
        })
        .await
    }
}

#[async_trait]
impl Kv for SqliteKv {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KvError> {
        let readers = self.readers.clone();
        blocking(move || {
            let connection = readers.take()?;
            connection.execute_batch("BEGIN").map_err(kv_error)?;
            // The first read of the transaction: what it compares is what the snapshot sees.
            connection.verify()?;
            let revision = schema::revision(&connection).map_err(kv_error)?;
            let lease = Lease { connection: Some(connection), readers };
            let snapshot = SqliteSnapshot { revision, lease: Arc::new(Mutex::new(lease)) };
            Ok(Box::new(snapshot) as Box<dyn Snapshot>)
        })
        .await
    }

    async fn commit(&self, transaction: Transaction) -> Result<u64, KvError> {
        let (writer, changes) = (self.writer.clone(), self.changes.clone());
        blocking(move || {
            // The lock is held until watchers are told, so they hear of commits in order.
            let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            let revision = commit(&writer, &transaction)?;
            let keys = transaction.writes.into_iter().map(|write| write.key).collect();
            // No watcher is no error.
            let _ = changes.send(Change { revision, keys: Arc::new(keys) });
            Ok(revision)
        })
        .await
    }

    async fn scrub(&self, thorough: bool) -> Result<(), KvError> {
        let writer = self.writer.clone();
        blocking(move || {
            let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.look()?;
            if thorough {
                writer.execute_batch("VACUUM").map_err(kv_error)?;
            }
            empty_log(&writer)
        })
        .await
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let path = &self.readers.path;
        vec![path.clone(), files::beside(path, "-wal")]
    }

    fn watch(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn name(&self) -> &'static str {
        "sqlite"
    }
}

/// How long emptying the log waits for readers.
const CHECKPOINT: Duration = Duration::from_millis(500);

/// Moves the write-ahead log into the database and cuts it to nothing. What is deleted is overwritten
/// in the database already (`secure_delete`), but the log has the pages as they were.
fn empty_log(connection: &Connection) -> Result<(), KvError> {
    // The busy timeout waits for readers. One that reads on and on keeps its part of the log, and must
    // not keep the writers too.
    connection.busy_timeout(CHECKPOINT).map_err(kv_error)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    connection.busy_timeout(file::BUSY).map_err(kv_error)?;
    match busy.map_err(kv_error)? {
        0 => Ok(()),
        _ => Err(KvError::Other("the log of the database is in use by a long read; try again".into())),
    }
}

fn commit(writer: &Guarded, transaction: &Transaction) -> Result<u64, KvError> {
    let open = rusqlite::Transaction::new_unchecked(writer, TransactionBehavior::Immediate);
    let open = open.map_err(kv_error)?;
    // Nobody else writes from here on: what is compared now is what the changes would run.
    writer.verify()?;
    for expect in &transaction.expect {
        check(&open, expect)?;
    }
    let revision = schema::revision(&open).map_err(kv_error)? + 1;
    for write in &transaction.writes {
        apply(&open, write, revision).map_err(kv_error)?;
    }
    schema::set_revision(&open, revision).map_err(kv_error)?;
    open.commit().map_err(kv_error)?;
    Ok(revision)
}

fn check(connection: &Connection, expect: &Expect) -> Result<(), KvError> {
    let mut select = connection.prepare_cached("SELECT revision FROM kv WHERE key = ?1").map_err(kv_error)?;
    let found: Option<i64> =
        select.query_row([&expect.key], |row| row.get(0)).optional().map_err(kv_error)?;
    let holds = found.map(i64::cast_unsigned) == expect.revision;
    holds.then_some(()).ok_or(KvError::Conflict)
}

fn apply(connection: &Connection, write: &Write, revision: u64) -> rusqlite::Result<()> {
    match &write.value {
        Some(value) => connection
            .prepare_cached(
                "INSERT INTO kv (key, value, revision) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
            )?
            .execute(params![write.key, value, revision.cast_signed()])?,
        None => connection.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([&write.key])?,
    };
    Ok(())
}

/// Connections for reading.
struct Readers {
    path: std::path::PathBuf,
    expected: Arc<[Object]>,
    idle: Mutex<Vec<Guarded>>,
}

impl Readers {
    fn take(&self) -> Result<Guarded, KvError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| file::open_reader(&self.path, self.expected.clone()), Ok)
    }

    fn give_back(&self, connection: Guarded) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that cannot end its transaction is closed instead.
        if idle.len() < IDLE_READERS && connection.execute_batch("ROLLBACK").is_ok() {
            idle.push(connection);
        }
    }
}

/// A connection inside a read transaction; goes back when the snapshot ends.
struct Lease {
    connection: Option<Guarded>,
    readers: Arc<Readers>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.readers.give_back(connection);
        }
    }
}

struct SqliteSnapshot {
    revision: u64,
    lease: Arc<Mutex<Lease>>,
}

impl SqliteSnapshot {
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, KvError> {
        let lease = self.lease.clone();
        blocking(move || {
            let lease = lease.lock().unwrap_or_else(PoisonError::into_inner);
            let connection: &Connection = lease.connection.as_ref().ok_or(super::blocking::Stopped)?;
            work(connection).map_err(kv_error)
        })
        .await
    }
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
    fn revision(&self) -> u64 {
        self.revision
    }

    async fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, KvError> {
        let key = key.to_vec();
        self.read(move |connection| get(connection, &key)).await
    }

    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Entry>>, KvError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys = keys.to_vec();
        self.read(move |connection| keys.iter().map(|key| get(connection, key)).collect()).await
    }

    async fn range(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Entry)>, KvError> {
        let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
        self.read(move |connection| range(connection, &prefix, after.as_deref(), limit)).await
    }
}

fn get(connection: &Connection, key: &[u8]) -> rusqlite::Result<Option<Entry>> {
    let mut select = connection.prepare_cached("SELECT value, revision FROM kv WHERE key = ?1")?;
    select.query_row([key], |row| entry(row, 0)).optional()
}

/// The end is a bound of the index: with `?2 IS NULL OR` before it, a list that is shorter than its limit would be
/// looked for up to the end of the whole table.
const UP_TO: &str = "SELECT key, value, revision FROM kv
    WHERE key >= ?1 AND key < ?2 AND (?3 IS NULL OR key > ?3) ORDER BY key LIMIT ?4";
/// For a prefix that nothing sorts behind.
const TO_THE_END: &str = "SELECT key, value, revision FROM kv
    WHERE key >= ?1 AND ?2 IS NULL AND (?3 IS NULL OR key > ?3) ORDER BY key LIMIT ?4";

fn range(
    connection: &Connection,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> rusqlite::Result<Vec<(Vec<u8>, Entry)>> {
    let end = end_of(prefix);
    let mut select = connection.prepare_cached(if end.is_some() { UP_TO } else { TO_THE_END })?;
    // Starting at the later of the two keeps SQLite from walking over what `after` leaves out.
    let start = after.map_or(prefix, |after| after.max(prefix));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows =
        select.query_map(params![start, end, after, limit], |row| Ok((row.get(0)?, entry(row, 1)?)))?;
    rows.collect()
}

/// The first key behind every key with `prefix`; `None` when there is no such key.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn entry(row: &rusqlite::Row<'_>, value: usize) -> rusqlite::Result<Entry> {
    Ok(Entry { value: row.get(value)?, revision: row.get::<_, i64>(value + 1)?.cast_unsigned() })
}

fn kv_error(error: rusqlite::Error) -> KvError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
    match error.sqlite_error_code() {
        Some(DiskFull) => KvError::Full,
        // SQLite quotes names out of the file.
        Some(DatabaseCorrupt | NotADatabase) => KvError::Damaged(guard::printable(&error.to_string())),
        _ => KvError::Other(guard::printable(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    async fn open(dir: &Path) -> Arc<dyn Kv> {
        Arc::new(SqliteKv::open(dir.join("store.db")).await.unwrap())
    }

    #[tokio::test]
    async fn a_list_is_looked_for_between_its_bounds() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).await;
        let connection = Connection::open(dir.path().join("store.db")).unwrap();
        let plan = |sql: &str| -> String {
            let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let bounds: [Option<Vec<u8>>; 3] = [Some(vec![1]), Some(vec![2]), None];
            let [from, to, after] = bounds;
            explain.query_row(params![from, to, after, 500], |row| row.get(3)).unwrap()
        };
        assert!(plan(UP_TO).contains("(key>? AND key<?)"), "{}", plan(UP_TO));
        assert!(plan(TO_THE_END).contains("(key>?)"), "{}", plan(TO_THE_END));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conforms() {
        let dir = tempfile::tempdir().unwrap();
        let mut stores = 0;
        conformance::suite(|again| {
            stores += u32::from(!again);
            let dir = dir.path().join(stores.to_string());
            async move {
                std::fs::create_dir_all(&dir).unwrap();
                open(&dir).await
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_disk_is_named_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let kv = SqliteKv::open(dir.path().join("store.db")).await.unwrap();
        let big = |value: usize| Transaction {
            expect: Vec::new(),
            writes: vec![Write { key: b"k".to_vec(), value: Some(vec![1; value]) }],
        };
        kv.commit(big(10)).await.unwrap();
        let pages = |connection: &Connection, max: i64| {
            connection.pragma_update(None, "max_page_count", max).unwrap();
        };
        pages(&kv.writer.lock().unwrap(), 5);
        assert!(matches!(kv.commit(big(100_000)).await, Err(KvError::Full)));
        let mut snapshot = kv.snapshot().await.unwrap();
        assert_eq!(snapshot.revision(), 1);
        assert_eq!(snapshot.get(b"k").await.unwrap().unwrap().value.len(), 10);
        pages(&kv.writer.lock().unwrap(), 1000);
        assert_eq!(kv.commit(big(100_000)).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let kv = SqliteKv::open(&path).await.unwrap();
        let writes = (0..2000u32).map(|n| Write { key: n.to_be_bytes().to_vec(), value: Some(vec![7; 100]) });
        kv.commit(Transaction { expect: Vec::new(), writes: writes.collect() }).await.unwrap();
        drop(kv);
        let mut bytes = std::fs::read(&path).unwrap();
        // The schema and the meta table are at the beginning and stay.
        bytes[10 * 4096..].fill(0xaa);
        std::fs::write(&path, bytes).unwrap();
        let kv = SqliteKv::open(&path).await.unwrap();
        let read = kv.snapshot().await.unwrap().range(b"", None, 5000).await;
        assert!(matches!(read, Err(KvError::Damaged(_))), "{read:?}");
    }

    #[test]
    fn prefixes_end_where_they_should() {
        assert_eq!(end_of(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(end_of(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(end_of(b"\xff\xff"), None);
        assert_eq!(end_of(b""), None);
    }
}
