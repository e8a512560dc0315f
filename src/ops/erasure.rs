//! The erasure key: a secret under which the store seals the rows of wrapped keys
//! once more, and which is replaced regularly.
//!
//! Its secret is sealed under a KEK that a token object of its own wraps, an
//! *erasure root*, which is in no escrow and no export. With that object a
//! generation of the key dies, and with the generation every copy of the rows
//! that it sealed.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::strays::{is_named, require_new};
use crate::access::Action;
use crate::audit::{AuditLog, Outcome, Pending, StoreChange};
use crate::clock::Date;
use crate::hsm::birth::{BackupPlan, Purpose};
use crate::hsm::process::TaskError;
use crate::hsm::{Hsm, HsmError, KeepNewborn, Kek, Operation, Reply};
use crate::id::{DeploymentId, ErasureGeneration, ExportId, RootId};
use crate::keyring::binding;
use crate::keyring::record::{Erasure, ErasureState, Export, ExportKind, Root};
use crate::secret::Key256;
use crate::store::{self, Cause, Changes, Path, Records, StoreError, Stored, tables};

mod forget;
mod replace;

pub use replace::{ErasureStatus, Replacing, Settings};

/// How long the copy may be kept that is made of a store before it is migrated.
const KEEP_MIGRATED: Duration = Duration::from_secs(35 * 24 * 60 * 60);

/// Why the erasure key of a store is not open.
#[derive(Debug, thiserror::Error)]
pub enum ErasureError {
    /// A generation is gone from the tokens.
    #[error(
        "the wrapped keys of this store are sealed under erasure key {0}, which is on none of the tokens: it was destroyed when it was replaced, so this is an old copy of the store, which nobody can read any more. What remains is a recovery export: see `as_keyward backup restore --in FILE`"
    )]
    Destroyed(ErasureGeneration),
    /// The HSM did not serve.
    #[error("the HSM: {0}")]
    Hsm(#[from] HsmError),
    /// The records cannot be read.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
}

/// A new generation, in the tokens.
pub struct NewErasure {
    /// Its record.
    pub record: Erasure,
    /// Its secret.
    pub secret: Key256,
}

/// Makes an erasure root on every token, and a secret under it. `keep` writes down its name before the first
/// token object is made.
///
/// # Errors
/// [`HsmError`]; what may be left on a token then is what `keep` has written down.
pub async fn make(
    hsm: &dyn Hsm,
    deployment: DeploymentId,
    generation: ErasureGeneration,
    state: ErasureState,
    keep: KeepNewborn<'_>,
) -> Result<NewErasure, HsmError> {
    let born = hsm.create_root(Purpose::Erasure(deployment), BackupPlan::Drop, keep).await;
    let root = born.map_err(not_done)?.id;
    let Reply::Wrapped(wrapped) = repeated(hsm, || Operation::GenerateKek { root }).await? else {
        return Err(misfit());
    };
    let generate = || Operation::GenerateKey {
        kek: Kek::Sealed { root, wrapped: wrapped.clone() },
        aad: binding::erasure_secret(deployment, generation),
    };
    let Reply::NewKey { key: secret, sealed } = repeated(hsm, generate).await? else {
        return Err(misfit());
    };
    let (kek, sealed) = (Some(wrapped), Some(sealed));
    let created = Date::now();
    Ok(NewErasure {
        record: Erasure { root, kek, sealed, created, state, resealed_to: None, destroyed: None },
        secret,
    })
}

/// For a birth where there is no store yet that could name it. What a crash leaves on the tokens then is told as
/// a [stray](super::strays::Stray), and destroyed by nobody but a person.
pub fn keep_nothing<'a>() -> KeepNewborn<'a> {
    Box::new(|_| Box::pin(async { Ok(()) }))
}

/// What is written down of a generation before its token object is made.
fn unborn(root: RootId) -> Erasure {
    let (state, created) = (ErasureState::Unborn, Date::now());
    Erasure { root, kek: None, sealed: None, created, state, resealed_to: None, destroyed: None }
}

