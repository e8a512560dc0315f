//! Whether a tree that is whole is taken as it stands.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::audit::AuditLog;
use crate::audit::checkpoint::tests::signed;
use crate::audit::file::Settings;
use crate::audit::file::tail::Keep;
use crate::audit::file::tests::{DEPLOYMENT, open, settings, write_each};
use crate::keyring::signing::tests::TestKey;

/// A log that was closed well, with a checkpoint over its first records.
struct Closed {
    place: Place,
    newest: TreeHead,
    /// The mark as the checkpoint left it; a crash leaves that one.
    mark: Vec<u8>,
    _temp: TempDir,
}

impl Closed {
    fn new(covered: u64, records: u64, segment_bytes: u64) -> Self {
        let temp = TempDir::new().unwrap();
        let settings = Settings { segment_bytes, ..settings(temp.path()) };
        let (log, _) = open(&settings);
        write_each(&log, 0..covered);
        let newest = log.settle(covered).unwrap();
        log.keep(&signed(&TestKey::new(), DEPLOYMENT, newest)).unwrap();
        let mark = fs::read(settings.dir.join(DIR).join(MARK)).unwrap();
        write_each(&log, covered..records);
        drop(log);
        let place = Place { settings, deployment: DEPLOYMENT, disk: Arc::new(System) };
        Self { place, newest, mark, _temp: temp }
    }

    fn mark_file(&self) -> PathBuf {
        self.place.dir().join(DIR).join(MARK)
    }

    /// Puts the mark of the checkpoint back, as if the daemon had been killed.
    fn crash(&self) {
        fs::write(self.mark_file(), &self.mark).unwrap();
    }

    /// Has the mark speak of other records.
    fn forge(&self) {
        let mut mark = fs::read(self.mark_file()).unwrap();
        let digit = mark.len() - 2;
        mark[digit] = if mark[digit] == b'0' { b'1' } else { b'0' };
        fs::write(self.mark_file(), mark).unwrap();
    }

    /// Whether a start takes the tree as it stands, and how many records it then has.
    fn is_taken(&self) -> (bool, u64) {
        let (tail, _) = self.place.open(Keep::Whole).unwrap();
        let mut growth = Growth::at_checkpoint(&self.place, &self.newest).unwrap();
        let mark = mark(&self.place).unwrap();
        let taken = growth.catch_up(&self.place, tail.tip(), Some(&mark)).unwrap();
        (taken, growth.frontier.count())
    }
}

#[test]
fn a_sound_tree_is_taken_after_a_stop_and_after_a_crash() {
    for segment_bytes in [1500, 64 << 20] {
        for (covered, records) in [(1, 1), (1, 2), (12, 14), (17, 17), (290, 300), (300, 300)] {
            let log = Closed::new(covered, records, segment_bytes);
            assert_eq!(log.is_taken(), (true, records), "{covered} of {records}, after a stop");
            log.crash();
            assert_eq!(log.is_taken(), (true, records), "{covered} of {records}, after a crash");
        }
    }
}

/// Wherever the mark stands in its segment, the first and the last place included.
#[test]
fn a_mark_of_other_records_is_noticed_wherever_it_stands() {
    for covered in 1..=20 {
        for later in [0, 3] {
            let log = Closed::new(covered, covered + later, 1500);
            log.crash();
            assert!(log.is_taken().0, "mark at {covered}, {later} later");
            log.forge();
            assert!(!log.is_taken().0, "forged mark at {covered}, {later} later");
        }
    }
}

/// The records before the newest segment are not even opened.
#[test]
fn after_a_stop_no_record_is_read() {
    let log = Closed::new(40, 40, 1500);
    let (tail, _) = log.place.open(Keep::Whole).unwrap();
    for number in verify::segments(log.place.dir()).unwrap() {
        fs::remove_file(crate::audit::segment::path(log.place.dir(), number)).unwrap();
    }
    let mut growth = Growth::at_checkpoint(&log.place, &log.newest).unwrap();
    assert!(growth.catch_up(&log.place, tail.tip(), mark(&log.place).as_ref()).unwrap());
}
