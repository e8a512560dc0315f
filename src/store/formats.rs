//! Files of every format that was ever written stay readable.

use std::sync::Arc;

use super::check::check;
use super::testing::{Place, dek, dek_path, keys, read};
use super::transfer::import;
use super::{Records, StoreChange};

const STORE: &[u8] = include_bytes!("fixtures/format-1.db");
const JOURNAL: &[u8] = include_bytes!("fixtures/format-1.kwj");
const EXPORT: &[u8] = include_bytes!("fixtures/format-1.kwx");

/// What the audit log would have said about the fixtures.
fn position() -> StoreChange {
    let digest = "8d4deb22c6dc56657cde131bad512df0d06ac5f3f41e3bae3ee1bba0ce1d9f84";
    StoreChange { revision: 4, digest: hex::decode(digest).unwrap().try_into().unwrap() }
}

async fn assert_good(place: &Place, records: Records) {
    assert_eq!(records.position(), position());
    assert_eq!(read(&records, 1).await, Some(5));
    assert_eq!(records.get(&dek_path(1)).await.unwrap().unwrap().record, dek(1));
    let report = check(place.kv().await.as_ref(), &place.journal(), Arc::new(keys())).await.unwrap();
    assert!(report.is_whole(), "{:?}", report.lines());
}

#[tokio::test]
async fn format_1_of_the_store_and_the_journal_opens() {
    let place = Place::new();
    std::fs::write(place.store(), STORE).unwrap();
    std::fs::write(place.journal(), JOURNAL).unwrap();
    let (records, report) = place.open_after(Some(position())).await.unwrap();
    assert_eq!(report.notes, Vec::<String>::new());
    assert_good(&place, records).await;
}

#[tokio::test]
async fn format_1_of_an_export_is_imported() {
    let place = Place::new();
    import(EXPORT, place.kv().await, &place.journal(), keys()).await.unwrap();
    let (records, _) = place.open_after(Some(position())).await.unwrap();
    assert_good(&place, records).await;
}
