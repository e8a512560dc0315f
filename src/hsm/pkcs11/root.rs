//! Makes a master key (a root, or a resident KEK) with escrow at birth, and destroys one.
//!
//! The key is born as an extractable session object, wrapped once under a
//! one-time backup key, destroyed, and unwrapped as a non-extractable token
//! object. After that no call makes another copy of it: a later backup, or
//! another set of custodians, means another root.
//!
//! The backup key lives in this process only. It leaves as the plan says: in
//! shares that are sealed to their holders, whole for the file of an unfounded
//! root, or not at all; and sealed to the process of another token of the
//! group while the root is handed over to it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use minicbor::{Decode, Encode};

use crate::envelope::sealed_box::{self, Receiver};
use crate::envelope::shamir;
use crate::hsm::TokenInfo;
use crate::hsm::birth::{Backup, BackupPlan, Delivery, Handover, Newborn, Purpose};
use crate::hsm::figures::Objects;
use crate::hsm::pkcs11::Settings;
use crate::hsm::pkcs11::connection::Connected;
use crate::hsm::pkcs11::error::{ConnectError, words};
use crate::hsm::pkcs11::execute::Failure;
use crate::hsm::pkcs11::module::Library;
use crate::hsm::pkcs11::objects::{self, named};
use crate::hsm::pkcs11::primitive::{self, Usage, WRAPPED_LEN};
use crate::id::RootId;
use crate::keyring::escrow::{AgreementPoint, SealedBox, delivery_context};
use crate::keyring::wrapped::{Canary, WrapMechanism, WrappedKek};
use crate::secret::{Key256, Pin, SecretBytes};

mod prove;

