//! Resident KEKs: token objects of their own, made, moved, rotated and destroyed by custodians.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyward::client::{Client, Code, context};
use keyward::rpc::proto::ceremony::State;
use keyward::rpc::proto::propose_request::{Action, ChangeRoster, MoveTenant, RotateRoot};
use keyward::rpc::proto::{
    Ceremony, GetCeremonyRequest, GetEscrowRequest, GetTenantRequest, KekVersion, KeyState,
    ListKekVersionsRequest, RotateTenantRequest, Tenant,
};
use keyward_softhsm_tests::custodians::{
    Person, approve_by, deployment, ended, found, kill_until_done, people, propose,
};
use keyward_softhsm_tests::{Daemon, KEY, PATIENCE, World, create_key, eventually, softhsm_module, text};
use rustix::process::Signal;

const ACME: &str = "tenants/acme";

/// A world in which an old KEK version is destroyed as soon as it seals nothing.
fn world() -> World {
    let mut world = World::new();
    world.config.push_str("\n[rotation]\nold_kek_grace = \"0s\"\n");
    world
}

async fn founded(world: &World) -> (Daemon, Client, [Person; 3]) {
    world.init();
    let (daemon, client) = world.start_with_key().await;
    let custodians = people(["alice", "bob", "carol"]);
    found(&client, 2, &custodians).await;
    (daemon, client, custodians)
}

fn moving(tenant: &str, resident: bool) -> Action {
    Action::MoveTenant(MoveTenant { name: tenant.into(), resident })
}

/// Has two custodians decide, and waits for the end.
async fn decide(client: &Client, people: &[Person; 3], action: Action) -> Ceremony {
    let proposed = propose(client, action).await.expect("a proposal");
    approve_by(client, &proposed, &[&people[0], &people[2]]).await;
    ended(client, &proposed.name).await
}

async fn done(client: &Client, people: &[Person; 3], action: Action) -> Ceremony {
    let done = decide(client, people, action).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    done
}

async fn seal(client: &Client, key: &str, plaintext: &str) -> bytes::Bytes {
    client.encrypt(key, plaintext.to_owned(), &context([("a", "b")])).await.expect("a ciphertext").ciphertext
}

async fn opens(client: &Client, key: &str, sealed: &bytes::Bytes, plaintext: &str) {
    let opened = client.decrypt(key, sealed.clone(), &context([("a", "b")])).await.expect("a plaintext");
    assert_eq!(opened.plaintext.expose(), plaintext.as_bytes());
}

async fn tenant(client: &Client, name: &str) -> Tenant {
    client.call(client.keys().get_tenant(GetTenantRequest { name: name.into() })).await.expect("a tenant")
}

async fn keks(client: &Client, name: &str) -> Vec<KekVersion> {
    let asked = ListKekVersionsRequest { parent: name.into() };
    client.call(client.keys().list_kek_versions(asked)).await.expect("KEKs").kek_versions
}

/// What `pkcs11-tool` does with a token as whoever has its PIN.
fn tool(world: &World, label: &str, arguments: &[&str]) -> std::process::Output {
    let pin = std::fs::read_to_string(world.path("pin")).expect("the PIN");
    Command::new("pkcs11-tool")
        .args(["--module", &softhsm_module(), "--token-label", label, "--login", "--pin", pin.trim()])
        .args(arguments)
        .env("SOFTHSM2_CONF", world.path("softhsm2.conf"))
        .output()
        .expect("pkcs11-tool: run softhsm-tests/scripts/setup.sh")
}

/// The ids of the resident KEKs on a token, as another program sees them.
fn objects(world: &World, label: &str) -> Vec<String> {
    let listed = text(&tool(world, label, &["--list-objects", "--type", "secrkey"]));
    let label = |line: &str| line.trim().strip_prefix("label:").map(|label| label.trim().to_owned());
    let keks =
        listed.lines().filter_map(label).filter_map(|l| l.strip_prefix("keyward kek ").map(str::to_owned));
    let mut keks: Vec<_> = keks.collect();
    keks.sort();
    keks
}

