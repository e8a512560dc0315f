//! What went wrong, in Keyward's words.

use keyward::token::error::{PinTrouble, TokenError};
use keyward::token::wire::PinState;
use yubikey::Error;

/// A card that did not do what it was asked for.
pub(crate) fn failed(doing: &str, error: Error) -> TokenError {
    match error {
        Error::PcscError { inner: Some(inner) } => pcsc(doing, inner),
        Error::NotSupported => TokenError::Refused(format!("the card cannot {doing}")),
        Error::ParseError | Error::InvalidObject | Error::SizeError => {
            TokenError::Failed(format!("the card cannot {doing}: its answer is not understood"))
        }
        other => TokenError::Failed(format!("the card cannot {doing}: {other}")),
    }
}

/// A reader, or the service of readers, that did not do what it was asked for.
pub(crate) fn pcsc(doing: &str, error: pcsc::Error) -> TokenError {
    use pcsc::Error as Pcsc;
    match error {
        Pcsc::NoSmartcard | Pcsc::RemovedCard | Pcsc::ReaderUnavailable | Pcsc::UnknownReader | Pcsc::ResetCard => {
            TokenError::Lost(format!("the card was pulled out or reset while it was to {doing}"))
        }
        Pcsc::SharingViolation => TokenError::Busy(
            "another program has the card for itself, for example scdaemon of GnuPG: end it (`gpgconf --kill scdaemon`), then try again".to_owned(),
        ),
        Pcsc::SecurityViolation => TokenError::Refused(
            "the service of readers does not let this user in: allow org.debian.pcsc-lite.access_pcsc and access_card in polkit".to_owned(),
        ),
        Pcsc::NoService | Pcsc::ServiceStopped => TokenError::Module(
            "there is no service of readers: start pcscd (`systemctl start pcscd.socket`)".to_owned(),
        ),
        other => TokenError::Failed(format!("the card cannot {doing}: {other}")),
    }
}

/// A PIN that was tried in vain.
pub(crate) fn wrong_pin(doing: &str, error: Error) -> TokenError {
    match error {
        Error::WrongPin { tries } => TokenError::Pin(PinTrouble::Wrong(state(tries, None), Some(tries))),
        Error::PinLocked => TokenError::Pin(PinTrouble::Wrong(PinState::Locked, Some(0))),
        Error::SizeError => TokenError::Pin(PinTrouble::Malformed),
        other => failed(doing, other),
    }
}

/// A PUK that was tried in vain.
pub(crate) fn wrong_puk(doing: &str, error: Error) -> TokenError {
    match error {
        Error::WrongPin { tries } => TokenError::Pin(PinTrouble::WrongPuk(Some(tries))),
        Error::PinLocked => TokenError::Pin(PinTrouble::PukLocked),
        Error::SizeError => TokenError::Pin(PinTrouble::Malformed),
        other => failed(doing, other),
    }
}

/// What tries that are left say, of `all` where the card tells how many there were.
pub(crate) fn state(left: u8, all: Option<u8>) -> PinState {
    match left {
        0 => PinState::Locked,
        1 => PinState::LastTry,
        // Cards leave the factory with three tries.
        left if left < all.unwrap_or(3) => PinState::FewTries,
        _ => PinState::Fine,
    }
}