/// A master key on a token.
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
    /// AllowedMechanisms: a root does nothing but CKM_AES_KEY_WRAP, a resident KEK nothing but CKM_AES_GCM.
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
    #[error("no key was made, because its backup could not be kept")]
    NotKept,
    /// A call failed; nothing stays on the token.
    #[error("no key was made: {step}: {reason}")]
    Module {
        /// What was being done.
        step: &'static str,
        /// What the module answered.
        reason: String,
    },
    /// There is no room for another resident KEK.
    #[error(
        "token {token:?} has {} objects of Keyward, and hsm.max_objects allows {}: move a tenant out of the HSM, have old KEK versions destroyed, or raise hsm.max_objects if the token holds more",
        objects.own, objects.limit
    )]
    Full {
        /// The label of the token.
        token: String,
        /// How full it is.
        objects: Objects,
    },
    /// The root did not prove safe and was destroyed.
    #[error("the new key was destroyed, because {0}")]
    Unsafe(String),
    /// The backup key cannot be split or put together.
    #[error("{0}")]
    Backup(String),
    /// The root did not prove safe, and could not be destroyed either.
    #[error("remove the object \"{label}\" from the token by hand: it must not be used, because {reason}")]
    Stranded {
        /// Its label.
        label: String,
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

/// What the daemon decides about a root that stands on the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Verdict {
    /// It stays.
    #[n(0)]
    Keep,
    /// It is destroyed again.
    #[n(1)]
    GiveUp,
    /// The backup key is to be sealed for the process of another token, which takes the root over.
    #[n(2)]
    HandOver(#[n(0)] AgreementPoint),
}

/// The daemon, as the process that makes a root sees it.
pub trait Registrar {
    /// Keeps the escrow durably, or answers `false`; asked before the root becomes a token object.
    fn keep(&mut self, newborn: Newborn) -> bool;
    /// Sees the root on the token and decides.
    fn judge(&mut self, settled: &Settled) -> Verdict;
    /// Takes the sealed backup key to the process that asked for it, and decides again.
    fn hand_over(&mut self, sealed: SealedBox) -> Verdict;
}

/// Makes a root key. No root exists without its escrow, and none stays that the registrar does not keep.
///
/// # Errors
/// [`RootError`]; except for [`RootError::Stranded`], nothing stays on the token.
pub fn create(
    settings: &Settings,
    pin: &Pin,
    purpose: Purpose,
    plan: &BackupPlan,
    registrar: &mut impl Registrar,
) -> Result<(), RootError> {
    let connected = connect(settings, pin, true)?;
    room(&connected, settings, purpose)?;
    let birth = Birth { connected: &connected, session: &connected.holder, purpose, id: RootId::random()? };
    let uncounted = AtomicU64::new(0);
    let executor = connected.connection.executor(&connected.holder, &uncounted);
    let backup_key = executor.new_key().map_err(refused("making the backup key"))?;
    let backup = birth.import(&backup_key)?;
    let wrapped = birth.escrow(backup)?;
    let seed = executor.new_key().map_err(refused("splitting the backup key"))?;
    let newborn =
        Newborn { id: birth.id, wrapped: wrapped.clone(), backup: spread(plan, &backup_key, &seed)? };
    if !registrar.keep(newborn) {
        return Err(RootError::NotKept);
    }
    let root = birth.settle(backup, &wrapped)?;
    let proved = birth.prove(root, backup, || birth.canary(&executor));
    birth.finish(root, backup, proved, &backup_key, registrar)
}

/// That the token may take another resident KEK. A root is never refused: everything depends on it.
fn room(connected: &Connected, settings: &Settings, purpose: Purpose) -> Result<(), RootError> {
    if purpose != Purpose::Resident {
        return Ok(());
    }
    let objects = objects::count(&connected.holder, settings.max_objects);
    let objects = objects.map_err(failed("counting the objects on the token"))?;
    match objects.is_full() {
        true => Err(RootError::Full { token: connected.connection.module.token().label.clone(), objects }),
        false => Ok(()),
    }
}

/// What leaves this process of the backup key.
fn spread(plan: &BackupPlan, key: &Key256, seed: &Key256) -> Result<Backup, RootError> {
    Ok(match plan {
        BackupPlan::HandOut => Backup::HandedOut(key.duplicate()),
        BackupPlan::Drop => Backup::Dropped,
        BackupPlan::Split { quorum, holders } => {
            let count = u8::try_from(holders.len()).unwrap_or(u8::MAX);
            let shares = shamir::split(key, *quorum, count, seed);
            let shares = shares.map_err(|error| RootError::Backup(error.to_string()))?;
            let sealed = holders
                .iter()
                .zip(&shares)
                .map(|(holder, share)| sealed_box::seal(&holder.key, &holder.context, share.expose()));
            let sealed = sealed.collect::<Result<_, _>>();
            Backup::Split(sealed.map_err(|error| RootError::Backup(error.to_string()))?)
        }
    })
}

/// Puts a root that was born on another token onto this one. `receiver` is the key
/// to which the backup key, or the shares of it, were sealed.
///
/// # Errors
/// As [`create`].
pub fn adopt(
    settings: &Settings,
    pin: &Pin,
    handover: &Handover,
    receiver: &Receiver,
    registrar: &mut impl Registrar,
) -> Result<(), RootError> {
    let backup_key = delivered(handover, receiver)?;
    let connected = connect(settings, pin, true)?;
    room(&connected, settings, handover.purpose)?;
    let birth = Birth {
        connected: &connected,
        session: &connected.holder,
        purpose: handover.purpose,
        id: handover.id,
    };
    let uncounted = AtomicU64::new(0);
    let executor = connected.connection.executor(&connected.holder, &uncounted);
    let backup = birth.import(&backup_key)?;
    let root = birth.settle(backup, &handover.wrapped)?;
    let canary = &handover.canary;
    let opens = || executor.prove(canary).map_err(|failure| refused("the canary")(failure).to_string());
    let proved = birth.prove(root, backup, || opens().map(|()| canary.clone()));
    birth.finish(root, backup, proved, &backup_key, registrar)
}

/// The backup key, out of what was delivered.
fn delivered(handover: &Handover, receiver: &Receiver) -> Result<Key256, RootError> {
    let refused = |what: String| RootError::Backup(what);
    match &handover.delivery {
        Delivery::Whole(sealed) => {
            let key = receiver.open(sealed, &Handover::context(&handover.id));
            let key = key.map_err(|error| refused(format!("the backup key: {error}")))?;
            Key256::from_slice(key.expose())
                .ok_or_else(|| refused("the backup key has another length".into()))
        }
        Delivery::Shares(shares) => {
            let open = |share: &crate::hsm::birth::DeliveredShare| {
                let opened =
                    receiver.open(&share.sealed, &delivery_context(&share.context, receiver.public()));
                opened.map_err(|error| refused(format!("the share of {}: {error}", share.holder)))
            };
            let shares = shares.iter().map(open).collect::<Result<Vec<SecretBytes>, _>>()?;
            shamir::combine(&shares).map_err(|error| refused(error.to_string()))
        }
    }
}

/// Destroys the token objects of a root and proves that none is left. One that is not there is no error.
///
/// # Errors
/// [`RootError`] when the token cannot be asked, or keeps the object.
pub fn destroy(settings: &Settings, pin: &Pin, id: RootId) -> Result<(), RootError> {
    let connected = connect(settings, pin, true)?;
    let session = &connected.holder;
    let template =
        [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true), Attribute::Id(id.0.to_vec())];
    let find = || session.find_objects(&template).map_err(failed("looking for the key"));
    for object in find()? {
        let shown = session.get_attributes(object, &[AttributeType::Label, AttributeType::Id]);
        let shown = shown.as_deref().unwrap_or_default();
        if Purpose::LABELS.into_iter().any(|label| named(label, shown).is_some()) {
            session.destroy_object(object).map_err(failed("destroying the key"))?;
        }
    }
    match find()?.len() {
        0 => Ok(()),
        left => Err(RootError::Unsafe(format!("{left} objects with the id {id} are still on the token"))),
    }
}

