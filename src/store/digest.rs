//! The authority digest: a hash tree over the covered records.
//!
//! ```text
//! key hash  = SHA-256(key), its first 16 bytes; the first 2 bytes choose the leaf
//! row hash  = SHA-256("keyward/1/store/row" | lp32(key) | stored value)
//! leaf      = (key hash | row hash)…, sorted                   level 4, 65 536 of them
//! inner     = 16 hashes of the nodes below                     levels 0 to 3
//! node hash = SHA-256("keyward/1/store/node" | u8 level | u16 index | node)
//! ```
//!
//! A node without anything below it is not stored and counts as 32 zero bytes.
//! So the root is a function of the covered records and of nothing else.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::kv::Write;
use super::mac::lp32;
use super::tables::Table;

/// A hash in the tree.
pub(super) type Hash = [u8; 32];

/// Stands for a node that is not there.
pub(super) const NONE: Hash = [0; 32];

const LEAF_LEVEL: u8 = 4;
const KEY_HASH: usize = 16;
const LEAF_ENTRY: usize = KEY_HASH + 32;
const CHILDREN: usize = 16;

/// Where a record stands in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place([u8; KEY_HASH]);

impl Place {
    /// The place of the record with this key.
    pub(super) fn of(key: &[u8]) -> Self {
        let hash: Hash = Sha256::digest(key).into();
        let (place, _) = hash.split_first_chunk().expect("32 bytes begin with 16");
        Self(*place)
    }

    /// The nodes from the root down to its leaf.
    pub(super) fn nodes(self) -> [NodeId; LEAF_LEVEL as usize + 1] {
        let bucket = u16::from_be_bytes([self.0[0], self.0[1]]);
        std::array::from_fn(|level| NodeId {
            level: level as u8,
            index: u16::try_from(u32::from(bucket) >> (16 - 4 * level)).unwrap_or_default(),
        })
    }

    fn leaf(self) -> NodeId {
        let [.., leaf] = self.nodes();
        leaf
    }
}

/// The hash of a covered record.
pub(super) fn row_hash(key: &[u8], value: &[u8]) -> Hash {
    let hash = Sha256::new_with_prefix(b"keyward/1/store/row");
    hash.chain_update(lp32(key)).chain_update(key).chain_update(value).finalize().into()
}

/// A covered record as it stands in its leaf.
pub(super) type LeafEntry = [u8; LEAF_ENTRY];

/// The entry of a covered record.
pub(super) fn leaf_entry(key: &[u8], value: &[u8]) -> LeafEntry {
    let mut entry = [0; LEAF_ENTRY];
    let (place, row) = entry.split_at_mut(KEY_HASH);
    place.copy_from_slice(&Place::of(key).0);
    row.copy_from_slice(&row_hash(key, value));
    entry
}

/// Names one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId {
    level: u8,
    index: u16,
}

impl NodeId {
    /// The key of its row: `table | u8 level | u16 index`.
    pub(super) fn key(self) -> Vec<u8> {
        let [high, low] = self.index.to_be_bytes();
        vec![Table::Digest.byte(), self.level, high, low]
    }

    fn parse(key: &[u8]) -> Option<Self> {
        match *key {
            [table, level @ ..=LEAF_LEVEL, high, low] if table == Table::Digest.byte() => {
                Some(Self { level, index: u16::from_be_bytes([high, low]) })
            }
            _ => None,
        }
    }

    fn parent(self) -> Option<(Self, usize)> {
        let level = self.level.checked_sub(1)?;
        Some((Self { level, index: self.index / 16 }, usize::from(self.index % 16)))
    }

    fn hash(self, node: &[u8]) -> Hash {
        if node.is_empty() {
            return NONE;
        }
        let hash = Sha256::new_with_prefix(b"keyward/1/store/node");
        hash.chain_update([self.level])
            .chain_update(self.index.to_be_bytes())
            .chain_update(node)
            .finalize()
            .into()
    }
}

/// A node's bytes are not those that its parent stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forged;

