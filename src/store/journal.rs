//! The key journal: every change once more, in a file of its own, ideally on another disk.
//!
//! ```text
//! file   = header | entry…
//! header = "KWJ\n" | u32 format | needs (16, ASCII, zero-padded) | deployment (16) | id (16) | MAC (32)      88 bytes
//! entry  = u32 length | body (CBOR) | MAC (32) | u32 length
//! MAC    = HMAC-SHA-256(journal key, MAC before | body); the first one before is the header's
//! ```
//!
//! The length stands on both sides, so the file reads backwards too. A journal
//! begins with the whole store as it was when the file was made: parts, closed
//! by a base entry; changes follow.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minicbor::{Decode, Encode};

use super::error::{Refusal, StoreError};
use super::files;
use super::kv::Write;
use super::mac::StoreKeys;
use super::meta::{JournalPoint, LogState, StoredTotals, Totals};

mod header;
mod read;

pub(super) use header::Header;
pub(super) use read::{Reader, Step};

/// Bytes around the body of an entry.
const FRAME: u64 = 4 + 32 + 4;

/// Longest body of an entry.
const MAX_BODY: u64 = 1 << 28;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum Kind {
    /// Some records of the store as it was when the file was made.
    #[n(1)]
    Part,
    /// The last of them, with what the store held.
    #[n(2)]
    Base,
    /// One change, with what the store holds after it.
    #[n(3)]
    Change,
    /// A change of no record, which only says anew what the records add up to: an uncovered one was not the
    /// newest when a change replaced it.
    #[n(4)]
    Recount,
}

impl Kind {
    /// Whether it makes a revision of its own.
    pub(super) fn is_change(self) -> bool {
        matches!(self, Self::Change | Self::Recount)
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// What it is.
    pub kind: Kind,
    /// What the store holds from here on.
    pub totals: Totals,
    /// Stored values of records, never the store's own rows.
    pub writes: Vec<Write>,
    /// What the audit log had.
    pub log: LogState,
}

/// An entry as it stands in the file.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
struct StoredEntry {
    #[n(1)]
    kind: Kind,
    #[n(2)]
    totals: StoredTotals,
    #[n(3)]
    writes: Vec<Write>,
    // None in format 2.
    #[n(4)]
    log: Option<LogState>,
}

impl StoredEntry {
    fn of(entry: &Entry, keys: &StoreKeys) -> io::Result<Self> {
        let totals = StoredTotals::of(&entry.totals, keys).map_err(io::Error::other)?;
        // Cloned only to be written: minicbor has no derive for borrowed lists.
        Ok(Self { kind: entry.kind, totals, writes: entry.writes.clone(), log: Some(entry.log.clone()) })
    }

    /// The entry, of a file of `format`: a file has entries of its own format only.
    fn open(self, format: u32, keys: Option<&StoreKeys>) -> Option<Entry> {
        let Self { kind, totals, writes, log } = self;
        let (totals, log) = match format {
            ..=2 => (totals.open_format_2()?, log.is_none().then(LogState::default)?),
            _ => (totals.open(keys)?, log?),
        };
        Some(Entry { kind, totals, writes, log })
    }
}

/// Where the bytes go.
pub(super) trait Medium: Send {
    /// Writes all of `bytes` at `offset`.
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

impl Medium for Arc<File> {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.sync_all()
    }
}

/// A journal file that no other process has open for appending.
pub(super) struct Source {
    path: PathBuf,
    file: Arc<File>,
    keys: Arc<StoreKeys>,
    header: Header,
}

impl Source {
    /// Opens the journal at `path` and keeps other processes from it.
    pub(super) fn open(path: &Path, keys: &Arc<StoreKeys>) -> Result<Self, StoreError> {
        let failed = |source| journal_error(path, source);
        let file = open_file(path, true)?;
        lock(&file, path)?;
        // The file may have been replaced between opening and locking it.
        let (opened, named) = (file.metadata().map_err(failed)?, std::fs::metadata(path).map_err(failed)?);
        if (opened.dev(), opened.ino()) != (named.dev(), named.ino()) {
            return Err(Refusal::InUse(path.display().to_string()).into());
        }
        let header = Header::read(&file, path, keys)?;
        Ok(Self { path: path.to_owned(), file: Arc::new(file), keys: keys.clone(), header })
    }

