//! Store and log in real files: put back, cut, and left behind by a crash.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::audit::checkpoint::{Checkpoint, NoteKey, origin};
use crate::audit::file::Settings;
use crate::audit::verify;
use crate::id::DeploymentId;
use crate::keyring::signing::tests::TestKey;
use crate::secret::Key256;
use crate::store::{SqliteKv, StoreKeys};

const DEPLOYMENT: DeploymentId = DeploymentId([5; 16]);
const STORE: [&str; 3] = ["store.db", "store.db-wal", "store.db-shm"];
const CHECKPOINTS: [&str; 2] = ["checkpoint", "checkpoints"];

fn keys() -> StoreKeys {
    StoreKeys::derive(&Key256::init_with(|key| key.fill(0x5a)))
}

/// A folder with a store and a log.
struct Place(TempDir);

type Open = (Records, Arc<FileLog>);

impl Place {
    async fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        drop(FileLog::open(place.settings(), DEPLOYMENT).unwrap());
        let made =
            Records::create(place.kv().await, &place.journal(), DEPLOYMENT, keys(), Changes::new()).await;
        drop(made.unwrap());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn journal(&self) -> PathBuf {
        self.path("journal.kwj")
    }

    fn audit(&self) -> PathBuf {
        self.path("audit")
    }

    async fn kv(&self) -> Arc<SqliteKv> {
        Arc::new(SqliteKv::open(self.path("store.db")).await.unwrap())
    }

    fn settings(&self) -> Settings {
        Settings { create: true, ahead_bytes: 4096, reserve_bytes: 4096, ..Settings::new(self.audit()) }
    }

    async fn open(&self) -> Open {
        let (log, opened) = FileLog::open(self.settings(), DEPLOYMENT).unwrap();
        let anchor = opened
            .last_change
            .map(|change| store::StoreChange { revision: change.revision, digest: change.digest });
        let opened =
            Records::open(self.kv().await, &self.journal(), DEPLOYMENT, keys(), anchor).await.unwrap();
        (opened.0, log)
    }

    /// As the daemon starts.
    async fn start(&self) -> Result<Open, BondError> {
        let (records, log) = self.open().await;
        bind(&records, &log)?;
        tell_missing(&records, &log).await.unwrap();
        Ok((records, log))
    }

    async fn refused(&self) -> BondError {
        match self.start().await {
            Ok(_) => panic!("it starts"),
            Err(error) => error,
        }
    }

    /// Accepts the log that is there, as the operator's command does.
    async fn accept(&self) {
        let (records, log) = self.open().await;
        let change = accept(&records, &log, Action::StoreRollbackAccepted).await.unwrap();
        record(&log, Action::StoreRollbackAccepted, change).await;
        stop((records, log));
    }

    /// The log as it is, somewhere else.
    fn keep(&self) -> TempDir {
        let kept = tempfile::tempdir().unwrap();
        copy(&self.audit(), &kept.path().join("audit"));
        kept
    }

    fn put_back(&self, kept: &TempDir) {
        std::fs::remove_dir_all(self.audit()).unwrap();
        copy(&kept.path().join("audit"), &self.audit());
    }

    /// The records that tell of a change: their words and details.
    fn telling(&self, revision: u64) -> Vec<(String, String)> {
        let records = verify::read(&self.audit()).unwrap().map(|item| item.unwrap().1);
        records
            .filter(|record| record.change.is_some_and(|change| change.revision == revision))
            .filter(|record| record.operation != crate::audit::telling::OPENED)
            .map(|record| (record.operation, record.detail.unwrap_or_default()))
            .collect()
    }

