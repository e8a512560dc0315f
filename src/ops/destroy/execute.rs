//! Destruction from its date to the proof that nothing is left.

use super::bury::Grave;
use super::target::{Authority, Destroyed, Gone, Object};
use crate::access::Action;
use crate::audit::{Outcome, Pending};
use crate::clock::Date;
use crate::id::{DestroyTarget, KekVersion, KeyName, TenantId, VersionName};
use crate::keyring::agenda::Task;
use crate::keyring::record::{Key, Tenant, Version};
use crate::keyring::remains::{Remains, Tombstone};
use crate::keyring::schedule::Destruction;
use crate::ops::Error;
use crate::ops::acting::Acting;
use crate::ops::commit::{Affects, unhindered};
use crate::ops::vault::Vault;
use crate::store::{Changes, Path, Scrubbed, StoreError, Stored, tables};

type Tombstones = Vec<(Path<Tombstone>, Stored<Tombstone>)>;

/// When the last of them was put in the place of what it tells of, or was written anew.
fn buried(tombstones: &Tombstones) -> u64 {
    tombstones.iter().map(|(_, stored)| stored.revision).max().unwrap_or(u64::MAX)
}

impl Vault {
    /// Destroys a target now, and proves it. What was begun before a crash is finished.
    ///
    /// # Errors
    /// [`Error::Frozen`] where something is frozen; whatever keeps store, journal or audit log from
    /// serving. From the first transaction on the keys are lost, and the scheduler finishes the rest.
    pub(in crate::ops) async fn destroy(
        &self,
        target: DestroyTarget,
        authority: Authority,
    ) -> Result<Destroyed, Error> {
        let _alone = self.destroying.lock().await;
        if let Err(error) = unhindered!(self.bury_all(&target, &authority)) {
            // A data key or index key, of which the digest cannot say that it is the newest: what is buried is
            // what the journal has. A covered record that was edited stops the work until it is as it was.
            let old_row =
                matches!(&error, Error::Store(StoreError::Tampered { table, .. }) if !table.covered());
            if !old_row || !self.restored_after_failure(&error).await? {
                return Err(error);
            }
            unhindered!(self.bury_all(&target, &authority))?;
        }
        let tombstones = self.tombstones(&target).await?;
        let files = self.prove(&target, &tombstones).await?;
        let plan = self.note_done(&target, &tombstones, &files).await?;
        let (begun, done) = (plan.begun.unwrap_or(plan.asked), plan.done.unwrap_or(plan.asked));
        let buried = buried(&tombstones);
        let objects = tombstones.into_iter().map(|(path, stored)| object(&path, stored.record)).collect();
        tracing::info!(%target, %authority, "destroyed");
        let planned = (plan.reason, plan.planner);
        Ok(Destroyed { target, asked: plan.asked, begun, done, objects, files, authority, planned, buried })
    }

    async fn bury_all(&self, target: &DestroyTarget, authority: &Authority) -> Result<(), Error> {
        let grave = Grave::new(target, authority);
        self.bury(&grave).await?;
        self.bury_resident(&grave).await
    }

    /// What is known of a destruction that is done, looked at once more.
    pub(super) async fn destroyed(&self, target: DestroyTarget) -> Result<Destroyed, Error> {
        let plan = self.plan_of(&target).await?;
        let times = plan.as_ref().and_then(|plan| Some((plan.asked, plan.begun?, plan.done?)));
        let planned = plan.map(|plan| (plan.reason, plan.planner)).unwrap_or_default();
        let undone = || Error::NotAllowed(format!("{target} is not destroyed, so there is no certificate"));
        let (asked, begun, done) = times.ok_or_else(undone)?;
        let tombstones = self.tombstones(&target).await?;
        let files = self.prove(&target, &tombstones).await?;
        let authority = tombstones.first().map(|(_, stored)| Authority::parse(&stored.record.authority));
        let authority = authority.unwrap_or(Authority::Schedule);
        let buried = buried(&tombstones);
        let objects = tombstones.into_iter().map(|(path, stored)| object(&path, stored.record)).collect();
        Ok(Destroyed { target, asked, begun, done, objects, files, authority, planned, buried })
    }

