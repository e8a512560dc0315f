//! `keyward token card`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::args::{Session, TokenArgs, failure};
use super::generate::name;
use crate::cli::Shell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::id::{CustodianId, DeploymentId};
use crate::keyring::credential::CredentialId;
use crate::keyring::custodian::{Certificate, Custodian, CustodianCard};
use crate::rpc::proto::GetStatusRequest;
use crate::token::enrolment;
use crate::token::error::TokenError;

/// `keyward token card`
#[derive(Debug, Args)]
pub(crate) struct Card {
    /// Who holds the token
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: CustodianId,
    /// Installation that the card is for, in hexadecimal [default: the daemon's]
    #[arg(long, value_name = "HEX", value_parser = deployment)]
    deployment: Option<DeploymentId>,
    /// File to write the card to; stdout when not given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file
    #[arg(long, requires = "out")]
    force: bool,
    #[command(flatten)]
    token: TokenArgs,
}

/// 32 hexadecimal digits.
pub(super) fn deployment(text: &str) -> Result<DeploymentId, String> {
    exact(text).map(DeploymentId)
}

/// Bytes of a known number, in hexadecimal.
pub(super) fn exact<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| format!("expected {} hexadecimal digits", 2 * N))
}

impl Card {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let deployment = match self.deployment {
            Some(deployment) => deployment,
            None => daemons(shell).await?,
        };
        let mut output = match &self.out {
            Some(path) => Some(Output::open_for_everybody(Some(path), self.force)?),
            None => None,
        };
        let mut session = self.token.open(shell).await?;
        let card = make(shell, &mut session, self.name, deployment).await?;
        let text = card.to_text();
        if let Some(output) = &mut output {
            let written = output.writer().write_all(text.as_bytes()).await;
            written.map_err(Failure::file("write", output.path()))?;
        }
        if let Some(output) = output {
            output.commit().await?;
        }
        match &self.out {
            Some(out) => report(shell, &card, out)?,
            None => show(shell, &card, &text)?,
        }
        Ok(Exit::Ok)
    }
}

fn value(card: &CustodianCard) -> serde_json::Value {
    let custodian = &card.custodian;
    json!({
        "name": custodian.name().as_str(),
        "deployment": card.deployment.to_string(),
        "algorithm": custodian.signing().algorithm().as_str(),
        "credential": custodian.signing().id().to_string(),
        "agreement": CredentialId::of(custodian.agreement().spki()).to_string(),
        "certificate": custodian.certificate().is_some(),
    })
}

fn show(shell: &mut Shell, card: &CustodianCard, text: &str) -> Result<(), Failure> {
    let mut value = value(card);
    value["card"] = json!(text);
    shell.print.answer(text.trim_end(), &value)
}

fn report(shell: &mut Shell, card: &CustodianCard, out: &std::path::Path) -> Result<(), Failure> {
    let mut value = value(card);
    value["out"] = json!(out);
    let credential = card.custodian.signing().id();
    let line = format!("wrote {}: compare the credential {credential} when you hand it in", out.display());
    shell.print.report(&line, &value)
}

/// The installation of the daemon on this machine.
async fn daemons(shell: &mut Shell) -> Result<DeploymentId, Failure> {
    let client = shell.client().await.map_err(|failure| {
        Failure::Usage(format!("say which installation with --deployment, or reach its daemon: {failure}"))
    })?;
    let status = client.call(client.system().get_status(GetStatusRequest {})).await?;
    let text = status.root.map(|root| root.deployment).unwrap_or_default();
    deployment(&text).map_err(|_| {
        Failure::Usage("the daemon does not say its installation yet: give --deployment".to_owned())
    })
}

/// Has the token prove its keys.
async fn make(
    shell: &mut Shell,
    session: &mut Session,
    name: CustodianId,
    deployment: DeploymentId,
) -> Result<CustodianCard, Failure> {
    let signing = session.credential().await?;
    let certificate = session.signing_key().await?.certificate;
    let agreement = session.agreement_key().await?;
    session.test_agreement().await?;
    let envelope = enrolment::envelope(&name, deployment, &signing, &agreement);
    let signature = session.sign(shell, &signing, &envelope).await?;
    // A certificate that cannot be read, or is of another key, is of no use to anybody.
    let certificate = certificate
        .and_then(|certificate| Certificate::new(certificate).ok())
        .filter(|certificate| certificate.is_of(signing.spki()));
    let custodian = Custodian::new(name, signing, agreement, certificate)
        .map_err(|error| failure(TokenError::Key(error.to_string())))?;
    Ok(CustodianCard { custodian, deployment, signature })
}