    /// Opens the journal at `path` for reading only, beside whoever appends to it.
    pub(super) fn peek(path: &Path, keys: &Arc<StoreKeys>) -> Result<Self, StoreError> {
        let file = open_file(path, false)?;
        let header = Header::read(&file, path, keys)?;
        Ok(Self { path: path.to_owned(), file: Arc::new(file), keys: keys.clone(), header })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The header.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Reads from the first entry on.
    pub(super) fn reader(&self) -> Result<Reader, StoreError> {
        Reader::new(&self.path, self.file.clone(), Some(self.keys.clone()), &self.header)
    }

    /// Reads from `point` on; `None` when this journal never had it.
    pub(super) fn reader_at(&self, point: JournalPoint) -> Result<Option<Reader>, StoreError> {
        let mut reader = self.reader()?;
        Ok(reader.jump(point)?.then_some(reader))
    }

    /// Opens it for appending behind `end`. What stands there is cut.
    pub(super) fn continue_at(self, end: JournalPoint) -> Result<Journal, StoreError> {
        let mut journal = self.journal(end);
        journal.torn = true;
        journal.cut_torn().map_err(|error| journal_error(&journal.source.path, error))?;
        Ok(journal)
    }

    fn journal(self, end: JournalPoint) -> Journal {
        let medium = Box::new(self.file.clone());
        Journal { source: self, medium, end, torn: false, named: true }
    }
}

/// A journal open for appending.
pub(super) struct Journal {
    source: Source,
    pub(super) medium: Box<dyn Medium>,
    // End of the last entry that is known to be durable.
    end: JournalPoint,
    // Bytes of a failed append may stand behind `end`.
    torn: bool,
    // The directory entry is durable.
    named: bool,
}

impl Journal {
    /// Begins a journal for `path` under its draft name; a draft that was left behind goes away.
    pub(super) fn draft(path: &Path, header: Header, keys: &Arc<StoreKeys>) -> Result<Self, StoreError> {
        let draft = draft_path(path);
        let make = || {
            files::remove_if_there(&draft)?;
            let file = files::create(&draft)?;
            file.write_all_at(header.bytes(), 0)?;
            Ok(file)
        };
        let file = make().map_err(|error| journal_error(&draft, error))?;
        lock(&file, &draft)?;
        let end = header.point();
        Ok(Source { path: draft, file: Arc::new(file), keys: keys.clone(), header }.journal(end))
    }

    /// Gives a draft its name, in place of the journal before. After an error
    /// nothing was renamed. The name is durable after [`sync_name`](Self::sync_name)
    /// or the next append.
    pub(super) fn rename(&mut self, path: &Path) -> Result<(), StoreError> {
        std::fs::rename(&self.source.path, path).map_err(|error| journal_error(path, error))?;
        self.source.path = path.to_owned();
        self.named = false;
        Ok(())
    }

    /// Makes the name durable.
    pub(super) fn sync_name(&mut self) -> Result<(), StoreError> {
        if !self.named {
            files::sync_directory(&self.source.path)
                .map_err(|error| journal_error(&self.source.path, error))?;
            self.named = true;
        }
        Ok(())
    }

    /// The file, for reading.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// The end of the last entry.
    pub(super) fn end(&self) -> JournalPoint {
        self.end
    }

    /// Appends an entry durably. After a failure it may or may not stand in the
    /// file; the next append removes it.
    pub(super) fn append(&mut self, entry: &Entry) -> Result<JournalPoint, StoreError> {
        self.sync_name()?;
        self.cut_torn()
            .and_then(|()| self.write(entry))
            .and_then(|end| self.sync(end))
            .map_err(|error| journal_error(&self.source.path, error))
    }

