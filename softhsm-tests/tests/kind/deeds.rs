//! What people and programs do, each in one function.

use std::time::Duration;

use keyward::access::Action;
use keyward::access::permission::{
    ApproveCeremony, BeginLogin, BlindIndex, CompleteLogin, Decrypt, Destroy, Encrypt, Freeze, ManageAccount,
    ManageBackups, ManageErasure, ManageKey, ManageTenant, ProposeCeremony, SubmitEnrolment, UseAssertions,
    ViewKey,
};
use keyward::envelope::{Context, Normalization};
use keyward::id::{
    AccountId, AccountName, CeremonyId, ClientAddress, CustodianId, Destroyable, Epoch, FieldId, Freezable,
    Installation, KeyId, KeyName, PrincipalId, TenantId, TenantName, TokenName, VersionName,
};
use keyward::keyring::account::Level;
use keyward::keyring::ceremony::State;
use keyward::keyring::credential::{Credential, TokenAlgorithm, TokenKind};
use keyward::keyring::otp::{OtpHash, OtpKind, OtpScheme};
use keyward::keyring::state::{DataClass, KeyState};
use keyward::keyring::timekeeping::Now;
use keyward::ops::Error;
use keyward::ops::ceremony::{CeremonyInfo, Proposal};
use keyward::ops::login::Completion;
use keyward::ops::login::enrol::{EnrolmentRequest, OpenTicket};
use keyward::ops::login::evidence::Shown;
use keyward::secret::Key256;
use keyward::token::envelope::{Login, LoginEnrolment};
use keyward_hsm_memory::World;
use keyward_softhsm_tests::custodians::Person;
use keyward_softhsm_tests::staff::MemoryKey;

use super::harness::{Failure, patiently, waits};
use super::worlds::{APPLICATION, PLAINTEXT, SECOND};

/// A staff member with a token and passwords by counter.
pub(crate) struct Staff {
    pub(crate) account: AccountName,
    pub(crate) token: MemoryKey,
    /// The counter of the next password.
    pub(crate) next: u64,
}

pub(crate) fn tenant(name: &str) -> TenantName {
    TenantName(TenantId::new(name).unwrap())
}

pub(crate) fn key(tenant: &str, key: &str) -> KeyName {
    KeyName { tenant: TenantId::new(tenant).unwrap(), key: KeyId::new(key).unwrap() }
}

pub(crate) fn account(name: &str) -> AccountName {
    AccountName(AccountId::new(name).unwrap())
}

pub(crate) fn context() -> Context {
    Context::new([("column", "card")]).unwrap()
}

pub(crate) async fn create_tenant(world: &World, name: &str) -> Result<(), Error> {
    let right = world.right::<ManageTenant>(tenant(name));
    world.settle(Action::CreateTenant, world.vault.create_tenant(&right, None).await).await.map(drop)
}

pub(crate) async fn create_key(world: &World, name: &KeyName) -> Result<(), Error> {
    let right = world.right::<ManageKey>(name.clone());
    let made = world.vault.create_key(&right, DataClass::Sensitive).await;
    world.settle(Action::CreateKey, made).await.map(drop)
}

pub(crate) async fn encrypt(world: &World, name: &KeyName) -> Result<Vec<u8>, Error> {
    let right = world.right::<Encrypt>(name.clone());
    let done = world.vault.encrypt(&right, &context(), PLAINTEXT).await;
    Ok(world.settle(Action::Encrypt, done).await?.ciphertext)
}

/// Whether it is what was encrypted.
pub(crate) async fn decrypt(world: &World, name: &KeyName, ciphertext: &[u8]) -> Result<bool, Error> {
    let right = world.right::<Decrypt>(name.clone());
    let done = world.vault.decrypt(&right, &context(), ciphertext).await;
    Ok(world.settle(Action::Decrypt, done).await?.plaintext.expose() == PLAINTEXT)
}

