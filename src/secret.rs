//! Secret bytes: the only home of keys and PINs in memory.
//!
//! A secret is built in place, never copied by accident, wiped when dropped,
//! and shows nothing of itself in `Debug`, logs or errors.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// A 256-bit key.
pub struct Key256(Box<Zeroizing<[u8; 32]>>);

impl Key256 {
    /// Bytes in a key.
    pub const LEN: usize = 32;

    /// Builds a key in place, so that no copy of it stays on the stack.
    pub fn init_with(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut key = Self(Box::new(Zeroizing::new([0; 32])));
        fill(&mut key.0);
        key
    }

    /// As [`init_with`](Self::init_with), for a source that can fail.
    ///
    /// # Errors
    /// Whatever `fill` answers.
    pub fn try_init_with<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self(Box::new(Zeroizing::new([0; 32])));
        fill(&mut key.0)?;
        Ok(key)
    }

    /// Takes a key from a slice; `None` unless it has 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == Self::LEN).then(|| Self::init_with(|key| key.copy_from_slice(bytes)))
    }

    /// Lends the bytes to a cryptographic primitive.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A second owner of the same bytes, made on purpose.
    pub fn duplicate(&self) -> Self {
        Self::init_with(|key| key.copy_from_slice(self.expose()))
    }
}

impl ConstantTimeEq for Key256 {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.expose().ct_eq(other.expose())
    }
}

impl fmt::Debug for Key256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key256(redacted)")
    }
}

/// Secret bytes of any length: plaintexts and random numbers.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over; the vector is wiped when this is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Lends the bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Bytes inside.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        self.expose()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes(redacted, {} bytes)", self.len())
    }
}

/// The PIN of a token.
pub struct Pin(Zeroizing<String>);

impl Pin {
    /// Takes a PIN over as it came from a file, a credential or the terminal; one line end is cut off.
    pub fn new(mut text: String) -> Self {
        while text.ends_with(['\n', '\r']) {
            text.pop();
        }
        Self(Zeroizing::new(text))
    }

    /// Lends the text to the login call.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(redacted)")
    }
}

/// Wipes a buffer that held a secret on its way somewhere else.
pub fn wipe(buffer: &mut Vec<u8>) {
    buffer.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_printed() {
        let key = Key256::init_with(|bytes| bytes.fill(0x41));
        let text = format!("{key:?} {:?} {:?}", SecretBytes::new(vec![0x41; 3]), Pin::new("AAAA".into()));
        assert!(!text.contains("AA") && !text.contains("65") && !text.contains("41"), "{text}");
    }

    #[test]
    fn a_pin_loses_its_line_end_only() {
        assert_eq!(Pin::new(" 12 34 \r\n".into()).expose(), " 12 34 ");
    }

    #[test]
    fn a_key_has_32_bytes() {
        assert!(Key256::from_slice(&[0; 31]).is_none());
        assert!(Key256::from_slice(&[0; 33]).is_none());
        assert_eq!(Key256::from_slice(&[7; 32]).unwrap().expose(), &[7; 32]);
    }
}
