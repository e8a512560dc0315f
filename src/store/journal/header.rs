//! The first 88 bytes of a journal.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use subtle::ConstantTimeEq;

use super::{JournalPoint, StoreError, StoreKeys, journal_error};
use crate::id::DeploymentId;
use crate::store::error::Refusal;
use crate::store::needs;

const MAGIC: &[u8; 4] = b"KWJ\n";
/// Format 2 is format 1 with sealed rows; format 3 has other totals, and what the audit log had.
const FORMAT: u32 = 3;
const LEN: usize = 88;
const SIGNED: usize = LEN - 32;

/// Where the first entry begins.
pub(super) const END: u64 = LEN as u64;

/// Says whose journal it is and which file; its MAC starts the chain.
#[derive(Debug, Clone)]
pub(in crate::store) struct Header([u8; LEN]);

impl Header {
    /// The header of a new file.
    pub(in crate::store) fn new(deployment: DeploymentId, keys: &StoreKeys) -> io::Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        let signed = [MAGIC.as_slice(), &FORMAT.to_be_bytes(), &needs::field(), &deployment.0, &id].concat();
        let mut bytes = [0; LEN];
        bytes[..SIGNED].copy_from_slice(&signed);
        bytes[SIGNED..].copy_from_slice(&keys.journal_link(&[0; 32], &signed));
        Ok(Self(bytes))
    }

    /// Reads the header of a journal of this program and these keys.
    pub(super) fn read(file: &File, path: &Path, keys: &StoreKeys) -> Result<Self, StoreError> {
        let header = Self::read_unauthenticated(file, path)?;
        let mac = keys.journal_link(&[0; 32], &header.0[..SIGNED]);
        if !bool::from(mac.ct_eq(&header.0[SIGNED..])) {
            return Err(Refusal::NotTheJournal(path.display().to_string()).into());
        }
        Ok(header)
    }

    /// As [`read`](Self::read), without checking whose it is.
    pub(in crate::store) fn read_unauthenticated(file: &File, path: &Path) -> Result<Self, StoreError> {
        let name = || path.display().to_string();
        let mut bytes = [0; LEN];
        file.read_exact_at(&mut bytes, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Refusal::NotTheJournal(name()).into(),
            _ => journal_error(path, error),
        })?;
        let format = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        if !bytes.starts_with(MAGIC) || format == 0 {
            return Err(Refusal::NotTheJournal(name()).into());
        }
        if format > FORMAT {
            let needed = needs::read(&bytes[8..8 + needs::LEN]);
            return Err(Refusal::Newer { what: name(), found: format, known: FORMAT, needed }.into());
        }
        Ok(Self(bytes))
    }

    /// The format of the file.
    pub(in crate::store) fn format(&self) -> u32 {
        u32::from_be_bytes(self.field(4))
    }

    /// Whether a program before this one made the file.
    pub(in crate::store) fn is_older(&self) -> bool {
        self.format() < FORMAT
    }

    /// The installation.
    pub(in crate::store) fn deployment(&self) -> DeploymentId {
        DeploymentId(self.field(24))
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The place behind it.
    pub(in crate::store) fn point(&self) -> JournalPoint {
        JournalPoint { id: self.field(40), offset: END, head: self.field(SIGNED) }
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|index| self.0[at + index])
    }
}
