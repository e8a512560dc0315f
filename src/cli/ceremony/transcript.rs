//! `keyward ceremony transcript` and `verify`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{find, html};
use crate::audit::checkpoint::NoteKey;
use crate::cli::Shell;
use crate::cli::audit::trusted;
use crate::cli::document;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::view::{Fields, View, date};
use crate::clock::Date;
use crate::ops::ceremony::transcript::{Verified, verify};
use crate::rpc::proto::GetCeremonyRequest;

/// `keyward ceremony transcript`
#[derive(Debug, Args)]
#[command(after_help = "Keep the transcript of the founding in a safe place: it is the anchor of all others.

Example:
  keyward ceremony transcript 91f3 --out rotation.json --html rotation.html")]
pub(crate) struct Transcript {
    /// The ceremony: its id, or the beginning of it
    ceremony: String,
    /// File to write it to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// File to write one page to, to be read and printed
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace the files
    #[arg(long)]
    force: bool,
}

/// `keyward ceremony verify`
#[derive(Debug, Args)]
#[command(
    after_help = "Needs no daemon. Every signature is checked with the keys of the roster, and the roster is
followed from the founding that you trust.

Example:
  keyward ceremony verify rotation.json --anchor founding.json"
)]
pub(crate) struct Verify {
    /// The transcript
    file: PathBuf,
    /// The transcript of the founding that is trusted
    #[arg(long, value_name = "FILE")]
    anchor: Option<PathBuf>,
    /// Keys of the HSM that are trusted, as `keyward audit keys` prints them
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// File to write one page to, to be read and printed
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace the file
    #[arg(long, requires = "html")]
    force: bool,
}

impl Transcript {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let client = shell.client().await?;
        let name = find(&client, &self.ceremony).await?.name;
        let request = GetCeremonyRequest { name: name.clone() };
        let json = client.call(client.ceremonies().get_transcript(request)).await?.json;
        let verified = verified(&json, None, None)?;
        write(&self.out, self.force, json.as_bytes()).await?;
        if let Some(path) = &self.html {
            write(path, self.force, html::page(&verified).as_bytes()).await?;
        }
        let value = json!({ "name": name, "out": self.out, "html": self.html });
        shell.print.report(&format!("wrote {}", self.out.display()), &value)?;
        Ok(Exit::Ok)
    }
}

impl Verify {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let text = document::read(&self.file)?;
        let anchor = self.anchor.as_deref().map(document::read).transpose()?;
        let keys = self.key.as_deref().map(trusted).transpose()?;
        let verified = verified(&text, anchor.as_deref(), keys.as_deref())?;
        if let Some(path) = &self.html {
            write(path, self.force, html::page(&verified).as_bytes()).await?;
        }
        shell.print.view(&verified)?;
        if anchor.is_none() {
            shell
                .print
                .note("no --anchor was given: compare the founding roster with what your custodians know");
        }
        Ok(Exit::Ok)
    }
}

fn verified(text: &str, anchor: Option<&str>, keys: Option<&[NoteKey]>) -> Result<Verified, Failure> {
    verify(text, anchor, keys)
        .map_err(|error| Failure::Refused { reason: "TRANSCRIPT_REFUSED", message: error.to_string() })
}

async fn write(path: &Path, force: bool, bytes: &[u8]) -> Result<(), Failure> {
    let mut output = Output::open_for_everybody(Some(path), force)?;
    output.writer().write_all(bytes).await.map_err(Failure::file("write", path))?;
    output.commit().await
}

impl View for Verified {
    fn fields(&self) -> Fields {
        let decision = &self.transcript.decision;
        vec![
            ("verified", json!(true)),
            ("ceremony", json!(decision.ceremony)),
            ("deployment", json!(self.transcript.deployment)),
            ("action", json!(decision.action)),
            ("state", json!(self.transcript.state)),
            ("outcome", json!(self.transcript.outcome)),
            ("signed_by", json!(self.signers.join(", "))),
            ("needed", json!(self.needed)),
            ("proposed", date(Date(decision.created))),
            ("finished", date(Date(self.transcript.finished))),
            ("founding", json!(self.founding)),
            ("founding_roster", json!(self.founding_roster)),
            ("audit_record", json!(self.attested.as_ref().map(|attested| attested.sequence))),
            ("hsm_key", json!(self.attested.as_ref().map(|attested| attested.key.clone()))),
            ("hsm_key_trusted", json!(self.attested.as_ref().is_some_and(|attested| attested.trusted))),
        ]
    }
}
