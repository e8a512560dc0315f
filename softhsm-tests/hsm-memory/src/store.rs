//! A store's backend that fails when a test says so.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use keyward::store::kv::{Change, Kv, KvError, Snapshot, Transaction};
use tokio::sync::{broadcast, watch};

/// How a commit fails. Either way the caller hears the same, and the journal has the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was written.
    NotWritten,
    /// Everything was written.
    Written,
}

impl Fault {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::NotWritten, Self::Written];
}

/// A backend around another one. The other one is real.
pub struct FaultyKv {
    kv: Arc<dyn Kv>,
    plan: Mutex<Option<Plan>>,
    struck: watch::Sender<bool>,
}

struct Plan {
    fault: Fault,
    /// Commits that are left alone before.
    skip: usize,
}

impl FaultyKv {
    /// A backend that does not fail yet.
    pub fn new(kv: Arc<dyn Kv>) -> Arc<Self> {
        Arc::new(Self { kv, plan: Mutex::default(), struck: watch::Sender::new(false) })
    }

    /// Has the `nth` commit from now on fail, from 1.
    pub fn fail(&self, nth: usize, fault: Fault) {
        assert!(nth > 0, "commits are counted from 1");
        self.struck.send_replace(false);
        *self.lock() = Some(Plan { fault, skip: nth - 1 });
    }

    /// Calls off what was planned and has not happened.
    pub fn clear(&self) {
        self.lock().take();
    }

    /// Whether what was planned last has happened.
    pub fn is_struck(&self) -> bool {
        *self.struck.borrow()
    }

    /// Waits until it has: whoever is dropped then has not heard of it.
    pub async fn struck(&self) {
        // The sender lives as long as this store.
        self.struck.subscribe().wait_for(|struck| *struck).await.map(drop).ok();
    }

    fn take(&self) -> Option<Fault> {
        let mut plan = self.lock();
        match &mut *plan {
            Some(Plan { skip: 0, .. }) => plan.take().map(|plan| plan.fault),
            Some(Plan { skip, .. }) => {
                *skip -= 1;
                None
            }
            None => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Plan>> {
        // Nothing panics while it is locked.
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Kv for FaultyKv {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KvError> {
        self.kv.snapshot().await
    }

    async fn commit(&self, transaction: Transaction) -> Result<u64, KvError> {
        let Some(fault) = self.take() else { return self.kv.commit(transaction).await };
        if fault == Fault::Written {
            self.kv.commit(transaction).await?;
        }
        self.struck.send_replace(true);
        Err(KvError::Other("failed on demand".to_owned()))
    }

    async fn scrub(&self, thorough: bool) -> Result<(), KvError> {
        self.kv.scrub(thorough).await
    }

    fn files(&self) -> Vec<PathBuf> {
        self.kv.files()
    }

    fn watch(&self) -> broadcast::Receiver<Change> {
        self.kv.watch()
    }

    fn name(&self) -> &'static str {
        self.kv.name()
    }
}
