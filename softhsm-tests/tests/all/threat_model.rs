//! The tables of docs/threat-model.md on whoever writes the store, the journal or the audit log: each row is an
//! attack that a test carries out on the files of a real daemon. Those that are not here are named in the document.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward::client::{Client, Context, Error, context};
use keyward::rpc::proto::ceremony::State;
use keyward::rpc::proto::propose_request::{Action, ChangeRoster, RotateRoot};
use keyward::rpc::proto::{
    Account, ApproveCredentialRequest, FreezeRequest, GetCeremonyRequest, GetKeyRequest, GetRosterRequest,
    GetTenantRequest, KeyState, ScheduleDestroyRequest, UpdateAccountRequest,
};
use keyward_softhsm_tests::custodians::{
    approve_by, deployment, ended, found, people, propose, propose_founding,
};
use keyward_softhsm_tests::staff::{ORIGIN, Staff};
use keyward_softhsm_tests::tampering::{Rows, check_answers, copy_folder, is_tampered, keyward, refused};
use keyward_softhsm_tests::{Daemon, KEY, World, create_key, eventually, text};

fn about() -> Context {
    context([("table", "customers")])
}

/// The key of a row: its table, and the path in it.
fn row(table: u8, path: &[u8]) -> Vec<u8> {
    [&[table][..], path].concat()
}

async fn seal(client: &Client, key: &str) -> Vec<u8> {
    client.encrypt(key, "13812345678", &about()).await.unwrap().ciphertext.to_vec()
}

async fn opens(client: &Client, key: &str, sealed: &[u8]) {
    let opened = client.decrypt(key, sealed.to_vec(), &about()).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"13812345678");
}

/// Waits until the daemon has said this.
async fn said(world: &World, words: &str) {
    eventually(words, || async { world.log().contains(words).then_some(()) }).await;
}

/// The daemon stops in order, and everything that it leaves fits together.
async fn whole(world: &World, daemon: Daemon) {
    assert!(daemon.stop().await.success(), "{}", world.log());
    check_answers(world, 0);
    let verified = world.cli(["audit", "verify", "--config", &world.config_file()]);
    assert!(verified.status.success(), "{}", text(&verified));
}

/// A world in which something can be destroyed at once.
fn at_once() -> World {
    let mut world = World::ready();
    world.config.push_str("\n[destruction]\nmin_delay = \"0s\"\n[rotation]\nold_kek_grace = \"0s\"\n");
    world
}

async fn schedule(client: &Client, name: &str, seconds: u64) {
    let delay = Some(Duration::from_secs(seconds).try_into().unwrap());
    let asked = ScheduleDestroyRequest { name: name.into(), delay, reason: "test".into() };
    client.keys().schedule_destroy(asked).await.unwrap();
}

async fn freeze(client: &Client, name: &str) {
    let asked = FreezeRequest { name: name.to_owned(), reason: "suspicion".into() };
    client.access().freeze(asked).await.unwrap();
}

#[tokio::test]
async fn a_freeze_that_was_taken_away_opens_nothing() {
    let mut world = World::ready();
    let uid = rustix::process::getuid().as_raw();
    let other = uid + 1;
    world.config.push_str(&format!(
        r#"
[[principal]]
name = "crm"
role = "application"
users = [{other}]

[[principal.allow]]
keys = ["tenants/*/keys/*"]
operations = ["encrypt", "decrypt"]
"#
    ));
    let (daemon, client) = world.start_with_key().await;
    freeze(&client, "principals/crm").await;
    drop(client);
    assert!(daemon.stop().await.success());

    let frozen = row(10, b"crm\0");
    let taken = Rows::of(&world).take(&frozen);
    check_answers(&world, 6);
    refused(&world, &["the principal records were tampered with or damaged: 0 of 1 are there"]).await;
    check_answers(&world, 6);

    Rows::of(&world).put(&frozen, &taken);
    check_answers(&world, 0);
    // From now on this test is the frozen principal.
    world.reconfigure(&format!("users = [{other}]"), "users = [4000000]");
    world.reconfigure(&format!("users = [{uid}]"), &format!("users = [{other}]"));
    world.reconfigure("users = [4000000]", &format!("users = [{uid}]"));
    let mut daemon = world.spawn();
    let client = daemon.answering().await;
    eventually("the freeze holds", || async {
        let refusal = client.encrypt(KEY, "x", &about()).await.err()?;
        (refusal.reason() == "FROZEN").then_some(())
    })
    .await;
    assert!(daemon.stop().await.success());
}

