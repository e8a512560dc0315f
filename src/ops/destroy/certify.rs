//! What the certificate of a destruction says.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::target::{Authority, Destroyed, Gone, Object};
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::id::{CeremonyId, DestroyTarget, VersionName};
use crate::keyring::state::DataClass;
use crate::keyring::timekeeping::Verdict;
use crate::ops::attest::{Document, canonical};
use crate::ops::ceremony::statement::reason_of;
use crate::ops::certificate::{
    self, About, Check, DataKey, DestructionCertificate, IndexKeyGone, KekGone, What,
};
use crate::ops::erasure::Replacing;
use crate::ops::vault::Vault;
use crate::ops::{Done, Error};

/// How the copy of a store ends that was made before there was an erasure key: no replacement of the
/// key makes it unreadable.
const UNSEALED: &str = ".format-1.bak";

impl Vault {
    /// The certificate of a destruction that is done, attested by the HSM. Everything is looked for once
    /// more, now, and the audit log takes the certificate's digest first.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] for what is not destroyed; when store, audit log or HSM do not serve.
    pub async fn certificate(
        &self,
        right: &Authorized<permission::ViewCertificate>,
    ) -> Result<Done<Document>, Error> {
        let target = right.resource();
        let _alone = self.destroying.lock().await;
        let destroyed = self.destroyed(target.clone()).await?;
        let certificate = self.certificate_of(&destroyed).await?;
        let unfit = |error: String| Error::Internal(format!("the certificate of {target}: {error}"));
        let body = serde_json::to_value(&certificate).map_err(|error| unfit(error.to_string()))?;
        let spelling = canonical(&body).map_err(|error| unfit(error.to_string()))?;
        let detail = format!("certificate SHA-256 {}", hex::encode(Sha256::digest(spelling)));
        let recorded =
            self.record_words(Action::DestructionCertificate, certificate.name.clone(), detail).await?;
        Ok(Done::new(self.certify(&certificate, recorded.sequence()).await?))
    }

    async fn certificate_of(&self, destroyed: &Destroyed) -> Result<DestructionCertificate, Error> {
        let (about, since) = self.about(destroyed).await?;
        let (gone_from_backups, could_bring_back) = self.what_could_bring_back(destroyed, since).await?;
        let (reason, signers) = self.why(destroyed).await?;
        Ok(DestructionCertificate {
            deployment: self.deployment().to_string(),
            name: destroyed.target.to_string(),
            what: what(&destroyed.target),
            data_keys: destroyed.objects.iter().filter_map(data_key).collect(),
            index_keys: destroyed.objects.iter().filter_map(index_key).collect(),
            keks: destroyed.objects.iter().filter_map(|object| kek(object, destroyed)).collect(),
            destroyed: rfc3339(destroyed.begun),
            authority: authority(destroyed),
            reason,
            signers,
            about: Some(about),
            checks: checks(destroyed).into_iter().chain([self.no_open_keys(destroyed)]).collect(),
            gone_from_live_system: rfc3339(destroyed.done),
            gone_from_backups: gone_from_backups.map(rfc3339),
            could_bring_back,
        })
    }

    /// Older copies, and when the last of them is unreadable (`None`: nobody can say): those of the store
    /// when the erasure key is replaced, exports when they must be deleted.
    async fn what_could_bring_back(
        &self,
        destroyed: &Destroyed,
        since: Option<u64>,
    ) -> Result<(Option<Date>, Vec<String>), Error> {
        let mut words = Vec::new();
        let key = self.erasure_status().await?;
        let replaced = key.replacing == Replacing::No && key.created > destroyed.begun;
        let every = self.settings().erasure.replace_every;
        let mut last = match replaced {
            true => Some(key.destroyed.map_or(destroyed.done, |(_, since)| since)),
            // It may never be replaced, unless somebody does it.
            false => (!every.is_zero()).then(|| key.created.after(every).max(destroyed.done)),
        };
        if !replaced {
            let until = last.map_or_else(|| "somebody replaces the erasure key".to_owned(), rfc3339);
            words.push(format!("a copy of store or key journal from before, until {until}"));
            let copies = destroyed.files.copies.iter().filter(|copy| !copy.ends_with(UNSEALED));
            words.extend(copies.map(|copy| format!("the file {copy} beside the store, until {until}")));
        }
        let unsealed = |copy: &&String| {
            copy.ends_with(UNSEALED) && Path::new(copy.as_str()).try_exists().unwrap_or(true)
        };
        for copy in destroyed.files.copies.iter().filter(unsealed) {
            words.push(format!("the file {copy} beside the store, until somebody deletes it"));
            last = None;
        }
        let own = self.own_roots().await?;
        for stray in self.find_strays().await? {
            let is_own = stray.is_own() || own.contains(&stray.id);
            words.push(stray.brings_back(is_own));
            // What may be another installation's is told, and no reason to say that nobody knows the date.
            if is_own {
                last = None;
            }
        }
        for export in self.exports_alive(self.surely_past()).await? {
            // By the revision that it holds, since dates are a clock's, which may have been set; after a restore revisions
            // were given out twice, so an export of before counts by its date, too.
            let from_before = export.revision < destroyed.buried || export.created <= destroyed.begun;
            let without = since.zip(export.holds).is_some_and(|(since, holds)| holds <= since);
            if from_before && !without {
                words.push(format!(
                    "export {} of {}, which must be deleted by {}",
                    export.id,
                    rfc3339(export.created),
                    rfc3339(export.delete_by)
                ));
                last = last.map(|last| last.max(export.delete_by));
            }
        }
        Ok((last, words))
    }

