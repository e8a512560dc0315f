//! The agenda: what is to be done at which date, kept in step with the records
//! that say so.

use super::Error;
use super::vault::Vault;
use crate::clock::{Date, Day};
use crate::id::{KeyName, TenantId};
use crate::keyring::agenda::{Due, DueDay, Task};
use crate::keyring::record::{Key, Tenant};
use crate::keyring::schedule::Schedule;
use crate::store::{Changes, Path, StoreError, Stored, tables};

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

    /// The days for which the agenda has lines, the first one first: every one of them.
    pub(super) async fn agenda_days(&self) -> Result<Vec<Day>, Error> {
        let days = self.records.complete::<DueDay>().await?;
        Ok(days.into_iter().map(|(path, _)| path.id).collect())
    }

    /// The lines of a day, the first ones first: every one of them.
    pub(super) async fn agenda(&self, day: Day) -> Result<Vec<Line>, Error> {
        let mut view = self.records.view().await?;
        // Count and lines are of one view, or a change between them would look like a line that was taken away.
        let counted = view.get(&tables::due_day(day)).await?.map_or(0, |stored| stored.record.lines);
        Ok(view.counted_in(&tables::due_on(day), counted).await?.into_rows())
    }

    /// When something is due next.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn next_due(&self) -> Result<Option<Date>, Error> {
        let Some(first) = self.agenda_days().await?.into_iter().next() else { return Ok(None) };
        Ok(self.agenda(first).await?.first().map(|(path, _)| path.id.0))
    }
}

fn next_of(schedule: &Option<Schedule>) -> Option<Date> {
    schedule.as_ref().and_then(|schedule| schedule.next)
}
