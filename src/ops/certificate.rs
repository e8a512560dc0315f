//! The certificate of a destruction: what is gone, since when, by whose word,
//! what was looked at afterwards, and what could still bring it back until when.

use serde::{Deserialize, Serialize};

use super::attest::{AttestError, Verified};

/// The kind of an attested document with this body.
pub const KIND: &str = "destruction-certificate";

/// The body of a certificate. Dates are RFC 3339 in UTC, for example `2026-11-25T22:15:00Z`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestructionCertificate {
    /// The installation, 32 hexadecimal digits.
    pub deployment: String,
    /// What was destroyed, by its full name: `tenants/acme/keys/pii/versions/3`.
    pub name: String,
    /// Which kind of thing that is.
    pub what: What,
    /// The data keys that went with it.
    pub data_keys: Vec<DataKey>,
    /// The blind index keys that went with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub index_keys: Vec<IndexKeyGone>,
    /// The KEKs that went with it.
    pub keks: Vec<KekGone>,
    /// When it was destroyed.
    pub destroyed: String,
    /// On whose word.
    pub authority: Authority,
    /// Why: in the words of the operator who planned it, or of the ceremony.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The custodians whose signatures decided it, by their names on the roster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signers: Vec<String>,
    /// What it was; absent in certificates of before this was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// What was looked at afterwards.
    pub checks: Vec<Check>,
    /// Since when no running part of the installation can use it.
    pub gone_from_live_system: String,
    /// When the last copy that could bring it back is unreadable; absent while nobody can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone_from_backups: Option<String>,
    /// What could still bring it back until then, in words; empty when nothing could.
    pub could_bring_back: Vec<String>,
}

/// What is known of a thing that was destroyed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The name for people of its tenant, if that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The class of its data, 1 to 3; absent for what has keys of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_class: Option<u32>,
    /// When it was made.
    pub created: String,
    /// Whole days from then to its destruction.
    pub age_days: u64,
}

/// What was destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A tenant with all its keys.
    Tenant,
    /// A named key with all its versions.
    Key,
    /// One version of a named key.
    KeyVersion,
    /// One version of a tenant's KEK.
    KekVersion,
    /// One generation of the root key.
    Root,
}

impl What {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::KeyVersion => "key version",
            Self::KekVersion => "KEK version",
            Self::Root => "root key",
        }
    }
}

/// A data key that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataKey {
    /// Its id, 32 hexadecimal digits: every ciphertext under it has this id.
    pub id: String,
    /// The version that it was, by its full name.
    pub version: String,
    /// The KEK version that sealed it.
    pub kek_version: u32,
    /// SHA-256 over the record as it was stored, 64 hexadecimal digits.
    pub fingerprint: String,
}

/// A blind index key that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexKeyGone {
    /// Its full name and version.
    pub name: String,
    /// SHA-256 over the record as it was stored, 64 hexadecimal digits.
    pub fingerprint: String,
}

/// A KEK that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KekGone {
    /// Its full name: `tenants/acme/kekVersions/2`.
    pub name: String,
    /// SHA-256 over its record as it was stored: the wrapped key, or the escrow of a token object.
    pub fingerprint: String,
    /// Whether it was an object of the token, and not a wrapped key in the store.
    pub resident: bool,
}

/// On whose word something was destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    /// A ceremony, by its id: its transcript has the signatures.
    Ceremony(String),
    /// An operator, by the name of the principal.
    Operator(String),
    /// A date that had been set before, and by whom: `scheduled by alice`.
    Schedule(String),
    /// The end of a rotation, as the policy says.
    Rotation(String),
}

/// One thing that was looked at after the destruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What: for example `no record in the store`, `HSM object gone on every token`,
    /// `handles destroyed`, `caches flushed`, `journal compacted`.
    pub what: String,
    /// What was found, in words.
    pub found: String,
    /// Whether it is as it must be.
    pub passed: bool,
}

impl DestructionCertificate {
    /// The certificate in a document that verified.
    ///
    /// # Errors
    /// [`AttestError::Malformed`] when the document has another kind of body.
    pub fn of(verified: &Verified) -> Result<Self, AttestError> {
        if verified.kind != KIND {
            return Err(AttestError::Malformed(format!("it is a {}, not a {KIND}", verified.kind)));
        }
        let body = serde_json::from_value(verified.body.clone());
        let body: Self = body.map_err(|error| AttestError::Malformed(error.to_string()))?;
        verified.require_deployment(&body.deployment)?;
        Ok(body)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::keyring::signing::tests::TestKey;
    use crate::ops::attest::tests::document;

    /// One with something of everything.
    pub(crate) fn sample() -> DestructionCertificate {
        let check = |what: &str, passed| Check { what: what.into(), found: "as it is".into(), passed };
        DestructionCertificate {
            deployment: "05".repeat(16),
            name: "tenants/acme/keys/pii/versions/3".into(),
            what: What::KeyVersion,
            data_keys: vec![DataKey {
                id: "ab".repeat(16),
                version: "tenants/acme/keys/pii/versions/3".into(),
                kek_version: 2,
                fingerprint: "cd".repeat(32),
            }],
            index_keys: vec![IndexKeyGone {
                name: "tenants/acme/keys/pii/fields/phone/versions/1".into(),
                fingerprint: "12".repeat(32),
            }],
            keks: vec![KekGone {
                name: "tenants/acme/kekVersions/2".into(),
                fingerprint: "ef".repeat(32),
                resident: false,
            }],
            destroyed: "2026-11-25T22:15:00Z".into(),
            authority: Authority::Ceremony("c-17".into()),
            reason: Some("the contract ended".into()),
            signers: vec!["alice".into(), "carol".into()],
            about: Some(About {
                display_name: Some("Acme Ltd".into()),
                data_class: Some(2),
                created: "2025-11-25T22:15:00Z".into(),
                age_days: 365,
            }),
            checks: vec![check("no record in the store", true), check("caches flushed", false)],
            gone_from_live_system: "2026-11-25T22:15:00Z".into(),
            gone_from_backups: Some("2026-12-25T00:00:00Z".into()),
            could_bring_back: vec!["an export of 2026-11-20 with its passphrase".into()],
        }
    }

    #[test]
    fn a_certificate_comes_out_of_its_document() {
        let (whole, key) = document(&TestKey::new(), KIND, serde_json::to_value(sample()).unwrap());
        let read = crate::ops::attest::Document::parse(&whole.to_text()).unwrap();
        let verified = read.verify(std::slice::from_ref(&key)).unwrap();
        assert_eq!(DestructionCertificate::of(&verified), Ok(sample()));
    }

    #[test]
    fn a_certificate_of_another_installation_is_refused() {
        let foreign = DestructionCertificate { deployment: "06".repeat(16), ..sample() };
        let (whole, key) = document(&TestKey::new(), KIND, serde_json::to_value(foreign).unwrap());
        let verified = whole.verify(&[key]).unwrap();
        let refused = DestructionCertificate::of(&verified);
        assert!(matches!(refused, Err(AttestError::Deployment(..))), "{refused:?}");
    }

    #[test]
    fn another_kind_of_document_is_no_certificate() {
        for (kind, body) in
            [("other", serde_json::to_value(sample()).unwrap()), (KIND, serde_json::json!({}))]
        {
            let (whole, key) = document(&TestKey::new(), kind, body);
            let verified = whole.verify(&[key]).unwrap();
            assert!(matches!(DestructionCertificate::of(&verified), Err(AttestError::Malformed(_))));
        }
    }
}
