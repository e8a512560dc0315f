//! Public keys of tokens: SubjectPublicKeyInfo in DER (RFC 5280, section 4.1.2.7), in one spelling only.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PSS_2048_8192_SHA256,
    VerificationAlgorithm,
};
use pkcs1::{RsaPublicKeyOwned, RsaPublicKeyRef};
use x509_cert::der::asn1::{Any, BitString, Null, ObjectIdentifier, Uint};
use x509_cert::der::{self, Decode, Encode};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

/// RFC 5480, section 2.1.1: `id-ecPublicKey`.
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// RFC 5480, section 2.1.1.1: `secp256r1`.
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// RFC 5480, section 2.1.1.1: `secp384r1`.
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// RFC 8017, appendix A.1: `rsaEncryption`.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// RFC 8410, section 3: `id-Ed25519`.
const EDWARDS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Fewest bits of an RSA modulus.
pub const RSA_FEWEST_BITS: usize = 2048;
/// Most bits of an RSA modulus.
pub const RSA_MOST_BITS: usize = 8192;
/// Smallest RSA public exponent (FIPS 186-5, section A.1.1).
const RSA_SMALLEST_EXPONENT: u64 = 65_537;

/// The kinds of public keys that tokens have here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// A point of NIST P-256, uncompressed.
    P256,
    /// A point of NIST P-384, uncompressed.
    P384,
    /// RSA with a modulus of 2048 to 8192 bits and a public exponent from 65537.
    Rsa,
    /// Edwards25519 (RFC 8032).
    Ed25519,
}

/// Why bytes are no public key that is used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// They are no SubjectPublicKeyInfo.
    #[error("not a public key in DER (SubjectPublicKeyInfo): {0}")]
    Malformed(der::Error),
    /// There is another spelling of the same key, and that is the right one.
    #[error("the public key is not in its one spelling: canonical DER, the point uncompressed")]
    Spelling,
    /// Another algorithm or curve.
    #[error("keys of algorithm {0} are not used here: P-256, P-384, RSA or Ed25519 are")]
    Unsupported(ObjectIdentifier),
    /// An RSA key that is too short or too long.
    #[error("an RSA key of {0} bits is not used here: 2048 to 8192 bits are")]
    RsaLength(usize),
    /// An RSA key with a small or even public exponent.
    #[error("an RSA key needs an odd public exponent from 65537")]
    RsaExponent,
    /// A point that is not on its curve, or another key that makes no sense.
    #[error("the public key is not valid")]
    Invalid,
    /// A key of another type than the one that is needed.
    #[error("a key of type {found} where one of type {needed} is needed")]
    Type {
        /// What it is.
        found: KeyType,
        /// What it should be.
        needed: KeyType,
    },
}

impl KeyType {
    /// The type of the key in a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`PublicKeyError`] unless the DER is canonical, and the key valid and of a type that is used here.
    pub fn of(spki: &[u8]) -> Result<Self, PublicKeyError> {
        let info = SubjectPublicKeyInfoOwned::from_der(spki).map_err(PublicKeyError::Malformed)?;
        if info.to_der().map_err(PublicKeyError::Malformed)? != spki {
            return Err(PublicKeyError::Spelling);
        }
        let key_type = Self::of_algorithm(&info.algorithm)?;
        let key = info.subject_public_key.as_bytes().ok_or(PublicKeyError::Spelling)?;
        match key_type {
            // SEC 1, section 2.3.3: 4 says "uncompressed".
            Self::P256 | Self::P384 if key.first() != Some(&4) => return Err(PublicKeyError::Spelling),
            Self::Rsa => check_rsa(key)?,
            _ => {}
        }
        let valid = ParsedPublicKey::new(key_type.verifier(), spki);
        valid.map_or(Err(PublicKeyError::Invalid), |_| Ok(key_type))
    }

    /// Demands a key of this type.
    ///
    /// # Errors
    /// As [`KeyType::of`], and [`PublicKeyError::Type`].
    pub fn require(self, spki: &[u8]) -> Result<(), PublicKeyError> {
        let found = Self::of(spki)?;
        if found == self { Ok(()) } else { Err(PublicKeyError::Type { found, needed: self }) }
    }

