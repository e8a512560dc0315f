//! Each operation of the disk fails once, or for a while, or for ever.

use std::collections::HashMap;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::access::Action;
use crate::audit::checkpoint::tests::signed;
use crate::keyring::signing::tests::TestKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Failed and not written.
    NotDone,
    /// Failed but written.
    Done,
    /// Failed and written in part.
    Half,
}

/// Operations `from..until` fail, counted from when the plan was made.
#[derive(Debug, Clone, Copy)]
struct Plan {
    mode: Mode,
    from: u64,
    until: u64,
}

#[derive(Default)]
struct Faults {
    plan: Mutex<(u64, Option<Plan>)>,
}

impl Faults {
    fn plan(&self, plan: Option<Plan>) {
        *self.plan.lock().unwrap() = (0, plan);
    }

    /// How many operations there were since the plan was made.
    fn operations(&self) -> u64 {
        self.plan.lock().unwrap().0
    }

    fn failing(&self) -> Option<Mode> {
        let mut state = self.plan.lock().unwrap();
        let now = state.0;
        state.0 += 1;
        state.1.filter(|plan| (plan.from..plan.until).contains(&now)).map(|plan| plan.mode)
    }

    fn run(&self, whole: impl FnOnce() -> io::Result<()>, half: impl FnOnce()) -> io::Result<()> {
        match self.failing() {
            None => return whole(),
            Some(Mode::NotDone) => (),
            Some(Mode::Done) => whole()?,
            Some(Mode::Half) => half(),
        }
        Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()))
    }
}

struct Faulty(Arc<Faults>);

impl Disk for Faulty {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let half = || System.write(file, &bytes[..bytes.len() / 2], offset).unwrap();
        self.0.run(|| System.write(file, bytes, offset), half)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.0.run(|| System.sync(file), || ())
    }

    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        self.0.run(|| System.set_len(file, length), || ())
    }

    fn reserve(&self, file: &File, length: u64) -> io::Result<()> {
        self.0.run(|| System.reserve(file, length), || ())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.run(|| System.rename(from, to), || ())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.run(|| System.sync_dir(dir), || ())
    }
}

fn open_faulty(settings: &Settings) -> (Arc<FileLog>, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let disk = Arc::new(Faulty(Arc::clone(&faults)));
    (FileLog::open_on(settings.clone(), DEPLOYMENT, disk).unwrap().0, faults)
}

/// Returns when the log can be written again.
fn await_recovery(log: &FileLog) {
    let begun = Instant::now();
    while log.check().is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the log does not recover");
        std::thread::yield_now();
    }
}

/// Enough for a second segment.
const RECORDS: u64 = 7;

/// Submits records one by one; what was acknowledged: sequence and id.
fn acknowledged(log: &FileLog, recover: bool) -> Vec<(u64, u64)> {
    let mut done = Vec::new();
    for id in 0..RECORDS {
        match log.submit(plain(id)).and_then(wait) {
            Ok(committed) => done.push((committed.sequence(), id)),
            Err(AuditError::Unwritable(reason)) => assert!(reason.contains("No space left"), "{reason}"),
            Err(AuditError::Stopped) => panic!("the writer died"),
        }
        if recover {
            // The tree may fail a moment after the record was acknowledged.
            log.tree().await_size(log.durable(), Duration::from_secs(60)).unwrap();
            await_recovery(log);
        }
    }
    done
}

fn found(dir: &Path) -> Vec<(u64, Record)> {
    verify::read(dir).unwrap().map(Result::unwrap).collect()
}

fn assert_kept(dir: &Path, done: &[(u64, u64)], plan: Plan) {
    let found = found(dir);
    for (sequence, id) in done {
        let kept = found
            .iter()
            .any(|(at, record)| at == sequence && record.request_id == *id && record.operation == "encrypt");
        assert!(kept, "record {id} was acknowledged as {sequence} and is gone: {plan:?}");
    }
}

