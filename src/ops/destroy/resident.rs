//! Resident KEKs are in the HSM: there they are destroyed once their records are buried.

use super::bury::Grave;
use crate::access::Action;
use crate::id::DestroyTarget;
use crate::ops::Error;
use crate::ops::commit::Affects;
use crate::ops::vault::Vault;
use crate::store::{Changes, tables};

impl Vault {
    /// Destroys the token objects of the resident KEKs that were buried, proves for every token that they
    /// are gone, and buries their escrow. Nothing is left to do when it was done before.
    pub(super) async fn bury_resident(&self, grave: &Grave<'_>) -> Result<(), Error> {
        let (tenant, only) = match grave.target() {
            DestroyTarget::Tenant(id) => (id, None),
            DestroyTarget::Kek(id, version) => (id, Some(*version)),
            DestroyTarget::Key(_) | DestroyTarget::Version(_) => return Ok(()),
        };
        let versions = self.tenant(tenant).await?.record.kek_versions();
        for version in versions.filter(|version| only.is_none_or(|only| only == *version)) {
            let path = tables::kek_escrow(tenant, version);
            let Some(stored) = self.records.get(&path).await? else { continue };
            if self.records.get(&tables::tombstone(&tables::kek(tenant, version))).await?.is_none() {
                continue;
            }
            let master = stored.record.0.root;
            self.hsm.destroy_root(master).await?;
            let row = self.records.remains(&path).await?.ok_or(Error::Conflict)?;
            let mut changes = Changes::default();
            grave.bury(&mut changes, &path, row);
            let resource = format!("tenants/{tenant}/kekVersions/{version}");
            let words = format!("token object {master} is gone from every token");
            self.record_words(Action::KekObjectDestroyed, resource.clone(), words).await?;
            self.commit_own(changes, Affects::Nothing, Action::KekEscrowBuried, resource).await?;
        }
        Ok(())
    }
}
