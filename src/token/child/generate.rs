//! New key pairs, made in the token and never leaving it.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};

use super::module::failed;
use super::session::Open;
use crate::keyring::credential::TokenAlgorithm;
use crate::keyring::public_key::KeyType;
use crate::token::error::TokenError;
use crate::token::wire::{KeySelector, KeyUse, NewKey, TokenKey};

/// Bits of a new RSA key.
const RSA_BITS: u64 = 3072;

/// Makes a key pair. A second one of the same name is not made.
pub(super) fn generate(open: &Open, new: &NewKey) -> Result<TokenKey, TokenError> {
    let same = |key: &TokenKey| key.label == new.label || key.id == new.id;
    if open.keys()?.iter().any(same) {
        return Err(TokenError::Key(format!("the token has a key {:?} already", new.label)));
    }
    let (mechanism, kind) = shape(key_type(new));
    let agrees = new.key_use == KeyUse::Agree;
    let both =
        [Attribute::Token(true), Attribute::Id(new.id.clone()), Attribute::Label(new.label.clone().into())];
    let public = [
        &both[..],
        &kind,
        &[Attribute::Private(false), Attribute::Verify(!agrees), Attribute::Derive(agrees)],
    ]
    .concat();
    let private = [
        &both[..],
        &[
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(!agrees),
            Attribute::Derive(agrees),
        ],
    ]
    .concat();
    let (public, private) = open
        .session()
        .generate_key_pair(&mechanism, &public, &private)
        .map_err(|error| failed("make a key pair", &error))?;
    check(open, private, new).inspect_err(|_| {
        // What cannot be used must not stay; when it does, the error says its name.
        open.session().destroy_object(public).ok();
        open.session().destroy_object(private).ok();
    })
}

fn key_type(new: &NewKey) -> KeyType {
    match new.key_use {
        KeyUse::Sign | KeyUse::Login => new.algorithm.key_type(),
        KeyUse::Agree => TokenAlgorithm::EcdsaP256Sha256.key_type(),
    }
}

/// How keys of a type are made, and what must be said of them.
fn shape(key_type: KeyType) -> (Mechanism<'static>, Vec<Attribute>) {
    let curve = |params: &[u8]| vec![Attribute::EcParams(params.to_vec())];
    match key_type {
        KeyType::P256 => (Mechanism::EccKeyPairGen, curve(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07")),
        KeyType::P384 => (Mechanism::EccKeyPairGen, curve(b"\x06\x05\x2b\x81\x04\x00\x22")),
        KeyType::Ed25519 => (Mechanism::EccEdwardsKeyPairGen, curve(b"\x06\x03\x2b\x65\x70")),
        KeyType::Rsa => (
            Mechanism::RsaPkcsKeyPairGen,
            vec![Attribute::ModulusBits(RSA_BITS.into()), Attribute::PublicExponent(vec![1, 0, 1])],
        ),
    }
}

/// The new key, as the token shows it: with its public half, and not to be read.
fn check(open: &Open, private: ObjectHandle, new: &NewKey) -> Result<TokenKey, TokenError> {
    let asked = [AttributeType::Sensitive, AttributeType::Extractable];
    let shown = open.session().get_attributes(private, &asked);
    let shown = shown.map_err(|error| failed("show the new key", &error))?;
    if shown.contains(&Attribute::Sensitive(false)) || shown.contains(&Attribute::Extractable(true)) {
        return Err(TokenError::Failed(
            "the token gives its private keys away: it cannot be used".to_owned(),
        ));
    }
    let found = open.key(&KeySelector::Id(new.id.clone()), new.key_use)?;
    match found.key.spki.as_deref().map(KeyType::of) {
        Some(Ok(made)) if made == key_type(new) => Ok(found.key),
        _ => {
            Err(TokenError::Failed(format!("the token shows no public key for the new key {:?}", new.label)))
        }
    }
}
