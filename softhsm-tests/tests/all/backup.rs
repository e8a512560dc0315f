//! Recovery exports: made under a running daemon, proved on a second token, restored.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use keyward::client::{Client, context};
use keyward::store::recovery::Head;
use keyward_softhsm_tests::{KEY, World, create_key, eventually_now, text};
use serde_json::Value;

const TEXT: &[u8] = b"0912345678";

/// A world of two tokens with one root.
fn two_tokens() -> World {
    let mut world = World::new();
    world.make_token("second");
    world.config += "\n[[hsm.standby]]\ntoken = \"second\"\n";
    world.init();
    world
}

async fn encrypted(client: &Client) -> Vec<u8> {
    client.encrypt(KEY, TEXT, &context([("table", "customers")])).await.unwrap().ciphertext.to_vec()
}

async fn assert_decrypts(client: &Client, ciphertext: &[u8]) {
    let opened = client.decrypt(KEY, ciphertext.to_vec(), &context([("table", "customers")])).await.unwrap();
    assert_eq!(opened.plaintext.expose(), TEXT);
}

fn backup(world: &World, keep_for: &str) -> Value {
    let file = world.path("b.kwb").display().to_string();
    let arguments = ["backup", "create", "--json", "--keep-for", keep_for, "--out", &file];
    let made = world.cli(arguments);
    assert!(made.status.success(), "{}\n{}", text(&made), world.log());
    serde_json::from_slice(&made.stdout).unwrap()
}

fn drill(world: &World, file: &Path, token: &str) -> Output {
    let (config, file) = (world.config_file(), file.display().to_string());
    world.cli(["backup", "drill", "--json", "--config", &config, "--in", &file, "--token", token])
}

fn with_config(world: &World, arguments: &[&str]) -> Output {
    let config = world.config_file();
    world.cli(arguments.iter().copied().chain(["--config", &config]))
}

#[tokio::test]
async fn an_export_is_on_record_and_proved_on_the_second_token() {
    let world = two_tokens();
    let (daemon, client) = world.start_with_key().await;
    for number in 0..15 {
        create_key(&client, &format!("t{number}"), "k").await;
    }
    let made = backup(&world, "35d");
    let file = world.path("b.kwb");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let listed = text(&world.cli(["backup", "list", "--json"]));
    assert!(listed.contains(made["name"].as_str().unwrap()), "{listed}");
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(3).any(|part| part == b"t14"), "no name shows");

    let proved = drill(&world, &file, "second");
    assert!(proved.status.success(), "{}", text(&proved));
    let report: Value = serde_json::from_slice(&proved.stdout).unwrap();
    assert_eq!((&report["proved"], &report["expired"]), (&true.into(), &false.into()));
    assert_eq!((&report["tenants"], &report["tenants_opened"]), (&16.into(), &10.into()));
    assert_eq!(report["records_verified"], made["records"]);
    assert_eq!(report["ciphertext_decrypted_by"], KEY);
    assert_eq!(report["in_audit_log"], true);
    let drills = world.audit().into_iter().filter(|record| record.operation == "backup-drill");
    let details: Vec<_> = drills.map(|record| record.detail.unwrap_or_default()).collect();
    assert!(matches!(&details[..], [one] if one.starts_with("passed: on token second")), "{details:?}");
    assert!(daemon.stop().await.success());
    // Without a daemon it is proved all the same, and says that it is not on record.
    let proved = drill(&world, &file, "second");
    let report: Value = serde_json::from_slice(&proved.stdout).unwrap();
    assert_eq!(report["in_audit_log"], false);
}

#[tokio::test]
async fn a_drill_fails_for_whatever_is_wrong() {
    let world = two_tokens();
    world.make_token("third");
    let (daemon, _) = world.start_with_key().await;
    backup(&world, "35d");
    assert!(daemon.stop().await.success());
    let good = std::fs::read(world.path("b.kwb")).unwrap();
    let other = drill(&world, &world.path("b.kwb"), "third");
    assert!(!other.status.success() && text(&other).contains("has no master key"), "{}", text(&other));
    let bad = world.path("bad.kwb");
    let (_, head) = Head::parse(&good).unwrap().unwrap();
    // The id, the dates and the digest stand in the header; the sealed key, and the stream follow.
    let flips = [30, 60, head / 2, head - 100, head - 30, head + 3, head + 40, head + 90, good.len() - 1];
    for at in flips {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&bad, bytes).unwrap();
        let failed = drill(&world, &bad, "second");
        assert!(!failed.status.success(), "byte {at}: {}", text(&failed));
    }
    for length in [0, 10, head - 1, head + 10, head + 76, good.len() - 1] {
        std::fs::write(&bad, &good[..length]).unwrap();
        let failed = drill(&world, &bad, "second");
        let said = text(&failed);
        assert!(!failed.status.success(), "{length} bytes: {said}");
    }
}

