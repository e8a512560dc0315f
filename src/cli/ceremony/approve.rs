//! `keyward ceremony approve`

use std::path::PathBuf;

use clap::Args;

use super::{find, shown, watch};
use crate::cli::Shell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::token::TokenArgs;
use crate::clock::Date;
use crate::id::{CeremonyId, DeploymentId};
use crate::keyring::credential::{Credential, CredentialId};
use crate::rpc::proto::ceremony::State;
use crate::rpc::proto::{ApproveRequest, Ceremony};
use crate::token::envelope;
use crate::token::printable::Statement;

/// `keyward ceremony approve`
#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// The ceremony: its id, or the beginning of it
    ceremony: String,
    /// Hand in a signature that was made elsewhere, instead of using a token
    #[arg(long, value_name = "FILE", requires = "custodian")]
    signature: Option<PathBuf>,
    /// The custodian whose signature it is
    #[arg(long = "as", value_name = "NAME")]
    custodian: Option<String>,
    /// Do not wait for the end when this approval was the last that was needed
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    token: TokenArgs,
}

impl Approve {
    pub(super) async fn run(self: Box<Self>, shell: &mut Shell) -> Result<Exit, Failure> {
        let client = shell.client().await?;
        let ceremony = find(&client, &self.ceremony).await?;
        let (custodian, signature) = match (&self.signature, &self.custodian) {
            (Some(file), Some(name)) => {
                (name.clone(), std::fs::read(file).map_err(Failure::file("read", file))?)
            }
            _ => self.sign(shell, &ceremony).await?,
        };
        let name = ceremony.name;
        let request = ApproveRequest { name, custodian: custodian.clone(), signature: signature.into() };
        let approved = client.call(client.ceremonies().approve(request)).await?;
        shell.print.note(&format!("approved by {custodian}"));
        if approved.state() != State::Executing || self.no_wait {
            shell.print.view(&shown::Row(&approved))?;
            return Ok(Exit::Ok);
        }
        let ended = watch::to_the_end(&client, &approved.name, shell.print.hides_progress()).await?;
        watch::told(shell, &ended)
    }

    /// Shows the statement, asks for token and PIN, and signs what was shown.
    async fn sign(&self, shell: &mut Shell, ceremony: &Ceremony) -> Result<(String, Vec<u8>), Failure> {
        // Only what is checked to be printable reaches the terminal.
        let matter = matter(ceremony)?;
        shell.print.show(matter.statement.as_str());
        let mut session = self.token.open(shell).await?;
        let credential = session.credential().await?;
        let own =
            ceremony.custodians.iter().find(|one| CredentialId::of(&one.signing_key) == credential.id());
        let Some(own) = own else { return Err(not_on_the_roster(ceremony)) };
        if self.custodian.as_ref().is_some_and(|name| *name != own.name) {
            return Err(Failure::Input(format!("this is the token of {}", own.name)));
        }
        // The algorithm is the roster's, as the daemon checks it.
        let credential = registered(own.algorithm.as_str(), &credential)?;
        let envelope = matter.envelope(deployment(ceremony)?, credential.id());
        let signature = session.sign(shell, &credential, &envelope).await?;
        Ok((own.name.clone(), signature))
    }
}

fn not_on_the_roster(ceremony: &Ceremony) -> Failure {
    let names: Vec<_> = ceremony.custodians.iter().map(|one| one.name.as_str()).collect();
    Failure::Refused {
        reason: "APPROVAL_REFUSED",
        message: format!("this token is none of the custodians who decide: {}", names.join(", ")),
    }
}

fn registered(algorithm: &str, credential: &Credential) -> Result<Credential, Failure> {
    let unknown = || {
        Failure::Input(format!("the roster has algorithm {algorithm:?}, which this program does not know"))
    };
    let algorithm = crate::keyring::credential::TokenAlgorithm::parse(algorithm).ok_or_else(unknown)?;
    Credential::new(credential.kind(), algorithm, credential.spki().to_vec())
        .map_err(|error| Failure::Input(error.to_string()))
}

/// What is signed, built here from what is shown: the daemon builds its own.
fn matter(ceremony: &Ceremony) -> Result<envelope::Ceremony, Failure> {
    let id = CeremonyId::parse_name(&ceremony.name).map_err(|_| odd("a name"))?;
    for line in [format!("Ceremony: {id}"), format!("Deployment: {}", deployment(ceremony)?)] {
        if !ceremony.statement.lines().any(|said| said == line) {
            return Err(Failure::Input(format!("the statement does not say {line:?}: nothing was signed")));
        }
    }
    Ok(envelope::Ceremony {
        ceremony: id,
        roster: ceremony.roster_digest.as_ref().try_into().map_err(|_| odd("a roster"))?,
        created: date(ceremony.create_time).ok_or_else(|| odd("a date"))?,
        expires: date(ceremony.expire_time).ok_or_else(|| odd("a date"))?,
        statement: Statement::new(&ceremony.statement).map_err(|error| Failure::Input(error.to_string()))?,
    })
}

fn deployment(ceremony: &Ceremony) -> Result<DeploymentId, Failure> {
    ceremony.deployment.as_ref().try_into().map(DeploymentId).map_err(|_| odd("a deployment"))
}

fn odd(what: &str) -> Failure {
    Failure::Input(format!("the daemon sent a ceremony without {what}; is it of another version?"))
}

fn date(time: Option<prost_types::Timestamp>) -> Option<Date> {
    let time = time?;
    let millis = u64::try_from(time.nanos).ok()? / 1_000_000;
    u64::try_from(time.seconds).ok()?.checked_mul(1000)?.checked_add(millis).map(Date)
}
