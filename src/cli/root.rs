//! `keyward root`: the root key's escrow, and putting a lost root together again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::local::ConfigFile;
use super::name;
use super::output::Output;
use crate::config::Config;
use crate::daemon::lock::StateLock;
use crate::daemon::restore::{Restore, RestoreError};
use crate::daemon::{self, maintain};
use crate::id::TenantName;
use crate::keyring::armour::Armoured;
use crate::keyring::recovery::{EscrowFile, RestoreShare};
use crate::rpc::proto::GetEscrowRequest;
use crate::secret::SecretMemory;

/// How often the folder is looked at for new shares.
const LOOK: Duration = Duration::from_millis(200);
/// The request's name in the folder.
const REQUEST: &str = "restore.request";

/// `keyward root`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write the root's escrow to a file: its wrapped copy and the sealed shares
    #[command(
        after_help = "Nothing in the file is secret: only custodians can open their shares. Keep it with every\n\
        backup, and write it anew after each ceremony that makes a root.\n\n\
        Example:\n  keyward root escrow --out root-2.escrow"
    )]
    Escrow {
        /// File to write it to
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Replace the file
        #[arg(long)]
        force: bool,
    },
    /// Put a lost root together again on another token, from its custodians' shares
    Restore(RestoreArgs),
}

/// `keyward root restore`
#[derive(Debug, Args)]
#[command(
    after_help = "The daemon must be stopped. A request is written to the folder; each custodian answers it with
`keyward ceremony share`, and the answers are put into the folder. With enough of them the root is
put onto the token. A KEK that is in the HSM (`tenant show`: resident) has an escrow of its own in the
same file: restore the root, then each of them with --kek.

Example:
  keyward root restore --escrow root-2.escrow --folder /media/restore --reason 'HSM 1 burnt'"
)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The root's escrow
    #[arg(long, value_name = "FILE")]
    escrow: PathBuf,
    /// Folder where the request goes and shares come
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// The KEK of this tenant, which is in the HSM, instead of the root
    #[arg(long, value_name = "TENANT", value_parser = name::tenant)]
    kek: Option<TenantName>,
    /// The token, as the configuration names it [default: hsm.token]
    #[arg(long)]
    token: Option<String>,
    /// Why; custodians read it in the statement
    #[arg(long)]
    reason: String,
    /// How long shares are waited for
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = humantime::parse_duration)]
    wait: Duration,
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Escrow { out, force } => escrow(shell, &out, force).await,
            Self::Restore(restore) => restore.run(shell).await,
        }
    }
}

async fn escrow(shell: &mut Shell, out: &Path, force: bool) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let text = client.call(client.ceremonies().get_escrow(GetEscrowRequest {})).await?.text;
    let mut output = Output::open(Some(out), force)?;
    output.writer().write_all(text.as_bytes()).await.map_err(Failure::file("write", out))?;
    output.commit().await?;
    shell.print.report(&format!("wrote {}", out.display()), &json!({ "out": out }))?;
    Ok(Exit::Ok)
}

impl RestoreArgs {
    async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        daemon::harden(SecretMemory::default()).map_err(Failure::file("protect", "this process".as_ref()))?;
        let config = self.config.read()?;
        let _lock = StateLock::take(&config.state_dir).map_err(|error| Failure::Input(error.to_string()))?;
        let escrow = read::<EscrowFile>(&self.escrow)?;
        let deployment = escrow.root.deployment;
        let kek = self.kek.as_ref().map(|name| &name.0);
        let mut restore = Restore::begin(&config, escrow, kek, self.token.as_deref(), &self.reason)
            .await
            .map_err(refused)?;
        let request = self.folder.join(REQUEST);
        write(&request, &restore.request().to_text()).await?;
        shell.print.show(&restore.request().statement);
        shell.print.note(&format!("waiting for {} shares in {}", restore.missing(), self.folder.display()));
        shell.print.note(&format!("each custodian runs `keyward ceremony share {}`", request.display()));
        let collected = tokio::time::timeout(self.wait, collect(shell, &mut restore, &self.folder)).await;
        collected
            .map_err(|_| Failure::Input("not enough shares came in time; nothing was restored".into()))??;
        let restored = restore.finish().await.map_err(refused)?;
        let what =
            self.kek.as_ref().map_or_else(|| "root key".to_owned(), |tenant| format!("KEK of {tenant}"));
        let detail = format!("{what} restored onto token {}", restored.settled.token.serial);
        record(&config, deployment, &detail).await?;
        let transcript = self.folder.join("restore.json");
        write(&transcript, &restored.transcript).await?;
        let token = &restored.settled.token;
        let value = json!({ "token": token.label, "serial": token.serial, "transcript": transcript });
        shell.print.report(
            &format!(
                "the {what} is on token {} (serial {}); wrote {}",
                token.label,
                token.serial,
                transcript.display()
            ),
            &value,
        )?;
        Ok(Exit::Ok)
    }
}

async fn record(config: &Config, deployment: crate::id::DeploymentId, detail: &str) -> Result<(), Failure> {
    let recorded = maintain::record(config, deployment, "root-restore", detail, None).await;
    recorded.map_err(|error| {
        Failure::Input(format!("the root was restored, but that could not be recorded: {error}"))
    })
}

/// Takes shares out of the folder until there are enough. What does not count is told once and passed over.
async fn collect(shell: &mut Shell, restore: &mut Restore, folder: &Path) -> Result<(), Failure> {
    let mut seen = std::collections::BTreeSet::new();
    while restore.missing() > 0 {
        for path in shares(folder)? {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            if !seen.insert((path.clone(), text.clone())) {
                continue;
            }
            let taken = RestoreShare::parse(&text).map_err(|error| format!("{error}"));
            let taken = taken.and_then(|share| restore.take(share).map_err(|error| error.to_string()));
            match taken {
                Ok(()) => {
                    shell.print.note(&format!("took {}; {} missing", path.display(), restore.missing()));
                }
                Err(why) => shell.print.warn(&format!("{} does not count: {why}", path.display())),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn shares(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let listed = std::fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut paths = listed.map_err(Failure::file("read", folder))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "share"));
    paths.sort();
    Ok(paths)
}

/// Reads a record that people carry.
pub(super) fn read<T: Armoured>(path: &Path) -> Result<T, Failure> {
    let text = std::fs::read_to_string(path).map_err(Failure::file("read", path))?;
    T::parse(&text).map_err(|error| Failure::Input(format!("{}: {error}", path.display())))
}

async fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let mut output = Output::open(Some(path), true)?;
    output.writer().write_all(text.as_bytes()).await.map_err(Failure::file("write", path))?;
    output.commit().await
}

fn refused(error: RestoreError) -> Failure {
    Failure::Input(error.to_string())
}
