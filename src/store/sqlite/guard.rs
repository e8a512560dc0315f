//! A connection that works only while the file holds what this program makes, and nothing else.
//!
//! SQLite runs what a file says: triggers at a change, views and generated columns at a read. All of that
//! stands in one list, `sqlite_master`, and each change of the list changes a number in the file's header,
//! the schema cookie. The list is compared when a connection is opened; the cookie at the beginning of every
//! transaction, and the list once more when it is another one.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;

use rusqlite::Connection;

use super::schema::{Object, objects};
use super::{KvError, kv_error};

/// Foreign objects that are named; the rest is only counted.
const TOLD: usize = 5;

/// Characters of a text out of the file that are shown.
const SHOWN: usize = 200;

/// A connection, and the only list of objects with which it works.
#[derive(Debug)]
pub(super) struct Guarded {
    connection: Connection,
    expected: Arc<[Object]>,
    /// The cookie under which this very connection has found the list right. It is of the connection, not of
    /// the file: what was parsed under that number is what was compared, even if somebody counts back.
    verified: Cell<Option<i64>>,
}

impl Guarded {
    /// Compares the list before anything else is read.
    pub(super) fn new(connection: Connection, expected: Arc<[Object]>) -> Result<Self, KvError> {
        let guarded = Self { connection, expected, verified: Cell::new(None) };
        guarded.look()?;
        Ok(guarded)
    }

    /// The list with which it works.
    pub(super) fn expected(&self) -> Arc<[Object]> {
        self.expected.clone()
    }

    /// Compares outside of any transaction.
    pub(super) fn look(&self) -> Result<(), KvError> {
        let _ended_when_dropped = self.connection.unchecked_transaction().map_err(kv_error)?;
        self.verify()
    }

    /// Compares as the first step of a transaction, whose other statements see the same list.
    ///
    /// # Errors
    /// [`KvError::Foreign`] that names what is there.
    pub(super) fn verify(&self) -> Result<(), KvError> {
        let cookie = cookie(&self.connection).map_err(kv_error)?;
        if self.verified.get() == Some(cookie) {
            return Ok(());
        }
        // Before the comparison: if it fails, SQLite has parsed a foreign list by now, and the old number
        // must not open the gate to it.
        self.verified.set(None);
        compare(&self.connection, &self.expected)?;
        self.verified.set(Some(cookie));
        Ok(())
    }
}

impl Deref for Guarded {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

fn cookie(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))
}

/// Compares the file's list with the expected one, row by row.
///
/// # Errors
/// [`KvError::Foreign`] that names what is there.
pub(super) fn compare(connection: &Connection, expected: &[Object]) -> Result<(), KvError> {
    let found = objects(connection).map_err(kv_error)?;
    if found == expected {
        return Ok(());
    }
    let mut differences: Vec<String> = found
        .iter()
        .filter(|object| !expected.contains(object))
        .map(|object| match expected.iter().any(|ours| same_name(ours, object)) {
            true => format!("{} is not as keyward makes it", named(object)),
            false => named(object),
        })
        .collect();
    let missing = expected.iter().filter(|ours| !found.iter().any(|object| same_name(ours, object)));
    differences.extend(missing.map(|ours| format!("{} is missing", named(ours))));
    Err(KvError::Foreign(told(&differences)))
}

fn same_name(one: &Object, other: &Object) -> bool {
    (&one.kind, &one.name) == (&other.kind, &other.name)
}

fn named(object: &Object) -> String {
    let Object { kind, name, table, .. } = object;
    let (kind, name) = (printable(kind), printable(name));
    match *table == object.name {
        true => format!("{kind} {name}"),
        false => format!("{kind} {name} on {}", printable(table)),
    }
}

fn told(differences: &[String]) -> String {
    match differences.len() {
        // Every row is one of ours, and there are more of them.
        0 => "a table is listed twice".to_owned(),
        count if count > TOLD => format!("{}, and {} more", differences[..TOLD].join(", "), count - TOLD),
        _ => differences.join(", "),
    }
}

/// A text out of the file as it can be shown: what steers a terminal or turns the order of other
/// characters around is spelled out, and a long one is cut.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars().take(SHOWN) {
        match character {
            '"' | '\'' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
