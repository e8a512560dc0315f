//! The text form of ciphertexts: `kw1:` and base64url without padding.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::failure::Failure;

const PREFIX: &str = "kw1:";

/// The text form of a ciphertext.
pub(crate) fn encode(ciphertext: &[u8]) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(ciphertext))
}

/// The bytes of a text form; white space around it is cut off.
pub(crate) fn decode(text: &[u8]) -> Result<Vec<u8>, Failure> {
    let body = text.trim_ascii().strip_prefix(PREFIX.as_bytes());
    body.and_then(|body| URL_SAFE_NO_PAD.decode(body).ok()).ok_or_else(|| Failure::Refused {
        reason: "CIPHERTEXT_MALFORMED",
        message: format!("not a ciphertext: expected text that starts with {PREFIX:?}"),
    })
}
