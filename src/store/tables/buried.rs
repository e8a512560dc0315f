//! What names a tombstone: the key of the record that it stands for.

use super::{Path, PathId, Record, describe};
use crate::id::{DekId, KeyName};
use crate::keyring::escrow::KekEscrow;
use crate::keyring::record::{Dek, IndexKey, KekRecord};

/// The key of the record that a tombstone stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Buried(Vec<u8>);

impl Buried {
    pub(super) fn of<T: Record>(path: &Path<T>) -> Self {
        Self(path.key())
    }

    /// The key: table byte and path.
    pub fn key(&self) -> &[u8] {
        &self.0
    }

    /// Which DEK it is the record of, if it is one's.
    pub fn dek(&self) -> Option<(KeyName, DekId)> {
        Path::<Dek>::parse(&self.0).map(|path| path.id)
    }

    /// Whether it is the record of a KEK version.
    pub fn is_kek(&self) -> bool {
        Path::<KekRecord>::parse(&self.0).is_some()
    }

    /// Whether it was the escrow of a resident KEK.
    pub fn is_kek_escrow(&self) -> bool {
        Path::<KekEscrow>::parse(&self.0).is_some()
    }

    /// The name of the record, for people.
    pub fn describe(&self) -> String {
        describe(&self.0)
    }
}

impl PathId for Buried {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let key = std::mem::take(rest);
        // Only wrapped keys are buried. Their paths have one spelling, and none is a prefix of another.
        let known = Path::<Dek>::parse(key).is_some()
            || Path::<IndexKey>::parse(key).is_some()
            || Path::<KekRecord>::parse(key).is_some()
            || Path::<KekEscrow>::parse(key).is_some();
        known.then(|| Self(key.to_vec()))
    }
}
