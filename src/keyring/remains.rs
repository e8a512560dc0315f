//! Tombstones: what is left of a destroyed key, and how to find out whether a
//! file still has it.

use std::collections::HashMap;

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use crate::clock::Date;
use crate::id::{Epoch, KekVersion};

/// Bytes of a stored record that are kept to find it by.
const TRACE: usize = 8;

/// What stands in place of a wrapped key that was destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Tombstone {
    /// When it was taken out of the records.
    #[n(1)]
    pub destroyed: Date,
    /// By which its wrapped bytes are recognised.
    #[n(2)]
    pub remains: Remains,
    /// On whose word: an operator, the scheduler, a ceremony.
    #[n(3)]
    pub authority: String,
    /// What was to be destroyed: the name of a tenant, key, version or KEK version.
    #[n(4)]
    pub target: String,
    /// The epoch of a DEK.
    #[n(5)]
    pub epoch: Option<Epoch>,
    /// The KEK version that sealed a DEK.
    #[n(6)]
    pub kek: Option<KekVersion>,
}

/// Recognises the stored record of a wrapped key without having it: the first 8 bytes to
/// find the place, which are of the code that authenticates it, and the SHA-256 of all of
/// it. Neither helps to open the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Remains {
    /// The first bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub trace: [u8; TRACE],
    /// How many there were.
    #[n(2)]
    pub length: u32,
    /// SHA-256 of all of them.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub fingerprint: [u8; 32],
}

impl Remains {
    /// Of a record with a wrapped key as it is stored: the code that authenticates it, and its payload.
    pub fn of(stored: &[u8]) -> Self {
        // The code alone is longer.
        let trace = stored.first_chunk().copied().unwrap_or_default();
        let length = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        Self { trace, length, fingerprint: Sha256::digest(stored).into() }
    }
}

/// Looks for destroyed keys in what was read of a file.
pub struct Search {
    by_trace: HashMap<[u8; TRACE], Vec<Remains>>,
    longest: usize,
}

impl Search {
    /// A search for these.
    pub fn new(all: impl IntoIterator<Item = Remains>) -> Self {
        let (mut by_trace, mut longest) = (HashMap::<_, Vec<_>>::new(), TRACE);
        for remains in all {
            longest = longest.max(remains.length as usize);
            by_trace.entry(remains.trace).or_default().push(remains);
        }
        Self { by_trace, longest }
    }

    /// By how many bytes two parts of a file must overlap so that nothing is missed between them.
    pub fn overlap(&self) -> usize {
        self.longest - 1
    }

    /// The destroyed keys whose wrapped bytes stand in `bytes`.
    pub fn find(&self, bytes: &[u8]) -> Vec<Remains> {
        let places = bytes.array_windows::<TRACE>().enumerate();
        let candidates = places.filter_map(|(at, trace)| Some((at, self.by_trace.get(trace)?)));
        candidates
            .flat_map(|(at, known)| known.iter().filter(move |remains| stands_at(remains, bytes, at)))
            .copied()
            .collect()
    }
}

fn stands_at(remains: &Remains, bytes: &[u8], at: usize) -> bool {
    let found = bytes.get(at..at.saturating_add(remains.length as usize));
    found.is_some_and(|found| <[u8; 32]>::from(Sha256::digest(found)) == remains.fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tombstone_is_not_what_it_buries() {
        let records: [Vec<u8>; 2] = [(0..90).collect(), (100..240).collect()];
        let all = records.each_ref().map(|record| Remains::of(record));
        let search = Search::new(all);
        assert_eq!(search.find(&minicbor::to_vec(all).unwrap()), []);
        assert_eq!(search.overlap(), 139);
        assert_eq!(search.find(&records.concat()), all);
    }

    proptest! {
        #[test]
        fn a_whole_copy_is_found_and_a_part_of_it_is_not(
            record in prop::collection::vec(any::<u8>(), 40..200),
            before in prop::collection::vec(any::<u8>(), 0..100),
            after in prop::collection::vec(any::<u8>(), 0..100),
            missing in 1usize..40,
        ) {
            let remains = Remains::of(&record);
            let search = Search::new([remains]);
            let file = [before.as_slice(), &record, &after].concat();
            prop_assert_eq!(search.find(&file), [remains]);
            let cut = [before.as_slice(), &record[..record.len() - missing]].concat();
            prop_assert_eq!(search.find(&cut), []);
        }
    }
}
