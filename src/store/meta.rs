//! The meta row: what the store holds at its revision, in one authenticated row.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use subtle::ConstantTimeEq;

use super::error::StoreError;
use super::kv::{Entry, Snapshot};
use super::mac::{StoreKeys, is_sealed, mac_of, sealed_under};
use super::tables::Table;
use crate::id::DeploymentId;

mod generations;

pub(super) use generations::Generations;

/// What a change did to the store: its revision and the digest from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreChange {
    /// The revision that it made.
    pub revision: u64,
    /// The authority digest at that revision.
    pub digest: [u8; 32],
}

/// How many records each table has. As every record of a covered table is held against the digest, an
/// equal number of them, each in its own place, is all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts([u64; Counts::TABLES]);

impl Counts {
    /// Bytes of tables are below this number.
    const TABLES: usize = 64;
    const NONE: Self = Self([0; Self::TABLES]);

    /// Records of the table with this byte.
    pub(super) fn of(&self, table: u8) -> u64 {
        self.0.get(usize::from(table)).copied().unwrap_or_default()
    }

    fn all(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        (0..).zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// Of the tables that the digest covers.
    fn covered(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.all().filter(|(byte, _)| is_covered(&[*byte]))
    }

    fn at(&mut self, key: &[u8]) -> Option<&mut u64> {
        key.first().and_then(|byte| self.0.get_mut(usize::from(*byte)))
    }
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.all()).finish()
    }
}

/// What the store holds at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    /// Changes since the store was made.
    pub revision: u64,
    /// Records of each table.
    pub counts: Counts,
    /// Rows of wrapped keys under each generation of the erasure key.
    pub generations: Generations,
    /// Bytes of their keys and stored values.
    pub bytes: u64,
    /// Root of the digest's hash tree.
    pub digest: [u8; 32],
    /// Says after a full scan that no record, covered or not, is lost, old or foreign: the sum of
    /// [`element`](StoreKeys::element) of each, modulo 2^256. On disk it is masked, since who knows it
    /// and could work out elements could look for other records with the same sum.
    pub sum: [u8; 32],
}

impl Totals {
    /// A store without records.
    pub(super) const EMPTY: Self = Self {
        revision: 0,
        counts: Counts::NONE,
        generations: Generations::NONE,
        bytes: 0,
        digest: [0; 32],
        sum: [0; 32],
    };

    /// Records.
    pub(super) fn records(&self) -> u64 {
        self.counts.all().map(|(_, count)| count).sum()
    }

    /// Records that the digest covers.
    pub(super) fn covered(&self) -> u64 {
        self.counts.covered().map(|(_, count)| count).sum()
    }

    /// Whether the two are of the same covered records.
    pub(super) fn covers_the_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.counts.covered().eq(other.counts.covered())
    }

    /// Counts a stored record in.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8], keys: &StoreKeys) {
        if let Some(count) = self.counts.at(key) {
            *count += 1;
        }
        if is_sealed(key) {
            self.generations.add(sealed_under(value));
        }
        self.bytes += (key.len() + value.len()) as u64;
        self.sum = add(self.sum, keys.element(&mac_of(value)));
    }

    /// Counts a stored record out; `None` when it cannot have been counted in.
    pub(super) fn remove(&mut self, key: &[u8], value: &[u8], keys: &StoreKeys) -> Option<()> {
        let count = self.counts.at(key)?;
        *count = count.checked_sub(1)?;
        if is_sealed(key) {
            self.generations.remove(sealed_under(value))?;
        }
        self.bytes = self.bytes.checked_sub((key.len() + value.len()) as u64)?;
        self.sum = add(self.sum, negate(keys.element(&mac_of(value))));
        Some(())
    }

    /// Revision and digest.
    pub(super) fn change(&self) -> StoreChange {
        StoreChange { revision: self.revision, digest: self.digest }
    }
}

