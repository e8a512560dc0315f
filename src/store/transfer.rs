//! A store in one portable file: for backups, and for moving to another backend.
//!
//! ```text
//! file = "KWX\n" | u32 format | needs (16, ASCII, zero-padded) | part (meta row) | (part (key) | part (stored value))… | u32 0 | SHA-256 of all before
//! part = u32 length | bytes
//! ```
//!
//! The values are those of the store, MACs included: making an export needs no
//! key, and importing one verifies every record.

use std::io;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::{Refusal, StoreError};
use super::kv::{Kv, Write};
use super::mac::{StoreKeys, lp32};
use super::meta::{Meta, StoreChange, Totals};
use super::needs;
use super::rebuild::{Filler, verify_and_hash, write_journal};
use super::recover::{ErasureList, erasure_list, first_records, refuse_unless_new};
use super::scan::Scan;
use super::tables::{self, Table};
use super::view::Row;
use crate::id::DeploymentId;
use crate::keyring::record::{Root, SystemSecret};

const MAGIC: &[u8; 4] = b"KWX\n";
/// Format 2 is format 1 with sealed rows; format 3 has another meta row.
const FORMAT: u32 = 3;

/// Longest part: far above any key or record.
const MAX_PART: u32 = 1 << 24;

/// What an export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// The installation.
    pub deployment: DeploymentId,
    /// The revision, and the digest at it.
    pub position: StoreChange,
    /// Records.
    pub records: u64,
}

/// Writes all records at one revision to `writer`. Works while the daemon runs.
/// The caller makes the file durable.
///
/// # Errors
/// [`Refusal::NoStore`] when there is nothing, [`StoreError::Tampered`] when rows are missing or stand twice, and
/// failures of reading and writing. What was written is of no use then.
pub async fn export(kv: &dyn Kv, writer: impl AsyncWrite + Unpin) -> Result<Exported, StoreError> {
    export_by(kv, writer, None).await
}

/// As [`export`], where the keys are there: each record that is written is genuine, and all of them are the newest.
///
/// # Errors
/// As [`export`], also when a record is not genuine.
pub(super) async fn export_verified(
    kv: &dyn Kv,
    writer: impl AsyncWrite + Unpin,
    keys: &StoreKeys,
) -> Result<Exported, StoreError> {
    export_by(kv, writer, Some(keys)).await
}

async fn export_by(
    kv: &dyn Kv,
    writer: impl AsyncWrite + Unpin,
    keys: Option<&StoreKeys>,
) -> Result<Exported, StoreError> {
    let mut snapshot = kv.snapshot().await?;
    let row = Meta::entry(snapshot.as_mut()).await?.ok_or(Refusal::NoStore)?;
    let meta = match keys {
        Some(keys) => Meta::open(&row.value, keys)?,
        None => Meta::unauthenticated(&row.value)
            .ok_or_else(|| StoreError::tampered(&Meta::key(), "it cannot be read"))?,
    };
    let mut out = Hashing::new(writer);
    out.write(&header()).await?;
    out.part(&row.value).await?;
    let (mut scan, mut tally) = (Scan::new(snapshot), Tally::new(keys, &meta.totals));
    loop {
        let rows = scan.next().await?;
        if rows.is_empty() {
            break;
        }
        for (key, value) in rows {
            out.part(&key).await?;
            out.part(&value).await?;
            tally.add(key, value)?;
        }
    }
    // Before the end of the file: a copy that lacks a row has none.
    tally.finish(&meta.totals)?;
    out.finish().await?;
    Ok(exported(&meta))
}

/// What was written of a store: that is compared with what the store says that it holds.
struct Tally<'a> {
    keys: Option<&'a StoreKeys>,
    found: Totals,
    last: Option<Vec<u8>>,
}

impl<'a> Tally<'a> {
    fn new(keys: Option<&'a StoreKeys>, totals: &Totals) -> Self {
        let found = Totals { revision: totals.revision, digest: totals.digest, ..Totals::EMPTY };
        Self { keys, found, last: None }
    }

    fn add(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(StoreError::tampered(&key, "it stands twice, or out of its place"));
        }
        match self.keys {
            Some(keys) => {
                let row = Row::open(&key, value, keys, self.found.revision)?;
                self.found.add(&key, &row.value, keys);
            }
            None => self.found.bytes += (key.len() + value.len()) as u64,
        }
        self.last = Some(key);
        Ok(())
    }

    /// Without keys nothing but the length is known of the records.
    fn finish(&self, totals: &Totals) -> Result<(), StoreError> {
        let same = match self.keys {
            Some(_) => self.found == *totals,
            None => self.found.bytes == totals.bytes,
        };
        match same {
            true => Ok(()),
            false => Err(StoreError::tampered(&Meta::key(), "the records do not add up to what it says")),
        }
    }
}

