//! Patterns over key names in grants.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::id::{KeyName, MAX_IDENTIFIER};

/// `tenants/acme/keys/*`, `tenants/*/keys/customer-pii`, `tenants/eu-*/keys/*`.
///
/// A `*` stands only at the end of a tenant or key and matches any rest of it,
/// the empty one too; it never crosses a `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPattern {
    tenant: Segment,
    key: Segment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Exactly(Box<str>),
    StartsWith(Box<str>),
}

impl KeyPattern {
    /// Reads a pattern; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("tenants/")?;
        let (tenant, key) = rest.split_once("/keys/")?;
        Some(Self { tenant: Segment::parse(tenant)?, key: Segment::parse(key)? })
    }

    /// Whether the pattern covers the key.
    pub fn matches(&self, name: &KeyName) -> bool {
        self.tenant.matches(name.tenant.as_str()) && self.key.matches(name.key.as_str())
    }

    /// Whether the pattern covers every key that `other` covers.
    pub fn covers(&self, other: &Self) -> bool {
        self.tenant.covers(&other.tenant) && self.key.covers(&other.key)
    }
}

impl Segment {
    fn parse(text: &str) -> Option<Self> {
        let (stem, open) = text.strip_suffix('*').map_or((text, false), |stem| (stem, true));
        let plain =
            stem.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'));
        match (plain && stem.len() <= MAX_IDENTIFIER, open, stem.is_empty()) {
            (true, true, _) => Some(Self::StartsWith(stem.into())),
            (true, false, false) => Some(Self::Exactly(stem.into())),
            _ => None,
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exactly(own) => **own == *text,
            Self::StartsWith(stem) => text.starts_with(&**stem),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exactly(text)) => self.matches(text),
            (Self::StartsWith(stem), Self::StartsWith(longer)) => longer.starts_with(&**stem),
            (Self::Exactly(_), Self::StartsWith(_)) => false,
        }
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenants/{}/keys/{}", self.tenant, self.key)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(text) => f.write_str(text),
            Self::StartsWith(stem) => write!(f, "{stem}*"),
        }
    }
}

impl<'de> Deserialize<'de> for KeyPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is not a key pattern; write for example \"tenants/acme/keys/*\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        KeyPattern::parse(pattern).unwrap().matches(&KeyName::parse(name).unwrap())
    }

    #[test]
    fn stars_match_within_a_segment() {
        assert!(matches("tenants/acme/keys/*", "tenants/acme/keys/pii"));
        assert!(matches("tenants/*/keys/pii", "tenants/acme/keys/pii"));
        assert!(matches("tenants/eu-*/keys/*", "tenants/eu-1/keys/pii"));
        assert!(!matches("tenants/eu-*/keys/*", "tenants/us-1/keys/pii"));
        assert!(!matches("tenants/acme/keys/pii", "tenants/acme/keys/pii2"));
        assert!(!matches("tenants/acme/keys/*", "tenants/acme2/keys/pii"));
    }

    #[test]
    fn one_pattern_covers_another() {
        let covers = |pattern: &str, other: &str| {
            KeyPattern::parse(pattern).unwrap().covers(&KeyPattern::parse(other).unwrap())
        };
        assert!(covers("tenants/acme/keys/*", "tenants/acme/keys/pii"));
        assert!(covers("tenants/acme/keys/*", "tenants/acme/keys/p*"));
        assert!(covers("tenants/eu-*/keys/pii", "tenants/eu-1*/keys/pii"));
        assert!(covers("tenants/acme/keys/pii", "tenants/acme/keys/pii"));
        assert!(!covers("tenants/acme/keys/pii", "tenants/acme/keys/pii*"));
        assert!(!covers("tenants/acme/keys/p*", "tenants/acme/keys/*"));
        assert!(!covers("tenants/eu-*/keys/*", "tenants/e*/keys/*"));
    }

    #[test]
    fn odd_patterns_are_refused() {
        for text in [
            "",
            "*",
            "tenants/*",
            "tenants//keys/a",
            "tenants/a/keys/",
            "tenants/a*b/keys/c",
            "tenants/A/keys/c",
        ] {
            assert!(KeyPattern::parse(text).is_none(), "{text}");
        }
    }
}
