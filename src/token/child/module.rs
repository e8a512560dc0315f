//! The library and its tokens.

use std::path::Path;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::objects;
use crate::hsm::pkcs11::{Raw, Token, words};
use crate::id::token::{TokenInfo, TokenSelector};
use crate::token::error::TokenError;
use crate::token::wire::{PinState, TokenReport};

/// A library that is loaded and started.
pub(super) struct Module {
    context: Pkcs11,
    raw: Raw,
}

/// The token's own failure.
pub(super) fn failed(doing: &str, error: &Error) -> TokenError {
    TokenError::Failed(format!("the token cannot {doing}: {}", words(error)))
}

impl Module {
    pub(super) fn load(path: &Path) -> Result<Self, TokenError> {
        let shown = path.display();
        let trouble =
            |reason: String| TokenError::Module(format!("cannot load the PKCS#11 library {shown}: {reason}"));
        let context = Pkcs11::new(path).map_err(|error| trouble(words(&error)))?;
        let raw = Raw::load(path).map_err(trouble)?;
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(|error| {
            TokenError::Module(format!("the PKCS#11 library {shown} does not start: {}", words(&error)))
        })?;
        Ok(Self { context, raw })
    }

    /// Every token with what it shows to everybody.
    pub(super) fn list(&self) -> Result<Vec<TokenReport>, TokenError> {
        self.tokens()?.into_iter().map(|(slot, token)| self.report(slot, token)).collect()
    }

    fn report(&self, slot: Slot, token: Token) -> Result<TokenReport, TokenError> {
        let session = self.context.open_ro_session(slot).map_err(|error| failed("be opened", &error))?;
        let keys = objects::public_keys(&session)?;
        let (tries, factory) = (None, Vec::new());
        Ok(TokenReport {
            pin: pin_state(&token),
            puk: officer_pin_state(&token),
            keys,
            token: token.name,
            tries,
            factory,
        })
    }

    /// The initialised tokens.
    fn tokens(&self) -> Result<Vec<(Slot, Token)>, TokenError> {
        let slots = self.context.get_slots_with_token().map_err(|error| failed("be listed", &error))?;
        let mut tokens = Vec::new();
        for slot in slots {
            // A token may be pulled out while others are asked.
            if let Ok(token) = self.raw.token(slot)
                && token.initialized()
            {
                tokens.push((slot, token));
            }
        }
        Ok(tokens)
    }

    /// The one token that is asked for.
    pub(super) fn find(&self, wanted: &TokenSelector) -> Result<(Slot, Token), TokenError> {
        let tokens = self.tokens()?;
        let present = names(tokens.iter().map(|(_, token)| &token.name));
        let mut matching: Vec<_> =
            tokens.into_iter().filter(|(_, token)| wanted.matches(&token.name)).collect();
        let any = *wanted == TokenSelector::default();
        match (matching.pop(), matching.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) if any => Err(TokenError::NoToken("there is no token".to_owned())),
            (None, _) => Err(TokenError::NoToken(format!("no token has {wanted}; present: {present}"))),
            (Some(_), _) => {
                Err(TokenError::NoToken(format!("several tokens fit: say which; present: {present}")))
            }
        }
    }

    /// What the token says of its PIN now.
    pub(super) fn pin(&self, slot: Slot) -> Result<PinState, TokenError> {
        self.raw.token(slot).map(|token| pin_state(&token)).map_err(|error| failed("describe itself", &error))
    }

    pub(super) fn session(&self, slot: Slot) -> Result<Session, TokenError> {
        self.context.open_rw_session(slot).map_err(|error| failed("be opened", &error))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // This process ends; a library that does not finalise has nothing left to lose.
        self.context.clone().finalize().ok();
    }
}

fn pin_state(token: &Token) -> PinState {
    if token.user_pin_locked() {
        PinState::Locked
    } else if !token.user_pin_initialized() {
        PinState::NotSet
    } else if token.user_pin_final_try() {
        PinState::LastTry
    } else if token.user_pin_try_failed() {
        PinState::FewTries
    } else {
        PinState::Fine
    }
}

/// The state of the security officer's PIN.
pub(super) fn officer_pin_state(token: &Token) -> PinState {
    if token.so_pin_locked() {
        PinState::Locked
    } else if token.so_pin_final_try() {
        PinState::LastTry
    } else if token.so_pin_try_failed() {
        PinState::FewTries
    } else {
        PinState::Fine
    }
}

fn names<'a>(tokens: impl Iterator<Item = &'a TokenInfo>) -> String {
    let words: Vec<String> =
        tokens.map(|token| format!("{:?} (serial {})", token.label, token.serial)).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}
