//! The audit log: a record for every call, before its reply, whatever the caller does.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyward::audit::{ItemDigest, Outcome, Record, merkle, verify};
use keyward::client::{Client, Code, Context, Item, context};
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::{CreateKeyRequest, DecryptRequest, EncryptRequest};
use keyward_softhsm_tests::{Daemon, KEY, PATIENCE, Random, World, create_key, text};
use rustix::process::Signal;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// How many calls are given up.
const CANCELLED: u64 = 10_000;
/// On how many connections.
const CONNECTIONS: usize = 16;

fn about(id: u64) -> Context {
    context([("id", id.to_string())])
}

fn encrypt_request(key: &str, id: u64) -> EncryptRequest {
    EncryptRequest { name: key.to_owned(), plaintext: format!("customer {id}").into(), context: about(id) }
}

/// Gives the calls of the daemon's one run: every call that was begun took a
/// number, and all numbers must be there.
fn every_call(world: &World) -> Vec<Record> {
    let of_callers = world.audit().into_iter().filter(|record| record.caller.is_some());
    let (counts, mut calls): (Vec<_>, Vec<_>) =
        of_callers.partition(|record: &Record| record.operation == "refusals");
    calls.sort_by_key(|record| record.request_id);
    let numbers: Vec<_> = calls.iter().map(|record| record.request_id & 0xffff_ffff).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "a call has two records");
    // Calls that were given up before they were whole, and too often for a record each, have one together.
    let counted: u64 = counts.iter().map(given_up).sum();
    let seen = numbers.last().map_or(0, |last| last + 1);
    let recorded = numbers.len() as u64;
    // A counted one may be the last.
    assert!(
        (recorded..=recorded + counted).contains(&seen),
        "{seen} calls, {recorded} records, {counted} counted"
    );
    calls
}

/// How many calls a record counts, none of which was refused.
fn given_up(record: &Record) -> u64 {
    let (all, kinds) = record.detail.as_deref().unwrap().split_once(" calls: ").unwrap();
    let mut kinds = kinds.split("; ").filter(|kind| !kind.ends_with("REFUSED_TOO_OFTEN"));
    assert!(kinds.all(|kind| kind.contains(" CANCELLED ")), "{record:?}");
    all.parse().unwrap()
}

fn count(calls: &[Record], outcome: &Outcome) -> usize {
    calls.iter().filter(|record| record.outcome == *outcome).count()
}

/// What became of the calls, as their callers saw it.
#[derive(Default)]
struct Seen {
    given_up: AtomicU64,
    opened: AtomicU64,
    ids: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancelled_calls_leave_their_records() {
    let mut random = Random::new();
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let (seen, mut callers) = (Arc::new(Seen::default()), JoinSet::new());
    for _ in 0..CONNECTIONS {
        callers.spawn(call_and_give_up(seen.clone(), daemon.crypto().await, random.split()));
    }
    let sealed: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    // The digests of all that was acknowledged stand in the records of their decryption.
    for part in sealed.chunks(1000) {
        let item =
            |(id, ciphertext): &(u64, Vec<u8>)| Item { data: ciphertext.clone().into(), context: about(*id) };
        for opened in client.batch_decrypt(KEY, part.iter().map(item).collect()).await.unwrap() {
            opened.unwrap();
        }
    }
    assert!(daemon.stop().await.success(), "{}", world.log());

    let calls = every_call(&world);
    let of = |operation: &'static str| {
        calls.iter().filter(move |call| call.operation == operation && call.outcome == Outcome::Ok)
    };
    let recorded: BTreeSet<_> = of("encrypt").map(|call| call.items.as_ref().unwrap().root).collect();
    let digests = of("batch-decrypt").flat_map(|call| call.items.as_ref().unwrap().digests.as_ref().unwrap());
    let acknowledged: BTreeSet<_> =
        digests.map(|digest| merkle::root(std::slice::from_ref::<ItemDigest>(digest))).collect();
    assert_eq!(acknowledged.len(), sealed.len());
    assert!(acknowledged.is_subset(&recorded), "a ciphertext was released without a record");
    assert!(of("decrypt").count() as u64 >= seen.opened.load(Ordering::Relaxed));
    let cancelled = count(&calls, &Outcome::Cancelled);
    println!("{} calls, {cancelled} cancelled in the middle, {} acknowledged", calls.len(), sealed.len());
    assert!(cancelled > 0 && sealed.len() > 100, "nothing was cancelled in the middle, or everything");
    // A call that was given up may reach the daemon while it stops.
    let usual = [Outcome::Ok, Outcome::Cancelled, Outcome::Failed("SHUTTING_DOWN".into())];
    let odd = calls.iter().find(|call| !usual.contains(&call.outcome));
    assert!(odd.is_none(), "{odd:?}");
}