/// Runs `check` for a failure at each operation that writing some records needs. It
/// says whether the failure came true.
fn at_each_operation(lengths: &[u64], check: impl Fn(&Settings, Plan) -> bool) {
    let modes = [Mode::NotDone, Mode::Done, Mode::Half];
    for (mode, length) in modes.into_iter().flat_map(|mode| lengths.iter().map(move |length| (mode, *length)))
    {
        let mut from = 0;
        loop {
            let temp = TempDir::new().unwrap();
            // Small segments, so that beginning one fails at each step as well.
            let settings = Settings {
                segment_bytes: 600,
                probe_every: Duration::from_millis(1),
                ..settings(temp.path())
            };
            if !check(&settings, Plan { mode, from, until: from.saturating_add(length) }) {
                break;
            }
            from += 1;
        }
        assert!(from > 20, "{mode:?}: only {from} operations");
    }
}

#[test]
fn the_log_recovers_from_a_failure_of_any_operation() {
    at_each_operation(&[1, 5], |settings, plan| {
        let (log, faults) = open_faulty(settings);
        faults.plan(Some(plan));
        let done = acknowledged(&log, true);
        let came_true = faults.operations() > plan.from;
        faults.plan(None);
        log.close().unwrap();
        assert_kept(&settings.dir, &done, plan);
        // A refused record is gone, and each failure of a write was told.
        let found = found(&settings.dir);
        let records = found.iter().filter(|(_, record)| record.operation == "encrypt").count();
        assert_eq!(records, done.len(), "{plan:?}");
        let resumed = found.iter().any(|(_, record)| record.operation == "audit-resumed");
        // The tree may fail after the records are acknowledged.
        assert!(resumed || done.len() == RECORDS as usize, "{plan:?}");
        assert_tree(&settings.dir);
        assert_eq!(verify::verify(&settings.dir).unwrap().torn, None);
        came_true
    });
}

#[test]
fn a_log_that_died_of_a_failure_opens_again() {
    at_each_operation(&[u64::MAX], |settings, plan| {
        let settings = Settings { probe_every: Duration::from_secs(3600), ..settings.clone() };
        let (log, faults) = open_faulty(&settings);
        faults.plan(Some(plan));
        let done = acknowledged(&log, false);
        let came_true = faults.operations() > plan.from;
        assert!(log.check().is_err() || done.len() == RECORDS as usize);
        drop(log);
        assert_kept(&settings.dir, &done, plan);
        drop(open(&settings));
        assert_tree(&settings.dir);
        let (log, opened) = open(&settings);
        assert!(opened.last_sequence >= done.last().map_or(0, |(sequence, _)| *sequence));
        write_each(&log, 50..53);
        drop(log);
        assert_kept(&settings.dir, &done, plan);
        came_true
    });
}

#[test]
fn a_full_disk_is_told_with_the_reserved_room() {
    let temp = TempDir::new().unwrap();
    let settings = Settings { probe_every: Duration::from_secs(3600), ..settings(temp.path()) };
    let reserve = settings.dir.join("reserve");
    let (log, faults) = open_faulty(&settings);
    write_each(&log, 0..2);
    assert_eq!(fs::metadata(&reserve).unwrap().len(), settings.reserve_bytes);
    faults.plan(Some(Plan { mode: Mode::Half, from: 0, until: 1 }));
    let refused = wait(log.submit(plain(2)).unwrap()).unwrap_err();
    assert!(matches!(&refused, AuditError::Unwritable(reason) if reason.contains("No space left")));
    // From then on nothing is queued.
    assert_eq!(log.check().unwrap_err(), refused);
    assert_eq!(log.submit(plain(3)).unwrap_err(), refused);
    assert_eq!(log.close().unwrap_err(), refused);
    drop(log);

    assert_eq!(fs::metadata(&reserve).unwrap().len(), 0);
    let (_, last) = found(&settings.dir).pop().unwrap();
    assert_eq!(last.operation, "audit-stopped");
    assert!(last.detail.unwrap().contains("No space left"));
    drop(open(&settings));
    assert_eq!(fs::metadata(&reserve).unwrap().len(), settings.reserve_bytes);
}

