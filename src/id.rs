//! Identities: one newtype each, checked when it is made.

use std::fmt;
use std::sync::Arc;

pub mod resource;
pub mod token;

pub use resource::{DestroyTarget, Destroyable, Freezable, Installation, RecordNumber};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The identifier breaks the rule for tenant, key and field names.
    #[error(
        "{0:?} is not a valid {1}: use 1 to 63 lower-case letters, digits, '-' or '_', starting with a letter or digit"
    )]
    Identifier(String, &'static str),
    /// It is no origin.
    #[error(
        "{0:?} is no origin: write it as browsers do, without a path, a usual port or capitals, as in https://crm.example.com; or another name of 1 to 255 visible ASCII characters"
    )]
    Origin(String),
    /// It is no address that can be recorded.
    #[error(
        "{0:?} is no client address: the one that browser or workstation has, 1 to 100 visible ASCII characters"
    )]
    ClientAddress(String),
    /// The resource name does not have the expected shape.
    #[error("{0:?} is not a resource name of the form {1}")]
    Shape(String, &'static str),
}

/// Longest identifier in bytes.
pub const MAX_IDENTIFIER: usize = 63;

fn check_identifier(text: &str, what: &'static str) -> Result<Box<str>, NameError> {
    let first = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let rest = |c: u8| first(c) || c == b'-' || c == b'_';
    let bytes = text.as_bytes();
    let valid = matches!(bytes, [head, tail @ ..]
        if bytes.len() <= MAX_IDENTIFIER && first(*head) && tail.iter().copied().all(rest));
    // A refused name may be anything, so only a harmless beginning of it is kept for the message.
    valid.then(|| text.into()).ok_or_else(|| NameError::Identifier(text.chars().take(80).collect(), what))
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks and takes an identifier of 1 to 63 bytes.
            ///
            /// # Errors
            /// [`NameError::Identifier`] when it breaks the rule for identifiers.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check_identifier(text, $what).map(Self)
            }

            /// The identifier.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

identifier!(
    /// A tenant; immutable and never reused.
    TenantId, "tenant id"
);
identifier!(
    /// A named key inside one tenant; immutable and never reused.
    KeyId, "key id"
);
identifier!(
    /// A field (column) that has a blind index key of its own.
    FieldId, "field name"
);
identifier!(
    /// A caller known to the configuration.
    PrincipalId, "principal name"
);
identifier!(
    /// A key custodian: a person on the roster, who holds a share of the root's backup key.
    CustodianId, "custodian name"
);
identifier!(
    /// A staff member who logs in; immutable and never reused.
    AccountId, "account name"
);
identifier!(
    /// What a staff member calls a token.
    TokenName, "token name"
);

/// `tenants/{tenant}`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantName(pub TenantId);

/// `accounts/{account}`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(pub AccountId);

/// Where staff see themselves log in: the origin of a web application (RFC 6454), or the name of
/// another program. 1 to 255 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(Box<str>);

impl Origin {
    /// Checks and takes an origin.
    ///
    /// # Errors
    /// [`NameError::Origin`] when it has another length, or other characters, or no browser would write it so.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let graphic = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        match graphic && text.split_once("://").is_none_or(|(scheme, host)| is_serialized(scheme, host)) {
            true => Ok(Self(text.into())),
            false => Err(NameError::Origin(text.chars().take(80).collect())),
        }
    }

    /// The origin.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is that of a web application, and not another name.
    pub fn is_web(&self) -> bool {
        self.0.starts_with("https://") || self.0.starts_with("http://")
    }
}

/// RFC 6454, section 6.2: an origin that is written in another way is the origin of no page.
fn is_serialized(scheme: &str, host: &str) -> bool {
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let plain = |text: &str| !text.is_empty() && !text.contains(['/', '?', '#', '@', '\\']);
    let small = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let port = !usual.is_empty() && host.ends_with(usual);
    plain(scheme) && plain(host) && small(scheme) && small(host) && !port && !host.ends_with(':')
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Where a staff member or customer is, as the application states it: 1 to 100 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAddress(Arc<str>);

impl ClientAddress {
    /// Checks and takes an address.
    ///
    /// # Errors
    /// [`NameError::ClientAddress`] when it has another length, or other characters.
    pub fn new(text: &str) -> Result<Self, NameError> {
        match (1..=100).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(text.into())),
            false => Err(NameError::ClientAddress(text.chars().take(80).collect())),
        }
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ClientAddress> for Arc<str> {
    fn from(address: ClientAddress) -> Self {
        address.0
    }
}

/// `tenants/{tenant}/keys/{key}`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// The tenant that owns the key.
    pub tenant: TenantId,
    /// The key.
    pub key: KeyId,
}

