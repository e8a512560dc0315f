//! What is destroyed, on whose word, and what is known of it afterwards.

use std::fmt;

use crate::clock::Date;
use crate::id::{DekId, DestroyTarget, KekVersion, PrincipalId, VersionName};
use crate::keyring::remains::Remains;
use crate::store::Scrubbed;

/// On whose word something is destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// An operator, while the root is unfounded.
    Operator(PrincipalId),
    /// The date that was planned has come.
    Schedule,
    /// A ceremony, by its name.
    Ceremony(String),
}

impl Authority {
    /// From the words of a tombstone.
    pub(super) fn parse(words: &str) -> Self {
        match words.split_once('/') {
            Some(("ceremonies", _)) => Self::Ceremony(words.to_owned()),
            Some(("principals", name)) => PrincipalId::new(name).map_or(Self::Schedule, Self::Operator),
            _ => Self::Schedule,
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(principal) => write!(f, "principals/{principal}"),
            Self::Schedule => f.write_str("schedule"),
            Self::Ceremony(name) => f.write_str(name),
        }
    }
}

/// Everything that a certificate says.
#[derive(Debug, Clone)]
pub struct Destroyed {
    /// What was destroyed.
    pub target: DestroyTarget,
    /// When that was asked for.
    pub asked: Date,
    /// When the keys were taken out of the records.
    pub begun: Date,
    /// When it was proved that they are gone from the live system.
    pub done: Date,
    /// Each wrapped key, and by what it is recognised in a copy.
    pub objects: Vec<Object>,
    /// The files that were searched and no longer have them, and the older copies beside them.
    pub files: Scrubbed,
    /// On whose word, this time.
    pub authority: Authority,
    /// Why, and who planned it, where an operator did.
    pub planned: (Option<String>, Option<String>),
    /// The newest revision of the store at which any of the objects was taken out, or later: copies from then on hold none.
    pub buried: u64,
}

/// A wrapped key that was destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The name of its record.
    pub name: String,
    /// By what its wrapped bytes are recognised.
    pub remains: Remains,
    /// On whose word, as it stands in the tombstone.
    pub authority: String,
    /// What it was.
    pub gone: Gone,
}

/// What a wrapped key was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gone {
    /// A DEK.
    Dek {
        /// Its id, which stands in every ciphertext under it.
        id: DekId,
        /// The version that it was.
        version: VersionName,
        /// The KEK version that sealed it.
        kek: Option<KekVersion>,
    },
    /// A blind index key.
    IndexKey,
    /// A KEK version.
    Kek,
    /// The escrow of a KEK version that was in the HSM; its token object went before it.
    KekEscrow,
}
