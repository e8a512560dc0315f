//! While the HSM is away: what still serves, until when, and that a freeze wins.

use std::time::{Duration, Instant};

use keyward::client::Code;
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{
    CreateKeyRequest, DecryptRequest, EncryptRequest, FreezeRequest, Status, UnfreezeRequest,
};
use keyward_softhsm_tests::faults::Faults;
use keyward_softhsm_tests::{Daemon, KEY, PATIENCE, World};
use tonic::transport::Channel;
use tonic_types::StatusExt;

/// Class 1, which serves longer.
const BASIC: &str = "tenants/acme/keys/basic";

fn serving(wanted: Serving) -> impl Fn(&Status) -> bool {
    move |status| status.serving() == wanted
}

/// Encrypts under a key and decrypts again; the reason of a refusal.
async fn works(crypto: &mut CryptoServiceClient<Channel>, name: &str) -> Result<(), (Code, String)> {
    let refusal = |status: tonic::Status| {
        (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
    };
    let asked = EncryptRequest { name: name.into(), plaintext: "x".into(), context: Default::default() };
    let ciphertext = crypto.encrypt(asked).await.map_err(refusal)?.into_inner().ciphertext;
    let asked = DecryptRequest { name: name.into(), ciphertext, context: Default::default() };
    let opened = crypto.decrypt(asked).await.map_err(refusal)?.into_inner();
    assert_eq!(&opened.plaintext[..], b"x");
    Ok(())
}

fn away() -> Result<(), (Code, String)> {
    Err((Code::Unavailable, "HSM_UNAVAILABLE".to_owned()))
}

/// A daemon with a key of class 2 and one of class 1, both open, and the means to take its token away.
async fn open(classes: &str) -> (World, Faults, Daemon, CryptoServiceClient<Channel>) {
    let mut world = World::new();
    let faults = Faults::under(&mut world);
    world.reconfigure("[hsm]\n", "[hsm]\nprobe_interval = \"50ms\"\n");
    world.config += classes;
    world.init();
    let (daemon, client) = world.start_with_key().await;
    let asked = CreateKeyRequest { parent: "tenants/acme".into(), key_id: "basic".into(), data_class: 1 };
    client.keys().create_key(asked).await.expect("a key");
    let mut crypto = daemon.crypto().await;
    for key in [KEY, BASIC] {
        works(&mut crypto, key).await.expect("an open key");
    }
    (world, faults, daemon, crypto)
}

#[tokio::test]
async fn each_class_serves_as_long_as_it_may_and_then_fails_closed() {
    let classes = "\n[class.1]\nserve_without_hsm = \"1h\"\n[class.2]\nserve_without_hsm = \"1s\"\n";
    let (_world, mut faults, mut daemon, mut crypto) = open(classes).await;
    let outage = faults.keep("*", "answer 0xe0");
    daemon.wait_for(serving(Serving::Degraded)).await.expect("degraded");
    let deadline = Instant::now() + PATIENCE;
    while works(&mut crypto, KEY).await.is_ok() {
        assert!(Instant::now() < deadline, "class 2 serves on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(works(&mut crypto, KEY).await, away());
    assert_eq!(works(&mut crypto, BASIC).await, Ok(()));
    let status = daemon.status().await.expect("a status");
    assert!(status.hsm.is_some_and(|hsm| hsm.unanswered > 0 && hsm.losses == 1));

    faults.disarm(&outage);
    daemon.wait_for(serving(Serving::Ready)).await.expect("ready");
    assert_eq!(works(&mut crypto, KEY).await, Ok(()));
    // What was too old when the HSM came back was wiped, not used.
    assert!(daemon.status().await.expect("a status").cache.is_some_and(|cache| cache.expired > 0));
}

#[tokio::test]
async fn a_freeze_wins_over_a_key_that_serves_without_the_hsm() {
    let (_world, mut faults, mut daemon, mut crypto) = open("").await;
    let client = daemon.client().await;
    let outage = faults.keep("*", "answer 0xe0");
    daemon.wait_for(serving(Serving::Degraded)).await.expect("degraded");
    assert_eq!(works(&mut crypto, KEY).await, Ok(()));
    let (name, reason) = (KEY.to_owned(), "test".to_owned());
    client
        .access()
        .freeze(FreezeRequest { name: name.clone(), reason: reason.clone() })
        .await
        .expect("frozen");
    assert_eq!(works(&mut crypto, KEY).await, Err((Code::PermissionDenied, "FROZEN".to_owned())));
    assert_eq!(works(&mut crypto, BASIC).await, Ok(()));
    // What was wiped by the freeze does not come back without the HSM.
    client.access().unfreeze(UnfreezeRequest { name, reason }).await.expect("unfrozen");
    assert_eq!(works(&mut crypto, KEY).await, away());
    faults.disarm(&outage);
    daemon.wait_for(serving(Serving::Ready)).await.expect("ready");
    assert_eq!(works(&mut crypto, KEY).await, Ok(()));
}