/// Totals as they stand on disk.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub(super) struct StoredTotals {
    #[n(1)]
    revision: u64,
    #[n(4)]
    bytes: u64,
    #[cbor(n(5), with = "minicbor::bytes")]
    digest: [u8; 32],
    // Of format 2: the plain sum of the MACs.
    #[cbor(n(6), with = "minicbor::bytes")]
    macs: Option<[u8; 32]>,
    #[n(7)]
    counts: Option<BTreeMap<u8, u64>>,
    // Nonce, and the sum behind its mask.
    #[cbor(n(8), with = "minicbor::bytes")]
    masked: Option<[u8; NONCE + 32]>,
    // None in format 2.
    #[n(9)]
    generations: Option<BTreeMap<u32, u64>>,
}

/// Bytes of the nonce of a masked sum.
const NONCE: usize = 16;

impl StoredTotals {
    /// Masks the sum with a nonce of its own.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub(super) fn of(totals: &Totals, keys: &StoreKeys) -> Result<Self, getrandom::Error> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let mut masked = [0; NONCE + 32];
        masked[..NONCE].copy_from_slice(&nonce);
        masked[NONCE..].copy_from_slice(&add(totals.sum, keys.sum_mask(&nonce)));
        let Totals { revision, counts, generations, bytes, digest, .. } = *totals;
        let (counts, generations) = (Some(counts.all().collect()), Some(generations.stored()));
        Ok(Self { revision, bytes, digest, macs: None, counts, masked: Some(masked), generations })
    }

    /// The totals; without keys, for who believes everything, without their sum. `None` when they are of an older format, or none.
    pub(super) fn open(&self, keys: Option<&StoreKeys>) -> Option<Totals> {
        let (nonce, masked) = self.masked.as_ref()?.split_first_chunk::<NONCE>()?;
        let masked = masked.first_chunk()?;
        let mut counts = Counts::NONE;
        for (byte, count) in self.counts.as_ref()? {
            *counts.at(&[*byte])? = *count;
        }
        let generations = Generations::read(self.generations.as_ref()?)?;
        let sum = keys.map_or([0; 32], |keys| add(*masked, negate(keys.sum_mask(nonce))));
        let Self { revision, bytes, digest, .. } = *self;
        Some(Totals { revision, counts, generations, bytes, digest, sum })
    }

    /// The totals of a store of format 2: without counts, and the sum is that of the MACs.
    pub(super) fn open_format_2(&self) -> Option<Totals> {
        let (Some(sum), None, None) = (self.macs, &self.counts, &self.masked) else { return None };
        let Self { revision, bytes, digest, .. } = *self;
        Some(Totals { revision, bytes, digest, sum, ..Totals::EMPTY })
    }
}

/// Whether the digest covers the record at `key`.
pub(super) fn is_covered(key: &[u8]) -> bool {
    key.first().and_then(|byte| Table::from_byte(*byte)).is_some_and(Table::covered)
}

pub(super) fn add(a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
    let mut sum = a;
    let mut carry = false;
    for (byte, other) in sum.iter_mut().zip(b).rev() {
        (*byte, carry) = byte.carrying_add(other, carry);
    }
    sum
}

fn negate(a: [u8; 32]) -> [u8; 32] {
    let mut one = [0; 32];
    one[31] = 1;
    add(a.map(|byte| !byte), one)
}

/// What the audit log and its checkpoints had, durably, when a change was made: neither may go back behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct LogState {
    /// Sequence number of the newest record; 0 for none.
    #[n(1)]
    pub sequence: u64,
    /// Chain hash of that record.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub chain: [u8; 32],
    /// Records that the newest checkpoint covers; 0 without one.
    #[n(3)]
    pub tree_size: u64,
    /// Root of the tree that it signs.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub tree_root: [u8; 32],
    /// Changes of which no record was durable yet, the oldest first; that of the entry itself is the last.
    #[n(5)]
    pub unrecorded: Vec<Intent>,
}

/// A change that is to be on record: what the record must say when the one that makes it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Intent {
    /// The revision that the change made.
    #[n(1)]
    pub revision: u64,
    /// The digest from then on.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub digest: [u8; 32],
    /// What was done, as the audit log says it.
    #[n(3)]
    pub operation: String,
    /// On what.
    #[n(4)]
    pub resource: String,
    /// Who asked for it; nobody for what the daemon does by itself.
    #[n(5)]
    pub principal: Option<String>,
    /// The user id of who asked.
    #[n(6)]
    pub uid: Option<u32>,
}

