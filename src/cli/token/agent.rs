//! `keyward token agent`: a program that a browser, or the helper of a login page, drives over standard input
//! and output. JSON objects each way, in order: one a line, or in the frames of native messaging, whose
//! length stands before them as 32 bits in the byte order of the machine
//! (<https://developer.chrome.com/docs/extensions/develop/concepts/native-messaging>).

use std::io::{BufRead, Read, Write};
use std::time::Duration;

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
use crate::keyring::credential::{Credential, CredentialId};
use crate::keyring::custodian::AgreementKey;
use crate::token::envelope::Login;

/// Longest line in bytes.
const LONGEST: u64 = 64 * 1024;
/// Longest time for one login: no challenge is good for longer.
const LASTS: Duration = Duration::from_secs(120);

/// `keyward token agent`
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// Application that may have logins signed; several times for several
    #[arg(long, value_name = "ORIGIN", required = true, value_parser = Origin::new)]
    origin: Vec<Origin>,
    /// Speak native messaging with a browser; it must say from which page a request comes
    #[arg(long)]
    native_messaging: bool,
    /// What a browser adds by itself: who has started this
    #[arg(hide = true)]
    _started_by: Vec<String>,
    #[command(flatten)]
    token: TokenArgs,
}

/// One line of standard input.
#[derive(Debug, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    /// Answers the tokens that are plugged in.
    List {
        id: u64,
        /// Where the browser says that the request comes from.
        page: Option<String>,
    },
    /// Signs a login.
    Login {
        id: u64,
        params: Box<Params>,
        /// Where the browser says that the request comes from.
        page: Option<String>,
    },
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
        if let Some(other) = self.origin.iter().find(|origin| self.native_messaging && !origin.is_web()) {
            return Err(Failure::Usage(format!(
                "--origin {other} is the origin of no page: write it as in https://crm.example.com"
            )));
        }
        while let Some(line) = self.next().await? {
            let answer = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => self.answer(shell, request).await,
                Err(error) => {
                    let id = serde_json::from_slice::<Value>(&line).ok().map(|request| request["id"].clone());
                    json!({ "id": id, "error": { "reason": "REQUEST", "message": error.to_string() } })
                }
            };
            match self.native_messaging {
                true => send(answer.to_string()).await?,
                false => shell.print.text(&format!("{answer}\n"))?,
            }
        }
        Ok(Exit::Ok)
    }

    /// The next request; `None` at the end.
    async fn next(&self) -> Result<Option<Vec<u8>>, Failure> {
        let native = self.native_messaging;
        let read = tokio::task::spawn_blocking(move || if native { next_frame() } else { next_line() });
        read.await.map_err(|error| Failure::Input(error.to_string()))?
    }

    async fn answer(&self, shell: &mut Shell, request: Request) -> Value {
        let (id, outcome) = match request {
            Request::List { id, page } => {
                let listed = match self.check_reader(page.as_deref()) {
                    Ok(()) => self.list(shell).await,
                    Err(refused) => Err(refused),
                };
                (id, listed)
            }
            Request::Login { id, params, page } => {
                let signed = match self.check_page(page.as_deref(), &params) {
                    Ok(()) => self.login(shell, &params).await,
                    Err(refused) => Err(refused),
                };
                (id, signed)
            }
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
        let said = format!(
            "you log in as {} to {}\n  deployment {deployment}\n  login {}",
            login.account, login.origin, login.login
        );
        shell.print.show(&said);
        // Counted from here: the daemon's clock may be another.
        let lasts = Duration::from_millis(params.expires.saturating_sub(params.issued)).min(LASTS);
        let signing = self.sign(shell, params, (login, deployment, &said), lasts);
        let signed = tokio::time::timeout(lasts, signing).await;
        signed.unwrap_or_else(|_| {
            let message = "the time for this login is over: begin another one".to_owned();
            Err(Failure::Refused { reason: "LOGIN_OVER", message })
        })
    }

    async fn sign(
        &self,
        shell: &mut Shell,
        params: &Params,
        (login, deployment, said): (Login, DeploymentId, &str),
        within: Duration,
    ) -> Result<Value, Failure> {
        let asked: Vec<_> = params.credentials.iter().filter_map(|text| CredentialId::parse(text)).collect();
        let mut session = self.token.open_to_answer(shell, &asked, said, within).await?;
        let credential = Self::credential(&mut session, &asked).await?;
        let envelope = login.envelope(deployment, credential.id());
        let signature = session.sign(shell, &credential, &envelope).await?;
        Ok(json!({ "credential": credential.id().to_string(), "signature": hex::encode(signature) }))
    }

    /// That the page which asks is of an application that may have logins signed: labels and serial numbers
    /// of tokens tell any other one who sits here.
    fn check_reader(&self, page: Option<&str>) -> Result<(), Failure> {
        let refused = |message: String| Err(Failure::Refused { reason: "TOKEN_REFUSED", message });
        match page {
            Some(page) if self.origin.iter().any(|origin| origin.as_str() == page) => Ok(()),
            Some(page) => refused(format!("the page is {page:?}, which is none of --origin")),
            None if self.native_messaging => {
                refused("the browser does not say from which page the request comes".into())
            }
            None => Ok(()),
        }
    }

    /// That the page which asks is the application whose login is to be signed.
    fn check_page(&self, page: Option<&str>, params: &Params) -> Result<(), Failure> {
        let refused = |message: String| Failure::Refused { reason: "TOKEN_REFUSED", message };
        match page {
            Some(page) if page == params.origin => Ok(()),
            Some(page) => {
                Err(refused(format!("the page is {page:?}, and the login is to another application")))
            }
            None if self.native_messaging => {
                Err(refused("the browser does not say from which page the request comes".into()))
            }
            None => Ok(()),
        }
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
    async fn credential(session: &mut Session, asked: &[CredentialId]) -> Result<Credential, Failure> {
        let credential = session.credential().await?;
        match asked.contains(&credential.id()) {
            true => Ok(credential),
            false => Err(Failure::Refused {
                reason: "TOKEN_REFUSED",
                message: "this token is not one that may answer: plug in the one that is on record".into(),
            }),
        }
    }
}

/// The next line of standard input; `None` at its end.
fn next_line() -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let mut input = std::io::Read::take(std::io::stdin().lock(), LONGEST);
    input.read_until(b'\n', &mut line).map_err(Failure::file("read", "stdin".as_ref()))?;
    match (line.is_empty(), line.ends_with(b"\n")) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(line)),
        (false, false) => {
            Err(Failure::Input("a line of standard input is cut, or longer than 64 KiB".into()))
        }
    }
}

