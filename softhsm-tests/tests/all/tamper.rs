//! Somebody who can write to the store's files, while the daemon runs and between two runs.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use keyward::client::{Client, Code, Context, context};
use keyward::id::{KeyName, TenantId};
use keyward::rpc::proto::{
    CreateKeyRequest, FreezeRequest, GetKeyRequest, ListKeyVersionsRequest, RotateKeyRequest,
};
use keyward::store::tables;
use keyward_softhsm_tests::tampering::{
    Files, Rows, STORE, STORE_AND_JOURNAL, check_and_repair, is_tampered, keyward, refused, remove,
};
use keyward_softhsm_tests::{Daemon, KEY, World, create_key};

const OTHER: &str = "tenants/acme/keys/orders";
const COLD: &str = "tenants/acme/keys/cold";

fn about() -> Context {
    context([("table", "customers")])
}

fn name(key: &str) -> KeyName {
    KeyName::parse(key).unwrap()
}

fn key_row(key: &str) -> Vec<u8> {
    tables::key(&name(key)).key()
}

fn tenant_row() -> Vec<u8> {
    tables::tenant(&TenantId::new("acme").unwrap()).key()
}

/// The key of the meta row, and of the digest's topmost node.
const META: &[u8] = &[0xf1];
const DIGEST: &[u8] = &[0xf0, 0, 0, 0];

/// A daemon with two keys and a ciphertext of each; the third key was never used.
async fn prepared() -> (World, Daemon, Client, [Vec<u8>; 2]) {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    for key in ["orders", "cold"] {
        create_key(&client, "acme", key).await;
    }
    let mut sealed = [const { Vec::new() }; 2];
    for (key, sealed) in [KEY, OTHER].into_iter().zip(&mut sealed) {
        *sealed = client.encrypt(key, "13812345678", &about()).await.unwrap().ciphertext.to_vec();
    }
    (world, daemon, client, sealed)
}

async fn opens(client: &Client, key: &str, sealed: &[u8]) {
    let opened = client.decrypt(key, sealed.to_vec(), &about()).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"13812345678");
}

async fn freeze(client: &Client, name: &str) {
    let asked = FreezeRequest { name: name.to_owned(), reason: "suspicion".into() };
    client.access().freeze(asked).await.unwrap();
}

#[tokio::test]
async fn a_freeze_is_not_undone_by_an_old_row() {
    let (world, daemon, client, sealed) = prepared().await;
    let rows = Rows::of(&world);
    let before = rows.get(&key_row(KEY));
    freeze(&client, KEY).await;
    let frozen = rows.get(&key_row(KEY));
    assert_ne!(before, frozen);
    rows.put(&key_row(KEY), &before);
    is_tampered(client.decrypt(KEY, sealed[0].clone(), &about()).await);
    is_tampered(client.encrypt(KEY, "x", &about()).await);
    opens(&client, OTHER, &sealed[1]).await;

    let tenant = rows.get(&tenant_row());
    rows.put(&key_row(KEY), &frozen);
    freeze(&client, "tenants/acme").await;
    rows.put(&tenant_row(), &tenant);
    is_tampered(client.decrypt(OTHER, sealed[1].clone(), &about()).await);

    // And after a restart.
    drop(client);
    assert!(daemon.stop().await.success());
    let daemon = world.start().await;
    let client = daemon.client().await;
    is_tampered(client.decrypt(OTHER, sealed[1].clone(), &about()).await);
    assert!(daemon.stop().await.success());
    drop(rows);
    check_and_repair(&world);
    let daemon = world.start().await;
    let client = daemon.client().await;
    let error = client.decrypt(OTHER, sealed[1].clone(), &about()).await.unwrap_err();
    assert_eq!((error.code, error.reason()), (Code::PermissionDenied, "FROZEN"), "{error}");
}

#[tokio::test]
async fn a_removed_row_is_missed() {
    let (world, _daemon, client, _) = prepared().await;
    let rows = Rows::of(&world);
    let key = rows.get(&key_row(COLD));
    rows.put(&key_row(COLD), &None);
    is_tampered(client.encrypt(COLD, "x", &about()).await);
    let absent = client.keys().get_key(GetKeyRequest { name: COLD.into() }).await.unwrap_err();
    assert_eq!(absent.code(), Code::DataLoss, "{absent}");
    // Nobody else takes the name, either.
    let asked = CreateKeyRequest { parent: "tenants/acme".into(), key_id: "cold".into(), data_class: 0 };
    assert_eq!(client.keys().create_key(asked).await.unwrap_err().code(), Code::DataLoss);
    rows.put(&key_row(COLD), &key);
    client.encrypt(COLD, "x", &about()).await.unwrap();
}

