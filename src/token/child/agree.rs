//! Agreeing on secrets: ECDH on P-256 (NIST SP 800-56A, section 5.7.1.2).

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use cryptoki::session::Session;
use x509_cert::der::Encode;
use x509_cert::der::asn1::OctetStringRef;
use zeroize::Zeroizing;

use super::module::failed;
use super::objects::Found;
use crate::keyring::custodian::AgreementKey;
use crate::secret::Key256;
use crate::token::error::TokenError;

/// The x-coordinate that key and point share.
pub(super) fn agree(session: &Session, found: &Found, peer: &AgreementKey) -> Result<Key256, TokenError> {
    let raw = peer.point();
    // The standard says raw; some tokens want what stands in CKA_EC_POINT.
    derive(session, found, &raw)
        .or_else(|first| {
            let wrapped = OctetStringRef::new(&raw).and_then(|point| point.to_der());
            wrapped.map_or(Err(first), |wrapped| derive(session, found, &wrapped))
        })
        .map_err(|error| failed("agree on a secret", &error))?
        .ok_or_else(|| {
            TokenError::Failed("the token keeps the secret that it agreed on, or has cut it".to_owned())
        })
}

fn derive(session: &Session, found: &Found, point: &[u8]) -> Result<Option<Key256>, Error> {
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point));
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::ValueLen(32.into()),
    ];
    let secret = session.derive_key(&mechanism, found.handle, &template)?;
    let given = session.get_attributes(secret, &[AttributeType::Value]);
    // It dies with the session at the latest.
    session.destroy_object(secret).ok();
    let value = given?.into_iter().find_map(|attribute| match attribute {
        Attribute::Value(value) => Some(Zeroizing::new(value)),
        _ => None,
    });
    Ok(value.and_then(|value| Key256::from_slice(&value)))
}
