//! `keyward audit`: the audit log on disk, also while the daemon writes it.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::local::ConfigFile;
use super::view::{Fields, View, date};
use crate::audit::VerifyError;
use crate::audit::verify::{self, Report};
use crate::audit::{Outcome, Record};

/// `keyward audit`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Verify the chain of all records
    #[command(after_help = "Example:\n  keyward audit verify --config /etc/keyward/keywardd.toml")]
    Verify {
        #[command(flatten)]
        config: ConfigFile,
    },
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
            Self::Verify { config } => {
                let report = verify::verify(&config.read()?.audit_dir()).map_err(unsound)?;
                shell.print.view(&report)?;
            }
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
    Failure::Refused { reason: "AUDIT_UNSOUND", message: error.to_string() }
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
            ("policy", json!(record.policy)),
            ("latency_us", json!(record.latency_us)),
            ("request", json!(format!("{:016x}", record.request_id))),
            ("detail", json!(record.detail)),
        ]
    }
}

impl View for Report {
    fn fields(&self) -> Fields {
        let change = self.last_change.map_or(Value::Null, |change| json!(change.revision));
        vec![
            ("segments", json!(self.segments)),
            ("records", json!(self.records)),
            ("first_time", self.first.map_or(Value::Null, date)),
            ("last_time", self.last.map_or(Value::Null, date)),
            ("head", json!(self.head.to_string())),
            ("store_revision", change),
            ("torn_bytes", json!(self.torn.as_ref().map(|torn| torn.bytes))),
        ]
    }
}
