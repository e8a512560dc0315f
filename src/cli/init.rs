//! `keyward init`: root key, store and audit log, once.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::local::{ConfigFile, blocking};
use super::view::{Fields, View};
use crate::daemon::{self, init::Made};

/// `keyward init`
#[derive(Debug, Args)]
#[command(after_help = "Refuses where a store or a root key exists already.

Example:
  keyward init --config /etc/keyward/keywardd.toml --backup-key /media/stick/root-1.key")]
pub(crate) struct Init {
    #[command(flatten)]
    config: ConfigFile,
    /// Where the backup key of the root goes; a new file, to be kept in a safe
    #[arg(long, value_name = "FILE")]
    backup_key: PathBuf,
    /// Make a root key although the token has one of another installation
    #[arg(long)]
    beside_existing: bool,
}

impl Init {
    pub(crate) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let config = self.config.read()?;
        let made = blocking(move || daemon::init(&config, &self.backup_key, self.beside_existing)).await?;
        shell.print.view(&made)?;
        shell.print.note("keep the backup key offline: with the store it opens everything");
        Ok(Exit::Ok)
    }
}

impl View for Made {
    fn fields(&self) -> Fields {
        vec![
            ("deployment", json!(self.deployment.to_string())),
            ("root", json!(self.root.to_string())),
            ("custody", json!("unfounded")),
            ("token", json!(self.tokens.join(", "))),
            ("backup_key", json!(self.backup_key)),
        ]
    }
}
