//! A whole installation in one process: a real store, journal and audit log in a folder of its own, the
//! HSM in memory, and the vault over them. Only the process around it is missing: no socket, no rpc.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use keyward::access::Action;
use keyward::access::permission::ViewStatus;
use keyward::access::{Authorized, Denied, Peer, Permission, Policy, Principals};
use keyward::audit::{self, FileLog, Outcome, Pending};
use keyward::config::Config;
use keyward::daemon::lock::StateLock;
use keyward::daemon::unlock::{Locked, UnlockError};
use keyward::daemon::{init, settings};
use keyward::hsm::birth::{Backup, BackupPlan, Purpose};
use keyward::hsm::{Hsm, KeepNewborn, Kek, Operation, Reply, Status};
use keyward::id::{DeploymentId, Installation, RootId};
use keyward::keyring::binding;
use keyward::ops::schedule::Node;
use keyward::ops::{Done, Error, Vault};
use keyward::secret::Key256;
use keyward::store::kv::Kv;
use keyward::store::repair::{self, RepairReport};
use keyward::store::{self, Records, Refusal, SqliteKv, StoreChange, StoreError};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::controls::Controls;
use crate::hsm::MemoryHsm;
use crate::lying::{Lies, LyingKv};
use crate::store::FaultyKv;
use crate::token::Token;

/// The user id of the one principal, `tester`: an operator who may do everything with every key's data.
pub const TESTER: u32 = 1000;

/// The boot on which every world lives: no moment of the machine's own goes into a record.
const BOOT: [u8; 16] = [0xb; 16];

/// An installation whose vault is open.
pub struct World {
    /// The vault. Whoever keeps a clone keeps the store open: see [`restart`](Self::restart).
    pub vault: Arc<Vault>,
    /// What the HSM does next.
    pub controls: Controls,
    /// What the store's backend does next.
    pub store: Arc<FaultyKv>,
    /// What rows look like that the store's backend reads, after a restart too.
    pub lies: Lies,
    /// The HSM.
    pub hsm: Arc<MemoryHsm>,
    policy: Arc<Policy>,
    audit: Arc<FileLog>,
    watcher: JoinHandle<()>,
    lock: StateLock,
    place: Arc<Place>,
}

/// What stays while no vault is open: as on a host whose daemon is stopped.
pub struct Place {
    folder: TempDir,
    config: Config,
    /// What was added to the configuration.
    more: String,
    token: Token,
    lies: Lies,
    backup_key: Key256,
}

impl World {
    /// A fresh installation with an unfounded root.
    pub async fn new() -> Self {
        Self::configured("").await
    }

    /// A fresh installation; `more` is added to its configuration, which begins with tables.
    pub async fn configured(more: &str) -> Self {
        Arc::new(Place::new(more).await).open().await.unwrap_or_else(|error| panic!("the vault: {error}"))
    }

    /// Closes the vault and opens it again from what the disk and the token have. The HSM connects anew, and
    /// nothing is planned for it or the store any more.
    ///
    /// # Panics
    /// When the vault does not open, or somebody has kept a clone of the old one.
    pub async fn restart(self) -> Self {
        self.try_restart().await.unwrap_or_else(|error| panic!("the vault after a restart: {error}"))
    }

    /// As [`restart`](Self::restart).
    ///
    /// # Errors
    /// Why the vault stays closed.
    pub async fn try_restart(self) -> Result<Self, UnlockError> {
        self.close().await.open().await
    }

    /// Closes the vault. What stays can be opened again, and copied.
    ///
    /// # Panics
    /// When somebody has kept a clone of the vault.
    pub async fn close(self) -> Arc<Place> {
        let Self { vault, controls, store, lies, hsm, policy, audit, watcher, lock, place } = self;
        watcher.abort();
        // An error says that it was aborted; then it holds the vault no more.
        watcher.await.ok();
        drop((controls, lies, policy));
        let vault = Arc::into_inner(vault).expect("nobody has kept the vault");
        drop((vault, store, hsm));
        audit.close().expect("the audit log closes");
        drop((audit, lock));
        journal_is_free(&place.config.journal()).await;
        place
    }

    /// The records.
    pub fn records(&self) -> &Records {
        self.vault.records()
    }

    /// The token, which outlives every restart.
    pub fn token(&self) -> &Token {
        &self.place.token
    }

    /// The folder of `state/`.
    pub fn path(&self) -> &Path {
        self.place.folder.path()
    }

    /// The backup key of the first root, as `init` hands it out.
    pub fn backup_key(&self) -> &Key256 {
        &self.place.backup_key
    }

    /// The audit log.
    pub fn audit(&self) -> &Arc<FileLog> {
        &self.audit
    }

