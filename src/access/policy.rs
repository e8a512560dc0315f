//! The decision: one place, so that a policy engine can take it over.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::caller::{Caller, Peer, Principal, Standing};
use super::permission::{Authorized, Needs, Permission, Resource};
use crate::config::value::{Operation, Role, User};
use crate::config::{NOBODY, Principal as Configured};
use crate::id::{KeyName, PrincipalId};

/// Who is who, and what each may do.
#[derive(Debug)]
pub struct Policy {
    principals: Vec<Arc<Principal>>,
    by_user: BTreeMap<u32, Standing>,
    by_group: BTreeMap<u32, Standing>,
    /// The daemon's own user, where it is no principal, and what stands for it.
    own_user: Option<(u32, Arc<Principal>)>,
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
    /// Two principals of the configuration have this uid, or this gid.
    #[error(
        "uid {uid} (gid {gid}) belongs to both {first} and {second} here; an administrator must take it from one of them"
    )]
    Ambiguous {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// One claimant.
        first: PrincipalId,
        /// The other.
        second: PrincipalId,
    },
    /// The daemon's own user looks after the daemon, and does nothing else.
    #[error(
        "the daemon's own user is no principal: call as an operator or an application of the configuration"
    )]
    OwnUser,
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
    #[error("{0} is not an operator; an administrator can give it that role")]
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
    /// A user or group that stands for everybody without a name.
    #[error("principal {principal}: {kind} {id} is nobody's, and whoever has no number here gets it")]
    Nobody {
        /// Where it stands.
        principal: PrincipalId,
        /// "user" or "group".
        kind: &'static str,
        /// The number.
        id: u32,
    },
    /// A principal that the daemon's own user would be.
    #[error(
        "principal {principal}: user {id} runs the daemon, and the vendor's PKCS#11 library with it, so it can be no principal; give the daemon a user of its own"
    )]
    OwnUser {
        /// Where it stands.
        principal: PrincipalId,
        /// The daemon's user.
        id: u32,
    },
}

impl Policy {
    /// Resolves the principals of a configuration on this machine. `own_user` is the uid of the
    /// daemon; without one its user is like any other.
    ///
    /// # Errors
    /// [`PolicyError`] for an unknown name, and for a user or group that can be nobody's.
    pub fn new(configured: &[Configured], own_user: Option<u32>) -> Result<Self, PolicyError> {
        let mut policy = Self {
            principals: Vec::new(),
            by_user: BTreeMap::new(),
            by_group: BTreeMap::new(),
            own_user: own_user.map(|uid| (uid, Arc::new(Principal::own_user()))),
        };
        for entry in configured {
            let principal = Arc::new(Principal::new(entry));
            for user in &entry.users {
                let id = resolve(user, "user", entry, |name| {
                    uzers::get_user_by_name(name).map(|user| user.uid())
                })?;
                if own_user == Some(id) {
                    return Err(PolicyError::OwnUser { principal: entry.name.clone(), id });
                }
                claim(&mut policy.by_user, id, &principal);
            }
            for group in &entry.groups {
                let id = resolve(group, "group", entry, |name| {
                    uzers::get_group_by_name(name).map(|group| group.gid())
                })?;
                claim(&mut policy.by_group, id, &principal);
            }
            policy.principals.push(principal);
        }
        Ok(policy)
    }

    /// Who a peer is. The first rule that knows it decides: the daemon's own user, the user, the
    /// primary group.
    pub fn standing(&self, peer: Peer) -> Standing {
        if let Some((uid, own)) = &self.own_user
            && *uid == peer.uid
        {
            return Standing::Known(own.clone());
        }
        // Supplementary groups, which the kernel tells as well, would be the next rule.
        let found = self.by_user.get(&peer.uid).or_else(|| self.by_group.get(&peer.gid));
        found.cloned().unwrap_or(Standing::Unknown)
    }

    /// A peer that calls now.
    pub fn caller(&self, peer: Peer) -> Caller {
        let principal = match self.standing(peer) {
            Standing::Known(principal) => Some(principal),
            Standing::Ambiguous { .. } | Standing::Unknown => None,
        };
        Caller { peer, principal, staff: None, client: None }
    }

    /// The same caller under the policy of now: a session or file asks at each of its records.
    pub fn again(&self, caller: &Caller) -> Caller {
        Caller { staff: caller.staff.clone(), client: caller.client.clone(), ..self.caller(caller.peer) }
    }

    /// Users and groups that two principals claim, in words. Whoever comes as one of them is refused.
    pub fn warnings(&self) -> Vec<String> {
        let claims = |kind: &'static str, map: &BTreeMap<u32, Standing>| {
            let words = map.iter().filter_map(|(id, standing)| match standing {
                Standing::Ambiguous { first, second } => Some(format!(
                    "{kind} {id} belongs to both {first} and {second}: its calls are refused as AMBIGUOUS_CALLER"
                )),
                Standing::Known(_) | Standing::Unknown => None,
            });
            words.collect::<Vec<_>>()
        };
        [claims("user", &self.by_user), claims("group", &self.by_group)].concat()
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
        let principal = self.known(caller.peer)?;
        if principal.frozen() {
            return Err(Denied::Frozen(principal.name().clone()));
        }
        decide(&principal, P::NEEDS, resource.key())?;
        Ok(Authorized::grant(resource, principal, caller.staff.clone()))
    }

    /// The principal that a peer is.
    ///
    /// # Errors
    /// [`Denied`] when it is none, or two.
    pub fn known(&self, peer: Peer) -> Result<Arc<Principal>, Denied> {
        let Peer { uid, gid, .. } = peer;
        match self.standing(peer) {
            Standing::Known(principal) => Ok(principal),
            Standing::Ambiguous { first, second } => Err(Denied::Ambiguous { uid, gid, first, second }),
            Standing::Unknown => Err(Denied::Unknown { uid, gid }),
        }
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
    if principal.is_own_user() {
        return match needs {
            Needs::KnownOrOwnUser | Needs::OperatorOrOwnUser => Ok(()),
            _ => Err(Denied::OwnUser),
        };
    }
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
        Needs::Known | Needs::KnownOrOwnUser => Ok(()),
        Needs::Origin if principal.origin().is_some() => Ok(()),
        Needs::Origin => Err(Denied::NoOrigin(principal.name().clone())),
        Needs::Operator | Needs::OperatorOrOwnUser if operator => Ok(()),
        Needs::Operator | Needs::OperatorOrOwnUser => Err(Denied::NotOperator(principal.name().clone())),
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
    let id = match user {
        User::Id(id) => *id,
        User::Name(name) => look_up(name).ok_or_else(|| PolicyError::NoSuchUser {
            principal: entry.name.clone(),
            kind,
            name: name.clone(),
        })?,
    };
    match NOBODY.contains(&id) {
        true => Err(PolicyError::Nobody { principal: entry.name.clone(), kind, id }),
        false => Ok(id),
    }
}

