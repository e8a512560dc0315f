//! Signing keys: made, wrapped, and unwrapped again for each signature.
//!
//! A private key is in the token for one call only: there is no handle of it
//! between two signatures that could reach another key.

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki_sys::CK_MECHANISM_TYPE;
use sha2::{Digest, Sha256};

use super::{Executor, Failure, Own, distrust};
use crate::hsm::pkcs11::primitive::{self, KeyId, Pair, Usage, WRAPPED_LEN};
use crate::hsm::{HsmError, Kek};
use crate::id::RootId;
use crate::keyring::signing::{PublicKey, Signature, SigningKey, SigningWrap};
use crate::keyring::wrapped::{WrapMechanism, WrappedKek};

/// Longest wrapped private key that is taken for one: PKCS#8 of a P-256 key has 67 to about 200 bytes.
const LONGEST: usize = 512;

/// The CKA_ID of an unwrapped signing key: the beginning of SHA-256 over its public key.
fn signing_id(public: &PublicKey) -> KeyId {
    shortened(Sha256::new_with_prefix(b"keyward/1/signing-handle").chain_update(public.point()))
}

/// The CKA_ID of the KEK that wraps it; another one than it would have as the KEK of a tenant.
fn wrapping_id(root: &RootId, kek: &WrappedKek) -> KeyId {
    let digest = Sha256::new_with_prefix(b"keyward/1/signing-kek-handle").chain_update(root.0);
    shortened(digest.chain_update(&kek.bytes))
}

fn shortened(digest: Sha256) -> KeyId {
    let digest: [u8; 32] = digest.finalize().into();
    let (id, _) = digest.split_first_chunk().unwrap_or_else(|| unreachable!());
    *id
}

