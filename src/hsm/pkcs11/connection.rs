//! One connection: the login, and every handle and cache that dies with it.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cryptoki::error::Error;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::CK_MECHANISM_TYPE;

use crate::hsm::HsmError;
use crate::hsm::pin::RefusedPins;
use crate::hsm::pkcs11::Settings;
use crate::hsm::pkcs11::error::{ConnectError, words};
use crate::hsm::pkcs11::execute::{Executor, Failure, Own};
use crate::hsm::pkcs11::kek_cache::KekCache;
use crate::hsm::pkcs11::login::login;
use crate::hsm::pkcs11::module::{Library, Module};
use crate::hsm::pkcs11::primitive::{self, IV_LEN, Usage};
use crate::hsm::pkcs11::quirks::{self, Quirk};
use crate::hsm::pkcs11::selftest::{self, SelfTest};
use crate::id::RootId;
use crate::keyring::wrapped::Canary;
use crate::secret::Pin;

/// A connection with the session that holds its login.
///
/// The holder is opened first and closed last, so the login outlives every
/// other session. (Fields are dropped in the order in which they stand.)
pub(super) struct Connected {
    pub(super) holder: Session,
    pub(super) connection: Connection,
}

/// What all sessions of one connection share.
///
/// KEKs are unwrapped on the session that first needs them and used by all:
/// the sessions of a connection are closed together, so none outlives a key.
pub(super) struct Connection {
    pub(super) gcm_only: bool,
    /// The mechanism that is RFC 5649 in this module, if one is.
    pub(super) padded_wrap: Option<CK_MECHANISM_TYPE>,
    pub(super) roots: Mutex<HashMap<RootId, ObjectHandle>>,
    pub(super) keks: KekCache<Own>,
    pub(super) quirks: Vec<&'static Quirk>,
    /// The canary, once it was opened.
    canary: RwLock<Option<Canary>>,
    probe: Probe,
    pub(super) module: Module,
}

/// A session key and a ciphertext under it: the known answer of the health probe.
struct Probe {
    key: ObjectHandle,
    ciphertext: Vec<u8>,
}

impl Probe {
    const PLAINTEXT: &'static [u8] = b"keyward/1/health-probe";
    // Used once, under a key made for it.
    const IV: [u8; IV_LEN] = [1; IV_LEN];

    fn new(session: &Session) -> Result<Self, Error> {
        let key = primitive::generate(session, Usage::Cipher, false)?;
        let (ciphertext, _) = primitive::gcm_encrypt(session, key, Self::IV, b"", Self::PLAINTEXT)?;
        Ok(Self { key, ciphertext })
    }

    fn answer(&self, session: &Session) -> Result<(), String> {
        match primitive::gcm_decrypt(session, self.key, Self::IV, b"", &self.ciphertext) {
            Ok(plaintext) if plaintext.as_slice() == Self::PLAINTEXT => Ok(()),
            Ok(_) => Err("the health probe decrypted to something else".to_owned()),
            Err(error) => Err(format!("the health probe failed: {}", words(&error))),
        }
    }
}

impl Connected {
    /// Starts the library, finds the token, logs in, tests the module, and proves the root by its canary.
    pub(super) fn open(
        library: &Arc<Library>,
        settings: &Settings,
        pin: &Pin,
        canary: Option<Canary>,
        write: bool,
    ) -> Result<Self, ConnectError> {
        let module = library.open(settings)?;
        let holder = module.session(write)?;
        login(&module, &holder, pin, &RefusedPins::in_dir(&settings.state_dir))?;
        let selftest = tested(&module, &holder)?;
        let probe = Probe::new(&holder)
            .map_err(|error| ConnectError::Away(format!("cannot make the probe key: {}", words(&error))))?;
        let connection = Connection {
            gcm_only: selftest.gcm_only(),
            padded_wrap: selftest.padded_wrap(),
            roots: Mutex::default(),
            keks: KekCache::new(settings.kek_cache.max(1), settings.kek_ttl, settings.kek_uses),
            quirks: quirks::of(module.token()),
            canary: RwLock::default(),
            probe,
            module,
        };
        let connected = Self { holder, connection };
        canary.map_or(Ok(()), |canary| connected.prove_root(canary))?;
        Ok(connected)
    }

    /// Opens the canary. From then on the health probe asks for it too.
    fn prove_root(&self, canary: Canary) -> Result<(), ConnectError> {
        let token = self.connection.module.token();
        let refused = |reason: String| {
            Err(ConnectError::Foreign(format!(
                "token {:?} (serial {}) is not the one that this store was made with: {reason}; check hsm.token",
                token.label, token.serial
            )))
        };
        match self.connection.executor(&self.holder, &AtomicU64::new(0)).prove(&canary) {
            Ok(()) => {
                self.connection.expect(canary);
                Ok(())
            }
            Err(Failure::Lost(reason)) => Err(ConnectError::Away(reason)),
            Err(Failure::Answer(HsmError::Integrity)) => {
                refused(format!("its root key {} does not open the canary", canary.root))
            }
            Err(Failure::Answer(error)) => refused(error.to_string()),
        }
    }
}

/// Runs the self-test; tells a module that must not be used from one that is unwell.
fn tested(module: &Module, session: &Session) -> Result<SelfTest, ConnectError> {
    let selftest = selftest::heard_when_bad(module, session);
    let Some(reason) = selftest.failure() else { return Ok(selftest) };
    module.token_present().map_err(ConnectError::Away)?;
    Err(ConnectError::Unfit(format!("the PKCS#11 module must not be used: {reason}")))
}

impl Connection {
    /// What executes operations on a session; `operations` counts what it asks of the hardware.
    pub(super) fn executor<'a>(&'a self, session: &'a Session, operations: &'a AtomicU64) -> Executor<'a> {
        Executor { connection: self, session, operations }
    }

    /// Proves by known answers that session, token and root still work. Modules
    /// answer much from memory after their token has gone, so this asks for
    /// the token itself, a cipher, and a key that is stored in the token.
    pub(super) fn health(&self, session: &Session) -> Result<(), String> {
        self.module.token_present().map_err(|reason| format!("the token is gone: {reason}"))?;
        self.probe.answer(session)?;
        let canary = self.canary.read().unwrap_or_else(PoisonError::into_inner);
        let Some(canary) = &*canary else { return Ok(()) };
        self.executor(session, &AtomicU64::new(0)).probe_root(canary)
    }

    /// From now on the health probe asks for this canary, which was opened.
    pub(super) fn expect(&self, canary: Canary) {
        *self.canary.write().unwrap_or_else(PoisonError::into_inner) = Some(canary);
    }

    pub(super) fn known_root(&self, root: &RootId) -> Option<ObjectHandle> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).get(root).copied()
    }

    pub(super) fn forget_root(&self, root: &RootId) {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).remove(root);
    }

    pub(super) fn remember_root(&self, root: RootId, handle: ObjectHandle) {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).insert(root, handle);
    }
}
