//! Custodians whose keys the test holds itself, for what the daemon makes of their
//! signatures. Custodians with tokens are in `tests/all/custodians.rs`.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use keyward::client::{Client, Error};
use keyward::clock::Date;
use keyward::id::{CeremonyId, CustodianId, DeploymentId};
use keyward::keyring::credential::{Credential, TokenAlgorithm, TokenKind};
use keyward::keyring::custodian::{AgreementKey, Custodian, CustodianCard};
use keyward::rpc::proto::ceremony::State;
use keyward::rpc::proto::propose_request::{Action, Found};
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{ApproveRequest, Ceremony, GetCeremonyRequest, GetStatusRequest, ProposeRequest};
use keyward::token::envelope::{self, Envelope};
use keyward::token::printable::Statement;
use keyward::token::{enrolment, verify};

use crate::staff::MemoryKey;
use crate::{Daemon, PATIENCE, Random, World};

/// A custodian.
pub struct Person {
    /// The name.
    pub name: String,
    signing: EcdsaKeyPair,
    custodian: Custodian,
}

impl Person {
    /// A custodian with new keys.
    pub fn new(name: &str) -> Self {
        let pair = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let public =
            |pair: &EcdsaKeyPair| AgreementKey::of_point(pair.public_key().as_ref()).expect("a point");
        let signing = pair();
        let spki = public(&signing).spki().to_vec();
        let credential =
            Credential::new(TokenKind::Pkcs11, TokenAlgorithm::EcdsaP256Sha256, spki).expect("a key");
        let id = CustodianId::new(name).expect("a name");
        let custodian = Custodian::new(id, credential, public(&pair()), None).expect("two keys");
        Self { name: name.to_owned(), signing, custodian }
    }

    /// The key that signs, as one to log in with.
    pub fn login_key(&self) -> MemoryKey {
        let copy = self.signing.to_pkcs8v1().expect("a key");
        let copy = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, copy.as_ref());
        MemoryKey::of(copy.expect("a key"))
    }

    /// The key that shares are encrypted to.
    pub fn agreement(&self) -> AgreementKey {
        self.custodian.agreement().clone()
    }

    /// The card for the roster of an installation.
    pub fn card(&self, deployment: DeploymentId) -> String {
        let custodian = self.custodian.clone();
        let signed =
            enrolment::envelope(custodian.name(), deployment, custodian.signing(), custodian.agreement());
        CustodianCard { custodian, deployment, signature: self.sign(&signed) }.to_text()
    }

    /// The signature of an envelope.
    pub fn sign(&self, envelope: &Envelope) -> Vec<u8> {
        let raw = self.signing.sign(&SystemRandom::new(), envelope.as_bytes()).expect("a signature");
        verify::normalise(TokenAlgorithm::EcdsaP256Sha256, raw.as_ref()).expect("a signature")
    }

    /// What this custodian signs to approve a ceremony as it is shown.
    pub fn envelope(&self, ceremony: &Ceremony) -> Envelope {
        let id = CeremonyId::parse_name(&ceremony.name).expect("a name");
        let deployment = DeploymentId(ceremony.deployment.as_ref().try_into().expect("16 bytes"));
        let signed = envelope::Ceremony {
            ceremony: id,
            roster: ceremony.roster_digest.as_ref().try_into().expect("32 bytes"),
            created: date(ceremony.create_time),
            expires: date(ceremony.expire_time),
            statement: Statement::new(&ceremony.statement).expect("a statement"),
        };
        signed.envelope(deployment, self.custodian.signing().id())
    }

    /// Approves a ceremony as it is shown.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn approve(&self, client: &Client, ceremony: &Ceremony) -> Result<Ceremony, Error> {
        hand_in(client, ceremony, &self.name, self.sign(&self.envelope(ceremony))).await
    }
}

/// Hands in a signature.
///
/// # Errors
/// The daemon's refusal.
pub async fn hand_in(
    client: &Client,
    ceremony: &Ceremony,
    name: &str,
    signature: Vec<u8>,
) -> Result<Ceremony, Error> {
    let (name, custodian) = (ceremony.name.clone(), name.to_owned());
    let request = ApproveRequest { name, custodian, signature: signature.into() };
    client.call(client.ceremonies().approve(request)).await
}