#[test]
fn a_file_system_that_takes_no_room_ahead_will_do() {
    struct Plain;
    impl Disk for Plain {
        fn reserve(&self, _: &File, _: u64) -> io::Result<()> {
            Err(rustix::io::Errno::OPNOTSUPP.into())
        }
    }
    let temp = TempDir::new().unwrap();
    let settings = Settings { segment_bytes: 600, ..settings(temp.path()) };
    let (log, _) = FileLog::open_on(settings.clone(), DEPLOYMENT, Arc::new(Plain)).unwrap();
    write_each(&log, 0..10);
    drop(log);
    assert!(ids(&settings.dir).into_iter().eq(0..10));
    assert_eq!(fs::metadata(settings.dir.join("reserve")).unwrap().len(), settings.reserve_bytes);
}

/// What was synced, and so is left at least when the power goes.
#[derive(Clone, Default)]
struct Synced {
    contents: HashMap<u64, Vec<u8>>,
    /// By the path from the directory of the log.
    names: HashMap<PathBuf, u64>,
}

impl Synced {
    fn restore(&self, dir: &Path) {
        fs::create_dir(dir).unwrap();
        for folder in self.names.keys().filter_map(|name| name.parent()) {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        for (name, inode) in &self.names {
            fs::write(dir.join(name), self.contents.get(inode).map_or(&[][..], Vec::as_slice)).unwrap();
        }
    }
}

/// Remembers what is left after each sync.
#[derive(Clone, Default)]
struct PowerLoss(Arc<Mutex<Vec<Synced>>>);

impl PowerLoss {
    fn note(&self, change: impl FnOnce(&mut Synced)) {
        let mut history = self.0.lock().unwrap();
        let mut now = history.last().cloned().unwrap_or_default();
        change(&mut now);
        history.push(now);
    }
}

impl Disk for PowerLoss {
    fn sync(&self, file: &File) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap()];
        file.read_exact_at(&mut bytes, 0)?;
        let inode = file.metadata()?.ino();
        self.note(|now| drop(now.contents.insert(inode, bytes)));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let entries = fs::read_dir(dir)?.map(Result::unwrap).filter(|entry| entry.path().is_file());
        let folder = PathBuf::from(if dir.ends_with("tree") { "tree" } else { "" });
        let names: Vec<_> = entries.map(|entry| (folder.join(entry.file_name()), entry.ino())).collect();
        self.note(|now| {
            now.names.retain(|name, _| name.parent() != Some(&folder));
            now.names.extend(names);
        });
        Ok(())
    }
}

#[test]
fn what_is_acknowledged_survives_a_loss_of_power() {
    let temp = TempDir::new().unwrap();
    let settings = Settings { segment_bytes: 500, ..settings(temp.path()) };
    let disk = PowerLoss::default();
    let (log, _) = FileLog::open_on(settings.clone(), DEPLOYMENT, Arc::new(disk.clone())).unwrap();
    // How many records are acknowledged when a state is the newest one.
    let mut acknowledged = vec![0; disk.0.lock().unwrap().len()];
    for id in 0..10 {
        write_each(&log, id..id + 1);
        acknowledged.resize(disk.0.lock().unwrap().len() - 1, id);
        acknowledged.push(id + 1);
    }
    let history = disk.0.lock().unwrap().clone();
    for (moment, (state, count)) in history.iter().zip(acknowledged).enumerate() {
        if !state.names.contains_key(Path::new("00000001.kwa")) {
            assert_eq!(count, 0);
            continue;
        }
        let left = Settings { dir: temp.path().join(moment.to_string()), create: false, ..settings.clone() };
        state.restore(&left.dir);
        assert!(open(&left).1.last_sequence >= count, "after {moment} syncs");
        assert!(ids(&left.dir).into_iter().take(count as usize).eq(0..count), "after {moment} syncs");
    }
}

