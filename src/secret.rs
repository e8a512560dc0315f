//! Secret bytes: the only home of keys and PINs in memory.
//!
//! Keys and PINs lie in an [arena] that no dump, swap device or other process
//! sees. A secret is built in place, never copied by accident, wiped when
//! dropped, and shows nothing of itself in `Debug`, logs or errors.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

mod arena;
mod pages;
pub(crate) mod transfer;

pub(crate) use arena::Guarded;

/// How the kernel shall protect the memory of keys and PINs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretMemory {
    /// `memfd_secret(2)` where the kernel has it, locked memory otherwise.
    #[default]
    Auto,
    /// Locked memory, which root can still read.
    Locked,
}

/// Says how the memory of keys and PINs shall be protected; for a process that has none yet.
pub fn protect(memory: SecretMemory) {
    arena::prefer(match memory {
        SecretMemory::Auto => pages::Protection::Secret,
        SecretMemory::Locked => pages::Protection::Locked,
    });
}

/// How the memory of keys and PINs is protected now, in a word: "memfd_secret",
/// "locked", or "unlocked" when `RLIMIT_MEMLOCK` was too low for some of it.
/// `None` before the first secret.
pub fn protection() -> Option<&'static str> {
    arena::protection().map(|protection| match protection {
        pages::Protection::Secret => "memfd_secret",
        pages::Protection::Locked => "locked",
        pages::Protection::Unlocked => "unlocked",
    })
}

/// A 256-bit key.
pub struct Key256(Guarded<[u8; 32]>);

impl Key256 {
    /// Bytes in a key.
    pub const LEN: usize = 32;

    /// Builds a key in place, so that no copy of it stays on the stack.
    pub fn init_with(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut key = Self(Guarded::new([0; 32]));
        fill(&mut key.0);
        key
    }

    /// As [`init_with`](Self::init_with), for a source that can fail.
    ///
    /// # Errors
    /// Whatever `fill` answers.
    pub fn try_init_with<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self(Guarded::new([0; 32]));
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

/// The PIN of a token: text of at most [`Pin::LONGEST`] bytes.
pub struct Pin {
    bytes: Guarded<[u8; Pin::LONGEST]>,
    length: usize,
}

/// There is no such PIN: it is longer than [`Pin::LONGEST`] bytes, or no UTF-8 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPin;

impl Pin {
    /// Bytes in the longest PIN; PKCS#11 tokens take 4 to 255.
    pub const LONGEST: usize = 255;

    /// Reads a PIN as it stands in a file or a credential; line ends behind it are cut off.
    ///
    /// # Errors
    /// Those of `source`; the inner [`NoPin`] when what it gives is no PIN.
    pub fn read(mut source: impl std::io::Read) -> std::io::Result<Result<Self, NoPin>> {
        // Read in place: room for the longest PIN, a line end, and a byte too many.
        let mut buffer = Guarded::new([0; Self::LONGEST + 3]);
        let mut length = 0;
        while length < buffer.len() {
            match source.read(&mut buffer[length..])? {
                0 => break,
                more => length += more,
            }
        }
        Ok(Self::from_bytes(&buffer[..length]))
    }

    /// Takes a PIN from bytes that the caller wipes; line ends behind it are cut off.
    ///
    /// # Errors
    /// [`NoPin`] when they are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoPin> {
        let length = bytes.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        if length > Self::LONGEST || std::str::from_utf8(&bytes[..length]).is_err() {
            return Err(NoPin);
        }
        let mut pin = Self { bytes: Guarded::new([0; Self::LONGEST]), length };
        pin.bytes[..length].copy_from_slice(&bytes[..length]);
        Ok(pin)
    }

    /// Lends the text to the login call.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_else(|_| unreachable!())
    }

    /// A second owner of the same text, made on purpose.
    pub fn duplicate(&self) -> Self {
        let mut pin = Self { bytes: Guarded::new([0; Self::LONGEST]), length: self.length };
        pin.bytes.copy_from_slice(&*self.bytes);
        pin
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
        let text =
            format!("{key:?} {:?} {:?}", SecretBytes::new(vec![0x41; 3]), Pin::from_bytes(b"AAAA").unwrap());
        assert!(!text.contains("AA") && !text.contains("65") && !text.contains("41"), "{text}");
    }

    #[test]
    fn a_pin_loses_its_line_end_only() {
        for text in [" 12 34 \r\n", " 12 34 "] {
            assert_eq!(Pin::from_bytes(text.as_bytes()).unwrap().expose(), " 12 34 ");
            assert_eq!(Pin::read(text.as_bytes()).unwrap().unwrap().expose(), " 12 34 ");
        }
        assert_eq!(Pin::from_bytes(b"\n").unwrap().expose(), "");
    }

    #[test]
    fn what_is_too_long_or_no_text_is_no_pin() {
        let longest = [b'1'; Pin::LONGEST];
        assert_eq!(Pin::read(&[&longest[..], b"\r\n"].concat()[..]).unwrap().unwrap().expose().len(), 255);
        for wrong in [[&longest[..], b"1"].concat(), vec![b'1'; 5000], vec![0xff; 4]] {
            assert_eq!(Pin::from_bytes(&wrong).unwrap_err(), NoPin);
            assert_eq!(Pin::read(&wrong[..]).unwrap().unwrap_err(), NoPin);
        }
    }

    #[test]
    fn a_key_has_32_bytes() {
        assert!(Key256::from_slice(&[0; 31]).is_none());
        assert!(Key256::from_slice(&[0; 33]).is_none());
        assert_eq!(Key256::from_slice(&[7; 32]).unwrap().expose(), &[7; 32]);
    }
}
