//! `keyward store`: copies, checks and repairs of the store.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::local::{ConfigFile, blocking};
use super::output::NewFile;
use super::view::{Fields, View};
use crate::client::{self, Client};
use crate::config::Config;
use crate::daemon::lock::LockError;
use crate::daemon::maintain::{self, Idle};
use crate::rpc::proto::export_store_response::Message;
use crate::rpc::proto::{CheckStoreRequest, ExportStoreRequest, StoreExport, StoreReport};
use crate::store::check::CheckReport;
use crate::store::transfer::Exported;

/// `keyward store`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a raw copy of all records to a new file; a daemon that runs is asked for it
    #[command(
        after_help = "For moving a store. The file can be read only as long as the erasure key lives under which its
records are sealed, a day by default: for a backup, see `keyward backup create --out FILE`.

Example:
  keyward store export --config /etc/keyward/keywardd.toml --out keyward.export"
    )]
    Export {
        #[command(flatten)]
        config: ConfigFile,
        /// The file
        #[arg(long = "out", value_name = "FILE")]
        output: PathBuf,
    },
    /// Make a store from an export, where there is none; the daemon must not run
    #[command(
        after_help = "Example:\n  keyward store import --config /etc/keyward/keywardd.toml --in keyward.export"
    )]
    Import {
        #[command(flatten)]
        config: ConfigFile,
        /// The file
        #[arg(long = "in", value_name = "FILE")]
        input: PathBuf,
    },
    /// Verify every record of store and journal; a daemon that runs is asked to
    #[command(after_help = "Example:\n  keyward store check --config /etc/keyward/keywardd.toml")]
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Rebuild what is damaged from what is whole; the daemon must not run
        #[arg(long)]
        repair: bool,
    },
    /// Accept a store that is older than the audit log, or a log that is older than the store
    #[command(
        after_help = "For a backup that was restored on purpose: what was changed since is lost. Or for an audit log that
is lost for good: what it told is lost. It is recorded in the audit log.

Example:
  keyward store accept-rollback --config /etc/keyward/keywardd.toml"
    )]
    AcceptRollback {
        #[command(flatten)]
        config: ConfigFile,
    },
}

impl Command {
    pub(crate) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Export { config, output } => {
                let config = config.read_if_allowed()?;
                export(shell, config, output).await?;
            }
            Self::Import { config, input } => {
                let config = config.read()?;
                let imported = blocking(move || maintain::import(&config, &input)).await?;
                shell.print.view(&imported)?;
            }
            Self::Check { config, repair: false } => {
                let config = config.read_if_allowed()?;
                return check(shell, config).await;
            }
            Self::Check { config, repair: true } => {
                let config = config.read()?;
                let done = blocking(move || maintain::repair(&config)).await?;
                let line =
                    if done.notes.is_empty() { "nothing to repair".into() } else { done.notes.join("\n") };
                let value = json!({ "revision": done.position.revision, "done": done.notes });
                shell.print.answer(&line, &value)?;
            }
            Self::AcceptRollback { config } => {
                let config = config.read()?;
                let position = blocking(move || maintain::accept_rollback(&config)).await?;
                let line = format!("the store counts from revision {}", position.revision);
                shell.print.answer(&line, &json!({ "revision": position.revision }))?;
            }
        }
        Ok(Exit::Ok)
    }
}

/// Who has the store.
enum Owner {
    /// A daemon, which reads it for us: it alone sees what it has acknowledged.
    Daemon(Client),
    /// Nobody, and nobody gets it while this is held.
    Nobody(Idle, Box<Config>),
}

/// Asks the state directory, not the socket: service managers listen on that for a daemon that does not run.
async fn owner(shell: &Shell, config: Option<Config>) -> Result<Owner, Failure> {
    // An operator may read neither configuration nor state, and need not.
    let Some(config) = config else { return shell.client().await.map(Owner::Daemon) };
    let taken = match maintain::idle(&config) {
        Ok(idle) => return Ok(Owner::Nobody(idle, Box::new(config))),
        Err(taken) => taken,
    };
    let socket = &config.server.socket;
    Client::connect(socket).await.map(Owner::Daemon).map_err(|error| match taken {
        LockError::Io(..) | LockError::OfAnother(..) | LockError::OfRoot { .. } => Failure::local(&taken),
        LockError::InUse(_) => Failure::Refused {
            reason: "NOT_READY",
            message: format!(
                "{taken}; nothing was read, for no daemon answers at {}, which alone could read it: {error}",
                socket.display()
            ),
        },
    })
}

