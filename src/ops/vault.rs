//! Everything that the operations share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Mutex, Notify, watch};

use super::ceremony::Ceremonies;
use super::dek_uses::UseCounters;
use super::entropy::Entropy;
use super::erasure;
use super::kek_uses::KekUses;
use super::login::Logins;
use super::login::keys::LoginKeys;
use super::opened::{OpenKeys, Rules};
use super::rotate::Rotations;
use super::schedule::{Node, Retries};
use super::strays::Strays;
use super::timekeeping::Timekeeping;
use super::views::Views;
use super::{Error, commit};
use crate::access::Action;
use crate::access::Policy;
use crate::audit::AuditLog;
use crate::clock::Date;
use crate::config::{self, Classes, Limits};
use crate::envelope::{Dek, IndexKey};
use crate::hsm::figures::CacheFigures;
use crate::hsm::{Hsm, HsmError, Kek, Operation, Reply};
use crate::id::{DekId, DeploymentId, FieldId, IndexVersion, KekVersion, KeyName, TenantId, TenantName};
use crate::keyring::record::{KekRecord, Principal, Root};
use crate::secret::Key256;
use crate::store::{Records, Stored, tables};

/// The open vault: HSM, records, and what is kept open of them.
pub struct Vault {
    pub(super) hsm: Arc<dyn Hsm>,
    pub(super) records: Records,
    pub(super) audit: Arc<dyn AuditLog>,
    pub(super) root: RwLock<Arc<Root>>,
    pub(super) policy: Arc<Policy>,
    settings: watch::Sender<Arc<Settings>>,
    pub(super) rules: Rules,
    pub(super) views: Views,
    pub(super) deks: OpenKeys<DekId, Dek>,
    pub(super) index_keys: OpenKeys<(KeyName, FieldId, IndexVersion), IndexKey>,
    pub(super) entropy: Entropy,
    pub(super) kek_uses: KekUses,
    pub(super) rotations: Rotations,
    pub(super) dek_uses: UseCounters,
    pub(super) time: Timekeeping,
    pub(super) retries: Retries,
    /// Told of each change: something may be due earlier than before.
    pub(super) woken: Notify,
    /// Destructions are done one after the other.
    pub(super) destroying: Mutex<()>,
    /// Freezes, and their ends, are done one after the other.
    pub(super) freezing: Mutex<()>,
    /// Roots and resident KEKs are made one after the other.
    pub(super) minting: Mutex<()>,
    /// At most one replacement of the erasure key is under way.
    pub(super) erasing: tokio::sync::Mutex<()>,
    /// What stands on the tokens and in no record, as it was seen last.
    pub(super) strays: Strays,
    /// Loads of views hold it shared, commits alone: no view older than a commit is kept after it.
    pub(super) committing: tokio::sync::RwLock<()>,
    /// Whether the newest change may have been made although it failed.
    pub(super) unsettled: AtomicBool,
    pub(super) ceremonies: Ceremonies,
    /// Held while a checkpoint is made: each is the end of the one before.
    pub(super) checkpointing: Mutex<()>,
    /// Held while the first generation of a signing key is made, and while signing keys follow the root; after
    /// `checkpointing` where both are.
    pub(super) making_first_keys: Mutex<()>,
    pub(super) logins: Logins,
    /// Why the newest checkpoint is late.
    pub(super) late: watch::Sender<Option<String>>,
}

/// What configuration says about the operations. It may be replaced while they go on: each of them reads it once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How much one call may ask.
    pub limits: Limits,
    /// How data keys are cached.
    pub classes: Classes,
    /// Whether audit records list decrypted items.
    pub list_decrypted_items: bool,
    /// How often the HSM signs a checkpoint, when there are new records.
    pub checkpoint_interval: std::time::Duration,
    /// How long a login challenge can be answered.
    pub challenge_ttl: std::time::Duration,
    /// How long a login assertion is good for.
    pub assertion_ttl: std::time::Duration,
    /// What a token must show to be enrolled.
    pub login: crate::ops::login::evidence::Rules,
    /// When the erasure key is replaced.
    pub erasure: erasure::Settings,
    /// What happens to keys by date.
    pub lifecycle: Lifecycle,
}

/// What happens to keys by date.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    /// What becomes of what a rotation replaced.
    pub rotation: config::Rotation,
    /// How keys are destroyed.
    pub destruction: config::Destruction,
    /// How the clock is watched.
    pub clock: config::Clock,
    /// Which daemon this is.
    pub node: Node,
}

