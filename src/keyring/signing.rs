//! P-256 signing keys that are made in the HSM and used only there, and what
//! verifies their signatures.

use std::fmt;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use minicbor::{Decode, Encode};
use spki::der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef};
use spki::der::{self, Decode as _, Encode as _, Reader, SliceReader, SliceWriter};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use super::wrapped::WrappedKek;
use crate::id::RootId;

/// id-ecPublicKey (RFC 5480, section 2.1.1).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp256r1 (RFC 5480, section 2.1.1.1).
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

/// How the private key is wrapped. It names the format and not the number of a
/// mechanism: modules disagree on which number means it, and a blob moves
/// from module to module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SigningWrap {
    /// RFC 5649 over PKCS#8: `CKM_AES_KEY_WRAP_KWP` (0x210B), or
    /// `CKM_AES_KEY_WRAP_PAD` (0x210A) where the self-test shows that it means the same.
    #[n(1)]
    Rfc5649,
}

/// A signing key as it stands in records, and by which the HSM is asked for its signatures.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SigningKey {
    /// The root that wraps the KEK.
    #[n(0)]
    pub root: RootId,
    /// The KEK, which does nothing but wrap this key.
    #[n(1)]
    pub kek: WrappedKek,
    /// How the private key is wrapped under the KEK.
    #[n(2)]
    pub wrap: SigningWrap,
    /// The wrapped private key.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub wrapped: Vec<u8>,
    /// The public key.
    #[n(4)]
    pub public: PublicKey,
}

/// A P-256 public key: an uncompressed point (SEC 1, section 2.3.3), 65 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct PublicKey(#[cbor(n(0), with = "minicbor::bytes")] [u8; 65]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl PublicKey {
    /// Takes an uncompressed point; `None` when it is none of the curve.
    pub fn from_point(point: &[u8]) -> Option<Self> {
        let point = <[u8; 65]>::try_from(point).ok()?;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
        (point[0] == 4).then_some(Self(point))
    }

    /// Takes `CKA_EC_POINT`: a DER octet string around the point; some modules leave it out.
    pub fn from_ec_point(bytes: &[u8]) -> Option<Self> {
        // A bare point may read as an octet string by chance: 4, then its length.
        Self::from_point(bytes).or_else(|| {
            let inner = <&der::asn1::OctetStringRef>::from_der(bytes).ok()?;
            Self::from_point(inner.as_bytes())
        })
    }

    /// Takes a SubjectPublicKeyInfo in DER (RFC 5480).
    pub fn from_spki(bytes: &[u8]) -> Option<Self> {
        let info = SubjectPublicKeyInfoRef::from_der(bytes).ok()?;
        let curve = info.algorithm.parameters_oid().ok()?;
        let right = info.algorithm.oid == EC_PUBLIC_KEY && curve == P256;
        right.then(|| Self::from_point(info.subject_public_key.as_bytes()?)).flatten()
    }

    /// The SubjectPublicKeyInfo in DER (RFC 5480), 91 bytes.
    pub fn spki(&self) -> Vec<u8> {
        let encoded = BitStringRef::from_bytes(&self.0).and_then(|subject_public_key| {
            let parameters = Some(AnyRef::from(&P256));
            let algorithm = AlgorithmIdentifierRef { oid: EC_PUBLIC_KEY, parameters };
            SubjectPublicKeyInfoRef { algorithm, subject_public_key }.to_der()
        });
        // Nothing in it has a length that could be too long.
        encoded.unwrap_or_else(|_| unreachable!())
    }

    /// The point.
    pub fn point(&self) -> &[u8; 65] {
        &self.0
    }

    /// Whether `signature` is one of this key over the SHA-256 `digest`.
    pub fn verifies(&self, digest: &[u8; 32], signature: &Signature) -> bool {
        let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.0);
        let digest = Digest::import_less_safe(digest, &digest::SHA256);
        parsed
            .is_ok_and(|key| digest.is_ok_and(|digest| key.verify_digest_sig(&digest, &signature.0).is_ok()))
    }
}

