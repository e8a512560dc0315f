//! Who may call, and what for.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::pattern::KeyPattern;
use super::value::{self, Operation, Role, User};
use crate::id::{Origin, PrincipalId};

/// A caller, and what it may do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Its name in the audit log.
    #[serde(deserialize_with = "value::principal_id")]
    pub name: PrincipalId,
    /// Its role.
    pub role: Role,
    /// Users (name or uid) that are this principal.
    #[serde(default)]
    pub users: Vec<User>,
    /// Groups (name or gid) whose processes are this principal: the primary group at connect.
    #[serde(default)]
    pub groups: Vec<User>,
    /// What it may do with data.
    #[serde(default)]
    pub allow: Vec<Allow>,
    /// How staff who log in to it know it: the origin of a web application, or another name.
    #[serde(default, deserialize_with = "value::origin")]
    pub origin: Option<Origin>,
}

/// One grant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Keys, for example `tenants/acme/keys/*`.
    pub keys: Vec<KeyPattern>,
    /// Operations on them.
    pub operations: BTreeSet<Operation>,
}

/// That each has a name of its own, and somebody behind it.
pub(super) fn check(principals: &[Principal]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for principal in principals {
        if !names.insert(&principal.name) {
            return Err(format!("principal {} stands here twice; merge the two", principal.name));
        }
        if principal.users.is_empty() && principal.groups.is_empty() {
            return Err(format!("principal {} needs `users` or `groups`", principal.name));
        }
    }
    Ok(())
}