/// Opens the secret of a generation; `None` for one that was destroyed or is not needed.
///
/// # Errors
/// [`ErasureError::Destroyed`] when no token has the erasure root.
pub async fn open(
    hsm: &dyn Hsm,
    deployment: DeploymentId,
    generation: ErasureGeneration,
    record: &Erasure,
) -> Result<Option<Key256>, ErasureError> {
    let (Some(wrapped), Some(sealed)) = (&record.kek, &record.sealed) else { return Ok(None) };
    // Nothing is sealed any more, not yet, or never was, under what may go or is gone.
    if !record.needs_root() || record.state == ErasureState::Unborn {
        return Ok(None);
    }
    let open = || Operation::OpenKey {
        kek: Kek::Sealed { root: record.root, wrapped: wrapped.clone() },
        aad: binding::erasure_secret(deployment, generation),
        sealed: sealed.clone(),
    };
    match repeated(hsm, open).await {
        Ok(Reply::Key(secret)) => Ok(Some(secret)),
        Ok(_) => Err(misfit().into()),
        Err(HsmError::UnknownRoot(_)) => Err(ErasureError::Destroyed(generation)),
        Err(error) => Err(error.into()),
    }
}

/// Opens every generation that rows are sealed under, and seals with the newest.
/// `false` when the store has no erasure key yet.
///
/// # Errors
/// [`ErasureError`]; the store is of no use then.
pub async fn open_all(
    hsm: &dyn Hsm,
    deployment: DeploymentId,
    records: &Records,
) -> Result<bool, ErasureError> {
    records.settle().await?;
    let mut newest = None;
    for (path, stored) in generations(records).await? {
        if let Some(secret) = open(hsm, deployment, path.id, &stored.record).await? {
            records.open_erasure_key(path.id, secret);
            newest = Some(path.id);
        }
    }
    if let Some(newest) = newest {
        records.seal_under(newest).await;
    }
    Ok(newest.is_some())
}

/// Gives a store of before the erasure key its first one, to be opened from its record. Its rows are
/// sealed in the background; the copy that was made of it before is on record until it is deleted.
///
/// # Errors
/// [`Error`]; when it may help, try again from [`open_all`] on: the record may have been made.
pub async fn found(
    hsm: &dyn Hsm,
    root: &Root,
    records: &Records,
    audit: Arc<dyn AuditLog>,
) -> Result<(), Error> {
    let used_up = || Error::Internal("erasure keys are used up".into());
    let generation = match generations(records).await?.last() {
        // Its birth was cut short, so it is none of the store's; the daemon destroys it later.
        Some((path, _)) => path.id.next().ok_or_else(used_up)?,
        None => ErasureGeneration::FIRST,
    };
    let path = tables::erasure(generation);
    let log = &audit;
    let keep: KeepNewborn<'_> = Box::new(move |newborn| {
        Box::pin(async move {
            require_new(records, newborn.id).await?;
            let mut changes = Changes::new();
            changes.create(&tables::erasure(generation), &unborn(newborn.id));
            changes.because(Cause::own("erasure-key-birth", path_name(generation)));
            let made = records.commit(changes).await.map_err(|error| error.to_string())?;
            let mut record =
                Pending::begin(log.clone(), None, Action::ErasureKeyBirth, path_name(generation), 0);
            record.change(StoreChange { revision: made.revision, digest: made.digest });
            let recorded = record.finish(Outcome::Ok).map_err(|error| error.to_string())?;
            recorded.await.map(drop).map_err(|error| error.to_string())
        })
    });
    let made = make(hsm, root.deployment, generation, ErasureState::TakingOver, keep).await?;
    let copy = Export {
        kind: ExportKind::Migration,
        created: made.record.created,
        delete_by: made.record.created.plus(KEEP_MIGRATED),
        revision: records.position().revision,
        root: root.id,
        // It is of before this.
        holds: Some(records.position().revision),
    };
    let mut changes = Changes::new();
    let before = records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?;
    changes.replace(&path, &made.record, before.revision);
    changes.create(&tables::export(ExportId::random()?), &copy);
    changes.because(Cause::own("erasure-key-new", path_name(generation)));
    let change = records.commit(changes).await?;
    let mut record = Pending::begin(audit.clone(), None, Action::ErasureKeyNew, path_name(generation), 0);
    record.change(StoreChange { revision: change.revision, digest: change.digest });
    record.detail("the store is migrated: its copy from before can be read until it is deleted");
    record.finish(Outcome::Ok)?.await?;
    Ok(())
}

