//! Which record lives where: tables, typed paths and the bytes of their keys.
//!
//! A key is `table byte | path`. Path components are joined so that no path is
//! a prefix of another and keys sort like the names: an identifier ends with a
//! zero byte (identifiers have none inside), numbers are u32 big-endian, a DEK
//! id has its 16 bytes.

use std::fmt;
use std::marker::PhantomData;

use minicbor::{Decode, Encode};

use crate::id::{
    CeremonyId, DekId, Epoch, ErasureGeneration, ExportId, FieldId, IndexVersion, KekVersion, KeyId, KeyName,
    PrincipalId, RootGeneration, RosterVersion, RotationName, SigningGeneration, TenantId, TenantName,
    VersionName,
};
use crate::keyring::ceremony::Ceremony;
use crate::keyring::escrow::Escrow;
use crate::keyring::record::{
    Dek, Erasure, Export, IndexKey, KekRecord, Key, Principal, Root, Rotation, RunningRotation,
    SigningPurpose, SystemKey, SystemSecret, Tenant, Version,
};
use crate::keyring::roster::Roster;

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
    /// Signing keys of the daemon.
    SystemKey = 18,
    /// Generations of the erasure key.
    Erasure = 19,
    /// Copies that do not die with the erasure key.
    Export = 21,
    /// Nodes of the digest's hash tree.
    Digest = 0xf0,
    /// The one row that says what the store holds.
    Meta = 0xf1,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 19] = [
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
        Self::SystemKey,
        Self::Erasure,
        Self::Export,
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
    /// covered record says that it must exist.
    pub fn covered(self) -> bool {
        self.holds_records() && !matches!(self, Self::Dek | Self::IndexKey)
    }

    /// Whether its records hold wrapped keys, which are sealed once more under the erasure key.
    pub fn sealed(self) -> bool {
        matches!(self, Self::Kek | Self::Dek | Self::IndexKey)
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
            Self::SystemKey => "system key",
            Self::Erasure => "erasure key",
            Self::Export => "export",
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

/// The path of the escrow of one generation of the root.
pub fn escrow(generation: RootGeneration) -> Path<Escrow> {
    Path::new(generation)
}

/// All KEK versions of a tenant.
pub fn keks(tenant: &TenantId) -> Prefix<KekRecord> {
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
    Roster: Roster, RosterVersion, |version| format!("rosters/{version}");
    Ceremony: Ceremony, CeremonyId, |ceremony| format!("ceremonies/{ceremony}");
    Escrow: Escrow, RootGeneration, |generation| format!("roots/{generation}/escrow");
    Erasure: Erasure, ErasureGeneration, |generation| format!("erasure-keys/{generation}");
    Export: Export, ExportId, |export| format!("exports/{export}");
    RunningRotation: RunningRotation, TenantId, |tenant| format!("tenants/{tenant}/running-rotation");
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
identifier_path!(TenantId KeyId FieldId PrincipalId);

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
        [Self::Audit].into_iter().find(|purpose| *purpose as u8 == *byte)
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
random_path!(CeremonyId DekId ExportId);

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
