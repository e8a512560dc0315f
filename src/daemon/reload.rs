//! Another configuration, put in force while the daemon serves: whole or not at all.
//!
//! ```text
//! file → faults? → refused, the one before stays          → record, log, status, answer
//!      → none    → its record is queued → it is in force  → the record is durable → answer
//! ```

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tonic_health::pb::health_server::Health as HealthService;

use super::admission::Places;
use super::check::{Prepared, prepare};
use super::logging::Levels;
use crate::access::Action;
use crate::audit::refusals::Budget;
use crate::audit::{FileLog, Outcome, Pending, Receipt};
use crate::clock::Date;
use crate::config::{Changes, Config, ConfigError, CustodyMode};
use crate::keyring::record::Custody;
use crate::ops::schedule::Node;
use crate::ops::vault;
use crate::ops::{Error, Vault};
use crate::rpc::admission::Admission;
use crate::rpc::call::{Gate, stopped};
use crate::rpc::reload::{InForce, Reloaded, Reloading};
use crate::rpc::services::{self, Health};

/// The word of a refused configuration in the audit log.
const REFUSED: &str = "CONFIGURATION_REFUSED";

/// What a configuration is put in force on.
pub(super) struct Parts<H: HealthService> {
    pub(super) gate: Arc<Gate>,
    pub(super) audit: Arc<FileLog>,
    pub(super) admission: Admission,
    pub(super) health: Health<H>,
    pub(super) places: Arc<Places>,
    pub(super) levels: Levels,
}

/// The configuration in force, and what follows it.
pub(super) struct Current<H: HealthService> {
    file: PathBuf,
    node: Node,
    parts: Parts<H>,
    /// What the daemon started with: some options count only then.
    started: Config,
    /// Who answered for the root then.
    custody: Custody,
    now: Mutex<Now>,
    told: watch::Sender<InForce>,
}

struct Now {
    config: Config,
    vault: vault::Settings,
}

impl<H: HealthService> Current<H> {
    /// With the configuration that the daemon starts with.
    pub(super) fn new(
        config: &Config,
        (node, custody): (Node, Custody),
        vault: vault::Settings,
        parts: Parts<H>,
        told: watch::Sender<InForce>,
    ) -> Arc<Self> {
        let now = Mutex::new(Now { config: config.clone(), vault });
        Arc::new(Self { file: config.file.clone(), node, parts, started: config.clone(), custody, now, told })
    }

