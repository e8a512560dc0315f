//! The records of the hierarchy: root → KEK versions → DEKs and index keys.
//!
//! Field numbers are the on-disk format: never reuse one. A new field is an
//! `Option`, so that an old record still reads.

use minicbor::{Decode, Encode};

use super::schedule::{Destruction, Schedule};
use super::signing::{Signature, SigningKey};
use super::state::{DataClass, KeyState};
use super::wrapped::{Canary, SealedKey, WrappedKek};
use crate::clock::Date;
use crate::id::{
    CustodianId, DekId, DeploymentId, Epoch, FieldId, IndexVersion, KekVersion, KeyId, RootGeneration, RootId,
};

/// Who holds the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Custody {
    /// Made by `keyward init`; one operator holds the backup key.
    #[n(1)]
    Unfounded,
    /// Made by a founding ceremony; the backup key is split among custodians.
    #[n(2)]
    Founded,
}

/// One generation of the HSM root key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Root {
    /// Its CKA_ID on the token.
    #[n(1)]
    pub id: RootId,
    /// Its generation.
    #[n(2)]
    pub generation: RootGeneration,
    /// The installation that it belongs to.
    #[n(3)]
    pub deployment: DeploymentId,
    /// Who holds it.
    #[n(4)]
    pub custody: Custody,
    /// The root itself, wrapped at birth under a one-time backup key.
    #[n(5)]
    pub escrow: WrappedKek,
    /// Proves that a token has this root.
    #[n(6)]
    pub canary: Canary,
    /// Serial number of the token it was born on, for people.
    #[n(7)]
    pub token_serial: String,
    /// Label of that token, for people.
    #[n(8)]
    pub token_label: String,
    /// When it was made.
    #[n(9)]
    pub created: Date,
    /// Whether it is in force; the earliest records, which are, do not say.
    #[n(10)]
    pub state: Option<RootState>,
}

/// What a generation of the root is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum RootState {
    /// New KEKs are wrapped under it.
    #[n(1)]
    Active,
    /// A newer generation is in force; what is under this one is being moved.
    #[n(2)]
    Retired,
    /// Gone from every token.
    #[n(3)]
    Destroyed,
}

/// The daemon's own secret, from which the record and journal MAC keys are
/// derived; sealed under a KEK of its own.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SystemSecret {
    /// The root that wraps the KEK.
    #[n(1)]
    pub root: RootId,
    /// The KEK, used for nothing else.
    #[n(2)]
    pub kek: WrappedKek,
    /// The sealed secret.
    #[n(3)]
    pub sealed: SealedKey,
}

/// What a signing key of the daemon is for. The number is part of a path: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SigningPurpose {
    /// Checkpoints of the audit log and the documents that rest on it. One key
    /// for both: whoever trusts one needs the other, and their texts cannot be
    /// taken for each other.
    Audit = 1,
    /// Login assertions (RFC 7519).
    Login = 2,
}

impl SigningPurpose {
    /// Every purpose.
    pub const ALL: [Self; 2] = [Self::Audit, Self::Login];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Login => "login",
        }
    }
}

/// One generation of a signing key of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SystemKey {
    /// The key.
    #[n(1)]
    pub key: SigningKey,
    /// When it was made.
    #[n(2)]
    pub created: Date,
    /// The word of the generation before it for this one; absent for the
    /// first, and where that one could not sign any more.
    #[n(3)]
    pub handover: Option<Signature>,
}

/// One generation of the erasure key: the secret under which the store seals the
/// rows of wrapped keys once more.
///
/// The secret is sealed under a KEK that an *erasure root* wraps: a token object
/// that is in no escrow and no export. Once it is destroyed, no copy of these
/// rows from before can be read.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Erasure {
    /// The token object that wraps the KEK.
    #[n(1)]
    pub root: RootId,
    /// The KEK, used for nothing else; gone with the root.
    #[n(2)]
    pub kek: Option<WrappedKek>,
    /// The sealed secret; gone with the root.
    #[n(3)]
    pub sealed: Option<SealedKey>,
    /// When it was made.
    #[n(4)]
    pub created: Date,
    /// What it is good for.
    #[n(5)]
    pub state: ErasureState,
    /// While it takes over: the last row that was sealed anew. The next one is where
    /// that goes on after a restart.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub resealed_to: Option<Vec<u8>>,
    /// When its token object was proved to be gone from every token.
    #[n(7)]
    pub destroyed: Option<Date>,
}

