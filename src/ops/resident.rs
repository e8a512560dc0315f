//! Resident KEKs: token objects of their own, for tenants that custodians have moved into the HSM.
//!
//! ```text
//! birth     escrow record → token objects → KEK record, with the rotation that begins
//! end       KEK record buried → token objects destroyed → escrow record buried
//! ```
//!
//! So an escrow record without its KEK record is what a crash leaves. Where the KEK record has a
//! tombstone, its destruction is under way and goes on by itself; where it has none, the birth was
//! interrupted: the backup key is gone, and whatever stands on a token is destroyed.

use super::Error;
use super::commit::{Affects, unhindered};
use super::done::Done;
use super::root::escrow_of;
use super::rotate::{Making, RotationInfo};
use super::strays::require_new;
use super::vault::Vault;
use crate::access::Action;
use crate::clock::Date;
use crate::hsm::KeepNewborn;
use crate::hsm::birth::{NewRoot, Purpose};
use crate::hsm::process::TaskError;
use crate::id::{CeremonyId, KekVersion, TenantId};
use crate::keyring::escrow::KekEscrow;
use crate::keyring::record::KekRecord;
use crate::keyring::recovery::EscrowedKek;
use crate::keyring::roster::Members;
use crate::keyring::state::KeyState;
use crate::store::{Changes, Path, Stored, tables};

/// On whose word a resident KEK is made, and who gets shares of its backup key.
#[derive(Clone, Copy)]
pub(super) struct Mandate<'a> {
    pub(super) ceremony: CeremonyId,
    pub(super) members: &'a Members,
}