#[tokio::test]
async fn a_removed_data_key_is_missed() {
    let (world, daemon, client, sealed) = prepared().await;
    let rows = Rows::of(&world);
    let dek = dek_row(&client, COLD).await;
    rows.put(&dek, &None);
    let error = client.encrypt(COLD, "x", &about()).await.unwrap_err();
    assert!(error.message.contains("keyward store check"), "{error}");
    assert_eq!((error.code, error.reason()), (Code::DataLoss, "STORE_TAMPERED"), "{error}");
    drop((rows, client));
    assert!(daemon.stop().await.success());
    // Nobody is told that the ciphertext is wrong, either: this daemon has not opened the key yet.
    let daemon = world.start().await;
    let client = daemon.client().await;
    let rows = Rows::of(&world);
    let other = dek_row(&client, OTHER).await;
    let genuine = rows.get(&other);
    rows.put(&other, &None);
    is_tampered(client.decrypt(OTHER, sealed[1].clone(), &about()).await);
    rows.put(&other, &genuine);
    opens(&client, OTHER, &sealed[1]).await;
    drop((rows, client));
    assert!(daemon.stop().await.success());
    check_and_repair(&world);
    let daemon = world.start().await;
    let client = daemon.client().await;
    client.encrypt(COLD, "x", &about()).await.unwrap();
    opens(&client, KEY, &sealed[0]).await;
}

/// The row of a key's newest data key.
async fn dek_row(client: &Client, key: &str) -> Vec<u8> {
    let asked = ListKeyVersionsRequest { parent: key.into(), page_size: 1, ..Default::default() };
    let versions = client.keys().list_key_versions(asked).await.unwrap().into_inner().key_versions;
    let id: [u8; 16] = (*versions[0].dek_id).try_into().unwrap();
    tables::dek(&name(key), keyward::id::DekId(id)).key()
}

#[tokio::test]
async fn swapped_rows_fit_nowhere() {
    let (world, _daemon, client, sealed) = prepared().await;
    create_key(&client, "acme", "icy").await;
    let icy = "tenants/acme/keys/icy";
    let rows = Rows::of(&world);
    let deks = [dek_row(&client, COLD).await, dek_row(&client, icy).await];
    let epoch = keyward::id::Epoch::FIRST;
    let versions = [COLD, icy].map(|key| tables::version(&name(key), epoch).key());
    // The data keys last: by then the daemon remembers the rest.
    for [one, other] in [[key_row(COLD), key_row(icy)], versions, deks] {
        rows.swap(&one, &other);
        is_tampered(client.encrypt(COLD, "x", &about()).await);
        is_tampered(client.encrypt(icy, "x", &about()).await);
        rows.swap(&one, &other);
    }
    client.encrypt(COLD, "x", &about()).await.unwrap();
    client.encrypt(icy, "x", &about()).await.unwrap();
    opens(&client, KEY, &sealed[0]).await;
}

#[tokio::test]
async fn an_edited_value_digest_or_meta_row_is_noticed() {
    let (world, _daemon, client, _) = prepared().await;
    let rows = Rows::of(&world);
    let dek = dek_row(&client, COLD).await;
    for key in [key_row(COLD), tenant_row(), dek, DIGEST.to_vec(), META.to_vec()] {
        let genuine = rows.get(&key);
        let mut edited = genuine.clone();
        *edited.as_mut().unwrap().0.last_mut().unwrap() ^= 1;
        rows.put(&key, &edited);
        is_tampered(client.encrypt(COLD, "x", &about()).await);
        rows.put(&key, &genuine);
    }
    client.encrypt(COLD, "x", &about()).await.unwrap();
}

#[tokio::test]
async fn a_whole_older_store_is_noticed_while_the_daemon_runs() {
    let (world, daemon, client, sealed) = prepared().await;
    let rows = Rows::of(&world);
    let old = rows.all();
    freeze(&client, KEY).await;
    let new = rows.all();
    rows.put_all(&old);
    is_tampered(client.decrypt(KEY, sealed[0].clone(), &about()).await);
    is_tampered(client.encrypt(COLD, "x", &about()).await);
    let change = client.keys().rotate_key(RotateKeyRequest { name: OTHER.into() }).await.unwrap_err();
    assert_eq!(change.code(), Code::DataLoss, "{change}");
    rows.put_all(&new);
    drop((rows, client));
    assert!(daemon.stop().await.success());
    let (whole, said) = keyward(&world, &["store", "check"]);
    assert!(whole, "{said}");
}

