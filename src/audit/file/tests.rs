//! The log as its users see it, and what is left of it after a crash.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::audit::frame::Batch;
use crate::audit::record::tests::plain;
use crate::audit::{Committed, Flaw, verify};

mod faults;
mod transparency;

use transparency::assert_tree;

pub(in crate::audit) const DEPLOYMENT: DeploymentId = DeploymentId([5; 16]);

pub(in crate::audit) fn settings(dir: &Path) -> Settings {
    let dir = dir.join("audit");
    Settings { create: true, ahead_bytes: 4096, reserve_bytes: 4096, ..Settings::new(dir) }
}

pub(in crate::audit) fn open(settings: &Settings) -> (Arc<FileLog>, Opened) {
    FileLog::open(settings.clone(), DEPLOYMENT).unwrap()
}

pub(in crate::audit) fn wait(receipt: Receipt) -> Result<Committed, AuditError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(receipt)
}

/// Writes records one at a time, so that each is a write and a sync of its own.
pub(in crate::audit) fn write_each(log: &FileLog, ids: std::ops::Range<u64>) {
    for id in ids {
        wait(log.submit(plain(id)).unwrap()).unwrap();
    }
}

fn ids(dir: &Path) -> Vec<u64> {
    verify::read(dir).unwrap().map(|item| item.unwrap().1.request_id).collect()
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    crate::audit::segment::path(dir, number)
}

#[test]
fn records_of_many_threads_are_all_there_and_in_order() {
    const THREADS: u64 = 8;
    const EACH: u64 = 150;
    let temp = TempDir::new().unwrap();
    let settings = Settings { segment_bytes: 20_000, ..settings(temp.path()) };
    let (log, opened) = open(&settings);
    assert_eq!(opened, Opened { last_sequence: 0, last_change: None, torn_bytes: 0 });
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                for first in (0..EACH).step_by(10) {
                    let submit = |n| log.submit(plain(thread * EACH + first + n)).unwrap();
                    let receipts: Vec<Receipt> = (0..10).map(submit).collect();
                    let sequences: Vec<u64> =
                        receipts.into_iter().map(|receipt| wait(receipt).unwrap().sequence()).collect();
                    assert!(sequences.is_sorted());
                    assert!(log.durable() >= sequences[9]);
                }
            });
        }
    });
    log.close().unwrap();
    assert_eq!(log.submit(plain(0)).unwrap_err(), AuditError::Stopped);
    drop(log);

    let found = ids(&settings.dir);
    for thread in 0..THREADS {
        let own = found.iter().copied().filter(|id| id / EACH == thread);
        assert!(own.eq(thread * EACH..(thread + 1) * EACH));
    }
    let report = verify::verify(&settings.dir).unwrap();
    assert_eq!((report.records, report.torn), (THREADS * EACH, None));
    assert!(report.segments > 5);
    assert_eq!(open(&settings).1.last_sequence, THREADS * EACH);
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let temp = TempDir::new().unwrap();
    let settings = Settings { segment_bytes: 1000, ..settings(temp.path()) };
    let change = StoreChange { revision: 3, digest: [8; 32] };
    for round in 0..4 {
        let (log, opened) = open(&settings);
        assert_eq!(opened.last_sequence, round * 10);
        assert_eq!(opened.last_change, (round > 0).then_some(change));
        if round == 0 {
            // Segments later, only the headers still tell it.
            wait(log.submit(Record { change: Some(change), ..plain(0) }).unwrap()).unwrap();
            write_each(&log, 1..10);
        } else {
            write_each(&log, round * 10..(round + 1) * 10);
        }
    }
    assert!(ids(&settings.dir).into_iter().eq(0..40));
    assert_eq!(verify::verify(&settings.dir).unwrap().last_change, Some(change));
}

