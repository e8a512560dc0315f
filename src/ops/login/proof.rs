//! Proofs of possession: that a call comes from the session that logged in.
//!
//! A DPoP proof (RFC 9449, section 4) by the session's key, for one call, or for one stream when it is
//! opened. `htu` is `keyward:` and the method: `keyward:/keyward.v1.CryptoService/Decrypt`.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::assertion::thumbprint;
use crate::clock::{Date, Moment};
use crate::keyring::signing::{PublicKey, Signature};

/// How far a proof's date may be from the daemon's clock, in seconds.
const SKEW: u64 = 60;
/// Longest proof in bytes.
const LONGEST: usize = 2048;
/// Longest name of a proof in bytes.
const LONGEST_ID: usize = 128;

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofFlaw {
    /// It has another form.
    #[error("the proof of possession is no DPoP proof with ES256 (RFC 9449)")]
    Malformed,
    /// It is by another key than that of the session.
    #[error("the proof of possession is not by the key of the session that logged in")]
    OtherKey,
    /// The signature does not verify.
    #[error("the signature of the proof of possession does not verify")]
    Signature,
    /// It is for another method.
    #[error("the proof of possession is for another method")]
    OtherMethod,
    /// It is for another assertion.
    #[error("the proof of possession is for another assertion")]
    OtherAssertion,
    /// It is too old, or of the future.
    #[error("the proof of possession is not of now: compare the clocks")]
    Time,
    /// It is older than the daemon, which cannot know whether it was shown to the one before.
    #[error("the proof of possession was made before the daemon started: make another one")]
    BeforeStart,
    /// It was shown before.
    #[error("the proof of possession was shown before")]
    Replayed,
    /// There is no room to remember it.
    #[error("too many proofs of possession are shown at the moment: try again in a minute")]
    Crowded,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
    jwk: Jwk,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: u64,
    ath: String,
}

/// What a proof is for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The full name of the method: `/keyward.v1.CryptoService/Decrypt`.
    pub method: &'a str,
    /// The assertion that is shown with it.
    pub assertion: &'a str,
    /// Seconds since 1970.
    pub now: u64,
}

/// What the session's key is to sign: header and claims in base64url (RFC 7515, section 5.1). `id` names the
/// proof: 16 random bytes.
pub fn signing_input(key: &PublicKey, id: [u8; 16], subject: &Subject<'_>) -> String {
    let (x, y) = key.point()[1..].split_at(32);
    let header = Header {
        typ: "dpop+jwt".into(),
        alg: "ES256".into(),
        jwk: Jwk { kty: "EC".into(), crv: "P-256".into(), x: BASE64URL.encode(x), y: BASE64URL.encode(y) },
    };
    let claims = Claims {
        jti: BASE64URL.encode(id),
        htm: "POST".into(),
        htu: htu(subject.method),
        iat: subject.now,
        ath: ath(subject.assertion),
    };
    let [header, claims] = [encoded(&header), encoded(&claims)];
    format!("{header}.{claims}")
}

/// The whole proof.
pub fn complete(input: &str, signature: &Signature) -> String {
    format!("{input}.{}", BASE64URL.encode(signature.0))
}

/// Verifies a proof by the session key whose thumbprint is `session`, where proofs are remembered since that
/// second since 1970. Answers its name, which must not have been seen before.
///
/// # Errors
/// [`ProofFlaw`], without [`ProofFlaw::Replayed`].
pub(super) fn verify(
    proof: &str,
    session: &str,
    subject: &Subject<'_>,
    since: u64,
) -> Result<String, ProofFlaw> {
    let (input, signature) = proof.rsplit_once('.').ok_or(ProofFlaw::Malformed)?;
    let (header, claims) = input.split_once('.').ok_or(ProofFlaw::Malformed)?;
    if proof.len() > LONGEST {
        return Err(ProofFlaw::Malformed);
    }
    let header: Header = decoded(header)?;
    let claims: Claims = decoded(claims)?;
    let known = header.typ == "dpop+jwt" && header.alg == "ES256" && claims.htm == "POST";
    if !known || claims.jti.is_empty() || claims.jti.len() > LONGEST_ID {
        return Err(ProofFlaw::Malformed);
    }
    let key = key_of(&header.jwk).ok_or(ProofFlaw::Malformed)?;
    if thumbprint(&key) != session {
        return Err(ProofFlaw::OtherKey);
    }
    let signature = BASE64URL.decode(signature).ok().and_then(|raw| Signature::from_raw(&raw));
    let signature = signature.ok_or(ProofFlaw::Malformed)?;
    if !key.verifies(&Sha256::digest(input).into(), &signature) {
        return Err(ProofFlaw::Signature);
    }
    match () {
        () if claims.htu != htu(subject.method) => Err(ProofFlaw::OtherMethod),
        () if claims.ath != ath(subject.assertion) => Err(ProofFlaw::OtherAssertion),
        () if claims.iat.abs_diff(subject.now) > SKEW => Err(ProofFlaw::Time),
        () if claims.iat < since => Err(ProofFlaw::BeforeStart),
        () => Ok(claims.jti),
    }
}