async fn set_level(client: &Client, account: &str, level: u32) -> Result<Account, Error> {
    let request = UpdateAccountRequest { name: account.to_owned(), level: Some(level), ..Default::default() };
    client.call(client.logins().update_account(request)).await
}

async fn approve_token(client: &Client, account: &str, credential: &[u8]) -> Result<Account, Error> {
    let request =
        ApproveCredentialRequest { name: account.to_owned(), credential: credential.to_vec().into() };
    client.call(client.logins().approve_credential(request)).await
}

#[tokio::test]
async fn an_administrator_who_was_taken_away_is_missed() {
    let mut world = World::new();
    world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
    world.init();
    let daemon = world.start().await;
    let client = daemon.client().await;
    let alice = Staff::new(&client, "alice").await;
    set_level(&client, &alice.account, 3).await.unwrap();
    let (bob, token) = Staff::new_pending(&client, "bob").await;
    let alone = approve_token(&client, &bob, &token).await.unwrap_err();
    assert_eq!(alone.reason(), "ADMINISTRATOR_REQUIRED", "{alone}");

    let rows = Rows::of(&world);
    let administrator = row(24, b"alice\0");
    let taken = rows.take(&administrator);
    is_tampered(approve_token(&client, &bob, &token).await);
    is_tampered(set_level(&client, &bob, 3).await);
    check_answers(&world, 6);

    rows.put(&administrator, &taken);
    for refusal in [
        approve_token(&client, &bob, &token).await.unwrap_err(),
        set_level(&client, &bob, 3).await.unwrap_err(),
    ] {
        assert_eq!(refusal.reason(), "ADMINISTRATOR_REQUIRED", "{refusal}");
    }
    drop((rows, client));
    whole(&world, daemon).await;
}

#[tokio::test]
async fn a_roster_that_was_taken_away_lets_nobody_else_decide() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let sealed = seal(&client, KEY).await;
    let custodians = people(["alice", "bob", "carol"]);
    found(&client, 2, &custodians).await;
    let [alice, bob, carol] = &custodians;
    let others = people(["dave", "erin"]);
    let deployment = deployment(&client).await;
    let change = Action::ChangeRoster(ChangeRoster {
        quorum: 0,
        add: others.iter().map(|person| person.card(deployment)).collect(),
        remove: vec!["bob".into(), "carol".into()],
    });
    let change = propose(&client, change).await.unwrap();
    approve_by(&client, &change, &[alice, bob]).await;
    assert_eq!(ended(&client, &change.name).await.state(), State::Done);
    freeze(&client, "tenants/acme").await;
    let open = propose(&client, Action::Unfreeze("tenants/acme".into())).await.unwrap();
    let generation = daemon.status().await.unwrap().root.unwrap().generation;

    let rows = Rows::of(&world);
    let kept: Vec<_> = rows.keys(&[12]).into_iter().map(|key| (rows.get(&key), key)).collect();
    assert_eq!(kept.len(), 2);
    let (newest, newest_key) = &kept[1];
    rows.put(newest_key, &None);
    // Who left decides neither the end of a freeze nor the next root, of which they would get the shares.
    is_tampered(propose(&client, Action::Unfreeze("tenants/acme".into())).await);
    is_tampered(propose(&client, Action::RotateRoot(RotateRoot {})).await);
    is_tampered(propose(&client, Action::Destroy(KEY.into())).await);
    for person in [bob, carol] {
        assert!(person.approve(&client, &open).await.is_err());
    }
    is_tampered(client.call(client.ceremonies().get_roster(GetRosterRequest {})).await);
    check_answers(&world, 6);
    // Nor does somebody found anew what was founded.
    rows.put(&kept[0].1, &None);
    assert!(propose_founding(&client, 2, &people(["mallory", "marvin"])).await.is_err());
    check_answers(&world, 6);

    rows.put(&kept[0].1, &kept[0].0);
    rows.put(newest_key, newest);
    let roster = client.call(client.ceremonies().get_roster(GetRosterRequest {})).await.unwrap();
    let mut names: Vec<_> = roster.custodians.iter().map(|person| person.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["alice", "dave", "erin"]);
    assert_eq!(daemon.status().await.unwrap().root.unwrap().generation, generation);
    let frozen = client.decrypt(KEY, sealed.clone(), &about()).await.unwrap_err();
    assert_eq!(frozen.reason(), "FROZEN", "{frozen}");
    approve_by(&client, &open, &[alice, &others[0]]).await;
    assert_eq!(ended(&client, &open.name).await.state(), State::Done);
    opens(&client, KEY, &sealed).await;
    drop((rows, client));
    whole(&world, daemon).await;
}