#[test]
fn records_are_written_though_nobody_waits() {
    let temp = TempDir::new().unwrap();
    let (log, _) = open(&settings(temp.path()));
    for id in 0..100 {
        drop(log.submit(plain(id)).unwrap());
    }
    drop(log);
    assert!(ids(&settings(temp.path()).dir).into_iter().eq(0..100));
}

#[test]
fn a_record_too_long_fails_alone() {
    let temp = TempDir::new().unwrap();
    let (log, _) = open(&settings(temp.path()));
    let long = log.submit(Record { resource: "x".repeat(5 << 20), ..plain(1) }).unwrap();
    let short = log.submit(plain(2)).unwrap();
    assert!(matches!(wait(long), Err(AuditError::Unwritable(_))));
    assert_eq!(wait(short).unwrap().sequence(), 1);
    log.check().unwrap();
}

#[test]
fn only_a_wanted_log_is_created() {
    let temp = TempDir::new().unwrap();
    let wanted = settings(temp.path());
    let unwanted = Settings { create: false, ..wanted.clone() };
    let refused = |settings: &Settings| FileLog::open(settings.clone(), DEPLOYMENT).map(drop).unwrap_err();
    assert!(matches!(refused(&unwanted), OpenError::Missing(_)));
    assert!(!wanted.dir.exists());
    fs::create_dir(&wanted.dir).unwrap();
    assert!(matches!(refused(&unwanted), OpenError::Missing(_)));
    drop(open(&wanted));
    drop(open(&unwanted));
}

#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let temp = TempDir::new().unwrap();
    let settings = settings(temp.path());
    drop(open(&settings));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&settings.dir), 0o700);
    assert_eq!(mode(&settings.dir.join("tree")), 0o700);
    for dir in [settings.dir.clone(), settings.dir.join("tree")] {
        let files = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file()).for_each(|path| assert_eq!(mode(&path), 0o600));
    }
}

#[test]
fn a_second_opener_is_refused() {
    let temp = TempDir::new().unwrap();
    let settings = settings(temp.path());
    let (log, _) = open(&settings);
    let second = FileLog::open(settings.clone(), DEPLOYMENT).map(drop);
    assert!(matches!(second, Err(OpenError::Locked(_))));
    drop(log);
    drop(open(&settings));
}

#[test]
fn another_deployment_and_a_newer_format_are_refused() {
    let temp = TempDir::new().unwrap();
    let settings = settings(temp.path());
    drop(open(&settings));
    let foreign = FileLog::open(settings.clone(), DeploymentId([6; 16])).map(drop);
    assert!(matches!(foreign, Err(OpenError::Foreign { found: DEPLOYMENT, .. })));

    let path = segment(&settings.dir, 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[11] = 9;
    bytes[12..28].copy_from_slice(b"7.1.0\0\0\0\0\0\0\0\0\0\0\0");
    fs::write(&path, bytes).unwrap();
    let newer = FileLog::open(settings, DEPLOYMENT).map(drop).unwrap_err().to_string();
    assert!(newer.contains("has audit format 9") && newer.contains("keyward 7.1.0 or newer"), "{newer}");
}

/// What is on the disk when the process is killed now: nothing is trimmed.
fn image(settings: &Settings, name: &str) -> Settings {
    let dir = settings.dir.with_file_name(name);
    fs::create_dir(&dir).unwrap();
    for file in fs::read_dir(&settings.dir).unwrap() {
        let file = file.unwrap();
        if file.path().is_file() {
            fs::copy(file.path(), dir.join(file.file_name())).unwrap();
        }
    }
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    for file in fs::read_dir(settings.dir.join("tree")).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), tree.join(file.file_name())).unwrap();
    }
    Settings { dir, ..settings.clone() }
}

/// Where each frame of a segment with writes of one record ends.
fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![crate::audit::segment::LENGTH];
    while let Some(span) = crate::audit::frame::span(&bytes[ends[ends.len() - 1]..]) {
        ends.push(ends[ends.len() - 1] + span);
    }
    ends
}

