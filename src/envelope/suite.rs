//! The suites of format 1: what a ciphertext holds and by which algorithms.

use crate::keyring::record::SuiteFamily;

/// What a ciphertext holds. The number is its byte in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// One message of any length, whole in memory.
    Field = 1,
    /// A file of any length in segments of 64 KiB.
    Stream = 2,
    /// A data key of 32 bytes that the application uses itself.
    DataKey = 3,
}

impl Suite {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Field, Self::Stream, Self::DataKey];

    /// Takes the suite byte of a header; `None` for one that format 1 does not have.
    pub fn new(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.byte() == byte)
    }

    /// The suite byte of the header.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The algorithms that it uses; a DEK of another family refuses it.
    pub const fn family(self) -> SuiteFamily {
        match self {
            Self::Field | Self::Stream | Self::DataKey => SuiteFamily::AesSha2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_format() {
        let known: Vec<_> = (0..=255).filter_map(Suite::new).collect();
        assert_eq!(known, [Suite::Field, Suite::Stream, Suite::DataKey]);
        assert_eq!(Suite::ALL.map(Suite::byte), [1, 2, 3]);
    }
}
