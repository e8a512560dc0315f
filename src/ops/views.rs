//! What the store says of keys and versions, kept in memory.

use std::sync::Arc;

use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Error;
use super::dek_uses::UseCounter;
use super::vault::Vault;
use crate::id::{DekId, Epoch, KeyName, TenantId, VersionName};
use crate::keyring::record::{IndexField, Key, Tenant};
use crate::keyring::state::KeyState;
use crate::store::{StoreError, tables};

/// A key and its tenant, as of the last commit that changed either.
#[derive(Debug)]
pub(super) struct KeyView {
    pub(super) name: KeyName,
    pub(super) record: Key,
    /// The fields that have a blind index.
    pub(super) fields: Vec<IndexField>,
    pub(super) tenant: Tenant,
    /// The version that encrypts.
    pub(super) primary: Arc<VersionView>,
    /// Counts its uses, when the key is rotated by use.
    pub(super) uses: Option<Arc<UseCounter>>,
}

/// One version of a key.
#[derive(Debug)]
pub(super) struct VersionView {
    pub(super) epoch: Epoch,
    pub(super) dek: DekId,
    pub(super) state: KeyState,
}

/// Reads of the store that calls wait for at a time. Each has a connection to the database, with descriptors and a cache,
/// and a caller may have many thousands of items under way.
const READS: usize = 64;

/// The views of keys, and of versions by DEK id.
pub(super) struct Views {
    keys: Cache<KeyName, Arc<KeyView>>,
    versions: Cache<DekId, (KeyName, Arc<VersionView>)>,
    reads: Semaphore,
}

impl Views {
    pub(super) fn new(capacity: usize) -> Self {
        let reads = Semaphore::new(READS);
        Self { keys: Cache::new(capacity), versions: Cache::new(capacity), reads }
    }

    /// Keeps at most so many of each.
    pub(super) fn set_capacity(&self, capacity: usize) {
        let capacity = u64::try_from(capacity).unwrap_or(u64::MAX);
        self.keys.set_capacity(capacity);
        self.versions.set_capacity(capacity);
    }

    /// A place among the reads; none within another's, or all could wait for each other.
    pub(super) async fn place(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.reads.acquire().await.map_err(|_| Error::ShuttingDown)
    }

    /// Forgets what a commit changed.
    pub(super) fn forget(&self, affected: impl Fn(&KeyName) -> bool) {
        self.keys.retain(|name, _| !affected(name));
        self.versions.retain(|_, (name, _)| !affected(name));
    }
}

impl KeyView {
    /// That neither the key nor its tenant is frozen, destroyed or about to be.
    pub(super) fn check_usable(&self) -> Result<(), Error> {
        let tenant = || Vault::tenant_name(&self.name.tenant);
        match (self.tenant.state(), self.record.state) {
            (state, _) if !state.is_alive() => Err(Error::TenantState(tenant(), state)),
            (_, state) if !state.is_alive() => Err(Error::KeyState(self.name.clone(), state)),
            _ if self.tenant.frozen => Err(Error::Frozen(tenant().to_string())),
            _ if self.record.frozen => Err(Error::Frozen(self.name.to_string())),
            _ => Ok(()),
        }
    }

    /// That new data may be encrypted.
    pub(super) fn check_encrypt(&self) -> Result<(), Error> {
        self.check_usable()?;
        match self.record.state.may_encrypt() {
            true => Ok(()),
            false => Err(Error::KeyState(self.name.clone(), self.record.state)),
        }
    }

    /// That data of this version may be decrypted.
    pub(super) fn check_decrypt(&self, version: &VersionView) -> Result<(), Error> {
        self.check_usable()?;
        if !self.record.state.may_decrypt() {
            return Err(Error::KeyState(self.name.clone(), self.record.state));
        }
        if let Some(minimum) = self.record.min_version.filter(|minimum| version.epoch < *minimum) {
            let name = VersionName { key: self.name.clone(), epoch: version.epoch };
            return Err(Error::BelowMinimum(name, minimum));
        }
        match version.state.may_decrypt() {
            true => Ok(()),
            false => {
                let name = VersionName { key: self.name.clone(), epoch: version.epoch };
                Err(Error::VersionState(name, version.state))
            }
        }
    }
}