    /// Reloads for whoever asks, and at SIGHUP, until the daemon stops.
    pub(super) async fn follow(self: Arc<Self>, mut reloading: Reloading, mut hangup: Signal) {
        let mut stop = self.parts.gate.shutdown();
        loop {
            tokio::select! {
                Some(order) = reloading.orders.recv() => {
                    // Whoever asked may have gone; it is in force all the same.
                    order.send(self.reload().await).ok();
                }
                Some(()) = hangup.recv() => {
                    // Nobody waits for an answer: log, record and status have it.
                    self.reload().await.ok();
                }
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// Lets calls in to a vault that was just opened, by the settings of now: they may have been replaced meanwhile.
    pub(super) fn opened(&self, vault: Arc<Vault>) {
        let now = self.now();
        vault.set_settings(now.vault.clone());
        if self.parts.gate.vault.set(vault).is_err() {
            tracing::error!("the vault was opened twice");
        }
    }

    /// Reads the file and puts it in force.
    async fn reload(&self) -> Result<Reloaded, Error> {
        let (file, node, started) = (self.file.clone(), self.node, self.started.clone());
        // It reads files, and asks for users by name.
        let read = tokio::task::spawn_blocking(move || match Config::read(&file) {
            Ok(config) => prepare(config, node, &started),
            Err(ConfigError::Faulty { mut faults, read, .. }) => {
                let further = read.and_then(|config| prepare(*config, node, &started).err());
                faults.extend(further.unwrap_or_default());
                Err(faults)
            }
            Err(unreadable) => Err(vec![unreadable.to_string()]),
        });
        let prepared = read.await.map_err(|error| Error::Internal(error.to_string()))?;
        match prepared.and_then(|prepared| self.fits_custody(prepared)) {
            Ok(prepared) => self.put_in_force(prepared).await,
            Err(faults) => self.refuse(faults).await,
        }
    }

    /// That the root has custodians, or that the file says that this is meant: the next start asks for it.
    fn fits_custody(&self, prepared: Prepared) -> Result<Prepared, Vec<String>> {
        // While the vault is closed it is as the store said when the daemon started.
        let vault = self.parts.gate.vault.get();
        let unfounded = vault.map_or(self.custody, |vault| vault.root().custody) == Custody::Unfounded;
        match unfounded && prepared.config.custody != Some(CustodyMode::Operator) {
            true => Err(vec![super::run::RunError::Unfounded.to_string()]),
            false => Ok(prepared),
        }
    }

    async fn put_in_force(&self, prepared: Prepared) -> Result<Reloaded, Error> {
        let served = services::services(&self.parts.gate, &self.parts.health, &prepared.config.limits);
        let served = served.map_err(|error| Error::Internal(error.to_string()))?;
        let (receipt, done) = self.apply(prepared, served)?;
        receipt.await?;
        let changes = told(&done.changes);
        tracing::info!("the configuration is in force (sha256 {}): {changes}", hex::encode(done.now.digest));
        done.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        if let Some(warning) = done.now.warning() {
            tracing::warn!("{warning}");
        }
        Ok(done)
    }

    /// Replaces everything at once. Nothing is awaited: no call is judged by one part of it and not by another for long.
    fn apply(
        &self,
        prepared: Prepared,
        served: crate::rpc::admission::Served,
    ) -> Result<(Receipt, Reloaded), Error> {
        let Prepared { config, principals, vault, warnings } = prepared;
        let mut now = self.now();
        let changes = Changes::between(&now.config, &config).taken;
        let restart = Changes::between(&self.started, &config).restart;
        let digest = config.digest;
        let mut detail = format!("sha256 {}: {}", hex::encode(digest), told(&changes));
        if !restart.is_empty() {
            detail += &format!("; at the next start: {}", restart.join(", "));
        }
        // Before it is in force: the record of whatever is decided by it comes after this one, so that no answer leaves
        // before this one is durable. If it cannot be queued, the daemon serves nothing any more.
        let receipt = self.record(&detail, Outcome::Ok)?;
        let narrowed = self.parts.gate.policy.replace(principals);
        self.parts.admission.replace(served);
        self.parts.gate.set_refusals(Budget::of(config.limits.refusals_per_second));
        self.parts.places.set(&config.server);
        self.parts.levels.set(config.log.level);
        if let Some(opened) = self.parts.gate.vault.get() {
            opened.set_settings(vault.clone());
        }
        *now = Now { config, vault };
        let in_force = InForce { digest, since: Date::now(), restart, refused: None };
        self.told.send_replace(in_force.clone());
        let narrowed = narrowed.iter().map(ToString::to_string).collect();
        Ok((receipt, Reloaded { now: in_force, changes, narrowed, warnings }))
    }

    async fn refuse(&self, faults: Vec<String>) -> Result<Reloaded, Error> {
        let faults_in_one = faults.join("; ");
        tracing::error!(
            "the configuration was not taken up, and the one before stays in force: {faults_in_one}"
        );
        self.told.send_modify(|now| now.refused = Some(faults_in_one.clone()));
        self.record(&faults_in_one, Outcome::Failed(REFUSED.to_owned()))?.await?;
        Err(Error::ConfigurationRefused(faults))
    }

    fn record(&self, detail: &str, outcome: Outcome) -> Result<Receipt, Error> {
        let mut record = Pending::begin(self.parts.audit.clone(), None, Action::Configuration, "", 0);
        record.detail(detail);
        Ok(record.finish(outcome)?)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing panics while it is locked.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(changes: &[String]) -> String {
    if changes.is_empty() { "nothing changed".to_owned() } else { changes.join(", ") }
}
