//! Somebody who can write `store.db`: takes rows away, puts older ones in their place and damages them where they
//! lie, and some moments later puts them back.
//!
//! SQLite opens no database with a log when it is told to ignore locks (`nolock=1`: SQLITE_CANTOPEN), so rows
//! come and go by SQL, beside the daemon; bytes are changed in the file itself, past every lock.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward::store::tables::Table;
use keyward_softhsm_tests::Random;
use memchr::memmem;
use rusqlite::{Connection, OptionalExtension};
use serde_json::{Value, json};

/// A row's value and revision.
type Row = (Vec<u8>, i64);

/// Tables that the daemon itself writes at any time, or that victims need: the root for a tenant, the rest for
/// every change.
const SPARED: [Table; 6] =
    [Table::Root, Table::Lease, Table::ClockMark, Table::DekUses, Table::Digest, Table::Meta];
/// Tenants of which nothing is touched: of victims, and of the other attacker, who changes its own rows.
const TENANTS: [&[u8]; 2] = [b"acme\0", b"greedy\0"];

/// How long a row is wrong, and right until the next one is wrong.
const WRONG: Duration = Duration::from_millis(200);
const RIGHT: Duration = Duration::from_millis(50);
/// How long the daemon's changes are waited for.
const BUSY: Duration = Duration::from_secs(30);
/// A stored value: its kind, the revision, then the code.
const CODE: std::ops::Range<usize> = 9..41;

/// Goes on until it is over; answers what was done.
pub(crate) fn run(store: &Path, older: &Path, over: &AtomicBool) -> Result<Value, Box<dyn Error>> {
    let older = rows(&Connection::open(older)?)?;
    let connection = Connection::open(store)?;
    connection.busy_timeout(BUSY)?;
    // One descriptor for ever: closing it would end the locks of our own SQLite.
    let file = File::options().read(true).write(true).open(store)?;
    let mut targets: Vec<_> = rows(&connection)?.into_iter().filter(|(key, _)| is_target(key)).collect();
    let (mut random, mut done) = (Random::new(), Done::default());
    while !over.load(Ordering::Relaxed) {
        // Each of them once, in an order by chance.
        for left in (1..targets.len()).rev() {
            targets.swap(left, usize::try_from(random.below(left as u64 + 1))?);
        }
        for (key, row) in &targets {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let before = older.get(key).filter(|before| *before != row);
            match (random.below(3), before) {
                (0, _) if scribble(&file, store, row)? => {
                    std::thread::sleep(WRONG);
                    put(&connection, key, row)?;
                    done.damaged += 1;
                }
                (1, Some(before)) => {
                    put(&connection, key, before)?;
                    std::thread::sleep(WRONG);
                    done.put_back(&connection, key, Some(before), row)?;
                    done.aged += 1;
                }
                _ => {
                    connection.execute("DELETE FROM kv WHERE key = ?1", [key])?;
                    std::thread::sleep(WRONG);
                    done.put_back(&connection, key, None, row)?;
                    done.taken += 1;
                }
            }
            std::thread::sleep(RIGHT);
        }
    }
    let rows = targets.len();
    let Done { taken, aged, damaged, changed } = done;
    Ok(json!({ "rows": rows, "taken": taken, "aged": aged, "damaged": damaged, "changed": changed }))
}

/// What was done.
#[derive(Default)]
struct Done {
    taken: u64,
    aged: u64,
    damaged: u64,
    /// Rows that the daemon had written while they were wrong.
    changed: Vec<String>,
}

impl Done {
    fn put_back(
        &mut self,
        connection: &Connection,
        key: &[u8],
        wrong: Option<&Row>,
        right: &Row,
    ) -> rusqlite::Result<()> {
        if get(connection, key)?.as_ref() == wrong {
            return put(connection, key, right);
        }
        // What is there now is the daemon's: it stays, and is told.
        self.changed.push(format!("{key:02x?}"));
        Ok(())
    }
}

fn is_target(key: &[u8]) -> bool {
    let table = key.first().and_then(|byte| Table::from_byte(*byte));
    table.is_some_and(|table| !SPARED.contains(&table))
        && !TENANTS.iter().any(|tenant| memmem::find(key, tenant).is_some())
}

/// Flips a byte of a row's code where it lies; answers whether it was found.
fn scribble(file: &File, store: &Path, row: &Row) -> Result<bool, Box<dyn Error>> {
    let Some(code) = row.0.get(CODE) else { return Ok(false) };
    let length = std::fs::metadata(store)?.len();
    let mut content = vec![0; usize::try_from(length)?];
    // Shorter by now, or longer: the next row comes.
    if file.read_exact_at(&mut content, 0).is_err() {
        return Ok(false);
    }
    let places: Vec<u64> = memmem::find_iter(&content, code).map(|place| place as u64).collect();
    for place in &places {
        let mut now = vec![0; code.len()];
        file.read_exact_at(&mut now, *place)?;
        // Not where the page was written anew meanwhile.
        if now == code {
            file.write_all_at(&[code[0] ^ 1], *place)?;
        }
    }
    Ok(!places.is_empty())
}

fn rows(connection: &Connection) -> rusqlite::Result<BTreeMap<Vec<u8>, Row>> {
    let mut select = connection.prepare("SELECT key, value, revision FROM kv")?;
    let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<(Vec<u8>, Row)> {
        Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))
    };
    let rows = select.query_map([], row)?;
    rows.collect()
}

fn get(connection: &Connection, key: &[u8]) -> rusqlite::Result<Option<Row>> {
    let select = "SELECT value, revision FROM kv WHERE key = ?1";
    connection.query_row(select, [key], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn put(connection: &Connection, key: &[u8], (value, revision): &Row) -> rusqlite::Result<()> {
    let insert = "INSERT OR REPLACE INTO kv (key, value, revision) VALUES (?1, ?2, ?3)";
    connection.execute(insert, (key, value, revision)).map(drop)
}
