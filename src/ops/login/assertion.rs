//! Login assertions: JSON Web Tokens (RFC 7519) signed with ES256 (RFC 7518, section 3.4) by a key of the HSM.
//!
//! Only what this daemon writes is read back here: one header for each key, byte for byte.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::keyring::signing::{PublicKey, Signature};

/// What an assertion says. Dates are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// `keyward:` and the deployment.
    pub iss: String,
    /// `accounts/{account}`
    pub sub: String,
    /// The application that it was issued to: a principal of the configuration.
    pub aud: String,
    /// When it was issued.
    pub iat: u64,
    /// When it ends.
    pub exp: u64,
    /// Names it.
    pub jti: String,
    /// How the account was authenticated (RFC 8176): only what was verified.
    pub amr: Vec<String>,
    /// What is known of where the token's key was made: `attested`, `certified` or `witnessed`.
    pub acr: String,
    /// The account's level.
    pub level: u32,
    /// How often the account was suspended or given another level before: later, the assertion has ended.
    #[serde(default)]
    pub generation: u32,
    /// The token's key: SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.
    pub credential: String,
    /// The session's key (RFC 7800).
    pub cnf: Confirmation,
}

/// The key that the session proves itself with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// Its thumbprint (RFC 7638, SHA-256), as in RFC 9449.
    pub jkt: String,
}

/// A public key as a JSON Web Key (RFC 7517), to verify assertions with.
pub fn jwk(key: &PublicKey) -> Value {
    let (x, y) = coordinates(key);
    json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256", "kid": thumbprint(key)})
}

/// The thumbprint of a key (RFC 7638): SHA-256 over its required members, base64url.
pub fn thumbprint(key: &PublicKey) -> String {
    let (x, y) = coordinates(key);
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    BASE64URL.encode(Sha256::digest(members))
}

fn coordinates(key: &PublicKey) -> (String, String) {
    let (x, y) = key.point()[1..].split_at(32);
    (BASE64URL.encode(x), BASE64URL.encode(y))
}

/// What the HSM signs: header and claims, in base64url (RFC 7515, section 5.1).
pub(super) fn signing_input(key: &PublicKey, claims: &Claims) -> Result<String, serde_json::Error> {
    Ok(format!("{}.{}", header(key), BASE64URL.encode(serde_json::to_vec(claims)?)))
}

fn header(key: &PublicKey) -> String {
    BASE64URL.encode(format!(r#"{{"alg":"ES256","typ":"JWT","kid":"{}"}}"#, thumbprint(key)))
}

/// The whole assertion.
pub(super) fn complete(input: &str, signature: &Signature) -> String {
    format!("{input}.{}", BASE64URL.encode(signature.0))
}

/// The claims of an assertion that one of the keys has signed; `None` for every other text.
pub(super) fn verify(keys: &[PublicKey], assertion: &str) -> Option<Claims> {
    /// Longer than any that is issued.
    const LONGEST: usize = 8192;
    if assertion.len() > LONGEST {
        return None;
    }
    let (input, signature) = assertion.rsplit_once('.')?;
    let (written, claims) = input.split_once('.')?;
    let key = keys.iter().find(|key| header(key) == written)?;
    let signature = Signature::from_raw(&BASE64URL.decode(signature).ok()?)?;
    if !key.verifies(&Sha256::digest(input).into(), &signature) {
        return None;
    }
    serde_json::from_slice(&BASE64URL.decode(claims).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keyring::signing::tests::TestKey;

    fn claims() -> Claims {
        Claims {
            iss: "keyward:00".into(),
            sub: "accounts/alice".into(),
            aud: "crm".into(),
            iat: 1_800_000_000,
            exp: 1_800_000_600,
            jti: "01".into(),
            amr: vec!["pop".into(), "otp".into()],
            acr: "witnessed".into(),
            level: 1,
            generation: 1,
            credential: "02".into(),
            cnf: Confirmation { jkt: "03".into() },
        }
    }

    fn issue(key: &TestKey) -> String {
        let input = signing_input(&key.public(), &claims()).unwrap();
        complete(&input, &key.sign(input.as_bytes()))
    }

    #[test]
    fn what_is_issued_is_read_back_under_its_key_only() {
        let (key, other) = (TestKey::new(), TestKey::new());
        let assertion = issue(&key);
        assert_eq!(verify(&[other.public(), key.public()], &assertion), Some(claims()));
        assert_eq!(verify(&[other.public()], &assertion), None);
        assert_eq!(verify(&[], &assertion), None);
    }

    #[test]
    fn algorithms_are_not_chosen_by_the_message() {
        let key = TestKey::new();
        let assertion = issue(&key);
        let (_, rest) = assertion.split_once('.').unwrap();
        for header in
            [r#"{"alg":"none"}"#, r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"alg":"ES256","typ":"JWT"}"#]
        {
            assert_eq!(verify(&[key.public()], &format!("{}.{rest}", BASE64URL.encode(header))), None);
        }
        let unsigned = assertion.rsplit_once('.').unwrap().0;
        for text in [format!("{unsigned}."), unsigned.to_owned(), format!("{assertion}=")] {
            assert_eq!(verify(&[key.public()], &text), None);
        }
    }

    #[test]
    fn a_thumbprint_is_that_of_rfc_7638() {
        // `printf '{"crv":"P-256","kty":"EC","x":"…","y":"…"}' | openssl sha256` for the curve's generator.
        let fixed = TestKey::fixed();
        let members = r#"{"crv":"P-256","kty":"EC","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}"#;
        assert_eq!(thumbprint(&fixed), BASE64URL.encode(Sha256::digest(members)));
        assert_eq!(jwk(&fixed)["kid"], thumbprint(&fixed));
    }

    proptest! {
        #[test]
        fn one_changed_character_is_another_assertion(at: prop::sample::Index, with in "[A-Za-z0-9_.=-]") {
            let key = TestKey::new();
            let assertion = issue(&key);
            let at = at.index(assertion.len());
            let mut changed = assertion.clone();
            changed.replace_range(at..=at, &with);
            prop_assert!(changed == assertion || verify(&[key.public()], &changed).is_none());
        }

        #[test]
        fn nothing_panics(text: String) {
            prop_assert_eq!(verify(&[TestKey::fixed()], &text), None);
        }
    }
}