/// A place in a journal file, between two entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct JournalPoint {
    /// Which file: a compaction makes a new one.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub id: [u8; 16],
    /// Bytes before it.
    #[n(2)]
    pub offset: u64,
    /// MAC of the entry before it.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub head: [u8; 32],
}

/// The meta row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    /// The installation.
    pub deployment: DeploymentId,
    /// What the store holds.
    pub totals: Totals,
    /// Where the journal was when the store became so.
    pub journal: JournalPoint,
    /// What the audit log had then.
    pub log: LogState,
}

/// The meta row as it stands on disk.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
struct StoredMeta {
    #[n(1)]
    deployment: DeploymentId,
    #[n(2)]
    totals: StoredTotals,
    #[n(3)]
    journal: JournalPoint,
    // None in format 2.
    #[n(4)]
    log: Option<LogState>,
}

impl Meta {
    /// The row's key.
    pub(super) fn key() -> Vec<u8> {
        vec![Table::Meta.byte()]
    }

    /// The row's value: `MAC (32) | CBOR`.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub(super) fn seal(&self, keys: &StoreKeys) -> Result<Vec<u8>, StoreError> {
        let Self { deployment, totals, journal, log } = self;
        let totals = StoredTotals::of(totals, keys).map_err(|_| StoreError::Primitive("random numbers"))?;
        let (deployment, journal, log) = (*deployment, *journal, Some(log.clone()));
        let body = minicbor::to_vec(StoredMeta { deployment, totals, journal, log })
            .expect("encoding into memory cannot fail");
        Ok([keys.meta_mac(&body).as_slice(), &body].concat())
    }

    /// Reads a genuine row.
    ///
    /// # Errors
    /// [`StoreError::Tampered`], also for a row of before format 3: since then every row has what it lacks.
    pub(super) fn open(value: &[u8], keys: &StoreKeys) -> Result<Self, StoreError> {
        let StoredMeta { deployment, totals, journal, log } = StoredMeta::open(value, keys)?;
        let older = || StoreError::tampered(&Self::key(), "it is of an older format than the store");
        let totals = totals.open(Some(keys)).ok_or_else(older)?;
        Ok(Self { deployment, totals, journal, log: log.ok_or_else(older)? })
    }

    /// Reads a genuine row of format 2; `None` for a newer one.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when it is not genuine.
    pub(super) fn open_format_2(value: &[u8], keys: &StoreKeys) -> Result<Option<Self>, StoreError> {
        let StoredMeta { deployment, totals, journal, log } = StoredMeta::open(value, keys)?;
        let old = totals.open_format_2().filter(|_| log.is_none());
        Ok(old.map(|totals| Self { deployment, totals, journal, log: LogState::default() }))
    }

    /// Reads the row without its key: for exports and the very first look at a store. The sum of its totals is
    /// not known then, and of a row of format 2 their counts neither.
    pub(super) fn unauthenticated(value: &[u8]) -> Option<Self> {
        let StoredMeta { deployment, totals, journal, log } = minicbor::decode(value.get(32..)?).ok()?;
        let totals = totals.open(None).or_else(|| totals.open_format_2())?;
        Some(Self { deployment, totals, journal, log: log.unwrap_or_default() })
    }

    /// The row as it stands in a snapshot.
    pub(super) async fn entry(snapshot: &mut dyn Snapshot) -> Result<Option<Entry>, StoreError> {
        Ok(snapshot.get(&Self::key()).await?)
    }
}

