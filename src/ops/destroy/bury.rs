//! Taking wrapped keys out of the records: each leaves a tombstone in the same transaction.

use tokio::sync::OnceCell;

use super::check_not_primary;
use super::target::Authority;
use crate::access::Action;
use crate::clock::Date;
use crate::hsm::Forget;
use crate::id::{DestroyTarget, Epoch, KekVersion, KeyName, RotationName, TenantId, VersionName};
use crate::keyring::record::{Key, Rotation, Tenant, Version};
use crate::keyring::remains::{Remains, Tombstone};
use crate::keyring::schedule::Destruction;
use crate::keyring::state::{Act, KeyState};
use crate::ops::Error;
use crate::ops::commit::Affects;
use crate::ops::vault::{Vault, kek_of};
use crate::store::{Changes, Newest, Path, Record, Refusal, StoreError, Stored, tables};

/// The audit log's word for it.
const BURIED: Action = Action::DestroyBegin;
/// Wrapped keys taken out in one transaction.
const BATCH: usize = 250;

/// What stands on the tombstones of one destruction.
pub(super) struct Grave<'a> {
    target: &'a DestroyTarget,
    authority: &'a Authority,
    now: Date,
    // The data keys and index keys as the journal has them, read when the first of them is buried.
    newest: OnceCell<Newest>,
}

impl<'a> Grave<'a> {
    pub(super) fn new(target: &'a DestroyTarget, authority: &'a Authority) -> Self {
        Self { target, authority, now: Date::now(), newest: OnceCell::new() }
    }

    pub(super) fn target(&self) -> &'a DestroyTarget {
        self.target
    }

    /// Takes a record out, which the digest covers, and puts a tombstone in its place.
    pub(super) fn bury<T: Record>(
        &self,
        changes: &mut Changes,
        path: &Path<T>,
        (stored, remains): (Stored<T>, Remains),
    ) {
        changes.delete(path, stored.revision);
        self.mark(changes, path, remains, None);
    }

    /// As [`bury`](Self::bury), of a record that the digest does not cover: what is buried must be the newest one.
    fn bury_newest<T: Record>(
        &self,
        changes: &mut Changes,
        newest: &Newest,
        path: &Path<T>,
        (revision, remains): (u64, Remains),
        dek: Option<(Epoch, KekVersion)>,
    ) {
        changes.bury(path, revision, newest);
        self.mark(changes, path, remains, dek);
    }

    fn mark<T: Record>(
        &self,
        changes: &mut Changes,
        path: &Path<T>,
        remains: Remains,
        dek: Option<(Epoch, KekVersion)>,
    ) {
        let tombstone = Tombstone {
            destroyed: self.now,
            remains,
            authority: self.authority.to_string(),
            target: self.target.to_string(),
            epoch: dek.map(|(epoch, _)| epoch),
            kek: dek.map(|(_, kek)| kek),
        };
        changes.create(&tables::tombstone(path), &tombstone);
    }

    /// The destruction that begins now: the one that was planned, or one of this moment.
    fn begun(&self, planned: Option<&Destruction>, was: KeyState) -> Destruction {
        let plan = planned.cloned().unwrap_or_else(|| Destruction::planned(was, self.now, self.now));
        Destruction { begun: Some(plan.begun.unwrap_or(self.now)), ..plan }
    }
}

/// The state of what is destroyed now, whatever was planned before.
fn destroyed(state: KeyState) -> Option<KeyState> {
    match state {
        KeyState::Destroyed => Some(KeyState::Destroyed),
        KeyState::Scheduled => state.after(Act::Destroy),
        _ => state.after(Act::Schedule)?.after(Act::Destroy),
    }
}

impl Vault {
    /// Takes everything out that a target has. Nothing is left to do when it was done before.
    pub(super) async fn bury(&self, grave: &Grave<'_>) -> Result<(), Error> {
        match grave.target {
            DestroyTarget::Tenant(id) => self.bury_tenant(id, grave).await,
            DestroyTarget::Key(name) => self.bury_key(name, grave).await,
            DestroyTarget::Version(version) => self.bury_version(version, grave).await,
            DestroyTarget::Kek(id, version) => self.bury_kek(id, *version, grave).await,
        }
    }

    /// The data keys and index keys of the target as the journal has them.
    async fn newest_by<'g>(&self, grave: &'g Grave<'_>) -> Result<&'g Newest, Error> {
        grave.newest.get_or_try_init(async || self.newest_of(grave.target).await).await
    }