async fn objects_are(world: &World, label: &str, count: usize) {
    eventually(&format!("{count} resident KEKs on {label}"), || async {
        (objects(world, label).len() == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_tenant_moves_into_the_hsm_and_back_under_load() {
    let world = world();
    let (daemon, client, custodians) = founded(&world).await;
    let sealed = seal(&client, KEY, "before").await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = (0..3).map(|_| {
        let (stop, client, sealed) = (stop.clone(), client.clone(), sealed.clone());
        tokio::spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                opens(&client, KEY, &sealed, "before").await;
                let own = seal(&client, KEY, "x").await;
                opens(&client, KEY, &own, "x").await;
                count += 1;
            }
            count
        })
    });
    let load: Vec<_> = load.collect();
    let moved = done(&client, &custodians, moving(ACME, true)).await;
    assert!(moved.outcome.contains("in the HSM"), "{}", moved.outcome);
    assert!(tenant(&client, ACME).await.resident);
    let first = objects(&world, "token");
    assert_eq!(first.len(), 1);
    let versions = keks(&client, ACME).await;
    assert!(versions[0].resident && !versions[1].resident && versions[0].wrapped_count > 0, "{versions:?}");

    // One operator does not rotate it any more; custodians do.
    let asked = RotateTenantRequest { name: ACME.into() };
    let alone = client.call(client.keys().rotate_tenant(asked)).await.unwrap_err();
    assert_eq!(alone.reason(), "CEREMONY_REQUIRED", "{alone}");
    assert!(alone.message.contains("propose rotate-tenant tenants/acme"), "{alone}");
    done(&client, &custodians, Action::RotateTenant(ACME.into())).await;
    objects_are(&world, "token", 1).await;
    assert_ne!(objects(&world, "token"), first, "the old one is destroyed, the new one is there");

    // The root may change without it; a new roster gets shares of its own.
    let before = objects(&world, "token");
    done(&client, &custodians, Action::RotateRoot(RotateRoot {})).await;
    assert_eq!(objects(&world, "token"), before);
    let dave = Person::new("dave");
    let add = vec![dave.card(deployment(&client).await)];
    let change = ChangeRoster { quorum: 0, add, remove: vec!["bob".into()] };
    done(&client, &custodians, Action::ChangeRoster(change)).await;
    objects_are(&world, "token", 1).await;
    assert_ne!(objects(&world, "token"), before);

    let again = propose(&client, moving(ACME, true)).await.unwrap_err();
    assert!(again.message.contains("in the HSM already"), "{again}");
    done(&client, &custodians, moving(ACME, false)).await;
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        assert!(worker.await.expect("no failure") > 0);
    }
    assert!(!tenant(&client, ACME).await.resident);
    objects_are(&world, "token", 0).await;
    opens(&client, KEY, &sealed, "before").await;
    daemon.stop().await;
    let checked = world.cli(["store", "check", "--config", &world.config_file()]);
    assert!(checked.status.success(), "{}", text(&checked));
    let daemon = world.start().await;
    opens(&daemon.client().await, KEY, &sealed, "before").await;
}

#[tokio::test]
async fn a_move_survives_kills_at_every_step() {
    let world = world();
    let (mut daemon, client, custodians) = founded(&world).await;
    for key in 0..20 {
        create_key(&client, "acme", &format!("k{key}")).await;
    }
    let sealed = seal(&client, KEY, "before").await;
    let mut all = 0;
    for resident in [true, false, true] {
        let client = daemon.answering().await;
        let proposed = propose(&client, moving(ACME, resident)).await.expect("a proposal");
        approve_by(&client, &proposed, &[&custodians[0], &custodians[1]]).await;
        let kills;
        (daemon, kills) = kill_until_done(&world, daemon, &proposed.name).await;
        all += kills;
        let client = daemon.answering().await;
        opens(&client, KEY, &sealed, "before").await;
        assert_eq!(tenant(&client, ACME).await.resident, resident);
        // What was being made when it was killed is not left behind, and the old one goes.
        objects_are(&world, "token", usize::from(resident)).await;
    }
    assert!(all >= 8, "only {all} kills: too few to say anything");
    daemon.stop().await;
    let checked = world.cli(["store", "check", "--config", &world.config_file()]);
    assert!(checked.status.success(), "{}", text(&checked));
}