/// The names of the keys that Keyward has made on the token for this purpose.
///
/// # Errors
/// [`RootError`] when the token cannot be asked.
pub fn roots(settings: &Settings, pin: &Pin, purpose: Purpose) -> Result<Vec<RootId>, RootError> {
    let connected = connect(settings, pin, false)?;
    list(&connected.holder, purpose).map_err(failed("listing the root keys"))
}

/// The names of the keys that Keyward has made on the token for each of these purposes.
///
/// # Errors
/// [`RootError`] when the token cannot be asked.
pub fn standing(
    settings: &Settings,
    pin: &Pin,
    purposes: &[Purpose],
) -> Result<Vec<(Purpose, RootId)>, RootError> {
    let connected = connect(settings, pin, false)?;
    let mut found = Vec::new();
    for purpose in purposes {
        let keys = list(&connected.holder, *purpose).map_err(failed("listing the root keys"))?;
        found.extend(keys.into_iter().map(|id| (*purpose, id)));
    }
    Ok(found)
}

pub(super) fn list(session: &Session, purpose: Purpose) -> Result<Vec<RootId>, Error> {
    let keys = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)])?;
    let (mut found, label) = (Vec::new(), purpose.label());
    for key in keys {
        let shown = session.get_attributes(key, &[AttributeType::Label, AttributeType::Id])?;
        found.extend(named(&label, &shown));
    }
    Ok(found)
}

/// A root on its way.
struct Birth<'a> {
    connected: &'a Connected,
    session: &'a Session,
    purpose: Purpose,
    id: RootId,
}

