//! Freezing: nothing works for what is frozen, at once.

use super::Error;
use super::commit::{Affects, unhindered};
use super::custody::Matter;
use super::done::Done;
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::audit::StoreChange;
use crate::clock::Date;
use crate::id::{Freezable, PrincipalId, TenantName};
use crate::keyring::record::{Key, Principal, Tenant};
use crate::store::{Changes, StoreError, Stored, tables};

impl Vault {
    /// Freezes something, or ends its freeze. Open data keys of a tenant or key are wiped before the answer.
    ///
    /// # Errors
    /// [`Error::NoTenant`], [`Error::NoKey`], and [`Error::NoPrincipal`] where the configuration has none of that name;
    /// [`Error::CeremonyRequired`] for the end of a freeze since the root was founded.
    pub async fn freeze(
        &self,
        right: &Authorized<permission::Freeze>,
        frozen: bool,
        reason: &str,
    ) -> Result<Done<()>, Error> {
        let what = right.resource();
        if frozen && matches!(what, Freezable::Principal(name) if name == right.principal()) {
            return Err(Error::NotAllowed("nobody can freeze themselves: who would end it?".into()));
        }
        if !frozen {
            self.require_unfounded(Matter::Unfreeze(&what.to_string()))?;
        }
        Ok(unhindered!(self.set_frozen(what, frozen, reason, Changes::default()))?.detail(reason))
    }

    /// Freezes or unfreezes something, together with `further` changes.
    pub(super) async fn set_frozen(
        &self,
        what: &Freezable,
        frozen: bool,
        reason: &str,
        mut further: Changes,
    ) -> Result<Done<()>, Error> {
        // The order in the store is the order in memory.
        let _alone = self.freezing.lock().await;
        let affects = match what {
            Freezable::Tenant(TenantName(id)) => {
                let Stored { record, revision } = self.tenant(id).await?;
                further.replace(&tables::tenant(id), &Tenant { frozen, ..record }, revision);
                Affects::TenantAndItsDeks(id)
            }
            Freezable::Key(name) => {
                let Stored { record, revision } = self.key_record(name).await?;
                further.replace(&tables::key(name), &Key { frozen, ..record }, revision);
                Affects::KeyAndItsDeks(name)
            }
            Freezable::Principal(name) => {
                self.freeze_principal_in(&mut further, name, frozen, reason).await?;
                Affects::Nothing
            }
        };
        // What takes rights away is in force at once, with its record or without. What gives them back is not begun
        // while no record can be written.
        let outcome = match frozen {
            true => self.commit_now(further, affects).await,
            false => self.commit(further, affects).await,
        };
        if let Freezable::Principal(name) = what {
            self.take_over_frozen(name, frozen, &outcome);
        }
        Ok(Done::with_change((), outcome?))
    }

    /// A freeze counts at once, also one that may have been made; its end counts when its record is durable.
    fn take_over_frozen(&self, name: &PrincipalId, frozen: bool, outcome: &Result<StoreChange, Error>) {
        match outcome {
            Ok(change) if frozen => self.policy.set_frozen(name, true, change.revision),
            Ok(change) => {
                let (policy, name, revision) = (self.policy.clone(), name.clone(), change.revision);
                let end = move || policy.set_frozen(&name, false, revision);
                self.records.when_recorded(revision, end);
            }
            // The newest revision that is known: one that ends it later counts.
            Err(Error::Store(StoreError::Unsettled(_))) if frozen => {
                self.policy.set_frozen(name, true, self.records.position().revision);
            }
            Err(_) => {}
        }
    }

    async fn freeze_principal_in(
        &self,
        changes: &mut Changes,
        name: &PrincipalId,
        frozen: bool,
        reason: &str,
    ) -> Result<(), Error> {
        if !self.policy.knows(name) {
            return Err(Error::NoPrincipal(name.clone()));
        }
        let record = Principal { frozen, reason: reason.to_owned(), changed: Date::now() };
        match self.records.get(&tables::principal(name)).await? {
            Some(stored) => changes.replace(&tables::principal(name), &record, stored.revision),
            None => changes.create(&tables::principal(name), &record),
        };
        Ok(())
    }
}
