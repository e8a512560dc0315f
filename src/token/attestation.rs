//! Attestation of PIV cards by Yubico: a certificate of the key by the card's own attestation key (slot F9),
//! whose certificate leads to a pinned root. By hand, because generic path validators refuse good chains:
//! some F9 certificates lack basicConstraints although they issue.
//!
//! ```text
//! pinned root ─ intermediates ─ F9 (in the card) ─ attestation of one slot's key
//! ```
//!
//! It says that the key was made in the card and cannot be read. It is not fresh, and can be copied: that
//! the card is there is proved by a signature of the attested key. Dates in these certificates are fixed
//! (2016 to 2052, or to 9999) and mean nothing, so they are not looked at.
//!
//! <https://developers.yubico.com/PIV/Introduction/PIV_attestation.html>

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use crate::keyring::account::{Asked, Firmware};
use crate::keyring::public_key::KeyType;
use crate::token::pem;

/// "Yubico PIV Root CA Serial 263751" and "Yubico Attestation Root 1", from
/// <https://developers.yubico.com/PKI/yubico-ca-certs.txt>; their SHA-256 stands in a test below.
const YUBICO_ROOTS: &str = include_str!("roots/yubico-roots.pem");
/// What is between the second root and cards with firmware from 5.7.4 on, and not in the card; from
/// <https://developers.yubico.com/PKI/yubico-intermediate.pem>.
const YUBICO_INTERMEDIATES: &str = include_str!("roots/yubico-intermediates.pem");

/// Most certificates between an attestation and its root.
const DEEPEST: usize = 5;
/// Most certificates, and most bytes of each, that are looked at.
const MOST: (usize, usize) = (8, 4096);

const FIRMWARE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.3");
const SERIAL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.7");
const POLICY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.8");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// What a card attests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The card's serial number; absent where its maker keeps it to himself.
    pub serial: Option<u64>,
    /// Its firmware.
    pub firmware: Firmware,
    /// The slot of the key, for example 0x9a.
    pub slot: u8,
    /// When the key wants the PIN.
    pub pin: Asked,
    /// When the key wants a touch.
    pub touch: Asked,
    /// SHA-256 of the pinned root's certificate.
    pub root: [u8; 32],
}

/// Why an attestation does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// A certificate cannot be read.
    #[error("a certificate of the attestation cannot be read")]
    Malformed,
    /// The attestation is of another key.
    #[error("the attestation is of another key")]
    OtherKey,
    /// One certificate is not signed by the next.
    #[error(
        "the attestation leads to no root that is accepted here: a card of another make, or a certificate that was put in the place of the maker's"
    )]
    Chain,
    /// An extension is missing or has another form.
    #[error("the attestation does not say {0}")]
    Missing(&'static str),
}

/// The roots that attestations may lead to, and what is between.
#[derive(Debug, Clone, Default)]
pub struct Anchors {
    roots: Vec<Certificate>,
    between: Vec<Certificate>,
}

impl Anchors {
    /// Those of Yubico.
    pub fn yubico() -> Self {
        let read = |pem: &str| Certificate::load_pem_chain(pem.as_bytes()).unwrap_or_default();
        Self { roots: read(YUBICO_ROOTS), between: read(YUBICO_INTERMEDIATES) }
    }

    /// Adds the roots of a file in PEM: each is trusted by itself, whoever issued it.
    ///
    /// # Errors
    /// What is wrong with the file; then nothing was added.
    pub fn add(&mut self, file: &[u8]) -> Result<(), String> {
        self.roots.extend(pem::certificates(file)?);
        Ok(())
    }

    /// Verifies the attestation of `spki`: first the certificate of the key, then that of the card, then what else
    /// the card or its maker gave; all in DER.
    ///
    /// # Errors
    /// [`AttestationError`].
    pub fn verify(&self, chain: &[Vec<u8>], spki: &[u8]) -> Result<Attested, AttestationError> {
        let small = chain.len() <= MOST.0 && chain.iter().all(|certificate| certificate.len() <= MOST.1);
        let read = |der: &Vec<u8>| Certificate::from_der(der).map_err(|_| AttestationError::Malformed);
        let given = chain.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let (Some((key, rest)), true) = (given.split_first(), small) else {
            return Err(AttestationError::Malformed);
        };
        let Some((card, others)) = rest.split_first() else { return Err(AttestationError::Malformed) };
        let attested = key.tbs_certificate().subject_public_key_info().to_der();
        if attested.ok().as_deref() != Some(spki) {
            return Err(AttestationError::OtherKey);
        }
        if !is_signed_by(key, card) {
            return Err(AttestationError::Chain);
        }
        let root = self.root_of(card, others).ok_or(AttestationError::Chain)?;
        read_extensions(key, digest(root))
    }