fn htu(method: &str) -> String {
    format!("keyward:{method}")
}

/// RFC 9449, section 4.2: the hash of the assertion.
fn ath(assertion: &str) -> String {
    BASE64URL.encode(Sha256::digest(assertion))
}

fn encoded<T: Serialize>(part: &T) -> String {
    // Structures of strings and numbers always have a form in JSON.
    BASE64URL.encode(serde_json::to_vec(part).unwrap_or_default())
}

fn decoded<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, ProofFlaw> {
    let bytes = BASE64URL.decode(part).map_err(|_| ProofFlaw::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| ProofFlaw::Malformed)
}

fn key_of(jwk: &Jwk) -> Option<PublicKey> {
    if jwk.kty != "EC" || jwk.crv != "P-256" {
        return None;
    }
    let [x, y] = [BASE64URL.decode(&jwk.x).ok()?, BASE64URL.decode(&jwk.y).ok()?];
    (x.len() == 32).then(|| PublicKey::from_point(&[&[4], &x[..], &y[..]].concat())).flatten()
}

/// The proofs that were shown, for as long as they could be shown again. They die with the daemon, so a proof
/// that is older than the daemon does not count.
pub(super) struct Shown {
    /// Seconds since 1970 at the start.
    pub(super) since: u64,
    halves: Mutex<Halves>,
}

#[derive(Default)]
struct Halves {
    newer: HashSet<[u8; 32]>,
    older: HashSet<[u8; 32]>,
    /// How many of the newer half each session has.
    counts: HashMap<String, usize>,
    turned: Option<Moment>,
}

/// A proof is good from [`SKEW`] before to [`SKEW`] after its date.
const KEPT: Duration = Duration::from_secs(2 * SKEW + 1);
/// Most proofs that are remembered in one half: 32 MiB.
const MOST: usize = 1 << 20;
/// Most of them that one session may have, some 540 a second, so that none crowds out the others.
const MOST_OF_ONE: usize = 1 << 16;

impl Shown {
    pub(super) fn new(now: Date) -> Self {
        Self { since: now.millis() / 1000, halves: Mutex::default() }
    }

