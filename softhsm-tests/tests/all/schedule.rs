//! Rotations, activations and minimum versions by date and use, under a clock that the test sets.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use keyward::client::{Client, Context, context};
use keyward::rpc::proto::{
    AcceptClockRequest, CreateKeyVersionRequest, GetKeyRequest, GetTenantRequest, Key, KeyState,
    ListKeyVersionsRequest, RotateKeyRequest, ScheduleDestroyRequest, Tenant, UpdateKeyRequest,
    UpdateTenantRequest,
};
use keyward_softhsm_tests::faketime::FakeClock;
use keyward_softhsm_tests::{KEY, World, create_key, eventually, text};
use prost_types::FieldMask;
use tonic_types::StatusExt;

const DAY: u64 = 24 * 60 * 60;

fn about() -> Context {
    context([("column", "phone")])
}

fn reason(status: &tonic::Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

fn days(days: u64) -> prost_types::Duration {
    Duration::from_secs(days * DAY).try_into().unwrap()
}

async fn update(client: &Client, key: Key, path: &str) -> Result<Key, tonic::Status> {
    let update_mask = Some(FieldMask { paths: vec![path.into()] });
    let asked = UpdateKeyRequest { key: Some(Key { name: KEY.into(), ..key }), update_mask };
    client.keys().update_key(asked).await.map(tonic::Response::into_inner)
}

async fn key(client: &Client) -> Key {
    client.keys().get_key(GetKeyRequest { name: KEY.into() }).await.unwrap().into_inner()
}

async fn primary_becomes(client: &Client, version: u32) {
    eventually(&format!("version {version} is the primary one"), || async {
        (key(client).await.primary_version == version).then_some(())
    })
    .await;
}

async fn tenant(client: &Client) -> Tenant {
    client.keys().get_tenant(GetTenantRequest { name: "tenants/acme".into() }).await.unwrap().into_inner()
}

async fn states(client: &Client) -> Vec<KeyState> {
    let asked = ListKeyVersionsRequest { parent: KEY.into(), page_size: 0, page_token: String::new() };
    let page = client.keys().list_key_versions(asked).await.unwrap().into_inner();
    page.key_versions.iter().map(|version| version.state()).collect()
}

#[tokio::test]
async fn a_key_is_rotated_by_use_also_over_a_kill() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    update(&client, Key { rotation_uses: 64, ..Key::default() }, "rotation_uses").await.unwrap();
    let old = client.encrypt(KEY, "first", &about()).await.unwrap();
    for _ in 0..30 {
        client.encrypt(KEY, "x", &about()).await.unwrap();
    }
    assert_eq!(key(&client).await.primary_version, 1, "31 of 64 uses");
    // What was reserved counts: after a kill there is no more than half left.
    daemon.kill();
    let daemon = world.start().await;
    let client = daemon.client().await;
    for _ in 0..33 {
        client.encrypt(KEY, "x", &about()).await.unwrap();
    }
    primary_becomes(&client, 2).await;
    assert_eq!(states(&client).await, [KeyState::Active, KeyState::DecryptOnly]);
    assert_eq!(client.encrypt(KEY, "second", &about()).await.unwrap().version, 2);
    assert_eq!(client.decrypt(KEY, old.ciphertext, &about()).await.unwrap().plaintext.expose(), b"first");
    // The count begins anew.
    for _ in 0..70 {
        client.encrypt(KEY, "x", &about()).await.unwrap();
    }
    primary_becomes(&client, 3).await;
    let rotations = || world.audit().iter().filter(|record| record.operation == "rotate-key-due").count();
    assert_eq!(rotations(), 2);
    assert!(daemon.stop().await.success(), "{}", world.log());
}

#[tokio::test]
async fn keys_tenants_and_versions_follow_their_dates() {
    let mut world = World::ready();
    let clock = FakeClock::new(&mut world);
    let (daemon, client) = world.start_with_key().await;
    let shown = update(&client, Key { rotation_period: Some(days(90)), ..Key::default() }, "rotation_period");
    let shown = shown.await.unwrap();
    let born = shown.create_time.unwrap().seconds;
    assert_eq!(shown.next_rotation_time.unwrap().seconds, born + 90 * DAY as i64);
    let short = Some(Duration::from_secs(60).try_into().unwrap());
    let short = update(&client, Key { rotation_period: short, ..Key::default() }, "rotation_period").await;
    assert_eq!(reason(&short.unwrap_err()), "ARGUMENT_INVALID");

    clock.set("+91d");
    primary_becomes(&client, 2).await;
    let next = key(&client).await.next_rotation_time.unwrap().seconds;
    assert!((next - born).unsigned_abs() > 180 * DAY, "the next one is 90 days after this one");

    // A version made now, for later.
    let at = born + 100 * DAY as i64;
    let asked = CreateKeyVersionRequest {
        parent: KEY.into(),
        activate_time: Some(prost_types::Timestamp { seconds: at, nanos: 0 }),
    };
    let made = client.keys().create_key_version(asked.clone()).await.unwrap().into_inner();
    assert_eq!((made.name, made.state), (format!("{KEY}/versions/3"), KeyState::PreActive.into()));
    assert_eq!(reason(&client.keys().create_key_version(asked).await.unwrap_err()), "NOT_ALLOWED");
    assert_eq!(client.encrypt(KEY, "x", &about()).await.unwrap().version, 2);
    clock.set("+101d");
    primary_becomes(&client, 3).await;
    assert_eq!(states(&client).await, [KeyState::Active, KeyState::DecryptOnly, KeyState::DecryptOnly]);

    // The KEK of the tenant; it takes the version that waits along, with another data key.
    let asked = CreateKeyVersionRequest {
        parent: KEY.into(),
        activate_time: Some(prost_types::Timestamp { seconds: born + 1000 * DAY as i64, nanos: 0 }),
    };
    let waiting = client.keys().create_key_version(asked).await.unwrap().into_inner();
    let asked = UpdateTenantRequest {
        tenant: Some(Tenant {
            name: "tenants/acme".into(),
            rotation_period: Some(days(150)),
            ..Tenant::default()
        }),
        update_mask: Some(FieldMask { paths: vec!["rotation_period".into()] }),
    };
    client.keys().update_tenant(asked).await.unwrap();
    clock.set("+151d");
    eventually("the tenant is rotated", || async {
        let tenant = tenant(&client).await;
        (tenant.primary_kek_version == 2 && tenant.rotation.is_empty()).then_some(())
    })
    .await;
    primary_becomes(&client, 4).await;
    let versions = ListKeyVersionsRequest { parent: KEY.into(), page_size: 1, page_token: String::new() };
    let newest = client.keys().list_key_versions(versions).await.unwrap().into_inner().key_versions.remove(0);
    assert_eq!((newest.state(), newest.kek_version), (KeyState::Active, 2));
    assert_ne!(newest.dek_id, waiting.dek_id);
    assert_eq!(client.encrypt(KEY, "x", &about()).await.unwrap().version, 4);
    assert!(daemon.stop().await.success(), "{}", world.log());
    let checked = world.cli(["store", "check", "--config", &world.config_file()]);
    assert!(checked.status.success(), "{}", text(&checked));
}

