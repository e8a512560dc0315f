//! `keyward token enroll`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::args::TokenArgs;
use crate::cli::Shell;
use crate::cli::enrolment::{self, EnrolmentDocument, TicketDocument, exact};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
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
    token: TokenArgs,
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
        shell.print.show(&format!(
            "you enroll a token to log in as {account}\n  deployment {deployment}\n  ticket {id}\n  token name {}",
            self.name
        ));
        let mut session = self.token.open_for(shell, KeyUse::Login).await?;
        let credential = session.credential().await?;
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
        };
        enrolment::write(&self.out, self.force, &document).await?;
        let line =
            format!("wrote {}: tell the operator the credential {}", self.out.display(), credential.id());
        shell.print.report(&line, &json!({ "out": self.out, "credential": credential.id().to_string() }))?;
        Ok(Exit::Ok)
    }
}
