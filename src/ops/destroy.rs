//! Destruction: planned, called off, done.
//!
//! ```text
//! plan      the state forbids use at once; a line of the agenda has the date
//! bury      wrapped keys leave the records, tombstones take their place, in one transaction
//! remove    the token objects of resident KEKs are destroyed, their absence looked at; their escrow follows
//! forget    open keys are wiped, handles in every HSM process destroyed
//! prove     the records are absent; the files hold the wrapped bytes no more
//! done      the record says so, the line leaves the agenda
//! ```
//!
//! After a crash the line is still there, and the work is done again from where the records stand.

use std::time::Duration;

use super::Error;
use super::commit::{Affects, unhindered};
use super::custody::Matter;
use super::done::Done;
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::{DestroyTarget, Destroyable, KeyName, PrincipalId, TenantId, TenantName, VersionName};
use crate::keyring::agenda::Task;
use crate::keyring::record::{Key, Tenant, Version};
use crate::keyring::schedule::Destruction;
use crate::keyring::state::{Act, KeyState};
use crate::store::{Changes, Stored, tables};

mod again;
mod bury;
mod certify;
mod execute;
mod kek;
mod resident;
mod target;

pub use again::destroy_again;
pub use target::{Authority, Destroyed, Gone, Object};

/// A destruction as it stands after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The state of what is destroyed.
    pub state: KeyState,
    /// When it is done; none after it was called off.
    pub due: Option<Date>,
}

/// Who has something destroyed, when and why.
#[derive(Debug, Clone, Copy)]
struct Order<'a> {
    planner: &'a PrincipalId,
    delay: Option<Duration>,
    reason: &'a str,
}

impl Vault {
    /// Plans the destruction of a tenant, a key or a version, with all under it. The primary version of a key stays.
    ///
    /// # Errors
    /// [`Error::CeremonyRequired`] since the root was founded; [`Error::Frozen`] and [`Error::TenantState`],
    /// [`Error::KeyState`] or [`Error::VersionState`] where the state forbids it; [`Error::NotAllowed`] for a delay that is too
    /// short.
    pub async fn plan_destroy(
        &self,
        right: &Authorized<permission::Destroy>,
        delay: Option<Duration>,
        reason: &str,
    ) -> Result<Done<Planned>, Error> {
        let order = Order { planner: right.principal(), delay, reason };
        match right.resource() {
            Destroyable::Tenant(name) => self.plan_destroy_tenant(name, order).await,
            Destroyable::Key(name) => self.plan_destroy_key(name, order).await,
            Destroyable::Version(version) => self.plan_destroy_version(version, order).await,
        }
    }

    /// Calls a destruction off.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when none is planned; [`Error::TenantState`], [`Error::KeyState`] or [`Error::VersionState`] when it has
    /// begun.
    pub async fn cancel_destroy(
        &self,
        right: &Authorized<permission::Destroy>,
        reason: &str,
    ) -> Result<Done<Planned>, Error> {
        match right.resource() {
            Destroyable::Tenant(name) => self.cancel_destroy_tenant(name, reason).await,
            Destroyable::Key(name) => self.cancel_destroy_key(name, reason).await,
            Destroyable::Version(version) => self.cancel_destroy_version(version, reason).await,
        }
    }

    async fn plan_destroy_tenant(&self, name: &TenantName, order: Order<'_>) -> Result<Done<Planned>, Error> {
        unhindered!(async {
            let id = &name.0;
            self.require_unfounded(Matter::Destroy(&name.to_string()))?;
            let Stored { record, revision } = self.unfrozen_tenant(id).await?;
            let plan = self.plan(KeyState::Active, order)?;
            let mut changes = Changes::default();
            let tenant = Tenant { destruction: Some(plan.clone()), ..record };
            changes.replace(&tables::tenant(id), &tenant, revision);
            let task = Task::DestroyTenant(id.clone());
            self.reschedule(&mut changes, &task, None, Some(plan.due)).await?;
            let change = self.commit(changes, Affects::TenantAndItsDeks(id)).await?;
            Ok(Done::with_change(planned(&plan), change).detail(order.reason))
        })
    }

