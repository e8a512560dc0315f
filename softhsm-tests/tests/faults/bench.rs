//! A daemon that is made to fail, and what must hold whatever strikes.

use std::time::{Duration, Instant};

use keyward::client::{Client, Code};
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{
    CreateKeyRequest, CreateTenantRequest, DecryptRequest, EncryptRequest, GetRotationRequest,
    RotateTenantRequest, Status, rotation,
};
use keyward_softhsm_tests::faults::Faults;
use keyward_softhsm_tests::{Daemon, PATIENCE, World, create_key};
use tonic::transport::Channel;

/// Two tenants: with room for one KEK in the HSM's memory, each use unwraps one.
pub(crate) const KEYS: [&str; 2] = ["tenants/one/keys/k", "tenants/two/keys/k"];

/// What a call may be refused with while the HSM is unwell.
const MAY_FAIL: [Code; 2] = [Code::Unavailable, Code::ResourceExhausted];

/// What no connection outlives.
const FATAL: [&str; 4] = ["crash", "exit", "hang", "close-sessions"];

/// What was answered with success and must stay true.
struct Acknowledged {
    key: &'static str,
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
}

/// A daemon whose every operation asks the HSM.
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) faults: Faults,
    pub(crate) daemon: Daemon,
    client: Client,
    crypto: CryptoServiceClient<Channel>,
    acknowledged: Vec<Acknowledged>,
    made: u32,
    /// The longest that it took to serve again, and after what.
    slowest: (Duration, String),
}

impl Bench {
    /// A daemon with these settings of its HSM. Without room for a second KEK each use unwraps one.
    pub(crate) async fn new(hsm: &str) -> Self {
        let mut world = World::new();
        let faults = Faults::under(&mut world);
        world.reconfigure("[hsm]\n", &format!("[hsm]\ndeadline = \"1s\"\n{hsm}\n"));
        world.reconfigure("level = \"info\"", "level = \"error\"");
        world.config += "\n[class.2]\ncache_ttl = \"0s\"\n";
        world.init();
        let daemon = world.start().await;
        let client = daemon.client().await;
        for tenant in ["one", "two"] {
            create_key(&client, tenant, "k").await;
        }
        let crypto = daemon.crypto().await;
        let slowest = (Duration::ZERO, String::new());
        let mut bench =
            Self { world, faults, daemon, client, crypto, acknowledged: Vec::new(), made: 0, slowest };
        bench.must_work("the start").await;
        bench
    }

    pub(crate) async fn encrypt(&mut self, key: &'static str) -> Result<(), tonic::Status> {
        self.made += 1;
        let plaintext = format!("{} of {key}", self.made).into_bytes();
        let asked = EncryptRequest {
            name: key.into(),
            plaintext: plaintext.clone().into(),
            context: Default::default(),
        };
        let ciphertext = self.crypto.encrypt(asked).await?.into_inner().ciphertext.to_vec();
        self.acknowledged.push(Acknowledged { key, plaintext, ciphertext });
        Ok(())
    }

    async fn decrypt(&mut self, index: usize) -> Result<(), tonic::Status> {
        let Acknowledged { key, plaintext, ciphertext } = &self.acknowledged[index];
        let asked = DecryptRequest {
            name: (*key).into(),
            ciphertext: ciphertext.clone().into(),
            context: Default::default(),
        };
        let opened = self.crypto.decrypt(asked).await?.into_inner();
        assert_eq!(&opened.plaintext[..], plaintext, "a wrong plaintext");
        Ok(())
    }

    /// A tenant, whose KEK is made and wrapped, with a key, which is made and sealed.
    pub(crate) async fn create(&mut self) -> Result<(), tonic::Status> {
        self.made += 1;
        let tenant_id = format!("t{}", self.made);
        let mut keys = self.client.keys();
        let parent = format!("tenants/{tenant_id}");
        keys.create_tenant(CreateTenantRequest { tenant_id, display_name: String::new() }).await?;
        keys.create_key(CreateKeyRequest { parent, key_id: "k".into(), data_class: 0 }).await?;
        Ok(())
    }

