//! The database belongs to the daemon that has it open: it keeps SQLite's locks through every job, it is the
//! one that is asked for checks and copies, and what others put into the file is never run.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use keyward::client::Client;
use keyward::rpc::proto::{
    GetDestructionCertificateRequest, GetKeyRequest, KeyState, RotateKeyRequest, RotateTenantRequest,
    ScheduleDestroyRequest,
};
use keyward_softhsm_tests::{Daemon, KEY, World, create_key, create_tenant, eventually, text};
use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};

/// The locks that SQLite holds as long as a database is open: on the range for readers of `store.db`, and on
/// the "dead man's switch" of its shared index.
const HELD: [(&str, u64); 2] = [("store.db", 0x4000_0002), ("store.db-shm", 128)];

/// A world in which something can be destroyed at once.
fn at_once() -> World {
    let mut world = World::ready();
    world.config.push_str("\n[destruction]\nmin_delay = \"0s\"\n[rotation]\nold_kek_grace = \"0s\"\n");
    world
}

fn inode(world: &World, file: &str) -> u64 {
    std::fs::metadata(world.path("state").join(file)).unwrap().ino()
}

/// Which of the lasting locks the daemon holds, by /proc/locks.
fn held(world: &World, daemon: &Daemon) -> Vec<&'static str> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    // `1: POSIX  ADVISORY  READ 4711 00:2b:131 1073741826 1073742335`
    let locks: Vec<Vec<&str>> = locks.lines().map(|line| line.split_whitespace().collect()).collect();
    let pid = daemon.pid().to_string();
    let is_held = |inode: u64, byte: u64| {
        let inode = inode.to_string();
        locks.iter().any(|lock| match lock[..] {
            [_, "POSIX", "ADVISORY", "READ", owner, file, start, end] => {
                let range = start.parse::<u64>().unwrap()..=end.parse().unwrap_or(u64::MAX);
                owner == pid && file.ends_with(&format!(":{inode}")) && range.contains(&byte)
            }
            _ => false,
        })
    };
    HELD.into_iter()
        .filter(|(file, start)| is_held(inode(world, file), *start))
        .map(|(file, _)| file)
        .collect()
}

fn assert_held(world: &World, daemon: &Daemon, job: &str) {
    assert_eq!(held(world, daemon), HELD.map(|(file, _)| file), "after {job}");
}

fn with_config(world: &World, words: &[&str]) -> std::process::Output {
    world.cli(words.iter().copied().chain(["--config", &world.config_file()]))
}

