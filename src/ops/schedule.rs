//! Doing what is due: rotations, activations, destructions.
//!
//! One daemon of those that share a store does it: the one that holds the lease.
//! What fails stays on the agenda and is tried again after a growing pause.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Error;
use super::agenda::Line;
use super::commit::{Affects, unhindered};
use super::custody::Matter;
use super::destroy::Authority;
use super::rotate::Making;
use super::vault::Vault;
use crate::access::Action;
use crate::audit::{Outcome, Pending};
use crate::clock::{Date, Day, Moment};
use crate::config::OldKek;
use crate::id::{DestroyTarget, TenantId};
use crate::keyring::agenda::{Lease, Task};
use crate::keyring::record::Tenant;
use crate::keyring::schedule::{Destruction, Schedule};
use crate::keyring::state::KeyState;
use crate::keyring::timekeeping::Now;
use crate::store::{Changes, Stored, tables};

/// How long a lease is good for. Another daemon takes over after that time.
const TERM: Duration = Duration::from_secs(600);
/// The pause after a first failure, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Which daemon this is.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// The node, for as long as its state directory lives.
    pub id: [u8; 16],
    /// The boot of its machine, to which moments belong.
    pub boot: [u8; 16],
}

/// What failed, and when it is tried again.
#[derive(Default)]
pub(super) struct Retries(Mutex<BTreeMap<Task, Retry>>);

struct Retry {
    error: String,
    again: Moment,
    pause: Duration,
}

impl Retries {
    fn may_try(&self, task: &Task) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(task).is_none_or(|retry| Moment::now() >= retry.again)
    }

    fn done(&self, task: &Task) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(task);
    }

    /// Puts a task off; whether the reason is a new one.
    fn failed(&self, task: &Task, error: &Error) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let error = error.to_string();
        let before = all.get(task);
        let pause = before.map_or(PAUSES.0, |retry| (retry.pause * 2).min(PAUSES.1));
        let news = before.is_none_or(|retry| retry.error != error);
        all.insert(task.clone(), Retry { error, again: Moment::now().after(pause), pause });
        news
    }
}

/// What became of a task.
enum Ran {
    Done,
    /// A rotation has begun, and somebody must work on it.
    Rotates(TenantId),
    /// The record says something else than the agenda: it was changed since.
    Stale,
}

impl Vault {
    /// Does what is due at `now`, if this daemon holds the lease and the clock is believed. Answers the
    /// tenants whose rotation has begun.
    ///
    /// # Errors
    /// When store or audit log do not serve. What fails by itself is logged and tried again later.
    pub async fn run_due(&self, now: Now) -> Result<Vec<TenantId>, Error> {
        let verdict = self.look_at_clock(now).await?;
        let leads = self.lead(now, verdict.permits_schedules()).await?;
        self.time.set_leading(leads);
        let mut rotating = Vec::new();
        if !leads || !verdict.permits_schedules() {
            return Ok(rotating);
        }
        let today = Day::of(now.wall);
        for day in self.agenda_days().await?.into_iter().filter(|day| *day <= today) {
            for (path, stored) in self.agenda(day).await? {
                let (date, task) = &path.id;
                let permitted = verdict.permits_destruction() || !task.destroys();
                if *date <= now.wall && permitted && self.retries.may_try(task) {
                    rotating.extend(self.try_task((path.clone(), stored)).await);
                }
            }
        }
        Ok(rotating)
    }

    async fn try_task(&self, line: Line) -> Option<TenantId> {
        let (date, task) = line.0.id.clone();
        let ran = match self.run_task(date, &task).await {
            Ok(Ran::Stale) => self.strike(&line).await.map(|()| None),
            Ok(Ran::Rotates(tenant)) => Ok(Some(tenant)),
            Ok(Ran::Done) => Ok(None),
            Err(error) => Err(error),
        };
        match ran {
            Ok(rotating) => {
                self.retries.done(&task);
                rotating
            }
            Err(error) => {
                if self.retries.failed(&task, &error) {
                    tracing::warn!(%task, %error, "due, and waits");
                }
                None
            }
        }
    }

    async fn run_task(&self, date: Date, task: &Task) -> Result<Ran, Error> {
        if !self.is_current(date, task).await? {
            return Ok(Ran::Stale);
        }
        match task {
            Task::RotateKey(name) => self.rotate_key_on_schedule(name, Action::RotateKeyDue).await?,
            Task::Activate(version) => {
                self.rotate_key_on_schedule(&version.key, Action::ActivateKeyVersion).await?;
            }
            Task::RotateTenant(id) => return self.rotate_tenant_on_schedule(id).await,
            Task::DestroyKek(id, version) if self.settings().lifecycle.rotation.old_kek == OldKek::Keep => {
                self.keep_old_kek(id, *version).await?;
            }
            Task::DestroyKek(id, version) => {
                self.destroy_due(DestroyTarget::Kek(id.clone(), *version)).await?;
            }
            Task::DestroyVersion(version) => {
                // Only in an older store that was accepted: there it may be the primary one still.
                let key = self.key_record(&version.key).await?.record;
                if key.primary == version.epoch && key.state.is_alive() {
                    self.rotate_key_on_schedule(&version.key, Action::RotateKeyDue).await?;
                }
                self.destroy_due(DestroyTarget::Version(version.clone())).await?;
            }
            Task::DestroyKey(name) => self.destroy_due(DestroyTarget::Key(name.clone())).await?,
            Task::DestroyTenant(id) => self.destroy_due(DestroyTarget::Tenant(id.clone())).await?,
        }
        Ok(Ran::Done)
    }

