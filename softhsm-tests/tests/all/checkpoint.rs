//! Checkpoints of the real daemon: signed by the HSM, verified by another
//! implementation, and in the way of whoever cuts, edits or replaces the log.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use keyward::audit::checkpoint::{SignedCheckpoint, read_keys};
use keyward::audit::{merkle, proof, verify};
use keyward::client::{Client, Code, Context};
use keyward::rpc::proto::{
    GetCheckpointRequest, GetConsistencyProofRequest, GetInclusionProofRequest, GetPublicKeysRequest,
};
use keyward_softhsm_tests::modules::Module;
use keyward_softhsm_tests::{KEY, PATIENCE, World, text};
use rustix::process::Signal;
use serde_json::Value;

/// Bytes of a hash.
type Hash = [u8; 32];

fn audit_dir(world: &World) -> PathBuf {
    world.path("state/audit")
}

async fn checkpoint(client: &Client, fresh: bool) -> SignedCheckpoint {
    let request = GetCheckpointRequest { fresh };
    client.call(client.audit().get_checkpoint(request)).await.unwrap().note.parse().unwrap()
}

async fn encrypt(client: &Client, count: usize) {
    for number in 0..count {
        client.encrypt(KEY, number.to_string(), &Context::new()).await.unwrap();
    }
}

fn hashes(list: &[bytes::Bytes]) -> Vec<Hash> {
    list.iter().map(|hash| hash.as_ref().try_into().unwrap()).collect()
}

/// Prints what the daemon says to a file.
fn save(world: &World, name: &str, arguments: &[&str]) -> PathBuf {
    let said = world.cli(arguments);
    assert!(said.status.success(), "{}", text(&said));
    let path = world.path(name);
    fs::write(&path, said.stdout).unwrap();
    path
}

fn other_implementation(keys: &Path, note: &Path, document: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/check_checkpoint.py");
    Command::new("python3").arg(script).args([keys, note, document]).output().unwrap()
}

fn verify_log(world: &World, key: Option<&Path>) -> Output {
    let config = world.config_file();
    let mut arguments = vec!["audit", "verify", "--json", "--config", &config];
    let key = key.map(|key| key.display().to_string());
    if let Some(key) = &key {
        arguments.extend(["--key", key]);
    }
    world.cli(arguments)
}

