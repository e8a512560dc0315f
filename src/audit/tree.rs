//! The tree over all records in files, so that neither a start nor a proof
//! needs to read the log.
//!
//! `tree/0` has the hash of each leaf, `tree/1` the hash over each 256 of them,
//! `tree/2` over each 65 536, and so on: the levels of C2SP tlog-tiles, the tiles
//! of a level one behind the other in one file. Only what is complete stands
//! there, so nothing in these files ever changes.
//!
//! They hold nothing that the segments do not tell: what is missing or damaged
//! is computed again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::checkpoint::TreeHead;
use super::frame::ChainHash;
use super::merkle::{self, Hash, node};
use super::proof::{self, Subtrees};

/// The directory of the levels, in that of the log.
pub(super) const DIR: &str = "tree";
/// A level has a hash for each 2^`STEP` of the level below.
pub(super) const STEP: u32 = 8;
/// Enough for 2^64 leaves.
pub(super) const LEVELS: usize = (u64::BITS / STEP) as usize;
/// Bytes of a hash.
pub(super) const HASH: u64 = 32;

/// Why a hash of the tree cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file of the tree cannot be read or written.
    #[error("the tree of the audit log: {}: {source}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The tree does not reach so far.
    #[error("the audit log has no record {0}")]
    Beyond(u64),
    /// What the files say does not fit the checkpoint or the record.
    #[error(
        "the files in {} do not fit the audit log; remove that directory and start the daemon again: they are computed anew", .0.display()
    )]
    Unsound(PathBuf),
}

impl TreeError {
    pub(super) fn io(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, source }
    }
}

/// The files of the tree, for reading; the writer adds to them.
#[derive(Debug)]
pub struct Tree {
    dir: PathBuf,
    open: fn(&Path) -> io::Result<File>,
    levels: [OnceLock<File>; LEVELS],
    position: Mutex<Position>,
    grown: Condvar,
}

/// How far a tree is written, with everything above its leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Over the leaves, as they were hashed from the records.
    pub(super) head: TreeHead,
    /// The chain hash of the newest record.
    pub(super) chain: ChainHash,
}

impl Tree {
    /// The tree of the log in `dir`, whose files are opened by `open`; nothing is known to be in it yet.
    pub(super) fn new(dir: &Path, open: fn(&Path) -> io::Result<File>) -> Self {
        let nothing =
            Position { head: TreeHead { size: 0, root: merkle::empty() }, chain: ChainHash([0; 32]) };
        let (levels, position) = (Default::default(), Mutex::new(nothing));
        Self { dir: dir.join(DIR), open, levels, position, grown: Condvar::new() }
    }

    /// The directory of its files.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of the file of one level.
    pub(super) fn path(&self, level: usize) -> PathBuf {
        self.dir.join(level.to_string())
    }

    /// How many records it covers.
    pub fn size(&self) -> u64 {
        self.position().head.size
    }

    /// How far it is written.
    pub(super) fn position(&self) -> Position {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until it covers `size` records: it grows a moment after they are
    /// acknowledged.
    ///
    /// # Errors
    /// [`TreeError::Beyond`] when it does not within `patience`.
    pub(super) fn await_size(&self, size: u64, patience: Duration) -> Result<(), TreeError> {
        let until = Instant::now() + patience;
        let mut now = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        while now.head.size < size {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TreeError::Beyond(size));
            }
            (now, _) = self.grown.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Says how far it can be read.
    pub(super) fn publish(&self, position: Position) {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = position;
        self.grown.notify_all();
    }

    /// The file of one level.
    pub(super) fn level(&self, level: usize) -> io::Result<&File> {
        if let Some(file) = self.levels[level].get() {
            return Ok(file);
        }
        let file = (self.open)(&self.path(level))?;
        Ok(self.levels[level].get_or_init(|| file))
    }

    /// The levels that a tree of `size` leaves has: number, and how many hashes.
    pub(super) fn levels(size: u64) -> impl Iterator<Item = (usize, u64)> {
        (0..LEVELS).map(move |level| (level, entries(size, level))).take_while(|(_, entries)| *entries > 0)
    }

    /// Makes everything of it durable that is written.
    pub(super) fn sync(&self) -> Result<(), TreeError> {
        for (level, file) in self.levels.iter().enumerate() {
            let synced = file.get().map_or(Ok(()), File::sync_data);
            synced.map_err(TreeError::io(&self.path(level)))?;
        }
        Ok(())
    }

    /// The head of the tree over the first `size` records.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn head(&self, size: u64) -> Result<TreeHead, TreeError> {
        self.covers(size)?;
        Ok(TreeHead { size, root: proof::root(self, size)? })
    }

    /// The audit path of a leaf in the tree of `head`, which it is proved to lead to.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn inclusion(&self, leaf: &Hash, index: u64, head: &TreeHead) -> Result<Vec<Hash>, TreeError> {
        self.covers(head.size)?;
        if index >= head.size {
            return Err(TreeError::Beyond(index.saturating_add(1)));
        }
        let path = proof::inclusion(self, index, head.size)?;
        match proof::verify_inclusion(leaf, index, head.size, &path, &head.root) {
            true => Ok(path),
            false => Err(TreeError::Unsound(self.dir.clone())),
        }
    }

    /// The proof that one tree is the beginning of the other, which it is proved to show.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn consistency(&self, old: &TreeHead, new: &TreeHead) -> Result<Vec<Hash>, TreeError> {
        self.covers(new.size)?;
        if old.size > new.size {
            return Err(TreeError::Beyond(old.size));
        }
        let path = proof::consistency(self, old.size, new.size)?;
        match proof::verify_consistency(old.size, new.size, &path, &old.root, &new.root) {
            true => Ok(path),
            false => Err(TreeError::Unsound(self.dir.clone())),
        }
    }

    /// The hash of one leaf.
    pub(super) fn leaf(&self, index: u64) -> Result<Hash, TreeError> {
        self.subtree(0, index)
    }

    fn covers(&self, size: u64) -> Result<(), TreeError> {
        if size <= self.size() { Ok(()) } else { Err(TreeError::Beyond(size)) }
    }

    fn read(&self, level: usize, from: u64, hashes: &mut [u8]) -> Result<(), TreeError> {
        let read = self.level(level).and_then(|file| file.read_exact_at(hashes, from * HASH));
        read.map_err(TreeError::io(&self.path(level)))
    }
}

/// How many hashes a level has in a tree of `size` leaves.
pub(super) fn entries(size: u64, level: usize) -> u64 {
    u32::try_from(level).ok().and_then(|level| size.checked_shr(level * STEP)).unwrap_or(0)
}

impl Subtrees for Tree {
    type Error = TreeError;

    /// Reads at most 128 hashes of the level below.
    fn subtree(&self, height: u32, index: u64) -> Result<Hash, TreeError> {
        let (level, above) = ((height / STEP) as usize, height % STEP);
        let mut buffer = [0; 32 << (STEP - 1)];
        let bytes = &mut buffer[..32 << above];
        self.read(level, index << above, bytes)?;
        let mut hashes = [[0; 32]; 1 << (STEP - 1)];
        let mut count = 1 << above;
        for (hash, bytes) in hashes.iter_mut().zip(bytes.chunks_exact(32)) {
            hash.copy_from_slice(bytes);
        }
        while count > 1 {
            count /= 2;
            for at in 0..count {
                hashes[at] = node(&hashes[2 * at], &hashes[2 * at + 1]);
            }
        }
        Ok(hashes[0])
    }
}
