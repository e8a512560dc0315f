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
use crate::audit::tree::{DIR, HASH, LEVELS, Position, STEP, Tree, TreeError, entries};
use crate::audit::verify;

/// The head of the tree when its files were last made durable: not signed, and
/// only compared with what the records say.
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
    /// Brings the tree up to the log. Leaves and nodes behind the
    /// newest checkpoint are hashed from the records once more, and what is before it must have the root
    /// that was signed: what somebody wrote into the files of the tree is never signed.
    ///
    /// `tip` is the newest record. After an orderly stop the checkpoint covers it, and no record is read.
    pub(super) fn open(place: &Place, tip: Tip, newest: Option<&TreeHead>) -> Result<Self, OpenError> {
        make_dir(place).map_err(OpenError::io(&place.dir().join(DIR)))?;
        if let Some(newest) = newest {
            if let Some(mut growth) = Self::at_checkpoint(place, newest)
                && growth.catch_up(place, tip, mark(place).as_ref())?
            {
                return Ok(growth);
            }
            tracing::warn!(
                "the tree does not fit the records and the newest checkpoint of the audit log: it is computed again"
            );
        }
        Self::again(place, tip)
    }

    /// Computes the whole tree again from the records.
    fn again(place: &Place, tip: Tip) -> Result<Self, OpenError> {
        let mut growth = Self::at(new_tree(place), 0)?;
        growth.catch_up(place, tip, None)?;
        Ok(growth)
    }

    /// The tree of the newest checkpoint, if the files have it.
    fn at_checkpoint(place: &Place, newest: &TreeHead) -> Option<Self> {
        let tree = new_tree(place);
        let whole = Tree::levels(newest.size).all(|(level, entries)| {
            std::fs::metadata(tree.path(level)).is_ok_and(|found| found.len() >= entries * HASH)
        });
        let growth = Self::at(tree, newest.size).ok().filter(|_| whole)?;
        (growth.frontier.root() == newest.root).then_some(growth)
    }

    /// The tree of the first `size` leaves; the chain hash of their last record is not known yet.
    fn at(tree: Arc<Tree>, size: u64) -> Result<Self, OpenError> {
        let edge = proof::edge(&*tree, size)?;
        let frontier = Frontier::of(size, &edge).unwrap_or_default();
        Ok(Self { tree, frontier, chain: ChainHash([0; 32]), pending: Default::default() })
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
        self.tree.publish(self.position());
        Ok(())
    }

    fn position(&self) -> Position {
        let head = TreeHead { size: self.frontier.count(), root: self.frontier.root() };
        Position { head, chain: self.chain }
    }

    /// Whether the tree was last durable with exactly the records up to `tip`. Then nothing is to be
    /// added, and the chain hash, which the mark has, says that they are the same records.
    fn is_at(&mut self, tip: Tip, durable: Option<&Position>) -> bool {
        let chain = std::mem::replace(&mut self.chain, tip.hash);
        if self.frontier.count() == tip.sequence && durable == Some(&self.position()) {
            return true;
        }
        self.chain = chain;
        false
    }

    /// Adds what the log has beyond the tree; `false` when the tree, as it was last durable, was made of
    /// other records.
    fn catch_up(&mut self, place: &Place, tip: Tip, durable: Option<&Position>) -> Result<bool, OpenError> {
        self.cut(place).map_err(OpenError::io(self.tree.dir()))?;
        if !self.is_at(tip, durable) && !self.read_on(place, durable)? {
            return Ok(false);
        }
        self.flush(&*place.disk).map_err(OpenError::io(self.tree.dir()))?;
        Ok(true)
    }

    /// Adds what the log has beyond the tree, from the segment in which the tree ends.
    fn read_on(&mut self, place: &Place, durable: Option<&Position>) -> Result<bool, OpenError> {
        let numbers = verify::segments(place.dir())?;
        for number in self.first_segment(place, &numbers)?..=numbers.len() as u64 {
            let mut reader = SegmentReader::open(place.dir(), number, number == numbers.len() as u64)?;
            if reader.header().previous.sequence == self.frontier.count() {
                self.chain = reader.header().previous.hash;
            }
            // The mark may stand at the border: then the record that it speaks of is in the segment before.
            if self.contradicts(durable, reader.header().previous.sequence) {
                return Ok(false);
            }
            while reader.next()?.is_some() {
                self.take(&reader, place)?;
                if self.contradicts(durable, reader.tip().sequence) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether the tree, now that record `read` was read, is another one than the mark says. They are
    /// compared only when that record is the newest of both: before it the chain hash is not known.
    fn contradicts(&self, durable: Option<&Position>, read: u64) -> bool {
        let here = |mark: &&Position| mark.head.size == read && self.frontier.count() == read;
        durable.filter(here).is_some_and(|mark| *mark != self.position())
    }

    /// Adds the record that was read last, unless the tree has it.
    fn take(&mut self, reader: &SegmentReader, place: &Place) -> Result<(), OpenError> {
        let tip = reader.tip();
        if tip.sequence == self.frontier.count() {
            self.chain = tip.hash;
        }
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
            if level > 0 && !self.tree.path(level).try_exists()? {
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

/// Makes the tree durable. Its head is that of the records that were hashed, not of what the files say.
pub(super) fn settle(tree: &Tree, place: &Place) -> Result<TreeHead, TreeError> {
    let Position { head, chain } = tree.position();
    if tree.head(head.size)? != head {
        return Err(TreeError::Unsound(tree.dir().to_owned()));
    }
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

/// The tree as it was last durable, if the file that says so is there.
fn mark(place: &Place) -> Option<Position> {
    let text = std::fs::read_to_string(place.dir().join(DIR).join(MARK)).ok()?;
    let chain = text.trim_end().rsplit('\n').next()?;
    let checkpoint: Checkpoint = text.strip_suffix(&format!("{chain}\n"))?.parse().ok()?;
    let mark = Position { head: checkpoint.head, chain: chain.parse().ok()? };
    (checkpoint.origin == origin(place.deployment)).then_some(mark)
}

fn make_dir(place: &Place) -> io::Result<()> {
    let dir = place.dir().join(DIR);
    if !dir.is_dir() {
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        File::open(place.dir())?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
