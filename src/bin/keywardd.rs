//! The daemon.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use keyward::config::Config;
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
    let config = Config::read(&arguments.config)?;
    if arguments.check_config {
        return check(&arguments.config, &config);
    }
    Ok(keyward::daemon::run(&config)?)
}

/// Says all that is wrong, or that nothing is.
fn check(file: &Path, config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let Checked { mut faults, warnings } = keyward::daemon::check(config);
    for warning in warnings {
        writeln!(std::io::stderr(), "keywardd: warning: {warning}").ok();
    }
    let Some(last) = faults.pop() else {
        writeln!(std::io::stdout(), "{} is good", file.display())?;
        return Ok(());
    };
    for fault in faults {
        writeln!(std::io::stderr(), "keywardd: error: {fault}").ok();
    }
    Err(last.into())
}