async fn check(shell: &mut Shell, config: Option<Config>) -> Result<Exit, Failure> {
    let whole = match owner(shell, config).await? {
        Owner::Daemon(client) => {
            // Without a deadline: it takes as long as reading everything takes.
            let answer = client.system().check_store(CheckStoreRequest {}).await;
            let report = answer.map_err(client::Error::from)?.into_inner();
            shell.print.view(&report)?;
            report.whole
        }
        Owner::Nobody(idle, config) => {
            let report = blocking(move || maintain::check(&idle, &config)).await?;
            shell.print.view(&report)?;
            report.is_whole()
        }
    };
    Ok(if whole { Exit::Ok } else { Exit::Integrity })
}

async fn export(shell: &mut Shell, config: Option<Config>, output: PathBuf) -> Result<(), Failure> {
    match owner(shell, config).await? {
        Owner::Daemon(client) => {
            let exported = export_by(&client, &output).await?;
            shell.print.view(&exported)
        }
        Owner::Nobody(idle, config) => {
            let exported = blocking(move || maintain::export(&idle, &config, &output)).await?;
            shell.print.view(&exported)
        }
    }
}

/// Has the daemon write a copy.
async fn export_by(client: &Client, output: &Path) -> Result<StoreExport, Failure> {
    let refused = |status| Failure::from(client::Error::from(status));
    let mut file = NewFile::create(output, false)?;
    let (mut written, mut end) = (0, None);
    let mut stream = client.system().export_store(ExportStoreRequest {}).await.map_err(refused)?.into_inner();
    while let Some(answer) = stream.message().await.map_err(refused)? {
        match answer.message {
            Some(Message::Piece(piece)) => {
                file.writer().write_all(&piece).await.map_err(Failure::file("write", output))?;
                written += piece.len() as u64;
            }
            Some(Message::End(totals)) => end = Some(totals),
            None => {}
        }
    }
    match end.filter(|totals| totals.bytes == written) {
        Some(totals) => file.commit().await.map(|()| totals),
        None => Err(Failure::Refused {
            reason: "PROTOCOL",
            message: format!("the daemon's copy of the store is not whole: it ended after {written} bytes"),
        }),
    }
}

impl View for StoreExport {
    fn fields(&self) -> Fields {
        vec![
            ("deployment", json!(self.deployment)),
            ("revision", json!(self.revision)),
            ("records", json!(self.records)),
        ]
    }
}

impl View for StoreReport {
    fn fields(&self) -> Fields {
        vec![
            ("whole", json!(self.whole)),
            ("records", json!(self.records)),
            ("revision", json!(self.revision)),
            ("journal_entries", json!(self.journal_entries)),
            ("journal_revision", json!(self.journal_revision)),
            ("store_problems", json!(self.store_problems.join("; "))),
            ("journal_problems", json!(self.journal_problems.join("; "))),
            ("decided_problems", json!(self.decided_problems.join("; "))),
        ]
    }
}

impl View for Exported {
    fn fields(&self) -> Fields {
        vec![
            ("deployment", json!(self.deployment.to_string())),
            ("revision", json!(self.position.revision)),
            ("records", json!(self.records)),
        ]
    }
}

impl View for CheckReport {
    fn fields(&self) -> Fields {
        vec![
            ("whole", json!(self.is_whole())),
            ("records", json!(self.records)),
            ("revision", json!(self.revision)),
            ("journal_entries", json!(self.journal_entries)),
            ("journal_revision", json!(self.journal_revision)),
            ("store_problems", json!(self.store.told().join("; "))),
            ("journal_problems", json!(self.journal.told().join("; "))),
            ("decided_problems", json!(self.decided.told().join("; "))),
        ]
    }
}
