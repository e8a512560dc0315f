//! What a token must show to be enrolled; it is judged again at each login.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::Refusal;
use crate::clock::Date;
use crate::keyring::account::{Asked, Assurance, Evidence, Firmware, LoginCredential};
use crate::keyring::credential::Credential;
use crate::keyring::public_key::KeyType;
use crate::ops::Error;
use crate::ops::vault::Vault;
use crate::token::attestation::{Anchors, Attested};
use crate::token::certification::{Authority, CertificationError, NoList};
use crate::token::wire::KeyUse;

/// RSA keys that cards of older firmware made can be computed from their public half (ROCA, YSA-2017-01).
const SOUND_RSA: Firmware = Firmware([4, 3, 5]);

/// What is accepted.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What must be known of where a token's key was made.
    pub accepted: Vec<Assurance>,
    /// The lowest firmware of cards whose key is on an elliptic curve.
    pub minimum_firmware: Firmware,
    /// When an attested key must want a touch, at least.
    pub touch: Asked,
    /// The roots of attestations.
    pub anchors: Anchors,
    /// Files with the company's roots; none: its certificates count for nothing.
    pub roots: Vec<PathBuf>,
    /// Files with revocation lists. They change from day to day, so they are read when they are needed.
    pub lists: Vec<PathBuf>,
}

/// What a workstation has shown of a token's key, in DER.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The maker's attestation: the certificate of the key, that of the card, others.
    pub attestation: Vec<Vec<u8>>,
    /// The company's certificate, and those above it.
    pub certificates: Vec<Vec<u8>>,
}

impl Vault {
    /// Judges what was shown of a token's key, by the first kind of evidence that is accepted here and good. What is
    /// shown of an accepted kind and not good is refused where nothing else is good, and never counts as nothing.
    ///
    /// # Errors
    /// [`Error::EnrolmentRefused`], which says why.
    pub(super) async fn judge_evidence(
        &self,
        credential: &Credential,
        shown: &Shown,
    ) -> Result<(Assurance, Option<Evidence>), Error> {
        let settings = self.settings();
        let rules = &settings.login;
        let counts = |assurance| rules.accepted.contains(&assurance);
        let mut bad = None;
        if !shown.attestation.is_empty() && counts(Assurance::Attested) {
            match rules.attested(credential, &shown.attestation) {
                Ok(evidence) => return Ok((Assurance::Attested, Some(evidence))),
                Err(why) => bad = Some(why),
            }
        }
        if !shown.certificates.is_empty() && !rules.roots.is_empty() && counts(Assurance::Certified) {
            match self.certified(credential, shown.certificates.clone()).await {
                Ok(evidence) => return Ok((Assurance::Certified, Some(evidence))),
                Err(why) => bad = bad.or_else(|| Some(why.to_string())),
            }
        }
        match bad {
            Some(why) => Err(refused(why)),
            None if counts(Assurance::Witnessed) => Ok((Assurance::Witnessed, None)),
            None if !shown.attestation.is_empty() => Err(refused(rules.not_accepted(Assurance::Attested))),
            None => Err(refused(rules.not_accepted(Assurance::Witnessed))),
        }
    }

    async fn certified(
        &self,
        credential: &Credential,
        certificates: Vec<Vec<u8>>,
    ) -> Result<Evidence, CertificationError> {
        let settings = self.settings();
        let (roots, lists) = (settings.login.roots.clone(), settings.login.lists.clone());
        let (spki, now) = (credential.spki().to_vec(), Date::now().max(self.schedule_status().high));
        let failed = |error: tokio::task::JoinError| CertificationError::Authority(error.to_string());
        let verified = tokio::task::spawn_blocking(move || {
            let found = readable(&roots, &lists)?.verify(&certificates, &spki, now)?;
            Ok(Evidence {
                root: Some(found.root),
                subject: Some(found.subject),
                expires: Some(found.expires),
                certificates: certificates.into_iter().map(Into::into).collect(),
                ..Evidence::default()
            })
        });
        verified.await.map_err(failed)?
    }

