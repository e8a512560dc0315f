//! The command line `keyward`: thin commands over the client.
//!
//! Each file is one noun. [`print`] alone prints; [`exit`] and [`hint`] say how a failure ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

mod account;
mod admin;
mod audit;
mod backup;
mod ceremony;
mod certificate;
mod clock;
mod context;
mod crypt;
mod csv;
mod data_key;
mod destroy;
mod document;
mod enrolment;
mod erasure;
pub mod exit;
mod failure;
mod freeze;
mod hint;
mod hsm;
mod html;
mod index;
mod init;
mod key;
mod local;
mod name;
mod output;
mod print;
mod progress;
mod reload;
mod root;
mod span;
mod store;
mod tenant;
mod text;
mod token;
mod version;
mod view;

use exit::Exit;
use failure::Failure;
use print::Printer;

use crate::client::Client;
use crate::rpc::proto::{GetStatusRequest, status::Serving};

const SOCKET: &str = "/run/keyward/keyward.sock";
const SOCKET_VARIABLE: &str = "KEYWARD_SOCKET";

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 refused or bad input, 2 usage, 3 not permitted, 4 not found, 5 daemon or HSM
unavailable (try again), 6 does not verify, 7 partial failure, 70 internal, 130 interrupted.

Example:
  keyward tenant create acme
  keyward key create acme/customer-pii
  printf 0912345678 | keyward encrypt acme/customer-pii --context table=customers";

/// Manages keys and encrypts data with keywardd, the hardware-backed key daemon.
#[derive(Debug, Parser)]
#[command(name = "keyward", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_display_order = 100)]
struct Global {
    /// Socket of keywardd [default: $KEYWARD_SOCKET, else /run/keyward/keyward.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print results and errors as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print neither notes nor progress
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what the daemon is and how it is; exit code 5 when it serves nothing
    #[command(after_help = "Example:\n  keyward status --json")]
    Status,
    /// Manage tenants
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Manage the named keys of a tenant
    #[command(subcommand)]
    Key(key::Command),
    /// Manage single versions of a key
    #[command(subcommand)]
    Version(version::Command),
    /// Freeze and unfreeze callers
    #[command(subcommand)]
    Principal(freeze::PrincipalCommand),
    /// Manage staff accounts, their one-time passwords and tokens
    #[command(subcommand)]
    Account(account::Command),
    /// What administrators approve with their tokens
    #[command(subcommand)]
    Admin(admin::Command),
    /// Compute and rotate blind indexes
    #[command(subcommand)]
    Index(index::Command),
    /// Encrypt a field, a file, or columns of a CSV file
    Encrypt(crypt::Encrypt),
    /// Decrypt a field, a file, or columns of a CSV file
    Decrypt(crypt::Decrypt),
    /// Move a field, or columns of a CSV file, to the primary version of the key
    ReEncrypt(crypt::ReEncrypt),
    /// Make and open data keys, for encryption outside the daemon
    #[command(subcommand)]
    DataKey(data_key::Command),
    /// Make the root key, the store and the audit log of a new installation
    Init(init::Init),
    /// Use the USB tokens of custodians and staff, on the machine where they are plugged in
    #[command(subcommand)]
    Token(token::Command),
    /// Examine the HSM
    #[command(subcommand)]
    Hsm(hsm::Command),
    /// Make, restore and prove recovery exports
    #[command(subcommand)]
    Backup(backup::Command),
    /// Show and replace the erasure key; destroy one that no record names
    #[command(subcommand)]
    Erasure(erasure::Command),
    /// Copy, check and repair the store
    #[command(subcommand)]
    Store(store::Command),
    /// Say that the clock of the daemon is right
    #[command(subcommand)]
    Clock(clock::Command),
    /// Have the daemon read its configuration anew, and see what comes of it
    #[command(
        after_help = "It is put in force whole or not at all; exit code 1 when it has faults, and then the one before stays.\n\nExample:\n  keyward reload"
    )]
    Reload,
    /// Keep and restore the root key
    #[command(subcommand)]
    Root(root::Command),
    /// Propose, approve and verify what custodians decide together
    #[command(subcommand)]
    Ceremony(ceremony::Command),
    /// Verify and read the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Fetch, verify and read certificates of destruction
    #[command(subcommand)]
    Certificate(certificate::Command),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  keyward completions bash > ~/.local/share/bash-completion/completions/keyward"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What a command works with.
pub(crate) struct Shell {
    /// Where results and notes go.
    pub(crate) print: Printer,
    /// The socket, where one was named.
    socket: Option<PathBuf>,
}

