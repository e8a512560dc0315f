//! One suite for every backend: what the contract of [`Kv`] promises.

use std::future::Future;
use std::sync::Arc;

use super::kv::{Expect, Kv, KvError, Transaction, Write};

/// Runs every case. `open(false)` answers an empty store of its own, `open(true)`
/// opens the last one again.
///
/// # Panics
/// When the backend breaks the contract.
pub async fn suite<F: Future<Output = Arc<dyn Kv>>>(mut open: impl FnMut(bool) -> F) {
    an_empty_store_has_revision_zero(open(false).await).await;
    a_commit_is_read_back(open(false).await).await;
    a_conflict_changes_nothing(open(false).await).await;
    a_snapshot_stays(open(false).await).await;
    ranges_are_ordered_and_bounded(open(false).await).await;
    deletes_and_empty_values(open(false).await).await;
    scrubbing_changes_nothing_that_is_there(open(false).await).await;
    watchers_hear_everything_in_order(open(false).await).await;
    concurrent_counters_are_exact(open(false).await).await;
    let revision = write_for_reopen(open(false).await).await;
    read_after_reopen(open(true).await, revision).await;
}

fn put(key: &[u8], value: &[u8]) -> Write {
    Write { key: key.to_vec(), value: Some(value.to_vec()) }
}

fn delete(key: &[u8]) -> Write {
    Write { key: key.to_vec(), value: None }
}

fn expect(key: &[u8], revision: Option<u64>) -> Expect {
    Expect { key: key.to_vec(), revision }
}

fn writes(writes: impl IntoIterator<Item = Write>) -> Transaction {
    Transaction { expect: Vec::new(), writes: writes.into_iter().collect() }
}

async fn value(kv: &Arc<dyn Kv>, key: &[u8]) -> Option<(Vec<u8>, u64)> {
    let entry = kv.snapshot().await.unwrap().get(key).await.unwrap();
    entry.map(|entry| (entry.value, entry.revision))
}

async fn revision(kv: &Arc<dyn Kv>) -> u64 {
    kv.snapshot().await.unwrap().revision()
}

async fn scrubbing_changes_nothing_that_is_there(kv: Arc<dyn Kv>) {
    kv.commit(writes([put(b"gone", b"a value to be found"), put(b"kept", b"2")])).await.unwrap();
    kv.commit(writes([delete(b"gone")])).await.unwrap();
    for thorough in [false, true] {
        kv.scrub(thorough).await.unwrap();
        assert_eq!((revision(&kv).await, value(&kv, b"kept").await), (2, Some((b"2".to_vec(), 1))));
        for file in kv.files().iter().filter(|file| file.exists()) {
            let bytes = std::fs::read(file).unwrap();
            assert!(!bytes.windows(7).any(|part| part == b"a value"), "{}", file.display());
        }
    }
}

async fn an_empty_store_has_revision_zero(kv: Arc<dyn Kv>) {
    assert_eq!(revision(&kv).await, 0);
    assert_eq!(value(&kv, b"a").await, None);
    assert!(kv.snapshot().await.unwrap().range(b"", None, 10).await.unwrap().is_empty());
    assert!(!kv.name().is_empty());
}

async fn a_commit_is_read_back(kv: Arc<dyn Kv>) {
    assert_eq!(kv.commit(writes([put(b"a", b"1"), put(b"b", b"2")])).await.unwrap(), 1);
    assert_eq!(kv.commit(writes([put(b"b", b"3")])).await.unwrap(), 2);
    assert_eq!(kv.commit(writes([])).await.unwrap(), 3, "an empty commit counts");
    assert_eq!(revision(&kv).await, 3);
    assert_eq!(value(&kv, b"a").await, Some((b"1".to_vec(), 1)));
    assert_eq!(value(&kv, b"b").await, Some((b"3".to_vec(), 2)));
    let keys = [b"b".to_vec(), b"x".to_vec(), b"a".to_vec()];
    let many = kv.snapshot().await.unwrap().get_many(&keys).await.unwrap();
    let many: Vec<_> = many.into_iter().map(|entry| entry.map(|entry| entry.value)).collect();
    assert_eq!(many, [Some(b"3".to_vec()), None, Some(b"1".to_vec())]);
}

async fn a_conflict_changes_nothing(kv: Arc<dyn Kv>) {
    kv.commit(writes([put(b"a", b"1")])).await.unwrap();
    let wrong = [(b"a", None), (b"a", Some(0)), (b"a", Some(2)), (b"b", Some(1))];
    for (key, revision) in wrong {
        let transaction = Transaction {
            expect: vec![expect(b"c", None), expect(key, revision)],
            writes: vec![put(b"a", b"2"), put(b"c", b"3")],
        };
        let answer = kv.commit(transaction).await;
        assert!(matches!(answer, Err(KvError::Conflict)), "{key:?} {revision:?}: {answer:?}");
    }
    assert_eq!(revision(&kv).await, 1);
    assert_eq!(value(&kv, b"a").await, Some((b"1".to_vec(), 1)));
    assert_eq!(value(&kv, b"c").await, None);
    let right = Transaction {
        expect: vec![expect(b"a", Some(1)), expect(b"b", None)],
        writes: vec![put(b"a", b"2")],
    };
    assert_eq!(kv.commit(right).await.unwrap(), 2);
}

