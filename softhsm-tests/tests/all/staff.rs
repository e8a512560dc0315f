//! Staff on the data path: what an application may do for a staff member who has logged in.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use keyward::audit::{Outcome, Record};
use keyward::client::{Client, Context, Error, Item, SessionKey, context};
use keyward::clock::Date;
use keyward::rpc::proto::decrypt_stream_request::Message;
use keyward::rpc::proto::{
    DecryptRequest, DecryptStreamRequest, EncryptRequest, EndAssertionRequest, Key, RevokeCredentialRequest,
    StreamHeader, UpdateAccountRequest, UpdateKeyRequest,
};
use keyward_softhsm_tests::faketime::FakeClock;
use keyward_softhsm_tests::staff::{ADDRESS, ORIGIN, Staff};
use keyward_softhsm_tests::{Daemon, World, create_key, eventually, text};
use prost_types::FieldMask;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

/// A key of the default class.
const SENSITIVE: &str = "tenants/acme/keys/sensitive";
const BASIC: &str = "tenants/acme/keys/basic";
const HIGHEST: &str = "tenants/acme/keys/highest";

fn about() -> Context {
    context([("table", "customers")])
}

async fn serving() -> (World, Daemon, Client) {
    let world = with_logins();
    world.init();
    let daemon = world.start().await;
    let client = daemon.client().await;
    create_key(&client, "acme", "sensitive").await;
    create_key(&client, "acme", "highest").await;
    update(&client, Key { name: HIGHEST.into(), data_class: 3, ..Key::default() }, "data_class").await;
    (world, daemon, client)
}

async fn update(client: &Client, key: Key, field: &str) {
    let update_mask = Some(FieldMask { paths: vec![field.to_owned()] });
    let request = UpdateKeyRequest { key: Some(key), update_mask };
    client.call(client.keys().update_key(request)).await.unwrap();
}

async fn set_level(client: &Client, staff: &Staff, level: u32) {
    let request =
        UpdateAccountRequest { name: staff.account.clone(), level: Some(level), ..Default::default() };
    client.call(client.logins().update_account(request)).await.unwrap();
}

/// A staff member of a level who has logged in, and a client that acts for them.
async fn acting(client: &Client, name: &str, level: u32) -> (Staff, Acting) {
    let mut staff = Staff::new(client, name).await;
    if level > 1 {
        set_level(client, &staff, level).await;
    }
    let acting = log_in(client, &mut staff).await;
    (staff, acting)
}

struct Acting {
    assertion: String,
    session: Arc<SessionKey>,
    client: Client,
}

async fn log_in(client: &Client, staff: &mut Staff) -> Acting {
    let session = Arc::new(SessionKey::generate().unwrap());
    let assertion = staff.log_in_as(client, &session).await.unwrap().assertion;
    let acts = keyward::client::Staff {
        assertion: assertion.clone(),
        session: Some(session.clone()),
        client_address: Some(ADDRESS.to_owned()),
    };
    Acting { assertion, session, client: client.for_staff(acts).unwrap() }
}

async fn decrypt(client: &Client, key: &str, ciphertext: &[u8]) -> Result<Vec<u8>, Error> {
    client.decrypt(key, ciphertext.to_vec(), &about()).await.map(|done| done.plaintext.expose().to_vec())
}

async fn encrypt(client: &Client, key: &str) -> Result<Vec<u8>, Error> {
    client.encrypt(key, "0912", &about()).await.map(|done| done.ciphertext.to_vec())
}

fn newest(world: &World, operation: &str) -> Record {
    let records = world.audit();
    records.into_iter().rfind(|record| record.operation == operation).unwrap()
}

