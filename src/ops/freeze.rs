//! Freezing: nothing works for what is frozen, at once.

use super::Error;
use super::commit::{Affects, unhindered};
use super::done::Done;
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::{KeyName, PrincipalId, TenantId};
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
        self.require_unfounded_to_unfreeze(frozen, &right.resource().to_string())?;
        Ok(self.set_tenant_frozen(&right.resource().0, frozen).await?.detail(reason))
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
        self.require_unfounded_to_unfreeze(frozen, &right.resource().to_string())?;
        Ok(self.set_key_frozen(right.resource(), frozen).await?.detail(reason))
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
        if frozen && name == right.principal() {
            return Err(Error::NotAllowed("nobody can freeze themselves: who would end it?".into()));
        }
        self.require_unfounded_to_unfreeze(frozen, &format!("principals/{name}"))?;
        Ok(self.set_principal_frozen(name, frozen, reason).await?.detail(reason))
    }

    fn require_unfounded_to_unfreeze(&self, frozen: bool, name: &str) -> Result<(), Error> {
        if frozen { Ok(()) } else { self.require_unfounded(&format!("unfreeze {name}")) }
    }

    pub(super) async fn set_tenant_frozen(&self, id: &TenantId, frozen: bool) -> Result<Done<()>, Error> {
        unhindered!(self.try_set_tenant_frozen(id, frozen))
    }

    async fn try_set_tenant_frozen(&self, id: &TenantId, frozen: bool) -> Result<Done<()>, Error> {
        let changed = self.change_tenant(id, true, |tenant| Tenant { frozen, ..tenant }).await?;
        Ok(changed.map(drop))
    }

    pub(super) async fn set_key_frozen(&self, name: &KeyName, frozen: bool) -> Result<Done<()>, Error> {
        unhindered!(self.try_set_key_frozen(name, frozen))
    }

    async fn try_set_key_frozen(&self, name: &KeyName, frozen: bool) -> Result<Done<()>, Error> {
        let Stored { record, revision } = self.key_record(name).await?;
        Ok(self.replace_key(name, Key { frozen, ..record }, revision).await?.map(drop))
    }

    pub(super) async fn set_principal_frozen(
        &self,
        name: &PrincipalId,
        frozen: bool,
        reason: &str,
    ) -> Result<Done<()>, Error> {
        unhindered!(self.try_set_principal_frozen(name, frozen, reason))
    }

    async fn try_set_principal_frozen(
        &self,
        name: &PrincipalId,
        frozen: bool,
        reason: &str,
    ) -> Result<Done<()>, Error> {
        if !self.policy.knows(name) {
            return Err(Error::NoPrincipal(name.clone()));
        }
        let record = Principal { frozen, reason: reason.to_owned(), changed: Date::now() };
        let mut changes = Changes::default();
        match self.records.get(&tables::principal(name)).await? {
            Some(stored) => changes.replace(&tables::principal(name), &record, stored.revision),
            None => changes.create(&tables::principal(name), &record),
        };
        let change = self.commit(changes, Affects::Nothing).await?;
        self.policy.set_frozen(name, frozen);
        Ok(Done::with_change((), change))
    }
}
