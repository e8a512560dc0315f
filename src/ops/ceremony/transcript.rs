//! Transcripts: what was decided, by whom, in a document that is verified offline.
//!
//! It carries the signatures of the ceremony itself and, so that nobody has to be
//! asked who the custodians were, those of the founding and of each change of the
//! roster since. Whoever trusts one founding can follow all that came of it. The daemon
//! attests it besides: the HSM's signature, and a record of the audit log that has its digest.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CeremonyInfo;
use crate::access::Action;
use crate::access::{Authorized, permission};
use crate::audit::checkpoint::NoteKey;
use crate::clock::Date;
use crate::id::{CeremonyId, CustodianId, DeploymentId, RosterVersion};
use crate::keyring::ceremony::Ceremony;
use crate::keyring::custodian::{AgreementKey, Custodian};
use crate::keyring::roster::{Members, Roster};
use crate::ops::attest::{AttestError, Document, canonical, strict};
use crate::ops::{Done, Error, Vault};
use crate::token::envelope::{self, Matter};
use crate::token::printable::Statement;
use crate::token::verify::verify as verify_signature;

/// What kind of document it is.
const KIND: &str = "ceremony-transcript";
/// The format of every transcript.
pub const FORMAT: &str = "keyward-transcript-1";

/// A transcript (docs/ceremonies.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// `keyward-transcript-1`.
    pub format: String,
    /// The installation, in hexadecimal.
    pub deployment: String,
    /// The founding and each change of the roster up to the one that decided, oldest first; nothing
    /// for a founding.
    pub chain: Vec<Decision>,
    /// The ceremony.
    pub decision: Decision,
    /// How it ended.
    pub state: String,
    /// When, in milliseconds since 1970.
    pub finished: u64,
    /// What came of it, in words.
    pub outcome: String,
}

/// One ceremony and the signatures under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Its name: 32 hexadecimal digits.
    pub ceremony: String,
    /// What it does, in a word.
    pub action: String,
    /// What was signed, word for word.
    pub statement: String,
    /// When it was proposed, in milliseconds since 1970.
    pub created: u64,
    /// When it could be approved no more.
    pub expires: u64,
    /// Who signed.
    pub approvals: Vec<Signed>,
    /// For a restore: the key that shares were sealed to (SubjectPublicKeyInfo, DER, base64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// The members that it put in force, in their one encoding (CBOR, base64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<String>,
    /// The same for people; not verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub custodians: Vec<Named>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// Whose.
    pub custodian: String,
    /// The signature (base64).
    pub signature: String,
    /// When it arrived, in milliseconds since 1970; as the daemon saw it.
    pub time: u64,
}

/// A custodian, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The name.
    pub name: String,
    /// SHA-256 of the key that signs.
    pub signs_with: String,
    /// The certificate (DER, base64), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// Why a transcript proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscriptError {
    /// It is not one.
    #[error("this is no transcript: {0}")]
    Malformed(String),
    /// It has another founding than the anchor.
    #[error("the transcript goes back to another founding ({found}) than the anchor ({anchor})")]
    Anchor {
        /// The founding of the transcript.
        found: String,
        /// The founding that is trusted.
        anchor: String,
    },
    /// The anchor is no transcript of a founding that verifies.
    #[error("the anchor: {0}")]
    NoAnchor(#[source] Box<TranscriptError>),
    /// A statement says something else than the transcript around it.
    #[error("ceremony {ceremony}: the statement does not say {line:?}")]
    Statement {
        /// Where.
        ceremony: String,
        /// What it should say.
        line: String,
    },
    /// The HSM's signature or the log's proof do not hold.
    #[error("the daemon's attestation: {0}")]
    Attestation(#[from] AttestError),
    /// The ceremony cannot have been decided so.
    #[error("ceremony {ceremony}: {reason}")]
    Decision {
        /// Which.
        ceremony: String,
        /// Why not.
        reason: String,
    },
}

/// What a transcript proves.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The transcript.
    pub transcript: Transcript,
    /// The founding that everything rests on.
    pub founding: String,
    /// The digest of the founding members, in hexadecimal.
    pub founding_roster: String,
    /// Who decided the ceremony.
    pub signers: Vec<String>,
    /// How many had to.
    pub needed: usize,
    /// The daemon's word for it; a restore, which no daemon sees, has none.
    pub attested: Option<Attested>,
}

