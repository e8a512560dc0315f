//! The tree grows behind the log: leaves are hashed by the writer after the
//! records are durable and their callers answered.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use super::OpenError;
use super::disk::{Disk, System, replace};
use super::tail::Place;
use crate::audit::VerifyError;
use crate::audit::checkpoint::{Checkpoint, TreeHead, origin};
use crate::audit::frame::{Batch, ChainHash, Tip};
use crate::audit::merkle::{self, Frontier, Hash};
use crate::audit::proof;
use crate::audit::reader::SegmentReader;
use crate::audit::tree::{DIR, HASH, LEVELS, STEP, Tree, TreeError, entries};
use crate::audit::verify;

/// The head of the tree when its files were last made durable: not signed, and
/// believed only if the files say the same.
const MARK: &str = "durable";
/// Leaves that are hashed between two writes while a tree is made.
const PIECE: u64 = 1 << 14;

/// The end of the tree, to which leaves are added.
pub(super) struct Growth {
    tree: Arc<Tree>,
    frontier: Frontier,
    /// The chain hash of the newest leaf's record.
    chain: ChainHash,
    /// Hashes of each level that are not written yet.
    pending: [Vec<u8>; LEVELS],
}

impl Growth {
    /// Brings the tree up to the log, whose newest record stands at `tip`. Reads what was
    /// written since the tree was last durable, and proves on the way that
    /// the records before are those that it was made of.
    pub(super) fn open(place: &Place, tip: Tip) -> Result<Self, OpenError> {
        make_dir(place).map_err(OpenError::io(&place.dir().join(DIR)))?;
        let tree = new_tree(place);
        let mark = mark(place).filter(|mark| mark.head.size <= tip.sequence && holds(&tree, mark));
        if let Some(mark) = mark {
            let mut growth = Self::at(tree, mark.head.size, mark.chain)?;
            if growth.catch_up(place, tip)? {
                return Ok(growth);
            }
            tracing::warn!(
                "the tree was not made of the records that the audit log has: it is computed again"
            );
        }
        Self::again(place, tip)
    }

    /// Computes the whole tree again from the records.
    pub(super) fn again(place: &Place, tip: Tip) -> Result<Self, OpenError> {
        let mut growth = Self::at(new_tree(place), 0, ChainHash([0; 32]))?;
        growth.catch_up(place, tip)?;
        Ok(growth)
    }

    fn at(tree: Arc<Tree>, size: u64, chain: ChainHash) -> Result<Self, OpenError> {
        let edge = proof::edge(&*tree, size)?;
        let frontier = Frontier::of(size, &edge).unwrap_or_default();
        tree.publish(frontier.count(), chain);
        Ok(Self { tree, frontier, chain, pending: Default::default() })
    }

    /// The files.
    pub(super) fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Adds the records of a batch, the last of which has the chain hash `chain`; `flush` writes them.
    pub(super) fn add(&mut self, batch: &Batch, chain: ChainHash) {
        batch.records().for_each(|record| self.push(merkle::leaf(record)));
        self.chain = chain;
    }

    fn push(&mut self, leaf: Hash) {
        let pending = &mut self.pending;
        self.frontier.push(leaf, |height, hash| {
            if height.is_multiple_of(STEP) {
                pending[(height / STEP) as usize].extend_from_slice(hash);
            }
        });
    }

    /// Writes what was added. After an error it may be done again.
    pub(super) fn flush(&mut self, disk: &dyn Disk) -> io::Result<()> {
        for (level, pending) in self.pending.iter_mut().enumerate() {
            if pending.is_empty() {
                // A level grows only when the one below does.
                break;
            }
            let file = self.tree.level(level)?;
            let end = entries(self.frontier.count(), level) * HASH;
            disk.write(file, pending, end - pending.len() as u64)?;
            pending.clear();
        }
        self.tree.publish(self.frontier.count(), self.chain);
        Ok(())
    }

