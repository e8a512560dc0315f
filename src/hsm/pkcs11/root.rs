//! Makes a root key, with escrow at birth.
//!
//! The root is born as an extractable session object, wrapped once under a
//! one-time backup key, destroyed, and unwrapped as a non-extractable token
//! object. After that no call makes another copy of it: a later backup, or
//! another set of custodians, means another root.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use cryptoki::error::Error;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use crate::hsm::pkcs11::Settings;
use crate::hsm::pkcs11::connection::Connected;
use crate::hsm::pkcs11::error::{ConnectError, words};
use crate::hsm::pkcs11::execute::{Executor, Failure};
use crate::hsm::pkcs11::module::Library;
use crate::hsm::pkcs11::primitive::{self, Usage, WRAPPED_LEN};
use crate::hsm::transfer;
use crate::hsm::{Kek, TokenInfo};
use crate::id::RootId;
use crate::keyring::wrapped::{Canary, WrapMechanism, WrappedKek};
use crate::secret::{Key256, Pin};

const LABEL: &str = "keyward root ";

/// A root key before it stands on any token: the escrow at birth.
#[derive(Debug, Encode, Decode)]
pub struct Escrow {
    /// The root's name, and its CKA_ID on each token.
    #[n(0)]
    pub id: RootId,
    /// The root, wrapped under the backup key.
    #[n(1)]
    pub wrapped: WrappedKek,
    /// The key that opens it; useless without it.
    #[cbor(n(2), with = "transfer::key")]
    pub backup_key: Key256,
}

/// A root key on a token.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Settled {
    /// What proves from now on that a token has this root.
    #[n(0)]
    pub canary: Canary,
    /// The token that holds it.
    #[n(1)]
    pub token: TokenInfo,
    /// How the token guards it.
    #[n(2)]
    pub guards: Guards,
    /// What the module is known to get wrong, and what is lost by it.
    #[n(3)]
    pub quirks: Vec<String>,
}

/// How a token guards a root key beyond Sensitive=1, Extractable=0 and its unwrap template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Guards {
    /// Modifiable=0: nobody can change its attributes.
    #[n(0)]
    pub unmodifiable: bool,
    /// Copyable=0: nobody can copy it.
    #[n(1)]
    pub uncopyable: bool,
    /// AllowedMechanisms={CKM_AES_KEY_WRAP}: it does nothing but wrap and unwrap.
    #[n(2)]
    pub limited: bool,
}

/// Why there is no new root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// No connection to the token.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The operating system has no randomness to give.
    #[error("the operating system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The backup key could not be kept, so no root was made.
    #[error("no root key was made, because its backup could not be kept")]
    NotKept,
    /// A call failed; nothing stays on the token.
    #[error("no root key was made: {step}: {reason}")]
    Module {
        /// What was being done.
        step: &'static str,
        /// What the module answered.
        reason: String,
    },
    /// The root did not prove safe and was destroyed.
    #[error("the new root key was destroyed, because {0}")]
    Unsafe(String),
    /// The root did not prove safe, and could not be destroyed either.
    #[error(
        "remove the object \"{LABEL}{id}\" from the token by hand: it must not be used, because {reason}"
    )]
    Stranded {
        /// Its name.
        id: RootId,
        /// What is wrong with it.
        reason: String,
    },
}

fn failed(step: &'static str) -> impl Fn(Error) -> RootError {
    move |error| RootError::Module { step, reason: words(&error) }
}

fn refused(step: &'static str) -> impl Fn(Failure) -> RootError {
    move |failure| RootError::Module {
        step,
        reason: match failure {
            Failure::Answer(error) => error.to_string(),
            Failure::Lost(reason) => reason,
        },
    }
}

/// Connects for one task. No pool may use the module in this process meanwhile.
fn connect(settings: &Settings, pin: &Pin, write: bool) -> Result<Connected, ConnectError> {
    let library: Arc<Library> = Library::load(&settings.module)?;
    Connected::open(&library, settings, pin, None, write)
}

