//! `keyward audit verify`, and what the daemon is asked for: checkpoints, proofs, keys.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::audit;
use crate::audit::checkpoint::{NoteError, NoteKey, SignedCheckpoint, read_keys};
use crate::audit::verify::{self, Against, Report};
use crate::cli::Shell;
use crate::cli::document;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::view::{Fields, View, date};
use crate::config::Config;
use crate::daemon::maintain;
use crate::ops::attest::{Document, Verified};
use crate::rpc::proto::{AttestRecordRequest, GetCheckpointRequest, GetPublicKeysRequest};
use crate::store::LogPoint;

/// Reads trusted keys from a file.
pub(in crate::cli) fn trusted(path: &Path) -> Result<Vec<NoteKey>, Failure> {
    let text = document::read(path)?;
    read_keys(&text).map_err(|error| Failure::Input(format!("{}: {error}", path.display())))
}

fn kept_elsewhere(path: &Path) -> Result<SignedCheckpoint, Failure> {
    let text = document::read(path)?;
    text.parse().map_err(|error: NoteError| Failure::Input(format!("{}: {error}", path.display())))
}

/// The keys that stand in the store; without them no signature is checked.
async fn stored(shell: &mut Shell, config: &Config) -> Vec<NoteKey> {
    maintain::audit_keys(config).await.unwrap_or_else(|error| {
        shell
            .print
            .note(&format!("no signature is checked: give --key, for the store gives no keys: {error}"));
        Vec::new()
    })
}

/// The log on disk, also while a daemon writes it.
pub(super) async fn verify(
    shell: &mut Shell,
    config: &Config,
    key: Option<&Path>,
    checkpoint: Option<&Path>,
) -> Result<Exit, Failure> {
    let keys = match key {
        Some(path) => trusted(path)?,
        None => stored(shell, config).await,
    };
    // A store of before there were keys has no checkpoints that could be checked.
    let keys = (!keys.is_empty()).then_some(keys.as_slice());
    let note = checkpoint.map(kept_elsewhere).transpose()?;
    // Before the log is read: a daemon that works meanwhile writes the log first.
    let seen = maintain::log_seen(config).await.unwrap_or_else(|error| {
        shell.print.note(&format!("the log is not compared with the store, which cannot be read: {error}"));
        None
    });
    let against = Against { keys, witness: checkpoint.zip(note.as_ref()) };
    let report = verify::verify_against(&config.audit_dir(), against).map_err(super::unsound)?;
    if key.is_some() && !report.counted.signatures_checked {
        return Err(Failure::Refused {
            reason: "AUDIT_UNSOUND",
            message: "the log has no checkpoint that the given keys could verify: it proves nothing yet, or its checkpoints were removed".into(),
        });
    }
    let rolled_back = match &seen {
        Some(_) => rolled_back(shell, config, &report).await,
        None => None,
    };
    let behind = seen.and_then(|seen| behind(&seen, &report, config));
    let silent = (!report.told.missing.is_empty())
        .then(|| "changes of the store were made of which no record tells: see the runbook".to_owned());
    let problems: Vec<String> = behind.into_iter().chain(rolled_back).chain(silent).collect();
    let verified = super::Verified { report, problems };
    shell.print.view(&verified)?;
    verified.problems.iter().for_each(|problem| shell.print.note(problem));
    Ok(if verified.problems.is_empty() { Exit::Ok } else { Exit::Integrity })
}

/// How the log goes back behind what the store has seen of it.
fn behind(seen: &LogPoint, report: &Report, config: &Config) -> Option<String> {
    let LogPoint { sequence, chain, tree_size, .. } = *seen;
    let found = audit::chain_at(&config.audit_dir(), sequence).ok().flatten();
    if sequence > 0 && found.map(|found| found.0) != Some(chain) {
        return Some(format!(
            "the log is older than the store, or another one: the store has seen record {sequence}, which is not \
             there; a start will refuse it: put the log back that belongs to the store"
        ));
    }
    (report.counted.covered < tree_size).then(|| {
        format!(
            "the checkpoints are older than the store, or gone: the store has seen one over {tree_size} records, and \
             the newest here covers {}; a start will refuse it",
            report.counted.covered
        )
    })
}

/// How the store goes back behind what the log tells. It is read behind the log: a daemon that works meanwhile changes
/// the store first.
async fn rolled_back(shell: &mut Shell, config: &Config, report: &Report) -> Option<String> {
    let told = report.last_change?.revision;
    match maintain::has_revision(config, told).await {
        Ok(true) => None,
        Ok(false) => Some(format!(
            "the store is older than the log: the log tells of revision {told}, which neither store nor journal has; a \
             start will refuse it: put the store back that belongs to the log, or, of one that was restored on purpose, \
             say so with `as_keyward store accept-rollback`"
        )),
        Err(error) => {
            shell.print.note(&format!("the store is not compared with the log: {error}"));
            None
        }
    }
}

/// The newest checkpoint as it is: a signed note.
pub(super) async fn checkpoint(shell: &mut Shell, fresh: bool) -> Result<(), Failure> {
    let client = shell.client().await?;
    let found = client.call(client.audit().get_checkpoint(GetCheckpointRequest { fresh })).await?;
    if shell.print.is_json() {
        let root = STANDARD.encode(&found.root);
        return shell.print.answer("", &json!({ "note": found.note, "size": found.size, "root": root }));
    }
    shell.print.text(&found.note)
}

/// One record as a document.
pub(super) async fn prove(shell: &mut Shell, sequence: u64) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = AttestRecordRequest { sequence };
    let document = client.call(client.audit().attest_record(request)).await?;
    shell.print.text(&document.json)
}

/// Any attested document, without the daemon.
pub(super) fn check(shell: &mut Shell, file: &Path, key: &Path) -> Result<(), Failure> {
    let text = document::read(file)?;
    let keys = trusted(key)?;
    let verified = Document::parse(&text).and_then(|document| document.verify(&keys));
    let verified = verified
        .map_err(|error| Failure::Refused { reason: "CERTIFICATE_REFUSED", message: error.to_string() })?;
    shell.print.view(&verified)
}

impl View for Verified {
    fn fields(&self) -> Fields {
        vec![
            ("kind", json!(self.kind)),
            ("record", json!(self.sequence)),
            ("record_time", date(self.record.time)),
            ("operation", json!(self.record.operation)),
            ("resource", json!(self.record.resource)),
            ("log_records", json!(self.head.size)),
            ("key", json!(self.key.to_string())),
            ("body", self.body.clone()),
        ]
    }
}

/// Every generation, one line each: what `--key` reads.
pub(super) async fn keys(shell: &mut Shell) -> Result<(), Failure> {
    let client = shell.client().await?;
    let found = client.call(client.audit().get_public_keys(GetPublicKeysRequest {})).await?.keys;
    if shell.print.is_json() {
        let key = |key: &crate::rpc::proto::AuditKey| {
            json!({
                "generation": key.generation,
                "key": key.verifier_key,
                "handover": STANDARD.encode(&key.handover),
            })
        };
        return shell.print.answer("", &json!({ "keys": found.iter().map(key).collect::<Vec<_>>() }));
    }
    let lines: Vec<String> = found.into_iter().map(|key| key.verifier_key + "\n").collect();
    shell.print.text(&lines.concat())
}
