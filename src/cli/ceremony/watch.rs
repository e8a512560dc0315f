//! Watching a ceremony: a bar while it is executed, and how it ended.

use super::shown::{self, Row};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::view::plain;
use crate::cli::{Shell, progress};
use crate::client::Client;
use crate::rpc::proto::ceremony::State;
use crate::rpc::proto::{Ceremony, GetCeremonyRequest};

/// Watches a ceremony to its end; a daemon that goes away meanwhile is waited for.
pub(super) async fn to_the_end(client: &Client, name: &str, quiet: bool) -> Result<Ceremony, Failure> {
    let bar = progress::items(quiet);
    loop {
        match follow(client, name, &bar).await {
            Ok(Some(ended)) => {
                bar.finish_and_clear();
                return Ok(ended);
            }
            Ok(None) => {}
            Err(error) if error.is_transient() => bar.set_message(plain(&error.message)),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// `None` when the daemon stopped before the end.
async fn follow(
    client: &Client,
    name: &str,
    bar: &indicatif::ProgressBar,
) -> Result<Option<Ceremony>, crate::client::Error> {
    let request = GetCeremonyRequest { name: name.to_owned() };
    let mut seen = client.call(client.ceremonies().watch(request)).await?;
    while let Some(ceremony) = seen.message().await? {
        if shown::is_final(ceremony.state()) {
            return Ok(Some(ceremony));
        }
        bar.set_length(ceremony.total);
        bar.set_position(ceremony.done);
        bar.set_message(plain(&words(&ceremony)));
    }
    Ok(None)
}

/// Ceremonies after which escrow and recovery export are of another root.
const MAKE_ROOTS: [&str; 3] = ["found", "rotate-root", "change-roster"];

fn words(ceremony: &Ceremony) -> String {
    match ceremony.state() {
        State::Executing if ceremony.waiting_for.is_empty() => ceremony.step.clone(),
        State::Executing => format!("waits: {}", ceremony.waiting_for),
        _ => format!("{} of {} approvals", ceremony.approvals.len(), ceremony.needed),
    }
}

/// How it ended, as a result and an exit code.
pub(super) fn told(shell: &mut Shell, ended: &Ceremony) -> Result<Exit, Failure> {
    shell.print.view(&Row(ended))?;
    shell.print.note(&ended.outcome);
    if ended.state() == State::Done && MAKE_ROOTS.contains(&ended.action.as_str()) {
        shell.print.note(
            "next: `keyward root escrow --out FILE` and `keyward backup create --out FILE`; those from before need the old root",
        );
    }
    Ok(if ended.state() == State::Done { Exit::Ok } else { Exit::Refused })
}
