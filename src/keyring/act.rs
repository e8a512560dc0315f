//! What administrators decide about accounts: proposed by an operator, approved by a signature of the
//! administrator's token over the exact text.

use minicbor::{Decode, Encode};

use super::account::Level;
use super::credential::CredentialId;
use crate::clock::Date;
use crate::id::{AccountId, PrincipalId};

/// Something that an operator does not do alone where there are administrators.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Act {
    /// Lets a token be logged in with.
    #[n(1)]
    ApproveToken {
        /// Whose it is.
        #[n(0)]
        account: AccountId,
        /// Its key.
        #[n(1)]
        credential: CredentialId,
    },
    /// Ends the lock after wrong one-time passwords.
    #[n(2)]
    Unlock {
        /// The account.
        #[n(0)]
        account: AccountId,
    },
    /// Gives an account another level.
    #[n(3)]
    SetLevel {
        /// The account.
        #[n(0)]
        account: AccountId,
        /// The new one.
        #[n(1)]
        level: Level,
        /// The one when this was proposed; it must not have changed since.
        #[n(2)]
        today: Level,
    },
    /// Ends a suspension.
    #[n(4)]
    Resume {
        /// The account.
        #[n(0)]
        account: AccountId,
    },
    /// Takes the one-time password away; an operator can make another one then.
    #[n(5)]
    ResetOtp {
        /// The account.
        #[n(0)]
        account: AccountId,
    },
}

impl Act {
    /// The word for it, as people and scripts read it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ApproveToken { .. } => "approve-token",
            Self::Unlock { .. } => "unlock",
            Self::SetLevel { .. } => "set-level",
            Self::Resume { .. } => "resume",
            Self::ResetOtp { .. } => "reset-otp",
        }
    }

    /// The account that it is about. Its holder does not approve it.
    pub fn account(&self) -> &AccountId {
        match self {
            Self::ApproveToken { account, .. }
            | Self::Unlock { account }
            | Self::SetLevel { account, .. }
            | Self::Resume { account }
            | Self::ResetOtp { account } => account,
        }
    }
}

/// An act that waits for an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProposedAct {
    /// What.
    #[n(1)]
    pub act: Act,
    /// Who proposed it.
    #[n(2)]
    pub proposed_by: PrincipalId,
    /// When.
    #[n(3)]
    pub created: Date,
    /// When it is too late.
    #[n(4)]
    pub expires: Date,
    /// What the administrator reads and signs.
    #[n(5)]
    pub statement: String,
    /// The revision of what it is about, or the date of the one-time password: another state takes another act.
    #[n(6)]
    pub state: u64,
}
