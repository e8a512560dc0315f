//! The path of each record, and the beginnings of the paths of many.

use super::{Buried, Path, PathId, Prefix, Record, Span};
use crate::clock::{Date, Day};
use crate::id::{
    AccountId, AssertionId, CeremonyId, DekId, Epoch, ErasureGeneration, ExportId, FieldId, IndexVersion,
    KekVersion, KeyName, PrincipalId, ProposalId, RootGeneration, RosterVersion, RotationName,
    SigningGeneration, TenantId, TicketId, VersionName,
};
use crate::keyring::account::{Account, EndedAssertion, LoginCredential, Otp, Ticket};
use crate::keyring::act::ProposedAct;
use crate::keyring::agenda::{Due, DueDay, Lease, Task};
use crate::keyring::ceremony::Ceremony;
use crate::keyring::credential::CredentialId;
use crate::keyring::escrow::{Escrow, KekEscrow};
use crate::keyring::record::{
    Dek, Erasure, Export, Field, IndexKey, KekRecord, Key, Principal, Root, Rotation, RunningRotation,
    SigningPurpose, SystemKey, SystemSecret, Tenant, Version,
};
use crate::keyring::remains::Tombstone;
use crate::keyring::roster::Roster;
use crate::keyring::schedule::DekUses;
use crate::keyring::timekeeping::ClockMark;

/// The path of one generation of the root.
pub fn root(generation: RootGeneration) -> Path<Root> {
    Path::new(generation)
}

/// The path of the daemon's secret.
pub fn system_secret() -> Path<SystemSecret> {
    Path::new(())
}

/// The path of a generation of the erasure key.
pub fn erasure(generation: ErasureGeneration) -> Path<Erasure> {
    Path::new(generation)
}

/// The path of a copy that does not die with the erasure key.
pub fn export(export: ExportId) -> Path<Export> {
    Path::new(export)
}

/// The path of a tenant.
pub fn tenant(tenant: &TenantId) -> Path<Tenant> {
    Path::new(tenant.clone())
}

/// The path of a version of a tenant's KEK.
pub fn kek(tenant: &TenantId, version: KekVersion) -> Path<KekRecord> {
    Path::new((tenant.clone(), version))
}

/// The path of the escrow of a resident KEK.
pub fn kek_escrow(tenant: &TenantId, version: KekVersion) -> Path<KekEscrow> {
    Path::new((tenant.clone(), version))
}

/// The path of a named key.
pub fn key(name: &KeyName) -> Path<Key> {
    Path::new(name.clone())
}

/// The path of a DEK epoch.
pub fn version(key: &KeyName, epoch: Epoch) -> Path<Version> {
    Path::new(VersionName { key: key.clone(), epoch })
}

/// The path of a wrapped DEK.
pub fn dek(key: &KeyName, dek: DekId) -> Path<Dek> {
    Path::new((key.clone(), dek))
}

/// The path of a wrapped blind index key.
pub fn index_key(key: &KeyName, field: &FieldId, version: IndexVersion) -> Path<IndexKey> {
    Path::new((key.clone(), field.clone(), version))
}

/// The path of a field that has blind index keys.
pub fn index_field(key: &KeyName, field: &FieldId) -> Path<Field> {
    Path::new((key.clone(), field.clone()))
}

/// The path of a rotation.
pub fn rotation(name: &RotationName) -> Path<Rotation> {
    Path::new(name.clone())
}

/// The path of the mark of a tenant's unfinished rotation.
pub fn running(tenant: &TenantId) -> Path<RunningRotation> {
    Path::new(tenant.clone())
}

/// The path of a generation of one of the daemon's signing keys.
pub fn system_key(purpose: SigningPurpose, generation: SigningGeneration) -> Path<SystemKey> {
    Path::new((purpose, generation))
}

/// All generations of one of the daemon's signing keys.
pub fn system_keys(purpose: SigningPurpose) -> Prefix<SystemKey> {
    Prefix::new(|out| purpose.put(out))
}

