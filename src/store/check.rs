//! The full check: every record, the digest, the journal, and the two against each other.

use std::collections::HashMap;
use std::path::Path as FilePath;
use std::sync::Arc;

use super::blocking::blocking;
use super::digest::Place;
use super::error::{Refusal, StoreError};
use super::journal::{Entry, Kind, Reader, Source, Step};
use super::kv::{Kv, KvError, Write};
use super::mac::{StoreKeys, mac_of};
use super::meta::{JournalPoint, LogState, Meta, Totals};
use super::scan::{Scan, Sum};
use super::tables::describe;

mod decided;

pub use decided::decided;

/// Problems told one by one; the rest is only counted.
const TOLD: usize = 50;

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The store's newest revision.
    pub revision: u64,
    /// Records in the store.
    pub records: u64,
    /// The journal's newest revision that can be read.
    pub journal_revision: u64,
    /// Entries of the journal that can be read.
    pub journal_entries: u64,
    /// What is wrong with the store; nothing when it is whole.
    pub store: Problems,
    /// What is wrong with the journal; nothing when it is whole.
    pub journal: Problems,
    /// What records say of each other and is not so; see [`decided`](fn@decided). Nothing while they were not compared.
    pub decided: Problems,
    // Where the readable part of the journal ends.
    pub(super) journal_end: Option<JournalPoint>,
    // What the store says that it holds, if its meta row is genuine.
    pub(super) totals: Option<Totals>,
    // What it says that the audit log had.
    pub(super) log: LogState,
    // What the journal says at its end.
    pub(super) journal_totals: Option<Totals>,
    pub(super) journal_log: LogState,
}

/// What is wrong, in words.
#[derive(Debug, Default)]
pub struct Problems {
    told: Vec<String>,
    count: u64,
}

impl Problems {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first of them.
    pub fn told(&self) -> &[String] {
        &self.told
    }

    pub(super) fn add(&mut self, problem: impl Into<String>) {
        self.count += 1;
        if self.told.len() < TOLD {
            self.told.push(problem.into());
        }
    }
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.store.is_empty() && self.journal.is_empty() && self.decided.is_empty()
    }

    /// The report in lines for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "store: {} records at revision {}, {}",
                self.records,
                self.revision,
                verdict(&self.store)
            ),
            format!(
                "key journal: {} entries up to revision {}, {}",
                self.journal_entries,
                self.journal_revision,
                verdict(&self.journal)
            ),
        ];
        lines.extend(self.store.told.iter().map(|problem| format!("store: {problem}")));
        lines.extend(self.journal.told.iter().map(|problem| format!("key journal: {problem}")));
        lines.extend(self.decided.told.iter().map(|problem| format!("records: {problem}")));
        lines
    }
}

fn verdict(problems: &Problems) -> String {
    match problems.count {
        0 => "whole".into(),
        1 => "1 problem".into(),
        count => format!("{count} problems"),
    }
}

/// Reads everything and verifies it. Changes nothing; needs about 100 bytes of
/// memory per record. While a daemon works on the store, its latest changes may
/// be in the journal only.
///
/// # Errors
/// When reading fails; what is wrong with the contents stands in the report.
pub async fn check(kv: &dyn Kv, journal: &FilePath, keys: Arc<StoreKeys>) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    let mut scan = Scan::new(kv.snapshot().await?);
    let meta = read_meta(&mut scan, &keys, &mut report).await?;
    let (mut report, copy) = read_journal(journal, keys.clone(), meta.clone(), report).await?;
    if let Some(meta) = meta {
        match check_store(&mut scan, &keys, &meta, copy.as_ref(), &mut report).await {
            Err(StoreError::Kv(KvError::Damaged(damage))) => report.store.add(damage),
            other => other?,
        }
    }
    Ok(report)
}

/// Checks the journal of a store that cannot be opened because of `damage`.
///
/// # Errors
/// When reading fails; what is wrong with the contents stands in the report.
pub async fn check_journal(
    journal: &FilePath,
    keys: Arc<StoreKeys>,
    damage: String,
) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    report.store.add(damage);
    Ok(read_journal(journal, keys, None, report).await?.0)
}

async fn read_journal(
    journal: &FilePath,
    keys: Arc<StoreKeys>,
    meta: Option<Meta>,
    mut report: CheckReport,
) -> Result<(CheckReport, Option<Copy>), StoreError> {
    let journal = journal.to_owned();
    blocking(move || {
        let copy = read_entries(&journal, &keys, meta.as_ref(), &mut report)?;
        Ok((report, copy))
    })
    .await
}

async fn read_meta(
    scan: &mut Scan,
    keys: &StoreKeys,
    report: &mut CheckReport,
) -> Result<Option<Meta>, StoreError> {
    let meta = match scan.get(&Meta::key()).await {
        Ok(Some(row)) => open_meta(&row, keys),
        Ok(None) => Err(Refusal::NoStore.into()),
        Err(StoreError::Kv(KvError::Damaged(damage))) => Err(KvError::Damaged(damage).into()),
        Err(error) => return Err(error),
    };
    match meta {
        Ok(meta) => {
            (report.revision, report.totals) = (meta.totals.revision, Some(meta.totals));
            report.log = meta.log.clone();
            Ok(Some(meta))
        }
        Err(problem) => {
            report.store.add(problem.to_string());
            Ok(None)
        }
    }
}

