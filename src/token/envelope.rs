//! The one envelope that tokens sign (docs/tokens.md is the normative text, with test vectors).
//!
//! ```text
//! "keyward-usbkey-v1\0" | u8 purpose | lp(deployment, 16) | lp(credential, 32) | lp(field) …
//! lp(x) = u32 length of x, big-endian | x
//! ```
//!
//! Whoever signs and whoever verifies each build it; nobody signs a digest that was handed over.

use crate::clock::Date;
use crate::id::{
    AccountId, CeremonyId, CustodianId, DeploymentId, LoginId, Origin, ProposalId, TicketId, TokenName,
};
use crate::keyring::credential::CredentialId;
use crate::keyring::custodian::AgreementKey;
use crate::token::printable::{Statement, StatementError};

mod parse;

/// What every envelope begins with.
pub const PREFIX: &[u8] = b"keyward-usbkey-v1\0";

/// What a signature is for: the registry. A number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Logging in.
    Login = 1,
    /// Proving that the token has the keys it is put on record with.
    Enrolment = 2,
    /// Confirming one act in a session.
    StepUp = 3,
    /// Approving a ceremony.
    Ceremony = 4,
    /// Approving a grant.
    Grant = 5,
    /// Having read a report.
    Report = 6,
    /// Handing over one's share for a restore.
    RestoreShare = 7,
    /// Proving that a token has the key that a staff member is going to log in with.
    LoginEnrolment = 8,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 8] = [
        Self::Login,
        Self::Enrolment,
        Self::StepUp,
        Self::Ceremony,
        Self::Grant,
        Self::Report,
        Self::RestoreShare,
        Self::LoginEnrolment,
    ];

    /// Its number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The purpose of a number.
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.number() == number)
    }

    /// The word for it, as people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Enrolment => "enrolment",
            Self::StepUp => "step-up",
            Self::Ceremony => "ceremony",
            Self::Grant => "grant",
            Self::Report => "report",
            Self::RestoreShare => "restore-share",
            Self::LoginEnrolment => "login-enrolment",
        }
    }
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why bytes are no envelope that is signed here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Something else: a digest, a certificate, another protocol.
    #[error("not a signing envelope of keyward")]
    Prefix,
    /// A purpose that this version signs nothing for.
    #[error("nothing is signed for purpose {0} by this version of keyward")]
    Purpose(u8),
    /// The fields are not those of the purpose, in number or length.
    #[error("the envelope is malformed: {0}")]
    Fields(&'static str),
    /// The text hides something.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

/// The bytes that a token signs. They are whole and of a known purpose.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    bytes: Vec<u8>,
    content: Content,
}

/// What an envelope says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    deployment: DeploymentId,
    credential: CredentialId,
    matter: Matter,
}

/// The fields of each purpose that something is signed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matter {
    /// [`Purpose::Login`].
    Login(Login),
    /// [`Purpose::Enrolment`].
    Enrolment(Enrolment),
    /// [`Purpose::StepUp`].
    StepUp(StepUp),
    /// [`Purpose::Ceremony`].
    Ceremony(Ceremony),
    /// [`Purpose::RestoreShare`].
    RestoreShare(RestoreShare),
    /// [`Purpose::LoginEnrolment`].
    LoginEnrolment(LoginEnrolment),
}

/// A staff member logs in to one application, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The application, as the daemon's configuration names it.
    pub origin: Origin,
    /// The attempt.
    pub login: LoginId,
    /// Drawn by the daemon for this attempt.
    pub nonce: [u8; 32],
    /// Who logs in.
    pub account: AccountId,
    /// When it began.
    pub issued: Date,
    /// When it is too late.
    pub expires: Date,
    /// The key that the session proves itself with: P-256.
    pub session: AgreementKey,
}

/// An administrator approves one act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepUp {
    /// The act.
    pub proposal: ProposalId,
    /// The administrator.
    pub account: AccountId,
    /// When it was proposed.
    pub created: Date,
    /// When it is too late.
    pub expires: Date,
    /// What is approved, word for word.
    pub statement: Statement,
}

/// A staff member's token has the key that signs this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginEnrolment {
    /// Whose token it is.
    pub account: AccountId,
    /// The permission to enrol it.
    pub ticket: TicketId,
    /// Drawn by the daemon for this ticket.
    pub nonce: [u8; 32],
    /// When it is too late.
    pub expires: Date,
    /// What the staff member calls the token.
    pub name: TokenName,
}

/// A custodian's token has both keys: signed by the one, naming the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Who holds the token.
    pub name: CustodianId,
    /// The key that agrees.
    pub agreement: AgreementKey,
}