#[tokio::test]
async fn a_tenant_that_was_taken_away_keeps_its_root() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    create_key(&client, "globex", "pii").await;
    let globex = "tenants/globex/keys/pii";
    let sealed = [seal(&client, KEY).await, seal(&client, globex).await];

    let rows = Rows::of(&world);
    let tenant = row(3, b"globex\0");
    let taken = rows.take(&tenant);
    let custodians = people(["alice", "bob", "carol"]);
    let founding = propose_founding(&client, 2, &custodians).await.unwrap();
    approve_by(&client, &founding, &custodians.iter().collect::<Vec<_>>()).await;
    said(&world, "the tenant records were tampered with or damaged").await;
    let asked = GetCeremonyRequest { name: founding.name.clone() };
    let waits = client.call(client.ceremonies().get_ceremony(asked)).await.unwrap();
    assert_eq!(waits.state(), State::Executing, "{waits:?}");
    assert!(!world.log().contains("root key: the old one is destroyed"), "{}", world.log());
    check_answers(&world, 6);

    rows.put(&tenant, &taken);
    let done = ended(&client, &founding.name).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    drop((rows, client));
    whole(&world, daemon).await;
    // Nothing is open that could hide a lost root.
    let daemon = world.start().await;
    let client = daemon.client().await;
    opens(&client, KEY, &sealed[0]).await;
    opens(&client, globex, &sealed[1]).await;
    drop(client);
    whole(&world, daemon).await;
}

#[tokio::test]
async fn a_kek_that_was_taken_away_is_not_certified() {
    let world = at_once();
    let (daemon, client) = world.start_with_key().await;
    create_key(&client, "globex", "pii").await;
    let certificate = world.path("certificate.json");
    let out = certificate.display().to_string();
    let certify = || world.cli(["certificate", "get", "globex", "--out", &out]);

    let rows = Rows::of(&world);
    let kek = row(4, b"globex\0\0\0\0\x01");
    let taken = rows.take(&kek);
    schedule(&client, "tenants/globex", 0).await;
    said(&world, "due, and waits").await;
    let early = certify();
    assert!(text(&early).contains("is not destroyed"), "{}", text(&early));
    check_answers(&world, 6);

    rows.put(&kek, &taken);
    eventually("the tenant is destroyed", || async {
        let asked = GetTenantRequest { name: "tenants/globex".into() };
        let tenant = client.keys().get_tenant(asked).await.ok()?.into_inner();
        (tenant.state() == KeyState::Destroyed && tenant.destroy_proof_time.is_some()).then_some(())
    })
    .await;
    let made = certify();
    assert!(made.status.success(), "{}", text(&made));
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(&certificate).unwrap()).unwrap();
    let keks = document["body"]["keks"].as_array().unwrap();
    assert_eq!((keks.len(), &keks[0]["name"]), (1, &"tenants/globex/kekVersions/1".into()), "{document}");
    assert_eq!(rows.get(&kek), None, "the wrapped key is gone");

    // The tombstone is evidence too: without it nothing is certified.
    let tombstone = row(15, &kek);
    let taken = rows.take(&tombstone);
    std::fs::remove_file(&certificate).unwrap();
    let without = certify();
    assert_eq!(without.status.code(), Some(6), "{}", text(&without));
    check_answers(&world, 6);
    rows.put(&tombstone, &taken);
    assert!(certify().status.success());
    drop((rows, client));
    whole(&world, daemon).await;
}

