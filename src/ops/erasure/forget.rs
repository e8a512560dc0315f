//! Forgetting an erasure root that stands on the tokens and in no record: by a person's word, and by
//! custodians' once the root is founded.
//!
//! ```text
//! record FORGOTTEN ─ destroy the root on every token, prove it gone ─ record: destroyed
//! ```
//!
//! That no record names a root is no evidence that it may go; the record of that word is. From there on the
//! daemon finishes it by itself, after a crash too.

use super::replace::{Generation, next_number, require_unneeded};
use super::{ErasureStatus, generations, not_done, unborn};
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::hsm::birth::Purpose;
use crate::id::{ErasureGeneration, RootId};
use crate::keyring::record::{Erasure, ErasureState};
use crate::ops::commit::Affects;
use crate::ops::custody::Matter;
use crate::ops::{Done, Error, Vault};
use crate::store::{Changes, Path, StoreError, Stored, tables};

/// What the records say of an erasure root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// No record has named it.
    Unknown,
    /// It was forgotten before, and it was gone from every token then.
    Gone,
    /// It is on record that it is forgotten, and it may still be on a token.
    ToForget(ErasureGeneration),
    /// It is a generation of this store, and not destroyed.
    InUse(ErasureGeneration),
}

/// A record that needs a root outweighs every other that names it.
fn judge<'a>(records: impl IntoIterator<Item = (ErasureGeneration, &'a Erasure)>, root: RootId) -> Verdict {
    let mut verdict = Verdict::Unknown;
    for (generation, record) in records.into_iter().filter(|(_, record)| record.root == root) {
        match (record.state, record.destroyed) {
            (ErasureState::Destroyed, _) => {}
            (ErasureState::Forgotten, None) => verdict = Verdict::ToForget(generation),
            (ErasureState::Forgotten, Some(_)) if verdict == Verdict::Unknown => verdict = Verdict::Gone,
            (ErasureState::Forgotten, Some(_)) => {}
            // Unborn and unused ones, too: they are destroyed by themselves, by their records.
            _ => return Verdict::InUse(generation),
        }
    }
    verdict
}

impl Vault {
    /// Has an erasure root destroyed that stands on the tokens and in no record. When this answers, it is gone
    /// from every token, and no copy of a store that was sealed under it can be read. Repeating it does nothing.
    ///
    /// # Errors
    /// [`Error::CeremonyRequired`] since the root was founded; [`Error::NotAllowed`] when a record names it, or no
    /// token has it. After any other error it may be on record that it is forgotten: then the rest follows by
    /// itself.
    pub async fn forget_erasure_root(
        &self,
        right: &Authorized<permission::ForgetErasureRoot>,
    ) -> Result<Done<ErasureStatus>, Error> {
        let root = *right.resource();
        self.require_unfounded(Matter::ForgetErasureRoot(root))?;
        let words = self.forget_stray(root).await?;
        Ok(Done::new(self.erasure_status().await?).detail(words))
    }

    /// Does it on the word of an operator or of custodians; what was done, in words.
    ///
    /// # Errors
    /// As [`forget_erasure_root`](Self::forget_erasure_root).
    pub(in crate::ops) async fn forget_stray(&self, root: RootId) -> Result<String, Error> {
        let _alone = self.erasing.lock().await;
        // A change that failed half is made now, or not at all: it may be what was recorded at a try before.
        self.records.settle().await?;
        self.forget_unsettled(false);
        let generation = match self.verdict(root).await? {
            Verdict::InUse(generation) => return Err(in_use(root, generation)),
            Verdict::ToForget(generation) => generation,
            verdict @ (Verdict::Unknown | Verdict::Gone) => {
                match (self.is_stray(root).await?, verdict) {
                    (true, _) => self.condemn(root).await?,
                    // The answer was lost, or the end of the ceremony.
                    (false, Verdict::Gone) => return Ok(gone(root)),
                    (false, _) => return Err(no_stray(root)),
                }
            }
        };
        let path = tables::erasure(generation);
        let forgotten = self.records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?;
        require_unneeded(&generations(&self.records).await?, root)?;
        self.destroy_forgotten(&path, &forgotten).await?;
        // For the status: it is no stray any more. What keeps the tokens from being asked now is told there.
        self.find_strays().await.ok();
        Ok(gone(root))
    }

    /// That this is an erasure root of this installation which stands on the tokens and in no record.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when it is not; when tokens or store cannot be asked.
    pub(in crate::ops) async fn require_stray(&self, root: RootId) -> Result<(), Error> {
        match self.verdict(root).await? {
            Verdict::InUse(generation) => Err(in_use(root, generation)),
            Verdict::ToForget(_) => Ok(()),
            Verdict::Unknown | Verdict::Gone => match self.is_stray(root).await? {
                true => Ok(()),
                false => Err(no_stray(root)),
            },
        }
    }

    async fn verdict(&self, root: RootId) -> Result<Verdict, Error> {
        let all = generations(&self.records).await?;
        Ok(judge(all.iter().map(|(path, stored)| (path.id, &stored.record)), root))
    }

    /// Whether it stands on a token under the label of this installation's erasure roots, and no record of any
    /// kind names it: by its name every object of Keyward that has it is destroyed.
    async fn is_stray(&self, root: RootId) -> Result<bool, Error> {
        let own = Purpose::Erasure(self.deployment());
        Ok(self.find_strays().await?.iter().any(|stray| stray.id == root && stray.purpose == own))
    }

