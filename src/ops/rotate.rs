//! Rotation of a tenant: a new KEK version, every sealed key moved to it, a new
//! epoch in every key. It resumes where it stopped, after a crash too.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Error;
use super::commit::{Affects, unhindered};
use super::custody::Matter;
use super::done::Done;
use super::epoch::Opening;
use super::sealed::sealed_keys;
use super::vault::{Vault, kek_of, misfit};
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::audit::StoreChange;
use crate::clock::Date;
use crate::hsm::{Kek, Operation, Reply};
use crate::id::{KekVersion, KeyName, RotationName, TenantId};
use crate::keyring::binding;
use crate::keyring::record::{Dek, IndexKey, KekRecord, Rotation, RunningRotation, Tenant};
use crate::keyring::state::KeyState;
use crate::keyring::wrapped::SealedKey;
use crate::store::{Changes, Path, Record, Stored, tables};

/// The audit log's word for a step of a rotation.
const PROGRESS: Action = Action::RotateTenantProgress;
/// Keys moved in one commit.
const BATCH: usize = 500;
/// Longest pause before another try.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Rotations that are worked on, and what each waits for, in words.
#[derive(Default)]
pub(super) struct Rotations(Mutex<HashMap<TenantId, Option<String>>>);

impl Rotations {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by the one task that works on a tenant's rotation.
struct Working<'a>(&'a Rotations, &'a TenantId);

impl<'a> Working<'a> {
    /// `None` when another task does.
    fn begin(rotations: &'a Rotations, id: &'a TenantId) -> Option<Self> {
        let mut running = rotations.lock();
        (!running.contains_key(id)).then(|| {
            running.insert(id.clone(), None);
            Self(rotations, id)
        })
    }

    fn waits_for(&self, reason: Option<String>) {
        self.0.lock().insert(self.1.clone(), reason);
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(self.1);
    }
}

/// The KEK to which a rotation moves a tenant.
#[derive(Clone, Copy)]
pub(super) enum Making<'a> {
    /// One of the kind that the tenant has; a resident one is not made without custodians.
    AsBefore,
    /// One in the store.
    Sealed,
    /// This resident one, made for this version.
    Born(KekVersion, &'a KekRecord),
}

/// A rotation and what it waits for.
#[derive(Debug)]
pub struct RotationInfo {
    /// Its name.
    pub name: RotationName,
    /// Its record.
    pub record: Rotation,
    /// Why it does not go on at the moment.
    pub waiting_for: Option<String>,
}

/// One sealed key that is to be moved.
struct Move<T: Record> {
    path: Path<T>,
    revision: u64,
    record: T,
    from: KekVersion,
    sealed: SealedKey,
    from_aad: Vec<u8>,
    to_aad: Vec<u8>,
}

/// A record that holds a sealed key.
trait Sealed: Record + Sized {
    fn under(self, kek: KekVersion, sealed: SealedKey) -> Self;
}

impl Sealed for Dek {
    fn under(self, kek: KekVersion, sealed: SealedKey) -> Self {
        Self { kek, sealed, ..self }
    }
}

impl Sealed for IndexKey {
    fn under(self, kek: KekVersion, sealed: SealedKey) -> Self {
        Self { kek, sealed, ..self }
    }
}

impl Vault {
    /// Begins a rotation, or answers the one that is running. The new KEK version is
    /// in force at once; [`resume_rotation`](Self::resume_rotation) does the rest.
    ///
    /// # Errors
    /// A frozen tenant, an HSM or store that does not serve.
    pub async fn begin_rotation(
        &self,
        right: &Authorized<permission::ManageTenant>,
    ) -> Result<Done<RotationInfo>, Error> {
        let id = &right.resource().0;
        self.unfrozen_tenant(id).await?;
        unhindered!(self.begin_rotation_of(id, Making::AsBefore))
    }

