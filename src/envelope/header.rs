//! The 76 bytes in front of every ciphertext.

use super::aead::TAG;
use super::suite::Suite;
use crate::id::DekId;

/// The first two bytes of every ciphertext.
pub(super) const MAGIC: [u8; 2] = *b"KW";

/// The format that this module reads and writes.
pub(super) const FORMAT: u8 = 1;

/// Bytes that a suite 1 or 3 ciphertext is longer than its plaintext: header and tag.
pub const OVERHEAD: usize = Header::LEN + TAG;

/// Why bytes are not a ciphertext that this version can read. It follows from
/// the bytes alone, before any key is looked at, so it tells nobody anything new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The first bytes are not those of a ciphertext.
    #[error("not a keyward ciphertext: it must be the raw bytes that encrypt returned")]
    NotKeyward,
    /// The format byte is higher than 1.
    #[error("the ciphertext has format {0}, this version reads format 1: upgrade keyward")]
    NewerFormat(u8),
    /// Format 1 has no such suite.
    #[error("the ciphertext has suite {0}, which this version does not know: upgrade keyward")]
    UnknownSuite(u8),
    /// Shorter than a header and a tag.
    #[error("the ciphertext was cut short: it must have at least {OVERHEAD} bytes")]
    Truncated,
}

/// The header of a ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the ciphertext holds.
    pub suite: Suite,
    /// The DEK that sealed it, and the only one that may be tried.
    pub dek: DekId,
    /// Makes the message key different for every ciphertext.
    pub salt: [u8; 24],
    /// Commits to the DEK and to everything that the message is bound to.
    pub commitment: [u8; 32],
}

impl Header {
    /// Bytes in an encoded header.
    pub const LEN: usize = 76;

    /// Bytes before the commitment: the beginning of BIND too.
    pub(super) const BOUND: usize = 44;

    /// Splits a ciphertext into its header and the rest.
    ///
    /// # Errors
    /// [`ParseError`] when the bytes do not begin with a header of format 1.
    pub fn parse(ciphertext: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let suite = parse_suite(ciphertext)?;
        let (header, rest) = ciphertext.split_first_chunk::<{ Self::LEN }>().ok_or(ParseError::Truncated)?;
        let (dek, tail) = part::<16>(&header[4..]);
        let (salt, tail) = part::<24>(tail);
        let (commitment, _) = part::<32>(tail);
        Ok((Self { suite, dek: DekId(dek), salt, commitment }, rest))
    }

    /// The encoded header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..Self::BOUND].copy_from_slice(&bound(self.suite, self.dek, &self.salt));
        out[Self::BOUND..].copy_from_slice(&self.commitment);
        out
    }
}

/// `"KW" | format | suite | DEK id | salt`: what a header and BIND begin with.
pub(super) fn bound(suite: Suite, dek: DekId, salt: &[u8; 24]) -> [u8; Header::BOUND] {
    let mut out = [0; Header::BOUND];
    out[..2].copy_from_slice(&MAGIC);
    out[2] = FORMAT;
    out[3] = suite.byte();
    out[4..20].copy_from_slice(&dek.0);
    out[20..].copy_from_slice(salt);
    out
}

/// Reads the first four bytes, so that a short or foreign input gets the most telling answer.
fn parse_suite(bytes: &[u8]) -> Result<Suite, ParseError> {
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        return Err(ParseError::NotKeyward);
    }
    match bytes.get(2) {
        None => return Err(ParseError::Truncated),
        Some(0) => return Err(ParseError::NotKeyward),
        Some(&FORMAT) => {}
        Some(&newer) => return Err(ParseError::NewerFormat(newer)),
    }
    let suite = *bytes.get(3).ok_or(ParseError::Truncated)?;
    Suite::new(suite).ok_or(ParseError::UnknownSuite(suite))
}

/// The first `N` bytes of a slice of the fixed-size header, and the rest.
fn part<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    let (head, tail) = bytes.split_first_chunk().expect("the header is 4 + 16 + 24 + 32 bytes");
    (*head, tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { suite: Suite::Field, dek: DekId([1; 16]), salt: [2; 24], commitment: [3; 32] }
    }

    #[test]
    fn a_header_is_laid_out_as_specified() {
        let bytes = header().encode();
        assert_eq!(hex::encode(&bytes[..4]), "4b570101");
        assert_eq!(bytes[4..20], [1; 16]);
        assert_eq!(bytes[20..44], [2; 24]);
        assert_eq!(bytes[44..], [3; 32]);
        assert_eq!(OVERHEAD, 92);
    }

    #[test]
    fn a_header_reads_back_with_the_rest() {
        let mut bytes = header().encode().to_vec();
        bytes.extend_from_slice(b"rest");
        assert_eq!(Header::parse(&bytes), Ok((header(), &b"rest"[..])));
    }

    #[test]
    fn each_defect_has_its_name() {
        let good = header().encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Header::parse(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(with(0, b'k'), ParseError::NotKeyward);
        assert_eq!(with(1, b'w'), ParseError::NotKeyward);
        assert_eq!(with(2, 0), ParseError::NotKeyward);
        assert_eq!(with(2, 2), ParseError::NewerFormat(2));
        assert_eq!(with(3, 0), ParseError::UnknownSuite(0));
        assert_eq!(with(3, 4), ParseError::UnknownSuite(4));
        for len in 0..Header::LEN {
            assert_eq!(Header::parse(&good[..len]), Err(ParseError::Truncated), "{len}");
        }
        assert_eq!(Header::parse(b"X"), Err(ParseError::NotKeyward));
        assert_eq!(Header::parse(b"KW\x02"), Err(ParseError::NewerFormat(2)));
    }
}
