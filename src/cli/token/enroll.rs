//! `keyward token enroll`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use super::args::{Session, TokenArgs, WINDOW};
use crate::cli::Shell;
use crate::cli::enrolment::{self, EnrolmentDocument, TicketDocument, exact};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::clock::Date;
use crate::id::{AccountName, DeploymentId, NameError, TicketId, TokenName};
use crate::token::envelope::LoginEnrolment;
use crate::token::wire::KeyUse;

/// `keyward token enroll`
#[derive(Debug, Args)]
pub(crate) struct Enroll {
    /// What the operator gave you
    #[arg(long, value_name = "FILE")]
    ticket: PathBuf,
    /// What you call the token, for example blue-key
    #[arg(long, value_name = "NAME", value_parser = token_name)]
    name: TokenName,
    /// File to write the enrolment to, for the operator
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    evidence: EvidenceArgs,
    #[command(flatten)]
    token: TokenArgs,
}

/// What shows where the key was made.
#[derive(Debug, Args)]
struct EvidenceArgs {
    /// File with the maker's attestation in PEM: of the key, then of the card [default: a PIV card is asked]
    #[arg(long, value_name = "FILE")]
    attestation: Option<PathBuf>,
    /// File with the company's certificate in PEM, and those above it [default: the one on the token]
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Show nothing: then the token is only witnessed
    #[arg(long, conflicts_with_all = ["attestation", "certificate"])]
    no_evidence: bool,
}

/// Certificates in DER.
#[derive(Debug, Default)]
struct Shown {
    attestation: Vec<Vec<u8>>,
    certificates: Vec<Vec<u8>>,
}

impl EvidenceArgs {
    async fn show(&self, session: &mut Session) -> Result<Shown, Failure> {
        if self.no_evidence {
            return Ok(Shown::default());
        }
        let key = session.signing_key().await?;
        let attestation = match &self.attestation {
            Some(path) => certificates(path)?,
            None => session.attest(&key).await?,
        };
        let certificates = match &self.certificate {
            Some(path) => certificates(path)?,
            None => key.certificate.filter(|certificate| is_issued(certificate)).into_iter().collect(),
        };
        Ok(Shown { attestation, certificates })
    }
}

/// The certificates of a PEM file.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let pem = std::fs::read(path).map_err(Failure::file("read", path))?;
    let bad = |why: String| Failure::Input(format!("{}: {why}", path.display()));
    let chain =
        Certificate::load_pem_chain(&pem).map_err(|error| bad(format!("no certificates in PEM: {error}")))?;
    if chain.is_empty() {
        return Err(bad("no certificates in PEM".to_owned()));
    }
    chain.iter().map(|certificate| certificate.to_der().map_err(|error| bad(error.to_string()))).collect()
}

/// Whether somebody else issued it: what only says which key is in a slot names itself.
fn is_issued(certificate: &[u8]) -> bool {
    Certificate::from_der(certificate).is_ok_and(|certificate| {
        certificate.tbs_certificate().issuer() != certificate.tbs_certificate().subject()
    })
}

fn token_name(text: &str) -> Result<TokenName, NameError> {
    TokenName::new(text)
}

impl Enroll {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let ticket: TicketDocument =
            enrolment::read(&self.ticket, TicketDocument::FORMAT, |found: &TicketDocument| &found.format)?;
        let account =
            AccountName::parse(&ticket.account).map_err(|error| Failure::Input(error.to_string()))?.0;
        let id = TicketId(exact(&ticket.ticket, "ticket")?);
        let deployment = DeploymentId(exact(&ticket.deployment, "deployment")?);
        if Date(ticket.expires) < Date::now() {
            return Err(Failure::Input("the ticket has expired: ask the operator for another one".into()));
        }
        let output = Output::open_for_everybody(Some(&self.out), self.force)?;
        let matter = format!(
            "you enroll a token to log in as {account}\n  deployment {deployment}\n  ticket {id}\n  token name {}",
            self.name
        );
        shell.print.show(&matter);
        let mut session = self.token.open_for(shell, KeyUse::Login, &matter, WINDOW).await?;
        let credential = session.credential().await?;
        let shown = self.evidence.show(&mut session).await?;
        let (nonce, expires) = (exact(&ticket.nonce, "nonce")?, Date(ticket.expires));
        let envelope = LoginEnrolment { account, ticket: id, nonce, expires, name: self.name.clone() };
        let envelope = envelope.envelope(deployment, credential.id());
        let signature = session.sign(shell, &credential, &envelope).await?;
        let document = EnrolmentDocument {
            format: EnrolmentDocument::FORMAT.to_owned(),
            ticket: ticket.ticket,
            token: self.name.to_string(),
            kind: credential.kind().as_str().to_owned(),
            algorithm: credential.algorithm().as_str().to_owned(),
            public_key: hex::encode(credential.spki()),
            signature: hex::encode(signature),
            attestation: shown.attestation.iter().map(hex::encode).collect(),
            certificates: shown.certificates.iter().map(hex::encode).collect(),
        };
        enrolment::write(output, &document).await?;
        let line =
            format!("wrote {}: tell the operator the credential {}", self.out.display(), credential.id());
        shell.print.report(&line, &json!({ "out": self.out, "credential": credential.id().to_string() }))?;
        Ok(Exit::Ok)
    }
}
