//! `keyward root`: the root key's escrow, and putting a lost root together again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::Shell;
use super::document;
use super::exit::Exit;
use super::failure::Failure;
use super::local::ConfigFile;
use super::name;
use super::output::Output;
use crate::access::Action;
use crate::audit::Outcome;
use crate::config::Config;
use crate::daemon;
use crate::daemon::lock::StateLock;
use crate::daemon::maintain::{self, MaintainError};
use crate::daemon::restore::{Restore, RestoreError};
use crate::id::{CeremonyId, DeploymentId, TenantName};
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
    after_help = "The daemon must be stopped. A request is written to the folder; each custodian compares the line
`Shares are sealed to:` with this screen, answers with `ceremony share`, and puts the answer
into the folder. With enough of them the root is put onto the token. A KEK that is in the HSM
(`tenant show`: resident) has an escrow of its own in the same file: restore the root, then each of
them with --kek.

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
    let mut output = Output::open_for_everybody(Some(out), force)?;
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
        shell.print.note(&format!(
            "each custodian runs `keyward ceremony share {} --out NAME.share`, in that folder",
            request.display()
        ));
        let what =
            self.kek.as_ref().map_or_else(|| "root key".to_owned(), |tenant| format!("KEK of {tenant}"));
        let log = Log { config: &config, deployment, id: restore.request().ceremony };
        let collected = collect(shell, &log, &mut restore, &self.folder);
        if tokio::time::timeout(self.wait, collected).await.map_or(Ok(false), |done| done.map(|()| true))? {
            log.record(Outcome::Started, &format!("{what}, shares of {}", restore.givers())).await?;
        } else {
            let why = "not enough shares came in time; nothing was restored";
            log.refused(why).await?;
            return Err(Failure::Input(why.into()));
        }
        let restored = match restore.finish().await {
            Ok(restored) => restored,
            Err(error) => {
                log.refused(&error.to_string()).await?;
                return Err(refused(error));
            }
        };
        log.record(Outcome::Ok, &format!("{what} onto token {}", restored.settled.token.serial)).await?;
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

/// The audit log, as far as one restore goes.
struct Log<'a> {
    config: &'a Config,
    deployment: DeploymentId,
    id: CeremonyId,
}

impl Log<'_> {
    async fn record(&self, outcome: Outcome, detail: &str) -> Result<(), Failure> {
        let (event, detail) = ((Action::RootRestore, outcome), format!("ceremonies/{}: {detail}", self.id));
        let recorded = maintain::record::<MaintainError>(self.config, self.deployment, event, &detail, None);
        recorded.await.map_err(|error| Failure::Input(format!("the audit log: {error}")))
    }

    async fn refused(&self, why: &str) -> Result<(), Failure> {
        self.record(Outcome::Failed("APPROVAL_REFUSED".to_owned()), why).await
    }
}

/// Takes shares out of the folder until there are enough. What does not count is told once and passed over.
async fn collect(
    shell: &mut Shell,
    log: &Log<'_>,
    restore: &mut Restore,
    folder: &Path,
) -> Result<(), Failure> {
    let (mut seen, mut unreadable) = (BTreeSet::new(), BTreeSet::new());
    while restore.missing() > 0 {
        for path in shares(folder)? {
            let text = match document::read(&path) {
                Ok(text) => text,
                // One that is being copied may be read once more.
                Err(failure) => {
                    if unreadable.insert(path.clone()) {
                        let path = path.display();
                        shell.print.warn(&format!(
                            "{failure}; whoever made it lets this user read it, `chmod a+r {path}`: a share is sealed, and no secret"
                        ));
                    }
                    continue;
                }
            };
            unreadable.remove(&path);
            if !seen.insert((path.clone(), Sha256::digest(&text))) {
                continue;
            }
            let taken = RestoreShare::parse(&text).map_err(|error| format!("{error}"));
            let taken = taken.and_then(|share| restore.take(share).map_err(|error| error.to_string()));
            match taken {
                Ok(()) => {
                    shell.print.note(&format!("took {}; {} missing", path.display(), restore.missing()));
                }
                Err(why) => {
                    let why = format!("{} does not count: {why}", path.display());
                    shell.print.warn(&why);
                    log.refused(&why).await?;
                }
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
    let text = document::read(path)?;
    T::parse(&text).map_err(|error| Failure::Input(format!("{}: {error}", path.display())))
}

async fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let mut output = Output::open_for_everybody(Some(path), true)?;
    output.writer().write_all(text.as_bytes()).await.map_err(Failure::file("write", path))?;
    output.commit().await
}

fn refused(error: RestoreError) -> Failure {
    Failure::Input(error.to_string())
}
