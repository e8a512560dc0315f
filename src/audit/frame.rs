//! Frames: how records stand in a segment file, and the hash chain over them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::record::{Record, StoreChange};

/// Longest record in bytes.
pub(super) const MAX_RECORD: usize = 4 << 20;
/// Length, sequence and synced.
pub(super) const HEAD: usize = 20;
/// The chain hash behind each record.
pub(super) const HASH: usize = 32;
/// What a frame adds to its record.
const OVERHEAD: usize = HEAD + HASH;

/// The domain separation of frames: its length as u32 and the words.
const DOMAIN: &[u8] = b"\0\0\0\x16keyward/1/audit-record";

/// One value of the hash chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChainHash(pub [u8; HASH]);

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ChainHash {
    type Err = std::num::ParseIntError;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut hash = [0; HASH];
        for (at, byte) in hash.iter_mut().enumerate() {
            // What is missing or too much is no number.
            let digits = text.get(2 * at..2 * at + 2).filter(|_| text.len() == 2 * HASH);
            *byte = u8::from_str_radix(digits.unwrap_or_default(), 16)?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tip {
    /// Sequence number of the newest record; 0 when there is none.
    pub(super) sequence: u64,
    /// The hash that the next record continues.
    pub(super) hash: ChainHash,
}

/// One frame as it stands in a file; not yet known to belong there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    /// Sequence number of the record.
    pub(super) sequence: u64,
    /// The newest record that was durable when this one was written.
    pub(super) synced: u64,
    /// The record.
    pub(super) record: &'a [u8],
    covered: &'a [u8],
    hash: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes the frame that `bytes` begin with, when they can hold one.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (covered, rest) = bytes.split_at_checked(span(bytes)? - HASH)?;
        let (&sequence, _) = covered.get(4..)?.split_first_chunk()?;
        let (&synced, record) = covered.get(12..)?.split_first_chunk()?;
        let (sequence, synced) = (u64::from_be_bytes(sequence), u64::from_be_bytes(synced));
        (synced < sequence).then_some(Self { sequence, synced, record, covered, hash: rest.get(..HASH)? })
    }

    /// Whether the frame continues the chain at `tip`.
    pub(super) fn follows(&self, tip: &Tip) -> bool {
        Some(self.sequence) == tip.sequence.checked_add(1) && self.fits(&tip.hash)
    }

    fn fits(&self, previous: &ChainHash) -> bool {
        self.hash == self.expected_hash(previous).0
    }

    fn expected_hash(&self, previous: &ChainHash) -> ChainHash {
        link(previous, self.covered)
    }

    /// The hash that stands in the frame.
    pub(super) fn hash(&self) -> ChainHash {
        let mut hash = [0; HASH];
        hash.copy_from_slice(self.hash);
        ChainHash(hash)
    }
}

/// The length of the frame whose beginning is given, when it can be one.
pub(super) fn span(head: &[u8]) -> Option<usize> {
    let length = usize::try_from(u32::from_be_bytes(*head.first_chunk()?)).ok()?;
    (1..=MAX_RECORD).contains(&length).then_some(length + OVERHEAD)
}

/// h(n) = SHA-256(DOMAIN | h(n-1) | length | sequence | synced | record)
fn link(previous: &ChainHash, covered: &[u8]) -> ChainHash {
    let hash = Sha256::new().chain_update(DOMAIN).chain_update(previous.0).chain_update(covered).finalize();
    ChainHash(hash.into())
}

/// Whether some frame in `rest` says that the one at its beginning, which does
/// not follow `tip`, was durable once. Then it was damaged later: a crash can
/// only tear records that were never acknowledged.
pub(super) fn was_synced(rest: &[u8], tip: &Tip) -> bool {
    let lost = tip.sequence.saturating_add(1);
    // If only the lost frame's hash is damaged, the next one fits the hash that should stand there.
    let meant = Frame::read(rest).map(|frame| frame.expected_hash(&tip.hash));
    let witness = |at: usize| {
        let stored = ChainHash(*rest.get(at - HASH..)?.first_chunk()?);
        let frame = Frame::read(rest.get(at..)?)?;
        let possible = frame.synced >= lost && frame.sequence - lost <= u64::try_from(at).ok()?;
        Some(possible && (frame.fits(&stored) || meant.is_some_and(|meant| frame.fits(&meant))))
    };
    (HASH..rest.len()).any(|at| witness(at) == Some(true))
}

/// The frames of one write.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    records: u64,
    change: Option<StoreChange>,
}

/// Why a record cannot be written at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("the record has {0} bytes, more than the {MAX_RECORD} that one may have")]
    TooLong(usize),
    #[error("the record cannot be encoded: {0}")]
    Encoding(String),
}

impl Batch {
    /// Appends a record, leaving room for what `seal` fills in.
    pub(super) fn push(&mut self, record: &Record) -> Result<(), Unfit> {
        let start = self.bytes.len();
        let pushed = self.encode(record, start);
        match pushed {
            Ok(()) => {
                self.records += 1;
                self.change = record.change.or(self.change);
            }
            Err(_) => self.bytes.truncate(start),
        }
        pushed
    }