/// A P-256 signature: r and s, 32 bytes each, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Signature(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Signature {
    /// Takes r and s as a module gives them.
    pub fn from_raw(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// As Ecdsa-Sig-Value in DER (RFC 3279, section 2.2.3), at most 72 bytes.
    pub fn to_der(&self) -> Vec<u8> {
        let (r, s) = self.0.split_at(32);
        let mut buffer = [0; 80];
        let mut writer = SliceWriter::new(&mut buffer);
        let encoded = UintRef::new(r).and_then(|r| {
            let s = UintRef::new(s)?;
            writer.sequence((r.encoded_len()? + s.encoded_len()?)?, |inner| {
                r.encode(inner)?;
                s.encode(inner)
            })?;
            writer.finish().map(<[u8]>::to_vec)
        });
        // Two numbers of 32 bytes always fit.
        encoded.unwrap_or_else(|_| unreachable!())
    }

    /// Reads an Ecdsa-Sig-Value in DER; `None` when it is none, or not of P-256.
    pub fn from_der(bytes: &[u8]) -> Option<Self> {
        let mut reader = SliceReader::new(bytes).ok()?;
        let read = reader.sequence(|inner| {
            let (r, s) = (UintRef::decode(inner)?, UintRef::decode(inner)?);
            Ok::<_, der::Error>((r, s))
        });
        let (r, s) = read.ok()?;
        let mut raw = [0; 64];
        for (half, number) in raw.chunks_exact_mut(32).zip([r, s]) {
            let bytes = number.as_bytes();
            half.get_mut(32usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
        }
        reader.is_finished().then_some(Self(raw))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    };
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// A key in memory: what signs in tests that have no HSM.
    pub(crate) struct TestKey(EcdsaKeyPair);

    impl TestKey {
        pub(crate) fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
        }

        /// The generator of the curve: a public key whose bytes are always the same.
        pub(crate) fn fixed() -> PublicKey {
            let point = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                         4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
            PublicKey::from_point(&hex::decode(point).unwrap()).unwrap()
        }

        pub(crate) fn public(&self) -> PublicKey {
            PublicKey::from_point(self.0.public_key().as_ref()).unwrap()
        }

        pub(crate) fn sign(&self, message: &[u8]) -> Signature {
            Signature::from_raw(self.0.sign(&SystemRandom::new(), message).unwrap().as_ref()).unwrap()
        }
    }

    #[test]
    fn a_signature_verifies_in_every_form() {
        let key = TestKey::new();
        let signature = key.sign(b"message");
        let digest: [u8; 32] = Sha256::digest(b"message").into();
        assert!(key.public().verifies(&digest, &signature));
        assert!(!key.public().verifies(&[0; 32], &signature));
        assert!(!TestKey::new().public().verifies(&digest, &signature));
        let other = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public().spki()).unwrap();
        other.verify_sig(b"message", &signature.to_der()).unwrap();
    }

    #[test]
    fn public_keys_read_back() {
        let key = TestKey::new().public();
        assert_eq!(key.spki().len(), 91);
        assert_eq!(PublicKey::from_spki(&key.spki()), Some(key));
        assert_eq!(PublicKey::from_ec_point(&[&[4, 65], key.point().as_slice()].concat()), Some(key));
        assert_eq!(PublicKey::from_ec_point(key.point()), Some(key));
        let mut off_the_curve = *key.point();
        off_the_curve[64] ^= 1;
        assert_eq!(PublicKey::from_point(&off_the_curve), None);
        assert_eq!(PublicKey::from_spki(&key.spki()[1..]), None);
    }

    proptest! {
        #[test]
        fn signatures_round_trip_through_der(raw in prop::collection::vec(any::<u8>(), 64), zeros in 0usize..34) {
            let mut raw = <[u8; 64]>::try_from(raw).unwrap();
            raw[..zeros].fill(0);
            let signature = Signature(raw);
            prop_assert_eq!(Signature::from_der(&signature.to_der()), Some(signature));
        }

        #[test]
        fn whatever_is_read_as_der_is_the_only_encoding(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(signature) = Signature::from_der(&bytes) {
                prop_assert_eq!(signature.to_der(), bytes);
            }
        }
    }
}
