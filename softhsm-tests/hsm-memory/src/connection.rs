//! One operation on one connection, counted as a real token's calls are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use keyward::hsm::birth::Purpose;
use keyward::hsm::figures::CacheFigures;
use keyward::hsm::{Forget, HsmError, Kek, Operation, Reply};
use keyward::id::RootId;
use keyward::keyring::signing::{Signature, SigningKey, SigningWrap};
use keyward::keyring::wrapped::{Canary, KeyCheck, SealMechanism, SealedKey, WrapMechanism, WrappedKek};
use keyward::secret::{Key256, SecretBytes};

use crate::crypto::{self, Refused, WRAPPED};
use crate::token::Token;

/// Longest answer of [`Operation::Random`] in bytes.
const MAX_RANDOM: usize = 4096;
/// Longest wrapped private key that is taken for one, in bytes.
const MAX_PRIVATE: usize = 512;

/// What one connection holds. A new connection begins with nothing but its number.
#[derive(Default)]
pub(crate) struct Connection {
    pub(crate) epoch: u64,
    /// The session objects: unwrapped KEKs.
    open: HashMap<Kek, Key256>,
    pub(crate) figures: CacheFigures,
    /// The handles are dead, and nobody has noticed.
    pub(crate) dead: bool,
}

impl Connection {
    /// What follows it.
    pub(crate) fn next(&mut self) {
        self.open.clear();
        self.dead = false;
        self.epoch += 1;
    }

    pub(crate) fn forget(&mut self, keks: &Forget) {
        let before = self.open.len();
        match keks {
            Forget::All | Forget::Root(_) => self.open.clear(),
            Forget::These(these) => these.iter().for_each(|kek| drop(self.open.remove(kek))),
        }
        self.figures.flushed += (before - self.open.len()) as u64;
    }

    pub(crate) fn keks(&self) -> CacheFigures {
        CacheFigures { entries: self.open.len() as u64, ..self.figures }
    }
}

/// Executes operations on a connection.
pub(crate) struct Executor<'a> {
    pub(crate) token: &'a Token,
    pub(crate) connection: &'a mut Connection,
    /// Calls that use a key or the generator.
    pub(crate) calls: &'a AtomicU64,
}

