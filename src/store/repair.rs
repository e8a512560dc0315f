//! Repairing a SQLite store and its journal: the whole one of the two rebuilds the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blocking::blocking;
use super::check::{CheckReport, check, check_journal};
use super::error::{Refusal, StoreError};
use super::files;
use super::journal::{Reader, Source, Step, journal_error};
use super::kv::{Kv, KvError, Write};
use super::mac::StoreKeys;
use super::meta::{LogState, Totals};
use super::migrate;
use super::rebuild::{Filler, verify_and_hash, write_journal, write_meta};
use super::recover::{ErasureList, erasure_list, first_records};
use super::sqlite::SqliteKv;
use super::tables::{self, Table};
use super::{OpenReport, Records, StoreChange};
use crate::id::DeploymentId;
use crate::keyring::record::{Root, SystemSecret};
use crate::secret::Key256;

mod graves;

/// What a repair did.
#[derive(Debug)]
pub struct RepairReport {
    /// What was found before.
    pub found: CheckReport,
    /// Where the store is now.
    pub position: StoreChange,
    /// What was done, in words; nothing when nothing had to be.
    pub notes: Vec<String>,
}

/// The root and secret, read from the journal without any key, for a store that
/// is lost; see [`bootstrap`](super::bootstrap).
///
/// # Errors
/// [`Refusal::NoJournal`], and [`StoreError::Tampered`] when they do not fit together.
pub async fn bootstrap_journal(journal: &Path) -> Result<Option<(Root, SystemSecret)>, StoreError> {
    let journal = journal.to_owned();
    blocking(move || {
        let mut reader = Reader::unauthenticated(&journal)?;
        let mut roots = std::collections::BTreeMap::new();
        let mut secret = None;
        while let Step::Entry(entry) = reader.next()? {
            for write in entry.writes {
                if write.key == tables::system_secret().key() {
                    secret = write.value;
                } else if write.key.first() == Some(&Table::Root.byte()) {
                    roots.insert(write.key, write.value);
                }
            }
        }
        first_records(roots.into_values().flatten(), secret)
    })
    .await
}

/// As [`erasure_keys`](super::erasure_keys), of the newest state of a journal.
///
/// # Errors
/// [`Refusal::NoJournal`], and failures of reading.
pub async fn erasure_keys_of_journal(journal: &Path) -> Result<ErasureList, StoreError> {
    let journal = journal.to_owned();
    blocking(move || {
        let mut reader = Reader::unauthenticated(&journal)?;
        let mut newest = std::collections::BTreeMap::new();
        while let Step::Entry(entry) = reader.next()? {
            let erasure = |write: &Write| write.key.first() == Some(&Table::Erasure.byte());
            newest.extend(entry.writes.into_iter().filter(erasure).map(|write| (write.key, write.value)));
        }
        Ok(erasure_list(newest.into_iter().filter_map(|(key, value)| Some((key, value?)))))
    })
    .await
}

/// Checks the store at `store` and its journal, and rebuilds the one that is not
/// whole from the one that is. What is replaced is kept under another name. No
/// daemon may be running.
///
/// # Errors
/// [`Refusal::NothingWhole`] when neither is whole, [`Refusal::InUse`] while a daemon runs.
pub async fn repair(
    store: &Path,
    journal: &Path,
    deployment: DeploymentId,
    secret: &Key256,
) -> Result<RepairReport, StoreError> {
    let keys = Arc::new(StoreKeys::derive(secret));
    let mut notes = Vec::new();
    let found = examine(store, journal, &keys, &mut notes).await?;
    let graves = graves::read(store, &keys).await;
    let mut repair = Repair { store, journal, deployment, secret, keys, found, notes };
    repair.run().await?;
    let (records, opened) = repair.open().await?;
    repair.notes.extend(opened.migrated.into_iter().chain(opened.notes));
    repair.notes.extend(graves::keep(&records, graves).await?);
    Ok(RepairReport { found: repair.found, position: records.position(), notes: repair.notes })
}

