//! How often a KEK version may still encrypt.
//!
//! AES-GCM with random 96-bit nonces is safe for 2^32 encryptions under one key
//! (NIST SP 800-38D, section 8.3). The count is reserved durably in blocks, so
//! that a crash can only overstate it.

use std::collections::HashMap;

use tokio::sync::Mutex;

use super::Error;
use super::commit::{Affects, unhindered};
use super::vault::Vault;
use crate::access::Action;
use crate::id::{KekVersion, TenantId};
use crate::keyring::record::KekRecord;
use crate::store::{Changes, tables};

/// Encryptions allowed under one KEK version: far below 2^32.
pub(super) const LIMIT: u64 = 1 << 31;
const BLOCK: u64 = 1024;

/// Reserved and not yet used, by tenant and KEK version.
#[derive(Default)]
pub(super) struct KekUses(Mutex<HashMap<(TenantId, KekVersion), u64>>);

impl Vault {
    /// Takes `count` encryptions out of what is reserved, reserving more when it is not enough.
    pub(super) async fn reserve_kek_uses(
        &self,
        tenant: &TenantId,
        version: KekVersion,
        count: u64,
    ) -> Result<(), Error> {
        let mut reserved = self.kek_uses.0.lock().await;
        let left = reserved.entry((tenant.clone(), version)).or_default();
        if *left < count {
            // Sealing the record anew under another erasure key changes it, too.
            *left += unhindered!(self.reserve_durably(tenant, version, count.max(BLOCK)))?;
        }
        *left -= count;
        Ok(())
    }

    async fn reserve_durably(
        &self,
        tenant: &TenantId,
        version: KekVersion,
        count: u64,
    ) -> Result<u64, Error> {
        let stored = self.kek(tenant, version).await?;
        let uses_reserved = stored
            .record
            .uses_reserved
            .checked_add(count)
            .filter(|uses| *uses <= LIMIT)
            .ok_or_else(|| Error::Exhausted(Self::tenant_name(tenant), version))?;
        let record = KekRecord { uses_reserved, ..stored.record };
        let mut changes = Changes::default();
        changes.replace(&tables::kek(tenant, version), &record, stored.revision);
        let resource = format!("tenants/{tenant}/kekVersions/{version}");
        self.commit_own(changes, Affects::Nothing, Action::ReserveKekUses, resource).await?;
        Ok(count)
    }
}
