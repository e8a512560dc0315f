//! Files of every format that was ever written stay readable.

use std::sync::Arc;

use super::check::check;
use super::testing::{Place, dek, dek_path, erasure_secret, keys, keys_without_erasure, read};
use super::transfer::import;
use super::{Records, StoreChange};
use crate::id::ErasureGeneration;

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
        assert_eq!(report.notes, Vec::<String>::new());
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