/// The daemon's word for a transcript.
#[derive(Debug, Clone)]
pub struct Attested {
    /// The record of the audit log with the transcript's digest.
    pub sequence: u64,
    /// The HSM's key.
    pub key: String,
    /// Whether that key is one that the caller trusts.
    pub trusted: bool,
}

impl Vault {
    /// The transcript of a ceremony that has ended, as JSON.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] while it is open or executed.
    pub async fn transcript(
        &self,
        right: &Authorized<permission::ViewCeremony>,
    ) -> Result<Done<String>, Error> {
        let id = *right.resource();
        let (info, _) = self.ceremony(id).await?;
        let record = &info.record;
        let Some(finished) = record.finished.filter(|_| record.state.is_final()) else {
            return Err(Error::NotAllowed(format!(
                "ceremonies/{id} is {} and has no transcript yet",
                record.state
            )));
        };
        let transcript = Transcript {
            format: FORMAT.to_owned(),
            deployment: info.deployment.to_string(),
            chain: self.chain(record).await?,
            decision: decision(id, record),
            state: record.state.to_string(),
            finished: finished.millis(),
            outcome: record.outcome.clone().unwrap_or_default(),
        };
        Ok(Done::new(self.attested(id, &transcript).await?.to_text()))
    }

    /// The transcript with the HSM's signature. Its digest goes to the audit log first.
    async fn attested(&self, id: CeremonyId, transcript: &Transcript) -> Result<Document, Error> {
        let unfit = |error: String| Error::Internal(format!("the transcript of {id}: {error}"));
        let body = serde_json::to_value(transcript).map_err(|error| unfit(error.to_string()))?;
        let spelling = canonical(&body).map_err(|error| unfit(error.to_string()))?;
        let detail = format!("transcript SHA-256 {}", hex::encode(Sha256::digest(spelling)));
        let recorded =
            self.record_words(Action::CeremonyTranscript, format!("ceremonies/{id}"), detail).await?;
        self.attest(KIND, &body, recorded.sequence()).await
    }

    /// The ceremonies that made the roster which decides this one.
    async fn chain(&self, record: &Ceremony) -> Result<Vec<Decision>, Error> {
        match record.roster {
            Some(deciding) => self.chain_to(deciding).await,
            None => Ok(Vec::new()),
        }
    }

    /// The ceremonies that made the rosters up to this one.
    pub(super) async fn chain_to(&self, deciding: RosterVersion) -> Result<Vec<Decision>, Error> {
        let rosters = self.records.complete::<Roster>().await?;
        let mut chain = Vec::new();
        for (_, roster) in rosters.into_iter().filter(|(path, _)| path.id <= deciding) {
            let CeremonyInfo { id, record, .. } = self.ceremony(roster.record.ceremony).await?.0;
            chain.push(decision(id, &record));
        }
        Ok(chain)
    }
}

fn decision(id: CeremonyId, record: &Ceremony) -> Decision {
    let members = record.action.new_members();
    let approvals = record.approvals.iter().map(|approval| Signed {
        custodian: approval.custodian.to_string(),
        signature: STANDARD.encode(&approval.signature),
        time: approval.date.millis(),
    });
    Decision {
        ceremony: id.to_string(),
        action: record.action.as_str().to_owned(),
        statement: record.statement.clone(),
        created: record.created.millis(),
        expires: record.expires.millis(),
        approvals: approvals.collect(),
        transport: None,
        members: members.map(|members| STANDARD.encode(minicbor::to_vec(members).unwrap_or_default())),
        custodians: members
            .map(|members| members.custodians().iter().map(named).collect())
            .unwrap_or_default(),
    }
}

fn named(custodian: &Custodian) -> Named {
    Named {
        name: custodian.name().to_string(),
        signs_with: custodian.signing().id().to_string(),
        certificate: custodian.certificate().map(|found| STANDARD.encode(found.der())),
    }
}

