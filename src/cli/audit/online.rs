//! `keyward audit verify`, and what the daemon is asked for: checkpoints, proofs, keys.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::audit::checkpoint::{NoteKey, read_keys};
use crate::audit::verify;
use crate::cli::Shell;
use crate::cli::failure::Failure;
use crate::cli::view::{Fields, View};
use crate::config::Config;
use crate::daemon::maintain;
use crate::rpc::proto::{
    GetCheckpointRequest, GetInclusionProofRequest, GetPublicKeysRequest, InclusionProof,
};

/// Reads trusted keys from a file.
pub(in crate::cli) fn trusted(path: &Path) -> Result<Vec<NoteKey>, Failure> {
    let text = std::fs::read_to_string(path).map_err(Failure::file("read", path))?;
    read_keys(&text).map_err(|error| Failure::Input(format!("{}: {error}", path.display())))
}

/// The log on disk, also while a daemon writes it.
pub(super) async fn verify(shell: &mut Shell, config: &Config, key: Option<&Path>) -> Result<(), Failure> {
    let keys = match key {
        Some(path) => trusted(path)?,
        None => maintain::audit_keys(config).await.map_err(|error| Failure::Input(error.to_string()))?,
    };
    // A store of before there were keys has no checkpoints that could be checked.
    let trusted = (!keys.is_empty()).then_some(keys.as_slice());
    let report = verify::verify_with(&config.audit_dir(), trusted).map_err(super::unsound)?;
    shell.print.view(&report)
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

/// One record and its audit path.
pub(super) async fn prove(shell: &mut Shell, sequence: u64) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = GetInclusionProofRequest { sequence };
    let proof = client.call(client.audit().get_inclusion_proof(request)).await?;
    shell.print.view(&proof)
}

impl View for InclusionProof {
    fn fields(&self) -> Fields {
        let hashes: Vec<String> = self.hashes.iter().map(|hash| STANDARD.encode(hash)).collect();
        let note = self.checkpoint.as_ref().map(|checkpoint| checkpoint.note.clone());
        vec![
            ("record", json!(STANDARD.encode(&self.record))),
            ("leaf_index", json!(self.leaf_index)),
            ("proof", json!(hashes)),
            ("checkpoint", json!(note)),
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
