//! The login: one try for each PIN, ever.

use cryptoki::error::RvError;
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use crate::hsm::pin::{RefusedPins, WHAT_TO_DO};
use crate::hsm::pkcs11::error::{ConnectError, code, words};
use crate::hsm::pkcs11::module::Module;
use crate::secret::Pin;

/// Logs the application in with a PIN that the token has not refused before.
pub(super) fn login(
    module: &Module,
    session: &Session,
    pin: &Pin,
    refused: &RefusedPins,
) -> Result<(), ConnectError> {
    let serial = &module.token().serial;
    tries_left(module)?;
    refused.check(serial, pin)?;
    // A PIN is presented only if its refusal could be recorded.
    let reserved = refused.reserve()?;
    let Err(error) = session.login(UserType::User, Some(&AuthPin::new(pin.expose().into()))) else {
        return Ok(refused.forget(serial)?);
    };
    let reason = match code(&error) {
        Some(RvError::UserAlreadyLoggedIn) => return Ok(()),
        Some(code) => pin_refused(code).or_else(|| counted(module)),
        None => None,
    };
    let Some(reason) = reason else {
        return Err(ConnectError::Away(format!("cannot log in: {}", words(&error))));
    };
    // What the token refused waits for a person, also where that cannot be written down: with the next start at least.
    reserved.record(serial, pin, reason).map_err(|error| ConnectError::Refused(error.to_string()))?;
    Err(ConnectError::Refused(format!("the token refused the PIN ({reason}); {WHAT_TO_DO}")))
}

/// Neither a locked PIN nor the last try before the lock is spent automatically. The last try comes back when somebody logs
/// in on the token, with the same PIN: so it is looked at again, which costs no try. Whoever unlocks a PIN sets another one:
/// so the daemon waits until somebody has written its file.
fn tries_left(module: &Module) -> Result<(), ConnectError> {
    let info = module.token_now().map_err(|error| {
        ConnectError::Away(format!("the token does not describe itself: {}", words(&error)))
    })?;
    if info.user_pin_locked() {
        return Err(ConnectError::Refused(
            "the token's user PIN is locked: its security officer must set a new one; then put that where the configuration takes it from"
                .to_owned(),
        ));
    }
    if info.user_pin_final_try() {
        return Err(ConnectError::Unfit(
            "the token has one PIN try left; log in once by hand (pkcs11-tool --login --list-objects) to restore the others"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The standard's name of a code that speaks of the PIN.
fn pin_refused(code: RvError) -> Option<&'static str> {
    match code {
        RvError::PinIncorrect => Some("CKR_PIN_INCORRECT"),
        RvError::PinInvalid => Some("CKR_PIN_INVALID"),
        RvError::PinLenRange => Some("CKR_PIN_LEN_RANGE"),
        RvError::PinExpired => Some("CKR_PIN_EXPIRED"),
        RvError::PinLocked => Some("CKR_PIN_LOCKED"),
        _ => None,
    }
}

/// Whatever code came back: did the token count a failed try?
fn counted(module: &Module) -> Option<&'static str> {
    module.token_now().ok()?.user_pin_try_failed().then_some("the token counts a failed try")
}