impl Vault {
    /// Opens the vault over verified records.
    ///
    /// # Errors
    /// When the HSM gives no randomness, or the frozen principals cannot be read.
    pub async fn open(
        hsm: Arc<dyn Hsm>,
        records: Records,
        audit: Arc<dyn AuditLog>,
        root: Root,
        policy: Arc<Policy>,
        settings: Settings,
        login: LoginKeys,
    ) -> Result<Arc<Self>, Error> {
        let Reply::Random(seed) = one(&*hsm, Operation::Random { len: 32 }).await? else {
            return Err(misfit("random"));
        };
        let open_keys = settings.limits.open_keys;
        let time = Timekeeping::new(latest_date(&records).await?, settings.lifecycle.clock.max_ahead.0);
        let vault = Arc::new(Self {
            entropy: Entropy::new(&seed)?,
            rules: Rules::new(settings.classes.clone()),
            views: Views::new(open_keys),
            deks: OpenKeys::new(open_keys),
            index_keys: OpenKeys::new(open_keys),
            kek_uses: KekUses::default(),
            rotations: Rotations::default(),
            dek_uses: UseCounters::default(),
            time,
            retries: Retries::default(),
            woken: Notify::new(),
            freezing: Mutex::default(),
            minting: Mutex::default(),
            destroying: Mutex::new(()),
            erasing: tokio::sync::Mutex::new(()),
            strays: Strays::default(),
            committing: tokio::sync::RwLock::default(),
            unsettled: AtomicBool::new(false),
            ceremonies: Ceremonies::default(),
            checkpointing: Mutex::new(()),
            making_first_keys: Mutex::new(()),
            logins: Logins::new(login),
            late: watch::Sender::new(None),
            hsm,
            records,
            audit,
            root: RwLock::new(Arc::new(root)),
            policy,
            settings: watch::Sender::new(Arc::new(settings)),
        });
        // Before the first line can be entered or struck: each is counted in its day.
        if let Some(counted) = vault.records.count_agenda().await? {
            let agenda = "agenda".to_owned();
            vault.commit_own(counted, commit::Affects::Nothing, Action::AgendaCounted, agenda).await?;
        }
        vault.take_over_frozen_principals().await?;
        vault.verify_newest_checkpoint().await?;
        Ok(vault)
    }

    /// The root under which KEKs are wrapped now.
    pub fn root(&self) -> Arc<Root> {
        self.root.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another root in force.
    pub(super) fn set_root(&self, root: Root) {
        *self.root.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(root);
    }

    /// What configuration says now.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Told when other settings are in force.
    pub(super) fn settings_changed(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// Puts other settings in force. What was begun goes on by those that it has read.
    pub fn set_settings(&self, settings: Settings) {
        self.rules.set_classes(settings.classes.clone());
        self.time.set_max_ahead(settings.lifecycle.clock.max_ahead.0);
        let open_keys = settings.limits.open_keys;
        self.views.set_capacity(open_keys);
        self.deks.set_capacity(open_keys);
        self.index_keys.set_capacity(open_keys);
        self.settings.send_replace(Arc::new(settings));
        // Keys may be too old now, and something may be due earlier.
        self.sweep();
        self.woken.notify_waiters();
    }

    /// The records, for status and transfer.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// How full the caches of data and index keys are.
    pub fn cache_stats(&self) -> CacheFigures {
        self.deks.stats() + self.index_keys.stats()
    }

    /// Runs until the HSM connection is given up: notes when the HSM goes and
    /// comes, and wipes data keys that are too old, each second.
    pub async fn watch_over_keys(self: Arc<Self>) {
        let mut status = self.hsm.status();
        let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                _ = tick.tick() => self.sweep(),
            }
            self.rules.note(&status.borrow_and_update());
        }
    }

    /// Wipes the open keys that may no longer be used.
    fn sweep(&self) {
        self.deks.sweep(&self.rules);
        self.index_keys.sweep(&self.rules);
    }

    pub(super) fn deployment(&self) -> DeploymentId {
        self.root().deployment
    }

    /// What is made now is in no copy of the store up to this revision.
    pub(super) fn nothing_before(&self) -> Option<u64> {
        Some(self.records.position().revision)
    }

    /// One operation of the HSM.
    pub(super) async fn hsm(&self, operation: Operation) -> Result<Reply, Error> {
        Ok(one(&*self.hsm, operation).await?)
    }

    /// The KEK record of one version.
    pub(super) async fn kek(
        &self,
        tenant: &TenantId,
        version: KekVersion,
    ) -> Result<Stored<KekRecord>, Error> {
        self.records.get(&tables::kek(tenant, version)).await?.ok_or_else(|| {
            Error::Internal(format!("tenants/{tenant} has no KEK version {version} in the store"))
        })
    }

    /// Seals a new key under a KEK version, within its use limit.
    pub(super) async fn new_key(
        &self,
        tenant: &TenantId,
        version: KekVersion,
        aad: Vec<u8>,
    ) -> Result<(Key256, crate::keyring::wrapped::SealedKey), Error> {
        self.reserve_kek_uses(tenant, version, 1).await?;
        let kek = kek_of(&self.kek(tenant, version).await?.record);
        match self.hsm(Operation::GenerateKey { kek, aad }).await? {
            Reply::NewKey { key, sealed } => Ok((key, sealed)),
            _ => Err(misfit("key generation")),
        }
    }

    pub(super) fn tenant_name(tenant: &TenantId) -> TenantName {
        TenantName(tenant.clone())
    }

    async fn take_over_frozen_principals(&self) -> Result<(), Error> {
        for (path, stored) in self.records.complete::<Principal>().await? {
            self.policy.set_frozen(&path.id, stored.record.frozen, stored.revision);
        }
        Ok(())
    }
}

/// The latest date that the store knows of.
async fn latest_date(records: &Records) -> Result<Date, Error> {
    let mark = records.get(&tables::clock_mark()).await?.map(|stored| stored.record.high);
    let renewed = records.get(&tables::lease()).await?.map(|stored| stored.record.renewed);
    Ok(mark.max(renewed).unwrap_or(Date(0)))
}

/// How the HSM names a KEK.
pub(super) fn kek_of(record: &KekRecord) -> Kek {
    Kek::of(record)
}

/// An answer that does not fit its question: a bug.
pub(super) fn misfit(what: &str) -> Error {
    Error::Internal(format!("the HSM layer gave another answer than asked for: {what}"))
}

async fn one(hsm: &dyn Hsm, operation: Operation) -> Result<Reply, HsmError> {
    hsm.run(vec![operation]).await.pop().unwrap_or_else(|| Err(HsmError::Misbehaved("no answer".into())))
}
