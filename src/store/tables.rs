//! Which record lives where: tables, typed paths and the bytes of their keys.
//!
//! A key is `table byte | path`. Path components are joined so that no path is
//! a prefix of another and keys sort like the names: an identifier ends with a
//! zero byte (identifiers have none inside), numbers are u32 big-endian, a DEK
//! id has its 16 bytes.

use std::fmt;
use std::marker::PhantomData;

mod buried;
mod names;
mod spelling;

pub use buried::Buried;
pub use names::*;

use minicbor::{Decode, Encode};

use crate::clock::{Date, Day};
use crate::id::{
    AccountId, AssertionId, CeremonyId, DekId, ErasureGeneration, ExportId, FieldId, IndexVersion,
    KekVersion, KeyName, PrincipalId, ProposalId, RootGeneration, RosterVersion, RotationName,
    SigningGeneration, TenantId, TenantName, TicketId, VersionName,
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
    /// The lease as it stood before format 3, where the digest does not cover it; nobody reads it.
    OldLease = 16,
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
    /// Fields that have blind index keys.
    IndexField = 30,
    /// How many lines the agenda has for a day.
    AgendaDay = 31,
    /// Which daemon runs what is due.
    Lease = 32,
    /// Nodes of the digest's hash tree.
    Digest = 0xf0,
    /// The one row that says what the store holds.
    Meta = 0xf1,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 34] = [
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
        Self::OldLease,
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
        Self::IndexField,
        Self::AgendaDay,
        Self::Lease,
        Self::Digest,
        Self::Meta,
    ];

    /// The first byte of its keys.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The table of a key's first byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.byte() == byte)
    }

    /// Whether the table holds records, not the store's own rows.
    pub const fn holds_records(self) -> bool {
        !matches!(self, Self::Digest | Self::Meta)
    }

    /// Whether the digest covers its records. Wrapped DEKs and index keys are
    /// moved by the thousand in a rotation and are not: each has its MAC, and a
    /// covered record says that it must exist. Of the old lease nobody reads anything.
    pub const fn covered(self) -> bool {
        self.holds_records() && !matches!(self, Self::Dek | Self::IndexKey | Self::OldLease)
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
            Self::OldLease => "old lease",
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
            Self::IndexField => "index field",
            Self::AgendaDay => "agenda day",
            Self::Lease => "scheduler lease",
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

/// Neighbouring records of type `T`: from a key on, and up to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span<T: Record> {
    /// Below all of them, and below nothing else of the table.
    pub(super) from: Vec<u8>,
    /// Above all of them.
    pub(super) to: Vec<u8>,
    of: PhantomData<fn() -> T>,
}

impl<T: Record> Span<T> {
    fn new(from: impl FnOnce(&mut Vec<u8>), to: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut span = Self { from: vec![T::TABLE.byte()], to: vec![T::TABLE.byte()], of: PhantomData };
        from(&mut span.from);
        to(&mut span.to);
        span
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
    Field: IndexField, (KeyName, FieldId), |(key, field)| format!("{key}/fields/{field}");
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
    Tombstone: Tombstone, Buried, |buried| format!("tombstone of {}", buried.describe());
    Lease: Lease, (), |()| "scheduler-lease".into();
    ClockMark: ClockMark, (), |()| "clock-mark".into();
    DekUses: DekUses, VersionName, |version| format!("{version}/uses");
    DueDay: AgendaDay, Day, |day| format!("agenda-days/{}", day.0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, KeyId};
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
        let path = index_field(&key_name, &field);
        assert_eq!(
            (path.key(), describe(&path.key())),
            (b"\x1eacme\0pii\0phone\0".to_vec(), "tenants/acme/keys/pii/fields/phone".into())
        );
        assert!(path.key().starts_with(index_fields(&key_name).as_bytes()));
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

    /// The table of rows in docs/store.md is the one that this program has.
    #[test]
    fn the_documentation_has_every_table_as_it_is() {
        let text = include_str!("../../docs/store.md");
        let (_, rows) =
            text.split_once("| byte | table | path | covered | sealed |\n|---|---|---|---|---|\n").unwrap();
        let said: Vec<Vec<&str>> = rows
            .lines()
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let yes = |is: bool| if is { "yes" } else { "no" };
        let mut tables = Table::ALL;
        tables.sort();
        assert_eq!(said.len(), tables.len());
        for (cells, table) in said.iter().zip(tables) {
            let byte =
                if table.holds_records() { table.byte().to_string() } else { format!("{:x}", table.byte()) };
            let is = [byte.as_str(), table.as_str(), cells[2], yes(table.covered()), yes(table.sealed())];
            assert_eq!(cells[..], is, "docs/store.md and {table}");
        }
    }

    #[test]
    fn bytes_name_tables() {
        for table in Table::ALL {
            assert_eq!(Table::from_byte(table.byte()), Some(table));
        }
        assert_eq!(Table::from_byte(0), None);
        assert!(
            Table::Principal.covered()
                && Table::IndexField.covered()
                && !Table::Dek.covered()
                && !Table::Meta.covered()
        );
    }
}
