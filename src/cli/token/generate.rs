//! `keyward token generate`

use clap::Args;
use serde_json::{Value, json};

use super::args::{Session, TokenArgs, failure};
use super::list::key_value;
use crate::cli::Shell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::id::CustodianId;
use crate::keyring::credential::TokenAlgorithm;
use crate::token::error::TokenError;
use crate::token::wire::{KeySelector, KeyUse, NewKey, TokenKey};

/// `keyward token generate`
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// Who will hold the token; stands in the labels of the keys
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: CustodianId,
    /// How the token signs: ecdsa-p256-sha256, ecdsa-p384-sha384, rsa-pss-sha256 or ed25519
    #[arg(long, value_name = "ALGORITHM", default_value = "ecdsa-p256-sha256", value_parser = algorithm)]
    algorithm: TokenAlgorithm,
    #[command(flatten)]
    token: TokenArgs,
}

/// A custodian's name.
pub(super) fn name(text: &str) -> Result<CustodianId, String> {
    CustodianId::new(text).map_err(|error| error.to_string())
}

fn algorithm(word: &str) -> Result<TokenAlgorithm, String> {
    match TokenAlgorithm::parse(word) {
        // A new key has no reason for the older padding.
        Some(TokenAlgorithm::RsaPkcs1Sha256) | None => {
            Err("expected ecdsa-p256-sha256, ecdsa-p384-sha384, rsa-pss-sha256 or ed25519".to_owned())
        }
        Some(algorithm) => Ok(algorithm),
    }
}

impl Generate {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let mut session = self.token.open(shell).await?;
        let present = session.process().keys().await.map_err(failure)?;
        let label = |key_use: KeyUse| format!("{} {}", key_use.label(), self.name);
        let has = |key_use| present.iter().find(|key| key.label == label(key_use));
        if has(KeyUse::Agree).is_some() && has(KeyUse::Sign).is_some() {
            let message = format!("the token has the two keys of {} already", self.name);
            return Err(failure(TokenError::Key(message)));
        }
        let mut keys = Vec::new();
        // First what fewer tokens can do.
        for key_use in [KeyUse::Agree, KeyUse::Sign] {
            // A key that an attempt before has left is finished here, not made anew.
            let made = match has(key_use) {
                Some(key) => key.clone(),
                None => self.make(&mut session, key_use, label(key_use), shell).await?,
            };
            if key_use == KeyUse::Agree {
                let tested = session.process().test_agreement(&KeySelector::Id(made.id.clone())).await;
                tested.map_err(failure)?;
            }
            keys.push(made);
        }
        let values: Vec<Value> = keys.iter().map(key_value).collect();
        let answer = json!({ "token": session.token.label, "serial": session.token.serial, "keys": values });
        shell.print.answer(&lines(&keys), &answer)?;
        shell.print.note(&format!("next: `keyward token card --name {0} --out {0}.card`", self.name));
        Ok(Exit::Ok)
    }

    async fn make(
        &self,
        session: &mut Session,
        key_use: KeyUse,
        label: String,
        shell: &mut Shell,
    ) -> Result<TokenKey, Failure> {
        shell.print.note(&format!("making the key {label:?}; some tokens take a minute"));
        let mut id = vec![0; 16];
        getrandom::fill(&mut id).map_err(|error| Failure::Input(error.to_string()))?;
        let new = NewKey { key_use, algorithm: self.algorithm, id, label };
        session.process().generate(new).await.map_err(failure)
    }
}

fn lines(keys: &[TokenKey]) -> String {
    keys.iter().map(|key| format!("made {:?}", key.label)).collect::<Vec<_>>().join("\n")
}
