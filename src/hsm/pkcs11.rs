//! The PKCS#11 backend: what runs in the process that has loaded the module.
//!
//! ```text
//! pool        session threads                                      root  check
//! execute     one operation on one session
//! connection  login, handles and caches
//! selftest  quirks  kek_cache  login
//! module  primitive  raw   the library, calls on a session, what cryptoki does not wrap
//! token  objects  mechanisms        what a token says of itself, what is stored on it, and names
//! ```

use std::path::PathBuf;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::hsm::confine::Confinement;

pub mod check;
mod connection;
mod error;
mod execute;
mod hush;
mod kek_cache;
mod login;
mod mechanisms;
mod module;
mod objects;
pub mod pool;
mod primitive;
pub mod quirks;
mod raw;
pub mod root;
pub mod selftest;
mod token;

pub use crate::id::token::TokenSelector;
pub use check::{CheckReport, Timing};
pub use error::ConnectError;
pub(crate) use error::{code, words};
pub(crate) use raw::Raw;
pub(crate) use token::Token;

/// How to reach a token, and how much to ask of it.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Settings {
    /// The vendor's PKCS#11 library: an absolute path.
    #[n(0)]
    pub module: PathBuf,
    /// What the library wants to be told when it is initialised (`pReserved`); most want nothing.
    #[n(7)]
    pub init_args: Option<String>,
    /// Which token.
    #[n(1)]
    pub token: TokenSelector,
    /// Folder of the record of refused PINs; it must exist.
    #[n(2)]
    pub state_dir: PathBuf,
    /// Session threads: the number of processor cores for a token in software, 8 to 16 for an HSM.
    #[n(3)]
    pub sessions: usize,
    /// Unwrapped KEKs kept in the token's session memory.
    #[n(4)]
    pub kek_cache: usize,
    /// Longest time that an unwrapped KEK stays in the token's session memory.
    #[n(6)]
    pub kek_ttl: Duration,
    /// Uses of an unwrapped KEK before it is unwrapped anew.
    #[n(8)]
    pub kek_uses: u64,
    /// A connection is proved healthy this often.
    #[n(5)]
    pub probe_interval: Duration,
    /// Token objects that Keyward may have on the token; at this number no resident KEK is made any more.
    #[n(9)]
    pub max_objects: usize,
    /// What the library may reach.
    #[n(10)]
    pub confinement: Confinement,
}

impl Settings {
    /// Default of [`Settings::sessions`].
    pub const SESSIONS: usize = 2;
    /// Default of [`Settings::kek_cache`].
    pub const KEK_CACHE: usize = 4096;
    /// Default of [`Settings::kek_ttl`].
    pub const KEK_TTL: Duration = Duration::from_secs(60 * 60);
    /// Default of [`Settings::kek_uses`].
    pub const KEK_USES: u64 = 1_000_000;
    /// Default of [`Settings::max_objects`]: what small HSMs hold.
    pub const MAX_OBJECTS: usize = 256;
    /// Default of [`Settings::probe_interval`].
    pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

    /// Settings with the defaults above.
    pub fn new(module: PathBuf, token: TokenSelector, state_dir: PathBuf) -> Self {
        Self {
            module,
            init_args: None,
            token,
            state_dir,
            sessions: Self::SESSIONS,
            kek_cache: Self::KEK_CACHE,
            kek_ttl: Self::KEK_TTL,
            kek_uses: Self::KEK_USES,
            probe_interval: Self::PROBE_INTERVAL,
            max_objects: Self::MAX_OBJECTS,
            confinement: Confinement::default(),
        }
    }
}
