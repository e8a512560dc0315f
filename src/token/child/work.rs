//! What is done with an open token: which key is meant, what it may sign, and whether the answer is right.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree as agree_here};
use subtle::ConstantTimeEq;

use crate::keyring::credential::{CredentialId, TokenAlgorithm};
use crate::keyring::custodian::AgreementKey;
use crate::secret::Key256;
use crate::token::backend::OpenToken;
use crate::token::envelope::Envelope;
use crate::token::error::TokenError;
use crate::token::verify::{check, normalise};
use crate::token::wire::{Attestation, KeySelector, KeyUse, TokenKey};

/// The private keys of a token.
pub(super) fn keys<O: OpenToken>(open: &mut O) -> Result<Vec<TokenKey>, TokenError> {
    Ok(open.keys()?.iter().map(|key| O::described(key).clone()).collect())
}

/// The one key that is asked for, and that is for the use.
fn key<O: OpenToken>(open: &mut O, wanted: &KeySelector, key_use: KeyUse) -> Result<O::Key, TokenError> {
    wanted.only(key_use, open.keys()?, O::described)
}

/// Signs an envelope that names this key. What the token gives is checked before it is believed.
pub(super) fn sign<O: OpenToken>(
    open: &mut O,
    wanted: &KeySelector,
    algorithm: TokenAlgorithm,
    envelope: &[u8],
) -> Result<Vec<u8>, TokenError> {
    let envelope = Envelope::parse(envelope).map_err(|error| TokenError::Refused(error.to_string()))?;
    let key = key(open, wanted, KeyUse::Sign)?;
    let TokenKey { label, spki, .. } = O::described(&key);
    let spki = spki.clone().ok_or_else(|| {
        TokenError::Key(format!(
            "the token shows no public key or certificate with the id of the key {label:?}, or one that is not used here"
        ))
    })?;
    if CredentialId::of(&spki) != envelope.credential() {
        return Err(TokenError::Refused(format!("what is to be signed names another key than {label:?}")));
    }
    algorithm.key_type().require(&spki).map_err(|error| TokenError::Key(error.to_string()))?;
    let given = open.sign(&key, algorithm, envelope.as_bytes())?;
    let wrong = |error| TokenError::Failed(format!("the token gave a wrong signature: {error}"));
    let signature = normalise(algorithm, &given).map_err(wrong)?;
    check(algorithm, &spki, envelope.as_bytes(), &signature).map_err(wrong)?;
    Ok(signature)
}

/// The x-coordinate that key and point share. A point that is not on the curve never reaches the token.
pub(super) fn agree(
    open: &mut impl OpenToken,
    wanted: &KeySelector,
    point: &[u8],
) -> Result<Key256, TokenError> {
    let peer = AgreementKey::of_point(point)
        .map_err(|_| TokenError::Refused("the other side's key is no point of P-256".to_owned()))?;
    let key = key(open, wanted, KeyUse::Agree)?;
    open.agree(&key, &peer)
}

/// Proves that the token agrees on what it should: with a key made here, both sides must come to the same secret.
pub(super) fn test_agreement<O: OpenToken>(open: &mut O, wanted: &KeySelector) -> Result<(), TokenError> {
    let key = key(open, wanted, KeyUse::Agree)?;
    let here = |_| TokenError::Failed("cannot make a key to test the token with".to_owned());
    let own = PrivateKey::generate(&ECDH_P256).map_err(here)?;
    let token = O::described(&key)
        .spki
        .clone()
        .and_then(|spki| AgreementKey::new(spki).ok())
        .ok_or_else(|| TokenError::Key("the key has no public key on P-256 beside it".to_owned()))?;
    let peer = AgreementKey::of_point(own.compute_public_key().map_err(here)?.as_ref());
    let peer = peer.map_err(|error| TokenError::Failed(error.to_string()))?;
    let theirs = open.agree(&key, &peer)?;
    let wrong = TokenError::Failed("the token agrees on another secret than it should".to_owned());
    let token = UnparsedPublicKey::new(&ECDH_P256, token.point());
    agree_here(&own, token, wrong.clone(), |ours| match bool::from(ours.ct_eq(theirs.expose())) {
        true => Ok(()),
        false => Err(wrong),
    })
}

/// The token's word that it made a key.
pub(super) fn attest<O: OpenToken>(
    open: &mut O,
    wanted: &KeySelector,
) -> Result<Option<Attestation>, TokenError> {
    let fitting: Vec<_> = open.keys()?.into_iter().filter(|key| wanted.matches(O::described(key))).collect();
    match fitting.as_slice() {
        [only] => open.attest(only),
        [] => Err(TokenError::Key(format!("no key with {wanted} on this token"))),
        [..] => Err(TokenError::Key(format!("several keys with {wanted} on this token"))),
    }
}
