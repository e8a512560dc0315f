//! AES-256-GCM (NIST SP 800-38D): 96-bit nonce, 128-bit tag, from AWS-LC.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;

/// Bytes in a nonce.
pub(crate) const NONCE: usize = 12;

/// Bytes in a tag.
pub(crate) const TAG: usize = 16;

/// A key of AES-256-GCM, expanded; AWS-LC wipes it when it is dropped.
pub(crate) struct AeadKey(LessSafeKey);

impl AeadKey {
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, Unspecified> {
        UnboundKey::new(&AES_256_GCM, key).map(|key| Self(LessSafeKey::new(key)))
    }

    /// Encrypts into `out`, which has [`TAG`] bytes more than the plaintext.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unspecified> {
        let (ciphertext, tag) = out.split_at_mut_checked(plaintext.len()).ok_or(Unspecified)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.seal_out_of_place_scatter(nonce, Aad::from(aad), plaintext, ciphertext, &[], tag)
    }

    /// Decrypts into `out`, which has [`TAG`] bytes less than the sealed bytes.
    /// After an error `out` may hold anything: wipe it.
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unspecified> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG>().ok_or(Unspecified)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, out)
    }
}
