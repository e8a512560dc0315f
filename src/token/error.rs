//! Why a token did not do what was asked.

use minicbor::{Decode, Encode};

use crate::token::wire::PinState;

/// Why a token did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum TokenError {
    /// The vendor's library cannot be loaded or started.
    #[error("{0}")]
    #[n(0)]
    Module(#[n(0)] String),
    /// No token is as asked for, or several are.
    #[error("{0}")]
    #[n(1)]
    NoToken(#[n(0)] String),
    /// The token did not accept the PIN, or was not asked because that would lock it.
    #[error("{0}")]
    #[n(2)]
    Pin(#[n(0)] PinTrouble),
    /// No key is as asked for, or several are, or the one that is cannot be used.
    #[error("{0}")]
    #[n(3)]
    Key(#[n(0)] String),
    /// Not asked of the token: it must not be done.
    #[error("{0}")]
    #[n(4)]
    Refused(#[n(0)] String),
    /// The token failed.
    #[error("{0}")]
    #[n(5)]
    Failed(#[n(0)] String),
    /// The token, or the process that talks to it, is gone.
    #[error("{0}")]
    #[n(6)]
    Lost(#[n(0)] String),
    /// Another program has the token for itself.
    #[error("{0}")]
    #[n(7)]
    Busy(#[n(0)] String),
    /// The token waited for a touch, in vain.
    #[error("the token was not touched in time")]
    #[n(8)]
    Untouched,
}

/// What is wrong with a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum PinTrouble {
    /// It was presented and is wrong; what the token says of the tries that are left, and their
    /// number, if it counts.
    #[error("the PIN is wrong: {}", after_a_wrong_pin(*.0, *.1))]
    #[n(0)]
    Wrong(#[n(0)] PinState, #[n(1)] Option<u8>),
    /// It was not presented: no token takes a PIN of this length or alphabet.
    #[error(
        "the token takes no PIN of this form (too short, too long, or a character that it does not know)"
    )]
    #[n(1)]
    Malformed,
    /// It was not presented: the next wrong PIN locks the token.
    #[error("the PIN was not presented: one try is left, and a wrong PIN locks the token")]
    #[n(2)]
    LastTry,
    /// It was not presented: the token is locked.
    #[error("the PIN of the token is locked")]
    #[n(3)]
    Locked,
    /// It was not presented: the token has no PIN yet.
    #[error("the token has no PIN yet")]
    #[n(4)]
    NotSet,
    /// The token wants another one to be set first.
    #[error("the token wants a new PIN to be set first")]
    #[n(5)]
    Expired,
    /// What unblocks a PIN was presented and is wrong; how many tries are left, if the token counts.
    #[error("the PUK is wrong{}", after_a_wrong_puk(*.0))]
    #[n(6)]
    WrongPuk(#[n(0)] Option<u8>),
    /// What unblocks a PIN is locked itself.
    #[error("the PUK of the token is locked too: the token must be reset, which destroys its keys")]
    #[n(7)]
    PukLocked,
    /// What unblocks a PIN was not presented: the next wrong one locks it.
    #[error("the PUK was not presented: one try is left, and a wrong one locks it for good")]
    #[n(8)]
    LastPukTry,
}

fn after_a_wrong_pin(state: PinState, left: Option<u8>) -> String {
    match (state, left) {
        (PinState::Locked, _) => "the token is locked now".to_owned(),
        (PinState::LastTry, _) => "one try is left, then the token locks".to_owned(),
        (_, Some(left)) => format!("{left} tries are left"),
        (PinState::FewTries, None) => "few tries are left".to_owned(),
        (PinState::Fine | PinState::NotSet, None) => {
            "the token does not say how many tries are left".to_owned()
        }
    }
}

fn after_a_wrong_puk(left: Option<u8>) -> String {
    match left {
        Some(0) => " and locked now: the token must be reset, which destroys its keys".to_owned(),
        Some(1) => ": one try is left, then the token can only be reset".to_owned(),
        Some(left) => format!(": {left} tries are left"),
        None => String::new(),
    }
}
