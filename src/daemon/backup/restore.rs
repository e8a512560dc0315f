//! `keyward backup restore`: a new store out of a recovery export.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BackupError, Unlocked, block_on, connect, read_head, unlock};
use crate::access::Action;
use crate::audit::Outcome;
use crate::clock::Date;
use crate::config::Config;
use crate::daemon::lock::StateLock;
use crate::daemon::{maintain, settings};
use crate::hsm::birth::Purpose;
use crate::hsm::{Hsm, HsmError};
use crate::id::{DeploymentId, ErasureGeneration, ExportId, RootId};
use crate::keyring::record::ErasureState;
use crate::ops::erasure;
use crate::store::files;
use crate::store::{Records, Refusal, SqliteKv, StoreChange, StoreError, StoreKeys};

/// What was restored.
#[derive(Debug)]
pub struct Restore {
    /// The export.
    pub export: ExportId,
    /// The installation.
    pub deployment: DeploymentId,
    /// When the export was made: what was changed since is not in it.
    pub created: Date,
    /// Records.
    pub records: u64,
    /// Where the store is now.
    pub position: StoreChange,
    /// The new generation of the erasure key.
    pub erasure: ErasureGeneration,
    /// Erasure roots that stood on the tokens: the daemon destroys them when it starts.
    pub to_destroy: Vec<RootId>,
    /// There is an audit log, and it knows of another store: that must be accepted by hand.
    pub accept: bool,
}

/// Fills a new store from an export, under a new erasure key, on tokens that have its root.
///
/// # Errors
/// [`BackupError`]; a store that exists is never touched.
pub fn restore(config: &Config, input: &Path) -> Result<Restore, BackupError> {
    let _lock = StateLock::take(&config.state_dir)?;
    for place in [config.database(), config.journal()] {
        let failed = |error| BackupError::File(place.display().to_string(), error);
        if place.try_exists().map_err(failed)? {
            return Err(StoreError::from(Refusal::NotEmpty(place.display().to_string())).into());
        }
    }
    // What a restore left that was cut short.
    let begun = Begun::of(config);
    begun.remove()?;
    block_on(async {
        let closed = read_head(input).await?;
        let hsm = connect(settings::hsm(config)?, &closed.head).await?;
        let restored = async { fill(config, &begun, &*hsm, unlock(&*hsm, closed).await?).await }.await;
        hsm.shutdown().await;
        if restored.is_err() {
            begun.remove()?;
        }
        restored
    })
}

/// Store and journal under names of their own until both are whole. Nothing else is ever removed.
struct Begun {
    store: PathBuf,
    journal: PathBuf,
}

impl Begun {
    fn of(config: &Config) -> Self {
        let own = |place: PathBuf| files::beside(&place, ".restoring");
        Self { store: own(config.database()), journal: own(config.journal()) }
    }

    fn write_ahead_log(&self) -> PathBuf {
        files::beside(&self.store, "-wal")
    }

    fn remove(&self) -> io::Result<()> {
        let shared = files::beside(&self.store, "-shm");
        for file in [self.write_ahead_log(), shared, self.store.clone(), self.journal.clone()] {
            files::remove_if_there(&file)?;
        }
        Ok(())
    }

    /// Gives them their names, the store last: without it nothing starts.
    fn finish(&self, config: &Config) -> io::Result<()> {
        if self.write_ahead_log().try_exists()? {
            return Err(io::Error::other("the database was not closed"));
        }
        files::name_new(&self.journal, &config.journal())?;
        files::name_new(&self.store, &config.database())
    }
}

async fn fill(
    config: &Config,
    begun: &Begun,
    hsm: &dyn Hsm,
    unlocked: Unlocked,
) -> Result<Restore, BackupError> {
    let Unlocked { head, opened, secret } = unlocked;
    let header = &head.header;
    // Whatever stands on the tokens now can open copies of stores and nothing of this one.
    let found = hsm.roots(Purpose::Erasure(header.deployment)).await;
    let mut found = found.map_err(|error| HsmError::Unavailable(error.to_string()))?;
    // Each token of the group names the same ones.
    found.sort_unstable();
    found.dedup();
    let places = found.len().saturating_add(1);
    let generation = std::iter::successors(Some(header.erasure), |number| number.next()).nth(places);
    let generation = generation.ok_or_else(|| HsmError::Misbehaved("erasure keys are used up".into()))?;
    let keep = erasure::keep_nothing();
    let made = erasure::make(hsm, header.deployment, generation, ErasureState::Current, keep).await?;
    let kv = Arc::new(SqliteKv::open(&begun.store).await?);
    let sealing = (generation, made.secret.duplicate());
    let restored = opened.restore(&head, kv.clone(), &begun.journal, &secret, sealing).await?;
    let keys = StoreKeys::derive(&secret);
    let (records, _) = Records::open(kv, &begun.journal, header.deployment, keys, None).await?;
    let position = erasure::take_over_restored(&records, generation, &found, made).await?;
    drop(records);
    begun.finish(config)?;
    let accept = config.audit_dir().try_exists()?;
    let mut detail =
        format!("from backups/{}, {} records at revision {}", header.id, restored.records, header.revision);
    if !found.is_empty() {
        let names: Vec<String> = found.iter().map(RootId::to_string).collect();
        detail.push_str(&format!("; to be destroyed on the tokens: erasure roots {}", names.join(", ")));
    }
    // A log that was there before keeps the change that it knows as its newest: the daemon refuses to
    // start until the operator accepts the restored one.
    let (event, change) = ((Action::BackupRestore, Outcome::Ok), (!accept).then_some(position));
    maintain::record::<BackupError>(config, header.deployment, event, &detail, change).await?;
    Ok(Restore {
        export: header.id,
        deployment: header.deployment,
        created: header.created,
        records: restored.records,
        position,
        erasure: generation,
        to_destroy: found,
        accept,
    })
}
