//! The self-test of a module: what it does, not what it advertises.
//!
//! It runs at each connection, with session objects only. A failed check means
//! that keys would not be safe in this module, and it is not used.

use std::borrow::Cow;
use std::cell::RefCell;

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use cryptoki_sys::{CK_MECHANISM_TYPE, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD};
use serde::{Deserialize, Serialize};

use crate::hsm::pkcs11::error::words;
use crate::hsm::pkcs11::hush::hushed;
use crate::hsm::pkcs11::mechanisms;
use crate::hsm::pkcs11::module::Module;
use crate::hsm::pkcs11::primitive::{self, IV_LEN, KeyId, Usage, WRAPPED_LEN};

mod signing;
mod vectors;

/// The outcome of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it must be.
    Pass,
    /// Not as it must be: the module is refused.
    Fail,
    /// The module does not offer it; Keyward can do without.
    Unsupported,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked.
    pub name: Cow<'static, str>,
    /// The outcome.
    pub verdict: Verdict,
    /// What the module did, when it did not pass.
    pub detail: String,
}

/// The outcome of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// In the order in which they ran.
    pub checks: Vec<Check>,
}

impl SelfTest {
    /// The first reason why the module must not be used, and how many there are.
    pub fn failure(&self) -> Option<String> {
        let mut failed = self.checks.iter().filter(|check| check.verdict == Verdict::Fail);
        let first = failed.next()?;
        let more = match failed.count() {
            0 => String::new(),
            more => format!("; {more} more failed"),
        };
        Some(format!("self-test \"{}\": {}{more}", first.name, first.detail))
    }

    /// Whether unwrapped keys can be limited to AES-GCM.
    pub(super) fn gcm_only(&self) -> bool {
        self.passed(GCM_ONLY)
    }

    /// The mechanism by which private keys are wrapped as RFC 5649 says, if the module has one.
    pub(super) fn padded_wrap(&self) -> Option<CK_MECHANISM_TYPE> {
        PADDED.into_iter().find(|(name, _)| self.passed(name)).map(|(_, mechanism)| mechanism)
    }

    fn passed(&self, name: &str) -> bool {
        self.checks.iter().any(|check| check.name == name && check.verdict == Verdict::Pass)
    }
}

const PADDED: [(&str, CK_MECHANISM_TYPE); 2] = [
    ("signing keys are wrapped by CKM_AES_KEY_WRAP_KWP (RFC 5649)", CKM_AES_KEY_WRAP_KWP),
    ("signing keys are wrapped by CKM_AES_KEY_WRAP_PAD (RFC 5649)", CKM_AES_KEY_WRAP_PAD),
];

const GCM_ONLY: &str = "an unwrapped key can be limited to AES-GCM";

/// What a check found: nothing wrong, or why not.
type Finding = Result<(), Problem>;

enum Problem {
    Wrong(String),
    Missing(String),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Wrong(words(&error))
    }
}

fn wrong<T>(detail: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Wrong(detail.into()))
}

/// Holds when `right`, otherwise says what is wrong.
fn must(right: bool, detail: &str) -> Finding {
    if right { Ok(()) } else { wrong(detail) }
}

type Examine = fn(&Bench) -> Finding;

/// Runs all checks. What the library prints meanwhile is kept from everybody, unless a check failed: then they run once more,
/// and it is heard.
pub(super) fn heard_when_bad(module: &Module, session: &Session) -> SelfTest {
    let tested = hushed(|| run(module, session));
    if tested.failure().is_some() {
        tracing::warn!("the self-test of the PKCS#11 module failed; what the library says of it follows");
        run(module, session);
    }
    tested
}

/// Runs every check.
pub(super) fn run(module: &Module, session: &Session) -> SelfTest {
    let bench = Bench { module, session, made: RefCell::default() };
    let checks: [(&str, Examine); 17] = [
        ("the mechanisms that Keyward needs are offered", mechanisms_offered),
        ("a non-extractable key cannot be wrapped", cannot_be_wrapped),
        ("random numbers differ", random_differs),
        ("a key is wrapped to 40 bytes and unwraps to the same key", wrap_round_trip),
        ("an unwrapped key is sensitive and non-extractable", unwrapped_is_protected),
        ("a key that may only wrap does not encrypt", usage_is_limited),
        (GCM_ONLY, gcm_only),
        ("a tampered wrapped key is refused", tampered_wrap),
        ("GCM decrypts what it encrypted", gcm_round_trip),
        ("GCM leaves the IV alone", iv_untouched),
        ("GCM refuses a tampered tag", tampered_tag),
        ("GCM refuses another AAD", other_aad),
        ("AES key wrap known answer (RFC 3394)", wrap_known_answer),
        ("AES-256-GCM known answer", gcm_known_answer),
        ("a non-extractable signing key cannot be wrapped", signing::cannot_be_wrapped),
        (PADDED[0].0, |bench| signing::wraps(bench, PADDED[0].1)),
        (PADDED[1].0, |bench| signing::wraps(bench, PADDED[1].1)),
    ];
    SelfTest { checks: checks.into_iter().map(|(name, check)| judge(name, check(&bench))).collect() }
}

