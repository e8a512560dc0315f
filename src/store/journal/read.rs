//! Reading a journal, forwards and backwards.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::{
    Entry, FRAME, Header, JournalPoint, MAX_BODY, Refusal, StoreError, StoreKeys, StoredEntry, journal_error,
    open_file,
};

/// What stands at a place.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time is made, and taken apart at once")]
pub(in crate::store) enum Step {
    /// A whole entry.
    Entry(Entry),
    /// Nothing: the journal ends here.
    End,
    /// The beginning of an entry that was never finished, and nothing behind it.
    Torn,
    /// Something that is not an entry, and entries behind it.
    Damaged,
}

/// Bytes that have the shape of an entry.
struct Framed {
    body: Vec<u8>,
    mac: [u8; 32],
}

/// Reads entries, one after the other.
pub(in crate::store) struct Reader {
    path: PathBuf,
    file: Arc<File>,
    // Without keys nothing is verified.
    keys: Option<Arc<StoreKeys>>,
    format: u32,
    length: u64,
    point: JournalPoint,
}

impl Reader {
    pub(super) fn new(
        path: &Path,
        file: Arc<File>,
        keys: Option<Arc<StoreKeys>>,
        header: &Header,
    ) -> Result<Self, StoreError> {
        let length = file.metadata().map_err(|error| journal_error(path, error))?.len();
        let (format, point) = (header.format(), header.point());
        Ok(Self { path: path.to_owned(), file, keys, format, length, point })
    }

    /// Reads the journal at `path` without any key and believes everything.
    pub(in crate::store) fn unauthenticated(path: &Path) -> Result<Self, StoreError> {
        let file = open_file(path, false)?;
        let header = Header::read_unauthenticated(&file, path)?;
        Self::new(path, Arc::new(file), None, &header)
    }

    /// The place before the next entry.
    pub(in crate::store) fn point(&self) -> JournalPoint {
        self.point
    }

    /// Bytes behind the place.
    pub(in crate::store) fn rest(&self) -> u64 {
        self.length.saturating_sub(self.point.offset)
    }

    /// Goes to a place; false when this file never had it.
    pub(in crate::store) fn jump(&mut self, point: JournalPoint) -> Result<bool, StoreError> {
        let start = self.point;
        let inside = point.id == start.id && (start.offset + FRAME..=self.length).contains(&point.offset);
        let there = point == start || (inside && self.mac_before(point.offset)? == point.head);
        if there {
            self.point = point;
        }
        Ok(there)
    }

    /// The next entry.
    pub(in crate::store) fn next(&mut self) -> Result<Step, StoreError> {
        if self.rest() == 0 {
            return Ok(Step::End);
        }
        match self.entry_at(self.point.offset)? {
            Some(framed) if self.follows(&self.point.head, &framed) => self.take(&framed),
            _ => self.not_an_entry(),
        }
    }

    /// Goes through all entries up to `end`.
    pub(in crate::store) fn each_until(
        mut self,
        end: JournalPoint,
        mut take: impl FnMut(Entry),
    ) -> Result<(), StoreError> {
        let mut revision = 0;
        while self.point() != end {
            let offset = self.point().offset;
            match self.next()? {
                Step::Entry(entry) => {
                    revision = entry.totals.revision;
                    take(entry);
                }
                _ => return Err(Refusal::JournalDamaged { offset, revision }.into()),
            }
        }
        Ok(())
    }

    /// The entry before, and goes there; `None` when it is not the one that this chain continues.
    pub(in crate::store) fn back(&mut self) -> Result<Option<Entry>, StoreError> {
        if self.point.offset < super::header::END + FRAME {
            return Ok(None);
        }
        let length = u64::from(self.u32_at(self.point.offset - 4)?);
        let Some(start) = self.point.offset.checked_sub(length + FRAME) else { return Ok(None) };
        let Some(framed) = self.entry_at(start)? else { return Ok(None) };
        let head = self.mac_before(start)?;
        let genuine = framed.mac == self.point.head && self.follows(&head, &framed);
        self.point = JournalPoint { offset: start, head, ..self.point };
        Ok(self.decode(&framed.body).filter(|_| genuine))
    }

    fn decode(&self, body: &[u8]) -> Option<Entry> {
        minicbor::decode::<StoredEntry>(body).ok()?.open(self.format, self.keys.as_deref())
    }

    fn take(&mut self, framed: &Framed) -> Result<Step, StoreError> {
        let Some(entry) = self.decode(&framed.body) else { return Ok(Step::Damaged) };
        let offset = self.point.offset + framed.body.len() as u64 + FRAME;
        self.point = JournalPoint { offset, head: framed.mac, ..self.point };
        Ok(Step::Entry(entry))
    }

    fn follows(&self, head: &[u8; 32], framed: &Framed) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.journal_link(head, &framed.body).ct_eq(&framed.mac).into())
    }

    /// A crash leaves at most one unfinished entry, at the very end. If the file
    /// ends with something framed like an entry, this one is in the middle.
    fn not_an_entry(&self) -> Result<Step, StoreError> {
        if self.rest() <= FRAME {
            return Ok(Step::Torn);
        }
        let length = self.u32_at(self.length - 4)?;
        let start =
            self.length.checked_sub(u64::from(length) + FRAME).filter(|start| *start > self.point.offset);
        let framed = match start {
            Some(start) if length > 0 => self.u32_at(start)? == length,
            _ => false,
        };
        Ok(if framed { Step::Damaged } else { Step::Torn })
    }

    /// What is framed as an entry at `offset`.
    fn entry_at(&self, offset: u64) -> Result<Option<Framed>, StoreError> {
        let rest = self.length.saturating_sub(offset);
        if rest < FRAME {
            return Ok(None);
        }
        let length = self.u32_at(offset)?;
        let size = u64::from(length);
        if size > MAX_BODY || size + FRAME > rest || self.u32_at(offset + size + FRAME - 4)? != length {
            return Ok(None);
        }
        let mut body = vec![0; length as usize];
        self.read(&mut body, offset + 4)?;
        Ok(Some(Framed { body, mac: self.mac_before(offset + size + FRAME)? }))
    }

    /// The MAC of what ends at `offset`: an entry, or the header.
    fn mac_before(&self, offset: u64) -> Result<[u8; 32], StoreError> {
        let mut mac = [0; 32];
        let behind_header = offset == super::header::END;
        self.read(&mut mac, offset - if behind_header { 32 } else { 36 })?;
        Ok(mac)
    }

    fn u32_at(&self, offset: u64) -> Result<u32, StoreError> {
        let mut bytes = [0; 4];
        self.read(&mut bytes, offset)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let failed = |error: io::Error| journal_error(&self.path, error);
        self.file.read_exact_at(bytes, offset).map_err(failed)
    }
}
