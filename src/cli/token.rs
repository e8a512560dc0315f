//! `keyward token`: USB tokens of custodians, on the machine where they are plugged in.

use clap::Subcommand;

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;

mod agent;
mod args;
mod card;
mod enroll;
mod generate;
mod list;
mod pin;
mod sign;

pub(crate) use args::{TokenArgs, WINDOW};

/// `keyward token`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the tokens and the keys that they show without a PIN
    #[command(after_help = "Examples:
  keyward token list --module /usr/lib/softhsm/libsofthsm2.so
  keyward token list --json --wait")]
    List(list::List),
    /// Make keys on a token: a custodian's two, or the one that a staff member logs in with
    #[command(
        after_help = "The keys are made in the token and never leave it. A custodian has one that signs
and one that shares are encrypted to; --login makes the one that logs in.

Examples:
  keyward token generate --name alice --token alice-token
  keyward token generate --name alice --login --piv --touch always --management-key-file alice.mgm"
    )]
    Generate(Box<generate::Generate>),
    /// Change the PIN of a token
    #[command(after_help = "Examples:
  keyward token change-pin --piv
  keyward token change-pin --module /usr/lib/softhsm/libsofthsm2.so --token alice-token")]
    ChangePin(pin::ChangePin),
    /// Set a new PIN on a token whose PIN is locked or forgotten, by its PUK
    #[command(after_help = "A token with a PKCS#11 library is unblocked by the PIN of its security officer.

Example:
  keyward token unblock --piv --token serial:10000001")]
    Unblock(pin::Unblock),
    /// Change the PUK of a token, or its security officer's PIN
    #[command(after_help = "Example:
  keyward token change-puk --piv")]
    ChangePuk(pin::ChangePuk),
    /// Write a custodian card: what a custodian hands in to be put on a roster
    #[command(
        after_help = "The card holds public keys and a signature by the token; nothing in it is secret.

Example:
  keyward token card --name alice --token alice-token --out alice.card"
    )]
    Card(card::Card),
    /// Enroll a token to log in with, from the ticket that an operator gave you
    #[command(after_help = "Example:
  keyward token enroll --ticket alice.ticket --name blue-key --out alice.enrolment")]
    Enroll(Box<enroll::Enroll>),
    /// Sign logins for a browser or login page: JSON lines on stdin and stdout
    #[command(
        after_help = "Reads {\"id\":1,\"method\":\"list\"} and {\"id\":2,\"method\":\"login\",\"params\":{…}}: docs/login.md.

Example:
  keyward token agent --origin https://crm.example.com"
    )]
    Agent(Box<agent::Agent>),
    /// Sign a statement, away from the daemon, after showing it in full
    #[command(override_usage = "keyward token sign [OPTIONS] --purpose <PURPOSE> --statement <FILE> …")]
    #[command(after_help = "What stands around the statement comes from `keyward ceremony show ID --json`.

Example:
  keyward token sign --purpose ceremony --statement rotate.txt --out alice.sig \\
      --deployment 6ad0c1f27b3e4d5896a7b8c9d0e1f203 --ceremony 91f3a2b4c5d6e7f80912a3b4c5d6e7f8 \\
      --roster 5c0b1d2e3f405162738495a6b7c8d9eafb0c1d2e3f405162738495a6b7c8d9ea \\
      --created 2026-01-02T03:04:05Z --expires 2026-01-05T03:04:05Z")]
    Sign(Box<sign::Sign>),
}

impl Command {
    pub(crate) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::List(list) => list.run(shell).await,
            Self::Generate(generate) => generate.run(shell).await,
            Self::ChangePin(change) => change.run(shell).await,
            Self::Unblock(unblock) => unblock.run(shell).await,
            Self::ChangePuk(change) => change.run(shell).await,
            Self::Card(card) => card.run(shell).await,
            Self::Enroll(enroll) => enroll.run(shell).await,
            Self::Agent(agent) => agent.run(shell).await,
            Self::Sign(sign) => sign.run(shell).await,
        }
    }
}
