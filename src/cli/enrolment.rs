//! The two documents that travel between operator and workstation: a ticket, and what a token made of it.
//! JSON; nothing in them is secret.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::document;
use super::failure::Failure;
use super::output::Output;
use super::view::plain;

/// What an operator gives to the staff member: permits one token to be enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TicketDocument {
    /// `keyward-ticket/1`
    pub(super) format: String,
    /// The installation, in hexadecimal.
    pub(super) deployment: String,
    /// `accounts/{account}`
    pub(super) account: String,
    /// In hexadecimal.
    pub(super) ticket: String,
    /// In hexadecimal.
    pub(super) nonce: String,
    /// Milliseconds since 1970.
    pub(super) expires: u64,
}

impl TicketDocument {
    /// Its [`format`](Self::format).
    pub(super) const FORMAT: &'static str = "keyward-ticket/1";
}

/// What the workstation makes of a ticket, and the operator hands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrolmentDocument {
    /// `keyward-enrolment/1`
    pub(super) format: String,
    /// In hexadecimal.
    pub(super) ticket: String,
    /// What the staff member calls the token.
    pub(super) token: String,
    /// pkcs11 or piv
    pub(super) kind: String,
    /// How the key signs.
    pub(super) algorithm: String,
    /// SubjectPublicKeyInfo in DER, in hexadecimal.
    pub(super) public_key: String,
    /// In hexadecimal.
    pub(super) signature: String,
    /// The maker's attestation: certificates in DER, in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attestation: Vec<String>,
    /// The company's certificate and those above it, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) certificates: Vec<String>,
}

impl EnrolmentDocument {
    /// Its [`format`](Self::format).
    pub(super) const FORMAT: &'static str = "keyward-enrolment/1";
}

/// Reads a document of one format.
///
/// # Errors
/// [`Failure::Input`] for everything else.
pub(super) fn read<T: for<'de> Deserialize<'de>>(
    path: &Path,
    format: &str,
    format_of: impl Fn(&T) -> &str,
) -> Result<T, Failure> {
    let text = document::read(path)?;
    let none = |why: String| Failure::Input(format!("{} is no {format}: {why}", path.display()));
    // The members of another document would be complained of first.
    let said = serde_json::from_str::<Value>(&text).map_err(|error| none(error.to_string()))?;
    match &said["format"] {
        Value::String(other) if other != format => return Err(none(format!("it is a {}", plain(other)))),
        _ => {}
    }
    let read: T = serde_json::from_str(&text).map_err(|error| none(error.to_string()))?;
    match format_of(&read) == format {
        true => Ok(read),
        false => Err(none("it does not say its format".into())),
    }
}

/// Writes a document; a file appears when it is whole. What it goes to is opened before anything is done that cannot
/// be done again.
///
/// # Errors
/// [`Failure`] when it cannot be written.
pub(super) async fn write(mut output: Output, document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Failure::Input(error.to_string()))?;
    let written = output.writer().write_all(format!("{text}\n").as_bytes()).await;
    written.map_err(Failure::file("write", output.path()))?;
    output.commit().await
}

/// Bytes of a known number, in hexadecimal.
///
/// # Errors
/// [`Failure::Input`] that names the member.
pub(super) fn exact<const N: usize>(text: &str, member: &str) -> Result<[u8; N], Failure> {
    let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Failure::Input(format!("{member}: expected {} hexadecimal digits", 2 * N)))
}
