//! Opening the next epoch of a key, now or from a date on.

use super::Error;
use super::commit::Affects;
use super::done::Done;
use super::vault::Vault;
use super::version::VersionInfo;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::{DekId, Epoch, KeyName};
use crate::keyring::agenda::Task;
use crate::keyring::binding;
use crate::keyring::record::{Dek, Key, SuiteFamily, Tenant, Version};
use crate::keyring::state::{Act, KeyState};
use crate::store::{Changes, StoreError, Stored, tables};

/// Which version is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// The one that waits for its date, or else a new one.
    Next,
    /// One whose data key is made now, under the KEK of now: a version that waited gets another data
    /// key. Nothing was encrypted with the one that it had.
    Fresh,
}

impl Vault {
    /// The changes that open the next epoch of an existing key; the key as it will be, and the DEK
    /// that no longer encrypts.
    pub(super) async fn open_epoch(
        &self,
        name: &KeyName,
        tenant: &Tenant,
        opening: Opening,
    ) -> Result<(Changes, Key, DekId), Error> {
        let Stored { record, revision } = self.key_record(name).await?;
        check_may_rotate(name, &record)?;
        let mut changes = Changes::default();
        let retired = self.retire(&mut changes, name, record.primary).await?;
        let primary = match self.waiting(name, &record).await? {
            Some((epoch, waiting)) => {
                self.activate(&mut changes, name, tenant, epoch, waiting, opening).await?;
                epoch
            }
            None => {
                let epoch = next_epoch(&record)?;
                self.make_version(&mut changes, name, tenant, epoch).await?;
                epoch
            }
        };
        let schedule = record.schedule.as_ref().map(|schedule| schedule.renewed(Date::now()));
        let key = Key { primary, newest: None, schedule, ..record.clone() };
        self.follow_schedule(&mut changes, name, &record, &key).await?;
        changes.replace(&tables::key(name), &key, revision);
        Ok((changes, key, retired))
    }

    /// Makes the next version now, for use from a date on.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when one waits already, [`Error::Argument`] for a date that is over.
    pub async fn create_version(
        &self,
        right: &Authorized<permission::ManageKey>,
        activates: Date,
    ) -> Result<Done<VersionInfo>, Error> {
        let name = right.resource();
        if activates <= Date::now() {
            return Err(Error::Argument("activate_time is over; rotate the key instead".into()));
        }
        let tenant = self.unfrozen_tenant(&name.tenant).await?;
        let Stored { record, revision } = self.key_record(name).await?;
        check_may_rotate(name, &record)?;
        if let Some((epoch, _)) = self.waiting(name, &record).await? {
            return Err(Error::NotAllowed(format!("version {epoch} of {name} waits for its date already")));
        }
        let epoch = next_epoch(&record)?;
        let mut changes = Changes::default();
        let dek = self.make_dek(&mut changes, name, &tenant.record, epoch).await?;
        let version = Version {
            state: KeyState::PreActive,
            activates: Some(activates),
            since: self.nothing_before(),
            ..Version::new(dek, Date::now())
        };
        changes.create(&tables::version(name, epoch), &version);
        changes.replace(&tables::key(name), &Key { newest: Some(epoch), ..record }, revision);
        changes.replace(&tables::tenant(&name.tenant), &tenant.record, tenant.revision);
        let task = Task::Activate(version_name(name, epoch));
        self.reschedule(&mut changes, &task, None, Some(activates)).await?;
        let change = self.commit(changes, Affects::Key(name)).await?;
        Ok(Done::with_change(self.version_info(name, epoch).await?, change))
    }

    /// The version that waits for its date, if there is one.
    pub(super) async fn waiting(
        &self,
        name: &KeyName,
        key: &Key,
    ) -> Result<Option<(Epoch, Stored<Version>)>, Error> {
        let Some(epoch) = key.newest.filter(|newest| *newest > key.primary) else { return Ok(None) };
        let version = self.version_record(name, epoch).await?;
        Ok((version.record.state == KeyState::PreActive).then_some((epoch, version)))
    }

    /// A new version that is in use, and its DEK.
    pub(super) async fn make_version(
        &self,
        changes: &mut Changes,
        name: &KeyName,
        tenant: &Tenant,
        epoch: Epoch,
    ) -> Result<(), Error> {
        let since = self.nothing_before();
        let dek = self.make_dek(changes, name, tenant, epoch).await?;
        let version = Version { since, ..Version::new(dek, Date::now()) };
        changes.create(&tables::version(name, epoch), &version);
        Ok(())
    }

    async fn make_dek(
        &self,
        changes: &mut Changes,
        name: &KeyName,
        tenant: &Tenant,
        epoch: Epoch,
    ) -> Result<DekId, Error> {
        let (id, kek, family) = (DekId::random()?, tenant.primary_kek, SuiteFamily::AesSha2);
        let aad = binding::dek(self.deployment(), name, kek, epoch, id, family);
        let (_, sealed) = self.new_key(&name.tenant, kek, aad).await?;
        changes.create(&tables::dek(name, id), &Dek { epoch, kek, sealed, family });
        Ok(id)
    }

    async fn activate(
        &self,
        changes: &mut Changes,
        name: &KeyName,
        tenant: &Tenant,
        epoch: Epoch,
        waiting: Stored<Version>,
        opening: Opening,
    ) -> Result<(), Error> {
        let Stored { record, revision } = waiting;
        let task = Task::Activate(version_name(name, epoch));
        self.reschedule(changes, &task, record.activates, None).await?;
        let (dek, since) = match opening {
            Opening::Next => (record.dek, record.since),
            Opening::Fresh => {
                let old = tables::dek(name, record.dek);
                let stored = self.records.get(&old).await?.ok_or_else(|| StoreError::lost(&old))?;
                changes.delete(&old, stored.revision);
                let since = self.nothing_before();
                (self.make_dek(changes, name, tenant, epoch).await?, since)
            }
        };
        // Its age counts from its first use.
        let version = Version { since, ..Version::new(dek, Date::now()) };
        changes.replace(&tables::version(name, epoch), &version, revision);
        Ok(())
    }

    async fn retire(&self, changes: &mut Changes, name: &KeyName, epoch: Epoch) -> Result<DekId, Error> {
        let Stored { record, revision } = self.version_record(name, epoch).await?;
        let dek = record.dek;
        if let Some(state) = record.state.after(Act::Retire).filter(|state| *state != record.state) {
            changes.replace(&tables::version(name, epoch), &Version { state, ..record }, revision);
        }
        Ok(dek)
    }
}

fn check_may_rotate(name: &KeyName, key: &Key) -> Result<(), Error> {
    match key.state {
        _ if key.frozen => Err(Error::Frozen(name.to_string())),
        state if !state.is_alive() => Err(Error::KeyState(name.clone(), state)),
        _ => Ok(()),
    }
}

fn next_epoch(key: &Key) -> Result<Epoch, Error> {
    key.newest().next().ok_or_else(|| Error::NotAllowed("no key versions are left".into()))
}

fn version_name(name: &KeyName, epoch: Epoch) -> crate::id::VersionName {
    crate::id::VersionName { key: name.clone(), epoch }
}
