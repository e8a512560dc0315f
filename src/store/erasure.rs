//! Rows of wrapped keys, sealed once more under the erasure key.
//!
//! ```text
//! sealed payload = u32 generation | nonce (12) | AES-256-GCM ciphertext | tag (16)
//! row key        = HKDF-Expand-SHA-256(erasure secret, "keyward/1/store/erasure" | u32 generation | u64 revision | key of the row, 32)
//! ```
//!
//! Each row has a key of its own at each revision. The nonce is random all the
//! same, because a change that failed is made again at the same revision, and an
//! old store that was put back counts the same revisions once more.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hkdf::Hkdf;
use sha2::Sha256;

use super::error::StoreError;
use super::tables::describe;
use crate::envelope::aead::{AeadKey, NONCE, TAG};
use crate::id::ErasureGeneration;
use crate::secret::Key256;

const GENERATION: usize = 4;
const OVERHEAD: usize = GENERATION + NONCE + TAG;
const DOMAIN: &[u8] = b"keyward/1/store/erasure";

/// The open generations of the erasure key: one that seals, and those before it
/// as long as rows of theirs are left.
#[derive(Default)]
pub(super) struct ErasureKeys(RwLock<Ring>);

#[derive(Default)]
struct Ring {
    current: Option<ErasureGeneration>,
    secrets: BTreeMap<ErasureGeneration, Key256>,
}

impl ErasureKeys {
    /// Opens rows of `generation` from now on.
    pub(super) fn add(&self, generation: ErasureGeneration, secret: Key256) {
        self.write().secrets.insert(generation, secret);
    }

    /// Seals rows under `generation`, which was added, from now on.
    pub(super) fn seal_under(&self, generation: ErasureGeneration) {
        self.write().current = Some(generation);
    }

    /// Wipes the secret of a generation.
    pub(super) fn forget(&self, generation: ErasureGeneration) {
        let mut ring = self.write();
        ring.secrets.remove(&generation);
        ring.current.take_if(|current| *current == generation);
    }

    /// Seals the payload of the row `key` at `revision`.
    pub(super) fn seal(&self, key: &[u8], revision: u64, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let ring = self.read();
        let current = ring.current.and_then(|current| Some((current, ring.secrets.get(&current)?)));
        let (generation, secret) = current.ok_or(StoreError::NoErasureKey)?;
        let mut sealed = vec![0; payload.len() + OVERHEAD];
        let (head, body) = sealed.split_at_mut(GENERATION + NONCE);
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| StoreError::Primitive("random numbers"))?;
        head[..GENERATION].copy_from_slice(&generation.get().to_be_bytes());
        head[GENERATION..].copy_from_slice(&nonce);
        let cipher = row_key(secret, generation, key, revision)?;
        cipher.seal(nonce, &[], payload, body).map_err(|_| StoreError::Primitive("AES-256-GCM"))?;
        Ok(sealed)
    }

    /// Opens a sealed payload whose row is genuine.
    pub(super) fn open(&self, key: &[u8], revision: u64, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let malformed = || StoreError::tampered(key, "it is genuine but does not open under its erasure key");
        let generation = generation_of(sealed).ok_or_else(malformed)?;
        let ring = self.read();
        let secret = ring.secrets.get(&generation);
        let secret = secret.ok_or_else(|| StoreError::Erased { what: describe(key), generation })?;
        let (nonce, body) = sealed[GENERATION..].split_first_chunk::<NONCE>().ok_or_else(malformed)?;
        let mut payload = vec![0; body.len().checked_sub(TAG).ok_or_else(malformed)?];
        let cipher = row_key(secret, generation, key, revision)?;
        cipher.open(*nonce, &[], body, &mut payload).map_err(|_| malformed())?;
        Ok(payload)
    }

    fn read(&self) -> RwLockReadGuard<'_, Ring> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Ring> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The generation that a sealed payload names.
pub(super) fn generation_of(sealed: &[u8]) -> Option<ErasureGeneration> {
    sealed.first_chunk().copied().map(u32::from_be_bytes).and_then(ErasureGeneration::new)
}

fn row_key(
    secret: &Key256,
    generation: ErasureGeneration,
    key: &[u8],
    revision: u64,
) -> Result<AeadKey, StoreError> {
    let failed = || StoreError::Primitive("HKDF");
    let hkdf = Hkdf::<Sha256>::from_prk(secret.expose()).map_err(|_| failed())?;
    let info = [DOMAIN, &generation.get().to_be_bytes(), &revision.to_be_bytes(), key];
    let derived = Key256::try_init_with(|derived| hkdf.expand_multi_info(&info, derived));
    AeadKey::new(derived.map_err(|_| failed())?.expose()).map_err(|_| failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(generations: &[u32]) -> ErasureKeys {
        let keys = ErasureKeys::default();
        for number in generations {
            let generation = ErasureGeneration::new(*number).unwrap();
            keys.add(generation, Key256::init_with(|key| key.fill(*number as u8)));
            keys.seal_under(generation);
        }
        keys
    }

    #[test]
    fn a_row_opens_in_its_place_only() {
        let keys = keys(&[1]);
        let sealed = keys.seal(b"\x07a", 3, b"wrapped").unwrap();
        assert_eq!(keys.open(b"\x07a", 3, &sealed).unwrap(), b"wrapped");
        assert!(matches!(keys.open(b"\x07b", 3, &sealed), Err(StoreError::Tampered { .. })));
        assert!(matches!(keys.open(b"\x07a", 4, &sealed), Err(StoreError::Tampered { .. })));
        for length in 0..sealed.len() {
            assert!(keys.open(b"\x07a", 3, &sealed[..length]).is_err(), "{length}");
        }
        assert_ne!(keys.seal(b"\x07a", 3, b"wrapped").unwrap(), sealed, "no nonce is used twice");
    }

    #[test]
    fn an_older_generation_opens_until_it_is_forgotten() {
        let old = keys(&[1]);
        let sealed = old.seal(b"\x07a", 3, b"wrapped").unwrap();
        let both = keys(&[1, 2]);
        assert_eq!(both.open(b"\x07a", 3, &sealed).unwrap(), b"wrapped");
        assert_eq!(generation_of(&both.seal(b"\x07a", 3, b"x").unwrap()), ErasureGeneration::new(2));
        both.forget(ErasureGeneration::FIRST);
        let error = both.open(b"\x07a", 3, &sealed).unwrap_err();
        assert!(matches!(error, StoreError::Erased { generation: ErasureGeneration::FIRST, .. }), "{error}");
    }

    #[test]
    fn nothing_is_sealed_without_a_key() {
        assert!(matches!(keys(&[]).seal(b"\x07a", 1, b"x"), Err(StoreError::NoErasureKey)));
        let keys = keys(&[1]);
        keys.forget(ErasureGeneration::FIRST);
        assert!(matches!(keys.seal(b"\x07a", 1, b"x"), Err(StoreError::NoErasureKey)));
    }
}
