//! Which record lives where: tables, typed paths and the bytes of their keys.
//!
//! A key is `table byte | path`. Path components are joined so that no path is
//! a prefix of another and keys sort like the names: an identifier ends with a
//! zero byte (identifiers have none inside), numbers are u32 big-endian, a DEK
//! id has its 16 bytes.

use std::fmt;
use std::marker::PhantomData;

use minicbor::{Decode, Encode};

use crate::clock::Date;
use crate::id::{
    AccountId, AssertionId, CeremonyId, DekId, Epoch, ErasureGeneration, ExportId, FieldId, IndexVersion,
    KekVersion, KeyId, KeyName, PrincipalId, ProposalId, RootGeneration, RosterVersion, RotationName,
    SigningGeneration, TenantId, TenantName, TicketId, VersionName,
};
use crate::keyring::account::{Account, EndedAssertion, LoginCredential, Otp, Ticket};
use crate::keyring::act::ProposedAct;
use crate::keyring::agenda::{Due, Lease, Task};
use crate::keyring::ceremony::Ceremony;
use crate::keyring::credential::CredentialId;
use crate::keyring::escrow::{Escrow, KekEscrow};
use crate::keyring::record::{
    Dek, Erasure, Export, IndexKey, KekRecord, Key, Principal, Root, Rotation, RunningRotation,
    SigningPurpose, SystemKey, SystemSecret, Tenant, Version,
};
use crate::keyring::remains::Tombstone;
use crate::keyring::roster::Roster;
use crate::keyring::schedule::DekUses;
use crate::keyring::timekeeping::ClockMark;

/// The kinds of rows. The byte is the on-disk format: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Generations of the HSM root key.
    Root = 1,
    /// The daemon's own secret.
    SystemSecret = 2,
    /// Tenants.
    Tenant = 3,
    /// Versions of the tenants' KEKs.
    Kek = 4,
    /// Named keys.
    Key = 5,
    /// DEK epochs and their states.
    Version = 6,
    /// Wrapped DEKs.
    Dek = 7,
    /// Wrapped blind index keys.
    IndexKey = 8,
    /// Rotations of tenants.
    Rotation = 9,
    /// Frozen principals.
    Principal = 10,
    /// Rotations that are not finished, by tenant.
    RunningRotation = 11,
    /// Rosters of custodians.
    Roster = 12,
    /// Ceremonies.
    Ceremony = 13,
    /// Shares of the backup keys of roots.
    Escrow = 14,
    /// What is left of wrapped keys that were destroyed.
    Tombstone = 15,
    /// Which daemon runs what is due.
    SchedulerLease = 16,
    /// The latest date that was seen.
    ClockMark = 17,
    /// Signing keys of the daemon.
    SystemKey = 18,
    /// Generations of the erasure key.
    Erasure = 19,
    /// How often DEKs were used, for keys that are rotated by use.
    DekUses = 20,
    /// Copies that do not die with the erasure key.
    Export = 21,
    /// What is to be done at which date.
    Agenda = 22,
    /// Shares of the backup keys of resident KEKs.
    KekEscrow = 23,
    /// Staff accounts.
    Account = 24,
    /// Keys of USB tokens that staff log in with.
    LoginCredential = 25,
    /// One-time passwords of accounts.
    Otp = 26,
    /// Permissions to enrol a token.
    Ticket = 27,
    /// Login assertions that were ended before their time.
    EndedAssertion = 28,
    /// Acts that wait for an administrator.
    Act = 29,
    /// Nodes of the digest's hash tree.
    Digest = 0xf0,
    /// The one row that says what the store holds.
    Meta = 0xf1,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 31] = [
        Self::Root,
        Self::SystemSecret,
        Self::Tenant,
        Self::Kek,
        Self::Key,
        Self::Version,
        Self::Dek,
        Self::IndexKey,
        Self::Rotation,
        Self::Principal,
        Self::RunningRotation,
        Self::Roster,
        Self::Ceremony,
        Self::Escrow,
        Self::Tombstone,
        Self::SchedulerLease,
        Self::ClockMark,
        Self::DekUses,
        Self::Agenda,
        Self::SystemKey,
        Self::Erasure,
        Self::Export,
        Self::KekEscrow,
        Self::Account,
        Self::LoginCredential,
        Self::Otp,
        Self::Ticket,
        Self::EndedAssertion,
        Self::Act,
        Self::Digest,
        Self::Meta,
    ];

    /// The first byte of its keys.
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// The table of a key's first byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.byte() == byte)
    }

    /// Whether the table holds records, not the store's own rows.
    pub fn holds_records(self) -> bool {
        !matches!(self, Self::Digest | Self::Meta)
    }

    /// Whether the digest covers its records. Wrapped DEKs and index keys are
    /// moved by the thousand in a rotation and are not: each has its MAC, and a
    /// covered record says that it must exist. The lease is renewed all the time, and
    /// an old one that is put back only makes a daemon wait.
    pub fn covered(self) -> bool {
        self.holds_records() && !matches!(self, Self::Dek | Self::IndexKey | Self::SchedulerLease)
    }

    /// Whether its records hold wrapped keys, which are sealed once more under the erasure key.
    pub fn sealed(self) -> bool {
        matches!(self, Self::Kek | Self::Dek | Self::IndexKey | Self::KekEscrow)
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::SystemSecret => "system secret",
            Self::Tenant => "tenant",
            Self::Kek => "kek",
            Self::Key => "key",
            Self::Version => "version",
            Self::Dek => "dek",
            Self::IndexKey => "index key",
            Self::Rotation => "rotation",
            Self::Principal => "principal",
            Self::RunningRotation => "running-rotation",
            Self::Roster => "roster",
            Self::Ceremony => "ceremony",
            Self::Escrow => "escrow",
            Self::KekEscrow => "kek escrow",
            Self::Tombstone => "tombstone",
            Self::SchedulerLease => "scheduler lease",
            Self::ClockMark => "clock mark",
            Self::DekUses => "dek uses",
            Self::Agenda => "agenda",
            Self::SystemKey => "system key",
            Self::Erasure => "erasure key",
            Self::Export => "export",
            Self::Account => "account",
            Self::LoginCredential => "login credential",
            Self::Otp => "one-time password",
            Self::Ticket => "enrolment ticket",
            Self::EndedAssertion => "ended assertion",
            Self::Act => "administrative act",
            Self::Digest => "digest",
            Self::Meta => "meta",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record type: where its records live and what names one.
pub trait Record:
    Encode<()> + for<'b> Decode<'b, ()> + Clone + fmt::Debug + PartialEq + Send + Sync + 'static
{
    /// Its table.
    const TABLE: Table;
    /// What names one record of the table.
    type Id: PathId;
}

/// What names a record inside its table.
pub trait PathId: Clone + fmt::Debug + Eq + Ord + Send + Sync + 'static {
    /// Appends the path bytes.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes one off the front of `rest`; `None` when it is not one.
    fn take(rest: &mut &[u8]) -> Option<Self>;
}

