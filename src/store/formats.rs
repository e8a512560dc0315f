//! Files of every format that was ever written stay readable.

use std::sync::Arc;

use super::check::check;
use super::files::remove_if_there;
use super::journal::draft_path;
use super::meta::Meta;
use super::tables::describe;
use super::testing::tenant_path;
use super::testing::{Place, dek, dek_path, erasure_secret, keys, keys_without_erasure, read};
use super::transfer::import;
use super::{Records, StoreChange, StoreError};
use crate::id::ErasureGeneration;
use crate::secret::Key256;

/// Files of one format, all of the same store.
struct Fixture {
    store: &'static [u8],
    journal: &'static [u8],
    export: &'static [u8],
}

macro_rules! fixture {
    ($name:literal) => {
        Fixture {
            store: include_bytes!(concat!("fixtures/", $name, ".db")),
            journal: include_bytes!(concat!("fixtures/", $name, ".kwj")),
            export: include_bytes!(concat!("fixtures/", $name, ".kwx")),
        }
    };
}

/// Wrapped keys stand as they are in format 1, and are sealed under an erasure key in format 2.
const FIXTURES: [Fixture; 2] = [fixture!("format-1"), fixture!("format-2")];

/// What the audit log would have said about the fixtures.
fn position() -> StoreChange {
    let digest = "8d4deb22c6dc56657cde131bad512df0d06ac5f3f41e3bae3ee1bba0ce1d9f84";
    StoreChange { revision: 4, digest: hex::decode(digest).unwrap().try_into().unwrap() }
}

fn place_of(fixture: &Fixture) -> Place {
    let place = Place::new();
    std::fs::write(place.store(), fixture.store).unwrap();
    std::fs::write(place.journal(), fixture.journal).unwrap();
    place
}

async fn assert_good(place: &Place, records: &Records) {
    assert_eq!(records.position(), position());
    assert_eq!(read(records, 1).await, Some(5));
    assert_eq!(records.get(&dek_path(1)).await.unwrap().unwrap().record, dek(1));
    let report = check(place.kv().await.as_ref(), &place.journal(), Arc::new(keys())).await.unwrap();
    assert!(report.is_whole(), "{:?}", report.lines());
}

#[tokio::test]
async fn every_format_of_the_store_and_the_journal_opens() {
    for fixture in &FIXTURES {
        let place = place_of(fixture);
        let (records, report) = place.open_after(Some(position())).await.unwrap();
        assert!(report.migrated.unwrap().starts_with("migrated the store to format 3"));
        assert_eq!(report.notes, Vec::<String>::new());
        assert_good(&place, &records).await;
        drop(records);
        let (records, report) = place.open_after(Some(position())).await.unwrap();
        assert_eq!((report.migrated, report.notes), (None, Vec::<String>::new()), "once");
        assert_good(&place, &records).await;
    }
}

#[tokio::test]
async fn every_format_of_an_export_is_imported() {
    for fixture in &FIXTURES {
        let place = Place::new();
        import(fixture.export, place.kv().await, &place.journal(), keys()).await.unwrap();
        let (records, _) = place.open_after(Some(position())).await.unwrap();
        assert_good(&place, &records).await;
    }
}

#[tokio::test]
async fn format_1_is_copied_and_its_wrapped_keys_are_sealed() {
    let place = place_of(&FIXTURES[0]);
    let (records, _) = place.open().await.unwrap();
    let copy = place.dir.path().join("store.db.format-1.bak");
    assert!(copy.exists());
    let wrapped = place.peek(&dek_path(1).key())[41..].to_vec();
    let first = ErasureGeneration::FIRST;
    records.open_erasure_key(first, erasure_secret(1));
    records.seal_under(first).await;
    let batch = records.to_reseal(first, None, 100).await.unwrap();
    assert_eq!((batch.changes.len(), batch.next), (1, None));
    records.commit(batch.changes).await.unwrap();
    records.leave_behind(first).await.unwrap();
    for file in [place.store(), place.journal()] {
        let bytes = std::fs::read(file).unwrap();
        assert!(!bytes.windows(wrapped.len()).any(|window| window == wrapped));
    }
    assert_eq!(records.get(&dek_path(1)).await.unwrap().unwrap().record, dek(1));
}

#[tokio::test]
async fn format_2_says_nothing_without_its_erasure_key() {
    let place = place_of(&FIXTURES[1]);
    let keys = keys_without_erasure();
    let (records, _) =
        Records::open(place.kv().await, &place.journal(), super::testing::DEPLOYMENT, keys, Some(position()))
            .await
            .unwrap();
    assert_eq!(read(&records, 1).await, Some(5), "what is no wrapped key");
    let error = records.get(&dek_path(1)).await.unwrap_err();
    assert!(matches!(error, super::StoreError::Erased { .. }), "{error}");
}

