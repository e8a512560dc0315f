//! One operation on one session.
//!
//! A module's error code says little: the same code stands for a damaged
//! ciphertext on one module and for a dead token on another. So whatever fails
//! is followed by a health probe: when that fails too, the connection is lost;
//! when it succeeds, the operation itself was refused.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::hsm::pkcs11::connection::Connection;
use crate::hsm::pkcs11::error::{code, words};
use crate::hsm::pkcs11::kek_cache::Lease;
use crate::hsm::pkcs11::primitive::{self, IV_LEN, KeyId, Usage, WRAPPED_LEN};
use crate::hsm::{HsmError, Kek, Operation, Reply};
use crate::id::RootId;
use crate::keyring::wrapped::{Canary, KeyCheck, SealMechanism, SealedKey, WrapMechanism, WrappedKek};
use crate::secret::{Key256, SecretBytes};

mod signing;

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

/// What a module answers that has passed its self-test and now does something
/// else: the connection is given up, and the work repeated on another one.
fn distrust<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Lost(reason.into()))
}

/// A key of the token that we use: its handle, and the CKA_ID by which the
/// handle is known to reach it still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    handle: ObjectHandle,
    id: KeyId,
}

impl Own {
    fn root(handle: ObjectHandle, root: &RootId) -> Self {
        Self { handle, id: root.0 }
    }
}

/// A KEK that can be used.
enum Open {
    /// A session object, which lives as long as somebody uses it.
    Unwrapped(Lease<Own>),
    /// A token object, which is destroyed by a task of its own only.
    Resident(Own),
}

impl Deref for Open {
    type Target = Own;

    fn deref(&self) -> &Own {
        match self {
            Self::Unwrapped(lease) => lease,
            Self::Resident(own) => own,
        }
    }
}

/// The KEKs under which a list of operations has sealed keys.
#[derive(Default)]
struct Sealers(Vec<Open>);

impl Sealers {
    fn add(&mut self, kek: Open) {
        if !self.0.iter().any(|known| **known == *kek) {
            self.0.push(kek);
        }
    }
}

