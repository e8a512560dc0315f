//! Which token: by label, serial number, or a PKCS#11 URI (RFC 7512).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};

/// What a token calls itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct TokenInfo {
    /// Its label, trailing spaces removed.
    #[n(0)]
    pub label: String,
    /// Its serial number.
    #[n(1)]
    pub serial: String,
    /// Who made it.
    #[n(2)]
    pub manufacturer: String,
    /// Its model.
    #[n(3)]
    pub model: String,
}

/// What a token must show to be the one; never a slot number, because slots are renumbered at will.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct TokenSelector {
    /// Its label.
    #[n(0)]
    pub label: Option<String>,
    /// Its serial number.
    #[n(1)]
    pub serial: Option<String>,
    /// Who made it.
    #[n(2)]
    pub manufacturer: Option<String>,
    /// Its model.
    #[n(3)]
    pub model: Option<String>,
}

/// What a PKCS#11 URI says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUri {
    /// The token.
    pub token: TokenSelector,
    /// The library, when the URI names one (`module-path`).
    pub module: Option<PathBuf>,
}

/// Why a PKCS#11 URI was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another scheme, or none.
    #[error("a PKCS#11 URI starts with \"pkcs11:\"")]
    Scheme,
    /// An attribute that selects no token, or that may not stand in a configuration.
    #[error(
        "attribute {0:?} is not allowed here: use token, serial, manufacturer, model, and module-path after '?'"
    )]
    Unknown(String),
    /// An attribute that stands twice.
    #[error("attribute {0:?} stands twice")]
    Twice(String),
    /// An attribute without a value, or with characters that need percent-encoding.
    #[error("attribute {0:?} is malformed: write name=value, with other characters percent-encoded")]
    Malformed(String),
    /// Another library than the one in use.
    #[error(
        "module-path names the library {}, and {} is used: leave module-path out, or name the same in both places",
        .named.display(), .used.display()
    )]
    OtherModule {
        /// What the URI says.
        named: PathBuf,
        /// The other.
        used: PathBuf,
    },
    /// Neither a label nor a serial number.
    #[error("the URI must name the token by token=LABEL or serial=NUMBER")]
    NoToken,
}

impl TokenSelector {
    /// The token with this label.
    pub fn label(label: &str) -> Self {
        Self { label: Some(label.to_owned()), ..Self::default() }
    }

    /// Whether the token shows everything that is asked for.
    pub fn matches(&self, token: &TokenInfo) -> bool {
        self.pairs(token).iter().all(|(_, wanted, shown)| wanted.is_none_or(|wanted| wanted == *shown))
    }

    fn pairs<'a>(&'a self, token: &'a TokenInfo) -> [(&'static str, Option<&'a str>, &'a str); 4] {
        [
            ("label", self.label.as_deref(), &token.label),
            ("serial", self.serial.as_deref(), &token.serial),
            ("manufacturer", self.manufacturer.as_deref(), &token.manufacturer),
            ("model", self.model.as_deref(), &token.model),
        ]
    }
}

impl fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nothing = TokenInfo::default();
        let words: Vec<String> = self
            .pairs(&nothing)
            .iter()
            .filter_map(|(name, wanted, _)| wanted.map(|wanted| format!("{name} {wanted:?}")))
            .collect();
        f.write_str(&words.join(" and "))
    }
}

impl TokenUri {
    /// The token with this label, in whatever library is used.
    pub fn label(label: &str) -> Self {
        Self { token: TokenSelector::label(label), module: None }
    }

    /// Whether it is this token of this library; one without `module-path` is of any.
    pub fn names(&self, token: &TokenSelector, module: &Path) -> bool {
        self.token == *token && self.module.as_deref().is_none_or(|named| named == module)
    }

    /// The token, of the library at `used`.
    ///
    /// # Errors
    /// [`UriError::OtherModule`] when the URI names another one.
    pub fn within(self, used: &Path) -> Result<TokenSelector, UriError> {
        match self.module {
            Some(named) if named != used => Err(UriError::OtherModule { named, used: used.to_owned() }),
            _ => Ok(self.token),
        }
    }