    /// The pinned root that a card's certificate leads to.
    fn root_of<'a>(&'a self, card: &'a Certificate, given: &'a [Certificate]) -> Option<&'a Certificate> {
        let constraints = constraints(card);
        if constraints.as_ref().is_some_and(|constraints| !constraints.ca) {
            return None;
        }
        // The maker may leave out what says that a card's certificate issues. Nobody else may: the certificate
        // of a slot's key looks the same, and its holder can sign anything. So such a card is directly under what is known.
        let given = if constraints.is_some() { given } else { &[] };
        let mut below = card;
        for depth in 1..=DEEPEST {
            if let Some(root) =
                self.roots.iter().find(|root| may_issue(root, depth) && is_signed_by(below, root))
            {
                return Some(root);
            }
            let mut between = self.between.iter().chain(given);
            below = between.find(|issuer| may_issue(issuer, depth) && is_signed_by(below, issuer))?;
        }
        None
    }
}

fn constraints(certificate: &Certificate) -> Option<BasicConstraints> {
    extension(certificate)
}

fn extension<T: for<'a> Decode<'a> + AssociatedOid>(certificate: &Certificate) -> Option<T> {
    let extensions = certificate.tbs_certificate().extensions()?;
    let found = extensions.iter().find(|extension| extension.extn_id == T::OID)?;
    T::from_der(found.extn_value.as_bytes()).ok()
}

/// Whether a certificate may stand over `depth` others that issue (RFC 5280, section 4.2.1.9).
fn may_issue(certificate: &Certificate, depth: usize) -> bool {
    let constraints = constraints(certificate);
    let deep = constraints.as_ref().and_then(|constraints| constraints.path_len_constraint);
    let signs = extension::<KeyUsage>(certificate).is_none_or(|usage| usage.key_cert_sign());
    constraints.is_some_and(|constraints| constraints.ca)
        && deep.is_none_or(|longest| depth <= usize::from(longest))
        && signs
}

fn is_signed_by(certificate: &Certificate, issuer: &Certificate) -> bool {
    let issued = certificate.tbs_certificate().issuer() == issuer.tbs_certificate().subject();
    let key = issuer.tbs_certificate().subject_public_key_info().to_der();
    let (Ok(key), Ok(signed)) = (key, certificate.tbs_certificate().to_der()) else { return false };
    let inside = certificate.tbs_certificate().signature();
    let algorithm = certificate.signature_algorithm();
    let verifier = verifier(&algorithm.oid.to_string(), &key);
    let (Some(verifier), Some(signature)) = (verifier, certificate.signature().as_bytes()) else {
        return false;
    };
    issued && inside == algorithm && UnparsedPublicKey::new(verifier, key).verify(&signed, signature).is_ok()
}

/// RFC 4055, section 5, and RFC 5758, section 3.2.
fn verifier(algorithm: &str, key: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (algorithm, KeyType::of(key).ok()?) {
        ("1.2.840.113549.1.1.11", KeyType::Rsa) => &RSA_PKCS1_2048_8192_SHA256,
        ("1.2.840.113549.1.1.12", KeyType::Rsa) => &RSA_PKCS1_2048_8192_SHA384,
        ("1.2.840.113549.1.1.13", KeyType::Rsa) => &RSA_PKCS1_2048_8192_SHA512,
        ("1.2.840.10045.4.3.2", KeyType::P256) => &ECDSA_P256_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", KeyType::P256) => &ECDSA_P256_SHA384_ASN1,
        ("1.2.840.10045.4.3.2", KeyType::P384) => &ECDSA_P384_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", KeyType::P384) => &ECDSA_P384_SHA384_ASN1,
        _ => return None,
    })
}

fn digest(certificate: &Certificate) -> [u8; 32] {
    certificate.to_der().map_or([0; 32], |der| Sha256::digest(der).into())
}

fn read_extensions(key: &Certificate, root: [u8; 32]) -> Result<Attested, AttestationError> {
    let value = |id: ObjectIdentifier| {
        let extensions = key.tbs_certificate().extensions()?;
        extensions.iter().find(|extension| extension.extn_id == id).map(|found| found.extn_value.as_bytes())
    };
    let firmware = value(FIRMWARE).and_then(|bytes| <[u8; 3]>::try_from(bytes).ok());
    let policy = value(POLICY).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok());
    let [pin, touch] = policy.ok_or(AttestationError::Missing("when the key wants PIN and touch"))?;
    Ok(Attested {
        serial: value(SERIAL).and_then(|bytes| u64::from_der(bytes).ok()),
        firmware: firmware.map(Firmware).ok_or(AttestationError::Missing("which firmware the card has"))?,
        slot: slot(key).ok_or(AttestationError::Missing("which slot the key is in"))?,
        // 1 never, 2 once, 3 always; 1 never, 2 always, 3 cached.
        pin: asked(pin, [Asked::Never, Asked::Once, Asked::Always])?,
        touch: asked(touch, [Asked::Never, Asked::Always, Asked::Once])?,
        root,
    })
}

fn asked(value: u8, meaning: [Asked; 3]) -> Result<Asked, AttestationError> {
    let index = usize::from(value).checked_sub(1);
    let asked = index.and_then(|index| meaning.get(index));
    asked.copied().ok_or(AttestationError::Missing("when the key wants PIN and touch"))
}

