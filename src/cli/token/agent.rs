//! `keyward token agent`: a program that a browser's native-messaging host, or the helper of a login
//! page, drives over standard input and output. One JSON object a line, each way, in order.

use std::io::BufRead;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::args::{Session, TokenArgs};
use crate::cli::Shell;
use crate::cli::enrolment::exact;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::clock::Date;
use crate::id::{AccountName, DeploymentId, LoginId, Origin};
use crate::keyring::credential::CredentialId;
use crate::keyring::custodian::AgreementKey;
use crate::token::envelope::Login;
use crate::token::wire::KeyUse;

/// Longest line in bytes.
const LONGEST: u64 = 64 * 1024;

/// `keyward token agent`
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// Application that may have logins signed; several times for several
    #[arg(long, value_name = "ORIGIN", required = true, value_parser = Origin::new)]
    origin: Vec<Origin>,
    #[command(flatten)]
    token: TokenArgs,
}

/// One line of standard input.
#[derive(Debug, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    /// Answers the tokens that are plugged in.
    List { id: u64 },
    /// Signs a login.
    Login { id: u64, params: Box<Params> },
}

/// A challenge as BeginLogin answers it; bytes in hexadecimal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    deployment: String,
    origin: String,
    account: String,
    login_id: String,
    nonce: String,
    /// Milliseconds since 1970.
    issued: u64,
    /// Milliseconds since 1970.
    expires: u64,
    /// The credentials that may answer.
    credentials: Vec<String>,
    /// The session's key: SubjectPublicKeyInfo in DER.
    session_public_key: String,
}

impl Agent {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        while let Some(line) = next_line().await? {
            let answer = match serde_json::from_str::<Request>(&line) {
                Ok(request) => self.answer(shell, request).await,
                Err(error) => {
                    json!({ "id": null, "error": { "reason": "REQUEST", "message": error.to_string() } })
                }
            };
            shell.print.text(&format!("{answer}\n"))?;
        }
        Ok(Exit::Ok)
    }

    async fn answer(&self, shell: &mut Shell, request: Request) -> Value {
        let (id, outcome) = match request {
            Request::List { id } => (id, self.list(shell).await),
            Request::Login { id, params } => (id, self.login(shell, &params).await),
        };
        match outcome {
            Ok(result) => json!({ "id": id, "result": result }),
            Err(failure) => {
                json!({ "id": id, "error": { "reason": failure.reason(), "message": failure.to_string() } })
            }
        }
    }

    async fn list(&self, shell: &mut Shell) -> Result<Value, Failure> {
        let tokens = self.token.module.tokens(shell).await?;
        let tokens = tokens.iter().map(|report| {
            json!({ "label": report.token.label, "serial": report.token.serial, "pin": report.pin.as_str() })
        });
        Ok(json!({ "tokens": tokens.collect::<Vec<_>>() }))
    }

    async fn login(&self, shell: &mut Shell, params: &Params) -> Result<Value, Failure> {
        let (login, deployment) = self.matter(params)?;
        shell.print.show(&format!(
            "you log in as {} to {}\n  deployment {deployment}\n  login {}",
            login.account, login.origin, login.login
        ));
        let mut session = self.token.open_for(shell, KeyUse::Login).await?;
        let credential = self.credential(&mut session, params).await?;
        let envelope = login.envelope(deployment, credential.id());
        let signature = session.sign(shell, &credential, &envelope).await?;
        Ok(json!({ "credential": credential.id().to_string(), "signature": hex::encode(signature) }))
    }

    /// What is signed, built here from its fields.
    fn matter(&self, params: &Params) -> Result<(Login, DeploymentId), Failure> {
        let input = |error: &dyn std::fmt::Display| Failure::Input(error.to_string());
        let origin = Origin::new(&params.origin).map_err(|error| input(&error))?;
        if !self.origin.contains(&origin) {
            return Err(Failure::Refused {
                reason: "TOKEN_REFUSED",
                message: format!("{origin} may not have logins signed here: see --origin"),
            });
        }
        let account = AccountName::parse(&params.account).map_err(|error| input(&error))?.0;
        let session = hex::decode(&params.session_public_key).map_err(|error| input(&error))?;
        let login = Login {
            origin,
            login: LoginId(exact(&params.login_id, "login_id")?),
            nonce: exact(&params.nonce, "nonce")?,
            account,
            issued: Date(params.issued),
            expires: Date(params.expires),
            session: AgreementKey::new(session).map_err(|error| input(&error))?,
        };
        Ok((login, DeploymentId(exact(&params.deployment, "deployment")?)))
    }

    /// The token's key, if it may answer.
    async fn credential(
        &self,
        session: &mut Session,
        params: &Params,
    ) -> Result<crate::keyring::credential::Credential, Failure> {
        let credential = session.credential().await?;
        let asked = params.credentials.iter().filter_map(|text| CredentialId::parse(text));
        match asked.into_iter().any(|id| id == credential.id()) {
            true => Ok(credential),
            false => Err(Failure::Refused {
                reason: "TOKEN_REFUSED",
                message: "this token is not one that may answer: plug in the one that is on record".into(),
            }),
        }
    }
}

/// The next line of standard input; `None` at its end.
async fn next_line() -> Result<Option<String>, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = Vec::new();
        let mut input = std::io::Read::take(std::io::stdin().lock(), LONGEST);
        input.read_until(b'\n', &mut line).map(|_| line)
    });
    let line = read.await.map_err(|error| Failure::Input(error.to_string()))?;
    let line = line.map_err(Failure::file("read", "stdin".as_ref()))?;
    match (line.is_empty(), line.ends_with(b"\n")) {
        (true, _) => Ok(None),
        (false, true) => String::from_utf8(line)
            .map(Some)
            .map_err(|_| Failure::Input("a line of standard input is not UTF-8".into())),
        (false, false) => {
            Err(Failure::Input("a line of standard input is cut, or longer than 64 KiB".into()))
        }
    }
}
