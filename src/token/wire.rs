//! What is said to a token process, and what it answers: one reply to each request, in order.

use std::fmt;
use std::path::PathBuf;

use minicbor::{Decode, Encode};

use crate::id::token::{TokenInfo, TokenSelector};
pub use crate::keyring::account::Asked;
use crate::keyring::credential::TokenAlgorithm;
use crate::secret::{Key256, Pin, SecretBytes, transfer};
use crate::token::error::{PinTrouble, TokenError};

/// The first message: which library to load.
#[derive(Debug, Encode, Decode)]
pub(super) struct Hello {
    /// An absolute path; `None` where there is one way to the tokens only.
    #[n(0)]
    pub(super) module: Option<PathBuf>,
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
    /// Agree with a key made for the purpose, and compare. Answer: [`Reply::Done`].
    #[n(6)]
    TestAgreement(#[n(0)] KeySelector),
    /// Wait until a token comes or goes. Answer: [`Reply::Done`].
    #[n(7)]
    Wait,
    /// Change the PIN, with one try of the old one. Answer: [`Reply::Done`].
    #[n(8)]
    ChangePin {
        #[n(0)]
        token: TokenSelector,
        #[cbor(n(1), with = "transfer::pin")]
        pin: Pin,
        #[cbor(n(2), with = "transfer::pin")]
        new: Pin,
        /// Spend the last try too.
        #[n(3)]
        last_try: bool,
    },
    /// Set a new PIN, or PUK, by the PUK. Answer: [`Reply::Done`].
    #[n(9)]
    UsePuk {
        #[n(0)]
        token: TokenSelector,
        #[cbor(n(1), with = "transfer::pin")]
        puk: Pin,
        #[n(4)]
        sets: PukSets,
        #[cbor(n(2), with = "transfer::pin")]
        new: Pin,
        /// Spend the last try too.
        #[n(3)]
        last_try: bool,
    },
    /// Attest that the token made a key. Answer: [`Reply::Attested`].
    #[n(11)]
    Attest(#[n(0)] KeySelector),
    /// Prove to a PIV card that its keys may be made anew; empty is the key that cards leave the
    /// factory with. Answer: [`Reply::Done`].
    #[n(12)]
    Manage(#[cbor(n(0), with = "transfer::bytes")] SecretBytes),
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
    Done,
    #[n(9)]
    Attested(#[n(0)] Option<Attestation>),
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
    /// How many tries of the PIN are left, if the token counts.
    #[n(3)]
    pub tries: Option<u8>,
    /// Which of its secrets are those that it left the factory with, as far as it tells.
    #[n(4)]
    pub factory: Vec<Secret>,
    /// The state of what unblocks the PIN, as far as it tells.
    #[n(5)]
    pub puk: PinState,
}

/// What a PUK sets anew: that of a PIV card, or the security officer's PIN of a PKCS#11 token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum PukSets {
    /// The PIN, where it is locked or forgotten.
    #[n(0)]
    Pin,
    /// Itself.
    #[n(1)]
    Puk,
}

/// A secret that tokens leave the factory with, the same on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Secret {
    /// The PIN.
    #[n(0)]
    Pin,
    /// What unblocks the PIN.
    #[n(1)]
    Puk,
    /// What allows to make keys.
    #[n(2)]
    ManagementKey,
}

impl Secret {
    /// The words for it, as people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Puk => "puk",
            Self::ManagementKey => "management-key",
        }
    }
}

/// What a token asks for before it uses a key. It is set when the key is made, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct KeyPolicy {
    /// The PIN.
    #[n(0)]
    pub pin: Asked,
    /// A touch.
    #[n(1)]
    pub touch: Asked,
}

/// A token's word that it made a key and never gave it away.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Attestation {
    /// The certificate of the key, by the token: in DER.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: Vec<u8>,
    /// The certificate of the token, by its vendor: in DER.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub token: Vec<u8>,
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

    /// That a PIN in this state may be tried: the last try only if that is said. Not every token that has a PIN says so.
    ///
    /// # Errors
    /// [`PinTrouble::Locked`], [`PinTrouble::LastTry`].
    pub fn may_try(self, last_try: bool) -> Result<(), PinTrouble> {
        self.may_try_or(last_try, PinTrouble::Locked, PinTrouble::LastTry)
    }

    /// The same of what unblocks a PIN.
    ///
    /// # Errors
    /// [`PinTrouble::PukLocked`], [`PinTrouble::LastPukTry`].
    pub fn may_try_puk(self, last_try: bool) -> Result<(), PinTrouble> {
        self.may_try_or(last_try, PinTrouble::PukLocked, PinTrouble::LastPukTry)
    }

    fn may_try_or(self, last_try: bool, locked: PinTrouble, last: PinTrouble) -> Result<(), PinTrouble> {
        match self {
            Self::Locked => Err(locked),
            Self::LastTry if !last_try => Err(last),
            Self::NotSet | Self::LastTry | Self::FewTries | Self::Fine => Ok(()),
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
    /// What the token asks for before it uses the key, if it tells.
    #[n(6)]
    pub policy: Option<KeyPolicy>,
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
    /// It signs logins, and nothing else.
    #[n(2)]
    Login,
}

impl KeyUse {
    /// How the labels of keys begin that Keyward makes for this use.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sign => "keyward sign",
            Self::Agree => "keyward agree",
            Self::Login => "keyward login",
        }
    }

    /// The slot of a PIV card whose key is for it (NIST SP 800-73-4, part 1, section 3.1): 9A PIV
    /// authentication, 9C digital signature, 9D key management.
    pub fn piv_slot(self) -> u8 {
        match self {
            Self::Login => 0x9a,
            Self::Sign => 0x9c,
            Self::Agree => 0x9d,
        }
    }

    /// Whether a key in a slot of a PIV card may be for it: to log in also one that a slot 9A had once (82 to 95,
    /// retired keys; NIST SP 800-73-4, part 1, table 4b).
    pub fn allows_piv_slot(self, slot: u8) -> bool {
        slot == self.piv_slot() || (self == Self::Login && (0x82..=0x95).contains(&slot))
    }

    /// Whether a key is for it.
    pub fn is_of(self, key: &TokenKey) -> bool {
        match self {
            Self::Sign | Self::Login => key.signs,
            Self::Agree => key.agrees,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Sign | Self::Login => "sign",
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
                    (false, KeyUse::Sign | KeyUse::Login) => "no key that signs".to_owned(),
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
    /// What a PIV card needs to be told, and no other token.
    #[n(4)]
    pub piv: Option<NewPivKey>,
}

/// What is said of a new key on a PIV card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct NewPivKey {
    /// What the card asks for before it uses the key.
    #[n(0)]
    pub policy: KeyPolicy,
    /// Make it although the slot has a key, which is destroyed.
    #[n(1)]
    pub replace: bool,
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
            policy: None,
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