/// The tokens hold its KEK, and the export what is sealed under it: a restored store has both again.
#[tokio::test]
async fn a_store_with_resident_keks_is_restored() {
    let world = world();
    let (daemon, client, custodians) = founded(&world).await;
    create_key(&client, "zeta", "k").await;
    done(&client, &custodians, moving(ACME, true)).await;
    let sealed = seal(&client, KEY, "kept").await;
    let zeta = seal(&client, "tenants/zeta/keys/k", "other").await;
    let file = world.path("b.kwb").display().to_string();
    let made = world.cli(["backup", "create", "--out", &file]);
    assert!(made.status.success(), "{}", text(&made));
    assert!(daemon.stop().await.success());
    for lost in ["store.db", "store.db-wal", "store.db-shm", "journal.kwj"] {
        std::fs::remove_file(world.path("state").join(lost)).ok();
    }
    let config = world.config_file();
    let restored = world.cli(["backup", "restore", "--in", &file, "--config", &config]);
    assert!(restored.status.success(), "{}", text(&restored));
    let mut refused = world.spawn();
    refused.wait_for(|status| status.reason.contains("accept-rollback")).await.expect("a refusal");
    assert!(refused.stop().await.success());
    let accepted = world.cli(["store", "accept-rollback", "--config", &config]);
    assert!(accepted.status.success(), "{}", text(&accepted));
    let daemon = world.start().await;
    let client = daemon.client().await;
    opens(&client, KEY, &sealed, "kept").await;
    opens(&client, "tenants/zeta/keys/k", &zeta, "other").await;
    assert_eq!(objects(&world, "token").len(), 1);
    let status = text(&world.cli(["status"]));
    assert!(!status.contains("names no key"), "{status}");
    let log = world.log();
    assert!(!log.contains("lost") && !log.contains("panicked"), "{log}");
    assert!(daemon.stop().await.success());
    let whole = world.cli(["store", "check", "--config", &config]);
    assert!(whole.status.success(), "{}", text(&whole));
}

#[tokio::test]
async fn a_destroyed_tenant_leaves_no_object_behind() {
    let world = world();
    let (_daemon, client, custodians) = founded(&world).await;
    create_key(&client, "zeta", "k").await;
    for name in [ACME, "tenants/zeta"] {
        done(&client, &custodians, moving(name, true)).await;
    }
    assert_eq!(objects(&world, "token").len(), 2);
    let gone = done(&client, &custodians, Action::Destroy(ACME.into())).await;
    assert!(gone.outcome.contains("is destroyed"), "{}", gone.outcome);
    assert_eq!(objects(&world, "token").len(), 1);
    assert_eq!(tenant(&client, ACME).await.state(), KeyState::Destroyed);
    let zeta = seal(&client, "tenants/zeta/keys/k", "other").await;
    opens(&client, "tenants/zeta/keys/k", &zeta, "other").await;
    let recorded = world.audit();
    assert!(recorded.iter().any(|record| record.operation == "kek-object-destroyed"));
    let out = world.path("certificate").display().to_string();
    let made = world.cli(["certificate", "get", "acme", "--out", &out]);
    assert!(made.status.success(), "{}", text(&made));
    let certificate = std::fs::read_to_string(&out).expect("a certificate");
    assert!(certificate.contains("HSM object gone on every token"), "{certificate}");
}

