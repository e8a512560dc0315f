//! Why the store refuses.

use std::io;

use super::blocking::Stopped;
use super::kv::KvError;
use super::tables::{Path, Record, Table, describe};
use crate::id::ErasureGeneration;

/// Why a read or a change failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A record to be created exists; nothing was changed.
    #[error("{what} exists already")]
    Exists {
        /// The record's name.
        what: String,
    },
    /// A record is not as it was read; nothing was changed.
    #[error("{what} was changed or deleted since it was read: read it again")]
    Changed {
        /// The record's name.
        what: String,
    },
    /// One record stands twice in a change; nothing was changed.
    #[error("{what} stands twice in one change")]
    Repeated {
        /// The record's name.
        what: String,
    },
    /// The store was edited by somebody other than the daemon, or is damaged.
    #[error("{table} record {path} was tampered with or damaged: {how}; run `keyward store check`")]
    Tampered {
        /// The table.
        table: Table,
        /// The record's name.
        path: String,
        /// What does not fit.
        how: &'static str,
    },
    /// A list that something is decided from is not whole.
    #[error(
        "the {table} records were tampered with or damaged: {found} of {expected} are there, so nothing is decided from them; run `keyward store check`"
    )]
    Incomplete {
        /// The table.
        table: Table,
        /// How many there must be.
        expected: u64,
        /// How many were found.
        found: u64,
    },
    /// A store of an older format is not whole, so it is not brought to the newest one.
    #[error(
        "the store is not migrated, because it is not whole: {what} is missing, old or foreign; go back to the version of keyward before, and run `as_keyward store check --repair` there"
    )]
    NotMigrated {
        /// The records' names.
        what: String,
    },
    /// A row of a wrapped key is sealed under an erasure key that is not open.
    #[error(
        "{what} is sealed under erasure key {generation}, which was destroyed: this copy of the store can no longer be read; what remains is a recovery export: `as_keyward backup restore --in FILE`"
    )]
    Erased {
        /// The record's name.
        what: String,
        /// The generation of the erasure key.
        generation: ErasureGeneration,
    },
    /// Wrapped keys cannot be stored, because there is no erasure key to seal them with; nothing was changed.
    #[error("no erasure key is open, so wrapped keys cannot be stored")]
    NoErasureKey,
    /// A row is still sealed under an older erasure key.
    #[error("{what} is not sealed under the newest erasure key yet")]
    NotResealed {
        /// The record's name.
        what: String,
    },
    /// The cryptographic library or the system's generator failed.
    #[error("{0} failed")]
    Primitive(&'static str),
    /// The change may or may not have been made; the next change, or the next
    /// start, settles which.
    #[error("the change may or may not have been made, read again before repeating it: {0}")]
    Unsettled(Box<StoreError>),
    /// The backend failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The journal cannot be written or read.
    #[error("key journal {path}: {source}")]
    Journal {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The store cannot be opened, made or imported as it is.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file to be imported or exported cannot be read or written.
    #[error("export file: {0}")]
    Transfer(io::Error),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    Stopped,
}

/// Why a store is not opened, made or imported.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// There is nothing in the store.
    #[error(
        "there is no store: `as_keyward init --backup-key FILE` makes one; if there was one, `as_keyward backup restore --in FILE` brings it back from an export"
    )]
    NoStore,
    /// There is nothing in the store, but it has a journal.
    #[error(
        "the store is empty, but there is a key journal {0}: if the store was lost, run `as_keyward store check --repair`; if it was never made, remove the journal"
    )]
    StoreLost(String),
    /// There must be nothing in the store or at the journal's path.
    #[error("{0} is not empty: choose a place without a store")]
    NotEmpty(String),
    /// The journal is gone.
    #[error(
        "key journal {0} is missing: mount its disk, or rebuild it with `as_keyward store check --repair`"
    )]
    NoJournal(String),
    /// Another process has the journal open.
    #[error("key journal {0} is in use by another process")]
    InUse(String),
    /// Not a journal, or one of another installation, or damaged in its first bytes.
    #[error(
        "{0} is not the key journal of this store, or its header is damaged: put the right file in its place, or rebuild it with `as_keyward store check --repair`"
    )]
    NotTheJournal(String),
    /// Not an export of this program.
    #[error("{0} is not a file of keyward, or its header is damaged")]
    Foreign(String),
    /// The store or export belongs to another installation.
    #[error("{0} belongs to another installation")]
    OtherDeployment(String),
    /// A newer program wrote it.
    #[error("{what} has format {found}, this program knows up to {known}: use keyward {needed} or newer")]
    Newer {
        /// The file.
        what: String,
        /// The format found.
        found: u32,
        /// The newest format known here.
        known: u32,
        /// The version that is needed at least.
        needed: String,
    },
    /// An entry of the journal cannot be read, and it is not one that a crash left unfinished.
    #[error(
        "the key journal is damaged at byte {offset}, after revision {revision}: run `as_keyward store check --repair`"
    )]
    JournalDamaged {
        /// Where the damaged entry begins, or the place behind it.
        offset: u64,
        /// The last revision before it; 0 when not even its beginning is whole.
        revision: u64,
    },
    /// The journal ends before the store.
    #[error(
        "the key journal ends at revision {journal}, the store at {store}: somebody cut the journal; run `as_keyward store check --repair`"
    )]
    JournalCut {
        /// Newest revision of the store.
        store: u64,
        /// Newest revision of the journal.
        journal: u64,
    },
    /// The journal begins after the store.
    #[error(
        "the store ends at revision {store}, the key journal begins at {journal}: an old store was put back; run `as_keyward store check --repair`"
    )]
    StoreCut {
        /// Newest revision of the store.
        store: u64,
        /// First revision of the journal.
        journal: u64,
    },
    /// Both have the revision, and it differs.
    #[error(
        "the store and the key journal disagree about revision {revision}: run `as_keyward store check --repair`"
    )]
    Diverged {
        /// The revision.
        revision: u64,
    },
    /// Both are older than the audit log.
    #[error(
        "the store is older than the audit log: it ends at revision {store}, the log knows of {audit}; an old copy was put back: put the newer one back, or accept this one with `as_keyward store accept-rollback`"
    )]
    RolledBack {
        /// Newest revision of store and journal.
        store: u64,
        /// Newest revision in the audit log.
        audit: u64,
    },
    /// The audit log has another digest for a revision.
    #[error(
        "the store is not the one of the audit log: revision {revision} differs; put the store back that belongs to the log, or accept this one with `as_keyward store accept-rollback`"
    )]
    OtherHistory {
        /// The revision.
        revision: u64,
    },
    /// An export is incomplete or was changed.
    #[error("the export is damaged or incomplete: {0}")]
    ExportDamaged(String),
    /// Neither the store nor the journal is whole.
    #[error("neither the store nor the key journal is whole, restore a backup: {0}")]
    NothingWhole(String),
}

