//! `keyward backup`: recovery exports.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::exit::Exit;
use super::failure::Failure;
use super::local::{ConfigFile, blocking};
use super::output::NewFile;
use super::view::{Fields, View, date, time};
use super::{Shell, view};
use crate::daemon::backup::{self, DrillReport, Restore, Sample};
use crate::daemon::lock::check_owner;
use crate::rpc::proto::{
    Backup, CreateBackupRequest, ListBackupsRequest, RecordDrillRequest, create_backup_response::Message,
};

/// `keyward backup`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a recovery export: all records, readable on a token that has the root and nowhere else
    #[command(
        after_help = "It outlives the erasure key, so until it is deleted it can bring back keys that are destroyed
after it was made. The daemon keeps on record when it must be deleted: `keyward backup list`.

Example:
  keyward backup create --out keyward-2026-07-01.kwb --keep-for 35d"
    )]
    Create {
        /// The file; it must not exist
        #[arg(long = "out", value_name = "FILE")]
        output: PathBuf,
        /// How long the file may be kept
        #[arg(long, value_name = "SPAN", default_value = "35d", value_parser = humantime::parse_duration)]
        keep_for: Duration,
    },
    /// List the copies that can still bring a destroyed key back
    #[command(after_help = "Example:\n  keyward backup list --json")]
    List,
    /// Make a store from a recovery export, where there is none; the daemon must not run
    #[command(
        after_help = "Keys that were destroyed after the export was made are back: destroy them again. Where an audit
log is left, the daemon starts only after `as_keyward store accept-rollback`.

Example:
  keyward backup restore --config /etc/keyward/keywardd.toml --in keyward-2026-07-01.kwb"
    )]
    Restore {
        #[command(flatten)]
        config: ConfigFile,
        /// The file
        #[arg(long = "in", value_name = "FILE")]
        input: PathBuf,
    },
    /// Prove on a second token that a recovery export could be restored; the live system is not touched
    Drill(Drill),
}

/// `keyward backup drill`
#[derive(Debug, Args)]
#[command(after_help = "For cron: the exit code is 0 when everything was proved.

Example:
  keyward backup drill --in keyward-2026-07-01.kwb --token standby --pin-file /etc/keyward/standby.pin")]
pub(crate) struct Drill {
    #[command(flatten)]
    config: ConfigFile,
    /// The file
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// The token: its label, or a PKCS#11 URI
    #[arg(long)]
    token: String,
    /// File with its user PIN [default: as configured]
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// How many tenants' keys are opened, drawn by lot
    #[arg(long, default_value_t = 10)]
    tenants: usize,
    /// Open a key of every tenant
    #[arg(long, conflicts_with = "tenants")]
    all: bool,
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Create { output, keep_for } => create(shell, output, keep_for).await,
            Self::List => {
                let client = shell.client().await?;
                let found = client.call(client.backup().list_backups(ListBackupsRequest {})).await?;
                shell.print.views("backups", &found.backups)?;
                Ok(Exit::Ok)
            }
            Self::Restore { config, input } => {
                let config = config.read()?;
                let restored = blocking(move || backup::restore(&config, &input)).await?;
                shell.print.view(&restored)?;
                for root in &restored.to_destroy {
                    shell.print.note(&format!(
                        "erasure root {root} stood on the tokens: it is on record that the daemon destroys it when it \
                         starts, and with it what only copies of the lost store hold"
                    ));
                }
                shell
                    .print
                    .note("keys that were destroyed after the export was made are back: destroy them again");
                if restored.accept {
                    shell
                        .print
                        .note("the audit log knows of another store: run `as_keyward store accept-rollback`");
                }
                Ok(Exit::Ok)
            }
            Self::Drill(drill) => drill.run(shell).await,
        }
    }
}

async fn create(shell: &mut Shell, output: PathBuf, keep_for: Duration) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let mut file = NewFile::create(&output, false)?;
    let keep_for = prost_types::Duration::try_from(keep_for)
        .map_err(|_| Failure::Usage("--keep-for is too long".into()))?;
    let request = CreateBackupRequest { keep_for: Some(keep_for) };
    let daemon = |status| Failure::from(crate::client::Error::from(status));
    let mut stream = client.backup().create_backup(request).await.map_err(daemon)?.into_inner();
    let mut made = None;
    while let Some(answer) = stream.message().await.map_err(daemon)? {
        match answer.message {
            Some(Message::Backup(backup)) => made = Some(backup),
            Some(Message::Piece(piece)) => {
                file.writer().write_all(&piece).await.map_err(Failure::file("write", &output))?;
            }
            None => {}
        }
    }
    file.commit().await?;
    shell.print.view(&made.unwrap_or_default())?;
    Ok(Exit::Ok)
}

