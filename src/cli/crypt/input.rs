//! Where a field comes from: an argument, stdin, or the keyboard without echo.

use std::io::IsTerminal;
use std::path::Path;

use tokio::io::AsyncReadExt;

use crate::cli::failure::Failure;
use crate::cli::print::Printer;

/// Longest field that is read; the daemon's own limit is lower.
const MAX_FIELD: u64 = 64 << 20;

/// One field.
pub(crate) enum Source {
    /// Given on the command line.
    Argument(String),
    /// To be read.
    Stdin,
}

impl Source {
    /// An argument, or stdin where there is none.
    pub(crate) fn of(argument: Option<String>) -> Self {
        argument.map_or(Self::Stdin, Self::Argument)
    }

    /// The bytes as they are.
    ///
    /// # Errors
    /// [`Failure`] when stdin cannot be read, or has more than a field.
    pub(crate) async fn bytes(self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Argument(text) => Ok(text.into_bytes()),
            Self::Stdin => read(tokio::io::stdin()).await,
        }
    }

    /// As [`bytes`](Self::bytes), but typed without echo when stdin is a terminal, and with a note when it
    /// was given where everybody can see it.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub(crate) async fn secret(self, what: &'static str, print: &mut Printer) -> Result<Vec<u8>, Failure> {
        if matches!(self, Self::Argument(_)) {
            print.note(&format!(
                "the {what} was an argument, which everybody on this machine can see and the shell may keep; \
                 give it on stdin"
            ));
        }
        match self {
            Self::Stdin if std::io::stdin().is_terminal() => {
                let typed = tokio::task::spawn_blocking(move || {
                    rpassword::prompt_password(format!("keyward: {what} (not shown): "))
                });
                let typed = typed.await.map_err(std::io::Error::other).flatten();
                Ok(typed.map_err(Failure::file("read", Path::new("the terminal")))?.into_bytes())
            }
            source => source.bytes().await,
        }
    }
}

async fn read(input: impl tokio::io::AsyncRead + Unpin) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_FIELD + 1).read_to_end(&mut bytes).await;
    read.map_err(Failure::file("read", Path::new("stdin")))?;
    if bytes.len() as u64 > MAX_FIELD {
        return Err(Failure::Input("stdin has more than 64 MiB: use --in - for files".into()));
    }
    Ok(bytes)
}
