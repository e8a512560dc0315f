//! Tenants, keys, versions, states and rotation through a real daemon.

use std::time::{Duration, Instant};

use keyward::client::{Client, Code, Context, context};
use keyward::rpc::proto::{
    CreateKeyRequest, CreateTenantRequest, FreezeRequest, GetKeyRequest, GetRotationRequest, Key, KeyState,
    KeyVersion, ListKekVersionsRequest, ListKeyVersionsRequest, ListTenantsRequest, Normalization,
    RotateKeyRequest, RotateTenantRequest, UnfreezeRequest, UpdateKeyRequest, UpdateKeyVersionRequest,
    rotation,
};
use keyward_softhsm_tests::{KEY, PATIENCE, World, create_key};
use tonic_types::StatusExt;

fn about() -> Context {
    context([("column", "phone")])
}

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Rotates the tenant and waits until that is finished.
async fn rotate(client: &Client, tenant: &str) -> keyward::rpc::proto::Rotation {
    let begun = client
        .keys()
        .rotate_tenant(RotateTenantRequest { name: tenant.to_owned() })
        .await
        .expect("an answer");
    let name = begun.into_inner().name;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = client
            .keys()
            .get_rotation(GetRotationRequest { name: name.clone() })
            .await
            .expect("an answer")
            .into_inner();
        if now.state() == rotation::State::Done {
            return now;
        }
        assert!(Instant::now() < deadline, "{now:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn set_version(client: &Client, version: u32, state: KeyState) -> Result<KeyVersion, tonic::Status> {
    let key_version = KeyVersion {
        name: format!("{KEY}/versions/{version}"),
        state: state.into(),
        ..KeyVersion::default()
    };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["state".into()] });
    let asked = UpdateKeyVersionRequest { key_version: Some(key_version), update_mask };
    client.keys().update_key_version(asked).await.map(tonic::Response::into_inner)
}

async fn update_key(client: &Client, key: Key, path: &str) -> Result<Key, tonic::Status> {
    let update_mask = Some(prost_types::FieldMask { paths: vec![path.into()] });
    let asked = UpdateKeyRequest { key: Some(Key { name: KEY.into(), ..key }), update_mask };
    client.keys().update_key(asked).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_rotation_moves_every_key_and_old_ciphertexts_stay_readable() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    create_key(&client, "acme", "orders").await;
    for _ in 0..3 {
        client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap();
    }
    let index = client.blind_index(KEY, "phone", "138-1234", Normalization::Digits).await.unwrap();
    let old = client.encrypt(KEY, "before", &about()).await.unwrap();
    assert_eq!(old.version, 4);

    let rotation = rotate(&client, "tenants/acme").await;
    // Four DEKs of one key, one of the other, one index key.
    assert_eq!(
        (rotation.done, rotation.total, rotation.from_kek_version, rotation.to_kek_version),
        (6, 6, 1, 2)
    );

    let new = client.encrypt(KEY, "after", &about()).await.unwrap();
    assert_eq!(new.version, 5);
    assert_eq!(
        client.decrypt(KEY, old.ciphertext.clone(), &about()).await.unwrap().plaintext.expose(),
        b"before"
    );
    let keks =
        client.keys().list_kek_versions(ListKekVersionsRequest { parent: "tenants/acme".into() }).await;
    let keks = keks.unwrap().into_inner().kek_versions;
    // Two new epochs were opened under the new KEK.
    assert_eq!(keks.iter().map(|kek| kek.wrapped_count).collect::<Vec<_>>(), [8, 0]);
    assert_eq!(keks[1].state(), KeyState::ScheduledForDestruction);
    let again = client.blind_index(KEY, "phone", "1381234", Normalization::Digits).await.unwrap();
    assert_eq!(again.index, index.index, "an index does not change with a rotation");

    // A restart opens everything through the HSM again.
    assert!(daemon.stop().await.success(), "{}", world.log());
    let daemon = world.start().await;
    let client = daemon.client().await;
    assert_eq!(client.decrypt(KEY, old.ciphertext, &about()).await.unwrap().plaintext.expose(), b"before");
    assert_eq!(client.decrypt(KEY, new.ciphertext, &about()).await.unwrap().plaintext.expose(), b"after");
}