/// Makes a root key.
///
/// `keep` must keep the escrow durably, or answer `false`; it is called before
/// the root becomes a token object, so no root exists without its backup.
/// `accept` sees the root on the token; when it answers `false`, the root is
/// destroyed again.
///
/// # Errors
/// [`RootError`]; except for [`RootError::Stranded`], nothing stays on the token.
pub fn create(
    settings: &Settings,
    pin: &Pin,
    keep: impl FnOnce(Escrow) -> bool,
    accept: impl FnOnce(&Settled) -> bool,
) -> Result<(), RootError> {
    let connected = connect(settings, pin, true)?;
    let birth = Birth { connected: &connected, session: &connected.holder, id: RootId::random()? };
    let uncounted = AtomicU64::new(0);
    let executor = connected.connection.executor(&connected.holder, &uncounted);
    let backup_key = executor.new_key().map_err(refused("making the backup key"))?;
    let backup = birth.import(&backup_key)?;
    let wrapped = birth.escrow(backup)?;
    if !keep(Escrow { id: birth.id, wrapped: wrapped.clone(), backup_key }) {
        return Err(RootError::NotKept);
    }
    let root = birth.settle(backup, &wrapped)?;
    let proved = birth.prove(root, backup, || birth.canary(&executor));
    birth.finish(root, backup, proved, accept)
}

/// Puts a root that was born on another token onto this one.
///
/// # Errors
/// As [`create`].
pub fn adopt(
    settings: &Settings,
    pin: &Pin,
    escrow: &Escrow,
    canary: &Canary,
    accept: impl FnOnce(&Settled) -> bool,
) -> Result<(), RootError> {
    let connected = connect(settings, pin, true)?;
    let birth = Birth { connected: &connected, session: &connected.holder, id: escrow.id };
    let uncounted = AtomicU64::new(0);
    let executor = connected.connection.executor(&connected.holder, &uncounted);
    let backup = birth.import(&escrow.backup_key)?;
    let root = birth.settle(backup, &escrow.wrapped)?;
    let opens = || executor.prove(canary).map_err(|failure| refused("the canary")(failure).to_string());
    let proved = birth.prove(root, backup, || opens().map(|()| canary.clone()));
    birth.finish(root, backup, proved, accept)
}

/// The names of the root keys that Keyward has made on the token.
///
/// # Errors
/// [`RootError`] when the token cannot be asked.
pub fn roots(settings: &Settings, pin: &Pin) -> Result<Vec<RootId>, RootError> {
    let connected = connect(settings, pin, false)?;
    list(&connected.holder).map_err(failed("listing the root keys"))
}

pub(super) fn list(session: &Session) -> Result<Vec<RootId>, Error> {
    let keys = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)])?;
    let mut found = Vec::new();
    for key in keys {
        let shown = session.get_attributes(key, &[AttributeType::Label, AttributeType::Id])?;
        found.extend(named(&shown));
    }
    Ok(found)
}

fn named(shown: &[Attribute]) -> Option<RootId> {
    match shown {
        [Attribute::Label(label), Attribute::Id(id)] if label.starts_with(LABEL.as_bytes()) => {
            <[u8; 16]>::try_from(id.as_slice()).ok().map(RootId)
        }
        _ => None,
    }
}

/// A root on its way.
struct Birth<'a> {
    connected: &'a Connected,
    session: &'a Session,
    id: RootId,
}