/// A stopped daemon's world, with files from before the key [`COLD`] was rotated and used.
async fn with_older_files(names: &[&str]) -> (World, Files, [Vec<u8>; 2], Vec<u8>) {
    let (world, daemon, client, sealed) = prepared().await;
    drop(client);
    assert!(daemon.stop().await.success());
    let old = Files::keep(&world, names);
    let daemon = world.start().await;
    let client = daemon.client().await;
    for _ in 0..3 {
        client.keys().rotate_key(RotateKeyRequest { name: COLD.into() }).await.unwrap();
    }
    let newest = client.encrypt(COLD, "13812345678", &about()).await.unwrap().ciphertext.to_vec();
    assert!(daemon.stop().await.success());
    (world, old, sealed, newest)
}

#[tokio::test]
async fn an_older_store_is_brought_up_by_its_journal() {
    let (world, old, sealed, newest) = with_older_files(&STORE).await;
    old.put_back();
    // What a start makes good is nothing to be alarmed about.
    let (sound, said) = keyward(&world, &["audit", "verify"]);
    assert!(sound && !said.contains("older than the log"), "{said}");
    let daemon = world.start().await;
    let client = daemon.client().await;
    opens(&client, COLD, &newest).await;
    opens(&client, KEY, &sealed[0]).await;
    assert!(world.log().contains("from the key journal"), "{}", world.log());
    assert!(daemon.stop().await.success());
    let told = world.audit().into_iter().find(|record| record.operation == "store-recovered").unwrap();
    assert!(told.detail.unwrap().contains("replayed revisions"));
    let (whole, said) = keyward(&world, &["store", "check"]);
    assert!(whole, "{said}");
}

#[tokio::test]
async fn a_store_and_journal_older_than_the_audit_log_are_refused() {
    let (world, old, sealed, newest) = with_older_files(&STORE_AND_JOURNAL).await;
    let new = Files::keep(&world, &STORE_AND_JOURNAL);
    old.put_back();
    refused(&world, &["older than the audit log", "an old copy was put back"]).await;
    let verify = || keyward(&world, &["audit", "verify"]);
    let (sound, said) = verify();
    assert!(!sound && said.contains("the store is older than the log"), "{said}");
    // Nor does a journal that is away, or is none, speak for the store.
    let journal = world.path("state/journal.kwj");
    std::fs::write(&journal, "none").unwrap();
    let (sound, said) = verify();
    assert!(!sound && said.contains("the store is older than the log"), "{said}");
    remove(&journal);
    let (sound, said) = verify();
    assert!(!sound && said.contains("the store is older than the log"), "{said}");
    new.put_back();
    let (sound, said) = keyward(&world, &["audit", "verify"]);
    assert!(sound, "{said}");
    let daemon = world.start().await;
    let client = daemon.client().await;
    opens(&client, COLD, &newest).await;
    opens(&client, OTHER, &sealed[1]).await;
}

/// The audit log, with what stands beside it.
const AUDIT: [&str; 5] =
    ["audit/00000001.kwa", "audit/checkpoint", "audit/checkpoints", "audit/tree/0", "audit/tree/durable"];

#[tokio::test]
async fn a_log_older_than_the_store_is_refused_until_an_operator_accepts_it() {
    let (world, old, sealed, newest) = with_older_files(&AUDIT).await;
    let new = Files::keep(&world, &AUDIT);
    old.put_back();
    refused(&world, &["the audit log is older than the store", "keyward store accept-rollback"]).await;
    new.put_back();
    assert!(world.start().await.stop().await.success());

    // The log is lost for good: what it told is told no more, and that is on record.
    old.put_back();
    let (accepted, said) = keyward(&world, &["store", "accept-rollback"]);
    assert!(accepted, "{said}");
    let told =
        world.audit().into_iter().find(|record| record.operation == "store-rollback-accepted").unwrap();
    assert!(told.change.is_some() && told.detail.unwrap().contains("the store had seen"));
    for _ in 0..2 {
        let daemon = world.start().await;
        let client = daemon.client().await;
        opens(&client, COLD, &newest).await;
        opens(&client, KEY, &sealed[0]).await;
        client.keys().rotate_key(RotateKeyRequest { name: COLD.into() }).await.unwrap();
        drop(client);
        assert!(daemon.stop().await.success());
    }
    let (whole, said) = keyward(&world, &["audit", "verify"]);
    assert!(whole, "{said}");
}