/// The path of a frozen principal.
pub fn principal(principal: &PrincipalId) -> Path<Principal> {
    Path::new(principal.clone())
}

/// The path of a roster.
pub fn roster(version: RosterVersion) -> Path<Roster> {
    Path::new(version)
}

/// The path of a ceremony.
pub fn ceremony(ceremony: CeremonyId) -> Path<Ceremony> {
    Path::new(ceremony)
}

/// The path of an account.
pub fn account(account: &AccountId) -> Path<Account> {
    Path::new(account.clone())
}

/// The path of a key that somebody logs in with.
pub fn login_credential(credential: CredentialId) -> Path<LoginCredential> {
    Path::new(credential)
}

/// The path of the one-time passwords of an account.
pub fn otp(account: &AccountId) -> Path<Otp> {
    Path::new(account.clone())
}

/// The path of a permission to enrol a token.
pub fn ticket(ticket: TicketId) -> Path<Ticket> {
    Path::new(ticket)
}

/// The path of an assertion that was ended.
pub fn ended_assertion(assertion: AssertionId) -> Path<EndedAssertion> {
    Path::new(assertion)
}

/// The path of an act that waits for an administrator.
pub fn act(act: ProposalId) -> Path<ProposedAct> {
    Path::new(act)
}

/// The path of the escrow of one generation of the root.
pub fn escrow(generation: RootGeneration) -> Path<Escrow> {
    Path::new(generation)
}

/// The path of the tombstone of a record.
pub fn tombstone<T: Record>(of: &Path<T>) -> Path<Tombstone> {
    Path::new(Buried::of(of))
}

/// The path of the scheduler's lease.
pub fn lease() -> Path<Lease> {
    Path::new(())
}

/// The path of the latest date seen.
pub fn clock_mark() -> Path<ClockMark> {
    Path::new(())
}

/// The path of the uses of a DEK epoch.
pub fn dek_uses(key: &KeyName, epoch: Epoch) -> Path<DekUses> {
    Path::new(VersionName { key: key.clone(), epoch })
}

/// The path of a line of the agenda.
pub fn due(date: Date, task: &Task) -> Path<Due> {
    Path::new((date, task.clone()))
}

/// The lines of the agenda for a day.
pub fn due_on(day: Day) -> Span<Due> {
    Span::new(|out| day.begin().put(out), |out| day.end().put(out))
}

/// The path of a day of the agenda.
pub fn due_day(day: Day) -> Path<DueDay> {
    Path::new(day)
}

/// All named keys of a tenant.
pub fn keys(tenant: &TenantId) -> Prefix<Key> {
    Prefix::new(|out| tenant.put(out))
}

/// All DEK epochs of a key.
pub fn versions(key: &KeyName) -> Prefix<Version> {
    Prefix::new(|out| key.put(out))
}

/// All wrapped DEKs of a key.
pub fn deks(key: &KeyName) -> Prefix<Dek> {
    Prefix::new(|out| key.put(out))
}

/// All wrapped DEKs of a tenant.
pub fn deks_of(tenant: &TenantId) -> Prefix<Dek> {
    Prefix::new(|out| tenant.put(out))
}

/// All wrapped blind index keys of a key.
pub fn index_keys(key: &KeyName) -> Prefix<IndexKey> {
    Prefix::new(|out| key.put(out))
}

/// All fields of a key that have blind index keys.
pub fn index_fields(key: &KeyName) -> Prefix<Field> {
    Prefix::new(|out| key.put(out))
}

/// All wrapped blind index keys of a tenant.
pub fn index_keys_of(tenant: &TenantId) -> Prefix<IndexKey> {
    Prefix::new(|out| tenant.put(out))
}

/// All tombstones of records with a prefix.
pub fn buried<T: Record>(records: &Prefix<T>) -> Prefix<Tombstone> {
    Prefix::new(|out| out.extend_from_slice(records.as_bytes()))
}

/// All rotations of a tenant.
pub fn rotations(tenant: &TenantId) -> Prefix<Rotation> {
    Prefix::new(|out| tenant.put(out))
}
