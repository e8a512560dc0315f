//! The Merkle tree hash of RFC 6962, section 2.1: over the items of a record,
//! and over the records of the log.

use sha2::{Digest, Sha256};

use super::ItemDigest;

/// The hash of a leaf, of a subtree, or of a whole tree.
pub type Hash = [u8; 32];

/// One level for each bit of a count.
const LEVELS: usize = u64::BITS as usize;

/// The Merkle tree hash over the digests of a record's items, in order. For
/// no items it is SHA-256 of the empty string.
pub fn root(digests: &[ItemDigest]) -> Hash {
    match digests {
        [one] => leaf(&one.0),
        many => tree(many.iter().map(|digest| digest.0.as_slice())),
    }
}

fn tree<'a>(leaves: impl Iterator<Item = &'a [u8]>) -> Hash {
    let mut frontier = Frontier::default();
    leaves.for_each(|bytes| frontier.push(leaf(bytes), |_, _| ()));
    frontier.root()
}

/// A tree that only grows: one hash for each perfect subtree on its left edge,
/// so it needs neither the leaves again nor an allocation.
#[derive(Debug, Clone)]
pub struct Frontier {
    /// The largest subtree first: one for each bit of `count`.
    subtrees: [Hash; LEVELS],
    count: u64,
}

impl Default for Frontier {
    fn default() -> Self {
        Self { subtrees: [[0; 32]; LEVELS], count: 0 }
    }
}

impl Frontier {
    /// A tree of `count` leaves, from its perfect subtrees, the largest first;
    /// `None` unless there is one for each bit of `count`.
    pub fn of(count: u64, hashes: &[Hash]) -> Option<Self> {
        let mut frontier = Self { count, ..Self::default() };
        let fits = u32::try_from(hashes.len()) == Ok(count.count_ones());
        fits.then(|| {
            frontier.subtrees[..hashes.len()].copy_from_slice(hashes);
            frontier
        })
    }

    /// Appends a leaf by its hash. Tells each subtree that it completes, itself
    /// first: height (0 for a leaf) and hash.
    pub fn push(&mut self, leaf: Hash, mut completed: impl FnMut(u32, &Hash)) {
        let mut hash = leaf;
        let mut height = 0;
        let mut top = self.held();
        completed(height, &hash);
        // Each trailing one of the count is a subtree that this leaf completes.
        for _ in 0..self.count.trailing_ones() {
            top -= 1;
            hash = node(&self.subtrees[top], &hash);
            height += 1;
            completed(height, &hash);
        }
        self.subtrees[top] = hash;
        self.count += 1;
    }

    /// How many leaves it has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Its hash.
    pub fn root(&self) -> Hash {
        let joined =
            self.subtrees[..self.held()].iter().copied().rev().reduce(|right, left| node(&left, &right));
        joined.unwrap_or_else(empty)
    }

    fn held(&self) -> usize {
        self.count.count_ones() as usize
    }
}

/// The hash of a tree without leaves.
pub fn empty() -> Hash {
    Sha256::digest([]).into()
}

/// The hash of a leaf: SHA-256(0x00 | bytes).
pub fn leaf(bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}

/// The hash over two subtrees: SHA-256(0x01 | left | right).
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The leaves and roots of the Certificate Transparency reference tests.
    pub(in crate::audit) const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    pub(in crate::audit) const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn certificate_transparency_vectors() {
        let leaves: Vec<Vec<u8>> = LEAVES.iter().map(|leaf| hex::decode(leaf).unwrap()).collect();
        for (count, root) in ROOTS.iter().enumerate() {
            assert_eq!(hex::encode(tree(leaves[..count].iter().map(Vec::as_slice))), *root, "{count} leaves");
        }
    }

    /// MTH as RFC 6962 defines it, over the hashes of leaves.
    pub(in crate::audit) fn definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty(),
            [one] => *one,
            many => {
                let split = many.len().next_power_of_two() / 2;
                node(&definition(&many[..split]), &definition(&many[split..]))
            }
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition(leaves in prop::collection::vec(any::<[u8; 32]>(), 0..70)) {
            let digests: Vec<ItemDigest> = leaves.into_iter().map(ItemDigest).collect();
            let hashes: Vec<Hash> = digests.iter().map(|digest| leaf(&digest.0)).collect();
            prop_assert_eq!(root(&digests), definition(&hashes));
        }

        #[test]
        fn a_tree_tells_every_perfect_subtree_once(count in 0u64..300) {
            let hashes: Vec<Hash> = (0..count).map(|number| leaf(&number.to_be_bytes())).collect();
            let (mut frontier, mut told) = (Frontier::default(), Vec::new());
            for hash in &hashes {
                frontier.push(*hash, |height, hash| told.push((height, *hash)));
            }
            for height in 0..10u32 {
                let subtrees: Vec<Hash> =
                    told.iter().filter(|(at, _)| *at == height).map(|(_, hash)| *hash).collect();
                let expected: Vec<Hash> = hashes.chunks_exact(1 << height).map(definition).collect();
                prop_assert_eq!(subtrees, expected);
            }
            prop_assert_eq!(frontier.root(), definition(&hashes));
            let again = Frontier::of(count, &frontier.subtrees[..frontier.held()]).unwrap();
            prop_assert_eq!(again.root(), frontier.root());
        }
    }
}