async fn a_snapshot_stays(kv: Arc<dyn Kv>) {
    kv.commit(writes([put(b"a", b"1"), put(b"b", b"1")])).await.unwrap();
    let mut old = kv.snapshot().await.unwrap();
    kv.commit(writes([put(b"a", b"2"), delete(b"b"), put(b"c", b"2")])).await.unwrap();
    let mut new = kv.snapshot().await.unwrap();
    kv.commit(writes([delete(b"a")])).await.unwrap();
    assert_eq!((old.revision(), new.revision()), (1, 2));
    assert_eq!(old.get(b"a").await.unwrap().unwrap().value, b"1");
    assert_eq!(old.get(b"c").await.unwrap(), None);
    assert_eq!(old.range(b"", None, 10).await.unwrap().len(), 2);
    assert_eq!(new.get(b"a").await.unwrap().unwrap().value, b"2");
    assert_eq!(new.get(b"b").await.unwrap(), None);
    assert_eq!(value(&kv, b"a").await, None);
}

/// Prefix, after, limit, and the keys expected.
type Range<'a> = (&'a [u8], Option<&'a [u8]>, usize, &'a [&'a [u8]]);

async fn ranges_are_ordered_and_bounded(kv: Arc<dyn Kv>) {
    let keys: [&[u8]; 8] = [b"", b"a", b"a\0", b"a\0b", b"a\xff", b"a\xff\xff", b"b", b"\xff\xff"];
    kv.commit(writes(keys.iter().rev().map(|key| put(key, b"v")))).await.unwrap();
    let mut snapshot = kv.snapshot().await.unwrap();
    let cases: [Range<'_>; 8] = [
        (b"", None, 100, &keys),
        (b"a", None, 100, &keys[1..6]),
        (b"a", None, 2, &keys[1..3]),
        (b"a", Some(b"a\0"), 2, &keys[3..5]),
        (b"a", Some(b""), 100, &keys[1..6]),
        (b"a", Some(b"b"), 100, &[]),
        (b"\xff", None, 100, &keys[7..]),
        (b"", None, 0, &[]),
    ];
    for (prefix, after, limit, expected) in cases {
        let found = snapshot.range(prefix, after, limit).await.unwrap();
        let found: Vec<&[u8]> = found.iter().map(|(key, _)| key.as_slice()).collect();
        assert_eq!(found, expected, "{prefix:?} after {after:?}, at most {limit}");
    }
}

async fn deletes_and_empty_values(kv: Arc<dyn Kv>) {
    kv.commit(writes([put(b"a", b""), put(b"b", b"2")])).await.unwrap();
    assert_eq!(value(&kv, b"a").await, Some((Vec::new(), 1)));
    kv.commit(writes([delete(b"b"), delete(b"not there")])).await.unwrap();
    assert_eq!(value(&kv, b"b").await, None);
    let absent = Transaction { expect: vec![expect(b"b", None)], writes: vec![put(b"b", b"3")] };
    kv.commit(absent).await.unwrap();
    assert_eq!(value(&kv, b"b").await, Some((b"3".to_vec(), 3)));
}

async fn watchers_hear_everything_in_order(kv: Arc<dyn Kv>) {
    kv.commit(writes([put(b"before", b"")])).await.unwrap();
    let mut watcher = kv.watch();
    let tasks: Vec<_> = (0..8u8)
        .map(|n| {
            let kv = kv.clone();
            tokio::spawn(async move { kv.commit(writes([put(&[n], b""), delete(b"x")])).await.unwrap() })
        })
        .collect();
    let mut made = Vec::new();
    for task in tasks {
        made.push(task.await.unwrap());
    }
    made.sort_unstable();
    assert_eq!(made, (2..10).collect::<Vec<_>>(), "each revision is exactly one more");
    for revision in 2..10 {
        let change = watcher.recv().await.unwrap();
        assert_eq!(change.revision, revision);
        assert_eq!(change.keys.len(), 2);
        assert_eq!(change.keys[1], b"x");
        assert_eq!(value(&kv, &change.keys[0]).await.unwrap().1, revision);
    }
    assert!(matches!(kv.commit(conflicting()).await, Err(KvError::Conflict)));
    assert!(watcher.try_recv().is_err(), "nobody hears of a conflict");
}

fn conflicting() -> Transaction {
    Transaction { expect: vec![expect(b"nothing", Some(1))], writes: vec![put(b"y", b"")] }
}

async fn concurrent_counters_are_exact(kv: Arc<dyn Kv>) {
    let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(count_to(kv.clone(), 25))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(value(&kv, b"counter").await.unwrap().0, 100u64.to_be_bytes());
    assert_eq!(revision(&kv).await, 100);
}

async fn count_to(kv: Arc<dyn Kv>, times: u32) {
    for _ in 0..times {
        while !increment(&kv).await {}
    }
}

async fn increment(kv: &Arc<dyn Kv>) -> bool {
    let old = kv.snapshot().await.unwrap().get(b"counter").await.unwrap();
    let number = old.as_ref().map_or(0, |entry| u64::from_be_bytes(entry.value.clone().try_into().unwrap()));
    let transaction = Transaction {
        expect: vec![expect(b"counter", old.map(|entry| entry.revision))],
        writes: vec![put(b"counter", &(number + 1).to_be_bytes())],
    };
    match kv.commit(transaction).await {
        Ok(_) => true,
        Err(KvError::Conflict) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn write_for_reopen(kv: Arc<dyn Kv>) -> u64 {
    kv.commit(writes([put(b"a", b"1"), put(b"b", b"2")])).await.unwrap();
    kv.commit(writes([delete(b"b")])).await.unwrap()
}

async fn read_after_reopen(kv: Arc<dyn Kv>, expected: u64) {
    assert_eq!(revision(&kv).await, expected);
    assert_eq!(value(&kv, b"a").await, Some((b"1".to_vec(), 1)));
    assert_eq!(value(&kv, b"b").await, None);
    assert_eq!(kv.commit(writes([put(b"c", b"3")])).await.unwrap(), expected + 1);
}