    /// Parses `pkcs11:token=…;serial=…?module-path=…`. Everything that would not
    /// be used is refused, so that a typing error never selects another token.
    ///
    /// # Errors
    /// [`UriError`] says which attribute is wrong.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let rest = match text.split_at_checked("pkcs11:".len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("pkcs11:") => rest,
            _ => return Err(UriError::Scheme),
        };
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let mut path = attributes(path, ';', PATH_EXTRA)?;
        let mut query = query.map_or(Ok(BTreeMap::new()), |query| attributes(query, '&', QUERY_EXTRA))?;
        let token = TokenSelector {
            label: path.remove("token"),
            serial: path.remove("serial"),
            manufacturer: path.remove("manufacturer"),
            model: path.remove("model"),
        };
        let module = query.remove("module-path").map(PathBuf::from);
        match path.into_keys().chain(query.into_keys()).next() {
            Some(unknown) => Err(UriError::Unknown(unknown)),
            None if token.label.is_none() && token.serial.is_none() => Err(UriError::NoToken),
            None => Ok(Self { token, module }),
        }
    }
}

/// Characters allowed besides the unreserved ones (RFC 7512, section 2.3: pk11-res-avail and more).
const PATH_EXTRA: &[u8] = b":[]@!$'()*+,=&";
const QUERY_EXTRA: &[u8] = b":[]@!$'()*+,=/?|";

fn attributes(text: &str, separator: char, extra: &[u8]) -> Result<BTreeMap<String, String>, UriError> {
    let mut found = BTreeMap::new();
    for part in text.split(separator).filter(|_| !text.is_empty()) {
        let malformed = || UriError::Malformed(part.chars().take(80).collect());
        let (name, value) = part.split_once('=').ok_or_else(malformed)?;
        let value = decode(value, extra).filter(|value| !value.is_empty()).ok_or_else(malformed)?;
        if found.insert(name.to_owned(), value).is_some() {
            return Err(UriError::Twice(name.to_owned()));
        }
    }
    Ok(found)
}

/// Percent-decodes; `None` when an escape is broken, a character is not allowed, or the result is not UTF-8.
fn decode(text: &str, extra: &[u8]) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || extra.contains(&b) => b,
            _ => return None,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_uri() {
        let uri = TokenUri::parse(
            "PKCS11:token=My%20Token;serial=12%3b4;manufacturer=A;model=b(1)?module-path=/usr/lib/x.so",
        )
        .unwrap();
        assert_eq!(uri.token.label.as_deref(), Some("My Token"));
        assert_eq!(uri.token.serial.as_deref(), Some("12;4"));
        assert_eq!(uri.module, Some(PathBuf::from("/usr/lib/x.so")));
        assert_eq!(
            uri.token.to_string(),
            r#"label "My Token" and serial "12;4" and manufacturer "A" and model "b(1)""#
        );
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (text, error) in [
            ("token=a", UriError::Scheme),
            ("pkcs1", UriError::Scheme),
            ("pkcs11:", UriError::NoToken),
            ("pkcs11:model=x", UriError::NoToken),
            ("pkcs11:token=a;slot-id=1", UriError::Unknown("slot-id".into())),
            ("pkcs11:token=a;tokn=b", UriError::Unknown("tokn".into())),
            ("pkcs11:token=a;Token=b", UriError::Unknown("Token".into())),
            ("pkcs11:token=a?pin-value=1", UriError::Unknown("pin-value".into())),
            ("pkcs11:token=a;token=a", UriError::Twice("token".into())),
            ("pkcs11:token=", UriError::Malformed("token=".into())),
            ("pkcs11:token", UriError::Malformed("token".into())),
            ("pkcs11:token=a;", UriError::Malformed(String::new())),
            ("pkcs11:token=%4", UriError::Malformed("token=%4".into())),
            ("pkcs11:token=%+1", UriError::Malformed("token=%+1".into())),
            ("pkcs11:token=%ff", UriError::Malformed("token=%ff".into())),
            ("pkcs11:token=a b", UriError::Malformed("token=a b".into())),
            ("pkcs11:token=a#b", UriError::Malformed("token=a#b".into())),
        ] {
            assert_eq!(TokenUri::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_selector_matches_only_what_it_asks_for() {
        let token = TokenInfo { label: "a".into(), serial: "1".into(), ..TokenInfo::default() };
        assert!(TokenSelector::label("a").matches(&token));
        assert!(!TokenSelector::label("a ").matches(&token));
        let other = TokenSelector { serial: Some("2".into()), ..TokenSelector::label("a") };
        assert!(!other.matches(&token));
    }

    proptest! {
        #[test]
        fn any_label_survives_encoding(label in "\\PC{1,40}") {
            let encoded: String = label.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let uri = TokenUri::parse(&format!("pkcs11:token={encoded}")).unwrap();
            prop_assert_eq!(uri.token.label, Some(label));
        }

        #[test]
        fn nothing_panics(text in "(pkcs11:)?\\PC{0,60}") {
            let _ = TokenUri::parse(&text);
        }
    }
}
