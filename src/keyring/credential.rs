//! Credentials: what is known of a key on a USB token, and what its signatures are checked with.

use std::fmt;

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use super::public_key::{KeyType, PublicKeyError};

/// How a token is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum TokenKind {
    /// Through its vendor's PKCS#11 library.
    #[n(1)]
    Pkcs11,
    /// A PIV card (NIST SP 800-73), through PC/SC.
    #[n(2)]
    Piv,
}

impl TokenKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Pkcs11, Self::Piv];

    /// The word for it, as people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pkcs11 => "pkcs11",
            Self::Piv => "piv",
        }
    }

    /// The kind of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a token signs. It stands in the record: a message never chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum TokenAlgorithm {
    /// ECDSA on P-256 over SHA-256 (FIPS 186-5); 64 bytes, r | s, low s.
    #[n(1)]
    EcdsaP256Sha256,
    /// ECDSA on P-384 over SHA-384 (FIPS 186-5); 96 bytes, r | s, low s.
    #[n(2)]
    EcdsaP384Sha384,
    /// RSASSA-PSS over SHA-256, MGF1 with SHA-256, 32 bytes of salt (RFC 8017, section 8.1).
    #[n(3)]
    RsaPssSha256,
    /// RSASSA-PKCS1-v1_5 over SHA-256 (RFC 8017, section 8.2).
    #[n(4)]
    RsaPkcs1Sha256,
    /// Ed25519 (RFC 8032), over the message itself; 64 bytes.
    #[n(5)]
    Ed25519,
}

impl TokenAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 5] = [
        Self::EcdsaP256Sha256,
        Self::EcdsaP384Sha384,
        Self::RsaPssSha256,
        Self::RsaPkcs1Sha256,
        Self::Ed25519,
    ];

    /// The word for it, as people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::EcdsaP384Sha384 => "ecdsa-p384-sha384",
            Self::RsaPssSha256 => "rsa-pss-sha256",
            Self::RsaPkcs1Sha256 => "rsa-pkcs1-sha256",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The algorithm of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == word)
    }

    /// The type of the keys that sign so.
    pub fn key_type(self) -> KeyType {
        match self {
            Self::EcdsaP256Sha256 => KeyType::P256,
            Self::EcdsaP384Sha384 => KeyType::P384,
            Self::RsaPssSha256 | Self::RsaPkcs1Sha256 => KeyType::Rsa,
            Self::Ed25519 => KeyType::Ed25519,
        }
    }
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names a credential for ever: SHA-256 of its SubjectPublicKeyInfo in DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct CredentialId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl CredentialId {
    /// The id of a public key.
    pub fn of(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }

    /// Reads the 64 lower-case hexadecimal digits that it is shown as.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        let id = Self(bytes);
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key on a token that signs. The public key is valid, canonical, and of the algorithm's type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode)]
#[cbor(map)]
pub struct Credential {
    #[n(1)]
    kind: TokenKind,
    #[n(2)]
    algorithm: TokenAlgorithm,
    #[cbor(n(3), with = "minicbor::bytes")]
    spki: Vec<u8>,
}

/// A credential as it is read, before it is checked.
#[derive(Decode)]
#[cbor(map)]
struct Unchecked {
    #[n(1)]
    kind: TokenKind,
    #[n(2)]
    algorithm: TokenAlgorithm,
    #[cbor(n(3), with = "minicbor::bytes")]
    spki: Vec<u8>,
}

impl Credential {
    /// Checks and takes a public key (SubjectPublicKeyInfo in DER).
    ///
    /// # Errors
    /// [`PublicKeyError`] unless the DER is canonical and the key valid, strong enough, and of the algorithm's type.
    pub fn new(kind: TokenKind, algorithm: TokenAlgorithm, spki: Vec<u8>) -> Result<Self, PublicKeyError> {
        algorithm.key_type().require(&spki)?;
        Ok(Self { kind, algorithm, spki })
    }

    /// Its name.
    pub fn id(&self) -> CredentialId {
        CredentialId::of(&self.spki)
    }

    /// How the token is reached.
    pub fn kind(&self) -> TokenKind {
        self.kind
    }

    /// How it signs.
    pub fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// The public key: SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }
}

impl<'b, C> Decode<'b, C> for Credential {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        let Unchecked { kind, algorithm, spki } = Decode::decode(d, ctx)?;
        Self::new(kind, algorithm, spki).map_err(minicbor::decode::Error::custom)
    }
}

/// A signature that was verified over the very bytes that it is for. `token::verify` alone makes one, which a test holds it to: what
/// must rest on a signature takes this, so that leaving the check out does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "what rests on a signature takes the proof that it was verified"]
pub struct Verified {
    by: CredentialId,
    signature: Vec<u8>,
}

impl Verified {
    /// Says that the signature of this key was verified.
    pub(crate) fn of(credential: &Credential, signature: &[u8]) -> Self {
        Self { by: credential.id(), signature: signature.to_vec() }
    }

    /// The key that signed.
    pub fn by(&self) -> CredentialId {
        self.by
    }

    /// The signature, in the form of the key's algorithm.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }
}

#[cfg(test)]
mod tests {
    use super::super::public_key::tests::one_of_each;
    use super::*;

    #[test]
    fn words_name_one_thing_each() {
        assert!(TokenAlgorithm::ALL.iter().all(|one| TokenAlgorithm::parse(one.as_str()) == Some(*one)));
        assert!(TokenKind::ALL.iter().all(|one| TokenKind::parse(one.as_str()) == Some(*one)));
        assert_eq!((TokenAlgorithm::parse("ecdsa"), TokenKind::parse("PIV")), (None, None));
    }

    #[test]
    fn an_algorithm_takes_keys_of_its_type_only() {
        for (key_type, spki) in one_of_each() {
            for algorithm in TokenAlgorithm::ALL {
                let made = Credential::new(TokenKind::Pkcs11, algorithm, spki.clone());
                assert_eq!(made.is_ok(), algorithm.key_type() == key_type, "{algorithm} {key_type}");
            }
        }
    }

    #[test]
    fn a_record_is_checked_when_it_is_read() {
        for (key_type, spki) in one_of_each() {
            let algorithm = TokenAlgorithm::ALL.into_iter().find(|one| one.key_type() == key_type).unwrap();
            let credential = Credential::new(TokenKind::Piv, algorithm, spki).unwrap();
            let mut bytes = minicbor::to_vec(&credential).unwrap();
            assert_eq!(minicbor::decode::<Credential>(&bytes).unwrap(), credential);
            // A key of n(3) that is not what it was: the DER's first byte.
            let at = bytes.len() - credential.spki().len();
            bytes[at] ^= 1;
            assert!(minicbor::decode::<Credential>(&bytes).is_err());
        }
    }

    #[test]
    fn an_id_is_sha_256_of_the_key() {
        // `printf abc | sha256sum`
        let id = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(CredentialId::of(b"abc").to_string(), id);
    }
}
