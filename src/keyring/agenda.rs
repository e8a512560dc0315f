//! What is to be done at which date. The agenda is sorted by date, so that what
//! is due is found without looking at every key.

use std::fmt;

use minicbor::{Decode, Encode};

use crate::clock::{Date, Moment};
use crate::id::{KekVersion, KeyName, TenantId, VersionName};

/// Something that is done at its date.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// A new version of a key is opened.
    RotateKey(KeyName),
    /// The KEK of a tenant is rotated.
    RotateTenant(TenantId),
    /// A pre-active version becomes the primary one.
    Activate(VersionName),
    /// A version is destroyed.
    DestroyVersion(VersionName),
    /// A key is destroyed.
    DestroyKey(KeyName),
    /// A tenant is destroyed.
    DestroyTenant(TenantId),
    /// A KEK version that seals nothing any more is destroyed.
    DestroyKek(TenantId, KekVersion),
}

impl Task {
    /// Whether a key is gone when it is done.
    pub fn destroys(&self) -> bool {
        !matches!(self, Self::RotateKey(_) | Self::RotateTenant(_) | Self::Activate(_))
    }

    /// The tenant that it is about.
    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::RotateKey(key) | Self::DestroyKey(key) => &key.tenant,
            Self::RotateTenant(tenant) | Self::DestroyTenant(tenant) | Self::DestroyKek(tenant, _) => tenant,
            Self::Activate(version) | Self::DestroyVersion(version) => &version.key.tenant,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RotateKey(key) => write!(f, "rotate {key}"),
            Self::RotateTenant(tenant) => write!(f, "rotate tenants/{tenant}"),
            Self::Activate(version) => write!(f, "activate {version}"),
            Self::DestroyVersion(version) => write!(f, "destroy {version}"),
            Self::DestroyKey(key) => write!(f, "destroy {key}"),
            Self::DestroyTenant(tenant) => write!(f, "destroy tenants/{tenant}"),
            Self::DestroyKek(tenant, version) => write!(f, "destroy tenants/{tenant}/kekVersions/{version}"),
        }
    }
}

/// A line of the agenda: its name says it all.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Due {
    /// When it was entered.
    #[n(1)]
    pub entered: Date,
}

/// How many lines the agenda has for one day, so that none of them is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DueDay {
    /// Lines.
    #[n(1)]
    pub lines: u64,
}

/// Who runs what is due, for a while. With several daemons on one store only one does.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Lease {
    /// The node.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub holder: [u8; 16],
    /// The boot of its machine.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub boot: [u8; 16],
    /// Until when, by the boot-time clock of that boot.
    #[n(3)]
    pub until_boot: Moment,
    /// Until when, by the wall clock.
    #[n(4)]
    pub until_wall: Date,
    /// When it was taken or renewed.
    #[n(5)]
    pub renewed: Date,
}

impl Lease {
    /// Whether another node may take it. On the same boot only the boot-time clock counts,
    /// which nobody can set.
    pub fn has_ended(&self, boot: [u8; 16], now: super::timekeeping::Now) -> bool {
        match self.boot == boot {
            true => now.boot > self.until_boot,
            false => now.wall > self.until_wall,
        }
    }

    /// Whether its holder should renew it: half of it is over, or it is from another boot.
    pub fn is_stale(&self, boot: [u8; 16], now: super::timekeeping::Now, term: std::time::Duration) -> bool {
        self.boot != boot || now.boot.after(term / 2) > self.until_boot
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keyring::timekeeping::Now;

    #[test]
    fn a_lease_ends_by_the_clock_that_can_be_believed() {
        let term = Duration::from_secs(600);
        let now = Now { wall: Date(1_000_000), boot: Moment::now() };
        let lease = Lease {
            holder: [1; 16],
            boot: [2; 16],
            until_boot: now.boot.after(term),
            until_wall: now.wall.after(term),
            renewed: now.wall,
        };
        let later = |boot: u64, wall: u64| Now {
            wall: now.wall.after(Duration::from_secs(wall)),
            boot: now.boot.after(Duration::from_secs(boot)),
        };
        assert!(!lease.has_ended([2; 16], later(599, 100_000)), "setting the clock does not end it");
        assert!(lease.has_ended([2; 16], later(601, 0)));
        assert!(!lease.has_ended([3; 16], later(100_000, 599)), "another machine boots on its own");
        assert!(lease.has_ended([3; 16], later(0, 601)));
        assert!(!lease.is_stale([2; 16], later(200, 0), term));
        assert!(lease.is_stale([2; 16], later(400, 0), term) && lease.is_stale([3; 16], now, term));
    }
}
