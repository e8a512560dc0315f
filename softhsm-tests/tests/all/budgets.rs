//! What one right can make without end has a number: refusals in the log, fields of an index, open logins.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use keyward::audit::{Outcome, Record};
use keyward::client::{Client, Code, Context, Error};
use keyward::id::{FieldId, KeyName};
use keyward::rpc::proto::{
    EncryptRequest, GetRotationRequest, Normalization, RotateIndexKeyRequest, RotateKeyRequest,
    RotateTenantRequest, rotation,
};
use keyward::store::tables;
use keyward_softhsm_tests::staff::{ORIGIN, Staff, begin_from, complete};
use keyward_softhsm_tests::wire::{Wire, field, message};
use keyward_softhsm_tests::{KEY, PATIENCE, World, create_key, eventually};
use rusqlite::Connection;
use serde_json::Value;
use tonic_types::StatusExt;

/// A key on which nothing is granted.
const FOREIGN: &str = "tenants/zeta/keys/orders";
/// Refusals at once that have a record of their own, by default.
const BURST: u64 = 200;

/// A world whose tester may work with the keys of one tenant only.
fn narrow() -> World {
    let mut world = World::new();
    world.reconfigure("keys = [\"tenants/*/keys/*\"]", "keys = [\"tenants/acme/keys/*\"]");
    world.init();
    world
}

/// Refused calls, or items of a session, by how the log tells of them.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    recorded: u64,
    counted: u64,
}

fn told(records: &[Record]) -> Told {
    let refused = |record: &&Record| matches!(record.outcome, Outcome::Failed(_));
    let items = |record: &Record| record.items.as_ref().map(|items| u64::from(items.refused));
    let mut told = Told { recorded: 0, counted: 0 };
    for record in records.iter().filter(refused) {
        match record.operation.as_str() {
            "encrypt" | "session-encrypt" => told.recorded += items(record).unwrap_or(1),
            "refusals" => told.counted += items(record).unwrap_or_else(|| calls(record)),
            _ => {}
        }
    }
    told
}

fn calls(record: &Record) -> u64 {
    record.detail.as_deref().unwrap().split_once(" calls").unwrap().0.parse().unwrap()
}

fn counts(records: &[Record]) -> Vec<&Record> {
    records.iter().filter(|record| record.operation == "refusals").collect()
}

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test]
async fn refusals_without_end_are_counted_and_the_counts_add_up() {
    const CALLS: u64 = 800;
    let world = narrow();
    let (daemon, client) = world.start_with_key().await;
    let began = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    // On several connections: each has its own limit of streams.
    for _ in 0..8 {
        let crypto = daemon.crypto().await;
        for _ in 0..CALLS / 8 {
            let mut crypto = crypto.clone();
            let asked = EncryptRequest { name: FOREIGN.into(), plaintext: "x".into(), ..Default::default() };
            calls.spawn(async move { crypto.encrypt(asked).await.map(drop) });
        }
    }
    let mut too_often = 0;
    for answer in calls.join_all().await {
        match reason(&answer.unwrap_err()).as_str() {
            "PERMISSION_DENIED" => {}
            "REFUSED_TOO_OFTEN" => too_often += 1,
            other => panic!("{other}"),
        }
    }
    // Whoever may is served meanwhile, and has a record of its own.
    client.encrypt(KEY, "x", &Context::new()).await.unwrap();
    assert!(daemon.stop().await.success());
    let seconds = began.elapsed().as_secs() + 1;

    let records = world.audit();
    let Told { recorded, counted } = told(&records);
    assert_eq!(recorded + counted, CALLS, "{:?}", counts(&records));
    assert!((BURST..=BURST + 20 * seconds).contains(&recorded), "{recorded} in {seconds} s");
    let counts = counts(&records);
    // One a second, and a last one at the stop.
    assert!(!counts.is_empty() && counts.len() as u64 <= seconds + 1, "{counts:?}");
    let mut answered = 0;
    for record in &counts {
        assert_eq!(record.caller.as_ref().unwrap().principal.as_deref(), Some("tester"));
        assert_eq!(record.outcome, Outcome::Failed("REFUSED_TOO_OFTEN".into()));
        let words = record.detail.as_deref().unwrap();
        assert!(words.contains(&format!("PERMISSION_DENIED encrypt {FOREIGN}")), "{words}");
        let overflow = words.strip_suffix(" of them answered REFUSED_TOO_OFTEN");
        answered += overflow.map_or(0, |rest| rest.rsplit(' ').next().unwrap().parse().unwrap());
    }
    assert_eq!(answered, too_often);
    let lines = world.log().lines().filter(|line| line.contains("PERMISSION_DENIED")).count();
    assert_eq!(lines as u64, recorded, "a log line for each record, and no other");
}

