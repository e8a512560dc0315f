//! The key-value trait that a backend implements.

use async_trait::async_trait;
use tokio::sync::broadcast;

/// A store of byte strings.
///
/// Contract:
/// - `commit` is atomic, durable once it returns `Ok`, and serialisable: every
///   expectation is checked against the state that the writes change.
/// - The store revision starts at 0 and grows by exactly 1 with each commit;
///   each written entry carries the revision that wrote it.
/// - A snapshot sees one revision; commits made later do not show in it.
/// - A watcher hears of every commit after it subscribed, in order; one that
///   falls behind is told so and must read again.
/// - An error of `commit` other than [`KvError::Conflict`] means: it may or may
///   not have been applied. The caller must find out by reading.
#[async_trait]
pub trait Kv: Send + Sync + 'static {
    /// A consistent view of the newest revision.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KvError>;

    /// Checks the expectations and applies the writes, all or nothing. Returns the new revision.
    async fn commit(&self, transaction: Transaction) -> Result<u64, KvError>;

    /// Takes values that were overwritten or deleted out of the backend's own files. It fails while
    /// a snapshot from before is open; what the disk itself keeps is out of its reach. `thorough`
    /// writes the files anew, which takes time and room in proportion to all that there is.
    async fn scrub(&self, thorough: bool) -> Result<(), KvError>;

    /// The files that values stand in; none when they are elsewhere.
    fn files(&self) -> Vec<std::path::PathBuf>;

    /// Commits from now on.
    fn watch(&self) -> broadcast::Receiver<Change>;

    /// A word for people: "sqlite".
    fn name(&self) -> &'static str;
}

/// A consistent view of one revision.
#[async_trait]
pub trait Snapshot: Send {
    /// The revision seen; 0 for an empty store.
    fn revision(&self) -> u64;

    /// One entry.
    async fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, KvError>;

    /// Several entries at once, in the order of `keys`. A backend for which a call
    /// costs more than a key answers all of them in one go.
    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Entry>>, KvError> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(self.get(key).await?);
        }
        Ok(found)
    }

    /// Entries with `prefix`, after the key `after` when given, in key order, at most `limit`.
    async fn range(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Entry)>, KvError>;
}

/// A value and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// The store revision of the commit that wrote it.
    pub revision: u64,
}

/// Expectations and writes of one commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must hold for the commit to happen.
    pub expect: Vec<Expect>,
    /// What it changes; a key stands here at most once.
    pub writes: Vec<Write>,
}

/// What must hold for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// The key.
    pub key: Vec<u8>,
    /// The revision that wrote its entry; `None`: there is no entry.
    pub revision: Option<u64>,
}

/// One change. The field numbers are those of the journal's entries.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Write {
    /// The key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: Vec<u8>,
    /// The new value; `None` deletes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub value: Option<Vec<u8>>,
}

/// A commit, as a watcher hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision that it made.
    pub revision: u64,
    /// The keys that it wrote or deleted.
    pub keys: std::sync::Arc<Vec<Vec<u8>>>,
}

/// Why a backend failed.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// An expectation did not hold; nothing was changed.
    #[error("somebody else changed the record first")]
    Conflict,
    /// There is no room on the disk; nothing was changed.
    #[error("the store's disk is full")]
    Full,
    /// The backend's files are damaged.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The backend's files hold what this program never makes, such as a trigger: somebody put it there
    /// to have it run in the daemon. Nothing was read, changed or run.
    #[error(
        "the store holds what keyward never put there, and nothing of it is used: {0}; keep a copy of the file as evidence, stop keywardd, and rebuild the store from the key journal: `as_keyward store check --repair`"
    )]
    Foreign(String),
    /// The store has a newer format than this program knows.
    #[error("the store has format {found}, this program knows up to {known}: use keyward {needed} or newer")]
    Newer {
        /// The format found.
        found: u32,
        /// The newest format known here.
        known: u32,
        /// The version that wrote it, or at least is needed.
        needed: String,
    },
    /// The store has an older format, and what was asked for does not migrate it.
    #[error(
        "the store has format {found}, this program works on format {known}: start keywardd once, which copies and migrates it, then try again"
    )]
    Older {
        /// The format found.
        found: u32,
        /// The format known here.
        known: u32,
    },
    /// Anything else.
    #[error("store: {0}")]
    Other(String),
}