pub(crate) async fn rotate_key(world: &World, name: &KeyName) -> Result<u32, Error> {
    let right = world.right::<ManageKey>(name.clone());
    Ok(world.settle(Action::RotateKey, world.vault.rotate_key(&right).await).await?.primary.get())
}

pub(crate) async fn state_of(world: &World, name: &KeyName) -> Result<KeyState, Error> {
    let right = world.right::<ViewKey>(name.clone());
    Ok(world.settle(Action::GetKey, world.vault.show_key(&right).await).await?.state)
}

/// Rotates a tenant to the end.
pub(crate) async fn rotate_tenant(world: &World, name: &str) -> Result<(), Failure> {
    let right = world.right::<ManageTenant>(tenant(name));
    world.settle(Action::RotateTenant, world.vault.begin_rotation(&right).await).await?;
    resume(world, name).await
}

/// Works on the rotation of a tenant until its end.
pub(crate) async fn resume(world: &World, name: &str) -> Result<(), Failure> {
    let ended = patiently(world, world.vault.clone().resume_rotation(tenant(name).0)).await?;
    ended.map(drop).ok_or_else(waits)
}

pub(crate) async fn freeze_tenant(world: &World, name: &str, frozen: bool) -> Result<(), Error> {
    let right = world.right::<Freeze>(Freezable::Tenant(tenant(name)));
    world.settle(Action::Freeze, world.vault.freeze(&right, frozen, "a test").await).await
}

pub(crate) async fn freeze_key(world: &World, name: &KeyName, frozen: bool) -> Result<(), Error> {
    let right = world.right::<Freeze>(Freezable::Key(name.clone()));
    world.settle(Action::Freeze, world.vault.freeze(&right, frozen, "a test").await).await
}

pub(crate) async fn freeze_principal(world: &World, name: &str, frozen: bool) -> Result<(), Error> {
    let right = world.right::<Freeze>(Freezable::Principal(PrincipalId::new(name)?));
    world.settle(Action::Freeze, world.vault.freeze(&right, frozen, "a test").await).await
}

/// Plans the destruction of a key for now.
pub(crate) async fn doom_key(world: &World, name: &KeyName) -> Result<(), Error> {
    let right = world.right::<Destroy>(Destroyable::Key(name.clone()));
    let planned = world.vault.plan_destroy(&right, Some(Duration::ZERO), "a test").await;
    world.settle(Action::ScheduleDestroy, planned).await.map(drop)
}

/// Plans the destruction of a tenant for now.
pub(crate) async fn doom_tenant(world: &World, name: &str) -> Result<(), Error> {
    let right = world.right::<Destroy>(Destroyable::Tenant(tenant(name)));
    let planned = world.vault.plan_destroy(&right, Some(Duration::ZERO), "a test").await;
    world.settle(Action::ScheduleDestroy, planned).await.map(drop)
}

/// Plans the destruction of a version for now.
pub(crate) async fn doom_version(world: &World, name: &KeyName, epoch: u32) -> Result<(), Error> {
    let version = VersionName { key: name.clone(), epoch: Epoch::new(epoch).unwrap() };
    let right = world.right::<Destroy>(Destroyable::Version(version));
    let planned = world.vault.plan_destroy(&right, Some(Duration::ZERO), "a test").await;
    world.settle(Action::ScheduleDestroy, planned).await.map(drop)
}

/// Does what is due, rotations to their end.
pub(crate) async fn run_due(world: &World) -> Result<(), Failure> {
    for tenant in world.vault.run_due(Now::read()).await? {
        resume(world, tenant.as_str()).await?;
    }
    Ok(())
}

pub(crate) async fn replace_erasure_key(world: &World) -> Result<u32, Error> {
    let right = world.right::<ManageErasure>(Installation);
    let replaced = world.vault.replace_erasure_key(&right).await;
    Ok(world.settle(Action::ReplaceErasureKey, replaced).await?.generation.get())
}

