//! What the tests of the store share: a directory with a store, sample records,
//! and backends that fail on demand.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::commit::lock;
use super::journal::Medium;
use super::kv::{Change, Entry, Kv, KvError, Snapshot, Transaction};
use super::sqlite::SqliteKv;
use super::tables::{self, Path};
use super::{Changes, OpenReport, Records, StoreChange, StoreError, StoreKeys};
use crate::clock::Date;
use crate::id::{
    DekId, DeploymentId, Epoch, ErasureGeneration, KekVersion, KeyId, KeyName, RootGeneration, RootId,
    TenantId,
};
use crate::keyring::record::{Custody, Dek, Root, SuiteFamily, SystemSecret, Tenant};
use crate::keyring::wrapped::{Canary, SealMechanism, SealedKey, WrapMechanism, WrappedKek};
use crate::secret::Key256;

pub(super) const DEPLOYMENT: DeploymentId = DeploymentId([0xd; 16]);

pub(super) fn keys() -> StoreKeys {
    let keys = keys_without_erasure();
    keys.erasure.add(ErasureGeneration::FIRST, erasure_secret(1));
    keys.erasure.seal_under(ErasureGeneration::FIRST);
    keys
}

pub(super) fn keys_without_erasure() -> StoreKeys {
    StoreKeys::derive(&Key256::init_with(|key| key.fill(0x5a)))
}

pub(super) fn erasure_secret(byte: u8) -> Key256 {
    Key256::init_with(|key| key.fill(byte))
}

/// A directory with a store of two records: root and secret.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(super) fn store(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.dir.path().join("journal.kwj")
    }

    pub(super) async fn kv(&self) -> Arc<dyn Kv> {
        Arc::new(SqliteKv::open(self.store()).await.unwrap())
    }

    pub(super) async fn create(&self) -> Records {
        self.create_on(self.kv().await).await
    }

    pub(super) async fn create_on(&self, kv: Arc<dyn Kv>) -> Records {
        Records::create(kv, &self.journal(), DEPLOYMENT, keys(), first_changes()).await.unwrap().0
    }

    pub(super) async fn open(&self) -> Result<(Records, OpenReport), StoreError> {
        self.open_after(None).await
    }

    pub(super) async fn open_after(
        &self,
        anchor: Option<StoreChange>,
    ) -> Result<(Records, OpenReport), StoreError> {
        Records::open(self.kv().await, &self.journal(), DEPLOYMENT, keys(), anchor).await
    }

    /// Runs SQL on the store behind the daemon's back.
    pub(super) fn sql(&self, sql: &str, key: &[u8]) -> usize {
        let connection = rusqlite::Connection::open(self.store()).unwrap();
        connection.execute(sql, [key]).unwrap()
    }

    /// The stored value at `key`.
    pub(super) fn peek(&self, key: &[u8]) -> Vec<u8> {
        let connection = rusqlite::Connection::open(self.store()).unwrap();
        connection.query_row("SELECT value FROM kv WHERE key = ?1", [key], |row| row.get(0)).unwrap()
    }

    /// Puts a value behind the daemon's back.
    pub(super) fn poke(&self, key: &[u8], value: &[u8]) {
        let connection = rusqlite::Connection::open(self.store()).unwrap();
        let sql = "INSERT OR REPLACE INTO kv (key, value, revision) VALUES (?1, ?2, 1)";
        connection.execute(sql, [key, value]).unwrap();
    }

    /// Copies every file somewhere else: what a disk had at this moment.
    pub(super) fn image(&self) -> Self {
        let copy = Self::new();
        for file in std::fs::read_dir(self.dir.path()).unwrap() {
            let file = file.unwrap();
            // The shared index of the WAL is rebuilt; a crash does not keep it.
            if !file.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(file.path(), copy.dir.path().join(file.file_name())).unwrap();
            }
        }
        copy
    }
}

pub(super) fn first_changes() -> Changes {
    let (root, secret) = first_records();
    let mut changes = Changes::new();
    changes.create(&tables::root(root.generation), &root).create(&tables::system_secret(), &secret);
    changes
}

