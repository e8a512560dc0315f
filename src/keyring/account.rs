//! Staff accounts, and what they log in with.

use minicbor::{Decode, Encode};

use super::credential::{Credential, CredentialId};
use super::otp::{Failures, OtpScheme};
use crate::clock::Date;
use crate::id::{AccountId, CeremonyId, PrincipalId, TokenName};

/// Most tokens of an account, whatever their state.
pub const MOST_TOKENS: usize = 16;

/// What a staff member may see: 1 basic fields, 2 edits, 3 administers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Level {
    /// Basic fields.
    #[n(1)]
    One,
    /// Edits.
    #[n(2)]
    Two,
    /// Administers.
    #[n(3)]
    Three,
}

impl Level {
    /// The level of a number from 1 to 3.
    pub fn new(number: u32) -> Option<Self> {
        [Self::One, Self::Two, Self::Three].into_iter().find(|level| level.get() == number)
    }

    /// The number.
    pub fn get(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// A staff member.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Account {
    /// A name for people.
    #[n(1)]
    pub display_name: Option<String>,
    /// What they may see.
    #[n(2)]
    pub level: Level,
    /// Nobody logs in to a suspended account.
    #[n(3)]
    pub suspended: bool,
    /// When it was made.
    #[n(4)]
    pub created: Date,
    /// Every key that was ever put on record for it.
    #[n(5)]
    pub credentials: Vec<CredentialId>,
    /// How often it was suspended or given another level; absent: never.
    #[n(6)]
    pub generation: Option<u32>,
}

impl Account {
    /// How often it was suspended or given another level: assertions of an earlier time have ended.
    pub fn generation(&self) -> u32 {
        self.generation.unwrap_or_default()
    }

    /// The same account, whose assertions have ended for good.
    pub fn anew(self) -> Self {
        Self { generation: Some(self.generation().saturating_add(1)), ..self }
    }
}

/// Whether a token's key may be logged in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum CredentialState {
    /// It waits for approval.
    #[n(1)]
    Pending,
    /// It may.
    #[n(2)]
    Active,
    /// It may never again.
    #[n(3)]
    Revoked,
}

impl CredentialState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }
}

/// When a token asks for something before it uses a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Asked {
    /// Never.
    #[n(0)]
    Never,
    /// Once: the PIN until the token is pulled out, a touch for 15 seconds.
    #[n(1)]
    Once,
    /// At each use.
    #[n(2)]
    Always,
}

impl Asked {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Once => "once",
            Self::Always => "always",
        }
    }
}

/// The version of a card's firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Firmware(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 3]);

impl std::fmt::Display for Firmware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl std::str::FromStr for Firmware {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Option<Vec<u8>> = text.split('.').map(|part| part.parse().ok()).collect();
        let version = parts.and_then(|parts| <[u8; 3]>::try_from(parts).ok());
        version
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no version of a firmware: write for example 5.7.0"))
    }
}

/// What is known of where a token's key was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Assurance {
    /// Nothing but the word of those who enrolled and approved it.
    #[n(1)]
    Witnessed,
    /// The token's maker attests that it was made in the token.
    #[n(2)]
    Attested,
    /// A certificate authority of the company has certified it.
    #[n(3)]
    Certified,
}

impl Assurance {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Witnessed, Self::Attested, Self::Certified];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Witnessed => "witnessed",
            Self::Attested => "attested",
            Self::Certified => "certified",
        }
    }
}

/// What was shown when a token was enrolled, and found to be good.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Evidence {
    /// The token's serial number, as its maker attests.
    #[n(1)]
    pub serial: Option<u64>,
    /// The token's firmware, as its maker attests.
    #[n(2)]
    pub firmware: Option<Firmware>,
    /// When the key wants the PIN, as the maker attests.
    #[n(3)]
    pub pin: Option<Asked>,
    /// When the key wants a touch, as the maker attests.
    #[n(4)]
    pub touch: Option<Asked>,
    /// SHA-256 of the root certificate that it leads to.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub root: Option<[u8; 32]>,
    /// The subject of the certificate, for people.
    #[n(6)]
    pub subject: Option<String>,
    /// When the certificate ends.
    #[n(7)]
    pub expires: Option<Date>,
    /// The certificates that were shown, in DER: they are looked at again at each login.
    #[n(8)]
    pub certificates: Vec<minicbor::bytes::ByteVec>,
}

/// A token's key that a staff member logs in with.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LoginCredential {
    /// Whose it is.
    #[n(1)]
    pub account: AccountId,
    /// What they call the token.
    #[n(2)]
    pub name: TokenName,
    /// The key.
    #[n(3)]
    pub credential: Credential,
    /// What is known of where it was made.
    #[n(4)]
    pub assurance: Assurance,
    /// Whether it may be logged in with.
    #[n(5)]
    pub state: CredentialState,
    /// Who opened the enrolment.
    #[n(6)]
    pub requested_by: PrincipalId,
    /// When it was enrolled.
    #[n(7)]
    pub enrolled: Date,
    /// Who approved it.
    #[n(8)]
    pub approved_by: Option<PrincipalId>,
    /// When it was logged in with last.
    #[n(9)]
    pub last_used: Option<Date>,
    /// Why it was revoked.
    #[n(10)]
    pub reason: Option<String>,
    /// The lost token that it replaces, which was revoked when its enrolment was permitted.
    #[n(11)]
    pub replaces: Option<CredentialId>,
    /// What it was found to be good by; absent for one that is only witnessed.
    #[n(12)]
    pub evidence: Option<Evidence>,
    /// Who approved it, where that was no operator.
    #[n(13)]
    pub approver: Option<Approver>,
}

/// Who approves a token where operators do not.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Approver {
    /// An administrator, by a signature of their own token.
    #[n(1)]
    Administrator(#[n(0)] AccountId),
    /// Custodians, in a ceremony.
    #[n(2)]
    Ceremony(#[n(0)] CeremonyId),
}

impl std::fmt::Display for Approver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Administrator(account) => write!(f, "accounts/{account}"),
            Self::Ceremony(id) => write!(f, "ceremonies/{id}"),
        }
    }
}

/// A permission to enrol one token.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ticket {
    /// For whom.
    #[n(1)]
    pub account: AccountId,
    /// Signed by the token that is enrolled.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
    /// When it is too late.
    #[n(3)]
    pub expires: Date,
    /// Who opened it.
    #[n(4)]
    pub requested_by: PrincipalId,
    /// The lost token that the new one replaces.
    #[n(5)]
    pub replaces: Option<CredentialId>,
}

/// The one-time passwords of an account.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Otp {
    /// How they are made.
    #[n(1)]
    pub scheme: OtpScheme,
    /// The seed, sealed: nonce (12 bytes), ciphertext (32 bytes), tag (16 bytes).
    #[cbor(n(2), with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
    /// The first counter that still counts.
    #[n(3)]
    pub next: u64,
    /// Whether a first password has shown that the staff member has the seed.
    #[n(4)]
    pub confirmed: bool,
    /// Wrong passwords since the last right one.
    #[n(5)]
    pub failures: Failures,
    /// When it was made.
    #[n(6)]
    pub created: Date,
}

/// A login assertion that was ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EndedAssertion {
    /// When it would have ended by itself: after that the row may go.
    #[n(1)]
    pub expires: Date,
}
