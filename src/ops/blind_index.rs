//! Blind indexes: a keyed hash of a field, for equality search.

use std::sync::Arc;

use super::Error;
use super::commit::Affects;
use super::crypt::too_large;
use super::done::Done;
use super::opened::Opened;
use super::vault::{Vault, kek_of, misfit};
use super::views::KeyView;
use crate::access::{Authorized, permission};
use crate::audit::StoreChange;
use crate::clock::{Date, Moment};
use crate::envelope::{IndexKey, Normalization, Normalized};
use crate::hsm::{Operation, Reply};
use crate::id::{FieldId, IndexVersion, KeyName};
use crate::keyring::{binding, record};
use crate::store::{Changes, StoreError, Stored, tables};

/// The index of a value under each version of the field's index key, newest first.
#[derive(Debug)]
pub struct BlindIndex {
    /// Index key version (u32, big-endian) and 16 bytes of HMAC-SHA-256.
    pub indexes: Vec<[u8; 20]>,
}

impl Vault {
    /// Computes the index of one value. The first call for a field makes its index key; a call that is refused makes
    /// nothing.
    ///
    /// # Errors
    /// A frozen or disabled key, a value that the rule cannot normalise, [`Error::FieldLimit`] where the field is new
    /// and the key has as many as it may (`limits.index_fields`).
    pub async fn blind_index(
        &self,
        right: &Authorized<permission::BlindIndex>,
        field: &FieldId,
        rule: Normalization,
        value: &[u8],
    ) -> Result<Done<BlindIndex>, Error> {
        too_large("the value", value.len(), self.settings().limits.plaintext.as_usize(), "plaintext")?;
        let view = self.view_for(right).await?;
        view.check_encrypt()?;
        // Before anything is made: a value that has no index makes no key.
        let normalized = rule.normalize(value)?;
        let Some(primary) = field_version(&view.fields, field) else {
            let change = match self.add_index_key(right.resource(), field, None).await {
                // Another call was faster: use what it made.
                Err(Error::Conflict) => return Box::pin(self.blind_index(right, field, rule, value)).await,
                made => made?,
            };
            let made =
                BlindIndex { indexes: self.indexes(&view, field, IndexVersion::FIRST, &normalized).await? };
            return Ok(Done::with_change(made, change).detail(format!("made the index key of field {field}")));
        };
        let indexes = self.indexes(&view, field, primary, &normalized).await?;
        Ok(Done::new(BlindIndex { indexes }).detail(format!("field {field}")))
    }

    /// Opens a new version of a field's index key. Values indexed before must be indexed again.
    ///
    /// # Errors
    /// [`Error::NoField`] when the field has none yet.
    pub async fn rotate_index_key(
        &self,
        right: &Authorized<permission::ManageKey>,
        field: &FieldId,
    ) -> Result<Done<IndexVersion>, Error> {
        let name = right.resource();
        let view = self.key_view(name).await?;
        view.check_usable()?;
        let primary =
            field_version(&view.fields, field).ok_or_else(|| Error::NoField(name.clone(), field.clone()))?;
        let next =
            primary.next().ok_or_else(|| Error::NotAllowed("no index key versions are left".into()))?;
        let change = self.add_index_key(name, field, Some(primary)).await?;
        Ok(Done::with_change(next, change).detail(format!("field {field}")))
    }

    async fn indexes(
        &self,
        view: &KeyView,
        field: &FieldId,
        primary: IndexVersion,
        value: &Normalized,
    ) -> Result<Vec<[u8; 20]>, Error> {
        let mut found = Vec::new();
        let mut version = Some(primary);
        while let Some(number) = version {
            let key = self.index_key(view, field, number).await?;
            found.push(key.secret.compute_normalized(value));
            version = number.previous();
        }
        Ok(found)
    }

    async fn index_key(
        &self,
        view: &KeyView,
        field: &FieldId,
        version: IndexVersion,
    ) -> Result<Arc<Opened<IndexKey>>, Error> {
        let id = (view.name.clone(), field.clone(), version);
        self.index_keys.find_or_open(&id, &self.rules, self.open_index_key(view, field, version)).await
    }

    async fn open_index_key(
        &self,
        view: &KeyView,
        field: &FieldId,
        version: IndexVersion,
    ) -> Result<Opened<IndexKey>, Error> {
        let (name, opened) = (&view.name, Moment::now());
        let path = tables::index_key(name, field, version);
        let place = self.views.place().await?;
        let record = self.records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?.record;
        let kek = kek_of(&self.kek(&name.tenant, record.kek).await?.record);
        drop(place);
        let aad = binding::index_key(self.deployment(), name, record.kek, field, version);
        let reply = self.hsm(Operation::OpenKey { kek, aad, sealed: record.sealed }).await?;
        let Reply::Key(key) = reply else { return Err(misfit("open index key")) };
        let secret = IndexKey::new(version, key);
        Ok(Opened::new(secret, name.clone(), view.record.data_class, opened))
    }

    /// Makes the version after `previous` and records it, unless another call was faster. A field that has its place
    /// in the key's record gets a record of its own by that.
    async fn add_index_key(
        &self,
        name: &KeyName,
        field: &FieldId,
        previous: Option<IndexVersion>,
    ) -> Result<StoreChange, Error> {
        let tenant = self.tenant(&name.tenant).await?;
        let Stored { record, revision } = self.key_record(name).await?;
        let path = tables::index_field(name, field);
        let own = self.records.get(&path).await?;
        let inside = field_version(&record.fields, field);
        if own.as_ref().map(|own| own.record.primary).or(inside) != previous {
            return Err(Error::Conflict);
        }
        // Refused before the HSM makes anything.
        if previous.is_none() && record.index_fields() >= self.settings().limits.index_fields {
            return Err(Error::FieldLimit(name.clone(), record.index_fields()));
        }
        let (now, mut key) = (Date::now(), record);
        let kept = key.add_index_key(field, previous, now);
        let kept = kept.ok_or_else(|| Error::NotAllowed("no index key versions are left".into()))?;
        let kek = tenant.record.primary_kek;
        let aad = binding::index_key(self.deployment(), name, kek, field, kept.primary);
        let (_, sealed) = self.new_key(&name.tenant, kek, aad).await?;
        let mut changes = Changes::default();
        changes.replace(&tables::tenant(&name.tenant), &tenant.record, tenant.revision);
        changes.replace(&tables::key(name), &key, revision);
        match own {
            Some(own) => changes.replace(&path, &kept, own.revision),
            None => changes.create(&path, &kept),
        };
        let index_key = record::IndexKey { kek, sealed, created: now };
        changes.create(&tables::index_key(name, field, kept.primary), &index_key);
        self.commit(changes, Affects::Key(name)).await
    }
}

fn field_version(fields: &[record::IndexField], field: &FieldId) -> Option<IndexVersion> {
    fields.iter().find(|known| known.field == *field).map(|known| known.primary)
}