    /// Where the journal cannot be read, it is made anew from the store, of which that proves that it is whole.
    async fn newest_of(&self, target: &DestroyTarget) -> Result<Newest, Error> {
        let graves = self.graves(target).await?;
        match self.records.newest_of(&graves).await {
            Err(StoreError::Refused(damage @ Refusal::JournalDamaged { .. })) => {
                tracing::warn!("the key journal is made anew from the store: {damage}");
                self.mended().await?;
                let words = format!("made anew from the store, which is whole: {damage}");
                self.record_words(Action::JournalRebuilt, "journal".to_owned(), words).await?;
                Ok(self.records.newest_of(&graves).await?)
            }
            read => Ok(read?),
        }
    }

    async fn bury_version(&self, version: &VersionName, grave: &Grave<'_>) -> Result<(), Error> {
        let name = &version.key;
        let key = self.key_record(name).await?;
        let stored = self.version_record(name, version.epoch).await?;
        if stored.record.state == KeyState::Destroyed {
            return Ok(());
        }
        if key.record.frozen || self.tenant(&name.tenant).await?.record.frozen {
            return Err(Error::Frozen(name.to_string()));
        }
        check_not_primary(&key.record, version)?;
        let mut changes = Changes::default();
        let plan = grave.begun(stored.record.destruction.as_ref(), stored.record.state);
        if stored.record.destruction.is_none() {
            self.reschedule(&mut changes, &Self::task_of(grave.target), None, Some(plan.due)).await?;
        }
        self.bury_dek(&mut changes, name, version.epoch, stored, Some(plan), grave).await?;
        let gone = key.record.destroyed.unwrap_or_default().saturating_add(1);
        let record = Key { destroyed: Some(gone), ..key.record };
        changes.replace(&tables::key(name), &record, key.revision);
        self.commit_own(changes, Affects::KeyAndItsDeks(name), BURIED, version.to_string()).await?;
        Ok(())
    }

    async fn bury_key(&self, name: &KeyName, grave: &Grave<'_>) -> Result<(), Error> {
        let key = self.key_record(name).await?.record;
        let frozen = key.frozen || self.tenant(&name.tenant).await?.record.frozen;
        if frozen && key.state != KeyState::Destroyed {
            return Err(Error::Frozen(name.to_string()));
        }
        // The first transaction ends the key, whatever follows.
        while self.bury_part_of_key(name, grave).await? {}
        Ok(())
    }

    /// Takes some keys out; whether there may be more.
    async fn bury_part_of_key(&self, name: &KeyName, grave: &Grave<'_>) -> Result<bool, Error> {
        let Stored { record, revision } = self.key_record(name).await?;
        let mut changes = Changes::default();
        let own = matches!(grave.target, DestroyTarget::Key(_));
        if own && record.destruction.is_none() {
            self.reschedule(&mut changes, &Self::task_of(grave.target), None, Some(grave.now)).await?;
        }
        let deks = self.bury_deks_of(&mut changes, name, &record, grave).await?;
        let indexes = self.bury_index_keys_of(&mut changes, name, &record, grave).await?;
        if deks + indexes == 0 && record.state == KeyState::Destroyed {
            return Ok(false);
        }
        let plan = grave.begun(record.destruction.as_ref(), record.state);
        let state = destroyed(record.state).unwrap_or(KeyState::Destroyed);
        let gone =
            record.destroyed.unwrap_or_default().saturating_add(u32::try_from(deks).unwrap_or(u32::MAX));
        let key = Key { state, destruction: Some(plan), destroyed: Some(gone), ..record };
        changes.replace(&tables::key(name), &key, revision);
        self.commit_own(changes, Affects::KeyAndItsDeks(name), BURIED, name.to_string()).await?;
        Ok(true)
    }

    async fn bury_deks_of(
        &self,
        changes: &mut Changes,
        name: &KeyName,
        key: &Key,
        grave: &Grave<'_>,
    ) -> Result<usize, Error> {
        let paths: Vec<_> = key.epochs().map(|epoch| tables::version(name, epoch)).collect();
        let found = self.records.view().await?.get_many(&paths).await?;
        let mut buried = 0;
        for (path, version) in paths.iter().zip(found) {
            let version = version.ok_or_else(|| Error::NoVersion(path.id.clone()))?;
            if version.record.state == KeyState::Destroyed || buried == BATCH {
                continue;
            }
            let plan = version.record.destruction.as_ref();
            let plan = plan.map(|plan| grave.begun(Some(plan), version.record.state));
            self.bury_dek(changes, name, path.id.epoch, version, plan, grave).await?;
            buried += 1;
        }
        Ok(buried)
    }

