//! `keyward ceremony`: what custodians decide together.

use clap::Subcommand;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use crate::client::Client;
use crate::rpc::proto::{
    CancelRequest, Ceremony, GetCeremonyRequest, GetRosterRequest, ListCeremoniesRequest,
};

mod approve;
mod html;
mod propose;
mod share;
mod shown;
mod transcript;
mod watch;

/// `keyward ceremony`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Propose a ceremony; nothing happens until custodians approve it
    #[command(subcommand)]
    Propose(propose::Propose),
    /// Show a ceremony and its statement in full
    #[command(after_help = "Example:\n  keyward ceremony show 91f3")]
    Show {
        /// The ceremony: its id, or the beginning of it
        ceremony: String,
    },
    /// List ceremonies, the newest first
    #[command(after_help = "Example:\n  keyward ceremony list --open")]
    List {
        /// Only those that wait for approvals or are being executed
        #[arg(long)]
        open: bool,
    },
    /// Approve a ceremony with a custodian's token
    #[command(
        after_help = "The statement is shown in full before the PIN is asked for. The token signs exactly\n\
        what was shown. Away from the daemon, sign with `token sign` and hand in the\n\
        signature here with --signature.\n\n\
        Example:\n  keyward ceremony approve 91f3 --token alice-token"
    )]
    Approve(Box<approve::Approve>),
    /// Give your share to a restore, with your token
    Share(Box<share::Share>),
    /// Watch a ceremony to its end
    #[command(after_help = "Example:\n  keyward ceremony watch 91f3")]
    Watch {
        /// The ceremony: its id, or the beginning of it
        ceremony: String,
    },
    /// Take a proposal back
    #[command(after_help = "Example:\n  keyward ceremony cancel 91f3 --reason 'wrong tenant'")]
    Cancel {
        /// The ceremony: its id, or the beginning of it
        ceremony: String,
        /// Why; stands in the audit log
        #[arg(long)]
        reason: String,
    },
    /// Show the custodians in force, and how many of them must agree
    #[command(after_help = "Example:\n  keyward ceremony roster")]
    Roster,
    /// Write the transcript of a ceremony that has ended
    Transcript(transcript::Transcript),
    /// Verify a transcript offline
    Verify(transcript::Verify),
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Propose(propose) => propose.run(shell).await,
            Self::Show { ceremony } => show(shell, &ceremony).await,
            Self::List { open } => list(shell, open).await,
            Self::Approve(approve) => approve.run(shell).await,
            Self::Watch { ceremony } => {
                let client = shell.client().await?;
                let ceremony = find(&client, &ceremony).await?;
                let ended = watch::to_the_end(&client, &ceremony.name, shell.print.hides_progress()).await?;
                watch::told(shell, &ended)
            }
            Self::Cancel { ceremony, reason } => cancel(shell, &ceremony, reason).await,
            Self::Share(share) => share.run(shell).await,
            Self::Roster => roster(shell).await,
            Self::Transcript(transcript) => transcript.run(shell).await,
            Self::Verify(verify) => verify.run(shell).await,
        }
    }
}

/// The ceremony with this id, or the only one whose id begins so.
async fn find(client: &Client, text: &str) -> Result<Ceremony, Failure> {
    let id = text.strip_prefix("ceremonies/").unwrap_or(text);
    if id.len() == 32 {
        let request = GetCeremonyRequest { name: format!("ceremonies/{id}") };
        return Ok(client.call(client.ceremonies().get_ceremony(request)).await?);
    }
    let mut all =
        client.call(client.ceremonies().list_ceremonies(ListCeremoniesRequest {})).await?.ceremonies;
    all.retain(|ceremony| ceremony.name.strip_prefix("ceremonies/").is_some_and(|own| own.starts_with(id)));
    match (all.pop(), all.len()) {
        (Some(only), 0) if !id.is_empty() => Ok(only),
        (None, _) => Err(Failure::Refused {
            reason: "NOT_FOUND",
            message: format!("no ceremony has an id that begins with {text:?}: see `keyward ceremony list`"),
        }),
        _ => Err(Failure::Input(format!(
            "several ceremonies have ids that begin with {text:?}: give more of it"
        ))),
    }
}

async fn show(shell: &mut Shell, ceremony: &str) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let ceremony = find(&client, ceremony).await?;
    shown::in_full(shell, &ceremony)?;
    Ok(Exit::Ok)
}

async fn list(shell: &mut Shell, open: bool) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let mut all =
        client.call(client.ceremonies().list_ceremonies(ListCeremoniesRequest {})).await?.ceremonies;
    all.retain(|ceremony| !open || !shown::is_final(ceremony.state()));
    let rows: Vec<_> = all.iter().map(shown::Row).collect();
    shell.print.views("ceremonies", &rows)?;
    Ok(Exit::Ok)
}

async fn cancel(shell: &mut Shell, ceremony: &str, reason: String) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let name = find(&client, ceremony).await?.name;
    let cancelled = client.call(client.ceremonies().cancel(CancelRequest { name, reason })).await?;
    shell.print.view(&shown::Row(&cancelled))?;
    Ok(Exit::Ok)
}

async fn roster(shell: &mut Shell) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let roster = client.call(client.ceremonies().get_roster(GetRosterRequest {})).await?;
    if roster.custodians.is_empty() {
        shell
            .print
            .note("the root is unfounded: one operator holds its backup key, and there are no custodians");
    }
    shell.print.view(&roster)?;
    Ok(Exit::Ok)
}
