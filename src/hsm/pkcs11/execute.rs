//! One operation on one session.
//!
//! A module's error code says little: the same code stands for a damaged
//! ciphertext on one module and for a dead token on another. So whatever fails
//! is followed by a health probe: when that fails too, the connection is lost;
//! when it succeeds, the operation itself was refused.

use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::error::Error;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::hsm::pkcs11::connection::Connection;
use crate::hsm::pkcs11::error::words;
use crate::hsm::pkcs11::kek_cache::Lease;
use crate::hsm::pkcs11::primitive::{self, IV_LEN, Usage, WRAPPED_LEN};
use crate::hsm::{HsmError, Kek, Operation, Reply};
use crate::id::RootId;
use crate::keyring::wrapped::{Canary, SealMechanism, SealedKey, WrapMechanism, WrappedKek};
use crate::secret::{Key256, SecretBytes};

/// Longest answer of [`Operation::Random`] in bytes.
const MAX_RANDOM: usize = 4096;

/// Why an operation has no reply.
#[derive(Debug)]
pub(super) enum Failure {
    /// This is the answer.
    Answer(HsmError),
    /// The connection is lost; the operation can be repeated on a new one.
    Lost(String),
}

impl From<HsmError> for Failure {
    fn from(error: HsmError) -> Self {
        Self::Answer(error)
    }
}

/// Executes operations on a session.
pub(super) struct Executor<'a> {
    pub(super) connection: &'a Connection,
    pub(super) session: &'a Session,
    /// Counts calls that use a key or the generator: one for each random draw,
    /// key generation, wrap, unwrap, encryption and decryption. Searches,
    /// attribute reads, self-tests and health probes do not count.
    pub(super) operations: &'a AtomicU64,
}

