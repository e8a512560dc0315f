//! Reads one segment file, and tells a torn tail from damage.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::damage::{Damage, Flaw, VerifyError};
use super::frame::{self, Frame, Tip};
use super::record::Record;
use super::segment::{self, BadHeader, Header};

/// Reads the frames of one segment in order. Another process may be writing.
pub(super) struct SegmentReader {
    path: PathBuf,
    input: BufReader<File>,
    header: Header,
    newest: bool,
    tip: Tip,
    offset: u64,
    last_write: LastWrite,
    torn: u64,
    frame: Vec<u8>,
}

/// The frames that the last write appended, as far as was read.
#[derive(Clone, Copy)]
struct LastWrite {
    synced: u64,
    offset: u64,
}

enum Verdict {
    End { torn: u64 },
    Rewritten,
}

impl SegmentReader {
    /// Opens a segment and reads its header. `newest` says that no segment
    /// follows, so that its tail may be torn.
    pub(super) fn open(dir: &Path, number: u64, newest: bool) -> Result<Self, VerifyError> {
        const BUFFER: usize = 1 << 18;
        let path = segment::path(dir, number);
        let mut file = File::open(&path).map_err(VerifyError::unreadable(&path))?;
        let mut head = Vec::with_capacity(segment::LENGTH);
        let length = segment::LENGTH as u64;
        (&mut file).take(length).read_to_end(&mut head).map_err(VerifyError::unreadable(&path))?;
        let (header, tip) = Header::decode(&head).map_err(|bad| refuse_header(&path, bad))?;
        let reader = Self {
            path,
            input: BufReader::with_capacity(BUFFER, file),
            header,
            newest,
            tip,
            offset: length,
            last_write: LastWrite { synced: tip.sequence, offset: length },
            torn: 0,
            frame: Vec::new(),
        };
        match header.number == number {
            true => Ok(reader),
            false => Err(reader.header_flaw(Flaw::Discontinued)),
        }
    }

    /// The header.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the chain stands after what was read.
    pub(super) fn tip(&self) -> Tip {
        self.tip
    }

    /// Where the next frame starts in the file.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the last write that was read starts in the file. Nothing in the
    /// file shows that it was synced.
    pub(super) fn last_write(&self) -> u64 {
        self.last_write.offset
    }

    /// How many bytes of an unfinished write were found at the end.
    pub(super) fn torn(&self) -> u64 {
        self.torn
    }

    /// Says that the header has a flaw.
    pub(super) fn header_flaw(&self, flaw: Flaw) -> VerifyError {
        let sequence = self.header.previous.sequence.saturating_add(1);
        Damage { file: self.path.clone(), offset: 0, sequence, flaw }.into()
    }

    /// The bytes of the record that was read last.
    pub(super) fn record_bytes(&self) -> &[u8] {
        self.frame.get(frame::HEAD..self.frame.len().saturating_sub(frame::HASH)).unwrap_or_default()
    }

    /// The next record, or the end. Tip and offset then stand behind it.
    pub(super) fn next(&mut self) -> Result<Option<Record>, VerifyError> {
        loop {
            if let Some(record) = self.read_frame()? {
                return Ok(Some(record));
            }
            match self.judge()? {
                Verdict::Rewritten => self.rewind()?,
                Verdict::End { torn } => {
                    self.torn = torn;
                    return Ok(None);
                }
            }
        }
    }

    fn read_frame(&mut self) -> Result<Option<Record>, VerifyError> {
        self.frame.clear();
        self.fill(frame::HEAD)?;
        let Some(span) = frame::span(&self.frame) else { return Ok(None) };
        self.fill(span.saturating_sub(self.frame.len()))?;
        let frame = Frame::read(&self.frame).filter(|frame| frame.follows(&self.tip));
        let Some(frame) = frame else { return Ok(None) };
        let record = Record::from_canonical(frame.record)
            .map_err(|error| self.flaw(Flaw::Record(error.to_string())))?;
        if frame.synced != self.last_write.synced {
            self.last_write = LastWrite { synced: frame.synced, offset: self.offset };
        }
        self.tip = Tip { sequence: frame.sequence, hash: frame.hash() };
        self.offset += self.frame.len() as u64;
        Ok(Some(record))
    }

    fn fill(&mut self, count: usize) -> Result<(), VerifyError> {
        let read = (&mut self.input).take(count as u64).read_to_end(&mut self.frame);
        read.map(drop).map_err(VerifyError::unreadable(&self.path))
    }

    /// Says why no frame follows. A frame that was durable once is looked at
    /// again after the proof of that was seen: a writer may have been faster
    /// than this reader.
    fn judge(&mut self) -> Result<Verdict, VerifyError> {
        let rest = self.rest()?;
        let used = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if self.fits(&rest) {
            return Ok(Verdict::Rewritten);
        }
        if used == 0 || self.newest && !frame::was_synced(&rest, &self.tip) {
            return Ok(Verdict::End { torn: used as u64 });
        }
        match self.fits(&self.rest()?) {
            true => Ok(Verdict::Rewritten),
            false => Err(self.flaw(Flaw::Chain)),
        }
    }

    fn fits(&self, rest: &[u8]) -> bool {
        Frame::read(rest).is_some_and(|frame| frame.follows(&self.tip))
    }

    /// Everything behind the records read so far.
    fn rest(&self) -> Result<Vec<u8>, VerifyError> {
        let mut rest = Vec::new();
        let mut file = self.input.get_ref();
        file.seek(SeekFrom::Start(self.offset))
            .and_then(|_| file.read_to_end(&mut rest))
            .map_err(VerifyError::unreadable(&self.path))?;
        Ok(rest)
    }

    fn rewind(&mut self) -> Result<(), VerifyError> {
        let sought = self.input.seek(SeekFrom::Start(self.offset));
        sought.map(drop).map_err(VerifyError::unreadable(&self.path))
    }

    fn flaw(&self, flaw: Flaw) -> VerifyError {
        let sequence = self.tip.sequence.saturating_add(1);
        Damage { file: self.path.clone(), offset: self.offset, sequence, flaw }.into()
    }
}

fn refuse_header(path: &Path, bad: BadHeader) -> VerifyError {
    let file = path.to_owned();
    match bad {
        BadHeader::Damaged => Damage { file, offset: 0, sequence: 0, flaw: Flaw::Header }.into(),
        BadHeader::Newer { format, program } => {
            VerifyError::Newer { file, found: format, known: segment::FORMAT, needed: program }
        }
    }
}
