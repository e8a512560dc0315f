//! Whether the log tells of every change of the store.
//!
//! A change has a number, the revision that it made, and a record that names it. Records of changes at the same time
//! may stand in any order, and a change may be told twice. From the first record [`OPENED`] on none may be missing:
//! each start writes one, once it has told of everything that had no record. A record of [`BEGINS`] begins a
//! history of its own, in which revisions may be counted again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::Record;
use crate::access::Action;
use crate::clock::Date;

/// The word of the record that says where the store stands when it was opened.
pub const OPENED: &str = Action::StoreOpened.word();

/// The word of the record that tells of a change in place of its own; its detail begins with the operation.
pub const RECOVERED: &str = Action::ChangeRecovered.word();

/// The words of records with which another history of the store begins.
pub const BEGINS: [&str; 4] = [
    Action::Init.word(),
    Action::BackupRestore.word(),
    Action::StoreImport.word(),
    Action::StoreRollbackAccepted.word(),
];

/// What was done, also where another record than its own tells of it.
pub fn operation(record: &Record) -> &str {
    match (record.operation.as_str(), &record.detail) {
        (RECOVERED, Some(detail)) => detail.split(' ').next().unwrap_or_default(),
        (word, _) => word,
    }
}

/// How much later than a newer change the record of a change may come: far longer than the daemon lets it wait.
const LATE: Duration = Duration::from_secs(600);

/// Changes without a record: revisions `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first revision.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{} to {}", self.first, self.last),
        }
    }
}

/// What a log tells of the changes of its store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The revision behind which each change must be told, in the newest history; none in the log of an older version.
    pub from: Option<u64>,
    /// Changes of which no record tells.
    pub missing: Vec<Gap>,
    /// Changes whose record may still come: it is being written, or the next start writes it.
    pub awaited: u64,
}

/// Looks at the records of a log, one after the other.
#[derive(Debug, Default)]
pub(super) struct Telling {
    told: Told,
    // The lowest revision that is not told yet.
    next: Option<u64>,
    // Told above that, and how late it was then: the latest date that any record had.
    ahead: BTreeMap<u64, Date>,
    latest: Option<Date>,
}

impl Telling {
    /// Looks at the next record.
    pub(super) fn see(&mut self, record: &Record) {
        let now = self.latest.map_or(record.time, |latest| latest.max(record.time));
        self.latest = Some(now);
        let revision = record.change.map(|change| change.revision);
        if BEGINS.contains(&operation(record)) {
            self.begin();
        } else if record.operation == OPENED {
            self.open(revision);
        } else if let (Some(revision), Some(next)) = (revision, self.next)
            && revision >= next
        {
            self.ahead.insert(revision, now);
            self.advance(next);
        }
        while let Some((&revision, &seen)) = self.ahead.first_key_value()
            && seen.plus(LATE) <= now
        {
            self.give_up_before(revision);
        }
    }

    /// What was found.
    pub(super) fn finish(mut self) -> Told {
        let told = self.ahead.len() as u64;
        let newest = self.ahead.last_key_value().map(|(revision, _)| *revision);
        if let (Some(newest), Some(next)) = (newest, self.next) {
            self.told.awaited = newest + 1 - next - told;
        }
        self.told
    }

    /// What the history before left untold stays so.
    fn begin(&mut self) {
        while let Some((&revision, _)) = self.ahead.first_key_value() {
            self.give_up_before(revision);
        }
        (self.next, self.told.from) = (None, None);
    }

    /// Everything up to `position` was told before this record was written.
    fn open(&mut self, position: Option<u64>) {
        let Some(position) = position else { return };
        let behind = position.saturating_add(1);
        match self.next {
            None => {
                self.told.from = Some(position);
                self.next = Some(behind);
            }
            Some(next) if next <= position => {
                // What is ahead is told; what lies between is not.
                while let Some((&revision, _)) = self.ahead.first_key_value()
                    && revision <= position
                {
                    self.give_up_before(revision);
                }
                if self.next.is_some_and(|next| next <= position) {
                    self.give_up_before(behind);
                }
            }
            Some(_) => {}
        }
    }

    /// No record of what is below `revision` will come.
    fn give_up_before(&mut self, revision: u64) {
        let Some(next) = self.next else { return self.ahead.clear() };
        if next < revision {
            self.told.missing.push(Gap { first: next, last: revision - 1 });
        }
        self.advance(revision.max(next));
    }

