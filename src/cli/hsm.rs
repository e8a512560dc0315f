//! `keyward hsm`: what can be said of the HSM without the daemon.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::local::{ConfigFile, blocking};
use super::view::{Fields, View};
use crate::config::Log;
use crate::daemon;
use crate::daemon::lock::check_owner;
use crate::hsm::confine::Mode;
use crate::hsm::pin::{PinSource, clear_refused_pin};
use crate::hsm::pkcs11::selftest::Verdict;
use crate::hsm::pkcs11::{self, CheckReport};
use crate::hsm::process;
use crate::secret::SecretMemory;

/// `keyward hsm`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Test whether the HSM may be trusted with keys, and say what is lost where it lacks something
    #[command(
        after_help = "The PIN is asked for on the terminal unless --pin-file or --config says where it is.

Examples:
  keyward hsm check --config /etc/keyward/keywardd.toml
  keyward hsm check --module /usr/lib/softhsm/libsofthsm2.so --token keyward --pin-file pin
  keyward hsm check --module /opt/vendor/libpkcs11.so --allow-network --json"
    )]
    Check(Check),
    /// Let the PIN be tried again after the HSM refused it
    #[command(after_help = "Put the right PIN in place first: a token locks after few wrong ones.

Example:
  keyward hsm clear-refused-pin --config /etc/keyward/keywardd.toml")]
    ClearRefusedPin {
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// `keyward hsm check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    config: ConfigFile,
    /// PKCS#11 library, instead of a configuration
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    module: Option<PathBuf>,
    /// Token label or PKCS#11 URI (RFC 7512), when the library shows several tokens
    #[arg(long, value_name = "TOKEN", requires = "module")]
    token: Option<String>,
    /// What the library wants to be told when it is initialised; for most nothing
    #[arg(long, value_name = "TEXT", requires = "module")]
    init_args: Option<String>,
    /// File with the user PIN
    #[arg(long, value_name = "FILE", requires = "module")]
    pin_file: Option<PathBuf>,
    /// File or folder that the library may read and write, as hsm.allow_paths; may be given several times
    #[arg(long, value_name = "PATH", requires = "module")]
    allow_path: Vec<PathBuf>,
    /// Let the library make sockets, as hsm.allow_network
    #[arg(long, requires = "module")]
    allow_network: bool,
}

impl Command {
    pub(crate) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Check(check) => check.run(shell).await,
            Self::ClearRefusedPin { config } => {
                let config = config.read()?;
                check_owner(&config.state_dir).map_err(|error| Failure::local(&error))?;
                let cleared = blocking(move || clear_refused_pin(&config.state_dir)).await?;
                let line = if cleared { "the PIN will be tried again" } else { "no PIN was refused" };
                shell.print.answer(line, &json!({ "cleared": cleared }))?;
                Ok(Exit::Ok)
            }
        }
    }
}

impl Check {
    async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let settings = self.settings()?;
        daemon::harden(SecretMemory::default()).map_err(Failure::file("protect", "this process".as_ref()))?;
        let report = process::check(&settings).await.map_err(|error| Failure::Input(error.to_string()))?;
        let usable = report.usable;
        if shell.print.is_json() {
            shell.print.view(&report)?;
        } else {
            shell.print.view(&Summary(&report))?;
            shell.print.text(&epilogue(&report))?;
        }
        Ok(if usable { Exit::Ok } else { Exit::Refused })
    }

    fn settings(self) -> Result<process::Settings, Failure> {
        let bad_token = |error: daemon::TokenError| Failure::Input(error.to_string());
        let settings = match self.module {
            Some(module) => {
                let module = absolute(module)?;
                let uri = self.token.as_deref().map(daemon::token_uri).transpose().map_err(bad_token)?;
                let token = uri.map(|uri| uri.within(&module)).transpose();
                let token = token.map_err(|error| Failure::Usage(format!("--token: {error}")))?;
                let pin = self.pin_file.map_or(PinSource::Prompt, PinSource::File);
                let mut hsm = pkcs11::Settings::new(module, token.unwrap_or_default(), own_state_dir()?);
                hsm.init_args = self.init_args;
                let paths = self.allow_path.into_iter().map(absolute);
                hsm.confinement.allow_paths = paths.collect::<Result<_, _>>()?;
                hsm.confinement.allow_network = self.allow_network;
                // To look at a module is no use of it; the report says what was enforced.
                hsm.confinement.mode = Mode::BestEffort;
                hsm.confinement.kept = vec![hsm.state_dir.clone()];
                process::Settings::new(
                    hsm,
                    pin,
                    daemon::child::program(&Log::default(), SecretMemory::default()),
                )
            }
            None => {
                let config = self.config.read()?;
                check_owner(&config.state_dir).map_err(|error| Failure::local(&error))?;
                daemon::hsm_settings(&config).map_err(bad_token)?
            }
        };
        settings.slots.iter().try_for_each(|slot| make_private(&slot.hsm.state_dir))?;
        Ok(settings)
    }
}

