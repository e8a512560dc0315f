//! Custodian cards: what a person hands in to be put on a roster.
//!
//! A card is one text of RFC 7468 with a label of its own:
//!
//! ```text
//! -----BEGIN KEYWARD CUSTODIAN CARD-----
//! base64 of CBOR {0: format 1, 1: custodian, 2: deployment (16 bytes), 3: signature}
//! -----END KEYWARD CUSTODIAN CARD-----
//! ```

use std::borrow::Cow;

use minicbor::{Decode, Encode};

use super::Custodian;
use crate::id::DeploymentId;
use crate::keyring::armour::{ArmourError, armour, dearmour};

/// The format of cards that is written here.
const FORMAT: u32 = 1;
const LABEL: &str = "KEYWARD CUSTODIAN CARD";
/// Most bytes of the text form; a card with a certificate of 16 KiB has fewer.
const LONGEST: usize = 32 << 10;
/// Most bytes of a signature: RSA of 8192 bits.
const LONGEST_SIGNATURE: usize = 1024;

/// Why a text is no custodian card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Too long to be one.
    #[error("not a custodian card: longer than {LONGEST} bytes")]
    TooLong,
    /// No RFC 7468 text, another label, or another spelling.
    #[error(
        "not a custodian card: it is one block from BEGIN to END {LABEL}, exactly as `token card` wrote it"
    )]
    Armour,
    /// The text is fine, its contents are not.
    #[error("the custodian card is damaged: {0}")]
    Contents(String),
    /// Of a newer version of this program.
    #[error("the custodian card has format {0}: it needs a newer keyward, this one reads format {FORMAT}")]
    Newer(u32),
}

/// Keys and name of a custodian, with the proof that the token has the keys: its signature of the
/// enrolment envelope. Reading a card does not check the signature: `token::enrolment::prove` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustodianCard {
    /// Who wants to be on the roster.
    pub custodian: Custodian,
    /// Of this installation.
    pub deployment: DeploymentId,
    /// By the custodian's signing key, over the envelope of purpose 2.
    pub signature: Vec<u8>,
}

/// What stands in a card.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Body<'a> {
    #[n(0)]
    format: u32,
    #[n(1)]
    custodian: Cow<'a, Custodian>,
    #[n(2)]
    deployment: DeploymentId,
    #[cbor(n(3), with = "minicbor::bytes")]
    signature: Cow<'a, [u8]>,
}

/// What every format begins with.
#[derive(Decode)]
#[cbor(map)]
struct Format {
    #[n(0)]
    format: u32,
}

impl CustodianCard {
    /// The text form: ASCII, lines of at most 64 characters, with a line end behind the last.
    pub fn to_text(&self) -> String {
        armour(LABEL, &self.to_bytes())
    }

    /// What stands in the armour.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_vec(&Body {
            format: FORMAT,
            custodian: Cow::Borrowed(&self.custodian),
            deployment: self.deployment,
            signature: Cow::Borrowed(&self.signature),
        })
    }

    /// Reads a text form. There is one spelling of each card; line ends may be those of
    /// Windows, and white space around the whole does not matter.
    ///
    /// # Errors
    /// [`CardError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, CardError> {
        let bytes = dearmour(LABEL, LONGEST, text).map_err(|error| match error {
            ArmourError::TooLong => CardError::TooLong,
            _ => CardError::Armour,
        })?;
        Self::from_bytes(&bytes)
    }

    /// Reads what stands in the armour.
    ///
    /// # Errors
    /// [`CardError`] unless it is what [`to_bytes`](Self::to_bytes) writes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CardError> {
        let damaged = |error: minicbor::decode::Error| CardError::Contents(error.to_string());
        let Format { format } = minicbor::decode(bytes).map_err(damaged)?;
        if format > FORMAT {
            return Err(CardError::Newer(format));
        }
        let body: Body = minicbor::decode(bytes).map_err(damaged)?;
        if to_vec(&body) != bytes {
            return Err(CardError::Contents("there is something in it that does not belong there".into()));
        }
        if body.signature.len() > LONGEST_SIGNATURE {
            return Err(CardError::Contents("the signature is too long".into()));
        }
        let Body { custodian, deployment, signature, .. } = body;
        Ok(Self { custodian: custodian.into_owned(), deployment, signature: signature.into_owned() })
    }
}

