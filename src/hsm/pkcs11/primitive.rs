//! Calls on one session, each with its fixed parameters, and the templates of keys.

use cryptoki::error::Error;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;
use cryptoki_sys::CK_ULONG;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of an AES-256 key wrapped by `CKM_AES_KEY_WRAP` (RFC 3394).
pub(super) const WRAPPED_LEN: usize = 40;
/// Bytes of a GCM IV (NIST SP 800-38D, section 5.2.1.1: the recommended length).
pub(super) const IV_LEN: usize = 12;
/// Bits of a GCM tag; shorter ones are never asked for, although some modules accept even none.
const TAG_BITS: CK_ULONG = 128;

/// What a secret key of ours may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    /// Nothing but being wrapped.
    None,
    /// GCM only.
    Cipher,
    /// AES key wrap only.
    Wrap,
}

/// The attributes that every AES session key of ours names, because the defaults differ between modules.
pub(super) fn session_key(usage: Usage, extractable: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(extractable),
        Attribute::Encrypt(usage == Usage::Cipher),
        Attribute::Decrypt(usage == Usage::Cipher),
        Attribute::Wrap(usage == Usage::Wrap),
        Attribute::Unwrap(usage == Usage::Wrap),
    ]
}

/// The CKA_ID of a key: by it a handle is known to reach the key that it was given for.
pub(super) type KeyId = [u8; 16];

/// The template that a KEK is unwrapped with. No `ValueLen`: SoftHSM refuses it here.
pub(super) fn kek(id: KeyId, gcm_only: bool) -> Vec<Attribute> {
    let mut template = session_key(Usage::Cipher, false);
    template.push(Attribute::Id(id.to_vec()));
    if gcm_only {
        template.push(Attribute::AllowedMechanisms(vec![MechanismType::AES_GCM]));
    }
    template
}

/// DER of the OID secp256r1: CKA_EC_PARAMS (PKCS#11 3.1, section 6.3.3).
const P256: [u8; 10] = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

/// A P-256 key pair of session objects.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) public: ObjectHandle,
    pub(super) private: ObjectHandle,
}

/// Makes a pair whose private key does nothing but being wrapped.
pub(super) fn generate_pair(session: &Session, extractable: bool) -> Result<Pair, Error> {
    let public = [
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Verify(true),
        Attribute::EcParams(P256.to_vec()),
    ];
    let private = [
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(extractable),
        Attribute::Sign(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ];
    let (public, private) = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    Ok(Pair { public, private })
}

/// The template that a private key is unwrapped with: it signs.
pub(super) fn private_key(id: KeyId) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::EC),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Id(id.to_vec()),
    ]
}

pub(super) fn generate(session: &Session, usage: Usage, extractable: bool) -> Result<ObjectHandle, Error> {
    let mut template = session_key(usage, extractable);
    template.push(Attribute::ValueLen(Ulong::new(32)));
    session.generate_key(&Mechanism::AesKeyGen, &template)
}

/// Imports a key by value as a session object; the copy of the value is wiped.
pub(super) fn import(
    session: &Session,
    value: &[u8; 32],
    usage: Usage,
    extractable: bool,
) -> Result<ObjectHandle, Error> {
    let mut template = session_key(usage, extractable);
    template.push(Attribute::Value(value.to_vec()));
    let created = session.create_object(&template);
    if let Some(Attribute::Value(copy)) = template.last_mut() {
        copy.zeroize();
    }
    created
}

pub(super) fn wrap(session: &Session, wrapping: ObjectHandle, key: ObjectHandle) -> Result<Vec<u8>, Error> {
    session.wrap_key(&Mechanism::AesKeyWrap, wrapping, key)
}

pub(super) fn unwrap(
    session: &Session,
    unwrapping: ObjectHandle,
    wrapped: &[u8],
    template: &[Attribute],
) -> Result<ObjectHandle, Error> {
    session.unwrap_key(&Mechanism::AesKeyWrap, unwrapping, wrapped, template)
}

/// Ciphertext and tag, and the IV as the module left it: some overwrite it with their own.
pub(super) fn gcm_encrypt(
    session: &Session,
    key: ObjectHandle,
    mut iv: [u8; IV_LEN],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<(Vec<u8>, [u8; IV_LEN]), Error> {
    let parameters = GcmParams::new(&mut iv, aad, Ulong::new(TAG_BITS))?;
    let ciphertext = session.encrypt(&Mechanism::AesGcm(parameters), key, plaintext)?;
    Ok((ciphertext, iv))
}

pub(super) fn gcm_decrypt(
    session: &Session,
    key: ObjectHandle,
    mut iv: [u8; IV_LEN],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let parameters = GcmParams::new(&mut iv, aad, Ulong::new(TAG_BITS))?;
    session.decrypt(&Mechanism::AesGcm(parameters), key, ciphertext).map(Zeroizing::new)
}

/// Whether the object shows exactly these boolean or other attributes: a module
/// leaves out silently what it does not know.
pub(super) fn shows(
    session: &Session,
    object: ObjectHandle,
    types: &[AttributeType],
    expected: &[Attribute],
) -> Result<bool, Error> {
    Ok(session.get_attributes(object, types)? == expected)
}

/// Whether the module honoured the attributes on which everything rests.
pub(super) fn protected(session: &Session, key: ObjectHandle, id: KeyId) -> Result<bool, Error> {
    shows(
        session,
        key,
        &[AttributeType::Sensitive, AttributeType::Extractable, AttributeType::Id],
        &[Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Id(id.to_vec())],
    )
}

/// Whether the handle still reaches the key that it was given for.
pub(super) fn reaches(session: &Session, key: ObjectHandle, id: KeyId) -> bool {
    shows(session, key, &[AttributeType::Id], &[Attribute::Id(id.to_vec())]).unwrap_or(false)
}
