//! What the daemon does when a full scan finds rows of the store that are not the newest: it puts them back from the
//! key journal, says so aloud and on record, and goes on.

use std::sync::Arc;
use std::time::Duration;

use super::{Error, Vault};
use crate::access::Action;
use crate::audit::{Outcome, Pending, StoreChange};
use crate::store::{Cause, StoreError};

/// What the audit log calls it.
const RESTORED: Action = Action::StoreRowRestored;

/// What it is about.
const STORE: &str = "store";

/// How often it is looked whether the journal has grown far beyond what it holds.
const LOOK: Duration = Duration::from_secs(60 * 60);

impl Vault {
    /// Puts rows back from the key journal if `error` says that some were edited. Whether there were any: then
    /// what failed is to be tried once more.
    ///
    /// # Errors
    /// When the journal cannot mend it: then the store stays as it is, and `keyward store check` tells more.
    pub(super) async fn restored_after(&self, error: &StoreError) -> Result<bool, Error> {
        if !error.is_edited() {
            return Ok(false);
        }
        // What is put back is told: while nothing can be, nothing is.
        self.audit.check()?;
        tracing::warn!(%error, "the store was edited behind the daemon's back; it is compared with the key journal");
        let cause = Cause::own(RESTORED.word(), STORE);
        // A change of the daemon's own: what is read from the store waits for it as for any other.
        let alone = self.committing.write().await;
        let outcome = self.records.restore_rows(cause).await;
        self.forget_unsettled(matches!(outcome, Err(StoreError::Unsettled(_))));
        drop(alone);
        let restored = outcome?;
        if restored.is_empty() {
            return Ok(false);
        }
        tracing::warn!("{restored}");
        let mut record = Pending::begin(self.audit.clone(), None, RESTORED, STORE, 0);
        if let Some(change) = restored.change {
            record.change(StoreChange { revision: change.revision, digest: change.digest });
        }
        record.detail(restored.to_string());
        record.finish(Outcome::Ok)?.await?;
        Ok(true)
    }

    /// As [`restored_after`](Self::restored_after), of a use case that failed.
    pub(super) async fn restored_after_failure(&self, failure: &Error) -> Result<bool, Error> {
        match failure {
            Error::Store(error) => self.restored_after(error).await,
            _ => Ok(false),
        }
    }

    /// Scans the whole store, which compacting the journal does, and puts back what is not the newest. Whether there
    /// was anything.
    ///
    /// # Errors
    /// When the store is not whole and the journal cannot mend it.
    pub(super) async fn mended(&self) -> Result<bool, Error> {
        match self.records.compact().await {
            Ok(_) => Ok(false),
            Err(error) if self.restored_after(&error).await? => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs until it is dropped: compacts the key journal when it has grown far beyond what it holds.
    pub async fn keep_journal_short(self: Arc<Self>) {
        let mut hourly = tokio::time::interval(LOOK);
        loop {
            hourly.tick().await;
            if let Err(error) = self.compact_if_due().await {
                tracing::error!(%error, "cannot compact the journal");
            }
        }
    }

    async fn compact_if_due(&self) -> Result<(), Error> {
        let mut outcome = self.records.compact_if_due().await;
        if let Err(error) = &outcome
            && self.restored_after(error).await?
        {
            outcome = self.records.compact_if_due().await;
        }
        if let Some(done) = outcome? {
            tracing::info!(before = done.before, after = done.after, "journal compacted");
        }
        Ok(())
    }
}