    /// That what a token's key is on record by counts now: the rules may be stricter than they were, and a certificate
    /// has an end.
    pub(super) async fn recheck_evidence(&self, record: &LoginCredential) -> Result<(), Refusal> {
        let settings = self.settings();
        let rules = &settings.login;
        if !rules.accepted.contains(&record.assurance) {
            return Err(Refusal::NotAccepted(record.assurance));
        }
        let shown = record.evidence.iter().flat_map(|evidence| &evidence.certificates);
        let shown: Vec<Vec<u8>> = shown.map(|certificate| certificate.to_vec()).collect();
        match record.assurance {
            Assurance::Witnessed => Ok(()),
            Assurance::Attested => rules.attested(&record.credential, &shown).map(drop).map_err(|why| {
                tracing::warn!(credential = %record.credential.id(), why, "a token does not meet the rules any more");
                Refusal::Unfit
            }),
            Assurance::Certified => self.recheck_certificate(&record.credential, shown).await,
        }
    }

    async fn recheck_certificate(&self, key: &Credential, shown: Vec<Vec<u8>>) -> Result<(), Refusal> {
        match self.certified(key, shown).await {
            Ok(_) => Ok(()),
            Err(CertificationError::Expired) => Err(Refusal::CertificateExpired),
            Err(CertificationError::Revoked) => Err(Refusal::CertificateRevoked),
            Err(error) => {
                tracing::warn!(%error, "the certificate of a token cannot be found to be good");
                Err(Refusal::CertificateUnknown)
            }
        }
    }
}

impl Rules {
    fn attested(&self, credential: &Credential, chain: &[Vec<u8>]) -> Result<Evidence, String> {
        let attested = self.anchors.verify(chain, credential.spki()).map_err(|error| error.to_string())?;
        self.check_attested(credential, &attested)?;
        let Attested { serial, firmware, pin, touch, root, .. } = attested;
        Ok(Evidence {
            serial,
            firmware: Some(firmware),
            pin: Some(pin),
            touch: Some(touch),
            root: Some(root),
            certificates: chain.iter().cloned().map(Into::into).collect(),
            ..Evidence::default()
        })
    }

    fn check_attested(&self, credential: &Credential, attested: &Attested) -> Result<(), String> {
        let Attested { firmware, pin, touch, slot, .. } = attested;
        if !KeyUse::Login.allows_piv_slot(*slot) {
            return Err(format!(
                "the key is in slot {slot:02x}: keys that log in are in 9a, or a retired slot"
            ));
        }
        let lowest = match KeyType::of(credential.spki()) {
            Ok(KeyType::Rsa) => SOUND_RSA,
            _ => self.minimum_firmware,
        };
        if *firmware < lowest {
            return Err(format!(
                "the card has firmware {firmware}, and keys of this kind take {lowest} here: take another card, or an RSA key"
            ));
        }
        if *pin == Asked::Never {
            return Err(
                "the card uses the key without a PIN: make it with a PIN policy of once or always".into()
            );
        }
        let weaker = match self.touch {
            Asked::Never => false,
            Asked::Once => *touch == Asked::Never,
            Asked::Always => *touch != Asked::Always,
        };
        match weaker {
            true => Err(format!(
                "the key wants a touch {}, and here it must {}: make it with that touch policy",
                touch.as_str(),
                self.touch.as_str()
            )),
            false => Ok(()),
        }
    }

    fn not_accepted(&self, found: Assurance) -> String {
        let words: Vec<_> = self.accepted.iter().map(|one| one.as_str()).collect();
        let words = words.join(" or ");
        match found {
            Assurance::Witnessed => format!(
                "nothing shows where the key was made: tokens must be {words} here (login.assurance), by the maker's attestation or the company's certificate"
            ),
            found => format!("the token is {}, and must be {words} here (login.assurance)", found.as_str()),
        }
    }
}

fn refused(why: String) -> Error {
    Error::EnrolmentRefused(why)
}

/// The company's authority, from its files as they are now, and each file that is not what it must be.
pub fn authority(roots: &[PathBuf], lists: &[PathBuf]) -> (Authority, Vec<Unfit>) {
    let (mut authority, mut unfit) = (Authority::default(), Vec::new());
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| error.to_string());
    for path in roots {
        if let Err(why) = read(path).and_then(|file| authority.add_roots(&file)) {
            unfit.push(Unfit { path: path.clone(), why, forbids: false });
        }
    }
    for path in lists {
        let added = read(path).map_err(NoList::Unreadable).and_then(|file| authority.add_lists(&file));
        if let Err(why) = added {
            let forbids = matches!(why, NoList::Unsupported(_));
            unfit.push(Unfit { path: path.clone(), why: why.to_string(), forbids });
        }
    }
    (authority, unfit)
}