    /// Adds what the log has beyond the tree; `false` when the tree was made of other records.
    fn catch_up(&mut self, place: &Place, tip: Tip) -> Result<bool, OpenError> {
        self.cut(place).map_err(OpenError::io(self.tree.dir()))?;
        let (base, chain) = self.tree.position();
        if base == tip.sequence && (base == 0 || chain == tip.hash) {
            return Ok(true);
        }
        tracing::info!(records = tip.sequence - base, "the tree over the audit log is brought up to it");
        let numbers = verify::segments(place.dir())?;
        for number in self.first_segment(place, &numbers)?..=numbers.len() as u64 {
            let mut reader = SegmentReader::open(place.dir(), number, number == numbers.len() as u64)?;
            let other = |at: Tip| base > 0 && at.sequence == base && at.hash != chain;
            if other(reader.header().previous) {
                return Ok(false);
            }
            while reader.next()?.is_some() {
                if other(reader.tip()) {
                    return Ok(false);
                }
                self.take(&reader, place)?;
            }
        }
        self.flush(&*place.disk).map_err(OpenError::io(self.tree.dir()))?;
        Ok(true)
    }

    /// Adds the record that was read last, unless the tree has it.
    fn take(&mut self, reader: &SegmentReader, place: &Place) -> Result<(), OpenError> {
        let tip = reader.tip();
        if tip.sequence <= self.frontier.count() {
            return Ok(());
        }
        self.push(merkle::leaf(reader.record_bytes()));
        self.chain = tip.hash;
        match self.frontier.count().is_multiple_of(PIECE) {
            true => self.flush(&*place.disk).map_err(OpenError::io(self.tree.dir())),
            false => Ok(()),
        }
    }

    /// The newest segment that begins before the first leaf to be added.
    fn first_segment(&self, place: &Place, numbers: &[u64]) -> Result<u64, VerifyError> {
        for number in numbers.iter().rev() {
            let reader = SegmentReader::open(place.dir(), *number, true)?;
            if reader.header().previous.sequence <= self.frontier.count() {
                return Ok(*number);
            }
        }
        Ok(1)
    }

    /// Cuts what stands behind the tree: hashes of records that were never acknowledged.
    fn cut(&self, place: &Place) -> io::Result<()> {
        for level in 0..LEVELS {
            let length = entries(self.frontier.count(), level) * HASH;
            if level > 0 && !self.tree.path(level).exists() {
                break;
            }
            let file = self.tree.level(level)?;
            if file.metadata()?.len() > length {
                place.disk.set_len(file, length)?;
            }
        }
        Ok(())
    }
}

/// Makes the tree durable, so that the next start does not read these records again.
pub(super) fn settle(tree: &Tree, place: &Place) -> Result<TreeHead, TreeError> {
    let (size, chain) = tree.position();
    let head = tree.head(size)?;
    tree.sync()?;
    let text = Checkpoint { origin: origin(place.deployment), head }.text();
    let path = place.dir().join(DIR).join(MARK);
    let written = replace(&*place.disk, &path, format!("{text}{chain}\n").as_bytes());
    written.map_err(TreeError::io(&path))?;
    Ok(head)
}

fn new_tree(place: &Place) -> Arc<Tree> {
    Arc::new(Tree::new(place.dir(), |path| System.open(path)))
}

/// The tree as it was last durable, and the chain hash of its newest record.
struct Mark {
    head: TreeHead,
    chain: ChainHash,
}

fn mark(place: &Place) -> Option<Mark> {
    let text = std::fs::read_to_string(place.dir().join(DIR).join(MARK)).ok()?;
    let chain = text.trim_end().rsplit('\n').next()?;
    let checkpoint: Checkpoint = text.strip_suffix(&format!("{chain}\n"))?.parse().ok()?;
    let mark = Mark { head: checkpoint.head, chain: chain.parse().ok()? };
    (checkpoint.origin == origin(place.deployment)).then_some(mark)
}

/// Whether the files have this tree, as far as its edge tells.
fn holds(tree: &Tree, mark: &Mark) -> bool {
    let mark = &mark.head;
    let lengths = Tree::levels(mark.size).all(|(level, entries)| {
        std::fs::metadata(tree.path(level)).is_ok_and(|found| found.len() >= entries * HASH)
    });
    lengths && proof::root(tree, mark.size).is_ok_and(|root| root == mark.root)
}

fn make_dir(place: &Place) -> io::Result<()> {
    let dir = place.dir().join(DIR);
    if !dir.is_dir() {
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        File::open(place.dir())?.sync_all()?;
    }
    Ok(())
}
