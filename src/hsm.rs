//! The hardware security module, seen from outside.
//!
//! The interface is shaped like a process boundary: lists of operations go in,
//! owned values come out. Callers name keys by their wrapped bytes; a PKCS#11
//! handle never leaves this module.

use std::time::Duration;

use async_trait::async_trait;
use minicbor::{Decode, Encode};
use tokio::sync::watch;

use crate::hsm::birth::{BackupPlan, NewRoot, Newborn, Purpose, Standing};
use crate::hsm::confine::Confined;
use crate::hsm::figures::{CacheFigures, Figures, Objects};
use crate::hsm::process::TaskError;
use crate::id::RootId;
pub use crate::id::token::TokenInfo;
use crate::keyring::record::KekRecord;
use crate::keyring::signing::{Signature, SigningKey};
use crate::keyring::wrapped::{Canary, SealedKey, WrappedKek};
use crate::secret::{Key256, SecretBytes, transfer};

pub mod birth;
pub mod confine;
pub mod figures;
pub mod pin;
pub mod pkcs11;
pub mod process;

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

    /// Has every token destroy what it keeps open of these KEKs, or of all.
    /// Returns at once; work that is handed over later finds them gone.
    fn forget(&self, keks: Forget);

    /// The state of the connection, now and at each change.
    fn status(&self) -> watch::Receiver<Status>;

    /// The state of each token of the group.
    fn slots(&self) -> Vec<SlotStatus>;

    /// What was done since the start.
    fn figures(&self) -> Figures;

    /// The caches of unwrapped KEKs, of all tokens together.
    fn keks(&self) -> CacheFigures;

    /// From now on every token must open this canary, at each health probe and
    /// at each new connection, instead of the one before.
    fn expect(&self, canary: Canary);

    /// Makes a master key on every token of the group, with escrow at birth.
    /// `keep` must keep the escrow durably; it is called before the first token object
    /// is made.
    ///
    /// # Errors
    /// [`TaskError`]; except for [`TaskError::Half`], nothing stays on any token.
    async fn create_root(
        &self,
        purpose: Purpose,
        plan: BackupPlan,
        keep: KeepNewborn<'_>,
    ) -> Result<NewRoot, TaskError>;

    /// The keys that Keyward has made on the tokens for this purpose.
    ///
    /// # Errors
    /// [`TaskError`] when a token cannot be asked.
    async fn roots(&self, purpose: Purpose) -> Result<Vec<RootId>, TaskError>;

    /// The keys that Keyward has made for these purposes: one entry for each key and each token that has it.
    /// No token is left out: one that cannot be asked is an error.
    ///
    /// # Errors
    /// [`TaskError`] when a token cannot be asked.
    async fn standing(&self, purposes: &[Purpose]) -> Result<Vec<Standing>, TaskError>;

    /// Destroys such a key on every token of the group, and proves for each that it is
    /// gone. A token that has none is passed over, so it may be repeated.
    ///
    /// # Errors
    /// [`TaskError`] when a token cannot be asked, or keeps the key.
    async fn destroy_root(&self, id: RootId) -> Result<(), TaskError>;
}

/// Keeps the escrow of a new root durably, or says why it could not.
pub type KeepNewborn<'a> = Box<
    dyn FnOnce(Newborn) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>
        + Send
        + 'a,
>;