/// What a generation of the erasure key is good for. The newest that was born is taking over or
/// current; of those before it, one at most is not destroyed, unless a restore has found more on the tokens.
/// Numbers are given out in the order of the records, so one that was forgotten has a number too, and is newest
/// of nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum ErasureState {
    /// It seals every new row; the rows from before it are being sealed anew.
    #[n(1)]
    TakingOver,
    /// Every row of store and journal is sealed under it.
    #[n(2)]
    Current,
    /// It opens the rows that were not sealed anew yet.
    #[n(3)]
    Retiring,
    /// No row of store and journal is sealed under it; its token object is to be destroyed.
    #[n(4)]
    Unused,
    /// Its token object is gone from every token.
    #[n(5)]
    Destroyed,
    /// It is written down before its token object is made. What stands like this later was cut short in its
    /// birth: nothing was ever sealed under it, and its token object, if there is one, is to be destroyed.
    #[n(6)]
    Unborn,
    /// It was none of this store's: its token object stood on the tokens in no record, and people had it
    /// destroyed. Until the date in `destroyed` stands there, that is to be done.
    #[n(7)]
    Forgotten,
}

impl Erasure {
    /// Whether it is or was a generation of the key: something may have been sealed under it in this store.
    pub fn is_generation(&self) -> bool {
        !matches!(self.state, ErasureState::Unborn | ErasureState::Forgotten)
    }

    /// Whether its token object may still be needed, or is being made: nothing else may destroy it.
    pub fn needs_root(&self) -> bool {
        match self.state {
            ErasureState::TakingOver
            | ErasureState::Current
            | ErasureState::Retiring
            | ErasureState::Unborn => true,
            ErasureState::Unused | ErasureState::Destroyed | ErasureState::Forgotten => false,
        }
    }

    /// Whether this record says that its token object is to be destroyed, whatever others say.
    pub fn condemns_root(&self) -> bool {
        match self.state {
            ErasureState::Unused => true,
            ErasureState::Forgotten => self.destroyed.is_none(),
            ErasureState::TakingOver
            | ErasureState::Current
            | ErasureState::Retiring
            | ErasureState::Destroyed
            | ErasureState::Unborn => false,
        }
    }
}

/// A copy of the records that does not die with the erasure key: a recovery
/// export, or the copy that a migration left.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Export {
    /// What it is.
    #[n(1)]
    pub kind: ExportKind,
    /// When it was made.
    #[n(2)]
    pub created: Date,
    /// When whoever keeps it must have deleted it.
    #[n(3)]
    pub delete_by: Date,
    /// The store revision that it holds.
    #[n(4)]
    pub revision: u64,
    /// The root that opens it.
    #[n(5)]
    pub root: RootId,
    /// The newest revision that it holds, once that is known: it is on record before the store is copied.
    #[n(6)]
    pub holds: Option<u64>,
}

/// What kind of copy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum ExportKind {
    /// Made by `keyward backup create`.
    #[n(1)]
    Recovery,
    /// The store as it was before a migration to a newer format, beside the store.
    #[n(2)]
    Migration,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Tenant {
    /// Nothing works for a frozen tenant.
    #[n(1)]
    pub frozen: bool,
    /// The KEK version that seals new keys.
    #[n(2)]
    pub primary_kek: KekVersion,
    /// How many keys it has, so that a vanished one is missed.
    #[n(3)]
    pub keys: u32,
    /// When it was made.
    #[n(4)]
    pub created: Date,
    /// A name for people.
    #[n(5)]
    pub display_name: Option<String>,
    /// The rotation that is running, named by the KEK version that it makes.
    #[n(6)]
    pub rotating_to: Option<KekVersion>,
    /// When its KEK is rotated without being asked.
    #[n(7)]
    pub schedule: Option<Schedule>,
    /// Its destruction, planned or done.
    #[n(8)]
    pub destruction: Option<Destruction>,
    /// Whether its primary KEK version is in the HSM.
    #[n(9)]
    pub resident: Option<bool>,
    /// The newest revision of the store without it: no copy up to there holds it, whatever the clock said. Absent where an
    /// earlier version has made it.
    #[n(10)]
    pub since: Option<u64>,
}

