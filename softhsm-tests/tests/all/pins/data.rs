//! Work on data: each method, for staff of each level with and without a proof, on keys of each class, state and freeze.

use std::fmt::Write;
use std::sync::Arc;

use keyward::client::{Client, SessionKey};
use keyward::rpc::proto::{
    CreateKeyRequest, FreezeRequest, Key, KeyState, KeyVersion, RotateKeyRequest, ScheduleDestroyRequest,
    UpdateAccountRequest, UpdateKeyRequest, UpdateKeyVersionRequest,
};
use keyward_softhsm_tests::staff::{ORIGIN, Staff};
use keyward_softhsm_tests::{World, create_tenant};
use prost_types::FieldMask;
use tonic::Code;
use tonic::metadata::MetadataMap;
use tonic_types::StatusExt;

use super::callers::ask;
use super::calls::{Asked, data};
use super::pinned;
use super::scene::{Sealed, UNCOUNTED};

/// What is done to a key before it is used; its tenant is its own.
const STATES: [&str; 8] = [
    "enabled",
    "disabled",
    "decrypt-only",
    "going",
    "version disabled",
    "key frozen",
    "tenant frozen",
    "missing",
];

/// Somebody who has logged in, or nobody.
struct Acting {
    who: &'static str,
    assertion: Option<String>,
    session: Option<Arc<SessionKey>>,
}

/// A line for each method and class; in it, for each of the staff, an answer for each state.
#[tokio::test]
async fn work_on_data_is_decided_as_before() {
    let mut world = World::ready();
    world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
    world.config += UNCOUNTED;
    let daemon = world.start().await;
    let client = daemon.client().await;
    let mut sealed = Vec::new();
    for class in 1..=3 {
        for state in STATES {
            sealed.push((class, state, made(&client, class, state).await));
        }
    }
    let people = people(&client).await;
    let channel = world.channel().await;
    let mut table = format!("answers for keys that are: {}\n", STATES.join(", "));
    for (number, asked) in data(&sealed[0].2, "").iter().enumerate() {
        let (method, what) = (asked.method, asked.what.trim());
        for class in 1..=3 {
            for one in &people {
                let mut line = String::new();
                for (_, _, sealed) in sealed.iter().filter(|(other, ..)| *other == class) {
                    let asked = &data(sealed, &sealed.key)[number];
                    let answer = ask(&channel, asked, one.metadata(asked)).await;
                    let reason = match &answer {
                        Ok(messages) => inner(asked, messages),
                        Err(status) => reason(status),
                    };
                    write!(line, " {reason}").unwrap();
                }
                writeln!(table, "{method} {what} class {class}, {}:{line}", one.who).unwrap();
            }
        }
    }
    assert!(daemon.stop().await.success(), "{}", world.log());
    pinned("data.txt", &table);
}

fn reason(status: &tonic::Status) -> String {
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
    reason.unwrap_or_else(|| format!("{:?}", status.code()))
}

/// Of calls that answer item by item, whether the item was refused.
fn inner(asked: &Asked, messages: &[bytes::Bytes]) -> String {
    use keyward::rpc::proto::{BatchDecryptResponse, BatchEncryptResponse, CryptSessionResponse};
    use keyward::rpc::proto::{
        batch_decrypt_response, batch_encrypt_response, crypt_session_response as session,
    };
    use prost::Message;
    let first = messages.first().cloned().unwrap_or_default();
    let error = match asked.method {
        "CryptoService/BatchEncrypt" => {
            match BatchEncryptResponse::decode(first).unwrap().results.remove(0).result {
                Some(batch_encrypt_response::result::Result::Error(error)) => Some(error),
                _ => None,
            }
        }
        "CryptoService/BatchDecrypt" => {
            match BatchDecryptResponse::decode(first).unwrap().results.remove(0).result {
                Some(batch_decrypt_response::result::Result::Error(error)) => Some(error),
                _ => None,
            }
        }
        "CryptoService/CryptSession" => match CryptSessionResponse::decode(first).unwrap().response {
            Some(session::Response::Error(error)) => Some(error),
            _ => None,
        },
        _ => None,
    };
    let Some(error) = error else { return "ok".to_owned() };
    let status = tonic::Status::with_details(
        Code::from_i32(error.code),
        error.message.clone(),
        error.encode_to_vec().into(),
    );
    format!("({})", reason(&status))
}

