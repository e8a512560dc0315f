//! Two tokens with the same root key, served as one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyward::rpc::proto::status::Serving;
use keyward_softhsm_tests::{World, create_key, create_tenant};
use rustix::process::Signal;

const STANDBY: &str = "\n[[hsm.standby]]\ntoken = \"second\"\n";

/// A world with a second token in its configuration; nothing is made yet.
fn two_tokens() -> World {
    let mut world = World::new();
    world.make_token("second");
    world.config += STANDBY;
    world
}

/// Moves the standby's folder away or back.
fn token_folder(world: &World, label: &str) -> std::path::PathBuf {
    let mut folders = std::fs::read_dir(world.path("tokens"))
        .expect("tokens")
        .map(|folder| folder.expect("a token").path());
    folders
        .find(|folder| {
            let text = std::fs::read(folder.join("token.object")).expect("a token");
            text.windows(label.len()).any(|part| part == label.as_bytes())
        })
        .expect("the token's folder")
}

#[tokio::test]
async fn no_request_fails_while_one_process_after_the_other_dies() {
    let world = two_tokens();
    world.init();
    let mut daemon = world.start().await;
    daemon.serving_processes(2).await;
    let client = daemon.client().await;
    let done = Arc::new(AtomicBool::new(false));
    let worker = tokio::spawn({
        let (client, done) = (client.clone(), done.clone());
        async move {
            let mut made = 0;
            while !done.load(Ordering::Relaxed) {
                create_tenant(&client, &format!("t{made}"))
                    .await
                    .unwrap_or_else(|error| panic!("t{made}: {error:?}"));
                made += 1;
            }
            made
        }
    });
    for round in 0..6 {
        let processes = daemon.serving_processes(2).await;
        processes[round % 2].signal(Signal::KILL);
        processes[round % 2].ended().await;
        // Both serve again before the next one dies.
        let both = |status: &keyward::rpc::proto::Status| {
            let slots = status.hsm.as_ref().map(|hsm| hsm.slots.clone()).unwrap_or_default();
            slots.len() == 2
                && slots.iter().all(|slot| slot.state == "ready")
                && status.serving() == Serving::Ready
                && status.hsm.as_ref().is_some_and(|hsm| hsm.epoch >= 3 + round as u64)
        };
        daemon.wait_for(both).await.expect("both tokens");
    }
    done.store(true, Ordering::Relaxed);
    let made = worker.await.expect("no request failed");
    assert!(made > 0);
    create_key(&client, "t0", "k").await;
    assert!(daemon.stop().await.success(), "{}", world.log());
}

#[tokio::test]
async fn a_standby_that_is_missing_is_named_and_comes_back() {
    let world = two_tokens();
    world.init();
    let folder = token_folder(&world, "second");
    let away = world.path("away");
    std::fs::rename(&folder, &away).expect("the token's folder");
    let mut daemon = world.spawn();
    let degraded = |status: &keyward::rpc::proto::Status| status.serving() == Serving::Degraded;
    let status = daemon.wait_for(degraded).await.expect("degraded");
    assert!(status.reason.contains("second") && status.reason.contains("no token has"), "{status:?}");
    create_tenant(&daemon.client().await, "acme").await.expect("a tenant");
    std::fs::rename(&away, &folder).expect("the token's folder");
    daemon.wait_for(|status| status.serving() == Serving::Ready).await.expect("ready");
}

#[tokio::test]
async fn tokens_with_different_roots_do_not_start_together() {
    let mut world = World::ready();
    world.make_token("second");
    world.config += STANDBY;
    let mut daemon = world.spawn();
    let refused = |status: &keyward::rpc::proto::Status| status.reason.contains("is not the one");
    let status = daemon.wait_for(refused).await.expect("refused");
    assert_eq!(status.serving(), Serving::NotServing);
    let client = daemon.client().await;
    create_tenant(&client, "acme").await.expect_err("it serves");
    assert!(world.log().contains("\\\"second\\\"") || world.log().contains("second"), "{}", world.log());
}

#[test]
fn a_root_is_made_on_every_token_or_on_none() {
    let mut world = World::new();
    world.config += STANDBY;
    let config = world.config_file();
    let init = |backup: &str| {
        world.cli(["init", "--config", &config, "--backup-key", world.path(backup).to_str().expect("a path")])
    };
    let failed = init("first-backup");
    assert!(!failed.status.success());
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("no token has label") && said.contains("second"), "{said}");
    world.make_token("second");
    let made = init("backup");
    assert!(made.status.success(), "{made:?}");
    let check = world.cli(["hsm", "check", "--json", "--config", &config]);
    let report: serde_json::Value = serde_json::from_slice(&check.stdout).expect("a report");
    assert_eq!(report["roots"].as_str().unwrap_or_default().split(", ").count(), 1, "{report}");
}