    /// The same, also of a frozen tenant.
    pub(super) async fn begin_rotation_of(
        &self,
        id: &TenantId,
        making: Making<'_>,
    ) -> Result<Done<RotationInfo>, Error> {
        let tenant = self.tenant(id).await?;
        if let Some(to) = tenant.record.rotating_to {
            return Ok(Done::new(self.rotation_info(id, to).await?).detail("was running already"));
        }
        let from = tenant.record.primary_kek;
        let to = from.next().ok_or_else(|| Error::NotAllowed("no KEK versions are left".into()))?;
        // A rotation moves everything, so all of it is under `from` now: it need not be read to be counted.
        let keys = self.keys_of(id, &tenant.record).await?;
        let total = keys.iter().map(|(_, key)| sealed_keys(key)).sum::<u64>();
        let name = rotation_name(id, to);
        let rotation =
            Rotation { from, done: 0, total, finished_key: None, created: Date::now(), finished: None };
        let old = self.kek(id, from).await?;
        let mut changes = Changes::default();
        let kek = match making {
            Making::AsBefore if old.record.resident.is_some() => {
                self.require_unfounded(Matter::RotateResident(id))?;
                return Err(Error::Internal("a resident KEK under an unfounded root".into()));
            }
            Making::AsBefore | Making::Sealed => self.new_kek(&mut changes).await?,
            Making::Born(version, kek) if version == to => kek.clone(),
            // Another rotation was faster.
            Making::Born(..) => return Err(Error::Conflict),
        };
        changes.create(&tables::kek(id, to), &kek);
        let retired = KekRecord { state: KeyState::DecryptOnly, ..old.record };
        changes.replace(&tables::kek(id, from), &retired, old.revision);
        changes.create(&tables::rotation(&name), &rotation);
        changes.create(&tables::running(id), &RunningRotation { to });
        // What is in the HSM is rotated by its custodians only.
        let schedule = tenant.record.schedule.as_ref().filter(|_| kek.resident.is_none());
        let schedule = schedule.map(|schedule| schedule.renewed(rotation.created));
        let resident = kek.resident.is_some().then_some(true);
        let record =
            Tenant { primary_kek: to, rotating_to: Some(to), schedule, resident, ..tenant.record.clone() };
        self.follow_tenant_schedule(&mut changes, id, &tenant.record, &record).await?;
        changes.replace(&tables::tenant(id), &record, tenant.revision);
        let change = self.commit(changes, Affects::Tenant(id)).await?;
        Ok(Done::with_change(RotationInfo { name, record: rotation, waiting_for: None }, change))
    }

    /// One rotation, running or done.
    ///
    /// # Errors
    /// [`Error::NoRotation`] when there is none of that name.
    pub async fn show_rotation(
        &self,
        right: &Authorized<permission::ViewTenant>,
        to: KekVersion,
    ) -> Result<Done<RotationInfo>, Error> {
        Ok(Done::new(self.rotation_info(&right.resource().0, to).await?))
    }

    /// Tenants whose rotation is not finished.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn unfinished_rotations(&self) -> Result<Vec<TenantId>, Error> {
        let running = self.records.complete::<RunningRotation>().await?;
        Ok(running.into_iter().map(|(path, _)| path.id).collect())
    }

