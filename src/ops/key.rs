//! Named keys.

use std::time::Duration;

use super::Error;
use super::commit::{Affects, unhindered};
use super::custody::Matter;
use super::done::Done;
use super::epoch::Opening;
use super::vault::Vault;
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::audit::StoreChange;
use crate::clock::Date;
use crate::id::{Epoch, KeyId, KeyName, TenantId};
use crate::keyring::record::{Key, Tenant};
use crate::keyring::schedule::{MIN_PERIOD, Schedule};
use crate::keyring::state::{DataClass, KeyState};
use crate::store::{Changes, Stored, tables};

/// What to change in a key; `None` leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyUpdate {
    /// The new state.
    pub state: Option<KeyState>,
    /// The new class; it can only be raised.
    pub data_class: Option<DataClass>,
    /// How long a version stays the primary one, or for ever.
    pub rotation_period: Option<Option<Duration>>,
    /// After how many encryptions a new version is opened, or never.
    pub rotation_uses: Option<Option<u64>>,
    /// Below which versions no longer decrypt, or none.
    pub min_version: Option<Option<Epoch>>,
    /// Whether an application may work with it only for a staff member.
    pub staff_required: Option<bool>,
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
        let key = Key { since: self.nothing_before(), ..Key::new(data_class, Date::now()) };
        let keys =
            tenant.record.keys.checked_add(1).ok_or_else(|| Error::NotAllowed("too many keys".into()))?;
        let mut changes = Changes::default();
        self.make_version(&mut changes, name, &tenant.record, Epoch::FIRST).await?;
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
        let page = self.records.page(&tables::keys(tenant), after.as_ref(), limit).await?.into_rows();
        Ok(Done::new(page.into_iter().map(|(path, stored)| (path.id, stored.record)).collect()))
    }

    /// Changes state, class, schedule, minimum version, or whether it is for staff only.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when the class would be lowered, or the state does not permit it.
    pub async fn update_key(
        &self,
        right: &Authorized<permission::ManageKey>,
        update: KeyUpdate,
    ) -> Result<Done<Key>, Error> {
        unhindered!(self.try_update_key(right, update))
    }

    async fn try_update_key(
        &self,
        right: &Authorized<permission::ManageKey>,
        update: KeyUpdate,
    ) -> Result<Done<Key>, Error> {
        let name = right.resource();
        let Stored { record, revision } = self.key_record(name).await?;
        let mut key = record.clone();
        if let Some(state) = update.state {
            key.state = asked_for(&record, name, state)?;
        }
        if let Some(class) = update.data_class {
            key.data_class = raised(&record, name, class)?;
        }
        if let Some(minimum) = update.min_version {
            self.require_unfounded(Matter::MinVersion(&name.to_string(), minimum.unwrap_or(Epoch::FIRST)))?;
            self.check_minimum(name, &record, minimum).await?;
            key.min_version = minimum;
        }
        if let Some(required) = update.staff_required {
            key.staff_required = required.then_some(true);
        }
        if update.rotation_period.is_some() || update.rotation_uses.is_some() {
            key.schedule = self.new_schedule(name, &record, update).await?;
        }
        let mut changes = Changes::default();
        self.follow_schedule(&mut changes, name, &record, &key).await?;
        changes.replace(&tables::key(name), &key, revision);
        let change = self.commit(changes, Affects::KeyAndItsDeks(name)).await?;
        Ok(Done::with_change(key, change))
    }

    /// Puts another minimum version in force; the change, where it is another one.
    pub(super) async fn set_min_version(
        &self,
        name: &KeyName,
        minimum: Option<Epoch>,
    ) -> Result<Option<StoreChange>, Error> {
        let Stored { record, revision } = self.key_record(name).await?;
        if record.min_version == minimum {
            return Ok(None);
        }
        self.check_minimum(name, &record, minimum).await?;
        let mut changes = Changes::default();
        changes.replace(&tables::key(name), &Key { min_version: minimum, ..record }, revision);
        self.commit(changes, Affects::KeyAndItsDeks(name)).await.map(Some)
    }

    /// That the minimum version can be put in force as things are.
    pub(super) async fn min_version_allowed(&self, name: &KeyName, version: u32) -> Result<(), Error> {
        let minimum = Epoch::new(version).ok_or_else(|| Error::Argument("versions count from 1".into()))?;
        let key = self.key_record(name).await?.record;
        self.check_minimum(name, &key, Some(minimum)).await
    }

    async fn new_schedule(
        &self,
        name: &KeyName,
        key: &Key,
        update: KeyUpdate,
    ) -> Result<Option<Schedule>, Error> {
        let old = key.schedule.as_ref();
        let period = update.rotation_period.unwrap_or_else(|| old.and_then(Schedule::period));
        let uses = update.rotation_uses.unwrap_or_else(|| old.and_then(|old| old.uses));
        check_period(period)?;
        let born = self.version_record(name, key.primary).await?.record.created;
        Ok(Schedule::new(period, uses, born))
    }

    /// A minimum is at most the primary version, so that what is encrypted now can be decrypted. It is lowered
    /// to undo a mistake: not below a version that was destroyed since, for that would promise what
    /// cannot be kept.
    async fn check_minimum(&self, name: &KeyName, key: &Key, minimum: Option<Epoch>) -> Result<(), Error> {
        let (old, new) = (key.min_version.unwrap_or(Epoch::FIRST), minimum.unwrap_or(Epoch::FIRST));
        if new > key.primary {
            let primary = key.primary;
            return Err(Error::NotAllowed(format!(
                "{name} encrypts with version {primary}; rotate it first"
            )));
        }
        let freed = key.epochs().filter(|epoch| (new..old).contains(epoch));
        let paths: Vec<_> = freed.map(|epoch| tables::version(name, epoch)).collect();
        for version in self.records.view().await?.get_many(&paths).await?.into_iter().flatten() {
            if version.record.state == KeyState::Destroyed {
                return Err(Error::NotAllowed(format!(
                    "versions of {name} below {old} were destroyed: the minimum cannot be lowered again"
                )));
            }
        }
        Ok(())
    }

    /// Opens a new version for new data; one that waits for its date is taken for it.
    ///
    /// # Errors
    /// A frozen key, one that is to be destroyed, an HSM or store that does not serve.
    pub async fn rotate_key(&self, right: &Authorized<permission::ManageKey>) -> Result<Done<Key>, Error> {
        unhindered!(self.try_rotate_key(right.resource()))
    }

    async fn try_rotate_key(&self, name: &KeyName) -> Result<Done<Key>, Error> {
        let tenant = self.unfrozen_tenant(&name.tenant).await?;
        let (mut changes, key, retired) = self.open_epoch(name, &tenant.record, Opening::Next).await?;
        changes.replace(&tables::tenant(&name.tenant), &tenant.record, tenant.revision);
        let change = self.commit(changes, Affects::Key(name)).await?;
        self.dek_uses.forget(retired);
        Ok(Done::with_change(key, change))
    }

    /// The same, by date or use. Recorded by itself.
    pub(super) async fn rotate_key_on_schedule(&self, name: &KeyName, action: Action) -> Result<(), Error> {
        let tenant = self.unfrozen_tenant(&name.tenant).await?;
        let (mut changes, key, retired) = self.open_epoch(name, &tenant.record, Opening::Next).await?;
        changes.replace(&tables::tenant(&name.tenant), &tenant.record, tenant.revision);
        let resource = format!("{name}/versions/{}", key.primary);
        self.commit_own(changes, Affects::Key(name), action, resource).await?;
        self.dek_uses.forget(retired);
        Ok(())
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

    /// A tenant that is neither frozen nor to be destroyed.
    pub(super) async fn unfrozen_tenant(&self, id: &TenantId) -> Result<Stored<Tenant>, Error> {
        let tenant = self.tenant(id).await?;
        match tenant.record.state() {
            KeyState::Active if tenant.record.frozen => Err(Error::Frozen(Self::tenant_name(id).to_string())),
            KeyState::Active => Ok(tenant),
            state => Err(Error::TenantState(Self::tenant_name(id), state)),
        }
    }
}

/// That a period is long enough to be meant.
pub(super) fn check_period(period: Option<Duration>) -> Result<(), Error> {
    match period {
        Some(period) if period < MIN_PERIOD => {
            let (given, least) = (humantime::format_duration(period), humantime::format_duration(MIN_PERIOD));
            Err(Error::Argument(format!("rotation_period is {given}; expected at least {least}")))
        }
        _ => Ok(()),
    }
}

/// The state that an operator asks for, where the state before permits it.
fn asked_for(key: &Key, name: &KeyName, state: KeyState) -> Result<KeyState, Error> {
    state
        .asked_by()
        .and_then(|act| key.state.after(act))
        .ok_or_else(|| Error::KeyState(name.clone(), key.state))
}

fn raised(key: &Key, name: &KeyName, class: DataClass) -> Result<DataClass, Error> {
    match class < key.data_class {
        true => Err(Error::NotAllowed(format!(
            "{name} has data class {}, which can only be raised",
            key.data_class.number()
        ))),
        false => Ok(class),
    }
}
