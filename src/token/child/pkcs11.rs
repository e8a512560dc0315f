//! PKCS#11 tokens as a backend.

use std::time::Duration;

use super::module::Module;
use super::objects::{self, Found};
use super::session;
use super::{agree, generate, sign};
use crate::id::token::{TokenInfo, TokenSelector};
use crate::keyring::credential::TokenAlgorithm;
use crate::keyring::custodian::AgreementKey;
use crate::secret::{Key256, Pin, SecretBytes};
use crate::token::backend::{Backend, OpenToken};
use crate::token::error::TokenError;
use crate::token::wire::{Attestation, NewKey, PukSets, TokenKey, TokenReport};

/// How long is waited before it is worth looking again: many libraries tell of nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Backend for Module {
    type Open = session::Open;

    fn list(&mut self) -> Result<Vec<TokenReport>, TokenError> {
        Module::list(self)
    }

    fn wait(&mut self) -> Result<(), TokenError> {
        std::thread::sleep(LOOK_AGAIN);
        Ok(())
    }

    fn open(
        &mut self,
        token: &TokenSelector,
        pin: &Pin,
        last_try: bool,
    ) -> Result<session::Open, TokenError> {
        session::Open::new(self, token, pin, last_try)
    }

    fn change_pin(
        &mut self,
        token: &TokenSelector,
        pin: &Pin,
        new: &Pin,
        last_try: bool,
    ) -> Result<(), TokenError> {
        session::Open::new(self, token, pin, last_try)?.change_pin(pin, new)
    }

    fn use_puk(
        &mut self,
        token: &TokenSelector,
        puk: &Pin,
        sets: PukSets,
        new: &Pin,
        last_try: bool,
    ) -> Result<(), TokenError> {
        let officer = session::Officer::new(self, token, puk, last_try)?;
        match sets {
            PukSets::Pin => officer.set_user_pin(new),
            PukSets::Puk => officer.change_pin(puk, new),
        }
    }
}

impl OpenToken for session::Open {
    type Key = Found;

    fn token(&self) -> &TokenInfo {
        Self::token(self)
    }

    fn keys(&mut self) -> Result<Vec<Found>, TokenError> {
        objects::private_keys(self.session())
    }

    fn described(key: &Found) -> &TokenKey {
        &key.key
    }

    fn sign(
        &mut self,
        key: &Found,
        algorithm: TokenAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        sign::sign(self.session(), key, algorithm, message)
    }

    fn agree(&mut self, key: &Found, peer: &AgreementKey) -> Result<Key256, TokenError> {
        agree::agree(self.session(), key, peer)
    }

    fn manage(&mut self, _: &SecretBytes) -> Result<(), TokenError> {
        Err(TokenError::Refused("a PKCS#11 token has no management key".to_owned()))
    }

    fn generate(&mut self, new: &NewKey) -> Result<TokenKey, TokenError> {
        generate::generate(self, new)
    }

    /// PKCS#11 knows no attestation.
    fn attest(&mut self, _: &Found) -> Result<Option<Attestation>, TokenError> {
        Ok(None)
    }
}
