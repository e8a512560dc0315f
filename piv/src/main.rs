//! `keyward-piv`: the token process of `keyward token … --piv`. It talks to PIV cards through PC/SC and
//! answers `keyward`, which starts it; no user calls it.
//!
//! ```text
//! backend    cards in readers             card      one that is logged in to
//! slots      what is in a card            padding   RSA, which PIV leaves to the host
//! management new keys and certificates    trouble   what went wrong, in Keyward's words
//! ```

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

mod backend;
mod card;
mod management;
mod padding;
mod slots;
mod trouble;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 || std::io::stdin().is_terminal() {
        // Nobody is left to be told when stderr is closed.
        writeln!(
            std::io::stderr(),
            "keyward-piv is started by `keyward token … --piv`; there is nothing to do with it by hand"
        )
        .ok();
        return ExitCode::from(2);
    }
    let ended = keyward::daemon::child::run_token_process(backend::Piv::new);
    keyward::daemon::child::report("keyward-piv", ended)
}
