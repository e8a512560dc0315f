//! An installation that is made once, and copied for each kind of caller.

use std::time::Duration;

use keyward::client::{Client, context};
use keyward::rpc::proto::{GenerateDataKeyWithoutPlaintextRequest, ScheduleDestroyRequest};
use keyward_softhsm_tests::custodians::{found, people};
use keyward_softhsm_tests::staff::Staff;
use keyward_softhsm_tests::{KEY, World, create_key};

/// Refusals beyond the budget of a caller wait, to be counted together.
pub(super) const UNCOUNTED: &str = "\n[limits]\nrefusals_per_second = 1000\n";

/// What is in the installation, by name.
pub(super) struct Scene {
    pub(super) world: World,
    pub(super) sealed: Sealed,
    /// The credential of `accounts/alice`.
    pub(super) credential: Vec<u8>,
}

/// A ciphertext of a key, and an encrypted data key of it.
pub(super) struct Sealed {
    pub(super) key: String,
    pub(super) ciphertext: Vec<u8>,
    pub(super) data_key: Vec<u8>,
}

impl Sealed {
    pub(super) async fn new(client: &Client, key: &str) -> Self {
        let about = context([("a", "b")]);
        let ciphertext = client.encrypt(key, "x", &about).await.unwrap().ciphertext.to_vec();
        let request = GenerateDataKeyWithoutPlaintextRequest {
            name: key.to_owned(),
            context: [("a".to_owned(), "b".to_owned())].into(),
        };
        let made = client.call(client.crypto().generate_data_key_without_plaintext(request)).await.unwrap();
        Self { key: key.to_owned(), ciphertext, data_key: made.ciphertext.to_vec() }
    }
}

impl Scene {
    /// Two tenants, keys of several states, an account with a token; founded by three custodians, or not.
    pub(super) async fn new(founded: bool) -> Self {
        let mut world = World::ready();
        // Each refusal has a record of its own, at once.
        world.config += UNCOUNTED;
        world.reconfigure("[\"attested\", \"certified\", \"witnessed\"]", "[\"witnessed\"]");
        let (daemon, client) = world.start_with_key().await;
        for key in ["going", "spare"] {
            create_key(&client, "acme", key).await;
        }
        create_key(&client, "zeta", "theirs").await;
        going(&client).await;
        let sealed = Sealed::new(&client, KEY).await;
        let credential = Staff::new(&client, "alice").await.token.credential().0.to_vec();
        if founded {
            found(&client, 2, &people(["bob", "carol", "dave"])).await;
        }
        assert!(daemon.stop().await.success(), "{}", world.log());
        Self { world, sealed, credential }
    }
}

/// Plans the destruction of a key.
async fn going(client: &Client) {
    let request = ScheduleDestroyRequest {
        name: "tenants/acme/keys/going".into(),
        delay: Some(Duration::from_secs(30 * 86_400).try_into().unwrap()),
        reason: "a test".into(),
    };
    client.call(client.keys().schedule_destroy(request)).await.unwrap();
}
