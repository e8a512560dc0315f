//! What may be used when, by the clock of the test; and the order of opening and flushing.

use std::time::Duration;

use super::*;
use crate::config::value::Span;
use crate::hsm::TokenInfo;

const HOUR: Duration = Duration::from_secs(3600);

fn name() -> KeyName {
    KeyName::parse("tenants/a/keys/b").unwrap()
}

fn open(class: DataClass, opened: Moment) -> Opened<u32> {
    Opened::new(0, name(), class, opened)
}

fn fresh(secret: u32) -> Opened<u32> {
    Opened::new(secret, name(), DataClass::Basic, Moment::now())
}

fn away() -> Status {
    Status::Down { reason: String::new() }
}

fn limited(uses: u64) -> Rules {
    let mut classes = Classes::default();
    classes.basic.cache_uses = uses;
    Rules::new(classes)
}

async fn find(keys: &OpenKeys<u8, u32>, rules: &Rules, secret: u32) -> u32 {
    keys.find_or_open(&1, rules, async { Ok(fresh(secret)) }).await.unwrap().secret
}

#[test]
fn age_counts_while_the_hsm_is_there_and_absence_while_it_is_not() {
    let (rules, start) = (Rules::new(Classes::default()), Moment::now());
    let later = |seconds| start.after(Duration::from_secs(seconds));
    let (basic, highest) = (open(DataClass::Basic, start), open(DataClass::Highest, start));
    assert_eq!(basic.fitness(later(899), &rules), Fitness::Usable);
    assert_eq!(basic.fitness(later(900), &rules), Fitness::Expired);
    rules.note(&away());
    assert_eq!(basic.fitness(later(299), &rules), Fitness::Usable);
    assert_eq!(basic.fitness(later(310), &rules), Fitness::Expired);
    assert_eq!(highest.fitness(later(0), &rules), Fitness::Expired);
    rules.note(&Status::Ready { epoch: 2, token: TokenInfo::default() });
    assert_eq!(highest.fitness(later(899), &rules), Fitness::Usable);
}

#[test]
fn a_key_that_is_too_old_does_not_come_back_because_the_hsm_goes() {
    let mut classes = Classes::default();
    classes.basic.cache_ttl = Span(Duration::ZERO);
    let (rules, start) = (Rules::new(classes), Moment::now());
    rules.note(&away());
    assert_eq!(open(DataClass::Basic, start).fitness(start, &rules), Fitness::Expired);
}

#[test]
fn a_long_absence_outlasts_the_age_that_a_key_reaches_in_it() {
    let mut classes = Classes::default();
    classes.basic.serve_without_hsm = Span(HOUR);
    let (rules, start) = (Rules::new(classes), Moment::now());
    rules.note(&away());
    let later = start.after(Duration::from_secs(1800));
    assert_eq!(open(DataClass::Basic, start).fitness(later, &rules), Fitness::Usable);
}

#[tokio::test]
async fn a_key_is_opened_anew_after_its_uses() {
    let (keys, rules) = (OpenKeys::new(4), limited(2));
    let mut seen = Vec::new();
    for secret in 0..5 {
        seen.push(find(&keys, &rules, secret).await);
    }
    assert_eq!(seen, [0, 0, 2, 2, 4]);
    let stats = keys.stats();
    assert_eq!((stats.entries, stats.hits, stats.misses, stats.used_up), (1, 2, 3, 2));
}

#[tokio::test]
async fn a_used_up_key_serves_on_when_the_hsm_is_gone_before_that_was_noted() {
    let (keys, rules) = (OpenKeys::new(4), limited(1));
    find(&keys, &rules, 7).await;
    let gone = async { Err(Error::Hsm(HsmError::Unavailable("gone".into()))) };
    assert_eq!(keys.find_or_open(&1, &rules, gone).await.unwrap().secret, 7);
    let broken = async { Err(Error::Hsm(HsmError::Integrity)) };
    assert!(keys.find_or_open(&1, &rules, broken).await.is_err(), "only absence is forgiven");
}

#[tokio::test]
async fn a_key_that_is_flushed_while_it_is_opened_does_not_stay() {
    let (keys, rules) = (OpenKeys::new(4), Rules::new(Classes::default()));
    let opened = keys.find_or_open(&1, &rules, async {
        keys.flush(|_| true);
        Ok(fresh(1))
    });
    assert_eq!(opened.await.unwrap().secret, 1, "the call began before the flush");
    let stats = keys.stats();
    assert_eq!((stats.entries, stats.flushed), (0, 1));
    assert_eq!(find(&keys, &rules, 2).await, 2);
}

#[tokio::test]
async fn sweeping_and_flushing_are_counted_apart() {
    let (keys, rules) = (OpenKeys::new(4), Rules::new(Classes::default()));
    find(&keys, &rules, 1).await;
    keys.sweep(&rules);
    keys.flush(|_| false);
    assert_eq!(keys.stats().entries, 1);
    keys.flush(|affected| *affected == name());
    let highest = async { Ok(open(DataClass::Highest, Moment::now())) };
    keys.find_or_open(&2, &rules, highest).await.unwrap();
    rules.note(&away());
    keys.sweep(&rules);
    let stats = keys.stats();
    assert_eq!((stats.entries, stats.flushed, stats.expired, stats.evicted), (0, 1, 1, 0));
}

#[tokio::test]
async fn room_is_made_and_counted() {
    let (keys, rules) = (OpenKeys::new(4), Rules::new(Classes::default()));
    for id in 0..40u8 {
        keys.find_or_open(&id, &rules, async { Ok(fresh(0)) }).await.unwrap();
    }
    let stats = keys.stats();
    assert!(stats.entries <= 8 && stats.entries + stats.evicted == 40, "{stats:?}");
}