fn date(time: Option<prost_types::Timestamp>) -> Date {
    let time = time.expect("a time");
    let seconds = u64::try_from(time.seconds).expect("after 1970");
    Date(seconds * 1000 + u64::try_from(time.nanos).expect("after 1970") / 1_000_000)
}

/// Custodians with new keys.
pub fn people<const N: usize>(names: [&str; N]) -> [Person; N] {
    names.map(Person::new)
}

/// The installation that a daemon serves.
pub async fn deployment(client: &Client) -> DeploymentId {
    let status = client.call(client.system().get_status(GetStatusRequest {})).await.expect("a status");
    DeploymentId::parse(&status.root.expect("a root").deployment).expect("a number")
}

/// Proposes a ceremony.
///
/// # Errors
/// The daemon's refusal.
pub async fn propose(client: &Client, action: Action) -> Result<Ceremony, Error> {
    let request = ProposeRequest { reason: "a test".into(), lasts: None, action: Some(action) };
    client.call(client.ceremonies().propose(request)).await
}

/// Proposes to found the root.
///
/// # Errors
/// The daemon's refusal.
pub async fn propose_founding(client: &Client, quorum: u32, people: &[Person]) -> Result<Ceremony, Error> {
    let deployment = deployment(client).await;
    let cards = people.iter().map(|person| person.card(deployment)).collect();
    propose(client, Action::Found(Found { quorum, cards })).await
}

/// Has custodians approve a ceremony, one after the other; the last answer.
pub async fn approve_by(client: &Client, ceremony: &Ceremony, people: &[&Person]) -> Ceremony {
    let mut last = ceremony.clone();
    for person in people {
        last = person.approve(client, ceremony).await.expect("an approval");
    }
    last
}

/// Watches a ceremony until it has ended.
pub async fn ended(client: &Client, name: &str) -> Ceremony {
    let watch = async {
        let request = GetCeremonyRequest { name: name.to_owned() };
        let mut seen = client.ceremonies().watch(request).await.expect("a watch").into_inner();
        let mut last = None;
        while let Some(ceremony) = seen.message().await.expect("a ceremony") {
            last = Some(ceremony);
        }
        last.expect("a ceremony at least")
    };
    let last = tokio::time::timeout(PATIENCE, watch).await.expect("the end of the ceremony");
    assert!(!matches!(last.state(), State::Executing | State::Proposed | State::Collecting), "{last:?}");
    last
}

/// Founds the root and waits for the end.
pub async fn found(client: &Client, quorum: u32, people: &[Person]) -> Ceremony {
    let proposed = propose_founding(client, quorum, people).await.expect("a proposal");
    approve_by(client, &proposed, &people.iter().collect::<Vec<_>>()).await;
    let done = ended(client, &proposed.name).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    done
}

/// The transcript of a ceremony.
///
/// # Errors
/// The daemon's refusal.
pub async fn transcript(client: &Client, name: &str) -> Result<String, Error> {
    let request = GetCeremonyRequest { name: name.to_owned() };
    Ok(client.call(client.ceremonies().get_transcript(request)).await?.json)
}

/// Kills the daemon at random moments of its work until the ceremony is done.
pub async fn kill_until_done(world: &World, mut daemon: Daemon, name: &str) -> (Daemon, u32) {
    let (mut random, mut kills) = (Random::new(), 0);
    loop {
        daemon.wait_for(|status| status.serving() == Serving::Ready).await.expect("a daemon that serves");
        // Longer and longer, so that it comes to an end on any machine.
        tokio::time::sleep(Duration::from_millis(random.below(40 + 30 * u64::from(kills)))).await;
        let client = daemon.client().await;
        let asked = GetCeremonyRequest { name: name.to_owned() };
        let found = client.call(client.ceremonies().get_ceremony(asked)).await.expect("the ceremony");
        if found.state() == State::Done {
            return (daemon, kills);
        }
        kills += 1;
        daemon = world.sparing_tokens(killed(world, daemon)).await;
    }
}

/// Kills the daemon, waits for its HSM processes, and starts it again.
pub async fn killed(world: &World, daemon: Daemon) -> Daemon {
    let processes = daemon.hsm_processes();
    daemon.kill();
    for process in processes {
        process.ended().await;
    }
    world.spawn()
}