/// The CKA_ID of an unwrapped KEK: the beginning of SHA-256 over its root and wrapped bytes.
fn kek_id(root: &RootId, wrapped: &WrappedKek) -> KeyId {
    let digest = Sha256::new_with_prefix(b"keyward/1/kek-handle").chain_update(root.0);
    let digest: [u8; 32] = digest.chain_update(&wrapped.bytes).finalize().into();
    let (id, _) = digest.split_first_chunk().unwrap_or_else(|| unreachable!());
    *id
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
        let mut sealers = Sealers::default();
        let mut answers = Vec::with_capacity(operations.len());
        for operation in operations {
            answers.push(match self.execute(operation, &mut sealers) {
                Ok(reply) => Ok(reply),
                Err(Failure::Answer(error)) => Err(error),
                Err(Failure::Lost(reason)) => return Err(reason),
            });
            self.destroy_retired()?;
        }
        self.confirm(&sealers)?;
        Ok(answers)
    }

    /// That every handle under which a key was sealed still reaches its KEK. A
    /// key sealed under another one would be lost with its older seal; one that
    /// is opened under another one is noticed by GCM.
    fn confirm(&self, sealers: &Sealers) -> Result<(), String> {
        let reached = sealers.0.iter().all(|kek| primitive::reaches(self.session, kek.handle, kek.id));
        if reached { Ok(()) } else { Err("a handle reaches another key than it was given for".to_owned()) }
    }

    fn execute(&self, operation: &Operation, sealers: &mut Sealers) -> Result<Reply, Failure> {
        Ok(match operation {
            Operation::Random { len } => Reply::Random(self.random(*len)?),
            Operation::GenerateKek { root } => Reply::Wrapped(self.generate_kek(root)?),
            Operation::GenerateKey { kek, aad } => {
                let (key, sealed) = self.generate_key(kek, aad)?;
                Reply::NewKey { key, sealed }
            }
            Operation::OpenKey { kek, aad, sealed } => Reply::Key(self.open_key(kek, aad, sealed)?),
            Operation::MoveKey { from, from_aad, sealed, to, to_aad } => {
                let key = self.open_key(from, from_aad, sealed)?;
                let to = self.kek(to)?;
                let sealed = self.seal_key(&to, to_aad, &key)?;
                sealers.add(to);
                Reply::Sealed(sealed)
            }
            Operation::GenerateSigningKey { root } => Reply::NewSigningKey(self.generate_signing_key(root)?),
            Operation::Sign { key, digest } => Reply::Signature(self.sign(key, digest)?),
        })
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
    /// lives so for one call and is destroyed whatever happens. What comes out
    /// is unwrapped once, so that no tenant begins under a KEK that is none.
    pub(super) fn generate_kek(&self, id: &RootId) -> Result<WrappedKek, Failure> {
        let root = self.master(id)?;
        self.count();
        let key =
            primitive::generate(self.session, Usage::None, true).map_err(|error| self.refusal(&error))?;
        self.count();
        let wrapped = primitive::wrap(self.session, root.handle, key);
        self.destroy(key)?;
        let bytes = wrapped.map_err(|error| self.refused_by(root, &error))?;
        if bytes.len() != WRAPPED_LEN {
            return distrust(format!("a wrapped KEK has {} bytes instead of {WRAPPED_LEN}", bytes.len()));
        }
        let wrapped = WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes };
        match self.kek(&Kek::Sealed { root: *id, wrapped: wrapped.clone() }) {
            Ok(_) if primitive::reaches(self.session, root.handle, root.id) => Ok(wrapped),
            Ok(_) => distrust("the root's handle reaches another key"),
            Err(Failure::Answer(HsmError::Integrity)) => {
                distrust("a KEK that was just wrapped does not unwrap")
            }
            Err(failure) => Err(failure),
        }
    }

    /// The key is opened once, so that nothing is ever encrypted under a key that cannot be opened again.
    pub(super) fn generate_key(&self, kek: &Kek, aad: &[u8]) -> Result<(Key256, SealedKey), Failure> {
        let key = self.new_key()?;
        let handle = self.kek(kek)?;
        let sealed = self.seal_key(&handle, aad, &key)?;
        let opened = self.open_under(&handle, aad, &sealed);
        if !primitive::reaches(self.session, handle.handle, handle.id) {
            return distrust("a KEK's handle reaches another key");
        }
        match opened {
            Ok(_) => Ok((key, sealed)),
            Err(Failure::Answer(HsmError::Integrity)) => distrust("a key that was just sealed does not open"),
            Err(failure) => Err(failure),
        }
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

    fn seal_key(&self, kek: &Own, aad: &[u8], key: &Key256) -> Result<SealedKey, Failure> {
        let mut iv = [0; IV_LEN];
        self.fill_random(&mut iv)?;
        self.count();
        let (ciphertext, used) = primitive::gcm_encrypt(self.session, kek.handle, iv, aad, key.expose())
            .map_err(|error| self.refused_by(*kek, &error))?;
        if used != iv {
            return Err(HsmError::Misbehaved("it replaced the IV of an encryption".to_owned()).into());
        }
        let ciphertext = <[u8; 48]>::try_from(ciphertext)
            .or_else(|wrong| distrust(format!("a sealed key has {} bytes instead of 48", wrong.len())))?;
        let check = Some(KeyCheck::of(key));
        Ok(SealedKey { mechanism: SealMechanism::AesGcm, iv, ciphertext, check })
    }

    pub(super) fn open_key(&self, kek: &Kek, aad: &[u8], sealed: &SealedKey) -> Result<Key256, Failure> {
        self.open_under(&*self.kek(kek)?, aad, sealed)
    }

    fn open_under(&self, kek: &Own, aad: &[u8], sealed: &SealedKey) -> Result<Key256, Failure> {
        let SealMechanism::AesGcm = sealed.mechanism;
        let plaintext = self.verified(*kek, || {
            primitive::gcm_decrypt(self.session, kek.handle, sealed.iv, aad, &sealed.ciphertext)
        })?;
        match Key256::from_slice(&plaintext) {
            Some(key) if sealed.check.is_none_or(|check| check == KeyCheck::of(&key)) => Ok(key),
            Some(_) => distrust("an opened key is not the one that was sealed"),
            None => distrust(format!("an opened key has {} bytes instead of 32", plaintext.len())),
        }
    }

    /// The handle of a KEK; one from the store is unwrapped now when it is not in the cache.
    fn kek(&self, kek: &Kek) -> Result<Open, Failure> {
        match kek {
            Kek::Sealed { root, wrapped } => {
                let lease = self.connection.keks.lease(kek, || self.unwrap_kek(root, wrapped));
                lease.map(Open::Unwrapped)
            }
            Kek::Resident(id) => self.master(id).map(Open::Resident),
        }
    }

    fn unwrap_kek(&self, root: &RootId, wrapped: &WrappedKek) -> Result<Own, Failure> {
        let WrapMechanism::AesKeyWrap = wrapped.mechanism;
        if wrapped.bytes.len() != WRAPPED_LEN {
            return Err(HsmError::Integrity.into());
        }
        let (id, root) = (kek_id(root, wrapped), self.master(root)?);
        let template = primitive::kek(id, self.connection.gcm_only);
        let unwrap = || primitive::unwrap(self.session, root.handle, &wrapped.bytes, &template);
        let handle = self.verified(root, || {
            unwrap().or_else(|error| if self.make_room(&error) { unwrap() } else { Err(error) })
        })?;
        self.only_protected(Own { handle, id })
    }

    /// Gives up every KEK when the token has no memory for another one: the
    /// configured cache is larger than it can hold. Whether there is room now.
    fn make_room(&self, error: &Error) -> bool {
        if code(error) != Some(RvError::DeviceMemory) {
            return false;
        }
        tracing::warn!("the token's memory is full: every KEK is given up; is hsm.kek_cache too large?");
        self.connection.keks.forget_all();
        self.destroy_retired().is_ok()
    }

    /// Some modules ignore the template of an unwrap, so it is read back each time.
    fn only_protected(&self, kek: Own) -> Result<Own, Failure> {
        let protected = primitive::protected(self.session, kek.handle, kek.id);
        if let Ok(true) = protected {
            return Ok(kek);
        }
        self.destroy(kek.handle)?;
        match protected {
            Ok(_) => distrust("an unwrapped key is not sensitive, non-extractable and named"),
            Err(error) => Err(self.refusal(&error)),
        }
    }

    /// The handle of a root key or a resident KEK: looked up once in each connection.
    fn master(&self, root: &RootId) -> Result<Own, Failure> {
        if let Some(handle) = self.connection.known_root(root) {
            return Ok(Own::root(handle, root));
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
                let reason = format!("the token has {} keys {root}", several.len());
                return Err(HsmError::Misbehaved(reason).into());
            }
        };
        match primitive::protected(self.session, handle, root.0) {
            Ok(true) => self.connection.remember_root(*root, handle),
            Ok(false) => {
                let reason = format!("the key {root} is not sensitive and non-extractable");
                return Err(HsmError::Misbehaved(reason).into());
            }
            Err(error) => return Err(self.refusal(&error)),
        }
        Ok(Own::root(handle, root))
    }

    /// Opens the canary and compares it with its known answer.
    pub(super) fn prove(&self, canary: &Canary) -> Result<(), Failure> {
        let key = self.open_key(&Kek::of_canary(canary), Canary::AAD, &canary.sealed)?;
        let right = Sha256::digest(key.expose())[..] == canary.fingerprint;
        if right { Ok(()) } else { Err(HsmError::Integrity.into()) }
    }

    /// Unwraps the canary's KEK anew, so that the root key itself is used, and opens the canary.
    pub(super) fn probe_root(&self, canary: &Canary) -> Result<(), String> {
        let failed = |error: Error| format!("the root key {} did not work: {}", canary.root, words(&error));
        let root = self.connection.known_root(&canary.root).ok_or("the root key was never found")?;
        let wrapped = canary.kek.as_ref().ok_or("the canary is not one of a root key")?;
        let template = primitive::kek(kek_id(&canary.root, wrapped), self.connection.gcm_only);
        let kek = primitive::unwrap(self.session, root, &wrapped.bytes, &template).map_err(failed)?;
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
    fn verified<T>(&self, key: Own, call: impl Fn() -> Result<T, Error>) -> Result<T, Failure> {
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

    fn refused_by(&self, key: Own, error: &Error) -> Failure {
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

    /// A key whose handle has died, or reaches another key, counts as a lost
    /// connection: after a logout behind our back every handle is dead.
    fn still_healthy(&self, key: Option<Own>, after: &str) -> Result<(), String> {
        self.connection
            .health(self.session)
            .map_err(|reason| format!("{reason} (noticed after: {after})"))?;
        match key {
            Some(key) if !primitive::reaches(self.session, key.handle, key.id) => {
                Err(format!("a key has vanished from the token (noticed after: {after})"))
            }
            _ => Ok(()),
        }
    }

    /// Destroys the KEKs that were given up and that no session uses any more.
    ///
    /// # Errors
    /// A key that cannot be destroyed goes with the connection: why it is lost.
    pub(super) fn destroy_retired(&self) -> Result<(), String> {
        self.connection.keks.reap().into_iter().try_for_each(|kek| self.destroyed(kek.handle))
    }

    fn destroy(&self, handle: ObjectHandle) -> Result<(), Failure> {
        self.destroyed(handle).map_err(Failure::Lost)
    }

    fn destroyed(&self, handle: ObjectHandle) -> Result<(), String> {
        let failed = |error| format!("cannot destroy a session key: {}", words(&error));
        self.session.destroy_object(handle).map_err(failed)
    }

    fn count(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }
}
