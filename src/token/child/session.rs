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
use crate::token::wire::{KeySelector, KeyUse, PinState, TokenKey};

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
        wanted.only(key_use, objects::private_keys(&self.session)?, |found| &found.key)
    }
}
