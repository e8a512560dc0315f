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
    /// The application that the assertion was issued to: no other may show it.
    pub application: PrincipalId,
    /// The assertion.
    pub assertion: AssertionId,
    /// The token's key that they logged in with.
    pub credential: CredentialId,
    /// The session's key: its thumbprint (RFC 7638).
    pub session: String,
    /// When the assertion ends.
    pub expires: Date,
    /// The state of all accounts when this was last found to be good.
    good_at: AtomicU64,
}

impl Member {
    /// What a verified assertion says, found to be good when the accounts were in state `good_at`.
    #[expect(clippy::too_many_arguments, reason = "each is one fact of the assertion")]
    pub(crate) fn new(
        account: AccountId,
        level: Level,
        application: PrincipalId,
        assertion: AssertionId,
        credential: CredentialId,
        session: String,
        expires: Date,
        good_at: u64,
    ) -> Self {
        let good_at = AtomicU64::new(good_at);
        Self { account, level, application, assertion, credential, session, expires, good_at }
    }

    /// Whether nothing changed in any account since this was found to be good.
    pub(crate) fn is_good_at(&self, accounts: u64) -> bool {
        self.good_at.load(Ordering::Acquire) == accounts
    }

    /// Notes that it was found to be good when the accounts were in state `accounts`.
    pub(crate) fn found_good_at(&self, accounts: u64) {
        self.good_at.store(accounts, Ordering::Release);
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
