//! The HSM process, the token process and the search process: the same program, started by itself under
//! another command.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::{hardening, logging};
use crate::child::{ChildError, Program, take_socket};
use crate::config::{Level, Log, LogFormat};
use crate::hsm::process;
use crate::secret::SecretMemory;
use crate::store::{SEARCH_COMMAND, run_search_process};
use crate::token;
use crate::token::backend::Backend;
use crate::token::error::TokenError;

/// The command that makes an HSM process of `keywardd` and of `keyward`; no user calls it.
pub const COMMAND: &str = "hsm-process";

/// This program as an HSM process that logs, and protects its secrets, as the daemon does.
pub(crate) fn program(log: &Log, secrets: SecretMemory) -> Program {
    let arguments = [COMMAND, level(log.level), format(log.format), memory(secrets)];
    Program::this(arguments.map(OsString::from).to_vec())
}

/// The command that makes a token process of `keyward` and of `keywardd`; no user calls it.
pub const TOKEN_COMMAND: &str = "token-process";

/// This program as a token process. It says nothing by itself: what goes wrong is an answer.
pub fn token_program() -> Program {
    Program::this(vec![OsString::from(TOKEN_COMMAND)])
}

/// The program that is a token process for PIV cards: what links PC/SC is in no other.
pub const PIV_PROGRAM: &str = "keyward-piv";

/// The program for PIV cards is not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{PIV_PROGRAM}, the program for PIV tokens, is not installed: it was looked for in {0}")]
pub struct NoPivProgram(String);

/// The program for PIV cards: beside this one, or in `../libexec/keyward`.
///
/// # Errors
/// [`NoPivProgram`] when it is in neither place.
pub fn piv_program() -> Result<Program, NoPivProgram> {
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own.parent().unwrap_or_else(|| Path::new("/"));
    let folders = [folder.to_owned(), folder.join("../libexec/keyward")];
    let found = folders.iter().map(|folder| folder.join(PIV_PROGRAM)).find(|path| path.is_file());
    let places = || folders.each_ref().map(|folder| folder.display().to_string()).join(" and ");
    found.map(|path| Program::new(path, Vec::new())).ok_or_else(|| NoPivProgram(places()))
}

/// Runs as a token process, in a program of its own, with the tokens that `load` reaches. Secrets are
/// protected as in the daemon.
///
/// # Errors
/// [`ChildError`]; what goes wrong with a token is an answer instead.
pub fn run_token_process<B: Backend>(load: impl FnOnce() -> Result<B, TokenError>) -> Result<(), ChildError> {
    hardening::harden(SecretMemory::default())?;
    token::child::serve(take_socket()?, |_| load())
}

/// Runs as one of the processes, when the arguments (without the program's name) say so.
pub fn run_if_asked(arguments: &[OsString]) -> Option<Result<(), ChildError>> {
    let [command, rest @ ..] = arguments else { return None };
    if command == TOKEN_COMMAND {
        return Some(
            hardening::harden(SecretMemory::default()).map_err(Into::into).and_then(|()| token::child::run()),
        );
    }
    if command == SEARCH_COMMAND {
        let hardened = hardening::harden(SecretMemory::default()).map_err(Into::into);
        return Some(hardened.and_then(|()| run_search_process()));
    }
    (command == COMMAND).then(|| {
        hardening::harden(secrets(rest))?;
        logging::start(&log(rest));
        process::run_child()
    })
}

/// How such a process ended, as an exit code, and on stderr when it was an error.
pub fn report(program: &str, ended: Result<(), ChildError>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told when stderr is closed.
            writeln!(std::io::stderr(), "{program}: error: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

/// The settings that [`program`] has written.
fn log(arguments: &[OsString]) -> Log {
    let said = |word: &str| arguments.iter().any(|argument| argument == word);
    let levels = [Level::Error, Level::Warn, Level::Info, Level::Debug];
    let formats = [LogFormat::Auto, LogFormat::Text, LogFormat::Json, LogFormat::Journald];
    let default = Log::default();
    Log {
        level: levels.into_iter().find(|one| said(level(*one))).unwrap_or(default.level),
        format: formats.into_iter().find(|one| said(format(*one))).unwrap_or(default.format),
    }
}

fn secrets(arguments: &[OsString]) -> SecretMemory {
    let locked = arguments.iter().any(|argument| argument == memory(SecretMemory::Locked));
    if locked { SecretMemory::Locked } else { SecretMemory::Auto }
}

fn memory(secrets: SecretMemory) -> &'static str {
    match secrets {
        SecretMemory::Auto => "memory-auto",
        SecretMemory::Locked => "memory-locked",
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

fn format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto => "auto",
        LogFormat::Text => "text",
        LogFormat::Json => "json",
        LogFormat::Journald => "journald",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_logs_as_the_daemon_does() {
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
            for format in [LogFormat::Auto, LogFormat::Text, LogFormat::Json, LogFormat::Journald] {
                let arguments = [super::level(level), super::format(format)].map(OsString::from);
                let read = log(&arguments);
                assert_eq!((read.level, read.format), (level, format));
            }
        }
    }

    #[test]
    fn the_process_protects_its_secrets_as_the_daemon_does() {
        for wanted in [SecretMemory::Auto, SecretMemory::Locked] {
            assert_eq!(secrets(&[memory(wanted).into()]), wanted);
        }
    }

    #[test]
    fn other_arguments_are_for_others() {
        assert!(run_if_asked(&[]).is_none());
        assert!(run_if_asked(&["--config".into(), COMMAND.into()]).is_none());
    }
}
