//! What can be wrong with a log, and where.

use std::io;
use std::path::{Path, PathBuf};

/// Why a log could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no log.
    #[error("there is no audit log in {}", .0.display())]
    Missing(PathBuf),
    /// Something was changed, cut or lost.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A newer program wrote it.
    #[error("{} has audit format {found}, this program knows up to {known}: use keyward {needed} or newer", .file.display())]
    Newer {
        /// The segment file.
        file: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format known here.
        known: u32,
        /// The version that wrote the file.
        needed: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", .file.display())]
    Unreadable {
        /// The file or directory.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl VerifyError {
    /// Names the file that an operating system error belongs to.
    pub(super) fn unreadable(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Unreadable { file, source }
    }
}

/// A place where the log is not what was written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log was changed or damaged: {}, byte {offset}, record {sequence}: {flaw}", .file.display())]
pub struct Damage {
    /// The segment file.
    pub file: PathBuf,
    /// Where the frame or header starts in it, in bytes.
    pub offset: u64,
    /// The record that stands there, or should.
    pub sequence: u64,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What is wrong at one place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The frame does not continue the hash chain.
    #[error("its frame does not continue the hash chain, yet it was durable once")]
    Chain,
    /// The frame continues the chain but does not hold a canonical record.
    #[error("the frame does not hold a record: {0}")]
    Record(String),
    /// The header is not one, or its hash does not match.
    #[error("the header of the segment is damaged")]
    Header,
    /// The header belongs to another segment, or does not continue the one before.
    #[error("the segment does not continue the one before it")]
    Discontinued,
    /// The log has fewer records than a checkpoint of it.
    #[error(
        "this checkpoint covers the log up to here, and the log has only {records} records: it was cut, or an older copy was put back; put the newest copy of the directory in its place, and keep this one as evidence"
    )]
    Cut {
        /// How many records the log has.
        records: u64,
    },
    /// The records are not those that a checkpoint covers.
    #[error(
        "the records up to here are not those that this checkpoint covers: one of the two was changed; put the newest copy of the directory in its place, and keep this one as evidence"
    )]
    Forked,
    /// The files of the tree are not what the records make.
    #[error(
        "the tree has another hash here than the records make; remove the directory `tree` and start the daemon again: it is computed anew"
    )]
    Tree,
    /// The file does not hold a checkpoint of this log.
    #[error("{0}")]
    Checkpoint(String),
    /// One or more segment files are gone.
    #[error("the segment is missing")]
    Missing,
}
