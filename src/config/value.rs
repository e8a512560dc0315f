//! Values of the configuration that TOML has no type for.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use crate::id::{Origin, PrincipalId};
use crate::keyring::account::{Firmware, Level};

/// A length of time: `"500ms"`, `"5s"`, `"15m"`, `"1h 30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|error| {
            D::Error::custom(format!(
                "{text:?} is not a length of time ({error}); write for example \"5s\" or \"15m\""
            ))
        })
    }
}

/// The level of a staff member, 1 to 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaffLevel(pub Level);

impl<'de> Deserialize<'de> for StaffLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        let level = Level::new(number);
        level
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("{number} is no level; levels are 1, 2 and 3")))
    }
}

/// The version of a card's firmware, `"5.7.0"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirmwareVersion(pub Firmware);

impl<'de> Deserialize<'de> for FirmwareVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// What is known of where a token's key was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownBy {
    /// Its maker attests it.
    Attested,
    /// The company's authority has certified it.
    Certified,
    /// Those who enrolled it say so.
    Witnessed,
}

/// When a token's key must want a touch, at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Touch {
    /// It need not.
    Any,
    /// At each use, or once in 15 seconds.
    Cached,
    /// At each use.
    Always,
}

/// A size: a number of bytes, or a text such as `"64KiB"` or `"1MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The size as an index; the whole address space when it does not fit.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
        let shift = match text[digits.len()..].trim_start() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(1 << shift).map(Self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size, for example \"1MiB\"")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Bytes, E> {
        u64::try_from(number).map(Bytes).map_err(|_| E::custom("a size is not negative"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        Bytes::parse(text)
            .ok_or_else(|| E::custom(format!("{text:?} is not a size; write for example \"1MiB\"")))
    }
}

/// The mode of the socket, in octal: `"0660"`. Nothing for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not an octal mode; write for example \"0660\""))
        })?;
        if mode & 0o007 != 0 {
            return Err(D::Error::custom(format!(
                "{text:?} opens the socket to others; use \"0660\" or \"0600\""
            )));
        }
        Ok(Self(mode))
    }
}

/// A user or group, by name or number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum User {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

/// What kind of caller a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Encrypts and decrypts what it was allowed.
    Application,
    /// Manages tenants and keys; sees data only where allowed.
    Operator,
    /// A person on the host: custodian, approver, staff. May only hand in what their token signs, and see what there is to sign.
    Member,
    /// Sees how the daemon is, and the checkpoints of its log: metrics and alarms.
    Monitor,
}

/// What a grant can allow on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Encrypt fields and files.
    Encrypt,
    /// Decrypt fields and files.
    Decrypt,
    /// Encrypt anew under the primary version, without seeing the plaintext.
    ReEncrypt,
    /// Make data keys.
    GenerateDataKey,
    /// Open data keys.
    DecryptDataKey,
    /// Compute blind indexes.
    BlindIndex,
}

pub(super) fn principal_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PrincipalId, D::Error> {
    PrincipalId::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

pub(super) fn origin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Origin>, D::Error> {
    Origin::new(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("17", 17), ("17B", 17), ("64KiB", 65_536), ("2 GiB", 2 << 30)] {
            assert_eq!(Bytes::parse(text), Some(Bytes(bytes)), "{text}");
        }
        for text in ["", "KiB", "1MB", "-1", "1.5MiB", "99999999999GiB", "1é"] {
            assert_eq!(Bytes::parse(text), None, "{text}");
        }
    }
}