    /// What an operator planned before the founding waits for custodians, unless it has begun. An old KEK
    /// that seals nothing goes by the rule of the configuration.
    async fn destroy_due(&self, target: DestroyTarget) -> Result<(), Error> {
        let by_rule = matches!(target, DestroyTarget::Kek(..));
        let begun = self.plan_of(&target).await?.is_some_and(|plan| plan.begun.is_some());
        if !by_rule && !begun {
            self.require_unfounded(Matter::Destroy(&target.to_string()))?;
        }
        self.destroy(target, Authority::Schedule).await.map(drop)
    }

    async fn rotate_tenant_on_schedule(&self, id: &TenantId) -> Result<Ran, Error> {
        self.unfrozen_tenant(id).await?;
        if self.tenant(id).await?.record.rotating_to.is_some() {
            unhindered!(self.count_running_rotation(id))?;
            return Ok(Ran::Done);
        }
        let mut begun = unhindered!(self.begin_rotation_of(id, Making::AsBefore))?;
        let resource = format!("tenants/{id}");
        let mut record = Pending::begin(self.audit.clone(), None, Action::RotateTenant, resource, 0);
        record.detail("by date");
        if let Some(change) = begun.take_trace().change {
            record.change(change);
        }
        let committed = record.finish(Outcome::Ok)?.await?;
        Ok(Ran::Rotates(begun.release(committed).name.tenant))
    }

    /// A rotation that is running already is the one that was due: the next one has its date from now on.
    async fn count_running_rotation(&self, id: &TenantId) -> Result<(), Error> {
        let Stored { record, revision } = self.tenant(id).await?;
        let schedule = record.schedule.as_ref().map(|schedule| schedule.renewed(Date::now()));
        let renewed = Tenant { schedule, ..record.clone() };
        let mut changes = Changes::default();
        self.follow_tenant_schedule(&mut changes, id, &record, &renewed).await?;
        changes.replace(&tables::tenant(id), &renewed, revision);
        let resource = format!("tenants/{id}");
        self.commit_own(changes, Affects::Tenant(id), Action::RotateTenantDue, resource).await.map(drop)
    }

    /// Whether the record still says what the agenda says.
    async fn is_current(&self, date: Date, task: &Task) -> Result<bool, Error> {
        let tenant = self.tenant(task.tenant()).await?.record;
        let alive = tenant.state() != KeyState::Destroyed;
        let open =
            |plan: Option<&Destruction>| plan.is_some_and(|plan| plan.due == date && plan.done.is_none());
        let next = |schedule: &Option<Schedule>| schedule.as_ref().and_then(|schedule| schedule.next);
        Ok(match task {
            Task::RotateTenant(_) => alive && next(&tenant.schedule) == Some(date),
            Task::DestroyTenant(_) => open(tenant.destruction.as_ref()),
            Task::RotateKey(name) => {
                let key = self.key_record(name).await?.record;
                alive && key.state != KeyState::Destroyed && next(&key.schedule) == Some(date)
            }
            Task::DestroyKey(name) => open(self.key_record(name).await?.record.destruction.as_ref()),
            Task::Activate(version) => {
                let record = self.version_record(&version.key, version.epoch).await?.record;
                alive && record.state == KeyState::PreActive && record.activates == Some(date)
            }
            Task::DestroyVersion(version) => {
                open(self.version_record(&version.key, version.epoch).await?.record.destruction.as_ref())
            }
            // Its record goes first; the line is what is left when that was done before a crash.
            Task::DestroyKek(..) => true,
        })
    }

    /// Takes a line off the agenda that nothing stands behind any more.
    async fn strike(&self, line: &Line) -> Result<(), Error> {
        let mut changes = Changes::default();
        changes.delete(&line.0, line.1.revision);
        self.commit_own(changes, Affects::Nothing, Action::AgendaCleared, line.0.id.1.to_string()).await?;
        Ok(())
    }

    /// Takes or renews the lease; whether this daemon has it.
    async fn lead(&self, now: Now, may_renew: bool) -> Result<bool, Error> {
        let Node { id, boot } = self.settings().lifecycle.node;
        let stored = self.records.get(&tables::lease()).await?;
        let mut changes = Changes::default();
        match &stored {
            Some(Stored { record, .. }) if record.holder != id && !record.has_ended(boot, now) => {
                return Ok(false);
            }
            Some(Stored { record, .. }) if record.holder == id && !record.is_stale(boot, now, TERM) => {
                return Ok(true);
            }
            // A date that is not believed must not be written down.
            _ if !may_renew => return Ok(true),
            Some(Stored { record, revision }) => {
                changes.replace(&tables::lease(), &self.own_lease(now, Some(record)), *revision);
            }
            None => {
                changes.create(&tables::lease(), &self.own_lease(now, None));
            }
        }
        match self.commit_own(changes, Affects::Nothing, Action::Lease, String::new()).await {
            Ok(_) => Ok(true),
            // Another daemon was faster.
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The lease of this daemon from `now` on. An older one that belongs to another daemon stays its own.
    pub(super) fn own_lease(&self, now: Now, before: Option<&Lease>) -> Lease {
        let Node { id, boot } = self.settings().lifecycle.node;
        match before {
            Some(other) if other.holder != id && !other.has_ended(boot, now) => {
                Lease { renewed: now.wall.min(other.renewed), ..other.clone() }
            }
            _ => Lease {
                holder: id,
                boot,
                until_boot: now.boot.after(TERM),
                until_wall: now.wall.after(TERM),
                renewed: now.wall,
            },
        }
    }

    /// Returns when something may be due that was not before: the agenda was changed.
    pub async fn agenda_changed(&self) {
        self.woken.notified().await;
    }
}
