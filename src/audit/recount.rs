//! Computes the tree again, record by record, and compares it on the way with
//! the files of the tree and with every checkpoint.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Take};
use std::path::{Path, PathBuf};

use super::checkpoint::{NoteError, NoteKey, SignedCheckpoint, TreeHead, origin};
use super::damage::{Damage, Flaw, VerifyError};
use super::merkle::{self, Frontier};
use super::notes::{ALL, NEWEST};
use super::tree::{DIR, LEVELS, STEP};
use super::verify::Against;
use crate::id::DeploymentId;

/// What was found besides the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The tree over all records.
    pub head: TreeHead,
    /// How many checkpoints there are.
    pub checkpoints: u64,
    /// How many records the newest one covers; 0 when there is none.
    pub covered: u64,
    /// Whether there are some, and their signatures were checked.
    pub signatures_checked: bool,
}

/// The work, half done.
pub(super) struct Recount<'k> {
    frontier: Frontier,
    levels: Vec<Level>,
    notes: NoteFile<'k>,
    next: Option<SignedCheckpoint>,
    alone: Option<SignedCheckpoint>,
    /// The checkpoint that was kept elsewhere, until the tree has its size.
    witness: Option<(&'k Path, &'k SignedCheckpoint)>,
    counted: Counted,
    /// The first place where the files of the tree differ: told at the end, for checkpoints weigh more.
    other_tree: Option<VerifyError>,
}

impl<'k> Recount<'k> {
    /// Opens what is to be compared. Without `trusted` keys no signature is checked.
    pub(super) fn open(
        dir: &Path,
        deployment: DeploymentId,
        against: Against<'k>,
    ) -> Result<Self, VerifyError> {
        let (trusted, witness) = (against.keys, against.witness);
        // In this order, because a daemon may be adding to them: it writes the list first.
        let alone = alone(&dir.join(NEWEST))?;
        let mut notes = NoteFile::open(dir.join(ALL), deployment, trusted)?;
        if let Some((file, note)) = witness {
            let wrong = |words| Damage {
                file: file.to_owned(),
                offset: 0,
                sequence: 0,
                flaw: Flaw::Checkpoint(words),
            };
            notes.judge(note).map_err(wrong)?;
        }
        let next = notes.next()?;
        let frontier = Frontier::default();
        let head = TreeHead { size: 0, root: merkle::empty() };
        let counted = Counted { head, checkpoints: 0, covered: 0, signatures_checked: false };
        let levels = (0..LEVELS).map(|level| Level::open(dir.join(DIR).join(level.to_string())));
        Ok(Self {
            frontier,
            levels: levels.collect::<Result<_, _>>()?,
            notes,
            next,
            witness,
            alone,
            counted,
            other_tree: None,
        })
    }

    /// Adds the next record.
    pub(super) fn add(&mut self, record: &[u8]) -> Result<(), VerifyError> {
        let (levels, other) = (&mut self.levels, &mut self.other_tree);
        self.frontier.push(merkle::leaf(record), |height, hash| {
            if height.is_multiple_of(STEP) && other.is_none() {
                *other = levels[(height / STEP) as usize].compare(hash).err();
            }
        });
        self.compare_witness()?;
        self.compare_checkpoints()
    }

    fn compare_witness(&mut self) -> Result<(), VerifyError> {
        let size = self.frontier.count();
        let Some((file, note)) = self.witness.filter(|(_, note)| note.checkpoint.head.size == size) else {
            return Ok(());
        };
        self.witness = None;
        match note.checkpoint.head.root == self.frontier.root() {
            true => Ok(()),
            false => {
                Err(Damage { file: file.to_owned(), offset: 0, sequence: size, flaw: Flaw::Forked }.into())
            }
        }
    }

    fn compare_checkpoints(&mut self) -> Result<(), VerifyError> {
        let size = self.frontier.count();
        while let Some(note) = self.next.as_ref().filter(|note| note.checkpoint.head.size == size) {
            if note.checkpoint.head.root != self.frontier.root() {
                return Err(self.notes.flaw(size, Flaw::Forked));
            }
            if self.alone.as_ref().is_some_and(|alone| alone.checkpoint == note.checkpoint) {
                self.alone = None;
            }
            (self.counted.checkpoints, self.counted.covered) = (self.counted.checkpoints + 1, size);
            self.next = self.notes.next()?;
        }
        Ok(())
    }

    /// Says what was found, when there are no more records.
    pub(super) fn finish(mut self) -> Result<Counted, VerifyError> {
        let records = self.frontier.count();
        if let Some((file, note)) = self.witness.filter(|(_, note)| note.checkpoint.head.size > 0) {
            let (file, sequence) = (file.to_owned(), note.checkpoint.head.size);
            return Err(Damage { file, offset: 0, sequence, flaw: Flaw::Cut { records } }.into());
        }
        if let Some(note) = self.next {
            return Err(self.notes.flaw(note.checkpoint.head.size, Flaw::Cut { records }));
        }
        if let Some(note) = self.alone {
            let size = note.checkpoint.head.size;
            let flaw = if size > records { Flaw::Cut { records } } else { unlisted() };
            let file = self.notes.path.with_file_name(NEWEST);
            return Err(Damage { file, offset: 0, sequence: size, flaw }.into());
        }
        if let Some(error) = self.other_tree {
            return Err(error);
        }
        self.counted.head = TreeHead { size: records, root: self.frontier.root() };
        self.counted.signatures_checked = self.notes.trusted.is_some() && self.counted.checkpoints > 0;
        Ok(self.counted)
    }
}

