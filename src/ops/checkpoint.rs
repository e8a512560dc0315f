//! Checkpoints: the HSM signs the head of the tree over the audit log, from
//! time to time and when a document needs it. While the HSM is away they are
//! late; the log never waits for them.

use std::sync::Arc;

use super::Error;
use super::done::Done;
use super::system_key::Generation;
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::audit::checkpoint::{Checkpoint, NoteKey, SignedCheckpoint, TreeHead, origin};
use crate::audit::merkle::{self, Hash};
use crate::audit::{AuditLog, TreeError};
use crate::clock::Moment;
use crate::id::Installation;

/// A record, and that it is in the tree of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// The record in its only encoding.
    pub record: Vec<u8>,
    /// Its place in the tree, from 0.
    pub index: u64,
    /// The audit path, from the leaf up.
    pub path: Vec<Hash>,
    /// The checkpoint that it leads to.
    pub checkpoint: SignedCheckpoint,
}

/// That one tree is the beginning of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consistent {
    /// The head of the smaller tree.
    pub old: TreeHead,
    /// The proof.
    pub path: Vec<Hash>,
    /// The checkpoint over the larger tree.
    pub checkpoint: SignedCheckpoint,
}

impl Vault {
    /// A checkpoint that covers record `sequence`: the newest one when it does, otherwise a new one.
    ///
    /// # Errors
    /// When the HSM, the store or the disk does not serve; [`Error::NoRecord`] when there is no such record.
    pub async fn checkpoint(&self, sequence: u64) -> Result<SignedCheckpoint, Error> {
        if sequence > self.audit.durable() {
            return Err(Error::NoRecord(sequence));
        }
        let _alone = self.checkpointing.lock().await;
        let newest = self.audit.checkpoint();
        if let Some(newest) = newest.filter(|newest| newest.checkpoint.head.size >= sequence.max(1)) {
            return Ok(newest);
        }
        let made = self.make_checkpoint(sequence).await;
        let failure = made.as_ref().err().map(ToString::to_string);
        self.late.send_if_modified(|late| std::mem::replace(late, failure.clone()) != failure);
        made
    }

    async fn make_checkpoint(&self, sequence: u64) -> Result<SignedCheckpoint, Error> {
        let (_, record) = self.audit_key().await?;
        let key = NoteKey::new(self.deployment(), record.key.public);
        let head = self.on_log(move |log| consistent_head(log, sequence)).await?;
        let checkpoint = Checkpoint { origin: origin(self.deployment()), head };
        let signature = self.sign(&record.key, checkpoint.digest()).await?;
        let signed = checkpoint.signed(&key, &signature);
        let kept = signed.clone();
        self.on_log(move |log| log.keep(&kept)).await?;
        Ok(signed)
    }

    /// Why the newest checkpoint is late; `None` when it is not.
    pub fn checkpoint_failure(&self) -> Option<String> {
        self.late.borrow().clone()
    }

    /// Makes a checkpoint as often as the settings say, when there is anything new. Ends never.
    pub async fn keep_checkpoints(self: Arc<Self>) {
        let mut told = None;
        loop {
            let outcome = self.checkpoint(self.audit.durable()).await;
            let failure = outcome.err().map(|error| error.to_string());
            match &failure {
                Some(reason) if failure != told => {
                    tracing::warn!(reason, "the audit log has no new checkpoint");
                }
                None if told.is_some() => tracing::info!("the audit log has checkpoints again"),
                _ => {}
            }
            told = failure;
            self.rest_between_checkpoints().await;
        }
    }

    /// Waits for as long as the settings say while it waits: they may be replaced.
    async fn rest_between_checkpoints(&self) {
        let began = Moment::now();
        let mut changed = self.settings_changed();
        loop {
            let left = self.settings().checkpoint_interval.saturating_sub(Moment::now().since(began));
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                // An error means that the vault is gone, and this with it.
                _ = changed.changed() => {}
            }
        }
    }

    /// That the newest checkpoint was signed by a key of this installation.
    ///
    /// # Errors
    /// [`Error::Forged`] when it was not.
    pub async fn verify_newest_checkpoint(&self) -> Result<(), Error> {
        let Some(newest) = self.audit.checkpoint() else { return Ok(()) };
        let keys = self.note_keys().await?;
        if keys.is_empty() {
            // The store is older than its first key: an operator has accepted that.
            tracing::warn!("the store has no key that could verify the checkpoints of the audit log");
            return Ok(());
        }
        match newest.verify(&keys) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Forged { size: newest.checkpoint.head.size, reason: error.to_string() }),
        }
    }

    /// The newest checkpoint, or a new one over everything there is.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn show_checkpoint(
        &self,
        right: &Authorized<permission::ViewCheckpoints>,
        fresh: bool,
    ) -> Result<Done<SignedCheckpoint>, Error> {
        let Installation = right.resource();
        let sequence = if fresh { self.audit.durable() } else { 1 };
        Ok(Done::new(self.checkpoint(sequence).await?))
    }

    /// A record with the proof that it is in the log.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn prove_record(
        &self,
        right: &Authorized<permission::ViewRecord>,
    ) -> Result<Done<Proved>, Error> {
        Ok(Done::new(self.proved(right.resource().0).await?))
    }

    pub(super) async fn proved(&self, sequence: u64) -> Result<Proved, Error> {
        let index = sequence.checked_sub(1).ok_or(Error::NoRecord(sequence))?;
        let checkpoint = self.checkpoint(sequence).await?;
        let head = checkpoint.checkpoint.head;
        let (record, path) = self
            .on_log(move |log| {
                let record = log.record(sequence)?;
                let path = log.tree().inclusion(&merkle::leaf(&record), index, &head)?;
                Ok((record, path))
            })
            .await?;
        Ok(Proved { record, index, path, checkpoint })
    }

    /// The proof that the first `old` records are still the beginning of the log.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn prove_consistency(
        &self,
        right: &Authorized<permission::ViewCheckpoints>,
        old: u64,
    ) -> Result<Done<Consistent>, Error> {
        let Installation = right.resource();
        let checkpoint = self.checkpoint(old).await?;
        let head = checkpoint.checkpoint.head;
        let (old, path) = self
            .on_log(move |log| {
                let old = log.tree().head(old)?;
                Ok((old, log.tree().consistency(&old, &head)?))
            })
            .await?;
        Ok(Done::new(Consistent { old, path, checkpoint }))
    }

    /// The keys by which everything above is verified.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn show_audit_keys(
        &self,
        right: &Authorized<permission::ViewCheckpoints>,
    ) -> Result<Done<Vec<(Generation, NoteKey)>>, Error> {
        let Installation = right.resource();
        let named = |generation: Generation| {
            let key = NoteKey::new(self.deployment(), generation.1.key.public);
            (generation, key)
        };
        Ok(Done::new(self.audit_keys().await?.into_iter().map(named).collect()))
    }

    /// Work on the files of the log, which blocks.
    async fn on_log<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn AuditLog) -> Result<T, TreeError> + Send + 'static,
    ) -> Result<T, Error> {
        let log = self.audit.clone();
        let done = tokio::task::spawn_blocking(move || work(&*log)).await;
        Ok(done.map_err(|panicked| Error::Internal(panicked.to_string()))??)
    }
}

/// The head to be signed: never one that the newest checkpoint is not the beginning of.
fn consistent_head(log: &dyn AuditLog, sequence: u64) -> Result<TreeHead, TreeError> {
    let head = log.settle(sequence)?;
    if let Some(newest) = log.checkpoint() {
        log.tree().consistency(&newest.checkpoint.head, &head)?;
    }
    Ok(head)
}