fn exported(meta: &Meta) -> Exported {
    let Meta { deployment, totals, .. } = meta;
    Exported { deployment: *deployment, position: totals.change(), records: totals.records() }
}

fn header() -> Vec<u8> {
    [MAGIC.as_slice(), &FORMAT.to_be_bytes(), &needs::field()].concat()
}

/// The root and secret of an export, read without any key; see
/// [`bootstrap`](super::bootstrap). Reads the export to its end and checks its hash.
///
/// # Errors
/// [`Refusal::ExportDamaged`] when it is damaged or cut.
pub async fn bootstrap_export(
    reader: impl AsyncRead + Unpin,
) -> Result<Option<(Root, SystemSecret)>, StoreError> {
    let mut import = Import::begin(reader).await?;
    let (mut roots, mut secret) = (Vec::new(), None);
    while let Some((key, value)) = import.next().await? {
        if key.first() == Some(&Table::Root.byte()) {
            roots.push(value);
        } else if key == tables::system_secret().key() {
            secret = Some(value);
        }
    }
    first_records(roots, secret)
}

/// As [`erasure_keys`](super::erasure_keys), of an export.
///
/// # Errors
/// [`Refusal::ExportDamaged`] when it is damaged or cut.
pub async fn erasure_keys_of_export(reader: impl AsyncRead + Unpin) -> Result<ErasureList, StoreError> {
    let mut import = Import::begin(reader).await?;
    let mut rows = Vec::new();
    while let Some((key, value)) = import.next().await? {
        if key.first() == Some(&Table::Erasure.byte()) {
            rows.push((key, value));
        }
    }
    Ok(erasure_list(rows))
}

/// Fills an empty backend, and makes a new journal at `journal`, from an export.
/// After an error the backend holds no store; remove it and begin again.
///
/// # Errors
/// [`Refusal::NotEmpty`] when there is a store or a journal already,
/// [`Refusal::ExportDamaged`], [`StoreError::Tampered`] when a record is not genuine.
pub async fn import(
    reader: impl AsyncRead + Unpin,
    kv: Arc<dyn Kv>,
    journal: &Path,
    keys: StoreKeys,
) -> Result<Exported, StoreError> {
    refuse_unless_new(kv.as_ref(), journal).await?;
    let keys = Arc::new(keys);
    let mut import = Import::begin(reader).await?;
    let meta = match Meta::open_format_2(&import.meta, &keys)? {
        Some(old) => old,
        None => Meta::open(&import.meta, &keys)?,
    };
    let mut filler = Filler::new(kv.clone());
    while let Some((key, value)) = import.next().await? {
        filler.put([Write { key, value: Some(value) }]).await?;
    }
    filler.flush().await?;
    let found = verify_and_hash(kv.as_ref(), &keys, meta.totals.revision).await?;
    if !found.add_up_to(&meta.totals) {
        return Err(StoreError::tampered(&Meta::key(), "the records do not add up to what it says"));
    }
    write_journal(kv.as_ref(), journal, meta.deployment, &keys, found.totals, meta.log.clone()).await?;
    Ok(exported(&meta))
}

/// Writes parts and hashes them on the way.
struct Hashing<W> {
    writer: W,
    hash: Sha256,
}

impl<W: AsyncWrite + Unpin> Hashing<W> {
    fn new(writer: W) -> Self {
        Self { writer, hash: Sha256::new() }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hash.update(bytes);
        self.writer.write_all(bytes).await.map_err(StoreError::Transfer)
    }

    async fn part(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(&lp32(bytes)).await?;
        self.write(bytes).await
    }

    async fn finish(mut self) -> Result<(), StoreError> {
        self.write(&lp32(&[])).await?;
        let hash = self.hash.finalize();
        self.writer.write_all(&hash).await.map_err(StoreError::Transfer)?;
        self.writer.flush().await.map_err(StoreError::Transfer)
    }
}

