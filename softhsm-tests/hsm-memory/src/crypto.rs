//! The primitives of a token, all of them AWS-LC's.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{self, Digest, SHA256};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap, KeyWrapPadded};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use keyward::keyring::signing::{PublicKey, Signature};
use keyward::keyring::wrapped::SealedKey;
use keyward::secret::{Key256, SecretBytes};

/// Bytes of a key wrapped by RFC 3394.
pub(crate) const WRAPPED: usize = 40;
/// Bytes of a tag.
const TAG: usize = 16;
/// Bytes that RFC 5649 adds at most.
const PADDING: usize = 15;

/// The input is damaged, or not for this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

impl From<Unspecified> for Refused {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), Refused> {
    Ok(SystemRandom::new().fill(bytes)?)
}

pub(crate) fn new_key() -> Result<Key256, Refused> {
    Key256::try_init_with(|key| fill(key))
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&SHA256, bytes).as_ref());
    hash
}

/// RFC 3394, 40 bytes.
pub(crate) fn wrap(under: &Key256, key: &Key256) -> Result<Vec<u8>, Refused> {
    let mut wrapped = vec![0; WRAPPED];
    AesKek::new(&AES_256, under.expose())?.wrap(key.expose(), &mut wrapped)?;
    Ok(wrapped)
}

pub(crate) fn unwrap(under: &Key256, wrapped: &[u8]) -> Result<Key256, Refused> {
    if wrapped.len() != WRAPPED {
        return Err(Refused);
    }
    Key256::try_init_with(|key| {
        AesKek::new(&AES_256, under.expose())?.unwrap(wrapped, key)?;
        Ok(())
    })
}

/// RFC 5649 over PKCS#8.
pub(crate) fn wrap_private(under: &Key256, pkcs8: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut wrapped = vec![0; pkcs8.len() + PADDING];
    let length = AesKek::new(&AES_256, under.expose())?.wrap_with_padding(pkcs8, &mut wrapped)?.len();
    wrapped.truncate(length);
    Ok(wrapped)
}

pub(crate) fn unwrap_private(under: &Key256, wrapped: &[u8]) -> Result<SecretBytes, Refused> {
    let mut plain = vec![0; wrapped.len()];
    let length = AesKek::new(&AES_256, under.expose())?.unwrap_with_padding(wrapped, &mut plain)?.len();
    plain.truncate(length);
    Ok(SecretBytes::new(plain))
}

/// 32 bytes of ciphertext and the tag.
pub(crate) fn seal(kek: &Key256, iv: [u8; 12], aad: &[u8], key: &Key256) -> Result<[u8; 48], Refused> {
    let mut sealed = [0; Key256::LEN + TAG];
    let (ciphertext, tag) = sealed.split_at_mut(Key256::LEN);
    let nonce = Nonce::assume_unique_for_key(iv);
    gcm(kek)?.seal_out_of_place_scatter(nonce, Aad::from(aad), key.expose(), ciphertext, &[], tag)?;
    Ok(sealed)
}

pub(crate) fn open(kek: &Key256, aad: &[u8], sealed: &SealedKey) -> Result<Key256, Refused> {
    let (ciphertext, tag) = sealed.ciphertext.split_at(Key256::LEN);
    let nonce = Nonce::assume_unique_for_key(sealed.iv);
    Key256::try_init_with(|key| {
        Ok(gcm(kek)?.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, key)?)
    })
}

fn gcm(kek: &Key256) -> Result<LessSafeKey, Refused> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, kek.expose())?))
}

/// A new P-256 pair: the private key as PKCS#8, and what verifies.
pub(crate) fn new_pair() -> Result<(SecretBytes, PublicKey), Refused> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let public = PublicKey::from_point(pair.public_key().as_ref()).ok_or(Refused)?;
    Ok((SecretBytes::new(pair.to_pkcs8v1()?.as_ref().to_vec()), public))
}

pub(crate) fn sign(pkcs8: &SecretBytes, digest: &[u8; 32]) -> Result<Signature, Refused> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose());
    let digest = Digest::import_less_safe(digest, &SHA256)?;
    let signature = pair.map_err(|_| Refused)?.sign_digest(&digest)?;
    Signature::from_raw(signature.as_ref()).ok_or(Refused)
}