    fn encode(&mut self, record: &Record, start: usize) -> Result<(), Unfit> {
        self.bytes.extend_from_slice(&[0; HEAD]);
        minicbor::encode(record, &mut self.bytes).map_err(|error| Unfit::Encoding(error.to_string()))?;
        let length = self.bytes.len() - start - HEAD;
        let word =
            u32::try_from(length).ok().filter(|_| length <= MAX_RECORD).ok_or(Unfit::TooLong(length))?;
        self.bytes[start..start + 4].copy_from_slice(&word.to_be_bytes());
        self.bytes.extend_from_slice(&[0; HASH]);
        Ok(())
    }

    /// Numbers the records and chains them to `tip`, all of which is durable.
    /// Returns where the chain stands after them. May be done again.
    pub(super) fn seal(&mut self, tip: Tip) -> Tip {
        let mut next = tip;
        let mut rest = self.bytes.as_mut_slice();
        while let Some(span) = span(rest) {
            let (frame, behind) = rest.split_at_mut(span);
            let (covered, hash) = frame.split_at_mut(span - HASH);
            next.sequence += 1;
            covered[4..12].copy_from_slice(&next.sequence.to_be_bytes());
            covered[12..20].copy_from_slice(&tip.sequence.to_be_bytes());
            next.hash = link(&next.hash, covered);
            hash.copy_from_slice(&next.hash.0);
            rest = behind;
        }
        next
    }

    /// The bytes to write.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The records, each in its only encoding.
    pub(super) fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (frame, behind) = rest.split_at_checked(span(rest)?)?;
            rest = behind;
            frame.get(HEAD..frame.len() - HASH)
        })
    }

    /// The newest store change among the records.
    pub(super) fn change(&self) -> Option<StoreChange> {
        self.change
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Makes it empty, and gives back the memory of an unusually large batch.
    pub(super) fn clear(&mut self) {
        const KEPT: usize = 4 << 20;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        (self.records, self.change) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::plain;
    use super::*;

    const START: Tip = Tip { sequence: 6, hash: ChainHash([9; 32]) };

    fn sealed(records: u64, tip: Tip) -> (Vec<u8>, Tip) {
        let mut batch = Batch::default();
        (0..records).for_each(|id| batch.push(&plain(id)).unwrap());
        let tip = batch.seal(tip);
        (batch.bytes().to_vec(), tip)
    }

    #[test]
    fn the_chain_hash_is_the_documented_one() {
        let (bytes, tip) = sealed(1, START);
        let record =
            minicbor::to_vec(minicbor::decode::<Record>(&bytes[20..bytes.len() - 32]).unwrap()).unwrap();
        let domain = "keyward/1/audit-record";
        let mut input = u32::try_from(domain.len()).unwrap().to_be_bytes().to_vec();
        input.extend(domain.bytes());
        input.extend([9; 32]);
        input.extend(u32::try_from(record.len()).unwrap().to_be_bytes());
        input.extend(7u64.to_be_bytes());
        input.extend(6u64.to_be_bytes());
        input.extend(&record);
        assert_eq!(tip.hash.0.as_slice(), Sha256::digest(&input).as_slice());
        assert_eq!(&bytes[bytes.len() - 32..], tip.hash.0.as_slice());
        assert_eq!(tip.sequence, 7);
    }

    #[test]
    fn the_example_in_the_document_is_right() {
        let mut batch = Batch::default();
        batch.push(&Record { time: crate::clock::Date(1000), ..plain(7) }).unwrap();
        batch.seal(START);
        let without_space = |text: &str| text.split_whitespace().collect::<String>();
        let document = without_space(include_str!("../../docs/audit-format.md"));
        let frame = hex::encode(batch.bytes());
        assert!(document.contains(&frame), "{frame}");
    }

    #[test]
    fn a_frame_follows_its_tip_and_no_other() {
        let (bytes, tip) = sealed(2, START);
        let first = Frame::read(&bytes).unwrap();
        assert!(first.follows(&START));
        assert!(!first.follows(&Tip { sequence: 5, ..START }));
        assert!(!first.follows(&Tip { hash: ChainHash([8; 32]), ..START }));
        let second = Frame::read(&bytes[span(&bytes).unwrap()..]).unwrap();
        assert!(second.follows(&Tip { sequence: 7, hash: first.hash() }));
        assert_eq!((second.synced, second.hash()), (6, tip.hash));
    }

    #[test]
    fn a_later_write_shows_that_an_earlier_one_was_durable() {
        let (first, middle) = sealed(3, START);
        let (second, _) = sealed(1, middle);
        let all = [first.as_slice(), &second].concat();
        for at in 0..first.len() {
            let mut damaged = all.clone();
            damaged[at] ^= 1;
            // What reads well before the damage moves the tip, as reading does.
            let (mut offset, mut tip) = (0, START);
            while let Some(frame) = Frame::read(&damaged[offset..]).filter(|frame| frame.follows(&tip)) {
                (offset, tip) = (
                    offset + span(&damaged[offset..]).unwrap(),
                    Tip { sequence: frame.sequence, hash: frame.hash() },
                );
            }
            assert!(was_synced(&damaged[offset..], &tip), "byte {at}");
            assert!(!was_synced(&damaged[offset..first.len()], &tip), "byte {at}, without the second write");
        }
    }

    #[test]
    fn an_unfit_record_leaves_the_batch_alone() {
        let mut batch = Batch::default();
        batch.push(&plain(1)).unwrap();
        let before = batch.bytes().to_vec();
        let long = Record { resource: "x".repeat(MAX_RECORD), ..plain(2) };
        assert!(matches!(batch.push(&long), Err(Unfit::TooLong(_))));
        assert_eq!(batch.bytes(), before);
    }
}