/// The configuration takes absolute paths only, and so does the report's.
fn absolute(module: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&module).map_err(Failure::file("find", &module))
}

/// A refused PIN is noted there, also before there is an installation.
fn make_private(folder: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(Failure::file("create", folder))
}

/// Where the record of refused PINs is kept without a configuration (XDG Base Directory Specification).
fn own_state_dir() -> Result<PathBuf, Failure> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("keyward"))
        .ok_or_else(|| Failure::Usage("set $HOME or $XDG_STATE_HOME, where a refused PIN is noted".into()))
}

/// What the table for people shows.
struct Summary<'a>(&'a CheckReport);

impl View for Summary<'_> {
    fn fields(&self) -> Fields {
        let below = ["mechanisms", "configuration"];
        self.0.fields().into_iter().filter(|(name, _)| !below.contains(name)).collect()
    }
}

/// What stands below the table: mechanisms, and what to do next.
fn epilogue(report: &CheckReport) -> String {
    let mut text = format!("\nmechanisms\n{}", lines_of(&report.mechanisms));
    if let Some(configuration) = &report.configuration {
        text +=
            "\nto use this token, put this into keywardd.toml, and its PIN where the unit expects it:\n\n";
        text += &configuration.lines().map(|line| format!("  {line}\n")).collect::<String>();
    }
    text
}

/// Words in lines of at most 80 columns, indented.
fn lines_of(words: &[String]) -> String {
    let mut lines = vec![String::from(" ")];
    for word in words {
        let last = lines.len() - 1;
        if lines[last].len() + 1 + word.len() > 80 {
            lines.push(format!("  {word}"));
        } else {
            lines[last] += &format!(" {word}");
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

impl View for CheckReport {
    fn fields(&self) -> Fields {
        let checks = self.selftest.checks.iter().map(|check| {
            let verdict = match check.verdict {
                Verdict::Pass => "pass".to_owned(),
                Verdict::Fail => format!("FAIL: {}", check.detail),
                Verdict::Unsupported => format!("not offered: {}", check.detail),
            };
            (check.name.clone().into_owned(), Value::from(verdict))
        });
        let timings = self
            .timings
            .iter()
            .map(|timing| (timing.operation.clone().into_owned(), json!(format!("{:.1} us", timing.micros))));
        let quirks = self.quirks.iter().enumerate().map(|(number, quirk)| {
            ((number + 1).to_string(), json!(format!("{}; lost: {}", quirk.behaviour, quirk.lost)))
        });
        vec![
            ("verdict", json!(self.verdict)),
            ("usable", json!(self.usable)),
            ("library", json!(self.library)),
            ("cryptoki", json!(self.cryptoki)),
            ("token", json!(self.label)),
            ("serial", json!(self.serial)),
            ("manufacturer", json!(self.manufacturer)),
            ("model", json!(self.model)),
            ("firmware", json!(self.firmware)),
            ("max_sessions", json!(self.max_sessions)),
            ("max_rw_sessions", json!(self.max_rw_sessions)),
            ("pin_length", json!(format!("{} to {} bytes", self.pin_length.0, self.pin_length.1))),
            ("roots", json!(self.roots.join(", "))),
            ("confinement", json!(self.confinement.to_string())),
            ("check", Value::Object(checks.collect())),
            ("timing", Value::Object(timings.collect())),
            ("quirk", Value::Object(quirks.collect())),
            ("mechanisms", json!(self.mechanisms.join(" "))),
            ("configuration", json!(self.configuration)),
        ]
    }
}
