//! Why a command failed: what is printed, and the exit code.

use std::path::{Path, PathBuf};

use super::exit::Exit;
use super::hint;
use crate::client::{Error, StreamError};

/// What to do where the operating system does not let this user.
const FORBIDDEN: &str = "what is the daemon's own is done as its user: as root, `as_keyward` instead of `keyward`; another person's file is handed over by whoever has it, for example by `install -o USER FILE FOLDER`";

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The daemon refused, or cannot be reached.
    #[error(transparent)]
    Daemon(#[from] Error),
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The input is not what it must be.
    #[error("{0}")]
    Input(String),
    /// The operating system does not let this user do it.
    #[error("{0}")]
    Forbidden(String),
    /// Refused on this side for one of the reasons of docs/errors.md, which decides exit code and hint.
    #[error("{message}")]
    Refused {
        /// The reason.
        reason: &'static str,
        /// What happened.
        message: String,
    },
    /// A file or pipe cannot be read or written.
    #[error("cannot {doing} {}: {source}", .path.display())]
    File {
        /// What was tried, as a verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The output exists already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// Raw bytes would go to a terminal.
    #[error("the output is binary and would go to the terminal")]
    Terminal,
    /// One cell of a table.
    #[error("line {line}, column {column:?}: {error}")]
    Cell {
        /// From 1.
        line: u64,
        /// The name in the header.
        column: String,
        /// What went wrong.
        error: Box<Failure>,
    },
    /// Some of many failed; each was reported.
    #[error("{failed} of {total} failed; they were left as they were")]
    Partial {
        /// How many failed.
        failed: u64,
        /// Of how many.
        total: u64,
    },
    /// A signal said stop.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// A file or pipe that cannot be used; `doing` is a verb.
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { doing, path: path.into(), source }
    }

    /// What work on local files failed with.
    pub(crate) fn local(error: &(dyn std::error::Error + 'static)) -> Self {
        let is_forbidden = |error: &(dyn std::error::Error + 'static)| {
            let refused = error.downcast_ref::<std::io::Error>();
            refused.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        };
        let message = error.to_string();
        let forbidden = std::iter::successors(Some(error), |error| error.source()).any(is_forbidden);
        if forbidden { Self::Forbidden(message) } else { Self::Input(message) }
    }

    /// What was named is not there.
    pub(crate) fn missing(message: String) -> Self {
        Self::Refused { reason: "NOT_FOUND", message }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Daemon(error) => Exit::of(error),
            Self::Usage(_) | Self::Terminal => Exit::Usage,
            Self::Input(_) | Self::File { .. } | Self::Forbidden(_) | Self::Exists(_) => Exit::Refused,
            Self::Refused { reason, .. } => hint::row(reason).map_or(Exit::Refused, |row| row.exit),
            Self::Cell { error, .. } => error.exit(),
            Self::Partial { .. } => Exit::Partial,
            Self::Interrupted => Exit::Interrupted,
        }
    }

    /// The gRPC code, or the kind of failure on this side.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::Daemon(error) => format!("{:?}", error.code),
            Self::Cell { error, .. } => error.code(),
            other => format!("{:?}", other.exit()),
        }
    }

    /// Which refusal, in one word.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Daemon(error) => error.reason(),
            Self::Usage(_) | Self::Terminal => "USAGE",
            Self::Input(_) => "INPUT_INVALID",
            Self::Refused { reason, .. } => reason,
            Self::File { .. } | Self::Forbidden(_) => "FILE",
            Self::Exists(_) => "FILE_EXISTS",
            Self::Cell { error, .. } => error.reason(),
            Self::Partial { .. } => "PARTIAL",
            Self::Interrupted => "INTERRUPTED",
        }
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        let hint = match self {
            Self::Exists(_) => "give another --out, or --force where the command has it",
            Self::Forbidden(_) => FORBIDDEN,
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => FORBIDDEN,
            Self::Terminal => "redirect it to a file, or give --out FILE",
            Self::Usage(_) => "see --help",
            other => hint::row(other.reason()).map_or("", |row| row.hint),
        };
        (!hint.is_empty()).then_some(hint)
    }
}

impl Failure {
    /// A stream between two places.
    pub(crate) fn stream(error: StreamError, input: &Path, output: &Path) -> Self {
        match error {
            StreamError::Daemon(error) => Self::Daemon(error),
            StreamError::Read(source) => Self::file("read", input)(source),
            StreamError::Write(source) => Self::file("write", output)(source),
        }
    }
}
