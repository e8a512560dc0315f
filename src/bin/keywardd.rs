//! The daemon.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use keyward::config::{Config, ConfigError};
use keyward::daemon::Checked;

/// Hardware-backed key-management and crypto daemon.
#[derive(Parser)]
#[command(version, after_help = "Example: keywardd --config /etc/keyward/keywardd.toml")]
struct Arguments {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/keyward/keywardd.toml")]
    config: PathBuf,
    /// Check the configuration and exit
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(ended) = keyward::daemon::child::run_if_asked(&words) {
        return keyward::daemon::child::report("keywardd", ended);
    }
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told when stderr is closed.
            writeln!(std::io::stderr(), "keywardd: error: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(ConfigError::Faulty { path, faults, read }) => {
            let told = faults.into_iter().map(|fault| format!("{}: {fault}", path.display()));
            // What the machine says of it, as well.
            let further =
                read.filter(|_| arguments.check_config).map(|config| keyward::daemon::check(&config).faults);
            let further = further.unwrap_or_default().into_iter().map(|fault| fault.to_string());
            return Err(all_of(told.chain(further)));
        }
        Err(unreadable) => return Err(unreadable.into()),
    };
    if arguments.check_config {
        return check(&arguments.config, &config);
    }
    Ok(keyward::daemon::run(&config)?)
}

/// Says all that is wrong, or that nothing is.
fn check(file: &Path, config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let Checked { faults, warnings } = keyward::daemon::check(config);
    for warning in warnings {
        writeln!(std::io::stderr(), "keywardd: warning: {warning}").ok();
    }
    if faults.is_empty() {
        writeln!(std::io::stdout(), "{} is good", file.display())?;
        return Ok(());
    }
    Err(all_of(faults.iter().map(ToString::to_string)))
}

/// Says all but the last, and answers that, which is said at the end.
fn all_of(faults: impl Iterator<Item = String>) -> Box<dyn std::error::Error> {
    let mut faults: Vec<_> = faults.collect();
    let last = faults.pop().unwrap_or_default();
    for fault in faults {
        // Nobody is left to be told when stderr is closed.
        writeln!(std::io::stderr(), "keywardd: error: {fault}").ok();
    }
    last.into()
}