    async fn plan_destroy_key(&self, name: &KeyName, order: Order<'_>) -> Result<Done<Planned>, Error> {
        unhindered!(async {
            self.require_unfounded(Matter::Destroy(&name.to_string()))?;
            self.unfrozen_tenant(&name.tenant).await?;
            let Stored { record, revision } = self.unfrozen_key(name).await?;
            let plan = self.plan(record.state, order)?;
            let mut changes = Changes::default();
            let state =
                planned_from(record.state).ok_or_else(|| Error::KeyState(name.clone(), record.state))?;
            let key = Key { state, destruction: Some(plan.clone()), ..record };
            changes.replace(&tables::key(name), &key, revision);
            let task = Task::DestroyKey(name.clone());
            self.reschedule(&mut changes, &task, None, Some(plan.due)).await?;
            let change = self.commit(changes, Affects::KeyAndItsDeks(name)).await?;
            Ok(Done::with_change(planned(&plan), change).detail(order.reason))
        })
    }

    async fn plan_destroy_version(
        &self,
        version: &VersionName,
        order: Order<'_>,
    ) -> Result<Done<Planned>, Error> {
        unhindered!(async {
            let VersionName { key: name, epoch } = version;
            let epoch = *epoch;
            self.require_unfounded(Matter::Destroy(&version.to_string()))?;
            self.unfrozen_tenant(&name.tenant).await?;
            let key = self.unfrozen_key(name).await?;
            check_not_primary(&key.record, version)?;
            let Stored { record, revision } = self.version_record(name, epoch).await?;
            let plan = self.plan(record.state, order)?;
            let state = planned_from(record.state)
                .ok_or_else(|| Error::VersionState(version.clone(), record.state))?;
            let mut changes = Changes::default();
            // It would be activated otherwise, or become the primary one while this is decided.
            let activation = Task::Activate(version.clone());
            self.reschedule(&mut changes, &activation, record.activates, None).await?;
            let doomed = Version { state, destruction: Some(plan.clone()), ..record };
            changes.replace(&tables::version(name, epoch), &doomed, revision);
            changes.replace(&tables::key(name), &key.record, key.revision);
            self.reschedule(&mut changes, &Task::DestroyVersion(version.clone()), None, Some(plan.due))
                .await?;
            let change = self.commit(changes, Affects::KeyAndItsDeks(name)).await?;
            Ok(Done::with_change(planned(&plan), change).detail(order.reason))
        })
    }

    async fn cancel_destroy_tenant(&self, name: &TenantName, reason: &str) -> Result<Done<Planned>, Error> {
        unhindered!(async {
            let id = &name.0;
            let Stored { record, revision } = self.tenant(id).await?;
            let plan = cancellable(record.destruction.as_ref(), &name.to_string())?;
            if record.state() == KeyState::Destroyed {
                return Err(Error::TenantState(name.clone(), KeyState::Destroyed));
            }
            let mut changes = Changes::default();
            self.reschedule(&mut changes, &Task::DestroyTenant(id.clone()), Some(plan.due), None).await?;
            changes.replace(&tables::tenant(id), &Tenant { destruction: None, ..record }, revision);
            let change = self.commit(changes, Affects::Tenant(id)).await?;
            let kept = Planned { state: KeyState::Active, due: None };
            Ok(Done::with_change(kept, change).detail(reason))
        })
    }

    async fn cancel_destroy_key(&self, name: &KeyName, reason: &str) -> Result<Done<Planned>, Error> {
        unhindered!(async {
            let Stored { record, revision } = self.key_record(name).await?;
            let plan = cancellable(record.destruction.as_ref(), &name.to_string())?;
            let back = record.state.after(Act::Cancel(plan.was));
            let state = back.ok_or_else(|| Error::KeyState(name.clone(), record.state))?;
            let mut changes = Changes::default();
            self.reschedule(&mut changes, &Task::DestroyKey(name.clone()), Some(plan.due), None).await?;
            changes.replace(&tables::key(name), &Key { state, destruction: None, ..record }, revision);
            let change = self.commit(changes, Affects::Key(name)).await?;
            Ok(Done::with_change(Planned { state, due: None }, change).detail(reason))
        })
    }