impl StoredMeta {
    fn open(value: &[u8], keys: &StoreKeys) -> Result<Self, StoreError> {
        let forged = || StoreError::tampered(&Meta::key(), "its code does not match");
        let (mac, body) = value.split_first_chunk::<32>().ok_or_else(forged)?;
        if !bool::from(mac.ct_eq(&keys.meta_mac(body))) {
            return Err(forged());
        }
        minicbor::decode(body).map_err(|_| forged())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Key256;
    use proptest::prelude::*;

    fn keys(byte: u8) -> StoreKeys {
        StoreKeys::derive(&Key256::init_with(|key| key.fill(byte)))
    }

    fn value(mac: [u8; 32]) -> Vec<u8> {
        [&[1; 9], mac.as_slice()].concat()
    }

    proptest! {
        #[test]
        fn what_is_counted_in_and_out_leaves_nothing(macs in prop::collection::vec(any::<[u8; 32]>(), 1..10)) {
            let (mut totals, keys) = (Totals::EMPTY, keys(1));
            for mac in &macs {
                totals.add(b"\x03a\0", &value(*mac), &keys);
                totals.add(b"\x07a\0", &value(*mac), &keys);
            }
            prop_assert_eq!((totals.records(), totals.covered()), (2 * macs.len() as u64, macs.len() as u64));
            let mut reversed = Totals::EMPTY;
            for mac in macs.iter().rev() {
                reversed.add(b"\x07a\0", &value(*mac), &keys);
                reversed.add(b"\x03a\0", &value(*mac), &keys);
            }
            prop_assert_eq!(reversed, totals);
            for mac in &macs {
                totals.remove(b"\x03a\0", &value(*mac), &keys).unwrap();
                totals.remove(b"\x07a\0", &value(*mac), &keys).unwrap();
            }
            prop_assert_eq!(totals, Totals::EMPTY);
        }
    }

    #[test]
    fn sums_carry() {
        let low = |byte: u8| {
            let mut n = [0; 32];
            n[31] = byte;
            n
        };
        let mut expected = low(0x54);
        expected[30] = 1;
        assert_eq!(add(low(0xaa), low(0xaa)), expected);
        assert_eq!(add([0xff; 32], low(1)), [0; 32]);
        assert_eq!(Totals::EMPTY.clone().remove(b"\x03a\0", &value([0; 32]), &keys(1)), None);
    }

    #[test]
    fn sealed_rows_are_counted_by_their_generation() {
        let (keys, first) = (keys(1), crate::id::ErasureGeneration::FIRST);
        keys.erasure.add(first, Key256::init_with(|key| key.fill(2)));
        keys.erasure.seal_under(first);
        let second = first.next().unwrap();
        let (old, mut totals) = (keys.seal(b"\x07a\0", 1, b"wrapped").unwrap(), Totals::EMPTY);
        totals.add(b"\x07a\0", &old, &keys);
        totals.add(b"\x03a\0", &value([5; 32]), &keys);
        assert_eq!((totals.generations.before(first), totals.generations.before(second)), (0, 1));
        keys.erasure.add(second, Key256::init_with(|key| key.fill(3)));
        keys.erasure.seal_under(second);
        totals.remove(b"\x07a\0", &old, &keys).unwrap();
        totals.add(b"\x07a\0", &keys.seal(b"\x07a\0", 2, b"wrapped").unwrap(), &keys);
        assert_eq!(totals.generations.before(second), 0, "the first one is not needed any more");
        assert_eq!(totals.remove(b"\x07a\0", &old, &keys), None, "an old row that was put back is no reason");
        let stored = StoredTotals::of(&totals, &keys).unwrap();
        assert_eq!(stored.open(Some(&keys)), Some(totals));
        let without = StoredTotals { generations: None, ..stored };
        assert_eq!(without.open(Some(&keys)), None);
    }

    #[test]
    fn rows_of_two_versions_do_not_add_up_to_the_same_sum() {
        // By numbers that everybody can read, such rows can be looked for: here in 16 of their bits.
        const ROWS: usize = 16;
        let keys = keys(1);
        let versions =
            |row: usize| [0, 1].map(|version| keys.plain(&[7, row as u8, 0], version, &[row as u8]));
        let rows: Vec<[Vec<u8>; 2]> = (0..ROWS).map(versions).collect();
        let chosen = |choice: u32| (0..ROWS).map(move |row| (row, (choice >> row & 1) as usize));
        let readable = |choice: u32| {
            let macs = chosen(choice).map(|(row, version)| mac_of(&rows[row][version]));
            let sum = macs.fold([0; 32], add);
            [sum[30], sum[31]]
        };
        let mut seen = std::collections::HashMap::new();
        let twins = (0..1 << ROWS).find_map(|choice| Some((seen.insert(readable(choice), choice)?, choice)));
        let (one, other) = twins.expect("65 536 choices, and 65 536 sums of which not every one is met");
        assert_eq!(readable(one), readable(other), "the sum of format 2 would not tell them apart");
        let totals = |choice: u32| {
            let mut totals = Totals::EMPTY;
            chosen(choice).for_each(|(row, version)| {
                totals.add(&[7, row as u8, 0], &rows[row][version], &keys);
            });
            totals
        };
        let (one, other) = (totals(one), totals(other));
        assert_eq!((one.counts, one.bytes, one.digest), (other.counts, other.bytes, other.digest));
        assert_ne!(one.sum, other.sum);
        // Nobody can look for others of the same sum: an element needs the key, and no file has one or the sum.
        let forger = super::tests::keys(2);
        assert_ne!(forger.element(&mac_of(&rows[0][0])), keys.element(&mac_of(&rows[0][0])));
    }

    #[test]
    fn what_stands_in_the_file_says_nothing_of_the_sum() {
        let (keys, mut totals) = (keys(1), Totals::EMPTY);
        totals.add(b"\x07a\0", &value([3; 32]), &keys);
        assert_eq!(totals.sum, keys.element(&[3; 32]), "an element is no MAC that can be read in the file");
        assert_ne!(totals.sum, [3; 32]);
        let stored = |totals| StoredTotals::of(totals, &keys).unwrap();
        let (one, other) = (stored(&totals), stored(&totals));
        assert_ne!(one.masked, other.masked, "a nonce of its own each time");
        assert!([one.masked, other.masked].iter().flatten().all(|masked| masked[NONCE..] != totals.sum));
        assert_eq!((one.open(Some(&keys)), other.open(Some(&keys))), (Some(totals), Some(totals)));
        assert_ne!(one.open(Some(&super::tests::keys(2))), Some(totals));
    }

    #[test]
    fn a_row_of_format_2_is_read_for_a_migration_only() {
        let keys = keys(1);
        let old = StoredMeta {
            deployment: DeploymentId([3; 16]),
            totals: StoredTotals {
                revision: 4,
                bytes: 5,
                digest: [6; 32],
                macs: Some([7; 32]),
                counts: None,
                masked: None,
                generations: None,
            },
            journal: JournalPoint { id: [1; 16], offset: 88, head: [2; 32] },
            log: None,
        };
        let body = minicbor::to_vec(&old).unwrap();
        let row = [keys.meta_mac(&body).as_slice(), &body].concat();
        assert!(Meta::open(&row, &keys).unwrap_err().to_string().contains("older format"));
        let read = Meta::open_format_2(&row, &keys).unwrap().unwrap();
        assert_eq!((read.totals.revision, read.totals.sum), (4, [7; 32]));
        let new = Meta { log: LogState::default(), ..read }.seal(&keys).unwrap();
        assert_eq!(Meta::open_format_2(&new, &keys).unwrap(), None);
    }

    #[test]
    fn only_a_genuine_row_is_read() {
        let keys = keys(1);
        let journal = JournalPoint { id: [1; 16], offset: 88, head: [2; 32] };
        let mut totals = Totals { revision: 9, ..Totals::EMPTY };
        totals.add(b"\x03a\0", &value([5; 32]), &keys);
        let log = LogState { sequence: 8, chain: [4; 32], ..LogState::default() };
        let meta = Meta { deployment: DeploymentId([3; 16]), totals, journal, log };
        let value = meta.seal(&keys).unwrap();
        assert_eq!(Meta::open(&value, &keys).unwrap(), meta);
        let seen = Meta { totals: Totals { sum: [0; 32], ..totals }, ..meta };
        assert_eq!(Meta::unauthenticated(&value), Some(seen));
        for at in 0..value.len() {
            let mut bad = value.clone();
            bad[at] ^= 1;
            assert!(matches!(Meta::open(&bad, &keys), Err(StoreError::Tampered { .. })), "byte {at}");
        }
        assert!(Meta::open(&value, &super::tests::keys(2)).is_err());
        assert!(Meta::open(&[], &keys).is_err());
    }
}