async fn proves_itself(module: Module) {
    let world = World::on(module);
    world.init();
    let (daemon, client) = world.start_with_key().await;
    encrypt(&client, 300).await;
    let first = checkpoint(&client, true).await.checkpoint.head;
    encrypt(&client, 20).await;

    // What the API proves holds by the algorithms of RFC 9162.
    let keys = client.call(client.audit().get_public_keys(GetPublicKeysRequest {})).await.unwrap().keys;
    let trusted: Vec<_> = keys.iter().map(|key| key.verifier_key.parse().unwrap()).collect();
    let request = GetInclusionProofRequest { sequence: 123 };
    let included = client.call(client.audit().get_inclusion_proof(request)).await.unwrap();
    let note: SignedCheckpoint = included.checkpoint.unwrap().note.parse().unwrap();
    note.verify(&trusted).unwrap();
    let (head, leaf) = (note.checkpoint.head, merkle::leaf(&included.record));
    assert!(proof::verify_inclusion(&leaf, 122, head.size, &hashes(&included.hashes), &head.root));
    let newest = checkpoint(&client, true).await.checkpoint.head;
    assert!(newest.size >= first.size + 20);
    let request = GetConsistencyProofRequest { old_size: first.size };
    let consistent = client.call(client.audit().get_consistency_proof(request)).await.unwrap();
    let head = consistent.checkpoint.unwrap().note.parse::<SignedCheckpoint>().unwrap().checkpoint.head;
    assert!(proof::verify_consistency(
        first.size,
        head.size,
        &hashes(&consistent.hashes),
        &first.root,
        &head.root
    ));
    for beyond in [0, u64::MAX] {
        let request = GetInclusionProofRequest { sequence: beyond };
        let refused = client.call(client.audit().get_inclusion_proof(request)).await.unwrap_err();
        assert_eq!(refused.code, Code::NotFound, "{refused}");
    }

    // And what the command line prints, by another implementation.
    let keys = save(&world, "keys.txt", &["audit", "keys"]);
    let note = save(&world, "note", &["audit", "checkpoint", "--fresh"]);
    let document = save(&world, "record.json", &["audit", "prove", "123"]);
    let said = other_implementation(&keys, &note, &document);
    assert!(said.status.success(), "{}", text(&said));
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&said["kind"], &said["body"]["sequence"]), (&"audit-record".into(), &123.into()));
    let key = keys.display().to_string();
    let checked = world.cli(["audit", "check", &document.display().to_string(), "--key", &key]);
    assert!(checked.status.success() && text(&checked).contains("audit-record"), "{}", text(&checked));
    let altered = fs::read_to_string(&document).unwrap().replace("\"sequence\": 123", "\"sequence\": 124");
    fs::write(&document, altered).unwrap();
    assert_eq!(other_implementation(&keys, &note, &document).status.code(), Some(1));
    let refused = world.cli(["audit", "check", &document.display().to_string(), "--key", &key]);
    assert!(refused.status.code() == Some(6) && text(&refused).contains("signature"), "{}", text(&refused));

    // The last checkpoint covers everything to the stop.
    assert!(daemon.stop().await.success(), "{}", world.log());
    for key in [None, Some(keys.as_path())] {
        let said = verify_log(&world, key);
        assert!(said.status.success(), "{}", text(&said));
        let report: Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(report["records"], report["checkpointed_records"], "{report}");
        assert_eq!(report["signatures_checked"], true);
        assert!(report["checkpoints"].as_u64().unwrap() >= 3, "{report}");
    }
    let (_daemon, client) = (world.start().await, world.client().await);
    assert_eq!(
        client.call(client.audit().get_public_keys(GetPublicKeysRequest {})).await.unwrap().keys.len(),
        1
    );
}

#[tokio::test]
async fn softhsm_signs_checkpoints_that_others_verify() {
    proves_itself(Module::SoftHsm).await;
}

#[tokio::test]
async fn kryoptic_signs_checkpoints_that_others_verify() {
    proves_itself(Module::Kryoptic).await;
}

