//! The erasure key: what it makes unreadable, and what it leaves alone.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use keyward::client::{Client, context};
use keyward::config::Config;
use keyward::daemon::{child, hsm_settings};
use keyward::hsm::birth::{BackupPlan, Purpose};
use keyward::hsm::process::{self, Program};
use keyward::id::{DeploymentId, RootId};
use keyward::rpc::proto::ceremony::State;
use keyward::rpc::proto::propose_request::Action;
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{ErasureKey, GetErasureKeyRequest, RotateTenantRequest};
use keyward::store::{SqliteKv, bootstrap};
use keyward_softhsm_tests::custodians::{approve_by, ended, found, people, propose, transcript};
use keyward_softhsm_tests::tampering::Rows;
use keyward_softhsm_tests::{Daemon, KEY, PATIENCE, Random, World, binary, create_key, eventually_now, text};
use serde_json::Value;

const TEXT: &[u8] = b"0912345678";

/// The table of wrapped data keys.
const DEK: u8 = 7;

/// Every step of a replacement, as the log says it before the step.
const STEPS: [&str; 6] = [
    "erasure key: a new root is made",
    "erasure key: the new root is recorded",
    "erasure key: rows are sealed anew",
    "erasure key: the journal is compacted",
    "erasure key: the old root is destroyed",
    "erasure key: the old root is gone",
];

async fn encrypted(client: &Client) -> Vec<u8> {
    client.encrypt(KEY, TEXT, &context([("table", "customers")])).await.unwrap().ciphertext.to_vec()
}

async fn assert_decrypts(client: &Client, ciphertext: &[u8]) {
    let opened = client.decrypt(KEY, ciphertext.to_vec(), &context([("table", "customers")])).await.unwrap();
    assert_eq!(opened.plaintext.expose(), TEXT);
}

async fn erasure(client: &Client) -> ErasureKey {
    client.call(client.backup().get_erasure_key(GetErasureKeyRequest::default())).await.unwrap()
}

/// Waits until no replacement is under way.
async fn settled(client: &Client) -> ErasureKey {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let key = erasure(client).await;
        if key.replacing == "no" {
            return key;
        }
        assert!(Instant::now() < deadline, "{key:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that a disk has of the store.
fn copy_of(world: &World, name: &str) -> PathBuf {
    let copy = world.path(name);
    std::fs::create_dir(&copy).unwrap();
    for file in ["store.db", "store.db-wal", "journal.kwj"] {
        let from = world.path("state").join(file);
        if from.exists() {
            std::fs::copy(from, copy.join(file)).unwrap();
        }
    }
    copy
}

/// Puts a copy in the place of the store; the audit log goes too, so that it does not object.
fn put_back(world: &World, copy: &Path) {
    let state = world.path("state");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::create_dir(&state).unwrap();
    for file in std::fs::read_dir(copy).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), state.join(file.file_name())).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match path.is_dir() {
            true => copy_tree(&path, &target),
            false => assert!(std::fs::copy(path, target).is_ok()),
        }
    }
}

/// How the tokens of a world are reached, and whose they are.
async fn tokens(world: &World) -> (process::Settings, DeploymentId) {
    let config = Config::read(Path::new(&world.config_file())).unwrap();
    let kv = SqliteKv::open(config.database()).await.unwrap();
    let (root, _) = bootstrap(&kv).await.unwrap().unwrap();
    let mut settings = hsm_settings(&config).unwrap();
    // The module finds its tokens by its environment.
    let tokens = format!("SOFTHSM2_CONF={}", world.path("softhsm2.conf").display());
    let arguments = vec![tokens.into(), binary("keyward").into(), child::COMMAND.into()];
    settings.program = Program::new("/usr/bin/env".into(), arguments);
    (settings, root.deployment)
}

/// Erasure roots of the installation, over all tokens.
async fn roots(world: &World) -> Vec<RootId> {
    let (settings, deployment) = tokens(world).await;
    process::roots(&settings, Purpose::Erasure(deployment)).await.unwrap()
}

/// Makes a master key on every token that no record names.
async fn make_stray(world: &World, purpose: impl FnOnce(DeploymentId) -> Purpose) -> RootId {
    let (settings, deployment) = tokens(world).await;
    let made = process::create_root(&settings, purpose(deployment), BackupPlan::Drop, async |_| Ok(()));
    made.await.unwrap().id
}

