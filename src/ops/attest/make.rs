//! Making a document: a checkpoint over its record, the record's proof, and the
//! HSM's signature over body and record.

use serde::Serialize;

use super::{Document, FORMAT, Inclusion, canonical, encoded, statement};
use crate::access::{Authorized, permission};
use crate::audit::Record;
use crate::audit::checkpoint::NoteKey;
use crate::audit::merkle;
use crate::id::RecordNumber;
use crate::ops::certificate::{self, DestructionCertificate};
use crate::ops::{Done, Error, Vault};

/// The kind of a document about one record.
pub const RECORD: &str = "audit-record";

/// What stands in it for people; the record itself is beside it, whole.
#[derive(Serialize)]
struct RecordBody {
    sequence: u64,
    /// Milliseconds since 1970.
    time: u64,
    principal: Option<String>,
    operation: String,
    resource: String,
}

impl Vault {
    /// Attests `body`, a serialisable value without fractions, with the durable
    /// record `sequence` that it rests on. `kind` is one word for what it is.
    ///
    /// Asks the HSM for one signature, or two when no checkpoint covers the record
    /// yet; it may be repeated: nothing but a checkpoint is left behind.
    ///
    /// # Errors
    /// When the HSM, the store or the log does not serve, or the body has no canonical form.
    pub async fn attest(&self, kind: &str, body: &impl Serialize, sequence: u64) -> Result<Document, Error> {
        let unfit = |reason: String| Error::Internal(format!("a {kind} cannot be attested: {reason}"));
        let body = serde_json::to_value(body).map_err(|error| unfit(error.to_string()))?;
        let spelling = canonical(&body).map_err(|error| unfit(error.to_string()))?;
        let proved = self.proved(sequence).await?;
        let (_, record) = self.audit_key().await?;
        let leaf = merkle::leaf(&proved.record);
        let signature = self.sign(&record.key, statement(kind, proved.index, &leaf, &spelling)).await?;
        let document = Document {
            format: FORMAT.to_owned(),
            kind: kind.to_owned(),
            body,
            key: NoteKey::new(self.deployment(), record.key.public).to_string(),
            hsm_signature: encoded(&signature.0),
            checkpoint: proved.checkpoint.to_string(),
            inclusion: Inclusion {
                record: encoded(&proved.record),
                index: proved.index,
                proof: proved.path.iter().map(|hash| encoded(hash)).collect(),
            },
        };
        // Nobody gets a document that does not verify.
        document.verify(&self.note_keys().await?).map_err(|error| unfit(error.to_string()))?;
        Ok(document)
    }

    /// One record of the log as a document of its own.
    ///
    /// # Errors
    /// As [`attest`](Self::attest).
    pub async fn attest_record(
        &self,
        right: &Authorized<permission::ViewRecord>,
    ) -> Result<Done<Document>, Error> {
        let RecordNumber(sequence) = *right.resource();
        let read = Record::from_canonical(&self.proved(sequence).await?.record);
        let record = read.map_err(|error| Error::Internal(error.to_string()))?;
        let body = RecordBody {
            sequence,
            time: record.time.millis(),
            principal: record.caller.and_then(|caller| caller.principal),
            operation: record.operation,
            resource: record.resource,
        };
        Ok(Done::new(self.attest(RECORD, &body, sequence).await?))
    }

    /// The certificate of a destruction whose record is `sequence`.
    ///
    /// # Errors
    /// As [`attest`](Self::attest).
    pub async fn certify(
        &self,
        certificate: &DestructionCertificate,
        sequence: u64,
    ) -> Result<Document, Error> {
        self.attest(certificate::KIND, certificate, sequence).await
    }
}
