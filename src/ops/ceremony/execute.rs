//! Executing what custodians have approved. It resumes where it stopped, after a crash too.

use std::sync::Arc;
use std::time::Duration;

use super::super::Error;
use super::super::commit::{Affects, unhindered};
use super::super::vault::Vault;
use super::{Ceremonies, CeremonyInfo};
use crate::access::Action;
use crate::audit::StoreChange;
use crate::clock::Date;
use crate::id::{CeremonyId, DestroyTarget, Epoch, Freezable, KeyName, RosterVersion, TenantId};
use crate::keyring::ceremony::{Ceremony, CeremonyAction, Progress, State};
use crate::keyring::record::Tenant;
use crate::keyring::roster::Roster;
use crate::keyring::state::KeyState;
use crate::ops::destroy::Authority;
use crate::ops::error::Reason;
use crate::ops::resident::{Goal, Mandate, refused_when_full};
use crate::store::{Changes, tables};

/// The audit log's word for a step of a ceremony.
const PROGRESS: Action = Action::CeremonyProgress;
/// Longest pause before another try.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Tenants after which the progress is kept.
const KEEP_EVERY: usize = 50;

/// Held by the one task that works on a ceremony.
struct Working<'a>(&'a Ceremonies, CeremonyId);

impl<'a> Working<'a> {
    fn begin(ceremonies: &'a Ceremonies, id: CeremonyId) -> Option<Self> {
        let mut running = ceremonies.lock();
        (!running.contains_key(&id)).then(|| {
            running.insert(id, None);
            Self(ceremonies, id)
        })
    }