/// `tenants/{tenant}/keys/{key}/versions/{epoch}`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionName {
    /// The key.
    pub key: KeyName,
    /// The DEK epoch, from 1.
    pub epoch: Epoch,
}

/// `tenants/{tenant}/rotations/{rotation}`; a rotation is named by the KEK version it makes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RotationName {
    /// The tenant that is rotated.
    pub tenant: TenantId,
    /// The KEK version that the rotation makes primary.
    pub to: KekVersion,
}

impl TenantName {
    /// Parses `tenants/{tenant}`.
    ///
    /// # Errors
    /// [`NameError`] when the shape or the identifier is wrong.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match segments::<2>(text) {
            Some(["tenants", tenant]) => Ok(Self(TenantId::new(tenant)?)),
            _ => Err(shape(text, "tenants/{tenant}")),
        }
    }
}

impl AccountName {
    /// Parses `accounts/{account}`.
    ///
    /// # Errors
    /// [`NameError`] when the shape or the identifier is wrong.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match segments::<2>(text) {
            Some(["accounts", account]) => Ok(Self(AccountId::new(account)?)),
            _ => Err(shape(text, "accounts/{account}")),
        }
    }
}

impl KeyName {
    /// Parses `tenants/{tenant}/keys/{key}`.
    ///
    /// # Errors
    /// [`NameError`] when the shape or an identifier is wrong.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match segments::<4>(text) {
            Some(["tenants", tenant, "keys", key]) => {
                Ok(Self { tenant: TenantId::new(tenant)?, key: KeyId::new(key)? })
            }
            _ => Err(shape(text, "tenants/{tenant}/keys/{key}")),
        }
    }
}

impl VersionName {
    /// Parses `tenants/{tenant}/keys/{key}/versions/{epoch}`.
    ///
    /// # Errors
    /// [`NameError`] when the shape, an identifier or the number is wrong.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const SHAPE: &str = "tenants/{tenant}/keys/{key}/versions/{version}";
        let Some((key, number)) = text.rsplit_once("/versions/") else { return Err(shape(text, SHAPE)) };
        let epoch = canonical_number(number).and_then(Epoch::new).ok_or_else(|| shape(text, SHAPE))?;
        Ok(Self { key: KeyName::parse(key)?, epoch })
    }
}

impl RotationName {
    /// Parses `tenants/{tenant}/rotations/{rotation}`.
    ///
    /// # Errors
    /// [`NameError`] when the shape, the identifier or the number is wrong.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const SHAPE: &str = "tenants/{tenant}/rotations/{rotation}";
        let Some(["tenants", tenant, "rotations", number]) = segments::<4>(text) else {
            return Err(shape(text, SHAPE));
        };
        let to = canonical_number(number).and_then(KekVersion::new).ok_or_else(|| shape(text, SHAPE))?;
        Ok(Self { tenant: TenantId::new(tenant)?, to })
    }
}

impl CeremonyId {
    /// Parses `ceremonies/{ceremony}`.
    ///
    /// # Errors
    /// [`NameError`] when the shape or the number is wrong.
    pub fn parse_name(text: &str) -> Result<Self, NameError> {
        const SHAPE: &str = "ceremonies/{ceremony}";
        text.strip_prefix("ceremonies/").and_then(Self::parse).ok_or_else(|| shape(text, SHAPE))
    }
}

fn segments<const N: usize>(text: &str) -> Option<[&str; N]> {
    let mut parts = text.split('/');
    let found = std::array::from_fn(|_| parts.next());
    match (parts.next(), found.iter().all(Option::is_some)) {
        (None, true) => Some(found.map(Option::unwrap_or_default)),
        _ => None,
    }
}

/// A decimal number in its only spelling: no sign, no leading zero.
fn canonical_number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n: &u32| n.to_string() == text)
}

fn shape(text: &str, expected: &'static str) -> NameError {
    NameError::Shape(text.chars().take(200).collect(), expected)
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenants/{}", self.0)
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accounts/{}", self.0)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenants/{}/keys/{}", self.tenant, self.key)
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/versions/{}", self.key, self.epoch)
    }
}

impl fmt::Display for RotationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenants/{}/rotations/{}", self.tenant, self.to)
    }
}