/// Checks, and counts a store that cannot even be opened among the damaged ones.
async fn examine(
    store: &Path,
    journal: &Path,
    keys: &Arc<StoreKeys>,
    notes: &mut Vec<String>,
) -> Result<CheckReport, StoreError> {
    refuse_in_use(journal, keys).await?;
    if !store.try_exists().map_err(|error| journal_error(store, error))? {
        return check_journal(journal, keys.clone(), format!("{} is missing", store.display())).await;
    }
    match SqliteKv::open(store).await {
        Ok(kv) => {
            // What a migration left that was cut short is not damaged. Whatever keeps this from being done, the check tells.
            if let Ok(finished) = migrate::finish(&kv, journal, keys).await {
                notes.extend(finished);
            }
            check(&kv, journal, keys.clone()).await
        }
        Err(KvError::Damaged(damage)) => check_journal(journal, keys.clone(), damage).await,
        Err(error @ KvError::Foreign(_)) => check_journal(journal, keys.clone(), error.to_string()).await,
        Err(error) => Err(error.into()),
    }
}

/// A running daemon has the journal locked.
async fn refuse_in_use(journal: &Path, keys: &Arc<StoreKeys>) -> Result<(), StoreError> {
    let (path, keys) = (journal.to_owned(), keys.clone());
    match blocking(move || Source::open(&path, &keys)).await {
        Err(StoreError::Refused(refusal @ Refusal::InUse(_))) => Err(refusal.into()),
        // Anything else that is wrong with the journal is for the check to say.
        _ => Ok(()),
    }
}

/// A repair at work.
struct Repair<'a> {
    store: &'a Path,
    journal: &'a Path,
    deployment: DeploymentId,
    secret: &'a Key256,
    keys: Arc<StoreKeys>,
    found: CheckReport,
    notes: Vec<String>,
}