    fn of_algorithm(algorithm: &AlgorithmIdentifierOwned) -> Result<Self, PublicKeyError> {
        match (algorithm.oid, &algorithm.parameters) {
            (EC, Some(curve)) => match curve.decode_as().map_err(PublicKeyError::Malformed)? {
                P256 => Ok(Self::P256),
                P384 => Ok(Self::P384),
                other => Err(PublicKeyError::Unsupported(other)),
            },
            (RSA, Some(null)) if null.is_null() => Ok(Self::Rsa),
            (EDWARDS, None) => Ok(Self::Ed25519),
            (EC | RSA | EDWARDS, _) => Err(PublicKeyError::Spelling),
            (other, _) => Err(PublicKeyError::Unsupported(other)),
        }
    }

    /// A verifier that takes keys of this type, and so checks them.
    fn verifier(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::Rsa => &RSA_PSS_2048_8192_SHA256,
            Self::Ed25519 => &ED25519,
        }
    }

    /// The word for it, as people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }
}

impl std::fmt::Display for KeyType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

fn check_rsa(key: &[u8]) -> Result<(), PublicKeyError> {
    let key = RsaPublicKeyRef::from_der(key).map_err(PublicKeyError::Malformed)?;
    let modulus = key.modulus.as_bytes();
    let unused = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = modulus.len() * 8 - unused;
    if !(RSA_FEWEST_BITS..=RSA_MOST_BITS).contains(&bits) {
        return Err(PublicKeyError::RsaLength(bits));
    }
    let exponent = key.public_exponent.as_bytes();
    let number = exponent.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    match exponent.len() <= 8 && number >= RSA_SMALLEST_EXPONENT && number % 2 == 1 {
        true => Ok(()),
        false => Err(PublicKeyError::RsaExponent),
    }
}

/// The SubjectPublicKeyInfo of a point: 65 bytes for P-256, 97 for P-384, 32 for Ed25519. Not checked here.
///
/// # Errors
/// [`PublicKeyError::Malformed`] when there is no such encoding; RSA keys have no point.
pub fn spki_of_point(key_type: KeyType, point: &[u8]) -> Result<Vec<u8>, PublicKeyError> {
    let curve = |oid: ObjectIdentifier| Any::encode_from(&oid).map(Some);
    let (oid, parameters) = match key_type {
        KeyType::P256 => (EC, curve(P256)),
        KeyType::P384 => (EC, curve(P384)),
        KeyType::Ed25519 => (EDWARDS, Ok(None)),
        KeyType::Rsa => return Err(PublicKeyError::Invalid),
    };
    encode(oid, parameters.map_err(PublicKeyError::Malformed)?, point)
}

/// The SubjectPublicKeyInfo of an RSA key of big-endian modulus and exponent. Not checked here.
///
/// # Errors
/// [`PublicKeyError::Malformed`] when there is no such encoding.
pub fn spki_of_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, PublicKeyError> {
    let key: der::Result<Vec<u8>> = Uint::new(modulus)
        .and_then(|modulus| Ok(RsaPublicKeyOwned { modulus, public_exponent: Uint::new(exponent)? }))
        .and_then(|key| key.to_der());
    let parameters = Any::encode_from(&Null).map_err(PublicKeyError::Malformed)?;
    encode(RSA, Some(parameters), &key.map_err(PublicKeyError::Malformed)?)
}

fn encode(oid: ObjectIdentifier, parameters: Option<Any>, key: &[u8]) -> Result<Vec<u8>, PublicKeyError> {
    let algorithm = AlgorithmIdentifierOwned { oid, parameters };
    BitString::from_bytes(key)
        .map(|subject_public_key| SubjectPublicKeyInfoOwned { algorithm, subject_public_key })
        .and_then(|info| info.to_der())
        .map_err(PublicKeyError::Malformed)
}

