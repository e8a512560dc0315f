//! Key custodians: named people with a token each.

use minicbor::{Decode, Encode};
use x509_cert::Certificate as ParsedCertificate;
use x509_cert::der::{self, Decode as _, Encode as _};

use super::credential::Credential;
use super::public_key::{KeyType, PublicKeyError, bare_key, spki_of_point};
use crate::id::CustodianId;

pub mod card;

pub use card::{CardError, CustodianCard};

/// Why keys, a certificate and a name make no custodian.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CustodianError {
    /// One key for both purposes.
    #[error("the key that signs and the key that agrees must be two different keys")]
    OneKey,
    /// The certificate is about another key.
    #[error("the certificate is not of the key that signs")]
    Certificate,
}

/// A key of a custodian's token that agrees on secrets (ECDH on P-256): shares are encrypted to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode)]
#[cbor(transparent)]
pub struct AgreementKey(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>);

impl AgreementKey {
    /// Bytes of its point, uncompressed.
    pub const POINT: usize = 65;

    /// Checks and takes a public key (SubjectPublicKeyInfo in DER).
    ///
    /// # Errors
    /// [`PublicKeyError`] unless it is canonical and a valid point of P-256.
    pub fn new(spki: Vec<u8>) -> Result<Self, PublicKeyError> {
        KeyType::P256.require(&spki)?;
        Ok(Self(spki))
    }

    /// The key of an uncompressed point (SEC 1, section 2.3.3).
    ///
    /// # Errors
    /// [`PublicKeyError`] unless it is a valid point of P-256.
    pub fn of_point(point: &[u8]) -> Result<Self, PublicKeyError> {
        Self::new(spki_of_point(KeyType::P256, point)?)
    }

    /// The public key: SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.0
    }

    /// The point: 4, x and y.
    pub fn point(&self) -> [u8; Self::POINT] {
        let point = bare_key(&self.0).and_then(|point| point.try_into().ok());
        // Checked when it was made: an uncompressed point of P-256.
        point.unwrap_or_else(|| unreachable!())
    }
}

impl<'b, C> Decode<'b, C> for AgreementKey {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::new(d.bytes()?.to_vec()).map_err(minicbor::decode::Error::custom)
    }
}

/// An X.509 certificate, in DER as its issuer has written it. Nothing is said of who issued it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode)]
#[cbor(transparent)]
pub struct Certificate(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>);

impl Certificate {
    /// Most bytes of a certificate.
    pub const LONGEST: usize = 16 << 10;

    /// Checks and takes a certificate in DER.
    ///
    /// # Errors
    /// The parser's, when the bytes are no certificate or too many.
    pub fn new(certificate: Vec<u8>) -> Result<Self, der::Error> {
        if certificate.len() > Self::LONGEST {
            return Err(der::ErrorKind::Overlength.into());
        }
        ParsedCertificate::from_der(&certificate)?;
        Ok(Self(certificate))
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is about this public key.
    pub fn is_of(&self, spki: &[u8]) -> bool {
        let parsed = ParsedCertificate::from_der(&self.0);
        let key = parsed.and_then(|parsed| parsed.tbs_certificate().subject_public_key_info().to_der());
        key.is_ok_and(|key| key == spki)
    }
}

impl<'b, C> Decode<'b, C> for Certificate {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::new(d.bytes()?.to_vec()).map_err(minicbor::decode::Error::custom)
    }
}

/// A custodian: a name, and the two keys of the token that the person holds.
#[derive(Debug, Clone, PartialEq, Eq, Encode)]
#[cbor(map)]
pub struct Custodian {
    #[n(1)]
    name: CustodianId,
    #[n(2)]
    signing: Credential,
    #[n(3)]
    agreement: AgreementKey,
    #[n(4)]
    certificate: Option<Certificate>,
}

/// A custodian as it is read, before it is checked.
#[derive(Decode)]
#[cbor(map)]
struct Unchecked {
    #[n(1)]
    name: CustodianId,
    #[n(2)]
    signing: Credential,
    #[n(3)]
    agreement: AgreementKey,
    #[n(4)]
    certificate: Option<Certificate>,
}

impl Custodian {
    /// Puts a custodian together.
    ///
    /// # Errors
    /// [`CustodianError`] when one key does both, or the certificate is of another key than `signing`.
    pub fn new(
        name: CustodianId,
        signing: Credential,
        agreement: AgreementKey,
        certificate: Option<Certificate>,
    ) -> Result<Self, CustodianError> {
        if signing.spki() == agreement.spki() {
            return Err(CustodianError::OneKey);
        }
        if certificate.as_ref().is_some_and(|certificate| !certificate.is_of(signing.spki())) {
            return Err(CustodianError::Certificate);
        }
        Ok(Self { name, signing, agreement, certificate })
    }

    /// The name on the roster.
    pub fn name(&self) -> &CustodianId {
        &self.name
    }

    /// The key that signs approvals.
    pub fn signing(&self) -> &Credential {
        &self.signing
    }

    /// The key that shares are encrypted to.
    pub fn agreement(&self) -> &AgreementKey {
        &self.agreement
    }

    /// The certificate of the key that signs, where there is one.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }
}

impl<'b, C> Decode<'b, C> for Custodian {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        let Unchecked { name, signing, agreement, certificate } = Decode::decode(d, ctx)?;
        Self::new(name, signing, agreement, certificate).map_err(minicbor::decode::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::credential::{TokenAlgorithm, TokenKind};
    use super::super::public_key::tests::one_of_each;
    use super::*;

    fn p256() -> Vec<u8> {
        one_of_each()[0].1.clone()
    }

    fn signing(spki: Vec<u8>) -> Credential {
        Credential::new(TokenKind::Pkcs11, TokenAlgorithm::EcdsaP256Sha256, spki).unwrap()
    }

    #[test]
    fn a_custodian_has_two_keys() {
        let (name, spki) = (CustodianId::new("alice").unwrap(), p256());
        let agreement = AgreementKey::new(spki.clone()).unwrap();
        let one_key = Custodian::new(name.clone(), signing(spki), agreement.clone(), None);
        assert_eq!(one_key, Err(CustodianError::OneKey));
        let alice = Custodian::new(name, signing(p256()), agreement, None).unwrap();
        let bytes = minicbor::to_vec(&alice).unwrap();
        assert_eq!(minicbor::decode::<Custodian>(&bytes).unwrap(), alice);
    }

    #[test]
    fn a_record_with_one_key_is_refused_when_it_is_read() {
        let (name, spki) = (CustodianId::new("alice").unwrap(), p256());
        let agreement = AgreementKey::new(spki.clone()).unwrap();
        let forged = Custodian { name, signing: signing(spki), agreement, certificate: None };
        let bytes = minicbor::to_vec(&forged).unwrap();
        assert!(minicbor::decode::<Custodian>(&bytes).is_err());
    }

    #[test]
    fn an_agreement_key_is_a_point_of_p256() {
        for (key_type, spki) in one_of_each() {
            assert_eq!(AgreementKey::new(spki).is_ok(), key_type == KeyType::P256);
        }
        let key = AgreementKey::new(p256()).unwrap();
        assert_eq!(AgreementKey::of_point(&key.point()), Ok(key));
        assert!(AgreementKey::of_point(&[4; 65]).is_err());
        assert!(AgreementKey::of_point(&[]).is_err());
    }

    #[test]
    fn no_certificate_is_taken_for_one() {
        assert!(Certificate::new(Vec::new()).is_err());
        assert!(Certificate::new(p256()).is_err());
        assert!(Certificate::new(vec![0; Certificate::LONGEST + 1]).is_err());
    }
}
