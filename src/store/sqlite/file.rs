//! Opening the SQLite file: making, checking and migrating it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::guard::{self, Guarded};
use super::schema::{self, APPLICATION_ID, Object, Schema};
use super::{KvError, kv_error};
use crate::store::files;

/// Compiled statements kept per connection.
const STATEMENTS: usize = 16;

/// How long a connection waits for a lock that a checkpoint or an export holds for a moment.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// Opens the connection that writes.
pub(super) fn open(path: &Path, schema: &Schema) -> Result<Guarded, KvError> {
    if !is_there(path)? {
        refuse_orphan_log(path)?;
        // Closed again before SQLite opens it: later a descriptor of ours would end SQLite's locks.
        files::create(path).map_err(|error| KvError::Other(format!("{}: {error}", path.display())))?;
    }
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(kv_error)?;
    match identify(&connection, schema).map_err(kv_error)? {
        Found::Nothing => make(&mut connection, schema).map_err(kv_error)?,
        Found::Older(format) => migrate(&mut connection, path, schema, format)?,
        Found::Current => (),
        Found::Newer { found, needed } => return Err(KvError::Newer { found, known: schema.format, needed }),
        Found::Foreign => {
            return Err(KvError::Damaged(format!("{} is not a store of keyward", path.display())));
        }
    }
    let expected = schema.objects(schema.format).map_err(kv_error)?;
    let connection = Guarded::new(connection, expected.into())?;
    // Set after the check, so that a foreign file is not touched.
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(kv_error)?;
    if mode != "wal" {
        return Err(KvError::Other(format!("{}: the file system does not support WAL", path.display())));
    }
    Ok(connection)
}

/// As [`open`], but a store of an older format stays as it is.
pub(super) fn open_current(path: &Path, schema: &Schema) -> Result<Guarded, KvError> {
    if is_there(path)? {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(kv_error)?;
        if let Found::Older(found) = identify(&connection, schema).map_err(kv_error)? {
            return Err(KvError::Older { found, known: schema.format });
        }
    }
    open(path, schema)
}

fn is_there(path: &Path) -> Result<bool, KvError> {
    path.try_exists().map_err(|error| KvError::Other(format!("{}: {error}", path.display())))
}

/// SQLite would replay the log of a lost file into the new one.
fn refuse_orphan_log(path: &Path) -> Result<(), KvError> {
    let log = files::beside(path, "-wal");
    if is_there(&log)? {
        return Err(KvError::Damaged(format!(
            "{} is missing, but its log {} is there",
            path.display(),
            log.display()
        )));
    }
    Ok(())
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path, expected: Arc<[Object]>) -> Result<Guarded, KvError> {
    // A WAL reader needs to write to the shared index, hence not SQLITE_OPEN_READ_ONLY.
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(kv_error)?;
    connection.pragma_update(None, "query_only", true).map_err(kv_error)?;
    Guarded::new(connection, expected)
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // Before anything that makes SQLite read the file.
    distrust(&connection)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// Runs nothing that the file may hold, and believes none of its sizes.
fn distrust(connection: &Connection) -> rusqlite::Result<()> {
    let settings = [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    ];
    for (setting, value) in settings {
        connection.set_db_config(setting, value)?;
    }
    connection.pragma_update(None, "cell_size_check", true)?;
    // A file that is cut while it is mapped would end the process.
    connection.pragma_update(None, "mmap_size", 0)
}

enum Found {
    Nothing,
    Older(u32),
    Current,
    Newer { found: u32, needed: String },
    Foreign,
}

fn identify(connection: &Connection, schema: &Schema) -> rusqlite::Result<Found> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let format = number("user_version")?.cast_unsigned();
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM main.sqlite_master", [], |row| row.get(0))?;
    Ok(match (number("application_id")?, format) {
        (0, 0) if objects == 0 => Found::Nothing,
        (APPLICATION_ID, found) if found > schema.format => {
            Found::Newer { found, needed: guard::printable(&schema::needs(connection)?) }
        }
        (APPLICATION_ID, found) if found == schema.format => Found::Current,
        (APPLICATION_ID, found) if found > 0 => Found::Older(found),
        _ => Found::Foreign,
    })
}

fn make(connection: &mut Connection, schema: &Schema) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::create(&transaction)?;
    advance(&transaction, schema, 1)?;
    transaction.commit()
}

fn migrate(connection: &mut Connection, path: &Path, schema: &Schema, format: u32) -> Result<(), KvError> {
    let expected = schema.objects(format).map_err(kv_error)?;
    guard::compare(connection, &expected)?;
    backup(connection, path, format)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(kv_error)?;
    // Once more where nobody else can write: it may have changed during the backup.
    guard::compare(&transaction, &expected)?;
    advance(&transaction, schema, format).map_err(kv_error)?;
    transaction.commit().map_err(kv_error)
}

fn advance(transaction: &rusqlite::Transaction<'_>, schema: &Schema, from: u32) -> rusqlite::Result<()> {
    for step in schema.steps.iter().skip(from as usize - 1) {
        step(transaction)?;
    }
    schema::stamp(transaction, schema.format)
}

