//! `keyward erasure`: the erasure key.

use clap::Subcommand;
use serde_json::json;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::view::{Fields, View, time};
use crate::rpc::proto::{ErasureKey, GetErasureKeyRequest, ReplaceErasureKeyRequest};

/// `keyward erasure`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the erasure key, its age, and how far its replacement is
    #[command(after_help = "Example:\n  keyward erasure status")]
    Status,
    /// Replace the erasure key now: when this returns, older copies of the store are unreadable
    #[command(
        after_help = "Every wrapped key is sealed anew, the journal is compacted, and the old key's object is
destroyed on every token. What remains of a key that was destroyed before is a recovery export,
as `keyward backup list` says.

Example:
  keyward erasure replace"
    )]
    Replace,
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let client = shell.client().await?;
        let key = match self {
            Self::Status => client.call(client.backup().get_erasure_key(GetErasureKeyRequest {})).await?,
            Self::Replace => {
                // It takes as long as the rows take: no deadline of one call fits.
                let replaced = client.backup().replace_erasure_key(ReplaceErasureKeyRequest {}).await;
                replaced.map_err(crate::client::Error::from)?.into_inner()
            }
        };
        shell.print.view(&key)?;
        Ok(Exit::Ok)
    }
}

impl View for ErasureKey {
    fn fields(&self) -> Fields {
        let gone = (self.destroyed_generation > 0).then_some(self.destroyed_generation);
        vec![
            ("generation", json!(self.generation)),
            ("create_time", time(self.create_time.as_ref())),
            ("replacing", json!(self.replacing)),
            ("destroyed_generation", json!(gone)),
            ("destroy_time", time(self.destroy_time.as_ref())),
        ]
    }
}