impl Vault {
    /// The view of a key.
    pub(super) async fn key_view(&self, name: &KeyName) -> Result<Arc<KeyView>, Error> {
        if let Some(view) = self.views.keys.get(name) {
            return Ok(view);
        }
        let _place = self.views.place().await?;
        let _no_commit = self.committing.read().await;
        self.views.keys.get_or_insert_async(name, self.load_key(name)).await
    }

    /// The version of a key that has this DEK; `None` when none has.
    pub(super) async fn version_view(
        &self,
        name: &KeyName,
        dek: DekId,
    ) -> Result<Option<Arc<VersionView>>, Error> {
        if let Some((owner, view)) = self.views.versions.get(&dek) {
            return Ok((owner == *name).then_some(view));
        }
        let _place = self.views.place().await?;
        let _no_commit = self.committing.read().await;
        let Some(epoch) = self.epoch_of(name, dek).await? else { return Ok(None) };
        let view = Arc::new(self.load_version(name, epoch).await?);
        self.views.versions.insert(dek, (name.clone(), view.clone()));
        Ok(Some(view))
    }

    /// The epoch of a DEK, or of one that was destroyed.
    async fn epoch_of(&self, name: &KeyName, dek: DekId) -> Result<Option<Epoch>, Error> {
        if let Some(found) = self.dek_record(name, dek).await? {
            return Ok(Some(found.epoch));
        }
        let path = tables::dek(name, dek);
        if let Some(buried) = self.records.get(&tables::tombstone(&path)).await? {
            return Ok(buried.record.epoch);
        }
        // That the row is not there says nothing, since no digest covers it; the versions of the key do.
        match self.is_dek_of_version(name, dek).await? {
            true => Err(StoreError::lost(&path).into()),
            false => Ok(None),
        }
    }

    /// Whether a version of the key has this DEK.
    async fn is_dek_of_version(&self, name: &KeyName, dek: DekId) -> Result<bool, Error> {
        let mut view = self.records.view().await?;
        let key = view.get(&tables::key(name)).await?.ok_or_else(|| Error::NoKey(name.clone()))?.record;
        let paths: Vec<_> = key.epochs().map(|epoch| tables::version(name, epoch)).collect();
        let versions = view.get_many(&paths).await?;
        Ok(versions.iter().flatten().any(|version| version.record.dek == dek))
    }

    /// A tenant's record, fresh from the store.
    pub(super) async fn tenant(&self, tenant: &TenantId) -> Result<crate::store::Stored<Tenant>, Error> {
        let stored = self.records.get(&tables::tenant(tenant)).await?;
        stored.ok_or_else(|| Error::NoTenant(Self::tenant_name(tenant)))
    }

    async fn load_key(&self, name: &KeyName) -> Result<Arc<KeyView>, Error> {
        let tenant = self.tenant(&name.tenant).await?.record;
        let stored = self.records.get(&tables::key(name)).await?;
        let record = stored.ok_or_else(|| Error::NoKey(name.clone()))?.record;
        let fields = self.index_fields_of(name, &record).await?;
        let version = self.version_record(name, record.primary).await?.record;
        let uses = self.dek_uses.of(&record, &version);
        let primary = Arc::new(VersionView { epoch: record.primary, dek: version.dek, state: version.state });
        Ok(Arc::new(KeyView { name: name.clone(), record, fields, tenant, primary, uses }))
    }

    async fn load_version(&self, name: &KeyName, epoch: Epoch) -> Result<VersionView, Error> {
        let record = self.version_record(name, epoch).await?.record;
        Ok(VersionView { epoch, dek: record.dek, state: record.state })
    }
}
