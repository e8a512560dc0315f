//! The command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyward::cli::run(std::env::args_os()).into()
}