    async fn cancel_destroy_version(
        &self,
        version: &VersionName,
        reason: &str,
    ) -> Result<Done<Planned>, Error> {
        unhindered!(async {
            let VersionName { key: name, epoch } = version;
            let epoch = *epoch;
            let Stored { record, revision } = self.version_record(name, epoch).await?;
            let plan = cancellable(record.destruction.as_ref(), &version.to_string())?;
            let back = record.state.after(Act::Cancel(plan.was));
            let mut state = back.ok_or_else(|| Error::VersionState(version.clone(), record.state))?;
            let key = self.key_record(name).await?;
            let (mut changes, mut activates) = (Changes::default(), record.activates);
            changes.require(&tables::key(name), key.revision);
            // A newer one has taken the place meanwhile that it was made for.
            if state == KeyState::PreActive && key.record.primary > epoch {
                (state, activates) = (KeyState::DecryptOnly, None);
            }
            self.reschedule(&mut changes, &Task::Activate(version.clone()), None, activates).await?;
            self.reschedule(&mut changes, &Task::DestroyVersion(version.clone()), Some(plan.due), None)
                .await?;
            changes.replace(
                &tables::version(name, epoch),
                &Version { state, activates, destruction: None, ..record },
                revision,
            );
            let change = self.commit(changes, Affects::Key(name)).await?;
            Ok(Done::with_change(Planned { state, due: None }, change).detail(reason))
        })
    }

    fn plan(&self, was: KeyState, order: Order<'_>) -> Result<Destruction, Error> {
        let Order { planner, delay, reason } = order;
        let settings = self.settings();
        let settings = &settings.lifecycle.destruction;
        let (delay, least) = (delay.unwrap_or(settings.delay.0), settings.min_delay.0);
        if delay < least {
            let (delay, least) = (humantime::format_duration(delay), humantime::format_duration(least));
            return Err(Error::NotAllowed(format!(
                "a destruction must be possible to call off for {least}, not only {delay} (destruction.min_delay in the configuration)"
            )));
        }
        let now = Date::now();
        let (planner, reason) = (Some(planner.to_string()), Some(reason.to_owned()));
        Ok(Destruction { planner, reason, ..Destruction::planned(was, now, now.after(delay)) })
    }

    async fn unfrozen_key(&self, name: &KeyName) -> Result<Stored<Key>, Error> {
        let key = self.key_record(name).await?;
        match key.record.frozen {
            true => Err(Error::Frozen(name.to_string())),
            false => Ok(key),
        }
    }

    /// What the agenda calls the destruction of a target.
    fn task_of(target: &DestroyTarget) -> Task {
        match target {
            DestroyTarget::Tenant(id) => Task::DestroyTenant(TenantId::clone(id)),
            DestroyTarget::Key(name) => Task::DestroyKey(name.clone()),
            DestroyTarget::Version(version) => Task::DestroyVersion(version.clone()),
            DestroyTarget::Kek(id, version) => Task::DestroyKek(id.clone(), *version),
        }
    }
}

/// The state after a destruction was planned; a second plan changes nothing of the first.
fn planned_from(state: KeyState) -> Option<KeyState> {
    state.after(Act::Schedule)
}

fn planned(plan: &Destruction) -> Planned {
    Planned { state: KeyState::Scheduled, due: Some(plan.due) }
}

fn cancellable<'a>(destruction: Option<&'a Destruction>, name: &str) -> Result<&'a Destruction, Error> {
    destruction.ok_or_else(|| Error::NotAllowed(format!("no destruction of {name} is planned")))
}

fn check_not_primary(key: &Key, version: &VersionName) -> Result<(), Error> {
    match version.epoch == key.primary && key.state != KeyState::Destroyed {
        true => Err(Error::NotAllowed(format!(
            "{} encrypts with version {}; rotate the key first, then destroy this version",
            version.key, version.epoch
        ))),
        false => Ok(()),
    }
}
