//! `destroy` and `cancel-destroy`: the same for tenants, keys and versions.

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::view;
use crate::rpc::proto::{CancelDestroyRequest, Destruction, ScheduleDestroyRequest};

/// How something is destroyed.
#[derive(Debug, Args)]
pub(crate) struct HowToDestroy {
    /// Why; stands in the audit log
    #[arg(long)]
    reason: String,
    /// How long it can be called off, for example 30d [default: destruction.delay of the daemon]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Do not ask; for scripts
    #[arg(long)]
    yes: bool,
}

/// Why it is called off.
#[derive(Debug, Args)]
pub(crate) struct WhyToCancel {
    /// Why; stands in the audit log
    #[arg(long)]
    reason: String,
}

/// Plans the destruction of what is called `name` in full.
pub(crate) async fn destroy(shell: &mut Shell, name: String, how: HowToDestroy) -> Result<Exit, Failure> {
    if !how.yes {
        confirm(shell, &name).await?;
    }
    let client = shell.client().await?;
    let delay = how.delay.and_then(|delay| prost_types::Duration::try_from(delay).ok());
    let request = ScheduleDestroyRequest { name, delay, reason: how.reason };
    let planned = client.call(client.keys().schedule_destroy(request)).await?;
    tell(shell, &planned)
}

/// Calls it off.
pub(crate) async fn cancel(shell: &mut Shell, name: String, why: WhyToCancel) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let request = CancelDestroyRequest { name, reason: why.reason };
    let kept = client.call(client.keys().cancel_destroy(request)).await?;
    tell(shell, &kept)
}

fn tell(shell: &mut Shell, destruction: &Destruction) -> Result<Exit, Failure> {
    let due = view::time(destruction.due_time.as_ref());
    let state = view::state(destruction.state());
    let line = match due.as_str() {
        Some(date) => format!(
            "{} no longer works and is destroyed at {date}; until then `cancel-destroy` calls it off",
            destruction.name
        ),
        None => format!("{} is not destroyed; it is {} again", destruction.name, view::text(&state)),
    };
    shell.print.answer(&line, &json!({ "name": destruction.name, "state": state, "due_time": due }))?;
    Ok(Exit::Ok)
}

/// Has the name typed: what is destroyed cannot be had back.
async fn confirm(shell: &mut Shell, name: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("to destroy something without being asked, give --yes".into()));
    }
    shell.print.note(&format!("{name} stops working now, and nothing brings it back after its date"));
    shell.print.note("type its full name to go on");
    let typed = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let typed = typed.await.map_err(std::io::Error::other).flatten();
    let typed = typed.map_err(Failure::file("read", Path::new("the terminal")))?;
    match typed.trim() == name {
        true => Ok(()),
        false => Err(Failure::Input("that is not its name; nothing was done".into())),
    }
}