impl Executor<'_> {
    /// Makes a key pair and its KEK. The private key is born extractable and
    /// lives so for one call; before anybody hears of it, it has signed once
    /// from its wrapped form.
    pub(super) fn generate_signing_key(&self, root: &RootId) -> Result<SigningKey, Failure> {
        let mechanism = self.padded_wrap()?;
        let kek = self.generate_kek(root)?;
        // It was tried as the KEK of a tenant, and is none.
        self.connection.keks.forget(&Kek::Sealed { root: *root, wrapped: kek.clone() });
        let wrapping = self.wrapping_key(root, &kek)?;
        let born = self.born_under(wrapping, mechanism);
        self.destroy(wrapping.handle)?;
        let (public, wrapped) = born?;
        let key = SigningKey { root: *root, kek, wrap: SigningWrap::Rfc5649, wrapped, public };
        let probe = Sha256::digest(b"keyward/1/signing-key-probe").into();
        match self.sign(&key, &probe) {
            Ok(_) => Ok(key),
            Err(Failure::Answer(HsmError::Integrity)) => {
                distrust("a signing key that was just wrapped does not unwrap")
            }
            Err(failure) => Err(failure),
        }
    }

    /// A new pair under the wrapping key: what it verifies with, and the wrapped private key.
    fn born_under(
        &self,
        wrapping: Own,
        mechanism: CK_MECHANISM_TYPE,
    ) -> Result<(PublicKey, Vec<u8>), Failure> {
        self.count();
        let pair = primitive::generate_pair(self.session, true)
            .map_err(|error| self.refused_by(wrapping, &error))?;
        let born = self.public_of(&pair).and_then(|public| {
            self.count();
            let raw = self.connection.module.raw();
            let wrapped = raw.wrap(self.session, mechanism, wrapping.handle, pair.private);
            Ok((public, wrapped.map_err(|error| self.refused_by(wrapping, &error))?))
        });
        let private_gone = self.destroy(pair.private);
        self.destroy(pair.public)?;
        private_gone?;
        let (public, wrapped) = born?;
        match wrapped.len() {
            1..=LONGEST => Ok((public, wrapped)),
            other => distrust(format!("a wrapped signing key has {other} bytes")),
        }
    }

    fn public_of(&self, pair: &Pair) -> Result<PublicKey, Failure> {
        let shown = self.session.get_attributes(pair.public, &[AttributeType::EcPoint]);
        match shown.map_err(|error| self.refusal(&error))?.as_slice() {
            [Attribute::EcPoint(point)] => PublicKey::from_ec_point(point)
                .map_or_else(|| distrust("the public key of a new pair is no point of P-256"), Ok),
            _ => distrust("a new pair does not show its public key"),
        }
    }

    /// Signs a SHA-256 digest, and believes the signature only if it verifies.
    pub(super) fn sign(&self, key: &SigningKey, digest: &[u8; 32]) -> Result<Signature, Failure> {
        let SigningWrap::Rfc5649 = key.wrap;
        let mechanism = self.padded_wrap()?;
        let wrapping = self.wrapping_key(&key.root, &key.kek)?;
        let private = self.private_key(wrapping, mechanism, key);
        self.destroy(wrapping.handle)?;
        let private = private?;
        self.count();
        let signed = self.session.sign(&Mechanism::Ecdsa, private.handle, digest);
        let signed = signed.map_err(|error| self.refused_by(private, &error));
        self.destroy(private.handle)?;
        match Signature::from_raw(&signed?) {
            Some(signature) if key.public.verifies(digest, &signature) => Ok(signature),
            Some(_) => distrust("a signature does not verify"),
            None => distrust("a signature has not 64 bytes"),
        }
    }

    fn private_key(
        &self,
        wrapping: Own,
        mechanism: CK_MECHANISM_TYPE,
        key: &SigningKey,
    ) -> Result<Own, Failure> {
        if !(1..=LONGEST).contains(&key.wrapped.len()) {
            return Err(HsmError::Integrity.into());
        }
        let (id, raw) = (signing_id(&key.public), self.connection.module.raw());
        let template = primitive::private_key(id);
        let unwrap = || raw.unwrap(self.session, mechanism, wrapping.handle, &key.wrapped, &template);
        let handle = self.verified(wrapping, unwrap)?;
        self.only_protected(Own { handle, id })
    }

    /// The KEK of a signing key, as a session object that does nothing but wrap
    /// and, where the module takes that, unwraps nothing that could leave it.
    fn wrapping_key(&self, root: &RootId, kek: &WrappedKek) -> Result<Own, Failure> {
        let WrapMechanism::AesKeyWrap = kek.mechanism;
        if kek.bytes.len() != WRAPPED_LEN {
            return Err(HsmError::Integrity.into());
        }
        let (root, id) = (self.master(root)?, wrapping_id(root, kek));
        let handle = self.verified(root, || self.unwrap_wrapping(root.handle, kek, id))?;
        self.only_protected(Own { handle, id })
    }

    fn unwrap_wrapping(
        &self,
        root: ObjectHandle,
        kek: &WrappedKek,
        id: KeyId,
    ) -> Result<ObjectHandle, Error> {
        let mut template = primitive::session_key(Usage::Wrap, false);
        template.push(Attribute::Id(id.to_vec()));
        let inner = [Attribute::Sensitive(true), Attribute::Extractable(false)];
        let raw = self.connection.module.raw();
        raw.unwrap_with_template(self.session, root, &kek.bytes, &template, &inner)
            .or_else(|_| primitive::unwrap(self.session, root, &kek.bytes, &template))
    }

    fn padded_wrap(&self) -> Result<CK_MECHANISM_TYPE, HsmError> {
        let reason = "the PKCS#11 module wraps no signing keys: it has no AES key wrap of RFC 5649";
        self.connection.padded_wrap.ok_or_else(|| HsmError::Unavailable(reason.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::object::{KeyType, ObjectClass};

    use super::*;

    #[test]
    fn handles_of_different_kinds_have_different_names() {
        let (root, kek) =
            (RootId([1; 16]), WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes: vec![2; 40] });
        let tenant = super::super::kek_id(&root, &kek);
        assert_ne!(wrapping_id(&root, &kek), tenant);
        let template = primitive::private_key(tenant);
        assert!(template.contains(&Attribute::Class(ObjectClass::PRIVATE_KEY)));
        assert!(template.contains(&Attribute::KeyType(KeyType::EC)));
        assert!(template.contains(&Attribute::Extractable(false)));
    }
}
