//! Tasks that are done once, each in an HSM process of its own.

use std::time::Duration;

use crate::hsm::birth::{BackupPlan, Delivery, Handover, NewRoot, Newborn, Purpose, Standing};
use crate::hsm::pkcs11::root::{Settled, Verdict};
use crate::hsm::pkcs11::{CheckReport, ConnectError};
use crate::hsm::process::link::Link;
use crate::hsm::process::settings::{Settings, Slot};
use crate::hsm::process::slot::read_pin;
use crate::hsm::process::wire::{Decision, FromChild, Task};
use crate::id::RootId;
use crate::keyring::escrow::{AgreementPoint, SealedBox};

/// How long a process may work on a task without a word.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a task was not done.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No connection to a token.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The backup key could not be kept.
    #[error("no key was made, because its backup could not be kept: {0}")]
    Persist(String),
    /// A token has no room for another resident KEK; nothing was made.
    #[error("{0}")]
    Full(String),
    /// A token did not do what was asked; nothing stays on it.
    #[error("{0}")]
    Failed(String),
    /// Some tokens of the group have the new root and some do not.
    #[error(
        "the key {id} is on some tokens of the group only ({reason}): remove the objects of that name by hand and start again"
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
    let mut link = open(settings, slot, Task::Check).await?;
    match hear(&mut link).await {
        Ok(FromChild::Report(report)) => {
            let report: CheckReport =
                serde_json::from_str(&report).map_err(|error| TaskError::Failed(error.to_string()))?;
            Ok(CheckReport { confinement: link.confined, ..report })
        }
        other => Err(unexpected(other)),
    }
}

/// The keys that Keyward has made on any token of the group for this purpose.
///
/// # Errors
/// [`TaskError`] when a token cannot be asked.
pub async fn roots(settings: &Settings, purpose: Purpose) -> Result<Vec<RootId>, TaskError> {
    let mut found = Vec::new();
    for slot in &settings.slots {
        match hear(&mut open(settings, slot, Task::Roots(purpose)).await?).await {
            Ok(FromChild::Roots(roots)) if roots.len() <= MOST => found.extend(roots),
            Ok(FromChild::Roots(_)) => return Err(too_much()),
            other => return Err(unexpected(other)),
        }
    }
    Ok(found)
}

/// The keys that Keyward has made for these purposes, with the token that has each. Every token is logged in
/// to once, however many purposes there are.
///
/// # Errors
/// [`TaskError`] when a token cannot be asked.
pub async fn standing(settings: &Settings, purposes: &[Purpose]) -> Result<Vec<Standing>, TaskError> {
    let mut found = Vec::new();
    for slot in &settings.slots {
        match hear(&mut open(settings, slot, Task::Standing(purposes.to_vec())).await?).await {
            Ok(FromChild::Standing(keys)) => {
                if keys.len() > MOST || keys.iter().any(|(purpose, _)| !purposes.contains(purpose)) {
                    return Err(too_much());
                }
                let on_token = |(purpose, id)| Standing { purpose, id, token: slot.name() };
                found.extend(keys.into_iter().map(on_token));
            }
            other => return Err(unexpected(other)),
        }
    }
    Ok(found)
}

/// Keys of Keyward on one token that are believed: each is held against the others, and told.
const MOST: usize = 16_384;

fn too_much() -> TaskError {
    let said = "the HSM process names more keys than are believed, or others than it was asked for";
    TaskError::Failed(said.to_owned())
}

/// Makes a root key on the first token, with escrow at birth, and puts it onto
/// all others. `keep` must keep the newborn's escrow durably; it is called
/// before the root becomes a token object.
///
/// # Errors
/// [`TaskError`]; except for [`TaskError::Half`], nothing stays on any token.
pub async fn create_root(
    settings: &Settings,
    purpose: Purpose,
    plan: BackupPlan,
    keep: impl AsyncFnOnce(Newborn) -> Result<(), String>,
) -> Result<NewRoot, TaskError> {
    let [first, others @ ..] = settings.slots.as_slice() else {
        return Err(TaskError::Failed("no token is configured".to_owned()));
    };
    let mut birth = open(settings, first, Task::CreateRoot { purpose, plan }).await?;
    let newborn = match hear(&mut birth).await {
        Ok(FromChild::Newborn(newborn)) => newborn,
        other => return Err(unexpected(other)),
    };
    let (id, wrapped) = (newborn.id, newborn.wrapped.clone());
    if let Err(error) = keep(newborn).await {
        tell(&mut birth, &Decision::Stop).await?;
        hear(&mut birth).await.map_err(TaskError::Failed)?;
        return Err(TaskError::Persist(error));
    }
    tell(&mut birth, &Decision::Go).await?;
    let born = settled(&mut birth).await?;
    // From here on a token gives the root up again unless it is told to keep it.
    let mut holders = vec![birth];
    let mut all = vec![born];
    for slot in others {
        let parts = (purpose, id, wrapped.clone(), all[0].canary.clone());
        let adopted = async {
            let (mut heir, to) = Heir::open(settings, slot).await?;
            let delivery = Delivery::Whole(handed_over(&mut holders[0], to).await?);
            let (purpose, id, wrapped, canary) = parts;
            let settled = heir.take(&Handover { purpose, id, wrapped, canary, delivery }).await?;
            Ok((heir.0, settled))
        };
        match adopted.await {
            Ok((holder, settled)) => {
                holders.push(holder);
                all.push(settled);
            }
            Err(error) => return Err(give_up(holders, id, error).await),
        }
    }
    keep_all(holders, id).await?;
    Ok(NewRoot { id, escrow: wrapped, settled: all })
}

