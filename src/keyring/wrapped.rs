//! Keys at rest: wrapped KEKs and sealed DEKs, as they stand in records.

use hkdf::Hkdf;
use minicbor::{Decode, Encode};
use sha2::Sha256;

use crate::id::RootId;
use crate::secret::Key256;

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
    /// By which the key is recognised when it is opened; the earliest records have none.
    #[n(3)]
    pub check: Option<KeyCheck>,
}

/// The check value of a 256-bit key: `HKDF-Expand-SHA-256(key, lp32("keyward/1/key-check"), 16)`
/// (RFC 5869). It says nothing of the key, and nothing else is derived so.
///
/// GCM tells a module's wrong input from a right one, but not a wrong output:
/// a key that was damaged after it was opened would encrypt data that nobody
/// can ever decrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct KeyCheck(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]);

impl KeyCheck {
    const INFO: &'static [u8] = b"\x00\x00\x00\x13keyward/1/key-check";

    /// The check value of a key.
    pub fn of(key: &Key256) -> Self {
        let mut check = [0; 16];
        let derived = Hkdf::<Sha256>::from_prk(key.expose()).map(|hkdf| hkdf.expand(Self::INFO, &mut check));
        // A PRK of 32 bytes is long enough, and 16 bytes are few enough (RFC 5869, section 2.3).
        debug_assert!(matches!(derived, Ok(Ok(()))));
        Self(check)
    }
}

/// A sealed key with a known fingerprint: proves that a master key is the right one and works.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Canary {
    /// The root, or the resident KEK, that is proved.
    #[n(0)]
    pub root: RootId,
    /// A KEK made for this purpose only, under the root; a resident KEK seals the key itself.
    #[n(1)]
    pub kek: Option<WrappedKek>,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As canaries were written before there were resident KEKs.
    #[derive(Encode)]
    struct Earlier {
        #[n(0)]
        root: RootId,
        #[n(1)]
        kek: WrappedKek,
        #[n(2)]
        sealed: SealedKey,
        #[cbor(n(3), with = "minicbor::bytes")]
        fingerprint: [u8; 32],
    }

    #[test]
    fn an_earlier_canary_is_written_as_before() {
        let kek = WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes: vec![2; 40] };
        let mechanism = SealMechanism::AesGcm;
        let sealed = SealedKey { mechanism, iv: [3; 12], ciphertext: [4; 48], check: None };
        let (root, fingerprint) = (RootId([1; 16]), [5; 32]);
        let earlier = Earlier { root, kek: kek.clone(), sealed: sealed.clone(), fingerprint };
        let now = Canary { root, kek: Some(kek), sealed, fingerprint };
        let bytes = minicbor::to_vec(&earlier).unwrap();
        assert_eq!(minicbor::to_vec(&now).unwrap(), bytes);
        assert_eq!(minicbor::decode::<Canary>(&bytes).unwrap(), now);
        let resident = Canary { kek: None, ..now };
        assert_eq!(minicbor::decode::<Canary>(&minicbor::to_vec(&resident).unwrap()).unwrap(), resident);
    }

    #[test]
    fn a_check_value_is_hkdf_expand() {
        // Computed with `cryptography.hazmat.primitives.kdf.hkdf.HKDFExpand`.
        let key = Key256::init_with(|key| key.fill(7));
        assert_eq!(hex::encode(KeyCheck::of(&key).0), "52ff31ae42144ce7188a5d1e300c8875");
        assert_ne!(KeyCheck::of(&key), KeyCheck::of(&Key256::init_with(|key| key.fill(8))));
    }
}
