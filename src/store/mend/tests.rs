use std::sync::Arc;

use super::*;
use crate::id::ErasureGeneration;
use crate::store::Changes;
use crate::store::check::check;
use crate::store::testing::{
    Fault, FaultyKv, Lie, Place as Dir, add, crash, dek, dek_path, erasure_secret, keys, read, set,
    tenant_path,
};

fn cause() -> Cause {
    Cause::own("store-row-restored", "store")
}

/// Two tenants and two wrapped keys, of which one was changed since; what its row was before.
async fn store_on(place: &Dir, kv: Arc<dyn crate::store::kv::Kv>) -> (Records, Vec<u8>) {
    let records = place.create_on(kv).await;
    add(&records, 1).await.unwrap();
    add(&records, 2).await.unwrap();
    let mut changes = Changes::new();
    changes.create(&dek_path(1), &dek(1)).create(&dek_path(2), &dek(2));
    records.commit(changes).await.unwrap();
    let old = place.peek(&dek_path(1).key());
    seal_again(&records, 1, 7).await;
    (records, old)
}

async fn store(place: &Dir) -> (Records, Vec<u8>) {
    store_on(place, place.kv().await).await
}

/// A wrapped key is sealed anew, as a rotation does it.
async fn seal_again(records: &Records, number: u32, byte: u8) {
    let found = records.get(&dek_path(number)).await.unwrap().unwrap();
    let mut changes = Changes::new();
    changes.replace(&dek_path(number), &dek(byte), found.revision);
    records.commit(changes).await.unwrap();
}

async fn assert_whole(place: &Dir) {
    let report = check(place.kv().await.as_ref(), &place.journal(), Arc::new(keys())).await.unwrap();
    assert!(report.is_whole(), "{:?}", report.lines());
}

#[tokio::test]
async fn whatever_row_was_edited_is_as_the_journal_has_it_again() {
    type Edit = fn(&Dir, &[u8]);
    let node = |level: usize| Place::of(&tenant_path(1).key()).nodes()[level].key();
    let cases: [(&str, Vec<u8>, Edit); 7] = [
        ("an old wrapped key", dek_path(1).key(), |place, key| {
            let old = place.dir.path().join("old");
            place.poke(key, &std::fs::read(old).unwrap());
        }),
        ("a wrapped key taken away", dek_path(2).key(), |place, key| {
            assert_eq!(place.sql("DELETE FROM kv WHERE key = ?1", key), 1);
        }),
        ("a foreign row", dek_path(3).key(), |place, key| place.poke(key, &place.peek(&dek_path(2).key()))),
        ("an edited row", dek_path(2).key(), |place, key| {
            let mut value = place.peek(key);
            *value.last_mut().unwrap() ^= 1;
            place.poke(key, &value);
        }),
        ("a tenant taken away", tenant_path(2).key(), |place, key| {
            assert_eq!(place.sql("DELETE FROM kv WHERE key = ?1", key), 1);
        }),
        ("a node taken away", node(4), |place, key| {
            assert_eq!(place.sql("DELETE FROM kv WHERE key = ?1", key), 1);
        }),
        ("an edited node", node(2), |place, key| place.poke(key, &[1; 512])),
    ];
    for (name, key, edit) in cases {
        let place = Dir::new();
        let (records, old) = store(&place).await;
        std::fs::write(place.dir.path().join("old"), old).unwrap();
        let (genuine, before) = (std::fs::read(place.journal()).unwrap(), records.position());
        edit(&place, &key);
        let error = records.compact().await.unwrap_err();
        assert!(error.is_edited(), "{name}: {error}");
        let done = records.restore_rows(cause()).await.unwrap();
        let is_node = key.first() == Some(&crate::store::tables::Table::Digest.byte());
        assert_eq!(
            (done.count, done.nodes, done.change),
            (usize::from(!is_node), usize::from(is_node), None)
        );
        if !is_node {
            assert_eq!(done.rows, [describe(&key)], "{name}");
        }
        assert_eq!(std::fs::read(place.journal()).unwrap(), genuine, "{name}: the journal is not touched");
        assert_eq!(records.position(), before);
        assert_whole(&place).await;
        assert!(records.restore_rows(cause()).await.unwrap().is_empty(), "{name}: once");
        records.compact().await.unwrap();
        assert_eq!(records.get(&dek_path(1)).await.unwrap().unwrap().record, dek(7));
        assert_eq!((read(&records, 1).await, read(&records, 2).await), (Some(0), Some(0)));
    }
}

#[tokio::test]
async fn totals_that_a_change_of_an_old_row_made_wrong_are_corrected() {
    let place = Dir::new();
    let (records, old) = store(&place).await;
    place.poke(&dek_path(1).key(), &old);
    // Nothing tells the daemon that this is not the newest version; the key in it is the same.
    seal_again(&records, 1, 9).await;
    let before = records.position();
    assert!(records.compact().await.unwrap_err().is_edited());
    let done = records.restore_rows(cause()).await.unwrap();
    assert_eq!((done.count, done.nodes), (0, 0), "{done}");
    let change = done.change.unwrap();
    assert_eq!((change.revision, change.digest), (before.revision + 1, before.digest));
    assert!(done.to_string().contains("corrected"), "{done}");
    let unrecorded = records.unrecorded();
    assert_eq!(
        unrecorded.last().map(|intent| intent.revision),
        Some(change.revision),
        "it is to be on record"
    );
    assert_whole(&place).await;
    records.compact().await.unwrap();
    set(&records, 1, 4).await.unwrap();
    assert_whole(&place).await;
    crash(records);
    let (records, report) = place.open_after(Some(change)).await.unwrap();
    assert_eq!(report.replayed, 0);
    assert_eq!(records.get(&dek_path(1)).await.unwrap().unwrap().record, dek(9));
}