/// Reads parts and hashes them on the way.
struct Import<R> {
    reader: R,
    hash: Sha256,
    meta: Vec<u8>,
    last: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Import<R> {
    async fn begin(reader: R) -> Result<Self, StoreError> {
        let mut import = Self { reader, hash: Sha256::new(), meta: Vec::new(), last: Vec::new() };
        let header = import.read(MAGIC.len() + 4 + needs::LEN).await?;
        check_header(&header)?;
        import.meta = import.part().await?;
        Ok(import)
    }

    /// The next record; `None` at the end, after its hash was found right.
    async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>, StoreError> {
        let key = self.part().await?;
        if key.is_empty() {
            return self.end().await;
        }
        if key <= self.last || key.first() >= Some(&Table::Digest.byte()) {
            return Err(damaged("a record is out of place"));
        }
        self.last.clone_from(&key);
        Ok(Some((key, self.part().await?)))
    }

    async fn end(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>, StoreError> {
        let expected = std::mem::take(&mut self.hash).finalize();
        let found = self.read(expected.len()).await?;
        if found != expected.as_slice() {
            return Err(damaged("its closing hash does not match"));
        }
        let mut one = [0];
        match self.reader.read(&mut one).await.map_err(StoreError::Transfer)? {
            0 => Ok(None),
            _ => Err(damaged("there is something behind its end")),
        }
    }

    async fn part(&mut self) -> Result<Vec<u8>, StoreError> {
        let length = self.read(4).await?.try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX);
        if length > MAX_PART {
            return Err(damaged("a length is impossible"));
        }
        self.read(length as usize).await
    }

    async fn read(&mut self, length: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends too early"),
            _ => StoreError::Transfer(error),
        })?;
        self.hash.update(&bytes);
        Ok(bytes)
    }
}

fn check_header(header: &[u8]) -> Result<(), StoreError> {
    let format = header.get(4..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes);
    match format {
        Some(1..=FORMAT) if header.starts_with(MAGIC) => Ok(()),
        Some(found) if found > FORMAT && header.starts_with(MAGIC) => {
            let needed = needs::read(&header[8..]);
            Err(Refusal::Newer { what: "the export".into(), found, known: FORMAT, needed }.into())
        }
        _ => Err(Refusal::Foreign("the export".into()).into()),
    }
}

