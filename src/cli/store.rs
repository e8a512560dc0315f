//! `keyward store`: copies, checks and repairs of the store.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::local::{ConfigFile, blocking};
use super::view::{Fields, View};
use crate::daemon::maintain;
use crate::store::check::CheckReport;
use crate::store::transfer::Exported;

/// `keyward store`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a raw copy of all records to a new file, also while the daemon runs
    #[command(
        after_help = "For moving a store. The file can be read only as long as the erasure key lives under which its
records are sealed, a day by default: for a backup, see `keyward backup create`.

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
    /// Verify every record of store and journal, also while the daemon runs
    #[command(after_help = "Example:\n  keyward store check --config /etc/keyward/keywardd.toml")]
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Rebuild what is damaged from what is whole; the daemon must not run
        #[arg(long)]
        repair: bool,
    },
    /// Accept a store that is older than the audit log: what was changed since is lost
    #[command(after_help = "For a backup that was restored on purpose; it is recorded in the audit log.

Example:
  keyward store accept-rollback --config /etc/keyward/keywardd.toml")]
    AcceptRollback {
        #[command(flatten)]
        config: ConfigFile,
    },
}

impl Command {
    pub(crate) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Export { config, output } => {
                let config = config.read()?;
                let exported = blocking(move || maintain::export(&config, &output)).await?;
                shell.print.view(&exported)?;
            }
            Self::Import { config, input } => {
                let config = config.read()?;
                let imported = blocking(move || maintain::import(&config, &input)).await?;
                shell.print.view(&imported)?;
            }
            Self::Check { config, repair: false } => {
                let config = config.read()?;
                let report = blocking(move || maintain::check(&config)).await?;
                let whole = report.is_whole();
                shell.print.view(&report)?;
                return Ok(if whole { Exit::Ok } else { Exit::Integrity });
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