/// The row, also of a store that is still to be migrated.
fn open_meta(row: &[u8], keys: &StoreKeys) -> Result<Meta, StoreError> {
    match Meta::open_format_2(row, keys)? {
        Some(old) => Ok(old),
        None => Meta::open(row, keys),
    }
}

/// The newest version of each record, by the journal: half of its MAC.
#[derive(Default)]
pub(super) struct Copy(pub(super) HashMap<Place, [u8; 16]>);

impl Copy {
    /// Makes the changes of an entry.
    pub(super) fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            match &write.value {
                Some(value) => self.0.insert(Place::of(&write.key), half(value)),
                None => self.0.remove(&Place::of(&write.key)),
            };
        }
    }
}

pub(super) fn half(value: &[u8]) -> [u8; 16] {
    mac_of(value).first_chunk().copied().unwrap_or_default()
}

/// Reads the journal as far as it can be read. Answers the records at the
/// store's revision, if it gets there.
fn read_entries(
    path: &FilePath,
    keys: &Arc<StoreKeys>,
    meta: Option<&Meta>,
    report: &mut CheckReport,
) -> Result<Option<Copy>, StoreError> {
    let source = match Source::peek(path, keys) {
        Ok(source) => source,
        Err(StoreError::Refused(refusal)) => {
            report.journal.add(refusal.to_string());
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut reader = source.reader()?;
    let mut copy = Copy::default();
    let mut at_store = None;
    while let Some(Entry { kind, totals, writes, log }) = read_entry(&mut reader, report)? {
        if at_store.is_none() {
            copy.apply(&writes);
        }
        if kind == Kind::Part {
            continue;
        }
        report.journal_totals = Some(totals);
        report.journal_log = log;
        report.journal_revision = totals.revision;
        report.journal_end = Some(reader.point());
        if at_store.is_none() && meta.is_some_and(|meta| meta.totals.revision <= totals.revision) {
            at_store = Some(totals);
        }
    }
    compare_places(meta, at_store, report);
    Ok(at_store.filter(|totals| Some(totals) == meta.map(|meta| &meta.totals)).map(|_| copy))
}

fn read_entry(reader: &mut Reader, report: &mut CheckReport) -> Result<Option<Entry>, StoreError> {
    let offset = reader.point().offset;
    match reader.next()? {
        Step::Entry(entry) => {
            report.journal_entries += 1;
            Ok(Some(entry))
        }
        // An unfinished entry at the end is what a crash leaves, and no damage.
        Step::End | Step::Torn => Ok(None),
        Step::Damaged => {
            let revision = report.journal_revision;
            report.journal.add(Refusal::JournalDamaged { offset, revision }.to_string());
            Ok(None)
        }
    }
}

/// Says who is to blame when the journal does not have the store's revision.
fn compare_places(meta: Option<&Meta>, at_store: Option<Totals>, report: &mut CheckReport) {
    let Some(store) = meta.map(|meta| meta.totals) else { return };
    let journal = report.journal_revision;
    match at_store {
        Some(found) if found == store => (),
        Some(found) if found.revision > store.revision => {
            let refusal = Refusal::StoreCut { store: store.revision, journal: found.revision };
            report.store.add(refusal.to_string());
        }
        Some(_) => {
            let refusal = Refusal::Diverged { revision: store.revision }.to_string();
            report.store.add(refusal.clone());
            report.journal.add(refusal);
        }
        None => report.journal.add(Refusal::JournalCut { store: store.revision, journal }.to_string()),
    }
}

async fn check_store(
    scan: &mut Scan,
    keys: &StoreKeys,
    meta: &Meta,
    copy: Option<&Copy>,
    report: &mut CheckReport,
) -> Result<(), StoreError> {
    let mut sum = Sum::new();
    let mut found = 0;
    loop {
        let rows = scan.next().await?;
        if rows.is_empty() {
            break;
        }
        for (key, value) in rows {
            report.records += 1;
            let in_journal = copy.map(|copy| copy.0.get(&Place::of(&key)));
            found += u64::from(in_journal.flatten().is_some());
            if in_journal.is_some_and(|version| version != Some(&half(&value))) {
                report.store.add(format!("{} is not the newest version in the key journal", describe(&key)));
            }
            if let Err(problem) = sum.add(&key, value, keys, meta.totals.revision) {
                report.store.add(problem.to_string());
            }
        }
    }
    if let Some(missing) = copy.and_then(|copy| (copy.0.len() as u64).checked_sub(found)).filter(|n| *n > 0) {
        report.store.add(format!("{missing} records of the key journal are missing"));
    }
    let (found, nodes) = sum.finish(meta.totals.revision);
    let totals = found.totals;
    if !found.add_up_to(&meta.totals) {
        report.store.add(format!(
            "its records do not add up: found {} ({} covered), the meta row says {} ({})",
            totals.records(),
            totals.covered(),
            meta.totals.records(),
            meta.totals.covered()
        ));
    }
    let mut nodes =
        nodes.into_iter().rev().filter_map(|Write { key, value }| value.map(|value| (key, value)));
    let mut same = true;
    loop {
        let found = scan.next_nodes().await?;
        if found.is_empty() {
            break;
        }
        same &= found.into_iter().all(|node| nodes.next().as_ref() == Some(&node));
    }
    if !same || nodes.next().is_some() {
        report.store.add("the digest's hash tree is not the one of its records");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{Place as Dir, add, crash, dek, dek_path, keys, set, tenant_path};
    use crate::store::{Changes, Records};

    async fn store(place: &Dir) -> Records {
        let records = place.create().await;
        for number in 1..4 {
            add(&records, number).await.unwrap();
        }
        let mut changes = Changes::new();
        changes.create(&dek_path(1), &dek(1));
        records.commit(changes).await.unwrap();
        records
    }

    type Edit<'a> = Box<dyn Fn(&Dir) + 'a>;

    async fn run(place: &Dir) -> CheckReport {
        check(place.kv().await.as_ref(), &place.journal(), Arc::new(keys())).await.unwrap()
    }

    #[tokio::test]
    async fn a_whole_store_is_found_whole_also_under_a_running_daemon() {
        let place = Dir::new();
        let records = store(&place).await;
        let report = run(&place).await;
        assert!(report.is_whole(), "{:?}", report.lines());
        assert_eq!((report.records, report.revision, report.journal_revision), (6, 5, 5));
        assert_eq!(
            report.lines(),
            ["store: 6 records at revision 5, whole", "key journal: 6 entries up to revision 5, whole"]
        );
        drop(records);
    }

    #[tokio::test]
    async fn every_edit_of_the_store_is_found() {
        let place = Dir::new();
        let records = store(&place).await;
        let old = place.peek(&dek_path(1).key());
        let mut changes = Changes::new();
        changes.replace(&dek_path(1), &dek(2), 5).create(&dek_path(2), &dek(3));
        records.commit(changes).await.unwrap();
        crash(records);
        let node = Place::of(&tenant_path(1).key()).nodes()[3].key();
        let cases: [(&str, Edit<'_>); 7] = [
            ("old dek", Box::new(|place| place.poke(&dek_path(1).key(), &old))),
            (
                "dek removed",
                Box::new(|place| {
                    place.sql("DELETE FROM kv WHERE key = ?1", &dek_path(2).key());
                }),
            ),
            ("dek added", Box::new(|place| place.poke(&dek_path(3).key(), &old))),
            (
                "tenant removed",
                Box::new(|place| {
                    place.sql("DELETE FROM kv WHERE key = ?1", &tenant_path(1).key());
                }),
            ),
            ("node changed", Box::new(|place| place.poke(&node, &[1; 512]))),
            ("node added", Box::new(|place| place.poke(&[0xf0, 4, 0xff, 0xff], &[1; 48]))),
            ("meta row", Box::new(|place| place.poke(&Meta::key(), &[1; 100]))),
        ];
        for (name, edit) in cases {
            let copy = place.image();
            edit(&copy);
            let report = run(&copy).await;
            assert!(!report.store.is_empty() && report.journal.is_empty(), "{name}: {:?}", report.lines());
        }
        let report = run(&place).await;
        assert!(report.is_whole(), "{:?}", report.lines());
    }

    #[tokio::test]
    async fn every_edit_of_the_journal_is_found() {
        let place = Dir::new();
        crash(store(&place).await);
        let genuine = std::fs::read(place.journal()).unwrap();
        for at in (0..genuine.len()).step_by(11) {
            let mut edited = genuine.clone();
            edited[at] ^= 0x20;
            std::fs::write(place.journal(), &edited).unwrap();
            let report = run(&place).await;
            assert!(report.store.is_empty() && !report.journal.is_empty(), "byte {at}: {:?}", report.lines());
        }
        std::fs::remove_file(place.journal()).unwrap();
        assert_eq!(run(&place).await.journal.count(), 1);
    }

    #[tokio::test]
    async fn a_store_behind_its_journal_is_whole() {
        let place = Dir::new();
        let records = store(&place).await;
        let image = place.image();
        set(&records, 1, 9).await.unwrap();
        crash(records);
        std::fs::copy(place.journal(), image.journal()).unwrap();
        let report = run(&image).await;
        assert!(report.is_whole(), "{:?}", report.lines());
        assert_eq!((report.revision, report.journal_revision), (5, 6));
    }

    #[tokio::test]
    async fn problems_are_counted_when_there_are_too_many_to_tell() {
        let mut problems = Problems::default();
        for number in 0..200 {
            problems.add(number.to_string());
        }
        assert_eq!((problems.count(), problems.told().len()), (200, 50));
    }
}
