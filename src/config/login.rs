//! Logins of staff.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::check::{faults, unless};
use super::value::{FirmwareVersion, KnownBy, Span, Touch};
use crate::keyring::account::Firmware;

/// Logins of staff.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    /// How long a challenge can be answered: 10 seconds to 2 minutes.
    pub challenge_ttl: Span,
    /// How long an assertion is good for: 1 minute to 12 hours.
    pub assertion_ttl: Span,
    /// What must be known of where a token's key was made.
    pub assurance: Vec<KnownBy>,
    /// Whether attestations may lead to Yubico's roots.
    pub yubico_roots: bool,
    /// Files with other roots of attestations, in PEM.
    pub attestation_roots: Vec<PathBuf>,
    /// The lowest firmware of an attested card whose key is on an elliptic curve.
    pub minimum_firmware: FirmwareVersion,
    /// When an attested key must want a touch, at least.
    pub touch: Touch,
    /// Files with the roots of the company's own authority, in PEM.
    pub corporate_roots: Vec<PathBuf>,
    /// Files with its revocation lists, in PEM or DER; read when they are needed.
    pub corporate_crls: Vec<PathBuf>,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            challenge_ttl: Span(Duration::from_secs(120)),
            assertion_ttl: Span(Duration::from_secs(600)),
            assurance: vec![KnownBy::Attested, KnownBy::Certified],
            yubico_roots: true,
            attestation_roots: Vec::new(),
            minimum_firmware: FirmwareVersion(Firmware([5, 7, 0])),
            touch: Touch::Any,
            corporate_roots: Vec::new(),
            corporate_crls: Vec::new(),
        }
    }
}

impl Login {
    pub(super) fn check(&self) -> Vec<String> {
        let challenge = Duration::from_secs(10)..=Duration::from_secs(120);
        let assertion = Duration::from_secs(60)..=Duration::from_secs(12 * 60 * 60);
        let possible = |kind: &KnownBy| match kind {
            KnownBy::Attested => self.yubico_roots || !self.attestation_roots.is_empty(),
            KnownBy::Certified => !self.corporate_roots.is_empty(),
            KnownBy::Witnessed => true,
        };
        let nobody = !self.assurance.iter().any(possible);
        let unlisted = !self.corporate_roots.is_empty() && self.corporate_crls.is_empty();
        faults([
            unless(!challenge.contains(&self.challenge_ttl.0), || {
                "login.challenge_ttl must be from 10s to 2m".into()
            }),
            unless(!assertion.contains(&self.assertion_ttl.0), || {
                "login.assertion_ttl must be from 1m to 12h".into()
            }),
            unless(nobody, || {
                "login.assurance accepts no token at all: attested takes roots of makers, certified takes corporate_roots".into()
            }),
            unless(unlisted, || {
                "login.corporate_roots need login.corporate_crls: without its revocation lists no certificate of an authority counts".into()
            }),
        ])
    }
}