impl Birth<'_> {
    fn import(&self, backup_key: &Key256) -> Result<ObjectHandle, RootError> {
        primitive::import(self.session, backup_key.expose(), Usage::Wrap, false)
            .map_err(failed("importing the backup key"))
    }

    /// Shows the proved root to whoever decides, and destroys what must not stay.
    fn finish(
        &self,
        root: ObjectHandle,
        backup: ObjectHandle,
        proved: Result<(Canary, Guards), String>,
        accept: impl FnOnce(&Settled) -> bool,
    ) -> Result<(), RootError> {
        let (canary, guards) = proved.or_else(|reason| self.abandon(root, reason))?;
        self.session
            .destroy_object(backup)
            .map_err(failed("destroying the backup key's copy in the token"))?;
        let connection = &self.connected.connection;
        let quirks =
            connection.quirks.iter().map(|quirk| format!("{}: {}", quirk.behaviour, quirk.lost)).collect();
        let settled = Settled { canary, token: connection.module.token().clone(), guards, quirks };
        if accept(&settled) {
            return Ok(());
        }
        self.abandon(root, "it was not made on every token of the group".to_owned())
    }

    /// Generates the root and wraps it under the backup key; it lives for one call.
    fn escrow(&self, backup: ObjectHandle) -> Result<WrappedKek, RootError> {
        let born = primitive::generate(self.session, Usage::None, true).map_err(failed("generating"))?;
        let wrapped = primitive::wrap(self.session, backup, born);
        self.session.destroy_object(born).map_err(failed("destroying the extractable root"))?;
        let bytes = wrapped.map_err(failed("wrapping under the backup key"))?;
        if bytes.len() != WRAPPED_LEN {
            let reason = format!("{} bytes came out instead of {WRAPPED_LEN}", bytes.len());
            return Err(RootError::Module { step: "wrapping under the backup key", reason });
        }
        Ok(WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes })
    }

    /// Unwraps the root as a token object, in the safest of the ways that the module takes.
    fn settle(&self, backup: ObjectHandle, escrow: &WrappedKek) -> Result<ObjectHandle, RootError> {
        let limited = Attribute::AllowedMechanisms(vec![MechanismType::AES_KEY_WRAP]);
        let locks = [Attribute::Modifiable(false), Attribute::Copyable(false)];
        let everything = [limited.clone(), locks[0].clone(), locks[1].clone()];
        self.unwrap(backup, escrow, true, &everything)
            .or_else(|_| self.unwrap_and_copy(backup, escrow, &limited))
            .or_else(|_| self.unwrap(backup, escrow, true, &locks))
            .or_else(|_| self.unwrap(backup, escrow, true, &[limited]))
            .map_err(failed("unwrapping into the token"))
    }

    /// SoftHSM takes Modifiable=0 in C_CopyObject only.
    fn unwrap_and_copy(
        &self,
        backup: ObjectHandle,
        escrow: &WrappedKek,
        limited: &Attribute,
    ) -> Result<ObjectHandle, Error> {
        let first = self.unwrap(backup, escrow, false, std::slice::from_ref(limited))?;
        let locked = [Attribute::Token(true), Attribute::Modifiable(false)];
        let copy = self.session.copy_object(first, &locked);
        self.session.destroy_object(first)?;
        copy
    }

    fn unwrap(
        &self,
        backup: ObjectHandle,
        escrow: &WrappedKek,
        token: bool,
        guards: &[Attribute],
    ) -> Result<ObjectHandle, Error> {
        let mut template = self.attributes(token).to_vec();
        template.push(Attribute::Label(format!("{LABEL}{}", self.id).into_bytes()));
        template.extend_from_slice(guards);
        let inner = [Attribute::Sensitive(true), Attribute::Extractable(false)];
        let raw = self.connected.connection.module.raw();
        raw.unwrap_with_template(self.session, backup, &escrow.bytes, &template, &inner)
    }

    fn attributes(&self, token: bool) -> [Attribute; 11] {
        [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(token),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Wrap(true),
            Attribute::Unwrap(true),
            Attribute::Id(self.id.0.to_vec()),
        ]
    }

    /// Proves that the root is what was asked for, and that it opens its canary.
    fn prove(
        &self,
        root: ObjectHandle,
        backup: ObjectHandle,
        canary: impl FnOnce() -> Result<Canary, String>,
    ) -> Result<(Canary, Guards), String> {
        let expected = self.attributes(true);
        let types = expected.each_ref().map(Attribute::attribute_type);
        if !primitive::shows(self.session, root, &types, &expected).map_err(|error| words(&error))? {
            return Err("the token shows other attributes than were asked for".to_owned());
        }
        if primitive::wrap(self.session, backup, root).is_ok() {
            return Err("it could be wrapped once more".to_owned());
        }
        self.refuses_decryption(root)?;
        let canary = canary()?;
        self.refuses_extractable(root, &canary.kek)?;
        Ok((canary, self.guards(root).map_err(|error| words(&error))?))
    }

    fn guards(&self, root: ObjectHandle) -> Result<Guards, Error> {
        let limited = Attribute::AllowedMechanisms(vec![MechanismType::AES_KEY_WRAP]);
        let shows = |expected: Attribute| {
            primitive::shows(self.session, root, &[expected.attribute_type()], &[expected])
        };
        Ok(Guards {
            unmodifiable: shows(Attribute::Modifiable(false))?,
            uncopyable: shows(Attribute::Copyable(false))?,
            limited: shows(limited)?,
        })
    }

    /// That a PIN holder cannot make a decryption key of it: AES in ECB mode under
    /// the root is all that it takes to open a wrapped KEK by hand (RFC 3394).
    fn refuses_decryption(&self, root: ObjectHandle) -> Result<(), String> {
        let changed = self.session.update_attributes(root, &[Attribute::Decrypt(true)]).is_ok();
        let modes = [Mechanism::AesEcb, Mechanism::AesKeyWrap];
        let decrypts = modes.iter().any(|mode| self.session.decrypt(mode, root, &[0; 32]).is_ok());
        if changed {
            let restored = self.session.update_attributes(root, &[Attribute::Decrypt(false)]);
            restored.map_err(|error| words(&error))?;
        }
        if decrypts { Err("it can be made to decrypt wrapped keys".to_owned()) } else { Ok(()) }
    }

    fn canary(&self, executor: &Executor<'_>) -> Result<Canary, String> {
        let words = |failure| refused("the canary")(failure).to_string();
        let kek = executor.generate_kek(&self.id).map_err(words)?;
        let named = Kek { root: self.id, wrapped: kek.clone() };
        let (key, sealed) = executor.generate_key(&named, Canary::AAD).map_err(words)?;
        let fingerprint = Sha256::digest(key.expose()).into();
        let canary = Canary { root: self.id, kek, sealed, fingerprint };
        executor.prove(&canary).map_err(words)?;
        Ok(canary)
    }

    /// That the unwrap template holds: without it a PIN holder could unwrap KEKs as extractable.
    fn refuses_extractable(&self, root: ObjectHandle, kek: &WrappedKek) -> Result<(), String> {
        let template = primitive::session_key(Usage::Cipher, true);
        let Ok(extractable) = primitive::unwrap(self.session, root, &kek.bytes, &template) else {
            return Ok(());
        };
        self.session.destroy_object(extractable).map_err(|error| words(&error))?;
        Err("it unwraps keys as extractable when asked to".to_owned())
    }

    fn abandon<T>(&self, root: ObjectHandle, reason: String) -> Result<T, RootError> {
        match self.session.destroy_object(root) {
            Ok(()) => Err(RootError::Unsafe(reason)),
            Err(_) => Err(RootError::Stranded { id: self.id, reason }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keyward_roots_are_listed() {
        let id = Attribute::Id(vec![7; 16]);
        let label = |text: &str| Attribute::Label(text.as_bytes().to_vec());
        assert_eq!(named(&[label("keyward root 07"), id.clone()]), Some(RootId([7; 16])));
        assert_eq!(named(&[label("another"), id.clone()]), None);
        assert_eq!(named(&[label("keyward root 07"), Attribute::Id(vec![7; 15])]), None);
        assert_eq!(named(&[id]), None);
    }
}
