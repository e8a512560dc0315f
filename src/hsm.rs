//! The hardware security module, seen from outside.
//!
//! The interface is shaped like a process boundary: lists of operations go in,
//! owned values come out. Callers name keys by their wrapped bytes; a PKCS#11
//! handle never leaves this module.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::id::RootId;
use crate::keyring::wrapped::{SealedKey, WrappedKek};
use crate::secret::{Key256, SecretBytes};

pub mod pin;
pub mod pkcs11;

/// A source of keys and of cryptography under keys that never leave it.
///
/// Contract:
/// - `run` executes the operations in order on one session. Each operation
///   answers for itself: an error in one does not stop the next.
/// - A full queue answers [`HsmError::Busy`] at once; no call waits without
///   bound for a place. A call that outlasts the deadline answers
///   [`HsmError::Unavailable`].
/// - An operation that failed because the connection was lost is repeated once
///   on a new connection when that is safe (every operation here is: none has
///   an effect outside its answer).
/// - [`HsmError::Integrity`] is answered only after the session was probed with
///   a known answer; a sick module never turns into "your data is damaged".
/// - Dropping the future does not stop work that has begun.
#[async_trait]
pub trait Hsm: Send + Sync + 'static {
    /// Executes operations; the answer has one entry for each, in order.
    async fn run(&self, operations: Vec<Operation>) -> Vec<Result<Reply, HsmError>>;

    /// The state of the connection, now and at each change.
    fn status(&self) -> watch::Receiver<Status>;

    /// Operations executed by the hardware since the start: the benchmark's and the operator's measure.
    fn operations(&self) -> u64;
}

/// One operation.
#[derive(Debug)]
pub enum Operation {
    /// `len` bytes from the module's generator. Answer: [`Reply::Random`].
    Random {
        /// Bytes wanted, at most 4096.
        len: usize,
    },
    /// Makes a tenant KEK and wraps it under the root. Answer: [`Reply::Wrapped`].
    GenerateKek {
        /// The root that wraps it.
        root: RootId,
    },
    /// Makes a DEK (HKDF-Extract over 32 bytes each from the module and from
    /// the operating system) and seals it. Answer: [`Reply::NewKey`].
    GenerateKey {
        /// The KEK that seals it.
        kek: Kek,
        /// Bound to the sealed key.
        aad: Vec<u8>,
    },
    /// Opens a sealed key. Answer: [`Reply::Key`].
    OpenKey {
        /// The KEK that sealed it.
        kek: Kek,
        /// What it was bound to.
        aad: Vec<u8>,
        /// The sealed key.
        sealed: SealedKey,
    },
    /// Opens a sealed key and seals it under another KEK, inside the HSM
    /// process. Answer: [`Reply::Sealed`].
    MoveKey {
        /// The KEK that sealed it.
        from: Kek,
        /// What it was bound to.
        from_aad: Vec<u8>,
        /// The sealed key.
        sealed: SealedKey,
        /// The KEK that shall seal it.
        to: Kek,
        /// What it shall be bound to.
        to_aad: Vec<u8>,
    },
}

/// The answer to one [`Operation`].
#[derive(Debug)]
pub enum Reply {
    /// Random bytes.
    Random(SecretBytes),
    /// A KEK wrapped under the root.
    Wrapped(WrappedKek),
    /// A new key, open and sealed.
    NewKey {
        /// The key itself.
        key: Key256,
        /// The same, sealed under the KEK.
        sealed: SealedKey,
    },
    /// An opened key.
    Key(Key256),
    /// A key sealed anew.
    Sealed(SealedKey),
}

/// Names a KEK by what it is: the root that wraps it and the wrapped bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kek {
    /// The root key under which it is wrapped.
    pub root: RootId,
    /// The wrapped key.
    pub wrapped: WrappedKek,
}

/// The token that serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenInfo {
    /// Its label, trailing spaces removed.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
}

/// The state of the connection to the HSM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not connected yet.
    Starting,
    /// Serving. `epoch` grows with each connection.
    Ready {
        /// Number of this connection, from 1.
        epoch: u64,
        /// The token.
        token: TokenInfo,
    },
    /// Away; a new attempt follows by itself.
    Down {
        /// Why, in words for the operator.
        reason: String,
    },
    /// Refused: no new attempt until a person acts (wrong PIN, unsafe module, wrong token).
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HsmError {
    /// The queue is full.
    #[error("the HSM queue is full; retry after {} ms", retry_after.as_millis())]
    Busy {
        /// How long to wait before another try.
        retry_after: Duration,
    },
    /// The HSM is away, or did not answer in time.
    #[error("the HSM is not available: {0}")]
    Unavailable(String),
    /// The wrapped or sealed key is damaged, or belongs to another root, KEK or context.
    #[error("a wrapped key did not verify in the HSM")]
    Integrity,
    /// The token does not have the root key that wraps this KEK.
    #[error("the token has no root key {0}")]
    UnknownRoot(RootId),
    /// The module answered something it must not.
    #[error("the HSM misbehaved: {0}")]
    Misbehaved(String),
}
