//! `freeze` and `unfreeze`: the same for tenants, keys and principals.

use clap::{Args, Subcommand};

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::name;
use crate::id::PrincipalId;
use crate::rpc::proto::{FreezeRequest, UnfreezeRequest};

/// Why; both directions want to know.
#[derive(Debug, Args)]
pub(crate) struct Reason {
    /// Why; stands in the audit log
    #[arg(long)]
    reason: String,
}

/// Freezes what is called `name` in full.
pub(crate) async fn freeze(shell: &mut Shell, name: String, reason: Reason) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let request = FreezeRequest { name: name.clone(), reason: reason.reason };
    client.call(client.access().freeze(request)).await?;
    done(shell, &name, true)
}

/// Ends the freeze of what is called `name` in full.
pub(crate) async fn unfreeze(shell: &mut Shell, name: String, reason: Reason) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let request = UnfreezeRequest { name: name.clone(), reason: reason.reason };
    client.call(client.access().unfreeze(request)).await?;
    done(shell, &name, false)
}

fn done(shell: &mut Shell, name: &str, frozen: bool) -> Result<Exit, Failure> {
    let line = format!("{name} is {}", if frozen { "frozen" } else { "no longer frozen" });
    shell.print.answer(&line, &serde_json::json!({ "name": name, "frozen": frozen }))?;
    Ok(Exit::Ok)
}

/// `keyward principal`
#[derive(Debug, Subcommand)]
pub(crate) enum PrincipalCommand {
    /// Stop everything that a caller does
    #[command(after_help = "Example:\n  keyward principal freeze web-shop --reason 'key leaked, case 17'")]
    Freeze {
        /// The principal, as the configuration names it
        #[arg(value_parser = name::principal)]
        principal: PrincipalId,
        #[command(flatten)]
        reason: Reason,
    },
    /// Let a caller work again
    #[command(after_help = "Example:\n  keyward principal unfreeze web-shop --reason 'case 17 closed'")]
    Unfreeze {
        /// The principal, as the configuration names it
        #[arg(value_parser = name::principal)]
        principal: PrincipalId,
        #[command(flatten)]
        reason: Reason,
    },
}

impl PrincipalCommand {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Freeze { principal, reason } => {
                freeze(shell, format!("principals/{principal}"), reason).await
            }
            Self::Unfreeze { principal, reason } => {
                unfreeze(shell, format!("principals/{principal}"), reason).await
            }
        }
    }
}