/// Verifies a transcript. With an anchor, the transcript of the founding that is trusted, it
/// must go back to that founding; without one, compare [`Verified::founding_roster`] yourself.
/// With `keys`, the daemon's attestation must be by one of them.
///
/// # Errors
/// [`TranscriptError`] says what does not hold.
pub fn verify(
    text: &str,
    anchor: Option<&str>,
    keys: Option<&[NoteKey]>,
) -> Result<Verified, TranscriptError> {
    let (transcript, attested) = read(text, keys)?;
    let deployment = DeploymentId::parse(&transcript.deployment)
        .ok_or_else(|| TranscriptError::Malformed("the deployment is no number".into()))?;
    let mut members: Option<Members> = None;
    let mut founding = None;
    for decision in &transcript.chain {
        let put = decision.check(deployment, members.as_ref())?.1;
        members =
            Some(put.ok_or_else(|| decision.wrong("it is in the chain, and puts no custodians in force"))?);
        if founding.is_none() {
            founding = Some((decision.ceremony.clone(), members.as_ref().map(Members::digest)));
        }
    }
    let (deciding, put) = transcript.decision.check(deployment, members.as_ref())?;
    let (founding, roster) =
        founding.unwrap_or_else(|| (transcript.decision.ceremony.clone(), put.as_ref().map(Members::digest)));
    let founding_roster = hex::encode(roster.unwrap_or_default());
    if let Some(anchor) = anchor {
        let trusted =
            verify(anchor, None, None).map_err(|error| TranscriptError::NoAnchor(Box::new(error)))?;
        if (&trusted.founding, &trusted.founding_roster) != (&founding, &founding_roster)
            || trusted.transcript.deployment != transcript.deployment
        {
            return Err(TranscriptError::Anchor { found: founding, anchor: trusted.founding });
        }
    }
    let signers = transcript.decision.approvals.iter().map(|signed| signed.custodian.clone()).collect();
    Ok(Verified { transcript, founding, founding_roster, signers, needed: deciding, attested })
}

/// The transcript, out of the document that attests it when there is one.
fn read(text: &str, keys: Option<&[NoteKey]>) -> Result<(Transcript, Option<Attested>), TranscriptError> {
    let malformed = |error: String| TranscriptError::Malformed(error);
    let value = strict::parse(text).map_err(|error| malformed(error.to_string()))?;
    let (value, attested) = match value.get("hsm_signature") {
        Some(_) => attested(text, keys)?,
        None if keys.is_some() => return Err(malformed("no HSM has attested it".into())),
        None => (value, None),
    };
    let transcript: Transcript =
        serde_json::from_value(value).map_err(|error| malformed(error.to_string()))?;
    if transcript.format != FORMAT {
        return Err(malformed(format!("its format is {:?}, not {FORMAT:?}", transcript.format)));
    }
    match transcript.state.as_str() {
        "done" | "failed" => Ok((transcript, attested)),
        other => Err(malformed(format!("the ceremony is {other}: nothing was decided"))),
    }
}

fn attested(
    text: &str,
    keys: Option<&[NoteKey]>,
) -> Result<(serde_json::Value, Option<Attested>), TranscriptError> {
    let document = Document::parse(text)?;
    let own: NoteKey =
        document.key.parse().map_err(|_| TranscriptError::Malformed("its key is none".into()))?;
    let verified = document.verify(keys.unwrap_or(&[own]))?;
    if verified.kind != KIND {
        return Err(TranscriptError::Malformed(format!("it is a {}", verified.kind)));
    }
    let deployment = verified.body.get("deployment").and_then(serde_json::Value::as_str);
    verified.require_deployment(deployment.unwrap_or_default())?;
    let (sequence, key) = (verified.sequence, verified.key.to_string());
    Ok((verified.body, Some(Attested { sequence, key, trusted: keys.is_some() })))
}

impl Decision {
    fn wrong(&self, reason: impl Into<String>) -> TranscriptError {
        TranscriptError::Decision { ceremony: self.ceremony.clone(), reason: reason.into() }
    }

