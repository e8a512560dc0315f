//! Settings of a group of tokens.

use std::time::Duration;

use crate::child::Program;
use crate::hsm::pin::PinSource;
use crate::hsm::pkcs11;

/// A group of tokens that hold the same root keys, and how it is served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The tokens, at least one; a new root is born on the first.
    pub slots: Vec<Slot>,
    /// Lists of operations that may wait for a session.
    pub queue: usize,
    /// Longest wait for the answer to one operation. Each further operation of
    /// the same list adds a fiftieth of it, since a list runs on one session.
    /// A session that has not answered after half of it is given up.
    pub deadline: Duration,
    /// Most memory that an HSM process may use, in bytes; beyond it is replaced.
    pub memory: u64,
    /// What is started for each token.
    pub program: Program,
}

/// One token.
#[derive(Debug, Clone)]
pub struct Slot {
    /// How to reach it.
    pub hsm: pkcs11::Settings,
    /// Where its user PIN comes from.
    pub pin: PinSource,
}

impl Slot {
    /// The token, in words.
    pub fn name(&self) -> String {
        self.hsm.token.to_string()
    }
}

impl Settings {
    /// Default of [`Settings::queue`].
    pub const QUEUE: usize = 256;
    /// Default of [`Settings::deadline`].
    pub const DEADLINE: Duration = Duration::from_secs(5);
    /// Default of [`Settings::memory`].
    pub const MEMORY: u64 = 1 << 30;

    /// One token, with the defaults above.
    pub fn new(hsm: pkcs11::Settings, pin: PinSource, program: Program) -> Self {
        Self {
            slots: vec![Slot { hsm, pin }],
            queue: Self::QUEUE,
            deadline: Self::DEADLINE,
            memory: Self::MEMORY,
            program,
        }
    }

    /// Longest wait for the answer to `count` operations.
    pub(super) fn limit(&self, count: usize) -> Duration {
        let further = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
        self.deadline.saturating_add((self.deadline / 50).saturating_mul(further))
    }

    /// How long a login and the self-test may take.
    pub(super) fn connect_limit(&self) -> Duration {
        self.deadline.saturating_mul(6)
    }

    /// How long a session may take for `count` operations: half of the caller's
    /// wait, so that the other half is left for another process.
    pub(super) fn session_limit(&self, count: usize) -> Duration {
        self.limit(count) / 2
    }
}