/// The part of the tree that was read and verified, and its changes.
pub(super) struct Tree {
    root: Hash,
    // Only verified nodes; an absent one has no bytes.
    nodes: BTreeMap<NodeId, Vec<u8>>,
    changed: BTreeSet<NodeId>,
}

impl Tree {
    /// A tree of which only the root hash is known.
    pub(super) fn new(root: Hash) -> Self {
        Self { root, nodes: BTreeMap::new(), changed: BTreeSet::new() }
    }

    /// The nodes still to be read before these places can be looked at, parents first.
    pub(super) fn missing(&self, places: impl IntoIterator<Item = Place>) -> Vec<NodeId> {
        let wanted: BTreeSet<NodeId> = places.into_iter().flat_map(Place::nodes).collect();
        wanted.into_iter().filter(|id| !self.nodes.contains_key(id)).collect()
    }

    /// Takes a node that was read. Its parent must be here already.
    pub(super) fn add(&mut self, id: NodeId, node: Option<Vec<u8>>) -> Result<(), Forged> {
        let node = node.unwrap_or_default();
        if id.hash(&node) != self.expected(id) {
            return Err(Forged);
        }
        self.nodes.insert(id, node);
        Ok(())
    }

    fn expected(&self, id: NodeId) -> Hash {
        let Some((parent, slot)) = id.parent() else { return self.root };
        let children = self.nodes.get(&parent).map_or(&[][..], Vec::as_slice).as_chunks().0;
        children.get(slot).copied().unwrap_or(NONE)
    }

    /// The hash of the record that belongs at `place`.
    pub(super) fn find(&self, place: Place) -> Option<Hash> {
        let leaf = self.nodes.get(&place.leaf())?;
        let entries = leaf.as_chunks::<LEAF_ENTRY>().0;
        let at = entries.binary_search_by(|entry| entry[..KEY_HASH].cmp(&place.0)).ok()?;
        entries[at].last_chunk().copied()
    }

    /// Puts the hash of a record in its place, or takes it away.
    pub(super) fn set(&mut self, place: Place, row: Option<Hash>) {
        let id = place.leaf();
        let leaf = self.nodes.entry(id).or_default();
        let search =
            leaf.as_chunks::<LEAF_ENTRY>().0.binary_search_by(|entry| entry[..KEY_HASH].cmp(&place.0));
        let (at, old) = match search {
            Ok(at) => (at * LEAF_ENTRY, LEAF_ENTRY),
            Err(at) => (at * LEAF_ENTRY, 0),
        };
        let new = row.map(|row| [place.0.as_slice(), &row].concat()).unwrap_or_default();
        leaf.splice(at..at + old, new);
        self.changed.insert(id);
    }

    /// The new root, and the rows of the nodes that changed, in falling order of their keys.
    pub(super) fn finish(mut self) -> (Hash, Vec<Write>) {
        let mut rows = Vec::new();
        // Names sort by level, so the last one is always among the lowest.
        while let Some(id) = self.changed.pop_last() {
            let node = self.nodes.remove(&id).unwrap_or_default();
            let hash = id.hash(&node);
            match id.parent() {
                Some((parent, slot)) => self.put_child(parent, slot, hash),
                None => self.root = hash,
            }
            rows.push(Write { key: id.key(), value: Some(node).filter(|node| !node.is_empty()) });
        }
        (self.root, rows)
    }

    fn put_child(&mut self, parent: NodeId, slot: usize, hash: Hash) {
        let node = self.nodes.entry(parent).or_default();
        node.resize(CHILDREN * hash.len(), 0);
        if let Some(child) = node.as_chunks_mut().0.get_mut(slot) {
            *child = hash;
        }
        if node.iter().all(|byte| *byte == 0) {
            node.clear();
        }
        self.changed.insert(parent);
    }
}

/// Verifies the stored nodes of a whole tree one after the other, in the order of their keys. It holds the nodes
/// above the leaves, 2.2 MB at most, however many records there are.
pub(super) struct Walk {
    // Verified nodes above the leaves.
    tree: Tree,
    last: Option<NodeId>,
    // Nodes that a verified one names and that have not come yet.
    awaited: u64,
}

