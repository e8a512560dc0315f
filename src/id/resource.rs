//! Names that may be one of several things.

use std::fmt;

use super::{KekVersion, KeyName, NameError, PrincipalId, TenantId, TenantName, VersionName};

/// The installation as a whole: what is about nothing in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation;

/// A record of the audit log, by its sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordNumber(pub u64);

/// What can be frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freezable {
    /// A tenant, with all its keys.
    Tenant(TenantName),
    /// A key.
    Key(KeyName),
    /// A caller.
    Principal(PrincipalId),
}

impl Freezable {
    /// Takes `tenants/…`, `tenants/…/keys/…` or `principals/…`.
    ///
    /// # Errors
    /// [`NameError`] when it is none of them.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if let Some(principal) = name.strip_prefix("principals/") {
            return PrincipalId::new(principal).map(Self::Principal);
        }
        match name.contains("/keys/") {
            true => KeyName::parse(name).map(Self::Key),
            false => TenantName::parse(name).map(Self::Tenant),
        }
    }
}

impl fmt::Display for Freezable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(name) => name.fmt(f),
            Self::Key(name) => name.fmt(f),
            Self::Principal(name) => write!(f, "principals/{name}"),
        }
    }
}

/// What an operator can have destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destroyable {
    /// A tenant, with all its keys.
    Tenant(TenantName),
    /// A key, with all its versions.
    Key(KeyName),
    /// One version of a key.
    Version(VersionName),
}

impl Destroyable {
    /// Takes `tenants/…`, `tenants/…/keys/…` or `tenants/…/keys/…/versions/…`.
    ///
    /// # Errors
    /// [`NameError`] when it is none of them.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        match name {
            version if version.contains("/versions/") => VersionName::parse(version).map(Self::Version),
            key if key.contains("/keys/") => KeyName::parse(key).map(Self::Key),
            tenant => TenantName::parse(tenant).map(Self::Tenant),
        }
    }
}

/// What is destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestroyTarget {
    /// A tenant: its KEKs, and every key.
    Tenant(TenantId),
    /// A key: every version, and its index keys.
    Key(KeyName),
    /// One version of a key.
    Version(VersionName),
    /// A KEK version that seals nothing any more.
    Kek(TenantId, KekVersion),
}

impl DestroyTarget {
    /// Takes the name of a tenant, a key, a version or a KEK version.
    ///
    /// # Errors
    /// [`NameError`] when it is none of them.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if let Some((tenant, version)) = name.split_once("/kekVersions/") {
            let number = version.parse().ok().filter(|number: &u32| number.to_string() == version);
            let version = number.and_then(KekVersion::new).ok_or_else(|| {
                NameError::Shape(name.chars().take(200).collect(), "tenants/{tenant}/kekVersions/{version}")
            })?;
            return Ok(Self::Kek(TenantName::parse(tenant)?.0, version));
        }
        match name {
            version if version.contains("/versions/") => VersionName::parse(version).map(Self::Version),
            key if key.contains("/keys/") => KeyName::parse(key).map(Self::Key),
            tenant => TenantName::parse(tenant).map(|tenant| Self::Tenant(tenant.0)),
        }
    }
}

impl fmt::Display for DestroyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(id) => write!(f, "tenants/{id}"),
            Self::Key(name) => name.fmt(f),
            Self::Version(version) => version.fmt(f),
            Self::Kek(id, version) => write!(f, "tenants/{id}/kekVersions/{version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_is_of() {
        for name in ["tenants/a", "tenants/a/keys/b", "principals/p"] {
            assert_eq!(Freezable::parse(name).unwrap().to_string(), name);
        }
        assert!(matches!(Destroyable::parse("tenants/a"), Ok(Destroyable::Tenant(_))));
        assert!(matches!(Destroyable::parse("tenants/a/keys/b"), Ok(Destroyable::Key(_))));
        assert!(matches!(Destroyable::parse("tenants/a/keys/b/versions/1"), Ok(Destroyable::Version(_))));
        for odd in ["", "a", "tenants/", "tenants/a/keys/", "principals/", "tenants/a/keys/b/versions/0"] {
            assert!(Freezable::parse(odd).is_err() && Destroyable::parse(odd).is_err(), "{odd}");
        }
    }
}
