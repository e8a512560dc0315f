//! The end of the log: the newest segment, to which records are appended.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, zero};
use super::{OpenError, Settings};
use crate::audit::frame::{Batch, ChainHash, Tip};
use crate::audit::reader::SegmentReader;
use crate::audit::record::{Record, StoreChange};
use crate::audit::segment::{self, Header};
use crate::audit::{Damage, Flaw, VerifyError, telling, verify};
use crate::clock::Date;
use crate::id::DeploymentId;

/// A new segment until its header is durable.
const UNFINISHED: &str = "unfinished";

/// The newest segment. Everything that it knows is durable.
pub(super) struct Tail {
    file: File,
    number: u64,
    end: u64,
    /// Room taken ahead: up to here a write does not change the file's length.
    room: u64,
    tip: Tip,
    change: Option<StoreChange>,
    told: Told,
}

/// The changes of which some records tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// All records behind this one were looked at.
    pub(super) behind: u64,
    /// The changes: revision and digest, for revisions are counted again after a rollback that was accepted.
    pub(super) changes: BTreeSet<(u64, [u8; 32])>,
    /// The one with the greatest revision since the last record with which a history begins: the record of an older
    /// change may come after it.
    pub(super) newest: Option<StoreChange>,
}

impl Told {
    fn see(&mut self, record: &Record) {
        let Some(change) = record.change else { return };
        self.changes.insert((change.revision, change.digest));
        let anew = telling::BEGINS.contains(&telling::operation(record));
        if anew || self.newest.is_none_or(|newest| newest.revision < change.revision) {
            self.newest = Some(change);
        }
    }
}

/// How much of the newest segment to keep.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    /// All whole records: they may have been acknowledged.
    Whole,
    /// Records up to this one: the later ones were refused.
    UpTo(u64),
}

/// Where and how to write.
pub(super) struct Place {
    pub(super) settings: Settings,
    pub(super) deployment: DeploymentId,
    pub(super) disk: Arc<dyn Disk>,
}

impl Place {
    pub(super) fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// Begins the first segment.
    pub(super) fn create(&self) -> io::Result<()> {
        self.begin_segment(1, Tip { sequence: 0, hash: ChainHash([0; 32]) }, None).map(drop)
    }

    /// Opens the newest segment, verifies it and cuts what is not kept. Also
    /// returns how many bytes of an unfinished write were cut.
    pub(super) fn open(&self, keep: Keep) -> Result<(Tail, u64), OpenError> {
        let numbers = verify::segments(self.dir())?;
        let Some(&number) = numbers.last() else { return Err(OpenError::Missing(self.dir().to_owned())) };
        let mut reader = SegmentReader::open(self.dir(), number, true)?;
        self.check_deployment(&reader)?;
        let (change, told) = read_to_end(&mut reader, keep)?;
        let file = self.settle(&reader).map_err(OpenError::io(reader.path()))?;
        let end = reader.offset();
        Ok((Tail { file, number, end, room: end, tip: reader.tip(), change, told }, reader.torn()))
    }

    fn check_deployment(&self, reader: &SegmentReader) -> Result<(), OpenError> {
        let found = reader.header().deployment;
        match found == self.deployment {
            true => Ok(()),
            false => Err(OpenError::Foreign { found, expected: self.deployment }),
        }
    }

    /// Cuts the file behind what was read and makes the rest durable. The last
    /// write is done once more: if its sync failed and the process died then,
    /// the operating system may show data that never reached the disk.
    fn settle(&self, reader: &SegmentReader) -> io::Result<File> {
        use std::os::unix::fs::FileExt;

        let file = self.disk.open(reader.path())?;
        self.disk.set_len(&file, reader.offset())?;
        let start = reader.last_write();
        let mut bytes = vec![0; usize::try_from(reader.offset() - start).unwrap_or_default()];
        file.read_exact_at(&mut bytes, start)?;
        self.disk.write(&file, &bytes, start)?;
        self.disk.sync(&file)?;
        self.disk.sync_dir(self.dir())?;
        Ok(file)
    }

