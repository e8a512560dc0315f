//! Secrets sealed to one key for key agreement: ECDH on P-256, HKDF, AES-256-GCM.
//!
//! ```text
//! Z   = ECDH(ephemeral key, recipient's key)                  SP 800-56A, section 5.7.1.2: 32 bytes
//! key = HKDF-SHA-256(salt = "keyward/1/sealed-box", IKM = Z,
//!                    info = ephemeral (65) | recipient (65) | SHA-256(context))        RFC 5869
//! box = ephemeral (65) | AES-256-GCM(key, nonce = 12 zero bytes, AAD = context, secret)
//! ```
//!
//! The key is used for this one box. Both public keys stand in the info, so a box
//! that was made for one recipient is not opened as another's.

use aws_lc_rs::agreement::{self, ECDH_P256, EphemeralPrivateKey, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::rand::SystemRandom;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use super::aead::{AeadKey, NONCE, TAG};
use crate::keyring::escrow::{AgreementPoint, SealedBox};
use crate::secret::{Key256, SecretBytes};

/// Why a box was not made or not opened. It says no more, so that it helps nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoxError {
    /// The public key is no point of the curve.
    #[error("the public key is not a point of P-256")]
    NoPoint,
    /// The box is not for this key and context, or was changed.
    #[error("it was sealed for somebody or something else, or was changed")]
    Refused,
    /// A primitive failed.
    #[error("a cryptographic primitive failed")]
    Primitive,
}

/// Seals a secret, bound to `context`.
///
/// # Errors
/// [`BoxError::NoPoint`] for a key that is none.
pub fn seal(to: &AgreementPoint, context: &[u8], secret: &[u8]) -> Result<SealedBox, BoxError> {
    let private =
        EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).map_err(|_| BoxError::Primitive)?;
    let ephemeral = point(private.compute_public_key().map_err(|_| BoxError::Primitive)?.as_ref())?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, to.0);
    let key = agreement::agree_ephemeral(private, peer, BoxError::NoPoint, |shared| {
        box_key(shared, &ephemeral, to, context)
    })?;
    let mut ciphertext = vec![0; secret.len() + TAG];
    key.seal([0; NONCE], context, secret, &mut ciphertext).map_err(|_| BoxError::Primitive)?;
    Ok(SealedBox { ephemeral, ciphertext })
}

/// A key pair to which secrets can be sealed; its private half lives as long as this value.
pub struct Receiver {
    private: PrivateKey,
    public: AgreementPoint,
}

impl Receiver {
    /// Makes a key pair.
    ///
    /// # Errors
    /// [`BoxError::Primitive`] when there is no randomness.
    pub fn generate() -> Result<Self, BoxError> {
        let private = PrivateKey::generate(&ECDH_P256).map_err(|_| BoxError::Primitive)?;
        let public = point(private.compute_public_key().map_err(|_| BoxError::Primitive)?.as_ref())?;
        Ok(Self { private, public })
    }

    /// What others seal to.
    pub fn public(&self) -> &AgreementPoint {
        &self.public
    }

    /// Opens a box.
    ///
    /// # Errors
    /// [`BoxError::Refused`] when it is not for this key and context.
    pub fn open(&self, sealed: &SealedBox, context: &[u8]) -> Result<SecretBytes, BoxError> {
        let peer = UnparsedPublicKey::new(&ECDH_P256, sealed.ephemeral.0);
        let key = agreement::agree(&self.private, peer, BoxError::NoPoint, |shared| {
            box_key(shared, &sealed.ephemeral, &self.public, context)
        })?;
        open_under(&key, sealed, context)
    }
}

/// Opens a box whose shared secret Z a token has computed.
///
/// # Errors
/// [`BoxError::Refused`] when it is not for `own` and `context`.
pub fn open_agreed(
    shared: &Key256,
    own: &AgreementPoint,
    sealed: &SealedBox,
    context: &[u8],
) -> Result<SecretBytes, BoxError> {
    open_under(&box_key(shared.expose(), &sealed.ephemeral, own, context)?, sealed, context)
}

