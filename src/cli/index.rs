//! `keyward index`: blind indexes, for equality search over encrypted columns.

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::crypt::input::Source;
use super::exit::Exit;
use super::failure::Failure;
use super::{Shell, name};
use crate::id::{FieldId, KeyName};
use crate::rpc::proto::{Normalization, RotateIndexKeyRequest};

/// `keyward index`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compute the index of a value
    #[command(
        after_help = "Prints the index under the primary index key, then those under older keys, one a line.\n\n\
        Example:\n  printf 0912-345-678 | keyward index compute acme/customer-pii phone --normalize digits"
    )]
    Compute {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        /// The column
        #[arg(value_parser = FieldId::new)]
        field: FieldId,
        /// The value; else stdin, where it belongs: everybody can see arguments
        text: Option<String>,
        /// How values are made equal before they are indexed
        #[arg(long, value_enum, default_value_t = Rule::Text)]
        normalize: Rule,
    },
    /// Open a new version of the index key of a column
    #[command(after_help = "Example:\n  keyward index rotate acme/customer-pii phone")]
    Rotate {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        /// The column
        #[arg(value_parser = FieldId::new)]
        field: FieldId,
    },
}

/// How values are made equal.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Rule {
    /// The bytes as they are
    Exact,
    /// Unicode NFKC, lower case, no white space at the ends
    Text,
    /// ASCII digits only
    Digits,
}

impl From<Rule> for Normalization {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Exact => Self::Exact,
            Rule::Text => Self::Text,
            Rule::Digits => Self::Digits,
        }
    }
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Compute { key, field, text, normalize } => {
                compute(shell, &key, &field, text, normalize.into()).await?;
            }
            Self::Rotate { key, field } => rotate(shell, &key, &field).await?,
        }
        Ok(Exit::Ok)
    }
}

async fn compute(
    shell: &mut Shell,
    key: &KeyName,
    field: &FieldId,
    text: Option<String>,
    rule: Normalization,
) -> Result<(), Failure> {
    let value = Source::of(text).secret("value", &mut shell.print).await?;
    let client = shell.client().await?;
    let answer = client.blind_index(&key.to_string(), field.as_str(), value, rule).await?;
    let (index, previous) =
        (hex::encode(&answer.index), answer.previous.iter().map(hex::encode).collect::<Vec<_>>());
    let lines = [std::slice::from_ref(&index), &previous].concat().join("\n");
    shell.print.answer(&lines, &json!({ "index": index, "previous": previous }))
}

async fn rotate(shell: &mut Shell, key: &KeyName, field: &FieldId) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = RotateIndexKeyRequest { name: key.to_string(), field: field.to_string() };
    shell.print.view(&client.call(client.keys().rotate_index_key(request)).await?)
}
