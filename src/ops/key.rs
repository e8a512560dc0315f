//! Named keys.

use super::Error;
use super::commit::{Affects, unhindered};
use super::done::Done;
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::{DekId, Epoch, KeyId, KeyName, TenantId};
use crate::keyring::binding;
use crate::keyring::record::{Dek, Key, SuiteFamily, Tenant, Version};
use crate::keyring::state::{DataClass, KeyState};
use crate::store::{Changes, Stored, tables};

/// What to change in a key; `None` leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyUpdate {
    /// The new state.
    pub state: Option<KeyState>,
    /// The new class; it can only be raised.
    pub data_class: Option<DataClass>,
}

impl Vault {
    /// Makes a key with its first version.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken, [`Error::NoTenant`] without its tenant.
    pub async fn create_key(
        &self,
        right: &Authorized<permission::ManageKey>,
        data_class: DataClass,
    ) -> Result<Done<Key>, Error> {
        unhindered!(self.try_create_key(right.resource(), data_class))
    }

    async fn try_create_key(&self, name: &KeyName, data_class: DataClass) -> Result<Done<Key>, Error> {
        let tenant = self.unfrozen_tenant(&name.tenant).await?;
        if self.records.get(&tables::key(name)).await?.is_some() {
            return Err(Error::Exists(name.to_string()));
        }
        let (created, state) = (Date::now(), KeyState::Active);
        let key =
            Key { data_class, state, frozen: false, primary: Epoch::FIRST, created, fields: Vec::new() };
        let keys =
            tenant.record.keys.checked_add(1).ok_or_else(|| Error::NotAllowed("too many keys".into()))?;
        let mut changes = self.new_epoch(name, &tenant.record, Epoch::FIRST).await?;
        changes.create(&tables::key(name), &key);
        changes.replace(&tables::tenant(&name.tenant), &Tenant { keys, ..tenant.record }, tenant.revision);
        let change = self.commit(changes, Affects::Tenant(&name.tenant)).await?;
        Ok(Done::with_change(key, change))
    }

    /// One key.
    ///
    /// # Errors
    /// [`Error::NoKey`] when there is none of that name.
    pub async fn show_key(&self, right: &Authorized<permission::ViewKey>) -> Result<Done<Key>, Error> {
        Ok(Done::new(self.key_record(right.resource()).await?.record))
    }

    /// Keys of a tenant in the order of their names, after `after` when given.
    ///
    /// # Errors
    /// [`Error::NoTenant`] when there is none of that name.
    pub async fn list_keys(
        &self,
        right: &Authorized<permission::ViewTenant>,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Done<Vec<(KeyName, Key)>>, Error> {
        let tenant = &right.resource().0;
        self.tenant(tenant).await?;
        let after = after.map(|key| tables::key(&KeyName { tenant: tenant.clone(), key }));
        let page = self.records.list(&tables::keys(tenant), after.as_ref(), limit).await?;
        Ok(Done::new(page.into_iter().map(|(path, stored)| (path.id, stored.record)).collect()))
    }

    /// Changes state or class.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when the class would be lowered.
    pub async fn update_key(
        &self,
        right: &Authorized<permission::ManageKey>,
        update: KeyUpdate,
    ) -> Result<Done<Key>, Error> {
        let name = right.resource();
        let Stored { record, revision } = self.key_record(name).await?;
        if update.data_class.is_some_and(|class| class < record.data_class) {
            let class = record.data_class.number();
            return Err(Error::NotAllowed(format!(
                "{name} has data class {class}, which can only be raised"
            )));
        }
        let state = update.state.unwrap_or(record.state);
        let data_class = update.data_class.unwrap_or(record.data_class);
        self.replace_key(name, Key { state, data_class, ..record }, revision).await
    }

    /// Opens a new version for new data.
    ///
    /// # Errors
    /// A frozen or disabled key, an HSM or store that does not serve.
    pub async fn rotate_key(&self, right: &Authorized<permission::ManageKey>) -> Result<Done<Key>, Error> {
        unhindered!(self.try_rotate_key(right.resource()))
    }

    async fn try_rotate_key(&self, name: &KeyName) -> Result<Done<Key>, Error> {
        let tenant = self.unfrozen_tenant(&name.tenant).await?;
        let (mut changes, key) = self.open_epoch(name, &tenant.record).await?;
        changes.replace(&tables::tenant(&name.tenant), &tenant.record, tenant.revision);
        let change = self.commit(changes, Affects::Key(name)).await?;
        Ok(Done::with_change(key, change))
    }

    /// The changes that open the next epoch of an existing key.
    pub(super) async fn open_epoch(&self, name: &KeyName, tenant: &Tenant) -> Result<(Changes, Key), Error> {
        let Stored { record, revision } = self.key_record(name).await?;
        if record.frozen {
            return Err(Error::Frozen(name.to_string()));
        }
        let primary =
            record.primary.next().ok_or_else(|| Error::NotAllowed("no key versions are left".into()))?;
        let mut changes = self.new_epoch(name, tenant, primary).await?;
        let key = Key { primary, ..record };
        changes.replace(&tables::key(name), &key, revision);
        Ok((changes, key))
    }

    /// A new DEK and its version record.
    async fn new_epoch(&self, name: &KeyName, tenant: &Tenant, epoch: Epoch) -> Result<Changes, Error> {
        let (id, kek, family) = (DekId::random()?, tenant.primary_kek, SuiteFamily::AesSha2);
        let aad = binding::dek(self.deployment(), name, kek, epoch, id, family);
        let (_, sealed) = self.new_key(&name.tenant, kek, aad).await?;
        let version = Version { dek: id, state: KeyState::Active, created: Date::now() };
        let mut changes = Changes::default();
        changes.create(&tables::version(name, epoch), &version);
        changes.create(&tables::dek(name, id), &Dek { epoch, kek, sealed, family });
        Ok(changes)
    }

    pub(super) async fn replace_key(
        &self,
        name: &KeyName,
        key: Key,
        revision: u64,
    ) -> Result<Done<Key>, Error> {
        let mut changes = Changes::default();
        changes.replace(&tables::key(name), &key, revision);
        let change = self.commit(changes, Affects::KeyAndItsDeks(name)).await?;
        Ok(Done::with_change(key, change))
    }

    pub(super) async fn key_record(&self, name: &KeyName) -> Result<Stored<Key>, Error> {
        let stored = self.records.get(&tables::key(name)).await?;
        match stored {
            Some(stored) => Ok(stored),
            None => {
                self.tenant(&name.tenant).await?;
                Err(Error::NoKey(name.clone()))
            }
        }
    }

    pub(super) async fn unfrozen_tenant(&self, id: &TenantId) -> Result<Stored<Tenant>, Error> {
        let tenant = self.tenant(id).await?;
        match tenant.record.frozen {
            true => Err(Error::Frozen(Self::tenant_name(id).to_string())),
            false => Ok(tenant),
        }
    }
}