/// A file of roots or revocation lists that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub struct Unfit {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub why: String,
    // Whether it may revoke what would count without it.
    forbids: bool,
}

/// What can be read of it. A file that is none says nothing: whose certificate leads to another root, and whose issuer has
/// another list, is not locked out by it. A list that is one and is not understood may have revoked anybody.
fn readable(roots: &[PathBuf], lists: &[PathBuf]) -> Result<Authority, CertificationError> {
    let (authority, unfit) = authority(roots, lists);
    if let Some(file) = unfit.iter().find(|file| file.forbids) {
        return Err(CertificationError::Authority(file.to_string()));
    }
    tell(unfit);
    Ok(authority)
}

/// Warns of what is passed over: once of each, however many log in.
fn tell(unfit: Vec<Unfit>) {
    static TOLD: Mutex<Vec<Unfit>> = Mutex::new(Vec::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    for file in unfit.iter().filter(|file| !told.contains(file)) {
        tracing::warn!("a file of the company's authority is passed over: {file}");
    }
    *told = unfit;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::credential::{TokenAlgorithm, TokenKind};
    use crate::keyring::public_key::tests::one_of_each;

    fn rules(touch: Asked) -> Rules {
        Rules {
            accepted: vec![Assurance::Attested],
            minimum_firmware: Firmware([5, 7, 0]),
            touch,
            anchors: Anchors::yubico(),
            roots: Vec::new(),
            lists: Vec::new(),
        }
    }

    fn credential(key_type: KeyType, algorithm: TokenAlgorithm) -> Credential {
        let (_, spki) = one_of_each().into_iter().find(|(found, _)| *found == key_type).unwrap();
        Credential::new(TokenKind::Piv, algorithm, spki).unwrap()
    }

    #[test]
    fn firmware_pin_and_touch_are_demanded() {
        let ecc = credential(KeyType::P256, TokenAlgorithm::EcdsaP256Sha256);
        let rsa = credential(KeyType::Rsa, TokenAlgorithm::RsaPssSha256);
        let attested = |firmware, pin, touch| Attested {
            serial: None,
            firmware: Firmware(firmware),
            slot: 0x9a,
            pin,
            touch,
            root: [0; 32],
        };
        let good = attested([5, 7, 0], Asked::Once, Asked::Always);
        assert_eq!(rules(Asked::Always).check_attested(&ecc, &good), Ok(()));
        let refused = |touch, credential, attested: Attested, word: &str| {
            let why = rules(touch).check_attested(credential, &attested).unwrap_err();
            assert!(why.contains(word), "{why}");
        };
        refused(Asked::Never, &ecc, attested([5, 6, 9], Asked::Once, Asked::Always), "firmware 5.6.9");
        assert!(
            rules(Asked::Never).check_attested(&rsa, &attested([5, 4, 3], Asked::Once, Asked::Never)).is_ok()
        );
        refused(Asked::Never, &rsa, attested([4, 3, 4], Asked::Once, Asked::Never), "firmware 4.3.4");
        refused(Asked::Never, &ecc, attested([5, 7, 4], Asked::Never, Asked::Always), "without a PIN");
        refused(Asked::Always, &ecc, attested([5, 7, 4], Asked::Once, Asked::Once), "touch");
        refused(Asked::Once, &ecc, attested([5, 7, 4], Asked::Once, Asked::Never), "touch");
        for (slot, good) in
            [(0x82, true), (0x95, true), (0x9c, false), (0x9d, false), (0x9e, false), (0xf9, false)]
        {
            let of_slot = Attested { slot, ..attested([5, 7, 4], Asked::Once, Asked::Always) };
            assert_eq!(rules(Asked::Never).check_attested(&ecc, &of_slot).is_ok(), good, "{slot:02x}");
        }
    }
}