fn damaged(how: &str) -> StoreError {
    Refusal::ExportDamaged(how.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Records;
    use crate::store::check::check;
    use crate::store::testing::{
        self, DEPLOYMENT, FaultyKv, Lie, Place as Dir, add, dek, dek_path, keys, read, set, tenant_path,
    };
    use crate::store::{Changes, sqlite::SqliteKv};

    async fn source(place: &Dir) -> (Records, Vec<u8>) {
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        set(&records, 1, 5).await.unwrap();
        let mut changes = Changes::new();
        changes.create(&dek_path(1), &dek(1));
        records.commit(changes).await.unwrap();
        let mut file = Vec::new();
        // A connection of its own, as another process would have it.
        let exported = export(place.kv().await.as_ref(), &mut file).await.unwrap();
        assert_eq!(exported.position, records.position());
        assert_eq!((exported.deployment, exported.records), (DEPLOYMENT, 4));
        (records, file)
    }

    async fn import_into(place: &Dir, file: &[u8]) -> Result<Exported, StoreError> {
        import(file, place.kv().await, &place.journal(), keys()).await
    }

    #[tokio::test]
    async fn what_was_exported_is_imported() {
        let (here, there) = (Dir::new(), Dir::new());
        let (records, file) = source(&here).await;
        assert_eq!(bootstrap_export(file.as_slice()).await.unwrap(), Some(testing::first_records()));
        let imported = import_into(&there, &file).await.unwrap();
        assert_eq!(imported.position, records.position());
        let report = check(there.kv().await.as_ref(), &there.journal(), Arc::new(keys())).await.unwrap();
        assert!(report.is_whole(), "{:?}", report.lines());
        let (moved, report) = there.open_after(Some(records.position())).await.unwrap();
        assert_eq!(report.notes, Vec::<String>::new());
        assert_eq!(moved.get(&dek_path(1)).await.unwrap(), records.get(&dek_path(1)).await.unwrap());
        assert_eq!(read(&moved, 1).await, Some(5));
        // It goes on where it stopped.
        assert_eq!(add(&moved, 2).await.unwrap(), add(&records, 2).await.unwrap());
        assert!(matches!(import_into(&there, &file).await, Err(StoreError::Refused(Refusal::NotEmpty(_)))));
    }

    #[tokio::test]
    async fn a_cut_or_changed_export_is_refused() {
        let here = Dir::new();
        let (_, file) = source(&here).await;
        for length in 0..file.len() {
            assert!(bootstrap_export(&file[..length]).await.is_err(), "cut at {length}");
        }
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(bootstrap_export(changed.as_slice()).await.is_err(), "byte {at}");
        }
        let longer = [file.as_slice(), b"x"].concat();
        assert!(bootstrap_export(longer.as_slice()).await.is_err());
        let there = Dir::new();
        let error = import_into(&there, &file[..file.len() - 1]).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(Refusal::ExportDamaged(_))), "{error}");
        assert!(there.open().await.is_err(), "half an import is no store");
    }

    /// The export with some records left out or changed, and a hash that matches.
    async fn forged(file: &[u8], edit: impl Fn(&[u8], Vec<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
        let mut import = Import::begin(file).await.unwrap();
        let mut forged = Vec::new();
        let mut out = Hashing::new(&mut forged);
        out.write(&header()).await.unwrap();
        out.part(&import.meta).await.unwrap();
        while let Some((key, value)) = import.next().await.unwrap() {
            if let Some(value) = edit(&key, value) {
                out.part(&key).await.unwrap();
                out.part(&value).await.unwrap();
            }
        }
        out.finish().await.unwrap();
        forged
    }

    #[tokio::test]
    async fn a_forged_export_is_refused() {
        let here = Dir::new();
        let (records, file) = source(&here).await;
        let dek_key = dek_path(1).key();
        let genuine = here.peek(&dek_key);
        let mut changes = Changes::new();
        changes.replace(&dek_path(1), &dek(2), records.position().revision);
        records.commit(changes).await.unwrap();
        let mut newer = Vec::new();
        export(here.kv().await.as_ref(), &mut newer).await.unwrap();
        let same = forged(&file, |_, value| Some(value)).await;
        assert_eq!(same, file);
        let cases = [
            forged(&newer, |key, value| (key != dek_key).then_some(value)).await,
            forged(&newer, |key, value| Some(if key == dek_key { genuine.clone() } else { value })).await,
            forged(&newer, |_, mut value| {
                value[45] ^= 1;
                Some(value)
            })
            .await,
        ];
        for (number, case) in cases.into_iter().enumerate() {
            let there = Dir::new();
            let error = import_into(&there, &case).await.unwrap_err();
            assert!(matches!(error, StoreError::Tampered { .. }), "case {number}: {error}");
            assert!(there.open().await.is_err());
        }
    }

    #[tokio::test]
    async fn a_copy_that_lacks_a_row_is_not_finished() {
        let here = Dir::new();
        let (records, file) = source(&here).await;
        let kv = FaultyKv::new(here.kv().await);
        for (lie, path) in
            Lie::ALL.into_iter().flat_map(|lie| [(lie, tenant_path(1).key()), (lie, dek_path(1).key())])
        {
            kv.lie(lie, path);
            let mut copy = Vec::new();
            let error = export(&*kv, &mut copy).await.unwrap_err();
            assert!(matches!(error, StoreError::Tampered { .. }), "{lie:?}: {error}");
            assert!(bootstrap_export(copy.as_slice()).await.is_err(), "{lie:?}");
        }
        kv.be_honest();
        let mut copy = Vec::new();
        export(&*kv, &mut copy).await.unwrap();
        assert_eq!(copy, file);
        // Whoever has the keys sees an old row too, where a reader without them does not.
        let (path, old) = (dek_path(1), here.peek(&dek_path(1).key()));
        let mut changes = Changes::new();
        changes.replace(&path, &dek(2), records.position().revision);
        records.commit(changes).await.unwrap();
        records.export(Vec::new()).await.unwrap();
        here.poke(&path.key(), &old);
        let error = records.export(Vec::new()).await.unwrap_err();
        assert!(matches!(error, StoreError::Tampered { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_empty_store_is_not_exported() {
        let place = Dir::new();
        let kv = SqliteKv::open(place.store()).await.unwrap();
        assert!(matches!(export(&kv, Vec::new()).await, Err(StoreError::Refused(Refusal::NoStore))));
    }

    #[tokio::test]
    async fn a_newer_export_is_refused_by_name() {
        let here = Dir::new();
        let (_, mut file) = source(&here).await;
        file[7] = 4;
        let error = bootstrap_export(file.as_slice()).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(Refusal::Newer { found: 4, known: 3, .. })), "{error}");
    }
}
