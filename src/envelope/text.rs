//! The text form of ciphertexts, for command lines and e-mail:
//! `kw1:` and base64url (RFC 4648, section 5) without padding.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What every text form begins with.
pub const PREFIX: &str = "kw1:";

/// Why a text is not the text form of a ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It does not begin with [`PREFIX`].
    #[error("not the text form of a ciphertext: it must begin with {PREFIX:?}")]
    Prefix,
    /// What follows the prefix is not base64url in its one spelling.
    #[error("the text after {PREFIX:?} is not base64url without padding, spaces and line ends")]
    Encoding,
}

/// The text form of a ciphertext.
pub fn encode(ciphertext: &[u8]) -> String {
    let mut text = String::with_capacity(PREFIX.len() + ciphertext.len().div_ceil(3) * 4);
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(ciphertext, &mut text);
    text
}

/// The bytes of a text form: exactly what [`encode`] would spell the same way.
///
/// # Errors
/// [`TextError`] for any other spelling.
pub fn decode(text: &str) -> Result<Vec<u8>, TextError> {
    let body = text.strip_prefix(PREFIX).ok_or(TextError::Prefix)?;
    URL_SAFE_NO_PAD.decode(body).map_err(|_| TextError::Encoding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_one_spelling_is_read() {
        assert_eq!(encode(&[0xfb, 0xff, 0xfe, 0x00]), "kw1:-__-AA");
        assert_eq!(decode("kw1:-__-AA"), Ok(vec![0xfb, 0xff, 0xfe, 0x00]));
        for text in ["kw1:-__-AB", "kw1:-__-AA==", "kw1:+//+AA", "kw1:-__-AA\n", "kw1: -__-AA", "kw1:A"] {
            assert_eq!(decode(text), Err(TextError::Encoding), "{text:?}");
        }
        for text in ["", "kw1", "KW1:AA", "kw2:AA", " kw1:AA", "AA"] {
            assert_eq!(decode(text), Err(TextError::Prefix), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_round_trip(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)), Ok(bytes));
        }

        #[test]
        fn what_decodes_is_canonical(body in "[A-Za-z0-9_=+/-]{0,12}") {
            let text = format!("{PREFIX}{body}");
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
