//! Tasks that are done once, each in an HSM process of its own.

use std::io;
use std::time::Duration;

use crate::hsm::pkcs11::root::{Escrow, Settled};
use crate::hsm::pkcs11::{CheckReport, ConnectError};
use crate::hsm::process::link::Link;
use crate::hsm::process::settings::{Settings, Slot};
use crate::hsm::process::slot::read_pin;
use crate::hsm::process::wire::{Decision, FromChild, Task};
use crate::id::RootId;
use crate::keyring::wrapped::WrappedKek;
use crate::secret::Key256;

/// How long a process may work on a task without a word.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// Examines the module and the first token of the group. What crashes or hangs
/// in the module is an error like any other.
///
/// # Errors
/// [`TaskError`] when it does not come to a login or the token cannot be described.
pub async fn check(settings: &Settings) -> Result<CheckReport, TaskError> {
    let Some(slot) = settings.slots.first() else {
        return Err(TaskError::Failed("no token is configured".to_owned()));
    };
    match hear(&mut open(settings, slot, Task::Check).await?).await {
        Ok(FromChild::Report(report)) => {
            serde_json::from_str(&report).map_err(|error| TaskError::Failed(error.to_string()))
        }
        other => Err(unexpected(other)),
    }
}

/// The root keys that Keyward has made on any token of the group.
///
/// # Errors
/// [`TaskError`] when a token cannot be asked.
pub async fn roots(settings: &Settings) -> Result<Vec<RootId>, TaskError> {
    let mut found = Vec::new();
    for slot in &settings.slots {
        match hear(&mut open(settings, slot, Task::Roots).await?).await {
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
    let Escrow { id, wrapped, backup_key } = match hear(&mut birth).await {
        Ok(FromChild::Escrow(escrow)) => escrow,
        other => return Err(unexpected(other)),
    };
    if let Err(error) = persist(&backup_key, &wrapped) {
        decide(&mut birth, Decision::Stop).await?;
        hear(&mut birth).await.map_err(TaskError::Failed)?;
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

/// The next message of a process that is not to hang for ever.
async fn hear(link: &mut Link) -> Result<FromChild, String> {
    let heard = tokio::time::timeout(PATIENCE, link.hear()).await;
    heard.unwrap_or_else(|_| Err(format!("the PKCS#11 module did not answer within {PATIENCE:?}")))
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
    match hear(holder).await {
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
        if stopped.is_err() || !matches!(hear(&mut holder).await, Ok(FromChild::Refused(_))) {
            return TaskError::Half { id, reason: error.to_string() };
        }
    }
    error
}

/// Has the root kept on every token.
async fn keep(holders: Vec<Link>, id: RootId) -> Result<(), TaskError> {
    for mut holder in holders {
        let kept = decide(&mut holder, Decision::Go).await;
        let finished = hear(&mut holder).await;
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