fn claim(map: &mut BTreeMap<u32, Standing>, id: u32, principal: &Arc<Principal>) {
    let standing = map.entry(id).or_insert_with(|| Standing::Known(principal.clone()));
    if let Standing::Known(first) = standing
        && first.name() != principal.name()
    {
        let (first, second) = (first.name().clone(), principal.name().clone());
        *standing = Standing::Ambiguous { first, second };
    }
}

#[cfg(test)]
mod tests {
    use super::super::permission::{
        Decrypt, DecryptDataKey, Encrypt, ManageTenant, RecordDrill, ViewActs, ViewKey, ViewStatus,
    };
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
        of(PRINCIPALS, None).unwrap()
    }

    fn of(principals: &str, own_user: Option<u32>) -> Result<Policy, PolicyError> {
        Policy::new(&toml::from_str::<File>(principals).unwrap().principal, own_user)
    }

    fn peer(uid: u32, gid: u32) -> Peer {
        Peer { uid, gid, pid: None }
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
    fn a_user_of_two_principals_is_refused_and_told_beforehand() {
        let policy =
            of(&PRINCIPALS.replace("groups = [50]", "users = [1000, 7]\ngroups = [60]"), None).unwrap();
        let both = policy.caller(peer(1000, 60));
        let denied = policy.authorize::<ViewStatus>(&both, ()).unwrap_err();
        assert!(matches!(denied, Denied::Ambiguous { uid: 1000, .. }), "the group does not decide: {denied}");
        assert!(policy.authorize::<ViewStatus>(&policy.caller(peer(7, 0)), ()).is_ok());
        let [warning] = policy.warnings().try_into().unwrap();
        assert!(warning.contains("user 1000 belongs to both crm and ops"), "{warning}");
        let same = PRINCIPALS.replace("users = [1000]", "users = [1000, 1000]");
        assert!(of(&same, None).unwrap().warnings().is_empty(), "one principal twice is one");
    }

    #[test]
    fn the_user_decides_before_the_primary_group() {
        let policy = policy();
        let name = |peer| policy.caller(peer).principal.map(|known| known.name().to_string());
        assert_eq!(name(peer(1000, 50)).as_deref(), Some("crm"));
        assert_eq!(name(peer(1001, 50)).as_deref(), Some("ops"));
        assert_eq!(name(peer(1001, 51)), None);
    }

    #[test]
    fn the_daemons_own_user_looks_after_it_and_nothing_else() {
        let policy = of(PRINCIPALS, Some(999)).unwrap();
        // Its group would make it an operator.
        let own = policy.caller(peer(999, 50));
        assert!(policy.authorize::<ViewStatus>(&own, ()).is_ok());
        assert!(policy.authorize::<RecordDrill>(&own, ()).is_ok());
        for denied in [
            policy.authorize::<Encrypt>(&own, key("tenants/acme/keys/pii")).err(),
            policy.authorize::<ManageTenant>(&own, TenantName::parse("tenants/acme").unwrap()).err(),
            policy.authorize::<ViewActs>(&own, ()).err(),
        ] {
            assert_eq!(denied, Some(Denied::OwnUser));
        }
        let error = of(PRINCIPALS, Some(1000)).unwrap_err();
        assert!(matches!(error, PolicyError::OwnUser { id: 1000, .. }), "{error}");
    }

    #[test]
    fn nobody_is_no_principal() {
        for id in ["65534", "4294967295", "\"nobody\""] {
            let nobody = PRINCIPALS.replace("[1000]", &format!("[{id}]"));
            // Some machines have another number for the name.
            let other = uzers::get_user_by_name("nobody").is_none_or(|user| user.uid() != 65_534);
            if id.starts_with('"') && other {
                continue;
            }
            assert!(matches!(of(&nobody, None), Err(PolicyError::Nobody { .. })), "{id}");
            let group = PRINCIPALS.replace("[50]", &format!("[{id}]"));
            assert!(
                id.starts_with('"') || matches!(of(&group, None), Err(PolicyError::Nobody { .. })),
                "{id}"
            );
        }
    }

    #[test]
    fn a_decision_rests_on_the_policy_of_now() {
        let (before, after) = (policy(), of(&PRINCIPALS.replace("1000", "1001"), None).unwrap());
        let crm = before.caller(peer(1000, 0));
        assert!(before.authorize::<ViewStatus>(&crm, ()).is_ok());
        assert!(matches!(after.authorize::<ViewStatus>(&crm, ()), Err(Denied::Unknown { .. })));
        assert!(after.again(&crm).principal.is_none());
    }
}
