//! What the audit log tells of a store that was put back: which destructions it has not heard of.
//!
//! Revisions are counted again after each rollback that was accepted, and names may come again. So a
//! store has its place in the log by revision and digest together, and what stands behind that place is
//! what it does not know.

use crate::access::Action;
use crate::audit::{Outcome, Record, StoreChange, telling};

/// The record of an accepted rollback: a new history begins with it.
pub(super) const ACCEPTED: Action = Action::StoreRollbackAccepted;

/// A destruction that was done, or had begun: from then on there is no way back.
const DESTROYING: [&str; 2] = [Action::Destroy.word(), Action::DestroyBegin.word()];

/// A store that was put back.
#[derive(Debug)]
pub(super) struct PutBack {
    /// Where it stands.
    pub(super) position: StoreChange,
    /// The newest export that it knows, by its full name. A restored store was changed by the
    /// restoring, so the log does not know its position, but it knows the export that it comes from.
    pub(super) export: Option<String>,
}

/// A place in the log: a record, and the one that its history begins with.
#[derive(Debug, Clone, Copy)]
struct Place {
    record: u64,
    history: u64,
}

/// Finds the place of a store, record by record.
#[derive(Debug)]
pub(super) struct History<'s> {
    store: &'s PutBack,
    begun: u64,
    exact: Option<Place>,
    export: Option<Place>,
    destroyed: Vec<(u64, Option<u64>, String)>,
}

impl<'s> History<'s> {
    pub(super) fn of(store: &'s PutBack) -> Self {
        Self { store, begun: 0, exact: None, export: None, destroyed: Vec::new() }
    }

    /// Looks at the next record.
    pub(super) fn see(&mut self, sequence: u64, record: Record) {
        if record.outcome != Outcome::Ok {
            return;
        }
        let operation = telling::operation(&record);
        if operation == ACCEPTED.word() {
            self.begun = sequence;
        }
        let here = Place { record: sequence, history: self.begun };
        if record.change.as_ref() == Some(&self.store.position) {
            self.exact = Some(here);
        }
        if operation == Action::BackupRecorded.word() && Some(&record.resource) == self.store.export.as_ref()
        {
            self.export = Some(here);
        }
        if DESTROYING.contains(&operation) {
            self.destroyed.push((sequence, record.change.map(|change| change.revision), record.resource));
        }
    }

    /// The names of what was destroyed since the store was as it is, each once. Records of calls at the same
    /// time may stand in another order than their changes, so revisions of its own history decide too.
    pub(super) fn destroyed_since(self) -> Vec<String> {
        let place = self.exact.or(self.export);
        let Place { record, history } = place.unwrap_or(Place { record: self.begun, history: 0 });
        let later = |change: Option<u64>| change.is_some_and(|at| at > self.store.position.revision);
        let mut names: Vec<String> = Vec::new();
        for (sequence, change, name) in self.destroyed {
            let since = sequence > record || (sequence > history && later(change));
            if since && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Date;

    fn record(operation: &str, resource: &str, change: Option<(u64, u8)>) -> Record {
        Record {
            time: Date::now(),
            request_id: 0,
            caller: None,
            operation: operation.into(),
            resource: resource.into(),
            outcome: Outcome::Ok,
            policy: String::new(),
            latency_us: 0,
            items: None,
            change: change.map(|(revision, digest)| StoreChange { revision, digest: [digest; 32] }),
            detail: None,
        }
    }

    fn since(position: (u64, u8), export: Option<&str>, log: &[Record]) -> Vec<String> {
        let position = StoreChange { revision: position.0, digest: [position.1; 32] };
        let store = PutBack { position, export: export.map(str::to_owned) };
        let mut history = History::of(&store);
        for (sequence, record) in (1..).zip(log) {
            history.see(sequence, record.clone());
        }
        history.destroyed_since()
    }

    #[test]
    fn an_accepted_rollback_begins_a_history_for_the_log_too() {
        assert!(telling::BEGINS.contains(&ACCEPTED.word()));
    }

    #[test]
    fn what_comes_after_the_store_is_destroyed_again_once() {
        let log = [
            record("destroy", "a", Some((4, 1))),
            record("create-key", "b", Some((5, 2))),
            record("destroy-begin", "b", Some((6, 3))),
            record("destroy", "b", Some((7, 4))),
            record("destroy-begin", "c", Some((8, 5))),
        ];
        assert_eq!(since((5, 2), None, &log), ["b", "c"]);
        assert_eq!(since((8, 5), None, &log), [""; 0]);
    }

    #[test]
    fn a_record_that_came_late_counts_by_its_revision() {
        let log = [
            record("create-key", "a", Some((4, 1))),
            record("destroy", "a", Some((6, 3))),
            record("create-key", "b", Some((5, 2))),
        ];
        assert_eq!(since((5, 2), None, &log), ["a"]);
    }

    #[test]
    fn a_destruction_that_another_record_tells_of_counts() {
        let mut told = record("change-recovered", "a", Some((6, 3)));
        told.detail = Some("destroy-begin by the daemon itself: the change is in force".to_owned());
        assert_eq!(since((5, 2), None, &[record("create-key", "a", Some((5, 2))), told]), ["a"]);
    }

    #[test]
    fn revisions_of_another_history_do_not_count() {
        let log = [
            record("create-key", "a", Some((4, 1))),
            record("create-key", "b", Some((5, 2))),
            record("destroy", "b", Some((9, 3))),
            record(ACCEPTED.word(), "", Some((4, 1))),
            record("create-key", "b", Some((5, 9))),
            record("destroy", "c", Some((6, 8))),
        ];
        // In the second history, b is another key, which lives; and c is gone at a revision below that of b.
        assert_eq!(since((5, 9), None, &log), ["c"]);
        // The store of the first history.
        assert_eq!(since((5, 2), None, &log), ["b", "c"]);
    }

    #[test]
    fn a_restored_store_is_placed_by_its_export() {
        let log = [
            record("destroy", "old", Some((3, 1))),
            record("backup-recorded", "backups/1", Some((4, 2))),
            record("destroy", "a", Some((5, 3))),
        ];
        // The restoring was revision 5 of the restored store.
        assert_eq!(since((5, 7), Some("backups/1"), &log), ["a"]);
    }

    #[test]
    fn without_a_place_everything_of_its_history_counts() {
        let log = [
            record(ACCEPTED.word(), "", Some((2, 1))),
            record("destroy", "a", Some((3, 2))),
            record("destroy", "b", Some((9, 3))),
        ];
        assert_eq!(since((5, 7), None, &log), ["a", "b"]);
    }

    #[test]
    fn a_refused_destruction_is_none() {
        let mut refused = record("destroy", "a", Some((6, 3)));
        refused.outcome = Outcome::Failed("FROZEN".into());
        assert_eq!(since((5, 2), None, &[record("create-key", "a", Some((5, 2))), refused]), [""; 0]);
    }
}