fn judge(name: &'static str, finding: Finding) -> Check {
    let (verdict, detail) = match finding {
        Ok(()) => (Verdict::Pass, String::new()),
        Err(Problem::Wrong(detail)) => (Verdict::Fail, detail),
        Err(Problem::Missing(detail)) => (Verdict::Unsupported, detail),
    };
    Check { name: Cow::Borrowed(name), verdict, detail }
}

/// A session whose keys are destroyed at the end.
struct Bench<'a> {
    module: &'a Module,
    session: &'a Session,
    made: RefCell<Vec<ObjectHandle>>,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        for key in self.made.take() {
            if let Err(error) = self.session.destroy_object(key) {
                tracing::warn!("a key of the self-test stays until the session ends: {}", words(&error));
            }
        }
    }
}

impl Bench<'_> {
    fn keep(&self, made: Result<ObjectHandle, Error>) -> Result<ObjectHandle, Error> {
        made.inspect(|key| self.made.borrow_mut().push(*key))
    }

    fn key(&self, usage: Usage, extractable: bool) -> Result<ObjectHandle, Error> {
        self.keep(primitive::generate(self.session, usage, extractable))
    }

    fn unwrap(
        &self,
        wrapping: ObjectHandle,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle, Error> {
        self.keep(primitive::unwrap(self.session, wrapping, wrapped, template))
    }

    /// A wrapping key, an extractable key, and that key wrapped.
    fn wrapped(&self) -> Result<(ObjectHandle, ObjectHandle, Vec<u8>), Error> {
        let wrapping = self.key(Usage::Wrap, false)?;
        let key = self.key(Usage::Cipher, true)?;
        let wrapped = primitive::wrap(self.session, wrapping, key)?;
        Ok((wrapping, key, wrapped))
    }

    /// A wrapping key and a key unwrapped as KEKs are.
    fn unwrapped(&self) -> Result<(ObjectHandle, ObjectHandle), Error> {
        let (wrapping, _, wrapped) = self.wrapped()?;
        Ok((wrapping, self.unwrap(wrapping, &wrapped, &primitive::kek(ID, false))?))
    }

    fn import(&self, value: &[u8; 32], usage: Usage) -> Result<ObjectHandle, Problem> {
        self.keep(primitive::import(self.session, value, usage, true))
            .map_err(|error| Problem::Missing(format!("keys cannot be imported: {}", words(&error))))
    }

    /// A key, and a ciphertext under it.
    fn encrypted(&self) -> Result<(ObjectHandle, Vec<u8>), Error> {
        let key = self.key(Usage::Cipher, false)?;
        let (ciphertext, _) = primitive::gcm_encrypt(self.session, key, IV, AAD, &[7; 32])?;
        Ok((key, ciphertext))
    }

    fn decrypt(&self, key: ObjectHandle, aad: &[u8], ciphertext: &[u8]) -> Option<Vec<u8>> {
        let plaintext = primitive::gcm_decrypt(self.session, key, IV, aad, ciphertext).ok()?;
        Some(plaintext.to_vec())
    }
}

// Each key of the self-test encrypts once or twice, so a fixed IV is as good as any.
const IV: [u8; IV_LEN] = [3; IV_LEN];
const AAD: &[u8] = b"keyward/1/self-test";
const ID: KeyId = *b"keyward-selftest";

fn mechanisms_offered(bench: &Bench) -> Finding {
    let offered = bench.module.mechanisms()?;
    let missing: Vec<String> = mechanisms::NEEDED
        .iter()
        .filter(|(mechanism, _)| !offered.contains(mechanism))
        .map(|(mechanism, purpose)| format!("{}, which {purpose}", mechanisms::name(*mechanism)))
        .collect();
    must(missing.is_empty(), &format!("the token does not offer {}", missing.join("; ")))
}

fn random_differs(bench: &Bench) -> Finding {
    let mut draws = [[0; 32]; 2];
    for draw in &mut draws {
        bench.session.generate_random_slice(draw)?;
    }
    let [first, second] = draws;
    must(first != second && first != [0; 32] && second != [0; 32], "the generator repeats itself")
}

fn wrap_round_trip(bench: &Bench) -> Finding {
    let (wrapping, key, wrapped) = bench.wrapped()?;
    must(wrapped.len() == WRAPPED_LEN, &format!("a wrapped key has {} bytes", wrapped.len()))?;
    let unwrapped = bench.unwrap(wrapping, &wrapped, &primitive::kek(ID, false))?;
    let (ciphertext, _) = primitive::gcm_encrypt(bench.session, key, IV, AAD, &[7; 32])?;
    must(bench.decrypt(unwrapped, AAD, &ciphertext) == Some(vec![7; 32]), "another key came out")
}

