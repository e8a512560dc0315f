//! The audit log in files: a directory of segments, written by one thread.
//!
//! ```text
//!  submit -> queue -> writer -> tail -> 00000001.kwa, 00000002.kwa, …
//! ```

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use self::disk::{Disk, System};
use self::grow::Growth;
use self::notes::Notes;
use self::queue::Queue;
use self::tail::{Keep, Place, Told};
use self::writer::Writer;
use super::checkpoint::{SignedCheckpoint, TreeHead};
use super::frame::Tip;
use super::tree::{Tree, TreeError};
use super::{AuditError, AuditLog, ChainHash, Damage, Flaw, Receipt, Record, StoreChange, VerifyError};
use crate::id::DeploymentId;

mod disk;
mod grow;
mod notes;
mod queue;
mod reserve;
mod tail;
#[cfg(test)]
pub(in crate::audit) mod tests;
mod writer;

/// How long the tree may take to grow over records that are durable.
const GROWS_WITHIN: Duration = Duration::from_secs(10);

/// Where and how to keep a log.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory, for this log alone.
    pub dir: PathBuf,
    /// Whether to make the directory and the first segment when they are not
    /// there. A log that should be there and is not must never be replaced by
    /// an empty one.
    pub create: bool,
    /// Bytes after which a new segment is begun. One write is never split.
    pub segment_bytes: u64,
    /// Bytes of room taken ahead of the newest record.
    pub ahead_bytes: u64,
    /// Bytes kept in reserve for the record that says why the log stopped.
    pub reserve_bytes: u64,
    /// Time between attempts to write again after a failure.
    pub probe_every: Duration,
}

impl Settings {
    /// The usual sizes, for a log that exists.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            create: false,
            segment_bytes: 64 << 20,
            ahead_bytes: 1 << 20,
            reserve_bytes: 1 << 20,
            probe_every: Duration::from_secs(1),
        }
    }
}

/// Who knows of changes that are to be on record.
pub trait Creditor: Send + Sync {
    /// The records of these revisions are durable.
    fn paid(&self, revisions: &[u64]);

    /// The records of changes that were made and of which no record became durable, when no call is left that
    /// could make one.
    fn owed(&self) -> Vec<Record>;
}

/// The creditor, once there is one.
#[derive(Default)]
struct Debts(std::sync::OnceLock<Arc<dyn Creditor>>);

impl Debts {
    fn paid(&self, revisions: &[u64]) {
        if let (Some(creditor), false) = (self.0.get(), revisions.is_empty()) {
            creditor.paid(revisions);
        }
    }

    fn owed(&self) -> Vec<Record> {
        self.0.get().map(|creditor| creditor.owed()).unwrap_or_default()
    }
}

