//! Opening data keys.

use std::sync::Arc;

use super::Error;
use super::opened::Opened;
use super::vault::{Vault, kek_of, misfit};
use super::views::{KeyView, VersionView};
use crate::clock::Moment;
use crate::envelope::Dek;
use crate::hsm::{Operation, Reply};
use crate::id::{DekId, KeyName};
use crate::keyring::{binding, record};
use crate::store::{StoreError, tables};

impl Vault {
    /// The open DEK of one version.
    pub(super) async fn dek(&self, key: &KeyView, version: &VersionView) -> Result<Arc<Opened<Dek>>, Error> {
        self.deks.find_or_open(&version.dek, &self.rules, self.open_dek(key, version)).await
    }

    async fn open_dek(&self, key: &KeyView, version: &VersionView) -> Result<Opened<Dek>, Error> {
        let opened = Moment::now();
        let place = self.views.place().await?;
        let record = self
            .dek_record(&key.name, version.dek)
            .await?
            .ok_or_else(|| StoreError::lost(&tables::dek(&key.name, version.dek)))?;
        let kek = kek_of(&self.kek(&key.name.tenant, record.kek).await?.record);
        // The HSM may take longer than anybody should wait for the store.
        drop(place);
        let aad =
            binding::dek(self.deployment(), &key.name, record.kek, record.epoch, version.dek, record.family);
        let reply = self.hsm(Operation::OpenKey { kek, aad, sealed: record.sealed }).await?;
        let Reply::Key(key_bytes) = reply else { return Err(misfit("open key")) };
        let secret = Dek::new(version.dek, record.family, key_bytes);
        Ok(Opened::new(secret, key.name.clone(), key.record.data_class, opened))
    }

    pub(super) async fn dek_record(&self, name: &KeyName, id: DekId) -> Result<Option<record::Dek>, Error> {
        Ok(self.records.get(&tables::dek(name, id)).await?.map(|stored| stored.record))
    }
}
