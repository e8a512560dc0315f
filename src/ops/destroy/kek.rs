//! The KEK versions that rotations left behind.

use super::bury::Grave;
use crate::access::Action;
use crate::clock::Date;
use crate::config::OldKek;
use crate::hsm::Forget;
use crate::id::{KekVersion, TenantId};
use crate::keyring::agenda::Task;
use crate::keyring::record::KekRecord;
use crate::keyring::schedule::Destruction;
use crate::keyring::state::{Act, KeyState};
use crate::ops::Error;
use crate::ops::commit::Affects;
use crate::ops::vault::{Vault, kek_of};
use crate::store::{Changes, Stored, tables};

impl Vault {
    /// Plans the destruction of every KEK version before `to`, of which it is proved that they seal
    /// nothing; unless they are to be kept.
    pub(in crate::ops) async fn schedule_old_keks(
        &self,
        changes: &mut Changes,
        id: &TenantId,
        to: KekVersion,
    ) -> Result<(), Error> {
        let settings = self.settings();
        let settings = &settings.lifecycle.rotation;
        if settings.old_kek == OldKek::Keep {
            return Ok(());
        }
        let now = Date::now();
        let due = now.after(settings.old_kek_grace.0);
        let tenant = self.tenant(id).await?.record;
        for (path, Stored { record, revision }) in self.keks_of(id, &tenant).await? {
            let (_, version) = path.id;
            let Some(state) = record.state.after(Act::Schedule).filter(|_| version < to) else { continue };
            let destruction = Some(Destruction::planned(record.state, now, due));
            changes.replace(&path, &KekRecord { state, destruction, ..record }, revision);
            self.reschedule(changes, &Task::DestroyKek(id.clone(), version), None, Some(due)).await?;
        }
        Ok(())
    }

    /// Keeps a KEK version after all: the configuration says so now.
    pub(in crate::ops) async fn keep_old_kek(&self, id: &TenantId, version: KekVersion) -> Result<(), Error> {
        let Stored { record, revision } = self.kek(id, version).await?;
        let Some(plan) = &record.destruction else { return Ok(()) };
        let state = record.state.after(Act::Cancel(plan.was)).unwrap_or(record.state);
        let mut changes = Changes::default();
        self.reschedule(&mut changes, &Task::DestroyKek(id.clone(), version), Some(plan.due), None).await?;
        changes.replace(
            &tables::kek(id, version),
            &KekRecord { state, destruction: None, ..record },
            revision,
        );
        let resource = format!("tenants/{id}/kekVersions/{version}");
        self.commit_own(changes, Affects::Nothing, Action::KeepOldKek, resource).await?;
        Ok(())
    }

    /// Takes a KEK version out of the records, once more with the proof that it seals nothing: whoever
    /// seals a key changes the tenant's record, and then this transaction fails.
    pub(super) async fn bury_kek(
        &self,
        id: &TenantId,
        version: KekVersion,
        grave: &Grave<'_>,
    ) -> Result<(), Error> {
        let path = tables::kek(id, version);
        let Some(Stored { record, .. }) = self.records.get(&path).await? else {
            // It was done before a crash; else this is reported as a lost record when it is proved.
            return Ok(());
        };
        let tenant = self.tenant(id).await?;
        if tenant.record.frozen {
            return Err(Error::Frozen(format!("tenants/{id}")));
        }
        if version == tenant.record.primary_kek || tenant.record.rotating_to.is_some() {
            return Err(Error::NotAllowed(format!("KEK version {version} of tenants/{id} is in use")));
        }
        let left = self.still_sealed(id, &tenant.record, |sealing| sealing == version).await?;
        if let Some((_, count)) = left {
            return Err(Error::NotAllowed(format!(
                "KEK version {version} of tenants/{id} still seals {count} keys; rotate the tenant"
            )));
        }
        let mut changes = Changes::default();
        if record.destruction.is_none() && record.state != KeyState::Scheduled {
            let task = Task::DestroyKek(id.clone(), version);
            self.reschedule(&mut changes, &task, None, Some(Date::now())).await?;
        }
        let row = self.records.remains(&path).await?.ok_or(Error::Conflict)?;
        grave.bury(&mut changes, &path, row);
        changes.replace(&tables::tenant(id), &tenant.record, tenant.revision);
        let resource = format!("tenants/{id}/kekVersions/{version}");
        self.commit_own(changes, Affects::Tenant(id), Action::DestroyBegin, resource).await?;
        self.hsm.forget(Forget::These(vec![kek_of(&record)]));
        Ok(())
    }
}
