//! The Merkle tree hash of RFC 6962, section 2.1.

use sha2::{Digest, Sha256};

use super::ItemDigest;

/// One level for each bit of a count.
const LEVELS: usize = usize::BITS as usize;

/// The Merkle tree hash over the digests of a record's items, in order. For
/// no items it is SHA-256 of the empty string.
pub fn root(digests: &[ItemDigest]) -> [u8; 32] {
    match digests {
        [one] => leaf(&one.0),
        many => tree(many.iter().map(|digest| digest.0.as_slice())),
    }
}

/// Keeps one hash for each perfect subtree on the left edge, so it needs
/// neither the leaves again nor an allocation.
fn tree<'a>(leaves: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut subtrees = [[0; 32]; LEVELS];
    let mut height = 0;
    for (index, bytes) in leaves.enumerate() {
        let mut hash = leaf(bytes);
        // Each trailing one of the index is a subtree that this leaf completes.
        for _ in 0..index.trailing_ones() {
            height -= 1;
            hash = node(&subtrees[height], &hash);
        }
        subtrees[height] = hash;
        height += 1;
    }
    let joined = subtrees[..height].iter().copied().rev().reduce(|right, left| node(&left, &right));
    joined.unwrap_or_else(|| Sha256::digest([]).into())
}

fn leaf(bytes: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The leaves and roots of the Certificate Transparency reference tests.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
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

    /// MTH as RFC 6962 defines it.
    fn definition(leaves: &[ItemDigest]) -> [u8; 32] {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => leaf(&one.0),
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
            prop_assert_eq!(root(&digests), definition(&digests));
        }
    }
}