    /// Checks the ceremony as decided by `members`, or as a founding by its own. Answers how many
    /// signatures it needed, and the members that it put in force.
    fn check(
        &self,
        deployment: DeploymentId,
        members: Option<&Members>,
    ) -> Result<(usize, Option<Members>), TranscriptError> {
        let id = CeremonyId::parse(&self.ceremony).ok_or_else(|| self.wrong("its name is no number"))?;
        let put = self.members.as_deref().map(|text| self.new_members(text)).transpose()?;
        let founding = self.action == "found";
        let deciding = match (members, &put) {
            (Some(members), _) if !founding => members,
            (None, Some(own)) if founding => own,
            (Some(_), _) => return Err(self.wrong("it is a second founding")),
            (None, _) => {
                return Err(self.wrong("it is no founding, and the transcript does not say who decides"));
            }
        };
        let needed = match founding {
            true => deciding.custodians().len(),
            false => deciding.quorum().get().into(),
        };
        self.check_statement(deployment, put.as_ref())?;
        self.check_signatures(id, deployment, deciding, needed)?;
        Ok((needed, put))
    }

    fn new_members(&self, text: &str) -> Result<Members, TranscriptError> {
        let bytes = STANDARD.decode(text).map_err(|_| self.wrong("its members are not base64"))?;
        minicbor::decode(&bytes).map_err(|error| self.wrong(format!("its members: {error}")))
    }

    /// That the statement says what the transcript says around it: whoever signed it has read that.
    fn check_statement(
        &self,
        deployment: DeploymentId,
        put: Option<&Members>,
    ) -> Result<(), TranscriptError> {
        let mut lines = vec![
            format!("Ceremony: {}", self.ceremony),
            format!("Deployment: {deployment}"),
            format!("Action: {}", self.action),
        ];
        lines.extend(put.map(|members| format!("Roster: {}", hex::encode(members.digest()))));
        match lines.into_iter().find(|line| self.statement.lines().filter(|said| said == line).count() != 1) {
            Some(line) => Err(TranscriptError::Statement { ceremony: self.ceremony.clone(), line }),
            None => Ok(()),
        }
    }

    /// What was signed: a restore binds the key that the shares went to instead of dates and roster.
    fn matter(
        &self,
        id: CeremonyId,
        deciding: &Members,
        statement: Statement,
    ) -> Result<Matter, TranscriptError> {
        let Some(transport) = &self.transport else {
            let (created, expires) = (Date(self.created), Date(self.expires));
            let roster = deciding.digest();
            return Ok(Matter::Ceremony(envelope::Ceremony {
                ceremony: id,
                roster,
                created,
                expires,
                statement,
            }));
        };
        let transport = STANDARD.decode(transport).ok().and_then(|spki| AgreementKey::new(spki).ok());
        let transport = transport.ok_or_else(|| self.wrong("its transport key is none"))?;
        Ok(Matter::RestoreShare(envelope::RestoreShare { ceremony: id, statement, transport }))
    }

    fn check_signatures(
        &self,
        id: CeremonyId,
        deployment: DeploymentId,
        deciding: &Members,
        needed: usize,
    ) -> Result<(), TranscriptError> {
        let statement = Statement::new(&self.statement).map_err(|error| self.wrong(error.to_string()))?;
        let mut signers = BTreeSet::new();
        for signed in &self.approvals {
            let name = CustodianId::new(&signed.custodian).map_err(|error| self.wrong(error.to_string()))?;
            let stranger = || self.wrong(format!("{name} is not one of its custodians"));
            let custodian = deciding.find(&name).ok_or_else(stranger)?;
            let matter = self.matter(id, deciding, statement.clone())?;
            let envelope = matter.envelope(deployment, custodian.signing().id());
            let signature = STANDARD.decode(&signed.signature).unwrap_or_default();
            let verified = verify_signature(custodian.signing(), &envelope, &signature)
                .map_err(|error| self.wrong(format!("the signature of {name}: {error}")))?;
            if !signers.insert(verified.by()) {
                return Err(self.wrong(format!("{name} signed it twice")));
            }
        }
        match signers.len() >= needed {
            true => Ok(()),
            false => Err(self.wrong(format!("{} signed it, and {needed} were needed", signers.len()))),
        }
    }
}
