//! The states of keys and versions (NIST SP 800-57 part 1, section 7).

use std::fmt;

use minicbor::{Decode, Encode};

/// What a key, a key version or a KEK version may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum KeyState {
    /// Protects and processes (NIST: active).
    #[n(1)]
    Active,
    /// Processes only (NIST: deactivated).
    #[n(2)]
    DecryptOnly,
    /// Does nothing until enabled again (NIST: suspended).
    #[n(3)]
    Disabled,
}

impl KeyState {
    /// Whether new data may be encrypted.
    pub fn may_encrypt(self) -> bool {
        self == Self::Active
    }

    /// Whether existing data may be decrypted.
    pub fn may_decrypt(self) -> bool {
        matches!(self, Self::Active | Self::DecryptOnly)
    }

    /// The word for it, as people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt-only",
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How sensitive the data under a key is: 1 basic, 2 sensitive, 3 highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum DataClass {
    /// Basic fields.
    #[n(1)]
    Basic,
    /// Sensitive fields; the default.
    #[n(2)]
    Sensitive,
    /// The highest class: never served without the HSM by default.
    #[n(3)]
    Highest,
}

impl DataClass {
    /// All of them, lowest first.
    pub const ALL: [Self; 3] = [Self::Basic, Self::Sensitive, Self::Highest];

    /// Takes a number from 1 to 3.
    pub fn new(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.number() == number)
    }

    /// The number.
    pub fn number(self) -> u32 {
        match self {
            Self::Basic => 1,
            Self::Sensitive => 2,
            Self::Highest => 3,
        }
    }
}