/// Names one record of type `T`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<T: Record> {
    /// The record's name.
    pub id: T::Id,
}

impl<T: Record> Path<T> {
    /// Names the record `id`.
    pub fn new(id: T::Id) -> Self {
        Self { id }
    }

    /// The key of the record: table byte and path.
    pub fn key(&self) -> Vec<u8> {
        let mut key = vec![T::TABLE.byte()];
        self.id.put(&mut key);
        key
    }

    /// Reads a key back; `None` when it is not one of this table in its only spelling.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let mut rest = key.strip_prefix(&[T::TABLE.byte()])?;
        let id = T::Id::take(&mut rest)?;
        rest.is_empty().then_some(Self { id })
    }
}

/// The beginning of the paths of some records of type `T`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix<T: Record> {
    bytes: Vec<u8>,
    of: PhantomData<fn() -> T>,
}

impl<T: Record> Prefix<T> {
    fn new(lead: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = vec![T::TABLE.byte()];
        lead(&mut bytes);
        Self { bytes, of: PhantomData }
    }

    /// All records of the table.
    pub fn all() -> Self {
        Self::new(|_| ())
    }

    /// The key bytes that they begin with.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

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
    Path::new(Buried(of.key()))
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

/// All KEK versions of a tenant.
pub fn keks(tenant: &TenantId) -> Prefix<KekRecord> {
    Prefix::new(|out| tenant.put(out))
}

/// The escrows of all resident KEKs of a tenant.
pub fn kek_escrows(tenant: &TenantId) -> Prefix<KekEscrow> {
    Prefix::new(|out| tenant.put(out))
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

macro_rules! records {
    ($($record:ty: $table:ident, $id:ty, $words:expr;)*) => {
        $(impl Record for $record {
            const TABLE: Table = Table::$table;
            type Id = $id;
        })*

        /// The name of the record at `key`, for people.
        pub fn describe(key: &[u8]) -> String {
            $(if let Some(path) = Path::<$record>::parse(key) {
                let words: fn(&$id) -> String = $words;
                return words(&path.id);
            })*
            describe_other(key)
        }
    };
}

records! {
    Root: Root, RootGeneration, |generation| format!("roots/{generation}");
    SystemSecret: SystemSecret, (), |()| "system-secret".into();
    Tenant: Tenant, TenantId, |tenant| TenantName(tenant.clone()).to_string();
    KekRecord: Kek, (TenantId, KekVersion), |(tenant, version)| format!("tenants/{tenant}/kekVersions/{version}");
    Key: Key, KeyName, |key| key.to_string();
    Version: Version, VersionName, |version| version.to_string();
    Dek: Dek, (KeyName, DekId), |(key, dek)| format!("{key}/deks/{dek}");
    IndexKey: IndexKey, (KeyName, FieldId, IndexVersion), |(key, field, version)| format!("{key}/fields/{field}/versions/{version}");
    Rotation: Rotation, RotationName, |rotation| rotation.to_string();
    Principal: Principal, PrincipalId, |principal| format!("principals/{principal}");
    Account: Account, AccountId, |account| format!("accounts/{account}");
    LoginCredential: LoginCredential, CredentialId, |credential| format!("credentials/{credential}");
    Otp: Otp, AccountId, |account| format!("accounts/{account}/otp");
    Ticket: Ticket, TicketId, |ticket| format!("tickets/{ticket}");
    EndedAssertion: EndedAssertion, AssertionId, |assertion| format!("assertions/{assertion}");
    ProposedAct: Act, ProposalId, |act| format!("acts/{act}");
    Roster: Roster, RosterVersion, |version| format!("rosters/{version}");
    Ceremony: Ceremony, CeremonyId, |ceremony| format!("ceremonies/{ceremony}");
    Escrow: Escrow, RootGeneration, |generation| format!("roots/{generation}/escrow");
    KekEscrow: KekEscrow, (TenantId, KekVersion), |(tenant, version)| format!("tenants/{tenant}/kekVersions/{version}/escrow");
    Erasure: Erasure, ErasureGeneration, |generation| format!("erasure-keys/{generation}");
    Export: Export, ExportId, |export| format!("exports/{export}");
    RunningRotation: RunningRotation, TenantId, |tenant| format!("tenants/{tenant}/running-rotation");
    Tombstone: Tombstone, Buried, |buried| format!("tombstone of {}", describe(&buried.0));
    Lease: SchedulerLease, (), |()| "scheduler-lease".into();
    ClockMark: ClockMark, (), |()| "clock-mark".into();
    DekUses: DekUses, VersionName, |version| format!("{version}/uses");
    Due: Agenda, (Date, Task), |(date, task)| format!("agenda/{}: {task}", date.millis());
    SystemKey: SystemKey, (SigningPurpose, SigningGeneration), |(purpose, generation)| format!("system-keys/{}/{generation}", purpose.as_str());
}

fn describe_other(key: &[u8]) -> String {
    match key {
        [byte] if *byte == Table::Meta.byte() => "meta".into(),
        [byte, level, high, low] if *byte == Table::Digest.byte() => {
            format!("{level}/{}", u16::from_be_bytes([*high, *low]))
        }
        _ => format!("{key:02x?}"),
    }
}

macro_rules! identifier_path {
    ($($type:ty)*) => {
        $(impl PathId for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_str().as_bytes());
                out.push(0);
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                let end = rest.iter().position(|byte| *byte == 0)?;
                let (text, tail) = rest.split_at(end);
                *rest = tail.get(1..)?;
                Self::new(std::str::from_utf8(text).ok()?).ok()
            }
        })*
    };
}
identifier_path!(AccountId TenantId KeyId FieldId PrincipalId);

