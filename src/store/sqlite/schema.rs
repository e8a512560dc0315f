//! The tables of the SQLite file, and how older ones are brought up to date.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Transaction};

/// The format that this program writes, and the steps to it.
pub(super) struct Schema {
    /// The format, in the file's `user_version`.
    pub format: u32,
    /// Step `n` turns format `n + 1` into `n + 2`.
    pub steps: &'static [fn(&Transaction<'_>) -> rusqlite::Result<()>],
}

/// A row of the list of tables, indexes, views and triggers that every SQLite file has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object {
    /// `table`, `index`, `view` or `trigger`, or what an enemy wrote.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table that it belongs to.
    pub table: String,
    /// The statement that makes it.
    pub sql: String,
}

impl Schema {
    /// All that a file of `format` lists, sorted: the same steps in memory made it.
    pub(super) fn objects(&self, format: u32) -> rusqlite::Result<Vec<Object>> {
        let mut connection = Connection::open_in_memory()?;
        let transaction = connection.transaction()?;
        create(&transaction)?;
        for step in self.steps.iter().take((format as usize).saturating_sub(1)) {
            step(&transaction)?;
        }
        objects(&transaction)
    }
}

/// All that the file lists, sorted.
pub(super) fn objects(connection: &Connection) -> rusqlite::Result<Vec<Object>> {
    // By its first name, which no object of the file can take; `sqlite_schema` is only an alias.
    let mut select = connection.prepare("SELECT type, name, tbl_name, sql FROM main.sqlite_master")?;
    let rows = select.query_map([], |row| {
        Ok(Object { kind: text(row, 0)?, name: text(row, 1)?, table: text(row, 2)?, sql: text(row, 3)? })
    })?;
    let mut objects = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    objects.sort_unstable();
    Ok(objects)
}

/// A column whatever it holds. What is no text is spelled so that it equals none of ours.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        other => format!("({})", other.data_type()),
    })
}

/// The current format.
///
/// Format 2 has the tables of format 1; the rows of wrapped keys are sealed under
/// an erasure key, which a program for format 1 cannot read. Format 3 has another meta row: the records layer
/// turns it over when it opens the store, since that takes the keys.
pub(super) const SCHEMA: Schema = Schema { format: 3, steps: &[|_| Ok(()), |_| Ok(())] };

/// `KWST` in the file's `application_id`: marks a store of this program.
pub(super) const APPLICATION_ID: i32 = 0x4b57_5354;

/// Makes the tables of format 1.
pub(super) fn create(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
         CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
         INSERT INTO meta (name, value) VALUES ('revision', 0);",
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)
}

/// Stamps the format, and the version that is needed to read it.
pub(super) fn stamp(transaction: &Transaction<'_>, format: u32) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT OR REPLACE INTO meta (name, value) VALUES ('needs', ?1)",
        [env!("CARGO_PKG_VERSION")],
    )?;
    transaction.pragma_update(None, "user_version", format)
}

/// The version that is needed to read the file.
pub(super) fn needs(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("SELECT value FROM meta WHERE name = 'needs'", [], |row| row.get(0))
}

/// Commits so far.
pub(super) fn revision(connection: &Connection) -> rusqlite::Result<u64> {
    let mut select = connection.prepare_cached("SELECT value FROM meta WHERE name = 'revision'")?;
    select.query_row([], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

/// Stores the number of commits.
pub(super) fn set_revision(connection: &Connection, revision: u64) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'revision'")?;
    update.execute([revision.cast_signed()]).map(|_| ())
}
