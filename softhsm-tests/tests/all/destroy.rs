//! Destruction through a real daemon: gone from every file, resumed after a kill, never revived.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest;
use keyward::client::{Client, Code, Context, context};
use keyward::rpc::proto::ceremony::State;
use keyward::rpc::proto::propose_request::{Action, RotateRoot, SetMinVersion};
use keyward::rpc::proto::{
    CancelDestroyRequest, CancelRequest, CreateKeyRequest, CreateKeyVersionRequest, Destruction,
    FreezeRequest, GetKeyRequest, GetKeyVersionRequest, GetTenantRequest, Key, KeyState,
    ListKekVersionsRequest, Normalization, RotateKeyRequest, RotateTenantRequest, ScheduleDestroyRequest,
    UpdateKeyRequest,
};
use keyward_softhsm_tests::custodians::{approve_by, ended, found, people, propose};
use keyward_softhsm_tests::tampering::Rows;
use keyward_softhsm_tests::{
    Daemon, KEY, Random, World, create_key, eventually, eventually_now, rounds, text,
};
use tonic_types::StatusExt;

/// How often a destruction is cut short: in `make test`, and in `make test-all`.
const KILLS: (u64, u64) = (4, 12);

fn about() -> Context {
    context([("column", "phone")])
}

fn reason(status: &tonic::Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// A world in which something can be destroyed at once.
fn at_once() -> World {
    let mut world = World::ready();
    world.config.push_str("\n[destruction]\nmin_delay = \"0s\"\n[rotation]\nold_kek_grace = \"0s\"\n");
    world
}

async fn schedule(client: &Client, name: &str, delay: Option<u64>) -> Result<Destruction, tonic::Status> {
    let delay = delay.map(|seconds| Duration::from_secs(seconds).try_into().unwrap());
    let asked = ScheduleDestroyRequest { name: name.into(), delay, reason: "test".into() };
    client.keys().schedule_destroy(asked).await.map(tonic::Response::into_inner)
}

async fn cancel(client: &Client, name: &str) -> Result<Destruction, tonic::Status> {
    let asked = CancelDestroyRequest { name: name.into(), reason: "test".into() };
    client.keys().cancel_destroy(asked).await.map(tonic::Response::into_inner)
}

async fn key_is_gone(client: &Client, name: &str) {
    eventually("the key is destroyed", || async {
        let key = client.keys().get_key(GetKeyRequest { name: name.into() }).await.ok()?.into_inner();
        (key.state() == KeyState::Destroyed && key.destroy_proof_time.is_some()).then_some(())
    })
    .await;
}

async fn version_is_gone(client: &Client, name: &str) {
    eventually("the version is destroyed", || async {
        let asked = GetKeyVersionRequest { name: name.into() };
        let version = client.keys().get_key_version(asked).await.ok()?.into_inner();
        (version.state() == KeyState::Destroyed && version.destroy_proof_time.is_some()).then_some(())
    })
    .await;
}

async fn tenant_is_gone(client: &Client, name: &str) {
    eventually("the tenant is destroyed", || async {
        let tenant =
            client.keys().get_tenant(GetTenantRequest { name: name.into() }).await.ok()?.into_inner();
        (tenant.state() == KeyState::Destroyed && tenant.destroy_proof_time.is_some()).then_some(())
    })
    .await;
}

/// The rows of the database whose key begins like this, but for their format and revision: the code and
/// the payload, which is sealed.
fn wrapped(world: &World, prefix: &[u8]) -> Vec<Vec<u8>> {
    let database = rusqlite::Connection::open(world.path("state/store.db")).unwrap();
    let mut select = database.prepare("SELECT key, value FROM kv").unwrap();
    let rows =
        select.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    let rows = rows.map(Result::unwrap).filter(|(key, _)| key.starts_with(prefix));
    rows.map(|(_, value)| value[9..].to_vec()).collect()
}

/// In how many places of the store's files one of these stands.
fn places(world: &World, keys: &[Vec<u8>]) -> usize {
    let files = ["state/store.db", "state/store.db-wal", "state/journal.kwj"].map(|file| world.path(file));
    let read = |path: &Path| std::fs::read(path).unwrap_or_default();
    let bytes: Vec<Vec<u8>> = files.iter().map(|path| read(path)).collect();
    keys.iter()
        .flat_map(|key| bytes.iter().map(move |file| memchr::memmem::find_iter(file, key).count()))
        .sum()
}

fn dek_rows(key: &str) -> Vec<u8> {
    [&[7][..], b"acme\0", key.as_bytes(), b"\0"].concat()
}

async fn assert_whole(world: &World, daemon: Daemon) {
    assert!(daemon.stop().await.success(), "{}", world.log());
    for arguments in [["audit", "verify"], ["store", "check"]] {
        let checked = world.cli(arguments.into_iter().chain(["--config", &world.config_file()]));
        assert!(checked.status.success(), "{arguments:?}: {}", text(&checked));
    }
}

#[tokio::test]
async fn a_version_a_key_and_a_tenant_leave_no_byte_in_any_file() {
    let world = at_once();
    let (daemon, client) = world.start_with_key().await;
    create_key(&client, "acme", "orders").await;
    create_key(&client, "zeta", "pii").await;
    let first = client.encrypt(KEY, "first", &about()).await.unwrap();
    client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap();
    let second = client.encrypt(KEY, "second", &about()).await.unwrap();
    client.blind_index(KEY, "phone", "138-1234", Normalization::Digits).await.unwrap();
    let order = client.encrypt("tenants/acme/keys/orders", "order", &about()).await.unwrap();
    let other = client.encrypt("tenants/zeta/keys/pii", "other", &about()).await.unwrap();

    // One version: the data of the other stays readable.
    let before = wrapped(&world, &dek_rows("customer-pii"));
    assert_eq!(before.len(), 2);
    let version = format!("{KEY}/versions/1");
    let planned = schedule(&client, &version, Some(0)).await.unwrap();
    assert_eq!(planned.state(), KeyState::ScheduledForDestruction);
    version_is_gone(&client, &version).await;
    let left = wrapped(&world, &dek_rows("customer-pii"));
    let gone: Vec<_> = before.into_iter().filter(|key| !left.contains(key)).collect();
    assert_eq!((gone.len(), left.len(), places(&world, &gone)), (1, 1, 0));
    let refused = client.decrypt(KEY, first.ciphertext.clone(), &about()).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "DESTROYED"));
    assert_eq!(
        client.decrypt(KEY, second.ciphertext.clone(), &about()).await.unwrap().plaintext.expose(),
        b"second"
    );

    // The key, with its index key.
    let mut gone = left;
    gone.extend(wrapped(&world, &[&[8][..], b"acme\0customer-pii\0"].concat()));
    assert_eq!(gone.len(), 2);
    schedule(&client, KEY, Some(0)).await.unwrap();
    key_is_gone(&client, KEY).await;
    assert_eq!(places(&world, &gone), 0);
    assert_eq!(client.decrypt(KEY, second.ciphertext, &about()).await.unwrap_err().reason(), "DESTROYED");
    assert_eq!(client.encrypt(KEY, "x", &about()).await.unwrap_err().reason(), "DESTROYED");
    let again =
        CreateKeyRequest { parent: "tenants/acme".into(), key_id: "customer-pii".into(), data_class: 2 };
    assert_eq!(client.keys().create_key(again).await.unwrap_err().code(), Code::AlreadyExists);
    let orders = "tenants/acme/keys/orders";
    assert_eq!(
        client.decrypt(orders, order.ciphertext.clone(), &about()).await.unwrap().plaintext.expose(),
        b"order"
    );

    // The tenant, with its KEK.
    let mut gone = wrapped(&world, &dek_rows("orders"));
    gone.extend(wrapped(&world, &[&[4][..], b"acme\0"].concat()));
    assert_eq!(gone.len(), 2);
    schedule(&client, "tenants/acme", Some(0)).await.unwrap();
    tenant_is_gone(&client, "tenants/acme").await;
    assert_eq!(places(&world, &gone), 0);
    assert_eq!(
        client.decrypt(orders, order.ciphertext.clone(), &about()).await.unwrap_err().reason(),
        "DESTROYED"
    );

    // After a restart nothing is back, and nobody else has noticed.
    assert!(daemon.stop().await.success(), "{}", world.log());
    let daemon = world.start().await;
    let client = daemon.client().await;
    assert_eq!(client.decrypt(orders, order.ciphertext, &about()).await.unwrap_err().reason(), "DESTROYED");
    let opened = client.decrypt("tenants/zeta/keys/pii", other.ciphertext, &about()).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"other");
    let done = world.audit().into_iter().filter(|record| record.operation == "destroy").count();
    assert_eq!(done, 3);
    assert_whole(&world, daemon).await;
}