    async fn bury_dek(
        &self,
        changes: &mut Changes,
        name: &KeyName,
        epoch: Epoch,
        version: Stored<Version>,
        destruction: Option<Destruction>,
        grave: &Grave<'_>,
    ) -> Result<(), Error> {
        let Stored { record, revision } = version;
        let path = tables::dek(name, record.dek);
        // Restored from an older copy that had it, it was buried again by the repair.
        if self.records.get(&tables::tombstone(&path)).await?.is_none() {
            let newest = self.newest_by(grave).await?;
            let (dek, remains) = self.records.remains(&path).await?.ok_or_else(|| StoreError::lost(&path))?;
            let sealed = Some((epoch, dek.record.kek));
            grave.bury_newest(changes, newest, &path, (dek.revision, remains), sealed);
        }
        let state = destroyed(record.state).unwrap_or(KeyState::Destroyed);
        let version = Version { state, destruction, activates: None, ..record };
        changes.replace(&tables::version(name, epoch), &version, revision);
        Ok(())
    }

    async fn bury_index_keys_of(
        &self,
        changes: &mut Changes,
        name: &KeyName,
        key: &Key,
        grave: &Grave<'_>,
    ) -> Result<usize, Error> {
        let places = self.index_places_of(name, key).await?;
        let tombstones: Vec<_> = places.iter().map(tables::tombstone).collect();
        let buried = self.records.view().await?.get_many(&tombstones).await?;
        // By its tombstone, not by its absence: a row that somebody put back is for the search that follows.
        let left = places.iter().zip(buried).filter(|(_, tombstone)| tombstone.is_none());
        let mut count = 0;
        for (path, _) in left.take(BATCH) {
            let newest = self.newest_by(grave).await?;
            let (key, remains) = self.records.remains(path).await?.ok_or_else(|| StoreError::lost(path))?;
            grave.bury_newest(changes, newest, path, (key.revision, remains), None);
            count += 1;
        }
        Ok(count)
    }

    /// The KEKs first: without them every key of the tenant is lost at once.
    async fn bury_tenant(&self, id: &TenantId, grave: &Grave<'_>) -> Result<(), Error> {
        let tenant = self.tenant(id).await?;
        if tenant.record.state() != KeyState::Destroyed {
            self.bury_keks(id, tenant, grave).await?;
        }
        let tenant = self.tenant(id).await?.record;
        for (name, _) in self.keys_of(id, &tenant).await? {
            while self.bury_part_of_key(&name, grave).await? {}
        }
        Ok(())
    }

    async fn bury_keks(&self, id: &TenantId, tenant: Stored<Tenant>, grave: &Grave<'_>) -> Result<(), Error> {
        let Stored { record, revision } = tenant;
        self.check_nothing_frozen(id, &record).await?;
        let mut changes = Changes::default();
        let plan = grave.begun(record.destruction.as_ref(), KeyState::Active);
        if record.destruction.is_none() {
            self.reschedule(&mut changes, &Self::task_of(grave.target), None, Some(plan.due)).await?;
        }
        let mut keks = Vec::new();
        for (path, stored) in self.keks_of(id, &record).await? {
            let row = self.records.remains(&path).await?.ok_or(Error::Conflict)?;
            grave.bury(&mut changes, &path, row);
            keks.push(kek_of(&stored.record));
        }
        if let Some(to) = record.rotating_to {
            self.end_rotation(&mut changes, RotationName { tenant: id.clone(), to }, grave.now).await?;
        }
        let ended = Tenant { destruction: Some(plan), rotating_to: None, ..record };
        changes.replace(&tables::tenant(id), &ended, revision);
        self.commit_own(changes, Affects::TenantAndItsDeks(id), BURIED, format!("tenants/{id}")).await?;
        self.hsm.forget(Forget::These(keks));
        Ok(())
    }

    /// A freeze keeps things as they are for an investigation, also from destruction.
    async fn check_nothing_frozen(&self, id: &TenantId, tenant: &Tenant) -> Result<(), Error> {
        if tenant.frozen {
            return Err(Error::Frozen(format!("tenants/{id}")));
        }
        match self.keys_of(id, tenant).await?.into_iter().find(|(_, key)| key.frozen) {
            Some((name, _)) => Err(Error::Frozen(name.to_string())),
            None => Ok(()),
        }
    }

    async fn end_rotation(&self, changes: &mut Changes, name: RotationName, now: Date) -> Result<(), Error> {
        let path = tables::rotation(&name);
        if let Some(Stored { record, revision }) = self.records.get(&path).await? {
            let total = record.done;
            changes.replace(&path, &Rotation { finished: Some(now), total, ..record }, revision);
        }
        if let Some(running) = self.records.get(&tables::running(&name.tenant)).await? {
            changes.delete(&tables::running(&name.tenant), running.revision);
        }
        Ok(())
    }
}