/// Encrypts and decrypts, and mostly gives up before the answer. Answers what was acknowledged.
async fn call_and_give_up(
    seen: Arc<Seen>,
    mut crypto: CryptoServiceClient<Channel>,
    mut random: Random,
) -> Vec<(u64, Vec<u8>)> {
    let mut sealed: Vec<(u64, Vec<u8>)> = Vec::new();
    while seen.given_up.load(Ordering::Relaxed) < CANCELLED {
        let mut decrypting = None;
        if !sealed.is_empty() && random.below(2) == 0 {
            decrypting = Some(random.choose(&sealed).clone());
        }
        let id = seen.ids.fetch_add(1, Ordering::Relaxed);
        let deadline = (random.below(3) == 0).then(|| Duration::from_micros(random.below(3000)));
        let mut call = tonic::Request::new(());
        if let Some(deadline) = deadline {
            call.set_timeout(deadline);
        }
        let work = async {
            match decrypting {
                None => {
                    let answer = crypto.encrypt(call.map(|()| encrypt_request(KEY, id))).await?;
                    Ok(Some((id, answer.into_inner().ciphertext.to_vec())))
                }
                Some((id, ciphertext)) => {
                    let asked = DecryptRequest {
                        name: KEY.into(),
                        ciphertext: ciphertext.into(),
                        context: about(id),
                    };
                    crypto.decrypt(call.map(|()| asked)).await.map(|_| None)
                }
            }
        };
        let answer = match deadline {
            Some(_) => Some(work.await),
            None if random.below(8) == 0 => Some(work.await),
            None => unless_given_up(work, random.below(300)).await,
        };
        match answer {
            Some(Ok(Some(new))) => sealed.push(new),
            Some(Ok(None)) => drop(seen.opened.fetch_add(1, Ordering::Relaxed)),
            Some(Err::<_, tonic::Status>(status)) => {
                // HTTP/2 cuts a connection on which too many calls are given up before they are read.
                let cut = status.message().contains("error");
                assert!(
                    cut || [Code::Cancelled, Code::DeadlineExceeded].contains(&status.code()),
                    "{status}"
                );
                seen.given_up.fetch_add(1, Ordering::Relaxed);
            }
            None => drop(seen.given_up.fetch_add(1, Ordering::Relaxed)),
        }
    }
    sealed
}

/// Drops `work` when this task had so many turns: finer than any timer.
async fn unless_given_up<T>(work: impl Future<Output = T>, turns: u64) -> Option<T> {
    let turns = async {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = turns => None,
    }
}

#[tokio::test]
async fn calls_that_wait_for_a_cold_key_are_recorded_as_cancelled() {
    const KEYS: u64 = 20;
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let mut names = Vec::new();
    for number in 0..KEYS {
        let asked =
            CreateKeyRequest { parent: "tenants/acme".into(), key_id: format!("k{number}"), data_class: 0 };
        names.push(client.keys().create_key(asked).await.unwrap().into_inner().name);
    }
    assert!(daemon.stop().await.success());
    let before = world.audit().len();

    let daemon = world.start().await;
    let crypto = daemon.crypto().await;
    // The HSM stands still, so no call can be done before its caller gives up.
    let process = daemon.serving_processes(1).await.remove(0);
    process.signal(Signal::STOP);
    let start = recorded(&daemon).await;
    let deadline = Instant::now() + PATIENCE;
    while recorded(&daemon).await == start {
        assert!(Instant::now() < deadline, "no call that was given up is recorded");
        give_up(&daemon, &crypto, &names).await;
    }
    process.signal(Signal::CONT);
    let client = daemon.client().await;
    for name in &names {
        client.encrypt(name, "x", &about(1)).await.unwrap();
    }
    assert!(daemon.stop().await.success());
    let calls: Vec<_> =
        world.audit().into_iter().skip(before).filter(|record| record.operation == "encrypt").collect();
    let cancelled = count(&calls, &Outcome::Cancelled);
    assert!(cancelled > 0, "{calls:?}");
    assert_eq!(calls.len(), cancelled + count(&calls, &Outcome::Ok));
    assert!(
        calls.iter().all(|call| call.items.is_none() == (call.outcome == Outcome::Cancelled)),
        "{calls:?}"
    );
}

