//! What is sealed under the KEKs of a tenant: every record is verified, and every one
//! that must be there is missed if it is not.

use std::collections::HashMap;

use super::vault::Vault;
use super::{Error, commit};
use crate::id::{DekId, FieldId, IndexVersion, KekVersion, KeyName, TenantId};
use crate::keyring::record::{Dek, IndexField, IndexKey, Key, Tenant};
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

    /// The keys of a tenant. One that vanished from the store is missed, since the tenant counts them;
    /// [`Error::Conflict`] when one was made meanwhile.
    pub(super) async fn keys_of(&self, id: &TenantId, tenant: &Tenant) -> Result<Vec<(KeyName, Key)>, Error> {
        let mut keys = Vec::new();
        for (path, stored) in commit::all(&self.records, &tables::keys(id)).await? {
            keys.push((path.id, stored.record));
        }
        if u32::try_from(keys.len()) == Ok(tenant.keys) {
            return Ok(keys);
        }
        // One was made since the tenant was read, or the store was changed behind the daemon's back.
        match self.tenant(id).await?.record.keys == tenant.keys {
            true => Err(StoreError::miscounted(&tables::tenant(id)).into()),
            false => Err(Error::Conflict),
        }
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
        // One more than there should be: who adds a row is found out as well.
        let most = usize::try_from(counted.fields).unwrap_or(usize::MAX).saturating_add(1);
        let rows = view.list(&tables::index_fields(name), None, most).await?;
        drop(view);
        // Each stands there once: two of one would make up for one that is hidden.
        let ordered = rows.is_sorted_by(|(one, _), (next, _)| one.id < next.id);
        let keys = rows.iter().map(|(_, row)| u64::from(row.record.primary.get())).sum::<u64>();
        if !ordered || rows.len().saturating_add(1) != most || keys != u64::from(counted.keys) {
            return Err(StoreError::miscounted(&path).into());
        }
        let own =
            rows.into_iter().map(|(path, row)| IndexField { field: path.id.1, primary: row.record.primary });
        Ok(key.fields.into_iter().chain(own).collect())
    }

    /// The wrapped index keys of a key, but for those that were destroyed.
    pub(super) async fn index_keys_of(
        &self,
        name: &KeyName,
        key: &Key,
    ) -> Result<Vec<(FieldId, IndexVersion, Stored<IndexKey>)>, Error> {
        let mut found = Vec::new();
        for field in self.index_fields_of(name, key).await? {
            for version in std::iter::successors(Some(field.primary), |version| version.previous()) {
                let path = tables::index_key(name, &field.field, version);
                let stored = self.records.get(&path).await?;
                let kept = self.unless_buried(&path, stored).await?;
                found.extend(kept.map(|stored| (field.field.clone(), version, stored)));
            }
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
