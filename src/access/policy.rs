//! The decision: one place, so that a policy engine can take it over.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::caller::{Caller, Held, Live, Peer, Principal, Standing};
use super::permission::{Authorized, Needs, Permission, Resource};
use crate::config::value::{Operation, Role, User};
use crate::config::{NOBODY, Principal as Configured};
use crate::id::{KeyName, PrincipalId};

/// Who is who, and what each may do: as the configuration in force says, which may be replaced while calls go on.
#[derive(Debug)]
pub struct Policy {
    state: RwLock<State>,
    /// Told of each other table.
    replaced: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    table: Table,
    /// Of every name that the configuration or the store has had: who comes back is as frozen as before.
    lives: BTreeMap<PrincipalId, Arc<Live>>,
}

/// The principals of a configuration, resolved on this machine.
#[derive(Debug)]
pub struct Principals {
    configured: Vec<Configured>,
    by_user: BTreeMap<u32, Claim>,
    by_group: BTreeMap<u32, Claim>,
    /// The daemon's own user, where it is no principal.
    own_user: Option<u32>,
}

/// Who claims a user or group: by the place among the principals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    One(usize),
    Two(usize, usize),
}

/// The principals in force.
#[derive(Debug)]
struct Table {
    resolved: Principals,
    principals: Vec<Arc<Principal>>,
    own_user: Option<Arc<Principal>>,
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
    /// A right was taken from the principal while what it had begun went on.
    #[error(
        "the configuration was changed and took a right from {0}, so what it had begun ends here; begin anew what it still may"
    )]
    Withdrawn(PrincipalId),
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
    /// A monitor sees how the daemon is, and nothing else.
    #[error(
        "{0} is a monitor, which sees how the daemon is and nothing else; an administrator can give people another role"
    )]
    Monitor(PrincipalId),
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

impl Principals {
    /// Resolves the principals of a configuration on this machine. `own_user` is the uid of the daemon; without one its
    /// user is like any other. Every fault is told: an unknown name, and a user or group that can be nobody's. Only
    /// principals without any may be put in force.
    pub fn resolve(configured: &[Configured], own_user: Option<u32>) -> (Self, Vec<PolicyError>) {
        let (by_user, by_group) = (BTreeMap::new(), BTreeMap::new());
        let mut found = Self { configured: configured.to_vec(), by_user, by_group, own_user };
        let mut faults = Vec::new();
        for (place, entry) in configured.iter().enumerate() {
            let users = |name: &str| uzers::get_user_by_name(name).map(|user| user.uid());
            for user in &entry.users {
                match resolve(user, "user", entry, users) {
                    Ok(id) if own_user == Some(id) => {
                        faults.push(PolicyError::OwnUser { principal: entry.name.clone(), id });
                    }
                    Ok(id) => claim(&mut found.by_user, id, place),
                    Err(fault) => faults.push(fault),
                }
            }
            let groups = |name: &str| uzers::get_group_by_name(name).map(|group| group.gid());
            for group in &entry.groups {
                match resolve(group, "group", entry, groups) {
                    Ok(id) => claim(&mut found.by_group, id, place),
                    Err(fault) => faults.push(fault),
                }
            }
        }
        (found, faults)
    }