impl Tenant {
    /// Every KEK version that it has had: they are given out one after the other.
    pub fn kek_versions(&self) -> impl Iterator<Item = KekVersion> + use<> {
        let newest = self.primary_kek;
        let all = std::iter::successors(Some(KekVersion::FIRST), |version| version.next());
        all.take_while(move |version| *version <= newest)
    }

    /// A new tenant without keys.
    pub fn new(created: Date, display_name: Option<String>) -> Self {
        Self {
            frozen: false,
            primary_kek: KekVersion::FIRST,
            keys: 0,
            created,
            display_name,
            rotating_to: None,
            schedule: None,
            destruction: None,
            resident: None,
            since: None,
        }
    }

    /// Active, scheduled for destruction, or destroyed.
    pub fn state(&self) -> KeyState {
        match &self.destruction {
            None => KeyState::Active,
            Some(Destruction { begun: None, .. }) => KeyState::Scheduled,
            Some(_) => KeyState::Destroyed,
        }
    }
}

/// One version of a tenant's KEK.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KekRecord {
    /// The root that wraps it; of a resident one, its own CKA_ID on the tokens.
    #[n(1)]
    pub root: RootId,
    /// The wrapped key; of a resident one, its escrow under a one-time backup key.
    #[n(2)]
    pub wrapped: WrappedKek,
    /// What it may do: a decrypt-only KEK seals nothing new.
    #[n(3)]
    pub state: KeyState,
    /// GCM encryptions reserved so far. An upper bound of those done.
    #[n(4)]
    pub uses_reserved: u64,
    /// When it was made.
    #[n(5)]
    pub created: Date,
    /// Its destruction, while that is planned; a destroyed one has a tombstone in place of this record.
    #[n(6)]
    pub destruction: Option<Destruction>,
    /// Of a resident one, which is a token object of its own: what proves that a token has it.
    #[n(7)]
    pub resident: Option<Canary>,
}

/// A named key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Key {
    /// How sensitive its data is.
    #[n(1)]
    pub data_class: DataClass,
    /// What it may do.
    #[n(2)]
    pub state: KeyState,
    /// Nothing works for a frozen key.
    #[n(3)]
    pub frozen: bool,
    /// The epoch that encrypts.
    #[n(4)]
    pub primary: Epoch,
    /// When it was made.
    #[n(5)]
    pub created: Date,
    /// Fields that have a blind index key, with the primary version of each: those from before a field had a
    /// record of its own. None is added, and one leaves when its key is replaced.
    #[n(6)]
    pub fields: Vec<IndexField>,
    /// When a new version is opened without being asked.
    #[n(7)]
    pub schedule: Option<Schedule>,
    /// The newest epoch, when that is not the primary one: it is pre-active, or was destroyed before it
    /// was ever used. Epochs are `1..=newest`, without gaps.
    #[n(8)]
    pub newest: Option<Epoch>,
    /// Epochs before this one no longer decrypt.
    #[n(9)]
    pub min_version: Option<Epoch>,
    /// Its destruction, planned or done.
    #[n(10)]
    pub destruction: Option<Destruction>,
    /// How many of its epochs are destroyed.
    #[n(11)]
    pub destroyed: Option<u32>,
    /// Whether an application may work with it only for a staff member; absent when it may by itself.
    #[n(12)]
    pub staff_required: Option<bool>,
    /// How many fields with a record of their own it has; absent when none.
    #[n(13)]
    pub indexes: Option<Indexes>,
    /// The newest revision of the store without it: no copy up to there holds it, whatever the clock said. Absent where an
    /// earlier version has made it.
    #[n(14)]
    pub since: Option<u64>,
}

/// What the records of a key's fields must add up to, so that one that vanished is missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Indexes {
    /// How many there are.
    #[n(1)]
    pub fields: u32,
    /// Versions of index keys, of all of them together.
    #[n(2)]
    pub keys: u32,
}

impl Key {
    /// Whether an application may work with it only for a staff member.
    pub fn staff_required(&self) -> bool {
        self.staff_required == Some(true)
    }