/// What `keyward erasure status` says, as JSON.
fn erasure_status(world: &World) -> Value {
    let shown = world.cli(["erasure", "status", "--json"]);
    assert!(shown.status.success(), "{}", text(&shown));
    serde_json::from_slice(&shown.stdout).unwrap()
}

/// A command that must be refused; what it says.
fn refused(world: &World, arguments: &[&str]) -> String {
    let done = world.cli(arguments);
    assert!(!done.status.success(), "{arguments:?}: {}", text(&done));
    text(&done)
}

fn forget(world: &World, root: RootId) {
    let forgotten = world.cli(["erasure", "forget", &root.to_string()]);
    assert!(forgotten.status.success(), "{}\n{}", text(&forgotten), world.log());
}

/// The certificate of what was destroyed, as soon as there is one.
fn certificate(world: &World, name: &str) -> String {
    let out = world.path("certificate.json");
    eventually_now("a certificate", || {
        std::fs::remove_file(&out).ok();
        let made = world.cli(["certificate", "get", name, "--out", out.to_str()?]);
        made.status.success().then(|| std::fs::read_to_string(&out).unwrap())
    })
}

fn replace(world: &World) {
    let replaced = world.cli(["erasure", "replace"]);
    assert!(replaced.status.success(), "{}\n{}", text(&replaced), world.log());
}

fn cli(world: &World, arguments: &[&str]) -> (bool, String) {
    let config = world.config_file();
    let done = world.cli(arguments.iter().copied().chain(["--config", &config]));
    (done.status.success(), text(&done))
}

#[tokio::test]
async fn an_old_row_that_is_put_back_keeps_no_erasure_key_alive() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    let rows = Rows::of(&world);
    let keys = rows.keys(&[DEK]);
    let [dek] = &keys[..] else { panic!("{} wrapped keys", keys.len()) };
    let old = rows.get(dek);
    replace(&world);
    // Sealed under a key that is gone: whoever reads it learns nothing, and can only be in the way.
    let sealed_anew = rows.get(dek);
    assert_ne!(sealed_anew, old);
    rows.put(dek, &old);
    replace(&world);
    assert_eq!(settled(&client).await.generation, 3);
    assert!(![&old, &sealed_anew].contains(&&rows.get(dek)));
    assert_decrypts(&client, &ciphertext).await;
    let audit = world.audit();
    let restored = audit.iter().find(|record| record.operation == "store-row-restored").unwrap();
    assert!(restored.detail.as_ref().is_some_and(|detail| detail.contains("/deks/")), "{restored:?}");
    let (whole, report) = cli(&world, &["store", "check"]);
    assert!(whole, "{report}");
    drop(daemon);
}

#[tokio::test]
async fn an_old_copy_is_unreadable_after_a_replacement() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    let before = roots(&world).await;
    let old = copy_of(&world, "old");
    let export = world.path("old.kwx").display().to_string();
    let (made, said) = cli(&world, &["store", "export", "--out", &export]);
    assert!(made, "{said}");
    replace(&world);
    let key = erasure(&client).await;
    assert_eq!((key.generation, key.destroyed_generation, key.replacing.as_str()), (2, 1, "no"));
    let now = roots(&world).await;
    assert!(now.len() == 1 && now != before, "the old token object is gone: {before:?} {now:?}");
    assert_decrypts(&client, &ciphertext).await;
    assert!(daemon.stop().await.success());
    // The live store is as good as ever, cold.
    let daemon = world.start().await;
    assert_decrypts(&daemon.client().await, &ciphertext).await;
    assert!(daemon.stop().await.success());
    let (whole, said) = cli(&world, &["store", "check"]);
    assert!(whole, "{said}");

    // The copy of yesterday: root and KEK live, and yet.
    put_back(&world, &old);
    let why = "erasure key 1, which is on none of the tokens";
    for arguments in [&["store", "check"][..], &["store", "check", "--repair"]] {
        let (good, said) = cli(&world, arguments);
        assert!(!good && said.contains(why) && said.contains("backup restore"), "{arguments:?}: {said}");
    }
    std::fs::remove_file(world.path("state/store.db")).unwrap();
    let (good, said) = cli(&world, &["store", "check", "--repair"]);
    assert!(!good && said.contains(why), "the old journal alone: {said}");
    std::fs::remove_dir_all(world.path("state")).unwrap();
    let (good, said) = cli(&world, &["store", "import", "--in", &export]);
    assert!(!good && said.contains(why), "the old raw export: {said}");
    assert!(!world.path("state/store.db").exists());
}