/// The standard output of a command that must succeed.
fn done(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Another program reads the database and closes it, as `sqlite3` or a backup agent does.
fn tenants_in_the_file(world: &World) -> usize {
    let database = Connection::open(world.path("state/store.db")).unwrap();
    database.busy_timeout(Duration::from_secs(5)).unwrap();
    let mut select = database.prepare("SELECT key FROM kv WHERE key > x'03' AND key < x'04'").unwrap();
    let rows = select.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    rows.map(Result::unwrap).count()
}

async fn destroy_key(client: &Client, name: &str) {
    let delay = Some(Duration::ZERO.try_into().unwrap());
    let asked = ScheduleDestroyRequest { name: name.into(), delay, reason: "test".into() };
    client.keys().schedule_destroy(asked).await.unwrap();
    eventually("the key is destroyed", || async {
        let key = client.keys().get_key(GetKeyRequest { name: name.into() }).await.ok()?.into_inner();
        (key.state() == KeyState::Destroyed && key.destroy_proof_time.is_some()).then_some(())
    })
    .await;
}

/// Every kind of job that reads the files of the store or writes them anew; after each the locks are there.
async fn every_job(world: &World, daemon: &Daemon, client: &Client) {
    assert_held(world, daemon, "the start");
    client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap();
    client.keys().rotate_tenant(RotateTenantRequest { name: "tenants/acme".into() }).await.unwrap();
    assert_held(world, daemon, "rotations");
    done(&with_config(world, &["store", "check"]));
    assert_held(world, daemon, "a check");
    let path = |name: &str| world.path(name).display().to_string();
    done(&with_config(world, &["store", "export", "--out", &path("early.kwx")]));
    assert_held(world, daemon, "an export");
    done(&world.cli(["backup", "create", "--out", &path("early.kwb")]));
    assert_held(world, daemon, "a backup");
    // The journal is compacted and all files are searched.
    let orders = "tenants/acme/keys/orders";
    create_key(client, "acme", "orders").await;
    destroy_key(client, orders).await;
    assert_held(world, daemon, "a destruction");
    let asked = GetDestructionCertificateRequest { name: orders.into() };
    client.audit().get_destruction_certificate(asked).await.unwrap();
    assert_held(world, daemon, "a certificate");
    // Rows are sealed anew and the log is emptied.
    done(&world.cli(["erasure", "replace"]));
    assert_held(world, daemon, "a new erasure key");
}

#[tokio::test]
async fn the_daemon_keeps_its_locks_and_its_log_through_every_job() {
    let world = at_once();
    let (daemon, client) = world.start_with_key().await;
    every_job(&world, &daemon, &client).await;
    create_tenant(&client, "before").await.unwrap();
    let log = inode(&world, "store.db-wal");
    assert_eq!(tenants_in_the_file(&world), 2);
    assert_eq!(inode(&world, "store.db-wal"), log, "another reader does not take the log away");
    assert_held(&world, &daemon, "another reader");
    for number in 0..20 {
        create_tenant(&client, &format!("t{number}")).await.unwrap();
    }
    assert_eq!(tenants_in_the_file(&world), 22, "everybody sees what was acknowledged");
    drop(client);
    world.sparing_tokens(async { daemon.kill() }).await;
    // By the database itself: nothing has replayed the key journal yet.
    assert_eq!(tenants_in_the_file(&world), 22);
    let daemon = world.start().await;
    assert!(daemon.stop().await.success(), "{}", world.log());
    done(&with_config(&world, &["store", "check"]));
}

#[tokio::test]
async fn a_running_daemon_exports_its_newest_change() {
    let world = World::ready();
    let daemon = world.start().await;
    let client = daemon.client().await;
    for number in 0..10 {
        let tenant = format!("newest-{number}");
        create_tenant(&client, &tenant).await.unwrap();
        let revision = daemon.status().await.unwrap().store.unwrap().revision;
        let file = world.path(&format!("{number}.kwx"));
        let out = file.display().to_string();
        let told = done(&with_config(&world, &["store", "export", "--out", &out, "--json"]));
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert!(told["revision"].as_u64().unwrap() >= revision, "{told} after {revision}");
        let row = [&[3][..], tenant.as_bytes(), &[0]].concat();
        let export = std::fs::read(&file).unwrap();
        assert!(memchr::memmem::find(&export, &row).is_some(), "{tenant} is not in the export");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }
    let occupied = world.path("0.kwx").display().to_string();
    let again = with_config(&world, &["store", "export", "--out", &occupied]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    assert!(daemon.stop().await.success());
    let words: Vec<String> = world.audit().into_iter().map(|record| record.operation).collect();
    let count = |word: &str| words.iter().filter(|known| *known == word).count();
    assert_eq!((count("export-store"), count("export-store-end")), (10, 10));
}

#[tokio::test]
async fn whoever_may_not_operate_gets_neither_check_nor_copy() {
    let mut world = World::ready();
    world.reconfigure("role = \"operator\"", "role = \"application\"");
    let _daemon = world.start().await;
    let copy = world.path("copy.kwx");
    for words in [&["store", "check"][..], &["store", "export", "--out", copy.to_str().unwrap()]] {
        let refused = with_config(&world, words);
        assert_eq!(refused.status.code(), Some(3), "{words:?}: {}", text(&refused));
    }
    assert!(!copy.exists());
}

#[tokio::test]
async fn files_that_somebody_holds_are_not_read_past_them() {
    let world = World::ready();
    let daemon = world.start().await;
    assert!(daemon.stop().await.success());
    let lock = std::fs::File::options().read(true).write(true).open(world.path("state/lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let copy = world.path("copy.kwx");
    for words in [&["store", "check"][..], &["store", "export", "--out", copy.to_str().unwrap()]] {
        let refused = with_config(&world, words);
        assert_eq!(refused.status.code(), Some(5), "{words:?}: {}", text(&refused));
        assert!(text(&refused).contains("no daemon answers"), "{}", text(&refused));
    }
    assert!(!copy.exists());
    drop(lock);
    done(&with_config(&world, &["store", "check"]));
}

#[tokio::test]
async fn a_trigger_stops_the_daemon_before_it_runs() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let database = Connection::open(world.path("state/store.db")).unwrap();
    database.busy_timeout(Duration::from_secs(5)).unwrap();
    database.execute_batch("CREATE TRIGGER thaw AFTER INSERT ON kv BEGIN DELETE FROM kv; END").unwrap();
    let (_, said) = create_tenant(&client, "second").await.unwrap_err();
    assert!(said.contains("trigger thaw on kv"), "{said}");
    let checked = with_config(&world, &["store", "check"]);
    assert_eq!(checked.status.code(), Some(6), "{}", text(&checked));
    assert!(text(&checked).contains("trigger thaw on kv"), "{}", text(&checked));
    assert_eq!(tenants_in_the_file(&world), 1, "it did not run, and nothing was written");
    drop((client, database));
    daemon.stop().await;
    assert!(world.fails_to_start().contains("trigger thaw on kv"));
    let checked = with_config(&world, &["store", "check"]);
    assert_eq!(checked.status.code(), Some(6), "{}", text(&checked));
    assert!(text(&checked).contains("trigger thaw on kv"), "{}", text(&checked));
    done(&with_config(&world, &["store", "check", "--repair"]));
    done(&with_config(&world, &["store", "check"]));
    let daemon = world.start().await;
    create_tenant(&daemon.client().await, "second").await.unwrap();
}

/// A freeze that another program's lock left half made is in force as soon as that lock is gone, without
/// anybody's next change; and the log never says that it is before it is.
#[tokio::test]
async fn a_freeze_in_limbo_is_made_by_itself() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let lock = Connection::open(world.path("state/store.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = world.cli(["key", "freeze", KEY, "--reason", "test"]);
    assert!(!refused.status.success() && text(&refused).contains("may or may not"), "{}", text(&refused));
    let told = || world.audit().iter().any(|record| record.operation == "change-recovered");
    assert!(!told(), "nothing is in force yet");
    lock.execute_batch("ROLLBACK").unwrap();
    drop(lock);
    let name = || GetKeyRequest { name: KEY.to_owned() };
    eventually("the freeze", async || {
        client.call(client.keys().get_key(name())).await.unwrap().frozen.then_some(())
    })
    .await;
    eventually("its record", async || told().then_some(())).await;
    done(&with_config(&world, &["audit", "verify"]));
    assert!(daemon.stop().await.success());
}
