//! Segment files: their names and their headers.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::frame::{ChainHash, Tip};
use super::record::StoreChange;
use crate::clock::Date;
use crate::id::DeploymentId;

/// Length of a header in bytes.
pub(super) const LENGTH: usize = 172;
/// The format that this program writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"KWAUDIT\0";
const DOMAIN: &[u8] = b"\0\0\0\x17keyward/1/audit-segment";
const SUFFIX: &str = ".kwa";

/// What the header of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The installation.
    pub(super) deployment: DeploymentId,
    /// Number of the segment, from 1.
    pub(super) number: u64,
    /// Where the chain stood before it.
    pub(super) previous: Tip,
    /// When it was begun.
    pub(super) date: Date,
    /// The newest store change before it.
    pub(super) change: Option<StoreChange>,
}

/// Why bytes are not a header that this program reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// They were changed, or never were one.
    Damaged,
    /// A newer program wrote it.
    Newer { format: u32, program: String },
}

impl Header {
    /// The header's bytes, and where the chain stands after it.
    pub(super) fn encode(&self) -> ([u8; LENGTH], Tip) {
        let change = self.change.unwrap_or(StoreChange { revision: 0, digest: [0; 32] });
        let mut bytes = [0; LENGTH];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(MAGIC);
        put(&FORMAT.to_be_bytes());
        put(&program());
        put(&self.deployment.0);
        put(&self.number.to_be_bytes());
        put(&self.previous.sequence.saturating_add(1).to_be_bytes());
        put(&self.previous.hash.0);
        put(&self.date.millis().to_be_bytes());
        put(&change.revision.to_be_bytes());
        put(&change.digest);
        let hash = hash(&bytes);
        bytes[LENGTH - 32..].copy_from_slice(&hash.0);
        (bytes, Tip { sequence: self.previous.sequence, hash })
    }

    /// Reads a header.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, Tip), BadHeader> {
        let mut rest = Fields(bytes);
        let (magic, format, program) = (rest.take()?, u32::from_be_bytes(rest.take()?), rest.take::<16>()?);
        match format {
            _ if &magic != MAGIC => return Err(BadHeader::Damaged),
            FORMAT => (),
            format => return Err(BadHeader::Newer { format, program: readable(&program) }),
        }
        let deployment = DeploymentId(rest.take()?);
        let (number, first) = (rest.number()?, rest.number()?);
        let previous = ChainHash(rest.take()?);
        let (date, revision) = (Date(rest.number()?), rest.number()?);
        let change = StoreChange { revision, digest: rest.take()? };
        let previous = Tip { sequence: first.checked_sub(1).ok_or(BadHeader::Damaged)?, hash: previous };
        let header = Self { deployment, number, previous, date, change: (revision > 0).then_some(change) };
        let expected = hash(bytes);
        match rest.take()? == expected.0 {
            true => Ok((header, Tip { sequence: previous.sequence, hash: expected })),
            false => Err(BadHeader::Damaged),
        }
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadHeader> {
        let (field, rest) = self.0.split_first_chunk().ok_or(BadHeader::Damaged)?;
        self.0 = rest;
        Ok(*field)
    }

    fn number(&mut self) -> Result<u64, BadHeader> {
        self.take().map(u64::from_be_bytes)
    }
}

fn hash(header: &[u8]) -> ChainHash {
    let covered = header.get(..LENGTH - 32).unwrap_or(header);
    ChainHash(Sha256::new().chain_update(DOMAIN).chain_update(covered).finalize().into())
}

/// The version of this program, so that an older one can say what it needs.
fn program() -> [u8; 16] {
    let mut field = [0; 16];
    field.iter_mut().zip(env!("CARGO_PKG_VERSION").bytes()).for_each(|(to, from)| *to = from);
    field
}

fn readable(program: &[u8]) -> String {
    program.iter().map(|byte| char::from(*byte)).filter(char::is_ascii_graphic).collect()
}

/// The file of a segment.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}{SUFFIX}"))
}

/// The numbers of the segments in a directory, in order.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| number(dir, name)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    let number = name.strip_suffix(SUFFIX)?.parse().ok()?;
    (path(dir, number) == dir.join(name)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(change: Option<StoreChange>) -> Header {
        let previous = Tip { sequence: 41, hash: ChainHash([3; 32]) };
        Header { deployment: DeploymentId([7; 16]), number: 2, previous, date: Date(5), change }
    }

    #[test]
    fn headers_round_trip() {
        for change in [None, Some(StoreChange { revision: 9, digest: [1; 32] })] {
            let (bytes, tip) = header(change).encode();
            assert_eq!(Header::decode(&bytes).unwrap(), (header(change), tip));
            assert_eq!(tip.sequence, 41);
        }
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let (bytes, _) = header(None).encode();
        for at in 0..bytes.len() {
            let mut wrong = bytes;
            wrong[at] ^= 1;
            assert!(Header::decode(&wrong).is_err(), "byte {at}");
            assert!(Header::decode(&bytes[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_newer_format_names_the_program() {
        let (mut bytes, _) = header(None).encode();
        bytes[11] = 2;
        bytes[12..28].copy_from_slice(b"3.14.15\0\0\0\0\0\0\0\0\0");
        let newer = BadHeader::Newer { format: 2, program: "3.14.15".into() };
        assert_eq!(Header::decode(&bytes), Err(newer));
    }

    #[test]
    fn only_segments_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["00000002.kwa", "00000001.kwa", "1.kwa", "lock", "00000003.kwb", "123456789.kwa"] {
            std::fs::write(dir.path().join(name), []).unwrap();
        }
        assert_eq!(list(dir.path()).unwrap(), [1, 2, 123_456_789]);
    }
}