#[tokio::test]
async fn an_export_that_was_taken_away_is_missed() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let out = world.path("export.kwb").display().to_string();
    let made = world.cli(["backup", "create", "--out", &out, "--keep-for", "20d"]);
    assert!(made.status.success(), "{}", text(&made));
    let rows = Rows::of(&world);
    let export = rows.keys(&[21]).remove(0);
    let taken = rows.take(&export);
    let list = world.cli(["backup", "list"]);
    assert_eq!(list.status.code(), Some(6), "{}", text(&list));
    assert!(text(&list).contains("the export records were tampered with"), "{}", text(&list));
    check_answers(&world, 6);
    rows.put(&export, &taken);
    assert!(world.cli(["backup", "list"]).status.success());
    drop((rows, client));
    whole(&world, daemon).await;
}

#[tokio::test]
async fn a_line_of_the_agenda_that_was_taken_away_is_told() {
    let world = at_once();
    let (mut daemon, client) = world.start_with_key().await;
    schedule(&client, KEY, 8).await;
    let rows = Rows::of(&world);
    let doomed = |key: &Vec<u8>| key.ends_with(b"acme\0customer-pii\0");
    let line = rows.keys(&[22]).into_iter().find(doomed).unwrap();
    let taken = rows.take(&line);
    said(&world, "cannot do what is due").await;
    let told = |status: &keyward::rpc::proto::Status| {
        let schedule = status.schedule.as_ref();
        schedule.is_some_and(|schedule| schedule.reason.contains("the agenda cannot be read"))
    };
    daemon.wait_for(told).await.unwrap();
    check_answers(&world, 6);

    rows.put(&line, &taken);
    eventually("the key is destroyed", || async {
        let key = client.keys().get_key(GetKeyRequest { name: KEY.into() }).await.ok()?.into_inner();
        (key.state() == KeyState::Destroyed && key.destroy_proof_time.is_some()).then_some(())
    })
    .await;
    drop((rows, client));
    whole(&world, daemon).await;
}

#[tokio::test]
async fn an_erasure_key_that_was_taken_away_destroys_nothing() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let sealed = seal(&client, KEY).await;
    let rows = Rows::of(&world);
    let erasure = row(19, &[0, 0, 0, 1]);
    let taken = rows.take(&erasure);
    let replaced = world.cli(["erasure", "replace"]);
    assert!(!replaced.status.success(), "{}", text(&replaced));
    assert!(text(&replaced).contains("erasure key records were tampered with"), "{}", text(&replaced));
    drop(client);
    assert!(daemon.stop().await.success());
    refused(&world, &["erasure key records were tampered with"]).await;

    rows.put(&erasure, &taken);
    drop(rows);
    // The token object is still there: nothing else opens the rows.
    let daemon = world.start().await;
    let client = daemon.client().await;
    opens(&client, KEY, &sealed).await;
    let replaced = world.cli(["erasure", "replace"]);
    assert!(replaced.status.success(), "{}", text(&replaced));
    opens(&client, KEY, &sealed).await;
    drop(client);
    whole(&world, daemon).await;
}

