//! Certificates: what is gone, looked at once more, and what could still bring it back.

use sha2::{Digest, Sha256};

use super::execute::Tombstones;
use super::target::DestroyTarget;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::{DekId, KeyName};
use crate::keyring::record::{Dek, IndexKey, KekRecord};
use crate::keyring::remains::Tombstone;
use crate::keyring::schedule::Destruction;
use crate::ops::attest::{Document, canonical};
use crate::ops::certificate::{Authority, Check, DataKey, DestructionCertificate, IndexKeyGone, KekGone, What};
use crate::ops::erasure::Replacing;
use crate::ops::vault::Vault;
use crate::ops::{Done, Error};
use crate::store::{Path, Scrubbed, tables};

impl Vault {
    /// The certificate of a destruction that is done. Everything is looked for once more, now.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] for what is not destroyed; whatever keeps store, HSM or log from serving.
    pub async fn certificate(
        &self,
        _right: &Authorized<permission::ViewAudit>,
        name: &str,
    ) -> Result<Done<Document>, Error> {
        let target = DestroyTarget::parse(name)?;
        let _alone = self.destroying.lock().await;
        let plan = self.destruction_of(&target).await?;
        let Some((begun, done)) = plan.as_ref().and_then(|plan| Some((plan.begun?, plan.done?))) else {
            return Err(Error::NotAllowed(format!("{target} is not destroyed, so there is no certificate")));
        };
        let tombstones = self.tombstones(&target).await?;
        let files = self.prove(&target, &tombstones).await?;
        let certificate = self.written(&target, &tombstones, &files, (begun, done)).await?;
        let unfit = |error: String| Error::Internal(format!("the certificate of {target}: {error}"));
        let body = serde_json::to_value(&certificate).map_err(|error| unfit(error.to_string()))?;
        let spelling = canonical(&body).map_err(|error| unfit(error.to_string()))?;
        let detail = format!("certificate SHA-256 {}", hex(&Sha256::digest(spelling)));
        let recorded = self.record_words("destruction-certificate", target.to_string(), detail).await?;
        Ok(Done::new(self.certify(&certificate, recorded.sequence()).await?))
    }

    async fn destruction_of(&self, target: &DestroyTarget) -> Result<Option<Destruction>, Error> {
        Ok(match target {
            DestroyTarget::Tenant(id) => self.tenant(id).await?.record.destruction,
            DestroyTarget::Key(name) => self.key_record(name).await?.record.destruction,
            DestroyTarget::Version(version) => {
                self.version_record(&version.key, version.epoch).await?.record.destruction
            }
            DestroyTarget::Kek(id, version) => {
                let path = tables::tombstone(&tables::kek(id, *version));
                let buried = self.records.get(&path).await?.map(|stored| stored.record.destroyed);
                buried.map(|date| Destruction {
                    begun: Some(date),
                    done: Some(date),
                    ..Destruction::planned(crate::keyring::state::KeyState::DecryptOnly, date, date)
                })
            }
        })
    }

    async fn written(
        &self,
        target: &DestroyTarget,
        tombstones: &Tombstones,
        files: &Scrubbed,
        (begun, done): (Date, Date),
    ) -> Result<DestructionCertificate, Error> {
        let mut gone = Gone::default();
        for (path, stored) in tombstones {
            gone.add(path.id.key(), &stored.record);
        }
        let (gone_from_backups, could_bring_back) = self.bring_back(files, begun).await?;
        let authority = tombstones.first().map(|(_, stored)| stored.record.authority.as_str());
        let checks = vec![
            Check {
                what: "no record of a wrapped key in the store".into(),
                found: format!("{} were looked for, none is there", tombstones.len()),
                passed: true,
            },
            Check {
                what: "no wrapped key in a file of the live system, key journal included".into(),
                found: format!("{} bytes of {} files were read after the journal was compacted", files.bytes, files.files.len()),
                passed: files.found.is_empty(),
            },
            self.check_not_open(&gone.deks),
        ];
        Ok(DestructionCertificate {
            deployment: self.deployment().to_string(),
            name: target.to_string(),
            what: what(target),
            data_keys: gone.data_keys,
            index_keys: gone.index_keys,
            keks: gone.keks,
            destroyed: date(begun),
            authority: authority_of(authority.unwrap_or("schedule")),
            checks,
            gone_from_live_system: date(done),
            gone_from_backups: gone_from_backups.map(date),
            could_bring_back,
        })
    }