/// Makes a recovery export; how many records it has.
pub(crate) async fn back_up(world: &World) -> Result<u64, Error> {
    let right = world.right::<ManageBackups>(Installation);
    let begun = world.vault.begin_backup(&right, Duration::from_secs(24 * 3600)).await;
    let mut backup = world.settle(Action::CreateBackup, begun).await?;
    while backup.next().await?.is_some() {}
    let records = backup.records;
    world.settle(Action::CreateBackup, Ok(backup.finish())).await?;
    Ok(records)
}

pub(crate) async fn index(world: &World, name: &KeyName, field: &str) -> Result<usize, Error> {
    let right = world.right::<BlindIndex>(name.clone());
    let field = FieldId::new(field).unwrap();
    let made = world.vault.blind_index(&right, &field, Normalization::Exact, b"4111").await;
    Ok(world.settle(Action::BlindIndex, made).await?.indexes.len())
}

pub(crate) async fn rotate_index(world: &World, name: &KeyName, field: &str) -> Result<u32, Error> {
    let right = world.right::<ManageKey>(name.clone());
    let made = world.vault.rotate_index_key(&right, &FieldId::new(field).unwrap()).await;
    Ok(world.settle(Action::RotateIndexKey, made).await?.get())
}

pub(crate) async fn create_account(world: &World, name: &str, level: Level) -> Result<(), Error> {
    let right = world.right::<ManageAccount>(account(name));
    world.settle(Action::CreateAccount, world.vault.create_account(&right, level, None).await).await.map(drop)
}

fn scheme() -> OtpScheme {
    OtpScheme::new(OtpKind::Hotp, OtpHash::Sha1, 6).unwrap()
}

/// The password of a counter: everybody's seed is the same.
fn password(counter: u64) -> String {
    scheme().password(&[7; 32], counter)
}

/// Gives an account passwords, and uses the first up.
pub(crate) async fn give_passwords(world: &World, name: &str) -> Result<(), Error> {
    let right = world.right::<ManageAccount>(account(name));
    let seed = Key256::init_with(|seed| seed.fill(7));
    world.settle(Action::CreateOtp, world.vault.create_otp(&right, scheme(), Some(seed)).await).await?;
    let confirmed = world.vault.confirm_otp(&right, &password(0), None).await;
    world.settle(Action::ConfirmOtp, confirmed).await.map(drop)
}

pub(crate) async fn open_enrolment(world: &World, name: &str) -> Result<OpenTicket, Error> {
    let right = world.right::<ManageAccount>(account(name));
    world.settle(Action::OpenEnrolment, world.vault.open_enrolment(&right, None).await).await
}

pub(crate) async fn submit(world: &World, ticket: &OpenTicket, token: &MemoryKey) -> Result<(), Error> {
    let name = TokenName::new("memory").unwrap();
    let signed = LoginEnrolment {
        account: ticket.record.account.clone(),
        ticket: ticket.id,
        nonce: ticket.record.nonce,
        expires: ticket.record.expires,
        name: name.clone(),
    };
    let signed = signed.envelope(ticket.deployment, token.credential());
    let spki = token.public().spki().to_vec();
    let request = EnrolmentRequest {
        name,
        credential: Credential::new(TokenKind::Pkcs11, TokenAlgorithm::EcdsaP256Sha256, spki).unwrap(),
        signature: token.sign(signed.as_bytes()),
        shown: Shown::default(),
    };
    let right = world.right::<SubmitEnrolment>(ticket.id);
    world.settle(Action::SubmitEnrolment, world.vault.submit_enrolment(&right, request).await).await.map(drop)
}

pub(crate) async fn approve_token(world: &World, name: &str, token: &MemoryKey) -> Result<(), Error> {
    // Not whoever has opened the enrolment.
    let right = world.right_of::<ManageAccount>(SECOND, account(name));
    let approved = world.vault.approve_credential(&right, token.credential()).await;
    world.settle(Action::ApproveCredential, approved).await.map(drop)
}

