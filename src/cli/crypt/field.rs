//! One field, from an argument or stdin to stdout.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::input::Source;
use super::{Job, Verb};
use crate::cli::failure::Failure;
use crate::cli::{Shell, context, text};

pub(super) async fn run(verb: Verb, job: Job, shell: &mut Shell) -> Result<(), Failure> {
    let about = context::context(&job.context)?;
    let key = job.key.to_string();
    if job.raw && shell.print.to_terminal && verb != Verb::Decrypt {
        return Err(Failure::Terminal);
    }
    let source = Source::of(job.text);
    match verb {
        Verb::Encrypt => {
            let plaintext = source.secret("plaintext", &mut shell.print).await?;
            let sealed = shell.client().await?.encrypt(&key, plaintext, &about).await?;
            ciphertext(shell, &sealed.ciphertext, job.raw, json!({ "version": sealed.version }))
        }
        Verb::Decrypt => {
            let sealed = bytes(source, job.raw).await?;
            let opened = shell.client().await?.decrypt(&key, sealed, &about).await?;
            plaintext(shell, opened.plaintext.expose(), opened.version)
        }
        Verb::ReEncrypt => {
            let sealed = bytes(source, job.raw).await?;
            let moved = shell.client().await?.re_encrypt(&key, sealed, &about).await?;
            let versions = json!({ "version": moved.version, "previous_version": moved.previous_version });
            ciphertext(shell, &moved.ciphertext, job.raw, versions)
        }
    }
}

async fn bytes(source: Source, raw: bool) -> Result<Vec<u8>, Failure> {
    let given = source.bytes().await?;
    if raw { Ok(given) } else { text::decode(&given) }
}

fn ciphertext(shell: &mut Shell, bytes: &[u8], raw: bool, mut value: Value) -> Result<(), Failure> {
    if raw {
        return shell.print.raw(bytes);
    }
    let text = text::encode(bytes);
    value["ciphertext"] = json!(text);
    shell.print.answer(&text, &value)
}

fn plaintext(shell: &mut Shell, bytes: &[u8], version: u32) -> Result<(), Failure> {
    if !shell.print.json {
        return shell.print.plaintext(bytes);
    }
    let value = match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "plaintext": text, "version": version }),
        Err(_) => json!({ "plaintext_base64": STANDARD.encode(bytes), "version": version }),
    };
    shell.print.answer("", &value)
}