#[test]
fn a_checkpoint_survives_a_failure_of_any_operation() {
    let key = TestKey::new();
    for mode in [Mode::NotDone, Mode::Done, Mode::Half] {
        let mut from = 0;
        loop {
            let temp = TempDir::new().unwrap();
            let settings = settings(temp.path());
            let (log, faults) = open_faulty(&settings);
            write_each(&log, 0..3);
            let first = signed(&key, DEPLOYMENT, log.settle(3).unwrap());
            log.keep(&first).unwrap();
            write_each(&log, 3..5);
            log.tree().head(5).unwrap_or_else(|_| log.settle(5).unwrap());
            faults.plan(Some(Plan { mode, from, until: from + 1 }));
            let kept = log.settle(5).and_then(|head| {
                let second = signed(&key, DEPLOYMENT, head);
                log.keep(&second).map(|()| second)
            });
            let came_true = faults.operations() > from;
            faults.plan(None);
            // Nobody is told that it is kept unless it is, and the next attempt mends it.
            drop(log);
            let found = open(&settings).0.checkpoint().unwrap();
            match &kept {
                Ok(second) => assert_eq!(found, *second),
                Err(_) => assert!(found == first || found.checkpoint.head.size == 5),
            }
            let (log, _) = open(&settings);
            let third = signed(&key, DEPLOYMENT, log.settle(5).unwrap());
            log.keep(&third).unwrap();
            assert_eq!(log.checkpoint().unwrap().checkpoint.head.size, 5);
            drop(log);
            assert_eq!(verify::verify(&settings.dir).unwrap().counted.covered, 5, "{mode:?} at {from}");
            if !came_true {
                assert!(from > 5, "only {from} operations");
                break;
            }
            from += 1;
        }
    }
}

/// Owes the record of one change until it is durable, and notes what it hears.
struct Owing(Mutex<Vec<u64>>);

impl Creditor for Owing {
    fn paid(&self, revisions: &[u64]) {
        self.0.lock().unwrap().extend(revisions);
    }

    fn owed(&self) -> Vec<Record> {
        let owed = !self.0.lock().unwrap().contains(&7);
        let change = Some(StoreChange { revision: 7, digest: [7; 32] });
        owed.then(|| Record { change, ..Record::own(Action::ChangeRecovered, String::new()) })
            .into_iter()
            .collect()
    }
}

#[test]
fn what_is_owed_is_written_before_the_log_goes_on() {
    let modes = [Mode::NotDone, Mode::Done, Mode::Half];
    for (mode, until) in modes.into_iter().flat_map(|mode| (1..25).map(move |until| (mode, until))) {
        let temp = TempDir::new().unwrap();
        let settings = Settings { probe_every: Duration::from_millis(1), ..settings(temp.path()) };
        let (log, faults) = open_faulty(&settings);
        let owing = Arc::new(Owing(Mutex::default()));
        log.owes(owing.clone());
        write_each(&log, 0..1);
        // The tree grows after the answer; no failure is meant for it.
        log.settle(log.durable()).unwrap();
        faults.plan(Some(Plan { mode, from: 0, until }));
        // The change is made, and its record is refused.
        let change = Some(StoreChange { revision: 7, digest: [7; 32] });
        let refused = log.submit(Record { change, ..plain(1) }).and_then(wait);
        assert!(matches!(refused, Err(AuditError::Unwritable(_))), "{mode:?} {until}");
        await_recovery(&log);
        // Nothing is taken before this.
        assert_eq!(*owing.0.lock().unwrap(), [7], "{mode:?} {until}");
        write_each(&log, 2..3);
        log.close().unwrap();
        let told: Vec<_> = found(&settings.dir).into_iter().map(|(_, record)| record.operation).collect();
        let resumed = told.iter().position(|word| word == "audit-resumed").unwrap();
        let owed: Vec<_> = told[resumed..].iter().filter(|word| *word != "audit-resumed").collect();
        assert_eq!(owed, ["change-recovered", "encrypt"], "{mode:?} {until}: {told:?}");
        let verified = verify::verify(&settings.dir).unwrap();
        assert_eq!(verified.last_change.map(|change| change.revision), Some(7));
    }
}