#[tokio::test]
async fn a_retention_that_is_over_is_said() {
    let world = two_tokens();
    let (daemon, _) = world.start_with_key().await;
    backup(&world, "1ms");
    let proved = drill(&world, &world.path("b.kwb"), "second");
    let report: Value = serde_json::from_slice(&proved.stdout).unwrap();
    assert_eq!((&report["proved"], &report["expired"]), (&true.into(), &true.into()));
    assert!(!text(&world.cli(["backup", "list", "--json"])).contains("recovery"));
    for span in ["0s", "11years"] {
        let file = world.path("never.kwb").display().to_string();
        let refused = world.cli(["backup", "create", "--keep-for", span, "--out", &file]);
        assert!(!refused.status.success() && !Path::new(&file).exists(), "{}", text(&refused));
    }
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_store_is_restored_and_what_was_destroyed_since_is_back() {
    let world = two_tokens();
    let (daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    backup(&world, "35d");
    create_key(&client, "later", "k").await;
    // Every copy of the store from before is dead. The export is not, and is on record.
    let replaced = world.cli(["erasure", "replace"]);
    assert!(replaced.status.success(), "{}", text(&replaced));
    assert!(text(&world.cli(["backup", "list", "--json"])).contains("recovery"));
    assert!(daemon.stop().await.success());

    let file = world.path("b.kwb").display().to_string();
    let occupied = with_config(&world, &["backup", "restore", "--in", &file]);
    assert!(!occupied.status.success() && text(&occupied).contains("is not empty"), "{}", text(&occupied));
    let state = world.path("state");
    for lost in ["store.db", "store.db-wal", "store.db-shm"] {
        std::fs::remove_file(state.join(lost)).ok();
    }
    // The journal is the other copy of every key: it is not touched.
    let journal = std::fs::read(state.join("journal.kwj")).unwrap();
    let occupied = with_config(&world, &["backup", "restore", "--in", &file]);
    assert!(!occupied.status.success() && text(&occupied).contains("is not empty"), "{}", text(&occupied));
    assert_eq!(std::fs::read(state.join("journal.kwj")).unwrap(), journal);
    // Nor is it when the export is no good, and what was begun before does not stay in the way.
    std::fs::remove_file(state.join("journal.kwj")).unwrap();
    for begun in ["store.db.restoring", "store.db.restoring-wal", "journal.kwj.restoring"] {
        std::fs::write(state.join(begun), &journal[..journal.len() / 2]).unwrap();
    }
    let restored = with_config(&world, &["backup", "restore", "--in", &file]);
    assert!(restored.status.success(), "{}", text(&restored));
    assert!(text(&restored).contains("accept-rollback"), "{}", text(&restored));
    // That of the lost store stood on the tokens: it is named once, though both have it, and on record.
    assert_eq!(text(&restored).matches("stood on the tokens").count(), 1, "{}", text(&restored));
    // The audit log knows of a later store.
    let mut daemon = world.spawn();
    daemon.wait_for(|status| status.reason.contains("audit log")).await.unwrap();
    assert!(daemon.stop().await.success());
    let accepted = with_config(&world, &["store", "accept-rollback"]);
    assert!(accepted.status.success(), "{}", text(&accepted));
    let whole = with_config(&world, &["store", "check"]);
    assert!(whole.status.success(), "{}", text(&whole));
    let daemon = world.start().await;
    let client = daemon.client().await;
    assert_decrypts(&client, &ciphertext).await;
    create_key(&client, "after", "k").await;
    // By that record it is destroyed, and it is no stray.
    let shown = eventually_now("the end of the lost store's erasure root", || {
        let shown = world.cli(["erasure", "status", "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        (shown["replacing"] == "no").then_some(shown)
    });
    assert_eq!(shown["strays"], Value::Array(Vec::new()), "{shown}");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_store_is_restored_on_the_second_token_alone() {
    let mut world = two_tokens();
    let (daemon, client) = world.start_with_key().await;
    let ciphertext = encrypted(&client).await;
    backup(&world, "35d");
    assert!(daemon.stop().await.success());
    std::fs::remove_dir_all(world.path("state")).unwrap();
    world.reconfigure("\n[[hsm.standby]]\ntoken = \"second\"\n", "");
    world.reconfigure("token = \"token\"", "token = \"second\"");
    let file = world.path("b.kwb").display().to_string();
    let restored = with_config(&world, &["backup", "restore", "--in", &file]);
    assert!(restored.status.success(), "{}", text(&restored));
    let daemon = world.start().await;
    assert_decrypts(&daemon.client().await, &ciphertext).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn an_application_makes_no_export() {
    let mut world = World::new();
    world.reconfigure("role = \"operator\"", "role = \"application\"");
    world.init();
    let daemon = world.start().await;
    let file = world.path("b.kwb").display().to_string();
    for arguments in [&["backup", "create", "--out", &file][..], &["erasure", "replace"], &["backup", "list"]]
    {
        let refused = world.cli(arguments);
        assert_eq!(refused.status.code(), Some(3), "{arguments:?}: {}", text(&refused));
    }
    assert!(!Path::new(&file).exists());
    assert!(daemon.stop().await.success());
}