impl Drill {
    async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let config = self.config.read()?;
        // It shares the list of refused PINs with the daemon.
        check_owner(&config.state_dir).map_err(|error| Failure::local(&error))?;
        let socket = config.server.socket.clone();
        let sample = if self.all { Sample::All } else { Sample::Some(self.tenants) };
        let drill = backup::Drill { input: self.input, token: self.token, pin_file: self.pin_file, sample };
        let outcome = blocking(move || backup::drill(&config, &drill)).await;
        let (name, passed, report) = match &outcome {
            Ok(report) => (format!("backups/{}", report.export), true, proved(report)),
            Err(failure) => (String::new(), false, failure.to_string()),
        };
        let report: String = report.chars().take(500).collect();
        let recorded = record(shell, &socket, RecordDrillRequest { name, passed, report }).await;
        if let Ok(report) = &outcome {
            shell.print.view(&Shown { report, recorded: recorded.is_ok() })?;
            if report.expired {
                shell.print.note("the export should have been deleted: it still brings destroyed keys back");
            }
        }
        let Err(unrecorded) = recorded else { return outcome.map(|_| Exit::Ok) };
        shell.print.warn(&format!(
            "the drill is not in the audit log, so it does not count: {unrecorded}; run it while the daemon runs, as its user: `as_keyward backup drill --in FILE --token LABEL`"
        ));
        outcome.map(|_| Exit::Partial)
    }
}

/// Asks the daemon of the configuration, unless another socket was named.
async fn record(shell: &Shell, socket: &Path, request: RecordDrillRequest) -> Result<(), Failure> {
    let client = shell.client_at(socket).await?;
    client.call(client.backup().record_drill(request)).await?;
    Ok(())
}

fn proved(report: &DrillReport) -> String {
    let DrillReport { token, records, opened, tenants, .. } = report;
    let decrypted = report.decrypted.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    format!(
        "on token {token}: {records} records, keys of {opened} of {tenants} tenants, ciphertext of {decrypted}"
    )
}

impl View for Backup {
    fn fields(&self) -> Fields {
        vec![
            ("name", json!(self.name)),
            ("kind", json!(self.kind)),
            ("create_time", time(self.create_time.as_ref())),
            ("delete_time", time(self.delete_time.as_ref())),
            ("revision", json!(self.revision)),
            ("records", json!((self.records > 0).then_some(self.records))),
            ("root", json!(self.root)),
        ]
    }
}

impl View for Restore {
    fn fields(&self) -> Fields {
        vec![
            ("backup", json!(format!("backups/{}", self.export))),
            ("deployment", json!(self.deployment.to_string())),
            ("create_time", date(self.created)),
            ("records", json!(self.records)),
            ("revision", json!(self.position.revision)),
            ("erasure_key", json!(self.erasure.get())),
            (
                "erasure_roots_to_destroy",
                json!(self.to_destroy.iter().map(ToString::to_string).collect::<Vec<_>>()),
            ),
            ("accept_rollback_needed", json!(self.accept)),
        ]
    }
}

/// What a drill has proved, and whether that is in the audit log.
struct Shown<'a> {
    report: &'a DrillReport,
    recorded: bool,
}

impl View for Shown<'_> {
    fn fields(&self) -> Fields {
        let mut fields = self.report.fields();
        fields.push(("in_audit_log", json!(self.recorded)));
        fields
    }
}

impl View for DrillReport {
    fn fields(&self) -> Fields {
        let decrypted = self.decrypted.as_ref().map(ToString::to_string);
        vec![
            ("proved", json!(true)),
            ("backup", json!(format!("backups/{}", self.export))),
            ("token", json!(self.token)),
            ("root", json!(self.root.to_string())),
            ("create_time", date(self.created)),
            ("delete_time", date(self.delete_by)),
            ("expired", json!(self.expired)),
            ("revision", json!(self.revision)),
            ("records_verified", json!(self.records)),
            ("tenants", json!(self.tenants)),
            ("tenants_opened", json!(self.opened)),
            ("tenants_without_key", json!(self.without_key)),
            ("ciphertext_decrypted_by", json!(decrypted)),
            ("took_ms", json!(u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX))),
            ("restore_needs", json!(view::plain(&needs(self)))),
        ]
    }
}

/// What a restore in earnest needs.
fn needs(report: &DrillReport) -> String {
    let root = report.root;
    format!(
        "tokens with root {root}, a configuration, an empty state directory, then `as_keyward backup restore --in FILE`; a new erasure key is made on the tokens"
    )
}