/// KEKs whose handles are to be given up.
#[derive(Debug, Clone, Encode, Decode)]
pub enum Forget {
    /// Every KEK.
    #[n(0)]
    All,
    /// These.
    #[n(1)]
    These(#[n(0)] Vec<Kek>),
    /// Every KEK, and the handle of this root, which is about to be destroyed.
    #[n(2)]
    Root(#[n(0)] RootId),
}

/// One operation.
#[derive(Debug, Encode, Decode)]
pub enum Operation {
    /// `len` bytes from the module's generator. Answer: [`Reply::Random`].
    #[n(0)]
    Random {
        /// Bytes wanted, at most 4096.
        #[n(0)]
        len: usize,
    },
    /// Makes a tenant KEK and wraps it under the root. Answer: [`Reply::Wrapped`].
    #[n(1)]
    GenerateKek {
        /// The root that wraps it.
        #[n(0)]
        root: RootId,
    },
    /// Makes a DEK (HKDF-Extract over 32 bytes each from the module and from
    /// the operating system) and seals it. Answer: [`Reply::NewKey`].
    #[n(2)]
    GenerateKey {
        /// The KEK that seals it.
        #[n(0)]
        kek: Kek,
        /// Bound to the sealed key.
        #[cbor(n(1), with = "minicbor::bytes")]
        aad: Vec<u8>,
    },
    /// Opens a sealed key. Answer: [`Reply::Key`].
    #[n(3)]
    OpenKey {
        /// The KEK that sealed it.
        #[n(0)]
        kek: Kek,
        /// What it was bound to.
        #[cbor(n(1), with = "minicbor::bytes")]
        aad: Vec<u8>,
        /// The sealed key.
        #[n(2)]
        sealed: SealedKey,
    },
    /// Opens a sealed key and seals it under another KEK, inside the HSM
    /// process. Answer: [`Reply::Sealed`].
    #[n(4)]
    MoveKey {
        /// The KEK that sealed it.
        #[n(0)]
        from: Kek,
        /// What it was bound to.
        #[cbor(n(1), with = "minicbor::bytes")]
        from_aad: Vec<u8>,
        /// The sealed key.
        #[n(2)]
        sealed: SealedKey,
        /// The KEK that shall seal it.
        #[n(3)]
        to: Kek,
        /// What it shall be bound to.
        #[cbor(n(4), with = "minicbor::bytes")]
        to_aad: Vec<u8>,
    },
    /// Makes a P-256 key pair whose private key is wrapped under a KEK of its
    /// own. Answer: [`Reply::NewSigningKey`].
    #[n(5)]
    GenerateSigningKey {
        /// The root that wraps the KEK.
        #[n(0)]
        root: RootId,
    },
    /// Signs a SHA-256 digest with ECDSA. Answer: [`Reply::Signature`], which
    /// was verified. Two answers differ, and each is as good.
    #[n(6)]
    Sign {
        /// The key.
        #[n(0)]
        key: SigningKey,
        /// What is signed.
        #[cbor(n(1), with = "minicbor::bytes")]
        digest: [u8; 32],
    },
}

/// The answer to one [`Operation`].
#[derive(Debug, Encode, Decode)]
pub enum Reply {
    /// Random bytes.
    #[n(0)]
    Random(#[cbor(n(0), with = "transfer::bytes")] SecretBytes),
    /// A KEK wrapped under the root.
    #[n(1)]
    Wrapped(#[n(0)] WrappedKek),
    /// A new key, open and sealed.
    #[n(2)]
    NewKey {
        /// The key itself.
        #[cbor(n(0), with = "transfer::key")]
        key: Key256,
        /// The same, sealed under the KEK.
        #[n(1)]
        sealed: SealedKey,
    },
    /// An opened key.
    #[n(3)]
    Key(#[cbor(n(0), with = "transfer::key")] Key256),
    /// A key sealed anew.
    #[n(4)]
    Sealed(#[n(0)] SealedKey),
    /// A new signing key; it has signed once.
    #[n(5)]
    NewSigningKey(#[n(0)] SigningKey),
    /// A signature that verifies.
    #[n(6)]
    Signature(#[n(0)] Signature),
}

/// Names a KEK by where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Kek {
    /// In the store: unwrapped into the HSM as a session object while it is used.
    #[n(0)]
    Sealed {
        /// The root key under which it is wrapped.
        #[n(0)]
        root: RootId,
        /// The wrapped key.
        #[n(1)]
        wrapped: WrappedKek,
    },
    /// In the HSM: a token object on every token of the group, with this CKA_ID.
    #[n(1)]
    Resident(#[n(0)] RootId),
}

impl Kek {
    /// The KEK of a record.
    pub fn of(record: &KekRecord) -> Self {
        match record.resident {
            Some(_) => Self::Resident(record.root),
            None => Self::Sealed { root: record.root, wrapped: record.wrapped.clone() },
        }
    }

    /// The KEK under which a canary is sealed.
    pub fn of_canary(canary: &Canary) -> Self {
        match &canary.kek {
            Some(wrapped) => Self::Sealed { root: canary.root, wrapped: wrapped.clone() },
            None => Self::Resident(canary.root),
        }
    }
}

/// The state of the connection to the HSM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not connected yet.
    Starting,
    /// Serving. `epoch` grows with each connection.
    Ready {
        /// Number of the newest connection that serves, from 1.
        epoch: u64,
        /// The token.
        token: TokenInfo,
    },
    /// Away; a new attempt follows by itself.
    Down {
        /// Why, in words for the operator.
        reason: String,
    },
    /// Refused until a person acts (wrong PIN, unsafe module, a token with another root).
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// One token of the group that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotStatus {
    /// The token, as it was asked for.
    pub name: String,
    /// The state of the connection to it.
    pub state: SlotState,
    /// How full it is, as it was last counted.
    pub objects: Option<Objects>,
    /// What its process may not do, as the newest one said.
    pub confinement: Option<Confined>,
}

/// The state of the connection to one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotState {
    /// Not connected yet.
    Starting,
    /// Serving.
    Ready {
        /// Number of this connection, from 1, among those of all slots.
        epoch: u64,
        /// The token.
        token: TokenInfo,
    },
    /// Away; a new attempt follows by itself.
    Down(String),
    /// Refused until a person acts.
    Refused(String),
    /// The token has another root; it is looked at again from time to time.
    Foreign(String),
}

impl SlotState {
    fn ready(&self) -> Option<(u64, &TokenInfo)> {
        match self {
            Self::Ready { epoch, token } => Some((*epoch, token)),
            _ => None,
        }
    }

    fn foreign(&self) -> Option<&str> {
        match self {
            Self::Foreign(reason) => Some(reason),
            _ => None,
        }
    }

    /// Why it does not serve.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Down(reason) | Self::Refused(reason) | Self::Foreign(reason) => Some(reason),
            Self::Starting | Self::Ready { .. } => None,
        }
    }
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum HsmError {
    /// The queue is full.
    #[error("the HSM queue is full; retry after {} ms", retry_after.as_millis())]
    #[n(0)]
    Busy {
        /// How long to wait before another try.
        #[n(0)]
        retry_after: Duration,
    },
    /// The HSM is away, or did not answer in time.
    #[error("the HSM is not available: {0}")]
    #[n(1)]
    Unavailable(#[n(0)] String),
    /// The wrapped or sealed key is damaged, or belongs to another root, KEK or context.
    #[error("a wrapped key did not verify in the HSM")]
    #[n(2)]
    Integrity,
    /// The token does not have this master key: the root that wraps a KEK, or a resident KEK.
    #[error("the token has no master key {0}")]
    #[n(3)]
    UnknownRoot(#[n(0)] RootId),
    /// The module answered something it must not.
    #[error("the HSM misbehaved: {0}")]
    #[n(4)]
    Misbehaved(#[n(0)] String),
}
