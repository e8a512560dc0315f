//! Replacing the erasure key, step by step; each step is on record before the next.
//!
//! ```text
//! record: new UNBORN ─ new root on every token ─ record: new TAKING OVER, old RETIRING ─ seal every row anew (cursor)
//!   ─ compact the journal, cut the log ─ record: new CURRENT, old UNUSED
//!   ─ destroy the old root on every token, prove it gone ─ record: old DESTROYED
//! ```
//!
//! A root that a crash left on a token has its record, UNBORN, and is destroyed by that. A root that no record
//! names is never destroyed by the daemon: that a record is not there is no evidence. It is told, and people have
//! it destroyed ([`forget`](super::forget)).

use std::sync::Arc;
use std::time::Duration;

use super::{ErasureError, generations, make, not_done, open, unborn};
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::hsm::{Forget, KeepNewborn, Kek};
use crate::id::{ErasureGeneration, Installation, RootId};
use crate::keyring::record::{Erasure, ErasureState};
use crate::ops::commit::Affects;
use crate::ops::strays::require_new;
use crate::ops::{Done, Error, Vault};
use crate::store::{Changes, Path, StoreError, Stored, tables};

/// Rows sealed anew in one change.
const BATCH: usize = 500;

/// How often it is looked whether there is something to do.
const LOOK: Duration = Duration::from_secs(60);

/// After how many of these looks the tokens are looked at for strays again, which takes a login on each: an hour.
const LOOKS_PER_SEARCH: u32 = 60;

/// What configuration says about the erasure key.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// A key of this age is replaced; zero: never by itself.
    pub replace_every: Duration,
}

/// The erasure key now.
#[derive(Debug, Clone)]
pub struct ErasureStatus {
    /// The generation that seals new rows.
    pub generation: ErasureGeneration,
    /// When it was made.
    pub created: Date,
    /// What is still to be done to replace the one before it.
    pub replacing: Replacing,
    /// The newest generation that is proved to be gone, and since when: what only
    /// copies of the store from before then held, nobody can read.
    pub destroyed: Option<(ErasureGeneration, Date)>,
}

/// How far a replacement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacing {
    /// There is none.
    No,
    /// Rows are being sealed under the new generation.
    Resealing,
    /// The token object of the old generation is to be destroyed.
    Destroying,
}

impl Replacing {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Resealing => "resealing",
            Self::Destroying => "destroying",
        }
    }
}

pub(super) type Generation = (Path<Erasure>, Stored<Erasure>);

impl Vault {
    /// Replaces the erasure key now. When this answers, the old one is gone from
    /// every token, and every copy of the store from before is unreadable.
    ///
    /// # Errors
    /// What was done up to the failure is done; the rest follows by itself.
    pub async fn replace_erasure_key(
        &self,
        right: &Authorized<permission::ManageErasure>,
    ) -> Result<Done<ErasureStatus>, Error> {
        let Installation = right.resource();
        let _alone = self.erasing.lock().await;
        self.finish_replacing().await?;
        self.begin_replacing().await?;
        self.finish_replacing().await?;
        let status = self.erasure_status().await?;
        let detail = format!("erasure-keys/{} is current, the one before it is destroyed", status.generation);
        Ok(Done::new(status).detail(detail))
    }

    /// The erasure key now.
    ///
    /// # Errors
    /// When its records cannot be read.
    pub async fn erasure_status(&self) -> Result<ErasureStatus, Error> {
        let all = self.born_generations().await?;
        let state = |state| all.iter().find(|(_, stored)| stored.record.state == state);
        let (path, newest) = all.last().ok_or_else(none)?;
        let replacing = match (newest.record.state, state(ErasureState::Unused)) {
            (ErasureState::TakingOver, _) => Replacing::Resealing,
            (_, Some(_)) => Replacing::Destroying,
            _ => Replacing::No,
        };
        let gone = all.iter().rev().find_map(|(path, stored)| Some((path.id, stored.record.destroyed?)));
        Ok(ErasureStatus { generation: path.id, created: newest.record.created, replacing, destroyed: gone })
    }

