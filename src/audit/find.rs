//! One record by its number, without reading the log before it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::frame::{self, ChainHash, HEAD};
use super::merkle;
use super::segment::{self, Header};
use super::tree::{Tree, TreeError};

/// Reads record `sequence` and compares it with its leaf in the tree.
pub(super) fn record(dir: &Path, tree: &Tree, sequence: u64) -> Result<Vec<u8>, TreeError> {
    let index = sequence.checked_sub(1).filter(|index| *index < tree.size());
    let leaf = tree.leaf(index.ok_or(TreeError::Beyond(sequence))?)?;
    let found = find(dir, sequence).map_err(TreeError::io(dir))?;
    let mut record = found.ok_or_else(|| TreeError::Unsound(tree.dir().to_owned()))?;
    record.truncate(record.len() - frame::HASH);
    match merkle::leaf(&record) == leaf {
        true => Ok(record),
        false => Err(TreeError::Unsound(tree.dir().to_owned())),
    }
}

/// The chain hash of record `sequence`, as it stands in its segment of the log in `dir`; `None` when there is none.
///
/// # Errors
/// When a segment cannot be read.
pub fn chain(dir: &Path, sequence: u64) -> io::Result<Option<ChainHash>> {
    let Some(frame) = find(dir, sequence)? else { return Ok(None) };
    Ok(frame.last_chunk().copied().map(ChainHash))
}

/// What stands behind the head of the frame of a record: the record, and its chain hash.
fn find(dir: &Path, sequence: u64) -> io::Result<Option<Vec<u8>>> {
    let numbers = segment::list(dir)?;
    let begins_after = |number: &u64| Ok::<_, io::Error>(first(dir, *number)? > sequence);
    // The last segment that begins at or before the record.
    let (mut low, mut high) = (0, numbers.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if begins_after(&numbers[middle])? { high = middle } else { low = middle + 1 }
    }
    match low.checked_sub(1) {
        Some(place) => scan(dir, numbers[place], sequence),
        None => Ok(None),
    }
}

/// The number of a segment's first record.
fn first(dir: &Path, number: u64) -> io::Result<u64> {
    let mut head = [0; segment::LENGTH];
    File::open(segment::path(dir, number))?.read_exact(&mut head)?;
    let damaged =
        |_| io::Error::new(io::ErrorKind::InvalidData, format!("segment {number} has a damaged header"));
    let (header, _) = Header::decode(&head).map_err(damaged)?;
    Ok(header.previous.sequence.saturating_add(1))
}

/// Goes from frame to frame by their lengths.
fn scan(dir: &Path, number: u64, sequence: u64) -> io::Result<Option<Vec<u8>>> {
    let mut input = BufReader::with_capacity(1 << 18, File::open(segment::path(dir, number))?);
    input.seek_relative(segment::LENGTH as i64)?;
    let mut head = [0; HEAD];
    loop {
        input.read_exact(&mut head)?;
        let Some(span) = frame::span(&head) else { return Ok(None) };
        let [.., a, b, c, d, e, f, g, h] = *head.first_chunk::<12>().unwrap_or_else(|| unreachable!());
        let rest = span - HEAD;
        if u64::from_be_bytes([a, b, c, d, e, f, g, h]) == sequence {
            let mut frame = vec![0; rest];
            input.read_exact(&mut frame)?;
            return Ok(Some(frame));
        }
        input.seek_relative(i64::try_from(rest).unwrap_or(i64::MAX))?;
    }
}
