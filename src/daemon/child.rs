//! The HSM process and the token process: the same program, started by itself under another command.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use super::{hardening, logging};
use crate::child::{ChildError, Program};
use crate::config::{Level, Log, LogFormat};
use crate::hsm::process;
use crate::secret::SecretMemory;
use crate::token;

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

/// Runs as one of the processes, when the arguments (without the program's name) say so.
pub fn run_if_asked(arguments: &[OsString]) -> Option<Result<(), ChildError>> {
    let [command, rest @ ..] = arguments else { return None };
    if command == TOKEN_COMMAND {
        return Some(
            hardening::harden(SecretMemory::default()).map_err(Into::into).and_then(|()| token::child::run()),
        );
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
