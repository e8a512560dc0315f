//! Who may call, and what for.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::check::{faults, unless};
use super::pattern::KeyPattern;
use super::value::{self, Operation, Role, User};
use crate::id::{Origin, PrincipalId};

/// A caller, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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
    /// Groups (name or gid) whose processes are this principal: the primary group at connect, or else a supplementary one.
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
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Keys, for example `tenants/acme/keys/*`.
    pub keys: Vec<KeyPattern>,
    /// Operations on them.
    pub operations: BTreeSet<Operation>,
}

impl Principal {
    /// Whether whoever has this may do whatever `other` allows, in the same role and as the same application.
    pub fn allows_all_of(&self, other: &Self) -> bool {
        let covers = |operation: &Operation, keys: &KeyPattern| {
            self.allow
                .iter()
                .any(|own| own.operations.contains(operation) && own.keys.iter().any(|own| own.covers(keys)))
        };
        let covered = |allow: &Allow| {
            allow.operations.iter().all(|operation| allow.keys.iter().all(|keys| covers(operation, keys)))
        };
        let same_origin = other.origin.is_none() || self.origin == other.origin;
        self.role == other.role && same_origin && other.allow.iter().all(covered)
    }
}

/// What the daemon's own user is called; no principal may be.
pub const OWN_USER: &str = "keywardd";

/// Numbers of users and groups that are nobody's: the kernel's word for everybody without a
/// mapping, and the one for no credentials at all.
pub const NOBODY: [u32; 2] = [65_534, u32::MAX];

/// That each has a name of its own, and somebody behind it.
pub(super) fn check(principals: &[Principal]) -> Vec<String> {
    let mut names = BTreeSet::new();
    let each = principals.iter().flat_map(|principal| {
        let twice = !names.insert(&principal.name);
        let name = &principal.name;
        let twice = unless(twice, || format!("principal {name} stands here twice; merge the two"));
        [vec![twice], principal.checks()].concat()
    });
    faults(each)
}

impl Principal {
    fn checks(&self) -> Vec<Result<(), String>> {
        let Self { name, role, users, groups, allow, origin } = self;
        let signs_or_looks = matches!(role, Role::Member | Role::Monitor);
        let role = if *role == Role::Member { "member" } else { "monitor" };
        let own = unless(name.as_str() == OWN_USER, || {
            format!("principal {OWN_USER}: so the daemon's own user is called; choose another name")
        });
        let empty = unless(users.is_empty() && groups.is_empty(), || {
            format!("principal {name} needs `users` or `groups`")
        });
        let granted = unless(signs_or_looks && (!allow.is_empty() || origin.is_some()), || {
            format!(
                "principal {name}: a {role} has neither `allow` nor `origin`; give it the role application or operator, or take them away"
            )
        });
        let nobodies = users.iter().chain(groups).filter_map(|user| match user {
            User::Id(id) if NOBODY.contains(id) => Some(Err(format!(
                "principal {name}: {id} is nobody's number, and whoever has none here gets it"
            ))),
            User::Id(_) | User::Name(_) => None,
        });
        [own, empty, granted].into_iter().chain(nobodies).collect()
    }
}