/// Copies the store to `store.db.format-N.bak`. A copy that was cut short never gets that name.
fn backup(connection: &Connection, path: &Path, format: u32) -> Result<(), KvError> {
    let name = files::beside(path, &format!(".format-{format}.bak"));
    let draft = files::beside(&name, ".new");
    let failed = |error| KvError::Other(format!("backup {}: {error}", name.display()));
    files::remove_if_there(&draft).map_err(failed)?;
    let file = files::create(&draft).map_err(failed)?;
    let target = draft.to_str().ok_or_else(|| KvError::Other("the store's path is not UTF-8".into()))?;
    let copied = connection.execute("VACUUM INTO ?1", [target]).map_err(kv_error);
    let copied = copied.and_then(|_| file.sync_all().map_err(failed));
    if copied.is_err() {
        // On a full disk a start that is tried again would have no room either, nor would the version before.
        files::remove_if_there(&draft).map_err(failed)?;
    }
    copied?;
    files::rename(&draft, &name).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const FIRST: Schema = Schema { format: 1, steps: &[] };
    const NEXT: Schema =
        Schema { format: 2, steps: &[|t| t.execute_batch("ALTER TABLE kv ADD COLUMN note TEXT")] };
    const BROKEN: Schema = Schema {
        format: 2,
        steps: &[|t| {
            t.execute_batch("ALTER TABLE kv ADD COLUMN note TEXT; ALTER TABLE nothing ADD COLUMN x")
        }],
    };

    fn columns(path: &Path) -> usize {
        let connection = Connection::open(path).unwrap();
        let statement = connection.prepare("SELECT * FROM kv").unwrap();
        statement.column_count()
    }

    fn fixture(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("store.db");
        let connection = open(&path, &FIRST).unwrap();
        connection.execute("INSERT INTO kv VALUES (x'01', x'02', 3)", []).unwrap();
        path
    }

    #[test]
    fn a_new_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = fixture(dir.path());
        let _open = open(&path, &FIRST).unwrap();
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
        assert!(path.exists());
    }

    #[test]
    fn an_older_store_is_backed_up_and_migrated() {
        let dir = tempfile::tempdir().unwrap();
        let path = fixture(dir.path());
        // A draft from a migration that was cut short must not stand in the way.
        std::fs::write(dir.path().join("store.db.format-1.bak.new"), "half").unwrap();
        drop(open(&path, &NEXT).unwrap());
        assert_eq!(columns(&path), 4);
        let backup = dir.path().join("store.db.format-1.bak");
        assert_eq!(columns(&backup), 3);
        assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
        let kept: i64 = Connection::open(&backup)
            .unwrap()
            .query_row("SELECT revision FROM kv", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, 3);
        drop(open(&path, &NEXT).unwrap());
    }

    #[test]
    fn an_older_store_with_anything_foreign_is_neither_copied_nor_migrated() {
        let dir = tempfile::tempdir().unwrap();
        let path = fixture(dir.path());
        let trigger = "CREATE TRIGGER thaw AFTER INSERT ON kv BEGIN DELETE FROM kv; END";
        Connection::open(&path).unwrap().execute_batch(trigger).unwrap();
        let error = open(&path, &NEXT).unwrap_err();
        assert!(matches!(&error, KvError::Foreign(what) if what == "trigger thaw on kv"), "{error}");
        assert_eq!(columns(&path), 3);
        assert!(!dir.path().join("store.db.format-1.bak").exists());
    }

    #[test]
    fn a_failed_migration_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = fixture(dir.path());
        assert!(open(&path, &BROKEN).is_err());
        assert_eq!(columns(&path), 3);
        assert!(open(&path, &FIRST).is_ok());
        assert!(open(&path, &NEXT).is_ok());
    }

    #[test]
    fn a_new_store_has_every_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        drop(open(&path, &NEXT).unwrap());
        assert_eq!(columns(&path), 4);
    }

    #[test]
    fn a_newer_store_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = fixture(dir.path());
        drop(open(&path, &NEXT).unwrap());
        let error = open(&path, &FIRST).unwrap_err();
        assert!(
            matches!(&error, KvError::Newer { found: 2, known: 1, needed } if needed == env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(columns(&path), 4);
    }

    #[test]
    fn foreign_files_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = dir.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let before = std::fs::read(&foreign).unwrap();
        assert!(matches!(open(&foreign, &FIRST), Err(KvError::Damaged(_))));
        assert_eq!(std::fs::read(&foreign).unwrap(), before);
        let text = dir.path().join("text");
        std::fs::write(&text, "something else entirely, long enough to be a header".repeat(100)).unwrap();
        assert!(matches!(open(&text, &FIRST), Err(KvError::Damaged(_))));
    }

    #[test]
    fn the_log_of_a_lost_store_is_not_replayed_into_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = fixture(dir.path());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(dir.path().join("store.db-wal"), "log").unwrap();
        assert!(matches!(open(&path, &FIRST), Err(KvError::Damaged(_))));
        assert!(!path.exists());
    }

    #[test]
    fn an_empty_file_is_made_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        files::create(&path).unwrap();
        assert!(open(&path, &FIRST).is_ok());
    }
}
