//! Keys on a token, and their public halves.
//!
//! Tokens differ in where they keep a public key: in an object of its own, in a certificate, or
//! with the private key. What belongs together has the same CKA_ID; several public keys under
//! one are no reason to guess.

use cryptoki::object::{Attribute, AttributeType, CertificateType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use x509_cert::Certificate;
use x509_cert::der::asn1::OctetStringRef;
use x509_cert::der::{Decode, Encode};

use super::module::failed;
use crate::keyring::public_key::{KeyType, spki_of_point, spki_of_rsa};
use crate::token::error::TokenError;
use crate::token::wire::TokenKey;

/// A private key, and what belongs to it.
pub(super) struct Found {
    pub(super) handle: ObjectHandle,
    pub(super) key: TokenKey,
    /// It asks for the PIN at each use.
    pub(super) always_authenticate: bool,
}

/// What was asked of objects.
const ASKED: [AttributeType; 11] = [
    AttributeType::Id,
    AttributeType::Label,
    AttributeType::Sign,
    AttributeType::Verify,
    AttributeType::Derive,
    AttributeType::KeyType,
    AttributeType::EcParams,
    AttributeType::EcPoint,
    AttributeType::Modulus,
    AttributeType::PublicExponent,
    AttributeType::AlwaysAuthenticate,
];

/// The attributes of an object, as far as they are of use.
#[derive(Default)]
struct Attributes {
    id: Vec<u8>,
    label: String,
    sign: bool,
    verify: bool,
    derive: bool,
    params: Vec<u8>,
    point: Vec<u8>,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    value: Vec<u8>,
    always_authenticate: bool,
}

impl Attributes {
    fn of(session: &Session, object: ObjectHandle, asked: &[AttributeType]) -> Result<Self, TokenError> {
        let given = session.get_attributes(object, asked).map_err(|error| failed("show a key", &error))?;
        let mut attributes = Self::default();
        given.into_iter().for_each(|attribute| attributes.take(attribute));
        Ok(attributes)
    }

    fn take(&mut self, attribute: Attribute) {
        match attribute {
            Attribute::Id(id) => self.id = id,
            Attribute::Label(label) => self.label = String::from_utf8_lossy(&label).into_owned(),
            Attribute::Sign(sign) => self.sign = sign,
            Attribute::Verify(verify) => self.verify = verify,
            Attribute::Derive(derive) => self.derive = derive,
            Attribute::EcParams(params) => self.params = params,
            Attribute::EcPoint(point) => self.point = point,
            Attribute::Modulus(modulus) => self.modulus = modulus,
            Attribute::PublicExponent(exponent) => self.exponent = exponent,
            Attribute::Value(value) => self.value = value,
            Attribute::AlwaysAuthenticate(always) => self.always_authenticate = always,
            _ => {}
        }
    }

    /// The public key in them, if it is one that is used here.
    fn spki(&self) -> Option<Vec<u8>> {
        let spki = match curve(&self.params) {
            Some(curve) => spki_of_point(curve, point(&self.point)),
            None if self.modulus.is_empty() => return None,
            None => spki_of_rsa(&self.modulus, &self.exponent),
        };
        spki.ok().filter(|spki| KeyType::of(spki).is_ok())
    }

    fn key(self, signs: bool, spki: Option<Vec<u8>>, certificate: Option<Vec<u8>>) -> TokenKey {
        TokenKey {
            agrees: self.derive,
            id: self.id,
            label: self.label,
            signs,
            spki,
            certificate,
            policy: None,
        }
    }
}

/// The curves of CKA_EC_PARAMS: by object identifier, or by name (PKCS#11 3.0, section 2.3.10).
fn curve(params: &[u8]) -> Option<KeyType> {
    const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
    const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";
    const ED25519_NAME: &[u8] = b"\x13\x0cedwards25519";
    match params {
        P256 => Some(KeyType::P256),
        P384 => Some(KeyType::P384),
        ED25519 | ED25519_NAME => Some(KeyType::Ed25519),
        _ => None,
    }
}

/// CKA_EC_POINT is an OCTET STRING around the point; some tokens leave it out. A bare point (65, 97 or 32
/// bytes) may read as such a string by chance; none of those is a point then.
fn point(value: &[u8]) -> &[u8] {
    match value.len() {
        65 | 97 | 32 => value,
        _ => <&OctetStringRef>::from_der(value).map_or(value, OctetStringRef::as_bytes),
    }
}

/// The public keys and certificates of a token, as everybody sees them.
pub(super) fn public_keys(session: &Session) -> Result<Vec<TokenKey>, TokenError> {
    let certificates = certificates(session)?;
    let mut keys = Vec::new();
    for object in find(session, ObjectClass::PUBLIC_KEY)? {
        let public = Attributes::of(session, object, &ASKED)?;
        let (signs, spki) = (public.verify, public.spki());
        let certificate = certificate_of(&certificates, &public.id);
        keys.push(public.key(signs, spki, certificate));
    }
    for certificate in certificates {
        // OpenSC shows no public key beside a certificate.
        if !keys.iter().any(|key: &TokenKey| key.id == certificate.id) {
            let (spki, value) = (certified_key(&certificate.value), Some(certificate.value.clone()));
            keys.push(certificate.key(true, spki, value));
        }
    }
    Ok(keys)
}

/// The private keys of a token that is logged in to.
pub(super) fn private_keys(session: &Session) -> Result<Vec<Found>, TokenError> {
    let certificates = certificates(session)?;
    let mut publics = Vec::new();
    for object in find(session, ObjectClass::PUBLIC_KEY)? {
        publics.push(Attributes::of(session, object, &ASKED)?);
    }
    let mut keys = Vec::new();
    for handle in find(session, ObjectClass::PRIVATE_KEY)? {
        let private = Attributes::of(session, handle, &ASKED)?;
        let certificate = certificate_of(&certificates, &private.id);
        let spki = public_half(&private, &publics, certificate.as_deref());
        let (signs, always_authenticate) = (private.sign, private.always_authenticate);
        keys.push(Found { handle, key: private.key(signs, spki, certificate), always_authenticate });
    }
    Ok(keys)
}

/// The one public key that belongs to a private one: `None` when there is none, or two.
fn public_half(private: &Attributes, publics: &[Attributes], certificate: Option<&[u8]>) -> Option<Vec<u8>> {
    let belongs = |public: &&Attributes| match private.id.is_empty() {
        true => public.id.is_empty() && public.label == private.label,
        false => public.id == private.id,
    };
    let mut halves: Vec<Vec<u8>> = publics.iter().filter(belongs).filter_map(Attributes::spki).collect();
    halves.extend(certificate.and_then(certified_key));
    halves.extend(private.spki());
    halves.dedup();
    halves.pop().filter(|_| halves.is_empty())
}

fn certificates(session: &Session) -> Result<Vec<Attributes>, TokenError> {
    let asked = [AttributeType::Id, AttributeType::Label, AttributeType::Value];
    let wanted =
        [Attribute::Class(ObjectClass::CERTIFICATE), Attribute::CertificateType(CertificateType::X_509)];
    let found = session.find_objects(&wanted).map_err(|error| failed("list its certificates", &error))?;
    found.into_iter().map(|object| Attributes::of(session, object, &asked)).collect()
}

fn certificate_of(certificates: &[Attributes], id: &[u8]) -> Option<Vec<u8>> {
    let found = certificates.iter().find(|certificate| !id.is_empty() && certificate.id == id);
    found.map(|certificate| certificate.value.clone())
}

fn certified_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let spki = parsed.tbs_certificate().subject_public_key_info().to_der().ok()?;
    KeyType::of(&spki).is_ok().then_some(spki)
}

fn find(session: &Session, class: ObjectClass) -> Result<Vec<ObjectHandle>, TokenError> {
    session.find_objects(&[Attribute::Class(class)]).map_err(|error| failed("list its keys", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_point_is_taken_as_it_is() {
        for length in [65u8, 97, 32] {
            // Each reads as an OCTET STRING of two bytes less.
            let mut bare = vec![7; usize::from(length)];
            (bare[0], bare[1]) = (4, length - 2);
            assert_eq!(point(&bare), bare);
            let wrapped = [&[4, length], &bare[..]].concat();
            assert_eq!(point(&wrapped), bare);
        }
    }
}
