//! What the certificate of a destruction says.

use super::target::{Authority, DestroyTarget, Destroyed, Gone, Object};
use crate::clock::Date;
use crate::keyring::record::{Erasure, Export};
use crate::ops::Error;
use crate::ops::attest::Document;
use crate::ops::certificate::{self, Check, DataKey, DestructionCertificate, KekGone, What};
use crate::ops::commit;
use crate::ops::vault::Vault;
use crate::store::Prefix;

impl Vault {
    /// The certificate of a destruction, attested by the HSM together with its record in the audit log.
    ///
    /// # Errors
    /// When store, audit log or HSM do not serve.
    pub async fn certify_destruction(&self, destroyed: &Destroyed) -> Result<Document, Error> {
        let certificate = self.certificate_of(destroyed).await?;
        self.certify(&certificate, destroyed.sequence).await
    }

    async fn certificate_of(&self, destroyed: &Destroyed) -> Result<DestructionCertificate, Error> {
        let (gone_from_backups, could_bring_back) = self.what_could_bring_back(destroyed).await?;
        Ok(DestructionCertificate {
            deployment: self.deployment().to_string(),
            name: destroyed.target.to_string(),
            what: what(&destroyed.target),
            data_keys: destroyed.objects.iter().filter_map(data_key).collect(),
            keks: destroyed.objects.iter().filter_map(kek).collect(),
            destroyed: rfc3339(destroyed.begun),
            authority: authority(&destroyed.target, &destroyed.authority),
            checks: checks(destroyed),
            gone_from_live_system: rfc3339(destroyed.done),
            gone_from_backups: gone_from_backups.map(rfc3339),
            could_bring_back,
        })
    }

    /// Older copies, and when the last of them is unreadable: those of the store when the erasure key is
    /// replaced, exports when they must be deleted.
    async fn what_could_bring_back(
        &self,
        destroyed: &Destroyed,
    ) -> Result<(Option<Date>, Vec<String>), Error> {
        let keys = commit::all(&self.records, &Prefix::<Erasure>::all()).await?;
        let newest = keys.last().map(|(path, stored)| (path.id, stored.record.created));
        let (mut last, mut words) = (None, Vec::new());
        if let Some((generation, created)) = newest {
            let replaced = created.after(self.settings.erasure.replace_every).max(destroyed.done);
            words.push(format!(
                "a copy of store or journal from before, until erasure key {generation} is destroyed: planned for {}",
                rfc3339(replaced)
            ));
            last = Some(replaced);
        }
        for (path, stored) in commit::all(&self.records, &Prefix::<Export>::all()).await? {
            let Export { created, delete_by, .. } = stored.record;
            if created < destroyed.begun && delete_by > destroyed.done {
                words.push(format!("export {}, which must be deleted by {}", path.id, rfc3339(delete_by)));
                last = last.map(|last| last.max(delete_by));
            }
        }
        words.extend(destroyed.files.copies.iter().map(|copy| format!("the file {copy} beside the store")));
        // Nobody says when a file that lies beside the store is removed.
        Ok((last.filter(|_| destroyed.files.copies.is_empty()), words))
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
        Gone::Kek | Gone::IndexKey => None,
    }
}

fn kek(object: &Object) -> Option<KekGone> {
    (object.gone == Gone::Kek).then(|| KekGone {
        name: object.name.clone(),
        fingerprint: fingerprint(object),
        resident: false,
    })
}

fn fingerprint(object: &Object) -> String {
    object.remains.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn authority(target: &DestroyTarget, authority: &Authority) -> certificate::Authority {
    match (authority, target) {
        (Authority::Ceremony(name), _) => certificate::Authority::Ceremony(name.clone()),
        (Authority::Operator(principal), _) => certificate::Authority::Operator(principal.to_string()),
        (Authority::Schedule, DestroyTarget::Kek(..)) => {
            certificate::Authority::Rotation("nothing was sealed under it any more".into())
        }
        (Authority::Schedule, _) => certificate::Authority::Schedule("planned by an operator".into()),
    }
}

fn checks(destroyed: &Destroyed) -> Vec<Check> {
    let passed = |what: &str, found: String| Check { what: what.into(), found, passed: true };
    let index_keys = destroyed.objects.iter().filter(|object| object.gone == Gone::IndexKey).count();
    let count = destroyed.objects.len();
    vec![
        passed(
            "no record in the store",
            format!(
                "each of {count} records is absent and has a tombstone, {index_keys} of them of index keys"
            ),
        ),
        passed(
            "caches flushed",
            "open keys were wiped, handles of KEKs given up in every HSM process".into(),
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
    ]
}

fn rfc3339(date: Date) -> String {
    let seconds = i64::try_from(date.millis() / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "-".into(), |time| time.to_string())
}
