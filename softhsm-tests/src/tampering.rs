//! What somebody can do who writes the files of a store, and what is expected of the daemon then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward::client::{Code, Error};
use keyward::rpc::proto::GetKeyRequest;
use keyward::rpc::proto::status::Serving;
use rusqlite::{Connection, OptionalExtension};

use crate::{KEY, World, text};

/// The files of the database.
pub const STORE: [&str; 3] = ["store.db", "store.db-wal", "store.db-shm"];

/// The files of the database, and the journal.
pub const STORE_AND_JOURNAL: [&str; 4] = ["store.db", "store.db-wal", "store.db-shm", "journal.kwj"];

/// A row's value and revision.
pub type Row = Option<(Vec<u8>, i64)>;

/// The rows of a store, as its file has them.
pub struct Rows(Connection);

impl Rows {
    /// Opens the database of a world, beside its daemon.
    pub fn of(world: &World) -> Self {
        let connection = Connection::open(world.path("state/store.db")).expect("the database");
        connection.busy_timeout(Duration::from_secs(5)).expect("a timeout");
        Self(connection)
    }

    /// The row with this key.
    pub fn get(&self, key: &[u8]) -> Row {
        let select = "SELECT value, revision FROM kv WHERE key = ?1";
        let row = self.0.query_row(select, [key], |row| Ok((row.get(0)?, row.get(1)?)));
        row.optional().expect("a row")
    }

    /// Writes a row, or takes it away.
    pub fn put(&self, key: &[u8], row: &Row) {
        match row {
            Some((value, revision)) => {
                let insert = "INSERT OR REPLACE INTO kv (key, value, revision) VALUES (?1, ?2, ?3)";
                self.0.execute(insert, (key, value, revision)).expect("a row");
            }
            None => {
                let gone = self.0.execute("DELETE FROM kv WHERE key = ?1", [key]).expect("a row");
                assert_eq!(gone, 1, "{key:02x?}");
            }
        }
    }

    /// Takes a row away that is there.
    pub fn take(&self, key: &[u8]) -> Row {
        let row = self.get(key);
        assert!(row.is_some(), "{key:02x?} is not there");
        self.put(key, &None);
        row
    }

    /// The keys of the rows that begin like this, in order.
    pub fn keys(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        self.all().into_iter().map(|(key, _)| key).filter(|key| key.starts_with(prefix)).collect()
    }

    /// Puts two rows in each other's place.
    pub fn swap(&self, one: &[u8], other: &[u8]) {
        let (first, second) = (self.get(one), self.get(other));
        assert!(first.is_some() && second.is_some() && first != second);
        self.put(one, &second);
        self.put(other, &first);
    }

    /// Every row, in the order of their keys.
    pub fn all(&self) -> Vec<(Vec<u8>, Row)> {
        let mut select = self.0.prepare("SELECT key, value, revision FROM kv ORDER BY key").expect("a table");
        let rows = select.query_map([], |row| Ok((row.get(0)?, Some((row.get(1)?, row.get(2)?)))));
        rows.expect("rows").collect::<Result<_, _>>().expect("rows")
    }

    /// Makes these all the rows.
    pub fn put_all(&self, rows: &[(Vec<u8>, Row)]) {
        self.0.execute_batch("BEGIN IMMEDIATE; DELETE FROM kv").expect("a transaction");
        rows.iter().for_each(|(key, row)| self.put(key, row));
        self.0.execute_batch("COMMIT").expect("a transaction");
    }
}

/// Files of the state directory and their contents; what is missing stays so.
pub struct Files(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Files {
    /// Keeps the files with these names.
    pub fn keep(world: &World, names: &[&str]) -> Self {
        let read = |name: &&str| {
            let path = world.path("state").join(name);
            let content = std::fs::read(&path).ok();
            (path, content)
        };
        Self(names.iter().map(read).collect())
    }

    /// Makes them what they were.
    pub fn put_back(&self) {
        for (path, content) in &self.0 {
            match content {
                Some(content) => std::fs::write(path, content).expect("a file"),
                None => remove(path),
            }
        }
    }
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) {
    if path.exists() {
        std::fs::remove_file(path).expect("a file");
    }
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a file");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a file")),
        }
    }
}

/// The daemon refused because its store was tampered with, and said what to run.
pub fn is_tampered<T: std::fmt::Debug>(answer: Result<T, Error>) {
    let error = answer.expect_err("a refusal");
    assert_eq!((error.code, error.reason()), (Code::DataLoss, "STORE_TAMPERED"), "{error}");
    assert!(error.message.contains("keyward store check"), "{error}");
}

/// A command of `keyward` that takes the configuration: whether it succeeded, and what it said.
pub fn keyward(world: &World, arguments: &[&str]) -> (bool, String) {
    let config = world.config_file();
    let output = world.cli(arguments.iter().copied().chain(["--config", &config]));
    (output.status.success(), text(&output))
}

/// `store check` answers with this exit code.
pub fn check_answers(world: &World, code: i32) {
    let config = world.config_file();
    let output = world.cli(["store", "check", "--config", &config]);
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
}

/// The check finds it, the repair mends it.
pub fn check_and_repair(world: &World) {
    let (whole, said) = keyward(world, &["store", "check"]);
    assert!(!whole, "{said}");
    let (repaired, said) = keyward(world, &["store", "check", "--repair"]);
    assert!(repaired, "{said}");
    let (whole, said) = keyward(world, &["store", "check"]);
    assert!(whole, "{said}");
}

/// Starts a daemon that must not serve, for a reason with these words, and stops it.
pub async fn refused(world: &World, words: &[&str]) {
    let mut daemon = world.spawn();
    let status = daemon
        .wait_for(|status| {
            status.serving() == Serving::NotServing
                && status.hsm.as_ref().is_some_and(|hsm| hsm.state == "ready")
                && !status.reason.contains("first connection")
        })
        .await
        .expect("a status");
    assert!(words.iter().all(|word| status.reason.contains(word)), "{words:?}: {}", status.reason);
    assert!(words.iter().all(|word| world.log().contains(word)), "{words:?}: {}", world.log());
    let client = daemon.client().await;
    let refused = client.keys().get_key(GetKeyRequest { name: KEY.into() }).await.expect_err("a refusal");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(daemon.stop().await.success());
}
