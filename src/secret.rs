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

/// Why bytes are no PIN: nobody could type it, and a token would count a try, or take a PIN that locks its holder out.
/// Nothing of a PIN stands in it but the character that cannot be part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPin {
    /// Longer than [`Pin::LONGEST`] bytes.
    #[error("it is longer than {} bytes", Pin::LONGEST)]
    Long,
    /// UTF-8 behind a byte order mark.
    #[error("it begins with a byte order mark (EF BB BF), as some editors write it: save it without one")]
    Mark,
    /// UTF-16, by its byte order mark.
    #[error("it is UTF-16 (it begins with {0:02X} {1:02X}): save it as plain text")]
    Utf16(u8, u8),
    /// No UTF-8.
    #[error("byte {0} of it is no UTF-8 text")]
    NotText(usize),
    /// More lines than one.
    #[error("another line begins at byte {0}: the PIN stands there alone")]
    Lines(usize),
    /// A character that shows nothing.
    #[error("at byte {at} it has the character U+{:04X}, which shows nothing and which nobody types", u32::from(*.character))]
    Character {
        /// Which one.
        character: char,
        /// From 1.
        at: usize,
    },
}

/// Whether a character is one that people do not type: it shows nothing, or stands for what could not be read.
fn is_untyped(character: char) -> bool {
    // Without the joiners (U+200C, U+200D): some scripts are typed with them.
    const FORMAT: [(char, char); 10] = [
        ('\u{ad}', '\u{ad}'),
        ('\u{61c}', '\u{61c}'),
        ('\u{180e}', '\u{180e}'),
        ('\u{200b}', '\u{200b}'),
        ('\u{200e}', '\u{200f}'),
        ('\u{202a}', '\u{202e}'),
        ('\u{2060}', '\u{206f}'),
        ('\u{feff}', '\u{feff}'),
        ('\u{fff9}', '\u{fffd}'),
        ('\u{e0000}', '\u{e007f}'),
    ];
    character.is_control()
        || (character.is_whitespace() && character != ' ')
        || FORMAT.iter().any(|(first, last)| (*first..=*last).contains(&character))
}

fn check(bytes: &[u8]) -> Result<(), NoPin> {
    if let [first @ 0xff, second @ 0xfe, ..] | [first @ 0xfe, second @ 0xff, ..] = bytes {
        return Err(NoPin::Utf16(*first, *second));
    }
    if bytes.starts_with("\u{feff}".as_bytes()) {
        return Err(NoPin::Mark);
    }
    if bytes.len() > Pin::LONGEST {
        return Err(NoPin::Long);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| NoPin::NotText(error.valid_up_to() + 1))?;
    match text.char_indices().find(|(_, character)| is_untyped(*character)) {
        None => Ok(()),
        Some((at, '\r' | '\n')) => Err(NoPin::Lines(at + 2)),
        Some((at, character)) => Err(NoPin::Character { character, at: at + 1 }),
    }
}

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
        check(&bytes[..length])?;
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
    fn what_nobody_types_is_no_pin() {
        let longest = [b'1'; Pin::LONGEST];
        assert_eq!(Pin::read(&[&longest[..], b"\r\n"].concat()[..]).unwrap().unwrap().expose().len(), 255);
        let character = |character, at| NoPin::Character { character, at };
        for (wrong, why) in [
            ([&longest[..], b"1"].concat(), NoPin::Long),
            (vec![b'1'; 5000], NoPin::Long),
            (vec![0xff; 4], NoPin::NotText(1)),
            (b"12\xe4".to_vec(), NoPin::NotText(3)),
            (b"\xef\xbb\xbf1234\r\n".to_vec(), NoPin::Mark),
            (b"\xff\xfe1\x002\x00".to_vec(), NoPin::Utf16(0xff, 0xfe)),
            (b"\xfe\xff\x001\x002".to_vec(), NoPin::Utf16(0xfe, 0xff)),
            (b"1\x002\x00".to_vec(), character('\0', 2)),
            (b"1234\n5678\n".to_vec(), NoPin::Lines(6)),
            (b"1234\t".to_vec(), character('\t', 5)),
            ("12\u{a0}34".as_bytes().to_vec(), character('\u{a0}', 3)),
            ("密码\u{200b}".as_bytes().to_vec(), character('\u{200b}', 7)),
        ] {
            assert_eq!(Pin::from_bytes(&wrong).unwrap_err(), why);
            assert_eq!(Pin::read(&wrong[..]).unwrap().unwrap_err(), why);
            assert!(!why.to_string().contains("1234"), "{why}");
        }
        for right in ["密码-1", "Zoë", "p\u{301}", "می\u{200c}روم", " a b "] {
            assert_eq!(Pin::from_bytes(right.as_bytes()).unwrap().expose(), right);
        }
    }

    #[test]
    fn a_key_has_32_bytes() {
        assert!(Key256::from_slice(&[0; 31]).is_none());
        assert!(Key256::from_slice(&[0; 33]).is_none());
        assert_eq!(Key256::from_slice(&[7; 32]).unwrap().expose(), &[7; 32]);
    }
}
