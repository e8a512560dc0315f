//! `keyward token change-pin`, `unblock` and `change-puk`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::args::{ModuleArgs, PinArgs, WINDOW, ask, failure, named, same, warn_of_tries};
use crate::cli::Shell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::daemon;
use crate::id::token::TokenInfo;
use crate::secret::{Pin, SecretMemory};
use crate::token::client::TokenProcess;
use crate::token::error::TokenError;
use crate::token::wire::PukSets;

/// PIN and PUK of PIV cards that come from the factory.
const FACTORY: [&str; 2] = ["123456", "12345678"];

/// Where a new PIN or PUK comes from.
#[derive(Debug, Clone, Args)]
struct NewArgs {
    /// File with the new one, for scripts; otherwise it is asked for twice on the terminal
    #[arg(long, value_name = "FILE", conflicts_with = "new_fd")]
    new_file: Option<PathBuf>,
    /// Open file descriptor to read the new one from, for scripts
    #[arg(long, value_name = "NUMBER")]
    new_fd: Option<u32>,
}

impl NewArgs {
    /// The new one: not one that everybody knows, and on a terminal twice the same.
    async fn read(&self, what: &str, token: &TokenInfo) -> Result<Pin, Failure> {
        let wrong = |why: &str| Failure::Input(format!("the new {what} {why}: nothing is changed"));
        let new = ask(&self.new_file, self.new_fd, format!("new {what} of {}: ", named(token))).await?;
        if FACTORY.contains(&new.expose()) {
            return Err(wrong("is one that tokens leave the factory with"));
        }
        if self.new_file.is_some() || self.new_fd.is_some() {
            return Ok(new);
        }
        let again = ask(&None, None, format!("new {what} once more: ")).await?;
        match new.expose() == again.expose() {
            true => Ok(new),
            false => Err(wrong("was not the same both times")),
        }
    }
}

/// That a PIN or PUK is changed to another one.
fn require_another(what: &str, old: &Pin, new: &Pin) -> Result<(), Failure> {
    match old.expose() == new.expose() {
        true => Err(Failure::Input(format!("the new {what} is the old one: nothing is changed"))),
        false => Ok(()),
    }
}

/// Where a PUK comes from.
#[derive(Debug, Clone, Args)]
struct PukArgs {
    /// File with the PUK, for scripts; otherwise it is asked for on the terminal
    #[arg(long, value_name = "FILE", conflicts_with = "puk_fd")]
    puk_file: Option<PathBuf>,
    /// Open file descriptor to read the PUK from, for scripts
    #[arg(long, value_name = "NUMBER")]
    puk_fd: Option<u32>,
    /// Try the PUK although a wrong one locks it for good
    #[arg(long)]
    last_try: bool,
}

impl PukArgs {
    /// The token, if its PUK may be tried: nobody types one in vain.
    async fn token(&self, shell: &mut Shell, module: &ModuleArgs) -> Result<TokenInfo, Failure> {
        let report = module.token(shell).await?;
        let allowed = report.puk.may_try_puk(self.last_try);
        allowed.map(|()| report.token).map_err(|trouble| failure(TokenError::Pin(trouble)))
    }

    async fn read(&self, module: &ModuleArgs, token: &TokenInfo) -> Result<Pin, Failure> {
        ask(&self.puk_file, self.puk_fd, format!("{} of {}: ", puk(module), named(token))).await
    }
}

/// What unblocks a PIN, in a word.
fn puk(module: &ModuleArgs) -> &'static str {
    if module.piv() { "PUK" } else { "security officer's PIN" }
}

/// `keyward token change-pin`
#[derive(Debug, Args)]
pub(crate) struct ChangePin {
    #[command(flatten)]
    module: ModuleArgs,
    #[command(flatten)]
    pin: PinArgs,
    #[command(flatten)]
    new: NewArgs,
}

impl ChangePin {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        harden()?;
        let report = self.module.token(shell).await?;
        warn_of_tries(shell, &report, self.pin.last_try())?;
        let pin = self.pin.read(&report.token, "", WINDOW).await?;
        let new = self.new.read("PIN", &report.token).await?;
        require_another("PIN", &pin, &new)?;
        let mut process = TokenProcess::start(&self.module.settings()?).await.map_err(failure)?;
        let changed = process.change_pin(same(report.token.clone()), pin, new, self.pin.last_try()).await;
        changed.map_err(failure)?;
        done(shell, "the PIN is changed", &report.token)
    }
}

/// `keyward token unblock`
#[derive(Debug, Args)]
pub(crate) struct Unblock {
    #[command(flatten)]
    module: ModuleArgs,
    #[command(flatten)]
    puk: PukArgs,
    #[command(flatten)]
    new: NewArgs,
}

impl Unblock {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        harden()?;
        let token = self.puk.token(shell, &self.module).await?;
        let puk = self.puk.read(&self.module, &token).await?;
        let new = self.new.read("PIN", &token).await?;
        let mut process = TokenProcess::start(&self.module.settings()?).await.map_err(failure)?;
        let set = process.use_puk(same(token.clone()), puk, PukSets::Pin, new, self.puk.last_try).await;
        set.map_err(failure)?;
        done(shell, "the token is unblocked and has a new PIN", &token)
    }
}

/// `keyward token change-puk`
#[derive(Debug, Args)]
pub(crate) struct ChangePuk {
    #[command(flatten)]
    module: ModuleArgs,
    #[command(flatten)]
    puk: PukArgs,
    #[command(flatten)]
    new: NewArgs,
}

impl ChangePuk {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        harden()?;
        let token = self.puk.token(shell, &self.module).await?;
        let old = self.puk.read(&self.module, &token).await?;
        let new = self.new.read(puk(&self.module), &token).await?;
        require_another(puk(&self.module), &old, &new)?;
        let mut process = TokenProcess::start(&self.module.settings()?).await.map_err(failure)?;
        let set = process.use_puk(same(token.clone()), old, PukSets::Puk, new, self.puk.last_try).await;
        set.map_err(failure)?;
        done(shell, &format!("the {} is changed", puk(&self.module)), &token)
    }
}

fn harden() -> Result<(), Failure> {
    daemon::harden(SecretMemory::default()).map_err(Failure::file("protect", "this process".as_ref()))
}

fn done(shell: &mut Shell, line: &str, token: &TokenInfo) -> Result<Exit, Failure> {
    shell.print.report(line, &json!({ "token": token.label, "serial": token.serial }))?;
    Ok(Exit::Ok)
}