    /// Notes a proof of a session.
    ///
    /// # Errors
    /// [`ProofFlaw::Replayed`] when it was noted before, [`ProofFlaw::Crowded`].
    pub(super) fn note(&self, session: &str, id: &str, now: Moment) -> Result<(), ProofFlaw> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.turned.is_none_or(|turned| now.since(turned) > KEPT) {
            // What is in the older half is over `KEPT` old.
            halves.older = std::mem::take(&mut halves.newer);
            halves.counts.clear();
            halves.turned = Some(now);
        }
        let name: [u8; 32] =
            Sha256::new().chain_update(session).chain_update([0]).chain_update(id).finalize().into();
        if halves.older.contains(&name) || halves.newer.contains(&name) {
            return Err(ProofFlaw::Replayed);
        }
        let own = halves.counts.get(session).copied().unwrap_or_default();
        if halves.newer.len() >= MOST || own >= MOST_OF_ONE {
            return Err(ProofFlaw::Crowded);
        }
        halves.newer.insert(name);
        halves.counts.insert(session.to_owned(), own + 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keyring::signing::tests::TestKey;

    const SUBJECT: Subject<'static> =
        Subject { method: "/keyward.v1.CryptoService/Decrypt", assertion: "a.b.c", now: 1_800_000_000 };

    fn proof(key: &TestKey, subject: &Subject<'_>) -> String {
        let input = signing_input(&key.public(), [7; 16], subject);
        complete(&input, &key.sign(input.as_bytes()))
    }

    #[test]
    fn a_proof_is_for_one_key_method_assertion_and_time() {
        let (key, other) = (TestKey::new(), TestKey::new());
        let session = thumbprint(&key.public());
        let whole = proof(&key, &SUBJECT);
        assert_eq!(verify(&whole, &session, &SUBJECT, 0), Ok(BASE64URL.encode([7; 16])));
        let foreign = verify(&whole, &thumbprint(&other.public()), &SUBJECT, 0);
        assert_eq!(foreign, Err(ProofFlaw::OtherKey));
        let cases = [
            (Subject { method: "/keyward.v1.CryptoService/Encrypt", ..SUBJECT }, ProofFlaw::OtherMethod),
            (Subject { assertion: "a.b.d", ..SUBJECT }, ProofFlaw::OtherAssertion),
            (Subject { now: SUBJECT.now + SKEW + 1, ..SUBJECT }, ProofFlaw::Time),
            (Subject { now: SUBJECT.now - SKEW - 1, ..SUBJECT }, ProofFlaw::Time),
        ];
        for (subject, flaw) in cases {
            assert_eq!(verify(&whole, &session, &subject, 0), Err(flaw));
        }
        for now in [SUBJECT.now + SKEW, SUBJECT.now - SKEW] {
            assert!(verify(&whole, &session, &Subject { now, ..SUBJECT }, 0).is_ok());
        }
        assert!(verify(&whole, &session, &SUBJECT, SUBJECT.now).is_ok());
        assert_eq!(verify(&whole, &session, &SUBJECT, SUBJECT.now + 1), Err(ProofFlaw::BeforeStart));
    }

    #[test]
    fn the_algorithm_is_not_chosen_by_the_message() {
        let key = TestKey::new();
        let session = thumbprint(&key.public());
        let whole = proof(&key, &SUBJECT);
        let (header, rest) = whole.split_once('.').unwrap();
        let header = String::from_utf8(BASE64URL.decode(header).unwrap()).unwrap();
        for changed in [
            header.replace("ES256", "none"),
            header.replace("ES256", "HS256"),
            header.replace("dpop+jwt", "JWT"),
            header.replace("P-256", "P-384"),
            header.replace(r#""typ""#, r#""crit":["x"],"typ""#),
        ] {
            let changed = format!("{}.{rest}", BASE64URL.encode(changed));
            assert_eq!(verify(&changed, &session, &SUBJECT, 0), Err(ProofFlaw::Malformed));
        }
    }

    #[test]
    fn a_proof_counts_once_for_each_session() {
        let shown = Shown::new(Date(0));
        let now = Moment::now();
        assert_eq!(shown.note("s", "1", now), Ok(()));
        assert_eq!(shown.note("s", "1", now), Err(ProofFlaw::Replayed));
        assert_eq!(shown.note("t", "1", now), Ok(()));
        let later = now.after(KEPT).after(Duration::from_millis(1));
        assert_eq!(shown.note("s", "1", later), Err(ProofFlaw::Replayed), "the older half counts too");
        let much_later = later.after(KEPT).after(Duration::from_millis(1));
        assert_eq!(shown.note("s", "1", much_later), Ok(()), "its date is over by then");
    }

    #[test]
    fn a_session_that_shows_too_many_crowds_out_no_other() {
        let (shown, now) = (Shown::new(Date(0)), Moment::now());
        for id in 0..MOST_OF_ONE {
            assert_eq!(shown.note("s", &id.to_string(), now), Ok(()));
        }
        assert_eq!(shown.note("s", "one more", now), Err(ProofFlaw::Crowded));
        assert_eq!(shown.note("t", "one more", now), Ok(()));
    }

    proptest! {
        #[test]
        fn one_changed_character_proves_nothing(at: prop::sample::Index, with in "[A-Za-z0-9_.=-]") {
            let key = TestKey::new();
            let session = thumbprint(&key.public());
            let whole = proof(&key, &SUBJECT);
            let at = at.index(whole.len());
            let mut changed = whole.clone();
            changed.replace_range(at..=at, &with);
            prop_assert!(changed == whole || verify(&changed, &session, &SUBJECT, 0).is_err());
        }

        #[test]
        fn nothing_panics(text: String) {
            prop_assert!(verify(&text, "", &SUBJECT, 0).is_err());
        }
    }
}
