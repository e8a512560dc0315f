//! Generations of the root: making one, putting it in force, destroying the one before.
//!
//! ```text
//! mint      escrow record → token objects          a crash in between leaves an escrow without a root
//! enthrone  new root, old one retired, the daemon's secret moved: one commit
//! bury      token objects destroyed → the record says so
//! ```

use super::Error;
use super::commit::Affects;
use super::strays::require_new;
use super::vault::{Vault, misfit};
use crate::access::Action;
use crate::clock::Date;
use crate::hsm::birth::{Backup, BackupPlan, Holder, NewRoot, Newborn, Purpose};
use crate::hsm::{KeepNewborn, Kek, Operation, Reply};
use crate::id::{CeremonyId, RootGeneration};
use crate::keyring::binding;
use crate::keyring::escrow::{AgreementPoint, Escrow, EscrowShare, share_context};
use crate::keyring::record::{Custody, Root, RootState, SystemSecret};
use crate::keyring::roster::Members;
use crate::store::{Changes, StoreError, Stored, tables};

/// A root that stands on the tokens and is not in force yet.
pub(super) struct Minted {
    generation: RootGeneration,
    root: NewRoot,
}

impl Vault {
    /// The root in force, from the store.
    pub(super) async fn root_in_force(&self) -> Result<Stored<Root>, Error> {
        let path = tables::root(self.root().generation);
        let stored = self.records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?;
        match stored.record.state {
            None | Some(RootState::Active) => Ok(stored),
            // Another one is being put in force at this moment.
            _ => Err(Error::Conflict),
        }
    }

    /// Takes over from the store which root is in force: a commit that failed may have been made.
    pub(super) async fn follow_root(&self) -> Result<(), Error> {
        let roots = self.records.complete::<Root>().await?;
        let active = |root: &Root| matches!(root.state, None | Some(RootState::Active));
        let newest = roots.into_iter().map(|(_, stored)| stored.record).rev().find(active);
        let newest = newest.ok_or_else(|| Error::Internal("no root is in force".into()))?;
        if newest.id != self.root().id {
            self.hsm.expect(newest.canary.clone());
            self.set_root(newest);
        }
        Ok(())
    }

