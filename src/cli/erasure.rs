//! `keyward erasure`: the erasure key.

use clap::Subcommand;
use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::view::{Fields, View, stray, time};
use super::{Shell, name};
use crate::id::RootId;
use crate::rpc::proto::{
    ErasureKey, ForgetErasureRootRequest, GetErasureKeyRequest, ReplaceErasureKeyRequest,
};

/// `keyward erasure`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the erasure key, how far its replacement is, and erasure roots that no record names
    #[command(after_help = "The tokens are looked at now: a login on each of them.

Example:
  keyward erasure status")]
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
    /// Destroy an erasure root that stands on the tokens and in no record, for ever
    #[command(
        after_help = "`keyward erasure status` lists them. What only copies of a store hold that were sealed under it,
nobody can read any more. Nothing that the store in use needs can be named here. Once the root is
founded, custodians decide: `keyward ceremony propose forget-erasure-root ID --reason WHY`.

Example:
  keyward erasure forget 3f0c9a1200112233445566778899aabb"
    )]
    Forget {
        /// Its id, as the status shows it
        #[arg(value_name = "ID", value_parser = name::erasure_root)]
        id: RootId,
    },
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let client = shell.client().await?;
        let mut backup = client.backup();
        // It takes as long as the rows and the tokens take: no deadline of one call fits.
        let answer = match self {
            Self::Status => backup.get_erasure_key(GetErasureKeyRequest { look_for_strays: true }).await,
            Self::Replace => backup.replace_erasure_key(ReplaceErasureKeyRequest {}).await,
            Self::Forget { id } => {
                backup.forget_erasure_root(ForgetErasureRootRequest { id: id.to_string() }).await
            }
        };
        let key = answer.map_err(crate::client::Error::from)?.into_inner();
        shell.print.view(&key)?;
        for stray in &key.strays {
            let id = &stray.id;
            shell.print.note(&format!(
                "no record names erasure root {id}: have it destroyed with `keyward erasure forget {id}`"
            ));
        }
        if !key.strays_failure.is_empty() {
            shell.print.warn(&format!(
                "erasure roots that no record names could not be looked for: {}",
                key.strays_failure
            ));
        }
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
            ("strays", json!(self.strays.iter().map(stray).collect::<Vec<_>>())),
            ("strays_time", time(self.strays_time.as_ref())),
            ("strays_failure", json!(self.strays_failure)),
        ]
    }
}
