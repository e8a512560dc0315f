//! The decision: one place, so that a policy engine can take it over.

use std::collections::HashMap;
use std::sync::Arc;

use super::caller::{Caller, Peer, Principal};
use super::permission::{Authorized, Needs, Permission, Resource};
use crate::config::Principal as Configured;
use crate::config::value::{Operation, Role, User};
use crate::id::{KeyName, PrincipalId};

/// Who is who, and what each may do.
#[derive(Debug, Default)]
pub struct Policy {
    principals: Vec<Arc<Principal>>,
    by_user: HashMap<u32, Arc<Principal>>,
    by_group: HashMap<u32, Arc<Principal>>,
}

/// Why a caller was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No principal of the configuration has this uid or gid.
    #[error("uid {uid} (gid {gid}) is not known here; an administrator can add it to a [[principal]]")]
    Unknown {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The principal is frozen.
    #[error("{0} is frozen; an operator must unfreeze it")]
    Frozen(PrincipalId),
    /// No grant allows it.
    #[error("{principal} may not {operation} with this key; an administrator can add a grant")]
    NotGranted {
        /// Who asked.
        principal: PrincipalId,
        /// For what.
        operation: String,
    },
    /// Nobody logs in to it.
    #[error("nobody logs in to {0}; an administrator can give it an origin")]
    NoOrigin(PrincipalId),
    /// Only operators may.
    #[error("{0} is not an operator")]
    NotOperator(PrincipalId),
}

/// Why the principals of a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A name that the system does not know.
    #[error("principal {principal}: there is no {kind} {name:?} on this machine")]
    NoSuchUser {
        /// Where it stands.
        principal: PrincipalId,
        /// "user" or "group".
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Two principals claim the same user or group.
    #[error("{kind} {id} belongs to both {first} and {second}; a caller must be one principal")]
    Ambiguous {
        /// "user" or "group".
        kind: &'static str,
        /// Its number.
        id: u32,
        /// One claimant.
        first: PrincipalId,
        /// The other.
        second: PrincipalId,
    },
}

impl Policy {
    /// Resolves the principals of a configuration on this machine.
    ///
    /// # Errors
    /// [`PolicyError`] for an unknown name and for a user or group that two principals claim.
    pub fn new(configured: &[Configured]) -> Result<Self, PolicyError> {
        let mut policy = Self::default();
        for entry in configured {
            let principal = Arc::new(Principal::new(entry));
            for user in &entry.users {
                let id = resolve(user, "user", entry, |name| {
                    uzers::get_user_by_name(name).map(|user| user.uid())
                })?;
                claim(&mut policy.by_user, id, &principal, "user")?;
            }
            for group in &entry.groups {
                let id = resolve(group, "group", entry, |name| {
                    uzers::get_group_by_name(name).map(|group| group.gid())
                })?;
                claim(&mut policy.by_group, id, &principal, "group")?;
            }
            policy.principals.push(principal);
        }
        Ok(policy)
    }

