//! Tasks that are done once, each in an HSM process of its own.

use std::io;

use crate::hsm::pkcs11::ConnectError;
use crate::hsm::pkcs11::root::{Escrow, Settled};
use crate::hsm::process::link::Link;
use crate::hsm::process::settings::{Settings, Slot};
use crate::hsm::process::slot::read_pin;
use crate::hsm::process::wire::{Decision, FromChild, Task};
use crate::id::RootId;
use crate::keyring::wrapped::WrappedKek;
use crate::secret::Key256;

/// A new root key, on every token of the group.
#[derive(Debug)]
pub struct NewRoot {
    /// Its name, and its CKA_ID on the tokens.
    pub id: RootId,
    /// The root, wrapped under the backup key.
    pub escrow: WrappedKek,
    /// How each token holds it; the first is the one where it was born.
    pub settled: Vec<Settled>,
}

impl NewRoot {
    /// How the token holds it where it was born.
    pub fn born(&self) -> &Settled {
        // A root is made on one token at least.
        &self.settled[0]
    }
}

/// Why a task was not done.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No connection to a token.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The backup key could not be kept.
    #[error("no root key was made, because its backup could not be kept: {0}")]
    Persist(io::Error),
    /// A token did not do what was asked; nothing stays on it.
    #[error("{0}")]
    Failed(String),
    /// Some tokens of the group have the new root and some do not.
    #[error(
        "the root key {id} is on some tokens of the group only ({reason}): remove the objects \"keyward root {id}\" by hand and start again"
    )]
    Half {
        /// Its name.
        id: RootId,
        /// What went wrong.
        reason: String,
    },
}

/// The root keys that Keyward has made on any token of the group.
///
/// # Errors
/// [`TaskError`] when a token cannot be asked.
pub async fn roots(settings: &Settings) -> Result<Vec<RootId>, TaskError> {
    let mut found = Vec::new();
    for slot in &settings.slots {
        match open(settings, slot, Task::Roots).await?.hear().await {
            Ok(FromChild::Roots(roots)) => found.extend(roots),
            other => return Err(unexpected(other)),
        }
    }
    Ok(found)
}

/// Makes a root key on the first token, with escrow at birth, and puts it onto
/// all others. `persist` must keep the backup key and the escrow durably; it is
/// called before the root becomes a token object.
///
/// # Errors
/// [`TaskError`]; except for [`TaskError::Half`], nothing stays on any token.
pub async fn create_root(
    settings: &Settings,
    persist: impl FnOnce(&Key256, &WrappedKek) -> io::Result<()>,
) -> Result<NewRoot, TaskError> {
    let [first, others @ ..] = settings.slots.as_slice() else {
        return Err(TaskError::Failed("no token is configured".to_owned()));
    };
    let mut birth = open(settings, first, Task::CreateRoot).await?;
    let Escrow { id, wrapped, backup_key } = match birth.hear().await {
        Ok(FromChild::Escrow(escrow)) => escrow,
        other => return Err(unexpected(other)),
    };
    if let Err(error) = persist(&backup_key, &wrapped) {
        decide(&mut birth, Decision::Stop).await?;
        birth.hear().await.map_err(TaskError::Failed)?;
        return Err(TaskError::Persist(error));
    }
    decide(&mut birth, Decision::Go).await?;
    let born = settled(&mut birth).await?;
    // From here on a token gives the root up again unless it is told to keep it.
    let mut holders = vec![birth];
    let mut all = vec![born];
    for slot in others {
        let escrow = Escrow { id, wrapped: wrapped.clone(), backup_key: backup_key.duplicate() };
        let task = Task::AdoptRoot { escrow, canary: all[0].canary.clone() };
        match adopted(settings, slot, task).await {
            Ok((holder, settled)) => {
                holders.push(holder);
                all.push(settled);
            }
            Err(error) => return Err(give_up(holders, id, error).await),
        }
    }
    keep(holders, id).await?;
    Ok(NewRoot { id, escrow: wrapped, settled: all })
}

async fn open(settings: &Settings, slot: &Slot, task: Task) -> Result<Link, ConnectError> {
    let pin = read_pin(slot.pin.clone()).await?;
    Link::open(&settings.program, slot, pin, settings.deadline, task).await
}

async fn adopted(settings: &Settings, slot: &Slot, task: Task) -> Result<(Link, Settled), TaskError> {
    let mut holder = open(settings, slot, task).await?;
    let settled = settled(&mut holder).await?;
    Ok((holder, settled))
}

async fn settled(holder: &mut Link) -> Result<Settled, TaskError> {
    match holder.hear().await {
        Ok(FromChild::Settled(settled)) => Ok(settled),
        other => Err(unexpected(other)),
    }
}

async fn decide(holder: &mut Link, decision: Decision) -> Result<(), TaskError> {
    let told = holder.tell(&decision).await;
    told.map_err(|error| TaskError::Failed(format!("the socket to the HSM process: {error}")))
}

/// Has the root destroyed where it stands already; the answer says why it was given up.
async fn give_up(holders: Vec<Link>, id: RootId, error: TaskError) -> TaskError {
    for mut holder in holders {
        let stopped = decide(&mut holder, Decision::Stop).await;
        // The process says that the root was destroyed, and why.
        if stopped.is_err() || !matches!(holder.hear().await, Ok(FromChild::Refused(_))) {
            return TaskError::Half { id, reason: error.to_string() };
        }
    }
    error
}

/// Has the root kept on every token.
async fn keep(holders: Vec<Link>, id: RootId) -> Result<(), TaskError> {
    for mut holder in holders {
        let kept = decide(&mut holder, Decision::Go).await;
        let finished = holder.hear().await;
        if kept.is_err() || !matches!(finished, Ok(FromChild::Finished)) {
            return Err(TaskError::Half { id, reason: unexpected(finished).to_string() });
        }
    }
    Ok(())
}

fn unexpected(heard: Result<FromChild, String>) -> TaskError {
    match heard {
        Ok(FromChild::Failed(error)) => error.into(),
        Ok(FromChild::Refused(reason)) | Err(reason) => TaskError::Failed(reason),
        Ok(_) => TaskError::Failed("the HSM process speaks another protocol".to_owned()),
    }
}