/// Items of a session, each of a key of its own, so that each would be a record.
fn refused_items(client: &Client, count: u64) -> tokio::task::JoinSet<()> {
    let mut items = tokio::task::JoinSet::new();
    for number in 0..count {
        let client = client.clone();
        items.spawn(async move {
            let name = format!("tenants/zeta/keys/k{number}");
            let error: Error = client.encrypt(&name, "x", &Context::new()).await.map(drop).unwrap_err();
            assert!(["PERMISSION_DENIED", "REFUSED_TOO_OFTEN"].contains(&error.reason()), "{error}");
        });
    }
    items
}

#[tokio::test]
async fn a_session_of_refused_items_does_not_fill_the_log() {
    const ITEMS: u64 = 600;
    const LATER: u64 = 100;
    const TRIES: u64 = 3;
    let world = narrow();
    let (daemon, client) = world.start_with_key().await;
    refused_items(&client, ITEMS).join_all().await;
    // What is served does not wait with what is refused in the same session.
    let mut fastest = Duration::MAX;
    for _ in 0..TRIES {
        let refused = refused_items(&client, LATER);
        daemon.status().await.unwrap();
        let asked = Instant::now();
        client.encrypt(KEY, "x", &Context::new()).await.unwrap();
        fastest = fastest.min(asked.elapsed());
        refused.join_all().await;
    }
    assert!(fastest < Duration::from_millis(500), "{fastest:?}");
    assert!(daemon.stop().await.success());
    let records = world.audit();
    let Told { recorded, counted } = told(&records);
    assert_eq!(recorded + counted, ITEMS + TRIES * LATER, "{:?}", counts(&records));
    assert!(recorded >= BURST && counted > 0, "{recorded} and {counted}");
}

#[tokio::test]
async fn a_refused_file_leaves_one_record() {
    let world = narrow();
    let (daemon, client) = world.start_with_key().await;
    let context = Context::new();
    for _ in 0..3 {
        let mut out = Vec::new();
        client.encrypt_stream(FOREIGN, &context, &b"a file"[..], &mut out).await.unwrap_err();
        client.decrypt_stream(FOREIGN, &context, &[0_u8; 200][..], &mut out).await.unwrap_err();
    }
    assert!(daemon.stop().await.success());
    let records = world.audit();
    let of = |operation: &str| records.iter().filter(|record| record.operation == operation).count();
    assert_eq!(["encrypt-stream", "decrypt-stream"].map(of), [3, 3]);
    assert_eq!(["encrypt-stream-end", "decrypt-stream-end"].map(of), [0, 0]);
}

