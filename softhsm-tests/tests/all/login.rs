//! Logging in with a one-time password and a token: a real daemon and, where a token takes part, a real one.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use keyward::audit::Outcome;
use keyward::client::{Client, Code, Error};
use keyward::clock::Date;
use keyward::keyring::otp::{OtpHash, OtpKind, OtpScheme};
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{
    CompleteLoginRequest, ConfirmOtpRequest, CreateOtpRequest, EndAssertionRequest, GetJwksRequest,
    IntrospectAssertionRequest, IntrospectAssertionResponse, OpenEnrolmentRequest, RevokeCredentialRequest,
    UnlockAccountRequest, UpdateAccountRequest,
};
use keyward_softhsm_tests::custodians::{found, people};
use keyward_softhsm_tests::faketime::FakeClock;
use keyward_softhsm_tests::faults::Faults;
use keyward_softhsm_tests::staff::{
    Agent, MemoryKey, ORIGIN, Staff, begin, begin_from, challenge, complete, enroll, submission,
};
use keyward_softhsm_tests::{Daemon, World, eventually, softhsm_module, text};
use serde_json::{Value, json};

/// Every failed login is answered after so long.
const FAILURE: Duration = Duration::from_millis(250);
/// Every challenge is answered after so long.
const BEGINNING: Duration = Duration::from_millis(10);

fn world() -> World {
    let mut world = World::new();
    world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
    world.init();
    world
}

async fn serving() -> (World, Daemon, Client) {
    let world = world();
    let daemon = world.start().await;
    let client = daemon.client().await;
    (world, daemon, client)
}

/// A refused login says nothing of why, and takes its time.
async fn refused(client: &Client, request: CompleteLoginRequest) {
    let asked = Instant::now();
    let error = complete(client, request).await.unwrap_err();
    assert!(asked.elapsed() >= FAILURE, "{:?}", asked.elapsed());
    assert_eq!((error.code, error.reason()), (Code::Unauthenticated, "LOGIN_FAILED"), "{error}");
    assert_eq!(
        error.message,
        "the login failed: begin again, with the right token and a new one-time password"
    );
}

/// Why the last login failed, in the audit log.
fn why(world: &World) -> String {
    let records = world.audit();
    let last = records
        .iter()
        .rfind(|record| record.operation == "complete-login" && matches!(record.outcome, Outcome::Failed(_)));
    last.unwrap().detail.clone().unwrap()
}

async fn introspect(client: &Client, assertion: &str) -> IntrospectAssertionResponse {
    let request = IntrospectAssertionRequest { assertion: assertion.to_owned() };
    client.call(client.logins().introspect_assertion(request)).await.unwrap()
}

#[tokio::test]
async fn an_assertion_says_what_was_verified_and_ends() {
    let (_world, daemon, client) = serving().await;
    let mut alice = Staff::new(&client, "alice").await;
    let logged_in = alice.log_in(&client).await.unwrap();
    assert_eq!((logged_in.account.as_str(), logged_in.level), ("accounts/alice", 1));
    let claims = verify_as_others_do(&client, &logged_in.assertion).await;
    assert_eq!(claims["sub"], "accounts/alice");
    assert_eq!(claims["aud"], "tester");
    assert_eq!(claims["amr"], json!(["pop", "otp", "mfa"]));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 600);
    let seen = introspect(&client, &logged_in.assertion).await;
    assert!(seen.active && seen.account == "accounts/alice");
    assert_eq!(claims["cnf"]["jkt"], seen.session_thumbprint);
    let mut forged = logged_in.assertion.clone();
    forged.replace_range(10..11, "!");
    assert!(!introspect(&client, &forged).await.active);
    let request = EndAssertionRequest { assertion: logged_in.assertion.clone() };
    client.call(client.logins().end_assertion(request.clone())).await.unwrap();
    client.call(client.logins().end_assertion(request)).await.unwrap();
    assert_eq!(introspect(&client, &logged_in.assertion).await, IntrospectAssertionResponse::default());
    assert!(daemon.stop().await.success());
}