#[tokio::test]
async fn a_clock_that_is_set_stops_what_is_done_by_date() {
    let mut world = World::ready();
    let clock = FakeClock::new(&mut world);
    let (mut daemon, client) = world.start_with_key().await;
    create_key(&client, "acme", "doomed").await;
    update(&client, Key { rotation_period: Some(days(10)), ..Key::default() }, "rotation_period")
        .await
        .unwrap();
    let doomed = "tenants/acme/keys/doomed";
    let asked = ScheduleDestroyRequest { name: doomed.into(), delay: Some(days(30)), reason: "r".into() };
    client.keys().schedule_destroy(asked).await.unwrap();
    let clock_is = |wanted: &'static str| {
        move |status: &keyward::rpc::proto::Status| {
            status.schedule.as_ref().is_some_and(|schedule| schedule.clock == wanted)
        }
    };
    let state_of_doomed = || async {
        let key = client.keys().get_key(GetKeyRequest { name: doomed.into() }).await.unwrap().into_inner();
        key.state()
    };

    // Ahead: rotations go on, nothing is destroyed, and an operator can say that it is right.
    clock.set("+40d");
    let status = daemon.wait_for(clock_is("ahead")).await.unwrap();
    assert!(status.schedule.unwrap().reason.contains("destructions by date wait"));
    primary_becomes(&client, 2).await;
    assert_eq!(state_of_doomed().await, KeyState::ScheduledForDestruction);
    let accepted = world.cli(["clock", "accept", "--reason", "it is so late"]);
    assert!(accepted.status.success(), "{}", text(&accepted));
    eventually("what is due is destroyed", || async {
        (state_of_doomed().await == KeyState::Destroyed).then_some(())
    })
    .await;

    // Back: nothing is done, over a restart too.
    clock.set("+20d");
    daemon.wait_for(clock_is("behind")).await.unwrap();
    daemon.kill();
    let mut daemon = world.start().await;
    daemon.wait_for(clock_is("behind")).await.unwrap();
    let client = daemon.client().await;
    let told = |detail: &str| {
        let records = world.audit();
        records.iter().any(|record| {
            record.operation == "clock-state"
                && record.detail.as_deref().is_some_and(|told| told.contains(detail))
        })
    };
    assert!(told("behind the latest date seen"));
    clock.set("+41d");
    daemon.wait_for(clock_is("trusted")).await.unwrap();
    clock.set("+20d");
    daemon.wait_for(clock_is("behind")).await.unwrap();
    client.system().accept_clock(AcceptClockRequest { reason: "it was wrong".into() }).await.unwrap();
    daemon.wait_for(clock_is("trusted")).await.unwrap();
    let unsaid = client.system().accept_clock(AcceptClockRequest { reason: " ".into() }).await;
    assert_eq!(reason(&unsaid.unwrap_err()), "ARGUMENT_INVALID");
    assert!(daemon.stop().await.success(), "{}", world.log());
}

#[tokio::test]
async fn versions_below_the_minimum_do_not_decrypt() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let old = client.encrypt(KEY, "old", &about()).await.unwrap();
    let minimum = |version| Key { min_version: version, ..Key::default() };
    let early = update(&client, minimum(2), "min_version").await.unwrap_err();
    assert_eq!(reason(&early), "NOT_ALLOWED", "{early}");
    client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap();
    let new = client.encrypt(KEY, "new", &about()).await.unwrap();
    assert_eq!(update(&client, minimum(2), "min_version").await.unwrap().min_version, 2);
    let refused = client.decrypt(KEY, old.ciphertext.clone(), &about()).await.unwrap_err();
    assert_eq!(refused.reason(), "VERSION_TOO_OLD");
    assert_eq!(
        client.re_encrypt(KEY, old.ciphertext.clone(), &about()).await.unwrap_err().reason(),
        "VERSION_TOO_OLD"
    );
    client.decrypt(KEY, new.ciphertext, &about()).await.unwrap();
    update(&client, minimum(1), "min_version").await.unwrap();
    client.decrypt(KEY, old.ciphertext, &about()).await.unwrap();
}
