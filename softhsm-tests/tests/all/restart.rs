//! A start after a stop has nothing to say: what it warns of is not in order.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::fs;

use keyward::client::{Client, Context};
use keyward_softhsm_tests::{KEY, World};

const RECOMPUTED: &str = "the tree does not fit the records and the newest checkpoint";

async fn encrypt(client: &Client, count: u32) {
    for number in 0..count {
        client.encrypt(KEY, number.to_string(), &Context::new()).await.unwrap();
    }
}

/// What the daemon said since the log had `before` bytes, and only what is worse than a note.
fn complaints(world: &World, before: usize) -> Vec<String> {
    let log = world.log();
    let lines = log[before..].lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_start_after_a_stop_warns_of_nothing() {
    let world = World::ready();
    let (mut daemon, _) = world.start_with_key().await;
    for count in [1, 17, 300, 0] {
        encrypt(&daemon.client().await, count).await;
        let before = world.log().len();
        assert!(daemon.stop().await.success(), "{}", world.log());
        daemon = world.start().await;
        assert_eq!(complaints(&world, before), Vec::<String>::new(), "after {count} records");
    }
    // A crash is no tampering either.
    for count in [1, 17, 300] {
        encrypt(&daemon.client().await, count).await;
        let before = world.log().len();
        daemon.kill();
        daemon = world.start().await;
        let said = complaints(&world, before);
        assert!(!said.iter().any(|line| line.contains(RECOMPUTED)), "after {count} records: {said:?}");
    }
    assert!(daemon.stop().await.success(), "{}", world.log());
}

#[tokio::test]
async fn a_start_with_a_changed_tree_says_so() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    encrypt(&client, 20).await;
    assert!(daemon.stop().await.success(), "{}", world.log());
    let tree = world.path("state/audit/tree");
    // A hash of a leaf, and the last digit of the chain hash that the mark has.
    for name in ["0", "durable"] {
        let path = tree.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = if name == "0" { 32 * 3 } else { bytes.len() - 2 };
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        fs::write(&path, bytes).unwrap();
        let before = world.log().len();
        let daemon = world.start().await;
        let said = complaints(&world, before);
        assert!(said.iter().any(|line| line.contains(RECOMPUTED)), "{name}: {said:?}");
        assert!(daemon.stop().await.success(), "{}", world.log());
    }
}
