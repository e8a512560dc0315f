//! Names as people type them: short (`acme/customer-pii`) or full (`tenants/acme/keys/customer-pii`).

use crate::id::{
    AccountName, KeyName, NameError, PrincipalId, RootId, RotationName, TenantName, VersionName,
};

fn expand(text: &str, short: impl FnOnce(&[&str]) -> Option<String>) -> String {
    if text.starts_with("tenants/") {
        return text.to_owned();
    }
    short(&text.split('/').collect::<Vec<_>>()).unwrap_or_else(|| text.to_owned())
}

/// `alice` or `accounts/alice`.
pub(crate) fn account(text: &str) -> Result<AccountName, NameError> {
    let short = !text.contains('/');
    AccountName::parse(&if short { format!("accounts/{text}") } else { text.to_owned() })
}

/// `acme` or `tenants/acme`.
pub(crate) fn tenant(text: &str) -> Result<TenantName, NameError> {
    TenantName::parse(&expand(text, |parts| match parts {
        [tenant] => Some(format!("tenants/{tenant}")),
        _ => None,
    }))
}

/// `acme/customer-pii` or `tenants/acme/keys/customer-pii`.
pub(crate) fn key(text: &str) -> Result<KeyName, NameError> {
    KeyName::parse(&expand(text, |parts| match parts {
        [tenant, key] => Some(format!("tenants/{tenant}/keys/{key}")),
        _ => None,
    }))
}

/// `acme/customer-pii/3` or `tenants/acme/keys/customer-pii/versions/3`.
pub(crate) fn version(text: &str) -> Result<VersionName, NameError> {
    VersionName::parse(&expand(text, |parts| match parts {
        [tenant, key, version] => Some(format!("tenants/{tenant}/keys/{key}/versions/{version}")),
        _ => None,
    }))
}

/// `acme/2` or `tenants/acme/rotations/2`.
pub(crate) fn rotation(text: &str) -> Result<RotationName, NameError> {
    RotationName::parse(&expand(text, |parts| match parts {
        [tenant, rotation] => Some(format!("tenants/{tenant}/rotations/{rotation}")),
        _ => None,
    }))
}

/// `web-shop` or `principals/web-shop`.
pub(crate) fn principal(text: &str) -> Result<PrincipalId, NameError> {
    PrincipalId::new(text.strip_prefix("principals/").unwrap_or(text))
}

/// The id of an erasure root.
pub(crate) fn erasure_root(text: &str) -> Result<RootId, String> {
    RootId::parse(text).ok_or_else(|| "expected 32 lower-case hexadecimal digits".to_owned())
}

/// The full name of what is called so; what is none is refused by the daemon.
pub(crate) fn any(text: &str) -> String {
    if text.contains("principals/") || text.starts_with("tenants/") {
        return text.to_owned();
    }
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [tenant] => format!("tenants/{tenant}"),
        [tenant, key] => format!("tenants/{tenant}/keys/{key}"),
        [tenant, key, version] => format!("tenants/{tenant}/keys/{key}/versions/{version}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_names_are_the_same() {
        assert_eq!(tenant("acme"), tenant("tenants/acme"));
        assert_eq!(key("acme/pii"), key("tenants/acme/keys/pii"));
        assert_eq!(version("acme/pii/3"), version("tenants/acme/keys/pii/versions/3"));
        assert_eq!(rotation("acme/2"), rotation("tenants/acme/rotations/2"));
        assert_eq!(principal("web"), principal("principals/web"));
        assert!(key("acme/pii").is_ok() && version("acme/pii/3").is_ok() && rotation("acme/2").is_ok());
    }

    #[test]
    fn a_forgotten_part_is_not_guessed() {
        assert!(key("tenants/acme").is_err());
        assert!(key("acme").is_err());
        assert!(tenant("acme/pii").is_err());
        assert!(version("acme/pii").is_err());
        assert!(version("acme/pii/03").is_err());
        assert!(rotation("acme/x").is_err());
    }

    #[test]
    fn names_of_anything_are_completed() {
        assert_eq!(any("acme"), "tenants/acme");
        assert_eq!(any("acme/pii"), "tenants/acme/keys/pii");
        assert_eq!(any("acme/pii/3"), "tenants/acme/keys/pii/versions/3");
        assert_eq!(any("principals/web"), "principals/web");
        assert_eq!(any("tenants/acme/keys/pii"), "tenants/acme/keys/pii");
    }
}