#[tokio::test]
async fn what_is_planned_does_not_work_and_can_be_called_off() {
    let mut world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let sealed = client.encrypt(KEY, "data", &about()).await.unwrap();
    client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap();
    for name in ["tenants/acme", KEY, &format!("{KEY}/versions/1")] {
        let planned = schedule(&client, name, None).await.unwrap();
        assert_eq!(planned.state(), KeyState::ScheduledForDestruction, "{name}");
        let refused = client.decrypt(KEY, sealed.ciphertext.clone(), &about()).await.unwrap_err();
        assert_eq!(refused.reason(), "DESTRUCTION_SCHEDULED", "{name}");
        let twice = schedule(&client, name, None).await.unwrap_err();
        assert_eq!(reason(&twice), "DESTRUCTION_SCHEDULED", "{name}");
        let kept = cancel(&client, name).await.unwrap();
        assert_eq!(kept.due_time, None);
        client.decrypt(KEY, sealed.ciphertext.clone(), &about()).await.unwrap();
        assert_eq!(reason(&cancel(&client, name).await.unwrap_err()), "NOT_ALLOWED", "{name}");
    }
    let soon = schedule(&client, KEY, Some(3600)).await.unwrap_err();
    assert_eq!(reason(&soon), "NOT_ALLOWED", "{soon}");
    let primary = schedule(&client, &format!("{KEY}/versions/2"), None).await.unwrap_err();
    assert_eq!(reason(&primary), "NOT_ALLOWED", "{primary}");
    let freeze = FreezeRequest { name: KEY.into(), reason: "under investigation".into() };
    client.access().freeze(freeze).await.unwrap();
    for name in [KEY, &format!("{KEY}/versions/1")] {
        assert_eq!(reason(&schedule(&client, name, None).await.unwrap_err()), "FROZEN");
    }
    // The command line asks a person, and scripts for --yes.
    let unasked = world.cli(["key", "destroy", "acme/customer-pii", "--reason", "r"]);
    assert!(text(&unasked).contains("--yes"), "{}", text(&unasked));
    create_key(&client, "acme", "other").await;
    let asked = world.cli(["key", "destroy", "acme/other", "--reason", "r", "--delay", "2d", "--yes"]);
    assert!(asked.status.success() && text(&asked).contains("cancel-destroy"), "{}", text(&asked));
    assert_whole(&world, daemon).await;
    world.config.push('\n');
}