#[tokio::test]
async fn a_daemon_on_an_old_copy_says_what_remains() {
    let world = World::ready();
    let (daemon, _) = world.start_with_key().await;
    let old = copy_of(&world, "old");
    let audit = world.path("audit-before");
    replace(&world);
    assert!(daemon.stop().await.success());
    copy_tree(&world.path("state/audit"), &audit);
    put_back(&world, &old);
    copy_tree(&audit, &world.path("state/audit"));
    // The audit log objects first: the operator insists.
    let mut daemon = world.spawn();
    let refused = daemon.wait_for(|status| status.reason.contains("older than the audit log")).await.unwrap();
    assert!(refused.store.is_none());
    assert!(daemon.stop().await.success());
    let (accepted, said) = cli(&world, &["store", "accept-rollback"]);
    assert!(!accepted && said.contains("erasure key 1, which is on none of the tokens"), "{said}");
}

#[tokio::test]
async fn a_replacement_goes_on_under_load() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    for number in 0..40 {
        create_key(&client, &format!("t{number}"), "k").await;
    }
    let ciphertext = encrypted(&client).await;
    let load = async {
        let mut random = Random::new();
        for round in 0..60 {
            assert_decrypts(&client, &ciphertext).await;
            match random.below(3) {
                0 => create_key(&client, &format!("t{}", random.below(40)), &format!("k{round}")).await,
                1 => {
                    let name = format!("tenants/t{}", random.below(40));
                    let asked = RotateTenantRequest { name };
                    // Another rotation of the same tenant may still be under way.
                    client.call(client.keys().rotate_tenant(asked)).await.ok();
                }
                _ => drop(encrypted(&client).await),
            }
        }
    };
    let replacing = tokio::task::spawn_blocking({
        let mut commands: Vec<_> = (0..3).map(|_| world.command("keyward")).collect();
        move || {
            for command in &mut commands {
                let done = command.args(["erasure", "replace"]).output().unwrap();
                assert!(done.status.success(), "{}", text(&done));
            }
        }
    });
    load.await;
    replacing.await.unwrap();
    assert_eq!(settled(&client).await.generation, 4);
    assert_decrypts(&client, &ciphertext).await;
    assert!(daemon.stop().await.success());
    let (whole, said) = cli(&world, &["store", "check"]);
    assert!(whole, "{said}");
}

