//! Recovery exports: copies of the records that outlive the erasure key, for a
//! disaster. Each is on record with the date when it must be deleted, because
//! until then it can bring back a key that was destroyed since.

use std::sync::Arc;
use std::time::Duration;

use super::commit::Affects;
use super::vault::misfit;
use super::{Done, Error, Vault};
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::envelope::{Context, Suite};
use crate::hsm::{Kek, Operation, Reply};
use crate::id::{ExportId, Installation, KeyName, RootId};
use crate::keyring::record::{Export, ExportKind, Key};
use crate::keyring::{binding, wrapped};
use crate::store::StoreError;
use crate::store::recovery::{Canary, Header, Snapshot, Writer};
use crate::store::{Changes, tables};

/// Keys that are tried for the ciphertext of the drill.
const TRIED: usize = 32;

/// Longest time that an export may be kept.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// A copy that can bring destroyed keys back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its name.
    pub id: ExportId,
    /// What it is.
    pub kind: ExportKind,
    /// When it was made: it holds what was there then.
    pub created: Date,
    /// When whoever keeps it must have deleted it.
    pub delete_by: Date,
    /// The store's revision when it was put on record.
    pub revision: u64,
    /// The root that opens it.
    pub root: RootId,
    /// The newest revision that it holds, where that is known.
    pub holds: Option<u64>,
}

impl ExportInfo {
    fn of(id: ExportId, record: &Export) -> Self {
        let Export { kind, created, delete_by, revision, root, holds } = record.clone();
        Self { id, kind, created, delete_by, revision, root, holds }
    }
}

/// An export that is on record and being written.
pub struct Backup {
    /// What is on record.
    pub info: ExportInfo,
    /// Records that it holds.
    pub records: u64,
    writer: Writer,
}

impl Vault {
    /// Puts an export on record, takes a snapshot of the store, and begins to write.
    ///
    /// # Errors
    /// [`Error::Argument`] for a retention of nothing or of over ten years, an HSM or
    /// store that does not serve.
    pub async fn begin_backup(
        self: &Arc<Self>,
        right: &Authorized<permission::ManageBackups>,
        keep_for: Duration,
    ) -> Result<Done<Backup>, Error> {
        let Installation = right.resource();
        if keep_for.is_zero() || keep_for > LONGEST {
            return Err(Error::Argument("keep_for: say how long it may be kept, at most ten years".into()));
        }
        self.require_settled_keys().await?;
        let root = self.root();
        let info = self.put_on_record(root.id, keep_for).await?;
        let ciphertext = self.canary().await?;
        let snapshot = self.records.recovery().await?;
        // Not before: what is made until the store is copied is in the copy.
        self.note_what_it_holds(info.id, snapshot.position().revision).await?;
        let records = snapshot.records();
        let writer = self.begin_writing(&info, &root.canary, snapshot, ciphertext).await?;
        let detail =
            format!("backups/{} of {records} records, to be deleted by {}", info.id, day(info.delete_by));
        Ok(Done::new(Backup { info, records, writer }).detail(detail))
    }

    async fn put_on_record(&self, root: RootId, keep_for: Duration) -> Result<ExportInfo, Error> {
        let (id, created) = (ExportId::random()?, Date::now());
        let record = Export {
            kind: ExportKind::Recovery,
            created,
            delete_by: created.plus(keep_for),
            revision: self.records.position().revision,
            root,
            holds: None,
        };
        let mut changes = Changes::new();
        changes.create(&tables::export(id), &record);
        self.commit_own(changes, Affects::Nothing, Action::BackupRecorded, format!("backups/{id}")).await?;
        Ok(ExportInfo::of(id, &record))
    }

    async fn note_what_it_holds(&self, id: ExportId, revision: u64) -> Result<(), Error> {
        let path = tables::export(id);
        let stored = self.records.get(&path).await?.ok_or_else(|| StoreError::lost(&path))?;
        let mut changes = Changes::new();
        changes.replace(&path, &Export { holds: Some(revision), ..stored.record }, stored.revision);
        self.commit_own(changes, Affects::Nothing, Action::BackupHolds, format!("backups/{id}")).await?;
        Ok(())
    }

