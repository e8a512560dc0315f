//! The store of a daemon that does not run, opened with the daemon's own parts.
//! The PKCS#11 module is loaded by an HSM process, as ever.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use keyward::config::Config;
use keyward::daemon::{child, hsm_settings};
use keyward::hsm::process::{self, HsmGroup, Program};
use keyward::hsm::{Hsm, Kek, Operation, Reply, Status};
use keyward::keyring::binding;
use keyward::keyring::record::{Dek, Root};
use keyward::ops::erasure;
use keyward::secret::Key256;
use keyward::store::{Path as Place, Prefix, Records, SqliteKv, StoreKeys, bootstrap, tables};

use crate::binary;

/// Records of one page of a list.
const PAGE: usize = 500;

/// An open store and its HSM.
pub struct Offline {
    /// What the daemon would read.
    pub config: Config,
    /// The tokens.
    pub hsm: Arc<HsmGroup>,
    /// The records.
    pub records: Records,
    /// The root.
    pub root: Root,
}

impl Offline {
    /// Opens the store of a configuration.
    ///
    /// # Errors
    /// Whatever is in the way.
    pub async fn open(config: &Path) -> Result<Self, Box<dyn Error>> {
        let config = Config::read(config)?;
        let kv = Arc::new(SqliteKv::open(config.database()).await?);
        let (root, secret) = bootstrap(&*kv).await?.ok_or("there is no store")?;
        let mut settings = hsm_settings(&config)?;
        settings.program = Program::new(binary("keyward"), vec![child::COMMAND.into()]);
        let hsm = process::start(settings, Some(root.canary.clone()));
        hsm.status().wait_for(|status| matches!(status, Status::Ready { .. })).await?;
        let kek = Kek::Sealed { root: secret.root, wrapped: secret.kek };
        let aad = binding::system_secret(root.deployment);
        let secret = opened(&hsm, Operation::OpenKey { kek, aad, sealed: secret.sealed }).await?;
        let keys = StoreKeys::derive(&secret);
        let (records, _) = Records::open(kv, &config.journal(), root.deployment, keys, None).await?;
        erasure::open_all(&*hsm, root.deployment, &records).await?;
        Ok(Self { config, hsm, records, root })
    }

    /// Opens every DEK.
    ///
    /// # Errors
    /// Whatever is in the way.
    pub async fn deks(&self) -> Result<Vec<Key256>, Box<dyn Error>> {
        let mut found = Vec::new();
        let mut last: Option<Place<Dek>> = None;
        loop {
            let page = self.records.page(&Prefix::<Dek>::all(), last.as_ref(), PAGE).await?.into_rows();
            let Some((path, _)) = page.last() else { return Ok(found) };
            last = Some(path.clone());
            for (path, stored) in page {
                found.push(self.dek(&path, stored.record).await?);
            }
        }
    }

    async fn dek(&self, path: &Place<Dek>, dek: Dek) -> Result<Key256, Box<dyn Error>> {
        let (name, id) = &path.id;
        let kek = self.records.get(&tables::kek(&name.tenant, dek.kek)).await?.ok_or("a KEK is missing")?;
        let operation = Operation::OpenKey {
            kek: Kek::Sealed { root: kek.record.root, wrapped: kek.record.wrapped },
            aad: binding::dek(self.root.deployment, name, dek.kek, dek.epoch, *id, dek.family),
            sealed: dek.sealed,
        };
        opened(&self.hsm, operation).await
    }
}

async fn opened(hsm: &HsmGroup, operation: Operation) -> Result<Key256, Box<dyn Error>> {
    match hsm.run(vec![operation]).await.pop() {
        Some(Ok(Reply::Key(key))) => Ok(key),
        other => Err(format!("it did not open: {other:?}").into()),
    }
}