impl Repair<'_> {
    async fn run(&mut self) -> Result<(), StoreError> {
        match (self.found.store.is_empty(), self.found.journal.is_empty()) {
            (true, true) => self.replay().await,
            (true, false) if self.found.journal_revision >= self.found.revision => self.cut_journal().await,
            (true, false) => self.rebuild_journal().await,
            (false, true) => self.rebuild_store().await,
            (false, false) => Err(Refusal::NothingWhole(self.found.lines().join("; ")).into()),
        }
    }

    async fn open(&self) -> Result<(Records, OpenReport), StoreError> {
        let kv: Arc<dyn Kv> = Arc::new(SqliteKv::open(self.store).await?);
        let keys = StoreKeys::derive(self.secret);
        Records::open(kv, self.journal, self.deployment, keys, None).await
    }

    /// Both are whole: opening does what there is to do. Unless a change was made
    /// while a record that the digest does not cover was not as the journal has it;
    /// then replaying does not lead where the journal says.
    async fn replay(&mut self) -> Result<(), StoreError> {
        match self.open().await {
            Ok((_, opened)) => self.notes.extend(opened.notes),
            Err(StoreError::Refused(Refusal::Diverged { .. })) => self.rebuild_store().await?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The journal is damaged behind all that the store has: what can be read of it counts.
    async fn cut_journal(&mut self) -> Result<(), StoreError> {
        let backup = free_name(self.journal).map_err(|error| journal_error(self.journal, error))?;
        let (path, copy) = (self.journal.to_owned(), backup.clone());
        let (keys, end) = (self.keys.clone(), self.found.journal_end);
        blocking(move || {
            copy_durably(&path, &copy).map_err(|error| journal_error(&copy, error))?;
            let source = Source::open(&path, &keys)?;
            let end = end.unwrap_or_else(|| source.header().point());
            source.continue_at(end).map(drop)
        })
        .await?;
        self.notes.push(format!(
            "cut the key journal behind revision {}, where it is damaged; later changes are lost; the old one is {}",
            self.found.journal_revision,
            backup.display()
        ));
        Ok(())
    }

    async fn rebuild_journal(&mut self) -> Result<(), StoreError> {
        let kv = SqliteKv::open(self.store).await?;
        let told = self.found.totals.ok_or(Refusal::NoStore)?;
        // A store of an older format does not say how many records it has.
        let found = verify_and_hash(&kv, &self.keys, told.revision).await?;
        if !found.add_up_to(&told) {
            return Err(Refusal::Diverged { revision: told.revision }.into());
        }
        self.replace_journal(&kv, found.totals, self.found.log.clone()).await
    }

    /// Makes a new journal out of the store and keeps the old one.
    async fn replace_journal(
        &mut self,
        kv: &dyn Kv,
        totals: Totals,
        log: LogState,
    ) -> Result<(), StoreError> {
        let failed = |error| journal_error(self.journal, error);
        let there = self.journal.try_exists().map_err(failed)?;
        let backup = there.then(|| free_name(self.journal)).transpose().map_err(failed)?;
        if let Some(backup) = &backup {
            std::fs::hard_link(self.journal, backup).map_err(|error| journal_error(backup, error))?;
        }
        write_journal(kv, self.journal, self.deployment, &self.keys, totals, log).await?;
        self.notes.push(format!(
            "rebuilt the key journal from the store at revision {}; {}",
            totals.revision,
            kept(backup.as_deref())
        ));
        Ok(())
    }

    async fn rebuild_store(&mut self) -> Result<(), StoreError> {
        let (Some(totals), Some(end)) = (self.found.journal_totals, self.found.journal_end) else {
            return Err(Refusal::NothingWhole("the key journal is empty".into()).into());
        };
        let failed = |error| KvError::Other(format!("{}: {error}", self.store.display()));
        let backup = set_aside(self.store).map_err(failed)?;
        let kv: Arc<dyn Kv> = Arc::new(SqliteKv::open(self.store).await?);
        fill_from_journal(kv.clone(), self.journal, &self.keys).await?;
        let rebuilt = verify_and_hash(kv.as_ref(), &self.keys, totals.revision).await?;
        if rebuilt.totals.digest != totals.digest {
            return Err(Refusal::Diverged { revision: totals.revision }.into());
        }
        self.notes.push(format!(
            "rebuilt the store from the key journal at revision {}; {}",
            totals.revision,
            kept(backup.as_deref())
        ));
        let log = self.found.journal_log.clone();
        if rebuilt.totals == totals {
            return write_meta(kv.as_ref(), &self.keys, self.deployment, totals, log, end).await;
        }
        if !rebuilt.add_up_to(&totals) {
            let note = "corrected its counts: a record that the digest does not cover had been edited before a change";
            self.notes.push(note.into());
        }
        self.replace_journal(kv.as_ref(), rebuilt.totals, log).await
    }
}

fn copy_durably(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    std::fs::File::open(to)?.sync_all()?;
    files::sync_directory(to)
}

async fn fill_from_journal(kv: Arc<dyn Kv>, journal: &Path, keys: &Arc<StoreKeys>) -> Result<(), StoreError> {
    let (path, keys) = (journal.to_owned(), keys.clone());
    let mut reader = blocking(move || Source::peek(&path, &keys)?.reader()).await?;
    let mut filler = Filler::new(kv);
    loop {
        let step;
        (reader, step) = blocking(move || {
            let step = reader.next()?;
            Ok::<_, StoreError>((reader, step))
        })
        .await?;
        match step {
            Step::Entry(entry) => filler.put(entry.writes).await?,
            _ => return filler.flush().await,
        }
    }
}

/// Renames the store's files, if there are any. SQLite finds the log by its name.
fn set_aside(store: &Path) -> std::io::Result<Option<PathBuf>> {
    let backup = free_name(store)?;
    let mut any = false;
    for suffix in ["-shm", "-wal", ""] {
        let file = files::beside(store, suffix);
        if file.try_exists()? {
            files::rename(&file, &files::beside(&backup, suffix))?;
            any = true;
        }
    }
    Ok(any.then_some(backup))
}

fn kept(backup: Option<&Path>) -> String {
    backup.map_or_else(|| "there was none".into(), |backup| format!("the old one is {}", backup.display()))
}

/// A name for the old version of a file: `store.db.before-repair-1` and so on.
fn free_name(path: &Path) -> std::io::Result<PathBuf> {
    let mut number = 1u32;
    loop {
        let name = files::beside(path, &format!(".before-repair-{number}"));
        if !name.try_exists()? {
            return Ok(name);
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Changes;
    use crate::store::testing::{
        DEPLOYMENT, Place as Dir, add, crash, dek, dek_path, first_records, keys, read, set,
    };

    type Damage<'a> = Box<dyn Fn(&Dir) + 'a>;

    fn secret() -> Key256 {
        Key256::init_with(|key| key.fill(0x5a))
    }

    /// A store of five revisions and what the disk had at the third.
    async fn store() -> (Dir, Dir, StoreChange) {
        let place = Dir::new();
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        add(&records, 2).await.unwrap();
        let image = place.image();
        set(&records, 1, 5).await.unwrap();
        let mut changes = Changes::new();
        changes.create(&dek_path(1), &dek(1));
        let newest = records.commit(changes).await.unwrap();
        crash(records);
        (place, image, newest)
    }

    async fn run(place: &Dir) -> Result<RepairReport, StoreError> {
        repair(&place.store(), &place.journal(), DEPLOYMENT, &secret()).await
    }

    async fn assert_repaired(place: &Dir, newest: StoreChange) {
        let (records, report) = place.open_after(Some(newest)).await.unwrap();
        assert_eq!((report.position, report.notes.len()), (newest, 0));
        assert_eq!(read(&records, 1).await, Some(5));
        assert_eq!(records.get(&dek_path(1)).await.unwrap().unwrap().record, dek(1));
        crash(records);
        let report = check(place.kv().await.as_ref(), &place.journal(), Arc::new(keys())).await.unwrap();
        assert!(report.is_whole(), "{:?}", report.lines());
    }

    #[tokio::test]
    async fn a_whole_store_is_left_alone() {
        let (place, image, newest) = store().await;
        let before = std::fs::read(place.journal()).unwrap();
        let report = run(&place).await.unwrap();
        assert_eq!((report.position, report.notes.len()), (newest, 0));
        assert_eq!(std::fs::read(place.journal()).unwrap(), before);
        // One that is only behind is brought up to date.
        std::fs::copy(place.journal(), image.journal()).unwrap();
        let report = run(&image).await.unwrap();
        assert_eq!(report.notes, ["replayed revisions 4 to 5 from the key journal"]);
        assert_repaired(&image, newest).await;
    }

    #[tokio::test]
    async fn a_damaged_store_is_rebuilt_from_the_journal() {
        let (place, ..) = store().await;
        let newest = place.open().await.unwrap().1.position;
        let damages: [(&str, Damage<'_>); 5] = [
            ("lost", Box::new(|place| std::fs::remove_file(place.store()).unwrap())),
            ("not SQLite", Box::new(|place| std::fs::write(place.store(), "x".repeat(9000)).unwrap())),
            (
                "pages",
                Box::new(|place| {
                    let mut bytes = std::fs::read(place.store()).unwrap();
                    bytes[3 * 4096..].fill(0x55);
                    std::fs::write(place.store(), bytes).unwrap();
                }),
            ),
            ("row", Box::new(|place| place.poke(&dek_path(1).key(), &[1; 60]))),
            (
                "meta",
                Box::new(|place| {
                    place.sql("DELETE FROM kv WHERE key = ?1", &[0xf1]);
                }),
            ),
        ];
        for (name, damage) in damages {
            let copy = place.image();
            damage(&copy);
            let report = run(&copy).await.unwrap();
            assert!(
                report.notes[0].starts_with("rebuilt the store from the key journal at revision 5"),
                "{name}"
            );
            assert_repaired(&copy, newest).await;
            assert_eq!(copy.dir.path().join("store.db.before-repair-1").exists(), name != "lost", "{name}");
        }
    }

    #[tokio::test]
    async fn a_damaged_lost_or_cut_journal_is_rebuilt_from_the_store() {
        let (place, image, newest) = store().await;
        let middle = std::fs::metadata(image.journal()).unwrap().len() as usize - 30;
        let damages: [(&str, Damage<'_>); 3] = [
            ("lost", Box::new(|place| std::fs::remove_file(place.journal()).unwrap())),
            (
                "cut",
                Box::new(|place| {
                    std::fs::copy(image.journal(), place.journal()).unwrap();
                }),
            ),
            (
                "damaged",
                Box::new(|place| {
                    let mut bytes = std::fs::read(place.journal()).unwrap();
                    bytes[middle] ^= 1;
                    std::fs::write(place.journal(), bytes).unwrap();
                }),
            ),
        ];
        for (name, damage) in damages {
            let copy = place.image();
            damage(&copy);
            let report = run(&copy).await.unwrap();
            assert!(
                report.notes[0].starts_with("rebuilt the key journal from the store at revision 5"),
                "{name}"
            );
            assert_repaired(&copy, newest).await;
            assert_eq!(copy.dir.path().join("journal.kwj.before-repair-1").exists(), name != "lost");
        }
    }

    #[tokio::test]
    async fn a_journal_damaged_behind_the_store_is_cut_there() {
        let (place, image, newest) = store().await;
        let mixed = image.image();
        let mut bytes = std::fs::read(place.journal()).unwrap();
        let damaged = std::fs::metadata(image.journal()).unwrap().len() as usize + 50;
        bytes[damaged] ^= 1;
        std::fs::write(mixed.journal(), &bytes).unwrap();
        let report = run(&mixed).await.unwrap();
        assert!(report.notes[0].starts_with("cut the key journal behind revision 3"), "{:?}", report.notes);
        assert_eq!(std::fs::read(mixed.dir.path().join("journal.kwj.before-repair-1")).unwrap(), bytes);
        assert_eq!(report.position.revision, 3);
        // What was lost does not go unnoticed.
        let refused = mixed.open_after(Some(newest)).await.err();
        assert!(matches!(refused, Some(StoreError::Refused(Refusal::RolledBack { store: 3, audit: 5 }))));
    }

    /// A wrapped DEK is taken away behind the daemon's back, and made anew by the
    /// daemon, which then counts one too many.
    #[tokio::test]
    async fn counts_that_an_edit_made_wrong_are_corrected() {
        let (place, image, _) = store().await;
        let (records, _) = place.open().await.unwrap();
        place.sql("DELETE FROM kv WHERE key = ?1", &dek_path(1).key());
        let mut changes = Changes::new();
        changes.create(&dek_path(1), &dek(1));
        let newest = records.commit(changes).await.unwrap();
        assert!(matches!(records.compact().await, Err(StoreError::Tampered { .. })));
        crash(records);
        // The same journal with a store from before the edit does not replay.
        std::fs::copy(place.journal(), image.journal()).unwrap();
        for copy in [&place, &image] {
            let report = run(copy).await.unwrap();
            assert!(report.notes[0].starts_with("rebuilt the store"), "{:?}", report.notes);
            assert!(report.notes[1].starts_with("corrected its counts"), "{:?}", report.notes);
            assert_repaired(copy, newest).await;
            let (records, _) = copy.open().await.unwrap();
            records.compact().await.unwrap();
        }
    }

    #[tokio::test]
    async fn nothing_is_guessed_when_both_are_damaged() {
        let (place, image, _) = store().await;
        std::fs::copy(image.journal(), place.journal()).unwrap();
        place.poke(&dek_path(1).key(), &[1; 60]);
        let before = std::fs::read(place.journal()).unwrap();
        assert!(matches!(run(&place).await, Err(StoreError::Refused(Refusal::NothingWhole(_)))));
        assert_eq!(std::fs::read(place.journal()).unwrap(), before);
        assert!(place.store().exists());
    }

    #[tokio::test]
    async fn a_running_daemon_is_not_disturbed() {
        let (place, ..) = store().await;
        let _running = place.open().await.unwrap();
        assert!(matches!(run(&place).await, Err(StoreError::Refused(Refusal::InUse(_)))));
    }

    #[tokio::test]
    async fn the_first_records_are_read_from_the_journal_without_a_key() {
        let (place, ..) = store().await;
        assert_eq!(bootstrap_journal(&place.journal()).await.unwrap(), Some(first_records()));
        let missing = bootstrap_journal(&place.dir.path().join("none")).await;
        assert!(matches!(missing, Err(StoreError::Refused(Refusal::NoJournal(_)))));
    }
}
