use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};

use super::*;
use crate::clock::Date;
use crate::id::{CeremonyId, DeploymentId};
use crate::keyring::credential::{CredentialId, TokenKind};
use crate::token::envelope::Ceremony;
use crate::token::printable::Statement;

mod vectors;

pub(in crate::token) type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

fn der(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
    key.as_der().unwrap().as_ref().to_vec()
}

/// A fresh key for an algorithm: its public half, and how it signs.
pub(in crate::token) fn key(algorithm: TokenAlgorithm) -> (Vec<u8>, Sign) {
    let random = SystemRandom::new();
    match algorithm {
        TokenAlgorithm::EcdsaP256Sha256 | TokenAlgorithm::EcdsaP384Sha384 => {
            let curve = match algorithm {
                TokenAlgorithm::EcdsaP256Sha256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
                _ => &ECDSA_P384_SHA384_ASN1_SIGNING,
            };
            let pair = EcdsaKeyPair::generate(curve).unwrap();
            let spki = der(pair.public_key());
            (spki, Box::new(move |message| pair.sign(&random, message).unwrap().as_ref().to_vec()))
        }
        TokenAlgorithm::RsaPssSha256 | TokenAlgorithm::RsaPkcs1Sha256 => {
            let padding: &'static dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                TokenAlgorithm::RsaPssSha256 => &RSA_PSS_SHA256,
                _ => &RSA_PKCS1_SHA256,
            };
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let spki = der(pair.public_key());
            let sign = move |message: &[u8]| {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            };
            (spki, Box::new(sign))
        }
        TokenAlgorithm::Ed25519 => {
            let pair = Ed25519KeyPair::generate().unwrap();
            let spki = der(pair.public_key());
            (spki, Box::new(move |message| pair.sign(message).as_ref().to_vec()))
        }
    }
}

fn envelope(credential: CredentialId, text: &str) -> Envelope {
    let ceremony = Ceremony {
        ceremony: CeremonyId([1; 16]),
        roster: [2; 32],
        created: Date(3),
        expires: Date(4),
        statement: Statement::new(text).unwrap(),
    };
    ceremony.envelope(DeploymentId([5; 16]), credential)
}

#[test]
fn every_algorithm_signs_and_verifies() {
    for algorithm in TokenAlgorithm::ALL {
        let (spki, sign) = key(algorithm);
        let credential = Credential::new(TokenKind::Pkcs11, algorithm, spki).unwrap();
        let signed = envelope(credential.id(), "Rotate.");
        for _ in 0..8 {
            let signature = normalise(algorithm, &sign(signed.as_bytes())).unwrap();
            let verified = verify(&credential, &signed, &signature).unwrap();
            assert_eq!(
                (verified.by(), verified.signature()),
                (credential.id(), &signature[..]),
                "{algorithm}"
            );
            refuse_others(&credential, &signed, &signature);
        }
    }
}

fn refuse_others(credential: &Credential, signed: &Envelope, signature: &[u8]) {
    let other_text = envelope(credential.id(), "Rotate!");
    assert_eq!(verify(credential, &other_text, signature), Err(SignatureError::Invalid));
    let other_key = envelope(CredentialId([9; 32]), "Rotate.");
    assert_eq!(verify(credential, &other_key, signature), Err(SignatureError::Credential));
    for wrong in [&signature[1..], &signature[..signature.len() - 1], &[signature, &[0]].concat(), &[]] {
        assert!(verify(credential, signed, wrong).is_err());
    }
    for at in [0, signature.len() / 2, signature.len() - 1] {
        let mut flipped = signature.to_vec();
        flipped[at] ^= 1;
        assert!(verify(credential, signed, &flipped).is_err());
    }
}

#[test]
fn an_algorithm_takes_no_signature_of_another() {
    let (spki, pss) = key(TokenAlgorithm::RsaPssSha256);
    let credential = Credential::new(TokenKind::Pkcs11, TokenAlgorithm::RsaPkcs1Sha256, spki).unwrap();
    let signed = envelope(credential.id(), "Rotate.");
    assert_eq!(verify(&credential, &signed, &pss(signed.as_bytes())), Err(SignatureError::Invalid));
}

#[test]
fn the_high_s_and_der_are_refused_and_normalised() {
    for (algorithm, curve) in
        [(TokenAlgorithm::EcdsaP256Sha256, P256), (TokenAlgorithm::EcdsaP384Sha384, P384)]
    {
        let (spki, sign) = key(algorithm);
        let given = sign(b"message");
        assert_eq!(check(algorithm, &spki, b"message", &given), Err(SignatureError::Malformed));
        let low = normalise(algorithm, &given).unwrap();
        assert_eq!(check(algorithm, &spki, b"message", &low), Ok(()));
        let mut high = low.clone();
        curve.negate(&mut high[curve.order.len()..]);
        assert_ne!(high, low);
        assert_eq!(check(algorithm, &spki, b"message", &high), Err(SignatureError::HighS));
        // It would verify otherwise: the two s are one signature twice.
        assert!(UnparsedPublicKey::new(verifier(algorithm), &spki).verify(b"message", &high).is_ok());
        assert_eq!(normalise(algorithm, &high), Ok(low.clone()));
        assert_eq!(normalise(algorithm, &low), Ok(low));
        assert_eq!(normalise(algorithm, &[&given[..], &[0]].concat()), Err(SignatureError::Malformed));
    }
}

#[test]
fn halves_are_half_of_the_orders() {
    for Curve { order, half } in [P256, P384] {
        // n is odd: half + half + 1 = n, so n - half = half + 1.
        let mut negated = half.to_vec();
        Curve { order, half }.negate(&mut negated);
        let mut more = half.to_vec();
        *more.last_mut().unwrap() += 1;
        assert_eq!(negated, more);
        let curve = Curve { order, half };
        assert!(!curve.is_high(half) && curve.is_high(&more));
    }
}

#[test]
fn numbers_that_do_not_fit_are_malformed() {
    let p256 = TokenAlgorithm::EcdsaP256Sha256;
    let order = [&[0; 32][..], P256.order].concat();
    assert_eq!(normalise(p256, &order), Err(SignatureError::Malformed));
    let der = |r: &[u8], s: &[u8]| {
        let integer = |number: &[u8]| [&[2, u8::try_from(number.len()).unwrap()], number].concat();
        let inner = [integer(r), integer(s)].concat();
        [&[0x30, u8::try_from(inner.len()).unwrap()], &inner[..]].concat()
    };
    assert!(normalise(p256, &der(&[1], &[1])).is_ok());
    let longer = [1; 33];
    for wrong in [der(&longer, &[1]), der(&[0, 1], &[1]), der(&[0xff], &[1]), der(&[], &[1]), Vec::new()] {
        assert_eq!(normalise(p256, &wrong), Err(SignatureError::Malformed), "{wrong:02x?}");
    }
}