#[tokio::test]
async fn a_crash_while_totals_are_corrected_leaves_a_store_that_opens() {
    for fault in Fault::BOTH {
        let place = Dir::new();
        let kv = FaultyKv::new(place.kv().await);
        let (records, old) = store_on(&place, kv.clone()).await;
        place.poke(&dek_path(1).key(), &old);
        seal_again(&records, 1, 9).await;
        let before = records.position();
        kv.commits.next(fault);
        let error = records.restore_rows(cause()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsettled(_)), "{error}");
        let image = place.image();
        let (opened, report) = image.open().await.unwrap();
        assert_eq!(report.replayed, u64::from(fault == Fault::NotDone));
        assert_eq!(opened.position().revision, before.revision + 1);
        crash(opened);
        assert_whole(&image).await;
        // Without a crash the next change settles it.
        set(&records, 1, 3).await.unwrap();
        assert_whole(&place).await;
    }
}

#[tokio::test]
async fn what_the_journal_does_not_have_is_not_put_back() {
    let place = Dir::new();
    let (records, old) = store(&place).await;
    place.poke(&dek_path(1).key(), &old);
    let mut journal = std::fs::read(place.journal()).unwrap();
    let middle = journal.len() / 2;
    journal[middle] ^= 1;
    std::fs::write(place.journal(), journal).unwrap();
    let error = records.restore_rows(cause()).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(Refusal::JournalDamaged { .. })), "{error}");
    assert_eq!(place.peek(&dek_path(1).key()), old, "nothing was done");
}

#[tokio::test]
async fn a_row_that_stands_twice_is_not_written_away() {
    let place = Dir::new();
    let kv = FaultyKv::new(place.kv().await);
    let (records, _) = store_on(&place, kv.clone()).await;
    let row = place.peek(&dek_path(2).key());
    kv.lie(Lie::Doubled, dek_path(2).key());
    assert!(records.compact().await.unwrap_err().is_edited());
    assert!(records.restore_rows(cause()).await.unwrap_err().is_edited());
    kv.be_honest();
    assert_eq!(place.peek(&dek_path(2).key()), row);
    records.compact().await.unwrap();
}

/// Seals everything under the second erasure key.
async fn reseal(records: &Records) {
    let second = ErasureGeneration::FIRST.next().unwrap();
    records.open_erasure_key(second, erasure_secret(9));
    records.seal_under(second).await;
    let batch = records.to_reseal(second, None, 500).await.unwrap();
    records.commit(batch.changes).await.unwrap();
}

#[tokio::test]
async fn one_old_row_does_not_keep_an_erasure_key_alive() {
    let place = Dir::new();
    let (records, _) = store(&place).await;
    let second = ErasureGeneration::FIRST.next().unwrap();
    let old = place.peek(&dek_path(2).key());
    reseal(&records).await;
    place.poke(&dek_path(2).key(), &old);
    let error = records.leave_behind(second).await.unwrap_err();
    assert!(error.is_edited(), "no reason to wait for it to be sealed anew: {error}");
    // The totals say that there is no such row, so it is not read, sealed anew or changed either.
    assert!(records.get(&dek_path(2)).await.unwrap_err().is_edited());
    assert!(records.to_reseal(second, None, 500).await.unwrap_err().is_edited());
    let mut changes = Changes::new();
    changes.replace(&dek_path(2), &dek(9), 4);
    assert!(records.commit(changes).await.unwrap_err().is_edited());
    let done = records.restore_rows(cause()).await.unwrap();
    assert_eq!((done.rows, done.change), (vec![describe(&dek_path(2).key())], None));
    records.leave_behind(second).await.unwrap();
    records.forget_erasure_key(ErasureGeneration::FIRST);
    assert_eq!(records.get(&dek_path(2)).await.unwrap().unwrap().record, dek(2));
    assert_whole(&place).await;
}

#[tokio::test]
async fn nor_does_a_row_that_is_put_back_while_others_are_sealed_anew() {
    let place = Dir::new();
    let (records, _) = store(&place).await;
    let second = ErasureGeneration::FIRST.next().unwrap();
    let old = place.peek(&dek_path(1).key());
    records.open_erasure_key(second, erasure_secret(9));
    records.seal_under(second).await;
    // One row only, and then once more: the second time counts the other one out.
    for _ in 0..2 {
        let batch = records.to_reseal(second, None, 1).await.unwrap();
        records.commit(batch.changes).await.unwrap();
        place.poke(&dek_path(1).key(), &old);
    }
    assert!(
        records.to_reseal(second, None, 500).await.unwrap_err().is_edited(),
        "a row too many of the old key"
    );
    let done = records.restore_rows(cause()).await.unwrap();
    assert!(done.count == 1 && done.change.is_some(), "{done}");
    let batch = records.to_reseal(second, None, 500).await.unwrap();
    assert_eq!(batch.changes.len(), 1, "the other one");
    records.commit(batch.changes).await.unwrap();
    records.leave_behind(second).await.unwrap();
    assert_whole(&place).await;
}
