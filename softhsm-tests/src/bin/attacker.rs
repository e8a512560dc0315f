//! Tries as a plain process what a confined library must not: the control of the tests of confinement.

// As the library does.
#![allow(unsafe_code)]

use std::io::Write;
use std::path::Path;

#[path = "../../fault/src/attack.rs"]
mod attack;

fn main() -> std::io::Result<()> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let [victim, configuration] = paths.as_slice() else {
        return Err(std::io::Error::other("attacker VICTIM CONFIGURATION"));
    };
    let said =
        attack::attempts(Path::new(victim), Path::new(configuration), std::os::unix::process::parent_id());
    std::io::stdout().write_all(said.as_bytes())
}
