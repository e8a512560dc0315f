//! The two installations that are copied: with rows in nearly every table, most of them changed once, some deleted.

use std::sync::Arc;
use std::time::Duration;

use keyward::access::Action;
use keyward::access::permission::{ManageAccount, ManageKey, ManageTenant, ViewCheckpoints};
use keyward::audit::AuditLog;
use keyward::id::{CeremonyId, DeploymentId, Installation, KeyName, ProposalId};
use keyward::keyring::account::Level;
use keyward::keyring::act::Act;
use keyward::keyring::ceremony::CeremonyAction;
use keyward::ops::ceremony::Proposal;
use keyward::ops::key::KeyUpdate;
use keyward::ops::login::enrol::OpenTicket;
use keyward::store::StoreChange;
use keyward_hsm_memory::{Place, World};
use keyward_softhsm_tests::custodians::{Person, people};
use keyward_softhsm_tests::staff::MemoryKey;

use super::deeds::{self, Staff, account, key, tenant};
use super::harness::Failure;

/// What is encrypted everywhere here.
pub(crate) const PLAINTEXT: &[u8] = b"4111 1111 1111 1111";
/// The user of the application that staff log in to.
pub(crate) const APPLICATION: u32 = 1001;
/// The user of another operator than the tester.
pub(crate) const SECOND: u32 = 1003;
/// An operator who is frozen.
pub(crate) const FROZEN: &str = "mallory";

const CONFIGURATION: &str = r#"
[[principal]]
name = "crm"
role = "application"
users = [1001]
origin = "https://crm.example"

[[principal]]
name = "mallory"
role = "operator"
users = [1002]

[[principal]]
name = "nina"
role = "operator"
users = [1003]

[rotation]
old_kek_grace = "0s"

[destruction]
delay = "0s"
min_delay = "0s"

[login]
assurance = ["witnessed"]
assertion_ttl = "12h"

[audit]
segment = "1MiB"
reserve = "4KiB"
"#;

/// An installation, closed, and what people know of it.
pub(crate) struct Scene {
    pub(crate) place: Arc<Place>,
    pub(crate) position: StoreChange,
    pub(crate) deployment: DeploymentId,
    pub(crate) ciphertexts: Vec<(KeyName, Vec<u8>)>,
    /// Which of them decrypts.
    pub(crate) works: usize,
    /// Who has one password used, and who an assertion of their own.
    pub(crate) alice: Staff,
    pub(crate) assertion: String,
    /// One that was ended.
    pub(crate) ended: String,
    /// A permission to enrol a token for bob.
    pub(crate) ticket: OpenTicket,
    /// A token of carol's that waits for approval.
    pub(crate) pending: MemoryKey,
    /// An act that waits for the administrator.
    pub(crate) act: Option<ProposalId>,
    pub(crate) custodians: Vec<Person>,
    /// A ceremony with all approvals but the last one.
    pub(crate) ceremony: Option<CeremonyId>,
}

/// Runs something to its end, in this thread.
pub(crate) fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

/// An installation whose root is unfounded.
pub(crate) fn unfounded() -> Scene {
    on_runtime(make_unfounded()).expect("an installation")
}

/// One whose root is founded, with its second roster in force.
pub(crate) fn founded() -> Scene {
    on_runtime(make_founded()).expect("an installation")
}

async fn make_unfounded() -> Result<Scene, Failure> {
    let world = World::configured(CONFIGURATION).await;
    let mut ciphertexts = tenants(&world).await?;
    deeds::replace_erasure_key(&world).await?;
    destroyed(&world).await?;
    // After the replacement: what these rows were before can still be opened.
    ciphertexts.extend(changed(&world).await?);
    deeds::back_up(&world).await?;
    freezes(&world).await?;
    staffed(world, ciphertexts, Vec::new()).await
}

/// Tenants and keys, everywhere with something encrypted.
async fn tenants(world: &World) -> Result<Vec<(KeyName, Vec<u8>)>, Failure> {
    let mut ciphertexts = Vec::new();
    for name in ["acme", "beta", "gone", "mill"] {
        deeds::create_tenant(world, name).await?;
        deeds::create_key(world, &key(name, "pii")).await?;
        ciphertexts.push((key(name, "pii"), deeds::encrypt(world, &key(name, "pii")).await?));
    }
    for name in ["cards", "doomed", "old"] {
        deeds::create_key(world, &key("acme", name)).await?;
        ciphertexts.push((key("acme", name), deeds::encrypt(world, &key("acme", name)).await?));
    }
    deeds::index(world, &key("acme", "pii"), "phone").await?;
    Ok(ciphertexts)
}

/// A tenant, a key and a version that are destroyed.
async fn destroyed(world: &World) -> Result<(), Failure> {
    deeds::rotate_key(world, &key("acme", "pii")).await?;
    deeds::doom_tenant(world, "gone").await?;
    deeds::doom_key(world, &key("acme", "old")).await?;
    deeds::run_due(world).await
}