    /// What stays when this is closed.
    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// The tester's right, which the policy grants.
    ///
    /// # Panics
    /// When it does not.
    pub fn right<P: Permission>(&self, resource: P::Resource) -> Authorized<P> {
        self.right_of(TESTER, resource)
    }

    /// The right of a user, which the policy grants.
    ///
    /// # Panics
    /// When it does not.
    pub fn right_of<P: Permission>(&self, uid: u32, resource: P::Resource) -> Authorized<P> {
        let caller = self.policy.caller(Peer { uid, gid: uid, groups: Arc::default(), pid: None });
        self.policy.authorize::<P>(&caller, resource).unwrap_or_else(|denied| panic!("{denied}"))
    }

    /// Whether whoever has this uid is a principal that is frozen.
    pub fn is_frozen(&self, uid: u32) -> bool {
        let caller = self.policy.caller(Peer { uid, gid: uid, groups: Arc::default(), pid: None });
        matches!(self.policy.authorize::<ViewStatus>(&caller, Installation), Err(Denied::Frozen(_)))
    }

    /// Records a piece of work and gives its value out, as the gate of the API does.
    ///
    /// # Errors
    /// The work's own; then that is on record.
    pub async fn settle<T>(&self, action: Action, outcome: Result<Done<T>, Error>) -> Result<T, Error> {
        let mut record = Pending::begin(self.audit.clone(), Some(tester()), action, "", 0);
        let mut done = match outcome {
            Ok(done) => done,
            Err(error) => {
                record.detail(error.to_string());
                record.finish(Outcome::Failed(error.reason().as_str().to_owned()))?.await?;
                return Err(error);
            }
        };
        let trace = done.take_trace();
        if let Some(items) = trace.items {
            record.items(items);
        }
        if let Some(change) = trace.change {
            record.change(change);
        }
        if let Some(detail) = trace.detail {
            record.detail(detail);
        }
        let committed = record.finish(Outcome::Ok)?.await?;
        Ok(done.release(committed))
    }
}

impl Place {
    /// Makes what `keyward init` makes, in the same functions.
    async fn new(more: &str) -> Self {
        let folder = new_folder();
        let config = configuration(folder.path(), more);
        DirBuilder::new().mode(0o700).create(&config.state_dir).expect("the state's folder");
        let (token, kept) = (Token::default(), Arc::new(Mutex::new(None)));
        let hsm = MemoryHsm::open(&token, None);
        let keeper = kept.clone();
        let keep: KeepNewborn<'_> = Box::new(move |newborn| {
            Box::pin(async move {
                let Backup::HandedOut(key) = newborn.backup else {
                    return Err("the backup key was not handed out".to_owned());
                };
                *keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
                Ok(())
            })
        });
        let made = hsm.create_root(Purpose::Root, BackupPlan::HandOut, keep).await.expect("a root");
        hsm.expect(made.born().canary.clone());
        let deployment = DeploymentId::random().expect("randomness");
        init::write_records(&config, &*hsm, deployment, &made).await.expect("the first records");
        let backup_key = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let backup_key = backup_key.expect("kept before the root was made");
        Self { folder, config, more: more.to_owned(), token, lies: Lies::default(), backup_key }
    }

    /// Another installation of the same records, keys and token objects, as a copy of the whole host is one. Nothing
    /// is planned for its store. The vault must be closed: what lies on the disk of an open one is no whole.
    pub fn copy(&self) -> Arc<Self> {
        let folder = new_folder();
        copy_folder(&self.config.state_dir, &folder.path().join("state"));
        Arc::new(Self {
            config: configuration(folder.path(), &self.more),
            folder,
            more: self.more.clone(),
            token: self.token.copy(),
            lies: self.lies.copy(),
            backup_key: self.backup_key.duplicate(),
        })
    }

    /// Repairs store and journal as `keyward store check --repair` does, while the vault is closed.
    ///
    /// # Errors
    /// Why they are as they were.
    pub async fn repair(&self) -> Result<RepairReport, StoreError> {
        let (database, journal) = (self.config.database(), self.config.journal());
        let (root, secret) = {
            let kv = SqliteKv::open(&database).await?;
            store::bootstrap(&kv).await?.ok_or(Refusal::NoStore)?
        };
        let hsm = MemoryHsm::open(&self.token, Some(root.canary.clone()));
        let operation = Operation::OpenKey {
            kek: Kek::Sealed { root: secret.root, wrapped: secret.kek },
            aad: binding::system_secret(root.deployment),
            sealed: secret.sealed,
        };
        let key = match hsm.run(vec![operation]).await.pop() {
            Some(Ok(Reply::Key(key))) => key,
            other => panic!("the store's secret: {other:?}"),
        };
        repair::repair(&database, &journal, root.deployment, &key).await
    }

    /// What rows look like that the store's backend reads.
    pub fn lies(&self) -> &Lies {
        &self.lies
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Opens the vault as the daemon does.
    ///
    /// # Errors
    /// Why the vault stays closed.
    pub async fn open(self: &Arc<Self>) -> Result<World, UnlockError> {
        let config = &self.config;
        let lock = StateLock::take(&config.state_dir).expect("the state's folder");
        let node = Node { id: lock.node().expect("the lock's file"), boot: BOOT };
        let (principals, faults) = Principals::resolve(&config.principals, None);
        assert!(faults.is_empty(), "{faults:?}");
        let policy = Arc::new(Policy::new(principals));
        let vault_settings = settings::vault(config, node).expect("no files are named");
        let kv: Arc<dyn Kv> = Arc::new(SqliteKv::open(config.database()).await.expect("the store"));
        let kv: Arc<dyn Kv> = LyingKv::new(kv, self.lies.clone()).await.map_err(StoreError::from)?;
        // An enemy who takes the first records away has a store that is none.
        let empty = || StoreError::from(Refusal::NoStore);
        let (root, secret) = store::bootstrap(kv.as_ref()).await?.ok_or_else(empty)?;
        let (audit, opened) =
            FileLog::open(settings::audit(config, false), root.deployment).expect("the audit log");
        let hsm = MemoryHsm::open(&self.token, Some(root.canary.clone()));
        let store = FaultyKv::new(kv);
        let anchor = opened.last_change;
        let id = root.id;
        let locked = Locked {
            hsm: hsm.clone(),
            kv: store.clone() as Arc<dyn Kv>,
            journal: config.journal(),
            audit: audit.clone(),
            anchor: anchor.map(|change| StoreChange { revision: change.revision, digest: change.digest }),
            root,
            secret,
            policy: policy.clone(),
            settings: vault_settings,
        };
        let vault = match unlock(locked, &hsm, id).await {
            Ok(vault) => vault,
            Err(error) => {
                drop((store, hsm));
                audit.close().expect("the audit log closes");
                // It has the records, to ask which changes lack a record of theirs.
                drop(audit);
                journal_is_free(&config.journal()).await;
                return Err(error);
            }
        };
        let watcher = tokio::spawn(vault.clone().watch_over_keys());
        let controls = hsm.controls();
        let (lies, place) = (self.lies.clone(), self.clone());
        Ok(World { vault, controls, store, lies, hsm, policy, audit, watcher, lock, place })
    }
}