    /// A new key with its first version.
    pub fn new(data_class: DataClass, created: Date) -> Self {
        Self {
            data_class,
            state: KeyState::Active,
            frozen: false,
            primary: Epoch::FIRST,
            created,
            fields: Vec::new(),
            schedule: None,
            newest: None,
            min_version: None,
            destruction: None,
            destroyed: None,
            staff_required: None,
            indexes: None,
            since: None,
        }
    }

    /// Puts a version of a field's index key on record: the first one, or the one after `previous`. Answers the
    /// field's record; `None` when there are too many to count.
    pub fn add_index_key(
        &mut self,
        field: &FieldId,
        previous: Option<IndexVersion>,
        now: Date,
    ) -> Option<Field> {
        let primary = previous.map_or(Some(IndexVersion::FIRST), IndexVersion::next)?;
        let Indexes { fields, keys } = self.indexes.unwrap_or_default();
        let counted = match previous {
            // It had its place in this record until now.
            Some(_) if self.has_field(field) => {
                Indexes { fields: fields.checked_add(1)?, keys: keys.checked_add(primary.get())? }
            }
            Some(_) => Indexes { fields, keys: keys.checked_add(1)? },
            None => Indexes { fields: fields.checked_add(1)?, keys: keys.checked_add(1)? },
        };
        self.fields.retain(|known| known.field != *field);
        self.indexes = Some(counted);
        Some(Field { primary, changed: now })
    }

    /// Whether a field has its place in this record, not one of its own.
    pub fn has_field(&self, field: &FieldId) -> bool {
        self.fields.iter().any(|known| known.field == *field)
    }

    /// How many fields have a blind index.
    pub fn index_fields(&self) -> usize {
        let own = usize::try_from(self.indexes.unwrap_or_default().fields).unwrap_or(usize::MAX);
        self.fields.len().saturating_add(own)
    }

    /// How many index keys it has: every version of each field's.
    pub fn index_keys(&self) -> u64 {
        let inside = self.fields.iter().map(|field| u64::from(field.primary.get())).sum::<u64>();
        inside + u64::from(self.indexes.unwrap_or_default().keys)
    }

    /// The newest epoch.
    pub fn newest(&self) -> Epoch {
        self.newest.unwrap_or(self.primary)
    }

    /// All epochs, newest first.
    pub fn epochs(&self) -> impl Iterator<Item = Epoch> + use<> {
        std::iter::successors(Some(self.newest()), |epoch| epoch.previous())
    }
}

/// The blind index of one field, in a record of its own.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Field {
    /// The version that indexes. Versions are `1..=primary`, without gaps.
    #[n(1)]
    pub primary: IndexVersion,
    /// When that version was made.
    #[n(2)]
    pub changed: Date,
}

/// The blind index of one field, in the record of its key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IndexField {
    /// The field.
    #[n(1)]
    pub field: FieldId,
    /// The version that indexes. Versions are `1..=primary`, without gaps.
    #[n(2)]
    pub primary: IndexVersion,
}

/// The state of one DEK epoch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Version {
    /// Its DEK.
    #[n(1)]
    pub dek: DekId,
    /// What it may do.
    #[n(2)]
    pub state: KeyState,
    /// When it was made.
    #[n(3)]
    pub created: Date,
    /// When a pre-active version becomes the primary one.
    #[n(4)]
    pub activates: Option<Date>,
    /// Its destruction, planned or done.
    #[n(5)]
    pub destruction: Option<Destruction>,
    /// The newest revision of the store without it: no copy up to there holds it, whatever the clock said. Absent where an
    /// earlier version has made it.
    #[n(6)]
    pub since: Option<u64>,
}

impl Version {
    /// A new version that is in use.
    pub fn new(dek: DekId, created: Date) -> Self {
        Self { dek, state: KeyState::Active, created, activates: None, destruction: None, since: None }
    }
}

/// The algorithms of a DEK; a ciphertext suite outside the family is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum SuiteFamily {
    /// AES-256-GCM and HKDF-SHA-256.
    #[n(1)]
    AesSha2,
}

