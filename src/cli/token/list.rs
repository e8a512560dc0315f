//! `keyward token list`

use clap::Args;
use serde_json::{Value, json};

use super::args::ModuleArgs;
use crate::cli::Shell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::view::{Fields, View};
use crate::keyring::credential::CredentialId;
use crate::keyring::public_key::KeyType;
use crate::token::wire::{PinState, Secret, TokenKey, TokenReport};

/// `keyward token list`
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    module: ModuleArgs,
}

impl List {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let tokens = self.module.tokens(shell).await?;
        if shell.print.is_json() {
            let tokens: Vec<Value> = tokens.iter().map(token_value).collect();
            shell.print.answer("", &json!({ "tokens": tokens }))?;
        } else {
            let rows: Vec<Row> = tokens.iter().flat_map(rows).collect();
            shell.print.views("keys", &rows)?;
        }
        Ok(Exit::Ok)
    }
}

/// One line: a key, or a token without any.
struct Row<'a> {
    report: &'a TokenReport,
    key: Option<&'a TokenKey>,
}

fn rows(report: &TokenReport) -> Vec<Row<'_>> {
    if report.keys.is_empty() {
        return vec![Row { report, key: None }];
    }
    report.keys.iter().map(|key| Row { report, key: Some(key) }).collect()
}

impl View for Row<'_> {
    fn fields(&self) -> Fields {
        let token = &self.report.token;
        let key = |show: fn(&TokenKey) -> Value| self.key.map_or(Value::Null, show);
        vec![
            ("token", json!(token.label)),
            ("serial", json!(token.serial)),
            ("pin", json!(pin(self.report))),
            ("key", key(|key| json!(key.label))),
            ("id", key(|key| json!(hex::encode(&key.id)))),
            ("type", key(|key| json!(key_type(key)))),
            ("use", key(|key| json!(uses(key).join(", ")))),
            ("touch", key(|key| json!(key.policy.map(|policy| policy.touch.as_str())))),
            ("credential", key(|key| json!(credential(key)))),
        ]
    }
}

/// The state of the PIN, in a word.
fn pin(report: &TokenReport) -> &'static str {
    match report.pin {
        PinState::Fine if report.factory.contains(&Secret::Pin) => "factory",
        state => state.as_str(),
    }
}

fn token_value(report: &TokenReport) -> Value {
    let token = &report.token;
    let keys: Vec<Value> = report.keys.iter().map(key_value).collect();
    json!({
        "label": token.label, "serial": token.serial, "manufacturer": token.manufacturer,
        "model": token.model, "pin": report.pin.as_str(), "pin_tries": report.tries,
        "factory_secrets": report.factory.iter().map(|secret| secret.as_str()).collect::<Vec<_>>(), "keys": keys,
    })
}

/// A key, in JSON.
pub(super) fn key_value(key: &TokenKey) -> Value {
    json!({
        "label": key.label, "id": hex::encode(&key.id), "type": key_type(key), "use": uses(key),
        "credential": credential(key),
        "public_key": key.spki.as_deref().map(hex::encode),
        "certificate": key.certificate.as_deref().map(hex::encode),
        "pin_policy": key.policy.map(|policy| policy.pin.as_str()),
        "touch_policy": key.policy.map(|policy| policy.touch.as_str()),
    })
}

fn key_type(key: &TokenKey) -> Option<&'static str> {
    key.spki.as_deref().and_then(|spki| KeyType::of(spki).ok()).map(KeyType::as_str)
}

fn uses(key: &TokenKey) -> Vec<&'static str> {
    [(key.signs, "sign"), (key.agrees, "agree")]
        .into_iter()
        .filter_map(|(can, word)| can.then_some(word))
        .collect()
}

fn credential(key: &TokenKey) -> Option<String> {
    key.spki.as_deref().map(|spki| CredentialId::of(spki).to_string())
}