/// What a ceremony wants a tenant to have.
#[derive(Clone, Copy)]
pub(super) enum Goal<'a> {
    /// A KEK in the store.
    Sealed,
    /// A KEK in the HSM.
    Resident(Mandate<'a>),
    /// A KEK in the HSM that this very ceremony made.
    Reborn(Mandate<'a>),
}

impl Vault {
    /// Whether the tenant's KEK is a token object.
    pub(super) async fn is_resident(&self, id: &TenantId) -> Result<bool, Error> {
        let tenant = self.tenant(id).await?.record;
        match tenant.state() {
            KeyState::Destroyed => Ok(false),
            _ => Ok(self.kek(id, tenant.primary_kek).await?.record.resident.is_some()),
        }
    }

    /// Rotates a tenant, frozen or not, until it has what is wanted. Takes over a rotation that runs.
    pub(super) async fn rotate_until(&self, id: &TenantId, goal: Goal<'_>) -> Result<(), Error> {
        loop {
            self.rotate_to_end(id).await?;
            let tenant = self.tenant(id).await?.record;
            if tenant.state() == KeyState::Destroyed {
                return Err(Error::NotAllowed(format!("tenants/{id} was destroyed meanwhile")));
            }
            if self.has(id, tenant.primary_kek, goal).await? {
                return Ok(());
            }
            let begun = match goal {
                Goal::Sealed => unhindered!(self.begin_rotation_of(id, Making::Sealed))?,
                Goal::Resident(mandate) | Goal::Reborn(mandate) => {
                    self.begin_resident_rotation(id, mandate).await?
                }
            };
            self.record_own(Action::RotateTenant, Self::tenant_name(id).to_string(), begun.change()).await?;
        }
    }

    async fn has(&self, id: &TenantId, primary: KekVersion, goal: Goal<'_>) -> Result<bool, Error> {
        let resident = self.kek(id, primary).await?.record.resident.is_some();
        Ok(match goal {
            Goal::Sealed => !resident,
            Goal::Resident(_) => resident,
            Goal::Reborn(mandate) => {
                let escrow = self.records.get(&tables::kek_escrow(id, primary)).await?;
                resident && escrow.is_some_and(|stored| stored.record.0.ceremony == mandate.ceremony)
            }
        })
    }

    /// Makes a resident KEK on every token, and begins the rotation to it.
    async fn begin_resident_rotation(
        &self,
        id: &TenantId,
        mandate: Mandate<'_>,
    ) -> Result<Done<RotationInfo>, Error> {
        // Whoever holds this may take an escrow without a KEK for one that nobody works on.
        let _alone = self.minting.lock().await;
        // Shares are for those who are custodians now.
        self.require_members(mandate.members).await?;
        self.give_up_unborn_keks().await?;
        let primary = self.tenant(id).await?.record.primary_kek;
        let to = primary.next().ok_or_else(|| Error::NotAllowed("no KEK versions are left".into()))?;
        let kek = self.mint_kek(id, to, mandate).await?;
        unhindered!(self.begin_rotation_of(id, Making::Born(to, &kek)))
    }

    /// Makes a resident KEK on every token, escrowed among the members.
    async fn mint_kek(
        &self,
        id: &TenantId,
        version: KekVersion,
        mandate: Mandate<'_>,
    ) -> Result<KekRecord, Error> {
        let Mandate { ceremony, members } = mandate;
        let plan = self.split_among(ceremony, members);
        let keep: KeepNewborn<'_> = Box::new(move |newborn| {
            Box::pin(async move {
                require_new(&self.records, newborn.id).await?;
                let escrow = KekEscrow(escrow_of(ceremony, members, newborn)?);
                let path = tables::kek_escrow(id, version);
                let mut changes = Changes::default();
                changes.create(&path, &escrow);
                let kept = self.commit_own(changes, Affects::Nothing, Action::KekEscrow, name(&path)).await;
                kept.map(drop).map_err(|error| error.to_string())
            })
        });
        let NewRoot { id, escrow, settled } = self.hsm.create_root(Purpose::Resident, plan, keep).await?;
        // A key is made on one token at least.
        let resident = settled.into_iter().next().map(|settled| settled.canary);
        let (state, created) = (KeyState::Active, Date::now());
        Ok(KekRecord {
            root: id,
            wrapped: escrow,
            state,
            uses_reserved: 0,
            created,
            destruction: None,
            resident,
        })
    }

    /// Destroys what interrupted births have left. The caller holds `minting`.
    async fn give_up_unborn_keks(&self) -> Result<(), Error> {
        for (path, stored) in self.records.complete::<KekEscrow>().await? {
            let (tenant, version) = &path.id;
            let kek = tables::kek(tenant, *version);
            let own = |kek: &Stored<KekRecord>| kek.record.root == stored.record.0.root;
            let born = self.records.get(&kek).await?.as_ref().is_some_and(own);
            if born || self.records.get(&tables::tombstone(&kek)).await?.is_some() {
                continue;
            }
            self.hsm.destroy_root(stored.record.0.root).await?;
            let mut changes = Changes::default();
            changes.delete(&path, stored.revision);
            self.commit_own(changes, Affects::Nothing, Action::KekAbandoned, name(&path)).await?;
        }
        Ok(())
    }

    /// The resident KEKs in use, as they can be restored.
    pub(super) async fn escrowed_keks(&self) -> Result<Vec<EscrowedKek>, Error> {
        let mut found = Vec::new();
        for (path, stored) in self.records.complete::<KekEscrow>().await? {
            let (tenant, version) = path.id;
            let kek = self.records.get(&tables::kek(&tenant, version)).await?.map(|stored| stored.record);
            let kek = kek.filter(|kek| kek.state == KeyState::Active && kek.root == stored.record.0.root);
            if let Some(canary) = kek.and_then(|kek| kek.resident) {
                found.push(EscrowedKek { tenant, version, escrow: stored.record.0, canary });
            }
        }
        Ok(found)
    }

    /// Destroys what interrupted births have left, when a ceremony has come to its end without using what it had made.
    pub(super) async fn give_up_minted(&self) -> Result<(), Error> {
        let _alone = self.minting.lock().await;
        self.give_up_unborn_keks().await
    }
}

/// A token without room ends a move, which can be proposed again; a change of the roster, which has begun
/// to move tenants, waits for room instead.
pub(super) fn refused_when_full(error: Error) -> Error {
    match error {
        Error::Task(TaskError::Full(reason)) => Error::NotAllowed(reason),
        other => other,
    }
}

fn name(path: &Path<KekEscrow>) -> String {
    let (tenant, version) = &path.id;
    format!("tenants/{tenant}/kekVersions/{version}")
}