impl Executor<'_> {
    /// Executes a list in order.
    ///
    /// # Errors
    /// Why the connection is lost; then the whole list can be repeated.
    pub(super) fn run(&self, operations: &[Operation]) -> Result<Vec<Result<Reply, HsmError>>, String> {
        let answers = operations.iter().map(|operation| match self.execute(operation) {
            Ok(reply) => Ok(Ok(reply)),
            Err(Failure::Answer(error)) => Ok(Err(error)),
            Err(Failure::Lost(reason)) => Err(reason),
        });
        answers.collect()
    }

    fn execute(&self, operation: &Operation) -> Result<Reply, Failure> {
        let reply = match operation {
            Operation::Random { len } => Reply::Random(self.random(*len)?),
            Operation::GenerateKek { root } => Reply::Wrapped(self.generate_kek(root)?),
            Operation::GenerateKey { kek, aad } => {
                let (key, sealed) = self.generate_key(kek, aad)?;
                Reply::NewKey { key, sealed }
            }
            Operation::OpenKey { kek, aad, sealed } => Reply::Key(self.open_key(kek, aad, sealed)?),
            Operation::MoveKey { from, from_aad, sealed, to, to_aad } => {
                let key = self.open_key(from, from_aad, sealed)?;
                Reply::Sealed(self.seal_key(to, to_aad, &key)?)
            }
        };
        self.destroy_evicted()?;
        Ok(reply)
    }

    fn random(&self, len: usize) -> Result<SecretBytes, Failure> {
        if len > MAX_RANDOM {
            let reason = format!("{len} random bytes asked for at once, at most {MAX_RANDOM} are given");
            return Err(HsmError::Unavailable(reason).into());
        }
        let mut bytes = vec![0; len];
        self.fill_random(&mut bytes)?;
        Ok(SecretBytes::new(bytes))
    }

    fn fill_random(&self, buffer: &mut [u8]) -> Result<(), Failure> {
        if buffer.is_empty() {
            return Ok(());
        }
        self.count();
        self.session.generate_random_slice(buffer).map_err(|error| self.refusal(&error))
    }

    /// A KEK is born extractable, because otherwise it could not be wrapped; it
    /// lives so for one call and is destroyed whatever happens.
    pub(super) fn generate_kek(&self, root: &RootId) -> Result<WrappedKek, Failure> {
        let root = self.root(root)?;
        self.count();
        let key =
            primitive::generate(self.session, Usage::None, true).map_err(|error| self.refusal(&error))?;
        self.count();
        let wrapped = primitive::wrap(self.session, root, key);
        self.destroy(key)?;
        let bytes = wrapped.map_err(|error| self.refused_by(root, &error))?;
        if bytes.len() != WRAPPED_LEN {
            let reason = format!("a wrapped KEK has {} bytes instead of {WRAPPED_LEN}", bytes.len());
            return Err(HsmError::Misbehaved(reason).into());
        }
        Ok(WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes })
    }

    pub(super) fn generate_key(&self, kek: &Kek, aad: &[u8]) -> Result<(Key256, SealedKey), Failure> {
        let key = self.new_key()?;
        let sealed = self.seal_key(kek, aad, &key)?;
        Ok((key, sealed))
    }

    /// `HKDF-Extract(salt, 32 bytes of the module | 32 bytes of the operating
    /// system)` (RFC 5869): as strong as the better of the two generators.
    pub(super) fn new_key(&self) -> Result<Key256, Failure> {
        let mut seed = Zeroizing::new([0; 64]);
        let (hsm, os) = seed.split_at_mut(32);
        self.fill_random(hsm)?;
        getrandom::fill(os).map_err(|error| {
            HsmError::Unavailable(format!("the operating system gives no random bytes: {error}"))
        })?;
        Ok(Key256::init_with(|key| {
            let (mut extracted, _) = Hkdf::<Sha256>::extract(Some(b"keyward/1/new-key"), seed.as_slice());
            key.copy_from_slice(&extracted);
            extracted.as_mut_slice().zeroize();
        }))
    }

    pub(super) fn seal_key(&self, kek: &Kek, aad: &[u8], key: &Key256) -> Result<SealedKey, Failure> {
        let handle = self.kek(kek)?;
        let mut iv = [0; IV_LEN];
        self.fill_random(&mut iv)?;
        self.count();
        let (ciphertext, used) = primitive::gcm_encrypt(self.session, *handle, iv, aad, key.expose())
            .map_err(|error| self.refused_by(*handle, &error))?;
        if used != iv {
            return Err(HsmError::Misbehaved("it replaced the IV of an encryption".to_owned()).into());
        }
        let ciphertext = <[u8; 48]>::try_from(ciphertext).map_err(|wrong| {
            HsmError::Misbehaved(format!("a sealed key has {} bytes instead of 48", wrong.len()))
        })?;
        Ok(SealedKey { mechanism: SealMechanism::AesGcm, iv, ciphertext })
    }

    pub(super) fn open_key(&self, kek: &Kek, aad: &[u8], sealed: &SealedKey) -> Result<Key256, Failure> {
        let SealMechanism::AesGcm = sealed.mechanism;
        let handle = self.kek(kek)?;
        let plaintext = self.verified(*handle, || {
            primitive::gcm_decrypt(self.session, *handle, sealed.iv, aad, &sealed.ciphertext)
        })?;
        Key256::from_slice(&plaintext).ok_or_else(|| {
            HsmError::Misbehaved(format!("an opened key has {} bytes instead of 32", plaintext.len())).into()
        })
    }

    /// The handle of a KEK, unwrapped now when it is not in the cache.
    fn kek(&self, kek: &Kek) -> Result<Lease<ObjectHandle>, Failure> {
        self.connection.keks.lease(kek, || self.unwrap_kek(kek))
    }

    fn unwrap_kek(&self, kek: &Kek) -> Result<ObjectHandle, Failure> {
        let WrapMechanism::AesKeyWrap = kek.wrapped.mechanism;
        if kek.wrapped.bytes.len() != WRAPPED_LEN {
            return Err(HsmError::Integrity.into());
        }
        let root = self.root(&kek.root)?;
        let template = primitive::kek(self.connection.gcm_only);
        let handle =
            self.verified(root, || primitive::unwrap(self.session, root, &kek.wrapped.bytes, &template))?;
        self.only_protected(handle)
    }

    /// Some modules ignore the template of an unwrap, so it is read back each time.
    fn only_protected(&self, handle: ObjectHandle) -> Result<ObjectHandle, Failure> {
        let protected = primitive::protected(self.session, handle);
        if let Ok(true) = protected {
            return Ok(handle);
        }
        self.destroy(handle)?;
        match protected {
            Ok(_) => {
                let reason = "an unwrapped KEK is not sensitive and non-extractable".to_owned();
                Err(HsmError::Misbehaved(reason).into())
            }
            Err(error) => Err(self.refusal(&error)),
        }
    }

    /// The handle of a root key: looked up once in each connection.
    pub(super) fn root(&self, root: &RootId) -> Result<ObjectHandle, Failure> {
        if let Some(handle) = self.connection.known_root(root) {
            return Ok(handle);
        }
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::Token(true),
            Attribute::Id(root.0.to_vec()),
        ];
        let found = self.session.find_objects(&template).map_err(|error| self.refusal(&error))?;
        let handle = match found.as_slice() {
            [only] => *only,
            // A token that has gone also answers "none".
            [] => return Err(self.judged(HsmError::UnknownRoot(*root))),
            several => {
                let reason = format!("the token has {} root keys {root}", several.len());
                return Err(HsmError::Misbehaved(reason).into());
            }
        };
        match primitive::protected(self.session, handle) {
            Ok(true) => self.connection.remember_root(*root, handle),
            Ok(false) => {
                let reason = format!("the root key {root} is not sensitive and non-extractable");
                return Err(HsmError::Misbehaved(reason).into());
            }
            Err(error) => return Err(self.refusal(&error)),
        }
        Ok(handle)
    }

    /// Opens the canary and compares it with its known answer.
    pub(super) fn prove(&self, canary: &Canary) -> Result<(), Failure> {
        let kek = Kek { root: canary.root, wrapped: canary.kek.clone() };
        let key = self.open_key(&kek, Canary::AAD, &canary.sealed)?;
        let right = Sha256::digest(key.expose())[..] == canary.fingerprint;
        if right { Ok(()) } else { Err(HsmError::Integrity.into()) }
    }

    /// Unwraps the canary's KEK anew, so that the root key itself is used, and opens the canary.
    pub(super) fn probe_root(&self, canary: &Canary) -> Result<(), String> {
        let failed = |error: Error| format!("the root key {} did not work: {}", canary.root, words(&error));
        let root = self.connection.known_root(&canary.root).ok_or("the root key was never found")?;
        let template = primitive::kek(self.connection.gcm_only);
        let kek = primitive::unwrap(self.session, root, &canary.kek.bytes, &template).map_err(failed)?;
        let sealed = &canary.sealed;
        let opened = primitive::gcm_decrypt(self.session, kek, sealed.iv, Canary::AAD, &sealed.ciphertext);
        self.session.destroy_object(kek).map_err(failed)?;
        let right = Sha256::digest(opened.map_err(failed)?.as_slice())[..] == canary.fingerprint;
        if right { Ok(()) } else { Err("the canary opened to something else".to_owned()) }
    }

    /// Runs a call that fails when its input is damaged, under `key`.
    ///
    /// Only two refusals, each followed by a successful probe, are taken for
    /// damage: a single one may have been a hiccup of the module.
    fn verified<T>(&self, key: ObjectHandle, call: impl Fn() -> Result<T, Error>) -> Result<T, Failure> {
        for _ in 0..2 {
            self.count();
            match call() {
                Ok(value) => return Ok(value),
                Err(error) => self.still_healthy(Some(key), &words(&error)).map_err(Failure::Lost)?,
            }
        }
        Err(HsmError::Integrity.into())
    }

    /// What the failure of a call means that should not have failed.
    fn refusal(&self, error: &Error) -> Failure {
        self.judged(HsmError::Unavailable(format!("the HSM refused: {}", words(error))))
    }

    fn refused_by(&self, key: ObjectHandle, error: &Error) -> Failure {
        match self.still_healthy(Some(key), &words(error)) {
            Ok(()) => HsmError::Unavailable(format!("the HSM refused: {}", words(error))).into(),
            Err(reason) => Failure::Lost(reason),
        }
    }

    /// `answer`, if the connection is healthy.
    fn judged(&self, answer: HsmError) -> Failure {
        match self.still_healthy(None, &answer.to_string()) {
            Ok(()) => Failure::Answer(answer),
            Err(reason) => Failure::Lost(reason),
        }
    }

    /// A key whose handle has died counts as a lost connection: after a logout
    /// by somebody else in this process every handle is dead.
    fn still_healthy(&self, key: Option<ObjectHandle>, after: &str) -> Result<(), String> {
        self.connection
            .health(self.session)
            .map_err(|reason| format!("{reason} (noticed after: {after})"))?;
        match key {
            Some(key) if !primitive::alive(self.session, key) => {
                Err(format!("a key has vanished from the token (noticed after: {after})"))
            }
            _ => Ok(()),
        }
    }

    fn destroy_evicted(&self) -> Result<(), Failure> {
        self.connection.keks.reap().into_iter().try_for_each(|handle| self.destroy(handle))
    }

    /// A key that cannot be destroyed goes with the connection.
    fn destroy(&self, handle: ObjectHandle) -> Result<(), Failure> {
        let failed = |error| Failure::Lost(format!("cannot destroy a session key: {}", words(&error)));
        self.session.destroy_object(handle).map_err(failed)
    }

    fn count(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }
}
