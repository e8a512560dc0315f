//! Keys at rest: wrapped KEKs and sealed DEKs, as they stand in records.

use minicbor::{Decode, Encode};

use crate::id::RootId;

/// How a KEK is wrapped; recorded with each, chosen by the start-up self-test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum WrapMechanism {
    /// `CKM_AES_KEY_WRAP` (0x2109): RFC 3394, 40 bytes for a 256-bit key.
    #[n(1)]
    AesKeyWrap,
}

/// A wrapped KEK.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct WrappedKek {
    /// How it is wrapped.
    #[n(0)]
    pub mechanism: WrapMechanism,
    /// The wrapped bytes: 40 for [`WrapMechanism::AesKeyWrap`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

/// How a 256-bit key is sealed under a KEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum SealMechanism {
    /// `CKM_AES_GCM` (0x1087), 96-bit IV from the module's generator, 128-bit tag.
    #[n(1)]
    AesGcm,
}

/// A DEK, blind index key or daemon secret, encrypted under a KEK.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SealedKey {
    /// How it is sealed.
    #[n(0)]
    pub mechanism: SealMechanism,
    /// The IV.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub iv: [u8; 12],
    /// 32 bytes of ciphertext and the 16-byte tag.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub ciphertext: [u8; 48],
}

/// A sealed key with a known fingerprint: proves that a root is the right one and works.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Canary {
    /// The root that is proved.
    #[n(0)]
    pub root: RootId,
    /// A KEK made for this purpose only.
    #[n(1)]
    pub kek: WrappedKek,
    /// A key sealed under it, bound to [`Canary::AAD`].
    #[n(2)]
    pub sealed: SealedKey,
    /// SHA-256 of the sealed key: the known answer.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub fingerprint: [u8; 32],
}

impl Canary {
    /// What the canary's sealed key is bound to.
    pub const AAD: &'static [u8] = b"keyward/1/canary";
}