fn to_vec(body: &Body<'_>) -> Vec<u8> {
    // A vector takes everything.
    minicbor::to_vec(body).unwrap_or_else(|_| unreachable!())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::CustodianId;
    use crate::keyring::credential::{Credential, TokenAlgorithm, TokenKind};
    use crate::keyring::custodian::AgreementKey;
    use crate::keyring::public_key::tests::one_of_each;

    fn card(signature: Vec<u8>) -> CustodianCard {
        let [(_, signing), ..] = one_of_each();
        let [(_, agreement), ..] = one_of_each();
        let signing = Credential::new(TokenKind::Pkcs11, TokenAlgorithm::EcdsaP256Sha256, signing).unwrap();
        let agreement = AgreementKey::new(agreement).unwrap();
        let custodian = Custodian::new(CustodianId::new("alice").unwrap(), signing, agreement, None).unwrap();
        CustodianCard { custodian, deployment: DeploymentId([7; 16]), signature }
    }

    #[test]
    fn a_card_can_be_carried() {
        let card = card(vec![1; 64]);
        let text = card.to_text();
        assert!(text.starts_with("-----BEGIN KEYWARD CUSTODIAN CARD-----\n"));
        assert!(text.ends_with("-----END KEYWARD CUSTODIAN CARD-----\n"));
        assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 64));
        assert_eq!(CustodianCard::parse(&text), Ok(card.clone()));
        assert_eq!(CustodianCard::parse(&text.replace('\n', "\r\n")), Ok(card.clone()));
        assert_eq!(CustodianCard::parse(&format!(" \n{text}\n\n")), Ok(card));
    }

    #[test]
    fn another_armour_is_refused() {
        let text = card(vec![1; 64]).to_text();
        let lines: Vec<&str> = text.lines().collect();
        for other in [
            String::new(),
            text.replace("KEYWARD CUSTODIAN CARD", "CERTIFICATE"),
            text.replacen("BEGIN KEYWARD", "BEGIN  KEYWARD", 1),
            format!("Alice's card:\n{text}"),
            format!("{text}{text}"),
            lines[..lines.len() - 1].join("\n"),
            text.replacen(lines[1], &lines[1].to_lowercase(), 1).replacen(lines[2], "", 1),
            text.replacen(lines[1], &format!("{} ", lines[1]), 1),
            text.replacen(lines[1], &format!("{}\n{}", &lines[1][..10], &lines[1][10..]), 1),
        ] {
            assert_eq!(CustodianCard::parse(&other), Err(CardError::Armour), "{other}");
        }
        assert_eq!(CustodianCard::parse(&"-".repeat(LONGEST + 1)), Err(CardError::TooLong));
    }

    #[test]
    fn a_newer_card_says_so() {
        let newer = armour(LABEL, &[0xa1, 0x00, 0x02]);
        assert_eq!(CustodianCard::parse(&newer), Err(CardError::Newer(2)));
    }

    #[test]
    fn contents_have_one_spelling() {
        let card = card(vec![1; 64]);
        let bytes = dearmour(LABEL, LONGEST, &card.to_text()).unwrap();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x40;
            // A changed name, deployment or signature is for the signature to notice.
            if let Ok(read) = CustodianCard::parse(&armour(LABEL, &other)) {
                assert_ne!(read, card);
                assert_eq!(read.to_text(), armour(LABEL, &other));
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(CustodianCard::parse(&armour(LABEL, &longer)), Err(CardError::Contents(_))));
        let mut extra = [&bytes[..], &[0x09, 0x00]].concat();
        extra[0] += 1;
        assert!(matches!(CustodianCard::parse(&armour(LABEL, &extra)), Err(CardError::Contents(_))));
        assert!(matches!(
            CustodianCard::parse(&CustodianCard { signature: vec![0; 1025], ..card }.to_text()),
            Err(CardError::Contents(_))
        ));
    }

    proptest! {
        #[test]
        fn any_signature_is_carried(signature in prop::collection::vec(any::<u8>(), 0..=LONGEST_SIGNATURE)) {
            let card = CustodianCard { signature, ..CARD.clone() };
            prop_assert_eq!(CustodianCard::parse(&card.to_text()), Ok(card));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,200}", bytes: Vec<u8>) {
            let _ = CustodianCard::parse(&text);
            let _ = CustodianCard::parse(&armour(LABEL, &bytes));
        }
    }

    static CARD: std::sync::LazyLock<CustodianCard> = std::sync::LazyLock::new(|| card(Vec::new()));
}