impl Shell {
    /// Prints with `print`, connects to `socket`.
    pub(crate) fn new(print: Printer, socket: Option<PathBuf>) -> Self {
        Self { print, socket }
    }

    /// Connects to the daemon.
    ///
    /// # Errors
    /// [`Failure::Daemon`] that says what is wrong with the socket.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        self.client_at(Path::new(SOCKET)).await
    }

    /// Connects to the daemon at `usual`, unless another socket was named.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub(crate) async fn client_at(&self, usual: &Path) -> Result<Client, Failure> {
        Ok(Client::connect(self.socket.as_deref().unwrap_or(usual)).await?)
    }
}

/// Runs a command line, the program's name first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args: Vec<_> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            let json = args.iter().any(|arg| arg == "--json");
            return usage(&error, &mut Printer::standard(json, false));
        }
    };
    let socket = cli.global.socket.or_else(|| std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from));
    let print = Printer::standard(cli.global.json, cli.global.quiet);
    let mut shell = Shell::new(print, socket);
    let result = block_on(cli.command.run(&mut shell));
    result.unwrap_or_else(|failure| shell.print.failure(&failure))
}

/// What clap has to say: help and version are results, everything else is wrong usage.
fn usage(error: &clap::Error, print: &mut Printer) -> Exit {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return print.text(&text).map_or_else(|failure| failure.exit(), |()| Exit::Ok);
    }
    print.usage(&text)
}

fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::file("start", "the runtime".as_ref()))?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = command => result,
            signal = interrupted() => signal.and(Err(Failure::Interrupted)),
        }
    });
    // A read of stdin cannot be cancelled; nothing waits for it.
    runtime.shutdown_background();
    result
}

/// Waits for Ctrl-C, SIGTERM, or SIGHUP when the terminal is gone, so that unfinished files are removed on the
/// way out.
async fn interrupted() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failure = || Failure::file("watch", "signals".as_ref());
    let mut terminate = signal(SignalKind::terminate()).map_err(failure())?;
    // `nohup` has it ignored, and means that.
    let hangup = (!ignores_hangup()).then(|| signal(SignalKind::hangup()));
    let mut hangup = hangup.transpose().map_err(failure())?;
    tokio::select! {
        signal = tokio::signal::ctrl_c() => signal.map_err(failure()),
        _ = terminate.recv() => Ok(()),
        Some(_) = async { hangup.as_mut()?.recv().await } => Ok(()),
    }
}

/// Whether this process was started with SIGHUP ignored.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit n - 1 is signal n.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

impl Command {
    async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Status => status(shell).await,
            Self::Tenant(command) => command.run(shell).await,
            Self::Key(command) => command.run(shell).await,
            Self::Version(command) => command.run(shell).await,
            Self::Principal(command) => command.run(shell).await,
            Self::Account(command) => command.run(shell).await,
            Self::Admin(command) => command.run(shell).await,
            Self::Index(command) => command.run(shell).await,
            Self::Encrypt(command) => command.run(shell).await,
            Self::Decrypt(command) => command.run(shell).await,
            Self::ReEncrypt(command) => command.run(shell).await,
            Self::DataKey(command) => command.run(shell).await,
            Self::Init(command) => command.run(shell).await,
            Self::Token(command) => command.run(shell).await,
            Self::Hsm(command) => command.run(shell).await,
            Self::Backup(command) => command.run(shell).await,
            Self::Erasure(command) => command.run(shell).await,
            Self::Store(command) => command.run(shell).await,
            Self::Clock(command) => command.run(shell).await,
            Self::Audit(command) => command.run(shell).await,
            Self::Reload => reload::run(shell).await,
            Self::Root(command) => command.run(shell).await,
            Self::Ceremony(command) => command.run(shell).await,
            Self::Certificate(command) => command.run(shell).await,
            Self::Completions { shell: kind } => completions(kind, shell),
        }
    }
}

async fn status(shell: &mut Shell) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let status = client.call(client.system().get_status(GetStatusRequest {})).await?;
    shell.print.view(&status)?;
    Ok(if status.serving() == Serving::NotServing { Exit::Unavailable } else { Exit::Ok })
}

fn completions(kind: clap_complete::Shell, shell: &mut Shell) -> Result<Exit, Failure> {
    use clap::CommandFactory;
    let mut script = Vec::new();
    clap_complete::generate(kind, &mut Cli::command(), "keyward", &mut script);
    shell.print.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests;
