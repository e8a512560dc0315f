//! From a DEK to the key of one message, and what the message is bound to.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::aead::AeadKey;
use super::context::Context;
use super::dek::Dek;
use super::header::{self, Header};
use super::message::{OpenError, SealError};
use super::suite::Suite;
use super::{lp32_len, put_lp32};
use crate::id::{DekId, KeyName};

/// Domain separation of the one thing that is derived from a DEK.
const LABEL: &[u8] = b"keyward/1/message";

/// Everything that one message needs.
pub(super) struct Message {
    /// Used for this message only.
    pub(super) key: AeadKey,
    /// BIND: the additional authenticated data.
    pub(super) bind: Vec<u8>,
    /// SHA-256 of BIND.
    pub(super) digest: [u8; 32],
    /// The header, with the commitment that follows from key and BIND.
    pub(super) header: Header,
}

impl Message {
    /// Derives a new message for sealing.
    pub(super) fn seal(
        suite: Suite,
        dek: &Dek,
        name: &KeyName,
        context: &Context,
        salt: [u8; 24],
    ) -> Result<Self, SealError> {
        if suite.family() != dek.family() {
            return Err(SealError::Family);
        }
        let bind = bind(suite, dek.id(), &salt, name, context);
        let digest: [u8; 32] = Sha256::digest(&bind).into();
        let mut okm = Zeroizing::new([[0; 32]; 2]);
        dek.expand(&[&lp32_len(LABEL), LABEL, &digest], okm.as_flattened_mut())
            .map_err(|_| SealError::Primitive)?;
        let [key, commitment] = &*okm;
        let key = AeadKey::new(key).map_err(|_| SealError::Primitive)?;
        let header = Header { suite, dek: dek.id(), salt, commitment: *commitment };
        Ok(Self { key, bind, digest, header })
    }

    /// Derives the message that a header speaks of, and checks the commitment:
    /// without it a ciphertext could be made that opens under two keys.
    pub(super) fn open(
        suite: Suite,
        dek: &Dek,
        name: &KeyName,
        context: &Context,
        header: &Header,
    ) -> Result<Self, OpenError> {
        if header.suite != suite || header.dek != dek.id() {
            return Err(OpenError::Refused);
        }
        let message = Self::seal(suite, dek, name, context, header.salt).map_err(|_| OpenError::Refused)?;
        let committed = message.header.commitment.ct_eq(&header.commitment);
        bool::from(committed).then_some(message).ok_or(OpenError::Refused)
    }
}

/// BIND (docs/format.md): header up to the salt, then names and context.
fn bind(suite: Suite, dek: DekId, salt: &[u8; 24], name: &KeyName, context: &Context) -> Vec<u8> {
    let (tenant, key) = (name.tenant.as_str().as_bytes(), name.key.as_str().as_bytes());
    let len = Header::BOUND + 4 + tenant.len() + 4 + key.len() + context.encoded().len();
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(&header::bound(suite, dek, salt));
    put_lp32(&mut out, tenant);
    put_lp32(&mut out, key);
    out.extend_from_slice(context.encoded());
    out
}