#[tokio::test]
async fn a_staff_member_may_what_both_may_and_stands_in_the_record() {
    let (world, daemon, client) = serving().await;
    let (_alice, acting) = acting(&client, "alice", 2).await;
    let sealed = encrypt(&acting.client, SENSITIVE).await.unwrap();
    assert_eq!(decrypt(&acting.client, SENSITIVE, &sealed).await.unwrap(), b"0912");
    let items = vec![Item { data: sealed.clone().into(), context: about() }];
    let batch = acting.client.batch_decrypt(SENSITIVE, items).await.unwrap();
    assert_eq!(batch[0].as_ref().unwrap().expose(), b"0912");
    for operation in ["session-encrypt", "session-decrypt", "batch-decrypt"] {
        let record = newest(&world, operation);
        let caller = record.caller.unwrap();
        assert_eq!(caller.staff.as_deref(), Some("accounts/alice"), "{operation}");
        assert_eq!(caller.client.as_deref(), Some(ADDRESS));
        assert_eq!(caller.assertion.unwrap().len(), 32);
    }
    assert_eq!(newest(&world, "batch-decrypt").policy, "grant and staff level");
    let shown = world.cli(["audit", "show", "--json", "--config", &world.config_file()]);
    assert!(text(&shown).contains(r#""staff": "accounts/alice""#), "{}", text(&shown));
    // The application by itself is recorded without one.
    decrypt(&client, SENSITIVE, &sealed).await.unwrap();
    assert_eq!(newest(&world, "session-decrypt").caller.unwrap().staff, None);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_level_reads_and_writes_its_classes() {
    let (_world, daemon, client) = serving().await;
    let sealed = encrypt(&client, SENSITIVE).await.unwrap();
    let highest = encrypt(&client, HIGHEST).await.unwrap();
    let (_one, one) = acting(&client, "one", 1).await;
    let (_two, two) = acting(&client, "two", 2).await;
    // The level is that of now, not of the login.
    let mut staff = Staff::new(&client, "four").await;
    set_level(&client, &staff, 2).await;
    let four = log_in(&client, &mut staff).await;
    decrypt(&four.client, SENSITIVE, &sealed).await.unwrap();
    set_level(&client, &staff, 1).await;
    let error = decrypt(&four.client, SENSITIVE, &sealed).await.unwrap_err();
    assert_eq!(error.reason(), "ASSERTION_REFUSED", "{error}");
    // The last one: from then on there is an administrator, who approves tokens and levels.
    let (_three, three) = acting(&client, "three", 3).await;
    for error in [
        decrypt(&one.client, SENSITIVE, &sealed).await.unwrap_err(),
        encrypt(&one.client, SENSITIVE).await.unwrap_err(),
        decrypt(&two.client, HIGHEST, &highest).await.unwrap_err(),
    ] {
        assert_eq!((error.code, error.reason()), (Code::PermissionDenied, "STAFF_LEVEL"), "{error}");
    }
    decrypt(&two.client, SENSITIVE, &sealed).await.unwrap();
    decrypt(&three.client, HIGHEST, &highest).await.unwrap();
    encrypt(&three.client, HIGHEST).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn what_the_application_may_not_its_staff_may_not_either() {
    let mut world = with_logins();
    world.init();
    world.reconfigure("keys = [\"tenants/*/keys/*\"]", "keys = [\"tenants/acme/keys/sensitive\"]");
    let daemon = world.start().await;
    let client = daemon.client().await;
    create_key(&client, "acme", "sensitive").await;
    create_key(&client, "acme", "basic").await;
    let (_alice, acting) = acting(&client, "alice", 3).await;
    encrypt(&acting.client, SENSITIVE).await.unwrap();
    let error = encrypt(&acting.client, BASIC).await.unwrap_err();
    assert_eq!(error.reason(), "PERMISSION_DENIED", "{error}");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_key_for_staff_refuses_the_application_alone() {
    let (world, daemon, client) = serving().await;
    let sealed = encrypt(&client, SENSITIVE).await.unwrap();
    let set = world.cli(["key", "update", "acme/sensitive", "--staff-required", "yes", "--json"]);
    assert!(text(&set).contains(r#""staff_required": true"#), "{}", text(&set));
    let (_alice, acting) = acting(&client, "alice", 2).await;
    decrypt(&acting.client, SENSITIVE, &sealed).await.unwrap();
    let crypto = || client.crypto();
    let refused = [
        decrypt(&client, SENSITIVE, &sealed).await.unwrap_err(),
        encrypt(&client, SENSITIVE).await.unwrap_err(),
        client.generate_data_key(SENSITIVE, &about()).await.unwrap_err(),
        client.re_encrypt(SENSITIVE, sealed.clone(), &about()).await.unwrap_err(),
        Error::from(crypto().decrypt(plain_decrypt(SENSITIVE, &sealed)).await.unwrap_err()),
    ];
    for error in refused {
        assert_eq!((error.code, error.reason()), (Code::PermissionDenied, "STAFF_REQUIRED"), "{error}");
    }
    update(&client, Key { name: SENSITIVE.into(), ..Key::default() }, "staff_required").await;
    decrypt(&client, SENSITIVE, &sealed).await.unwrap();
    assert!(daemon.stop().await.success());
}

fn plain_decrypt(key: &str, ciphertext: &[u8]) -> DecryptRequest {
    let context = about();
    DecryptRequest { name: key.into(), ciphertext: ciphertext.to_vec().into(), context }
}

/// A unary decryption with metadata of the test's own.
async fn shown(
    client: &Client,
    key: &str,
    sealed: &[u8],
    metadata: &[(&'static str, &str)],
) -> Result<(), Status> {
    let mut request = Request::new(plain_decrypt(key, sealed));
    for (name, value) in metadata {
        request.metadata_mut().append(*name, MetadataValue::try_from(*value).unwrap());
    }
    client.crypto().decrypt(request).await.map(drop)
}

fn reason(refused: Result<(), Status>) -> String {
    Error::from(refused.unwrap_err()).reason().to_owned()
}

const DECRYPT: &str = "/keyward.v1.CryptoService/Decrypt";

#[tokio::test]
async fn the_highest_class_takes_a_proof_that_counts_once() {
    let (world, daemon, client) = serving().await;
    let sealed = encrypt(&client, HIGHEST).await.unwrap();
    let (_alice, acting) = acting(&client, "alice", 3).await;
    let assertion = ("keyward-assertion", acting.assertion.as_str());
    let try_with =
        async |proof: &str| shown(&client, HIGHEST, &sealed, &[assertion, ("keyward-proof", proof)]).await;
    assert_eq!(reason(shown(&client, HIGHEST, &sealed, &[assertion]).await), "PROOF_REQUIRED");
    let proof = acting.session.proof(DECRYPT, &acting.assertion).unwrap();
    try_with(&proof).await.unwrap();
    assert_eq!(reason(try_with(&proof).await), "PROOF_REFUSED");
    assert!(newest(&world, "decrypt").detail.unwrap().contains("was shown before"));
    let foreign = SessionKey::generate().unwrap();
    for (proof, why) in [
        (foreign.proof(DECRYPT, &acting.assertion).unwrap(), "not by the key of the session"),
        (
            acting.session.proof("/keyward.v1.CryptoService/Encrypt", &acting.assertion).unwrap(),
            "another method",
        ),
        (acting.session.proof(DECRYPT, "another").unwrap(), "another assertion"),
        ("a.b.c".to_owned(), "no DPoP proof"),
    ] {
        assert_eq!(reason(try_with(&proof).await), "PROOF_REFUSED", "{why}");
        let detail = newest(&world, "decrypt").detail.unwrap();
        assert!(detail.contains(why), "{detail}");
    }
    // A class that needs none does not take a wrong one either.
    let plain = encrypt(&client, SENSITIVE).await.unwrap();
    let wrong = [assertion, ("keyward-proof", "a.b.c")];
    assert_eq!(reason(shown(&client, SENSITIVE, &plain, &wrong).await), "PROOF_REFUSED");

    // A daemon that starts later does not know what was shown to this one.
    let old = acting.session.proof(DECRYPT, &acting.assertion).unwrap();
    try_with(&old).await.unwrap();
    let made = Date::now().millis() / 1000;
    daemon.kill();
    // Proofs have whole seconds.
    eventually("the next second", async || (Date::now().millis() / 1000 > made).then_some(())).await;
    let daemon = world.start().await;
    let client = daemon.client().await;
    let again = [assertion, ("keyward-proof", old.as_str())];
    assert_eq!(reason(shown(&client, HIGHEST, &sealed, &again).await), "NOT_READY");
    let new = acting.session.proof(DECRYPT, &acting.assertion).unwrap();
    shown(&client, HIGHEST, &sealed, &[assertion, ("keyward-proof", new.as_str())]).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn an_assertion_that_is_not_good_is_never_passed_over() {
    let (world, daemon, client) = serving().await;
    let sealed = encrypt(&client, SENSITIVE).await.unwrap();
    let (_alice, acting) = acting(&client, "alice", 2).await;
    let good = acting.assertion.as_str();
    shown(&client, SENSITIVE, &sealed, &[("keyward-assertion", good)]).await.unwrap();
    let (input, _) = good.rsplit_once('.').unwrap();
    for bad in ["", "a.b.c", input, &format!("{input}.AAAA"), &"x".repeat(6000)] {
        let refused = shown(&client, SENSITIVE, &sealed, &[("keyward-assertion", bad)]).await;
        let error = Error::from(refused.unwrap_err());
        assert_eq!((error.code, error.reason()), (Code::Unauthenticated, "ASSERTION_REFUSED"), "{bad}");
    }
    let twice = [("keyward-assertion", good), ("keyward-assertion", good)];
    assert_eq!(reason(shown(&client, SENSITIVE, &sealed, &twice).await), "ARGUMENT_INVALID");
    let alone = [("keyward-proof", "a.b.c")];
    assert_eq!(reason(shown(&client, SENSITIVE, &sealed, &alone).await), "ARGUMENT_INVALID");
    let refused = newest(&world, "decrypt");
    assert_eq!(refused.outcome, Outcome::Failed("ARGUMENT_INVALID".into()));
    // With a typing error it would be done for the application alone.
    let mistyped = shown(&client, SENSITIVE, &sealed, &[("keyward-asertion", good)]).await;
    let error = Error::from(mistyped.unwrap_err());
    assert_eq!((error.code, error.reason()), (Code::InvalidArgument, "ARGUMENT_INVALID"));
    assert!(
        error.message.contains("keyward-asertion") && error.message.contains("keyward-assertion"),
        "{error}"
    );
    assert_eq!(newest(&world, "refused-call").resource, DECRYPT);
    assert!(daemon.stop().await.success());
}

async fn update_account(client: &Client, staff: &Staff, suspended: Option<bool>, level: Option<u32>) {
    let name = staff.account.clone();
    let request = UpdateAccountRequest { name, suspended, level, ..Default::default() };
    client.call(client.logins().update_account(request)).await.unwrap();
}

/// What ends an assertion ends it at once, in sessions that are open too.
#[tokio::test]
async fn what_ended_decrypts_nothing_any_more() {
    let (_world, daemon, client) = serving().await;
    let sealed = encrypt(&client, SENSITIVE).await.unwrap();
    let ends = ["logout", "suspension", "resumption", "another level and back", "revocation"];
    for (number, end) in ends.iter().enumerate() {
        let (staff, acting) = acting(&client, &format!("staff-{number}"), 2).await;
        decrypt(&acting.client, SENSITIVE, &sealed).await.unwrap();
        let logins = || client.logins();
        match *end {
            "logout" => {
                let request = EndAssertionRequest { assertion: acting.assertion.clone() };
                client.call(logins().end_assertion(request)).await.unwrap();
            }
            "suspension" => update_account(&client, &staff, Some(true), None).await,
            // What was ended is not good again because the account is.
            "resumption" => {
                update_account(&client, &staff, Some(true), None).await;
                update_account(&client, &staff, Some(false), None).await;
            }
            "another level and back" => {
                update_account(&client, &staff, None, Some(1)).await;
                update_account(&client, &staff, None, Some(2)).await;
            }
            _ => {
                let request = RevokeCredentialRequest {
                    name: staff.account.clone(),
                    credential: staff.token.credential().0.to_vec().into(),
                    reason: "lost".into(),
                };
                client.call(logins().revoke_credential(request)).await.unwrap();
            }
        }
        let error = decrypt(&acting.client, SENSITIVE, &sealed).await.unwrap_err();
        assert_eq!(error.reason(), "ASSERTION_REFUSED", "{end}: {error}");
        let fresh = shown(&client, SENSITIVE, &sealed, &[("keyward-assertion", &acting.assertion)]).await;
        assert_eq!(reason(fresh), "ASSERTION_REFUSED", "{end}");
    }
    assert!(daemon.stop().await.success());
}

/// A world whose application has logins.
fn with_logins() -> World {
    let mut world = World::new();
    world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
    world
}

#[tokio::test]
async fn an_assertion_expires_in_open_sessions_too() {
    let mut world = with_logins();
    world.init();
    let clock = FakeClock::new(&mut world);
    let daemon = world.start().await;
    let client = daemon.client().await;
    create_key(&client, "acme", "sensitive").await;
    let sealed = encrypt(&client, SENSITIVE).await.unwrap();
    let (_alice, acting) = acting(&client, "alice", 2).await;
    decrypt(&acting.client, SENSITIVE, &sealed).await.unwrap();
    clock.set("+11m");
    let error = decrypt(&acting.client, SENSITIVE, &sealed).await.unwrap_err();
    assert!(error.reason() == "ASSERTION_REFUSED" && error.message.contains("expired"), "{error}");
    let shown = shown(&client, SENSITIVE, &sealed, &[("keyward-assertion", &acting.assertion)]).await;
    assert!(shown.as_ref().unwrap_err().message().contains("expired"), "{shown:?}");
    // The application's own right does not end with it.
    decrypt(&client, SENSITIVE, &sealed).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn an_assertion_counts_for_its_application_only() {
    let mut world = with_logins();
    world.init();
    let daemon = world.start().await;
    let client = daemon.client().await;
    create_key(&client, "acme", "sensitive").await;
    let sealed = encrypt(&client, SENSITIVE).await.unwrap();
    let (_alice, acting) = acting(&client, "alice", 2).await;
    decrypt(&acting.client, SENSITIVE, &sealed).await.unwrap();
    assert!(daemon.stop().await.success());
    // The same socket and user, under another name: another application.
    world.reconfigure("name = \"tester\"", "name = \"other\"");
    let daemon = world.start().await;
    let client = daemon.client().await;
    let refused = shown(&client, SENSITIVE, &sealed, &[("keyward-assertion", &acting.assertion)]).await;
    assert!(refused.as_ref().unwrap_err().message().contains("another application"), "{refused:?}");
    assert_eq!(reason(refused), "ASSERTION_REFUSED");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn files_are_for_staff_too() {
    let (world, daemon, client) = serving().await;
    update(&client, Key { name: SENSITIVE.into(), staff_required: true, ..Key::default() }, "staff_required")
        .await;
    let (_alice, acting) = acting(&client, "alice", 2).await;
    let about = about();
    let mut sealed = Vec::new();
    acting.client.encrypt_stream(SENSITIVE, &about, &b"a file"[..], &mut sealed).await.unwrap();
    let mut opened = Vec::new();
    acting.client.decrypt_stream(SENSITIVE, &about, &sealed[..], &mut opened).await.unwrap();
    assert_eq!(opened, b"a file");
    for operation in ["encrypt-stream", "decrypt-stream", "decrypt-stream-end"] {
        assert_eq!(newest(&world, operation).caller.unwrap().staff.as_deref(), Some("accounts/alice"));
    }
    let refused = client.encrypt_stream(SENSITIVE, &about, &b"a file"[..], &mut Vec::new()).await;
    assert!(refused.is_err());
    let unary = EncryptRequest { name: SENSITIVE.into(), plaintext: "x".into(), context: about.clone() };
    acting.client.crypto().encrypt(unary).await.unwrap();

    // A logout stops a file that is on its way, down to the last piece: a small one is nothing else.
    let begun =
        |world: &World| world.audit().iter().filter(|record| record.operation == "decrypt-stream").count();
    let before = begun(&world);
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    let header = StreamHeader { name: SENSITIVE.into(), context: about.into_iter().collect() };
    for message in [Message::Header(header), Message::Chunk(sealed.into())] {
        sender.send(DecryptStreamRequest { message: Some(message) }).await.unwrap();
    }
    let request = Request::new(ReceiverStream::new(receiver));
    let mut opened = acting.client.crypto().decrypt_stream(request).await.unwrap().into_inner();
    eventually("a file that is begun", async || (begun(&world) > before).then_some(())).await;
    let request = EndAssertionRequest { assertion: acting.assertion.clone() };
    client.call(client.logins().end_assertion(request)).await.unwrap();
    drop(sender);
    let refused = loop {
        match opened.message().await {
            Ok(Some(piece)) => assert!(piece.chunk.is_empty()),
            Ok(None) => panic!("the whole file"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(Error::from(refused).reason(), "ASSERTION_REFUSED");
    assert!(daemon.stop().await.success());
}
