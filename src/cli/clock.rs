//! `keyward clock`: what the daemon thinks of the clock.

use clap::Subcommand;
use serde_json::json;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::view;
use crate::rpc::proto::AcceptClockRequest;

/// `keyward clock`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say that the clock is right although it jumped; what is due by it is done
    #[command(
        after_help = "Example:\n  date -u && keyward clock accept --reason 'the machine had a dead battery'"
    )]
    Accept {
        /// Why; stands in the audit log
        #[arg(long)]
        reason: String,
    },
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let Self::Accept { reason } = self;
        let client = shell.client().await?;
        let accepted = client.call(client.system().accept_clock(AcceptClockRequest { reason })).await?;
        let time = view::time(accepted.time.as_ref());
        shell.print.answer(
            &format!("the clock is accepted as it is: {}", view::text(&time)),
            &json!({ "time": time }),
        )?;
        Ok(Exit::Ok)
    }
}