    async fn begin_writing(
        &self,
        info: &ExportInfo,
        proof: &wrapped::Canary,
        snapshot: Snapshot,
        ciphertext: Option<Canary>,
    ) -> Result<Writer, Error> {
        let Reply::Wrapped(kek) = self.hsm(Operation::GenerateKek { root: info.root }).await? else {
            return Err(misfit("an export's KEK"));
        };
        let position = snapshot.position();
        let header = Header {
            id: info.id,
            deployment: self.deployment(),
            root: info.root,
            canary: proof.clone(),
            kek: kek.clone(),
            secret: snapshot.bootstrap.1.clone(),
            created: info.created,
            delete_by: info.delete_by,
            revision: position.revision,
            digest: position.digest,
            records: snapshot.records(),
            erasure: self.newest_erasure_generation().await?,
            ciphertext,
        };
        let kek = Kek::Sealed { root: info.root, wrapped: kek };
        let aad = binding::export_key(self.deployment(), &Snapshot::hash(&header));
        let Reply::NewKey { key, sealed } = self.hsm(Operation::GenerateKey { kek, aad }).await? else {
            return Err(misfit("an export's key"));
        };
        Ok(snapshot.write(&header, &sealed, key, self.entropy.salt()?)?)
    }

    /// A ciphertext of some key that works, for a drill to decrypt.
    async fn canary(&self) -> Result<Option<Canary>, Error> {
        let context = Context::new(Canary::CONTEXT)?;
        for name in self.some_keys().await? {
            match self.ready_to_encrypt(self.key_view(&name).await?).await {
                Ok(ready) => {
                    let sealed = self.seal(Suite::Field, &ready, &context, Canary::PLAINTEXT)?;
                    let (tenant, key) = (name.tenant, name.key);
                    return Ok(Some(Canary { tenant, key, ciphertext: sealed.value.ciphertext }));
                }
                Err(Error::Frozen(_) | Error::KeyState(..) | Error::VersionState(..)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The first keys by name. There are none only where none is counted: an export without a ciphertext is
    /// drilled with less.
    async fn some_keys(&self) -> Result<Vec<KeyName>, Error> {
        let (mut pass, mut names) = (self.records.pass::<Key>().await?, Vec::new());
        while names.len() < TRIED
            && let Some(page) = pass.next().await?
        {
            names.extend(page.into_iter().map(|(path, _)| path.id));
        }
        names.truncate(TRIED);
        Ok(names)
    }

    /// The copies that can still bring back, at `now`, a key that was destroyed.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn exports_alive(&self, now: Date) -> Result<Vec<ExportInfo>, Error> {
        let exports = self.records.complete::<Export>().await?;
        let mut alive: Vec<ExportInfo> = exports
            .into_iter()
            .map(|(path, stored)| ExportInfo::of(path.id, &stored.record))
            .filter(|info| info.delete_by > now)
            .collect();
        alive.sort_by_key(|info| info.created);
        Ok(alive)
    }

    /// As [`exports_alive`](Self::exports_alive), for an operator who asks.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn list_backups(
        &self,
        right: &Authorized<permission::ManageBackups>,
    ) -> Result<Done<Vec<ExportInfo>>, Error> {
        let Installation = right.resource();
        Ok(Done::new(self.exports_alive(Date::now()).await?))
    }

    /// Takes note of a drill: what it showed goes into the caller's audit record.
    ///
    /// # Errors
    /// [`Error::Argument`] when there is too much to say.
    pub fn record_drill(
        &self,
        right: &Authorized<permission::RecordDrill>,
        passed: bool,
        report: &str,
    ) -> Result<Done<()>, Error> {
        let Installation = right.resource();
        if report.len() > 2000 {
            return Err(Error::Argument("report: at most 2000 bytes".into()));
        }
        Ok(Done::new(()).detail(format!("{}: {report}", if passed { "passed" } else { "failed" })))
    }
}

impl Backup {
    /// The next piece of the file; `None` when it is whole.
    ///
    /// # Errors
    /// When a record is not genuine or the store does not serve: the file is of no use then.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.writer.next().await?)
    }

    /// The whole file was given out.
    pub fn finish(self) -> Done<()> {
        Done::new(()).detail(format!("{} records", self.records))
    }
}

/// A date as days since 1970, which people can compare; the command line shows it properly.
fn day(date: Date) -> String {
    format!("day {} since 1970", date.millis() / 86_400_000)
}
