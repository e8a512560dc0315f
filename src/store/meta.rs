//! The meta row: what the store holds at its revision, in one authenticated row.

use minicbor::{Decode, Encode};
use subtle::ConstantTimeEq;

use super::error::StoreError;
use super::kv::{Entry, Snapshot};
use super::mac::{StoreKeys, mac_of};
use super::tables::Table;
use crate::id::DeploymentId;

/// What a change did to the store: its revision and the digest from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreChange {
    /// The revision that it made.
    pub revision: u64,
    /// The authority digest at that revision.
    pub digest: [u8; 32],
}

/// What the store holds at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Totals {
    /// Changes since the store was made.
    #[n(1)]
    pub revision: u64,
    /// Records.
    #[n(2)]
    pub records: u64,
    /// Records that the digest covers.
    #[n(3)]
    pub covered: u64,
    /// Bytes of their keys and stored values.
    #[n(4)]
    pub bytes: u64,
    /// Root of the digest's hash tree.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub digest: [u8; 32],
    /// Sum of the MACs of all records, as big-endian numbers modulo 2^256: says
    /// after a full scan that no record, covered or not, is lost, old or foreign.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub sum: [u8; 32],
}

impl Totals {
    /// A store without records.
    pub(super) const EMPTY: Self =
        Self { revision: 0, records: 0, covered: 0, bytes: 0, digest: [0; 32], sum: [0; 32] };

    /// Counts a stored record in.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        self.covered += u64::from(is_covered(key));
        self.bytes += (key.len() + value.len()) as u64;
        self.sum = add(self.sum, mac_of(value));
    }

    /// Counts a stored record out; `None` when it cannot have been counted in.
    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.records = self.records.checked_sub(1)?;
        self.covered = self.covered.checked_sub(u64::from(is_covered(key)))?;
        self.bytes = self.bytes.checked_sub((key.len() + value.len()) as u64)?;
        self.sum = add(self.sum, negate(mac_of(value)));
        Some(())
    }

    /// Revision and digest.
    pub(super) fn change(&self) -> StoreChange {
        StoreChange { revision: self.revision, digest: self.digest }
    }
}

/// Whether the digest covers the record at `key`.
pub(super) fn is_covered(key: &[u8]) -> bool {
    key.first().and_then(|byte| Table::from_byte(*byte)).is_some_and(Table::covered)
}

fn add(a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Meta {
    /// The installation.
    #[n(1)]
    pub deployment: DeploymentId,
    /// What the store holds.
    #[n(2)]
    pub totals: Totals,
    /// Where the journal was when the store became so.
    #[n(3)]
    pub journal: JournalPoint,
}

impl Meta {
    /// The row's key.
    pub(super) fn key() -> Vec<u8> {
        vec![Table::Meta.byte()]
    }

    /// The row's value: `MAC (32) | CBOR`.
    pub(super) fn seal(&self, keys: &StoreKeys) -> Vec<u8> {
        let body = minicbor::to_vec(self).expect("encoding into memory cannot fail");
        [keys.meta_mac(&body).as_slice(), &body].concat()
    }

    /// Reads a genuine row.
    pub(super) fn open(value: &[u8], keys: &StoreKeys) -> Result<Self, StoreError> {
        let forged = || StoreError::tampered(&Self::key(), "its code does not match");
        let (mac, body) = value.split_first_chunk::<32>().ok_or_else(forged)?;
        if !bool::from(mac.ct_eq(&keys.meta_mac(body))) {
            return Err(forged());
        }
        minicbor::decode(body).map_err(|_| forged())
    }

    /// Reads the row without its key: for exports and the very first look at a store.
    pub(super) fn unauthenticated(value: &[u8]) -> Option<Self> {
        minicbor::decode(value.get(32..)?).ok()
    }

    /// The row as it stands in a snapshot.
    pub(super) async fn entry(snapshot: &mut dyn Snapshot) -> Result<Option<Entry>, StoreError> {
        Ok(snapshot.get(&Self::key()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Key256;
    use proptest::prelude::*;

    fn value(mac: [u8; 32]) -> Vec<u8> {
        [&[1; 9], mac.as_slice()].concat()
    }

    proptest! {
        #[test]
        fn what_is_counted_in_and_out_leaves_nothing(macs in prop::collection::vec(any::<[u8; 32]>(), 1..10)) {
            let mut totals = Totals::EMPTY;
            for mac in &macs {
                totals.add(b"\x03a\0", &value(*mac));
            }
            prop_assert_eq!((totals.records, totals.covered), (macs.len() as u64, macs.len() as u64));
            let mut reversed = Totals::EMPTY;
            for mac in macs.iter().rev() {
                reversed.add(b"\x03a\0", &value(*mac));
                totals.remove(b"\x03a\0", &value(*mac)).unwrap();
            }
            prop_assert_eq!(totals, Totals::EMPTY);
            prop_assert!(reversed.sum != [0; 32] || macs.iter().all(|mac| *mac == [0; 32]));
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
        assert_eq!(Totals::EMPTY.clone().remove(b"\x03a\0", &value([0; 32])), None);
    }

    #[test]
    fn only_a_genuine_row_is_read() {
        let keys = StoreKeys::derive(&Key256::init_with(|key| key.fill(1)));
        let journal = JournalPoint { id: [1; 16], offset: 88, head: [2; 32] };
        let meta = Meta { deployment: DeploymentId([3; 16]), totals: Totals::EMPTY, journal };
        let value = meta.seal(&keys);
        assert_eq!(Meta::open(&value, &keys).unwrap(), meta);
        assert_eq!(Meta::unauthenticated(&value), Some(meta));
        for at in 0..value.len() {
            let mut bad = value.clone();
            bad[at] ^= 1;
            assert!(matches!(Meta::open(&bad, &keys), Err(StoreError::Tampered { .. })), "byte {at}");
        }
        let other = StoreKeys::derive(&Key256::init_with(|key| key.fill(2)));
        assert!(Meta::open(&value, &other).is_err());
        assert!(Meta::open(&[], &keys).is_err());
    }
}