/// Runs the commands of the runbook's page, of which systemd's are for another test, on the files of `place`.
fn go_back_by_the_runbook(place: &Place, format: i64) {
    let page = include_str!("../../docs/runbook.md").split("\n## The way back\n").nth(1).unwrap();
    let block = page.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let kept = place.dir.path().join("kept");
    let commands = block.lines().map(|line| line.strip_prefix("# ").unwrap());
    let commands: Vec<&str> = commands.filter(|command| !command.starts_with("systemctl ")).collect();
    assert_eq!(commands.len(), 5, "{commands:?}");
    let script = commands
        .join("\n")
        .replace("/var/lib/keyward", place.dir.path().to_str().unwrap())
        .replace("/root/keyward-format-3", kept.to_str().unwrap())
        .replace("format-2", &format!("format-{format}"));
    let done = std::process::Command::new("sh").args(["-euc", &script]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(kept.join("store.db").exists());
}

fn is_of_format(place: &Place, format: i64) {
    let store = rusqlite::Connection::open(place.store()).unwrap();
    let old: i64 = store.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let meta = "SELECT value FROM kv WHERE key = ?1";
    let meta: Vec<u8> = store.query_row(meta, [Meta::key()], |row| row.get(0)).unwrap();
    assert_eq!(old, format);
    assert!(Meta::open_format_2(&meta, &keys()).unwrap().is_some());
}

/// After the runbook's page the program before can go on; and from there the migration can be done once more.
#[tokio::test]
async fn a_migration_leaves_the_way_back() {
    for (format, fixture) in (1..).zip(&FIXTURES) {
        let place = place_of(fixture);
        for _ in 0..2 {
            drop(place.open_after(Some(position())).await.unwrap());
            let copy = place.dir.path().join(format!("journal.kwj.format-{format}.bak"));
            assert!(copy.exists() && !copy.with_extension("bak.new").exists());
            assert_ne!(std::fs::read(place.journal()).unwrap(), fixture.journal);
            go_back_by_the_runbook(&place, format);
            assert_eq!(std::fs::read(place.journal()).unwrap(), fixture.journal);
            is_of_format(&place, format);
            std::fs::remove_dir_all(place.dir.path().join("kept")).unwrap();
        }
        let (records, _) = place.open_after(Some(position())).await.unwrap();
        assert_good(&place, &records).await;
    }
}

/// What opens the database stamps it; the journal follows when the HSM has opened the keys.
#[tokio::test]
async fn there_is_a_way_back_from_a_store_that_was_only_stamped() {
    for (format, fixture) in (1..).zip(&FIXTURES) {
        let place = place_of(fixture);
        drop(place.kv().await);
        assert!(!place.dir.path().join(format!("journal.kwj.format-{format}.bak")).exists());
        go_back_by_the_runbook(&place, format);
        assert_eq!(std::fs::read(place.journal()).unwrap(), fixture.journal);
        is_of_format(&place, format);
        let (records, _) = place.open_after(Some(position())).await.unwrap();
        assert_good(&place, &records).await;
    }
}

#[tokio::test]
async fn a_store_that_lacks_a_record_is_not_migrated_and_told_which() {
    for fixture in &FIXTURES {
        for key in [tenant_path(1).key(), dek_path(1).key()] {
            let place = place_of(fixture);
            let row = place.peek(&key);
            assert_eq!(place.sql("DELETE FROM kv WHERE key = ?1", &key), 1);
            let error = place.open_after(Some(position())).await.err().unwrap();
            assert!(matches!(error, StoreError::NotMigrated { .. }), "{error}");
            assert!(error.to_string().contains(&describe(&key)), "{error}");
            // Nothing was decided: with the record it is as good as before.
            place.poke(&key, &row);
            let (records, _) = place.open_after(Some(position())).await.unwrap();
            assert_good(&place, &records).await;
        }
    }
}

#[tokio::test]
async fn a_migration_that_a_crash_cut_short_is_done_again() {
    for fixture in &FIXTURES {
        let place = place_of(fixture);
        let old_journal = std::fs::read(place.journal()).unwrap();
        let old_meta = place.peek(&Meta::key());
        drop(place.open_after(Some(position())).await.unwrap());
        let (new_journal, new_meta) = (std::fs::read(place.journal()).unwrap(), place.peek(&Meta::key()));
        let draft = draft_path(&place.journal());
        let crash = |meta: &[u8], journal: &[u8], half: Option<&[u8]>| {
            place.poke(&Meta::key(), meta);
            std::fs::write(place.journal(), journal).unwrap();
            match half {
                Some(bytes) => std::fs::write(&draft, bytes).unwrap(),
                None => drop(remove_if_there(&draft).unwrap()),
            }
        };
        // Before the draft, in it, behind it, behind the meta row.
        let half = &new_journal[..100];
        let cases: [(&[u8], Option<&[u8]>); 4] = [
            (&old_meta, None),
            (&old_meta, Some(half)),
            (&old_meta, Some(&new_journal)),
            (&new_meta, Some(&new_journal)),
        ];
        for (number, (meta, half)) in cases.into_iter().enumerate() {
            crash(meta, &old_journal, half);
            let opened = place.open_after(Some(position())).await;
            let (records, _) = opened.unwrap_or_else(|error| panic!("case {number}: {error}"));
            assert_good(&place, &records).await;
            let format = u32::from_be_bytes(fixture.journal[4..8].try_into().unwrap());
            let kept = place.dir.path().join(format!("journal.kwj.format-{format}.bak"));
            assert_eq!(std::fs::read(kept).unwrap(), old_journal, "case {number}");
        }
        // A repair finishes what the start would have: the journal is not damaged, it has another name.
        crash(&new_meta, &old_journal, Some(&new_journal));
        let secret = Key256::init_with(|key| key.fill(0x5a));
        let repaired =
            super::repair::repair(&place.store(), &place.journal(), super::testing::DEPLOYMENT, &secret)
                .await
                .unwrap();
        assert_eq!(repaired.notes, ["gave the migrated key journal its name"]);
        assert_eq!(std::fs::read(place.journal()).unwrap(), new_journal);
        // Of an older format than the journal: somebody put it back.
        crash(&old_meta, &std::fs::read(place.journal()).unwrap(), None);
        let error = place.open_after(Some(position())).await.err().unwrap();
        assert!(matches!(error, StoreError::Tampered { .. }), "{error}");
    }
}
