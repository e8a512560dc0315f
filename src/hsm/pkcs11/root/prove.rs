//! What a master key is on the token, and the proof that it is that and no more.

use cryptoki::error::Error;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use sha2::{Digest, Sha256};

use super::{Birth, Guards, refused};
use crate::hsm::Kek;
use crate::hsm::pkcs11::error::words;
use crate::hsm::pkcs11::execute::Executor;
use crate::hsm::pkcs11::primitive::{self, Usage};
use crate::keyring::wrapped::{Canary, WrappedKek};

impl Birth<'_> {
    pub(super) fn attributes(&self, token: bool) -> [Attribute; 11] {
        let wraps = self.purpose.wraps();
        [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(token),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(!wraps),
            Attribute::Decrypt(!wraps),
            Attribute::Wrap(wraps),
            Attribute::Unwrap(wraps),
            Attribute::Id(self.id.0.to_vec()),
        ]
    }

    /// The one mechanism that it is for.
    pub(super) fn limited(&self) -> Attribute {
        Attribute::AllowedMechanisms(vec![match self.purpose.wraps() {
            true => MechanismType::AES_KEY_WRAP,
            false => MechanismType::AES_GCM,
        }])
    }

    /// Proves that the key is what was asked for, and that it opens its canary.
    pub(super) fn prove(
        &self,
        key: ObjectHandle,
        backup: ObjectHandle,
        canary: impl FnOnce() -> Result<Canary, String>,
    ) -> Result<(Canary, Guards), String> {
        let expected = self.attributes(true);
        let types = expected.each_ref().map(Attribute::attribute_type);
        if !primitive::shows(self.session, key, &types, &expected).map_err(|error| words(&error))? {
            return Err("the token shows other attributes than were asked for".to_owned());
        }
        if primitive::wrap(self.session, backup, key).is_ok() {
            return Err("it could be wrapped once more".to_owned());
        }
        if self.purpose.wraps() {
            self.refuses_decryption(key)?;
        } else {
            self.stays_within(key, backup)?;
        }
        let canary = canary()?;
        if let Some(kek) = &canary.kek {
            self.refuses_extractable(key, kek)?;
        }
        Ok((canary, self.guards(key).map_err(|error| words(&error))?))
    }

    fn guards(&self, key: ObjectHandle) -> Result<Guards, Error> {
        let shows = |expected: Attribute| {
            primitive::shows(self.session, key, &[expected.attribute_type()], &[expected])
        };
        Ok(Guards {
            unmodifiable: shows(Attribute::Modifiable(false))?,
            uncopyable: shows(Attribute::Copyable(false))?,
            limited: shows(self.limited())?,
        })
    }

    /// That a PIN holder cannot make a decryption key of a root: AES in ECB mode under
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

    /// That a PIN holder cannot make a resident KEK extractable, neither it nor a copy of it.
    fn stays_within(&self, kek: ObjectHandle, backup: ObjectHandle) -> Result<(), String> {
        let open = [Attribute::Extractable(true)];
        if self.session.update_attributes(kek, &open).is_ok()
            && primitive::wrap(self.session, backup, kek).is_ok()
        {
            return Err("it can be made extractable".to_owned());
        }
        let copy = [Attribute::Token(false), Attribute::Extractable(true)];
        let Ok(copy) = self.session.copy_object(kek, &copy) else { return Ok(()) };
        let leaves = primitive::wrap(self.session, backup, copy).is_ok();
        self.session.destroy_object(copy).map_err(|error| words(&error))?;
        if leaves { Err("a copy of it can be made extractable".to_owned()) } else { Ok(()) }
    }

    /// A key sealed under it: by a KEK that a root wraps, by a resident KEK itself.
    pub(super) fn canary(&self, executor: &Executor<'_>) -> Result<Canary, String> {
        let words = |failure| refused("the canary")(failure).to_string();
        let wrapped =
            self.purpose.wraps().then(|| executor.generate_kek(&self.id)).transpose().map_err(words)?;
        let kek = match &wrapped {
            Some(wrapped) => Kek::Sealed { root: self.id, wrapped: wrapped.clone() },
            None => Kek::Resident(self.id),
        };
        let (key, sealed) = executor.generate_key(&kek, Canary::AAD).map_err(words)?;
        let fingerprint = Sha256::digest(key.expose()).into();
        let canary = Canary { root: self.id, kek: wrapped, sealed, fingerprint };
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
}