/// Opens the vault, unless the HSM refuses the token: a daemon waits then, and serves nobody.
async fn unlock(locked: Locked, hsm: &MemoryHsm, root: RootId) -> Result<Arc<Vault>, UnlockError> {
    let (waiting_for, mut status) = (watch::Sender::new(String::new()), hsm.status());
    let opened = locked.open(&waiting_for);
    tokio::select! {
        biased;
        refused = status.wait_for(|status| matches!(status, Status::Refused { .. })) => {
            assert!(refused.is_ok(), "the HSM is there");
            Err(UnlockError::OtherToken(root))
        }
        opened = opened => Ok(opened?.expect("the HSM serves")),
    }
}

fn new_folder() -> TempDir {
    TempDir::with_prefix_in("keyward-world-", parent()).expect("a temporary folder")
}

fn copy_folder(from: &Path, to: &Path) {
    DirBuilder::new().mode(0o700).create(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).expect("a file");
        }
    }
}

/// Waits until nobody has the journal: a change that was begun goes to its end without its caller.
async fn journal_is_free(path: &Path) {
    while File::open(path).expect("the journal").try_lock().is_err() {
        tokio::task::yield_now().await;
    }
}

fn tester() -> audit::Caller {
    audit::Caller {
        principal: Some("tester".to_owned()),
        uid: TESTER,
        gid: TESTER,
        pid: None,
        staff: None,
        assertion: None,
        client: None,
    }
}

/// Memory, where there is some.
fn parent() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// The module and the PIN are named because they must be; nothing reads them.
fn configuration(folder: &Path, more: &str) -> Config {
    let text = format!(
        r#"state_dir = "{}/state"
custody = "operator"

[hsm]
module = "/nonexistent/pkcs11.so"
token = "memory"
pin_file = "/nonexistent/pin"

[[principal]]
name = "tester"
role = "operator"
users = [{TESTER}]

[[principal.allow]]
keys = ["tenants/*/keys/*"]
operations = ["encrypt", "decrypt", "re-encrypt", "generate-data-key", "decrypt-data-key", "blind-index"]

{more}
"#,
        folder.display()
    );
    Config::parse(&text, Path::new("world.toml")).unwrap_or_else(|error| panic!("{error}"))
}
