//! `kill -9` under load, again and again: what was acknowledged is there.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use keyward::audit::Outcome;
use keyward::client::{Client, Code, Context, Error, Item, Options, context};
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::{
    CreateKeyRequest, CreateTenantRequest, EncryptRequest, GetKeyRequest, GetRotationRequest,
    RotateKeyRequest, RotateTenantRequest, rotation,
};
use keyward_softhsm_tests::{Daemon, PATIENCE, Random, World, create_key, rounds, text};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

/// How often the daemon is killed: in `make test`, and in `make test-all`.
const KILLS: (u32, u32) = (20, 50);
/// How long it serves before, in milliseconds.
const SERVES: Range<u64> = 5..150;
/// How many older ciphertexts are decrypted after each restart, beside all new ones.
const SAMPLE: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kills() {
    let kills = rounds(KILLS.0, KILLS.1);
    let mut random = Random::new();
    let world = World::on_disk();
    world.init();
    let load = Arc::new(Load::default());
    let mut daemon = world.start().await;
    let client = daemon.client().await;
    for (tenant, key) in [("acme", "pii"), ("acme", "orders"), ("zeta", "pii"), ("zeta", "cards")] {
        create_key(&client, tenant, key).await;
        load.ledger().keys.insert(format!("tenants/{tenant}/keys/{key}"), 1);
    }
    for round in 1..=kills {
        serve_and_kill(daemon, &load, &mut random).await;
        if random.below(4) == 0 {
            // Recovery may be cut short, too.
            let pause = Duration::from_millis(random.below(100));
            let cut_short = async {
                let starting = world.spawn();
                tokio::time::sleep(pause).await;
                starting.kill();
            };
            world.sparing_tokens(cut_short).await;
        }
        daemon = world.start().await;
        check_new(&daemon, &load, &mut random).await;
        if round % 2 == 0 || round == kills {
            rotations_finish(&daemon, &load).await;
        }
        let odd = std::mem::take(&mut load.ledger().odd);
        assert!(odd.is_empty(), "round {round}: {odd:?}\n{}", world.log());
    }
    check_all(&daemon, &load).await;
    assert!(daemon.stop().await.success(), "{}", world.log());
    check_records(&world, &load.ledger());
    for arguments in [["audit", "verify"], ["store", "check"]] {
        let checked = world.cli(arguments.into_iter().chain(["--config", &world.config_file()]));
        assert!(checked.status.success(), "{arguments:?}: {}", text(&checked));
    }
    let ledger = load.ledger();
    let (sealed, done) = (ledger.sealed.len(), &ledger.done);
    println!("{sealed} ciphertexts, {} rotations, {done:?}", ledger.rotations.len());
    // A load that does nothing proves nothing.
    let (few, rotations) = (u64::from(kills) / 10, ledger.rotations.len() as u64);
    assert!(sealed as u64 > 200 * few && rotations > few && done["create-key"] > few, "{sealed} {done:?}");
}

/// What the daemon has acknowledged.
#[derive(Default)]
struct Ledger {
    sealed: Vec<Sealed>,
    /// Of these, how many were decrypted after a restart.
    checked: usize,
    /// Keys, and the newest version of each that was acknowledged.
    keys: BTreeMap<String, u32>,
    rotations: Vec<String>,
    /// Of these, how many were seen finished after a restart.
    finished: usize,
    /// Items or calls, by operation.
    done: BTreeMap<&'static str, u64>,
    /// Answers that a daemon in good order does not give.
    odd: Vec<String>,
}

struct Sealed {
    key: String,
    id: u64,
    ciphertext: Vec<u8>,
}

/// What the workers share.
#[derive(Default)]
struct Load {
    ledger: Mutex<Ledger>,
    ids: std::sync::atomic::AtomicU64,
}

impl Load {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    fn id(&self) -> u64 {
        self.ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    fn keys(&self) -> Vec<String> {
        self.ledger().keys.keys().cloned().collect()
    }

    fn sealed(&self, operation: &'static str, key: &str, items: impl IntoIterator<Item = (u64, Vec<u8>)>) {
        let mut ledger = self.ledger();
        for (id, ciphertext) in items {
            ledger.sealed.push(Sealed { key: key.to_owned(), id, ciphertext });
            *ledger.done.entry(operation).or_default() += 1;
        }
    }

