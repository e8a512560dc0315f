//! Putting a root, or a resident KEK, together again on another token, out of its custodians' shares.
//!
//! The process that takes the root over makes a key for this one restore and says its
//! public half; custodians seal their shares to it, each on a workstation of their own.
//! Only that process ever has more than one share, and it forgets them when it ends.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::settings;
use crate::clock::Date;
use crate::config::Config;
use crate::hsm::birth::{DeliveredShare, Delivery, Handover, Purpose};
use crate::hsm::pkcs11::root::Settled;
use crate::hsm::process::{self, Heir, TaskError};
use crate::id::{CeremonyId, CustodianId, TenantId};
use crate::keyring::credential::{CredentialId, Verified};
use crate::keyring::custodian::{AgreementKey, Custodian};
use crate::keyring::escrow::{Escrow, share_context};
use crate::keyring::recovery::{EscrowFile, EscrowedKek, RestoreRequest, RestoreShare};
use crate::keyring::wrapped::Canary;
use crate::ops::ceremony::transcript::{Decision, FORMAT, Signed, Transcript};
use crate::token::envelope::{self, Envelope};
use crate::token::printable::{Statement, StatementError, quote};
use crate::token::verify::verify;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// `hsm.token` is not one.
    #[error(transparent)]
    Token(#[from] settings::TokenError),
    /// The token is not one of the configuration.
    #[error("the configuration has no token {0:?}: it is hsm.token, or the token of an hsm.standby")]
    NoSlot(String),
    /// The tenant has no KEK of its own in the escrow.
    #[error(
        "the escrow has no KEK of tenants/{0}: when it was written, that was in the store, under the root key"
    )]
    NoKek(TenantId),
    /// The key is there.
    #[error("token {label:?} (serial {serial}) has the key already: there is nothing to restore")]
    There {
        /// Its label.
        label: String,
        /// Its serial number.
        serial: String,
    },
    /// The token or its module failed.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A share does not count.
    #[error("{0}")]
    Share(String),
    /// The escrow does not fit together.
    #[error("the escrow is damaged: {0}")]
    Escrow(String),
    /// The statement has a character that cannot be shown.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// No randomness.
    #[error("the operating system's random generator failed: {0}")]
    Entropy(#[from] getrandom::Error),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The key that is put together.
struct Subject {
    purpose: Purpose,
    /// What it is, in words.
    what: String,
    escrow: Escrow,
    canary: Canary,
}

impl Subject {
    /// The root, or the resident KEK of a tenant.
    fn of(file: &EscrowFile, kek: Option<&TenantId>) -> Result<Self, RestoreError> {
        let root = &file.root;
        let subject = match kek {
            None => Self {
                purpose: Purpose::Root,
                what: format!("Root key: {} (generation {})", root.id, root.generation),
                escrow: file.escrow.clone(),
                canary: root.canary.clone(),
            },
            Some(tenant) => {
                let found = file.keks.iter().flatten().find(|kek| kek.tenant == *tenant);
                let EscrowedKek { version, escrow, canary, .. } =
                    found.cloned().ok_or_else(|| RestoreError::NoKek(tenant.clone()))?;
                let what = format!("KEK: {} (tenants/{tenant}, version {version})", escrow.root);
                Self { purpose: Purpose::Resident, what, escrow, canary }
            }
        };
        if subject.escrow.root != subject.canary.root || subject.escrow.quorum != file.members.quorum() {
            return Err(RestoreError::Escrow("its key, shares and custodians do not belong together".into()));
        }
        Ok(subject)
    }
}

/// A restore that collects shares.
pub struct Restore {
    escrow: EscrowFile,
    subject: Subject,
    heir: Heir,
    request: RestoreRequest,
    transport: AgreementKey,
    shares: BTreeMap<CustodianId, RestoreShare>,
    begun: Date,
}

/// A root that is back.
pub struct Restored {
    /// How the token holds it.
    pub settled: Settled,
    /// The transcript of the restore, as JSON.
    pub transcript: String,
}

impl Restore {
    /// Looks at the token and starts the process that takes the root over.
    ///
    /// # Errors
    /// [`RestoreError`] when the token must not be used, or has the root.
    pub async fn begin(
        config: &Config,
        escrow: EscrowFile,
        kek: Option<&TenantId>,
        token: Option<&str>,
        reason: &str,
    ) -> Result<Self, RestoreError> {
        let subject = Subject::of(&escrow, kek)?;
        let all = settings::hsm(config)?;
        let slot = match token {
            None => all.slots.first(),
            Some(name) => {
                let wanted = settings::token(name)?;
                let slot = all.slots.iter().find(|slot| wanted.names(&slot.hsm.token, &slot.hsm.module));
                slot.map(|slot| wanted.within(&slot.hsm.module))
                    .transpose()
                    .map_err(settings::TokenError::from)?;
                slot
            }
        };
        let slot = slot.cloned().ok_or_else(|| RestoreError::NoSlot(token.unwrap_or_default().to_owned()))?;
        let only = process::Settings { slots: vec![slot], ..all };
        let report = process::check(&only).await?;
        let (label, serial) = (report.label, report.serial);
        if process::roots(&only, subject.purpose).await?.contains(&subject.escrow.root) {
            return Err(RestoreError::There { label, serial });
        }
        let (heir, point) = Heir::open(&only, &only.slots[0]).await?;
        let transport =
            AgreementKey::of_point(&point.0).map_err(|error| RestoreError::Escrow(error.to_string()))?;
        let (ceremony, begun) = (CeremonyId::random()?, Date::now());
        let head = Head { ceremony, label: &label, serial: &serial, transport: &transport, reason };
        let statement = statement(&escrow, &subject, &head);
        Statement::new(&statement)?;
        let request = RestoreRequest {
            ceremony,
            deployment: escrow.root.deployment,
            statement,
            transport: transport.clone(),
            made_by: subject.escrow.ceremony,
            shares: subject.escrow.shares.clone(),
            members: escrow.members.clone(),
        };
        Ok(Self { escrow, subject, heir, request, transport, shares: BTreeMap::new(), begun })
    }

    /// What custodians are given.
    pub fn request(&self) -> &RestoreRequest {
        &self.request
    }

    /// Whose shares have been taken, in words.
    pub fn givers(&self) -> String {
        self.shares.keys().map(CustodianId::as_str).collect::<Vec<_>>().join(", ")
    }

    /// How many shares are still missing.
    pub fn missing(&self) -> usize {
        usize::from(self.escrow.members.quorum().get()).saturating_sub(self.shares.len())
    }

    /// Takes a custodian's share. One who has given one may give another: the newer one counts.
    ///
    /// # Errors
    /// [`RestoreError::Share`] when it is by a stranger, of another restore, or not signed.
    pub fn take(&mut self, share: RestoreShare) -> Result<(), RestoreError> {
        let refused = |why: &str| RestoreError::Share(format!("the share of {}: {why}", share.custodian));
        if share.ceremony != self.request.ceremony {
            return Err(refused("it is of another restore: have it made from this request"));
        }
        let custodian = self.escrow.members.find(&share.custodian);
        let custodian = custodian.ok_or_else(|| refused("there is no such custodian"))?;
        let envelope = envelope_of(&self.request, custodian)?;
        let Verified { .. } = verify(custodian.signing(), &envelope, &share.signature)
            .map_err(|error| refused(&error.to_string()))?;
        self.shares.insert(share.custodian.clone(), share);
        Ok(())
    }

    /// Puts the root together and onto the token.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing stays on the token.
    pub async fn finish(self) -> Result<Restored, RestoreError> {
        let root = &self.escrow.root;
        let context = |name: &CustodianId| {
            share_context(root.deployment, self.request.made_by, self.subject.escrow.quorum, name)
        };
        let shares = self.shares.values().map(|share| DeliveredShare {
            holder: share.custodian.to_string(),
            context: context(&share.custodian),
            sealed: share.sealed.clone(),
        });
        let handover = Handover {
            purpose: self.subject.purpose,
            id: self.subject.escrow.root,
            wrapped: self.subject.escrow.wrapped.clone(),
            canary: self.subject.canary.clone(),
            delivery: Delivery::Shares(shares.collect()),
        };
        let transcript = self.transcript()?;
        let settled = self.heir.adopt(&handover).await?;
        Ok(Restored { settled, transcript })
    }

    fn transcript(&self) -> Result<String, RestoreError> {
        let damaged = |error: serde_json::Error| RestoreError::Escrow(error.to_string());
        let chain: Vec<Decision> = serde_json::from_str(&self.escrow.chain).map_err(damaged)?;
        let now = Date::now().millis();
        let approvals = self.shares.values().map(|share| Signed {
            custodian: share.custodian.to_string(),
            signature: STANDARD.encode(&share.signature),
            time: now,
        });
        let root = &self.escrow.root;
        let transcript = Transcript {
            format: FORMAT.to_owned(),
            deployment: root.deployment.to_string(),
            chain,
            decision: Decision {
                ceremony: self.request.ceremony.to_string(),
                action: "restore".to_owned(),
                statement: self.request.statement.clone(),
                created: self.begun.millis(),
                expires: now,
                approvals: approvals.collect(),
                transport: Some(STANDARD.encode(self.transport.spki())),
                members: None,
                custodians: Vec::new(),
            },
            state: "done".to_owned(),
            finished: now,
            outcome: format!("on the token: {}", self.subject.what),
        };
        serde_json::to_string_pretty(&transcript).map_err(damaged)
    }
}

/// What a custodian signs to hand over a share.
///
/// # Errors
/// [`StatementError`] when the statement of the request cannot be shown as it is.
pub fn envelope_of(request: &RestoreRequest, custodian: &Custodian) -> Result<Envelope, StatementError> {
    let signed = envelope::RestoreShare {
        ceremony: request.ceremony,
        statement: Statement::new(&request.statement)?,
        transport: request.transport.clone(),
    };
    Ok(signed.envelope(request.deployment, custodian.signing().id()))
}

/// The line of the statement that names the key which shares are sealed to. Whoever gives a share
/// compares it with the screen where the restore runs: a request by itself proves nothing.
pub fn sealed_to(transport: &AgreementKey) -> String {
    format!("Shares are sealed to: {}", CredentialId::of(transport.spki()))
}

/// What a restore has of its own.
struct Head<'a> {
    ceremony: CeremonyId,
    label: &'a str,
    serial: &'a str,
    transport: &'a AgreementKey,
    reason: &'a str,
}

fn statement(escrow: &EscrowFile, subject: &Subject, head: &Head<'_>) -> String {
    let Head { ceremony, label, serial, transport, reason } = *head;
    let whose = match subject.purpose {
        Purpose::Resident => "that tenant's keys",
        _ => "every tenant's keys",
    };
    let root = &escrow.root;
    [
        "KEYWARD CEREMONY".to_owned(),
        format!("Ceremony: {ceremony}"),
        format!("Deployment: {}", root.deployment),
        "Action: restore".to_owned(),
        String::new(),
        subject.what.clone(),
        format!("Onto token: {} serial {}", quote(label), quote(serial)),
        sealed_to(transport),
        "The custodians' shares put the key together inside that token's process. Whoever".to_owned(),
        "else has the key that they are sealed to gets it instead: compare that line with".to_owned(),
        "the screen where the restore runs.".to_owned(),
        format!("Whoever has the token and its PIN can then use {whose}."),
        String::new(),
        format!(
            "This needs the shares of any {} of {} custodians.",
            escrow.members.quorum(),
            escrow.members.custodians().len()
        ),
        format!("Reason: {}", quote(reason)),
    ]
    .join("\n")
}