/// A wrapped DEK.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Dek {
    /// Its epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// The KEK version that seals it.
    #[n(2)]
    pub kek: KekVersion,
    /// The sealed key.
    #[n(3)]
    pub sealed: SealedKey,
    /// Its algorithms.
    #[n(4)]
    pub family: SuiteFamily,
}

/// A wrapped blind index key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IndexKey {
    /// The KEK version that seals it.
    #[n(1)]
    pub kek: KekVersion,
    /// The sealed key.
    #[n(2)]
    pub sealed: SealedKey,
    /// When it was made.
    #[n(3)]
    pub created: Date,
}

/// A rotation of a tenant: running, or done.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rotation {
    /// The KEK version that was primary before.
    #[n(1)]
    pub from: KekVersion,
    /// Keys moved so far.
    #[n(2)]
    pub done: u64,
    /// Keys to move in all.
    #[n(3)]
    pub total: u64,
    /// The last named key that is finished; the next one is where it resumes.
    #[n(4)]
    pub finished_key: Option<KeyId>,
    /// When it began.
    #[n(5)]
    pub created: Date,
    /// When it ended.
    #[n(6)]
    pub finished: Option<Date>,
}

/// Marks a tenant whose rotation is not finished, so that a start finds it without a search.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RunningRotation {
    /// The KEK version that the rotation makes.
    #[n(1)]
    pub to: KekVersion,
}

/// A principal that was frozen.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Principal {
    /// Nothing works for a frozen principal.
    #[n(1)]
    pub frozen: bool,
    /// Why.
    #[n(2)]
    pub reason: String,
    /// Since when.
    #[n(3)]
    pub changed: Date,
}

macro_rules! identifier_codec {
    ($type:ty) => {
        impl<C> Encode<C> for $type {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(self.as_str())?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $type {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                Self::new(d.str()?).map_err(minicbor::decode::Error::custom)
            }
        }
    };
}
identifier_codec!(CustodianId);
identifier_codec!(crate::id::AccountId);
identifier_codec!(crate::id::PrincipalId);
identifier_codec!(crate::id::TokenName);
identifier_codec!(FieldId);
identifier_codec!(KeyId);
identifier_codec!(crate::id::TenantId);

impl<C> Encode<C> for crate::id::KeyName {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.to_string())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for crate::id::KeyName {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::parse(d.str()?).map_err(minicbor::decode::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str) -> FieldId {
        FieldId::new(name).unwrap()
    }

    #[test]
    fn fields_leave_the_record_when_their_keys_are_replaced() {
        let mut key = Key::new(DataClass::Sensitive, Date(1));
        assert_eq!((key.index_fields(), key.index_keys()), (0, 0));
        let three = IndexVersion::new(3).unwrap();
        key.fields = vec![
            IndexField { field: field("old"), primary: three },
            IndexField { field: field("other"), primary: IndexVersion::FIRST },
        ];
        assert_eq!((key.index_fields(), key.index_keys()), (2, 4));

        let made = key.add_index_key(&field("new"), None, Date(2)).unwrap();
        assert_eq!((made.primary, key.index_fields(), key.index_keys()), (IndexVersion::FIRST, 3, 5));
        assert_eq!(key.indexes, Some(Indexes { fields: 1, keys: 1 }));

        let replaced = key.add_index_key(&field("old"), Some(three), Date(3)).unwrap();
        assert_eq!((replaced.primary.get(), key.index_fields(), key.index_keys()), (4, 3, 6));
        assert!(!key.has_field(&field("old")) && key.has_field(&field("other")));
        assert_eq!(key.indexes, Some(Indexes { fields: 2, keys: 5 }));

        key.add_index_key(&field("old"), Some(replaced.primary), Date(4)).unwrap();
        assert_eq!((key.index_fields(), key.index_keys()), (3, 7));
    }

    #[test]
    fn a_key_from_before_fields_had_records_reads_and_writes_the_same() {
        let mut key = Key::new(DataClass::Sensitive, Date(1));
        key.fields = vec![IndexField { field: field("phone"), primary: IndexVersion::FIRST }];
        let bytes = minicbor::to_vec(&key).unwrap();
        // Key 13 of the map is left out.
        assert!(!bytes.contains(&13));
        assert_eq!(minicbor::decode::<Key>(&bytes).unwrap(), key);
    }
}