macro_rules! number_path {
    ($($type:ty)*) => {
        $(impl PathId for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.get().to_be_bytes());
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                let (number, tail) = rest.split_first_chunk()?;
                *rest = tail;
                Self::new(u32::from_be_bytes(*number))
            }
        })*
    };
}
number_path!(Epoch ErasureGeneration KekVersion RootGeneration IndexVersion RosterVersion SigningGeneration);

impl PathId for SigningPurpose {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        Self::ALL.into_iter().find(|purpose| *purpose as u8 == *byte)
    }
}

macro_rules! random_path {
    ($($type:ty)*) => {
        $(impl PathId for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0);
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                let (id, tail) = rest.split_first_chunk()?;
                *rest = tail;
                Some(Self(*id))
            }
        })*
    };
}
random_path!(AssertionId CeremonyId CredentialId DekId ExportId ProposalId TicketId);

impl PathId for () {
    fn put(&self, _: &mut Vec<u8>) {}

    fn take(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

macro_rules! struct_path {
    ($type:ty { $($field:ident),* }) => {
        impl PathId for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: PathId::take(rest)?),* })
            }
        }
    };
}
struct_path!(KeyName { tenant, key });
struct_path!(VersionName { key, epoch });
struct_path!(RotationName { tenant, to });

macro_rules! tuple_path {
    ($($name:ident),*) => {
        impl<$($name: PathId),*> PathId for ($($name,)*) {
            #[allow(non_snake_case, reason = "the type parameters name the fields")]
            fn put(&self, out: &mut Vec<u8>) {
                let ($($name,)*) = self;
                $($name.put(out);)*
            }

            fn take(rest: &mut &[u8]) -> Option<Self> {
                Some(($($name::take(rest)?,)*))
            }
        }
    };
}
tuple_path!(A, B);
tuple_path!(A, B, C);

