//! Signing messages.

use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::session::Session;
use sha2::{Digest, Sha256, Sha384};

use super::module::failed;
use super::objects::Found;
use crate::keyring::credential::TokenAlgorithm;
use crate::token::error::TokenError;

/// The token's signature of a message, as it spells it. Mechanisms that every token has: ECDSA and PSS
/// over a digest that is made here.
pub(super) fn sign(
    session: &Session,
    found: &Found,
    algorithm: TokenAlgorithm,
    message: &[u8],
) -> Result<Vec<u8>, TokenError> {
    let label = &found.key.label;
    if found.always_authenticate {
        return Err(TokenError::Key(format!(
            "the key {label:?} wants its PIN for each signature (CKA_ALWAYS_AUTHENTICATE), which is not supported: use another key, on a PIV card one of slot 9a"
        )));
    }
    let sha_256 = || Sha256::digest(message).to_vec();
    let pss =
        PkcsPssParams { hash_alg: MechanismType::SHA256, mgf: PkcsMgfType::MGF1_SHA256, s_len: 32.into() };
    let (mechanism, data) = match algorithm {
        TokenAlgorithm::EcdsaP256Sha256 => (Mechanism::Ecdsa, sha_256()),
        TokenAlgorithm::EcdsaP384Sha384 => (Mechanism::Ecdsa, Sha384::digest(message).to_vec()),
        TokenAlgorithm::RsaPssSha256 => (Mechanism::RsaPkcsPss(pss), sha_256()),
        TokenAlgorithm::RsaPkcs1Sha256 => (Mechanism::Sha256RsaPkcs, message.to_vec()),
        TokenAlgorithm::Ed25519 => {
            (Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)), message.to_vec())
        }
    };
    session.sign(&mechanism, found.handle, &data).map_err(|error| failed("sign", &error))
}