    /// Makes the next generation on every token, escrowed among `members`.
    pub(super) async fn mint_root(&self, ceremony: CeremonyId, members: &Members) -> Result<Minted, Error> {
        let generation = self.root().generation.next();
        let generation =
            generation.ok_or_else(|| Error::NotAllowed("no root generations are left".into()))?;
        self.give_up_unborn(generation).await?;
        let plan = self.split_among(ceremony, members);
        let keep: KeepNewborn<'_> = Box::new(move |newborn| {
            Box::pin(async move {
                require_new(&self.records, newborn.id).await?;
                let escrow = escrow_of(ceremony, members, newborn)?;
                let mut changes = Changes::default();
                changes.create(&tables::escrow(generation), &escrow);
                let resource = format!("roots/{generation}");
                let kept = self.commit_own(changes, Affects::Nothing, Action::RootEscrow, resource).await;
                kept.map_err(|error| error.to_string())?;
                tracing::info!(%generation, "root key: its shares are recorded");
                Ok(())
            })
        });
        let root = self.hsm.create_root(Purpose::Root, plan, keep).await?;
        tracing::info!(%generation, "root key: it is made on every token");
        Ok(Minted { generation, root })
    }

    /// The backup key of a new master key, split among the members.
    pub(super) fn split_among(&self, ceremony: CeremonyId, members: &Members) -> BackupPlan {
        let quorum = members.quorum();
        let holders = members.custodians().iter().map(|custodian| Holder {
            key: AgreementPoint(custodian.agreement().point()),
            context: share_context(self.deployment(), ceremony, quorum, custodian.name()),
        });
        BackupPlan::Split { quorum: quorum.get(), holders: holders.collect() }
    }

    /// An escrow without a root record: its making was interrupted, and its backup key is gone.
    async fn give_up_unborn(&self, generation: RootGeneration) -> Result<(), Error> {
        let path = tables::escrow(generation);
        let Some(stored) = self.records.get(&path).await? else { return Ok(()) };
        self.hsm.destroy_root(stored.record.root).await?;
        let mut changes = Changes::default();
        changes.delete(&path, stored.revision);
        let resource = format!("roots/{generation}");
        self.commit_own(changes, Affects::Nothing, Action::RootAbandoned, resource).await?;
        Ok(())
    }

    /// Puts a minted root in force, together with `further` changes. The daemon's own secret moves to it.
    pub(super) async fn enthrone(&self, minted: Minted, further: Changes) -> Result<(), Error> {
        let Minted { generation, root } = minted;
        let old = self.root_in_force().await?;
        let new = Root {
            id: root.id,
            generation,
            deployment: old.record.deployment,
            custody: Custody::Founded,
            escrow: root.escrow.clone(),
            canary: root.born().canary.clone(),
            token_serial: root.born().token.serial.clone(),
            token_label: root.born().token.label.clone(),
            created: Date::now(),
            state: Some(RootState::Active),
        };
        let path = tables::system_secret();
        let secret = self.records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?;
        let moved = self.move_secret(secret.record, &new).await?;
        let mut changes = further;
        changes.create(&tables::root(generation), &new);
        let retired = Root { state: Some(RootState::Retired), ..old.record };
        changes.replace(&tables::root(retired.generation), &retired, old.revision);
        changes.replace(&path, &moved, secret.revision);
        let committed =
            self.commit_own(changes, Affects::Nothing, Action::RootInForce, format!("roots/{generation}"));
        committed.await?;
        tracing::info!(%generation, "root key: it is in force");
        self.hsm.expect(new.canary.clone());
        self.set_root(new);
        Ok(())
    }

    /// The daemon's secret, sealed under a KEK of another root. The secret stays the same.
    async fn move_secret(&self, old: SystemSecret, root: &Root) -> Result<SystemSecret, Error> {
        let Reply::Wrapped(kek) = self.hsm(Operation::GenerateKek { root: root.id }).await? else {
            return Err(misfit("KEK generation"));
        };
        let aad = binding::system_secret(root.deployment);
        let moved = Operation::MoveKey {
            from: Kek::Sealed { root: old.root, wrapped: old.kek },
            from_aad: aad.clone(),
            sealed: old.sealed,
            to: Kek::Sealed { root: root.id, wrapped: kek.clone() },
            to_aad: aad,
        };
        match self.hsm(moved).await? {
            Reply::Sealed(sealed) => Ok(SystemSecret { root: root.id, kek, sealed }),
            _ => Err(misfit("move key")),
        }
    }

    /// The retired generations, oldest first.
    pub(super) async fn retired_roots(&self) -> Result<Vec<Stored<Root>>, Error> {
        let roots = self.records.complete::<Root>().await?;
        let retired = |root: &Stored<Root>| root.record.state == Some(RootState::Retired);
        Ok(roots.into_iter().map(|(_, stored)| stored).filter(retired).collect())
    }

    /// Destroys a retired root, its escrow too. Nothing may be wrapped under it any more.
    pub(super) async fn bury_root(&self, old: Stored<Root>) -> Result<(), Error> {
        self.hsm.destroy_root(old.record.id).await?;
        let generation = old.record.generation;
        tracing::info!(%generation, "root key: the old one is destroyed on every token");
        let mut changes = Changes::default();
        let buried = Root { state: Some(RootState::Destroyed), ..old.record };
        changes.replace(&tables::root(generation), &buried, old.revision);
        if let Some(escrow) = self.records.get(&tables::escrow(generation)).await? {
            changes.delete(&tables::escrow(generation), escrow.revision);
        }
        self.commit_own(changes, Affects::Nothing, Action::RootDestroyed, format!("roots/{generation}"))
            .await?;
        tracing::info!(%generation, "root key: the old one is off the record");
        Ok(())
    }
}

/// The escrow of a new master key.
pub(super) fn escrow_of(ceremony: CeremonyId, members: &Members, newborn: Newborn) -> Result<Escrow, String> {
    let Backup::Split(sealed) = newborn.backup else {
        return Err("the HSM process did not split the backup key".into());
    };
    let names = members.custodians().iter().map(|custodian| custodian.name().clone());
    if sealed.len() != names.len() {
        return Err("the HSM process made another number of shares than there are custodians".into());
    }
    let shares = names.zip(sealed).map(|(custodian, sealed)| EscrowShare { custodian, sealed }).collect();
    Ok(Escrow { root: newborn.id, wrapped: newborn.wrapped, ceremony, quorum: members.quorum(), shares })
}
