//! What is sealed under the KEKs of a tenant: every record is verified, and every one
//! that must be there is missed if it is not.

use std::collections::HashMap;

use super::Error;
use super::vault::Vault;
use crate::id::{DekId, KekVersion, KeyName, TenantId};
use crate::keyring::record::{Dek, IndexField, IndexKey, KekRecord, Key, Tenant};
use crate::keyring::state::KeyState;
use crate::store::{Path, Record, StoreError, Stored, tables};

impl Vault {
    /// How many DEKs and index keys each KEK version seals.
    pub(super) async fn sealed_by_version(
        &self,
        id: &TenantId,
        tenant: &Tenant,
    ) -> Result<HashMap<KekVersion, u32>, Error> {
        let mut sealed = HashMap::new();
        for (name, key) in self.keys_of(id, tenant).await? {
            for version in self.deks_of(&name, &key).await?.iter().map(|(_, dek)| dek.record.kek) {
                *sealed.entry(version).or_default() += 1;
            }
            for version in self.index_keys_of(&name, &key).await?.iter().map(|(.., key)| key.record.kek) {
                *sealed.entry(version).or_default() += 1;
            }
        }
        Ok(sealed)
    }

    /// The first of some KEK versions that still seals a key, and how many.
    ///
    /// A wrapped key says itself under which KEK it is, and only a scan of everything tells whether it is the newest
    /// row. So before this says that some are left, the store is scanned, and what somebody put back is mended.
    pub(super) async fn still_sealed(
        &self,
        id: &TenantId,
        tenant: &Tenant,
        among: impl Fn(KekVersion) -> bool,
    ) -> Result<Option<(KekVersion, u32)>, Error> {
        let first = |sealed: HashMap<KekVersion, u32>| {
            sealed.into_iter().find(|(version, count)| *count > 0 && among(*version))
        };
        let left = first(self.sealed_by_version(id, tenant).await?);
        if left.is_none() || !self.mended().await? {
            return Ok(left);
        }
        Ok(first(self.sealed_by_version(id, tenant).await?))
    }

    /// The keys of a tenant, which counts them; [`Error::Conflict`] when one was made since the tenant was read.
    pub(super) async fn keys_of(&self, id: &TenantId, tenant: &Tenant) -> Result<Vec<(KeyName, Key)>, Error> {
        let (path, mut view) = (tables::tenant(id), self.records.view().await?);
        let counted = view.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?.record.keys;
        if counted != tenant.keys {
            return Err(Error::Conflict);
        }
        let keys = view.counted(&tables::keys(id), counted.into()).await?;
        Ok(keys.into_iter().map(|(path, stored)| (path.id, stored.record)).collect())
    }

    /// The KEK versions of a tenant, but for those that were destroyed. Each is asked for by its name: versions
    /// are given out one after the other, and the tenant has the newest.
    pub(super) async fn keks_of(
        &self,
        id: &TenantId,
        tenant: &Tenant,
    ) -> Result<Vec<(Path<KekRecord>, Stored<KekRecord>)>, Error> {
        let paths: Vec<_> = tenant.kek_versions().map(|version| tables::kek(id, version)).collect();
        let found = self.records.view().await?.get_many(&paths).await?;
        let mut keks = Vec::with_capacity(paths.len());
        for (path, stored) in paths.into_iter().zip(found) {
            let kept = self.unless_buried(&path, stored).await?;
            keks.extend(kept.map(|stored| (path, stored)));
        }
        Ok(keks)
    }

    /// The wrapped DEKs of a key, but for those that were destroyed.
    pub(super) async fn deks_of(
        &self,
        name: &KeyName,
        key: &Key,
    ) -> Result<Vec<(DekId, Stored<Dek>)>, Error> {
        let paths: Vec<_> = key.epochs().map(|epoch| tables::version(name, epoch)).collect();
        let mut view = self.records.view().await?;
        let mut deks = Vec::with_capacity(paths.len());
        for (path, version) in paths.iter().zip(view.get_many(&paths).await?) {
            let version = version.ok_or_else(|| Error::NoVersion(path.id.clone()))?.record;
            if version.state != KeyState::Destroyed {
                deks.push(version.dek);
            }
        }
        let paths: Vec<_> = deks.iter().map(|dek| tables::dek(name, *dek)).collect();
        let found = view.get_many(&paths).await?;
        drop(view);
        let mut kept = Vec::with_capacity(deks.len());
        for ((id, path), stored) in deks.into_iter().zip(&paths).zip(found) {
            kept.extend(self.unless_buried(path, stored).await?.map(|stored| (id, stored)));
        }
        Ok(kept)
    }

    /// The fields of a key that have index keys: those in its record, and those with a record of their own. One that
    /// vanished is missed: the key, read in the same view, counts fields and index keys.
    pub(super) async fn index_fields_of(&self, name: &KeyName, key: &Key) -> Result<Vec<IndexField>, Error> {
        if key.indexes.is_none() {
            return Ok(key.fields.clone());
        }
        let path = tables::key(name);
        let mut view = self.records.view().await?;
        let key = view.get(&path).await?.ok_or_else(|| Error::NoKey(name.clone()))?.record;
        let counted = key.indexes.unwrap_or_default();
        let rows = view.counted(&tables::index_fields(name), counted.fields.into()).await?;
        let keys = rows.rows().iter().map(|(_, row)| u64::from(row.record.primary.get())).sum::<u64>();
        if keys != u64::from(counted.keys) {
            return Err(StoreError::miscounted(&path).into());
        }
        let own =
            rows.into_iter().map(|(path, row)| IndexField { field: path.id.1, primary: row.record.primary });
        Ok(key.fields.into_iter().chain(own).collect())
    }

    /// The places of all index keys that a key ever had.
    pub(super) async fn index_places_of(
        &self,
        name: &KeyName,
        key: &Key,
    ) -> Result<Vec<Path<IndexKey>>, Error> {
        let fields = self.index_fields_of(name, key).await?;
        let places = fields.into_iter().flat_map(|IndexField { field, primary }| {
            let versions = std::iter::successors(Some(primary), |version| version.previous());
            versions.map(move |version| tables::index_key(name, &field, version))
        });
        Ok(places.collect())
    }

    /// The wrapped index keys of a key, but for those that were destroyed.
    pub(super) async fn index_keys_of(
        &self,
        name: &KeyName,
        key: &Key,
    ) -> Result<Vec<(Path<IndexKey>, Stored<IndexKey>)>, Error> {
        let mut found = Vec::new();
        for path in self.index_places_of(name, key).await? {
            let stored = self.records.get(&path).await?;
            found.extend(self.unless_buried(&path, stored).await?.map(|stored| (path, stored)));
        }
        Ok(found)
    }

    /// A record that must be there, unless it has a tombstone.
    async fn unless_buried<T: Record>(
        &self,
        path: &Path<T>,
        stored: Option<Stored<T>>,
    ) -> Result<Option<Stored<T>>, Error> {
        if stored.is_none() && self.records.get(&tables::tombstone(path)).await?.is_none() {
            return Err(StoreError::lost(path).into());
        }
        Ok(stored)
    }
}

/// The sealed keys of a named key: a DEK for each epoch, and the versions of its index keys.
pub(super) fn sealed_keys(key: &Key) -> u64 {
    if key.state == KeyState::Destroyed {
        return 0;
    }
    let deks = key.newest().get().saturating_sub(key.destroyed.unwrap_or_default());
    u64::from(deks) + key.index_keys()
}