impl StoreError {
    /// Whether a full disk is the reason: of the store, or of the journal.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Kv(KvError::Full) => true,
            Self::Journal { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Unsettled(cause) => cause.is_full(),
            _ => false,
        }
    }

    /// Whether a record is not the newest one, missing or not genuine.
    pub fn is_edited(&self) -> bool {
        matches!(self, Self::Tampered { .. } | Self::Incomplete { .. })
    }

    /// The record at `key` of the key-value store is not genuine.
    pub(super) fn tampered(key: &[u8], how: &'static str) -> Self {
        let table = key.first().and_then(|byte| Table::from_byte(*byte)).unwrap_or(Table::Meta);
        Self::Tampered { table, path: describe(key), how }
    }

    /// Of a table's records, not all are there.
    pub(super) fn incomplete(table: Table, expected: u64, found: u64) -> Self {
        Self::Incomplete { table, expected, found }
    }

    /// A record that must be there, because another one names it, is gone.
    pub fn lost<T: Record>(path: &Path<T>) -> Self {
        Self::tampered(&path.key(), "it was removed")
    }

    /// A record counts others, and their number is not what it says.
    pub fn miscounted<T: Record>(path: &Path<T>) -> Self {
        Self::tampered(&path.key(), "the records that it counts are not as many as it says")
    }

    /// Marks a failure after which nobody knows whether the change was made.
    pub(super) fn unsettled(self) -> Self {
        match self {
            Self::Unsettled(_) => self,
            other => Self::Unsettled(Box::new(other)),
        }
    }
}

impl From<Stopped> for StoreError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<Stopped> for KvError {
    fn from(_: Stopped) -> Self {
        Self::Other("the daemon is shutting down".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_seen_through_the_uncertainty() {
        let journal = || StoreError::Journal { path: "j".into(), source: io::ErrorKind::StorageFull.into() };
        assert!(journal().is_full() && journal().unsettled().is_full());
        assert!(StoreError::Kv(KvError::Full).unsettled().unsettled().is_full());
        assert!(!StoreError::Stopped.unsettled().is_full());
    }

    #[test]
    fn errors_say_what_and_which() {
        let error = StoreError::tampered(b"\x03acme\0", "it was removed");
        let text = "tenant record tenants/acme was tampered with or damaged: it was removed; run `keyward store check`";
        assert_eq!(error.to_string(), text);
    }
}