#[tokio::test]
async fn re_encryption_keeps_the_plaintext_and_takes_the_primary_version() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let old = client.encrypt(KEY, "data", &about()).await.unwrap();
    client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap();
    let new = client.re_encrypt(KEY, old.ciphertext.clone(), &about()).await.unwrap();
    assert_eq!((new.previous_version, new.version), (1, 2));
    assert_ne!(new.ciphertext, old.ciphertext);
    assert_eq!(client.decrypt(KEY, new.ciphertext, &about()).await.unwrap().plaintext.expose(), b"data");
}

#[tokio::test]
async fn states_forbid_what_they_say() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let old = client.encrypt(KEY, "data", &about()).await.unwrap();

    let refused = set_version(&client, 1, KeyState::Disabled).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "NOT_ALLOWED"));
    client.keys().rotate_key(RotateKeyRequest { name: KEY.into() }).await.unwrap();
    set_version(&client, 1, KeyState::Disabled).await.unwrap();
    let error = client.decrypt(KEY, old.ciphertext.clone(), &about()).await.unwrap_err();
    assert_eq!((error.code, error.reason()), (Code::FailedPrecondition, "VERSION_DISABLED"));
    set_version(&client, 1, KeyState::DecryptOnly).await.unwrap();
    client.decrypt(KEY, old.ciphertext.clone(), &about()).await.unwrap();

    update_key(&client, Key { state: KeyState::DecryptOnly.into(), ..Key::default() }, "state")
        .await
        .unwrap();
    let error = client.encrypt(KEY, "new", &about()).await.unwrap_err();
    assert_eq!(error.reason(), "KEY_DISABLED");
    client.decrypt(KEY, old.ciphertext.clone(), &about()).await.unwrap();
    update_key(&client, Key { state: KeyState::Disabled.into(), ..Key::default() }, "state").await.unwrap();
    assert_eq!(
        client.decrypt(KEY, old.ciphertext.clone(), &about()).await.unwrap_err().reason(),
        "KEY_DISABLED"
    );
    update_key(&client, Key { state: KeyState::Active.into(), ..Key::default() }, "state").await.unwrap();
    client.decrypt(KEY, old.ciphertext, &about()).await.unwrap();

    update_key(&client, Key { data_class: 3, ..Key::default() }, "data_class").await.unwrap();
    let lowered =
        update_key(&client, Key { data_class: 1, ..Key::default() }, "data_class").await.unwrap_err();
    assert_eq!(reason(&lowered), "NOT_ALLOWED");
    let shown = client.keys().get_key(GetKeyRequest { name: KEY.into() }).await.unwrap().into_inner();
    assert_eq!(shown.data_class, 3);
}

#[tokio::test]
async fn a_freeze_stops_everything_at_once_and_lasts_over_a_restart() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let sealed = client.encrypt(KEY, "data", &about()).await.unwrap();
    for name in ["tenants/acme", KEY] {
        let reason = "under investigation".to_owned();
        client.access().freeze(FreezeRequest { name: name.into(), reason: reason.clone() }).await.unwrap();
        let error = client.decrypt(KEY, sealed.ciphertext.clone(), &about()).await.unwrap_err();
        assert_eq!((error.code, error.reason()), (Code::PermissionDenied, "FROZEN"));
        assert_eq!(client.encrypt(KEY, "x", &about()).await.unwrap_err().reason(), "FROZEN");
        client.access().unfreeze(UnfreezeRequest { name: name.into(), reason }).await.unwrap();
        client.decrypt(KEY, sealed.ciphertext.clone(), &about()).await.unwrap();
    }
    let request = FreezeRequest { name: "tenants/acme".into(), reason: "again".into() };
    client.access().freeze(request).await.unwrap();
    daemon.stop().await;
    let daemon = world.start().await;
    let client = daemon.client().await;
    assert_eq!(client.decrypt(KEY, sealed.ciphertext, &about()).await.unwrap_err().reason(), "FROZEN");
    let unsaid =
        client.access().unfreeze(UnfreezeRequest { name: "tenants/acme".into(), reason: " ".into() }).await;
    assert_eq!(reason(&unsaid.unwrap_err()), "ARGUMENT_INVALID");
}