#[test]
fn a_tail_torn_at_any_byte_is_cut() {
    let temp = TempDir::new().unwrap();
    let settings = settings(temp.path());
    let (log, _) = open(&settings);
    write_each(&log, 0..4);
    let image = image(&settings, "killed");
    let path = segment(&image.dir, 1);
    let bytes = fs::read(&path).unwrap();
    let ends = frame_ends(&bytes);
    assert_eq!(ends.len(), 5);
    assert!(bytes.len() > ends[4], "room was taken ahead");
    for cut in ends[3] - 1..=ends[4] {
        // With the room behind the cut, and without it.
        for length in [cut, bytes.len()] {
            let mut torn = bytes[..cut].to_vec();
            torn.resize(length, 0);
            fs::write(&path, &torn).unwrap();
            // The tree never had what was not durable.
            fs::remove_dir_all(image.dir.join("tree")).unwrap();
            // A frame that ends in a zero is whole without it.
            let whole =
                ends.iter().filter(|end| torn.get(..**end) == Some(&bytes[..**end])).count() as u64 - 1;
            let report = verify::verify(&image.dir).unwrap();
            let (log, opened) = open(&image);
            assert_eq!((opened.last_sequence, report.records), (whole, whole), "cut at {cut}");
            assert_eq!(opened.torn_bytes, report.torn.map_or(0, |torn| torn.bytes));
            assert_eq!(verify::verify(&image.dir).unwrap().torn, None, "cut at {cut}");
            write_each(&log, 77..78);
            log.close().unwrap();
            assert!(ids(&image.dir).into_iter().eq((0..whole).chain([77])), "cut at {cut}");
        }
    }
}

#[test]
fn an_unsynced_write_may_lose_any_part() {
    let temp = TempDir::new().unwrap();
    let settings = settings(temp.path());
    let (log, _) = open(&settings);
    write_each(&log, 0..3);
    drop(log);
    let place = Place { settings: settings.clone(), deployment: DEPLOYMENT, disk: Arc::new(System) };
    let (mut tail, _) = place.open(Keep::Whole).unwrap();
    let mut batch = Batch::default();
    (3..9).for_each(|id| batch.push(&plain(id)).unwrap());
    tail.append(&mut batch, &place).unwrap();

    let path = segment(&settings.dir, 1);
    let bytes = fs::read(&path).unwrap();
    let ends = frame_ends(&bytes);
    for hole in 3..9 {
        let mut torn = bytes.clone();
        torn[ends[hole]..ends[hole + 1]].fill(0);
        fs::write(&path, &torn).unwrap();
        let (log, opened) = open(&settings);
        assert_eq!(opened.last_sequence, hole as u64);
        assert_eq!(opened.torn_bytes > 0, hole < 8, "the last hole leaves nothing behind it");
        drop(log);
        assert!(ids(&settings.dir).into_iter().eq(0..hole as u64));
    }
}

#[test]
fn damage_to_a_durable_record_is_refused() {
    let temp = TempDir::new().unwrap();
    let settings = settings(temp.path());
    let (log, _) = open(&settings);
    write_each(&log, 0..6);
    drop(log);
    let path = segment(&settings.dir, 1);
    let bytes = fs::read(&path).unwrap();
    let ends = frame_ends(&bytes);
    for at in ends[0]..ends[5] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let frame = ends.iter().rposition(|end| *end <= at).unwrap();
        let Err(OpenError::Unsound(VerifyError::Damaged(found))) =
            FileLog::open(settings.clone(), DEPLOYMENT)
        else {
            panic!("byte {at} was not refused");
        };
        assert_eq!((&found.file, found.offset), (&path, ends[frame] as u64), "byte {at}");
        assert_eq!((found.sequence, found.flaw), (frame as u64 + 1, Flaw::Chain));
        assert_eq!(fs::read(&path).unwrap(), damaged, "a refused log is left alone");
    }
}