    /// Appends an entry that [`finish`](Self::finish) makes durable. For drafts only.
    pub(super) fn put(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.end = self.write(entry).map_err(|error| journal_error(&self.source.path, error))?;
        Ok(())
    }

    /// Makes a draft durable.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        self.sync(self.end).map(drop).map_err(|error| journal_error(&self.source.path, error))
    }

    fn cut_torn(&mut self) -> io::Result<()> {
        if self.torn {
            self.medium.truncate(self.end.offset)?;
            self.torn = false;
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> io::Result<JournalPoint> {
        let (bytes, end) = encode(entry, &self.end, &self.source.keys)?;
        self.torn = true;
        self.medium.write(&bytes, self.end.offset)?;
        Ok(end)
    }

    fn sync(&mut self, end: JournalPoint) -> io::Result<JournalPoint> {
        self.medium.sync()?;
        self.torn = false;
        self.end = end;
        Ok(end)
    }
}

fn encode(entry: &Entry, after: &JournalPoint, keys: &StoreKeys) -> io::Result<(Vec<u8>, JournalPoint)> {
    let body = minicbor::to_vec(StoredEntry::of(entry, keys)?).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| u64::from(*length) <= MAX_BODY);
    let length = length.ok_or_else(|| io::Error::other("the change is too large"))?.to_be_bytes();
    let head = keys.journal_link(&after.head, &body);
    let bytes = [length.as_slice(), &body, &head, &length].concat();
    let end = JournalPoint { id: after.id, offset: after.offset + bytes.len() as u64, head };
    Ok((bytes, end))
}

/// The name that a journal for `path` has while it is being made.
pub(super) fn draft_path(path: &Path) -> PathBuf {
    files::beside(path, ".new")
}

fn open_file(path: &Path, write: bool) -> Result<File, StoreError> {
    File::options().read(true).write(write).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Refusal::NoJournal(path.display().to_string()).into(),
        _ => journal_error(path, error),
    })
}

fn lock(file: &File, path: &Path) -> Result<(), StoreError> {
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => Refusal::InUse(path.display().to_string()).into(),
        std::fs::TryLockError::Error(error) => journal_error(path, error),
    })
}

