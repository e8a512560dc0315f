//! The audit log: who used which key for what, and how it was decided.
//!
//! A reply is released only when its record is durable. The writer takes
//! whatever queued while the previous sync ran and syncs it in one go; nothing
//! waits for a batch to fill.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

pub mod checkpoint;
mod damage;
pub mod file;
mod find;
mod frame;
pub mod merkle;
mod notes;
pub mod pending;
pub mod proof;
mod reader;
pub mod record;
mod recount;
pub mod refusals;
mod segment;
pub mod telling;
pub mod tree;
pub mod verify;

pub use damage::{Damage, Flaw, VerifyError};
pub use file::FileLog;
pub use find::chain as chain_at;
pub use frame::ChainHash;
pub use pending::Pending;
pub use tree::{Tree, TreeError};

use checkpoint::{SignedCheckpoint, TreeHead};
pub use record::{Caller, ItemDigest, Items, Outcome, Record, StoreChange};
pub use recount::Counted;
pub use refusals::{Refusal, Refusals};

/// Where records go.
///
/// Contract:
/// - `submit` only queues; it never blocks on a disk. Records are written in
///   the order of submission, each with the next sequence number.
/// - A [`Receipt`] resolves to [`Committed`] when its record and every one
///   before it are durable; it may be dropped, the record is written all the same.
/// - When the log cannot be written, `submit` and every open receipt answer
///   [`AuditError`], until writing works again.
pub trait AuditLog: Send + Sync + 'static {
    /// Queues one record.
    ///
    /// # Errors
    /// [`AuditError`] when the log cannot be written now.
    fn submit(&self, record: Record) -> Result<Receipt, AuditError>;

    /// Whether the log can be written now.
    ///
    /// # Errors
    /// [`AuditError`] with the reason when it cannot.
    fn check(&self) -> Result<(), AuditError>;

    /// Sequence number of the newest durable record; 0 when there is none.
    fn durable(&self) -> u64;

    /// The tree over the records; it may be a moment behind the newest ones.
    fn tree(&self) -> &Tree;

    /// Waits until the tree covers record `sequence`, makes it durable and
    /// answers its head, over all records there are. Blocks on the disk.
    ///
    /// # Errors
    /// [`TreeError`] when the log does not get so far, or the disk fails.
    fn settle(&self, sequence: u64) -> Result<TreeHead, TreeError>;

    /// The newest checkpoint.
    fn checkpoint(&self) -> Option<SignedCheckpoint>;

    /// Keeps a checkpoint durably; one that is older than the newest is passed
    /// over. Its head is one that `settle` answered. Blocks on the disk.
    ///
    /// # Errors
    /// [`TreeError`] when the disk fails; then it may or may not be kept.
    fn keep(&self, checkpoint: &SignedCheckpoint) -> Result<(), TreeError>;

    /// A record in its only encoding, proved to be the one in the tree. Blocks on the disk.
    ///
    /// # Errors
    /// [`TreeError`] when there is none, or it was changed.
    fn record(&self, sequence: u64) -> Result<Vec<u8>, TreeError>;
}

/// Proof that a record is durable. A reply cannot be built without it.
#[derive(Debug, Clone, Copy)]
pub struct Committed {
    sequence: u64,
}

impl Committed {
    /// Sequence number of the record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// Resolves when the record is durable.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<Committed, AuditError>>);

impl Future for Receipt {
    type Output = Result<Committed, AuditError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(AuditError::Stopped)))
    }
}

/// Why the log does not take records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// Writing or syncing failed.
    #[error("the audit log cannot be written: {0}")]
    Unwritable(String),
    /// The writer has stopped.
    #[error("the audit log is closed")]
    Stopped,
}