impl Walk {
    /// Begins a walk through the tree with this root.
    pub(super) fn new(root: Hash) -> Self {
        Self { tree: Tree::new(root), last: None, awaited: u64::from(root != NONE) }
    }

    /// Takes the next node; answers the records in it when it is a leaf.
    pub(super) fn take<'a>(&mut self, key: &[u8], node: &'a [u8]) -> Result<&'a [LeafEntry], Forged> {
        let id = NodeId::parse(key).filter(|id| self.last.is_none_or(|last| last < *id)).ok_or(Forged)?;
        self.last = Some(id);
        // Nobody awaits a node that its parent does not name: its hash would be NONE.
        if node.is_empty() || id.hash(node) != self.tree.expected(id) {
            return Err(Forged);
        }
        self.awaited = self.awaited.saturating_sub(1);
        if id.level == LEAF_LEVEL {
            return Ok(node.as_chunks().0);
        }
        let children = node.as_chunks::<{ NONE.len() }>().0.iter().filter(|hash| **hash != NONE);
        self.awaited += children.count() as u64;
        self.tree.nodes.insert(id, node.to_vec());
        Ok(&[])
    }

    /// Ends it: every node of the tree must have come.
    pub(super) fn finish(self) -> Result<(), Forged> {
        if self.awaited == 0 { Ok(()) } else { Err(Forged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    /// The digest by its definition: all records at once.
    fn naive(model: &BTreeMap<u16, u8>) -> Hash {
        let mut level: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut sorted: Vec<_> = model.iter().map(|(k, v)| (Place::of(&k.to_be_bytes()), k, v)).collect();
        sorted.sort();
        for (place, k, v) in sorted {
            let bucket = usize::from(place.0[0]) << 8 | usize::from(place.0[1]);
            let row = row_hash(&k.to_be_bytes(), &[*v]);
            level.entry(bucket).or_default().extend([place.0.as_slice(), &row].concat());
        }
        for depth in (1..=4u8).rev() {
            let mut above: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
            for (index, node) in level {
                let hash = NodeId { level: depth, index: index as u16 }.hash(&node);
                let parent = above.entry(index / 16).or_insert_with(|| vec![0; 512]);
                parent[index % 16 * 32..][..32].copy_from_slice(&hash);
            }
            level = above;
        }
        level.get(&0).map_or(NONE, |node| NodeId { level: 0, index: 0 }.hash(node))
    }

    fn load(root: Hash, rows: &Rows, keys: &[u16]) -> Result<Tree, Forged> {
        let mut tree = Tree::new(root);
        for id in tree.missing(keys.iter().map(|key| Place::of(&key.to_be_bytes()))) {
            tree.add(id, rows.get(&id.key()).cloned())?;
        }
        Ok(tree)
    }

    fn change(root: Hash, rows: &mut Rows, changes: &[(u16, Option<u8>)]) -> Hash {
        let keys: Vec<u16> = changes.iter().map(|(key, _)| *key).collect();
        let mut tree = load(root, rows, &keys).unwrap();
        for (key, value) in changes {
            let key = key.to_be_bytes();
            tree.set(Place::of(&key), value.map(|value| row_hash(&key, &[value])));
        }
        let (root, written) = tree.finish();
        for Write { key, value } in written {
            match value {
                Some(node) => rows.insert(key, node),
                None => rows.remove(&key),
            };
        }
        root
    }

    proptest! {
        #[test]
        fn the_root_depends_on_the_contents_only(
            batches in prop::collection::vec(prop::collection::vec((0u16..200, prop::option::of(any::<u8>())), 1..20), 1..12),
        ) {
            let (mut root, mut rows, mut model) = (NONE, Rows::new(), BTreeMap::new());
            for batch in batches {
                root = change(root, &mut rows, &batch);
                for (key, value) in batch {
                    match value {
                        Some(value) => model.insert(key, value),
                        None => model.remove(&key),
                    };
                }
                prop_assert_eq!(root, naive(&model));
            }
            for key in 0..200u16 {
                let tree = load(root, &rows, &[key]).unwrap();
                let expected = model.get(&key).map(|value| row_hash(&key.to_be_bytes(), &[*value]));
                prop_assert_eq!(tree.find(Place::of(&key.to_be_bytes())), expected);
            }
            if model.is_empty() {
                prop_assert!(rows.is_empty() && root == NONE);
            }
        }

        #[test]
        fn a_changed_lost_or_foreign_node_is_noticed(key in 0u16..50, level in 0usize..5, at: prop::sample::Index, kind in 0..3) {
            let mut rows = Rows::new();
            let all: Vec<_> = (0..50u16).map(|key| (key, Some(1))).collect();
            let root = change(NONE, &mut rows, &all);
            let id = Place::of(&key.to_be_bytes()).nodes()[level].key();
            let node = rows.get_mut(&id).unwrap();
            match kind {
                0 => { let at = at.index(node.len()); node[at] ^= 1; }
                1 => node.extend([0; 48]),
                _ => { rows.remove(&id); }
            }
            prop_assert!(load(root, &rows, &[key]).is_err());
        }
    }

    /// Walks through some nodes; what stands in the leaves.
    fn walk<'a>(
        root: Hash,
        rows: impl IntoIterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
    ) -> Option<Vec<LeafEntry>> {
        let (mut walk, mut entries) = (Walk::new(root), Vec::new());
        for (key, node) in rows {
            entries.extend_from_slice(walk.take(key, node).ok()?);
        }
        walk.finish().ok()?;
        Some(entries)
    }

    #[test]
    fn a_walk_through_the_whole_tree_misses_nothing() {
        let mut rows = Rows::new();
        let all: Vec<_> = (0..300u16).map(|key| (key, Some(1))).collect();
        let root = change(NONE, &mut rows, &all);
        let mut expected: Vec<_> = (0..300u16).map(|key| leaf_entry(&key.to_be_bytes(), &[1])).collect();
        expected.sort_unstable();
        assert_eq!(walk(root, &rows), Some(expected));
        assert_eq!(walk(NONE, &Rows::new()), Some(Vec::new()));
        assert_eq!(walk(root, &Rows::new()), None);
        let absent = NodeId { level: LEAF_LEVEL, index: 0 }.key();
        for key in rows.keys() {
            let mut edited = rows.clone();
            edited.remove(key);
            assert_eq!(walk(root, &edited), None, "without {key:?}");
            edited.insert(key.clone(), vec![1; 48]);
            assert_eq!(walk(root, &edited), None, "another {key:?}");
            let twice = rows.iter().flat_map(|row| std::iter::repeat_n(row, 1 + usize::from(row.0 == key)));
            assert_eq!(walk(root, twice), None, "{key:?} twice");
        }
        if let std::collections::btree_map::Entry::Vacant(free) = rows.entry(absent) {
            free.insert(vec![1; 48]);
            assert_eq!(walk(root, &rows), None, "a node that nothing leads to");
        }
    }

    #[test]
    fn a_node_where_none_belongs_is_noticed() {
        let mut rows = Rows::new();
        let root = change(NONE, &mut rows, &[(1, Some(1))]);
        let absent =
            (2..).find(|key: &u16| !rows.contains_key(&Place::of(&key.to_be_bytes()).leaf().key())).unwrap();
        assert!(load(root, &rows, &[absent]).is_ok());
        rows.insert(Place::of(&absent.to_be_bytes()).leaf().key(), vec![1; 48]);
        assert!(load(root, &rows, &[absent]).is_err());
    }

    #[test]
    fn a_path_leads_from_the_root_to_the_leaf() {
        let nodes = Place([0xab; 16]).nodes();
        assert_eq!(nodes.map(|id| id.index), [0, 0xa, 0xab, 0xaba, 0xabab]);
        assert_eq!(nodes[3].parent(), Some((nodes[2], 0xa)));
        assert_eq!(nodes[0].parent(), None);
    }
}
