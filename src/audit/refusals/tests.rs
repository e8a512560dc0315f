//! Budgets by given times; counts that add up, through a log on disk.

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::audit::file::tests::{open, settings};
use crate::audit::{FileLog, verify};

const BUDGET: Budget = Budget { per_second: 20, burst: 200 };

fn refusal(principal: Option<&str>, resource: &str) -> Refusal {
    let caller = Caller {
        principal: principal.map(str::to_owned),
        uid: 7,
        gid: 8,
        pid: Some(9),
        staff: Some("accounts/alice".into()),
        assertion: Some("an assertion".into()),
        client: Some("192.0.2.7".into()),
    };
    let (operation, reason) = ("encrypt", "PERMISSION_DENIED");
    Refusal { caller: Some(caller), operation, resource: resource.to_owned(), reason, items: 0 }
}

/// A log, and refusals that go to it; true stops the counting.
fn counting(dir: &Path) -> (Arc<FileLog>, Arc<Refusals>, TaskTracker, watch::Sender<bool>) {
    let (log, _) = open(&settings(dir));
    let (tasks, stop) = (TaskTracker::new(), watch::Sender::new(false));
    let refusals = Refusals::new(log.clone(), BUDGET, tasks.clone(), stop.subscribe());
    (log, refusals, tasks, stop)
}

fn counts(dir: &Path) -> Vec<Record> {
    let records = verify::read(&settings(dir).dir).unwrap().map(|item| item.unwrap().1);
    records.filter(|record| record.operation == OPERATION).collect()
}

/// How many calls a record says that it counts.
fn calls(record: &Record) -> u64 {
    let words = record.detail.as_deref().unwrap();
    words.split_once(" calls").unwrap().0.parse().unwrap()
}

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let (mut bucket, start) = (Bucket::default(), Moment::now());
    let mut taken = |now| (0..1000).filter(|_| bucket.take(BUDGET, now)).count();
    assert_eq!((taken(start), taken(start)), (200, 0));
    assert_eq!(taken(start.after(Duration::from_millis(49))), 0);
    assert_eq!(taken(start.after(Duration::from_millis(50))), 1);
    assert_eq!(taken(start.after(Duration::from_millis(1050))), 20);
    assert_eq!(taken(start.after(Duration::from_secs(3600))), 200, "no more than the burst");
}

#[test]
fn one_principal_does_not_use_up_what_another_has() {
    let temp = TempDir::new().unwrap();
    let (_log, refusals, _tasks, _stop) = counting(temp.path());
    let now = Moment::now();
    let taken = |who| (0..1000).filter(|_| refusals.admit(who, now)).count();
    assert_eq!((taken(Some("a")), taken(Some("a")), taken(Some("b")), taken(None)), (200, 0, 200, 200));
    assert!(
        refusals.admit_line(Some("a"), now),
        "log lines of calls that were served have a budget of their own"
    );
}

#[tokio::test]
async fn every_refusal_is_recorded_or_counted() {
    let temp = TempDir::new().unwrap();
    let (log, refusals, tasks, stop) = counting(temp.path());
    let now = Moment::now();
    let (mut recorded, mut waiting, mut not_waiting) = (0, Vec::new(), 0);
    for number in 0..3000_u64 {
        if refusals.admit(Some("crm"), now) {
            recorded += 1;
            continue;
        }
        match refusals.count(refusal(Some("crm"), &format!("tenants/a/keys/k{}", number % 40)), now) {
            Some(one) => waiting.push(one),
            None => not_waiting += 1,
        }
    }
    assert_eq!((recorded, waiting.len(), not_waiting), (200, WAITING, 2800 - WAITING));
    stop.send_replace(true);
    for one in waiting {
        assert!(one.durable().await.unwrap().sequence() <= log.durable());
    }
    tasks.close();
    tasks.wait().await;
    let [record] = counts(temp.path()).try_into().unwrap();
    assert_eq!(calls(&record), 2800);
    let words = record.detail.clone().unwrap();
    assert!(words.contains(" PERMISSION_DENIED encrypt tenants/a/keys/k"), "{words}");
    let named: u64 = words
        .split_once(": ")
        .unwrap()
        .1
        .split("; ")
        .filter(|part| !part.contains(" of them "))
        .map(|part| part.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(named, 2800, "{words}");
    assert_eq!(words.matches("PERMISSION_DENIED").count(), NAMED);
    assert!(words.ends_with(&format!("; {not_waiting} of them answered REFUSED_TOO_OFTEN")), "{words}");
    assert_eq!(record.outcome, Outcome::Failed(TOO_OFTEN.into()));
    let caller = record.caller.unwrap();
    assert_eq!((caller.principal.as_deref(), caller.uid, caller.pid), (Some("crm"), 7, None));
    assert_eq!((caller.staff, caller.client), (None, None));
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_counted_too() {
    let temp = TempDir::new().unwrap();
    let (_log, refusals, tasks, stop) = counting(temp.path());
    for who in [Some("crm"), Some("crm"), None] {
        drop(refusals.count(Refusal { items: 3, ..refusal(who, "") }, Moment::now()));
    }
    stop.send_replace(true);
    tasks.close();
    tasks.wait().await;
    let mut found: Vec<_> = counts(temp.path())
        .iter()
        .map(|record| (calls(record), record.items.as_ref().map(|items| (items.done, items.refused))))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [(1, Some((0, 3))), (2, Some((0, 6)))]);
}

#[tokio::test]
async fn a_count_is_closed_after_its_second_and_another_one_opened() {
    let temp = TempDir::new().unwrap();
    let (_log, refusals, _tasks, _stop) = counting(temp.path());
    let count = || refusals.count(refusal(Some("crm"), "tenants/a/keys/b"), Moment::now()).unwrap();
    let (begun, first, second) = (Moment::now(), count(), count());
    let one = first.durable().await.unwrap().sequence();
    assert!(Moment::now().since(begun) >= PERIOD);
    assert_eq!(second.durable().await.unwrap().sequence(), one);
    assert_eq!(count().durable().await.unwrap().sequence(), one + 1);
    assert_eq!(counts(temp.path()).iter().map(calls).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_told_to_whoever_waits() {
    let temp = TempDir::new().unwrap();
    let (log, refusals, _tasks, stop) = counting(temp.path());
    let waiting = refusals.count(refusal(Some("crm"), ""), Moment::now()).unwrap();
    log.close().unwrap();
    stop.send_replace(true);
    assert_eq!(waiting.durable().await.unwrap_err(), AuditError::Stopped);
}

#[test]
fn resources_are_kept_up_to_the_length_of_a_name() {
    assert_eq!(shortened("tenants/a/keys/b".into()), "tenants/a/keys/b");
    assert_eq!(shortened("x".repeat(500)).len(), RESOURCE);
    // Never in the middle of a character.
    assert_eq!(shortened(format!("x{}", "\u{1f512}".repeat(50))).len(), 1 + 39 * 4);
    assert_eq!(shortened(String::new()), "");
}