    /// Users and groups that two principals claim, in words. Whoever comes as one of them is refused.
    pub fn warnings(&self) -> Vec<String> {
        let claims = |kind: &'static str, map: &BTreeMap<u32, Claim>| {
            let words = map.iter().filter_map(|(id, claim)| match claim {
                Claim::Two(first, second) => Some(format!(
                    "{kind} {id} belongs to both {} and {}: its calls are refused as AMBIGUOUS_CALLER",
                    self.configured[*first].name, self.configured[*second].name
                )),
                Claim::One(_) => None,
            });
            words.collect::<Vec<_>>()
        };
        [claims("user", &self.by_user), claims("group", &self.by_group)].concat()
    }

    /// Which principals of `before` had a right, or a user or group, that they do not have here.
    fn lost_since(&self, before: &Self) -> Vec<usize> {
        let here = |place: usize| {
            let name = &before.configured[place].name;
            self.configured.iter().position(|entry| entry.name == *name)
        };
        let keeps_claims = |then: &BTreeMap<u32, Claim>, now: &BTreeMap<u32, Claim>, place: usize| {
            let claimed = then.iter().filter(|(_, claim)| **claim == Claim::One(place));
            claimed
                .into_iter()
                .all(|(id, _)| here(place).is_some_and(|here| now.get(id) == Some(&Claim::One(here))))
        };
        let keeps = |place: usize| {
            here(place).is_some_and(|here| self.configured[here].allows_all_of(&before.configured[place]))
                && keeps_claims(&before.by_user, &self.by_user, place)
                && keeps_claims(&before.by_group, &self.by_group, place)
        };
        (0..before.configured.len()).filter(|place| !keeps(*place)).collect()
    }
}

impl Table {
    /// `kept` are the rights that principals had before and have here.
    fn new(
        resolved: Principals,
        lives: &mut BTreeMap<PrincipalId, Arc<Live>>,
        kept: &BTreeMap<PrincipalId, Held>,
        own_user: Option<Arc<Principal>>,
    ) -> Self {
        let mut principal = |entry: &Configured| {
            let live = lives.entry(entry.name.clone()).or_default().clone();
            Arc::new(Principal::new(entry, live, kept.get(&entry.name).cloned().unwrap_or_default()))
        };
        let principals = resolved.configured.iter().map(&mut principal).collect();
        let new = || Arc::new(Principal::own_user());
        let own_user = resolved.own_user.map(|_| own_user.unwrap_or_else(new));
        Self { resolved, principals, own_user }
    }

    fn standing(&self, peer: &Peer) -> Standing {
        if let Some(own) = &self.own_user
            && self.resolved.own_user == Some(peer.uid)
        {
            return Standing::Known(own.clone());
        }
        let Principals { by_user, by_group, .. } = &self.resolved;
        let found = by_user.get(&peer.uid).or_else(|| by_group.get(&peer.gid)).copied();
        match found.or_else(|| supplementary(by_group, &peer.groups)) {
            Some(Claim::One(place)) => Standing::Known(self.principals[place].clone()),
            Some(Claim::Two(first, second)) => Standing::Ambiguous {
                first: self.principals[first].name().clone(),
                second: self.principals[second].name().clone(),
            },
            None => Standing::Unknown,
        }
    }
}

/// Who claims supplementary groups: two principals where they are not all one's.
fn supplementary(by_group: &BTreeMap<u32, Claim>, groups: &[u32]) -> Option<Claim> {
    let claims = groups.iter().filter_map(|group| by_group.get(group)).copied();
    claims.reduce(|first, other| match (first, other) {
        (Claim::One(first), Claim::One(other)) if first != other => Claim::Two(first, other),
        (Claim::One(_), other) => other,
        (two, _) => two,
    })
}

impl Policy {
    /// The policy of principals without a fault.
    pub fn new(principals: Principals) -> Self {
        let mut lives = BTreeMap::new();
        let table = Table::new(principals, &mut lives, &BTreeMap::new(), None);
        Self { state: RwLock::new(State { table, lives }), replaced: watch::Sender::new(()) }
    }

