//! Whatever an enemy puts into the list of the file is refused: before the store is opened, and while it is.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::printable;
use crate::store::kv::{Kv, KvError, Transaction, Write};
use crate::store::sqlite::SqliteKv;

/// What an enemy does to the file, and what the refusal names.
const ATTACKS: [(&str, &str); 9] = [
    ("CREATE TRIGGER thaw AFTER INSERT ON kv BEGIN DELETE FROM kv; END", "trigger thaw on kv"),
    ("CREATE VIEW sight AS SELECT key FROM kv", "view sight"),
    ("CREATE TABLE extra (x)", "table extra"),
    ("CREATE INDEX fast ON kv (revision)", "index fast on kv"),
    ("ALTER TABLE kv ADD COLUMN note TEXT DEFAULT 'x'", "table kv is not as keyward makes it"),
    ("ALTER TABLE kv ADD COLUMN sum AS (length(value))", "table kv is not as keyward makes it"),
    ("DROP TABLE kv; CREATE VIEW kv AS SELECT 1 AS key, 2 AS value, 3 AS revision", "table kv is missing"),
    ("ANALYZE", "table sqlite_stat1"),
    (
        "CREATE TRIGGER \"a\u{1b}[2J\u{202e}b\" AFTER INSERT ON kv BEGIN DELETE FROM kv; END",
        "a\\u{1b}[2J\\u{202e}b",
    ),
];

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store.db")
    }

    /// A store with one record.
    async fn store(&self) -> SqliteKv {
        let kv = SqliteKv::open(self.path()).await.unwrap();
        put(&kv, b"first").await.unwrap();
        kv
    }
}

async fn put(kv: &SqliteKv, key: &[u8]) -> Result<u64, KvError> {
    let write = Write { key: key.to_vec(), value: Some(b"value".to_vec()) };
    kv.commit(Transaction { expect: Vec::new(), writes: vec![write] }).await
}

/// Another program with the same file open.
fn enemy(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    connection
}

fn attack(path: &Path, sql: &str) {
    enemy(path).execute_batch(sql).unwrap();
}

fn keys(path: &Path) -> Vec<Vec<u8>> {
    let connection = enemy(path);
    let mut select = connection.prepare("SELECT key FROM kv ORDER BY key").unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn is_refused<T>(answer: Result<T, KvError>, named: &str) {
    match answer {
        Err(error @ KvError::Foreign(_)) => {
            let said = error.to_string();
            assert!(said.contains(named) && said.contains("store check --repair"), "{named}: {said}");
            assert!(!said.contains(char::is_control), "{said:?}");
        }
        Err(error) => panic!("{named}: {error}"),
        Ok(_) => panic!("{named}: it was accepted"),
    }
}

#[tokio::test]
async fn a_file_with_anything_foreign_is_not_opened() {
    for (sql, named) in ATTACKS {
        let place = Place::new();
        drop(place.store().await);
        attack(&place.path(), sql);
        let before = std::fs::read(place.path()).unwrap();
        is_refused(SqliteKv::open(place.path()).await, named);
        is_refused(SqliteKv::open_current(place.path()).await, named);
        assert_eq!(std::fs::read(place.path()).unwrap(), before, "{named}: it is left as it was");
    }
}

#[tokio::test]
async fn what_comes_while_it_is_open_stops_changes_and_reads() {
    for (sql, named) in ATTACKS {
        let place = Place::new();
        let kv = place.store().await;
        // An idle reader that has parsed the list as it was.
        drop(kv.snapshot().await.unwrap());
        let mut early = kv.snapshot().await.unwrap();
        assert!(early.get(b"first").await.unwrap().is_some());
        attack(&place.path(), sql);
        is_refused(put(&kv, b"second").await, named);
        is_refused(kv.snapshot().await, named);
        is_refused(kv.scrub(true).await, named);
        // Once more: nothing was learned that would let it through.
        is_refused(put(&kv, b"second").await, named);
        // A snapshot from before sees the file from before.
        assert!(early.get(b"first").await.unwrap().is_some(), "{named}");
    }
}

#[tokio::test]
async fn no_trigger_runs_and_nothing_is_committed() {
    let place = Place::new();
    let kv = place.store().await;
    attack(&place.path(), "CREATE TRIGGER thaw AFTER INSERT ON kv BEGIN DELETE FROM kv; END");
    is_refused(put(&kv, b"second").await, "trigger thaw on kv");
    assert_eq!(keys(&place.path()), [b"first".to_vec()]);
    // An enemy who counts the cookie back does not get it past a connection that has seen it.
    let enemy = enemy(&place.path());
    let cookie: i64 = enemy.query_row("PRAGMA schema_version", [], |row| row.get(0)).unwrap();
    enemy.execute_batch(&format!("PRAGMA schema_version = {}", cookie - 1)).unwrap();
    is_refused(put(&kv, b"second").await, "trigger thaw on kv");
    assert_eq!(keys(&place.path()), [b"first".to_vec()]);
    // Without it the store is what it was.
    enemy.execute_batch("DROP TRIGGER thaw").unwrap();
    put(&kv, b"second").await.unwrap();
    assert_eq!(keys(&place.path()), [b"first".to_vec(), b"second".to_vec()]);
}

#[tokio::test]
async fn a_trigger_whose_cookie_was_hidden_does_not_run_either() {
    let place = Place::new();
    let kv = place.store().await;
    let enemy = enemy(&place.path());
    let cookie: i64 = enemy.query_row("PRAGMA schema_version", [], |row| row.get(0)).unwrap();
    enemy
        .execute_batch(&format!(
            "BEGIN; CREATE TRIGGER thaw AFTER INSERT ON kv BEGIN DELETE FROM kv; END;
             PRAGMA schema_version = {cookie}; COMMIT"
        ))
        .unwrap();
    // The connection still has the list that it compared, and goes on with that.
    put(&kv, b"second").await.unwrap();
    assert_eq!(keys(&place.path()), [b"first".to_vec(), b"second".to_vec()]);
    drop(kv);
    is_refused(SqliteKv::open(place.path()).await, "trigger thaw on kv");
}

#[tokio::test]
async fn writing_the_file_anew_is_no_attack() {
    let place = Place::new();
    let kv = place.store().await;
    let mut before = kv.snapshot().await.unwrap();
    assert!(before.get(b"first").await.unwrap().is_some());
    drop(before);
    // VACUUM counts the cookie on.
    kv.scrub(true).await.unwrap();
    assert_eq!(put(&kv, b"second").await.unwrap(), 2);
    assert!(kv.snapshot().await.unwrap().get(b"second").await.unwrap().is_some());
}

#[tokio::test]
async fn an_object_that_takes_the_name_of_the_list_is_refused() {
    let place = Place::new();
    drop(place.store().await);
    attack(
        &place.path(),
        "PRAGMA writable_schema = ON;
         INSERT INTO sqlite_master VALUES ('view', 'sqlite_schema', 'sqlite_schema', 0,
             'CREATE VIEW sqlite_schema AS SELECT 1 AS type')",
    );
    let refused = SqliteKv::open(place.path()).await.err().unwrap();
    assert!(matches!(refused, KvError::Damaged(_) | KvError::Foreign(_)), "{refused}");
}

#[test]
fn texts_of_the_file_steer_no_terminal() {
    assert_eq!(printable("kv \"x\"\n\u{1b}[2J\u{202e}"), "kv \"x\"\\n\\u{1b}[2J\\u{202e}");
    assert_eq!(printable(&"x".repeat(300)).chars().count(), 201);
}
