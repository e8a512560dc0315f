//! The erasure key: what it makes unreadable, and what it leaves alone.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use keyward::client::{Client, context};
use keyward::config::Config;
use keyward::daemon::{child, hsm_settings};
use keyward::hsm::birth::Purpose;
use keyward::hsm::process::{self, Program};
use keyward::id::RootId;
use keyward::rpc::proto::{ErasureKey, GetErasureKeyRequest, RotateTenantRequest};
use keyward::store::{SqliteKv, bootstrap};
use keyward_softhsm_tests::{Daemon, KEY, PATIENCE, Random, World, binary, create_key, eventually_now, text};

const TEXT: &[u8] = b"0912345678";

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
    client.call(client.backup().get_erasure_key(GetErasureKeyRequest {})).await.unwrap()
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

/// Erasure roots of the installation, over all tokens.
async fn roots(world: &World) -> Vec<RootId> {
    let config = Config::read(Path::new(&world.config_file())).unwrap();
    let kv = SqliteKv::open(config.database()).await.unwrap();
    let (root, _) = bootstrap(&kv).await.unwrap().unwrap();
    let mut settings = hsm_settings(&config).unwrap();
    // The module finds its tokens by its environment.
    let tokens = format!("SOFTHSM2_CONF={}", world.path("softhsm2.conf").display());
    let arguments = vec![tokens.into(), binary("keyward").into(), child::COMMAND.into()];
    settings.program = Program::new("/usr/bin/env".into(), arguments);
    process::roots(&settings, Purpose::Erasure(root.deployment)).await.unwrap()
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

/// Kills the daemon when it says that it is at a step.
async fn kill_at(world: &World, daemon: Daemon, step: &str) {
    let seen = world.log().matches(step).count();
    let mut replacing = world.command("keyward");
    let replacing = replacing.args(["erasure", "replace"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut replacing = replacing.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while world.log().matches(step).count() == seen {
        assert!(Instant::now() < deadline, "{step}: {}", world.log());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    daemon.kill();
    replacing.wait().unwrap();
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
        world.sparing_tokens(kill_at(&world, daemon, step)).await;
        daemon = world.start().await;
        let client = daemon.client().await;
        let key = settled(&client).await;
        assert_decrypts(&client, &ciphertext).await;
        // What was stranded is destroyed in the background.
        let deadline = Instant::now() + PATIENCE;
        while roots(&world).await.len() != 1 {
            assert!(Instant::now() < deadline, "{step}: {}", world.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(key.generation > 0);
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
    let out = world.path("certificate.json");
    let certificate = eventually_now("a certificate", || {
        std::fs::remove_file(&out).ok();
        let made = world.cli(["certificate", "get", KEY, "--out", out.to_str()?]);
        made.status.success().then(|| std::fs::read_to_string(&out).unwrap())
    });
    // The copies of before are sealed under no erasure key: nobody can say how long they can be read.
    for copy in ["store.db.format-1.bak", "journal.kwj.format-1.bak"] {
        assert!(certificate.contains(copy), "{certificate}");
    }
    assert!(!certificate.contains("gone_from_backups"), "{certificate}");
    assert!(daemon.stop().await.success());
}