/// The key in a SubjectPublicKeyInfo without what stands around it: a point, 32 bytes of
/// Ed25519, or an RSAPublicKey; `None` when there is none.
pub fn bare_key(spki: &[u8]) -> Option<Vec<u8>> {
    let info = SubjectPublicKeyInfoOwned::from_der(spki).ok()?;
    info.subject_public_key.as_bytes().map(<[u8]>::to_vec)
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair, RsaKeyPair,
    };
    use proptest::prelude::*;

    use super::*;

    fn der(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
        key.as_der().unwrap().as_ref().to_vec()
    }

    /// A fresh key of every type, as another library spells it.
    pub(crate) fn one_of_each() -> [(KeyType, Vec<u8>); 4] {
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let edwards = Ed25519KeyPair::generate().unwrap();
        [
            (KeyType::P256, der(p256.public_key())),
            (KeyType::P384, der(p384.public_key())),
            (KeyType::Rsa, der(rsa.public_key())),
            (KeyType::Ed25519, der(edwards.public_key())),
        ]
    }

    #[test]
    fn keys_of_another_library_are_taken_and_spelt_the_same() {
        for (key_type, spki) in one_of_each() {
            assert_eq!(KeyType::of(&spki), Ok(key_type));
            let bare = bare_key(&spki).unwrap();
            let again = match key_type {
                KeyType::Rsa => {
                    let key = RsaPublicKeyRef::from_der(&bare).unwrap();
                    spki_of_rsa(key.modulus.as_bytes(), key.public_exponent.as_bytes())
                }
                _ => spki_of_point(key_type, &bare),
            };
            assert_eq!(again.unwrap(), spki);
            for needed in [KeyType::P256, KeyType::P384, KeyType::Rsa, KeyType::Ed25519] {
                assert_eq!(needed.require(&spki).is_ok(), needed == key_type);
            }
        }
    }

    #[test]
    fn a_point_that_is_not_on_the_curve_is_refused() {
        let [(_, mut p256), (_, mut p384), ..] = one_of_each();
        for spki in [&mut p256, &mut p384] {
            *spki.last_mut().unwrap() ^= 1;
            assert_eq!(KeyType::of(spki), Err(PublicKeyError::Invalid));
        }
        let infinity = spki_of_point(KeyType::P256, &[0]).unwrap();
        assert_eq!(KeyType::of(&infinity), Err(PublicKeyError::Spelling));
    }

    #[test]
    fn a_compressed_point_is_another_spelling() {
        let [(_, p256), ..] = one_of_each();
        let point = bare_key(&p256).unwrap();
        let compressed = [&[2 + (point[64] & 1)], &point[1..33]].concat();
        let spki = spki_of_point(KeyType::P256, &compressed).unwrap();
        assert_eq!(KeyType::of(&spki), Err(PublicKeyError::Spelling));
    }

    #[test]
    fn weak_rsa_keys_are_refused() {
        let rsa = |bytes: usize, exponent: &[u8]| {
            let modulus = [&[0x80], &vec![0x55; bytes - 1][..]].concat();
            KeyType::of(&spki_of_rsa(&modulus, exponent).unwrap())
        };
        assert_eq!(rsa(256, &[1, 0, 1]), Ok(KeyType::Rsa));
        assert_eq!(rsa(128, &[1, 0, 1]), Err(PublicKeyError::RsaLength(1024)));
        assert_eq!(rsa(1025, &[1, 0, 1]), Err(PublicKeyError::RsaLength(8200)));
        for exponent in [&[3][..], &[1, 0, 0], &[1, 0, 2], &[0], &[1; 9]] {
            assert_eq!(rsa(256, exponent), Err(PublicKeyError::RsaExponent), "{exponent:?}");
        }
        let shorter = spki_of_rsa(&[&[0x7f], &vec![0x55; 255][..]].concat(), &[1, 0, 1]).unwrap();
        assert_eq!(KeyType::of(&shorter), Err(PublicKeyError::RsaLength(2047)));
    }

    #[test]
    fn other_spellings_and_algorithms_are_refused() {
        let [(_, p256), ..] = one_of_each();
        let trailing = [&p256[..], &[0]].concat();
        assert!(matches!(KeyType::of(&trailing), Err(PublicKeyError::Malformed(_))));
        // The outer length in two bytes where one is enough.
        let long = [&[0x30, 0x81], &p256[1..]].concat();
        assert!(matches!(KeyType::of(&long), Err(PublicKeyError::Malformed(_))));
        let dsa = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");
        let other = encode(dsa, None, &[0]).unwrap();
        assert_eq!(KeyType::of(&other), Err(PublicKeyError::Unsupported(dsa)));
        let without_curve = encode(EC, None, &bare_key(&p256).unwrap()).unwrap();
        assert_eq!(KeyType::of(&without_curve), Err(PublicKeyError::Spelling));
        let without_null = encode(RSA, None, &[0]).unwrap();
        assert_eq!(KeyType::of(&without_null), Err(PublicKeyError::Spelling));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, at in 0usize..91, bit in 0u8..8) {
            let _ = KeyType::of(&bytes);
            let mut point = [4; 65];
            point[64] = bytes.first().copied().unwrap_or(0);
            let mut spki = spki_of_point(KeyType::P256, &point).unwrap();
            spki[at] ^= 1 << bit;
            let _ = KeyType::of(&spki);
        }
    }
}
