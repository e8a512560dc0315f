//! Wiring: start, listen, serve, stop.

mod admission;
pub mod backup;
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
pub mod restore;
mod schedule;
pub mod settings;
mod stop;
pub mod unlock;

pub use hardening::harden;
pub use init::init;
pub use run::{Checked, check, run};
pub use settings::{TokenError, hsm as hsm_settings, token as token_uri};