    fn assert_told_once(&self, revision: u64) {
        let told = self.telling(revision);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, crate::audit::telling::RECOVERED);
        assert!(told[0].1.contains("freeze by principal ops (uid 7)"), "{told:?}");
        let verified = verify::verify(&self.audit()).unwrap().told;
        assert!(verified.from.is_some() && verified.missing.is_empty(), "{verified:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn stop((records, log): Open) {
    log.close().unwrap();
    drop((log, records));
}

/// A change of which no record tells yet.
async fn change(records: &Records, call: Option<Weak<()>>) -> store::StoreChange {
    let mut changes = Changes::new();
    let own = Cause::own("freeze", "tenants/acme");
    changes.because(Cause { principal: Some("ops".to_owned()), uid: Some(7), call, ..own });
    records.commit(changes).await.unwrap()
}

async fn record(log: &FileLog, action: Action, change: store::StoreChange) {
    let change = StoreChange { revision: change.revision, digest: change.digest };
    log.submit(own(action, String::new(), change, String::new())).unwrap().await.unwrap();
}

async fn recorded(open: &Open) {
    let made = change(&open.0, None).await;
    record(&open.1, Action::Freeze, made).await;
}

/// A checkpoint over everything, and a change that has seen it.
async fn checkpoint(open: &Open, key: &TestKey) {
    let head = open.1.settle(open.1.durable()).unwrap();
    let checkpoint = Checkpoint { origin: origin(DEPLOYMENT), head };
    let signature = key.sign(checkpoint.text().as_bytes());
    open.1.keep(&checkpoint.signed(&NoteKey::new(DEPLOYMENT, key.public()), &signature)).unwrap();
    recorded(open).await;
}

#[tokio::test]
async fn a_log_of_before_is_refused_until_it_is_accepted() {
    for changes in [1, 3] {
        let place = Place::new().await;
        stop(place.start().await.unwrap());
        let old = place.keep();
        let open = place.start().await.unwrap();
        for _ in 0..changes {
            recorded(&open).await;
        }
        stop(open);
        let new = place.keep();

        place.put_back(&old);
        let error = place.refused().await;
        assert!(matches!(error, BondError::Log { .. }), "{error}");
        assert!(error.to_string().contains("keyward store accept-rollback"), "{error}");
        place.put_back(&new);
        stop(place.start().await.unwrap());

        place.put_back(&old);
        place.accept().await;
        let open = place.start().await.unwrap();
        recorded(&open).await;
        stop(open);
        stop(place.start().await.unwrap());
        assert_eq!(verify::verify(&place.audit()).unwrap().told.missing, []);
    }
}

#[tokio::test]
async fn another_log_with_as_many_records_is_refused() {
    let (place, other) = (Place::new().await, Place::new().await);
    let open = place.start().await.unwrap();
    recorded(&open).await;
    recorded(&open).await;
    stop(open);
    let (log, _) = FileLog::open(other.settings(), DEPLOYMENT).unwrap();
    for number in 0..10 {
        let change = StoreChange { revision: 1, digest: [0; 32] };
        let record = Record { change: None, ..own(Action::Start, number.to_string(), change, String::new()) };
        log.submit(record).unwrap().await.unwrap();
    }
    log.close().unwrap();
    drop(log);
    place.put_back(&other.keep());
    let error = place.refused().await;
    assert!(matches!(error, BondError::Log { newest: 10, .. }), "{error}");
}

#[tokio::test]
async fn checkpoints_that_were_taken_away_or_put_back_are_missed() {
    let (place, key) = (Place::new().await, TestKey::new());
    let open = place.start().await.unwrap();
    checkpoint(&open, &key).await;
    stop(open);
    let older = CHECKPOINTS.map(|name| std::fs::read(place.audit().join(name)).unwrap());
    let open = place.start().await.unwrap();
    checkpoint(&open, &key).await;
    stop(open);
    stop(place.start().await.unwrap());

    CHECKPOINTS.iter().for_each(|name| std::fs::remove_file(place.audit().join(name)).unwrap());
    let gone = place.refused().await;
    assert!(matches!(gone, BondError::Checkpoint { .. }), "{gone}");
    // Opening the log made an empty list.
    CHECKPOINTS.iter().zip(&older).for_each(|(name, bytes)| {
        std::fs::write(place.audit().join(name), bytes).unwrap();
    });
    let old = place.refused().await;
    assert!(matches!(old, BondError::Checkpoint { .. }), "{old}");
    place.accept().await;
    stop(place.start().await.unwrap());
}

#[tokio::test]
async fn a_change_that_a_crash_left_without_a_record_is_told_at_the_next_start() {
    let place = Place::new().await;
    let open = place.start().await.unwrap();
    recorded(&open).await;
    let made = change(&open.0, None).await;
    // A later change has it on its list, too.
    recorded(&open).await;
    stop(open);
    assert_eq!(place.telling(made.revision), []);
    for _ in 0..2 {
        stop(place.start().await.unwrap());
        place.assert_told_once(made.revision);
    }
}

#[tokio::test]
async fn a_change_that_only_the_journal_has_is_told_at_the_next_start() {
    let place = Place::new().await;
    stop(place.start().await.unwrap());
    let before = STORE.map(|name| std::fs::read(place.path(name)).ok());
    let open = place.start().await.unwrap();
    let made = change(&open.0, None).await;
    stop(open);
    for (name, bytes) in STORE.iter().zip(before) {
        match bytes {
            Some(bytes) => std::fs::write(place.path(name), bytes).unwrap(),
            None => drop(std::fs::remove_file(place.path(name))),
        }
    }
    stop(place.start().await.unwrap());
    place.assert_told_once(made.revision);
}

#[tokio::test]
async fn a_record_that_was_cut_off_the_log_is_written_again() {
    let place = Place::new().await;
    let open = place.start().await.unwrap();
    let made = change(&open.0, None).await;
    // The change has seen all of this log, so it fits; the record of the change is not in it.
    let cut = place.keep();
    record(&open.1, Action::Freeze, made).await;
    stop(open);
    place.put_back(&cut);
    stop(place.start().await.unwrap());
    place.assert_told_once(made.revision);
}

#[tokio::test]
async fn a_change_of_another_history_with_the_same_number_does_not_count() {
    let place = Place::new().await;
    let open = place.start().await.unwrap();
    let made = change(&open.0, None).await;
    record(&open.1, Action::Freeze, store::StoreChange { digest: [9; 32], ..made }).await;
    // The creditor counts by number, within one history; what is on disk is compared whole.
    let kept = open.0.unrecorded();
    stop(open);
    assert_eq!(kept.len(), 0);
    let (log, _) = FileLog::open(place.settings(), DEPLOYMENT).unwrap();
    let opened = Records::open(place.kv().await, &place.journal(), DEPLOYMENT, keys(), None).await.unwrap();
    let records = opened.0;
    assert_eq!(records.unrecorded().len(), 1);
    settle(&records, &log).unwrap();
    assert_eq!(records.unrecorded().len(), 1);
    stop((records, log));
}

#[tokio::test]
async fn a_cancelled_call_is_told_at_once_and_one_that_works_is_not() {
    let place = Place::new().await;
    let (records, log) = place.start().await.unwrap();
    let (cancelled, working) = (Arc::new(()), Arc::new(()));
    let left = change(&records, Some(Arc::downgrade(&cancelled))).await;
    let open = change(&records, Some(Arc::downgrade(&working))).await;
    drop(cancelled);
    let telling = tokio::spawn(tell_overdue(records.clone(), Arc::downgrade(&log), finisher(&records)));
    let told = async {
        while records.unrecorded().len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(OVERDUE / 2, told).await.expect("nobody tells of the cancelled call");
    assert_eq!(records.unrecorded()[0].revision, open.revision);
    record(&log, Action::Freeze, open).await;
    assert_eq!(records.unrecorded(), []);
    telling.abort();
    assert!(telling.await.unwrap_err().is_cancelled());
    stop((records, log));
    place.assert_told_once(left.revision);
    assert_eq!(place.telling(open.revision).len(), 1);
}

#[tokio::test]
async fn an_older_change_that_is_told_late_is_not_the_newest() {
    let place = Place::new().await;
    let open = place.start().await.unwrap();
    let late = change(&open.0, None).await;
    let newer = change(&open.0, None).await;
    record(&open.1, Action::Freeze, newer).await;
    record(&open.1, Action::Freeze, late).await;
    stop(open);
    let (log, opened) = FileLog::open(place.settings(), DEPLOYMENT).unwrap();
    assert_eq!(opened.last_change.map(|change| change.revision), Some(newer.revision));
    drop(log);
}

fn finisher(records: &Records) -> Settle {
    let records = records.clone();
    Box::new(move || {
        let records = records.clone();
        Box::pin(async move { Ok(records.settle().await?) })
    })
}
