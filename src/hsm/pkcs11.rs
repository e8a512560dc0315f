//! The PKCS#11 backend.
//!
//! ```text
//! service     supervisor, session threads, queue, reconnection     root  check
//! execute     one operation on one session
//! connection  login, handles and caches of one epoch
//! selftest  quirks  kek_cache  login
//! module  primitive  raw   the library, calls on a session, what cryptoki does not wrap
//! uri                      which token
//! ```

use std::path::PathBuf;
use std::time::Duration;

use crate::hsm::pin::PinSource;

mod check;
mod connection;
mod error;
mod execute;
mod kek_cache;
mod login;
mod module;
mod primitive;
pub mod quirks;
mod raw;
mod root;
pub mod selftest;
mod service;
pub mod uri;

pub use check::{CheckReport, Timing, check};
pub use error::ConnectError;
pub use root::{Guards, NewRoot, RootError, create_root, roots};
pub use service::{Pkcs11Hsm, start};
pub use uri::TokenSelector;

/// How to reach the token, and how much to ask of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The vendor's PKCS#11 library: an absolute path.
    pub module: PathBuf,
    /// Which token.
    pub token: TokenSelector,
    /// Where the user PIN comes from.
    pub pin: PinSource,
    /// Folder of the record of refused PINs; it must exist.
    pub state_dir: PathBuf,
    /// Session threads: the number of processor cores for a token in software, 8 to 16 for an HSM.
    pub sessions: usize,
    /// Lists of operations that may wait for a session.
    pub queue: usize,
    /// Longest wait for the answer to one operation. Each further operation of
    /// the same list adds a fiftieth of it, since a list runs on one session.
    pub deadline: Duration,
    /// Unwrapped KEKs kept in the token's session memory.
    pub kek_cache: usize,
    /// An idle connection is proved healthy this often.
    pub probe_interval: Duration,
}

impl Settings {
    /// Default of [`Settings::sessions`].
    pub const SESSIONS: usize = 2;
    /// Default of [`Settings::queue`].
    pub const QUEUE: usize = 256;
    /// Default of [`Settings::deadline`].
    pub const DEADLINE: Duration = Duration::from_secs(5);
    /// Default of [`Settings::kek_cache`].
    pub const KEK_CACHE: usize = 4096;
    /// Default of [`Settings::probe_interval`].
    pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

    /// Settings with the defaults above.
    pub fn new(module: PathBuf, token: TokenSelector, pin: PinSource, state_dir: PathBuf) -> Self {
        Self {
            module,
            token,
            pin,
            state_dir,
            sessions: Self::SESSIONS,
            queue: Self::QUEUE,
            deadline: Self::DEADLINE,
            kek_cache: Self::KEK_CACHE,
            probe_interval: Self::PROBE_INTERVAL,
        }
    }
}