pub(super) fn first_records() -> (Root, SystemSecret) {
    let id = RootId([1; 16]);
    let kek = WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes: vec![2; 40] };
    let canary = Canary { root: id, kek: Some(kek.clone()), sealed: sealed(3), fingerprint: [4; 32] };
    let root = Root {
        id,
        generation: RootGeneration::FIRST,
        deployment: DEPLOYMENT,
        custody: Custody::Unfounded,
        escrow: kek.clone(),
        canary,
        token_serial: "0001".into(),
        token_label: "token".into(),
        created: Date(1),
        state: None,
    };
    (root, SystemSecret { root: id, kek, sealed: sealed(5) })
}

pub(super) fn sealed(byte: u8) -> SealedKey {
    // As in the fixtures of format 1.
    SealedKey { mechanism: SealMechanism::AesGcm, iv: [byte; 12], ciphertext: [byte; 48], check: None }
}

pub(super) fn tenant_id(number: u32) -> TenantId {
    TenantId::new(&format!("t{number}")).unwrap()
}

pub(super) fn tenant_path(number: u32) -> Path<Tenant> {
    tables::tenant(&tenant_id(number))
}

pub(super) fn tenant(keys: u32) -> Tenant {
    Tenant { keys, ..Tenant::new(Date(7), None) }
}

pub(super) fn key_name() -> KeyName {
    KeyName { tenant: tenant_id(0), key: KeyId::new("k").unwrap() }
}

pub(super) fn dek_path(number: u32) -> Path<Dek> {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    tables::dek(&key_name(), DekId(id))
}

pub(super) fn dek(byte: u8) -> Dek {
    Dek { epoch: Epoch::FIRST, kek: KekVersion::FIRST, sealed: sealed(byte), family: SuiteFamily::AesSha2 }
}

/// Creates a tenant.
pub(super) async fn add(records: &Records, number: u32) -> Result<StoreChange, StoreError> {
    let mut changes = Changes::new();
    changes.create(&tenant_path(number), &tenant(0));
    records.commit(changes).await
}

/// Gives a tenant another number of keys.
pub(super) async fn set(records: &Records, number: u32, keys: u32) -> Result<StoreChange, StoreError> {
    let old = records.get(&tenant_path(number)).await?.unwrap();
    let mut changes = Changes::new();
    changes.replace(&tenant_path(number), &tenant(keys), old.revision);
    records.commit(changes).await
}

/// A tenant's number of keys.
pub(super) async fn read(records: &Records, number: u32) -> Option<u32> {
    records.get(&tenant_path(number)).await.unwrap().map(|stored| stored.record.keys)
}

/// Gives up the store as a crash would: nothing is finished or told.
pub(super) fn crash(records: Records) {
    let inner = Arc::try_unwrap(records.inner).ok().expect("nothing else uses the store");
    drop(inner);
}

/// How the next call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Without having done anything.
    NotDone,
    /// After having done its work.
    DoneButFailed,
}

impl Fault {
    pub(super) const BOTH: [Self; 2] = [Self::NotDone, Self::DoneButFailed];
}

/// The fault that waits for the next call.
#[derive(Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Option<Fault>>>);

impl Faults {
    pub(super) fn next(&self, fault: Fault) {
        *self.0.lock().unwrap() = Some(fault);
    }

    fn take(&self) -> Option<Fault> {
        self.0.lock().unwrap().take()
    }

    /// Whether the fault has struck.
    pub(super) fn is_spent(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }

    fn strike<T, E>(&self, error: impl Fn() -> E, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        match self.take() {
            None => work(),
            Some(Fault::NotDone) => Err(error()),
            Some(Fault::DoneButFailed) => work().and_then(|_| Err(error())),
        }
    }
}

/// Which lie is told, about which row.
type Told = Arc<Mutex<Option<(Lie, Vec<u8>)>>>;

/// A backend that fails and lies on demand, and counts what is read.
pub(super) struct FaultyKv {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) commits: Faults,
    pub(super) reads: Arc<AtomicU64>,
    /// Its ranges lie, and nothing else: reads by name show the row.
    lie: Told,
}

impl FaultyKv {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Arc<Self> {
        Arc::new(Self { kv, commits: Faults::default(), reads: Arc::default(), lie: Told::default() })
    }

