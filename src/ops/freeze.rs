//! Freezing: nothing works for what is frozen, at once.

use super::Error;
use super::commit::Affects;
use super::custody::Matter;
use super::done::Done;
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::keyring::record::{Key, Principal, Tenant};
use crate::store::{Changes, Stored, tables};

impl Vault {
    /// Freezes or unfreezes a tenant; its open data keys are wiped before the answer.
    ///
    /// # Errors
    /// [`Error::NoTenant`] when there is none of that name.
    pub async fn freeze_tenant(
        &self,
        right: &Authorized<permission::ManageTenant>,
        frozen: bool,
        reason: &str,
    ) -> Result<Done<()>, Error> {
        self.check_may_end(frozen, right.resource().to_string())?;
        let changed =
            self.change_tenant(&right.resource().0, true, |tenant| Tenant { frozen, ..tenant }).await?;
        Ok(changed.map(|_| ()).detail(reason))
    }

    /// Freezes or unfreezes a key; its open data keys are wiped before the answer.
    ///
    /// # Errors
    /// [`Error::NoKey`] when there is none of that name.
    pub async fn freeze_key(
        &self,
        right: &Authorized<permission::ManageKey>,
        frozen: bool,
        reason: &str,
    ) -> Result<Done<()>, Error> {
        self.check_may_end(frozen, right.resource().to_string())?;
        let Stored { record, revision } = self.key_record(right.resource()).await?;
        let changed = self.replace_key(right.resource(), Key { frozen, ..record }, revision).await?;
        Ok(changed.map(|_| ()).detail(reason))
    }

    /// Freezes or unfreezes a principal of the configuration.
    ///
    /// # Errors
    /// [`Error::NoPrincipal`] when the configuration has none of that name.
    pub async fn freeze_principal(
        &self,
        right: &Authorized<permission::ManagePrincipal>,
        frozen: bool,
        reason: &str,
    ) -> Result<Done<()>, Error> {
        let name = right.resource();
        if !self.policy.knows(name) {
            return Err(Error::NoPrincipal(name.clone()));
        }
        self.check_may_end(frozen, format!("principals/{name}"))?;
        if frozen && name == right.principal() {
            return Err(Error::NotAllowed("nobody can freeze themselves: who would end it?".into()));
        }
        let record = Principal { frozen, reason: reason.to_owned(), changed: Date::now() };
        let mut changes = Changes::default();
        match self.records.get(&tables::principal(name)).await? {
            Some(stored) => changes.replace(&tables::principal(name), &record, stored.revision),
            None => changes.create(&tables::principal(name), &record),
        };
        let change = self.commit(changes, Affects::Nothing).await?;
        self.policy.set_frozen(name, frozen);
        Ok(Done::with_change((), change).detail(reason))
    }

    /// Everybody may freeze what they manage; ending a freeze may need more.
    fn check_may_end(&self, frozen: bool, name: String) -> Result<(), Error> {
        match frozen {
            true => Ok(()),
            false => self.require_unfounded_or_ceremony(Matter::Unfreeze(&name)),
        }
    }
}