    /// Runs until it is dropped: finishes what a replacement left, replaces the key when it is old
    /// enough, and looks for strays on the tokens.
    pub async fn keep_erasure_key(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK);
        let mut until_search = 0;
        loop {
            look.tick().await;
            {
                let _alone = self.erasing.lock().await;
                // Each time: another configuration may say otherwise, and certificates give the date of now.
                let every = self.settings().erasure.replace_every;
                if let Err(error) = self.keep_once(every).await {
                    tracing::error!(%error, "the erasure key is not replaced yet; it is tried again");
                }
            }
            // After what was cut short was finished, so that it is no stray any more.
            until_search = if until_search > 0 {
                until_search - 1
            } else if self.find_strays().await.is_ok() {
                LOOKS_PER_SEARCH
            } else {
                0
            };
        }
    }

    async fn keep_once(&self, every: Duration) -> Result<(), Error> {
        self.give_up_unborn_generation().await?;
        self.finish_replacing().await?;
        let age = Date::now().millis().saturating_sub(self.erasure_status().await?.created.millis());
        if !every.is_zero() && u128::from(age) >= every.as_millis() {
            self.begin_replacing().await?;
            self.finish_replacing().await?;
        }
        Ok(())
    }

    /// The newest number: one behind it was never given out.
    pub(in crate::ops) async fn newest_erasure_generation(&self) -> Result<ErasureGeneration, Error> {
        Ok(generations(&self.records).await?.last().ok_or_else(none)?.0.id)
    }

    /// The generations whose token object was made, in order.
    async fn born_generations(&self) -> Result<Vec<Generation>, Error> {
        let mut all = generations(&self.records).await?;
        all.retain(|(_, stored)| stored.record.is_generation());
        Ok(all)
    }

    /// Destroys what a birth has left that was cut short: its record names it, and says that nothing was
    /// ever sealed under it.
    async fn give_up_unborn_generation(&self) -> Result<(), Error> {
        // The record of a change that failed half may still come.
        self.records.settle().await?;
        self.forget_unsettled(false);
        let all = generations(&self.records).await?;
        for (path, stored) in &all {
            if stored.record.state == ErasureState::Unborn {
                tracing::warn!(root = %stored.record.root, "an erasure root is destroyed: its birth was cut short");
                self.hsm.destroy_root(stored.record.root).await.map_err(not_done)?;
                let mut changes = Changes::new();
                changes.delete(path, stored.revision);
                self.commit_erasure(changes, Action::ErasureKeyAbandoned, path.id).await?;
            }
        }
        Ok(())
    }

    /// Makes the next generation. It seals when it was opened from its record.
    async fn begin_replacing(&self) -> Result<(), Error> {
        self.give_up_unborn_generation().await?;
        let all = generations(&self.records).await?;
        // What was forgotten has a number as well, and replaces nothing.
        let newest = all.iter().rfind(|(_, stored)| stored.record.is_generation());
        let (path, old) = newest.ok_or_else(none)?;
        let next = next_number(&all)?;
        tracing::info!(generation = next.get(), "erasure key: a new root is made");
        let keep: KeepNewborn<'_> = Box::new(move |newborn| {
            Box::pin(async move {
                require_new(&self.records, newborn.id).await?;
                let mut changes = Changes::new();
                changes.create(&tables::erasure(next), &unborn(newborn.id));
                let kept = self.commit_erasure(changes, Action::ErasureKeyBirth, next).await;
                kept.map_err(|error| error.to_string())
            })
        });
        let made = make(&*self.hsm, self.deployment(), next, ErasureState::TakingOver, keep).await?;
        tracing::info!(generation = next.get(), "erasure key: the new root is recorded");
        let (path_of_next, mut changes) = (tables::erasure(next), Changes::new());
        let born = self.records.get(&path_of_next).await?.ok_or_else(|| StoreError::lost(&path_of_next))?;
        changes.replace(&path_of_next, &made.record, born.revision);
        let retiring = Erasure { state: ErasureState::Retiring, ..old.record.clone() };
        changes.replace(path, &retiring, old.revision);
        self.commit_erasure(changes, Action::ErasureKeyNew, next).await
    }

    /// Does what is left of a replacement, from whichever step it is at.
    async fn finish_replacing(&self) -> Result<(), Error> {
        let find =
            |all: &[Generation], state| all.iter().find(|(_, stored)| stored.record.state == state).cloned();
        // A change that failed half is made now, or not at all.
        self.records.settle().await?;
        self.forget_unsettled(false);
        let all = generations(&self.records).await?;
        if let Some((path, stored)) = find(&all, ErasureState::TakingOver) {
            self.seal_by_record(path.id, &stored.record).await?;
            self.take_over(path.id).await?;
        }
        let all = generations(&self.records).await?;
        for (path, stored) in all.iter().filter(|(_, stored)| stored.record.condemns_root()) {
            require_unneeded(&all, stored.record.root)?;
            match stored.record.state {
                ErasureState::Forgotten => self.destroy_forgotten(path, stored).await?,
                _ => self.destroy_unused(path, stored).await?,
            }
        }
        Ok(())
    }

    /// Seals with the secret that the record on disk leads to, never with one that
    /// only this process has: rows under it would be lost with the process.
    async fn seal_by_record(&self, generation: ErasureGeneration, record: &Erasure) -> Result<(), Error> {
        let opened = open(&*self.hsm, self.deployment(), generation, record).await;
        let secret = opened.map_err(|error| match error {
            ErasureError::Hsm(error) => Error::Hsm(error),
            ErasureError::Store(error) => Error::Store(error),
            lost @ ErasureError::Destroyed(_) => Error::Internal(lost.to_string()),
        })?;
        self.records.open_erasure_key(generation, secret.ok_or_else(none)?);
        self.records.seal_under(generation).await;
        Ok(())
    }

    /// Seals every row under `generation`, and leaves nothing of those before it behind.
    async fn take_over(&self, generation: ErasureGeneration) -> Result<(), Error> {
        if let Err(error) = self.leave_old_behind(generation).await {
            // An old row that somebody put back keeps no key alive: it is replaced by what the journal has.
            if !self.restored_after_failure(&error).await? {
                return Err(error);
            }
            // What was put back may be a row behind the cursor.
            self.reseal_from_start(generation).await?;
            self.leave_old_behind(generation).await?;
        }
        let all = generations(&self.records).await?;
        let mut changes = Changes::new();
        for (path, Stored { record, revision }) in all {
            let state = match record.state {
                ErasureState::TakingOver => ErasureState::Current,
                ErasureState::Retiring => ErasureState::Unused,
                _ => continue,
            };
            changes.replace(&path, &Erasure { state, resealed_to: None, ..record }, revision);
        }
        self.commit_erasure(changes, Action::ErasureKeyCurrent, generation).await
    }

    /// Seals what is not sealed under `generation` yet, and compacts the journal. The totals of the store say
    /// whether a row of before is left.
    async fn leave_old_behind(&self, generation: ErasureGeneration) -> Result<(), Error> {
        tracing::info!(generation = generation.get(), "erasure key: rows are sealed anew");
        while !self.reseal_some(generation).await? {}
        tracing::info!(generation = generation.get(), "erasure key: the journal is compacted");
        let Err(error) = self.records.leave_behind(generation).await else { return Ok(()) };
        if matches!(error, StoreError::NotResealed { .. }) {
            self.reseal_from_start(generation).await?;
        }
        Err(error.into())
    }

    /// Seals the next rows anew; whether they were the last. Somebody else's change
    /// of one of them is no failure: they are looked at again.
    async fn reseal_some(&self, generation: ErasureGeneration) -> Result<bool, Error> {
        let path = tables::erasure(generation);
        let stored = self.records.get(&path).await?.ok_or_else(none)?;
        let mut batch =
            self.records.to_reseal(generation, stored.record.resealed_to.as_deref(), BATCH).await?;
        if batch.changes.is_empty() && batch.next.is_none() {
            return Ok(true);
        }
        let done = batch.next.is_none();
        if let Some(next) = batch.next {
            let record = Erasure { resealed_to: Some(next), ..stored.record };
            batch.changes.replace(&path, &record, stored.revision);
        }
        match self.commit_erasure(batch.changes, Action::ErasureKeyReseal, generation).await {
            Ok(()) => Ok(done),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets how far the sealing has come: a row before there was left out.
    async fn reseal_from_start(&self, generation: ErasureGeneration) -> Result<(), Error> {
        let path = tables::erasure(generation);
        let Stored { record, revision } = self.records.get(&path).await?.ok_or_else(none)?;
        let mut changes = Changes::new();
        changes.replace(&path, &Erasure { resealed_to: None, ..record }, revision);
        self.commit_erasure(changes, Action::ErasureKeyReseal, generation).await
    }

    async fn destroy_unused(&self, path: &Path<Erasure>, unused: &Stored<Erasure>) -> Result<(), Error> {
        tracing::info!(generation = path.id.get(), "erasure key: the old root is destroyed");
        let root = unused.record.root;
        self.records.forget_erasure_key(path.id);
        if let Some(wrapped) = unused.record.kek.clone() {
            self.hsm.forget(Forget::These(vec![Kek::Sealed { root, wrapped }]));
        }
        self.hsm.destroy_root(root).await.map_err(not_done)?;
        tracing::info!(generation = path.id.get(), "erasure key: the old root is gone");
        let gone = Erasure {
            state: ErasureState::Destroyed,
            kek: None,
            sealed: None,
            destroyed: Some(Date::now()),
            ..unused.record.clone()
        };
        let mut changes = Changes::new();
        changes.replace(path, &gone, unused.revision);
        self.commit_erasure(changes, Action::ErasureKeyDestroyed, path.id).await
    }

    async fn commit_erasure(
        &self,
        changes: Changes,
        action: Action,
        generation: ErasureGeneration,
    ) -> Result<(), Error> {
        let resource = format!("erasure-keys/{generation}");
        self.commit_own(changes, Affects::Nothing, action, resource).await.map(drop)
    }
}

/// The number behind all that were given out.
pub(super) fn next_number(all: &[Generation]) -> Result<ErasureGeneration, Error> {
    let (newest, _) = all.last().ok_or_else(none)?;
    newest.id.next().ok_or_else(|| Error::Internal("erasure keys are used up".into()))
}

/// That no record needs the root which another one condemns: two that contradict each other are a finding.
pub(super) fn require_unneeded(all: &[Generation], root: RootId) -> Result<(), Error> {
    let needs = |stored: &Stored<Erasure>| stored.record.root == root && stored.record.needs_root();
    match all.iter().find(|(_, stored)| needs(stored)) {
        None => Ok(()),
        Some((path, _)) => Err(Error::Internal(format!(
            "erasure root {root} is to be destroyed by one record, and erasure-keys/{} needs it",
            path.id
        ))),
    }
}

fn none() -> Error {
    StoreError::NoErasureKey.into()
}