    /// What is planned for a target, and how far it is.
    pub(in crate::ops) async fn plan_of(&self, target: &DestroyTarget) -> Result<Option<Destruction>, Error> {
        Ok(match target {
            DestroyTarget::Tenant(id) => self.tenant(id).await?.record.destruction,
            DestroyTarget::Key(name) => self.key_record(name).await?.record.destruction,
            DestroyTarget::Version(version) => {
                self.version_record(&version.key, version.epoch).await?.record.destruction
            }
            DestroyTarget::Kek(id, version) => {
                let path = tables::tombstone(&tables::kek(id, *version));
                let buried = self.records.get(&path).await?.map(|stored| stored.record.destroyed);
                buried.map(|date| Destruction {
                    begun: Some(date),
                    done: Some(date),
                    ..Destruction::planned(crate::keyring::state::KeyState::DecryptOnly, date, date)
                })
            }
        })
    }

    /// The tombstones of everything that a target had.
    async fn tombstones(&self, target: &DestroyTarget) -> Result<Tombstones, Error> {
        let mut found = Vec::new();
        match target {
            DestroyTarget::Kek(id, version) => found = self.tombstones_of_kek(id, *version).await?,
            DestroyTarget::Tenant(id) => {
                for version in self.tenant(id).await?.record.kek_versions() {
                    found.extend(self.tombstones_of_kek(id, version).await?);
                }
            }
            DestroyTarget::Key(_) | DestroyTarget::Version(_) => (),
        }
        found.extend(self.tombstones_at(self.graves(target).await?).await?);
        Ok(found)
    }

    /// Where the tombstones of a target's data keys and index keys are, or will be.
    pub(super) async fn graves(&self, target: &DestroyTarget) -> Result<Vec<Path<Tombstone>>, Error> {
        match target {
            DestroyTarget::Kek(..) => Ok(Vec::new()),
            DestroyTarget::Version(version) => {
                let dek = self.version_record(&version.key, version.epoch).await?.record.dek;
                Ok(vec![tables::tombstone(&tables::dek(&version.key, dek))])
            }
            DestroyTarget::Key(name) => {
                let key = self.key_record(name).await?.record;
                self.graves_of_key(name, &key).await
            }
            DestroyTarget::Tenant(id) => {
                let tenant = self.tenant(id).await?.record;
                let mut graves = Vec::new();
                for (name, key) in self.keys_of(id, &tenant).await? {
                    graves.extend(self.graves_of_key(&name, &key).await?);
                }
                Ok(graves)
            }
        }
    }

    /// The tombstones of a KEK version and, of a resident one, of its escrow.
    async fn tombstones_of_kek(&self, id: &TenantId, version: KekVersion) -> Result<Tombstones, Error> {
        let mut found = self.tombstones_at([tables::tombstone(&tables::kek(id, version))]).await?;
        let escrow = tables::tombstone(&tables::kek_escrow(id, version));
        let stored = self.records.get(&escrow).await?;
        found.extend(stored.map(|stored| (escrow, stored)));
        Ok(found)
    }

    /// Its record has their names, so one that was taken away is missed.
    async fn graves_of_key(&self, name: &KeyName, key: &Key) -> Result<Vec<Path<Tombstone>>, Error> {
        let paths: Vec<_> = key.epochs().map(|epoch| tables::version(name, epoch)).collect();
        let versions = self.records.view().await?.get_many(&paths).await?;
        let mut graves = Vec::with_capacity(paths.len());
        for (path, version) in paths.iter().zip(versions) {
            let version = version.ok_or_else(|| StoreError::lost(path))?.record;
            graves.push(tables::tombstone(&tables::dek(name, version.dek)));
        }
        graves.extend(self.index_places_of(name, key).await?.iter().map(tables::tombstone));
        Ok(graves)
    }

    /// The tombstones at these places, each of which must have one.
    async fn tombstones_at(
        &self,
        paths: impl IntoIterator<Item = Path<Tombstone>>,
    ) -> Result<Tombstones, Error> {
        let paths: Vec<_> = paths.into_iter().collect();
        let found = self.records.view().await?.get_many(&paths).await?;
        let lost = |(path, stored): (Path<Tombstone>, Option<_>)| match stored {
            Some(stored) => Ok((path, stored)),
            None => Err(Error::from(StoreError::lost(&path))),
        };
        paths.into_iter().zip(found).map(lost).collect()
    }

    /// That nothing is left: no record, no open key, no byte of a wrapped key in any file.
    async fn prove(&self, target: &DestroyTarget, tombstones: &Tombstones) -> Result<Scrubbed, Error> {
        let remains: Vec<Remains> = tombstones.iter().map(|(_, stored)| stored.record.remains).collect();
        let mut outcome = self.records.scrub(&remains).await;
        if let Err(error) = &outcome
            && self.restored_after(error).await?
        {
            outcome = self.records.scrub(&remains).await;
        }
        let files = outcome?;
        // Behind the scan that proves that there is no row but those of the totals.
        let left = self.records.unburied(tombstones.iter().map(|(path, _)| path)).await?;
        if let Some(name) = left.first() {
            return Err(Error::Internal(format!("{name} is destroyed, and its record is there")));
        }
        match files.found.len() {
            0 => Ok(files),
            count => Err(Error::Internal(format!("{count} wrapped keys of {target} still stand in a file"))),
        }
    }

