//! Blind indexes: keyed hashes of fields, for equality search.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::lp32_len;
use crate::id::IndexVersion;
use crate::secret::{Guarded, Key256};

/// Bytes in a blind index.
pub const INDEX_LEN: usize = 20;

/// Domain separation of blind indexes.
const LABEL: &[u8] = b"keyward/1/index";

/// How a value is made equal before it is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Normalization {
    /// The bytes as they are.
    Exact,
    /// Unicode NFKC, lower case, no white space at both ends.
    Text,
    /// The ASCII digits, everything else removed.
    Digits,
}

/// Why a value cannot be indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NormalizeError {
    /// The text rule reads UTF-8 only.
    #[error("the value is not UTF-8: index it by the exact rule or send text")]
    NotUtf8,
    /// The digits rule found nothing to index.
    #[error("the value has no ASCII digits: the digits rule has nothing to index")]
    NoDigits,
}

impl Normalization {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Text, Self::Digits];

    /// The name that is hashed, so that two rules never give the same index.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Text => "text",
            Self::Digits => "digits",
        }
    }

    /// Makes a value equal, once for the index under every version of the key.
    ///
    /// # Errors
    /// [`NormalizeError`] when the rule does not fit the value.
    pub fn normalize(self, value: &[u8]) -> Result<Normalized, NormalizeError> {
        Ok(Normalized { rule: self, value: self.apply(value)? })
    }

    /// The value that is hashed.
    fn apply(self, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, NormalizeError> {
        match self {
            Self::Exact => Ok(Zeroizing::new(value.to_vec())),
            Self::Text => normalize_text(value),
            Self::Digits => digits(value),
        }
    }
}

/// A value as it is indexed: made equal by its rule, and wiped when it is dropped.
pub struct Normalized {
    rule: Normalization,
    value: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Normalized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Normalized({}, redacted)", self.rule.name())
    }
}

/// NFKC, lower case, NFKC again (lower case can leave marks out of order), then
/// trimmed last: NFKC turns some other characters into spaces.
fn normalize_text(value: &[u8]) -> Result<Zeroizing<Vec<u8>>, NormalizeError> {
    let text = std::str::from_utf8(value).map_err(|_| NormalizeError::NotUtf8)?;
    let composed = nfkc(text);
    let lower = Zeroizing::new(composed.to_lowercase());
    let text = nfkc(&lower);
    Ok(Zeroizing::new(text.trim().as_bytes().to_vec()))
}

/// NFKC into a buffer that seldom has to grow, so that no copy is left behind.
fn nfkc(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 3));
    out.extend(text.nfkc());
    out
}

fn digits(value: &[u8]) -> Result<Zeroizing<Vec<u8>>, NormalizeError> {
    let mut out = Zeroizing::new(Vec::with_capacity(value.len()));
    out.extend(value.iter().filter(|byte| byte.is_ascii_digit()));
    if out.is_empty() { Err(NormalizeError::NoDigits) } else { Ok(out) }
}

/// The index key of one field in one version.
///
/// It holds the two SHA-256 states of HMAC instead of the key; they are wiped
/// when it is dropped, and boxed, so that moving it copies no secret.
pub struct IndexKey {
    version: IndexVersion,
    mac: Guarded<Hmac<Sha256>>,
}

impl IndexKey {
    /// Makes the key ready and wipes its bytes.
    pub fn new(version: IndexVersion, key: Key256) -> Self {
        let mac = Hmac::new_from_slice(key.expose()).expect("HMAC takes a key of any length");
        Self { version, mac: Guarded::new(mac) }
    }

    /// Its version, which the index begins with.
    pub fn version(&self) -> IndexVersion {
        self.version
    }

    /// `u32 version | first 16 bytes of HMAC-SHA-256(key, lp32(label) | lp32(rule) | lp32(value))`.
    ///
    /// # Errors
    /// [`NormalizeError`] when the rule does not fit the value.
    pub fn compute(&self, rule: Normalization, value: &[u8]) -> Result<[u8; INDEX_LEN], NormalizeError> {
        Ok(self.compute_normalized(&rule.normalize(value)?))
    }

