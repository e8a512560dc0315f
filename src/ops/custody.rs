//! What one person may decide, and what needs a ceremony.

use super::Error;
use super::vault::Vault;
use crate::id::{Epoch, RootId, TenantId};
use crate::keyring::record::Custody;

/// Something that one person does not decide alone once the root is founded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matter<'a> {
    /// The destruction of what has this name.
    Destroy(&'a str),
    /// Another minimum version of a key: a higher one makes data unreadable, a lower one undoes what a
    /// ceremony decided.
    MinVersion(&'a str, Epoch),
    /// The rotation of a tenant whose KEK is in the HSM.
    RotateResident(&'a TenantId),
    /// The destruction of an erasure root that stands on the tokens and in no record.
    ForgetErasureRoot(RootId),
    /// The end of the freeze of what has this name.
    Unfreeze(&'a str),
}

impl Matter<'_> {
    /// As `keyward ceremony propose` takes it.
    fn proposal(self) -> String {
        match self {
            Self::Destroy(name) => format!("destroy {name}"),
            Self::MinVersion(name, version) => format!("set-min-version {name} {version}"),
            Self::RotateResident(tenant) => format!("rotate-tenant tenants/{tenant}"),
            Self::ForgetErasureRoot(root) => format!("forget-erasure-root {root}"),
            Self::Unfreeze(name) => format!("unfreeze {name}"),
        }
    }
}

impl Vault {
    /// That an operator may decide this, since there are no custodians: the one place that says so.
    ///
    /// # Errors
    /// [`Error::CeremonyRequired`] since the root was founded.
    pub(super) fn require_unfounded(&self, matter: Matter<'_>) -> Result<(), Error> {
        match self.root().custody {
            Custody::Unfounded => Ok(()),
            Custody::Founded => Err(Error::CeremonyRequired(matter.proposal())),
        }
    }
}
