//! Callers: what the kernel says of a peer, and who that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::meter::Meter;
use super::staff::Staff;
use crate::config::value::Role;
use crate::config::{Allow, OWN_USER, Principal as Configured};
use crate::id::{Origin, PrincipalId};

/// The process at the other end, as the kernel recorded it at connect (SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
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

/// A known caller.
#[derive(Debug)]
pub struct Principal {
    name: PrincipalId,
    role: Role,
    allow: Vec<Allow>,
    origin: Option<Origin>,
    // Twice the revision of the store that says so, and 1 where it is frozen.
    frozen: AtomicU64,
    /// Whether it stands for the daemon's own user.
    own: bool,
    in_flight: Arc<Meter>,
}

impl Principal {
    pub(super) fn new(configured: &Configured) -> Self {
        Self {
            name: configured.name.clone(),
            role: configured.role,
            allow: configured.allow.clone(),
            origin: configured.origin.clone(),
            frozen: AtomicU64::new(0),
            own: false,
            in_flight: Arc::default(),
        }
    }

    /// What stands for the daemon's own user.
    pub(super) fn own_user() -> Self {
        Self {
            name: PrincipalId::new(OWN_USER).expect("lower-case letters are a name"),
            role: Role::Application,
            allow: Vec::new(),
            origin: None,
            frozen: AtomicU64::new(0),
            own: true,
            in_flight: Arc::default(),
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
        &self.in_flight
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
        self.frozen.load(Ordering::Acquire) % 2 == 1
    }

    /// Takes over what the store says at `revision`, unless what a later one says is here already: the end of a
    /// freeze waits for its record, and another freeze does not.
    pub(super) fn set_frozen(&self, frozen: bool, revision: u64) {
        let state = revision.saturating_mul(2) | u64::from(frozen);
        self.frozen.fetch_max(state, Ordering::AcqRel);
    }
}