/// Encrypts under each of the keys, and gives all calls up after they had time to arrive.
async fn give_up(daemon: &Daemon, crypto: &CryptoServiceClient<Channel>, names: &[String]) {
    let mut callers = JoinSet::new();
    for name in names {
        let (mut crypto, asked) = (crypto.clone(), encrypt_request(name, 1));
        callers.spawn(async move { crypto.encrypt(asked).await.is_ok() });
    }
    recorded(daemon).await;
    callers.shutdown().await;
}

/// How many records the log has.
async fn recorded(daemon: &Daemon) -> u64 {
    daemon.status().await.unwrap().audit.unwrap().sequence
}

#[tokio::test]
async fn the_record_is_there_before_the_reply() {
    let world = World::on_disk();
    world.init();
    let (mut daemon, client) = world.start_with_key().await;
    let sealed = client.encrypt(KEY, "x", &about(0)).await.unwrap().ciphertext;
    for round in 1..=50 {
        let mut crypto = daemon.crypto().await;
        match round % 2 {
            0 => drop(crypto.encrypt(encrypt_request(KEY, round)).await.unwrap()),
            _ => {
                let ciphertext = sealed.clone();
                let asked = DecryptRequest { name: KEY.into(), ciphertext, context: about(0) };
                crypto.decrypt(asked).await.unwrap();
            }
        }
        daemon.kill();
        let calls = world.audit();
        let calls = calls.iter().filter(|call| ["encrypt", "decrypt"].contains(&call.operation.as_str()));
        assert_eq!(calls.filter(|call| call.outcome == Outcome::Ok).count() as u64, round);
        daemon = world.start().await;
    }
}

#[tokio::test]
async fn an_edited_byte_is_found() {
    let mut random = Random::new();
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    make_records(&client).await;
    assert!(daemon.stop().await.success());
    let (original, copy) = (world.path("state/audit"), world.path("copy"));
    std::fs::create_dir_all(copy.join("tree")).unwrap();
    for folder in ["", "tree"] {
        let entries = std::fs::read_dir(original.join(folder)).unwrap().map(Result::unwrap);
        for entry in entries.filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), copy.join(folder).join(entry.file_name())).unwrap();
        }
    }
    let segment = copy.join("00000001.kwa");
    let whole = std::fs::read(&segment).unwrap();
    let sound = verify::verify(&original).unwrap();
    assert_eq!(verify::verify(&copy).unwrap(), sound);
    for _ in 0..200 {
        let mut edited = whole.clone();
        let at = usize::try_from(random.below(whole.len() as u64)).unwrap();
        edited[at] ^= 1 << random.below(8);
        std::fs::write(&segment, edited).unwrap();
        // In the newest record it looks like a write that a crash cut short; the checkpoint knows better.
        let found = verify::verify(&copy);
        assert!(found.is_err(), "byte {at}: {found:?}");
    }
    // And as the operator would see it.
    let mut edited = whole.clone();
    edited[whole.len() / 2] ^= 1;
    std::fs::write(original.join("00000001.kwa"), edited).unwrap();
    let found = world.cli(["audit", "verify", "--config", &world.config_file()]);
    assert!(!found.status.success() && text(&found).contains("00000001.kwa"), "{}", text(&found));
    let said = world.fails_to_start();
    assert!(said.contains("00000001.kwa"), "{said}");
}

/// Some of every kind.
async fn make_records(client: &Client) {
    for id in 0..20 {
        let sealed = client.encrypt(KEY, "x", &about(id)).await.unwrap().ciphertext;
        client.decrypt(KEY, sealed.clone(), &about(id)).await.unwrap();
        client.decrypt(KEY, sealed, &about(id + 1)).await.unwrap_err();
    }
    create_key(client, "zeta", "orders").await;
}