    /// Says in the record that it is done, and takes it off the agenda.
    async fn note_done(
        &self,
        target: &DestroyTarget,
        tombstones: &Tombstones,
        files: &Scrubbed,
    ) -> Result<Destruction, Error> {
        let now = Date::now();
        let mut changes = Changes::default();
        let (plan, affects) = self.record_done(&mut changes, target, now, tombstones).await?;
        let line = tables::due(plan.due, &Self::task_of(target));
        if let Some(Stored { revision, .. }) = self.records.get(&line).await? {
            changes.delete(&line, revision);
        }
        let detail = format!(
            "{} wrapped keys; {} bytes of {} files searched; {} older copies beside them",
            tombstones.len(),
            files.bytes,
            files.files.len(),
            files.copies.len()
        );
        changes.because(Acting::own(Action::Destroy, &target.to_string()));
        let change = self.commit(changes, affects).await?;
        let mut record = Pending::begin(self.audit.clone(), None, Action::Destroy, target.to_string(), 0);
        record.change(change);
        record.detail(detail);
        record.finish(Outcome::Ok)?.await?;
        Ok(plan)
    }

    async fn record_done<'a>(
        &self,
        changes: &mut Changes,
        target: &'a DestroyTarget,
        now: Date,
        tombstones: &Tombstones,
    ) -> Result<(Destruction, Affects<'a>), Error> {
        let done = |plan: Option<Destruction>| Destruction {
            done: Some(now),
            ..plan.unwrap_or_else(|| {
                Destruction::planned(crate::keyring::state::KeyState::DecryptOnly, now, now)
            })
        };
        match target {
            DestroyTarget::Tenant(id) => {
                let Stored { record, revision } = self.tenant(id).await?;
                let plan = done(record.destruction.clone());
                let record = Tenant { destruction: Some(plan.clone()), ..record };
                changes.replace(&tables::tenant(id), &record, revision);
                Ok((plan, Affects::TenantAndItsDeks(id)))
            }
            DestroyTarget::Key(name) => {
                let Stored { record, revision } = self.key_record(name).await?;
                let plan = done(record.destruction.clone());
                let record = Key { destruction: Some(plan.clone()), ..record };
                changes.replace(&tables::key(name), &record, revision);
                Ok((plan, Affects::KeyAndItsDeks(name)))
            }
            DestroyTarget::Version(version) => {
                let Stored { record, revision } = self.version_record(&version.key, version.epoch).await?;
                let plan = done(record.destruction.clone());
                let record = Version { destruction: Some(plan.clone()), ..record };
                changes.replace(&tables::version(&version.key, version.epoch), &record, revision);
                Ok((plan, Affects::KeyAndItsDeks(&version.key)))
            }
            // A KEK version has no record any more; its line in the agenda says when it was due.
            DestroyTarget::Kek(..) => {
                let due = self.line_of(&Self::task_of(target)).await?.unwrap_or(now);
                let begun = tombstones.first().map(|(_, stored)| stored.record.destroyed);
                let plan = Destruction { due, begun, ..done(None) };
                Ok((plan, Affects::Nothing))
            }
        }
    }

    /// The date under which something stands in the agenda.
    async fn line_of(&self, task: &Task) -> Result<Option<Date>, Error> {
        for day in self.agenda_days().await? {
            let lines = self.agenda(day).await?;
            if let Some((path, _)) = lines.iter().find(|(path, _)| path.id.1 == *task) {
                return Ok(Some(path.id.0));
            }
        }
        Ok(None)
    }
}

fn object(path: &Path<Tombstone>, tombstone: Tombstone) -> Object {
    let gone = match (path.id.dek(), tombstone.epoch) {
        (Some((key, id)), Some(epoch)) => {
            Gone::Dek { id, version: VersionName { key, epoch }, kek: tombstone.kek }
        }
        _ if path.id.is_kek() => Gone::Kek,
        _ if path.id.is_kek_escrow() => Gone::KekEscrow,
        _ => Gone::IndexKey,
    };
    let name = path.id.describe();
    Object { name, remains: tombstone.remains, authority: tombstone.authority, gone }
}