impl Birth<'_> {
    fn import(&self, backup_key: &Key256) -> Result<ObjectHandle, RootError> {
        primitive::import(self.session, backup_key.expose(), Usage::Wrap, false)
            .map_err(failed("importing the backup key"))
    }

    /// Shows the proved root to the registrar, and destroys what must not stay.
    fn finish(
        &self,
        root: ObjectHandle,
        backup: ObjectHandle,
        proved: Result<(Canary, Guards), String>,
        backup_key: &Key256,
        registrar: &mut impl Registrar,
    ) -> Result<(), RootError> {
        let (canary, guards) = proved.or_else(|reason| self.abandon(root, reason))?;
        if let Err(error) = self.session.destroy_object(backup) {
            return self.abandon(root, format!("destroying the backup key's copy in the token: {error}"));
        }
        let connection = &self.connected.connection;
        let quirks =
            connection.quirks.iter().map(|quirk| format!("{}: {}", quirk.behaviour, quirk.lost)).collect();
        let settled = Settled { canary, token: connection.module.token().clone(), guards, quirks };
        let mut verdict = registrar.judge(&settled);
        while let Verdict::HandOver(to) = verdict {
            verdict = match sealed_box::seal(&to, &Handover::context(&self.id), backup_key.expose()) {
                Ok(sealed) => registrar.hand_over(sealed),
                Err(_) => Verdict::GiveUp,
            };
        }
        match verdict {
            Verdict::Keep => Ok(()),
            _ => self.abandon(root, "it was not made on every token of the group".to_owned()),
        }
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

    /// Unwraps the key as a token object, in the safest of the ways that the module takes.
    fn settle(&self, backup: ObjectHandle, escrow: &WrappedKek) -> Result<ObjectHandle, RootError> {
        let limited = self.limited();
        let locks = [Attribute::Modifiable(false), Attribute::Copyable(false)];
        let everything = [limited.clone(), locks[0].clone(), locks[1].clone()];
        let root = match self.takes(backup, escrow, &everything) {
            true => self.unwrap(backup, escrow, true, &everything),
            false => self
                .unwrap_and_copy(backup, escrow, &limited)
                .or_else(|_| self.unwrap(backup, escrow, true, &locks))
                .or_else(|_| self.unwrap(backup, escrow, true, &[limited])),
        };
        root.map_err(failed("unwrapping into the token"))
    }

    /// Whether the module unwraps with these guards, tried on a session object: SoftHSM leaves an empty
    /// object behind when it refuses, in the token for good if that was meant for the token.
    fn takes(&self, backup: ObjectHandle, escrow: &WrappedKek, guards: &[Attribute]) -> bool {
        let tried = self.unwrap(backup, escrow, false, guards);
        tried.is_ok_and(|object| self.session.destroy_object(object).is_ok())
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
        if let (Err(error), Ok(copy)) = (self.session.destroy_object(first), &copy) {
            self.session.destroy_object(*copy)?;
            return Err(error);
        }
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
        template.push(Attribute::Label(self.label().into_bytes()));
        template.extend_from_slice(guards);
        if !self.purpose.wraps() {
            return primitive::unwrap(self.session, backup, &escrow.bytes, &template);
        }
        let inner = [Attribute::Sensitive(true), Attribute::Extractable(false)];
        let raw = self.connected.connection.module.raw();
        raw.unwrap_with_template(self.session, backup, &escrow.bytes, &template, &inner)
    }

    fn label(&self) -> String {
        format!("{}{}", self.purpose.label(), self.id)
    }

    fn abandon<T>(&self, root: ObjectHandle, reason: String) -> Result<T, RootError> {
        match self.session.destroy_object(root) {
            Ok(()) => Err(RootError::Unsafe(reason)),
            Err(_) => Err(RootError::Stranded { label: self.label(), reason }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeploymentId;

    #[test]
    fn only_keyward_roots_are_listed() {
        let id = Attribute::Id(vec![7; 16]);
        let label = |text: &str| Attribute::Label(text.as_bytes().to_vec());
        let root = |shown: &[Attribute]| named(&Purpose::Root.label(), shown);
        assert_eq!(root(&[label("keyward root 07"), id.clone()]), Some(RootId([7; 16])));
        assert_eq!(root(&[label("another"), id.clone()]), None);
        assert_eq!(root(&[label("keyward erasure 07"), id.clone()]), None);
        assert_eq!(root(&[label("keyward root 07"), Attribute::Id(vec![7; 15])]), None);
        assert_eq!(root(&[id]), None);
    }

    #[test]
    fn an_erasure_root_belongs_to_one_installation() {
        let (mine, other) =
            (Purpose::Erasure(DeploymentId([1; 16])), Purpose::Erasure(DeploymentId([2; 16])));
        let label = format!("{}{}", mine.label(), RootId([7; 16]));
        let shown = [Attribute::Label(label.into_bytes()), Attribute::Id(vec![7; 16])];
        assert_eq!(named(&mine.label(), &shown), Some(RootId([7; 16])));
        assert_eq!(named(&other.label(), &shown), None);
        assert!(Purpose::LABELS.iter().any(|label| mine.label().starts_with(label)));
    }
}
