//! `keyward reload`: the daemon reads its configuration anew.

use serde_json::json;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use crate::rpc::proto::{ReloadRequest, ReloadResponse};

/// Asks for a reload, and says what came of it.
pub(super) async fn run(shell: &mut Shell) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let done = client.call(client.system().reload(ReloadRequest {})).await?;
    let configuration = done.configuration.clone().unwrap_or_default();
    let value = json!({
        "sha256": configuration.sha256,
        "changes": done.changes,
        "narrowed": done.narrowed,
        "restart_needed": configuration.restart_needed,
        "warnings": done.warnings,
    });
    shell.print.answer(&words(&done, &configuration.restart_needed), &value)?;
    for warning in &done.warnings {
        shell.print.note(&format!("warning: {warning}"));
    }
    Ok(Exit::Ok)
}

fn words(done: &ReloadResponse, restart: &[String]) -> String {
    let mut words = match &*done.changes {
        [] => "the configuration is in force; nothing of it has changed".to_owned(),
        changes => format!("the configuration is in force: {}", changes.join(", ")),
    };
    if !done.narrowed.is_empty() {
        words +=
            &format!("\nlost a right, and their sessions and files with it: {}", done.narrowed.join(", "));
    }
    if !restart.is_empty() {
        words += &format!("\nonly when the daemon starts anew: {}", restart.join(", "));
    }
    words
}