    async fn rotate(&mut self) -> Result<(), tonic::Status> {
        let mut keys = self.client.keys();
        let begun =
            keys.rotate_tenant(RotateTenantRequest { name: "tenants/one".into() }).await?.into_inner();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = keys.get_rotation(GetRotationRequest { name: begun.name.clone() }).await?.into_inner();
            if now.state() == rotation::State::Done {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "{now:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One of everything that asks the HSM; answers the refusals.
    pub(crate) async fn round(&mut self, after: &str) -> Vec<tonic::Status> {
        let mut said = Vec::new();
        for key in KEYS {
            said.push(self.encrypt(key).await);
        }
        for older in [1, 2, 7, 8] {
            if let Some(index) = self.acknowledged.len().checked_sub(older) {
                said.push(self.decrypt(index).await);
            }
        }
        let created = self.create().await;
        if created.is_ok() {
            said.push(self.rotate().await);
        }
        said.push(created);
        let refusals: Vec<_> = said.into_iter().filter_map(Result::err).collect();
        for refusal in &refusals {
            assert!(MAY_FAIL.contains(&refusal.code()), "{after}: {refusal:?}\n{}", self.world.log());
        }
        refusals
    }

    /// Repeats rounds until one succeeds in full; answers how long that took.
    pub(crate) async fn must_work(&mut self, after: &str) -> Duration {
        let start = Instant::now();
        loop {
            let refusals = self.round(after).await;
            if refusals.is_empty() {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "{after}: {refusals:?}\n{}", self.world.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A round in which nothing fails.
    pub(crate) async fn must_work_at_once(&mut self, after: &str) {
        let refusals = self.round(after).await;
        assert!(refusals.is_empty(), "{after}: {refusals:?}\n{}", self.world.log());
    }

    /// Arms a fault, works until it has struck, and until everything works again.
    pub(crate) async fn survive(&mut self, function: &str, action: &str) {
        let case = format!("{function} {action}");
        let fault = self.faults.arm(function, action);
        let start = Instant::now();
        let before = self.losses().await;
        while !self.faults.fired(&fault) {
            self.round(&case).await;
            if !self.faults.fired(&fault) {
                self.reconnect(&fault).await;
            }
            assert!(start.elapsed() < PATIENCE, "{case} never struck\n{}", self.world.log());
        }
        let took = self.must_work(&case).await;
        if took > self.slowest.0 {
            self.slowest = (took, case.clone());
        }
        let ready = |status: &Status| status.serving() == Serving::Ready;
        let status = self.daemon.wait_for(ready).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(status.reason, "", "{case}");
        if FATAL.contains(&action) {
            assert!(self.losses().await > before, "{case}: no loss was counted");
        }
    }

    async fn losses(&self) -> u64 {
        self.daemon.status().await.expect("a status").hsm.expect("an HSM").losses
    }

    /// Ends the HSM process, for faults that strike while a connection is made.
    pub(crate) async fn reconnect(&mut self, fault: &str) {
        let start = Instant::now();
        for process in self.daemon.hsm_processes() {
            process.signal(rustix::process::Signal::KILL);
            process.ended().await;
        }
        while !self.faults.fired(fault) && self.daemon.hsm_processes().is_empty() {
            assert!(start.elapsed() < PATIENCE, "no new process\n{}", self.world.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything that was ever acknowledged opens, also after a restart of the daemon.
    pub(crate) async fn nothing_is_lost(mut self) {
        for index in 0..self.acknowledged.len() {
            self.decrypt(index).await.expect("what was acknowledged");
        }
        assert!(self.daemon.stop().await.success(), "{}", self.world.log());
        self.daemon = self.world.start().await;
        self.crypto = self.daemon.crypto().await;
        for index in 0..self.acknowledged.len() {
            self.decrypt(index).await.expect("what was acknowledged");
        }
        #[allow(clippy::print_stdout)] // `cargo test -- --nocapture` shows it
        {
            println!("slowest recovery: {:?} after {}", self.slowest.0, self.slowest.1);
        }
    }
}