/// Enters into a restored store the generation that its rows were sealed under. Those of
/// the store that the export was made of seal nothing any more, and neither do those that were found
/// on the tokens besides, `found`, made after the export: whoever restores has seen them, and from now on the store
/// says that they are to be destroyed. They get the numbers before `generation`.
///
/// # Errors
/// [`StoreError`]; the store is of no use then.
pub async fn take_over_restored(
    records: &Records,
    generation: ErasureGeneration,
    found: &[RootId],
    made: NewErasure,
) -> Result<store::StoreChange, StoreError> {
    // Before anything is read: escrows of resident KEKs are sealed under it.
    records.open_erasure_key(generation, made.secret);
    records.seal_under(generation).await;
    if is_named(records, made.record.root).await? {
        return Err(StoreError::Exists { what: format!("the erasure root {}", made.record.root) });
    }
    let (mut changes, before) = (Changes::new(), generations(records).await?);
    let mut free = before.last().and_then(|(path, _)| path.id.next());
    // One that a record says is gone, and that stands there all the same, is as good as unknown.
    let here = before.iter().filter(|(_, stored)| stored.record.destroyed.is_none());
    let named: Vec<RootId> = here.map(|(_, stored)| stored.record.root).collect();
    for root in found.iter().filter(|root| !named.contains(root)) {
        let number = free.filter(|number| *number < generation).ok_or(StoreError::NoErasureKey)?;
        let record = Erasure { state: ErasureState::Unused, ..unborn(*root) };
        changes.create(&tables::erasure(number), &record);
        free = number.next();
    }
    for (path, Stored { record, revision }) in before {
        // What people had forgotten stays that: it was never a generation of this store.
        if !matches!(record.state, ErasureState::Destroyed | ErasureState::Forgotten) {
            changes.replace(&path, &Erasure { state: ErasureState::Unused, ..record }, revision);
        }
    }
    changes.create(&tables::erasure(generation), &made.record);
    records.commit(changes).await
}

/// Every generation, in order.
async fn generations(records: &Records) -> Result<Vec<(Path<Erasure>, Stored<Erasure>)>, StoreError> {
    Ok(records.complete().await?.into_rows())
}

fn path_name(generation: ErasureGeneration) -> String {
    format!("erasure-keys/{generation}")
}

/// Asks as often as it may take to come to each token of the group: one that was
/// added after the generation was made does not have its root.
async fn repeated(hsm: &dyn Hsm, operation: impl Fn() -> Operation) -> Result<Reply, HsmError> {
    let mut answer = one(hsm, operation()).await;
    for _ in 0..8 * (hsm.slots().len() - 1) {
        match answer {
            Err(HsmError::UnknownRoot(_)) => answer = one(hsm, operation()).await,
            _ => break,
        }
    }
    answer
}

async fn one(hsm: &dyn Hsm, operation: Operation) -> Result<Reply, HsmError> {
    hsm.run(vec![operation]).await.pop().unwrap_or_else(|| Err(misfit()))
}

/// A task of the HSM that was not done; another try may help.
pub(super) fn not_done(error: TaskError) -> HsmError {
    HsmError::Unavailable(error.to_string())
}

fn misfit() -> HsmError {
    HsmError::Misbehaved("it gave another answer than asked for".into())
}
