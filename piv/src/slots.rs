//! What is in the slots of a card.

use keyward::keyring::public_key::KeyType;
use keyward::token::error::TokenError;
use keyward::token::wire::{Asked, KeyPolicy, TokenKey};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use yubikey::piv::{AlgorithmId, SlotId};
use yubikey::{Error, PinPolicy, TouchPolicy, YubiKey, piv};

use crate::trouble::failed;

/// 9A, 9C, 9D and the 20 slots of retired keys (NIST SP 800-73-4, part 1, table 4b).
const SLOTS: [u8; 23] = [
    0x9a, 0x9c, 0x9d, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f,
    0x90, 0x91, 0x92, 0x93, 0x94, 0x95,
];

/// A key in a slot.
pub(crate) struct SlotKey {
    /// The slot.
    pub(crate) slot: SlotId,
    /// How the card computes with it.
    pub(crate) algorithm: AlgorithmId,
    /// What everybody may know of it.
    pub(crate) key: TokenKey,
}

/// The keys of a card.
///
/// # Errors
/// [`TokenError`] when it was pulled out: that is no card without keys.
pub(crate) fn keys(card: &mut YubiKey) -> Result<Vec<SlotKey>, TokenError> {
    let mut found = Vec::new();
    for slot in SLOTS.iter().filter_map(|slot| SlotId::try_from(*slot).ok()) {
        found.extend(key(card, slot)?);
    }
    Ok(found)
}

/// The key of one slot; `None` when there is none, or one that is not used here.
///
/// # Errors
/// As [`keys`].
pub(crate) fn key(card: &mut YubiKey, slot: SlotId) -> Result<Option<SlotKey>, TokenError> {
    let read = yubikey::Certificate::read(card, slot);
    let certificate = told(read)?.map(|certificate| certificate.cert);
    // Cards from before firmware 5.3 tell of nothing but their certificates.
    let metadata = told(piv::metadata(card, slot))?;
    Ok(described(slot, certificate, metadata))
}

/// What a card tells; `None` where it has nothing to tell.
fn told<T>(answer: Result<T, Error>) -> Result<Option<T>, TokenError> {
    match answer {
        Ok(told) => Ok(Some(told)),
        Err(error @ Error::PcscError { .. }) => Err(failed("show its keys", error)),
        Err(_) => Ok(None),
    }
}

fn described(
    slot: SlotId,
    certificate: Option<Certificate>,
    metadata: Option<piv::SlotMetadata>,
) -> Option<SlotKey> {
    let told = metadata.as_ref().and_then(|metadata| metadata.public.as_ref()?.to_der().ok());
    let certified = || certificate.as_ref()?.tbs_certificate().subject_public_key_info().to_der().ok();
    let spki = told.or_else(certified)?;
    let algorithm = algorithm(&spki)?;
    let number = u8::from(slot);
    let agrees = number != 0x9a && number != 0x9c && algorithm == AlgorithmId::EccP256;
    let key = TokenKey {
        id: vec![number],
        label: certificate.as_ref().and_then(common_name).unwrap_or_else(|| format!("PIV {number:02x}")),
        signs: number != 0x9d,
        agrees,
        spki: Some(spki),
        certificate: certificate.and_then(|certificate| certificate.to_der().ok()),
        policy: metadata.and_then(|metadata| metadata.policy).map(policy),
    };
    Some(SlotKey { slot, algorithm, key })
}

/// Whether a slot has a key or a certificate; so it is taken when the card does not say that it has none.
pub(crate) fn is_occupied(card: &mut YubiKey, slot: SlotId) -> bool {
    let key = match piv::metadata(card, slot) {
        Ok(_) => true,
        Err(Error::NotFound) => false,
        // Firmware before 5.3 has no such question, but attests to the keys that it made; imported ones show in
        // their certificates only.
        Err(Error::NotSupported) => piv::attest(card, slot).is_ok(),
        Err(_) => true,
    };
    key || !matches!(yubikey::Certificate::read(card, slot), Err(Error::NotFound | Error::InvalidObject))
}

fn common_name(certificate: &Certificate) -> Option<String> {
    const COMMON_NAME: &str = "2.5.4.3";
    let subject = certificate.tbs_certificate().subject();
    let name = subject.iter().find(|attribute| attribute.oid.to_string() == COMMON_NAME)?;
    let text = name.value.to_der().ok()?;
    let text = x509_cert::der::asn1::AnyRef::from_der(&text).ok()?;
    std::str::from_utf8(text.value()).ok().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// How a card computes with a public key's other half; `None` for kinds that are not used here.
pub(crate) fn algorithm(spki: &[u8]) -> Option<AlgorithmId> {
    match KeyType::of(spki).ok()? {
        KeyType::P256 => Some(AlgorithmId::EccP256),
        KeyType::P384 => Some(AlgorithmId::EccP384),
        KeyType::Ed25519 => Some(AlgorithmId::Ed25519),
        KeyType::Rsa => match modulus_bytes(spki)? {
            256 => Some(AlgorithmId::Rsa2048),
            384 => Some(AlgorithmId::Rsa3072),
            512 => Some(AlgorithmId::Rsa4096),
            _ => None,
        },
    }
}

/// Bytes of an RSA modulus.
pub(crate) fn modulus_bytes(spki: &[u8]) -> Option<usize> {
    let info = x509_cert::spki::SubjectPublicKeyInfoRef::from_der(spki).ok()?;
    let sequence = x509_cert::der::asn1::AnyRef::from_der(info.subject_public_key.as_bytes()?).ok()?;
    // RSAPublicKey (RFC 8017, appendix A.1.1): the modulus, then the exponent.
    let mut reader = x509_cert::der::SliceReader::new(sequence.value()).ok()?;
    let modulus = x509_cert::der::asn1::UintRef::decode(&mut reader).ok()?;
    Some(modulus.as_bytes().len())
}

fn policy((pin, touch): (PinPolicy, TouchPolicy)) -> KeyPolicy {
    KeyPolicy {
        pin: match pin {
            PinPolicy::Never => Asked::Never,
            PinPolicy::Always => Asked::Always,
            PinPolicy::Once | PinPolicy::Default => Asked::Once,
        },
        touch: match touch {
            TouchPolicy::Never | TouchPolicy::Default => Asked::Never,
            TouchPolicy::Cached => Asked::Once,
            TouchPolicy::Always => Asked::Always,
        },
    }
}