    /// Puts other principals in force, without a fault: for every decision from now on. Whoever is frozen stays so, and
    /// what a principal has begun ends where it lost a right. Answers who did.
    pub fn replace(&self, principals: Principals) -> Vec<PrincipalId> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { table, lives } = &mut *state;
        let lost = principals.lost_since(&table.resolved);
        let (lost, kept): (Vec<_>, Vec<_>) =
            table.principals.iter().cloned().enumerate().partition(|(place, _)| lost.contains(place));
        let kept = kept.iter().map(|(_, one)| (one.name().clone(), one.held().clone())).collect();
        let before = std::mem::replace(table, Table::new(principals, lives, &kept, table.own_user.clone()));
        // After the other table is in force: whoever begins anew then is judged by it.
        before.own_user.iter().filter(|_| table.own_user.is_none()).for_each(|own| own.held().withdraw());
        lost.iter().for_each(|(_, one)| one.held().withdraw());
        drop(state);
        self.replaced.send_replace(());
        lost.iter().map(|(_, one)| one.name().clone()).collect()
    }

    /// Told when other principals are in force.
    pub fn replaced(&self) -> watch::Receiver<()> {
        self.replaced.subscribe()
    }

    /// Whether a caller is whom it was when it began something, with all rights that it had then: its principal may be as before,
    /// and another one claim its user.
    pub fn still_is(&self, caller: &Caller) -> bool {
        match (&caller.principal, self.standing(&caller.peer)) {
            (Some(then), Standing::Known(now)) => then.held().is(now.held()),
            (None, _) => true,
            (Some(_), Standing::Ambiguous { .. } | Standing::Unknown) => false,
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who a peer is. The first rule that knows it decides: the daemon's own user, the user, the
    /// primary group, the supplementary groups.
    pub fn standing(&self, peer: &Peer) -> Standing {
        self.state().table.standing(peer)
    }

    /// A peer that calls now.
    pub fn caller(&self, peer: Peer) -> Caller {
        let principal = match self.standing(&peer) {
            Standing::Known(principal) => Some(principal),
            Standing::Ambiguous { .. } | Standing::Unknown => None,
        };
        Caller { peer, principal, staff: None, client: None }
    }

    /// The same caller under the policy of now: a session or file asks at each of its records.
    pub fn again(&self, caller: &Caller) -> Caller {
        Caller {
            staff: caller.staff.clone(),
            client: caller.client.clone(),
            ..self.caller(caller.peer.clone())
        }
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
        let principal = self.known(&caller.peer)?;
        // Whatever it shows was shown as the other one.
        if let Some(then) = caller.principal.as_ref().filter(|then| then.name() != principal.name()) {
            return Err(Denied::Withdrawn(then.name().clone()));
        }
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
    pub fn known(&self, peer: &Peer) -> Result<Arc<Principal>, Denied> {
        let Peer { uid, gid, .. } = *peer;
        match self.standing(peer) {
            Standing::Known(principal) => Ok(principal),
            Standing::Ambiguous { first, second } => Err(Denied::Ambiguous { uid, gid, first, second }),
            Standing::Unknown => Err(Denied::Unknown { uid, gid }),
        }
    }

    /// Takes over from the store that a principal is frozen, or not, by the change `revision`; a later change that was
    /// taken over before stays in force. It counts for a principal that comes into the configuration later, too.
    pub fn set_frozen(&self, name: &PrincipalId, frozen: bool, revision: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.lives.entry(name.clone()).or_default().set_frozen(frozen, revision);
    }

    /// Whether the configuration has this principal.
    pub fn knows(&self, name: &PrincipalId) -> bool {
        self.state().table.principals.iter().any(|principal| principal.name() == name)
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
    let monitor = principal.role() == Role::Monitor;
    match needs {
        Needs::KnownOrOwnUser => Ok(()),
        Needs::Known if monitor => Err(Denied::Monitor(principal.name().clone())),
        Needs::Known => Ok(()),
        Needs::OperatorOrMonitor if operator || monitor => Ok(()),
        Needs::Origin if principal.origin().is_some() => Ok(()),
        Needs::Origin => Err(Denied::NoOrigin(principal.name().clone())),
        Needs::Operator | Needs::OperatorOrOwnUser if operator => Ok(()),
        Needs::Operator | Needs::OperatorOrOwnUser | Needs::OperatorOrMonitor => {
            Err(Denied::NotOperator(principal.name().clone()))
        }
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

fn claim(map: &mut BTreeMap<u32, Claim>, id: u32, place: usize) {
    let claim = map.entry(id).or_insert(Claim::One(place));
    if let Claim::One(first) = *claim
        && first != place
    {
        *claim = Claim::Two(first, place);
    }
}

#[cfg(test)]
mod tests {
    use super::super::permission::{
        ApproveAct, ApproveCeremony, Decrypt, DecryptDataKey, Encrypt, ListActs, ManageTenant, RecordDrill,
        ViewCheckpoints, ViewKey, ViewRecord, ViewStatus,
    };
    use super::*;
    use crate::id::TenantName;
    use crate::id::{CeremonyId, Installation, ProposalId, RecordNumber};

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

    fn resolved(principals: &str, own_user: Option<u32>) -> Result<Principals, PolicyError> {
        let file = toml::from_str::<File>(principals).unwrap();
        let (principals, faults) = Principals::resolve(&file.principal, own_user);
        faults.into_iter().next().map_or(Ok(principals), Err)
    }

    fn of(principals: &str, own_user: Option<u32>) -> Result<Policy, PolicyError> {
        resolved(principals, own_user).map(Policy::new)
    }

    fn peer(uid: u32, gid: u32) -> Peer {
        Peer { uid, gid, groups: Arc::default(), pid: None }
    }

    fn key(text: &str) -> KeyName {
        KeyName::parse(text).unwrap()
    }

    #[test]
    fn grants_are_by_key_and_operation() {
        let policy = policy();
        let crm = policy.caller(peer(1000, 50));
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
        let ops = policy.caller(peer(7, 50));
        assert!(policy.authorize::<ManageTenant>(&ops, TenantName::parse("tenants/acme").unwrap()).is_ok());
        assert!(policy.authorize::<Decrypt>(&ops, key("tenants/acme/keys/pii")).is_err());
    }

    #[test]
    fn the_end_of_a_freeze_that_comes_late_does_not_end_a_later_one() {
        let policy = policy();
        let crm = PrincipalId::new("crm").unwrap();
        let frozen = || policy.known(&peer(1000, 0)).unwrap().frozen();
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
        let root = policy.caller(peer(0, 0));
        assert_eq!(
            policy.authorize::<ViewStatus>(&root, Installation).unwrap_err(),
            Denied::Unknown { uid: 0, gid: 0 }
        );
        let crm = policy.caller(peer(1000, 0));
        let held = policy.authorize::<ViewStatus>(&crm, Installation).unwrap();
        policy.set_frozen(&PrincipalId::new("crm").unwrap(), true, 1);
        assert_eq!(held.holds(), Err(Denied::Frozen(PrincipalId::new("crm").unwrap())));
        assert!(matches!(policy.authorize::<ViewStatus>(&crm, Installation), Err(Denied::Frozen(_))));
    }

    #[test]
    fn a_user_of_two_principals_is_refused_and_told_beforehand() {
        let twice = PRINCIPALS.replace("groups = [50]", "users = [1000, 7]\ngroups = [60]");
        let policy = of(&twice, None).unwrap();
        let both = policy.caller(peer(1000, 60));
        let denied = policy.authorize::<ViewStatus>(&both, Installation).unwrap_err();
        assert!(matches!(denied, Denied::Ambiguous { uid: 1000, .. }), "the group does not decide: {denied}");
        assert!(policy.authorize::<ViewStatus>(&policy.caller(peer(7, 0)), Installation).is_ok());
        let [warning] = resolved(&twice, None).unwrap().warnings().try_into().unwrap();
        assert!(warning.contains("user 1000 belongs to both crm and ops"), "{warning}");
        let same = PRINCIPALS.replace("users = [1000]", "users = [1000, 1000]");
        assert!(resolved(&same, None).unwrap().warnings().is_empty(), "one principal twice is one");
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
    fn supplementary_groups_count_last_and_never_for_two() {
        let two =
            PRINCIPALS.to_owned() + "[[principal]]\nname = \"people\"\nrole = \"member\"\ngroups = [60]\n";
        let policy = of(&two, None).unwrap();
        let with = |uid, gid, groups: &[u32]| Peer { groups: groups.into(), ..peer(uid, gid) };
        let name = |peer| policy.caller(peer).principal.map(|known| known.name().to_string());
        assert_eq!(name(with(1001, 1, &[4, 60])).as_deref(), Some("people"));
        assert_eq!(name(with(1001, 50, &[4, 60])).as_deref(), Some("ops"), "the primary group");
        assert_eq!(name(with(1000, 50, &[60])).as_deref(), Some("crm"), "the user");
        assert_eq!(name(with(1001, 1, &[4, 5])), None);
        let both = policy
            .authorize::<ViewStatus>(&policy.caller(with(1001, 1, &[60, 4, 50])), Installation)
            .unwrap_err();
        assert!(matches!(both, Denied::Ambiguous { .. }), "{both}");
        assert_eq!(name(with(1001, 1, &[60, 60])).as_deref(), Some("people"), "one group twice is one");
    }

    #[test]
    fn members_sign_and_monitors_look_and_neither_does_more() {
        let roles = "[[principal]]\nname = \"alice\"\nrole = \"member\"\nusers = [1]\n\
                     [[principal]]\nname = \"metrics\"\nrole = \"monitor\"\nusers = [2]\n";
        let policy = of(roles, None).unwrap();
        let (member, monitor) = (policy.caller(peer(1, 1)), policy.caller(peer(2, 2)));
        for caller in [&member, &monitor] {
            assert!(policy.authorize::<ViewStatus>(caller, Installation).is_ok());
            let pii = key("tenants/acme/keys/pii");
            assert!(policy.authorize::<ViewKey>(caller, pii.clone()).is_err());
            assert!(policy.authorize::<Decrypt>(caller, pii).is_err());
            assert!(
                policy.authorize::<ManageTenant>(caller, TenantName::parse("tenants/acme").unwrap()).is_err()
            );
            assert!(policy.authorize::<ViewRecord>(caller, RecordNumber(1)).is_err());
        }
        assert!(policy.authorize::<ApproveAct>(&member, ProposalId([1; 16])).is_ok());
        assert!(policy.authorize::<ApproveCeremony>(&member, CeremonyId([1; 16])).is_ok());
        assert!(policy.authorize::<ViewCheckpoints>(&member, Installation).is_err());
        assert!(policy.authorize::<ViewCheckpoints>(&monitor, Installation).is_ok());
        let denied = policy.authorize::<ListActs>(&monitor, Installation).unwrap_err();
        assert!(matches!(denied, Denied::Monitor(_)), "{denied}");
    }

    #[test]
    fn the_daemons_own_user_looks_after_it_and_nothing_else() {
        let policy = of(PRINCIPALS, Some(999)).unwrap();
        // Its group would make it an operator.
        let own = policy.caller(peer(999, 50));
        assert!(policy.authorize::<ViewStatus>(&own, Installation).is_ok());
        assert!(policy.authorize::<RecordDrill>(&own, Installation).is_ok());
        for denied in [
            policy.authorize::<Encrypt>(&own, key("tenants/acme/keys/pii")).err(),
            policy.authorize::<ManageTenant>(&own, TenantName::parse("tenants/acme").unwrap()).err(),
            policy.authorize::<ListActs>(&own, Installation).err(),
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
        let policy = policy();
        let crm = policy.caller(peer(1000, 0));
        assert!(policy.authorize::<ViewStatus>(&crm, Installation).is_ok());
        policy.replace(resolved(&PRINCIPALS.replace("1000", "1001"), None).unwrap());
        assert!(matches!(policy.authorize::<ViewStatus>(&crm, Installation), Err(Denied::Unknown { .. })));
        assert!(policy.again(&crm).principal.is_none());
    }

    #[test]
    fn whoever_lost_a_right_ends_what_it_has_begun_and_nobody_else_does() {
        let crm = PrincipalId::new("crm").unwrap();
        for (from, to, lost) in [
            ("[1000]", "[1000]", false),
            ("[1000]", "[1000, 1001]", false),
            ("[1000]", "[1001]", true),
            ("operations = [\"encrypt\"]", "operations = [\"encrypt\", \"decrypt\"]", false),
            ("keys/*\"], operations = [\"encrypt\"]", "keys/p*\"], operations = [\"encrypt\"]", true),
            ("tenants/acme/keys/*", "tenants/*/keys/*", false),
            ("operations = [\"decrypt\"]", "operations = [\"blind-index\"]", true),
            ("\"application\"", "\"operator\"", true),
            ("role = \"application\"", "role = \"application\"\norigin = \"https://crm.example\"", false),
            ("\"crm\"", "\"crm2\"", true),
            // Two claim the user now, so it is nobody's.
            ("groups = [50]", "users = [1000]", true),
        ] {
            let policy = policy();
            let caller = policy.caller(peer(1000, 0));
            let held = policy.authorize::<Encrypt>(&caller, key("tenants/acme/keys/pii")).unwrap();
            // Another configuration in between, which takes nothing away.
            policy.replace(resolved(PRINCIPALS, None).unwrap());
            assert_eq!(held.holds(), Ok(()));
            let who = policy.replace(resolved(&PRINCIPALS.replacen(from, to, 1), None).unwrap());
            assert_eq!(who.contains(&crm), lost, "{from} became {to}");
            let expected = if lost { Err(Denied::Withdrawn(crm.clone())) } else { Ok(()) };
            assert_eq!(held.holds(), expected, "{from} became {to}");
        }
    }

    #[test]
    fn whoever_is_somebody_else_by_another_configuration_begins_anew() {
        let policy = policy();
        let (crm, ops) = (policy.caller(peer(1000, 0)), policy.caller(peer(7, 50)));
        policy.replace(resolved(PRINCIPALS, None).unwrap());
        assert!(policy.still_is(&crm) && policy.still_is(&ops));
        // The principal keeps its group; one of its people is another principal's from now on.
        let other = format!("{PRINCIPALS}[[principal]]\nname = \"locked\"\nrole = \"member\"\nusers = [7]\n");
        assert!(policy.replace(resolved(&other, None).unwrap()).is_empty());
        assert!(policy.still_is(&crm) && !policy.still_is(&ops));
        let denied = policy.authorize::<ListActs>(&ops, Installation).unwrap_err();
        assert_eq!(denied, Denied::Withdrawn(PrincipalId::new("ops").unwrap()));
        assert!(policy.authorize::<ListActs>(&policy.again(&ops), Installation).is_ok());
    }

    #[test]
    fn a_freeze_outlives_the_configuration_that_it_was_made_under() {
        let (policy, crm) = (policy(), PrincipalId::new("crm").unwrap());
        let frozen = || policy.known(&peer(1000, 0)).unwrap().frozen();
        let held = policy.authorize::<ViewStatus>(&policy.caller(peer(1000, 0)), Installation).unwrap();
        policy.replace(resolved(PRINCIPALS, None).unwrap());
        policy.set_frozen(&crm, true, 3);
        assert!(frozen() && held.holds().is_err(), "one that was authorised before the change, too");
        policy.replace(resolved(&PRINCIPALS.replace("\"crm\"", "\"other\""), None).unwrap());
        assert!(!frozen());
        policy.replace(resolved(PRINCIPALS, None).unwrap());
        assert!(frozen());
        // Frozen while the configuration does not have it.
        policy.set_frozen(&PrincipalId::new("new").unwrap(), true, 4);
        policy.replace(resolved(&PRINCIPALS.replace("\"crm\"", "\"new\""), None).unwrap());
        assert!(frozen());
    }
}
