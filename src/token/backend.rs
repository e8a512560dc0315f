//! What a token process needs of tokens: one implementation for each way to reach them.
//!
//! An implementation talks to the token and no more. Which key is meant, what may be signed, and
//! whether the token did what it says is decided by [`child`](crate::token::child), for all alike.

use crate::id::token::{TokenInfo, TokenSelector};
use crate::keyring::credential::TokenAlgorithm;
use crate::keyring::custodian::AgreementKey;
use crate::secret::{Key256, Pin, SecretBytes};
use crate::token::error::TokenError;
use crate::token::wire::{Attestation, NewKey, PukSets, TokenKey, TokenReport};

/// A library, or a service, that reaches tokens.
pub trait Backend {
    /// A token that is logged in to.
    type Open: OpenToken;

    /// Every token, with what it shows to everybody.
    ///
    /// # Errors
    /// [`TokenError`].
    fn list(&mut self) -> Result<Vec<TokenReport>, TokenError>;

    /// Waits until a token comes or goes, compared with the last list; at once when it does not know.
    ///
    /// # Errors
    /// [`TokenError`].
    fn wait(&mut self) -> Result<(), TokenError>;

    /// Logs in to the one token that is asked for, with one try of the PIN; with the last one that is
    /// left only if `last_try`. It never tries by itself.
    ///
    /// # Errors
    /// [`TokenError::Pin`] says how many tries remain, if the token tells.
    fn open(&mut self, token: &TokenSelector, pin: &Pin, last_try: bool) -> Result<Self::Open, TokenError>;

    /// Changes the PIN, with one try of the old one; with the last one that is left only if `last_try`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn change_pin(
        &mut self,
        token: &TokenSelector,
        pin: &Pin,
        new: &Pin,
        last_try: bool,
    ) -> Result<(), TokenError>;

    /// Sets a new PIN, or PUK, with one try of what unblocks a PIN: the PUK of a PIV card, the security officer's PIN
    /// of a PKCS#11 token; with the last one that is left only if `last_try`.
    ///
    /// # Errors
    /// [`TokenError`].
    fn use_puk(
        &mut self,
        token: &TokenSelector,
        puk: &Pin,
        sets: PukSets,
        new: &Pin,
        last_try: bool,
    ) -> Result<(), TokenError>;
}

/// A token that is logged in to.
pub trait OpenToken {
    /// A private key, as the token knows it.
    type Key;

    /// What the token calls itself.
    fn token(&self) -> &TokenInfo;

    /// Its private keys.
    ///
    /// # Errors
    /// [`TokenError`].
    fn keys(&mut self) -> Result<Vec<Self::Key>, TokenError>;

    /// What everybody may know of a key.
    fn described(key: &Self::Key) -> &TokenKey;

    /// The token's signature of a message, which it or this hashes, as the token spells it.
    ///
    /// # Errors
    /// [`TokenError`].
    fn sign(
        &mut self,
        key: &Self::Key,
        algorithm: TokenAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, TokenError>;

    /// The x-coordinate (32 bytes) that a key shares with a point of P-256 (NIST SP 800-56A, 5.7.1.2).
    ///
    /// # Errors
    /// [`TokenError`].
    fn agree(&mut self, key: &Self::Key, peer: &AgreementKey) -> Result<Key256, TokenError>;

    /// Proves to the token that its keys may be made anew, with its management key; an empty one is
    /// the key that PIV cards leave the factory with. Tokens where the PIN allows it have none.
    ///
    /// # Errors
    /// [`TokenError`].
    fn manage(&mut self, key: &SecretBytes) -> Result<(), TokenError>;

    /// Makes a key pair, in the token, that cannot be read. A second one of the same name or place is
    /// not made, unless the request says so.
    ///
    /// # Errors
    /// [`TokenError::Key`] when there is one.
    fn generate(&mut self, new: &NewKey) -> Result<TokenKey, TokenError>;

    /// The token's word that it made a key; `None` when it gives none.
    ///
    /// # Errors
    /// [`TokenError`].
    fn attest(&mut self, key: &Self::Key) -> Result<Option<Attestation>, TokenError>;
}
