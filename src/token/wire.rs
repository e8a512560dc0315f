//! What is said to a token process, and what it answers: one reply to each request, in order.

use std::fmt;
use std::path::PathBuf;

use minicbor::{Decode, Encode};

use crate::id::token::{TokenInfo, TokenSelector};
use crate::keyring::credential::TokenAlgorithm;
use crate::secret::{Key256, Pin, transfer};
use crate::token::error::TokenError;

/// The first message: which library to load.
#[derive(Debug, Encode, Decode)]
pub(super) struct Hello {
    /// An absolute path.
    #[n(0)]
    pub(super) module: PathBuf,
}

/// A request.
#[derive(Debug, Encode, Decode)]
pub(super) enum Request {
    /// All tokens with what they show to everybody. Answer: [`Reply::Tokens`].
    #[n(0)]
    List,
    /// Log in to a token, once. Answer: [`Reply::Opened`].
    #[n(1)]
    Open {
        #[n(0)]
        token: TokenSelector,
        #[cbor(n(1), with = "transfer::pin")]
        pin: Pin,
        /// Spend the last try too.
        #[n(2)]
        last_try: bool,
    },
    /// The private keys of the open token. Answer: [`Reply::Keys`].
    #[n(2)]
    Keys,
    /// Sign an envelope. Answer: [`Reply::Signature`].
    #[n(3)]
    Sign {
        #[n(0)]
        key: KeySelector,
        #[n(1)]
        algorithm: TokenAlgorithm,
        #[cbor(n(2), with = "minicbor::bytes")]
        envelope: Vec<u8>,
    },
    /// Agree on a secret with an uncompressed point of P-256. Answer: [`Reply::Secret`].
    #[n(4)]
    Agree {
        #[n(0)]
        key: KeySelector,
        #[cbor(n(1), with = "minicbor::bytes")]
        point: Vec<u8>,
    },
    /// Make a key pair. Answer: [`Reply::Made`].
    #[n(5)]
    Generate(#[n(0)] NewKey),
    /// Agree with a key made for the purpose, and compare. Answer: [`Reply::Tested`].
    #[n(6)]
    TestAgreement(#[n(0)] KeySelector),
}

/// An answer.
#[derive(Debug, Encode, Decode)]
pub(super) enum Reply {
    #[n(0)]
    Ready,
    #[n(1)]
    Failed(#[n(0)] TokenError),
    #[n(2)]
    Tokens(#[n(0)] Vec<TokenReport>),
    #[n(3)]
    Opened(#[n(0)] TokenInfo),
    #[n(4)]
    Keys(#[n(0)] Vec<TokenKey>),
    #[n(5)]
    Signature(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(6)]
    Secret(#[cbor(n(0), with = "transfer::key")] Key256),
    #[n(7)]
    Made(#[n(0)] TokenKey),
    #[n(8)]
    Tested,
}

/// What a token shows without a PIN.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TokenReport {
    /// What it calls itself.
    #[n(0)]
    pub token: TokenInfo,
    /// The state of its user PIN, as far as it tells.
    #[n(1)]
    pub pin: PinState,
    /// Its public keys and certificates.
    #[n(2)]
    pub keys: Vec<TokenKey>,
}

/// The state of a user PIN, as far as the token tells. Some tokens never tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum PinState {
    /// Nothing is said of failed tries.
    #[n(0)]
    Fine,
    /// A wrong PIN was entered since the last right one.
    #[n(1)]
    FewTries,
    /// The next wrong PIN locks it.
    #[n(2)]
    LastTry,
    /// It is locked.
    #[n(3)]
    Locked,
    /// The token has none yet.
    #[n(4)]
    NotSet,
}

impl PinState {
    /// The word for it, as people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::FewTries => "few-tries",
            Self::LastTry => "last-try",
            Self::Locked => "locked",
            Self::NotSet => "not-set",
        }
    }
}

/// A key on a token.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TokenKey {
    /// CKA_ID.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: Vec<u8>,
    /// CKA_LABEL.
    #[n(1)]
    pub label: String,
    /// CKA_SIGN, or CKA_VERIFY where only the public key is seen.
    #[n(2)]
    pub signs: bool,
    /// CKA_DERIVE.
    #[n(3)]
    pub agrees: bool,
    /// The public key: SubjectPublicKeyInfo in DER, when it is one of those used here.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub spki: Option<Vec<u8>>,
    /// The certificate with the same CKA_ID, in DER.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub certificate: Option<Vec<u8>>,
}

impl TokenKey {
    /// Label and id, as a person may name it.
    fn name(&self) -> String {
        format!("{:?} (id:{})", self.label, hex::encode(&self.id))
    }
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum KeyUse {
    /// It signs.
    #[n(0)]
    Sign,
    /// It agrees on secrets.
    #[n(1)]
    Agree,
}

impl KeyUse {
    /// How the labels of keys begin that Keyward makes for this use.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sign => "keyward sign",
            Self::Agree => "keyward agree",
        }
    }

    /// Whether a key is for it.
    pub fn is_of(self, key: &TokenKey) -> bool {
        match self {
            Self::Sign => key.signs,
            Self::Agree => key.agrees,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Agree => "agree on secrets",
        }
    }
}

/// Which key of a token. Never simply the first: exactly one must fit.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum KeySelector {
    /// The one that `keyward token generate` has made for a use.
    #[n(0)]
    Made(#[n(0)] KeyUse),
    /// The one with this CKA_LABEL.
    #[n(1)]
    Label(#[n(0)] String),
    /// The one with this CKA_ID.
    #[n(2)]
    Id(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

/// Neither a label nor `id:` and hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("name a key by its label, or by `id:` and its id in hexadecimal")]
pub struct NoKeySelector;

impl KeySelector {
    /// Reads a label, or `id:` and a CKA_ID in hexadecimal.
    ///
    /// # Errors
    /// [`NoKeySelector`] when it is empty, or the digits are none.
    pub fn parse(text: &str) -> Result<Self, NoKeySelector> {
        let Some(digits) = text.strip_prefix("id:") else {
            return if text.is_empty() { Err(NoKeySelector) } else { Ok(Self::Label(text.to_owned())) };
        };
        let id = hex::decode(digits).ok().filter(|id| !id.is_empty()).ok_or(NoKeySelector)?;
        Ok(Self::Id(id))
    }

    /// Whether it means a key, if that is for the use.
    pub fn matches(&self, key: &TokenKey) -> bool {
        match self {
            Self::Made(made) => key.label.strip_prefix(made.label()).is_some_and(|rest| {
                // "keyward sign" or "keyward sign NAME".
                rest.is_empty() || rest.starts_with(' ')
            }),
            Self::Label(label) => key.label == *label,
            Self::Id(id) => key.id == *id,
        }
    }

    /// The one key of a token that is meant, among those that are for the use.
    ///
    /// # Errors
    /// [`TokenError::Key`] when none is, or several; it names those that are there.
    pub fn only<T>(
        &self,
        key_use: KeyUse,
        mut keys: Vec<T>,
        key: impl Fn(&T) -> &TokenKey,
    ) -> Result<T, TokenError> {
        keys.retain(|found| key_use.is_of(key(found)));
        let present: Vec<String> = keys.iter().map(|found| key(found).name()).collect();
        let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
        keys.retain(|found| self.matches(key(found)));
        match (keys.pop(), keys.len()) {
            (Some(only), 0) => Ok(only),
            (found, _) => {
                let does = key_use.words();
                let many = match (found.is_some(), key_use) {
                    (true, _) => format!("several keys that {does}"),
                    (false, KeyUse::Sign) => "no key that signs".to_owned(),
                    (false, KeyUse::Agree) => "no key that agrees on secrets".to_owned(),
                };
                Err(TokenError::Key(format!(
                    "{many} with {self} on this token; those that {does}: {present}"
                )))
            }
        }
    }
}

impl fmt::Display for KeySelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(made) => write!(f, "label {:?} and more", made.label()),
            Self::Label(label) => write!(f, "label {label:?}"),
            Self::Id(id) => write!(f, "id {}", hex::encode(id)),
        }
    }
}

/// A key pair to be made.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewKey {
    /// What it is for.
    #[n(0)]
    pub key_use: KeyUse,
    /// How it signs; a key that agrees is always on P-256.
    #[n(1)]
    pub algorithm: TokenAlgorithm,
    /// CKA_ID.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub id: Vec<u8>,
    /// CKA_LABEL.
    #[n(3)]
    pub label: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::child::frame;

    fn key(label: &str, id: &[u8]) -> TokenKey {
        TokenKey {
            id: id.to_vec(),
            label: label.to_owned(),
            signs: true,
            agrees: false,
            spki: None,
            certificate: None,
        }
    }

    #[test]
    fn a_selector_means_one_key() {
        let selector = KeySelector::parse("id:0aFf").unwrap();
        assert_eq!(selector, KeySelector::Id(vec![0x0a, 0xff]));
        assert!(selector.matches(&key("x", &[0x0a, 0xff])) && !selector.matches(&key("x", &[0x0a])));
        let selector = KeySelector::parse("keyward sign").unwrap();
        assert!(
            selector.matches(&key("keyward sign", &[])) && !selector.matches(&key("keyward sign a", &[]))
        );
        let made = KeySelector::Made(KeyUse::Sign);
        assert!(made.matches(&key("keyward sign alice", &[])) && made.matches(&key("keyward sign", &[])));
        assert!(
            !made.matches(&key("keyward signer", &[])) && !made.matches(&key("keyward agree alice", &[]))
        );
        for wrong in ["", "id:", "id:0", "id:0g", "id:+1"] {
            assert_eq!(KeySelector::parse(wrong), Err(NoKeySelector), "{wrong}");
        }
    }

    #[test]
    fn exactly_one_key_must_fit() {
        let keys = || vec![key("a", &[1]), key("a", &[2]), key("b", &[3])];
        let only = |selector: &str, key_use| {
            KeySelector::parse(selector).unwrap().only(key_use, keys(), |key| key).map(|key| key.id)
        };
        assert_eq!(only("b", KeyUse::Sign), Ok(vec![3]));
        assert_eq!(only("id:02", KeyUse::Sign), Ok(vec![2]));
        let words = |refused: Result<_, TokenError>| refused.unwrap_err().to_string();
        assert!(words(only("a", KeyUse::Sign)).starts_with("several keys that sign with label \"a\""));
        assert!(words(only("c", KeyUse::Sign)).contains("those that sign: \"a\" (id:01), "));
        assert!(words(only("b", KeyUse::Agree)).ends_with("those that agree on secrets: none"));
    }

    proptest! {
        #[test]
        fn hexadecimal_comes_back(bytes: Vec<u8>) {
            prop_assert_eq!(hex::decode(hex::encode(&bytes)), Ok(bytes));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut message = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            message.extend(bytes);
            let _ = frame::read::<Request>(&mut message.as_slice());
            let _ = frame::read::<Reply>(&mut message.as_slice());
        }
    }
}
