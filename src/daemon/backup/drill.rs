//! `keyward backup drill`: proves on a second token that an export could be restored,
//! in a directory of its own and with HSM processes of its own. The live system is not touched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{BackupError, Unlocked, block_on, connect, read_head, unlock};
use crate::clock::{Date, Moment};
use crate::config::Config;
use crate::daemon::settings;
use crate::envelope::{self, Context, Suite};
use crate::hsm::pin::PinSource;
use crate::hsm::process::{self, Slot};
use crate::hsm::{Hsm, Kek, Operation, Reply};
use crate::id::{DekId, ErasureGeneration, ExportId, KeyName, RootId, TenantId};
use crate::keyring::binding;
use crate::keyring::record::{Dek, KekRecord, Tenant};
use crate::secret::Key256;
use crate::store::recovery::{Canary, Head};
use crate::store::{Records, SqliteKv, StoreError, StoreKeys, tables};

/// What is to be proved, and where.
#[derive(Debug, Clone)]
pub struct Drill {
    /// The export.
    pub input: PathBuf,
    /// The token: its label, or a PKCS#11 URI.
    pub token: String,
    /// File with its user PIN; as configured when there is none.
    pub pin_file: Option<PathBuf>,
    /// The tenants whose keys are opened.
    pub sample: Sample,
}

/// Tenants whose keys are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// So many, drawn by lot.
    Some(usize),
    /// All.
    All,
}

/// What a drill has proved.
#[derive(Debug)]
pub struct DrillReport {
    /// The export.
    pub export: ExportId,
    /// The root that the token was proved to have.
    pub root: RootId,
    /// The token.
    pub token: String,
    /// When the export was made.
    pub created: Date,
    /// When it must be deleted.
    pub delete_by: Date,
    /// That date is past.
    pub expired: bool,
    /// Records, each of which was verified.
    pub records: u64,
    /// The store's revision.
    pub revision: u64,
    /// Tenants in the export.
    pub tenants: usize,
    /// Tenants of which a data key was opened and proved by its check value.
    pub opened: usize,
    /// Tenants drawn that have no data key yet.
    pub without_key: usize,
    /// The key that decrypted the ciphertext in the header; none when there was no key.
    pub decrypted: Option<KeyName>,
    /// How long it took.
    pub took: Duration,
}

/// Proves that the export opens on the token, that every record verifies, and that keys open.
///
/// # Errors
/// [`BackupError`] that says which proof failed.
pub fn drill(config: &Config, drill: &Drill) -> Result<DrillReport, BackupError> {
    let begun = Moment::now();
    let folder = tempfile::Builder::new().prefix("keyward-drill-").tempdir()?;
    block_on(async {
        let closed = read_head(&drill.input).await?;
        let hsm = connect(one_token(config, drill, folder.path())?, &closed.head).await?;
        let proved = async {
            let unlocked = unlock(&*hsm, closed).await?;
            prove(&*hsm, unlocked, folder.path(), drill, begun).await
        };
        let proved = proved.await;
        hsm.shutdown().await;
        proved
    })
}

/// The group of one token. A PIN that the daemon saw refused is not tried here either.
fn one_token(config: &Config, drill: &Drill, folder: &Path) -> Result<process::Settings, BackupError> {
    let mut group = settings::hsm(config)?;
    let uri = settings::token(&drill.token)?;
    let known = group.slots.iter().find(|slot| uri.names(&slot.hsm.token, &slot.hsm.module)).cloned();
    let mut slot: Slot = known.unwrap_or_else(|| group.slots[0].clone());
    slot.hsm.token = uri.within(&slot.hsm.module).map_err(settings::TokenError::from)?;
    if let Some(file) = &drill.pin_file {
        slot.pin = PinSource::File(file.clone());
    }
    let failed = |error| BackupError::File(config.state_dir.display().to_string(), error);
    if !config.state_dir.try_exists().map_err(failed)? {
        slot.hsm.state_dir = folder.to_owned();
    }
    group.slots = vec![slot];
    Ok(group)
}

async fn prove(
    hsm: &dyn Hsm,
    unlocked: Unlocked,
    folder: &Path,
    drill: &Drill,
    begun: Moment,
) -> Result<DrillReport, BackupError> {
    let Unlocked { head, opened, secret } = unlocked;
    let (store, journal) = (folder.join("store.db"), folder.join("journal.kwj"));
    let kv = Arc::new(SqliteKv::open(&store).await?);
    // What lies on the disk meanwhile is sealed under a key that is nowhere else.
    let erasure = Key256::try_init_with(|key| getrandom::fill(key))?;
    let sealing = (ErasureGeneration::FIRST, erasure.duplicate());
    let restored = opened.restore(&head, kv.clone(), &journal, &secret, sealing).await?;
    let keys = StoreKeys::derive(&secret);
    let (records, report) = Records::open(kv, &journal, head.header.deployment, keys, None).await?;
    if report.bootstrap.is_none_or(|(_, secret)| secret != head.header.secret) {
        return Err(not_proved("the daemon's secret in the header is not the one in the records"));
    }
    records.open_erasure_key(ErasureGeneration::FIRST, erasure);
    records.seal_under(ErasureGeneration::FIRST).await;
    let (tenants, sample) = draw(&records, drill.sample).await?;
    let mut opened = 0;
    for tenant in &sample {
        opened += usize::from(open_one(hsm, &records, &head, tenant).await?);
    }
    let decrypted = decrypt(hsm, &records, &head).await?;
    let header = &head.header;
    Ok(DrillReport {
        export: header.id,
        root: header.root,
        token: drill.token.clone(),
        created: header.created,
        delete_by: header.delete_by,
        expired: header.delete_by < Date::now(),
        records: restored.records,
        revision: restored.revision,
        tenants,
        opened,
        without_key: sample.len() - opened,
        decrypted,
        took: Moment::now().since(begun),
    })
}