/// The next frame of standard input; `None` at its end.
fn next_frame() -> Result<Option<Vec<u8>>, Failure> {
    let mut input = std::io::stdin().lock();
    let mut length = [0; 4];
    let read = Failure::file("read", "stdin".as_ref());
    match input.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(read(error)),
    }
    #[expect(clippy::host_endian_bytes, reason = "native messaging is between programs of one machine")]
    let length = u32::from_ne_bytes(length);
    if u64::from(length) > LONGEST {
        return Err(Failure::Input("a message is longer than 64 KiB".into()));
    }
    let mut message = Vec::new();
    let limit = std::io::Read::take(&mut input, length.into()).read_to_end(&mut message);
    match limit.map_err(read)? == length as usize {
        true => Ok(Some(message)),
        false => Err(Failure::Input("a message is cut".into())),
    }
}

/// A frame on standard output.
async fn send(message: String) -> Result<(), Failure> {
    let sent = tokio::task::spawn_blocking(move || {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        #[expect(clippy::host_endian_bytes, reason = "native messaging is between programs of one machine")]
        let length = length.to_ne_bytes();
        let mut output = std::io::stdout().lock();
        output.write_all(&length)?;
        output.write_all(message.as_bytes())?;
        output.flush()
    });
    let sent = sent.await.map_err(|error| Failure::Input(error.to_string()))?;
    sent.map_err(Failure::file("write", "stdout".as_ref()))
}