fn audit_dir(world: &World) -> PathBuf {
    world.path("state/audit")
}

fn replace_folder(folder: &Path, by: &Path) {
    std::fs::remove_dir_all(folder).unwrap();
    copy_folder(by, folder);
}

/// Cut or put back, with its checkpoints or before there was one: the store has seen more of it.
#[tokio::test]
async fn an_older_audit_log_is_refused() {
    for killed in [false, true] {
        let mut world = World::ready();
        // So that none is made but at a stop.
        world.reconfigure("[log]\n", "[audit]\ncheckpoint_interval = \"1h\"\n\n[log]\n");
        let (daemon, client) = world.start_with_key().await;
        let (older, newer) = (world.path("older"), world.path("newer"));
        copy_folder(&audit_dir(&world), &older);
        for _ in 0..20 {
            seal(&client, KEY).await;
        }
        create_key(&client, "acme", "orders").await;
        drop(client);
        if killed {
            let processes = daemon.hsm_processes();
            daemon.kill();
            for process in processes {
                process.ended().await;
            }
        } else {
            assert!(daemon.stop().await.success());
        }
        copy_folder(&audit_dir(&world), &newer);
        replace_folder(&audit_dir(&world), &older);
        refused(&world, &["the audit log is older than the store, or another one"]).await;
        if killed {
            // What is lost for good is accepted by a person, once, and that is on record.
            let (accepted, said) = keyward(&world, &["store", "accept-rollback"]);
            assert!(accepted, "{said}");
            assert!(world.audit().iter().any(|record| record.operation == "store-rollback-accepted"));
        } else {
            replace_folder(&audit_dir(&world), &newer);
        }
        let daemon = world.start().await;
        whole(&world, daemon).await;
    }
}

#[tokio::test]
async fn checkpoints_that_were_taken_away_are_missed() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let made = world.cli(["audit", "checkpoint", "--fresh"]);
    assert!(made.status.success(), "{}", text(&made));
    create_key(&client, "acme", "orders").await;
    drop(client);
    assert!(daemon.stop().await.success());
    let names = ["checkpoint", "checkpoints"];
    let kept = names.map(|name| std::fs::read(audit_dir(&world).join(name)).unwrap());
    for name in names {
        std::fs::remove_file(audit_dir(&world).join(name)).unwrap();
    }
    refused(&world, &["the checkpoints of the audit log are older than the store"]).await;
    for (name, content) in names.iter().zip(kept) {
        std::fs::write(audit_dir(&world).join(name), content).unwrap();
    }
    let daemon = world.start().await;
    whole(&world, daemon).await;
}

/// The names of the tests in a file of the repository.
fn tests_of(file: &Path) -> Vec<String> {
    let source = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_test = |at: usize| {
        lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.starts_with('#') || line.starts_with("//"))
            .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    };
    let name = |line: &str| {
        let rest = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "))?;
        rest.split_once('(').map(|(name, _)| name.to_owned())
    };
    (0..lines.len()).filter(|at| is_test(*at)).filter_map(|at| name(lines[at])).collect()
}

/// Each row of the two tables ends with `<!-- file::test, … -->`.
#[test]
fn every_row_of_the_threat_model_names_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    for heading in ["### Whoever writes the store or the journal", "### Whoever writes the audit log"] {
        let (_, chapter) = document.split_once(heading).unwrap();
        let chapter = chapter.split("\n### ").next().unwrap();
        let rows: Vec<&str> = chapter.lines().filter(|line| line.starts_with('|')).skip(2).collect();
        assert!(rows.len() > 5, "{heading}");
        for line in rows {
            let names = line.split_once("<!-- ").and_then(|(_, rest)| rest.split_once(" -->"));
            let (names, _) = names.unwrap_or_else(|| panic!("names no test: {line}"));
            for name in names.split(", ") {
                let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{name}"));
                assert!(tests_of(&root.join(file)).iter().any(|found| found == test), "no test {name}");
            }
        }
    }
}