#[tokio::test]
async fn a_rotation_ends_with_the_old_kek_destroyed_or_kept() {
    let mut world = at_once();
    let (daemon, client) = world.start_with_key().await;
    let sealed = client.encrypt(KEY, "data", &about()).await.unwrap();
    let keks = || async {
        let asked = ListKekVersionsRequest { parent: "tenants/acme".into() };
        client.keys().list_kek_versions(asked).await.unwrap().into_inner().kek_versions
    };
    let old = wrapped(&world, &[&[4][..], b"acme\0"].concat());
    assert_eq!((old.len(), places(&world, &old) > 0), (1, true));
    client.keys().rotate_tenant(RotateTenantRequest { name: "tenants/acme".into() }).await.unwrap();
    eventually("the old KEK is destroyed", || async {
        let gone = keks().await.last().is_some_and(|kek| kek.state() == KeyState::Destroyed);
        let proved = || world.audit().iter().any(|record| record.operation == "destroy");
        (gone && proved()).then_some(())
    })
    .await;
    assert_eq!(places(&world, &old), 0);
    assert_eq!(keks().await.iter().map(|kek| kek.wrapped_count).collect::<Vec<_>>(), [2, 0]);
    assert_eq!(
        client.decrypt(KEY, sealed.ciphertext.clone(), &about()).await.unwrap().plaintext.expose(),
        b"data"
    );
    assert!(daemon.stop().await.success(), "{}", world.log());

    world.reconfigure("old_kek_grace = \"0s\"", "old_kek = \"keep\"");
    let daemon = world.start().await;
    let client = daemon.client().await;
    let rotated = world.cli(["tenant", "rotate", "acme", "--wait"]);
    assert!(rotated.status.success(), "{}", text(&rotated));
    let asked = ListKekVersionsRequest { parent: "tenants/acme".into() };
    let states = client.keys().list_kek_versions(asked).await.unwrap().into_inner().kek_versions;
    let states: Vec<_> = states.iter().map(|kek| kek.state()).collect();
    assert_eq!(states, [KeyState::Active, KeyState::DecryptOnly, KeyState::Destroyed]);
    assert_eq!(client.decrypt(KEY, sealed.ciphertext, &about()).await.unwrap().plaintext.expose(), b"data");
    assert_whole(&world, daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destruction_that_is_cut_short_is_finished() {
    let mut random = Random::new();
    let mut world = World::on_disk();
    world.init();
    world.config.push_str("\n[destruction]\nmin_delay = \"0s\"\n[rotation]\nold_kek_grace = \"0s\"\n");
    let mut daemon = world.start().await;
    let client = daemon.client().await;
    create_key(&client, "zeta", "pii").await;
    let other = client.encrypt("tenants/zeta/keys/pii", "other", &about()).await.unwrap();
    for round in 0..rounds(KILLS.0, KILLS.1) {
        let client = daemon.client().await;
        let tenant = format!("t{round}");
        for key in ["a", "b", "c"] {
            create_key(&client, &tenant, key).await;
            let name = format!("tenants/{tenant}/keys/{key}");
            client.keys().rotate_key(RotateKeyRequest { name }).await.unwrap();
        }
        let kept = format!("tenants/{tenant}/keys/c");
        let sealed = client.encrypt(&kept, "kept", &about()).await.unwrap();
        let (version, key) = (format!("{kept}/versions/1"), format!("tenants/{tenant}/keys/a"));
        // A rotation, a version and a key at once; every other time the whole tenant.
        let whole = round % 2 == 1;
        client.keys().rotate_tenant(RotateTenantRequest { name: format!("tenants/{tenant}") }).await.unwrap();
        schedule(&client, &version, Some(0)).await.unwrap();
        schedule(&client, &key, Some(0)).await.unwrap();
        if whole {
            schedule(&client, &format!("tenants/{tenant}"), Some(0)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(random.below(120))).await;
        daemon.kill();
        // Once more, while it is being finished.
        let cut_short = async {
            let starting = world.spawn();
            tokio::time::sleep(Duration::from_millis(random.below(400))).await;
            starting.kill();
        };
        world.sparing_tokens(cut_short).await;
        daemon = world.start().await;
        let client = daemon.client().await;
        if whole {
            tenant_is_gone(&client, &format!("tenants/{tenant}")).await;
            let refused = client.decrypt(&kept, sealed.ciphertext, &about()).await.unwrap_err();
            assert_eq!(refused.reason(), "DESTROYED");
        } else {
            version_is_gone(&client, &version).await;
            key_is_gone(&client, &key).await;
            let asked = ListKekVersionsRequest { parent: format!("tenants/{tenant}") };
            eventually("the old KEK is destroyed", || async {
                let keks =
                    client.keys().list_kek_versions(asked.clone()).await.ok()?.into_inner().kek_versions;
                keks.last().is_some_and(|kek| kek.state() == KeyState::Destroyed).then_some(())
            })
            .await;
            assert_eq!(
                client.decrypt(&kept, sealed.ciphertext, &about()).await.unwrap().plaintext.expose(),
                b"kept"
            );
        }
    }
    let opened =
        daemon.client().await.decrypt("tenants/zeta/keys/pii", other.ciphertext, &about()).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"other");
    assert_whole(&world, daemon).await;
}

fn index_rows(key: &str) -> Vec<u8> {
    [&[8][..], b"acme\0", key.as_bytes(), b"\0"].concat()
}

/// A certificate names the copies that can hold the key: not those from before it was made, nor from after it was gone.
#[tokio::test]
async fn a_certificate_names_only_exports_that_can_hold_the_key() {
    let mut world = World::ready();
    world.config.push_str("\n[destruction]\nmin_delay = \"0s\"\n");
    let daemon = world.start().await;
    let client = daemon.client().await;
    let export = |file: &str, keep: &str| {
        let made =
            world.cli(["backup", "create", "--out", world.path(file).to_str().unwrap(), "--keep-for", keep]);
        assert!(made.status.success(), "{}", text(&made));
        let listed = world.cli(["backup", "list", "--json"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let newest = listed["backups"].as_array().unwrap().last().unwrap().clone();
        (
            newest["name"].as_str().unwrap().rsplit('/').next().unwrap().to_owned(),
            newest["delete_time"].clone(),
        )
    };
    let (older, _) = export("older.kwb", "35d");
    let made = world.cli(["tenant", "create", "acme", "--display-name", "Acme Ltd"]);
    assert!(made.status.success(), "{}", text(&made));
    assert!(world.cli(["key", "create", "acme/customer-pii", "--class", "3"]).status.success());
    let (holding, until) = export("holding.kwb", "20d");
    let destroyed = ["key", "destroy", KEY, "--delay", "0s", "--reason", "the \"contract\" ended", "--yes"];
    assert!(world.cli(destroyed).status.success());
    key_is_gone(&client, KEY).await;
    let (later, _) = export("later.kwb", "30d");
    let out = world.path("certificate.json");
    eventually_now("a certificate", || {
        let made = world.cli(["certificate", "get", "acme/customer-pii", "--out", out.to_str()?, "--force"]);
        made.status.success().then_some(())
    });
    let shown = world.cli(["certificate", "show", out.to_str().unwrap(), "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let copies = shown["could_bring_back"].to_string();
    assert!(copies.contains(&holding), "{copies}");
    assert!(!copies.contains(&older) && !copies.contains(&later), "{copies}");
    assert_eq!(shown["gone_from_backups"], until, "{shown}");
    assert_eq!(shown["reason"], "the \"contract\" ended");
    assert_eq!(shown["authority"], "schedule: planned by principals/tester");
    assert_eq!(
        (&shown["display_name"], &shown["data_class"], &shown["age_days"]),
        (&"Acme Ltd".into(), &3.into(), &0.into())
    );
}

/// By what a certificate names a wrapped key.
fn fingerprint((value, _): &(Vec<u8>, i64)) -> String {
    data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, &value[9..]).as_ref())
}

/// No digest covers data keys and index keys, and an older row is genuine too. Buried in the place of the newest one
/// it would have a certificate that the bytes of an old row are nowhere, while those of the newest were not looked for.
#[tokio::test]
async fn an_older_row_is_not_buried_in_the_place_of_the_newest() {
    let mut world = World::ready();
    world.config.push_str("\n[destruction]\nmin_delay = \"0s\"\n[rotation]\nold_kek = \"keep\"\n");
    let (daemon, client) = world.start_with_key().await;
    client.blind_index(KEY, "phone", "138-1234", Normalization::Digits).await.unwrap();
    let rows = Rows::of(&world);
    let keys = [rows.keys(&dek_rows("customer-pii")), rows.keys(&index_rows("customer-pii"))].concat();
    assert_eq!(keys.len(), 2);
    let read = || keys.iter().map(|key| rows.get(key).unwrap()).collect::<Vec<_>>();
    let older = read();
    let rotated = world.cli(["tenant", "rotate", "acme", "--wait"]);
    assert!(rotated.status.success(), "{}", text(&rotated));
    let newest = read();
    for ((key, older), newest) in keys.iter().zip(&older).zip(&newest) {
        assert_ne!(older, newest);
        rows.put(key, &Some(older.clone()));
    }
    schedule(&client, KEY, Some(0)).await.unwrap();
    key_is_gone(&client, KEY).await;
    let out = world.path("certificate.json");
    let made = world.cli(["certificate", "get", "acme/customer-pii", "--out", out.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made));
    let certificate = std::fs::read_to_string(&out).unwrap();
    for (older, newest) in older.iter().zip(&newest) {
        assert!(certificate.contains(&fingerprint(newest)), "{certificate}");
        assert!(!certificate.contains(&fingerprint(older)), "{certificate}");
        assert_eq!(places(&world, &[newest.0[9..].to_vec()]), 0);
    }
    assert!(certificate.contains("\"kek_version\": 2"), "{certificate}");
    assert!(world.audit().iter().any(|record| record.operation == "store-row-restored"));
    drop(rows);
    assert_whole(&world, daemon).await;
}

/// What cannot be read in the journal any more is made anew from the store, once that is proved to be whole.
#[tokio::test]
async fn a_damaged_journal_does_not_keep_a_key_alive() {
    let world = at_once();
    let (daemon, client) = world.start_with_key().await;
    create_key(&client, "acme", "kept").await;
    let before = wrapped(&world, &dek_rows("customer-pii"));
    let journal = world.path("state/journal.kwj");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    schedule(&client, KEY, Some(0)).await.unwrap();
    key_is_gone(&client, KEY).await;
    assert_eq!(places(&world, &before), 0);
    assert!(world.log().contains("made anew from the store"), "{}", world.log());
    assert!(world.audit().iter().any(|record| record.operation == "journal-rebuilt"));
    assert_whole(&world, daemon).await;
}

/// What was destroyed and is put back into the database keeps nothing else from being destroyed.
#[tokio::test]
async fn a_destroyed_row_that_is_put_back_does_not_hinder_what_follows() {
    let world = at_once();
    let (daemon, client) = world.start_with_key().await;
    // With none that is left, the totals would refuse every data key.
    create_key(&client, "zeta", "pii").await;
    client.blind_index(KEY, "phone", "138-1234", Normalization::Digits).await.unwrap();
    let rows = Rows::of(&world);
    let keys = [rows.keys(&dek_rows("customer-pii")), rows.keys(&index_rows("customer-pii"))].concat();
    let before: Vec<_> = keys.iter().map(|key| rows.get(key)).collect();
    schedule(&client, KEY, Some(0)).await.unwrap();
    key_is_gone(&client, KEY).await;
    for (key, row) in keys.iter().zip(&before) {
        rows.put(key, row);
    }
    schedule(&client, "tenants/acme", Some(0)).await.unwrap();
    tenant_is_gone(&client, "tenants/acme").await;
    for (key, row) in keys.iter().zip(before) {
        assert_eq!((rows.get(key), places(&world, &[row.unwrap().0[9..].to_vec()])), (None, 0));
    }
    drop(rows);
    assert_whole(&world, daemon).await;
}

/// An older copy of store and journal is refused; accepted all the same, it destroys again what it still had.
#[tokio::test]
async fn an_older_store_does_not_bring_a_key_back() {
    let world = at_once();
    let (daemon, client) = world.start_with_key().await;
    create_key(&client, "acme", "kept").await;
    let sealed = client.encrypt(KEY, "gone", &about()).await.unwrap();
    let kept = client.encrypt("tenants/acme/keys/kept", "kept", &about()).await.unwrap();
    assert!(daemon.stop().await.success());
    let files = ["store.db", "store.db-wal", "journal.kwj"].map(|file| world.path("state").join(file));
    let copies: Vec<_> = files.iter().map(|file| std::fs::read(file).ok()).collect();

    let daemon = world.start().await;
    let client = daemon.client().await;
    schedule(&client, KEY, Some(0)).await.unwrap();
    key_is_gone(&client, KEY).await;
    assert!(daemon.stop().await.success());
    for (file, copy) in files.iter().zip(&copies) {
        match copy {
            Some(bytes) => std::fs::write(file, bytes).unwrap(),
            None if file.exists() => std::fs::remove_file(file).unwrap(),
            None => {}
        }
    }
    let mut refused = world.spawn();
    let status = refused.wait_for(|status| status.reason.contains("audit log")).await.unwrap();
    assert!(status.store.is_none(), "{status:?}");
    refused.kill();
    let accepted = world.cli(["store", "accept-rollback", "--config", &world.config_file()]);
    assert!(accepted.status.success(), "{}", text(&accepted));
    let daemon = world.start().await;
    let client = daemon.client().await;
    key_is_gone(&client, KEY).await;
    assert_eq!(client.decrypt(KEY, sealed.ciphertext, &about()).await.unwrap_err().reason(), "DESTROYED");
    let opened = client.decrypt("tenants/acme/keys/kept", kept.ciphertext, &about()).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"kept");
    assert_whole(&world, daemon).await;
}

/// A version that was made for later, and is passed by while its destruction is planned, does not come
/// into use when that is called off: it would be put in place of the newer one again and again.
#[tokio::test]
async fn a_version_that_was_passed_by_is_not_activated() {
    let world = at_once();
    let (daemon, client) = world.start_with_key().await;
    let soon = keyward::clock::Date::now().millis() / 1000 + 4;
    let asked = CreateKeyVersionRequest {
        parent: KEY.into(),
        activate_time: Some(prost_types::Timestamp { seconds: soon.cast_signed(), nanos: 0 }),
    };
    client.keys().create_key_version(asked).await.unwrap();
    let second = format!("{KEY}/versions/2");
    schedule(&client, &second, Some(3600)).await.unwrap();
    let rotated = client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap().into_inner();
    assert_eq!(rotated.primary_version, 3);
    let kept = cancel(&client, &second).await.unwrap();
    assert_eq!(kept.state(), KeyState::DecryptOnly);
    // Another version that comes into use after the date shows that the scheduler has been there.
    let later = CreateKeyVersionRequest {
        parent: KEY.into(),
        activate_time: Some(prost_types::Timestamp { seconds: soon.cast_signed() + 1, nanos: 0 }),
    };
    client.keys().create_key_version(later).await.unwrap();
    eventually("the fourth version is the primary one", || async {
        let key = client.keys().get_key(GetKeyRequest { name: KEY.into() }).await.ok()?.into_inner();
        assert!(key.primary_version <= 4, "{key:?}");
        (key.primary_version == 4).then_some(())
    })
    .await;
    assert_whole(&world, daemon).await;
}

/// Once there are custodians, what one operator planned before is theirs to decide.
#[tokio::test]
async fn what_was_planned_before_the_founding_waits_for_custodians() {
    let world = at_once();
    let (daemon, client) = world.start_with_key().await;
    let sealed = client.encrypt(KEY, "kept", &about()).await.unwrap().ciphertext;
    schedule(&client, KEY, Some(5)).await.unwrap();
    let custodians = people(["alice", "bob"]);
    found(&client, 2, &custodians).await;
    eventually("the destruction is due, and waits", || async {
        let log = world.log();
        (log.contains("due, and waits") && log.contains("so custodians decide")).then_some(())
    })
    .await;
    assert!(cancel(&client, KEY).await.is_ok());
    let opened = client.decrypt(KEY, sealed, &about()).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"kept");
    assert!(daemon.stop().await.success());
}

/// Since the root is founded no operator destroys, and a ceremony does.
#[tokio::test]
async fn custodians_destroy_and_forbid_what_an_operator_may_not() {
    let world = at_once();
    let (daemon, client) = world.start_with_key().await;
    create_key(&client, "acme", "kept").await;
    let old = client.encrypt(KEY, "old", &about()).await.unwrap();
    client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap();
    let custodians = people(["alice", "bob", "carol"]);
    found(&client, 2, &custodians).await;
    let new = client.encrypt(KEY, "new", &about()).await.unwrap();

    let refused = schedule(&client, KEY, Some(0)).await.unwrap_err();
    assert_eq!(reason(&refused), "CEREMONY_REQUIRED", "{refused}");
    let minimum = Key { name: KEY.into(), min_version: 2, ..Key::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["min_version".into()] });
    let asked = UpdateKeyRequest { key: Some(minimum), update_mask };
    let refused = client.keys().update_key(asked).await.unwrap_err();
    assert_eq!(reason(&refused), "CEREMONY_REQUIRED", "{refused}");

    let [alice, bob, _] = &custodians;
    let raise = SetMinVersion { name: KEY.into(), version: 2 };
    let proposed = propose(&client, Action::SetMinVersion(raise)).await.unwrap();
    approve_by(&client, &proposed, &[alice, bob]).await;
    let done = ended(&client, &proposed.name).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    assert_eq!(client.decrypt(KEY, old.ciphertext, &about()).await.unwrap_err().reason(), "VERSION_TOO_OLD");
    client.decrypt(KEY, new.ciphertext.clone(), &about()).await.unwrap();
    let same = SetMinVersion { name: KEY.into(), version: 2 };
    let same = propose(&client, Action::SetMinVersion(same)).await.unwrap_err();
    assert!(same.message.contains("2 is the minimum version"), "{same}");
    // What is lowered says so to those who sign.
    let lower = SetMinVersion { name: KEY.into(), version: 1 };
    let proposed = propose(&client, Action::SetMinVersion(lower)).await.unwrap();
    assert!(proposed.statement.contains("Data of versions 1 to 1 can be decrypted AGAIN."), "{proposed:?}");
    client
        .call(client.ceremonies().cancel(CancelRequest { name: proposed.name, reason: "x".into() }))
        .await
        .unwrap();

    // A freeze stops what was approved, for good: the end of the freeze destroys nothing.
    let kept = "tenants/acme/keys/kept".to_owned();
    let frozen = FreezeRequest { name: kept.clone(), reason: "a test".into() };
    client.access().freeze(frozen).await.unwrap();
    let proposed = propose(&client, Action::Destroy(kept.clone())).await.unwrap();
    approve_by(&client, &proposed, &[bob, alice]).await;
    let stopped = ended(&client, &proposed.name).await;
    assert_eq!(stopped.state(), State::Failed, "{}", stopped.outcome);
    let proposed = propose(&client, Action::Unfreeze(kept.clone())).await.unwrap();
    approve_by(&client, &proposed, &[bob, alice]).await;
    assert_eq!(ended(&client, &proposed.name).await.state(), State::Done);
    client.encrypt(&kept, "x", &about()).await.unwrap();

    let gone = wrapped(&world, &dek_rows("customer-pii"));
    assert!(gone.len() >= 3);
    let proposed = propose(&client, Action::Destroy(KEY.into())).await.unwrap();
    approve_by(&client, &proposed, &[bob, alice]).await;
    let done = ended(&client, &proposed.name).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    assert!(done.outcome.contains("wrapped keys are gone"), "{}", done.outcome);
    assert_eq!(places(&world, &gone), 0);
    key_is_gone(&client, KEY).await;
    assert_eq!(client.decrypt(KEY, new.ciphertext, &about()).await.unwrap_err().reason(), "DESTROYED");
    client.encrypt("tenants/acme/keys/kept", "x", &about()).await.unwrap();

    // A tenant that is destroyed does not stand in the way of a new root.
    let proposed = propose(&client, Action::Destroy("tenants/acme".into())).await.unwrap();
    approve_by(&client, &proposed, &[bob, alice]).await;
    assert_eq!(ended(&client, &proposed.name).await.state(), State::Done);
    create_key(&client, "zeta", "pii").await;
    let other = client.encrypt("tenants/zeta/keys/pii", "other", &about()).await.unwrap();
    let proposed = propose(&client, Action::RotateRoot(RotateRoot {})).await.unwrap();
    approve_by(&client, &proposed, &[bob, alice]).await;
    let done = ended(&client, &proposed.name).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    let opened = client.decrypt("tenants/zeta/keys/pii", other.ciphertext, &about()).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"other");
    assert_whole(&world, daemon).await;
}