    /// Makes a segment durable under its name, complete with its header, so
    /// that no crash leaves half of one.
    fn begin_segment(&self, number: u64, previous: Tip, change: Option<StoreChange>) -> io::Result<Tail> {
        let deployment = self.deployment;
        let (header, tip) = Header { deployment, number, previous, date: Date::now(), change }.encode();
        let unfinished = self.dir().join(UNFINISHED);
        let file = self.disk.open(&unfinished)?;
        self.disk.set_len(&file, 0)?;
        self.disk.write(&file, &header, 0)?;
        self.disk.sync(&file)?;
        self.disk.rename(&unfinished, &segment::path(self.dir(), number))?;
        self.disk.sync_dir(self.dir())?;
        let end = header.len() as u64;
        Ok(Tail { file, number, end, room: end, tip, change, told: Told::default() })
    }
}

fn read_to_end(reader: &mut SegmentReader, keep: Keep) -> Result<(Option<StoreChange>, Told), VerifyError> {
    let mut change = reader.header().change;
    let behind = reader.header().previous.sequence;
    let mut told = Told { behind, changes: BTreeSet::new(), newest: change };
    let enough = |tip: Tip| matches!(keep, Keep::UpTo(last) if tip.sequence >= last);
    while !enough(reader.tip()) {
        match (reader.next()?, keep) {
            (Some(record), _) => {
                told.see(&record);
                change = record.change.or(change);
            }
            (None, Keep::Whole) => break,
            // A durable record is gone.
            (None, Keep::UpTo(_)) => return Err(lost(reader)),
        }
    }
    Ok((change, told))
}

fn lost(reader: &SegmentReader) -> VerifyError {
    let (file, offset, sequence) = (reader.path().to_owned(), reader.offset(), reader.tip().sequence + 1);
    Damage { file, offset, sequence, flaw: Flaw::Chain }.into()
}

impl Tail {
    /// Where the chain stands.
    pub(super) fn tip(&self) -> Tip {
        self.tip
    }

    /// The changes that its records told of when it was opened.
    pub(super) fn told(&self) -> &Told {
        &self.told
    }

    /// Appends the records and returns when they are durable. After an error
    /// nobody knows what is on the disk, and the tail must be opened again.
    pub(super) fn append(&mut self, batch: &mut Batch, place: &Place) -> io::Result<()> {
        if self.is_full(batch, place) {
            self.roll(place)?;
        }
        let tip = batch.seal(self.tip);
        let end = self.end + batch.bytes().len() as u64;
        self.make_room(end, place);
        place.disk.write(&self.file, batch.bytes(), self.end)?;
        place.disk.sync(&self.file)?;
        (self.end, self.tip, self.change) = (end, tip, batch.change().or(self.change));
        Ok(())
    }

    fn is_full(&self, batch: &Batch, place: &Place) -> bool {
        let begun = self.end > segment::LENGTH as u64;
        begun && self.end + batch.bytes().len() as u64 > place.settings.segment_bytes
    }

    fn roll(&mut self, place: &Place) -> io::Result<()> {
        self.trim(place)?;
        *self = place.begin_segment(self.number + 1, self.tip, self.change)?;
        Ok(())
    }

    /// Gives back the room that was taken ahead.
    pub(super) fn trim(&mut self, place: &Place) -> io::Result<()> {
        place.disk.set_len(&self.file, self.end)?;
        place.disk.sync(&self.file)?;
        self.room = self.end;
        Ok(())
    }

    /// Takes room ahead, so that a sync has only the records to write, neither the
    /// file's length nor the first use of its blocks. Not every file system can;
    /// then the writes extend the file.
    fn make_room(&mut self, end: u64, place: &Place) {
        if end <= self.room {
            return;
        }
        let wanted = end.saturating_add(place.settings.ahead_bytes);
        let taken = place.disk.reserve(&self.file, wanted);
        // Whether the disk is full or the file system cannot: the write will tell.
        self.room = match taken.and_then(|()| zero(&*place.disk, &self.file, end, wanted)) {
            Ok(()) => wanted,
            Err(_) => u64::MAX,
        };
    }
}
