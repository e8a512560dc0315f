//! The login, and PINs: one try for each that a person gives, and none by itself.

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use super::module::{Module, failed, officer_pin_state};
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
        module.pin(slot)?.may_try(last_try).map_err(TokenError::Pin)?;
        let session = module.session(slot)?;
        let Err(error) = session.login(UserType::User, Some(&auth(pin))) else {
            return Ok(Self { session, token: token.name });
        };
        Err(match code(&error) {
            Some(RvError::PinIncorrect) => TokenError::Pin(PinTrouble::Wrong(module.pin(slot)?, None)),
            Some(RvError::PinLocked) => TokenError::Pin(PinTrouble::Wrong(PinState::Locked, None)),
            Some(RvError::PinInvalid | RvError::PinLenRange) => TokenError::Pin(PinTrouble::Malformed),
            Some(RvError::UserPinNotInitialized) => TokenError::Pin(PinTrouble::NotSet),
            Some(RvError::PinExpired) => TokenError::Pin(PinTrouble::Expired),
            _ => failed("be logged in to", &error),
        })
    }

    /// Changes its PIN.
    pub(super) fn change_pin(&self, pin: &Pin, new: &Pin) -> Result<(), TokenError> {
        set_pin(&self.session, pin, new)
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

/// A token that its security officer is logged in to.
pub(super) struct Officer(Session);

impl Officer {
    /// Logs in to the token that is asked for.
    pub(super) fn new(
        module: &Module,
        wanted: &TokenSelector,
        pin: &Pin,
        last_try: bool,
    ) -> Result<Self, TokenError> {
        let (slot, token) = module.find(wanted)?;
        officer_pin_state(&token).may_try_puk(last_try).map_err(TokenError::Pin)?;
        let session = module.session(slot)?;
        match session.login(UserType::So, Some(&auth(pin))) {
            Ok(()) => Ok(Self(session)),
            Err(error) => Err(match code(&error) {
                Some(RvError::PinIncorrect) => TokenError::Pin(PinTrouble::WrongPuk(None)),
                Some(RvError::PinLocked) => TokenError::Pin(PinTrouble::PukLocked),
                Some(RvError::PinInvalid | RvError::PinLenRange) => TokenError::Pin(PinTrouble::Malformed),
                _ => failed("be logged in to by its security officer", &error),
            }),
        }
    }

    /// Sets the user's PIN, and unlocks it.
    pub(super) fn set_user_pin(&self, new: &Pin) -> Result<(), TokenError> {
        self.0.init_pin(&auth(new)).map_err(|error| refused("set a new PIN", &error))
    }

    /// Changes the officer's own PIN.
    pub(super) fn change_pin(&self, pin: &Pin, new: &Pin) -> Result<(), TokenError> {
        set_pin(&self.0, pin, new)
    }
}

fn auth(pin: &Pin) -> AuthPin {
    AuthPin::new(pin.expose().into())
}

/// C_SetPIN: for whoever is logged in.
fn set_pin(session: &Session, pin: &Pin, new: &Pin) -> Result<(), TokenError> {
    session.set_pin(&auth(pin), &auth(new)).map_err(|error| refused("change the PIN", &error))
}

/// Why a new PIN is not set.
fn refused(doing: &str, error: &Error) -> TokenError {
    match code(error) {
        Some(RvError::PinInvalid | RvError::PinLenRange) => TokenError::Pin(PinTrouble::Malformed),
        _ => failed(doing, error),
    }
}