fn unwrapped_is_protected(bench: &Bench) -> Finding {
    let (_, key) = bench.unwrapped()?;
    must(primitive::protected(bench.session, key, ID)?, "the template of C_UnwrapKey is ignored")?;
    let value = bench.session.get_attributes(key, &[AttributeType::Value]).unwrap_or_default();
    must(value.is_empty(), "the value of a sensitive key can be read")
}

fn cannot_be_wrapped(bench: &Bench) -> Finding {
    let wrapping = bench.key(Usage::Wrap, false)?;
    let key = bench.key(Usage::Cipher, false)?;
    must(primitive::wrap(bench.session, wrapping, key).is_err(), "it was wrapped")
}

fn usage_is_limited(bench: &Bench) -> Finding {
    let key = bench.key(Usage::Wrap, false)?;
    let encrypted = primitive::gcm_encrypt(bench.session, key, IV, AAD, &[7; 32]);
    must(encrypted.is_err(), "it encrypted")
}

fn gcm_only(bench: &Bench) -> Finding {
    let (wrapping, _, wrapped) = bench.wrapped()?;
    let key = bench
        .unwrap(wrapping, &wrapped, &primitive::kek(ID, true))
        .map_err(|error| Problem::Missing(format!("CKA_ALLOWED_MECHANISMS: {}", words(&error))))?;
    let (ciphertext, _) = primitive::gcm_encrypt(bench.session, key, IV, AAD, &[7; 32])
        .map_err(|error| Problem::Missing(format!("the limited key does not work: {}", words(&error))))?;
    match bench.decrypt(key, AAD, &ciphertext) {
        Some(_) => Ok(()),
        None => Err(Problem::Missing("the limited key does not decrypt".to_owned())),
    }
}

fn tampered_wrap(bench: &Bench) -> Finding {
    let (wrapping, _, mut wrapped) = bench.wrapped()?;
    wrapped[20] ^= 1;
    must(bench.unwrap(wrapping, &wrapped, &primitive::kek(ID, false)).is_err(), "it was unwrapped")
}

fn gcm_round_trip(bench: &Bench) -> Finding {
    let (key, ciphertext) = bench.encrypted()?;
    must(ciphertext.len() == 48, "the ciphertext of 32 bytes has not 48 bytes")?;
    must(bench.decrypt(key, AAD, &ciphertext) == Some(vec![7; 32]), "it did not decrypt")
}

fn iv_untouched(bench: &Bench) -> Finding {
    let key = bench.key(Usage::Cipher, false)?;
    let (_, used) = primitive::gcm_encrypt(bench.session, key, IV, AAD, &[7; 32])?;
    must(used == IV, "the module replaces the IV by its own")
}

fn tampered_tag(bench: &Bench) -> Finding {
    let (key, mut ciphertext) = bench.encrypted()?;
    if let Some(last) = ciphertext.last_mut() {
        *last ^= 1;
    }
    must(bench.decrypt(key, AAD, &ciphertext).is_none(), "it was accepted")
}

fn other_aad(bench: &Bench) -> Finding {
    let (key, ciphertext) = bench.encrypted()?;
    must(bench.decrypt(key, b"another", &ciphertext).is_none(), "it was accepted")
}

fn wrap_known_answer(bench: &Bench) -> Finding {
    let wrapping = bench.import(&vectors::KW_KEY, Usage::Wrap)?;
    let key = bench.import(&vectors::KW_PLAINTEXT, Usage::Cipher)?;
    let wrapped = primitive::wrap(bench.session, wrapping, key)?;
    must(wrapped == vectors::KW_CIPHERTEXT, "another ciphertext came out")
}

fn gcm_known_answer(bench: &Bench) -> Finding {
    let key = bench.import(&vectors::GCM_KEY, Usage::Cipher)?;
    let (ciphertext, _) = primitive::gcm_encrypt(
        bench.session,
        key,
        vectors::GCM_IV,
        &vectors::GCM_AAD,
        &vectors::GCM_PLAINTEXT,
    )?;
    must(ciphertext == vectors::GCM_CIPHERTEXT, "another ciphertext came out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_enough_and_is_named() {
        let pass = judge("a", Ok(()));
        let missing = judge("b", Err(Problem::Missing("x".into())));
        let fail = judge("c", wrong("it was accepted"));
        let test =
            |checks: &[&Check]| SelfTest { checks: checks.iter().map(|check| (*check).clone()).collect() };
        assert_eq!(test(&[&pass, &missing]).failure(), None);
        assert_eq!(test(&[&pass, &fail]).failure().unwrap(), r#"self-test "c": it was accepted"#);
    }

    #[test]
    fn keys_are_limited_to_gcm_only_where_that_works() {
        let test = |finding| SelfTest { checks: vec![judge(GCM_ONLY, finding)] };
        assert!(test(Ok(())).gcm_only());
        assert!(!test(Err(Problem::Missing("x".into()))).gcm_only());
    }
}
