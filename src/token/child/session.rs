//! The login: one try for each PIN that a person gives, and none by itself.

use cryptoki::error::RvError;
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use super::module::{Module, failed};
use super::objects::{self, Found};
use crate::hsm::pkcs11::code;
use crate::id::token::{TokenInfo, TokenSelector};
use crate::secret::Pin;
use crate::token::error::{PinTrouble, TokenError};
use crate::token::wire::{KeySelector, KeyUse, PinState, TokenKey, hex};

/// A token that is logged in to.
pub(super) struct Open {
    session: Session,
    token: TokenInfo,
}

impl Open {
    /// Logs in to the token that is asked for.
    pub(super) fn new(
        module: &Module,
        wanted: &TokenSelector,
        pin: &Pin,
        last_try: bool,
    ) -> Result<Self, TokenError> {
        let (slot, token) = module.find(wanted)?;
        let trouble = match module.pin(slot)? {
            PinState::Locked => Some(PinTrouble::Locked),
            PinState::LastTry if !last_try => Some(PinTrouble::LastTry),
            // Not every token that has a PIN says so.
            PinState::NotSet | PinState::LastTry | PinState::FewTries | PinState::Fine => None,
        };
        if let Some(trouble) = trouble {
            return Err(TokenError::Pin(trouble));
        }
        let session = module.session(slot)?;
        let Err(error) = session.login(UserType::User, Some(&AuthPin::new(pin.expose().into()))) else {
            return Ok(Self { session, token: token.name });
        };
        Err(match code(&error) {
            Some(RvError::PinIncorrect) => TokenError::Pin(PinTrouble::Wrong(module.pin(slot)?)),
            Some(RvError::PinLocked) => TokenError::Pin(PinTrouble::Wrong(PinState::Locked)),
            Some(RvError::PinInvalid | RvError::PinLenRange) => TokenError::Pin(PinTrouble::Malformed),
            Some(RvError::UserPinNotInitialized) => TokenError::Pin(PinTrouble::NotSet),
            Some(RvError::PinExpired) => TokenError::Pin(PinTrouble::Expired),
            _ => failed("be logged in to", &error),
        })
    }

    pub(super) fn token(&self) -> &TokenInfo {
        &self.token
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Its private keys.
    pub(super) fn keys(&self) -> Result<Vec<TokenKey>, TokenError> {
        Ok(objects::private_keys(&self.session)?.into_iter().map(|found| found.key).collect())
    }

    /// The one key that is asked for, and that is for the use.
    pub(super) fn key(&self, wanted: &KeySelector, key_use: KeyUse) -> Result<Found, TokenError> {
        let mut keys = objects::private_keys(&self.session)?;
        keys.retain(|found| match key_use {
            KeyUse::Sign => found.key.signs,
            KeyUse::Agree => found.key.agrees,
        });
        let present = names(&keys);
        let mut matching: Vec<Found> = keys.into_iter().filter(|found| wanted.matches(&found.key)).collect();
        let what = match key_use {
            KeyUse::Sign => "that signs",
            KeyUse::Agree => "that agrees on secrets",
        };
        match (matching.pop(), matching.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => {
                Err(TokenError::Key(format!("no key {what} has {wanted} on this token; present: {present}")))
            }
            (Some(_), _) => {
                Err(TokenError::Key(format!("several keys {what} have {wanted}; present: {present}")))
            }
        }
    }
}

fn names(keys: &[Found]) -> String {
    let word = |found: &Found| format!("{:?} (id:{})", found.key.label, hex(&found.key.id));
    if keys.is_empty() { "none".to_owned() } else { keys.iter().map(word).collect::<Vec<_>>().join(", ") }
}