    /// Works until the tenant's rotation is finished, waiting out what keeps it from going on.
    /// Answers the last change of the store, or `None` when there was nothing to do.
    pub async fn resume_rotation(self: Arc<Self>, id: TenantId) -> Option<(RotationName, StoreChange)> {
        let working = Working::begin(&self.rotations, &id)?;
        let mut pause = Duration::from_millis(50);
        loop {
            match self.work_on_rotation(&id).await {
                Ok(finished) => return finished,
                Err(error) => {
                    tracing::warn!(tenant = %id, %error, "rotation waits");
                    working.waits_for(Some(error.to_string()));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    /// Rotates a tenant, frozen or not, until its keys are under the root in force, or under a KEK of its
    /// own in the HSM. Takes over a rotation that runs.
    pub(super) async fn rotate_to_new_root(&self, id: &TenantId) -> Result<(), Error> {
        loop {
            self.rotate_to_end(id).await?;
            let tenant = self.tenant(id).await?.record;
            if tenant.state() == KeyState::Destroyed {
                return Ok(());
            }
            let primary = tenant.primary_kek;
            let kek = self.kek(id, primary).await?.record;
            if kek.resident.is_some() || kek.root == self.root().id {
                return Ok(());
            }
            self.begin_own_rotation(id).await?;
        }
    }

    /// Begins a rotation of the daemon's own.
    pub(super) async fn begin_own_rotation(&self, id: &TenantId) -> Result<(), Error> {
        let begun = unhindered!(self.begin_rotation_of(id, Making::AsBefore))?;
        self.record_own(Action::RotateTenant, Self::tenant_name(id).to_string(), begun.change()).await
    }

    /// Works on the tenant's rotation, if there is one, until it is finished.
    pub(super) async fn rotate_to_end(&self, id: &TenantId) -> Result<(), Error> {
        while self.tenant(id).await?.record.rotating_to.is_some() {
            match self.work_alone(id).await? {
                Some((name, change)) => {
                    self.record_own(Action::RotateTenantEnd, name.to_string(), Some(change)).await?;
                }
                // Somebody else works on it.
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        Ok(())
    }

    /// Works on a rotation unless another task does.
    async fn work_alone(&self, id: &TenantId) -> Result<Option<(RotationName, StoreChange)>, Error> {
        let Some(_working) = Working::begin(&self.rotations, id) else { return Ok(None) };
        self.work_on_rotation(id).await
    }

    async fn work_on_rotation(&self, id: &TenantId) -> Result<Option<(RotationName, StoreChange)>, Error> {
        let tenant = self.tenant(id).await?.record;
        let Some(to) = tenant.rotating_to else { return Ok(None) };
        // Nothing is left that could be moved. What is to be destroyed moves like the rest: it may be called off.
        if tenant.state() == KeyState::Destroyed {
            return Ok(None);
        }
        let rotation = self.rotation(id, to).await?.record;
        for (name, _) in self.keys_of(id, &tenant).await? {
            if rotation.finished_key.as_ref().is_none_or(|finished| *finished < name.key) {
                self.rotate_one_key(&name, to).await?;
            }
        }
        let change = self.finish_rotation(id, to).await?;
        Ok(Some((rotation_name(id, to), change)))
    }

    /// Moves what a key has under older KEK versions, then opens its new epoch.
    async fn rotate_one_key(&self, name: &KeyName, to: KekVersion) -> Result<(), Error> {
        let key = self.key_record(name).await?.record;
        let deployment = self.deployment();
        let mut moves = Vec::new();
        for (dek, Stored { record, revision }) in self.deks_of(name, &key).await? {
            if record.kek == to {
                continue;
            }
            let aad = |kek| binding::dek(deployment, name, kek, record.epoch, dek, record.family);
            let (from_aad, to_aad) = (aad(record.kek), aad(to));
            let (from, sealed) = (record.kek, record.sealed.clone());
            moves.push(Move {
                path: tables::dek(name, dek),
                revision,
                record,
                from,
                sealed,
                from_aad,
                to_aad,
            });
        }
        self.move_all(&name.tenant, to, moves).await?;
        let mut moves = Vec::new();
        for (path, Stored { record, revision }) in self.index_keys_of(name, &key).await? {
            if record.kek == to {
                continue;
            }
            let (_, field, version) = &path.id;
            let aad = |kek| binding::index_key(deployment, name, kek, field, *version);
            let (from_aad, to_aad) = (aad(record.kek), aad(to));
            let (from, sealed) = (record.kek, record.sealed.clone());
            moves.push(Move { path, revision, record, from, sealed, from_aad, to_aad });
        }
        self.move_all(&name.tenant, to, moves).await?;
        self.finish_key(name, to).await
    }

    async fn move_all<T: Sealed>(
        &self,
        id: &TenantId,
        to: KekVersion,
        moves: Vec<Move<T>>,
    ) -> Result<(), Error> {
        if moves.is_empty() {
            return Ok(());
        }
        self.reserve_kek_uses(id, to, moves.len() as u64).await?;
        let keks = self.keks_for(id, to, &moves).await?;
        let mut moves = moves.into_iter();
        let mut next = || moves.by_ref().take(BATCH).collect();
        let mut moved = self.move_batch(next(), to, &keks).await?;
        while !moved.is_empty() {
            // The HSM works on the next batch while the store takes this one.
            let (kept, following) =
                tokio::join!(self.keep_batch(id, to, moved), self.move_batch(next(), to, &keks));
            kept?;
            moved = following?;
        }
        Ok(())
    }

    /// Has the HSM seal keys under another KEK version.
    async fn move_batch<T: Sealed>(
        &self,
        batch: Vec<Move<T>>,
        to: KekVersion,
        keks: &HashMap<KekVersion, Kek>,
    ) -> Result<Vec<(Move<T>, SealedKey)>, Error> {
        let kek = |version| keks.get(&version).cloned().ok_or_else(|| misfit("KEK"));
        let mut operations = Vec::with_capacity(batch.len());
        for item in &batch {
            operations.push(Operation::MoveKey {
                from: kek(item.from)?,
                from_aad: item.from_aad.clone(),
                sealed: item.sealed.clone(),
                to: kek(to)?,
                to_aad: item.to_aad.clone(),
            });
        }
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        let sealed = self.hsm.run(operations).await.into_iter().map(|reply| match reply? {
            Reply::Sealed(sealed) => Ok(sealed),
            _ => Err(misfit("move key")),
        });
        Ok(batch.into_iter().zip(sealed.collect::<Result<Vec<_>, Error>>()?).collect())
    }

    /// Commits what was moved, and how far the rotation is.
    async fn keep_batch<T: Sealed>(
        &self,
        id: &TenantId,
        to: KekVersion,
        moved: Vec<(Move<T>, SealedKey)>,
    ) -> Result<(), Error> {
        let count = moved.len() as u64;
        let mut changes = Changes::default();
        for (item, sealed) in moved {
            changes.replace(&item.path, &item.record.under(to, sealed), item.revision);
        }
        let progress = self.rotation(id, to).await?;
        let record = Rotation { done: progress.record.done + count, ..progress.record };
        changes.replace(&tables::rotation(&rotation_name(id, to)), &record, progress.revision);
        self.commit_own(changes, Affects::Nothing, PROGRESS, rotation_name(id, to).to_string()).await?;
        Ok(())
    }

    async fn keks_for<T: Record>(
        &self,
        id: &TenantId,
        to: KekVersion,
        batch: &[Move<T>],
    ) -> Result<HashMap<KekVersion, Kek>, Error> {
        let versions: BTreeSet<_> = batch.iter().map(|item| item.from).chain([to]).collect();
        let mut keks = HashMap::new();
        for version in versions {
            keks.insert(version, kek_of(&self.kek(id, version).await?.record));
        }
        Ok(keks)
    }

    /// Opens the key's new epoch and notes, in the same commit, that this key is finished.
    async fn finish_key(&self, name: &KeyName, to: KekVersion) -> Result<(), Error> {
        let tenant = self.tenant(&name.tenant).await?;
        let (mut changes, retired) = match self.open_epoch(name, &tenant.record, Opening::Fresh).await {
            Ok((changes, _, retired)) => (changes, Some(retired)),
            // A key that is frozen or to be destroyed gets no new epoch; its data keys have moved all the same.
            Err(Error::Frozen(_) | Error::KeyState(..)) => (Changes::default(), None),
            Err(error) => return Err(error),
        };
        let progress = self.rotation(&name.tenant, to).await?;
        let record = Rotation { finished_key: Some(name.key.clone()), ..progress.record };
        changes.replace(&tables::rotation(&rotation_name(&name.tenant, to)), &record, progress.revision);
        changes.replace(&tables::tenant(&name.tenant), &tenant.record, tenant.revision);
        let resource = rotation_name(&name.tenant, to).to_string();
        self.commit_own(changes, Affects::Key(name), PROGRESS, resource).await?;
        retired.into_iter().for_each(|dek| self.dek_uses.forget(dek));
        Ok(())
    }

    /// The last change of a rotation, with the proof that the KEK versions before seal nothing any more:
    /// every record was read after the tenant's, and whoever seals a key changes the tenant's record.
    async fn finish_rotation(&self, id: &TenantId, to: KekVersion) -> Result<StoreChange, Error> {
        let tenant = self.tenant(id).await?;
        let progress = self.rotation(id, to).await?;
        let running = self.records.get(&tables::running(id)).await?;
        let left = self.still_sealed(id, &tenant.record, |version| version < to).await?;
        if let Some((left, count)) = left {
            return Err(Error::Internal(format!(
                "KEK version {left} of tenants/{id} still seals {count} keys after its rotation"
            )));
        }
        let mut changes = Changes::default();
        let done = progress.record.done;
        let record = Rotation { finished: Some(Date::now()), total: done, ..progress.record };
        changes.replace(&tables::rotation(&rotation_name(id, to)), &record, progress.revision);
        changes.replace(&tables::tenant(id), &Tenant { rotating_to: None, ..tenant.record }, tenant.revision);
        if let Some(running) = running {
            changes.delete(&tables::running(id), running.revision);
        }
        self.schedule_old_keks(&mut changes, id, to).await?;
        self.commit(changes, Affects::Tenant(id)).await
    }

    async fn rotation(&self, id: &TenantId, to: KekVersion) -> Result<Stored<Rotation>, Error> {
        let name = rotation_name(id, to);
        self.records.get(&tables::rotation(&name)).await?.ok_or(Error::NoRotation(name))
    }

    async fn rotation_info(&self, id: &TenantId, to: KekVersion) -> Result<RotationInfo, Error> {
        let record = self.rotation(id, to).await?.record;
        let waiting = self.rotations.lock().get(id).cloned().flatten();
        let waiting_for = waiting.filter(|_| record.finished.is_none());
        Ok(RotationInfo { name: rotation_name(id, to), record, waiting_for })
    }
}

fn rotation_name(id: &TenantId, to: KekVersion) -> RotationName {
    RotationName { tenant: id.clone(), to }
}
