//! Wiring: start, listen, serve, stop.

mod admission;
pub mod backup;
mod check;
pub mod init;
pub mod run;
pub mod transport;

pub mod bond;
pub mod child;
mod hardening;
mod history;
mod linger;
pub mod listen;
pub mod lock;
mod logging;
pub mod maintain;
pub mod once;
mod peer;
mod reload;
pub mod restore;
mod schedule;
pub mod settings;
mod state;
mod stop;
pub mod unlock;

pub use check::{Checked, check};
pub use hardening::harden;
pub use init::init;
pub use run::run;
pub use settings::{TokenError, hsm as hsm_settings, token as token_uri};