/// The backup key, sealed by the process where the root was born.
async fn handed_over(birth: &mut Link, to: AgreementPoint) -> Result<SealedBox, TaskError> {
    tell(birth, &Verdict::HandOver(to)).await?;
    match hear(birth).await {
        Ok(FromChild::HandedOver(sealed)) => Ok(sealed),
        other => Err(unexpected(other)),
    }
}

/// A process that takes over a root: the backup key is sealed to it alone.
pub struct Heir(Link);

impl Heir {
    /// Starts it, on one token. Answers the key to which the backup key, or its shares, must be sealed.
    ///
    /// # Errors
    /// [`TaskError`] when it does not come to that.
    pub async fn open(settings: &Settings, slot: &Slot) -> Result<(Self, AgreementPoint), TaskError> {
        let mut link = open(settings, slot, Task::AdoptRoot).await?;
        match hear(&mut link).await {
            Ok(FromChild::Receives(key)) => Ok((Self(link), key)),
            other => Err(unexpected(other)),
        }
    }

    async fn take(&mut self, handover: &Handover) -> Result<Settled, TaskError> {
        tell(&mut self.0, handover).await?;
        settled(&mut self.0).await
    }

    /// Puts the root onto its token, to stay.
    ///
    /// # Errors
    /// [`TaskError`]; nothing stays on the token.
    pub async fn adopt(mut self, handover: &Handover) -> Result<Settled, TaskError> {
        let settled = self.take(handover).await?;
        keep_all(vec![self.0], handover.id).await?;
        Ok(settled)
    }
}

/// Destroys a root on every token of the group, and proves for each that it is gone. A
/// token that has none is passed over.
///
/// # Errors
/// [`TaskError`] when one cannot be asked, or keeps it; then do it again.
pub async fn destroy_root(settings: &Settings, id: RootId) -> Result<(), TaskError> {
    for slot in &settings.slots {
        match hear(&mut open(settings, slot, Task::DestroyRoot(id)).await?).await {
            Ok(FromChild::Finished) => {}
            other => return Err(unexpected(other)),
        }
    }
    Ok(())
}

/// The next message of a process that is not to hang for ever.
async fn hear(link: &mut Link) -> Result<FromChild, String> {
    let heard = tokio::time::timeout(PATIENCE, link.hear()).await;
    heard.unwrap_or_else(|_| Err(format!("the PKCS#11 module did not answer within {PATIENCE:?}")))
}

async fn open(settings: &Settings, slot: &Slot, task: Task) -> Result<Link, ConnectError> {
    let pin = read_pin(slot.pin.clone()).await?;
    let opened = Link::open(&settings.program, slot, pin, settings.deadline, task);
    tokio::time::timeout(PATIENCE, opened).await.unwrap_or_else(|_| {
        Err(ConnectError::Away(format!("the HSM process was not confined within {PATIENCE:?}")))
    })
}

async fn settled(holder: &mut Link) -> Result<Settled, TaskError> {
    match hear(holder).await {
        Ok(FromChild::Settled(settled)) => Ok(settled),
        other => Err(unexpected(other)),
    }
}

async fn tell(holder: &mut Link, message: &impl minicbor::Encode<()>) -> Result<(), TaskError> {
    let told = holder.tell(message).await;
    told.map_err(|error| TaskError::Failed(format!("the socket to the HSM process: {error}")))
}

/// Has the root destroyed where it stands already; the answer says why it was given up.
async fn give_up(holders: Vec<Link>, id: RootId, error: TaskError) -> TaskError {
    for mut holder in holders {
        let stopped = tell(&mut holder, &Verdict::GiveUp).await;
        // The process says that the root was destroyed, and why.
        if stopped.is_err() || !matches!(hear(&mut holder).await, Ok(FromChild::Refused(_))) {
            return TaskError::Half { id, reason: error.to_string() };
        }
    }
    error
}

/// Has the root kept on every token.
async fn keep_all(holders: Vec<Link>, id: RootId) -> Result<(), TaskError> {
    for mut holder in holders {
        let kept = tell(&mut holder, &Verdict::Keep).await;
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
        Ok(FromChild::Full(reason)) => TaskError::Full(reason),
        Ok(FromChild::Refused(reason)) | Err(reason) => TaskError::Failed(reason),
        Ok(_) => TaskError::Failed("the HSM process speaks another protocol".to_owned()),
    }
}