/// Waits until the newest checkpoint covers so many records.
async fn covered(world: &World, size: u64) {
    let begun = Instant::now();
    while world.status().await.unwrap().audit_checkpoint < size {
        assert!(begun.elapsed() < PATIENCE, "{}", world.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn checkpoints_are_made_by_themselves_and_survive_kills() {
    let mut world = World::ready();
    world.reconfigure("[log]\n", "[audit]\ncheckpoint_interval = \"100ms\"\n\n[log]\n");
    let (mut daemon, client) = world.start_with_key().await;
    let mut size = 0;
    for round in 0..5 {
        let client = if round == 0 { client.clone() } else { daemon.answering().await };
        encrypt(&client, 30).await;
        size = world.status().await.unwrap().audit.unwrap().sequence.max(size);
        covered(&world, size).await;
        // In the middle of the next one, or of writing.
        let calls = tokio::spawn({
            let client = client.clone();
            async move {
                loop {
                    if client.encrypt(KEY, "x", &Context::new()).await.is_err() {
                        return;
                    }
                }
            }
        });
        tokio::time::sleep(std::time::Duration::from_millis(95 + 5 * round)).await;
        daemon.kill();
        calls.abort();
        let report = verify::verify(&audit_dir(&world)).unwrap();
        assert!(report.counted.covered >= size, "{report:?}");
        daemon = world.start().await;
    }
    assert!(daemon.stop().await.success(), "{}", world.log());
    let said = verify_log(&world, None);
    assert!(said.status.success(), "{}", text(&said));
}

#[tokio::test]
async fn the_log_goes_on_while_the_hsm_cannot_sign() {
    let mut world = World::ready();
    world.reconfigure("[log]\n", "[audit]\ncheckpoint_interval = \"100ms\"\n\n[log]\n");
    let (mut daemon, client) = world.start_with_key().await;
    encrypt(&client, 5).await;
    // A process that stands still: no signature, and no answer that there is none.
    daemon.serving_processes(1).await[0].signal(Signal::STOP);
    encrypt(&client, 50).await;
    let written = world.status().await.unwrap().audit.unwrap().sequence;
    daemon.serving_processes(1).await[0].signal(Signal::CONT);
    covered(&world, written).await;
    daemon.wait_for(|status| status.audit_checkpoint_failure.is_empty()).await.unwrap();
}

/// Copies all that a stopped daemon left, so that each attack starts from it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts back all of a log that was copied.
fn put_back(saved: &Path, dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
    copy(saved, dir);
}

/// A world whose daemon was stopped after so many encrypts, a copy of its log, and the keys of that.
async fn stopped_after(count: usize) -> (World, PathBuf, PathBuf) {
    let world = World::another();
    let (daemon, client) = world.start_with_key().await;
    encrypt(&client, count).await;
    let keys = save(&world, "keys.txt", &["audit", "keys"]);
    assert!(daemon.stop().await.success(), "{}", world.log());
    let saved = world.path("saved-audit");
    copy(&audit_dir(&world), &saved);
    (world, saved, keys)
}

#[tokio::test]
async fn a_tampered_log_is_refused_with_its_reason() {
    let (_foreign, strange, strange_keys) = stopped_after(40).await;
    let (world, saved, _) = stopped_after(30).await;
    let dir = audit_dir(&world);
    let segment = dir.join("00000001.kwa");
    let last = frames(&fs::read(&segment).unwrap());
    let edit = |at: usize| {
        let mut bytes = fs::read(&segment).unwrap();
        bytes[at] ^= 1;
        fs::write(&segment, bytes).unwrap();
    };
    let attacks: [(&str, &dyn Fn(), &str); 5] = [
        ("an edited record", &|| edit(last[3] + 60), "continue the hash chain"),
        (
            "a cut log",
            &|| drop(fs::File::options().write(true).open(&segment).unwrap().set_len(last[20] as u64)),
            "it was cut",
        ),
        (
            "a foreign checkpoint",
            &|| fs::copy(strange.join("checkpoint"), dir.join("checkpoint")).map(drop).unwrap(),
            "does not have the checkpoint",
        ),
        (
            "a lost list",
            &|| fs::remove_file(dir.join("checkpoints")).unwrap(),
            "does not have the checkpoint",
        ),
        (
            "no checkpoint at all",
            &|| fs::write(dir.join("checkpoint"), "words\n").unwrap(),
            "it is no checkpoint",
        ),
    ];
    for (attack, make, reason) in attacks {
        make();
        let said = world.fails_to_start();
        assert!(said.contains(reason), "{attack}: {said}");
        let said = verify_log(&world, None);
        assert_eq!(said.status.code(), Some(6), "{attack}: {}", text(&said));
        put_back(&saved, &dir);
    }
    // A key that is not this log's.
    let said = verify_log(&world, Some(&strange_keys));
    assert!(text(&said).contains("none of the trusted keys"), "{}", text(&said));
}

/// Everything put back to an earlier moment fits itself; what was kept elsewhere knows. A checkpoint over the right
/// tree, signed by nobody, is known when the store is open.
#[tokio::test]
async fn an_earlier_log_is_told_by_what_was_kept_elsewhere() {
    let (world, saved, _) = stopped_after(30).await;
    let dir = audit_dir(&world);
    let (daemon, client) = (world.start().await, world.client().await);
    encrypt(&client, 3).await;
    let kept = save(&world, "kept", &["audit", "checkpoint", "--fresh"]);
    assert!(daemon.stop().await.success(), "{}", world.log());
    let verify_kept = || {
        let (config, kept) = (world.config_file(), kept.display().to_string());
        world.cli(["audit", "verify", "--config", &config, "--checkpoint", &kept])
    };
    assert!(verify_kept().status.success(), "{}", text(&verify_kept()));
    put_back(&saved, &dir);
    assert!(verify_log(&world, None).status.success());
    assert!(text(&verify_kept()).contains("it was cut"), "{}", text(&verify_kept()));
    // The store may have been changed meanwhile, and then misses what that change saw of the log.
    let accepted = world.cli(["store", "accept-rollback", "--config", &world.config_file()]);
    assert!(accepted.status.success(), "{}", text(&accepted));
    let note: SignedCheckpoint = fs::read_to_string(dir.join("checkpoint")).unwrap().parse().unwrap();
    for name in ["checkpoint", "checkpoints"] {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        let mut forged = note.clone();
        forged.signatures[0].bytes[40] ^= 1;
        fs::write(dir.join(name), text.replace(&note.to_string(), &forged.to_string())).unwrap();
    }
    let mut daemon = world.spawn();
    let refused = |status: &keyward::rpc::proto::Status| status.reason.contains("newest checkpoint");
    daemon.wait_for(refused).await.unwrap();
    daemon.kill();
}

/// Without its checkpoints a log fits itself, and its keys have verified nothing.
#[tokio::test]
async fn keys_prove_nothing_without_a_checkpoint() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    encrypt(&client, 3).await;
    let keys = save(&world, "keys.txt", &["audit", "keys"]);
    save(&world, "kept", &["audit", "checkpoint", "--fresh"]);
    assert!(daemon.stop().await.success(), "{}", world.log());
    assert!(verify_log(&world, Some(&keys)).status.success());
    for name in ["checkpoint", "checkpoints"] {
        fs::remove_file(audit_dir(&world).join(name)).unwrap();
    }
    // The store has seen one.
    let said = verify_log(&world, None);
    assert_eq!(said.status.code(), Some(6), "{}", text(&said));
    assert!(text(&said).contains("the checkpoints are older than the store, or gone"), "{}", text(&said));
    // Where there is no store, at an auditor's, the log fits itself.
    fs::rename(world.path("state/store.db"), world.path("state/elsewhere")).unwrap();
    assert!(verify_log(&world, None).status.success());
    let said = verify_log(&world, Some(&keys));
    assert_eq!(said.status.code(), Some(6), "{}", text(&said));
    assert!(text(&said).contains("no checkpoint that the given keys could verify"), "{}", text(&said));
}

/// Where each frame of a segment begins.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![172];
    loop {
        let at = *starts.last().unwrap();
        let length = bytes.get(at..at + 4).map_or(0, |word| u32::from_be_bytes(word.try_into().unwrap()));
        if length == 0 {
            return starts;
        }
        starts.push(at + 52 + usize::try_from(length).unwrap());
    }
}

/// Only operators see what the log proves; who asked is on record.
#[tokio::test]
async fn applications_see_no_proofs() {
    let mut world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let keys = client.call(client.audit().get_public_keys(GetPublicKeysRequest {})).await.unwrap();
    let text: String = keys.keys.iter().map(|key| key.verifier_key.clone() + "\n").collect();
    assert_eq!(read_keys(&text).unwrap().len(), 1);
    assert!(daemon.stop().await.success(), "{}", world.log());
    world.reconfigure("role = \"operator\"", "role = \"application\"");
    let (_daemon, client) = (world.start().await, world.client().await);
    let refused = client.call(client.audit().get_public_keys(GetPublicKeysRequest {})).await.unwrap_err();
    assert_eq!(refused.code, Code::PermissionDenied, "{refused}");
    let request = GetInclusionProofRequest { sequence: 1 };
    let refused = client.call(client.audit().get_inclusion_proof(request)).await.unwrap_err();
    assert_eq!(refused.code, Code::PermissionDenied, "{refused}");
    assert_eq!(world.audit().iter().filter(|record| record.operation == "get-audit-keys").count(), 2);
}
