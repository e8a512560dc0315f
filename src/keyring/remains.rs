//! Tombstones: what is left of a destroyed key, and how to find out whether a
//! file still has it.

use std::collections::HashMap;

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use super::wrapped::{SealedKey, WrappedKek};
use crate::clock::Date;
use crate::id::Epoch;

/// Bytes of a wrapped key that are kept to find it by.
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
}

/// Recognises the wrapped bytes of a key without having them: the first 8 bytes to
/// find the place, and the SHA-256 of all of them. Neither helps to open the key:
/// of 40 or 48 bytes of ciphertext, 32 are missing.
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
    /// Of the ciphertext and tag of a sealed key: 48 bytes.
    pub fn of_sealed(sealed: &SealedKey) -> Self {
        Self::of(&sealed.ciphertext)
    }

    /// Of a wrapped KEK: 40 bytes.
    pub fn of_kek(wrapped: &WrappedKek) -> Self {
        Self::of(&wrapped.bytes)
    }

    fn of(bytes: &[u8]) -> Self {
        // Longer than 8 bytes, each of them.
        let trace = bytes.first_chunk().copied().unwrap_or_default();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self { trace, length, fingerprint: Sha256::digest(bytes).into() }
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
    use crate::keyring::wrapped::{SealMechanism, WrapMechanism};
    use proptest::prelude::*;

    fn sealed(ciphertext: [u8; 48]) -> SealedKey {
        SealedKey { mechanism: SealMechanism::AesGcm, iv: [9; 12], ciphertext, check: None }
    }

    #[test]
    fn a_tombstone_is_not_what_it_buries() {
        let key = sealed(std::array::from_fn(|at| at as u8));
        let kek = WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes: (100..140).collect() };
        let all = [Remains::of_sealed(&key), Remains::of_kek(&kek)];
        let tombstone = minicbor::to_vec(all).unwrap();
        let search = Search::new(all);
        assert_eq!(search.find(&tombstone), []);
        assert_eq!(search.overlap(), 47);
        let records = [minicbor::to_vec(&key).unwrap(), minicbor::to_vec(&kek).unwrap()].concat();
        assert_eq!(search.find(&records), all);
    }

    proptest! {
        #[test]
        fn a_whole_copy_is_found_and_a_part_of_it_is_not(
            ciphertext in any::<[u8; 48]>(),
            before in prop::collection::vec(any::<u8>(), 0..100),
            after in prop::collection::vec(any::<u8>(), 0..100),
            missing in 1usize..48,
        ) {
            let remains = Remains::of_sealed(&sealed(ciphertext));
            let search = Search::new([remains]);
            let file = [before.as_slice(), &ciphertext, &after].concat();
            prop_assert_eq!(search.find(&file), [remains]);
            let cut = [before.as_slice(), &ciphertext[..48 - missing]].concat();
            prop_assert_eq!(search.find(&cut), []);
        }
    }
}
