//! `keyward data-key`: 32-byte keys for encryption outside the daemon.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::json;

use super::crypt::input::Source;
use super::exit::Exit;
use super::failure::Failure;
use super::{Shell, context, name, text};
use crate::id::KeyName;

/// `keyward data-key`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a data key and print it encrypted
    #[command(after_help = "Keep the kw1: text next to the data; `data-key decrypt` opens it.\n\n\
        Example:\n  keyward data-key generate acme/customer-pii --context file=backup-7")]
    Generate {
        #[command(flatten)]
        subject: Subject,
        /// Print the key itself as well, in base64 on a second line
        #[arg(long)]
        with_plaintext: bool,
    },
    /// Open a data key and print it in base64
    #[command(
        after_help = "Example:\n  keyward data-key decrypt acme/customer-pii --context file=backup-7 < key.kw1"
    )]
    Decrypt {
        #[command(flatten)]
        subject: Subject,
        /// The encrypted key, kw1:…; stdin when not given
        text: Option<String>,
        /// Print 32 raw bytes instead
        #[arg(long)]
        raw: bool,
    },
}

/// Which key, in which context.
#[derive(Debug, Args)]
pub(crate) struct Subject {
    /// The key, for example acme/customer-pii
    #[arg(value_parser = name::key)]
    key: KeyName,
    /// What the data is about; the same is needed to decrypt
    #[arg(long, value_name = "KEY=VALUE", value_parser = context::pair)]
    context: Vec<(String, String)>,
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Generate { subject, with_plaintext: false } => generate_sealed(shell, &subject).await?,
            Self::Generate { subject, with_plaintext: true } => generate(shell, &subject).await?,
            Self::Decrypt { subject, text, raw } => decrypt(shell, &subject, text, raw).await?,
        }
        Ok(Exit::Ok)
    }
}

async fn generate_sealed(shell: &mut Shell, subject: &Subject) -> Result<(), Failure> {
    let about = context::context(&subject.context)?;
    let client = shell.client().await?;
    let sealed = client.generate_sealed_data_key(&subject.key.to_string(), &about).await?;
    let ciphertext = text::encode(&sealed.ciphertext);
    shell.print.answer(&ciphertext, &json!({ "ciphertext": ciphertext, "version": sealed.version }))
}

async fn generate(shell: &mut Shell, subject: &Subject) -> Result<(), Failure> {
    let about = context::context(&subject.context)?;
    let client = shell.client().await?;
    let made = client.generate_data_key(&subject.key.to_string(), &about).await?;
    let (ciphertext, key) = (text::encode(&made.sealed.ciphertext), STANDARD.encode(made.key.expose()));
    let version = made.sealed.version;
    let value = json!({ "ciphertext": ciphertext, "plaintext_base64": key, "version": version });
    shell.print.answer(&format!("{ciphertext}\n{key}"), &value)
}

async fn decrypt(
    shell: &mut Shell,
    subject: &Subject,
    text: Option<String>,
    raw: bool,
) -> Result<(), Failure> {
    let about = context::context(&subject.context)?;
    let sealed = text::decode(&Source::of(text).bytes().await?)?;
    let client = shell.client().await?;
    let opened = client.decrypt_data_key(&subject.key.to_string(), sealed, &about).await?;
    if raw {
        return shell.print.raw(opened.plaintext.expose());
    }
    let key = STANDARD.encode(opened.plaintext.expose());
    shell.print.answer(&key, &json!({ "plaintext_base64": key, "version": opened.version }))
}
