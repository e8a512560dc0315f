//! The agenda: what is to be done at which date, kept in step with the records
//! that say so.

use super::Error;
use super::vault::Vault;
use crate::clock::Date;
use crate::id::{KeyName, TenantId};
use crate::keyring::agenda::{Due, Task};
use crate::keyring::record::{Key, Tenant};
use crate::keyring::schedule::Schedule;
use crate::store::{Changes, Path, Prefix, StoreError, Stored, tables};

/// Lines read at a time.
const PAGE: usize = 100;

/// A line of the agenda.
pub(super) type Line = (Path<Due>, Stored<Due>);

impl Vault {
    /// Moves a line of the agenda from one date to another, in the same commit as the record that has
    /// these dates.
    pub(super) async fn reschedule(
        &self,
        changes: &mut Changes,
        task: &Task,
        old: Option<Date>,
        new: Option<Date>,
    ) -> Result<(), Error> {
        if old == new {
            return Ok(());
        }
        if let Some(old) = old {
            let path = tables::due(old, task);
            let line = self.records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?;
            changes.delete(&path, line.revision);
        }
        if let Some(new) = new {
            changes.create(&tables::due(new, task), &Due { entered: Date::now() });
        }
        Ok(())
    }

    /// Keeps the line of a key's next rotation in step with its schedule.
    pub(super) async fn follow_schedule(
        &self,
        changes: &mut Changes,
        name: &KeyName,
        old: &Key,
        new: &Key,
    ) -> Result<(), Error> {
        let task = Task::RotateKey(name.clone());
        self.reschedule(changes, &task, next_of(&old.schedule), next_of(&new.schedule)).await
    }

    /// The same for a tenant.
    pub(super) async fn follow_tenant_schedule(
        &self,
        changes: &mut Changes,
        id: &TenantId,
        old: &Tenant,
        new: &Tenant,
    ) -> Result<(), Error> {
        let task = Task::RotateTenant(id.clone());
        self.reschedule(changes, &task, next_of(&old.schedule), next_of(&new.schedule)).await
    }

    /// Some lines of the agenda, the first ones first.
    pub(super) async fn agenda(&self, after: Option<&Path<Due>>) -> Result<Vec<Line>, Error> {
        Ok(self.records.list(&Prefix::<Due>::all(), after, PAGE).await?)
    }

    /// When something is due next.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn next_due(&self) -> Result<Option<Date>, Error> {
        let first = self.records.list(&Prefix::<Due>::all(), None, 1).await?;
        Ok(first.first().map(|(path, _)| path.id.0))
    }
}

fn next_of(schedule: &Option<Schedule>) -> Option<Date> {
    schedule.as_ref().and_then(|schedule| schedule.next)
}