/// A custodian approves a ceremony.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceremony {
    /// The ceremony.
    pub ceremony: CeremonyId,
    /// SHA-256 of the roster that decides.
    pub roster: [u8; 32],
    /// When it was proposed.
    pub created: Date,
    /// When it is too late.
    pub expires: Date,
    /// What is approved, word for word.
    pub statement: Statement,
}

/// A custodian hands over a share, encrypted to the key of the restoring side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreShare {
    /// The ceremony that restores.
    pub ceremony: CeremonyId,
    /// What is approved, word for word.
    pub statement: Statement,
    /// The key that the share is encrypted to.
    pub transport: AgreementKey,
}

impl Matter {
    /// What it is signed for.
    pub fn purpose(&self) -> Purpose {
        match self {
            Self::Login(_) => Purpose::Login,
            Self::Enrolment(_) => Purpose::Enrolment,
            Self::StepUp(_) => Purpose::StepUp,
            Self::Ceremony(_) => Purpose::Ceremony,
            Self::RestoreShare(_) => Purpose::RestoreShare,
            Self::LoginEnrolment(_) => Purpose::LoginEnrolment,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Login(Login { origin, login, nonce, account, issued, expires, session }) => {
                lp(out, origin.as_str().as_bytes());
                lp(out, &login.0);
                lp(out, nonce);
                lp(out, account.as_str().as_bytes());
                lp(out, &issued.millis().to_be_bytes());
                lp(out, &expires.millis().to_be_bytes());
                lp(out, session.spki());
            }
            Self::StepUp(StepUp { proposal, account, created, expires, statement }) => {
                lp(out, &proposal.0);
                lp(out, account.as_str().as_bytes());
                lp(out, &created.millis().to_be_bytes());
                lp(out, &expires.millis().to_be_bytes());
                lp(out, statement.as_str().as_bytes());
            }
            Self::LoginEnrolment(LoginEnrolment { account, ticket, nonce, expires, name }) => {
                lp(out, account.as_str().as_bytes());
                lp(out, &ticket.0);
                lp(out, nonce);
                lp(out, &expires.millis().to_be_bytes());
                lp(out, name.as_str().as_bytes());
            }
            Self::Enrolment(Enrolment { name, agreement }) => {
                lp(out, name.as_str().as_bytes());
                lp(out, agreement.spki());
            }
            Self::Ceremony(Ceremony { ceremony, roster, created, expires, statement }) => {
                lp(out, &ceremony.0);
                lp(out, roster);
                lp(out, &created.millis().to_be_bytes());
                lp(out, &expires.millis().to_be_bytes());
                lp(out, statement.as_str().as_bytes());
            }
            Self::RestoreShare(RestoreShare { ceremony, statement, transport }) => {
                lp(out, &ceremony.0);
                lp(out, statement.as_str().as_bytes());
                lp(out, transport.spki());
            }
        }
    }

    /// The bytes that the key `credential` signs, in an installation.
    pub fn envelope(self, deployment: DeploymentId, credential: CredentialId) -> Envelope {
        let mut bytes = PREFIX.to_vec();
        bytes.push(self.purpose().number());
        lp(&mut bytes, &deployment.0);
        lp(&mut bytes, &credential.0);
        self.put(&mut bytes);
        Envelope { bytes, content: Content { deployment, credential, matter: self } }
    }
}

macro_rules! builders {
    ($($name:ident),*) => {$(
        impl $name {
            /// The bytes that the key `credential` signs, in an installation.
            pub fn envelope(self, deployment: DeploymentId, credential: CredentialId) -> Envelope {
                Matter::$name(self).envelope(deployment, credential)
            }
        }
    )*};
}
builders!(Login, Enrolment, StepUp, Ceremony, RestoreShare, LoginEnrolment);

/// Every field is far shorter than 4 GiB.
fn lp(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(field);
}

impl Envelope {
    /// Most bytes of an envelope: a statement of 16 KiB, and the fields around it.
    pub const LONGEST: usize = Statement::LONGEST + 1024;

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it is signed for.
    pub fn purpose(&self) -> Purpose {
        self.content.matter.purpose()
    }

    /// The installation that it is for.
    pub fn deployment(&self) -> DeploymentId {
        self.content.deployment
    }

    /// The key that signs it.
    pub fn credential(&self) -> CredentialId {
        self.content.credential
    }

    /// The fields.
    pub fn matter(&self) -> &Matter {
        &self.content.matter
    }

    /// The text that a person reads before it is signed, where the purpose has one.
    pub fn statement(&self) -> Option<&Statement> {
        match &self.content.matter {
            Matter::Login(_) | Matter::Enrolment(_) | Matter::LoginEnrolment(_) => None,
            Matter::StepUp(act) => Some(&act.statement),
            Matter::Ceremony(ceremony) => Some(&ceremony.statement),
            Matter::RestoreShare(share) => Some(&share.statement),
        }
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.content.fmt(f)
    }
}

#[cfg(test)]
mod tests;