    fn check_not_open(&self, deks: &[DekId]) -> Check {
        let open = deks.iter().filter(|dek| self.deks.holds(dek)).count();
        Check {
            what: "no data key of it is open in the daemon".into(),
            found: format!("{open} of {} are open", deks.len()),
            passed: open == 0,
        }
    }

    /// When nothing can bring it back any more (`None`: nobody can say), and what could until then.
    async fn bring_back(&self, files: &Scrubbed, begun: Date) -> Result<(Option<Date>, Vec<String>), Error> {
        let mut words = Vec::new();
        let erasure = self.erasure_status().await?;
        let erased = erasure.replacing == Replacing::No && erasure.created > begun;
        let mut last = match (erased, self.settings.erasure.replace_every) {
            (true, _) => Some(erasure.destroyed.map_or(begun, |(_, since)| since)),
            (false, every) if every.is_zero() => None,
            (false, every) => Some(erasure.created.after(every)),
        };
        if !erased {
            let until = last.map_or_else(|| "somebody replaces the erasure key".to_owned(), date);
            words.push(format!("a copy of store or key journal from before {}, until {until}", date(begun)));
            words.extend(files.copies.iter().map(|copy| format!("{copy}, an older copy beside the store, until {until}")));
        }
        let now = Date::now();
        for export in self.exports_alive(now).await?.into_iter().filter(|export| export.created <= begun) {
            words.push(format!(
                "recovery export {} of {}, which must be deleted by {}",
                export.id,
                date(export.created),
                date(export.delete_by)
            ));
            last = last.map(|last| last.max(export.delete_by));
        }
        Ok((last, words))
    }
}

/// What went, by kind.
#[derive(Default)]
struct Gone {
    deks: Vec<DekId>,
    data_keys: Vec<DataKey>,
    index_keys: Vec<IndexKeyGone>,
    keks: Vec<KekGone>,
}

impl Gone {
    fn add(&mut self, key: &[u8], tombstone: &Tombstone) {
        let fingerprint = hex(&tombstone.remains.fingerprint);
        if let Some(path) = Path::<Dek>::parse(key) {
            let (name, dek): (KeyName, DekId) = path.id;
            let epoch = tombstone.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
            self.data_keys.push(DataKey { id: dek.to_string(), version: format!("{name}/versions/{epoch}"), fingerprint });
            self.deks.push(dek);
        } else if let Some(path) = Path::<KekRecord>::parse(key) {
            let (tenant, version) = path.id;
            let name = format!("tenants/{tenant}/kekVersions/{version}");
            self.keks.push(KekGone { name, fingerprint, resident: false });
        } else if let Some(path) = Path::<IndexKey>::parse(key) {
            let (name, field, version) = path.id;
            self.index_keys.push(IndexKeyGone { name: format!("{name}/indexKeys/{field}/{version}"), fingerprint });
        }
    }
}

fn what(target: &DestroyTarget) -> What {
    match target {
        DestroyTarget::Tenant(_) => What::Tenant,
        DestroyTarget::Key(_) => What::Key,
        DestroyTarget::Version(_) => What::KeyVersion,
        DestroyTarget::Kek(..) => What::KekVersion,
    }
}

/// From the words of a tombstone.
fn authority_of(words: &str) -> Authority {
    match words.split_once('/') {
        Some(("ceremonies", id)) => Authority::Ceremony(id.to_owned()),
        Some(("principals", name)) => Authority::Operator(name.to_owned()),
        _ => Authority::Schedule("the date that was planned".to_owned()),
    }
}

/// RFC 3339, UTC, whole seconds.
fn date(date: Date) -> String {
    let seconds = i64::try_from(date.millis() / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "-".into(), |time| time.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