/// Versions, rotations and schedules: what is there has a past.
async fn changed(world: &World) -> Result<Vec<(KeyName, Vec<u8>)>, Failure> {
    let (pii, cards) = (key("acme", "pii"), key("acme", "cards"));
    deeds::rotate_key(world, &pii).await?;
    let mut ciphertexts = vec![(pii.clone(), deeds::encrypt(world, &pii).await?)];
    deeds::doom_version(world, &pii, 2).await?;
    deeds::run_due(world).await?;
    deeds::rotate_index(world, &pii, "phone").await?;
    let update = KeyUpdate {
        rotation_period: Some(Some(Duration::from_secs(90 * 24 * 3600))),
        rotation_uses: Some(Some(1000)),
        ..KeyUpdate::default()
    };
    let right = world.right::<ManageKey>(cards.clone());
    world.settle(Action::UpdateKey, world.vault.update_key(&right, update).await).await?;
    for _ in 0..70 {
        deeds::encrypt(world, &cards).await?;
    }
    ciphertexts.push((cards.clone(), deeds::encrypt(world, &cards).await?));
    deeds::rotate_tenant(world, "acme").await?;
    deeds::rotate_tenant(world, "beta").await?;
    // Begun, and left to somebody.
    let right = world.right::<ManageTenant>(tenant("mill"));
    world.settle(Action::RotateTenant, world.vault.begin_rotation(&right).await).await?;
    deeds::doom_key(world, &key("acme", "doomed")).await?;
    Ok(ciphertexts)
}

async fn freezes(world: &World) -> Result<(), Failure> {
    for frozen in [true, false, true] {
        deeds::freeze_principal(world, FROZEN, frozen).await?;
    }
    deeds::freeze_tenant(world, "beta", true).await?;
    Ok(())
}

/// People, and what they have begun. While the root is unfounded there is an administrator.
async fn staffed(
    world: World,
    ciphertexts: Vec<(KeyName, Vec<u8>)>,
    custodians: Vec<Person>,
) -> Result<Scene, Failure> {
    let alone = custodians.is_empty();
    let tenant = if alone { "mill" } else { "safe" };
    let mut alice = deeds::employ(&world, "alice", Level::One).await?;
    let assertion = deeds::log_in(&world, &alice).await?;
    alice.next += 1;
    let ended = deeds::log_in(&world, &alice).await?;
    alice.next += 1;
    deeds::log_out(&world, &ended).await?;
    deeds::create_account(&world, "bob", Level::Two).await?;
    let ticket = deeds::open_enrolment(&world, "bob").await?;
    deeds::create_account(&world, "carol", Level::One).await?;
    let (own, pending) = (deeds::open_enrolment(&world, "carol").await?, MemoryKey::default());
    deeds::submit(&world, &own, &pending).await?;
    let mut act = None;
    if alone {
        deeds::employ(&world, "dora", Level::Three).await?;
        let right = world.right::<ManageAccount>(account("bob"));
        let change = Act::SetLevel { account: account("bob").0, level: Level::Three, today: Level::Two };
        let proposed = world.vault.propose_act(&right, change, "a test").await;
        act = Some(world.settle(Action::ProposeAct, proposed).await?.id);
    }
    let ceremony = match custodians.as_slice() {
        [] => None,
        [first, ..] => {
            let info = deeds::propose(&world, Proposal::RotateRoot).await?;
            deeds::approve(&world, info.id, first).await?;
            Some(info.id)
        }
    };
    world.vault.checkpoint(world.audit().durable()).await?;
    let right = world.right::<ViewCheckpoints>(Installation);
    world.settle(Action::GetAuditKeys, world.vault.show_audit_keys(&right).await).await?;
    let (position, deployment) = (world.records().position(), world.vault.root().deployment);
    let place = world.close().await;
    Ok(Scene {
        place,
        position,
        deployment,
        works: ciphertexts
            .iter()
            .position(|(name, _)| name.tenant.as_str() == tenant)
            .expect("one that works"),
        ciphertexts,
        alice,
        assertion,
        ended,
        ticket,
        pending,
        act,
        custodians,
        ceremony,
    })
}

async fn make_founded() -> Result<Scene, Failure> {
    let world = World::configured(CONFIGURATION).await;
    let deployment = world.vault.root().deployment;
    let [anna, bert, cleo, dirk] = people(["anna", "bert", "cleo", "dirk"]);
    let mut ciphertexts = Vec::new();
    for name in ["acme", "safe"] {
        deeds::create_tenant(&world, name).await?;
        deeds::create_key(&world, &key(name, "pii")).await?;
        ciphertexts.push((key(name, "pii"), deeds::encrypt(&world, &key(name, "pii")).await?));
    }
    let members = vec![anna, bert, cleo];
    let cards = members.iter().map(|person| person.card(deployment)).collect();
    let founding = deeds::propose(&world, Proposal::Found { quorum: 2, cards }).await?;
    deeds::hold(&world, founding.id, &members).await?;
    let resident = CeremonyAction::MoveTenant { tenant: tenant("safe").0, resident: true };
    let moving = deeds::propose(&world, Proposal::Other(resident)).await?;
    deeds::hold(&world, moving.id, &members[..2]).await?;
    let add = vec![dirk.card(deployment)];
    let change = Proposal::ChangeRoster { quorum: None, add, remove: Vec::new() };
    let changing = deeds::propose(&world, change).await?;
    deeds::hold(&world, changing.id, &members[..2]).await?;
    deeds::freeze_key(&world, &key("acme", "pii"), true).await?;
    deeds::freeze_principal(&world, FROZEN, true).await?;
    // What the resident KEKs of before sealed is moved; they are destroyed by date.
    deeds::run_due(&world).await?;
    let mut custodians = members;
    custodians.push(dirk);
    staffed(world, ciphertexts, custodians).await
}