    /// The lowest that is not told is `next`, or what follows on it without a gap.
    fn advance(&mut self, next: u64) {
        let mut next = next;
        while let Some((&revision, _)) = self.ahead.first_key_value()
            && revision <= next
        {
            self.ahead.remove(&revision);
            next = next.max(revision.saturating_add(1));
        }
        self.next = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::StoreChange;
    use crate::audit::record::tests::plain;

    /// Records: operation, revision, minutes.
    fn told(records: &[(&str, u64, u64)]) -> Told {
        let mut telling = Telling::default();
        for (operation, revision, minutes) in records {
            let mut record = plain(0);
            record.time = Date(minutes * 60_000);
            record.operation = (*operation).to_owned();
            record.change = (*revision > 0).then_some(StoreChange { revision: *revision, digest: [1; 32] });
            telling.see(&record);
        }
        telling.finish()
    }

    fn gaps(told: &Told) -> String {
        told.missing.iter().map(Gap::to_string).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn any_order_and_twice_is_whole() {
        let all = told(&[
            ("init", 1, 0),
            (OPENED, 1, 0),
            ("freeze", 3, 0),
            ("encrypt", 0, 0),
            ("freeze", 2, 0),
            ("freeze", 3, 0),
            (OPENED, 3, 1),
            (OPENED, 3, 2),
            ("freeze", 4, 3),
        ]);
        assert_eq!(all, Told { from: Some(1), missing: Vec::new(), awaited: 0 });
    }

    #[test]
    fn what_no_record_tells_is_missing_once_none_can_come() {
        let records =
            [(OPENED, 5, 0), ("freeze", 6, 0), ("freeze", 9, 0), ("freeze", 10, 0), ("freeze", 12, 0)];
        let awaited = told(&records);
        assert_eq!((gaps(&awaited).as_str(), awaited.awaited), ("", 3));
        // The next start has told of all that it knew of.
        let opened = told(&[&records[..], &[(OPENED, 14, 0)]].concat());
        assert_eq!((gaps(&opened).as_str(), opened.awaited), ("7 to 8, 11, 13 to 14", 0));
        // So long after no record comes any more, whatever the clock did meanwhile.
        let late = told(&[&records[..], &[("encrypt", 0, 0), ("encrypt", 0, 10), ("freeze", 7, 5)]].concat());
        assert_eq!((gaps(&late).as_str(), late.awaited), ("7 to 8, 11", 0));
    }

    #[test]
    fn a_call_that_began_long_ago_is_not_late() {
        let told = told(&[(OPENED, 1, 60), ("freeze", 3, 1), ("encrypt", 0, 61), ("freeze", 2, 61)]);
        assert_eq!((gaps(&told).as_str(), told.awaited), ("", 0));
    }

    #[test]
    fn the_log_of_an_older_version_had_gaps() {
        let old = [("init", 1, 0), ("freeze", 3, 0), ("freeze", 9, 0)];
        assert_eq!(told(&old), Told::default());
        let updated = told(&[&old[..], &[(OPENED, 12, 60), ("freeze", 13, 60), (OPENED, 13, 61)]].concat());
        assert_eq!(updated, Told { from: Some(12), ..Told::default() });
    }

    #[test]
    fn a_history_whose_own_record_was_lost_begins_all_the_same() {
        let mut record = plain(0);
        assert_eq!(operation(&record), "encrypt");
        record.operation = RECOVERED.to_owned();
        assert_eq!(operation(&record), RECOVERED);
        record.detail = Some("store-rollback-accepted by the daemon itself: and so on".to_owned());
        record.change = Some(StoreChange { revision: 4, digest: [1; 32] });
        let mut telling = Telling { next: Some(9), ..Telling::default() };
        telling.see(&record);
        assert_eq!(telling.next, None);
    }

    #[test]
    fn another_history_is_counted_anew_and_hides_nothing_of_the_one_before() {
        let history = told(&[
            (OPENED, 5, 0),
            ("freeze", 6, 0),
            ("freeze", 8, 0),
            ("store-rollback-accepted", 4, 0),
            (OPENED, 4, 0),
            ("freeze", 5, 0),
            ("freeze", 7, 0),
            (OPENED, 7, 0),
        ]);
        assert_eq!((gaps(&history).as_str(), history.from), ("7, 6", Some(4)));
    }
}
