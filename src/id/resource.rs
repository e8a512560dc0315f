//! Names that may be one of several things.

use std::fmt;

use super::{KeyName, NameError, PrincipalId, TenantName, VersionName};

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