    /// Who a peer is: by user first, then by group.
    pub fn caller(&self, peer: Peer) -> Caller {
        let principal = self.by_user.get(&peer.uid).or_else(|| self.by_group.get(&peer.gid)).cloned();
        Caller { peer, principal, staff: None, client: None }
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Denied`] with the check that failed.
    pub fn authorize<P: Permission>(
        &self,
        caller: &Caller,
        resource: P::Resource,
    ) -> Result<Authorized<P>, Denied> {
        let Some(principal) = &caller.principal else {
            return Err(Denied::Unknown { uid: caller.peer.uid, gid: caller.peer.gid });
        };
        if principal.frozen() {
            return Err(Denied::Frozen(principal.name().clone()));
        }
        decide(principal, P::NEEDS, resource.key())?;
        Ok(Authorized::grant(resource, principal.clone(), caller.staff.clone()))
    }

    /// Takes over from the store that a principal is frozen, or not, by the change `revision`; a later change that was
    /// taken over before stays in force. Unknown names are ignored: a principal may have left the configuration.
    pub fn set_frozen(&self, name: &PrincipalId, frozen: bool, revision: u64) {
        self.principals
            .iter()
            .filter(|principal| principal.name() == name)
            .for_each(|p| p.set_frozen(frozen, revision));
    }

    /// Whether the configuration has this principal.
    pub fn knows(&self, name: &PrincipalId) -> bool {
        self.principals.iter().any(|principal| principal.name() == name)
    }
}

fn decide(principal: &Principal, needs: Needs, key: Option<&KeyName>) -> Result<(), Denied> {
    let operator = principal.role() == Role::Operator;
    let granted = |operation: Option<Operation>| {
        key.is_some_and(|key| {
            principal.allow().iter().any(|allow| {
                operation.is_none_or(|operation| allow.operations.contains(&operation))
                    && allow.keys.iter().any(|pattern| pattern.matches(key))
            })
        })
    };
    let not_granted = |operation: &str| Denied::NotGranted {
        principal: principal.name().clone(),
        operation: operation.to_owned(),
    };
    match needs {
        Needs::Known => Ok(()),
        Needs::Origin if principal.origin().is_some() => Ok(()),
        Needs::Origin => Err(Denied::NoOrigin(principal.name().clone())),
        Needs::Operator if operator => Ok(()),
        Needs::Operator => Err(Denied::NotOperator(principal.name().clone())),
        Needs::Sight if operator || granted(None) => Ok(()),
        Needs::Sight => Err(not_granted("work")),
        Needs::Grant(operation) if granted(Some(operation)) => Ok(()),
        Needs::Grant(operation) => Err(not_granted(word(operation))),
    }
}

/// The operation as it is written in a grant.
fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Encrypt => "encrypt",
        Operation::Decrypt => "decrypt",
        Operation::ReEncrypt => "re-encrypt",
        Operation::GenerateDataKey => "generate-data-key",
        Operation::DecryptDataKey => "decrypt-data-key",
        Operation::BlindIndex => "blind-index",
    }
}

fn resolve(
    user: &User,
    kind: &'static str,
    entry: &Configured,
    look_up: impl Fn(&str) -> Option<u32>,
) -> Result<u32, PolicyError> {
    match user {
        User::Id(id) => Ok(*id),
        User::Name(name) => look_up(name).ok_or_else(|| PolicyError::NoSuchUser {
            principal: entry.name.clone(),
            kind,
            name: name.clone(),
        }),
    }
}

fn claim(
    map: &mut HashMap<u32, Arc<Principal>>,
    id: u32,
    principal: &Arc<Principal>,
    kind: &'static str,
) -> Result<(), PolicyError> {
    match map.insert(id, principal.clone()) {
        Some(first) if first.name() != principal.name() => Err(PolicyError::Ambiguous {
            kind,
            id,
            first: first.name().clone(),
            second: principal.name().clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::permission::{Decrypt, DecryptDataKey, Encrypt, ManageTenant, ViewKey, ViewStatus};
    use super::*;
    use crate::id::TenantName;

    const PRINCIPALS: &str = r#"
[[principal]]
name = "crm"
role = "application"
users = [1000]
allow = [{ keys = ["tenants/acme/keys/*"], operations = ["encrypt"] },
         { keys = ["tenants/acme/keys/pii"], operations = ["decrypt"] }]
[[principal]]
name = "ops"
role = "operator"
groups = [50]
"#;

    #[derive(serde::Deserialize)]
    struct File {
        principal: Vec<Configured>,
    }

    fn policy() -> Policy {
        Policy::new(&toml::from_str::<File>(PRINCIPALS).unwrap().principal).unwrap()
    }

    fn key(text: &str) -> KeyName {
        KeyName::parse(text).unwrap()
    }

    #[test]
    fn grants_are_by_key_and_operation() {
        let policy = policy();
        let crm = policy.caller(Peer { uid: 1000, gid: 50, pid: None });
        let allowed = policy.authorize::<Encrypt>(&crm, key("tenants/acme/keys/other")).unwrap();
        assert_eq!(allowed.resource(), &key("tenants/acme/keys/other"));
        assert!(policy.authorize::<Decrypt>(&crm, key("tenants/acme/keys/pii")).is_ok());
        assert!(policy.authorize::<ViewKey>(&crm, key("tenants/acme/keys/other")).is_ok());
        for denied in [
            policy.authorize::<Decrypt>(&crm, key("tenants/acme/keys/other")).err(),
            policy.authorize::<Encrypt>(&crm, key("tenants/zeta/keys/pii")).err(),
            policy.authorize::<DecryptDataKey>(&crm, key("tenants/acme/keys/pii")).err(),
            policy.authorize::<ViewKey>(&crm, key("tenants/zeta/keys/pii")).err(),
        ] {
            assert!(matches!(denied, Some(Denied::NotGranted { .. })), "{denied:?}");
        }
        let tenant = TenantName::parse("tenants/acme").unwrap();
        assert!(matches!(policy.authorize::<ManageTenant>(&crm, tenant), Err(Denied::NotOperator(_))));
    }

    #[test]
    fn an_operator_manages_but_does_not_see_data() {
        let policy = policy();
        let ops = policy.caller(Peer { uid: 7, gid: 50, pid: None });
        assert!(policy.authorize::<ManageTenant>(&ops, TenantName::parse("tenants/acme").unwrap()).is_ok());
        assert!(policy.authorize::<Decrypt>(&ops, key("tenants/acme/keys/pii")).is_err());
    }

    #[test]
    fn the_end_of_a_freeze_that_comes_late_does_not_end_a_later_one() {
        let policy = policy();
        let crm = PrincipalId::new("crm").unwrap();
        let frozen = || policy.principals.iter().any(|known| *known.name() == crm && known.frozen());
        policy.set_frozen(&crm, true, 3);
        assert!(frozen());
        // Revision 5 froze again before the record of revision 4, which ended it, was durable.
        policy.set_frozen(&crm, true, 5);
        policy.set_frozen(&crm, false, 4);
        assert!(frozen());
        policy.set_frozen(&crm, false, 6);
        assert!(!frozen());
        // The same revision says both only where a freeze is not known to be made: then it is in force.
        policy.set_frozen(&crm, true, 6);
        assert!(frozen());
    }

    #[test]
    fn strangers_and_the_frozen_may_do_nothing() {
        let policy = policy();
        let root = policy.caller(Peer { uid: 0, gid: 0, pid: Some(1) });
        assert_eq!(
            policy.authorize::<ViewStatus>(&root, ()).unwrap_err(),
            Denied::Unknown { uid: 0, gid: 0 }
        );
        let crm = policy.caller(Peer { uid: 1000, gid: 0, pid: None });
        let held = policy.authorize::<ViewStatus>(&crm, ()).unwrap();
        policy.set_frozen(&PrincipalId::new("crm").unwrap(), true, 1);
        assert!(held.revoked());
        assert!(matches!(policy.authorize::<ViewStatus>(&crm, ()), Err(Denied::Frozen(_))));
    }

    #[test]
    fn a_user_is_one_principal() {
        let twice = PRINCIPALS.replace("groups = [50]", "users = [1000]");
        let error = Policy::new(&toml::from_str::<File>(&twice).unwrap().principal).unwrap_err();
        assert!(matches!(error, PolicyError::Ambiguous { id: 1000, .. }));
    }
}
