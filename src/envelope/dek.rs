//! A data key (DEK) that was opened and is ready for use.

use std::fmt;

use hkdf::{Hkdf, InvalidLength};
use sha2::Sha256;

use crate::id::DekId;
use crate::keyring::record::SuiteFamily;
use crate::secret::{Guarded, Key256};

/// An opened DEK: HKDF-Expand under it, and nothing else, is possible.
///
/// It holds the two SHA-256 states of HMAC, computed once, instead of the key.
/// They are as secret as the key, lie in the arena, and are wiped when it is dropped.
pub struct Dek {
    id: DekId,
    family: SuiteFamily,
    prk: Guarded<Hkdf<Sha256>>,
}

impl Dek {
    /// Makes the DEK ready and wipes the key.
    pub fn new(id: DekId, family: SuiteFamily, key: Key256) -> Self {
        let prk = Hkdf::from_prk(key.expose()).expect("a 256-bit key is as long as a SHA-256 output");
        Self { id, family, prk: Guarded::new(prk) }
    }

    /// The id that its ciphertexts carry.
    pub fn id(&self) -> DekId {
        self.id
    }

    /// Its algorithms.
    pub fn family(&self) -> SuiteFamily {
        self.family
    }

    /// HKDF-Expand (RFC 5869, section 2.3) with the info given in pieces.
    pub(super) fn expand(&self, info: &[&[u8]], okm: &mut [u8]) -> Result<(), InvalidLength> {
        self.prk.expand_multi_info(info, okm)
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dek({}, redacted)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_its_id_only() {
        let dek = Dek::new(DekId([0xab; 16]), SuiteFamily::AesSha2, Key256::init_with(|key| key.fill(0x41)));
        assert_eq!(format!("{dek:?}"), format!("Dek({}, redacted)", "ab".repeat(16)));
    }
}
