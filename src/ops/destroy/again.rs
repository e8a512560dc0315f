//! Destroying again what an older store, accepted by an operator, still has.

use crate::clock::Date;
use crate::id::{KeyName, TenantName, VersionName};
use crate::keyring::agenda::{Due, Task};
use crate::keyring::record::{Key, Tenant, Version};
use crate::keyring::schedule::Destruction;
use crate::keyring::state::{Act, KeyState};
use crate::ops::Error;
use crate::store::{Cause, Changes, Records, Stored, tables};

/// Plans the destruction of everything with these names for now: the daemon does it when it starts.
/// Nothing works for it until then. Names that the store does not have are passed over, and so are KEK
/// versions: in the older store they may be in use. Answers how many are planned.
///
/// # Errors
/// When the store does not serve.
pub async fn destroy_again(records: &Records, names: &[String]) -> Result<usize, Error> {
    let mut planned = 0;
    for name in names {
        let mut changes = Changes::new();
        if plan(records, &mut changes, name).await?.is_some() {
            changes.because(Cause::own("schedule-destroy", name.as_str()));
            records.commit(changes).await?;
            planned += 1;
        }
    }
    Ok(planned)
}

async fn plan(records: &Records, changes: &mut Changes, name: &str) -> Result<Option<()>, Error> {
    if let Ok(version) = VersionName::parse(name) {
        plan_version(records, changes, version).await
    } else if let Ok(key) = KeyName::parse(name) {
        plan_key(records, changes, key).await
    } else if let Ok(TenantName(id)) = TenantName::parse(name) {
        let path = tables::tenant(&id);
        let Some(Stored { record, revision }) = records.get(&path).await? else { return Ok(None) };
        if record.state() == KeyState::Destroyed {
            return Ok(None);
        }
        let old = record.destruction.as_ref().map(|plan| plan.due);
        let task = Task::DestroyTenant(id);
        let plan = enter(records, changes, task, KeyState::Active, old).await?;
        let tenant = Tenant { frozen: false, destruction: Some(plan), ..record };
        changes.replace(&path, &tenant, revision);
        Ok(Some(()))
    } else {
        Ok(None)
    }
}

async fn plan_key(records: &Records, changes: &mut Changes, name: KeyName) -> Result<Option<()>, Error> {
    let path = tables::key(&name);
    let Some(Stored { record, revision }) = records.get(&path).await? else { return Ok(None) };
    let Some(state) = doomed(record.state) else { return Ok(None) };
    let old = record.destruction.as_ref().map(|plan| plan.due);
    let plan = enter(records, changes, Task::DestroyKey(name), record.state, old).await?;
    let key = Key { state, frozen: false, destruction: Some(plan), ..record };
    changes.replace(&path, &key, revision);
    Ok(Some(()))
}

async fn plan_version(
    records: &Records,
    changes: &mut Changes,
    name: VersionName,
) -> Result<Option<()>, Error> {
    let path = tables::version(&name.key, name.epoch);
    let Some(Stored { record, revision }) = records.get(&path).await? else { return Ok(None) };
    let Some(state) = doomed(record.state) else { return Ok(None) };
    let key = records.get(&tables::key(&name.key)).await?;
    // The primary one encrypts until the scheduler has opened another one.
    let primary = key.is_some_and(|key| key.record.primary == name.epoch);
    let state = if primary { record.state } else { state };
    let old = record.destruction.as_ref().map(|plan| plan.due);
    let plan = enter(records, changes, Task::DestroyVersion(name), record.state, old).await?;
    changes.replace(&path, &Version { state, destruction: Some(plan), ..record }, revision);
    Ok(Some(()))
}

fn doomed(state: KeyState) -> Option<KeyState> {
    if state == KeyState::Scheduled { Some(state) } else { state.after(Act::Schedule) }
}

/// A line in the agenda for now, in place of the one that may be there.
async fn enter(
    records: &Records,
    changes: &mut Changes,
    task: Task,
    was: KeyState,
    old: Option<Date>,
) -> Result<Destruction, Error> {
    let now = Date::now();
    if let Some(old) = old {
        let path = tables::due(old, &task);
        if let Some(line) = records.get(&path).await? {
            changes.delete(&path, line.revision);
        }
    }
    changes.create(&tables::due(now, &task), &Due { entered: now });
    Ok(Destruction::planned(was, now, now))
}
