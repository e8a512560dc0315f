//! The command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    match keyward::daemon::child::run_if_asked(arguments.get(1..).unwrap_or_default()) {
        Some(ended) => keyward::daemon::child::report("keyward", ended),
        None => keyward::cli::run(arguments).into(),
    }
}