    /// Lies about the row at `key` from now on.
    pub(super) fn lie(&self, lie: Lie, key: Vec<u8>) {
        *self.lie.lock().unwrap() = Some((lie, key));
    }

    pub(super) fn be_honest(&self) {
        *self.lie.lock().unwrap() = None;
    }
}

#[async_trait]
impl Kv for FaultyKv {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KvError> {
        let (snapshot, reads, lie) = (self.kv.snapshot().await?, self.reads.clone(), self.lie.clone());
        Ok(Box::new(Faulty { snapshot, reads, lie }))
    }

    async fn commit(&self, transaction: Transaction) -> Result<u64, KvError> {
        let failed = || KvError::Other("failed on demand".into());
        match self.commits.take() {
            None => self.kv.commit(transaction).await,
            Some(Fault::NotDone) => Err(failed()),
            Some(Fault::DoneButFailed) => self.kv.commit(transaction).await.and_then(|_| Err(failed())),
        }
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
        "faulty"
    }
}

struct Faulty {
    snapshot: Box<dyn Snapshot>,
    reads: Arc<AtomicU64>,
    lie: Told,
}

impl Faulty {
    fn count(&self, rows: usize) {
        self.reads.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

#[async_trait]
impl Snapshot for Faulty {
    fn revision(&self) -> u64 {
        self.snapshot.revision()
    }

    async fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, KvError> {
        self.count(1);
        self.snapshot.get(key).await
    }

    async fn get_many(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Entry>>, KvError> {
        self.count(keys.len());
        self.snapshot.get_many(keys).await
    }

    async fn range(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Entry)>, KvError> {
        let mut rows = self.snapshot.range(prefix, after, limit).await?;
        self.count(rows.len());
        if let Some((lie, key)) = &*self.lie.lock().unwrap()
            && let Some(at) = rows.iter().position(|(found, _)| found == key)
        {
            lie.tell(&mut rows, at);
        }
        Ok(rows)
    }
}

/// What a database file can be made to show by who builds its tree by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    /// The row is not there.
    Hidden,
    /// The row is there twice.
    Doubled,
    /// The row stands in the place of the one behind it, so that the number is right.
    InPlaceOfTheNext,
    /// The row stands at the beginning of the list.
    Misplaced,
}

impl Lie {
    pub(super) const ALL: [Self; 4] = [Self::Hidden, Self::Doubled, Self::InPlaceOfTheNext, Self::Misplaced];

    /// Tells it about the row that stands at `at`.
    fn tell(self, rows: &mut Vec<(Vec<u8>, Entry)>, at: usize) {
        match self {
            Self::Hidden => drop(rows.remove(at)),
            Self::Doubled => rows.insert(at, rows[at].clone()),
            Self::InPlaceOfTheNext if at + 1 < rows.len() => rows[at + 1] = rows[at].clone(),
            Self::InPlaceOfTheNext => drop(rows.remove(at)),
            Self::Misplaced => {
                let row = rows.remove(at);
                rows.insert(0, row);
            }
        }
    }
}

/// Faults of the journal's file.
#[derive(Clone, Default)]
pub(super) struct FileFaults {
    pub(super) write: Faults,
    pub(super) sync: Faults,
    pub(super) truncate: Faults,
}

struct FaultyMedium {
    medium: Box<dyn Medium>,
    faults: FileFaults,
}

impl FileFaults {
    /// Makes the journal of `records` fail on demand.
    pub(super) async fn install(&self, records: &Records) {
        let writer = records.inner.writer.lock().await;
        let mut journal = lock(&writer.journal);
        let medium =
            std::mem::replace(&mut journal.medium, Box::new(Arc::new(tempfile::tempfile().unwrap())));
        journal.medium = Box::new(FaultyMedium { medium, faults: self.clone() });
    }
}

fn failed() -> io::Error {
    io::Error::other("failed on demand")
}

impl Medium for FaultyMedium {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.faults.write.strike(failed, || self.medium.write(bytes, offset))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.faults.sync.strike(failed, || self.medium.sync())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.faults.truncate.strike(failed, || self.medium.truncate(length))
    }
}