fn unlisted() -> Flaw {
    Flaw::Checkpoint(format!("it is not among those in {ALL}, or is another one over the same records"))
}

fn alone(path: &Path) -> Result<Option<SignedCheckpoint>, VerifyError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(VerifyError::unreadable(path)(error)),
        Ok(text) => text.parse().map(Some).map_err(|error: NoteError| {
            let flaw = Flaw::Checkpoint(error.to_string());
            Damage { file: path.to_owned(), offset: 0, sequence: 0, flaw }.into()
        }),
    }
}

/// One level of the tree in its file; what is not there yet is not compared.
struct Level {
    path: PathBuf,
    input: Option<BufReader<File>>,
    offset: u64,
}

impl Level {
    fn open(path: PathBuf) -> Result<Self, VerifyError> {
        let input = match File::open(&path) {
            Ok(file) => Some(BufReader::with_capacity(1 << 16, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(VerifyError::unreadable(&path)(error)),
        };
        Ok(Self { path, input, offset: 0 })
    }

    fn compare(&mut self, expected: &merkle::Hash) -> Result<(), VerifyError> {
        let Some(input) = &mut self.input else { return Ok(()) };
        let mut found = [0; 32];
        match input.read_exact(&mut found) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.input = None,
            Err(error) => return Err(VerifyError::unreadable(&self.path)(error)),
            Ok(()) if found != *expected => {
                let (file, offset) = (self.path.clone(), self.offset);
                return Err(Damage { file, offset, sequence: offset / 32 + 1, flaw: Flaw::Tree }.into());
            }
            Ok(()) => self.offset += 32,
        }
        Ok(())
    }
}

/// The checkpoints that stood in the file when it was opened, in order.
struct NoteFile<'k> {
    path: PathBuf,
    input: Option<BufReader<Take<File>>>,
    offset: u64,
    size: u64,
    origin: String,
    trusted: Option<&'k [NoteKey]>,
}

impl<'k> NoteFile<'k> {
    fn open(
        path: PathBuf,
        deployment: DeploymentId,
        trusted: Option<&'k [NoteKey]>,
    ) -> Result<Self, VerifyError> {
        let input = match File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((length, file)) => Some(BufReader::new(file.take(length))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(VerifyError::unreadable(&path)(error)),
        };
        Ok(Self { path, input, offset: 0, size: 0, origin: origin(deployment), trusted })
    }

    /// The next one, verified; what is not whole at the end was not finished.
    fn next(&mut self) -> Result<Option<SignedCheckpoint>, VerifyError> {
        let Some(text) = self.text()? else { return Ok(None) };
        let note: SignedCheckpoint = match text.parse() {
            Ok(note) => note,
            // An unfinished one with holes in it; behind it nothing stands.
            Err(_) if self.text()?.is_none() => return Ok(None),
            Err(error) => {
                let error: NoteError = error;
                return Err(self.flaw(self.size, Flaw::Checkpoint(error.to_string())));
            }
        };
        self.judge(&note).map_err(|words| self.flaw(self.size, Flaw::Checkpoint(words)))?;
        let size = note.checkpoint.head.size;
        if size <= self.size {
            let words = format!("a checkpoint over {size} records stands behind one over {}", self.size);
            return Err(self.flaw(size, Flaw::Checkpoint(words)));
        }
        self.size = size;
        self.offset += text.len() as u64 + 1;
        Ok(Some(note))
    }

    /// Whether it is one of this log, and signed by a trusted key; otherwise why not.
    fn judge(&self, note: &SignedCheckpoint) -> Result<(), String> {
        if note.checkpoint.origin != self.origin {
            return Err(format!("it is of another log: {}", note.checkpoint.origin));
        }
        let verified = self.trusted.map_or(Ok(()), |trusted| note.verify(trusted).map(drop));
        verified.map_err(|error| error.to_string())
    }

    fn text(&mut self) -> Result<Option<String>, VerifyError> {
        let Some(input) = &mut self.input else { return Ok(None) };
        let (mut bytes, mut signed) = (Vec::new(), false);
        loop {
            let start = bytes.len();
            let read = input.read_until(b'\n', &mut bytes).map_err(VerifyError::unreadable(&self.path))?;
            let line = &bytes[start..];
            if read == 0 || !line.ends_with(b"\n") {
                return Ok(None);
            }
            if signed && line == b"\n" {
                bytes.pop();
                return match String::from_utf8(bytes) {
                    Ok(text) => Ok(Some(text)),
                    Err(_) => Err(self.flaw(self.size, Flaw::Checkpoint("it is no text".to_owned()))),
                };
            }
            signed |= line.starts_with("\u{2014} ".as_bytes());
        }
    }

    fn flaw(&self, sequence: u64, flaw: Flaw) -> VerifyError {
        Damage { file: self.path.clone(), offset: self.offset, sequence, flaw }.into()
    }
}