/// Kills the daemon when it says, at the work of a command, that it is at a step.
async fn kill_at(world: &World, daemon: Daemon, command: &[&str], step: &str) {
    let seen = world.log().matches(step).count();
    let mut asking = world.command("keyward");
    let asking = asking.args(command).stdout(Stdio::null()).stderr(Stdio::null());
    let mut asking = asking.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while world.log().matches(step).count() == seen {
        assert!(Instant::now() < deadline, "{step}: {}", world.log());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    daemon.kill();
    asking.wait().unwrap();
}

#[tokio::test]
async fn a_kill_at_any_step_loses_nothing_and_leaves_nothing() {
    let world = World::ready();
    let (mut daemon, client) = world.start_with_key().await;
    for number in 0..20 {
        create_key(&client, &format!("t{number}"), "k").await;
    }
    let ciphertext = encrypted(&client).await;
    for step in STEPS {
        world.sparing_tokens(kill_at(&world, daemon, &["erasure", "replace"], step)).await;
        daemon = world.start().await;
        let client = daemon.client().await;
        let key = settled(&client).await;
        assert_decrypts(&client, &ciphertext).await;
        // What a birth has left has its record, and is destroyed by that, in the background.
        let deadline = Instant::now() + PATIENCE;
        while roots(&world).await.len() != 1 {
            assert!(Instant::now() < deadline, "{step}: {}", world.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(key.generation > 0);
        assert_eq!(erasure_status(&world)["strays"], Value::Array(Vec::new()), "{step}");
    }
    assert!(daemon.stop().await.success());
    let (whole, said) = cli(&world, &["store", "check"]);
    assert!(whole, "{said}");
}

/// The record of the birth reaches the journal, not the store: nothing was made then, and nothing stays. (Later
/// commits that fail half are tried in process, each of them.)
#[tokio::test]
async fn a_birth_that_was_recorded_half_is_given_up() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    let before = erasure(&client).await.generation;
    let lock = rusqlite::Connection::open(world.path("state/store.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = world.cli(["erasure", "replace"]);
    assert!(!refused.status.success() && text(&refused).contains("may or may not"), "{}", text(&refused));
    lock.execute_batch("ROLLBACK").unwrap();
    drop(lock);
    replace(&world);
    let key = settled(&client).await;
    assert_eq!(key.generation, before + 1, "what was begun is given up, then one is made as was asked for");
    assert_decrypts(&client, &ciphertext).await;
    assert!(daemon.stop().await.success());
    let daemon = world.start().await;
    assert_decrypts(&daemon.client().await, &ciphertext).await;
    assert!(daemon.stop().await.success());
    assert_eq!(roots(&world).await.len(), 1);
}

#[tokio::test]
async fn a_key_that_is_old_enough_is_replaced_by_itself() {
    let mut world = World::new();
    world.config.push_str("\n[erasure]\nreplace_every = \"1ms\"\n");
    world.init();
    let (daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    let deadline = Instant::now() + PATIENCE;
    while erasure(&client).await.destroyed_generation == 0 {
        assert!(Instant::now() < deadline, "{}", world.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_decrypts(&client, &ciphertext).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn all_tokens_of_a_group_have_the_key_and_lose_it() {
    let mut world = World::new();
    world.make_token("second");
    world.config += "\n[[hsm.standby]]\ntoken = \"second\"\n";
    world.init();
    let (daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    let before = roots(&world).await;
    assert_eq!(before.len(), 2, "{before:?}");
    replace(&world);
    let now = roots(&world).await;
    assert!(now.len() == 2 && now[0] == now[1] && now[0] != before[0], "{before:?} {now:?}");
    assert!(daemon.stop().await.success());
    let daemon = world.start().await;
    assert_decrypts(&daemon.client().await, &ciphertext).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_store_of_before_the_erasure_key_is_migrated() {
    let mut world = World::new();
    world.config.push_str("\n[destruction]\nmin_delay = \"0s\"\n");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-1");
    std::fs::remove_dir_all(world.path("tokens")).unwrap();
    copy_tree(&fixture.join("tokens"), &world.path("tokens"));
    copy_tree(&fixture.join("state"), &world.path("state"));
    // What is done by hand migrates nothing by the way.
    let before = std::fs::read(world.path("state/store.db")).unwrap();
    let by_hand: [&[&str]; 3] =
        [&["store", "check"], &["store", "check", "--repair"], &["store", "accept-rollback"]];
    for command in by_hand {
        let (done, said) = cli(&world, command);
        assert!(!done && said.contains("start keywardd once"), "{command:?}: {said}");
    }
    assert_eq!(std::fs::read(world.path("state/store.db")).unwrap(), before);
    let daemon = world.start().await;
    let client = daemon.client().await;
    let key = settled(&client).await;
    assert_eq!((key.generation, key.destroyed_generation), (1, 0));
    let ciphertext = std::fs::read_to_string(fixture.join("ciphertext")).unwrap();
    let opened = world.cli_with_input(
        ["decrypt", "acme/customer-pii", "--context", "table=customers"],
        ciphertext.as_bytes(),
    );
    assert!(opened.status.success() && opened.stdout.starts_with(TEXT), "{}", text(&opened));
    for copy in ["state/store.db.format-1.bak", "state/journal.kwj.format-1.bak"] {
        assert!(world.path(copy).exists(), "{copy}");
    }
    let listed = world.cli(["backup", "list", "--json"]);
    assert!(text(&listed).contains("migration"), "the copy is on record: {}", text(&listed));
    assert!(daemon.stop().await.success());
    let (whole, said) = cli(&world, &["store", "check"]);
    assert!(whole, "{said}");
    let daemon = world.start().await;
    replace(&world);
    let destroyed = ["key", "destroy", KEY, "--delay", "0s", "--reason", "test", "--yes"];
    let destroyed = world.cli(destroyed);
    assert!(destroyed.status.success(), "{}", text(&destroyed));
    let certificate = certificate(&world, KEY);
    // The copies of before are sealed under no erasure key: nobody can say how long they can be read.
    for copy in ["store.db.format-1.bak", "journal.kwj.format-1.bak"] {
        assert!(certificate.contains(copy), "{certificate}");
    }
    assert!(!certificate.contains("gone_from_backups"), "{certificate}");
    assert!(daemon.stop().await.success());
}

/// Has a key destroyed that is there for nothing else.
async fn destroy_another_key(world: &World, client: &Client) -> &'static str {
    const GONE: &str = "tenants/acme/keys/gone";
    create_key(client, "acme", "gone").await;
    client.encrypt(GONE, TEXT, &context([("a", "b")])).await.unwrap();
    let destroyed = world.cli(["key", "destroy", GONE, "--delay", "0s", "--reason", "test", "--yes"]);
    assert!(destroyed.status.success(), "{}", text(&destroyed));
    GONE
}

#[tokio::test]
async fn a_stray_is_told_everywhere_and_destroyed_by_nobody_but_a_person() {
    let mut world = World::new();
    world.config.push_str("\n[destruction]\nmin_delay = \"0s\"\n");
    world.init();
    let stray = make_stray(&world, Purpose::Erasure).await;
    let id = stray.to_string();
    let (mut daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    // The daemon has looked, and destroyed nothing.
    let status = daemon.wait_for(|status| status.stray_warning.contains(&id)).await.unwrap();
    let told = status.strays.unwrap().keys;
    assert_eq!((told.len(), told[0].kind.as_str(), told[0].id == id), (1, "erasure-root", true), "{told:?}");
    assert!(told[0].label.starts_with("keyward erasure ") && told[0].label.ends_with(&id), "{told:?}");
    assert_eq!(told[0].tokens.len(), 1, "{told:?}");
    assert!(world.log().contains(&format!("keyward erasure forget {id}")), "{}", world.log());
    // Nor does a replacement take it along.
    replace(&world);
    let shown = erasure_status(&world);
    assert_eq!((&shown["strays"][0]["id"], &shown["generation"]), (&Value::from(id.as_str()), &2.into()));
    assert!(shown["strays_failure"] == "" && !shown["strays_time"].is_null(), "{shown}");
    let here = roots(&world).await;
    assert!(here.len() == 2 && here.contains(&stray), "{here:?}");
    let name = destroy_another_key(&world, &client).await;
    let before = certificate(&world, name);
    assert!(before.contains(&id) && !before.contains("gone_from_backups"), "{before}");

    let own = *here.iter().find(|root| **root != stray).unwrap();
    let said = refused(&world, &["erasure", "forget", &own.to_string()]);
    assert!(said.contains("in use: erasure-keys/2 names it"), "{said}");
    let said = refused(&world, &["erasure", "forget", &"07".repeat(16)]);
    assert!(said.contains("no token has"), "{said}");
    let said = refused(&world, &["erasure", "forget", "07"]);
    assert!(said.contains("hexadecimal"), "{said}");
    assert_eq!(roots(&world).await.len(), 2);
    forget(&world, stray);
    assert_eq!(roots(&world).await, [own]);
    let status = daemon.status().await.unwrap();
    assert_eq!((status.stray_warning.as_str(), status.strays.unwrap().keys), ("", Vec::new()));
    let after = certificate(&world, name);
    assert!(!after.contains(&id) && after.contains("gone_from_backups"), "{after}");
    // Its record is no generation of the key, and its number is not given out twice.
    let key = erasure(&client).await;
    assert_eq!((key.generation, key.destroyed_generation, key.replacing.as_str()), (2, 1, "no"));
    replace(&world);
    let key = erasure(&client).await;
    assert_eq!((key.generation, key.destroyed_generation, key.replacing.as_str()), (4, 2, "no"));
    // Whoever has lost the answer asks again.
    forget(&world, stray);
    assert_decrypts(&client, &ciphertext).await;
    assert!(daemon.stop().await.success());
    let resource = format!("erasure-roots/{id}");
    let is_step = |operation: &str| operation.starts_with("erasure-root-forg");
    let steps = world.audit().into_iter().filter(|record| is_step(&record.operation));
    let steps: Vec<_> = steps.map(|record| (record.operation, record.resource)).collect();
    let expected = ["erasure-root-forget", "erasure-root-forgotten"];
    assert_eq!(steps, expected.map(|step| (step.to_owned(), resource.clone())));
    let daemon = world.start().await;
    assert_decrypts(&daemon.client().await, &ciphertext).await;
    assert!(daemon.stop().await.success());
    let (whole, said) = cli(&world, &["store", "check"]);
    assert!(whole, "{said}");
}

#[tokio::test]
async fn a_root_that_may_be_of_another_installation_is_told_and_left_alone() {
    let mut world = World::new();
    world.config.push_str("\n[destruction]\nmin_delay = \"0s\"\n");
    world.init();
    let stray = make_stray(&world, |_| Purpose::Root).await;
    let other = make_stray(&world, |_| Purpose::Erasure(DeploymentId([9; 16]))).await;
    let id = stray.to_string();
    let (mut daemon, client) = world.start_with_key().await;
    let status = daemon.wait_for(|status| status.stray_warning.contains(&id)).await.unwrap();
    assert!(status.stray_warning.contains("of another installation or left over"), "{status:?}");
    // The erasure root of another installation says whose it is: it is no business of this one.
    let told = status.strays.unwrap().keys;
    assert_eq!((told.len(), told[0].kind.as_str()), (1, "root"), "{told:?}");
    for root in [stray, other] {
        let said = refused(&world, &["erasure", "forget", &root.to_string()]);
        assert!(said.contains("no token has"), "{said}");
    }
    // Nobody knows of an export under it: the certificate tells it, and has its date.
    let name = destroy_another_key(&world, &client).await;
    let certificate = certificate(&world, name);
    let says = certificate.contains(&id) && certificate.contains("of another installation, or left over");
    assert!(says && certificate.contains("gone_from_backups"), "{certificate}");
    assert!(daemon.stop().await.success());
    let (settings, _) = tokens(&world).await;
    assert!(process::roots(&settings, Purpose::Root).await.unwrap().contains(&stray));
    let others = process::roots(&settings, Purpose::Erasure(DeploymentId([9; 16]))).await.unwrap();
    assert_eq!(others, [other]);
}

#[tokio::test]
async fn what_is_on_record_as_forgotten_goes_after_a_crash_too() {
    let world = World::ready();
    let (mut daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    let steps =
        ["erasure root: it is on record that it is forgotten", "erasure root: it is gone from every token"];
    for step in steps {
        let stray = make_stray(&world, Purpose::Erasure).await;
        let id = stray.to_string();
        let command = ["erasure", "forget", &id];
        world.sparing_tokens(kill_at(&world, daemon, &command, step)).await;
        daemon = world.start().await;
        let deadline = Instant::now() + PATIENCE;
        while roots(&world).await.contains(&stray) {
            assert!(Instant::now() < deadline, "{step}: {}", world.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_decrypts(&daemon.client().await, &ciphertext).await;
    }
    // What is under way is finished before another one begins.
    replace(&world);
    assert_eq!(erasure_status(&world)["strays"], Value::Array(Vec::new()));
    assert_decrypts(&daemon.client().await, &ciphertext).await;
    assert!(daemon.stop().await.success());
    // Each was put on record once: what came after the crash went on from there.
    let records = world.audit().into_iter().filter(|record| record.operation == "erasure-root-forget");
    assert_eq!(records.count(), steps.len());
    assert_eq!(roots(&world).await.len(), 1);
}

#[tokio::test]
async fn once_the_root_is_founded_custodians_forget_a_stray() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    let custodians = people(["alice", "bob", "carol"]);
    found(&client, 2, &custodians).await;
    let own = roots(&world).await;
    let stray = make_stray(&world, Purpose::Erasure).await;
    let id = stray.to_string();
    let said = refused(&world, &["erasure", "forget", &id]);
    assert!(said.contains(&format!("keyward ceremony propose forget-erasure-root {id}")), "{said}");
    assert!(roots(&world).await.contains(&stray));
    for none in [own[0].to_string(), "07".repeat(16)] {
        let error = propose(&client, Action::ForgetErasureRoot(none)).await.unwrap_err();
        assert_eq!(error.reason(), "NOT_ALLOWED", "{error}");
    }
    let asked = ["ceremony", "propose", "forget-erasure-root", &id, "--reason", "a test", "--json"];
    let proposed = world.cli(asked);
    assert!(proposed.status.success(), "{}", text(&proposed));
    let proposed: Value = serde_json::from_slice(&proposed.stdout).unwrap();
    let name = proposed["name"].as_str().unwrap();
    let asked = keyward::rpc::proto::GetCeremonyRequest { name: name.to_owned() };
    let ceremony = client.call(client.ceremonies().get_ceremony(asked)).await.unwrap();
    let wanted = format!("Action: forget-erasure-root\n\nErasure root: {id}\n");
    assert!(ceremony.statement.contains(&wanted), "{}", ceremony.statement);
    assert!(roots(&world).await.contains(&stray), "nobody has approved it");
    approve_by(&client, &ceremony, &[&custodians[0], &custodians[1]]).await;
    let done = ended(&client, name).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    assert_eq!(roots(&world).await, own);
    assert!(transcript(&client, name).await.unwrap().contains("forget-erasure-root"));
    assert_decrypts(&client, &ciphertext).await;
    assert!(daemon.stop().await.success());
}

/// A row of the store's file: key, value and revision.
type Row = (Vec<u8>, Vec<u8>, i64);

/// The rows of the erasure keys, for somebody who may write the store's file.
struct ErasureRows(rusqlite::Connection, Vec<Row>);

impl ErasureRows {
    fn of(world: &World) -> Self {
        let file = rusqlite::Connection::open(world.path("state/store.db")).unwrap();
        file.busy_timeout(PATIENCE).unwrap();
        let mut select =
            file.prepare("SELECT key, value, revision FROM kv WHERE substr(key, 1, 1) = x'13'").unwrap();
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let rows: Vec<Row> = rows.collect::<Result<_, _>>().unwrap();
        drop(select);
        assert_eq!(rows.len(), 1);
        Self(file, rows)
    }

    fn take_away(&self) {
        assert_eq!(self.0.execute("DELETE FROM kv WHERE substr(key, 1, 1) = x'13'", []).unwrap(), 1);
    }

    fn put_back(&self, change: impl Fn(&mut Vec<u8>)) {
        for (key, value, revision) in &self.1 {
            let mut value = value.clone();
            change(&mut value);
            let insert = "INSERT OR REPLACE INTO kv (key, value, revision) VALUES (?1, ?2, ?3)";
            self.0.execute(insert, (key, value, revision)).unwrap();
        }
    }
}

/// A row of an erasure key that is taken away is no evidence that its token object may go: with that object go
/// the keys of every tenant.
#[tokio::test]
async fn a_record_that_is_taken_away_destroys_nothing() {
    let world = World::ready();
    let (mut daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    // The first look is over; it had nothing to tell.
    daemon
        .wait_for(|status| status.strays.as_ref().is_some_and(|seen| seen.look_time.is_some()))
        .await
        .unwrap();
    let root = roots(&world).await;
    let id = root[0].to_string();
    let rows = ErasureRows::of(&world);
    let damages: [(&str, &dyn Fn()); 2] = [
        ("another byte", &|| rows.put_back(|value| *value.last_mut().unwrap() ^= 1)),
        ("taken away", &|| rows.take_away()),
    ];
    for (what, damage) in damages {
        damage();
        for arguments in [&["erasure", "status"][..], &["erasure", "replace"], &["erasure", "forget", &id]] {
            let said = refused(&world, arguments);
            assert!(said.contains("keyward store check"), "{what}: {said}");
        }
        assert_eq!(roots(&world).await, root, "{what}");
        // Nobody could see whether it is a stray: that is told, and neither that it is one nor that there is none.
        let warning = daemon.status().await.unwrap().stray_warning;
        assert!(warning.contains("could not be looked for") && !warning.contains(&id), "{what}: {warning}");
    }
    rows.put_back(|_| ());
    assert_eq!(erasure_status(&world)["strays"], Value::Array(Vec::new()));
    assert_eq!(daemon.status().await.unwrap().stray_warning, "");
    assert_decrypts(&client, &ciphertext).await;
    assert!(daemon.stop().await.success());

    // Between two runs.
    let rows = ErasureRows::of(&world);
    rows.take_away();
    let mut daemon = world.spawn();
    let refuses = daemon.wait_for(|status| {
        status.serving() == Serving::NotServing && status.reason.contains("keyward store check")
    });
    refuses.await.unwrap();
    assert!(daemon.stop().await.success());
    assert_eq!(roots(&world).await, root);
    rows.put_back(|_| ());
    drop(rows);
    let daemon = world.start().await;
    assert_decrypts(&daemon.client().await, &ciphertext).await;
    assert!(daemon.stop().await.success());
}
