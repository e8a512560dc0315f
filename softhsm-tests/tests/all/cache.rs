//! Open keys through a real daemon: one HSM call for many callers, the cap on uses, the flush, the figures.

#![allow(clippy::unwrap_used)]

use futures_util::future::join_all;
use keyward::client::context;
use keyward::rpc::proto::status::Cache;
use keyward::rpc::proto::{EncryptRequest, FreezeRequest, Status, UnfreezeRequest};
use keyward_softhsm_tests::{Daemon, KEY, World};

/// Calls that ask for the same key at the same time.
const CALLERS: usize = 100;

fn request() -> EncryptRequest {
    EncryptRequest { name: KEY.into(), plaintext: "x".into(), context: context([("column", "phone")]) }
}

fn cache(status: &Status) -> Cache {
    status.cache.unwrap_or_default()
}

fn operations(status: &Status) -> u64 {
    status.hsm.as_ref().map(|hsm| hsm.operations).unwrap_or_default()
}

/// A world whose daemon does nothing by itself that the HSM would count: checkpoints are signed there.
fn still_world() -> World {
    let mut world = World::ready();
    world.config.push_str("\n[audit]\ncheckpoint_interval = \"1h\"\n");
    world
}

/// How many records the newest checkpoint on disk covers; none when the daemon before was too short for one.
fn checkpointed(world: &World) -> u64 {
    match std::fs::read_to_string(world.path("state/audit/checkpoint")) {
        Ok(note) => note.lines().nth(1).unwrap().parse().unwrap(),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
            0
        }
    }
}

/// Starts a daemon, and waits for the checkpoint that it makes first: from then on it is still.
async fn start_still(world: &World) -> Daemon {
    let before = checkpointed(world);
    let mut daemon = world.start().await;
    if let Err(error) = daemon.wait_for(|status| status.audit_checkpoint > before).await {
        panic!("{error}");
    }
    daemon
}

/// What the HSM did for the first use of a key in a fresh daemon, by so many callers at once.
async fn cost_of_first_use(world: &World, callers: usize) -> (u64, Cache) {
    let daemon = start_still(world).await;
    let crypto = daemon.crypto().await;
    let before = operations(&daemon.status().await.unwrap());
    let calls = (0..callers).map(|_| {
        let mut crypto = crypto.clone();
        async move { crypto.encrypt(request()).await }
    });
    for answer in join_all(calls).await {
        answer.unwrap();
    }
    let status = daemon.status().await.unwrap();
    assert!(daemon.stop().await.success());
    (operations(&status) - before, cache(&status))
}

async fn encrypt(daemon: &Daemon, times: usize) {
    let mut crypto = daemon.crypto().await;
    for _ in 0..times {
        crypto.encrypt(request()).await.unwrap();
    }
}

#[tokio::test]
async fn many_callers_of_a_cold_key_cost_what_one_costs() {
    let mut world = still_world();
    // Probes of an idle connection are operations too: none in this test.
    world.reconfigure("[hsm]\n", "[hsm]\nprobe_interval = \"1h\"\n");
    let (daemon, _) = world.start_with_key().await;
    assert!(daemon.stop().await.success());
    let (alone, _) = cost_of_first_use(&world, 1).await;
    let (together, cache) = cost_of_first_use(&world, CALLERS).await;
    assert_eq!(together, alone);
    assert!((1..=3).contains(&alone), "{alone} operations");
    assert_eq!((cache.misses, cache.hits, cache.entries), (1, CALLERS as u64 - 1, 1));
}

#[tokio::test]
async fn a_key_is_opened_anew_after_as_many_uses_as_configured() {
    let mut world = still_world();
    world.config.push_str("\n[class.2]\ncache_uses = 3\n");
    let (daemon, _) = world.start_with_key().await;
    encrypt(&daemon, 7).await;
    let cache = cache(&daemon.status().await.unwrap());
    assert_eq!((cache.misses, cache.hits, cache.used_up, cache.entries), (3, 4, 2, 1));
}

#[tokio::test]
async fn without_a_ttl_every_call_asks_the_hsm() {
    let mut world = still_world();
    world.config.push_str("\n[class.2]\ncache_ttl = \"0s\"\n");
    let (daemon, _) = world.start_with_key().await;
    encrypt(&daemon, 5).await;
    let cache = cache(&daemon.status().await.unwrap());
    assert_eq!((cache.misses, cache.hits), (5, 0));
}

#[tokio::test]
async fn a_kek_is_unwrapped_anew_when_it_is_too_old() {
    // Five openings of a DEK, and of its KEK: once, or each time.
    for (ttl, cost) in [("1h", 6), ("0s", 10)] {
        let mut world = still_world();
        world.reconfigure("[hsm]\n", &format!("[hsm]\nprobe_interval = \"1h\"\nkek_ttl = \"{ttl}\"\n"));
        let (daemon, _) = world.start_with_key().await;
        assert!(daemon.stop().await.success());
        world.config.push_str("\n[class.2]\ncache_ttl = \"0s\"\n");
        let daemon = start_still(&world).await;
        let before = operations(&daemon.status().await.unwrap());
        encrypt(&daemon, 5).await;
        assert_eq!(operations(&daemon.status().await.unwrap()) - before, cost, "{ttl}");
    }
}

#[tokio::test]
async fn uses_of_keks_are_counted_and_capped() {
    let mut world = still_world();
    world.reconfigure("[hsm]\n", "[hsm]\nprobe_interval = \"50ms\"\nkek_uses = 2\n");
    let (daemon, _) = world.start_with_key().await;
    assert!(daemon.stop().await.success());
    world.config.push_str("\n[class.2]\ncache_ttl = \"0s\"\n");
    let mut daemon = world.start().await;
    encrypt(&daemon, 5).await;
    // Besides the tenant's KEK those of the canary, the daemon's secret and the erasure secret were used, once each.
    let counted = |status: &Status| {
        status.kek_cache.is_some_and(|keks| (keks.hits, keks.misses, keks.used_up) == (2, 6, 2))
    };
    if let Err(error) = daemon.wait_for(counted).await {
        panic!("{error}");
    }
}

#[tokio::test]
async fn a_freeze_wipes_the_open_key_before_it_answers() {
    let world = still_world();
    let (daemon, client) = world.start_with_key().await;
    for (round, name) in [(1, KEY), (2, "tenants/acme")] {
        encrypt(&daemon, 2).await;
        let name = name.to_owned();
        client.access().freeze(FreezeRequest { name: name.clone(), reason: "test".into() }).await.unwrap();
        let frozen = cache(&daemon.status().await.unwrap());
        assert_eq!((frozen.entries, frozen.flushed), (0, round));
        assert!(daemon.crypto().await.encrypt(request()).await.is_err());
        client.access().unfreeze(UnfreezeRequest { name, reason: "test".into() }).await.unwrap();
    }
    let shown = world.cli(["status"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.lines().any(|line| line.starts_with("cache flushed") && line.ends_with('2')), "{shown}");
}