    fn waits_for(&self, reason: String) {
        self.0.lock().insert(self.1, Some(reason));
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Vault {
    /// Ceremonies that were approved and are not finished.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn unfinished_ceremonies(&self) -> Result<Vec<CeremonyId>, Error> {
        let all = self.records.complete::<Ceremony>().await?;
        let executing = all.into_iter().filter(|(_, stored)| stored.record.state == State::Executing);
        Ok(executing.map(|(path, _)| path.id).collect())
    }

    /// Works until the ceremony is finished, waiting out what keeps it from going on. Answers how
    /// it ended and the last change of the store, or `None` when there was nothing to do.
    pub async fn resume_ceremony(self: Arc<Self>, id: CeremonyId) -> Option<(CeremonyInfo, StoreChange)> {
        let working = Working::begin(&self.ceremonies, id)?;
        let mut pause = Duration::from_millis(50);
        loop {
            let error = match self.work_on_ceremony(id).await {
                Ok(finished) => return finished,
                Err(error) if self.is_final(id, &error).await => {
                    match self.end(id, State::Failed, Some(error.to_string())).await {
                        Ok(ended) => return Some(ended),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            tracing::warn!(ceremony = %id, %error, "ceremony waits");
            working.waits_for(error.to_string());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn work_on_ceremony(
        self: &Arc<Self>,
        id: CeremonyId,
    ) -> Result<Option<(CeremonyInfo, StoreChange)>, Error> {
        let (info, _) = self.ceremony(id).await?;
        if info.record.state != State::Executing {
            return Ok(None);
        }
        let outcome = match &info.record.action {
            CeremonyAction::Found(_) | CeremonyAction::RotateRoot | CeremonyAction::ChangeRoster(_) => {
                self.change_root(&info).await?
            }
            CeremonyAction::RotateTenant(tenant) => self.rotate_one(&info, tenant).await?,
            CeremonyAction::MoveTenant { tenant, resident } => {
                self.move_one(&info, tenant, *resident).await?
            }
            CeremonyAction::Unfreeze(name) => return unhindered!(self.unfreeze(id, name)).map(Some),
            CeremonyAction::Destroy(name) => self.destroy_by_ceremony(id, name).await?,
            CeremonyAction::MakeAdministrator { account, credential } => {
                unhindered!(self.make_administrator(account, *credential, id))?
            }
            CeremonyAction::SetMinVersion { key, version, today } => {
                self.change_min_version(key, *version, *today).await?
            }
            CeremonyAction::ForgetErasureRoot(root) => self.forget_stray(*root).await?,
        };
        self.end(id, State::Done, Some(outcome)).await.map(Some)
    }

    /// Another generation of the root, and everything moved to it.
    async fn change_root(self: &Arc<Self>, info: &CeremonyInfo) -> Result<String, Error> {
        self.follow_root().await?;
        if self.ceremony(info.id).await?.0.record.progress.generation.is_none() {
            self.new_root(info).await?;
        }
        self.move_audit_key(self.root().id).await?;
        self.move_login_key(self.root().id).await?;
        self.move_tenants(info).await?;
        for old in self.retired_roots().await? {
            self.prove_unused(&old.record.id).await?;
            self.bury_root(old).await?;
        }
        let root = self.root();
        Ok(format!(
            "root key {} (generation {}) is in force, its predecessor is destroyed",
            root.id, root.generation
        ))
    }

    /// Makes the root and puts it in force, with the roster that goes with it.
    async fn new_root(&self, info: &CeremonyInfo) -> Result<(), Error> {
        // Whoever holds this may take an escrow without a root for one that nobody works on.
        let _alone = self.minting.lock().await;
        self.require_roster(&info.record).await?;
        self.step(info.id, Progress { step: "making the root key".into(), ..Progress::default() }).await?;
        let members = info.record.action.new_members().unwrap_or(&info.members);
        let minted = self.mint_root(info.id, members).await?;
        let total = self.tenants_after(None).await?.len() as u64;
        let mut changes = Changes::default();
        let (now, revision) = self.ceremony(info.id).await?;
        let generation = self.root().generation.next();
        let progress = Progress { step: "moving tenants".into(), done: 0, total, generation, tenant: None };
        changes.replace(&tables::ceremony(info.id), &Ceremony { progress, ..now.record }, revision);
        if let Some(members) = info.record.action.new_members() {
            let version = match self.roster().await? {
                Some((version, _)) => version.next(),
                None => Some(RosterVersion::FIRST),
            };
            let version = version.ok_or_else(|| Error::NotAllowed("no roster versions are left".into()))?;
            let roster = Roster { members: members.clone(), ceremony: info.id, created: Date::now() };
            changes.create(&tables::roster(version), &roster);
        }
        self.enthrone(minted, changes).await
    }

    /// Gives every tenant a KEK under the root in force. A resident KEK is under none; but where
    /// the roster changes, its custodians do, so it is replaced by one that they have shares of.
    async fn move_tenants(self: &Arc<Self>, info: &CeremonyInfo) -> Result<(), Error> {
        let id = info.id;
        let mandate = info.record.action.new_members().map(|members| Mandate { ceremony: id, members });
        let mut progress = self.ceremony(id).await?.0.record.progress;
        for (at, tenant) in self.tenants_after(progress.tenant.as_ref()).await?.into_iter().enumerate() {
            self.rotate_to_new_root(&tenant).await?;
            if let Some(mandate) = mandate
                && self.is_resident(&tenant).await?
            {
                self.rebirth(&tenant, mandate).await?;
            }
            progress.done += 1;
            progress.total = progress.total.max(progress.done);
            progress.tenant = Some(tenant);
            if at % KEEP_EVERY == KEEP_EVERY - 1 {
                self.step(id, progress.clone()).await?;
            }
        }
        progress.step = "destroying the old root key".into();
        self.step(id, progress).await
    }

    async fn rebirth(&self, tenant: &TenantId, mandate: Mandate<'_>) -> Result<(), Error> {
        let reborn = self.rotate_until(tenant, Goal::Reborn(mandate)).await;
        match self.tenant(tenant).await?.record.state() {
            // Another ceremony was faster.
            KeyState::Destroyed => Ok(()),
            _ => reborn,
        }
    }

    async fn tenants_after(&self, after: Option<&TenantId>) -> Result<Vec<TenantId>, Error> {
        let (mut pass, mut ids) = (self.records.pass::<Tenant>().await?, Vec::new());
        // To the end: only there it is known that no tenant was hidden.
        while let Some(page) = pass.next().await? {
            ids.extend(page.into_iter().map(|(path, _)| path.id));
        }
        ids.retain(|id| after.is_none_or(|after| id > after));
        Ok(ids)
    }

    /// Proves that no key is sealed under a KEK of this root: every tenant's keys are counted.
    async fn prove_unused(&self, root: &crate::id::RootId) -> Result<(), Error> {
        for id in self.tenants_after(None).await? {
            let tenant = self.tenant(&id).await?.record;
            if tenant.state() == KeyState::Destroyed {
                continue;
            }
            let mut keks = self.keks_of(&id, &tenant).await?;
            keks.retain(|(_, kek)| kek.record.root == *root);
            let old = |version| keks.iter().any(|(path, _)| path.id.1 == version);
            if let Some((version, _)) = self.still_sealed(&id, &tenant, old).await? {
                return Err(Error::Internal(format!(
                    "tenants/{id} still has keys under KEK version {version} of the old root"
                )));
            }
            if self.kek(&id, tenant.primary_kek).await?.record.root == *root {
                return Err(Error::Internal(format!("tenants/{id} was made under the old root meanwhile")));
            }
        }
        Ok(())
    }

    async fn rotate_one(self: &Arc<Self>, info: &CeremonyInfo, tenant: &TenantId) -> Result<String, Error> {
        let id = info.id;
        if self.is_resident(tenant).await? {
            let mandate = Mandate { ceremony: id, members: &info.members };
            self.rotate_until(tenant, Goal::Reborn(mandate)).await.map_err(refused_when_full)?;
            return self.where_it_is(tenant).await;
        }
        let before = self.tenant(tenant).await?.record.primary_kek;
        let began = self.ceremony(id).await?.0.record.progress;
        if began.step.is_empty() {
            let step = format!("rotating from KEK version {before}");
            self.begin_own_rotation(tenant).await?;
            self.step(id, Progress { step, ..Progress::default() }).await?;
        }
        self.rotate_to_end(tenant).await?;
        let now = self.tenant(tenant).await?.record.primary_kek;
        Ok(format!("tenants/{tenant} has KEK version {now}"))
    }

    /// Moves a tenant into the HSM, or back into the store.
    async fn move_one(
        self: &Arc<Self>,
        info: &CeremonyInfo,
        tenant: &TenantId,
        resident: bool,
    ) -> Result<String, Error> {
        let goal = match resident {
            true => Goal::Resident(Mandate { ceremony: info.id, members: &info.members }),
            false => Goal::Sealed,
        };
        self.rotate_until(tenant, goal).await.map_err(refused_when_full)?;
        self.where_it_is(tenant).await
    }

    async fn where_it_is(&self, tenant: &TenantId) -> Result<String, Error> {
        let version = self.tenant(tenant).await?.record.primary_kek;
        let place = match self.kek(tenant, version).await?.record.resident {
            Some(_) => "in the HSM",
            None => "in the store, under the root key",
        };
        Ok(format!("tenants/{tenant} has KEK version {version}, {place}"))
    }

    /// Ends a freeze, and the ceremony with it: tried again it would end a freeze that came later.
    async fn unfreeze(&self, id: CeremonyId, name: &str) -> Result<(CeremonyInfo, StoreChange), Error> {
        let (info, revision) = self.ceremony(id).await?;
        let outcome = format!("{name} is no longer frozen");
        let record = info.record.ended(State::Done, Date::now(), Some(outcome));
        let mut changes = Changes::default();
        changes.replace(&tables::ceremony(id), &record, revision);
        let reason = format!("by ceremonies/{id}");
        let done = self.set_frozen(&Freezable::parse(name)?, false, &reason, changes).await?;
        let change =
            done.change().ok_or_else(|| Error::Internal("a freeze ended without a change".into()))?;
        Ok((CeremonyInfo { record, waiting_for: None, ..info }, change))
    }

    async fn destroy_by_ceremony(&self, id: CeremonyId, name: &str) -> Result<String, Error> {
        let authority = Authority::Ceremony(format!("ceremonies/{id}"));
        let destroyed = self.destroy(DestroyTarget::parse(name)?, authority).await?;
        Ok(format!(
            "{} is destroyed: {} wrapped keys are gone from the live system; {} older copies lie beside the store",
            destroyed.target,
            destroyed.objects.len(),
            destroyed.files.copies.len()
        ))
    }

    async fn change_min_version(&self, name: &KeyName, version: u32, today: u32) -> Result<String, Error> {
        let now = self.key_record(name).await?.record.min_version.unwrap_or(Epoch::FIRST).get();
        if now != today && now != version {
            return Err(Error::NotAllowed(format!(
                "the minimum version of {name} has changed from {today} to {now} since this was proposed"
            )));
        }
        let change = self.set_min_version(name, Epoch::new(version)).await?;
        self.record_own(Action::MinVersion, name.to_string(), change).await?;
        Ok(format!("versions of {name} from {version} on decrypt, and none below"))
    }

    /// Keeps how far the execution is.
    async fn step(&self, id: CeremonyId, progress: Progress) -> Result<(), Error> {
        let (info, revision) = self.ceremony(id).await?;
        let mut changes = Changes::default();
        tracing::info!(ceremony = %id, done = progress.done, total = progress.total, "ceremony: {}", progress.step);
        changes.replace(&tables::ceremony(id), &Ceremony { progress, ..info.record }, revision);
        self.commit_own(changes, Affects::Nothing, PROGRESS, format!("ceremonies/{id}")).await?;
        Ok(())
    }

    /// Whether trying again cannot help. What has begun to change keys goes on until it is done.
    async fn is_final(&self, id: CeremonyId, error: &Error) -> bool {
        let hopeless = matches!(
            error.reason(),
            Reason::AlreadyExists
                | Reason::ArgumentInvalid
                | Reason::Destroyed
                | Reason::DestructionScheduled
                | Reason::Frozen
                | Reason::NameInvalid
                | Reason::NotAllowed
                | Reason::NotFound
        );
        hopeless && !self.has_begun(id).await.unwrap_or_else(|error| error.reason() != Reason::NotFound)
    }

    async fn has_begun(&self, id: CeremonyId) -> Result<bool, Error> {
        let Ceremony { action, progress, .. } = self.ceremony(id).await?.0.record;
        match action {
            CeremonyAction::Destroy(name) => {
                let plan = self.plan_of(&DestroyTarget::parse(&name)?).await?;
                Ok(plan.is_some_and(|plan| plan.begun.is_some()))
            }
            _ => Ok(progress.generation.is_some()),
        }
    }

    async fn end(
        &self,
        id: CeremonyId,
        state: State,
        outcome: Option<String>,
    ) -> Result<(CeremonyInfo, StoreChange), Error> {
        if state == State::Failed {
            self.give_up_minted().await?;
        }
        let (info, revision) = self.ceremony(id).await?;
        let record = info.record.ended(state, Date::now(), outcome);
        let mut changes = Changes::default();
        changes.replace(&tables::ceremony(id), &record, revision);
        let change = self.commit(changes, Affects::Nothing).await?;
        Ok((CeremonyInfo { record, waiting_for: None, ..info }, change))
    }
}