    /// Puts on record that it is forgotten, before anything is destroyed: that record is why it is.
    async fn condemn(&self, root: RootId) -> Result<ErasureGeneration, Error> {
        let all: Vec<Generation> = generations(&self.records).await?;
        let number = next_number(&all)?;
        let record = Erasure { state: ErasureState::Forgotten, ..unborn(root) };
        let mut changes = Changes::new();
        changes.create(&tables::erasure(number), &record);
        self.commit_forgetting(changes, Action::ErasureRootForget, root).await?;
        tracing::info!(%root, "erasure root: it is on record that it is forgotten");
        Ok(number)
    }

    /// Destroys what is on record as forgotten, and puts on record that it is gone.
    pub(super) async fn destroy_forgotten(
        &self,
        path: &Path<Erasure>,
        forgotten: &Stored<Erasure>,
    ) -> Result<(), Error> {
        let root = forgotten.record.root;
        self.hsm.destroy_root(root).await.map_err(not_done)?;
        tracing::info!(%root, "erasure root: it is gone from every token");
        let gone = Erasure { destroyed: Some(Date::now()), ..forgotten.record.clone() };
        let mut changes = Changes::new();
        changes.replace(path, &gone, forgotten.revision);
        self.commit_forgetting(changes, Action::ErasureRootForgotten, root).await
    }

    async fn commit_forgetting(&self, changes: Changes, action: Action, root: RootId) -> Result<(), Error> {
        let resource = format!("erasure-roots/{root}");
        self.commit_own(changes, Affects::Nothing, action, resource).await.map(drop)
    }
}

fn gone(root: RootId) -> String {
    format!("erasure root {root} is gone from every token")
}

fn in_use(root: RootId, generation: ErasureGeneration) -> Error {
    Error::NotAllowed(format!(
        "erasure root {root} is in use: erasure-keys/{generation} names it; `keyward erasure replace` replaces the erasure key"
    ))
}

fn no_stray(root: RootId) -> Error {
    Error::NotAllowed(format!(
        "no token has an erasure root {root} of this installation that is in no record; `keyward erasure status` lists those that are there"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: RootId = RootId([7; 16]);

    fn record(root: RootId, state: ErasureState, destroyed: bool) -> Erasure {
        let destroyed = destroyed.then_some(Date(9));
        Erasure { state, destroyed, ..unborn(root) }
    }

    fn judged(records: &[Erasure]) -> Verdict {
        let numbers = (1..).filter_map(ErasureGeneration::new);
        judge(numbers.zip(records), ROOT)
    }

    #[test]
    fn what_a_record_needs_is_never_forgotten() {
        let two = ErasureGeneration::new(2).unwrap();
        let other = record(RootId([8; 16]), ErasureState::Current, false);
        assert_eq!(judged(std::slice::from_ref(&other)), Verdict::Unknown);
        for state in [
            ErasureState::TakingOver,
            ErasureState::Current,
            ErasureState::Retiring,
            ErasureState::Unused,
            ErasureState::Unborn,
        ] {
            let living = record(ROOT, state, false);
            assert_eq!(judged(&[other.clone(), living.clone()]), Verdict::InUse(two), "{state:?}");
            // Whatever else names it, and in whichever order.
            for forgotten in [true, false].map(|gone| record(ROOT, ErasureState::Forgotten, gone)) {
                let before = judged(&[forgotten.clone(), living.clone()]);
                assert_eq!(before, Verdict::InUse(two), "{state:?}");
                let after = judged(&[living.clone(), forgotten]);
                assert_eq!(after, Verdict::InUse(ErasureGeneration::FIRST), "{state:?}");
            }
        }
    }

    #[test]
    fn what_was_forgotten_is_gone_on_with_and_not_done_twice() {
        let destroyed = record(ROOT, ErasureState::Destroyed, true);
        let [gone, begun] = [true, false].map(|gone| record(ROOT, ErasureState::Forgotten, gone));
        assert_eq!(judged(std::slice::from_ref(&destroyed)), Verdict::Unknown);
        assert_eq!(judged(&[destroyed.clone(), gone.clone()]), Verdict::Gone);
        let two = ErasureGeneration::new(2).unwrap();
        // It came back, by a token that was put together from a copy, say, and was forgotten again.
        assert_eq!(judged(&[gone.clone(), begun.clone()]), Verdict::ToForget(two));
        assert_eq!(judged(&[begun, gone]), Verdict::ToForget(ErasureGeneration::FIRST));
    }

    #[test]
    fn two_records_that_contradict_each_other_destroy_nothing() {
        let row = |number, record| {
            let path = tables::erasure(ErasureGeneration::new(number).unwrap());
            (path, Stored { record, revision: 1 })
        };
        let unused = record(ROOT, ErasureState::Unused, false);
        let current = record(ROOT, ErasureState::Current, false);
        require_unneeded(&[row(1, unused.clone())], ROOT).unwrap();
        let refused = require_unneeded(&[row(1, unused), row(2, current)], ROOT).unwrap_err();
        assert!(refused.to_string().contains("erasure-keys/2"), "{refused}");
    }

    #[test]
    fn a_number_is_given_out_behind_those_that_were_forgotten() {
        let row = |number, state| {
            let path = tables::erasure(ErasureGeneration::new(number).unwrap());
            (path, Stored { record: record(ROOT, state, true), revision: 1 })
        };
        let all = [row(1, ErasureState::Current), row(2, ErasureState::Forgotten)];
        assert_eq!(next_number(&all).unwrap().get(), 3);
        let newest = all.iter().rfind(|(_, stored)| stored.record.is_generation()).unwrap();
        assert_eq!(newest.0.id.get(), 1);
        assert!(all.iter().all(|(_, stored)| !stored.record.condemns_root()));
    }
}