fn open_under(key: &AeadKey, sealed: &SealedBox, context: &[u8]) -> Result<SecretBytes, BoxError> {
    let length = sealed.ciphertext.len().checked_sub(TAG).ok_or(BoxError::Refused)?;
    let mut secret = zeroize::Zeroizing::new(vec![0; length]);
    key.open([0; NONCE], context, &sealed.ciphertext, &mut secret).map_err(|_| BoxError::Refused)?;
    Ok(SecretBytes::new(std::mem::take(&mut *secret)))
}

fn box_key(
    shared: &[u8],
    ephemeral: &AgreementPoint,
    recipient: &AgreementPoint,
    context: &[u8],
) -> Result<AeadKey, BoxError> {
    let key = Key256::try_init_with(|key| {
        let context = Sha256::digest(context);
        let info = [ephemeral.0.as_slice(), &recipient.0, &context];
        Hkdf::<Sha256>::new(Some(b"keyward/1/sealed-box"), shared).expand_multi_info(&info, key)
    });
    AeadKey::new(key.map_err(|_| BoxError::Primitive)?.expose()).map_err(|_| BoxError::Primitive)
}

fn point(bytes: &[u8]) -> Result<AgreementPoint, BoxError> {
    bytes.try_into().map(AgreementPoint).map_err(|_| BoxError::NoPoint)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_recipient_opens_it_in_its_context() {
        let (alice, bob) = (Receiver::generate().unwrap(), Receiver::generate().unwrap());
        let sealed = seal(alice.public(), b"context", b"secret").unwrap();
        assert_eq!(alice.open(&sealed, b"context").unwrap().expose(), b"secret");
        assert_eq!(alice.open(&sealed, b"contexT").unwrap_err(), BoxError::Refused);
        assert_eq!(bob.open(&sealed, b"context").unwrap_err(), BoxError::Refused);
        let other = SealedBox { ephemeral: *bob.public(), ..sealed.clone() };
        assert_eq!(alice.open(&other, b"context").unwrap_err(), BoxError::Refused);
        let short = SealedBox { ciphertext: vec![0; 15], ..sealed.clone() };
        assert_eq!(alice.open(&short, b"context").unwrap_err(), BoxError::Refused);
        let nowhere = AgreementPoint([4; 65]);
        assert_eq!(seal(&nowhere, b"", b"").unwrap_err(), BoxError::NoPoint);
        let stray = SealedBox { ephemeral: nowhere, ..sealed };
        assert_eq!(alice.open(&stray, b"context").unwrap_err(), BoxError::NoPoint);
    }

    #[test]
    fn a_token_that_agrees_opens_it_too() {
        let alice = Receiver::generate().unwrap();
        let sealed = seal(alice.public(), b"context", b"secret").unwrap();
        let peer = UnparsedPublicKey::new(&ECDH_P256, sealed.ephemeral.0);
        let shared =
            agreement::agree(&alice.private, peer, (), |shared| Key256::from_slice(shared).ok_or(()));
        let opened = open_agreed(&shared.unwrap(), alice.public(), &sealed, b"context");
        assert_eq!(opened.unwrap().expose(), b"secret");
        let wrong = Key256::init_with(|key| key.fill(1));
        assert_eq!(open_agreed(&wrong, alice.public(), &sealed, b"context").unwrap_err(), BoxError::Refused);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_changed_bit_is_noticed(secret in prop::collection::vec(any::<u8>(), 0..40), bit in 0usize..10_000) {
            let alice = Receiver::generate().unwrap();
            let mut sealed = seal(alice.public(), b"c", &secret).unwrap();
            let opened = alice.open(&sealed, b"c").unwrap();
            prop_assert_eq!(opened.expose(), &secret[..]);
            let at = bit % (sealed.ciphertext.len() * 8);
            sealed.ciphertext[at / 8] ^= 1 << (at % 8);
            prop_assert!(alice.open(&sealed, b"c").is_err());
        }
    }
}