/// A call that is begun and given up costs its caller nothing, and no more records than a refusal.
#[tokio::test]
async fn calls_that_were_given_up_are_counted() {
    const CONNECTIONS: u64 = 10;
    const CALLS: u32 = 60;
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let began = Instant::now();
    let socket = world.socket();
    let given_up = tokio::task::spawn_blocking(move || {
        let asked = message(&[field(1, KEY.as_bytes()), field(2, b"x")].concat());
        for _ in 0..CONNECTIONS {
            let mut wire = Wire::hello(&socket, 1 << 20).unwrap();
            for number in 0..CALLS {
                // A file counts as a whole message in flight, so there are few.
                let path = if number % 6 == 0 { "EncryptStream" } else { "Encrypt" };
                wire.open(1 + 2 * number, &format!("/keyward.v1.CryptoService/{path}"));
            }
            // Behind all of them: when it is answered, the daemon has them too. Then the connection is closed.
            wire.call(1 + 2 * CALLS, "/keyward.v1.CryptoService/Encrypt", &asked);
            wire.until_ended(PATIENCE);
            assert!(!wire.dead && wire.answered > 0);
        }
    });
    given_up.await.unwrap();
    client.encrypt(KEY, "x", &Context::new()).await.unwrap();
    drop(client);
    assert!(daemon.stop().await.success());
    let seconds = began.elapsed().as_secs() + 1;

    let records = world.audit();
    let cancelled = records.iter().filter(|record| record.outcome == Outcome::Cancelled).count() as u64;
    assert!(cancelled <= BURST + 20 * seconds, "{cancelled} in {seconds} s");
    let counted: u64 = counts(&records).into_iter().map(calls).sum();
    // The stop may come before the daemon has seen that the last one was closed.
    let (all, last) = (CONNECTIONS * u64::from(CALLS), u64::from(CALLS));
    assert!((all - last..=all).contains(&(cancelled + counted)), "{cancelled} and {counted} of {all}");
    let told = |record: &&Record| record.detail.as_deref().unwrap().contains("CANCELLED");
    assert!(counts(&records).iter().any(told), "{:?}", counts(&records));
}

/// How many records the store has.
fn rows(world: &World) -> u64 {
    let checked = world.cli(["store", "check", "--json", "--config", &world.config_file()]);
    let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
    checked["records"].as_u64().unwrap_or_else(|| panic!("{checked}"))
}

/// Waits until a rotation of the tenant is done; answers how many keys it moved, and how many it expected.
async fn rotate(client: &Client, tenant: &str) -> (u64, u64) {
    let begun = client.keys().rotate_tenant(RotateTenantRequest { name: tenant.to_owned() }).await.unwrap();
    let expected = begun.into_inner();
    eventually("the rotation is done", || async {
        let asked = GetRotationRequest { name: expected.name.clone() };
        let now = client.keys().get_rotation(asked).await.unwrap().into_inner();
        (now.state() == rotation::State::Done).then_some((now.done, expected.total))
    })
    .await
}