impl Acting {
    /// What a call shows of them.
    fn metadata(&self, asked: &Asked) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        let Some(assertion) = &self.assertion else { return metadata };
        metadata.insert("keyward-assertion", assertion.parse().unwrap());
        metadata.insert("keyward-client-address", "192.0.2.7".parse().unwrap());
        if let Some(session) = &self.session {
            let proof = session.proof(&format!("/keyward.v1.{}", asked.method), assertion).unwrap();
            metadata.insert("keyward-proof", proof.parse().unwrap());
        }
        metadata
    }
}

/// Nobody, and staff of each level; one shows no proof, one shows no assertion.
async fn people(client: &Client) -> Vec<Acting> {
    let mut all = vec![
        Acting { who: "nobody", assertion: None, session: None },
        Acting { who: "no assertion", assertion: Some("a.b.c".to_owned()), session: None },
    ];
    for (level, name, who, bare) in [
        (1, "one", "level 1", "level 1 without a proof"),
        (2, "two", "level 2", "level 2 without a proof"),
        (3, "three", "level 3", "level 3 without a proof"),
    ] {
        let mut staff = Staff::new(client, name).await;
        if level > 1 {
            let request = UpdateAccountRequest {
                name: staff.account.clone(),
                level: Some(level),
                ..Default::default()
            };
            client.call(client.logins().update_account(request)).await.unwrap();
        }
        let session = Arc::new(SessionKey::generate().unwrap());
        let assertion = staff.log_in_as(client, &session).await.unwrap().assertion;
        all.push(Acting { who: bare, assertion: Some(assertion.clone()), session: None });
        all.push(Acting { who, assertion: Some(assertion), session: Some(session) });
    }
    all
}

/// A key of a class, brought into a state after something was encrypted under it.
async fn made(client: &Client, class: u32, state: &str) -> Sealed {
    let tenant = format!("t{class}-{}", state.replace(' ', "-"));
    let key = format!("tenants/{tenant}/keys/k");
    if state == "missing" {
        return Sealed { key, ciphertext: vec![1; 64], data_key: vec![1; 64] };
    }
    create_tenant(client, &tenant).await.unwrap();
    let request =
        CreateKeyRequest { parent: format!("tenants/{tenant}"), key_id: "k".into(), data_class: class };
    client.call(client.keys().create_key(request)).await.unwrap();
    let sealed = Sealed::new(client, &key).await;
    let turned = |state: KeyState| Key { name: key.clone(), state: state.into(), ..Key::default() };
    match state {
        "disabled" => update(client, turned(KeyState::Disabled), "state").await,
        "decrypt-only" => update(client, turned(KeyState::DecryptOnly), "state").await,
        "going" => {
            let delay = Some(prost_types::Duration { seconds: 30 * 86_400, nanos: 0 });
            let request = ScheduleDestroyRequest { name: key.clone(), delay, reason: "a test".into() };
            client.call(client.keys().schedule_destroy(request)).await.unwrap();
        }
        "version disabled" => {
            client.call(client.keys().rotate_key(RotateKeyRequest { name: key.clone() })).await.unwrap();
            let version = KeyVersion {
                name: format!("{key}/versions/1"),
                state: KeyState::Disabled.into(),
                ..Default::default()
            };
            let update_mask = Some(FieldMask { paths: vec!["state".to_owned()] });
            let request = UpdateKeyVersionRequest { key_version: Some(version), update_mask };
            client.call(client.keys().update_key_version(request)).await.unwrap();
        }
        "key frozen" => freeze(client, &key).await,
        "tenant frozen" => freeze(client, &format!("tenants/{tenant}")).await,
        _ => {}
    }
    sealed
}

async fn update(client: &Client, key: Key, field: &str) {
    let update_mask = Some(FieldMask { paths: vec![field.to_owned()] });
    let request = UpdateKeyRequest { key: Some(key), update_mask };
    client.call(client.keys().update_key(request)).await.unwrap();
}

async fn freeze(client: &Client, name: &str) {
    let request = FreezeRequest { name: name.to_owned(), reason: "a test".into() };
    client.call(client.access().freeze(request)).await.unwrap();
}
