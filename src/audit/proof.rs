//! Proofs over the tree of all records: that a record is in it, and that one
//! tree is the beginning of another (RFC 6962, section 2.1; verification as in
//! RFC 9162, sections 2.1.3.2 and 2.1.4.2). Pure: hashes in, hashes out.

use super::merkle::{self, Hash, node};

/// Where the hashes of perfect subtrees come from.
pub trait Subtrees {
    /// Why a hash cannot be had.
    type Error;

    /// The hash over the 2^`height` leaves from `index` · 2^`height` on.
    ///
    /// # Errors
    /// When it cannot be had.
    fn subtree(&self, height: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// The largest power of two that is smaller than `count`, which is over 1.
fn split(count: u64) -> u64 {
    1 << (u64::BITS - 1 - (count - 1).leading_zeros())
}

/// MTH(D[from..to]); `from` is a multiple of a power of two that is not smaller than the span.
fn hash<S: Subtrees>(source: &S, from: u64, to: u64) -> Result<Hash, S::Error> {
    let count = to - from;
    if count.is_power_of_two() {
        let height = count.trailing_zeros();
        return source.subtree(height, from >> height);
    }
    let middle = from + split(count);
    Ok(node(&hash(source, from, middle)?, &hash(source, middle, to)?))
}

/// The hash of the tree of the first `size` leaves.
///
/// # Errors
/// When `source` lacks a hash.
pub fn root<S: Subtrees>(source: &S, size: u64) -> Result<Hash, S::Error> {
    if size == 0 { Ok(merkle::empty()) } else { hash(source, 0, size) }
}

/// The perfect subtrees on the left edge of a tree, the largest first.
///
/// # Errors
/// When `source` lacks a hash.
pub fn edge<S: Subtrees>(source: &S, size: u64) -> Result<Vec<Hash>, S::Error> {
    let heights = (0..u64::BITS).rev().filter(|height| size >> height & 1 == 1);
    // What stands left of a subtree has all the higher bits of the size.
    heights.map(|height| source.subtree(height, (size >> height) - 1)).collect()
}

/// The audit path of leaf `index` in the tree of `size` leaves, from the leaf up; `index < size`.
///
/// # Errors
/// When `source` lacks a hash.
pub fn inclusion<S: Subtrees>(source: &S, index: u64, size: u64) -> Result<Vec<Hash>, S::Error> {
    let (mut from, mut to, mut path) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(hash(source, middle, to)?);
            to = middle;
        } else {
            path.push(hash(source, from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of `old` leaves is the beginning of the one of `new`; `old <= new`.
///
/// # Errors
/// When `source` lacks a hash.
pub fn consistency<S: Subtrees>(source: &S, old: u64, new: u64) -> Result<Vec<Hash>, S::Error> {
    let (mut from, mut to, mut path) = (0, new, Vec::new());
    if old == 0 || old == new {
        return Ok(path);
    }
    while to != old {
        let middle = from + split(to - from);
        if old <= middle {
            path.push(hash(source, middle, to)?);
            to = middle;
        } else {
            path.push(hash(source, from, middle)?);
            from = middle;
        }
    }
    if from > 0 {
        path.push(hash(source, from, to)?);
    }
    path.reverse();
    Ok(path)
}

/// Whether `path` shows that leaf `index` has the hash `leaf` in a tree of `size` leaves with this root.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    let (mut at, mut last, mut hash) = (index, size.wrapping_sub(1), *leaf);
    if index >= size {
        return false;
    }
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            // A subtree without a right sibling rises until it is one.
            let risen = if at & 1 == 0 { at.trailing_zeros().min(u64::BITS - 1) } else { 0 };
            (at, last) = (at >> risen, last >> risen);
        } else {
            hash = node(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether `path` shows that the tree of `old` leaves with root `old_root` is
/// the beginning of the tree of `new` leaves with root `new_root`.
pub fn verify_consistency(old: u64, new: u64, path: &[Hash], old_root: &Hash, new_root: &Hash) -> bool {
    match (old, path) {
        _ if old > new => false,
        (0, []) => *old_root == merkle::empty(),
        _ if old == new => path.is_empty() && old_root == new_root,
        // A whole subtree stands for itself and is left out of the path.
        (size, path) if size.is_power_of_two() => climb(old, new, old_root, path, old_root, new_root),
        (_, [first, rest @ ..]) => climb(old, new, first, rest, old_root, new_root),
        _ => false,
    }
}

/// RFC 9162, section 2.1.4.2, from step 3 on.
fn climb(old: u64, new: u64, first: &Hash, path: &[Hash], old_root: &Hash, new_root: &Hash) -> bool {
    let ones = (old - 1).trailing_ones();
    let (mut at, mut last) = ((old - 1) >> ones, (new - 1) >> ones);
    let (mut left, mut all) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            left = node(sibling, &left);
            all = node(sibling, &all);
            let risen = if at & 1 == 0 { at.trailing_zeros().min(u64::BITS - 1) } else { 0 };
            (at, last) = (at >> risen, last >> risen);
        } else {
            all = node(&all, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && left == *old_root && all == *new_root
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::super::merkle::tests::{LEAVES, ROOTS, definition};
    use super::*;

    /// Every leaf in memory; subtrees by the definition.
    struct Memory(Vec<Hash>);

    impl Subtrees for Memory {
        type Error = Infallible;

        fn subtree(&self, height: u32, index: u64) -> Result<Hash, Infallible> {
            let (from, count) = (usize::try_from(index << height).unwrap(), 1 << height);
            Ok(definition(&self.0[from..from + count]))
        }
    }

    impl Memory {
        fn root(&self, size: u64) -> Hash {
            root(self, size).unwrap()
        }
    }

    fn numbered(count: u64) -> Memory {
        Memory((0..count).map(|number| merkle::leaf(&number.to_be_bytes())).collect())
    }

    /// PATH as RFC 6962 defines it.
    fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() <= 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        let (mut below, sibling) = match index.checked_sub(left.len()) {
            None => (path(index, left), definition(right)),
            Some(index) => (path(index, right), definition(left)),
        };
        below.push(sibling);
        below
    }

    /// SUBPROOF as RFC 6962 defines it.
    fn subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if old == leaves.len() {
            return if whole { Vec::new() } else { vec![definition(leaves)] };
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        let (mut below, sibling) = match old <= left.len() {
            true => (subproof(old, left, whole), definition(right)),
            false => (subproof(old - left.len(), right, false), definition(left)),
        };
        below.push(sibling);
        below
    }

    /// The reference vectors of Certificate Transparency (certificate-transparency, merkle_tree_test.cc).
    #[test]
    fn certificate_transparency_vectors() {
        let tree = Memory(LEAVES.iter().map(|leaf| merkle::leaf(&hex::decode(leaf).unwrap())).collect());
        let hashes = |proof: Vec<Hash>| proof.iter().map(hex::encode).collect::<Vec<_>>();
        for (size, root) in (0..).zip(ROOTS) {
            assert_eq!(hex::encode(tree.root(size)), root);
        }
        assert_eq!(
            hashes(inclusion(&tree, 0, 8).unwrap()),
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
            ]
        );
        assert_eq!(
            hashes(inclusion(&tree, 5, 8).unwrap()),
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
            ]
        );
        assert_eq!(
            hashes(consistency(&tree, 6, 8).unwrap()),
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
            ]
        );
    }

    #[test]
    fn every_proof_in_small_trees_is_the_defined_one_and_verifies() {
        for size in 1..40 {
            let tree = numbered(size);
            for index in 0..size {
                let proof = inclusion(&tree, index, size).unwrap();
                assert_eq!(proof, path(usize::try_from(index).unwrap(), &tree.0));
                let leaf = &tree.0[usize::try_from(index).unwrap()];
                assert!(verify_inclusion(leaf, index, size, &proof, &tree.root(size)), "{index} of {size}");
            }
            for old in 1..=size {
                let proof = consistency(&tree, old, size).unwrap();
                assert_eq!(proof, subproof(usize::try_from(old).unwrap(), &tree.0, true));
                assert!(verify_consistency(old, size, &proof, &tree.root(old), &tree.root(size)));
            }
            assert_eq!(
                merkle::Frontier::of(size, &edge(&tree, size).unwrap()).unwrap().root(),
                tree.root(size)
            );
        }
    }

    proptest! {
        #[test]
        fn an_altered_inclusion_proof_is_refused(
            size in 1u64..200, index in any::<u64>(), at in any::<usize>(), bit in 0usize..256, other in any::<u64>(),
        ) {
            let (tree, index) = (numbered(size), index % size);
            let leaf = tree.0[usize::try_from(index).unwrap()];
            let (proof, root) = (inclusion(&tree, index, size).unwrap(), tree.root(size));
            let flipped = |hash: Hash| {
                let mut hash = hash;
                hash[bit / 8] ^= 1 << (bit % 8);
                hash
            };
            prop_assert!(!verify_inclusion(&flipped(leaf), index, size, &proof, &root));
            prop_assert!(!verify_inclusion(&leaf, index, size, &proof, &flipped(root)));
            prop_assert!(other % size == index || !verify_inclusion(&leaf, other % size, size, &proof, &root));
            prop_assert!(!verify_inclusion(&leaf, size + other % size, size, &proof, &root));
            let longer = [proof.clone(), vec![leaf]].concat();
            prop_assert!(!verify_inclusion(&leaf, index, size, &longer, &root));
            if !proof.is_empty() {
                let mut wrong = proof.clone();
                let at = at % wrong.len();
                wrong[at] = flipped(wrong[at]);
                prop_assert!(!verify_inclusion(&leaf, index, size, &wrong, &root));
                prop_assert!(!verify_inclusion(&leaf, index, size, &proof[1..], &root));
            }
        }

        #[test]
        fn an_altered_consistency_proof_is_refused(
            new in 2u64..200, old in any::<u64>(), at in any::<usize>(), bit in 0usize..256,
        ) {
            let (tree, old) = (numbered(new), 1 + old % (new - 1));
            let (mut proof, before, after) = (consistency(&tree, old, new).unwrap(), tree.root(old), tree.root(new));
            prop_assert!(verify_consistency(old, new, &proof, &before, &after));
            prop_assert!(!verify_consistency(old, new, &proof, &after, &after));
            prop_assert!(!verify_consistency(old, new, &proof, &before, &before));
            prop_assert!(!verify_consistency(new, old, &proof, &before, &after));
            prop_assert!(!verify_consistency(old, new, &proof[1..], &before, &after));
            let at = at % proof.len();
            proof[at][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verify_consistency(old, new, &proof, &before, &after));
        }

        #[test]
        fn no_proof_panics(
            leaf in any::<Hash>(), index in any::<u64>(), size in any::<u64>(),
            path in prop::collection::vec(any::<Hash>(), 0..70),
        ) {
            prop_assert!(!verify_inclusion(&leaf, index, size, &path, &[1; 32]));
            prop_assert!(!verify_consistency(index, size, &path, &leaf, &[1; 32]));
        }
    }
}
