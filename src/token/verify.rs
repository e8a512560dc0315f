//! Signatures of tokens: checked with the algorithm of the record, in one spelling only.
//!
//! An ECDSA signature is r | s, each as long as the order, with the low one of the two possible s
//! (s ≤ (n - 1) / 2): otherwise a second valid signature could be made from a first by anybody. Tokens
//! give either s, and some give DER: [`normalise`] is for the side that signs.

use std::cmp::Ordering;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{Decode, Reader, SliceReader};

use crate::keyring::credential::{Credential, TokenAlgorithm, Verified};
use crate::token::envelope::Envelope;

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The envelope names another key than the one it is checked with.
    #[error("the signature is for another key")]
    Credential,
    /// Not r | s of the right length.
    #[error("the signature is malformed")]
    Malformed,
    /// The higher one of the two s.
    #[error("the signature is not in its one spelling (low s)")]
    HighS,
    /// It is not by this key, or not over these bytes.
    #[error("the signature is not valid")]
    Invalid,
}

/// Checks the signature of an envelope.
///
/// # Errors
/// [`SignatureError`]; outside, all of them should look the same.
pub fn verify(
    credential: &Credential,
    envelope: &Envelope,
    signature: &[u8],
) -> Result<Verified, SignatureError> {
    if envelope.credential() != credential.id() {
        return Err(SignatureError::Credential);
    }
    check(credential.algorithm(), credential.spki(), envelope.as_bytes(), signature)?;
    Ok(Verified::of(credential, signature))
}

/// Checks a signature over any bytes.
pub(super) fn check(
    algorithm: TokenAlgorithm,
    spki: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    if let Some(curve) = Curve::of(algorithm) {
        let (_, s) = curve.split(signature).ok_or(SignatureError::Malformed)?;
        if curve.is_high(s) {
            return Err(SignatureError::HighS);
        }
    }
    let key = UnparsedPublicKey::new(verifier(algorithm), spki);
    key.verify(message, signature).map_err(|_| SignatureError::Invalid)
}

fn verifier(algorithm: TokenAlgorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        TokenAlgorithm::EcdsaP256Sha256 => &ECDSA_P256_SHA256_FIXED,
        TokenAlgorithm::EcdsaP384Sha384 => &ECDSA_P384_SHA384_FIXED,
        TokenAlgorithm::RsaPssSha256 => &RSA_PSS_2048_8192_SHA256,
        TokenAlgorithm::RsaPkcs1Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        TokenAlgorithm::Ed25519 => &ED25519,
    }
}

/// The one spelling of a signature that a token gave: ECDSA as r | s with low s, from r | s or from
/// DER (RFC 3279, section 2.2.3); others as they are.
///
/// # Errors
/// [`SignatureError::Malformed`] when it is neither.
pub fn normalise(algorithm: TokenAlgorithm, signature: &[u8]) -> Result<Vec<u8>, SignatureError> {
    let Some(curve) = Curve::of(algorithm) else { return Ok(signature.to_vec()) };
    let mut raw = match curve.split(signature) {
        Some(_) => signature.to_vec(),
        None => curve.raw_of_der(signature).ok_or(SignatureError::Malformed)?,
    };
    let s = &mut raw[curve.order.len()..];
    match s[..].cmp(curve.order) {
        Ordering::Less if curve.is_high(s) => curve.negate(s),
        Ordering::Less => {}
        Ordering::Equal | Ordering::Greater => return Err(SignatureError::Malformed),
    }
    Ok(raw)
}

/// The order of a curve and half of it, rounded down; big-endian.
struct Curve {
    order: &'static [u8],
    half: &'static [u8],
}

/// NIST SP 800-186, section 3.2.1.3.
const P256: Curve = Curve {
    order: b"\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\
             \xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51",
    half: b"\x7f\xff\xff\xff\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff\
            \xde\x73\x7d\x56\xd3\x8b\xcf\x42\x79\xdc\xe5\x61\x7e\x31\x92\xa8",
};

/// NIST SP 800-186, section 3.2.1.4.
const P384: Curve = Curve {
    order: b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
             \xff\xff\xff\xff\xff\xff\xff\xff\xc7\x63\x4d\x81\xf4\x37\x2d\xdf\
             \x58\x1a\x0d\xb2\x48\xb0\xa7\x7a\xec\xec\x19\x6a\xcc\xc5\x29\x73",
    half: b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
            \xff\xff\xff\xff\xff\xff\xff\xff\xe3\xb1\xa6\xc0\xfa\x1b\x96\xef\
            \xac\x0d\x06\xd9\x24\x58\x53\xbd\x76\x76\x0c\xb5\x66\x62\x94\xb9",
};

impl Curve {
    fn of(algorithm: TokenAlgorithm) -> Option<Self> {
        match algorithm {
            TokenAlgorithm::EcdsaP256Sha256 => Some(P256),
            TokenAlgorithm::EcdsaP384Sha384 => Some(P384),
            TokenAlgorithm::RsaPssSha256 | TokenAlgorithm::RsaPkcs1Sha256 | TokenAlgorithm::Ed25519 => None,
        }
    }

    /// r and s.
    fn split<'a>(&self, signature: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let size = self.order.len();
        (signature.len() == 2 * size).then(|| signature.split_at(size))
    }

    fn is_high(&self, s: &[u8]) -> bool {
        s > self.half
    }

    /// n - s, for s below n.
    fn negate(&self, s: &mut [u8]) {
        let mut borrow = 0;
        for (digit, order) in s.iter_mut().zip(self.order).rev() {
            let difference = i16::from(*order) - i16::from(*digit) - borrow;
            borrow = i16::from(difference < 0);
            *digit = difference.to_be_bytes()[1];
        }
    }

    /// r | s from `SEQUENCE { r INTEGER, s INTEGER }`.
    fn raw_of_der(&self, signature: &[u8]) -> Option<Vec<u8>> {
        let mut reader = SliceReader::new(signature).ok()?;
        let (r, s) = reader
            .sequence(|inner| {
                Ok::<_, x509_cert::der::Error>((UintRef::decode(inner)?, UintRef::decode(inner)?))
            })
            .ok()?;
        reader.finish().ok()?;
        let size = self.order.len();
        let mut raw = vec![0; 2 * size];
        for (number, part) in [r, s].iter().zip(raw.chunks_mut(size)) {
            let digits = number.as_bytes();
            part[size.checked_sub(digits.len())?..].copy_from_slice(digits);
        }
        Some(raw)
    }
}

#[cfg(test)]
pub(super) mod tests;
