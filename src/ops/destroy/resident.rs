//! Resident KEKs are in the HSM: there they are destroyed once their records are buried.

use super::bury::Grave;
use super::target::DestroyTarget;
use crate::ops::Error;
use crate::ops::commit::{self, Affects};
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
        for (path, stored) in commit::all(&self.records, &tables::kek_escrows(tenant)).await? {
            let (_, version) = path.id;
            let kek = tables::kek(tenant, version);
            let other = only.is_some_and(|only| only != version);
            if other || self.records.get(&tables::tombstone(&kek)).await?.is_none() {
                continue;
            }
            let master = stored.record.0.root;
            self.hsm.destroy_root(master).await?;
            let (remains, revision) = self.records.remains(&path).await?.ok_or(Error::Conflict)?;
            let mut changes = Changes::default();
            grave.bury(&mut changes, &path, revision, remains, None);
            let resource = format!("tenants/{tenant}/kekVersions/{version}");
            let words = format!("token object {master} is gone from every token");
            self.record_words("kek-object-destroyed", resource.clone(), words).await?;
            self.commit_own(changes, Affects::Nothing, "kek-escrow-buried", resource).await?;
        }
        Ok(())
    }
}
