//! The revisions that a reader may meet.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::meta::Meta;

/// States kept; a reader slower than that many commits opens its snapshot again.
const KEPT: usize = 256;

/// The newest states of the store, as this process made them. A snapshot that
/// shows any other state was not made by it.
///
/// A state is announced before the backend commits it, so a reader that is
/// quicker than the committer knows it too. It becomes current after.
pub(super) struct Timeline(RwLock<States>);

/// What a snapshot shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A state that this process made.
    Ours,
    /// A state too long ago to tell.
    Forgotten,
    /// A state that it did not make, or left behind already.
    Foreign,
}

struct States {
    announced: VecDeque<Meta>,
    current: Meta,
}

impl Timeline {
    /// Begins with the state that was found or made at start.
    pub(super) fn new(meta: Meta) -> Self {
        Self(RwLock::new(States { announced: VecDeque::from([meta.clone()]), current: meta }))
    }

    /// The newest acknowledged state.
    pub(super) fn current(&self) -> Meta {
        self.read().current.clone()
    }

    /// A state that the backend is about to take.
    pub(super) fn announce(&self, meta: Meta) {
        let mut states = self.write();
        if states.announced.back() != Some(&meta) {
            states.announced.push_back(meta);
        }
        if states.announced.len() > KEPT {
            states.announced.pop_front();
        }
    }

    /// The backend has it.
    pub(super) fn publish(&self, meta: Meta) {
        self.write().current = meta;
    }

    /// Judges a snapshot that was opened after `since` was current and shows `meta`.
    pub(super) fn judge(&self, meta: &Meta, since: &Meta) -> Verdict {
        let states = self.read();
        let revision = meta.totals.revision;
        let oldest = states.announced.front().map_or(0, |oldest| oldest.totals.revision);
        match states.announced.contains(meta) {
            _ if revision < since.totals.revision => Verdict::Foreign,
            true => Verdict::Ours,
            false if revision < oldest => Verdict::Forgotten,
            false => Verdict::Foreign,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, States> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, States> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeploymentId;
    use crate::store::meta::{JournalPoint, LogState, Totals};

    fn meta(revision: u64, digest: u8) -> Meta {
        let totals = Totals { revision, digest: [digest; 32], ..Totals::EMPTY };
        let journal = JournalPoint { id: [0; 16], offset: 0, head: [0; 32] };
        Meta { deployment: DeploymentId([0; 16]), totals, journal, log: LogState::default() }
    }

    #[test]
    fn only_announced_states_that_are_not_older_are_ours() {
        let timeline = Timeline::new(meta(5, 0));
        timeline.announce(meta(6, 0));
        assert_eq!(timeline.current(), meta(5, 0), "announced is not yet acknowledged");
        assert_eq!(timeline.judge(&meta(6, 0), &meta(5, 0)), Verdict::Ours);
        assert_eq!(timeline.judge(&meta(5, 0), &meta(5, 0)), Verdict::Ours);
        assert_eq!(timeline.judge(&meta(6, 1), &meta(5, 0)), Verdict::Foreign);
        assert_eq!(timeline.judge(&meta(7, 0), &meta(5, 0)), Verdict::Foreign);
        timeline.publish(meta(6, 0));
        assert_eq!(
            timeline.judge(&meta(5, 0), &timeline.current()),
            Verdict::Foreign,
            "an old store put back"
        );
    }

    #[test]
    fn a_slow_reader_is_told_to_look_again() {
        let timeline = Timeline::new(meta(1, 0));
        for revision in 2..=KEPT as u64 + 10 {
            timeline.announce(meta(revision, 0));
        }
        assert_eq!(timeline.judge(&meta(2, 0), &meta(1, 0)), Verdict::Forgotten);
    }
}