impl Executor<'_> {
    pub(crate) fn execute(&mut self, operation: &Operation) -> Result<Reply, HsmError> {
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
                Reply::Sealed(self.seal_key(&to, to_aad, &key)?)
            }
            Operation::GenerateSigningKey { root } => Reply::NewSigningKey(self.generate_signing_key(root)?),
            Operation::Sign { key, digest } => Reply::Signature(self.sign(key, digest)?),
        })
    }

    fn random(&self, len: usize) -> Result<SecretBytes, HsmError> {
        if len > MAX_RANDOM {
            let reason = format!("{len} random bytes asked for at once, at most {MAX_RANDOM} are given");
            return Err(HsmError::Unavailable(reason));
        }
        let mut bytes = vec![0; len];
        if len > 0 {
            self.count();
            crypto::fill(&mut bytes).map_err(no_randomness)?;
        }
        Ok(SecretBytes::new(bytes))
    }

    /// As on a token: generated, wrapped, and unwrapped once.
    fn generate_kek(&mut self, root: &RootId) -> Result<WrappedKek, HsmError> {
        let wrapping = self.master(root, true, refusal)?;
        self.count();
        let key = crypto::new_key().map_err(no_randomness)?;
        self.count();
        let bytes = crypto::wrap(&wrapping, &key).map_err(|Refused| refusal())?;
        let wrapped = WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes };
        self.kek(&Kek::Sealed { root: *root, wrapped: wrapped.clone() })?;
        Ok(wrapped)
    }

    /// The key is opened once before it is answered.
    fn generate_key(&mut self, kek: &Kek, aad: &[u8]) -> Result<(Key256, SealedKey), HsmError> {
        self.count();
        let key = crypto::new_key().map_err(no_randomness)?;
        let kek = self.kek(kek)?;
        let sealed = self.seal_key(&kek, aad, &key)?;
        self.open_under(&kek, aad, &sealed)?;
        Ok((key, sealed))
    }

    fn seal_key(&self, kek: &Key256, aad: &[u8], key: &Key256) -> Result<SealedKey, HsmError> {
        let mut iv = [0; 12];
        self.count();
        crypto::fill(&mut iv).map_err(no_randomness)?;
        self.count();
        let ciphertext = crypto::seal(kek, iv, aad, key).map_err(|Refused| refusal())?;
        let check = Some(KeyCheck::of(key));
        Ok(SealedKey { mechanism: SealMechanism::AesGcm, iv, ciphertext, check })
    }

    fn open_key(&mut self, kek: &Kek, aad: &[u8], sealed: &SealedKey) -> Result<Key256, HsmError> {
        let kek = self.kek(kek)?;
        self.open_under(&kek, aad, sealed)
    }

    fn open_under(&self, kek: &Key256, aad: &[u8], sealed: &SealedKey) -> Result<Key256, HsmError> {
        let SealMechanism::AesGcm = sealed.mechanism;
        self.count();
        let key = crypto::open(kek, aad, sealed).map_err(|Refused| HsmError::Integrity)?;
        match sealed.check.is_none_or(|check| check == KeyCheck::of(&key)) {
            true => Ok(key),
            false => Err(distrust("an opened key is not the one that was sealed")),
        }
    }

    /// A KEK; one from the store is unwrapped now when it is not open.
    fn kek(&mut self, kek: &Kek) -> Result<Key256, HsmError> {
        let (root, wrapped) = match kek {
            Kek::Resident(id) => return self.master(id, false, || HsmError::Integrity),
            Kek::Sealed { root, wrapped } => (root, wrapped),
        };
        if let Some(open) = self.connection.open.get(kek) {
            self.connection.figures.hits += 1;
            return Ok(open.duplicate());
        }
        self.connection.figures.misses += 1;
        let opened = self.unwrap(root, wrapped)?;
        self.connection.open.insert(kek.clone(), opened.duplicate());
        Ok(opened)
    }

    fn unwrap(&self, root: &RootId, wrapped: &WrappedKek) -> Result<Key256, HsmError> {
        let WrapMechanism::AesKeyWrap = wrapped.mechanism;
        if wrapped.bytes.len() != WRAPPED {
            return Err(HsmError::Integrity);
        }
        let root = self.master(root, true, || HsmError::Integrity)?;
        self.count();
        crypto::unwrap(&root, &wrapped.bytes).map_err(|Refused| HsmError::Integrity)
    }

    /// A master key that wraps, or one that encrypts: neither does the other's work.
    fn master(&self, id: &RootId, wraps: bool, unfit: impl FnOnce() -> HsmError) -> Result<Key256, HsmError> {
        match self.token.with(|token| token.get(id)) {
            Some((key, purpose)) if (purpose != Purpose::Resident) == wraps => Ok(key),
            Some(_) => Err(unfit()),
            None => Err(HsmError::UnknownRoot(*id)),
        }
    }

    /// A pair and its KEK; it has signed once before it is answered.
    fn generate_signing_key(&mut self, root: &RootId) -> Result<SigningKey, HsmError> {
        let kek = self.generate_kek(root)?;
        // It was tried as the KEK of a tenant, and is none.
        self.connection.open.remove(&Kek::Sealed { root: *root, wrapped: kek.clone() });
        let wrapping = self.unwrap(root, &kek)?;
        self.count();
        let (private, public) = crypto::new_pair().map_err(|Refused| refusal())?;
        self.count();
        let wrapped = crypto::wrap_private(&wrapping, private.expose()).map_err(|Refused| refusal())?;
        let key = SigningKey { root: *root, kek, wrap: SigningWrap::Rfc5649, wrapped, public };
        self.sign(&key, &crypto::sha256(b"keyward/1/signing-key-probe"))?;
        Ok(key)
    }

    fn sign(&self, key: &SigningKey, digest: &[u8; 32]) -> Result<Signature, HsmError> {
        let SigningWrap::Rfc5649 = key.wrap;
        let wrapping = self.unwrap(&key.root, &key.kek)?;
        if !(1..=MAX_PRIVATE).contains(&key.wrapped.len()) {
            return Err(HsmError::Integrity);
        }
        self.count();
        let private = crypto::unwrap_private(&wrapping, &key.wrapped);
        let private = private.map_err(|Refused| HsmError::Integrity)?;
        self.count();
        let signature = crypto::sign(&private, digest).map_err(|Refused| HsmError::Integrity)?;
        match key.public.verifies(digest, &signature) {
            true => Ok(signature),
            false => Err(distrust("a signature does not verify")),
        }
    }

    fn count(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// Opens the canary and compares it with its known answer; neither counted nor kept open.
pub(crate) fn prove(token: &Token, canary: &Canary) -> Result<(), HsmError> {
    let (uncounted, mut apart) = (AtomicU64::new(0), Connection::default());
    let mut executor = Executor { token, connection: &mut apart, calls: &uncounted };
    let key = executor.open_key(&Kek::of_canary(canary), Canary::AAD, &canary.sealed)?;
    match crypto::sha256(key.expose()) == canary.fingerprint {
        true => Ok(()),
        false => Err(HsmError::Integrity),
    }
}

/// The answer with a wrong bit in it.
pub(crate) fn falsified(reply: Reply) -> Reply {
    let sealed = |sealed: SealedKey| {
        let mut ciphertext = sealed.ciphertext;
        ciphertext[0] ^= 1;
        SealedKey { ciphertext, ..sealed }
    };
    match reply {
        Reply::Random(bytes) => Reply::Random(SecretBytes::new(vec![0; bytes.len()])),
        Reply::Wrapped(mut wrapped) => {
            wrapped.bytes[0] ^= 1;
            Reply::Wrapped(wrapped)
        }
        Reply::NewKey { key, sealed: of_key } => Reply::NewKey { key, sealed: sealed(of_key) },
        Reply::Key(key) => Reply::Key(Key256::init_with(|wrong| {
            wrong.copy_from_slice(key.expose());
            wrong[0] ^= 1;
        })),
        Reply::Sealed(of_key) => Reply::Sealed(sealed(of_key)),
        Reply::NewSigningKey(mut key) => {
            key.wrapped[0] ^= 1;
            Reply::NewSigningKey(key)
        }
        Reply::Signature(mut signature) => {
            signature.0[0] ^= 1;
            Reply::Signature(signature)
        }
    }
}

/// What a token answers that may not do what it was asked.
fn refusal() -> HsmError {
    HsmError::Unavailable("the HSM refused: CKR_KEY_FUNCTION_NOT_PERMITTED".to_owned())
}

/// What a group of tokens answers in the end when one and then the next says something that it must not.
fn distrust(reason: &str) -> HsmError {
    HsmError::Unavailable(reason.to_owned())
}

fn no_randomness(_: Refused) -> HsmError {
    HsmError::Unavailable("the HSM gives no random bytes".to_owned())
}