/// The key of the record that a tombstone stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Buried(Vec<u8>);

impl Buried {
    /// The key: table byte and path.
    pub fn key(&self) -> &[u8] {
        &self.0
    }

    /// Which DEK it is the record of, if it is one's.
    pub fn dek(&self) -> Option<(KeyName, DekId)> {
        Path::<Dek>::parse(&self.0).map(|path| path.id)
    }

    /// Whether it is the record of a KEK version.
    pub fn is_kek(&self) -> bool {
        Path::<KekRecord>::parse(&self.0).is_some()
    }

    /// Whether it was the escrow of a resident KEK.
    pub fn is_kek_escrow(&self) -> bool {
        Path::<KekEscrow>::parse(&self.0).is_some()
    }

    /// The name of the record, for people.
    pub fn describe(&self) -> String {
        describe(&self.0)
    }
}

impl PathId for Buried {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let key = std::mem::take(rest);
        // Only wrapped keys are buried. Their paths have one spelling, and none is a prefix of another.
        let known = Path::<Dek>::parse(key).is_some()
            || Path::<IndexKey>::parse(key).is_some()
            || Path::<KekRecord>::parse(key).is_some()
            || Path::<KekEscrow>::parse(key).is_some();
        known.then(|| Self(key.to_vec()))
    }
}

impl PathId for Date {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.millis().to_be_bytes());
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (millis, tail) = rest.split_first_chunk()?;
        *rest = tail;
        Some(Self(u64::from_be_bytes(*millis)))
    }
}

