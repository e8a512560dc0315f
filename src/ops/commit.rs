//! Changing the store, and forgetting what was known of it.

use std::sync::atomic::Ordering;

use super::Error;
use super::acting::Acting;
use super::vault::{Vault, kek_of};
use crate::access::Action;
use crate::audit::{Committed, Outcome, Pending, StoreChange};
use crate::hsm::Forget;
use crate::id::{KeyName, TenantId};
use crate::store::{Changes, StoreError};

/// What a commit changes, so that it is forgotten.
#[derive(Debug)]
pub(super) enum Affects<'a> {
    /// No key that could be cached.
    Nothing,
    /// One key.
    Key(&'a KeyName),
    /// One key, whose open data keys are wiped too.
    KeyAndItsDeks(&'a KeyName),
    /// All keys of a tenant.
    Tenant(&'a TenantId),
    /// All keys of a tenant, whose open data keys are wiped too.
    TenantAndItsDeks(&'a TenantId),
    /// What staff may do: an account, a token, an assertion.
    Staff,
}

impl Affects<'_> {
    fn covers(&self, name: &KeyName) -> bool {
        match self {
            Self::Nothing | Self::Staff => false,
            Self::Key(key) | Self::KeyAndItsDeks(key) => *key == name,
            Self::Tenant(tenant) | Self::TenantAndItsDeks(tenant) => **tenant == name.tenant,
        }
    }

    fn wipes_deks(&self) -> bool {
        matches!(self, Self::KeyAndItsDeks(_) | Self::TenantAndItsDeks(_))
    }
}

impl Vault {
    /// Commits, then forgets. Views are forgotten after an error too: it may have been applied.
    ///
    /// What is changed is used by calls from then on, and a call is answered only once its own record is durable. So
    /// no answer rests on a change whose record cannot be written: while the log is broken no call is served and no
    /// change begun, and before the log goes on it has the records of all changes (`crate::audit::file`, `Creditor`).
    pub(super) async fn commit(&self, changes: Changes, affects: Affects<'_>) -> Result<StoreChange, Error> {
        self.audit.check()?;
        self.commit_now(changes, affects).await
    }

    /// As [`commit`](Self::commit), also while no record can be written: for what only takes rights away.
    pub(super) async fn commit_now(
        &self,
        mut changes: Changes,
        affects: Affects<'_>,
    ) -> Result<StoreChange, Error> {
        if !changes.has_cause() {
            let cause = Acting::cause(changes.subject());
            changes.because(cause);
        }
        let _alone = self.committing.write().await;
        let outcome = self.records.commit(changes).await;
        // One that was left unsettled is made, or dropped, by the next: whatever it was about is looked at again.
        let unsettled = matches!(outcome, Err(StoreError::Unsettled(_)));
        self.forget_unsettled(unsettled);
        if matches!(affects, Affects::Staff) {
            self.logins.members.accounts_changed();
        } else if !matches!(affects, Affects::Nothing) {
            self.views.forget(|name| affects.covers(name));
        }
        if affects.wipes_deks() {
            self.deks.flush(|name| affects.covers(name));
            self.index_keys.flush(|name| affects.covers(name));
        }
        if let Affects::TenantAndItsDeks(tenant) = affects {
            self.forget_keks(tenant).await;
        }
        let change = outcome?;
        // What is due next may have changed.
        self.woken.notify_one();
        Ok(StoreChange { revision: change.revision, digest: change.digest })
    }
}

impl Vault {
    /// Makes a change that may have been made, if there is one, and forgets what was known before it.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn settle(&self) -> Result<(), Error> {
        let _alone = self.committing.write().await;
        self.records.settle().await?;
        self.forget_unsettled(false);
        Ok(())
    }

    /// Looks at everything again when the change before the store was settled may have been made by that.
    pub(super) fn forget_unsettled(&self, unsettled: bool) {
        if self.unsettled.swap(unsettled, Ordering::AcqRel) {
            self.logins.members.accounts_changed();
            self.views.forget(|_| true);
            self.deks.flush(|_| true);
            self.index_keys.flush(|_| true);
        }
    }

    /// Has the HSM give up the KEKs of a tenant; all KEKs when the store does not say which.
    async fn forget_keks(&self, tenant: &TenantId) {
        let keks = async { self.keks_of(tenant, &self.tenant(tenant).await?.record).await };
        self.hsm.forget(match keks.await {
            Ok(keks) => Forget::These(keks.iter().map(|(_, stored)| kek_of(&stored.record)).collect()),
            Err(_) => Forget::All,
        });
    }

    /// Commits a change of the daemon's own and records it: every digest of the
    /// store stands in the audit log, so that no older store passes for the newest.
    pub(super) async fn commit_own(
        &self,
        changes: Changes,
        affects: Affects<'_>,
        action: Action,
        resource: String,
    ) -> Result<StoreChange, Error> {
        let mut changes = changes;
        changes.because(Acting::own(action, &resource));
        let change = self.commit(changes, affects).await?;
        self.record_own(action, resource, Some(change)).await?;
        Ok(change)
    }

    /// Records an act of the daemon's own; answers when the record is durable.
    pub(super) async fn record_own(
        &self,
        action: Action,
        resource: String,
        change: Option<StoreChange>,
    ) -> Result<(), Error> {
        let mut record = Pending::begin(self.audit.clone(), None, action, resource, 0);
        if let Some(change) = change {
            record.change(change);
        }
        record.finish(Outcome::Ok)?.await?;
        Ok(())
    }

    /// Records words of the daemon's own; answers where they stand.
    pub(super) async fn record_words(
        &self,
        action: Action,
        resource: String,
        detail: String,
    ) -> Result<Committed, Error> {
        let mut record = Pending::begin(self.audit.clone(), None, action, resource, 0);
        record.detail(detail);
        Ok(record.finish(Outcome::Ok)?.await?)
    }
}

/// How often a change is tried that others get in the way of.
pub(super) const TRIES: usize = 8;

/// Repeats a change that lost against another one of the same tenant: it is
/// worked out anew from what the other one left.
macro_rules! unhindered {
    ($change:expr) => {{
        let mut outcome = $change.await;
        for _ in 1..crate::ops::commit::TRIES {
            match outcome {
                Err(crate::ops::Error::Conflict) => outcome = $change.await,
                _ => break,
            }
        }
        outcome
    }};
}
pub(super) use unhindered;
