//! How often a version may still encrypt before its key is rotated.
//!
//! Only keys that are rotated by use are counted. Uses are reserved durably in
//! blocks, so that a crash can only overstate them, and an encryption costs one
//! addition in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;
use super::commit::{Affects, unhindered};
use super::vault::Vault;
use super::views::KeyView;
use crate::access::Action;
use crate::clock::Date;
use crate::id::DekId;
use crate::keyring::record::{Key, Version};
use crate::keyring::schedule::DekUses;
use crate::store::{Changes, Stored, tables};

/// The counters of all versions that are counted. They outlive the views, which are forgotten
/// at each change of a key: what is reserved and not used yet is not reserved again.
#[derive(Default)]
pub(super) struct UseCounters(Mutex<HashMap<DekId, Arc<UseCounter>>>);

/// Uses of one version that are reserved and not taken yet.
#[derive(Debug, Default)]
pub(super) struct UseCounter {
    left: AtomicU64,
    /// Held by the one call that reserves more.
    reserving: tokio::sync::Mutex<()>,
}

impl UseCounters {
    /// The counter of a version, if its key is rotated by use.
    pub(super) fn of(&self, key: &Key, version: &Version) -> Option<Arc<UseCounter>> {
        key.schedule.as_ref()?.uses?;
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(counters.entry(version.dek).or_default().clone())
    }

    /// Forgets a version that no longer encrypts.
    pub(super) fn forget(&self, dek: DekId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&dek);
    }
}

impl UseCounter {
    fn take(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

impl Vault {
    /// Counts one encryption under the primary version.
    pub(super) async fn count_use(&self, view: &KeyView) -> Result<(), Error> {
        let Some(counter) = &view.uses else { return Ok(()) };
        if counter.take() {
            return Ok(());
        }
        let _alone = counter.reserving.lock().await;
        if counter.take() {
            return Ok(());
        }
        let block = unhindered!(self.reserve_dek_uses(view))?;
        // One of them is for this call.
        counter.left.fetch_add(block.saturating_sub(1), Ordering::Relaxed);
        Ok(())
    }

    /// Reserves a block; with the last one the rotation of the key is due.
    async fn reserve_dek_uses(&self, view: &KeyView) -> Result<u64, Error> {
        let (name, epoch) = (&view.name, view.primary.epoch);
        let key = self.key_record(name).await?;
        let Some(schedule) = &key.record.schedule else { return Ok(1) };
        let (block, path) = (schedule.block(), tables::dek_uses(name, epoch));
        let mut changes = Changes::default();
        let reserved = match self.records.get(&path).await? {
            Some(Stored { record, revision }) => {
                let reserved = record.reserved.saturating_add(block);
                changes.replace(&path, &DekUses { reserved }, revision);
                reserved
            }
            None => {
                changes.create(&path, &DekUses { reserved: block });
                block
            }
        };
        let due = schedule.used(reserved, Date::now());
        let affects = if epoch == key.record.primary && due != *schedule {
            let record = Key { schedule: Some(due), ..key.record.clone() };
            self.follow_schedule(&mut changes, name, &key.record, &record).await?;
            changes.replace(&tables::key(name), &record, key.revision);
            Affects::Key(name)
        } else {
            Affects::Nothing
        };
        self.commit_own(changes, affects, Action::ReserveKeyUses, format!("{name}/versions/{epoch}")).await?;
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::schedule::Schedule;
    use crate::keyring::state::DataClass;

    #[test]
    fn only_keys_that_are_rotated_by_use_are_counted() {
        let (counters, version) = (UseCounters::default(), Version::new(DekId([1; 16]), Date(0)));
        let mut key = Key::new(DataClass::Basic, Date(0));
        assert!(counters.of(&key, &version).is_none());
        key.schedule = Schedule::new(None, Some(10), Date(0));
        let counter = counters.of(&key, &version).unwrap();
        assert!(!counter.take());
        counter.left.store(2, Ordering::Relaxed);
        let same = counters.of(&key, &version).unwrap();
        assert!(same.take() && counter.take() && !same.take());
        counters.forget(version.dek);
        assert!(!Arc::ptr_eq(&counter, &counters.of(&key, &version).unwrap()));
    }
}