    /// The same, of a value that is normalised already.
    pub fn compute_normalized(&self, Normalized { rule, value }: &Normalized) -> [u8; INDEX_LEN] {
        let mut mac = Hmac::clone(&self.mac);
        for part in [LABEL, rule.name().as_bytes(), &value[..]] {
            mac.update(&lp32_len(part));
            mac.update(part);
        }
        let tag = mac.finalize().into_bytes();
        let mut index = [0; INDEX_LEN];
        index[..4].copy_from_slice(&self.version.get().to_be_bytes());
        index[4..].copy_from_slice(&tag[..16]);
        index
    }
}

impl fmt::Debug for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IndexKey({}, redacted)", self.version)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(version: u32, byte: u8) -> IndexKey {
        let version = IndexVersion::new(version).unwrap();
        IndexKey::new(version, Key256::init_with(|key| key.fill(byte)))
    }

    fn text(value: &str) -> String {
        String::from_utf8(Normalization::Text.apply(value.as_bytes()).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn text_is_made_equal() {
        assert_eq!(text("  Müller\u{3000}"), "müller");
        assert_eq!(text("MU\u{308}LLER"), "müller");
        assert_eq!(text("Ａｃｍｅ\u{a0}１"), "acme 1");
        assert_eq!(text("\u{85}\u{2028}x\t\r\n"), "x");
        assert_eq!(text("ΟΔΟΣ"), "οδος");
        // Not white space in Unicode, whatever some languages think.
        assert_eq!(text("x\u{1c}"), "x\u{1c}");
        assert_eq!(text("x\u{feff}"), "x\u{feff}");
    }

    #[test]
    fn digits_are_picked_out() {
        let index = |value: &str| key(1, 1).compute(Normalization::Digits, value.as_bytes());
        assert_eq!(index("138-0013 8000"), index("13800138000"));
        assert_ne!(index("13800138000"), index("13800138001"));
        for value in ["", "none", "１２３"] {
            assert_eq!(index(value), Err(NormalizeError::NoDigits));
        }
    }

    #[test]
    fn key_version_rule_and_value_make_it() {
        let base = key(1, 1).compute(Normalization::Exact, b"42").unwrap();
        assert_eq!(base[..4], [0, 0, 0, 1]);
        let other_key = key(1, 2).compute(Normalization::Exact, b"42").unwrap();
        let others = Normalization::ALL[1..].iter().map(|rule| key(1, 1).compute(*rule, b"42").unwrap());
        assert!(others.chain([other_key]).all(|other| other[4..] != base[4..]));
        let next = key(2, 1).compute(Normalization::Exact, b"42").unwrap();
        assert_eq!((&next[..4], &next[4..]), (&[0, 0, 0, 2][..], &base[4..]));
    }

    #[test]
    fn text_must_be_utf8() {
        let index = |rule| key(1, 1).compute(rule, b"\xff");
        assert_eq!(index(Normalization::Text), Err(NormalizeError::NotUtf8));
        assert!(index(Normalization::Exact).is_ok());
        assert_eq!(format!("{:?}", key(7, 0x41)), "IndexKey(7, redacted)");
        let normalized = Normalization::Text.normalize(b" Ab ").unwrap();
        assert_eq!(format!("{normalized:?}"), "Normalized(text, redacted)");
        assert_eq!(
            key(1, 1).compute_normalized(&normalized),
            key(1, 1).compute(Normalization::Text, b"ab").unwrap()
        );
    }

    proptest! {
        #[test]
        fn text_is_normal_after_once(value in "\\PC{0,12}") {
            let once = text(&value);
            prop_assert_eq!(text(&once), once);
        }

        #[test]
        fn case_and_spaces_do_not_matter(value in "[a-zäöüé ]{0,12}") {
            prop_assert_eq!(text(&format!(" {} ", value.to_uppercase())), text(&value));
        }
    }
}
