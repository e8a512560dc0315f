//! The versions (DEK epochs) of a key.

use super::Error;
use super::commit::Affects;
use super::done::Done;
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::id::{DekId, Epoch, KekVersion, KeyName, VersionName};
use crate::keyring::record::{Dek, Version};
use crate::keyring::state::{Act, KeyState};
use crate::store::{Changes, StoreError, Stored, tables};

/// A version and the KEK version that seals its DEK.
#[derive(Debug)]
pub struct VersionInfo {
    /// Its number.
    pub epoch: Epoch,
    /// Its record.
    pub record: Version,
    /// The KEK version; none for a version that was destroyed.
    pub kek: Option<KekVersion>,
}

impl Vault {
    /// One version.
    ///
    /// # Errors
    /// [`Error::NoVersion`] when there is none of that number.
    pub async fn show_version(
        &self,
        right: &Authorized<permission::ViewKey>,
        epoch: Epoch,
    ) -> Result<Done<VersionInfo>, Error> {
        Ok(Done::new(self.version_info(right.resource(), epoch).await?))
    }

    /// Versions, newest first, from the one before `before` when given.
    ///
    /// # Errors
    /// [`Error::NoKey`] when there is no such key.
    pub async fn list_versions(
        &self,
        right: &Authorized<permission::ViewKey>,
        before: Option<Epoch>,
        limit: usize,
    ) -> Result<Done<Vec<VersionInfo>>, Error> {
        let name = right.resource();
        let newest = self.key_record(name).await?.record.newest();
        let mut next = before.map_or(Some(newest), |before| before.previous().map(|top| top.min(newest)));
        let mut found = Vec::new();
        while let Some(epoch) = next.filter(|_| found.len() < limit) {
            found.push(self.version_info(name, epoch).await?);
            next = epoch.previous();
        }
        Ok(Done::new(found))
    }

    /// Changes the state of a version. The primary version stays active.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] for the primary version.
    pub async fn update_version(
        &self,
        right: &Authorized<permission::ManageKey>,
        epoch: Epoch,
        state: KeyState,
    ) -> Result<Done<VersionInfo>, Error> {
        let name = right.resource();
        let key = self.key_record(name).await?;
        if epoch == key.record.primary && state != KeyState::Active {
            return Err(Error::NotAllowed(format!(
                "{name} encrypts with version {epoch}; rotate the key first, then change this version"
            )));
        }
        let Stored { record, revision } = self.version_record(name, epoch).await?;
        let state = asked_for(&record, state, epoch == key.record.primary)
            .ok_or_else(|| Error::VersionState(VersionName { key: name.clone(), epoch }, record.state))?;
        let mut changes = Changes::default();
        changes.replace(&tables::key(name), &key.record, key.revision);
        changes.replace(&tables::version(name, epoch), &Version { state, ..record }, revision);
        let change = self.commit(changes, Affects::KeyAndItsDeks(name)).await?;
        Ok(Done::with_change(self.version_info(name, epoch).await?, change))
    }

    pub(super) async fn version_record(
        &self,
        name: &KeyName,
        epoch: Epoch,
    ) -> Result<Stored<Version>, Error> {
        let stored = self.records.get(&tables::version(name, epoch)).await?;
        stored.ok_or_else(|| Error::NoVersion(VersionName { key: name.clone(), epoch }))
    }

    pub(super) async fn version_info(&self, name: &KeyName, epoch: Epoch) -> Result<VersionInfo, Error> {
        self.key_record(name).await?;
        let record = self.version_record(name, epoch).await?.record;
        let kek = match record.state {
            KeyState::Destroyed => None,
            _ => Some(self.dek_of(name, record.dek).await?.kek),
        };
        Ok(VersionInfo { epoch, record, kek })
    }

    pub(super) async fn dek_of(&self, name: &KeyName, dek: DekId) -> Result<Dek, Error> {
        let found = self.dek_record(name, dek).await?;
        Ok(found.ok_or_else(|| StoreError::lost(&tables::dek(name, dek)))?)
    }
}

/// The state that an operator asks for, where the state before permits it. A version
/// that is not the primary one encrypts nothing: enabled, it decrypts.
fn asked_for(version: &Version, state: KeyState, primary: bool) -> Option<KeyState> {
    match (state, primary) {
        (KeyState::Active, false) => version.state.after(Act::Restrict),
        _ => version.state.after(state.asked_by()?),
    }
}
