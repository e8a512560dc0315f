//! The backend that asks, in each read, what is to be shown.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use keyward::store::kv::{Change, Entry, Kv, KvError, Snapshot, Transaction, Write};
use tokio::sync::broadcast;

use super::{Lies, Version, Window};

/// A backend around another one. The other one is real.
pub(crate) struct LyingKv {
    kv: Arc<dyn Kv>,
    lies: Lies,
}

impl LyingKv {
    pub(crate) async fn new(kv: Arc<dyn Kv>, lies: Lies) -> Result<Arc<Self>, KvError> {
        lies.learn_all(kv.as_ref()).await?;
        Ok(Arc::new(Self { kv, lies }))
    }
}

#[async_trait]
impl Kv for LyingKv {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KvError> {
        Ok(Box::new(Lying { snapshot: self.kv.snapshot().await?, lies: self.lies.clone() }))
    }

    async fn commit(&self, transaction: Transaction) -> Result<u64, KvError> {
        let writes = transaction.writes.clone();
        let revision = self.kv.commit(transaction).await?;
        let mut state = self.lies.lock();
        for Write { key, value } in writes {
            state.learn(key, Version { revision, value });
        }
        Ok(revision)
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

struct Lying {
    snapshot: Box<dyn Snapshot>,
    lies: Lies,
}

#[async_trait]
impl Snapshot for Lying {
    fn revision(&self) -> u64 {
        self.snapshot.revision()
    }

    async fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, KvError> {
        let found = self.snapshot.get(key).await?;
        Ok(self.lies.lock().one(key, found, self.snapshot.revision()))
    }

    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Entry>>, KvError> {
        let found = self.snapshot.get_many(keys).await?;
        let (mut state, revision) = (self.lies.lock(), self.snapshot.revision());
        Ok(keys.iter().zip(found).map(|(key, entry)| state.one(key, entry, revision)).collect())
    }

    async fn range(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Entry)>, KvError> {
        let mut rows = self.snapshot.range(prefix, after, limit).await?;
        let window = Window { prefix, after, limit, revision: self.snapshot.revision() };
        self.lies.lock().many(&mut rows, &window);
        Ok(rows)
    }
}