/// "YubiKey PIV Attestation 9a".
fn slot(key: &Certificate) -> Option<u8> {
    let name = key.tbs_certificate().subject().iter().find(|attribute| attribute.oid == COMMON_NAME)?;
    let text = std::str::from_utf8(name.value.value()).ok()?;
    u8::from_str_radix(text.strip_prefix("YubiKey PIV Attestation ")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A real chain: the crate `attestation-validator` 0.2.0 (MIT or Apache-2.0) has it among its tests.
    fn real() -> (Vec<Vec<u8>>, Vec<u8>) {
        let pem = [include_str!("fixtures/yubikey-9c.pem"), include_str!("fixtures/yubikey-f9.pem")];
        let chain: Vec<_> =
            pem.iter().flat_map(|pem| Certificate::load_pem_chain(pem.as_bytes()).unwrap()).collect();
        let spki = chain[0].tbs_certificate().subject_public_key_info().to_der().unwrap();
        (chain.iter().map(|certificate| certificate.to_der().unwrap()).collect(), spki)
    }

    #[test]
    fn the_roots_are_those_of_yubico() {
        let anchors = Anchors::yubico();
        let roots: Vec<_> = anchors.roots.iter().map(|root| hex::encode(digest(root))).collect();
        assert_eq!(
            roots,
            [
                "63ece914e54dd87915f34033c85af4c0696ba1512f8add66ced738331207b546",
                "62760c6a6ef91679f454c8902b80fd009825b3f25da90f1fbace2ec6586cd5a8"
            ]
        );
        // Each intermediate leads to the second one.
        assert_eq!(anchors.between.len(), 5);
        for between in &anchors.between {
            let root = anchors.root_of(between, &[]).unwrap();
            assert_eq!(hex::encode(digest(root)), roots[1], "{:?}", between.tbs_certificate().subject());
        }
    }

    #[test]
    fn a_real_card_is_attested() {
        let (chain, spki) = real();
        let attested = Anchors::yubico().verify(&chain, &spki).unwrap();
        assert_eq!(
            (attested.serial, attested.firmware, attested.slot),
            (Some(0xeb_5403), Firmware([5, 2, 7]), 0x9c)
        );
        assert_eq!((attested.pin, attested.touch), (Asked::Always, Asked::Never));
    }

    #[test]
    fn another_key_another_root_and_another_order_are_refused() {
        let (chain, spki) = real();
        let anchors = Anchors::yubico();
        let other = crate::keyring::public_key::tests::one_of_each()[0].1.clone();
        assert_eq!(anchors.verify(&chain, &other), Err(AttestationError::OtherKey));
        assert_eq!(Anchors::default().verify(&chain, &spki), Err(AttestationError::Chain));
        let newer = Anchors { roots: anchors.roots[1..].to_vec(), between: anchors.between.clone() };
        assert_eq!(newer.verify(&chain, &spki), Err(AttestationError::Chain));
        assert_eq!(anchors.verify(&chain[..1], &spki), Err(AttestationError::Malformed));
        assert_eq!(anchors.verify(&[], &spki), Err(AttestationError::Malformed));
        let swapped = [chain[1].clone(), chain[0].clone()];
        assert_eq!(anchors.verify(&swapped, &spki), Err(AttestationError::OtherKey));
        // The card's own certificate is no attestation of its key.
        let f9 = Certificate::from_der(&chain[1]).unwrap();
        let of_f9 = f9.tbs_certificate().subject_public_key_info().to_der().unwrap();
        let twice = [chain[1].clone(), chain[1].clone()];
        assert_eq!(anchors.verify(&twice, &of_f9), Err(AttestationError::Chain));
        assert_eq!(anchors.verify(&vec![chain[0].clone(); 9], &spki), Err(AttestationError::Malformed));
    }

    /// Whoever holds a card can have the key of a slot sign the certificate of any other key. Made with OpenSSL: the
    /// certificate of a key by that of a slot, by that of a card without a limit of depth, by a root.
    #[test]
    fn a_key_that_is_attested_attests_to_no_other() {
        let pem = include_str!("fixtures/slot-that-issues.pem");
        let mut chain = Certificate::load_pem_chain(pem.as_bytes()).unwrap();
        let anchors = Anchors { roots: vec![chain.pop().unwrap()], between: Vec::new() };
        let spki = |of: &Certificate| of.tbs_certificate().subject_public_key_info().to_der().unwrap();
        let der: Vec<_> = chain.iter().map(|certificate| certificate.to_der().unwrap()).collect();
        assert_eq!(anchors.verify(&der, &spki(&chain[0])), Err(AttestationError::Chain));
        assert_eq!(anchors.verify(&der[1..], &spki(&chain[1])).unwrap().slot, 0x9a);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        let (chain, spki) = real();
        let anchors = Anchors::yubico();
        for (number, certificate) in chain.iter().enumerate() {
            for at in 0..certificate.len() {
                let mut changed = chain.clone();
                changed[number][at] ^= 1 << (at % 8);
                assert!(anchors.verify(&changed, &spki).is_err(), "certificate {number}, byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
            prop_assert!(Anchors::yubico().verify(&chain, &[]).is_err());
        }
    }
}