#[tokio::test]
async fn checkpoints_that_the_store_has_seen_are_missed() {
    let names = ["audit/checkpoint", "audit/checkpoints"];
    let (world, older, sealed, _) = with_older_files(&names).await;
    let new = Files::keep(&world, &names);
    let words =
        ["the checkpoints of the audit log are older than the store", "keyward store accept-rollback"];
    names.iter().for_each(|name| remove(&world.path("state").join(name)));
    refused(&world, &words).await;
    new.put_back();
    let daemon = world.start().await;
    opens(&daemon.client().await, KEY, &sealed[0]).await;
    // A change that has seen the checkpoints of now.
    daemon.client().await.keys().rotate_key(RotateKeyRequest { name: COLD.into() }).await.unwrap();
    assert!(daemon.stop().await.success());
    // Those of before are genuine, and fit the log.
    older.put_back();
    refused(&world, &words).await;
}

#[tokio::test]
async fn a_cut_write_ahead_log_is_made_good_from_the_journal() {
    for keep in [0, 1, 3] {
        let (world, daemon, client, sealed) = prepared().await;
        let newest = client.encrypt(COLD, "13812345678", &about()).await.unwrap().ciphertext.to_vec();
        daemon.kill();
        let log = world.path("state/store.db-wal");
        let length = std::fs::metadata(&log).unwrap().len();
        assert!(length > 4096);
        std::fs::File::options().write(true).open(&log).unwrap().set_len(length * keep / 4).unwrap();
        let daemon = world.start().await;
        let client = daemon.client().await;
        opens(&client, COLD, &newest).await;
        opens(&client, KEY, &sealed[0]).await;
        assert!(world.log().contains("from the key journal"), "{}", world.log());
        assert!(daemon.stop().await.success());
    }
}

#[tokio::test]
async fn a_cut_damaged_or_missing_journal_is_refused_and_rebuilt() {
    let (world, _, sealed, newest) = with_older_files(&[]).await;
    let (files, journal) = (Files::keep(&world, &STORE_AND_JOURNAL), world.path("state/journal.kwj"));
    let whole = std::fs::read(&journal).unwrap();
    let damaged = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        Some(bytes)
    };
    for (content, words) in [
        (Some(whole[..whole.len() - 700].to_vec()), "somebody cut the journal"),
        (damaged(70), "its header is damaged"),
        (damaged(whole.len() - 20), "keyward store check --repair"),
        // Inside the last entry, which the store has: what is written behind it would be lost with it.
        (damaged(whole.len() - 90), "the key journal is damaged at byte"),
        (None, "is missing"),
    ] {
        files.put_back();
        match &content {
            Some(content) => std::fs::write(&journal, content).unwrap(),
            None => remove(&journal),
        }
        refused(&world, &[words, "keyward store check --repair"]).await;
        let (repaired, said) = keyward(&world, &["store", "check", "--repair"]);
        assert!(repaired, "{words}: {said}");
        let daemon = world.start().await;
        let client = daemon.client().await;
        opens(&client, COLD, &newest).await;
        opens(&client, OTHER, &sealed[1]).await;
        assert!(daemon.stop().await.success());
    }
}

#[tokio::test]
async fn damage_between_an_older_store_and_the_end_of_the_journal_is_refused() {
    let (world, daemon, client, sealed) = prepared().await;
    drop(client);
    assert!(daemon.stop().await.success());
    let old = Files::keep(&world, &STORE);
    let journal = world.path("state/journal.kwj");
    let then = std::fs::metadata(&journal).unwrap().len();
    let daemon = world.start().await;
    for _ in 0..3 {
        daemon.client().await.keys().rotate_key(RotateKeyRequest { name: COLD.into() }).await.unwrap();
    }
    assert!(daemon.stop().await.success());
    let new = Files::keep(&world, &STORE_AND_JOURNAL);
    old.put_back();
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[usize::try_from(then).unwrap() + 100] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    refused(&world, &["the key journal is damaged at byte", "keyward store check --repair"]).await;
    new.put_back();
    opens(&world.start().await.client().await, KEY, &sealed[0]).await;
}

#[tokio::test]
async fn a_lost_store_is_rebuilt_from_its_journal() {
    let (world, _, sealed, newest) = with_older_files(&[]).await;
    for name in STORE {
        remove(&world.path("state").join(name));
    }
    let said = world.fails_to_start();
    assert!(said.contains("keyward store check --repair"), "{said}");
    let (whole, said) = keyward(&world, &["store", "check"]);
    assert!(!whole && said.contains("keyward store check --repair"), "{said}");
    let (repaired, said) = keyward(&world, &["store", "check", "--repair"]);
    assert!(repaired, "{said}");
    let daemon = world.start().await;
    let client = daemon.client().await;
    opens(&client, COLD, &newest).await;
    opens(&client, KEY, &sealed[0]).await;
}
