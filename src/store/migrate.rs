//! Bringing a store of format 2 to format 3, with the full scan that proves that nothing is missing now.
//!
//! ```text
//! copy of store.db ─ changes that only the journal has, into the store ─ every record read, digest made anew,
//!   compared with what format 2 says ─ a second name for the old journal ─ a journal of format 3 under its draft name
//!   ─ the meta row ─ the journal's name
//! ```
//!
//! Each step can be done again: a crash before the meta row leaves a store of format 2, with which this begins
//! anew; a crash behind it leaves the new journal under its draft name, which is found there. Afterwards no row of
//! format 2 is believed again: the journal says of which format the store is, and its code is the daemon's.
//!
//! What stays beside the new files is the way back to the program before: `store.db.format-N.bak`, which the backend
//! made, and the old journal as `journal.kwj.format-N.bak`. Neither is read again by this program.

use std::path::Path;
use std::sync::Arc;

use super::blocking::blocking;
use super::commit::locate;
use super::error::{Refusal, StoreError};
use super::files;
use super::journal::{Kind, Reader, Source, Step, draft_path, journal_error};
use super::kv::{Kv, Transaction, Write};
use super::mac::StoreKeys;
use super::meta::{LogState, Meta};
use super::rebuild::{verify_and_hash, write_journal};
use super::tables::describe;

/// Names of missing records that are told.
const TOLD: usize = 10;

/// Migrates a store of format 2; says so when there was something to do.
///
/// # Errors
/// [`StoreError::NotMigrated`] when records are missing or are not genuine: then the store stays as it is.
pub(super) async fn to_format_3(
    kv: &Arc<dyn Kv>,
    path: &Path,
    keys: &Arc<StoreKeys>,
) -> Result<Option<String>, StoreError> {
    let row = Meta::entry(kv.snapshot().await?.as_mut()).await?;
    let Some(row) = row else { return Ok(None) };
    let Some(meta) = Meta::open_format_2(&row.value, keys)? else {
        return finish_name(path, keys, &Meta::open(&row.value, keys)?).await;
    };
    let (mut reader, format) = open_reader(path, keys, &meta).await?;
    let mut meta = meta;
    loop {
        let change;
        (reader, change) = next_change(reader).await?;
        let Some((totals, writes)) = change else { break };
        put_back(kv, writes).await?;
        meta.totals = totals;
    }
    let found = verify_and_hash(kv.as_ref(), keys, meta.totals.revision).await?;
    if !found.add_up_to(&meta.totals) {
        return Err(StoreError::NotMigrated { what: missing(kv.as_ref(), path, keys).await? });
    }
    // The lock of the old journal is given up with the reader; the state directory's lock stays.
    drop(reader);
    keep_old_journal(path, format).await?;
    write_journal(kv.as_ref(), path, meta.deployment, keys, found.totals, LogState::default()).await?;
    let records = found.totals.records();
    Ok(Some(format!("migrated the store to format 3: {records} records were read, and none is missing")))
}

/// Does what a migration that was cut short before its last step has left to do, and says so.
///
/// # Errors
/// [`StoreError::Tampered`] when the meta row is not genuine.
pub(super) async fn finish(
    kv: &dyn Kv,
    path: &Path,
    keys: &Arc<StoreKeys>,
) -> Result<Option<String>, StoreError> {
    match Meta::entry(kv.snapshot().await?.as_mut()).await? {
        Some(row) if Meta::open_format_2(&row.value, keys)?.is_none() => {
            finish_name(path, keys, &Meta::open(&row.value, keys)?).await
        }
        _ => Ok(None),
    }
}

/// A crash between the meta row and the journal's name: the draft is the journal that the meta row names.
async fn finish_name(path: &Path, keys: &Arc<StoreKeys>, meta: &Meta) -> Result<Option<String>, StoreError> {
    let (path, keys, place) = (path.to_owned(), keys.clone(), meta.journal);
    blocking(move || {
        let draft = draft_path(&path);
        let there = |path: &Path| path.try_exists().map_err(|error| journal_error(path, error));
        let older = there(&path)? && Source::peek(&path, &keys)?.header().is_older();
        if !older || !there(&draft)? || Source::peek(&draft, &keys)?.reader_at(place)?.is_none() {
            return Ok(None);
        }
        files::rename(&draft, &path).map_err(|error| journal_error(&path, error))?;
        Ok(Some("gave the migrated key journal its name".into()))
    })
    .await
}

/// Gives the old journal a second name before the new one takes its first: a program of before format 3 needs it
/// with the copy of the store.
async fn keep_old_journal(path: &Path, format: u32) -> Result<(), StoreError> {
    let (path, copy) = (path.to_owned(), files::beside(path, &format!(".format-{format}.bak")));
    blocking(move || files::link(&path, &copy).map_err(|error| journal_error(&copy, error))).await
}

/// The old journal, at the place where the store is, and its format.
async fn open_reader(path: &Path, keys: &Arc<StoreKeys>, meta: &Meta) -> Result<(Reader, u32), StoreError> {
    let (path, keys, meta) = (path.to_owned(), keys.clone(), meta.clone());
    blocking(move || {
        let source = Source::open(&path, &keys)?;
        if !source.header().is_older() {
            return Err(StoreError::tampered(&Meta::key(), "it is of an older format than the journal"));
        }
        Ok((locate(&source, &meta)?, source.header().format()))
    })
    .await
}

type Change = (super::meta::Totals, Vec<Write>);

async fn next_change(mut reader: Reader) -> Result<(Reader, Option<Change>), StoreError> {
    blocking(move || {
        let offset = reader.point().offset;
        let change = match reader.next()? {
            Step::End | Step::Torn => None,
            Step::Entry(entry) if entry.kind == Kind::Change => Some((entry.totals, entry.writes)),
            _ => return Err(Refusal::JournalDamaged { offset, revision: 0 }.into()),
        };
        Ok((reader, change))
    })
    .await
}

/// Makes a change that only the journal has. The meta row stays: after a crash this is simply done again.
async fn put_back(kv: &Arc<dyn Kv>, writes: Vec<Write>) -> Result<(), StoreError> {
    kv.commit(Transaction { expect: Vec::new(), writes }).await?;
    Ok(())
}

/// The names of records that the journal has and the store has not, or not in their newest version.
async fn missing(kv: &dyn Kv, path: &Path, keys: &Arc<StoreKeys>) -> Result<String, StoreError> {
    let (path, keys) = (path.to_owned(), keys.clone());
    let newest = blocking(move || {
        let mut newest = std::collections::BTreeMap::new();
        let mut reader = Source::peek(&path, &keys)?.reader()?;
        while let Step::Entry(entry) = reader.next()? {
            newest.extend(entry.writes.into_iter().map(|write| (write.key, write.value)));
        }
        Ok::<_, StoreError>(newest)
    })
    .await?;
    let mut snapshot = kv.snapshot().await?;
    let mut names = Vec::new();
    for (key, value) in newest {
        if snapshot.get(&key).await?.map(|entry| entry.value) != value {
            names.push(describe(&key));
        }
    }
    let more = names.len().saturating_sub(TOLD);
    names.truncate(TOLD);
    Ok(match (names.is_empty(), more) {
        (true, _) => "a record that the journal does not know".into(),
        (_, 0) => names.join(", "),
        _ => format!("{} and {more} more", names.join(", ")),
    })
}