/// What was found when a log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Sequence number of the newest record; 0 when there is none.
    pub last_sequence: u64,
    /// The newest change of the store that the log knows.
    pub last_change: Option<StoreChange>,
    /// Bytes of an unfinished write that were cut: no record in them was ever
    /// acknowledged.
    pub torn_bytes: u64,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no log.
    #[error("there is no audit log in {}: `as_keyward init --backup-key FILE` makes one; if there was one, restore it", .0.display())]
    Missing(PathBuf),
    /// Another process has it open.
    #[error("the audit log in {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// Another installation wrote it.
    #[error("the audit log belongs to deployment {found}, not to {expected}")]
    Foreign {
        /// The installation that wrote it.
        found: DeploymentId,
        /// This installation.
        expected: DeploymentId,
    },
    /// It cannot be read, or was changed.
    #[error(transparent)]
    Unsound(#[from] VerifyError),
    /// Its tree cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The operating system refused.
    #[error("cannot open the audit log: {}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OpenError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// An open log. Dropping it closes it.
pub struct FileLog {
    queue: Arc<Queue>,
    place: Arc<Place>,
    tree: Arc<Tree>,
    notes: Notes,
    debts: Arc<Debts>,
    /// Changes of which the newest segment told when it was opened.
    told: Told,
    writer: Mutex<Option<JoinHandle<Result<(), AuditError>>>>,
}

impl FileLog {
    /// Opens the log of a deployment, verifies its newest segment, cuts an
    /// unfinished write, and starts the writer.
    ///
    /// # Errors
    /// [`OpenError`]; a log that is damaged, foreign or newer is left as it is.
    pub fn open(settings: Settings, deployment: DeploymentId) -> Result<(Arc<Self>, Opened), OpenError> {
        Self::open_on(settings, deployment, Arc::new(System))
    }

    fn open_on(
        settings: Settings,
        deployment: DeploymentId,
        disk: Arc<dyn Disk>,
    ) -> Result<(Arc<Self>, Opened), OpenError> {
        let dir = settings.dir.clone();
        if settings.create {
            create_dir(&dir).map_err(OpenError::io(&dir))?;
        }
        let lock = lock(&dir)?;
        let place = Arc::new(Place { settings, deployment, disk });
        if place.settings.create && super::verify::segments(&dir)?.is_empty() {
            place.create().map_err(OpenError::io(&dir))?;
        }
        let (tail, torn_bytes) = place.open(Keep::Whole)?;
        reserve::take(&place).map_err(OpenError::io(&dir))?;
        let opened =
            Opened { last_sequence: tail.tip().sequence, last_change: tail.told().newest, torn_bytes };
        let notes = Notes::open(&place)?;
        let growth = grown(&place, tail.tip(), notes.newest().as_ref())?;
        let tree = Arc::clone(growth.tree());

        let (debts, told) = (Arc::<Debts>::default(), tail.told().clone());
        let queue = Arc::new(Queue::new(tail.tip()));
        let writer = Writer::new(Arc::clone(&queue), Arc::clone(&place), tail, growth, debts.clone(), lock);
        let thread = std::thread::Builder::new().name("audit".into()).spawn(|| writer.run());
        let writer = Mutex::new(Some(thread.map_err(OpenError::io(&dir))?));
        Ok((Arc::new(Self { queue, place, tree, notes, debts, told, writer }), opened))
    }

    /// Tells `creditor` of each change whose record is durable, and writes what it is owed when the log goes on
    /// after it could not be written. The first one counts.
    pub fn owes(&self, creditor: Arc<dyn Creditor>) {
        self.debts.0.get_or_init(|| creditor);
    }

    /// The newest durable record, and its chain hash.
    pub fn newest(&self) -> (u64, ChainHash) {
        let Tip { sequence, hash } = self.queue.newest();
        (sequence, hash)
    }

    /// The chain hash of record `sequence`; `None` when there is no such record.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn chain_at(&self, sequence: u64) -> io::Result<Option<ChainHash>> {
        match self.newest() {
            (newest, hash) if newest == sequence => Ok(Some(hash)),
            (newest, _) if sequence > newest || sequence == 0 => Ok(None),
            _ => super::find::chain(self.place.dir(), sequence),
        }
    }

    /// The changes, as revision and digest, of which records behind `sequence` told when the log was opened; those of
    /// some records before may be among them.
    ///
    /// # Errors
    /// [`VerifyError`] when a segment cannot be read.
    pub fn told_since(&self, sequence: u64) -> Result<BTreeSet<(u64, [u8; 32])>, VerifyError> {
        if sequence >= self.told.behind {
            return Ok(self.told.changes.clone());
        }
        let mut changes = BTreeSet::new();
        let numbers = super::verify::segments(self.place.dir())?;
        for number in numbers.iter().rev() {
            // Only the newest one may end in an unfinished write.
            let newest = Some(number) == numbers.last();
            let mut reader = super::reader::SegmentReader::open(self.place.dir(), *number, newest)?;
            while let Some(record) = reader.next()? {
                changes.extend(record.change.map(|change| (change.revision, change.digest)));
            }
            if reader.header().previous.sequence <= sequence {
                break;
            }
        }
        Ok(changes)
    }

    /// Takes no more records, writes those that wait, and ends the writer.
    /// Blocks until that is done; does nothing the second time.
    ///
    /// # Errors
    /// [`AuditError`] when the log could not be written in the end.
    pub fn close(&self) -> Result<(), AuditError> {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        writer.map_or(Ok(()), |writer| writer.join().unwrap_or(Err(AuditError::Stopped)))
    }
}

impl AuditLog for FileLog {
    fn submit(&self, record: Record) -> Result<Receipt, AuditError> {
        self.queue.push(record)
    }

    fn check(&self) -> Result<(), AuditError> {
        self.queue.check()
    }

    fn durable(&self) -> u64 {
        self.queue.durable()
    }

    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn settle(&self, sequence: u64) -> Result<TreeHead, TreeError> {
        self.tree.await_size(sequence, GROWS_WITHIN)?;
        grow::settle(&self.tree, &self.place)
    }

    fn checkpoint(&self) -> Option<SignedCheckpoint> {
        self.notes.newest()
    }

    fn keep(&self, checkpoint: &SignedCheckpoint) -> Result<(), TreeError> {
        self.notes.keep(&self.place, checkpoint)
    }

    fn record(&self, sequence: u64) -> Result<Vec<u8>, TreeError> {
        super::find::record(self.place.dir(), &self.tree, sequence)
    }
}

/// Brings the tree up to the log, and compares both with the newest checkpoint. A tree
/// whose files do not fit it is computed again: then the records themselves do not.
fn grown(place: &Place, tip: Tip, newest: Option<&SignedCheckpoint>) -> Result<Growth, OpenError> {
    let head = newest.map(|note| note.checkpoint.head);
    let damaged = |sequence, flaw| {
        let file = place.dir().join(notes::NEWEST);
        OpenError::from(VerifyError::from(Damage { file, offset: 0, sequence, flaw }))
    };
    let records = tip.sequence;
    if let Some(head) = head.filter(|head| head.size > records) {
        return Err(damaged(head.size, Flaw::Cut { records }));
    }
    let growth = Growth::open(place, tip, head.as_ref())?;
    match head {
        Some(head) if growth.tree().head(head.size)? != head => Err(damaged(head.size, Flaw::Forked)),
        _ => Ok(growth),
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the audit log did not close well");
        }
    }
}

fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Keeps other processes out until the file is closed.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let file = System.open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => OpenError::Missing(dir.to_owned()),
        _ => OpenError::io(&path)(error),
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(dir.to_owned())),
        Err(error) => Err(OpenError::io(&path)(error.into())),
    }
}
