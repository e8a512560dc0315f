//! `keyward token generate`

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::args::{Session, TokenArgs, failure, prompt_touch};
use super::list::key_value;
use crate::cli::Shell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::hsm::pin::PinSource;
use crate::id::CustodianId;
use crate::keyring::credential::TokenAlgorithm;
use crate::secret::SecretBytes;
use crate::token::error::TokenError;
use crate::token::wire::{Asked, KeyPolicy, KeySelector, KeyUse, NewKey, NewPivKey, TokenKey};

/// `keyward token generate`
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// Who will hold the token; stands in the labels of the keys
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: CustodianId,
    /// Make the key that a staff member logs in with, instead of a custodian's two
    #[arg(long)]
    login: bool,
    /// How the token signs: ecdsa-p256-sha256, ecdsa-p384-sha384, rsa-pss-sha256 or ed25519
    #[arg(long, value_name = "ALGORITHM", default_value = "ecdsa-p256-sha256", value_parser = algorithm)]
    algorithm: TokenAlgorithm,
    #[command(flatten)]
    piv: PivArgs,
    #[command(flatten)]
    token: TokenArgs,
}

/// What is said of new keys on a PIV card.
#[derive(Debug, Args)]
struct PivArgs {
    /// When a PIV card asks for a touch: never, cached (for 15 seconds) or always
    #[arg(long, value_name = "WHEN", default_value = "always", value_parser = touch, requires = "piv")]
    touch: Asked,
    /// When a PIV card asks for the PIN: once (until it is pulled out) or always
    #[arg(long, value_name = "WHEN", default_value = "once", value_parser = pin, requires = "piv")]
    pin_policy: Asked,
    /// File with the PIV card's management key, in hexadecimal
    #[arg(long, value_name = "FILE", requires = "piv", conflicts_with = "factory_management_key")]
    management_key_file: Option<PathBuf>,
    /// Use the management key that PIV cards leave the factory with: change it afterwards
    #[arg(long, requires = "piv")]
    factory_management_key: bool,
    /// Destroy the keys that the slots of a PIV card have
    #[arg(long, requires = "piv")]
    replace: bool,
}

fn touch(word: &str) -> Result<Asked, String> {
    match word {
        "never" => Ok(Asked::Never),
        "cached" => Ok(Asked::Once),
        "always" => Ok(Asked::Always),
        _ => Err("expected never, cached or always".to_owned()),
    }
}

fn pin(word: &str) -> Result<Asked, String> {
    match word {
        "once" => Ok(Asked::Once),
        "always" => Ok(Asked::Always),
        _ => Err("expected once or always".to_owned()),
    }
}

impl PivArgs {
    /// The card's management key; empty for the one of the factory.
    fn management_key(&self) -> Result<SecretBytes, Failure> {
        match (&self.management_key_file, self.factory_management_key) {
            (Some(path), _) => {
                let text = PinSource::Own(path.clone()).read().map_err(|error| Failure::Input(error.to_string()))?;
                let key = hex::decode(text.expose()).map(SecretBytes::new);
                key.map_err(|_| Failure::Input(format!("{}: expected hexadecimal digits", path.display())))
            }
            (None, true) => Ok(SecretBytes::new(Vec::new())),
            (None, false) => Err(Failure::Usage(
                "a PIV card makes keys for its management key only: --management-key-file FILE, or --factory-management-key for a new card".into(),
            )),
        }
    }

    fn new_key(&self) -> NewPivKey {
        NewPivKey { policy: KeyPolicy { pin: self.pin_policy, touch: self.touch }, replace: self.replace }
    }
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
        let piv = self.token.module.piv();
        let management = if piv { Some(self.piv.management_key()?) } else { None };
        let mut session = self.token.open(shell).await?;
        let present = session.process().keys().await.map_err(failure)?;
        let label = |key_use: KeyUse| format!("{} {}", key_use.label(), self.name);
        let has = |key_use| {
            let replaced = piv && self.piv.replace;
            present.iter().find(|key| key.label == label(key_use)).filter(|_| !replaced)
        };
        // First what fewer tokens can do.
        let uses: &[KeyUse] = if self.login { &[KeyUse::Login] } else { &[KeyUse::Agree, KeyUse::Sign] };
        if uses.iter().all(|key_use| has(*key_use).is_some()) {
            let what = if self.login { "login key" } else { "two keys" };
            return Err(failure(TokenError::Key(format!(
                "the token has the {what} of {} already",
                self.name
            ))));
        }
        if let Some(management) = management {
            session.process().manage(management).await.map_err(failure)?;
        }
        let mut keys = Vec::new();
        for key_use in uses.iter().copied() {
            // A key that an attempt before has left is finished here, not made anew.
            let made = match has(key_use) {
                Some(key) => key.clone(),
                None => self.make(&mut session, key_use, label(key_use), shell).await?,
            };
            if key_use == KeyUse::Agree {
                prompt_touch(shell, &made);
                let tested = session.process().test_agreement(&KeySelector::Id(made.id.clone())).await;
                tested.map_err(failure)?;
            }
            keys.push(made);
        }
        let values: Vec<Value> = keys.iter().map(key_value).collect();
        let answer = json!({ "token": session.token.label, "serial": session.token.serial, "keys": values });
        shell.print.answer(&lines(&keys), &answer)?;
        let piv = if piv { " --piv" } else { "" };
        if self.piv.factory_management_key {
            shell.print.note(
                "the management key is still that of the factory: `ykman piv access change-management-key`",
            );
        }
        shell.print.note(&match self.login {
            true => format!(
                "next: `keyward token enroll{piv} --ticket {0}.ticket --name NAME --out {0}.enrolment`",
                self.name
            ),
            false => format!("next: `keyward token card{piv} --name {0} --out {0}.card`", self.name),
        });
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
        let piv = self.token.module.piv().then(|| self.piv.new_key());
        let mut id = vec![0; 16];
        getrandom::fill(&mut id).map_err(|error| Failure::Input(error.to_string()))?;
        let new = NewKey { key_use, algorithm: self.algorithm, id, label, piv };
        session.process().generate(new).await.map_err(failure)
    }
}

fn lines(keys: &[TokenKey]) -> String {
    keys.iter().map(|key| format!("made {:?}", key.label)).collect::<Vec<_>>().join("\n")
}