#[tokio::test]
async fn a_refused_value_makes_no_index_key() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    client.blind_index(KEY, "phone", "138-1234", Normalization::Digits).await.unwrap();
    let before = rows(&world);
    for number in 0..20 {
        let field = format!("f{number}");
        let refused = client.blind_index(KEY, &field, &b"\xff"[..], Normalization::Text).await.unwrap_err();
        assert_eq!((refused.code, refused.reason()), (Code::InvalidArgument, "ARGUMENT_INVALID"));
        let refused = client.blind_index(KEY, &field, "no digits", Normalization::Digits).await.unwrap_err();
        assert_eq!(refused.reason(), "ARGUMENT_INVALID");
    }
    // The daemon may have put down a row of its own meanwhile, and not one for each.
    assert!(rows(&world) < before + 10);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_key_has_so_many_index_fields_and_no_more() {
    let mut world = World::ready();
    world.config.push_str("\n[limits]\nindex_fields = 3\n");
    let (daemon, client) = world.start_with_key().await;
    let index = async |client: &Client, field: &str| {
        client.blind_index(KEY, field, "a value", Normalization::Text).await.map(|found| found.index)
    };
    let mut indexes = Vec::new();
    for field in ["name", "phone", "city"] {
        indexes.push(index(&client, field).await.unwrap());
    }
    let before = rows(&world);
    for number in 0..10 {
        let refused = index(&client, &format!("f{number}")).await.unwrap_err();
        assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "INDEX_FIELD_LIMIT"));
        assert!(refused.to_string().contains("limits.index_fields"), "{refused}");
    }
    assert!(rows(&world) < before + 5);
    // Each key has its own; those that are there are in use, and are replaced.
    create_key(&client, "acme", "orders").await;
    let other = "tenants/acme/keys/orders";
    client.blind_index(other, "f0", "a value", Normalization::Text).await.unwrap();
    let asked = RotateIndexKeyRequest { name: KEY.into(), field: "city".into() };
    let replaced = client.call(client.keys().rotate_index_key(asked)).await.unwrap();
    assert_eq!(replaced.primary_version, 2);

    // A rotation finds every one of them: two data keys, and five index keys.
    assert_eq!(rotate(&client, "tenants/acme").await, (7, 7));
    assert!(daemon.stop().await.success());
    let daemon = world.start().await;
    let client = daemon.client().await;
    let found = client.blind_index(KEY, "city", "a value", Normalization::Text).await.unwrap();
    assert_eq!(found.previous, [indexes[2].clone()]);
    for (field, before) in ["name", "phone"].into_iter().zip(&indexes) {
        assert_eq!(index(&client, field).await.unwrap(), *before);
    }
    assert_eq!(index(&client, "street").await.unwrap_err().reason(), "INDEX_FIELD_LIMIT");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_field_that_was_taken_out_of_the_store_is_missed() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    for field in ["phone", "city"] {
        client.blind_index(KEY, field, "a value", Normalization::Text).await.unwrap();
    }
    let row = tables::index_field(&KeyName::parse(KEY).unwrap(), &FieldId::new("city").unwrap()).key();
    let store = Connection::open(world.path("state/store.db")).unwrap();
    store.busy_timeout(Duration::from_secs(5)).unwrap();
    let select = "SELECT value, revision FROM kv WHERE key = ?1";
    let (value, revision): (Vec<u8>, i64) =
        store.query_row(select, [&row], |found| Ok((found.get(0)?, found.get(1)?))).unwrap();
    assert_eq!(store.execute("DELETE FROM kv WHERE key = ?1", [&row]).unwrap(), 1);
    // A change of the key has it looked at again.
    client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap();
    let missed = client.blind_index(KEY, "phone", "a value", Normalization::Text).await.unwrap_err();
    assert_eq!((missed.code, missed.reason()), (Code::DataLoss, "STORE_TAMPERED"), "{missed}");
    let insert = "INSERT INTO kv (key, value, revision) VALUES (?1, ?2, ?3)";
    store.execute(insert, (&row, &value, revision)).unwrap();
    client.blind_index(KEY, "city", "a value", Normalization::Text).await.unwrap();
    drop(store);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn one_more_field_costs_the_journal_as_much_as_the_first() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let size = || std::fs::metadata(world.path("state/journal.kwj")).unwrap().len();
    let make = async |numbers: std::ops::Range<u32>| {
        let before = size();
        for number in numbers {
            let field = format!("a-field-with-a-rather-long-name-{number}");
            client.blind_index(KEY, &field, "a value", Normalization::Text).await.unwrap();
        }
        size() - before
    };
    make(10..20).await;
    let first = make(20..30).await;
    make(30..63).await;
    let last = make(63..73).await;
    assert!(last * 4 < first * 5, "{first} bytes for ten fields, and later {last}");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_visitor_of_the_login_page_locks_nobody_out() {
    let mut world = World::new();
    world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
    world.init();
    let daemon = world.start().await;
    let client = daemon.client().await;
    let mut alice = Staff::new(&client, "alice").await;
    let bob = Staff::new(&client, "bob").await;
    let waiting = begin_from(&client, &bob.account, "198.51.100.8").await.unwrap();

    // 4096 are an application's share.
    let mut begins = tokio::task::JoinSet::new();
    let mut begun = 0;
    for number in 0..4600 {
        if begins.len() >= 256 {
            begun += u32::from(begins.join_next().await.unwrap().unwrap());
        }
        let client = client.clone();
        begins.spawn(async move {
            let from = format!("203.0.113.{}", number % 17);
            begin_from(&client, &format!("accounts/x{number}"), &from).await.is_ok()
        });
    }
    begun += begins.join_all().await.into_iter().map(u32::from).sum::<u32>();
    assert!(begun > 4096, "{begun} were begun");

    // Who began before that, and who begins now, from elsewhere.
    let answer = bob.answer(&waiting, bob.passwords.at(1));
    complete(&client, answer).await.unwrap();
    alice.log_in(&client).await.unwrap();
    let asked = Instant::now();
    begin_from(&client, "accounts/nobody", "198.51.100.9").await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(daemon.stop().await.success());
}