/// How many tenants there are, and those drawn.
async fn draw(records: &Records, sample: Sample) -> Result<(usize, BTreeSet<TenantId>), BackupError> {
    let (mut seen, mut drawn) = (0, Vec::new());
    // To the end: only there it is known that no tenant was hidden.
    let mut pass = records.pass::<Tenant>().await?;
    while let Some(page) = pass.next().await? {
        for (path, _) in page {
            seen += 1;
            match sample {
                Sample::Some(count) if drawn.len() >= count => {
                    // Every tenant has the same chance to be among those drawn.
                    let place = usize::try_from(getrandom::u64()?).unwrap_or(usize::MAX) % seen;
                    if let Some(other) = drawn.get_mut(place) {
                        *other = path.id;
                    }
                }
                _ => drawn.push(path.id),
            }
        }
    }
    Ok((seen, drawn.into_iter().collect()))
}

/// Opens one data key of a tenant; `false` when it has none.
async fn open_one(
    hsm: &dyn Hsm,
    records: &Records,
    head: &Head,
    tenant: &TenantId,
) -> Result<bool, BackupError> {
    let Some((name, id, dek)) = find_one(records, tenant).await? else { return Ok(false) };
    open_dek(hsm, records, head, &name, id, &dek).await.map(|_| true)
}

/// A data key of a tenant; `None` when each that it had is destroyed. Its keys are counted, and each has its
/// data key by name: that one is not there is no evidence that there was none.
async fn find_one(
    records: &Records,
    tenant: &TenantId,
) -> Result<Option<(KeyName, DekId, Dek)>, BackupError> {
    let (path, mut view) = (tables::tenant(tenant), records.view().await?);
    let counted = view.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?.record.keys;
    for (key, stored) in view.counted(&tables::keys(tenant), counted.into()).await? {
        let path = tables::version(&key.id, stored.record.primary);
        let version = view.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?.record;
        let path = tables::dek(&key.id, version.dek);
        match view.get(&path).await? {
            Some(stored) => return Ok(Some((key.id, version.dek, stored.record))),
            None if view.get(&tables::tombstone(&path)).await?.is_some() => {}
            None => return Err(StoreError::lost(&path).into()),
        }
    }
    Ok(None)
}

/// The HSM process compares what it opens with the check value of the key.
async fn open_dek(
    hsm: &dyn Hsm,
    records: &Records,
    head: &Head,
    name: &KeyName,
    id: DekId,
    dek: &Dek,
) -> Result<Key256, BackupError> {
    let path = tables::kek(&name.tenant, dek.kek);
    let kek: KekRecord = records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?.record;
    let operation = Operation::OpenKey {
        kek: Kek::of(&kek),
        aad: binding::dek(head.header.deployment, name, dek.kek, dek.epoch, id, dek.family),
        sealed: dek.sealed.clone(),
    };
    match hsm.run(vec![operation]).await.pop() {
        Some(Ok(Reply::Key(key))) => Ok(key),
        Some(Err(error)) => Err(not_proved(&format!("data key {id} of {name} does not open: {error}"))),
        _ => Err(not_proved("the HSM gave another answer than asked for")),
    }
}

/// Decrypts the ciphertext in the header with the key in the records.
async fn decrypt(hsm: &dyn Hsm, records: &Records, head: &Head) -> Result<Option<KeyName>, BackupError> {
    let Some(canary) = &head.header.ciphertext else { return Ok(None) };
    let name = canary.name();
    let refused = || not_proved(&format!("the ciphertext in the header does not decrypt with {name}"));
    let (header, _) = envelope::Header::parse(&canary.ciphertext).map_err(|_| refused())?;
    let path = tables::dek(&name, header.dek);
    let dek = records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?.record;
    let key = open_dek(hsm, records, head, &name, header.dek, &dek).await?;
    let key = envelope::Dek::new(header.dek, dek.family, key);
    let context = Context::new(Canary::CONTEXT).map_err(|_| refused())?;
    let opened = envelope::open(Suite::Field, &key, &name, &context, &canary.ciphertext);
    match opened {
        Ok(opened) if opened.plaintext.expose() == Canary::PLAINTEXT => Ok(Some(name)),
        _ => Err(refused()),
    }
}

fn not_proved(reason: &str) -> BackupError {
    BackupError::NotProved(reason.to_owned())
}