macro_rules! debug_as_display {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(AccountName, TenantName, KeyName, VersionName, RotationName);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] u32);

        impl $name {
            /// The first one.
            pub const FIRST: Self = Self(1);

            /// Takes a number from 1.
            pub fn new(number: u32) -> Option<Self> {
                (number > 0).then_some(Self(number))
            }

            /// The number.
            pub const fn get(self) -> u32 {
                self.0
            }

            /// The one after this; `None` when the numbers are used up.
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).map(Self)
            }

            /// The one before this; `None` for the first.
            pub fn previous(self) -> Option<Self> {
                Self::new(self.0 - 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// The epoch of a DEK in its key, from 1: the API's `version`.
    Epoch
);
counter!(
    /// The version of a tenant's KEK, from 1.
    KekVersion
);
counter!(
    /// The generation of the HSM root key, from 1.
    RootGeneration
);
counter!(
    /// The version of the roster of custodians, from 1.
    RosterVersion
);
counter!(
    /// The generation of a signing key of the daemon, from 1.
    SigningGeneration
);
counter!(
    /// The version of a blind index key, from 1.
    IndexVersion
);
counter!(
    /// The generation of the erasure key, from 1.
    ErasureGeneration
);

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

        impl $name {
            /// Draws an id from the operating system's generator.
            ///
            /// # Errors
            /// When the operating system has no randomness to give.
            pub fn random() -> Result<Self, getrandom::Error> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes)?;
                Ok(Self(bytes))
            }

            /// Reads the 32 lower-case hexadecimal digits that it is shown as.
            pub fn parse(text: &str) -> Option<Self> {
                let digit = |byte: u8| (byte as char).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
                let pairs = text.as_bytes().as_chunks::<2>();
                let mut bytes = [0; 16];
                if !pairs.1.is_empty() || pairs.0.len() != bytes.len() {
                    return None;
                }
                for (byte, [high, low]) in bytes.iter_mut().zip(pairs.0) {
                    *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
                }
                Some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        debug_as_display!($name);
    };
}

random_id!(
    /// Names one DEK for ever; stands in every ciphertext.
    DekId
);
random_id!(
    /// Names one HSM root key; its CKA_ID on the token.
    RootId
);
random_id!(
    /// Names one ceremony for ever.
    CeremonyId
);
random_id!(
    /// Names one recovery export.
    ExportId
);
random_id!(
    /// Names one attempt to log in.
    LoginId
);
random_id!(
    /// Names one permission to enrol a token.
    TicketId
);
random_id!(
    /// Names one act that an administrator is asked to approve.
    ProposalId
);
random_id!(
    /// Names one login assertion: its `jti`.
    AssertionId
);
random_id!(
    /// Names one installation, so that its records and signatures fit no other.
    DeploymentId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let text = "tenants/acme/keys/customer-pii/versions/3";
        let name = VersionName::parse(text).unwrap();
        assert_eq!(name.to_string(), text);
        assert_eq!(name.key.to_string(), "tenants/acme/keys/customer-pii");
        assert_eq!(
            RotationName::parse("tenants/a/rotations/2").unwrap().to_string(),
            "tenants/a/rotations/2"
        );
    }

    #[test]
    fn origins_are_as_browsers_write_them() {
        for good in
            ["https://crm.example.com", "http://127.0.0.1:8080", "http://[::1]:8080", "console", "app:x"]
        {
            assert_eq!(Origin::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "https://",
            "https://crm.example.com/",
            "https://crm.example.com/login",
            "https://CRM.example.com",
            "HTTPS://crm.example.com",
            "https://crm.example.com:443",
            "http://crm.example.com:80",
            "https://crm.example.com:",
            "https://alice@crm.example.com",
            "https://crm.example.com?x",
            "https://crm example",
            "https://krm.\u{e9}xample",
        ] {
            assert!(Origin::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for text in
            ["", "tenants", "tenants/", "tenants/A", "tenants/a/", "tenants/a/keys", "tenants/-a", "x/a"]
        {
            assert!(TenantName::parse(text).is_err(), "{text:?}");
        }
        for text in ["tenants/a/keys/b/c", "tenants/a/keys/", "tenants/a/key/b", "tenants/a/keys/\u{212a}"] {
            assert!(KeyName::parse(text).is_err(), "{text:?}");
        }
        for number in ["0", "01", "+1", "-1", "4294967296", ""] {
            assert!(
                VersionName::parse(&format!("tenants/a/keys/b/versions/{number}")).is_err(),
                "{number:?}"
            );
        }
        assert!(TenantId::new(&"a".repeat(63)).is_ok());
        assert!(TenantId::new(&"a".repeat(64)).is_err());
    }
}
