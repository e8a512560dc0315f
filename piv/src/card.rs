//! A card that is logged in to.

use std::time::{Duration, Instant};

use keyward::id::token::TokenInfo;
use keyward::keyring::credential::TokenAlgorithm;
use keyward::keyring::custodian::AgreementKey;
use keyward::secret::{Key256, Pin, SecretBytes};
use keyward::token::backend::OpenToken;
use keyward::token::error::TokenError;
use keyward::token::wire::{Asked, Attestation, NewKey, TokenKey};
use sha2::{Digest, Sha256, Sha384};
use x509_cert::der::Encode;
use yubikey::piv::{AlgorithmId, SlotId};
use yubikey::{Error, YubiKey, piv};

use crate::backend::info;
use crate::slots::{self, SlotKey};
use crate::trouble::{failed, wrong_pin};
use crate::{management, padding};

/// Cards wait 15 seconds for a touch, the quickest known one: a refusal before this is none for want of a touch.
const UNTOUCHED: Duration = Duration::from_millis(500);

/// A card, its PIN proved.
pub(crate) struct Card {
    pub(crate) card: YubiKey,
    token: TokenInfo,
    pin: Pin,
}

impl Card {
    pub(crate) fn new(card: YubiKey, pin: Pin) -> Self {
        let token = info(&card);
        Self { card, token, pin }
    }

    /// Before each use of a key: some slots ask for the PIN each time, and other programs that use the card
    /// make it forget that it was proved. It was right a moment ago, so no try is lost.
    fn prove(&mut self) -> Result<(), TokenError> {
        let pin = self.pin.expose().as_bytes();
        self.card.verify_pin(pin).map_err(|error| wrong_pin("take the PIN", error))
    }

    /// Has a key used, the PIN proved the moment before. Another program can make the card forget it in
    /// between: then it is proved once more.
    fn with_key<T>(
        &mut self,
        key: &SlotKey,
        doing: &str,
        using: impl Fn(&mut YubiKey) -> Result<T, Error>,
    ) -> Result<T, TokenError> {
        let touch = key.key.policy.is_some_and(|policy| policy.touch != Asked::Never);
        self.prove()?;
        let begun = Instant::now();
        match using(&mut self.card) {
            // Cards answer the same when nobody touches them, but not at once.
            Err(Error::AuthenticationError) if touch && begun.elapsed() >= UNTOUCHED => {
                Err(TokenError::Untouched)
            }
            Err(Error::AuthenticationError) => {
                self.prove()?;
                using(&mut self.card).map_err(|error| self.unused(touch, doing, error))
            }
            used => used.map_err(|error| self.unused(touch, doing, error)),
        }
    }

    /// Why a key was not used.
    fn unused(&mut self, touch: bool, doing: &str, error: Error) -> TokenError {
        match error {
            Error::AuthenticationError if touch => TokenError::Untouched,
            Error::AuthenticationError => TokenError::Busy(
                "the card forgot that its PIN was proved: another program uses it at the same time"
                    .to_owned(),
            ),
            // A reader without its card answers nonsense, until it notices.
            Error::GenericError if self.card.get_pin_retries().is_err() => {
                TokenError::Lost(format!("the card was pulled out or reset while it was to {doing}"))
            }
            other => failed(doing, other),
        }
    }
}

/// What the card signs: a digest, a padded block, or for Ed25519 the message itself.
fn prepared(key: &SlotKey, algorithm: TokenAlgorithm, message: &[u8]) -> Result<Vec<u8>, TokenError> {
    let modulus = || {
        let bytes = key.key.spki.as_deref().and_then(slots::modulus_bytes);
        bytes.ok_or_else(|| TokenError::Key("the key is none for RSA".to_owned()))
    };
    match algorithm {
        TokenAlgorithm::EcdsaP256Sha256 => Ok(Sha256::digest(message).to_vec()),
        TokenAlgorithm::EcdsaP384Sha384 => Ok(Sha384::digest(message).to_vec()),
        TokenAlgorithm::RsaPssSha256 => padding::pss(message, modulus()?),
        TokenAlgorithm::RsaPkcs1Sha256 => padding::pkcs1(message, modulus()?),
        TokenAlgorithm::Ed25519 => Ok(message.to_vec()),
    }
}

impl OpenToken for Card {
    type Key = SlotKey;

    fn token(&self) -> &TokenInfo {
        &self.token
    }

    fn keys(&mut self) -> Result<Vec<SlotKey>, TokenError> {
        slots::keys(&mut self.card)
    }

    fn described(key: &SlotKey) -> &TokenKey {
        &key.key
    }

    fn sign(
        &mut self,
        key: &SlotKey,
        algorithm: TokenAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        let block = prepared(key, algorithm, message)?;
        let signed =
            self.with_key(key, "sign", |card| piv::sign_data(card, &block, key.algorithm, key.slot))?;
        Ok(signed.to_vec())
    }

    fn agree(&mut self, key: &SlotKey, peer: &AgreementKey) -> Result<Key256, TokenError> {
        let shared = self.with_key(key, "agree on a secret", |card| {
            piv::decrypt_data(card, &peer.point(), AlgorithmId::EccP256, key.slot)
        })?;
        Key256::from_slice(&shared)
            .ok_or_else(|| TokenError::Failed("the card agrees on no 32 bytes".to_owned()))
    }

    fn manage(&mut self, key: &SecretBytes) -> Result<(), TokenError> {
        management::authenticate(&mut self.card, key)
    }

    fn generate(&mut self, new: &NewKey) -> Result<TokenKey, TokenError> {
        management::generate(&mut self.card, new)
    }

    /// Of a key that was made in the card; it gives no word for one that came from elsewhere.
    fn attest(&mut self, key: &SlotKey) -> Result<Option<Attestation>, TokenError> {
        let attested = match piv::attest(&mut self.card, key.slot) {
            Ok(certificate) => certificate.to_vec(),
            Err(error @ Error::PcscError { .. }) => return Err(failed("attest to its key", error)),
            Err(_) => return Ok(None),
        };
        let token = yubikey::Certificate::read(&mut self.card, SlotId::Attestation)
            .map_err(|error| failed("show its attestation certificate", error))?;
        let token = token.cert.to_der();
        let token = token.map_err(|error| TokenError::Failed(error.to_string()))?;
        Ok(Some(Attestation { key: attested, token }))
    }
}