#[tokio::test]
async fn nothing_moves_in_without_custodians_or_room() {
    let mut world = world();
    world.reconfigure("[hsm]\n", "[hsm]\nmax_objects = 4\nprobe_interval = \"100ms\"\n");
    world.init();
    let (mut daemon, client) = world.start_with_key().await;
    create_key(&client, "zeta", "k").await;
    let unfounded = propose(&client, moving(ACME, true)).await.unwrap_err();
    assert_eq!(unfounded.code, Code::FailedPrecondition, "{unfounded}");
    assert!(unfounded.message.contains("propose a founding first"), "{unfounded}");
    let custodians = people(["alice", "bob", "carol"]);
    found(&client, 2, &custodians).await;

    // A root and an erasure key, and room for two.
    let none = |status: &keyward::rpc::proto::Status| {
        let slots = status.hsm.iter().flat_map(|hsm| &hsm.slots);
        slots.clone().count() == 1 && slots.clone().all(|slot| slot.own_objects == 2 && slot.max_objects == 4)
    };
    assert!(daemon.wait_for(none).await.expect("two keys").capacity_warning.is_empty());
    done(&client, &custodians, moving(ACME, true)).await;
    create_key(&client, "last", "k").await;
    done(&client, &custodians, moving("tenants/last", true)).await;
    let scarce = |status: &keyward::rpc::proto::Status| !status.capacity_warning.is_empty();
    let warned = daemon.wait_for(scarce).await.expect("a warning").capacity_warning;
    assert!(warned.contains("4 keys of Keyward") && warned.contains("hsm.max_objects allows 4"), "{warned}");
    let refused = decide(&client, &custodians, moving("tenants/zeta", true)).await;
    assert_eq!(refused.state(), State::Failed, "{}", refused.outcome);
    assert!(refused.outcome.contains("raise hsm.max_objects"), "{}", refused.outcome);
    assert!(!tenant(&client, "tenants/zeta").await.resident);
    assert_eq!(objects(&world, "token").len(), 2);
    let sealed = seal(&client, "tenants/zeta/keys/k", "x").await;
    opens(&client, "tenants/zeta/keys/k", &sealed, "x").await;

    // A change of the roster waits for room. Meanwhile no copy is made that would need keys of both sides.
    let change = ChangeRoster { quorum: 3, ..ChangeRoster::default() };
    let proposed = propose(&client, Action::ChangeRoster(change)).await.expect("a proposal");
    approve_by(&client, &proposed, &[&custodians[0], &custodians[1]]).await;
    let deadline = Instant::now() + PATIENCE;
    while ceremony(&client, &proposed.name).await.waiting_for.is_empty() {
        assert!(Instant::now() < deadline, "{}", world.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let escrow = client.call(client.ceremonies().get_escrow(GetEscrowRequest {})).await.unwrap_err();
    assert!(escrow.message.contains("is giving tenants other keys"), "{escrow}");
    let backup = world.cli(["backup", "create", "--out", &world.path("b.kwb").display().to_string()]);
    assert!(text(&backup).contains("is giving tenants other keys"), "{}", text(&backup));
}

async fn ceremony(client: &Client, name: &str) -> Ceremony {
    let asked = GetCeremonyRequest { name: name.to_owned() };
    client.call(client.ceremonies().get_ceremony(asked)).await.expect("the ceremony")
}

#[tokio::test]
async fn each_token_of_a_group_serves_it_and_none_gives_it_away() {
    let mut world = world();
    world.make_token("second");
    world.config.push_str("\n[[hsm.standby]]\ntoken = \"second\"\n");
    // Nothing is kept open in the daemon, so each decryption asks a token.
    world.config.push_str("\n[class.2]\ncache_ttl = \"0s\"\n");
    let (mut daemon, client, custodians) = founded(&world).await;
    done(&client, &custodians, moving(ACME, true)).await;
    let on_both = objects(&world, "token");
    assert_eq!((on_both.len(), &on_both), (1, &objects(&world, "second")));
    let sealed = seal(&client, KEY, "x").await;
    for dies in [0, 1, 0, 1] {
        let processes = daemon.serving_processes(2).await;
        processes[dies].signal(Signal::KILL);
        opens(&client, KEY, &sealed, "x").await;
        processes[dies].ended().await;
        // What the status says of it may be older than its death, until another is there.
        daemon.serving_processes(2).await;
        let both = |status: &keyward::rpc::proto::Status| {
            status.hsm.iter().flat_map(|hsm| &hsm.slots).all(|slot| slot.state == "ready")
        };
        daemon.wait_for(both).await.expect("both tokens");
    }
    for label in ["token", "second"] {
        let id = on_both[0].as_str();
        let key = ["--keygen", "--key-type", "AES:32"];
        for more in [["--usage-wrap", "--id", "77"], ["--extractable", "--id", "78"]] {
            let made = tool(&world, label, &[&key[..], &more].concat());
            assert!(made.status.success(), "{}", text(&made));
        }
        // The same call takes a key away that is extractable.
        assert!(stolen(&world, label, "78"));
        assert!(!stolen(&world, label, id));
    }
}

/// Whether a PIN holder gets a key out of the token, wrapped under a key of his own or in the clear.
fn stolen(world: &World, label: &str, id: &str) -> bool {
    let file = world.path("stolen");
    std::fs::remove_file(&file).ok();
    let path = file.to_str().expect("a path");
    let wrap = ["--wrap", "--mechanism", "AES-KEY-WRAP", "--id", "77", "--application-id", id];
    let read = ["--read-object", "--type", "secrkey", "--id", id];
    [&wrap[..], &read].iter().any(|way| {
        tool(world, label, &[way, &["--output-file", path][..]].concat());
        std::fs::metadata(&file).is_ok_and(|file| file.len() >= 32)
    })
}
