//! Documents that vouch for themselves: a body, the HSM's signature over it,
//! and the audit record that it rests on with the proof that this record is in
//! the log. Verified offline, with nothing but a trusted key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::audit::checkpoint::{NoteError, NoteKey, SignedCheckpoint, TreeHead, origin};
use crate::audit::merkle::{self, Hash};
use crate::audit::{Record, proof};
use crate::id::DeploymentId;
use crate::keyring::signing::Signature;

mod canonical;
mod make;
pub mod strict;

pub use canonical::{NotCanonical, canonical};
pub use make::RECORD;

/// What the first field of every document says.
pub const FORMAT: &str = "keyward/1/attested-document";

/// A document as it stands in its file: JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`FORMAT`].
    pub format: String,
    /// What kind of body it has, for example `destruction-certificate`.
    pub kind: String,
    /// What is said.
    pub body: Value,
    /// The key that says so: a verifier key as of signed notes.
    pub key: String,
    /// Its signature over the [`statement`]: r and s, 64 bytes, base64.
    pub hsm_signature: String,
    /// A checkpoint of the audit log over the record: a signed note.
    pub checkpoint: String,
    /// The record, and that it is in the log.
    pub inclusion: Inclusion,
}

/// A record of the audit log and its audit path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inclusion {
    /// Its only encoding (docs/audit-format.md, section 4), base64.
    pub record: String,
    /// Its place in the tree, from 0: its sequence number less one.
    pub index: u64,
    /// The audit path, from the leaf up; each hash base64.
    pub proof: Vec<String>,
}

impl Verified {
    /// That the installation which the body names is the one whose log the key signs.
    ///
    /// # Errors
    /// [`AttestError::Deployment`] when it is another one.
    pub fn require_deployment(&self, named: &str) -> Result<(), AttestError> {
        let own = DeploymentId::parse(named).is_some_and(|id| origin(id) == self.key.name);
        match own {
            true => Ok(()),
            false => Err(AttestError::Deployment(named.to_owned(), self.key.name.clone())),
        }
    }
}

/// What a document says that verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// What kind of body it has.
    pub kind: String,
    /// What is said.
    pub body: Value,
    /// The record that it rests on.
    pub record: Record,
    /// Its sequence number in the log.
    pub sequence: u64,
    /// The tree that has it.
    pub head: TreeHead,
    /// The trusted key that says so.
    pub key: NoteKey,
}

/// Why a document is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// It is not written as one.
    #[error("it is no attested document: {0}")]
    Malformed(String),
    /// The key that it names is none of the trusted ones.
    #[error("its key {0} is none of the trusted keys")]
    Untrusted(String),
    /// The body, its kind or its record were changed, or another key signed.
    #[error("the signature of the HSM does not fit what the document says")]
    Signature,
    /// The checkpoint is not one of this log.
    #[error("its checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// It says that it is of another installation than its key.
    #[error("it is of deployment {0:?}, and its key is of the log {1}")]
    Deployment(String, String),
    /// The record is not in the tree of the checkpoint.
    #[error("its record {0} is not in the log that the checkpoint covers")]
    Inclusion(u64),
}

fn malformed(what: impl Into<String>) -> AttestError {
    AttestError::Malformed(what.into())
}

/// What the HSM signs, already hashed: the body with its kind, tied to one record of the log.
///
/// ```text
/// SHA-256( lp32("keyward/1/attested-document") | lp32(kind) | u64 index | leaf hash (32) | lp32(canonical body) )
/// ```
pub fn statement(kind: &str, index: u64, leaf: &Hash, body: &[u8]) -> [u8; 32] {
    let lp32 = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut digest = Sha256::new();
    for part in [FORMAT.as_bytes(), kind.as_bytes()] {
        digest.update(lp32(part));
        digest.update(part);
    }
    digest.update(index.to_be_bytes());
    digest.update(leaf);
    digest.update(lp32(body));
    digest.update(body);
    digest.finalize().into()
}

impl Document {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`AttestError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, AttestError> {
        let value = strict::parse(text).map_err(|error| malformed(error.to_string()))?;
        serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
    }

    /// The text of its file.
    pub fn to_text(&self) -> String {
        // Strings, numbers and lists of them always serialise.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Verifies it, offline. `trusted` are the keys of the log from a source that is trusted.
    ///
    /// # Errors
    /// [`AttestError`] with the first thing that does not hold.
    pub fn verify(&self, trusted: &[NoteKey]) -> Result<Verified, AttestError> {
        if self.format != FORMAT {
            return Err(malformed(format!("its format is {:?}, not {FORMAT:?}", self.format)));
        }
        let key: NoteKey = self.key.parse().map_err(|error: NoteError| malformed(error.to_string()))?;
        let key = trusted
            .iter()
            .find(|known| **known == key)
            .ok_or_else(|| AttestError::Untrusted(key.to_string()))?;
        let record = base64(&self.inclusion.record, "the record")?;
        let (leaf, index) = (merkle::leaf(&record), self.inclusion.index);
        let body = canonical(&self.body).map_err(|error| malformed(error.to_string()))?;
        let signature = Signature::from_raw(&base64(&self.hsm_signature, "the signature")?);
        let signed = signature.ok_or_else(|| malformed("the signature has not 64 bytes"))?;
        if !key.public.verifies(&statement(&self.kind, index, &leaf, &body), &signed) {
            return Err(AttestError::Signature);
        }
        let head = self.verify_inclusion(&leaf, key, trusted)?;
        let record = Record::from_canonical(&record).map_err(|error| malformed(error.to_string()))?;
        let (kind, body) = (self.kind.clone(), self.body.clone());
        Ok(Verified { kind, body, record, sequence: index + 1, head, key: key.clone() })
    }

    /// The checkpoint may be signed by a later key of the same log.
    fn verify_inclusion(
        &self,
        leaf: &Hash,
        key: &NoteKey,
        trusted: &[NoteKey],
    ) -> Result<TreeHead, AttestError> {
        let note: SignedCheckpoint = self.checkpoint.parse()?;
        note.verify(trusted)?;
        if note.checkpoint.origin != key.name {
            return Err(NoteError::Unsigned.into());
        }
        let path: Vec<Hash> =
            self.inclusion.proof.iter().map(|hash| hash_of(hash)).collect::<Result<_, _>>()?;
        let (head, index) = (note.checkpoint.head, self.inclusion.index);
        match proof::verify_inclusion(leaf, index, head.size, &path, &head.root) {
            true => Ok(head),
            false => Err(AttestError::Inclusion(index.saturating_add(1))),
        }
    }
}

fn base64(text: &str, what: &str) -> Result<Vec<u8>, AttestError> {
    STANDARD.decode(text).map_err(|_| malformed(format!("{what} is not base64")))
}

fn hash_of(text: &str) -> Result<Hash, AttestError> {
    base64(text, "a hash of the proof")?
        .try_into()
        .map_err(|_| malformed("a hash of the proof has not 32 bytes"))
}

/// Hashes as they stand in a document.
pub(super) fn encoded(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
pub(super) mod tests;