/// A byte for the kind, and the path of what it is about.
impl PathId for Task {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::RotateKey(_) => 1,
            Self::RotateTenant(_) => 2,
            Self::Activate(_) => 3,
            Self::DestroyVersion(_) => 4,
            Self::DestroyKey(_) => 5,
            Self::DestroyTenant(_) => 6,
            Self::DestroyKek(..) => 7,
        });
        match self {
            Self::RotateKey(key) | Self::DestroyKey(key) => key.put(out),
            Self::RotateTenant(tenant) | Self::DestroyTenant(tenant) => tenant.put(out),
            Self::Activate(version) | Self::DestroyVersion(version) => version.put(out),
            Self::DestroyKek(tenant, version) => {
                tenant.put(out);
                version.put(out);
            }
        }
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (kind, tail) = rest.split_first()?;
        *rest = tail;
        match kind {
            1 => Some(Self::RotateKey(PathId::take(rest)?)),
            2 => Some(Self::RotateTenant(PathId::take(rest)?)),
            3 => Some(Self::Activate(PathId::take(rest)?)),
            4 => Some(Self::DestroyVersion(PathId::take(rest)?)),
            5 => Some(Self::DestroyKey(PathId::take(rest)?)),
            6 => Some(Self::DestroyTenant(PathId::take(rest)?)),
            7 => Some(Self::DestroyKek(PathId::take(rest)?, PathId::take(rest)?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenants() -> impl Strategy<Value = TenantId> {
        "[a-z0-9][a-z0-9_-]{0,5}".prop_map(|text| TenantId::new(&text).unwrap())
    }

    fn key_names() -> impl Strategy<Value = KeyName> {
        (tenants(), "[a-z0-9][a-z0-9_-]{0,5}")
            .prop_map(|(tenant, key)| KeyName { tenant, key: KeyId::new(&key).unwrap() })
    }

    proptest! {
        #[test]
        fn keys_read_back_and_sort_like_names(a in key_names(), b in key_names(), m in 1u32.., n in 1u32..) {
            let a = version(&a, Epoch::new(m).unwrap());
            let b = version(&b, Epoch::new(n).unwrap());
            prop_assert_eq!(Path::parse(&a.key()), Some(a.clone()));
            prop_assert_eq!(a.id.cmp(&b.id), a.key().cmp(&b.key()));
            prop_assert!(a == b || !a.key().starts_with(&b.key()));
        }

        #[test]
        fn what_is_due_first_stands_first(a in key_names(), b in key_names(), m in any::<u64>(), n in any::<u64>()) {
            let (first, second) = (due(Date(m), &Task::RotateKey(a.clone())), due(Date(n), &Task::DestroyKey(b)));
            prop_assert_eq!(Path::parse(&first.key()), Some(first.clone()));
            prop_assert_eq!(m.cmp(&n).then(std::cmp::Ordering::Less), first.key().cmp(&second.key()));
            let kek = tombstone(&kek(&a.tenant, KekVersion::FIRST));
            prop_assert_eq!(Path::parse(&kek.key()), Some(kek));
        }

        #[test]
        fn a_prefix_has_its_own_and_no_others(a in key_names(), b in key_names(), id in any::<[u8; 16]>()) {
            let path = dek(&b, DekId(id));
            prop_assert_eq!(Path::parse(&path.key()), Some(path.clone()));
            prop_assert_eq!(path.key().starts_with(deks(&a).as_bytes()), a == b);
            prop_assert_eq!(path.key().starts_with(deks_of(&a.tenant).as_bytes()), a.tenant == b.tenant);
        }
    }

    #[test]
    fn only_the_canonical_spelling_is_read() {
        let mut key = tenant(&TenantId::new("acme").unwrap()).key();
        assert!(Path::<Tenant>::parse(&key).is_some());
        assert!(Path::<Key>::parse(&key).is_none());
        assert!(Path::<Tenant>::parse(&key[..key.len() - 1]).is_none());
        key.push(0);
        assert!(Path::<Tenant>::parse(&key).is_none());
        assert!(Path::<Root>::parse(&[1, 0, 0, 0, 0]).is_none());
        assert!(Path::<Tenant>::parse(b"\x03Acme\0").is_none());
    }

    #[test]
    fn records_have_names_for_people() {
        let key_name = KeyName::parse("tenants/acme/keys/pii").unwrap();
        let field = FieldId::new("phone").unwrap();
        let two = IndexVersion::new(2).unwrap();
        assert_eq!(
            describe(&index_key(&key_name, &field, two).key()),
            "tenants/acme/keys/pii/fields/phone/versions/2"
        );
        assert_eq!(describe(&system_secret().key()), "system-secret");
        let audit = system_key(SigningPurpose::Audit, SigningGeneration::FIRST);
        assert_eq!(
            (audit.key(), describe(&audit.key())),
            (vec![18, 1, 0, 0, 0, 1], "system-keys/audit/1".into())
        );
        assert_eq!(Path::<SystemKey>::parse(&[18, 9, 0, 0, 0, 1]), None);
        assert_eq!(describe(&[0xf0, 3, 1, 2]), "3/258");
        assert_eq!(describe(&[0xf1]), "meta");
        assert_eq!(describe(&[3, 0xff]), "[03, ff]");
    }

    #[test]
    fn bytes_name_tables() {
        for table in Table::ALL {
            assert_eq!(Table::from_byte(table.byte()), Some(table));
        }
        assert_eq!(Table::from_byte(0), None);
        assert!(Table::Principal.covered() && !Table::Dek.covered() && !Table::Meta.covered());
    }
}