/// Somebody who can log in.
pub(crate) async fn employ(world: &World, name: &str, level: Level) -> Result<Staff, Error> {
    create_account(world, name, level).await?;
    give_passwords(world, name).await?;
    let (ticket, token) = (open_enrolment(world, name).await?, MemoryKey::default());
    submit(world, &ticket, &token).await?;
    approve_token(world, name, &token).await?;
    Ok(Staff { account: account(name), token, next: 1 })
}

/// Logs in; answers the assertion.
pub(crate) async fn log_in(world: &World, staff: &Staff) -> Result<String, Error> {
    let right = world.right_of::<BeginLogin>(APPLICATION, staff.account.clone());
    let client = ClientAddress::new("192.0.2.7").unwrap();
    let begun = world.vault.begin_login(&right, client).await;
    let begun = world.settle(Action::BeginLogin, begun).await?;
    let session = MemoryKey::default().public();
    let signed = Login {
        origin: begun.challenge.origin.clone(),
        login: begun.login,
        nonce: begun.challenge.nonce,
        account: begun.challenge.account.clone(),
        issued: begun.challenge.issued,
        expires: begun.challenge.expires,
        session: session.clone(),
    };
    let signed = signed.envelope(begun.deployment, staff.token.credential());
    let completion = Completion {
        otp: password(staff.next),
        credential: staff.token.credential(),
        session: session.spki().to_vec(),
        signature: staff.token.sign(signed.as_bytes()),
    };
    let right = world.right_of::<CompleteLogin>(APPLICATION, begun.login);
    let completed = world.vault.complete_login(&right, &completion).await;
    Ok(world.settle(Action::CompleteLogin, completed).await?.assertion)
}

pub(crate) async fn log_out(world: &World, assertion: &str) -> Result<(), Error> {
    let right = world.right_of::<UseAssertions>(APPLICATION, Installation);
    world.settle(Action::EndAssertion, world.vault.end_assertion(&right, assertion).await).await
}

/// Whether an assertion is good.
pub(crate) async fn is_good(world: &World, assertion: &str) -> Result<bool, Error> {
    let right = world.right_of::<UseAssertions>(APPLICATION, Installation);
    let claims = world.vault.introspect(&right, assertion).await;
    Ok(world.settle(Action::IntrospectAssertion, claims).await?.is_some())
}

pub(crate) async fn propose(world: &World, proposal: Proposal) -> Result<CeremonyInfo, Error> {
    let right = world.right::<ProposeCeremony>(Installation);
    let proposed = world.vault.propose(&right, proposal, "a test", Duration::from_secs(7 * 24 * 3600)).await;
    world.settle(Action::CeremonyPropose, proposed).await
}

pub(crate) async fn approve(world: &World, id: CeremonyId, person: &Person) -> Result<CeremonyInfo, Error> {
    let name = CustodianId::new(&person.name).unwrap();
    let info = world.vault.peek_ceremony(id).await?;
    let member = info.members.find(&name).ok_or_else(|| Error::Internal("no member".to_owned()))?;
    let signature = person.sign(&info.envelope(member)?);
    let right = world.right::<ApproveCeremony>(id);
    let approved = world.vault.approve(&right, &name, &signature).await;
    world.settle(Action::CeremonyApprove, approved).await
}

/// Has people approve a ceremony, and does it; answers how it ended.
pub(crate) async fn hold(world: &World, id: CeremonyId, people: &[Person]) -> Result<String, Failure> {
    for person in people {
        approve(world, id, person).await?;
    }
    let ended = patiently(world, world.vault.clone().resume_ceremony(id)).await?;
    let (info, _) = ended.ok_or_else(waits)?;
    match info.record.state {
        State::Done => Ok(info.record.state.to_string()),
        _ => Err(waits()),
    }
}
