//! Callers: what the kernel says of a peer, and who that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::meter::Meter;
use super::policy::Denied;
use super::staff::Staff;
use crate::config::value::Role;
use crate::config::{Allow, OWN_USER, Principal as Configured};
use crate::id::{Origin, PrincipalId};

/// The process at the other end, as the kernel recorded it at connect (SO_PEERCRED, SO_PEERGROUPS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// Process id: for the record only, never an identity, since it may be reused.
    pub pid: Option<i32>,
}

/// Who a peer is, by the policy in force.
#[derive(Debug, Clone)]
pub enum Standing {
    /// A principal.
    Known(Arc<Principal>),
    /// Two principals by the same rule, so none.
    Ambiguous {
        /// The one.
        first: PrincipalId,
        /// The other.
        second: PrincipalId,
    },
    /// No principal.
    Unknown,
}

/// A peer and the principal that it was when it called. A decision does not rest on
/// that: it looks the peer up again, so that a change of the policy reaches open
/// connections, sessions and batches.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The process.
    pub peer: Peer,
    /// Who it was, for the record; `None` for a caller who is nobody, or two.
    pub principal: Option<Arc<Principal>>,
    /// The staff member whom it acts for, when that was verified.
    pub staff: Option<Staff>,
    /// Where that staff member or customer is, as the caller says.
    pub client: Option<Arc<str>>,
}

/// A known caller, as one configuration has it.
#[derive(Debug)]
pub struct Principal {
    name: PrincipalId,
    role: Role,
    allow: Vec<Allow>,
    origin: Option<Origin>,
    /// Whether it stands for the daemon's own user.
    own: bool,
    live: Arc<Live>,
    held: Held,
}

/// The rights of a principal, for as long as configurations only add to them: what is begun by one of these ends when the
/// next one takes a right away.
#[derive(Debug, Clone)]
pub(super) struct Held(watch::Sender<bool>);

impl Default for Held {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Held {
    /// Whether they are the same, and nothing was taken from them.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0) && !*self.0.borrow()
    }

    /// Ends what was begun by them.
    pub(super) fn withdraw(&self) {
        self.0.send_replace(true);
    }
}

/// What is of a principal whatever the configuration says of it.
#[derive(Debug, Default)]
pub(super) struct Live {
    // Twice the revision of the store that says so, and 1 where it is frozen.
    frozen: AtomicU64,
    in_flight: Arc<Meter>,
}

impl Live {
    /// Takes over what the store says at `revision`, unless what a later one says is here already: the end of a
    /// freeze waits for its record, and another freeze does not.
    pub(super) fn set_frozen(&self, frozen: bool, revision: u64) {
        let state = revision.saturating_mul(2) | u64::from(frozen);
        self.frozen.fetch_max(state, Ordering::AcqRel);
    }
}

impl Principal {
    pub(super) fn new(configured: &Configured, live: Arc<Live>, held: Held) -> Self {
        Self {
            name: configured.name.clone(),
            role: configured.role,
            allow: configured.allow.clone(),
            origin: configured.origin.clone(),
            own: false,
            live,
            held,
        }
    }

    /// What stands for the daemon's own user.
    pub(super) fn own_user() -> Self {
        Self {
            name: PrincipalId::new(OWN_USER).expect("lower-case letters are a name"),
            role: Role::Application,
            allow: Vec::new(),
            origin: None,
            own: true,
            live: Arc::default(),
            held: Held::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &PrincipalId {
        &self.name
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether it stands for the daemon's own user, who looks after the daemon and uses no key.
    pub fn is_own_user(&self) -> bool {
        self.own
    }

    /// What all its connections have in flight.
    pub fn in_flight(&self) -> &Arc<Meter> {
        &self.live.in_flight
    }

    /// Its grants.
    pub(super) fn allow(&self) -> &[Allow] {
        &self.allow
    }

    /// How staff know it, if they log in to it.
    pub(super) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Whether nothing works for it.
    pub fn frozen(&self) -> bool {
        self.live.frozen.load(Ordering::Acquire) % 2 == 1
    }

    /// Its rights.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// That it is as it was when it began something.
    pub(super) fn holds(&self) -> Result<(), Denied> {
        match (self.frozen(), *self.held.0.borrow()) {
            (true, _) => Err(Denied::Frozen(self.name.clone())),
            (false, true) => Err(Denied::Withdrawn(self.name.clone())),
            (false, false) => Ok(()),
        }
    }
}