pub(super) fn journal_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Journal { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeploymentId;
    use crate::store::testing::{DEPLOYMENT, keys};
    use proptest::prelude::*;

    struct Place {
        dir: tempfile::TempDir,
        keys: Arc<StoreKeys>,
    }

    impl Place {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), keys: Arc::new(keys()) }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("journal.kwj")
        }

        /// A journal with an entry for each of `sizes`.
        fn journal(&self, sizes: &[usize]) -> (Journal, Vec<JournalPoint>) {
            let header = Header::new(DEPLOYMENT, &self.keys).unwrap();
            let mut journal = Journal::draft(&self.path(), header, &self.keys).unwrap();
            let mut points = vec![journal.end()];
            for (number, size) in sizes.iter().enumerate() {
                points.push(journal.append(&entry(number as u64, *size)).unwrap());
            }
            journal.rename(&self.path()).unwrap();
            journal.sync_name().unwrap();
            (journal, points)
        }

        fn read_all(&self) -> (Vec<Entry>, Step) {
            let mut reader = Source::peek(&self.path(), &self.keys).unwrap().reader().unwrap();
            let mut entries = Vec::new();
            loop {
                match reader.next().unwrap() {
                    Step::Entry(entry) => entries.push(entry),
                    end => return (entries, end),
                }
            }
        }
    }

    fn entry(revision: u64, size: usize) -> Entry {
        let totals = Totals { revision, ..Totals::EMPTY };
        let writes = vec![
            Write { key: vec![3, 1], value: Some(vec![7; size]) },
            Write { key: vec![3, 2], value: None },
        ];
        Entry { kind: Kind::Change, totals, writes, log: LogState::default() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn entries_read_forwards_and_backwards(sizes in prop::collection::vec(0usize..300, 0..8)) {
            let place = Place::new();
            let (journal, points) = place.journal(&sizes);
            let expected: Vec<Entry> = sizes.iter().enumerate().map(|(n, size)| entry(n as u64, *size)).collect();
            let (entries, end) = place.read_all();
            prop_assert_eq!(&entries, &expected);
            prop_assert!(matches!(end, Step::End));
            let mut reader = journal.source().reader_at(journal.end()).unwrap().unwrap();
            for entry in expected.iter().rev() {
                let before = reader.back().unwrap();
                prop_assert_eq!(before.as_ref(), Some(entry));
            }
            prop_assert_eq!(reader.back().unwrap(), None);
            for (point, entry) in points.iter().zip(&expected) {
                let mut reader = journal.source().reader_at(*point).unwrap().unwrap();
                prop_assert!(matches!(reader.next().unwrap(), Step::Entry(found) if found == *entry));
            }
        }

        #[test]
        fn a_flipped_bit_never_reads_as_an_entry(bit in any::<prop::sample::Index>()) {
            let place = Place::new();
            let (journal, points) = place.journal(&[5, 6, 7]);
            drop(journal);
            let mut bytes = std::fs::read(place.path()).unwrap();
            let bit = bit.index((bytes.len() - 88) * 8) + 88 * 8;
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(place.path(), bytes).unwrap();
            let (entries, end) = place.read_all();
            let hit = points.iter().rposition(|point| point.offset <= bit as u64 / 8).unwrap();
            prop_assert_eq!(entries.len(), hit);
            let as_expected = if hit == 2 { matches!(end, Step::Torn) } else { matches!(end, Step::Damaged) };
            prop_assert!(as_expected, "{:?}", end);
        }
    }

    #[test]
    fn a_place_of_another_journal_is_not_found() {
        let (here, there) = (Place::new(), Place::new());
        let (journal, points) = here.journal(&[1, 2]);
        let (_, other) = there.journal(&[1, 2]);
        assert!(journal.source().reader_at(other[1]).unwrap().is_none());
        for wrong in [
            JournalPoint { offset: points[1].offset + 1, ..points[1] },
            JournalPoint { offset: points[2].offset + 40, ..points[1] },
            JournalPoint { offset: 3, ..points[1] },
            JournalPoint { head: [0; 32], ..points[1] },
        ] {
            assert!(journal.source().reader_at(wrong).unwrap().is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn headers_are_checked() {
        let place = Place::new();
        let (journal, _) = place.journal(&[]);
        assert_eq!(journal.source().header().deployment(), DeploymentId([0xd; 16]));
        drop(journal);
        let good = std::fs::read(place.path()).unwrap();
        let open = |bytes: &[u8]| {
            std::fs::write(place.path(), bytes).unwrap();
            match Source::open(&place.path(), &place.keys) {
                Err(StoreError::Refused(refusal)) => Some(refusal),
                Ok(_) => None,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(open(&good), None);
        assert!(matches!(open(&good[..87]), Some(Refusal::NotTheJournal(_))));
        assert!(matches!(open(b"something else"), Some(Refusal::NotTheJournal(_))));
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert!(matches!(open(&with(0, b'X')), Some(Refusal::NotTheJournal(_))));
        assert!(matches!(open(&with(30, 1)), Some(Refusal::NotTheJournal(_))));
        let newer = open(&with(7, 4)).unwrap();
        assert!(
            matches!(&newer, Refusal::Newer { found: 4, known: 3, needed, .. } if needed == env!("CARGO_PKG_VERSION"))
        );
    }

    #[test]
    fn one_process_at_a_time() {
        let place = Place::new();
        let (journal, _) = place.journal(&[1]);
        assert!(matches!(
            Source::open(&place.path(), &place.keys),
            Err(StoreError::Refused(Refusal::InUse(_)))
        ));
        assert!(Source::peek(&place.path(), &place.keys).is_ok());
        drop(journal);
        assert!(Source::open(&place.path(), &place.keys).is_ok());
    }

    #[test]
    fn a_file_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new();
        let _journal = place.journal(&[]);
        assert_eq!(std::fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