    /// A daemon that dies, or is busy, may say so; everything else is odd. The client's own errors
    /// tell what the transport made up, in whatever words, from what the daemon said.
    fn failed(&self, what: &str, error: impl Into<Error>) {
        let error = error.into();
        let usual = [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Cancelled,
            Code::Aborted,
            Code::ResourceExhausted,
        ];
        if !usual.contains(&error.code) {
            self.ledger().odd.push(format!("{what}: {:?} {error}", error.code));
        }
    }
}

fn about(id: u64) -> Context {
    context([("id", id.to_string())])
}

fn plaintext(id: u64) -> Vec<u8> {
    format!("customer {id}").into_bytes()
}

async fn serve_and_kill(daemon: Daemon, load: &Arc<Load>, random: &mut Random) {
    let mut workers = JoinSet::new();
    let patience = Options { deadline: Duration::from_secs(5), ..Options::default() };
    let client = Client::connect_with(daemon.socket(), patience).await.unwrap();
    for _ in 0..3 {
        workers.spawn(unary(load.clone(), daemon.crypto().await, random.split()));
        workers.spawn(session(load.clone(), client.clone(), random.split()));
    }
    workers.spawn(batches(load.clone(), client.clone(), random.split()));
    workers.spawn(changes(load.clone(), client.clone(), random.split()));
    workers.spawn(changes(load.clone(), client, random.split()));
    tokio::time::sleep(Duration::from_millis(SERVES.start + random.below(SERVES.end - SERVES.start))).await;
    daemon.kill();
    workers.shutdown().await;
}

async fn unary(load: Arc<Load>, mut crypto: CryptoServiceClient<Channel>, mut random: Random) {
    let keys = load.keys();
    loop {
        let (key, id) = (random.choose(&keys), load.id());
        let asked = EncryptRequest { name: key.clone(), plaintext: plaintext(id).into(), context: about(id) };
        match crypto.encrypt(asked).await {
            Ok(answer) => load.sealed("encrypt", key, [(id, answer.into_inner().ciphertext.to_vec())]),
            Err(status) => return load.failed("encrypt", status),
        }
    }
}

async fn session(load: Arc<Load>, client: Client, mut random: Random) {
    let keys = load.keys();
    loop {
        let mut flying = JoinSet::new();
        for _ in 0..16 {
            let (key, id, load, client) =
                (random.choose(&keys).clone(), load.id(), load.clone(), client.clone());
            flying.spawn(async move {
                match client.encrypt(&key, plaintext(id), &about(id)).await {
                    Ok(answer) => load.sealed("session-encrypt", &key, [(id, answer.ciphertext.to_vec())]),
                    Err(error) => load.failed("session", error),
                }
            });
        }
        flying.join_all().await;
    }
}

async fn batches(load: Arc<Load>, client: Client, mut random: Random) {
    let keys = load.keys();
    loop {
        let key = random.choose(&keys);
        let ids: Vec<_> = (0..20).map(|_| load.id()).collect();
        let items = ids.iter().map(|id| Item { data: plaintext(*id).into(), context: about(*id) }).collect();
        match client.batch_encrypt(key, items).await {
            Ok(results) => {
                let done = results.into_iter().zip(ids).filter_map(|(result, id)| match result {
                    Ok(ciphertext) => Some((id, ciphertext.to_vec())),
                    Err(error) => {
                        load.failed("item of a batch", error);
                        None
                    }
                });
                load.sealed("batch-encrypt", key, done.collect::<Vec<_>>());
            }
            Err(error) => return load.failed("batch", error),
        }
    }
}

async fn changes(load: Arc<Load>, client: Client, mut random: Random) {
    let keys = load.keys();
    loop {
        let key = random.choose(&keys);
        let (tenant, _) = key.split_once("/keys/").unwrap();
        let (changed, what) = match random.below(5) {
            0 => (rotate_tenant(&load, &client, tenant).await, "rotate-tenant"),
            1 | 2 => (rotate_key(&load, &client, key).await, "rotate-key"),
            3 => (make_key(&load, &client, tenant).await, "create-key"),
            _ => (make_tenant(&load, &client).await, "create-tenant"),
        };
        match changed {
            Ok(()) => *load.ledger().done.entry(what).or_default() += 1,
            Err(status) => {
                let code = status.code();
                load.failed(what, status);
                // Two changes of the same thing: the other one won.
                if code != Code::Aborted {
                    return;
                }
            }
        }
    }
}

async fn rotate_tenant(load: &Load, client: &Client, tenant: &str) -> Result<(), Status> {
    let begun = client.keys().rotate_tenant(RotateTenantRequest { name: tenant.into() }).await?.into_inner();
    let mut ledger = load.ledger();
    if !ledger.rotations.contains(&begun.name) {
        ledger.rotations.push(begun.name);
    }
    Ok(())
}

async fn rotate_key(load: &Load, client: &Client, key: &str) -> Result<(), Status> {
    let rotated = client.keys().rotate_key(RotateKeyRequest { name: key.into() }).await?.into_inner();
    let mut ledger = load.ledger();
    let version = ledger.keys.entry(rotated.name).or_default();
    *version = rotated.primary_version.max(*version);
    Ok(())
}

async fn make_key(load: &Load, client: &Client, tenant: &str) -> Result<(), Status> {
    let asked = CreateKeyRequest { parent: tenant.into(), key_id: format!("k{}", load.id()), data_class: 0 };
    let made = client.keys().create_key(asked).await?.into_inner();
    load.ledger().keys.insert(made.name, made.primary_version);
    Ok(())
}

/// A tenant whose first key is acknowledged counts.
async fn make_tenant(load: &Load, client: &Client) -> Result<(), Status> {
    let asked = CreateTenantRequest { tenant_id: format!("t{}", load.id()), display_name: String::new() };
    let made = client.keys().create_tenant(asked).await?.into_inner();
    make_key(load, client, &made.name).await
}

/// After a restart: the keys are there, and so is the data under them.
async fn check_new(daemon: &Daemon, load: &Load, random: &mut Random) {
    let client = daemon.client().await;
    let keys = load.ledger().keys.clone();
    for (name, version) in keys {
        let key = client.keys().get_key(GetKeyRequest { name: name.clone() }).await;
        let key = key.unwrap_or_else(|status| panic!("{name}: {status}")).into_inner();
        assert!(key.primary_version >= version, "{name} has version {}, not {version}", key.primary_version);
    }
    let mut chosen: BTreeMap<String, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    {
        let mut ledger = load.ledger();
        let (all, checked) = (ledger.sealed.len(), ledger.checked);
        let older = (0..SAMPLE.min(checked as u64)).map(|_| random.below(checked as u64) as usize);
        for at in older.chain(checked..all) {
            let Sealed { key, id, ciphertext } = &ledger.sealed[at];
            chosen.entry(key.clone()).or_default().push((*id, ciphertext.clone()));
        }
        ledger.checked = all;
    }
    decrypts(&client, chosen).await;
}

async fn check_all(daemon: &Daemon, load: &Load) {
    let mut all: BTreeMap<String, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    for Sealed { key, id, ciphertext } in &load.ledger().sealed {
        all.entry(key.clone()).or_default().push((*id, ciphertext.clone()));
    }
    decrypts(&daemon.client().await, all).await;
}

async fn decrypts(client: &Client, by_key: BTreeMap<String, Vec<(u64, Vec<u8>)>>) {
    for (key, sealed) in by_key {
        for part in sealed.chunks(1000) {
            let item = |(id, ciphertext): &(u64, Vec<u8>)| Item {
                data: ciphertext.clone().into(),
                context: about(*id),
            };
            let opened = client.batch_decrypt(&key, part.iter().map(item).collect()).await.unwrap();
            for (opened, (id, _)) in opened.into_iter().zip(part) {
                let opened = opened.unwrap_or_else(|error| panic!("{key} {id}: {error}"));
                assert_eq!(opened.expose(), plaintext(*id), "{key} {id}");
            }
        }
    }
}

/// Every rotation that was acknowledged comes to its end, without anybody asking again.
async fn rotations_finish(daemon: &Daemon, load: &Load) {
    let client = daemon.client().await;
    let (names, finished) = {
        let ledger = load.ledger();
        (ledger.rotations.clone(), ledger.finished)
    };
    let deadline = Instant::now() + PATIENCE;
    for name in &names[finished..] {
        loop {
            let asked = GetRotationRequest { name: name.clone() };
            let now = client.keys().get_rotation(asked).await.unwrap().into_inner();
            if now.state() == rotation::State::Done {
                assert_eq!(now.done, now.total, "{now:?}");
                break;
            }
            assert!(Instant::now() < deadline, "{now:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    load.ledger().finished = names.len();
}

/// Every acknowledged item and change has its record.
fn check_records(world: &World, ledger: &Ledger) {
    let mut recorded: BTreeMap<String, u64> = BTreeMap::new();
    let mut by_key: BTreeMap<String, u64> = BTreeMap::new();
    for record in world.audit().into_iter().filter(|record| record.outcome == Outcome::Ok) {
        let items = record.items.as_ref().map_or(1, |items| u64::from(items.done));
        *recorded.entry(record.operation.clone()).or_default() += items;
        if record.operation.ends_with("encrypt") {
            *by_key.entry(record.resource).or_default() += items;
        }
    }
    for (operation, done) in &ledger.done {
        let recorded = recorded.get(*operation).copied().unwrap_or_default();
        assert!(recorded >= *done, "{operation}: {recorded} recorded, {done} acknowledged");
    }
    let mut acknowledged: BTreeMap<&str, u64> = BTreeMap::new();
    for sealed in &ledger.sealed {
        *acknowledged.entry(&sealed.key).or_default() += 1;
    }
    for (key, done) in acknowledged {
        let recorded = by_key.get(key).copied().unwrap_or_default();
        assert!(recorded >= done, "{key}: {recorded} recorded, {done} acknowledged");
    }
}
