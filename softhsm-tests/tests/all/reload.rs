//! Another configuration is put in force while the daemon serves: whole or not at all.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyward::audit::{Outcome, Record};
use keyward::client::{Client, Code, Context};
use keyward::rpc::proto::crypt_session_request::Request;
use keyward::rpc::proto::{
    CryptSessionRequest, EncryptRequest, EncryptStreamRequest, StreamHeader, encrypt_stream_request,
};
use keyward_softhsm_tests::{KEY, World, eventually, text};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic_types::StatusExt;

const GRANTS: &str = "operations = [\"encrypt\", \"decrypt\", \"re-encrypt\", \"generate-data-key\", \"decrypt-data-key\", \"blind-index\"]";

fn reload(world: &World) -> Output {
    world.config_file();
    world.cli(["reload", "--json"])
}

/// A reload that must be taken up; what it says.
fn reloaded(world: &World) -> Value {
    let output = reload(world);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn configurations(world: &World) -> Vec<Record> {
    world.audit().into_iter().filter(|record| record.operation == "configuration").collect()
}

fn context() -> Context {
    Context::new()
}

#[tokio::test]
async fn a_file_with_faults_is_refused_whole_and_names_all_of_them() {
    let mut world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let good = std::fs::read_to_string(world.config_file()).unwrap();
    world.reconfigure("name = \"tester\"", "name = \"other\"");
    world.reconfigure("[hsm]", "[limits]\nplaintext = \"0\"\n[hsm]");
    world.reconfigure("[hsm]", "[[principal]]\nname = \"a\"\nrole = \"operator\"\nusers = [\"no-such-user\"]\ngroups = [\"no-such-group\"]\n[hsm]");
    world.reconfigure(
        "assurance = [",
        "corporate_roots = [\"/nowhere/roots.pem\"]\ncorporate_crls = [\"/nowhere/list.pem\"]\nassurance = [",
    );
    let refused = reload(&world);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    for fault in [
        "limits.plaintext is 0",
        "no-such-user",
        "no-such-group",
        "/nowhere/roots.pem",
        "/nowhere/list.pem",
        "stays in force",
    ] {
        assert!(text(&refused).contains(fault), "{fault} is not in {}", text(&refused));
    }
    // The one before is in force, and says what is the matter.
    let status = daemon.status().await.unwrap();
    assert_eq!(status.principal, "tester");
    assert!(status.configuration_warning.contains("no-such-user"), "{status:?}");
    client.encrypt(KEY, &b"x"[..], &context()).await.unwrap();
    let [told] = configurations(&world).try_into().unwrap();
    assert_eq!(told.outcome, Outcome::Failed("CONFIGURATION_REFUSED".into()));
    assert!(world.log().contains("the configuration was not taken up"), "{}", world.log());

    std::fs::write(world.path("keywardd.toml"), "state_dir = 5\n").unwrap();
    let refused = world.cli(["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("line 1"), "{}", text(&refused));

    // The file of before again: nothing to complain of.
    std::fs::write(world.path("keywardd.toml"), &good).unwrap();
    assert!(world.cli(["reload"]).status.success());
    assert_eq!(daemon.status().await.unwrap().configuration_warning, "");
}

#[tokio::test]
async fn what_a_running_daemon_reads_is_taken_up_and_the_rest_is_named() {
    let mut world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let large = vec![7; 3 << 20];
    let refused = client.encrypt(KEY, large.clone(), &context()).await.unwrap_err();
    assert_eq!(refused.reason(), "TOO_LARGE");
    let started = daemon.status().await.unwrap().configuration.unwrap();

    world.reconfigure(
        "[hsm]",
        "[limits]\nplaintext = \"4MiB\"\nbatch = \"8MiB\"\nbatch_items = 2\nopen_keys = 7\n[hsm]",
    );
    world.reconfigure("level = \"info\"", "level = \"warn\"");
    world.reconfigure(
        "socket_mode = \"0600\"",
        "socket_mode = \"0660\"\nmax_connections = 100\nmax_connections_per_uid = 50",
    );
    world.reconfigure("assurance = [", "assertion_ttl = \"5m\"\nassurance = [");
    world.reconfigure("[hsm]", "[audit]\ncheckpoint_interval = \"1s\"\n[hsm]");
    let done = reloaded(&world);
    for change in [
        "limits.plaintext",
        "limits.batch_items",
        "log.level",
        "[login]",
        "audit.checkpoint_interval",
        "server.max_connections",
    ] {
        assert!(done["changes"].as_array().unwrap().iter().any(|one| one == change), "{change}: {done}");
    }
    assert_eq!(done["restart_needed"], serde_json::json!(["server.socket_mode"]));
    assert_eq!(done["narrowed"], serde_json::json!([]));

    // On the connection that was open before, by a length that no message could have.
    let sealed = client.encrypt(KEY, large.clone(), &context()).await.unwrap();
    assert_eq!(client.decrypt(KEY, sealed.ciphertext, &context()).await.unwrap().plaintext.expose(), large);
    let status = daemon.status().await.unwrap();
    assert!(status.configuration_warning.contains("server.socket_mode"), "{status:?}");
    let now = status.configuration.unwrap();
    assert_eq!(now.sha256, done["sha256"]);
    assert_ne!(now.sha256, started.sha256);
    // The log tells which file counted from when on.
    let start = world.audit().into_iter().find(|record| record.operation == "start").unwrap();
    assert!(start.detail.as_deref().unwrap().contains(&started.sha256), "{start:?}");
    let [told] = configurations(&world).try_into().unwrap();
    assert!(told.detail.as_deref().unwrap().contains(&now.sha256), "{told:?}");
    let asked = world.audit().into_iter().find(|record| record.operation == "reload").unwrap();
    assert_eq!((asked.outcome, asked.caller.unwrap().principal.as_deref()), (Outcome::Ok, Some("tester")));
}

fn encrypt(id: u64) -> CryptSessionRequest {
    let asked = EncryptRequest { name: KEY.into(), plaintext: b"x".to_vec().into(), ..Default::default() };
    CryptSessionRequest { id, request: Some(Request::Encrypt(asked)) }
}

#[tokio::test]
async fn sessions_and_files_of_whoever_lost_a_right_end_and_others_go_on() {
    let mut world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let (requests, queue) = mpsc::channel(4);
    let mut session =
        world.crypto().await.crypt_session(ReceiverStream::new(queue)).await.unwrap().into_inner();
    let (pieces, queue) = mpsc::channel(4);
    let header = StreamHeader { name: KEY.into(), ..StreamHeader::default() };
    let header = encrypt_stream_request::Message::Header(header);
    pieces.send(EncryptStreamRequest { message: Some(header) }).await.unwrap();
    let mut file = client.crypto().encrypt_stream(ReceiverStream::new(queue)).await.unwrap().into_inner();
    file.message().await.unwrap().unwrap();

    // One that takes nothing away ends nothing.
    world
        .reconfigure("keys = [\"tenants/*/keys/*\"]", "keys = [\"tenants/*/keys/*\", \"tenants/a*/keys/*\"]");
    assert_eq!(reloaded(&world)["narrowed"], serde_json::json!([]));
    requests.send(encrypt(1)).await.unwrap();
    assert_eq!(session.message().await.unwrap().unwrap().id, 1);

    world.reconfigure(GRANTS, "operations = [\"encrypt\"]");
    assert_eq!(reloaded(&world)["narrowed"], serde_json::json!(["tester"]));
    for end in [session.message().await.unwrap_err(), file.message().await.unwrap_err()] {
        assert_eq!(end.code(), Code::Unavailable, "{end}");
        assert_eq!(end.get_details_error_info().unwrap().reason, "RIGHTS_CHANGED");
        assert!(end.message().contains("took a right from tester"), "{end}");
    }
    let ends = |operation: &str| {
        let records = world.audit();
        records
            .iter()
            .filter(|record| record.operation == operation)
            .map(|record| record.outcome.clone())
            .collect::<Vec<_>>()
    };
    let denied = Outcome::Failed("RIGHTS_CHANGED".into());
    eventually("the records of both ends", async || {
        (ends("session-end") == [denied.clone()] && ends("encrypt-stream-end") == [denied.clone()])
            .then_some(())
    })
    .await;
    // What is left may be begun anew.
    let sealed = client.encrypt(KEY, &b"x"[..], &context()).await.unwrap();
    let refused = client.decrypt(KEY, sealed.ciphertext, &context()).await.unwrap_err();
    assert_eq!(refused.reason(), "PERMISSION_DENIED");
}

#[tokio::test]
async fn who_leaves_the_configuration_and_comes_back_is_as_frozen_as_before() {
    let mut world = World::ready();
    let (_daemon, _client) = world.start_with_key().await;
    const CRM: &str = "[[principal]]\nname = \"crm\"\nrole = \"application\"\nusers = [60123]\n[hsm]";
    world.reconfigure("[hsm]", CRM);
    reloaded(&world);
    assert!(world.cli(["principal", "freeze", "crm", "--reason", "a test"]).status.success());
    world.reconfigure(CRM, "[hsm]");
    assert_eq!(reloaded(&world)["narrowed"], serde_json::json!(["crm"]));
    let gone = world.cli(["principal", "unfreeze", "crm", "--reason", "a test"]);
    assert_eq!(gone.status.code(), Some(4), "{}", text(&gone));
    world.reconfigure("[hsm]", CRM);
    assert_eq!(reloaded(&world)["changes"], serde_json::json!(["principal crm is new"]));
    // That it is frozen still is looked at where another user can call: `callers`, and `access::policy`.
    assert!(world.cli(["principal", "unfreeze", "crm", "--reason", "a test"]).status.success());
}

/// Encrypts and decrypts on and on; how often, until it is told to end. Nothing may fail.
async fn work(client: Client, end: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    while !end.load(Ordering::Relaxed) {
        let sealed = client.encrypt(KEY, &b"under load"[..], &context()).await.expect("encrypt");
        let opened = client.decrypt(KEY, sealed.ciphertext, &context()).await.expect("decrypt");
        assert_eq!(opened.plaintext.expose(), b"under load");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_lost_while_configurations_change_in_a_loop() {
    const ROUNDS: usize = 40;
    let mut world = World::ready();
    let (daemon, _client) = world.start_with_key().await;
    let (end, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(tokio::spawn(work(daemon.client().await, end.clone(), done.clone())));
    }
    // A session that lives through all of it.
    let (requests, queue) = mpsc::channel(4);
    let mut session =
        world.crypto().await.crypt_session(ReceiverStream::new(queue)).await.unwrap().into_inner();
    let mut limit = "plaintext = \"1MiB\"".to_owned();
    world.reconfigure("[hsm]", &format!("[limits]\n{limit}\n[hsm]"));
    for round in 0..ROUNDS {
        let next = format!("plaintext = \"{}KiB\"", 1024 + round);
        world.reconfigure(&limit, &next);
        limit = next;
        let before = done.load(Ordering::Relaxed);
        if round % 2 == 0 {
            let changes = reloaded(&world)["changes"].clone();
            // Of the very first round the table is new, with the value that it had by default.
            assert!(round == 0 || changes == serde_json::json!(["limits.plaintext"]), "{changes}");
        } else {
            world.config_file();
            daemon.signal(Signal::HUP);
            let wanted = configurations(&world).len() + 1;
            eventually("the record of a reload by SIGHUP", async || {
                (configurations(&world).len() >= wanted.min(round + 1)).then_some(())
            })
            .await;
        }
        requests.send(encrypt(round as u64)).await.unwrap();
        assert_eq!(session.message().await.unwrap().unwrap().id, round as u64);
        eventually("calls between two reloads", async || {
            (done.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
    }
    end.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let told = configurations(&world);
    assert_eq!(told.len(), ROUNDS);
    assert!(told.iter().all(|record| record.outcome == Outcome::Ok));
    assert!(daemon.stop().await.success());
}