#[tokio::test]
async fn names_are_never_reused_and_pages_are_complete() {
    let world = World::ready();
    let daemon = world.start().await;
    let client = daemon.client().await;
    let tenants: Vec<_> = (0..7).map(|number| format!("tenant-{number}")).collect();
    for tenant in &tenants {
        create_key(&client, tenant, "k").await;
    }
    let again = CreateTenantRequest { tenant_id: "tenant-3".into(), display_name: String::new() };
    let taken = client.keys().create_tenant(again).await.unwrap_err();
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "ALREADY_EXISTS"));
    let again = CreateKeyRequest { parent: "tenants/tenant-3".into(), key_id: "k".into(), data_class: 2 };
    assert_eq!(client.keys().create_key(again).await.unwrap_err().code(), Code::AlreadyExists);
    let orphan = CreateKeyRequest { parent: "tenants/nobody".into(), key_id: "k".into(), data_class: 2 };
    assert_eq!(client.keys().create_key(orphan).await.unwrap_err().code(), Code::NotFound);

    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = client.keys().list_tenants(ListTenantsRequest { page_size: 3, page_token }).await.unwrap();
        let page = page.into_inner();
        seen.extend(page.tenants.into_iter().map(|tenant| tenant.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, tenants.iter().map(|tenant| format!("tenants/{tenant}")).collect::<Vec<_>>());

    let name = "tenants/tenant-0/keys/k";
    for _ in 0..4 {
        client.keys().rotate_key(RotateKeyRequest { name: name.into() }).await.unwrap();
    }
    let asked = ListKeyVersionsRequest { parent: name.into(), page_size: 3, page_token: String::new() };
    let first = client.keys().list_key_versions(asked).await.unwrap().into_inner();
    let asked = ListKeyVersionsRequest {
        parent: name.into(),
        page_size: 3,
        page_token: first.next_page_token.clone(),
    };
    let second = client.keys().list_key_versions(asked).await.unwrap().into_inner();
    let numbers = |page: &keyward::rpc::proto::ListKeyVersionsResponse| {
        page.key_versions
            .iter()
            .map(|version| version.name.rsplit('/').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (numbers(&first), numbers(&second)),
        (vec!["5".into(), "4".into(), "3".into()], vec!["2".into(), "1".into()])
    );
    assert_eq!(second.next_page_token, "");
}

#[tokio::test]
async fn a_rotation_hinders_neither_freezes_nor_changes_nor_new_keys() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    for number in 0..40 {
        create_key(&client, "acme", &format!("k{number}")).await;
    }
    for round in 0..4 {
        let begun = RotateTenantRequest { name: "tenants/acme".into() };
        client.keys().rotate_tenant(begun).await.expect("a rotation");
        for number in 0..12 {
            for name in ["tenants/acme", KEY] {
                let (name, reason) = (name.to_owned(), "a test".to_owned());
                let asked = FreezeRequest { name: name.clone(), reason: reason.clone() };
                client.access().freeze(asked).await.expect("frozen at once");
                let asked = UnfreezeRequest { name, reason };
                client.access().unfreeze(asked).await.expect("an end of it");
            }
            create_key(&client, "acme", &format!("n{round}-{number}")).await;
            let asked = ListKekVersionsRequest { parent: "tenants/acme".into() };
            client.keys().list_kek_versions(asked).await.expect("KEKs");
            let key = Key { rotation_uses: 1000 + number, ..Key::default() };
            update_key(&client, key, "rotation_uses").await.expect("a change");
        }
        rotate(&client, "tenants/acme").await;
    }
}
