//! `keyward account enroll`, `submit`, `approve` and `revoke`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::token;
use crate::cli::Shell;
use crate::cli::enrolment::{self, EnrolmentDocument, TicketDocument, exact};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::name;
use crate::cli::output::Output;
use crate::client::Client;
use crate::id::AccountName;
use crate::rpc::proto::{
    ApproveCredentialRequest, GetAccountRequest, OpenEnrolmentRequest, RevokeCredentialRequest,
    SubmitEnrolmentRequest,
};

/// The first digits of a credential: 8 at least, and enough to mean one.
#[derive(Debug, Clone)]
pub(crate) struct Prefix(String);

impl Prefix {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match digits && (8..=64).contains(&text.len()) {
            true => Ok(Self(text.to_owned())),
            false => Err("expected 8 to 64 hexadecimal digits; see `keyward account show NAME`".into()),
        }
    }

    /// The one credential of the account that is meant.
    pub(crate) async fn credential(
        &self,
        client: &Client,
        account: &AccountName,
    ) -> Result<bytes::Bytes, Failure> {
        let request = GetAccountRequest { name: account.to_string() };
        let found = client.call(client.logins().get_account(request)).await?;
        let mut fitting =
            found.credentials.into_iter().filter(|one| hex::encode(&one.id).starts_with(&self.0));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only.id),
            (None, _) => Err(Failure::missing(format!("{account} has no credential {}", self.0))),
            (Some(_), Some(_)) => {
                Err(Failure::Input(format!("{account} has several credentials {}: give more digits", self.0)))
            }
        }
    }
}

/// `keyward account enroll`
#[derive(Debug, Args)]
#[command(
    after_help = "The staff member runs `keyward token enroll --ticket FILE --name NAME --out FILE` where the token is plugged in.

Examples:
  keyward account enroll alice --out alice.ticket
  keyward account enroll alice --replaces 3f0c9a12 --out alice.ticket"
)]
pub(crate) struct Enroll {
    /// The account
    #[arg(value_parser = name::account)]
    account: AccountName,
    /// Credential of a lost token: revoked at once
    #[arg(long, value_name = "HEX", value_parser = Prefix::parse)]
    replaces: Option<Prefix>,
    /// File to write the ticket to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file
    #[arg(long)]
    force: bool,
}

impl Enroll {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let client = shell.client().await?;
        let replaces = match &self.replaces {
            Some(lost) => lost.credential(&client, &self.account).await?,
            None => bytes::Bytes::new(),
        };
        let output = Output::open(Some(&self.out), self.force)?;
        let request = OpenEnrolmentRequest { name: self.account.to_string(), replaces };
        let ticket = client.call(client.logins().open_enrolment(request)).await?;
        let expires = ticket.expire_time.unwrap_or_default();
        let millis = u64::try_from(expires.seconds).unwrap_or_default() * 1000
            + u64::try_from(expires.nanos).unwrap_or_default() / 1_000_000;
        let document = TicketDocument {
            format: TicketDocument::FORMAT.to_owned(),
            deployment: hex::encode(&ticket.deployment),
            account: ticket.account,
            ticket: hex::encode(&ticket.id),
            nonce: hex::encode(&ticket.nonce),
            expires: millis,
        };
        enrolment::write(output, &document).await?;
        let note = format!("wrote {}: good for one token, for 24 hours", self.out.display());
        shell.print.report(&note, &json!({ "out": self.out, "ticket": document.ticket }))?;
        Ok(Exit::Ok)
    }
}

/// `keyward account submit`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keyward account submit alice.enrolment")]
pub(crate) struct Submit {
    /// What `keyward token enroll` has written
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Submit {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let document: EnrolmentDocument =
            enrolment::read(&self.file, EnrolmentDocument::FORMAT, |found: &EnrolmentDocument| {
                &found.format
            })?;
        let bytes = |text: &str, member: &str| {
            hex::decode(text).map_err(|_| Failure::Input(format!("{member}: expected hexadecimal digits")))
        };
        let all = |texts: &[String], member: &str| {
            texts.iter().map(|text| bytes(text, member).map(Into::into)).collect::<Result<Vec<_>, _>>()
        };
        let request = SubmitEnrolmentRequest {
            ticket: exact::<16>(&document.ticket, "ticket")?.to_vec().into(),
            public_key: bytes(&document.public_key, "public_key")?.into(),
            signature: bytes(&document.signature, "signature")?.into(),
            token: document.token,
            kind: document.kind,
            algorithm: document.algorithm,
            attestation: all(&document.attestation, "attestation")?,
            certificates: all(&document.certificates, "certificates")?,
        };
        let client = shell.client().await?;
        let enrolled = client.call(client.logins().submit_enrolment(request)).await?;
        let line = format!("credential {} waits for approval", hex::encode(&enrolled.id));
        shell.print.answer(&line, &token(&enrolled))?;
        Ok(Exit::Ok)
    }
}

/// `keyward account approve`
#[derive(Debug, Args)]
#[command(
    after_help = "Compare the credential with the staff member, who sees it when the token is enrolled.

Example:
  keyward account approve alice 3f0c9a12"
)]
pub(crate) struct Approve {
    /// The account
    #[arg(value_parser = name::account)]
    account: AccountName,
    /// The credential
    #[arg(value_parser = Prefix::parse)]
    credential: Prefix,
}

impl Approve {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let client = shell.client().await?;
        let credential = self.credential.credential(&client, &self.account).await?;
        let name = self.account.to_string();
        let request = ApproveCredentialRequest { name, credential };
        let account = client.call(client.logins().approve_credential(request)).await?;
        shell.print.view(&account)?;
        Ok(Exit::Ok)
    }
}

/// `keyward account revoke`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keyward account revoke alice 3f0c9a12 --reason 'token returned'")]
pub(crate) struct Revoke {
    /// The account
    #[arg(value_parser = name::account)]
    account: AccountName,
    /// The credential
    #[arg(value_parser = Prefix::parse)]
    credential: Prefix,
    /// Why; stands in the audit log
    #[arg(long)]
    reason: String,
}

impl Revoke {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let client = shell.client().await?;
        let credential = self.credential.credential(&client, &self.account).await?;
        let name = self.account.to_string();
        let request = RevokeCredentialRequest { name, credential, reason: self.reason };
        let account = client.call(client.logins().revoke_credential(request)).await?;
        shell.print.view(&account)?;
        Ok(Exit::Ok)
    }
}
