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
    count_agenda(records).await?;
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

/// An export of before days were counted has lines and no days: once one line were entered or struck, the day of
/// that one would be all that is counted.
async fn count_agenda(records: &Records) -> Result<(), Error> {
    if let Some(mut counted) = records.count_agenda().await? {
        counted.because(Cause::own("agenda-counted", "agenda"));
        records.commit(counted).await?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Day;
    use crate::id::{DeploymentId, TenantId};
    use crate::keyring::agenda::DueDay;
    use crate::secret::Key256;
    use crate::store::{SqliteKv, StoreKeys};

    const LATER: Date = Date(30 * 24 * 60 * 60 * 1000);

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    /// A store as an export of before days were counted leaves it: lines, and no day.
    async fn uncounted(dir: &std::path::Path) -> Records {
        let kv = Arc::new(SqliteKv::open(dir.join("store.db")).await.unwrap());
        let keys = StoreKeys::derive(&Key256::init_with(|key| key.fill(1)));
        let mut changes = Changes::new();
        for name in ["planned", "other"] {
            let plan = Destruction::planned(KeyState::Active, Date(1), LATER);
            let record = Tenant { destruction: Some(plan), ..Tenant::new(Date(1), None) };
            changes.create(&tables::tenant(&tenant(name)), &record);
            changes
                .create(&tables::due(LATER, &Task::DestroyTenant(tenant(name))), &Due { entered: Date(1) });
        }
        changes.create(&tables::tenant(&tenant("free")), &Tenant::new(Date(1), None));
        let deployment = DeploymentId([7; 16]);
        let created = Records::create(kv, &dir.join("journal.kwj"), deployment, keys, changes).await;
        let records = created.unwrap().0;
        let mut changes = Changes::new();
        for (path, stored) in records.complete::<DueDay>().await.unwrap() {
            changes.delete(&path, stored.revision);
        }
        records.commit(changes).await.unwrap();
        records
    }

    async fn lines_by_day(records: &Records) -> Vec<(Day, u64)> {
        let days = records.complete::<DueDay>().await.unwrap();
        days.into_iter().map(|(path, stored)| (path.id, stored.record.lines)).collect()
    }

    #[tokio::test]
    async fn what_an_old_export_has_on_its_agenda_is_counted_before_a_line_is_entered_or_struck() {
        for (name, later) in [("tenants/planned", 1), ("tenants/free", 2)] {
            let dir = tempfile::tempdir().unwrap();
            let records = uncounted(dir.path()).await;
            assert_eq!(lines_by_day(&records).await, []);
            assert_eq!(destroy_again(&records, &[name.to_owned()]).await.unwrap(), 1);
            let days = lines_by_day(&records).await;
            assert_eq!(days[0], (Day::of(LATER), later), "{name}");
            assert_eq!(days.iter().map(|(_, lines)| lines).sum::<u64>(), if later == 1 { 2 } else { 3 });
            let lines = records.complete::<Due>().await.unwrap().into_rows().len();
            assert_eq!(lines as u64, days.iter().map(|(_, lines)| lines).sum::<u64>());
        }
    }
}
