//! Staff who act through an application: whom their assertion names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Date;
use crate::id::{AccountId, AssertionId, PrincipalId};
use crate::keyring::account::Level;
use crate::keyring::credential::CredentialId;

/// A staff member whose assertion was verified.
#[derive(Debug)]
pub struct Member {
    /// Who they are.
    pub account: AccountId,
    /// What they may see.
    pub level: Level,
    /// How often the account had been suspended or given another level.
    pub generation: u32,
    /// The application that the assertion was issued to: no other may show it.
    pub application: PrincipalId,
    /// The assertion.
    pub assertion: AssertionId,
    /// The token's key that they logged in with.
    pub credential: CredentialId,
    /// The session's key: its thumbprint (RFC 7638).
    pub session: String,
    /// When the assertion was issued.
    pub issued: Date,
    /// When it ends, at the latest.
    pub expires: Date,
    /// When it was last found to be good.
    pub found_good: FoundGood,
}

/// The state of all accounts when something was found to be good.
#[derive(Debug)]
pub struct FoundGood(AtomicU64);

impl FoundGood {
    /// When the accounts were in state `accounts`.
    pub(crate) fn at(accounts: u64) -> Self {
        Self(AtomicU64::new(accounts))
    }

    /// Whether nothing has changed in any account since.
    pub(crate) fn holds(&self, accounts: u64) -> bool {
        self.0.load(Ordering::Acquire) == accounts
    }

    /// Notes that it was so again when the accounts were in state `accounts`.
    pub(crate) fn again(&self, accounts: u64) {
        self.0.store(accounts, Ordering::Release);
    }
}

/// A staff member in one call or session.
#[derive(Debug, Clone)]
pub struct Staff {
    /// Who.
    pub member: Arc<Member>,
    /// Whether the call or session was proved to come from the session that logged in.
    pub proved: bool,
}
