//! What takes the card's management key: new keys, and certificates beside them.

use std::time::Duration;

use keyward::keyring::credential::TokenAlgorithm;
use keyward::secret::{Key256, SecretBytes};
use keyward::token::error::TokenError;
use keyward::token::wire::{Asked, KeyUse, NewKey, TokenKey};
use p256::ecdsa::{DerSignature, SigningKey};
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder, Result as Built};
use x509_cert::certificate::TbsCertificate;
use x509_cert::ext::Extension;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::Validity;
use yubikey::certificate::CertInfo;
use yubikey::piv::{AlgorithmId, ManagementSlotId, SlotAlgorithmId, SlotId};
use yubikey::{Error, MgmAlgorithmId, MgmKey, PinPolicy, TouchPolicy, YubiKey, piv};

use crate::slots;
use crate::trouble::failed;

/// The management key of the factory, the same on every card.
const FACTORY: [u8; 24] = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];
/// Certificates say what is in a slot; what counts is on record elsewhere.
const VALID: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// Proves the management key to the card; an empty one is that of the factory.
pub(crate) fn authenticate(card: &mut YubiKey, key: &SecretBytes) -> Result<(), TokenError> {
    let bytes = if key.is_empty() { &FACTORY[..] } else { key.expose() };
    let refused = || TokenError::Refused("the card has another management key".to_owned());
    let algorithm = management_algorithm(card)?;
    let key = MgmKey::from_bytes(bytes, Some(algorithm)).map_err(|_| refused())?;
    card.authenticate(&key).map_err(|error| match error {
        Error::AuthenticationError => refused(),
        other => failed("take its management key", other),
    })
}

/// The card says it from firmware 5.3 on; before, there was only one.
fn management_algorithm(card: &mut YubiKey) -> Result<MgmAlgorithmId, TokenError> {
    match piv::metadata(card, SlotId::Management(ManagementSlotId::Management)) {
        Ok(metadata) => match metadata.algorithm {
            SlotAlgorithmId::Management(algorithm) => Ok(algorithm),
            _ => Err(failed("say what its management key is", Error::ParseError)),
        },
        Err(Error::NotSupported | Error::GenericError) => Ok(MgmAlgorithmId::ThreeDes),
        Err(error) => Err(failed("say what its management key is", error)),
    }
}

/// Makes a key in the slot of its use, and writes a certificate beside it, without which other programs
/// see no key.
pub(crate) fn generate(card: &mut YubiKey, new: &NewKey) -> Result<TokenKey, TokenError> {
    let asked = new.piv.ok_or_else(|| TokenError::Refused("nothing was said of PIN and touch".to_owned()))?;
    let number = new.key_use.piv_slot();
    let slot = SlotId::try_from(number).map_err(|error| failed("make a key", error))?;
    if !asked.replace && slots::is_occupied(card, slot) {
        return Err(TokenError::Key(format!("slot {number:02x} has a key already; --replace destroys it")));
    }
    let made = piv::generate(
        card,
        slot,
        algorithm(new),
        pin_policy(asked.policy.pin),
        touch_policy(asked.policy.touch),
    );
    let public = made.map_err(|error| match error {
        Error::AuthenticationError => {
            TokenError::Refused("the card wants its management key before it makes a key".to_owned())
        }
        Error::AlgorithmError => {
            TokenError::Refused("the card cannot make such a key, or not with this policy".to_owned())
        }
        other => failed("make a key", other),
    })?;
    let certificate = certificate(&new.label, public).map_err(|error| {
        TokenError::Failed(format!("the key was made, but no certificate for it: {error}"))
    })?;
    let certificate = yubikey::Certificate { cert: certificate };
    let written = certificate.write(card, slot, CertInfo::Uncompressed);
    written.map_err(|error| failed("keep a certificate beside its new key", error))?;
    let found = slots::key(card, slot)?.ok_or_else(|| failed("show its new key", Error::NotFound))?;
    Ok(found.key)
}

fn algorithm(new: &NewKey) -> AlgorithmId {
    match (new.key_use, new.algorithm) {
        (KeyUse::Agree, _) | (_, TokenAlgorithm::EcdsaP256Sha256) => AlgorithmId::EccP256,
        (_, TokenAlgorithm::EcdsaP384Sha384) => AlgorithmId::EccP384,
        (_, TokenAlgorithm::Ed25519) => AlgorithmId::Ed25519,
        (_, TokenAlgorithm::RsaPssSha256 | TokenAlgorithm::RsaPkcs1Sha256) => AlgorithmId::Rsa2048,
    }
}

fn pin_policy(asked: Asked) -> PinPolicy {
    match asked {
        // Nothing that Keyward signs is signed without a PIN.
        Asked::Never | Asked::Once => PinPolicy::Once,
        Asked::Always => PinPolicy::Always,
    }
}

fn touch_policy(asked: Asked) -> TouchPolicy {
    match asked {
        Asked::Never => TouchPolicy::Never,
        Asked::Once => TouchPolicy::Cached,
        Asked::Always => TouchPolicy::Always,
    }
}

/// A certificate that only says which key is in the slot, by an issuer whose key is forgotten at once:
/// one by the key itself would take another touch, and prove nothing more.
fn certificate(label: &str, public: SubjectPublicKeyInfoOwned) -> Result<x509_cert::Certificate, String> {
    let secret =
        Key256::try_init_with(|secret| getrandom::fill(secret)).map_err(|error| error.to_string())?;
    let issuer = SigningKey::from_slice(secret.expose()).map_err(|error| error.to_string())?;
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| error.to_string())?;
    let serial = SerialNumber::new(&serial).map_err(|error| error.to_string())?;
    let validity = Validity::from_now(VALID).map_err(|error| error.to_string())?;
    let subject =
        format!("CN={}", escaped(label)).parse().map_err(|error: x509_cert::der::Error| error.to_string())?;
    let builder = CertificateBuilder::new(Bare { subject }, serial, validity, public);
    let made = builder.and_then(|builder| builder.build::<_, DerSignature>(&issuer));
    made.map_err(|error| error.to_string())
}

/// A value of a name as text (RFC 4514, section 2.4).
fn escaped(label: &str) -> String {
    label
        .chars()
        .flat_map(|c| (!c.is_ascii_alphanumeric() && c != ' ').then_some('\\').into_iter().chain([c]))
        .collect()
}

/// No extensions: it is for nothing.
struct Bare {
    subject: Name,
}

impl BuilderProfile for Bare {
    fn get_issuer(&self, _: &Name) -> Name {
        self.subject.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> Built<Vec<Extension>> {
        Ok(Vec::new())
    }
}