/// Verifies an assertion with nothing but the published keys (RFC 7515, RFC 7517).
async fn verify_as_others_do(client: &Client, assertion: &str) -> Value {
    let keys = client.call(client.logins().get_jwks(GetJwksRequest {})).await.unwrap().json;
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let (input, signature) = assertion.rsplit_once('.').unwrap();
    let (header, claims) = input.split_once('.').unwrap();
    let decode = |text: &str| BASE64URL.decode(text).unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
    assert_eq!((&header["alg"], &key["crv"]), (&json!("ES256"), &json!("P-256")));
    let coordinate = |name: &str| decode(key[name].as_str().unwrap());
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    public.verify(input.as_bytes(), &decode(signature)).unwrap();
    serde_json::from_slice(&decode(claims)).unwrap()
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_only_the_audit_log_says_why() {
    let (world, daemon, client) = serving().await;
    let mut alice = Staff::new(&client, "alice").await;
    let bob = Staff::new(&client, "bob").await;
    let other = MemoryKey::default();
    enroll(&client, &alice.account, &other).await.unwrap();
    let good = alice.passwords.at(1);
    // Each from elsewhere: so many failures from one address are too many.
    let number = Cell::new(0);
    let begin = async |client: &Client, name: &str| {
        number.set(number.get() + 1);
        begin_from(client, name, &format!("192.0.2.{}", number.get())).await
    };

    let begun = begin(&client, &alice.account).await.unwrap();
    for known in [alice.token.credential(), other.credential()] {
        assert!(begun.credentials.iter().any(|named| **named == known.0));
    }
    let mut by_the_other = alice.answer(&begun, good.clone());
    by_the_other.credential = other.credential().0.to_vec().into();
    refused(&client, by_the_other).await;
    assert!(why(&world).ends_with("the token's signature does not verify"), "{}", why(&world));
    // The challenge is used up by that.
    refused(&client, alice.answer(&begun, good.clone())).await;
    assert!(why(&world).ends_with("there is no such login open"));

    let begun = begin(&client, &alice.account).await.unwrap();
    let mut of_bob = bob.answer(&begun, good.clone());
    of_bob.credential = bob.token.credential().0.to_vec().into();
    refused(&client, of_bob).await;
    assert!(why(&world).ends_with("the key is not one of those that may answer"));

    let alters: [fn(&mut CompleteLoginRequest); 5] = [
        |answer| answer.signature = to_der(&answer.signature).into(),
        |answer| answer.signature = with_high_s(&answer.signature).into(),
        |answer| answer.signature = [&answer.signature[..], &[0]].concat().into(),
        |answer| answer.signature = vec![7; 60_000].into(),
        |answer| answer.session_public_key = MemoryKey::default().public().spki().to_vec().into(),
    ];
    for alter in alters {
        let begun = begin(&client, &alice.account).await.unwrap();
        let mut altered = alice.answer(&begun, good.clone());
        alter(&mut altered);
        refused(&client, altered).await;
        assert!(why(&world).ends_with("the token's signature does not verify"), "{}", why(&world));
    }
    let begun = begin(&client, &alice.account).await.unwrap();
    let mut without_session = alice.answer(&begun, good.clone());
    without_session.session_public_key = b"no key".to_vec().into();
    refused(&client, without_session).await;
    assert!(why(&world).ends_with("the session key is no P-256 key"));

    // Another statement: the challenge of another login, which was begun at the same time.
    let (one, two) =
        (begin(&client, &alice.account).await.unwrap(), begin(&client, &alice.account).await.unwrap());
    let mut crossed = alice.answer(&one, good.clone());
    crossed.login_id = two.login_id.clone();
    refused(&client, crossed).await;
    assert!(why(&world).ends_with("the token's signature does not verify"));

    // None of these burnt the password or counted against the account.
    alice.log_in(&client).await.unwrap();
    assert!(daemon.stop().await.success());
}

fn with_high_s(signature: &[u8]) -> Vec<u8> {
    /// The order of P-256 (FIPS 186-5).
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let (r, s) = signature.split_at(32);
    let (mut high, mut borrow) = (vec![0; 32], 0);
    for at in (0..32).rev() {
        let difference = i16::from(ORDER[at]) - i16::from(s[at]) - borrow;
        borrow = i16::from(difference < 0);
        high[at] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    [r, &high].concat()
}

fn to_der(signature: &[u8]) -> Vec<u8> {
    keyward::keyring::signing::Signature::from_raw(signature).unwrap().to_der()
}

#[tokio::test]
async fn a_password_counts_once_and_too_many_wrong_ones_lock() {
    let (world, daemon, client) = serving().await;
    let mut alice = Staff::new(&client, "alice").await;
    alice.log_in(&client).await.unwrap();
    let begun = begin(&client, &alice.account).await.unwrap();
    refused(&client, alice.answer(&begun, alice.passwords.at(1))).await;
    assert!(why(&world).ends_with("the one-time password was used before"));
    for _ in 0..2 {
        let begun = begin(&client, &alice.account).await.unwrap();
        refused(&client, alice.answer(&begun, alice.passwords.wrong())).await;
        assert!(why(&world).ends_with("the one-time password is wrong"));
    }
    assert_eq!(alice.log_in(&client).await.unwrap_err().reason(), "LOGIN_FAILED");
    assert!(why(&world).ends_with("after wrong one-time passwords the account is paused"));
    // A restart changes nothing of that.
    daemon.kill();
    let daemon = world.start().await;
    let client = daemon.client().await;
    assert_eq!(alice.log_in(&client).await.unwrap_err().reason(), "LOGIN_FAILED");
    assert!(why(&world).ends_with("after wrong one-time passwords the account is paused"));
    let (name, reason) = (alice.account.clone(), "called back".to_owned());
    client.call(client.logins().unlock_account(UnlockAccountRequest { name, reason })).await.unwrap();
    alice.log_in(&client).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_counter_that_ran_away_is_found_by_two_passwords() {
    let (world, daemon, client) = serving().await;
    let mut alice = Staff::new(&client, "alice").await;
    alice.passwords.press_until(4_711);
    assert_eq!(alice.log_in(&client).await.unwrap_err().reason(), "LOGIN_FAILED");
    assert!(why(&world).ends_with("the one-time password is wrong"));
    let resync = |passwords: [String; 2]| {
        world.write_secret("two", &passwords.join("\n"));
        let file = world.path("two").display().to_string();
        world.cli(["account", "otp-confirm", "alice", "--resync", "--password-file", &file])
    };
    let refused = resync([alice.passwords.at(4_713), alice.passwords.at(4_712)]);
    assert!(text(&refused).contains("not the one expected"), "{}", text(&refused));
    let [one, two] = [alice.passwords.take(), alice.passwords.take()];
    let found = resync([one.clone(), two.clone()]);
    assert!(found.status.success(), "{}", text(&found));
    alice.log_in(&client).await.unwrap();
    // Both are used up.
    let again = resync([one, two]);
    assert!(text(&again).contains("not the one expected"), "{}", text(&again));
    // Passwords by time have no counter that runs away.
    world.cli(["account", "otp", "alice", "--out", &world.path("otpauth").display().to_string()]);
    let by_time = resync(["123456".into(), "234567".into()]);
    assert!(text(&by_time).contains("only passwords by counter"), "{}", text(&by_time));
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn clocks_may_differ_a_little_and_never_go_back() {
    let mut world = world();
    let clock = FakeClock::new(&mut world);
    let daemon = world.start().await;
    let client = daemon.client().await;
    let alice = Staff::new(&client, "alice").await;
    // By time, from a seed that the test knows.
    let (totp, seed) = (OtpScheme::new(OtpKind::Totp(30), OtpHash::Sha1, 6).unwrap(), [7; 20]);
    let name = alice.account.clone();
    let request = CreateOtpRequest { name: name.clone(), seed: seed.to_vec().into(), ..Default::default() };
    client.call(client.logins().create_otp(request)).await.unwrap();
    let first = step();
    let password = totp.password(&seed, first);
    let request = ConfirmOtpRequest { name: name.clone(), password, ..Default::default() };
    client.call(client.logins().confirm_otp(request)).await.unwrap();
    for (ahead, outcome) in
        [(4, "the one-time password is wrong"), (1, ""), (1, "was used before"), (0, "was used before")]
    {
        let begun = begin(&client, &name).await.unwrap();
        let answer = alice.answer(&begun, totp.password(&seed, first + ahead));
        match outcome {
            "" => drop(complete(&client, answer).await.unwrap()),
            why_not => {
                refused(&client, answer).await;
                assert!(why(&world).ends_with(why_not), "{ahead}: {}", why(&world));
            }
        }
    }
    // Each from elsewhere, so that there are not too many from one address.
    let begin_again = async || {
        let address = format!("192.0.2.{}", Date::now().millis() % 251);
        begin_from(&client, &name, &address).await.map_err(|error| error.reason().to_owned())
    };
    clock.set("-1h");
    eventually("no logins", async || {
        begin_again().await.is_err_and(|reason| reason == "CLOCK_SUSPECT").then_some(())
    })
    .await;
    clock.set("+0d");
    eventually("logins again", async || begin_again().await.ok()).await;
    assert!(daemon.stop().await.success());
}

/// Whoever opens an old root, or a copy of the store under it, has the login key that it wrapped.
#[tokio::test]
async fn a_login_key_counts_no_longer_than_what_it_signed() {
    let mut world = world();
    let clock = FakeClock::new(&mut world);
    let daemon = world.start().await;
    let client = daemon.client().await;
    let mut alice = Staff::new(&client, "alice").await;
    let before = alice.log_in(&client).await.unwrap().assertion;
    let published = async || {
        let keys = client.call(client.logins().get_jwks(GetJwksRequest {})).await.unwrap().json;
        serde_json::from_str::<Value>(&keys).unwrap()["keys"].as_array().unwrap().len()
    };
    assert_eq!(published().await, 1);
    found(&client, 2, &people(["c1", "c2", "c3"])).await;
    // Traffic goes on over a change of the root.
    assert!(introspect(&client, &before).await.active);
    assert_eq!(published().await, 2);
    clock.set("+11m");
    assert_eq!(published().await, 1);
    assert!(!introspect(&client, &before).await.active);
    let after = alice.log_in(&client).await.unwrap().assertion;
    assert!(introspect(&client, &after).await.active);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_kill_ends_open_logins_and_brings_no_password_back() {
    let (world, daemon, client) = serving().await;
    let mut alice = Staff::new(&client, "alice").await;
    let open = begin(&client, &alice.account).await.unwrap();
    alice.log_in(&client).await.unwrap();
    let used = alice.passwords.at(1);
    daemon.kill();
    let daemon = world.start().await;
    let client = daemon.client().await;
    refused(&client, alice.answer(&open, alice.passwords.at(2))).await;
    assert!(why(&world).ends_with("there is no such login open"));
    let begun = begin(&client, &alice.account).await.unwrap();
    refused(&client, alice.answer(&begun, used)).await;
    assert!(why(&world).ends_with("the one-time password was used before"));
    alice.log_in(&client).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn one_challenge_serves_one_of_two_that_race() {
    let (_world, daemon, client) = serving().await;
    let alice = Staff::new(&client, "alice").await;
    let begun = begin(&client, &alice.account).await.unwrap();
    let answer = alice.answer(&begun, alice.passwords.at(1));
    let (one, two) = tokio::join!(complete(&client, answer.clone()), complete(&client, answer));
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|good| **good).count(), 1, "{one:?} {two:?}");
    // Nor does one password serve two challenges.
    let (first, second) =
        (begin(&client, &alice.account).await.unwrap(), begin(&client, &alice.account).await.unwrap());
    let answers = [first, second].map(|begun| alice.answer(&begun, alice.passwords.at(2)));
    let [first, second] = answers.map(|answer| complete(&client, answer));
    let (one, two) = tokio::join!(first, second);
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|good| **good).count(), 1, "{one:?} {two:?}");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn who_is_not_there_looks_like_who_is() {
    let (world, daemon, client) = serving().await;
    let alice = Staff::new(&client, "alice").await;
    // The same time too, whatever there was to look for: `make bench` measures it.
    let timed = async |name: &str| {
        let asked = Instant::now();
        let begun = begin(&client, name).await.unwrap();
        assert!(asked.elapsed() >= BEGINNING, "{:?}", asked.elapsed());
        begun
    };
    let (known, unknown) = (timed(&alice.account).await, timed("accounts/mallory").await);
    let again = begin(&client, "accounts/mallory").await.unwrap();
    assert_eq!(unknown.credentials, again.credentials);
    let shape = |begun: &keyward::rpc::proto::BeginLoginResponse| {
        let named: Vec<_> = begun.credentials.iter().map(|one| one.len()).collect();
        assert!(begun.credentials.is_sorted());
        (begun.login_id.len(), begun.nonce.len(), begun.origin.clone(), named)
    };
    assert_eq!(shape(&known), shape(&unknown));
    assert_eq!(known.credentials.len(), 4);
    // Refusals too: asking costs nothing, so somebody could ask for a long time.
    for name in [&alice.account, "accounts/mallory"] {
        while begin(&client, name).await.is_ok() {}
        let asked = Instant::now();
        assert_eq!(begin(&client, name).await.unwrap_err().reason(), "LOGIN_LIMIT");
        assert!(asked.elapsed() >= BEGINNING, "{:?}", asked.elapsed());
    }
    let begin = async |client: &Client, name: &str| begin_from(client, name, "192.0.2.8").await;
    // With a second token too.
    enroll(&client, &alice.account, &MemoryKey::default()).await.unwrap();
    assert_eq!(shape(&begin(&client, &alice.account).await.unwrap()), shape(&unknown));
    refused(&client, alice.answer(&unknown, alice.passwords.at(1))).await;
    assert!(why(&world).ends_with("there is no such account"));
    // Suspended and without tokens are the same to see.
    let request =
        UpdateAccountRequest { name: alice.account.clone(), suspended: Some(true), ..Default::default() };
    client.call(client.logins().update_account(request)).await.unwrap();
    let suspended = begin(&client, &alice.account).await.unwrap();
    assert_eq!(shape(&suspended), shape(&unknown));
    refused(&client, alice.answer(&suspended, alice.passwords.at(1))).await;
    assert!(why(&world).ends_with("the account is suspended"));
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_late_answer_and_too_many_wrong_ones_are_refused() {
    let mut world = world();
    world.reconfigure("[login]\n", "[login]\nchallenge_ttl = \"10s\"\n");
    let daemon = world.start().await;
    let client = daemon.client().await;
    let alice = Staff::new(&client, "alice").await;
    let late = begin(&client, &alice.account).await.unwrap();
    let ends = Instant::now() + Duration::from_secs(10);
    for _ in 0..9 {
        let begun = begin(&client, &alice.account).await.unwrap();
        let mut answer = alice.answer(&begun, alice.passwords.at(1));
        answer.signature = vec![7; 64].into();
        refused(&client, answer).await;
    }
    let limited = begin(&client, &alice.account).await.unwrap_err();
    assert_eq!(limited.reason(), "LOGIN_LIMIT");
    assert!(limited.retry_after.is_some_and(|pause| pause <= Duration::from_secs(10)), "{limited:?}");
    // From elsewhere she logs in, as often as she likes.
    for counter in 1..=20 {
        let begun = begin_from(&client, &alice.account, "192.0.2.8").await.unwrap();
        let answer = alice.answer(&begun, alice.passwords.at(counter));
        complete(&client, answer).await.unwrap();
    }
    tokio::time::sleep_until(ends.into()).await;
    refused(&client, alice.answer(&late, alice.passwords.at(21))).await;
    assert!(why(&world).ends_with("the challenge has expired"), "{}", why(&world));
    // The wrong ones, which were begun later, are forgotten soon after it.
    let begun = eventually("a login from there", async || begin(&client, &alice.account).await.ok()).await;
    complete(&client, alice.answer(&begun, alice.passwords.at(21))).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn ten_wrong_passwords_lock_until_somebody_unlocks() {
    let mut world = world();
    let clock = FakeClock::new(&mut world);
    let daemon = world.start().await;
    let client = daemon.client().await;
    let mut alice = Staff::new(&client, "alice").await;
    let attempt = async |alice: &Staff, hour: u32, otp: String| {
        let begun = begin_from(&client, &alice.account, &format!("192.0.2.{hour}")).await.unwrap();
        complete(&client, alice.answer(&begun, otp)).await
    };
    for hour in 1..=10 {
        // After each pause, the longest of which is half an hour.
        clock.set(&format!("+{hour}h"));
        assert_eq!(
            attempt(&alice, hour, alice.passwords.wrong()).await.unwrap_err().reason(),
            "LOGIN_FAILED"
        );
        assert!(why(&world).ends_with("the one-time password is wrong"), "{hour}: {}", why(&world));
    }
    clock.set("+20h");
    assert!(attempt(&alice, 11, alice.passwords.at(1)).await.is_err());
    assert!(why(&world).ends_with("the account is locked"), "{}", why(&world));
    let shown = text(&world.cli(["account", "show", "alice"]));
    assert!(shown.contains("locked"), "{shown}");
    let unlocked = world.cli(["account", "unlock", "alice", "--reason", "called back"]);
    assert!(unlocked.status.success(), "{}", text(&unlocked));
    alice.log_in(&client).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_login_that_cannot_be_signed_uses_no_password_up() {
    let mut world = World::new();
    let mut faults = Faults::under(&mut world);
    world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
    world.reconfigure("[hsm]\n", "[hsm]\nprobe_interval = \"50ms\"\n");
    world.init();
    let mut daemon = world.start().await;
    let client = daemon.client().await;
    let mut alice = Staff::new(&client, "alice").await;
    let before = alice.log_in(&client).await.unwrap();
    let begun = begin(&client, &alice.account).await.unwrap();
    let answer = alice.answer(&begun, alice.passwords.at(2));
    let outage = faults.keep("*", "answer 0xe0");
    daemon.wait_for(|status| status.serving() == Serving::Degraded).await.expect("degraded");
    let error = complete(&client, answer.clone()).await.unwrap_err();
    assert_eq!((error.code, error.reason()), (Code::Unavailable, "HSM_UNAVAILABLE"), "{error}");
    // What was signed before counts without the HSM.
    assert!(introspect(&client, &before.assertion).await.active);
    faults.disarm(&outage);
    daemon.wait_for(|status| status.serving() == Serving::Ready).await.expect("ready");
    refused(&client, answer).await;
    assert!(why(&world).ends_with("there is no such login open"), "one try is one try");
    alice.log_in(&client).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_revoked_token_ends_what_it_began() {
    let (world, daemon, client) = serving().await;
    let mut alice = Staff::new(&client, "alice").await;
    let logged_in = alice.log_in(&client).await.unwrap();
    let begun = begin(&client, &alice.account).await.unwrap();
    let request = RevokeCredentialRequest {
        name: alice.account.clone(),
        credential: alice.token.credential().0.to_vec().into(),
        reason: "lost".into(),
    };
    client.call(client.logins().revoke_credential(request)).await.unwrap();
    assert!(!introspect(&client, &logged_in.assertion).await.active);
    let otp = alice.passwords.take();
    refused(&client, alice.answer(&begun, otp)).await;
    assert!(why(&world).ends_with("the key is not active any more"));
    // What was on record once is not put there again, for nobody.
    let error = enroll(&client, &alice.account, &alice.token).await.unwrap_err();
    assert_eq!(error.reason(), "ENROLMENT_REFUSED", "{error}");
    let new = MemoryKey::default();
    enroll(&client, &alice.account, &new).await.unwrap();
    alice.token = new;
    alice.log_in(&client).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_ticket_is_for_one_token_that_signs() {
    let (_world, daemon, client) = serving().await;
    let alice = Staff::new(&client, "alice").await;
    let open = async || {
        let request = OpenEnrolmentRequest { name: alice.account.clone(), ..Default::default() };
        client.call(client.logins().open_enrolment(request)).await.unwrap()
    };
    let submit = async |request| client.call(client.logins().submit_enrolment(request)).await;
    let reason = |error: Error| error.reason().to_owned();
    let (ticket, key) = (open().await, MemoryKey::default());
    let mut altered = submission(&ticket, &key);
    altered.token = "another".into();
    assert_eq!(reason(submit(altered).await.unwrap_err()), "ENROLMENT_REFUSED");
    let mut swapped = submission(&ticket, &key);
    swapped.public_key = MemoryKey::default().public().spki().to_vec().into();
    assert_eq!(reason(submit(swapped).await.unwrap_err()), "ENROLMENT_REFUSED");
    let enrolled = submit(submission(&ticket, &key)).await.unwrap();
    assert_eq!(enrolled.state, "pending");
    assert_eq!(
        reason(submit(submission(&ticket, &MemoryKey::default())).await.unwrap_err()),
        "ENROLMENT_REFUSED"
    );
    // Nobody logs in with what nobody has approved.
    let begun = begin(&client, &alice.account).await.unwrap();
    assert!(begun.credentials.iter().all(|named| *named != enrolled.id));
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn ten_thousand_begins_do_not_fill_the_memory() {
    let (world, daemon, client) = serving().await;
    let mut alice = Staff::new(&client, "alice").await;
    let first = begin_from(&client, &alice.account, "203.0.113.1").await.unwrap();
    let mut begins = tokio::task::JoinSet::new();
    for number in 0..10_000 {
        if begins.len() >= 256 {
            begins.join_next().await.unwrap().unwrap();
        }
        let client = client.clone();
        begins.spawn(async move {
            let address = format!("203.0.113.{}", number % 200);
            begin_from(&client, &format!("accounts/a{number}"), &address).await.unwrap()
        });
    }
    begins.join_all().await;
    // The application's share is used up: what was begun first there has given way, and everything else goes on.
    refused(&client, alice.answer(&first, alice.passwords.at(1))).await;
    assert!(why(&world).ends_with("there is no such login open"), "{}", why(&world));
    alice.log_in(&client).await.unwrap();
    assert!(daemon.stop().await.success());
}

/// What a logout leaves behind is forgotten a day after the assertion would have ended.
#[tokio::test]
async fn logouts_leave_nothing_behind_for_ever() {
    let mut world = world();
    let clock = FakeClock::new(&mut world);
    let rows = || {
        let checked = world.cli(["store", "check", "--json", "--config", &world.config_file()]);
        let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
        checked["records"].as_u64().unwrap_or_else(|| panic!("{checked}"))
    };
    let daemon = world.start().await;
    let client = daemon.client().await;
    let mut alice = Staff::new(&client, "alice").await;
    let mut log_out = async |times: u64| {
        for _ in 0..times {
            let assertion = alice.log_in(&client).await.unwrap().assertion;
            client.call(client.logins().end_assertion(EndAssertionRequest { assertion })).await.unwrap();
        }
        rows()
    };
    let before = log_out(20).await;
    clock.set("+25h");
    let after = log_out(60).await;
    assert!(after < before + 60, "{before} and {after}");
    assert!(daemon.stop().await.success());
}

/// The commands of an operator and a staff member, with a token of SoftHSM.
struct Desk<'a>(&'a World);

impl Desk<'_> {
    fn path(&self, name: &str) -> String {
        self.0.path(name).display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.0.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command that uses the token.
    fn with_token(&self, arguments: &[&str]) -> Vec<String> {
        let (module, pin) = (softhsm_module(), self.path("pin"));
        let token = ["--module", &module, "--token", "alice", "--pin-file", &pin];
        [arguments, &token].concat().into_iter().map(str::to_owned).collect()
    }

    fn run_with_token(&self, arguments: &[&str]) -> String {
        let arguments = self.with_token(arguments);
        self.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// An account with a one-time password by time; answers that, and the step that is used up.
    fn account(&self) -> (OtpScheme, Vec<u8>, u64) {
        self.run(&["account", "create", "alice", "--display-name", "Alice Adams"]);
        self.run(&["account", "otp", "alice", "--out", &self.path("otpauth")]);
        let (totp, seed) = authenticator(&std::fs::read_to_string(self.path("otpauth")).unwrap());
        let first = step();
        self.0.write_secret("first", &totp.password(&seed, first));
        self.run(&["account", "otp-confirm", "alice", "--password-file", &self.path("first")]);
        (totp, seed, first)
    }

    /// Puts the token on record; answers its credential.
    fn enroll(&self) -> String {
        let (ticket, enrolment) = (self.path("ticket"), self.path("enrolment"));
        self.run_with_token(&["token", "generate", "--name", "alice", "--login"]);
        self.run(&["account", "enroll", "alice", "--out", &ticket]);
        let enroll =
            ["token", "enroll", "--ticket", &ticket, "--name", "blue", "--out", &enrolment, "--json"];
        let enrolled: Value = serde_json::from_str(&self.run_with_token(&enroll)).unwrap();
        self.run(&["account", "submit", &enrolment]);
        let credential = enrolled["credential"].as_str().unwrap();
        self.run(&["account", "approve", "alice", &credential[..12]]);
        let shown: Value = serde_json::from_str(&self.run(&["account", "show", "alice", "--json"])).unwrap();
        assert_eq!(shown["tokens"][0]["state"], "active", "{shown}");
        credential.to_owned()
    }
}

fn step() -> u64 {
    Date::now().millis() / 30_000
}

/// The way of a new staff member, as docs/login.md has it.
#[tokio::test]
async fn a_staff_member_enrolls_and_logs_in_with_a_real_token() {
    let (world, daemon, client) = serving().await;
    world.make_token("alice");
    let desk = Desk(&world);
    let (totp, seed, first) = desk.account();
    let credential = desk.enroll();
    let begun = begin(&client, "accounts/alice").await.unwrap();
    let session = MemoryKey::default().public();
    let params = challenge(&begun, &session);
    let mut foreign = params.clone();
    foreign["origin"] = json!("https://evil.example");
    let requests = [
        json!({"id": 1, "method": "list"}),
        json!({"id": 2, "method": "login", "params": foreign}),
        json!({"id": 3, "method": "login", "params": params}),
        json!({"id": 4, "method": "guess"}),
    ];
    let arguments = desk.with_token(&["token", "agent", "--origin", ORIGIN]);
    let mut agent = Agent::start(world.command("keyward").args(arguments));
    let answers = requests.map(|request| agent.ask(&request));
    // A line that is no text is answered, and not the end.
    assert_eq!(agent.send(b"{\"id\":5,\xff}\n")["error"]["reason"], "REQUEST");
    assert_eq!(agent.ask(&json!({"id": 6, "method": "list"}))["id"], 6);
    agent.end();
    assert_eq!(answers[0]["result"]["tokens"][0]["label"], "alice");
    assert_eq!(answers[1]["error"]["reason"], "TOKEN_REFUSED", "{}", answers[1]);
    assert_eq!(answers[3]["error"]["reason"], "REQUEST");
    let signed = &answers[2]["result"];
    assert_eq!(signed["credential"], credential, "{}", answers[2]);
    let bytes = |value: &Value| data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let answer = CompleteLoginRequest {
        login_id: begun.login_id.clone(),
        // The step of the first password is used up, and the one after it counts already.
        otp: totp.password(&seed, first.max(step() - 1) + 1),
        credential: bytes(&signed["credential"]).into(),
        session_public_key: session.spki().to_vec().into(),
        signature: bytes(&signed["signature"]).into(),
    };
    let completed = complete(&client, answer).await.unwrap();
    let claims = verify_as_others_do(&client, &completed.assertion).await;
    assert_eq!(
        (claims["sub"].as_str(), claims["credential"].as_str()),
        (Some("accounts/alice"), Some(&*credential))
    );
    assert!(daemon.stop().await.success());
}

/// What an authenticator program makes of a URI.
fn authenticator(uri: &str) -> (OtpScheme, Vec<u8>) {
    assert!(uri.starts_with("otpauth://totp/Keyward:alice?"), "{uri}");
    let seed = uri.split_once("secret=").unwrap().1.split('&').next().unwrap();
    let seed = data_encoding::BASE32_NOPAD.decode(seed.as_bytes()).unwrap();
    (OtpScheme::new(OtpKind::Totp(30), OtpHash::Sha1, 6).unwrap(), seed)
}