    /// A date that is over, whatever the clock says that is not believed.
    fn surely_past(&self) -> Date {
        let status = self.schedule_status();
        match status.verdict {
            Some(Verdict::Trusted) => Date::now(),
            _ => Date::now().min(status.high),
        }
    }

    /// What it was, and the newest revision of the store without it.
    async fn about(&self, destroyed: &Destroyed) -> Result<(About, Option<u64>), Error> {
        let target = &destroyed.target;
        let id = match target {
            DestroyTarget::Tenant(id) | DestroyTarget::Kek(id, _) => id,
            DestroyTarget::Key(name) | DestroyTarget::Version(VersionName { key: name, .. }) => &name.tenant,
        };
        let tenant = self.tenant(id).await?.record;
        let (created, since, class) = match target {
            // A KEK's own record is gone; it is no older than its tenant.
            DestroyTarget::Tenant(_) | DestroyTarget::Kek(..) => (tenant.created, tenant.since, None),
            DestroyTarget::Key(name) => {
                let key = self.key_record(name).await?.record;
                (key.created, key.since, Some(key.data_class))
            }
            DestroyTarget::Version(VersionName { key, epoch }) => {
                let (class, version) =
                    (self.key_record(key).await?.record.data_class, self.version_record(key, *epoch).await?);
                (version.record.created, version.record.since, Some(class))
            }
        };
        let lived = destroyed.begun.millis().saturating_sub(created.millis());
        let about = About {
            display_name: tenant.display_name,
            data_class: class.map(DataClass::number),
            created: rfc3339(created),
            age_days: lived / (24 * 60 * 60 * 1000),
        };
        Ok((about, since))
    }

    /// Why it was destroyed, and whose signatures decided that.
    async fn why(&self, destroyed: &Destroyed) -> Result<(Option<String>, Vec<String>), Error> {
        let Authority::Ceremony(name) = &destroyed.authority else {
            return Ok((destroyed.planned.0.clone(), Vec::new()));
        };
        let ceremony = self.peek_ceremony(CeremonyId::parse_name(name)?).await?.record;
        let signers = ceremony.approvals.iter().map(|approval| approval.custodian.to_string());
        Ok((reason_of(&ceremony.statement), signers.collect()))
    }

    /// That none of the data keys is open here.
    fn no_open_keys(&self, destroyed: &Destroyed) -> Check {
        let is_open = |object: &&Object| match &object.gone {
            Gone::Dek { id, .. } => self.deks.holds(id),
            Gone::Kek | Gone::KekEscrow | Gone::IndexKey => false,
        };
        let open = destroyed.objects.iter().filter(is_open).count();
        Check {
            what: "no data key of it is open in the daemon".into(),
            found: format!("{open} of {} are open", destroyed.objects.len()),
            passed: open == 0,
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

fn data_key(object: &Object) -> Option<DataKey> {
    match &object.gone {
        Gone::Dek { id, version, kek } => Some(DataKey {
            id: id.to_string(),
            version: version.to_string(),
            kek_version: kek.map(crate::id::KekVersion::get).unwrap_or_default(),
            fingerprint: fingerprint(object),
        }),
        Gone::Kek | Gone::KekEscrow | Gone::IndexKey => None,
    }
}

fn kek(object: &Object, destroyed: &Destroyed) -> Option<KekGone> {
    let escrow = format!("{}/escrow", object.name);
    let own = |other: &Object| other.gone == Gone::KekEscrow && other.name == escrow;
    (object.gone == Gone::Kek).then(|| KekGone {
        name: object.name.clone(),
        fingerprint: fingerprint(object),
        resident: destroyed.objects.iter().any(own),
    })
}

fn index_key(object: &Object) -> Option<IndexKeyGone> {
    (object.gone == Gone::IndexKey)
        .then(|| IndexKeyGone { name: object.name.clone(), fingerprint: fingerprint(object) })
}

fn fingerprint(object: &Object) -> String {
    hex::encode(object.remains.fingerprint)
}

fn authority(destroyed: &Destroyed) -> certificate::Authority {
    match (&destroyed.authority, &destroyed.target) {
        (Authority::Ceremony(name), _) => certificate::Authority::Ceremony(name.clone()),
        (Authority::Operator(principal), _) => certificate::Authority::Operator(principal.to_string()),
        (Authority::Schedule, DestroyTarget::Kek(..)) => {
            certificate::Authority::Rotation("nothing was sealed under it any more".into())
        }
        (Authority::Schedule, _) => certificate::Authority::Schedule(match &destroyed.planned.1 {
            Some(planner) => format!("planned by principals/{planner}"),
            None => "planned by an operator".into(),
        }),
    }
}

fn checks(destroyed: &Destroyed) -> Vec<Check> {
    let passed = |what: &str, found: String| Check { what: what.into(), found, passed: true };
    let index_keys = destroyed.objects.iter().filter(|object| object.gone == Gone::IndexKey).count();
    let resident = destroyed.objects.iter().filter(|object| object.gone == Gone::KekEscrow).count();
    let on_tokens = passed(
        "HSM object gone on every token",
        format!("{resident} KEKs were destroyed and looked for on each token before their escrow was buried"),
    );
    let count = destroyed.objects.len();
    let mut checks = vec![
        passed(
            "no record in the store",
            format!(
                "each of {count} records is absent and has a tombstone, {index_keys} of them of index keys"
            ),
        ),
        passed("journal compacted", "it begins with the records as they are now".into()),
        passed(
            "files searched",
            format!(
                "none of the rows in {} bytes of {}",
                destroyed.files.bytes,
                destroyed.files.files.join(", ")
            ),
        ),
    ];
    checks.extend((resident > 0).then_some(on_tokens));
    checks
}

fn rfc3339(date: Date) -> String {
    let seconds = i64::try_from(date.millis() / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "-".into(), |time| time.to_string())
}
