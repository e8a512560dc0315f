//! `keyward audit`: the audit log on disk, also while the daemon writes it.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde_json::{Value, json};

mod online;

pub(super) use online::trusted;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::local::ConfigFile;
use super::view::{Fields, View, date};
use crate::audit::VerifyError;
use crate::audit::telling::Gap;
use crate::audit::verify::{self, Report};
use crate::audit::{Caller, Outcome, Record};

/// `keyward audit`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Verify records, tree, checkpoints with their signatures, and that each change has its record
    #[command(
        after_help = "Example:\n  keyward audit verify --config /etc/keyward/keywardd.toml --key audit-keys.txt\n\n\
                      Without --key the keys are taken from the store as they stand there: that shows damage,\n\
                      and not that somebody replaced log and store together."
    )]
    Verify {
        #[command(flatten)]
        config: ConfigFile,
        /// Trusted keys, as `keyward audit keys` prints them
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// A checkpoint that was kept elsewhere: the log must still begin as it says
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
    /// Print the newest checkpoint: a signed note to be kept off the host
    #[command(after_help = "Example:\n  keyward audit checkpoint --fresh > checkpoint-2026-11-25")]
    Checkpoint {
        /// Have one made over every record that there is now
        #[arg(long)]
        fresh: bool,
    },
    /// Print a record as a document that proves offline that it is in the log
    #[command(after_help = "Example:\n  keyward audit prove 1042 > record-1042.json")]
    Prove {
        /// Sequence number of the record
        #[arg(value_name = "SEQ")]
        sequence: u64,
    },
    /// Verify a document of `prove`, a certificate or a transcript, offline
    #[command(after_help = "Example:\n  keyward audit check record-1042.json --key audit-keys.txt")]
    Check {
        /// The document
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Trusted keys, as `keyward audit keys` prints them
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Print the keys that verify checkpoints, certificates and transcripts
    #[command(after_help = "Example:\n  keyward audit keys > audit-keys.txt")]
    Keys,
    /// Print records
    #[command(
        after_help = "Example:\n  keyward audit show --config /etc/keyward/keywardd.toml --from 1000 --json"
    )]
    Show {
        #[command(flatten)]
        config: ConfigFile,
        /// First sequence number
        #[arg(long, value_name = "N", default_value_t = 1)]
        from: u64,
        /// Last sequence number
        #[arg(long, value_name = "N")]
        to: Option<u64>,
    },
}

impl Command {
    pub(crate) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Verify { config, key, checkpoint } => {
                return online::verify(shell, &config.read()?, key.as_deref(), checkpoint.as_deref()).await;
            }
            Self::Checkpoint { fresh } => online::checkpoint(shell, fresh).await?,
            Self::Prove { sequence } => online::prove(shell, sequence).await?,
            Self::Check { file, key } => online::check(shell, &file, &key)?,
            Self::Keys => online::keys(shell).await?,
            Self::Show { config, from, to } => {
                let to = to.unwrap_or(u64::MAX);
                let mut shown = Vec::new();
                for item in verify::read(&config.read()?.audit_dir()).map_err(unsound)? {
                    let (sequence, record) = item.map_err(unsound)?;
                    if (from..=to).contains(&sequence) {
                        shown.push(Shown(sequence, record));
                    }
                }
                shell.print.views("records", &shown)?;
            }
        }
        Ok(Exit::Ok)
    }
}

fn unsound(error: VerifyError) -> Failure {
    match error {
        // That it cannot be read says nothing about it.
        VerifyError::Unreadable { file, source } => Failure::File { doing: "read", path: file, source },
        VerifyError::Missing(_) | VerifyError::Damaged(_) | VerifyError::Newer { .. } => {
            Failure::Refused { reason: "AUDIT_UNSOUND", message: error.to_string() }
        }
    }
}

struct Shown(u64, Record);

impl View for Shown {
    fn fields(&self) -> Fields {
        let Self(sequence, record) = self;
        let outcome = match &record.outcome {
            Outcome::Ok => "ok".to_owned(),
            Outcome::Failed(reason) => reason.clone(),
            Outcome::Cancelled => "cancelled".to_owned(),
            Outcome::Started => "started".to_owned(),
        };
        let caller = record.caller.as_ref();
        let principal = caller.and_then(|caller| caller.principal.clone());
        let of_caller =
            |field: fn(&Caller) -> &Option<String>| json!(caller.and_then(|caller| field(caller).clone()));
        let items = record.items.as_ref().map(|items| items.done);
        vec![
            ("sequence", json!(sequence)),
            ("time", date(record.time)),
            ("principal", json!(principal)),
            ("uid", json!(caller.map(|caller| caller.uid))),
            ("operation", json!(record.operation)),
            ("resource", json!(record.resource)),
            ("outcome", json!(outcome)),
            ("items", json!(items)),
            ("store_revision", json!(record.change.map(|change| change.revision))),
            ("policy", json!(record.policy)),
            ("latency_us", json!(record.latency_us)),
            ("staff", of_caller(|caller| &caller.staff)),
            ("assertion", of_caller(|caller| &caller.assertion)),
            ("client", of_caller(|caller| &caller.client)),
            ("request", json!(format!("{:016x}", record.request_id))),
            ("detail", json!(record.detail)),
        ]
    }
}

/// A log that fits itself, and what is wrong with it beside the store, in words.
struct Verified {
    report: Report,
    problems: Vec<String>,
}

impl View for Verified {
    fn fields(&self) -> Fields {
        let mut fields = self.report.fields();
        fields.push(("problems", json!(self.problems.join("; "))));
        fields
    }
}

impl View for Report {
    fn fields(&self) -> Fields {
        let change = self.last_change.map_or(Value::Null, |change| json!(change.revision));
        let missing: Vec<String> = self.told.missing.iter().map(Gap::to_string).collect();
        vec![
            ("segments", json!(self.segments)),
            ("records", json!(self.records)),
            ("first_time", self.first.map_or(Value::Null, date)),
            ("last_time", self.last.map_or(Value::Null, date)),
            ("head", json!(self.head.to_string())),
            ("root", json!(STANDARD.encode(self.counted.head.root))),
            ("checkpoints", json!(self.counted.checkpoints)),
            ("checkpointed_records", json!(self.counted.covered)),
            ("signatures_checked", json!(self.counted.signatures_checked)),
            ("store_revision", change),
            ("changes_told_from", json!(self.told.from)),
            ("changes_without_record", json!(missing.join(", "))),
            ("changes_awaiting_record", json!(self.told.awaited)),
            ("torn_bytes", json!(self.torn.as_ref().map(|torn| torn.bytes))),
        ]
    }
}
