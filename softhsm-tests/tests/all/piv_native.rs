//! `keyward token … --piv`: PIV cards through PC/SC, without a vendor's library.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Output, Stdio};

use keyward::rpc::proto::CreateAccountRequest;
use keyward_softhsm_tests::piv::{Card, FACTORY_PIN, FACTORY_PUK, PIN, PUK, Readers};
use keyward_softhsm_tests::staff::{
    Agent, MemoryKey, ORIGIN, begin, complete, enroll_by_hand, one_time_passwords,
};
use keyward_softhsm_tests::{World, eventually_now, text};
use serde_json::{Value, json};

const SERIAL: &str = "10000001";
const NEW_PIN: &str = "73946182";

/// Readers, and the command line in front of them.
struct Bed {
    world: World,
    readers: Readers,
}

impl Bed {
    fn new() -> Self {
        let mut world = World::new();
        let readers = Readers::start(&mut world);
        world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
        for (name, secret) in [
            ("card-pin", PIN),
            ("puk", PUK),
            ("factory-PIN", FACTORY_PIN),
            ("factory-PUK", FACTORY_PUK),
            ("wrong", "654321"),
            ("new", NEW_PIN),
            ("short", "12345"),
        ] {
            world.write_secret(name, secret);
        }
        Self { world, readers }
    }

    fn insert(&self) -> Card {
        self.readers.insert(0, "alice", SERIAL.parse().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.world.path(name).display().to_string()
    }

    /// A `keyward token` command with the card, its PIN from a file.
    fn token(&self, pin: &str, arguments: &[&str]) -> Output {
        let pin = self.path(pin);
        self.world.cli([&["token"], arguments, &["--piv", "--pin-file", &pin]].concat())
    }

    fn plain(&self, arguments: &[&str]) -> Output {
        self.world.cli([&["token"], arguments, &["--piv"]].concat())
    }

    /// A ticket of no daemon: what a card signs of it is looked at by nobody.
    fn ticket(&self) -> String {
        let ticket = json!({
            "format": "keyward-ticket/1", "ticket": "00".repeat(16), "deployment": "11".repeat(16),
            "account": "accounts/alice", "nonce": "22".repeat(32), "expires": 4_102_444_800_000_u64,
        });
        std::fs::write(self.path("ticket"), ticket.to_string()).unwrap();
        self.path("ticket")
    }

    fn list(&self) -> Value {
        let listed = ok(&self.plain(&["list", "--json"]));
        serde_json::from_str::<Value>(&listed).unwrap()["tokens"].clone()
    }

    /// Makes the key of slot 9a.
    fn make_login_key(&self, more: &[&str]) -> Output {
        let make = ["generate", "--name", "alice", "--login", "--factory-management-key", "--json"];
        self.token("card-pin", &[&make[..], more].concat())
    }
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output, reason: &str) {
    assert!(!output.status.success() && text(output).contains(reason), "{reason}: {}", text(output));
}

#[test]
fn a_new_card_shows_what_it_has() {
    let bed = Bed::new();
    assert_eq!(bed.list(), json!([]));
    let _card = bed.readers.insert_new(0, "alice", SERIAL.parse().unwrap(), &[]);
    let listed = bed.list();
    let token = &listed[0];
    assert_eq!(
        (&token["serial"], &token["pin"], &token["pin_tries"]),
        (&json!(SERIAL), &json!("ok"), &json!(3))
    );
    assert_eq!(token["factory_secrets"], json!(["pin", "puk", "management-key"]));
    assert_eq!(token["keys"], json!([]));
    // What everybody knows protects nothing; it is not even asked for.
    for (secret, command) in [("PIN", "change-pin"), ("PUK", "change-puk")] {
        let made = bed.make_login_key(&["--touch", "never"]);
        refused(&made, &format!("the {secret} that it left the factory with"));
        refused(&made, "TOKEN_FACTORY_SECRET");
        let old = bed.path(&format!("factory-{secret}"));
        let (option, new) = match secret {
            "PIN" => ("--pin-file", bed.path("card-pin")),
            _ => ("--puk-file", bed.path("puk")),
        };
        ok(&bed.plain(&[command, option, &old, "--new-file", &new]));
    }
    assert_eq!(bed.list()[0]["factory_secrets"], json!(["management-key"]));
    refused(&bed.token("card-pin", &["generate", "--name", "alice", "--login"]), "--factory-management-key");
    ok(&bed.make_login_key(&["--touch", "never"]));
    refused(&bed.make_login_key(&["--touch", "never"]), "has the login key of alice already");
    let key = &bed.list()[0]["keys"][0];
    assert_eq!(
        (&key["id"], &key["label"], &key["type"]),
        (&json!("9a"), &json!("keyward login alice"), &json!("p256"))
    );
    assert_eq!((&key["touch_policy"], &key["pin_policy"]), (&json!("never"), &json!("once")));
    assert!(key["certificate"].is_string(), "other programs see it too");
    // Another key in its place only when that is said.
    let other = ["generate", "--name", "bob", "--login", "--factory-management-key", "--touch", "never"];
    refused(&bed.token("card-pin", &other), "--replace");
    ok(&bed.token("card-pin", &[&other[..], &["--replace"]].concat()));
    assert_ne!(bed.list()[0]["keys"][0]["credential"], key["credential"]);
    bed.world.write_secret("mgm", &"00".repeat(24));
    let wrong =
        ["generate", "--name", "carol", "--replace", "--login", "--management-key-file", &bed.path("mgm")];
    refused(&bed.token("card-pin", &wrong), "management key");
}

#[tokio::test]
async fn a_card_is_enrolled_and_logs_in_with_each_kind_of_key() {
    let mut bed = Bed::new();
    let _card = bed.insert();
    // The maker of this card is the test.
    let root = bed.readers.authority().join("root.pem");
    let accepted =
        format!("[login]\nattestation_roots = [\"{}\"]\nminimum_firmware = \"5.2.0\"\n", root.display());
    bed.world.reconfigure("[login]\n", &accepted);
    bed.world.init();
    let daemon = bed.world.start().await;
    let client = daemon.client().await;
    for (name, made, algorithm, padding) in [
        ("p256", "ecdsa-p256-sha256", "ecdsa-p256-sha256", "pss"),
        ("p384", "ecdsa-p384-sha384", "ecdsa-p384-sha384", "pss"),
        ("rsa", "rsa-pss-sha256", "rsa-pss-sha256", "pss"),
        ("rsa-old", "rsa-pss-sha256", "rsa-pkcs1-sha256", "pkcs1"),
    ] {
        ok(&bed.make_login_key(&["--touch", "never", "--replace", "--algorithm", made]));
        let account = format!("accounts/{name}");
        let request = CreateAccountRequest { name: account.clone(), ..Default::default() };
        client.call(client.logins().create_account(request)).await.unwrap();
        let mut passwords = one_time_passwords(&client, &account).await;
        let pin = bed.path("card-pin");
        let credential =
            enroll_by_hand(&bed.world, name, &["--piv", "--pin-file", &pin, "--rsa-padding", padding]);
        let approved = ok(&bed.world.cli(["account", "show", name, "--json"]));
        assert!(approved.contains("\"piv\"") && approved.contains(algorithm), "{approved}");

        let arguments =
            ["token", "agent", "--origin", ORIGIN, "--piv", "--pin-file", &pin, "--rsa-padding", padding];
        let mut agent = Agent::start(bed.world.command("keyward").args(arguments));
        for number in 0..8 {
            let begun = begin(&client, &account).await.unwrap();
            let answer = agent.sign(&begun, passwords.take());
            assert_eq!(data_encoding::HEXLOWER.encode(&answer.credential), credential);
            complete(&client, answer).await.unwrap_or_else(|error| panic!("{name} {number}: {error}"));
        }
        agent.end();
    }
    assert!(daemon.stop().await.success());
}

const CARD: [&str; 5] = ["card", "--name", "alice", "--deployment", "00112233445566778899aabbccddeeff"];

/// A custodian's keys: slot 9c signs, slot 9d agrees on secrets, which is tried when it is made.
#[test]
fn a_custodian_has_a_card() {
    let bed = Bed::new();
    let _card = bed.insert();
    let make = [
        "generate",
        "--name",
        "alice",
        "--factory-management-key",
        "--touch",
        "never",
        "--pin-policy",
        "always",
    ];
    ok(&bed.token("card-pin", &make));
    let keys = bed.list()[0]["keys"].clone();
    let ids: Vec<_> = keys.as_array().unwrap().iter().map(|key| key["id"].clone()).collect();
    assert_eq!(ids, ["9c", "9d"]);
    let card = ok(&bed.token("card-pin", &CARD));
    assert!(card.contains("BEGIN KEYWARD CUSTODIAN CARD"), "{card}");
}

#[test]
fn a_wrong_pin_says_how_many_tries_are_left_and_stops_before_the_last() {
    let bed = Bed::new();
    let _card = bed.insert();
    ok(&bed.make_login_key(&["--touch", "never"]));
    let sign = |pin: &str, more: &[&str]| {
        bed.token(pin, &[&CARD[..], &["--key", "id:9a", "--agreement-key", "id:9a"], more].concat())
    };
    // Nothing that a card would only count.
    refused(&sign("short", &[]), "takes no PIN of this form");
    assert_eq!(bed.list()[0]["pin_tries"], 3);
    refused(&sign("wrong", &[]), "2 tries are left");
    refused(&sign("wrong", &[]), "one try is left");
    // Not even the right one is tried by accident.
    refused(&sign("card-pin", &[]), "--last-try");
    assert_eq!((&bed.list()[0]["pin"], &bed.list()[0]["pin_tries"]), (&json!("last-try"), &json!(1)));
    refused(&sign("wrong", &["--last-try"]), "locked");
    assert_eq!(bed.list()[0]["pin"], "locked");
    refused(&sign("card-pin", &["--last-try"]), "locked");

    let (puk, wrong, new) = (bed.path("puk"), bed.path("wrong"), bed.path("new"));
    let unblock = |puk: &str| bed.plain(&["unblock", "--puk-file", puk, "--new-file", &new]);
    refused(&unblock(&wrong), "PUK is wrong: 2 tries are left");
    ok(&unblock(&puk));
    assert_eq!(bed.list()[0]["pin"], "ok");
    refused(&bed.token("card-pin", &["change-pin", "--new-file", &new]), "PIN is wrong");
    ok(&bed.token("new", &["change-pin", "--new-file", &bed.path("card-pin")]));
    bed.world.write_secret("new-puk", "87654321");
    ok(&bed.plain(&["change-puk", "--puk-file", &puk, "--new-file", &bed.path("new-puk")]));
    let known = bed.path("factory-PIN");
    refused(
        &bed.plain(&["unblock", "--puk-file", &bed.path("new-puk"), "--new-file", &known]),
        "leave the factory",
    );
    refused(&bed.token("card-pin", &["change-pin", "--new-file", &bed.path("card-pin")]), "is the old one");
    // Down to the last try, which is nobody's by accident.
    refused(&unblock(&puk), "PUK is wrong: 2 tries are left");
    refused(&unblock(&wrong), "one try is left");
    refused(&unblock(&wrong), "was not presented: one try is left");
    let change = ["change-puk", "--puk-file", &wrong, "--new-file", &puk];
    refused(&bed.plain(&change), "was not presented: one try is left");
    ok(&bed.plain(&[
        "unblock",
        "--puk-file",
        &bed.path("new-puk"),
        "--new-file",
        &bed.path("card-pin"),
        "--last-try",
    ]));
    assert_eq!(bed.list()[0]["pin"], "ok");
    let listed = bed.list();
    assert_eq!(listed[0]["factory_secrets"], json!(["management-key"]));
}

#[test]
fn a_key_that_wants_a_touch_waits_for_it() {
    let bed = Bed::new();
    let card = bed.insert();
    ok(&bed.make_login_key(&["--touch", "always"]));
    let enroll = |ticket: &str| {
        let out = bed.path("out");
        bed.token("card-pin", &["enroll", "--ticket", ticket, "--name", "card", "--out", &out, "--force"])
    };
    let ticket = bed.ticket();
    let untouched = enroll(&ticket);
    assert!(text(&untouched).contains("touch the token when it blinks"), "{}", text(&untouched));
    refused(&untouched, "was not touched in time");
    card.touch(true);
    ok(&enroll(&ticket));
}

#[test]
fn a_card_is_waited_for_and_one_of_several_is_named() {
    let bed = Bed::new();
    let listing = bed
        .world
        .command("keyward")
        .args(["token", "list", "--piv", "--wait", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It says so when it waits; a card that comes before is listed too.
    let _card = bed.insert();
    let listed = listing.wait_with_output().unwrap();
    assert!(ok(&listed).contains(SERIAL), "{}", text(&listed));
    let _other = bed.readers.insert(1, "bob", 10_000_002);
    refused(&bed.token("card-pin", &CARD), "several tokens fit");
    let named = [&CARD[..], &["--token", "serial:10000002"]].concat();
    refused(&bed.token("card-pin", &named), "no key that signs");
    refused(&bed.token("card-pin", &[&CARD[..], &["--token", "serial:7"]].concat()), "no token with");
}

/// Whoever waits for a card is not kept waiting, and is told what happened.
#[test]
fn a_card_that_misbehaves_or_is_pulled_out_is_survived() {
    let bed = Bed::new();
    let card = bed.insert();
    ok(&bed.make_login_key(&["--touch", "never"]));
    let sign = || bed.token("card-pin", &[&CARD[..], &["--key", "id:9a", "--timeout", "5s"]].concat());
    for trouble in ["short-version", "garbage", "endless", "silent"] {
        card.trouble(trouble);
        let output = sign();
        assert!(matches!(output.status.code(), Some(1..=8)), "{trouble}: {}", text(&output));
        assert!(text(&output).contains("error:"), "{trouble}: {}", text(&output));
        card.well();
    }
}

/// What a page asks the agent: a login of no daemon, good for so many milliseconds.
fn login(lasts: u64, credentials: Value) -> Value {
    let session = data_encoding::HEXLOWER.encode(MemoryKey::default().public().spki());
    json!({ "id": 1, "method": "login", "params": {
        "deployment": "11".repeat(16), "origin": ORIGIN, "account": "accounts/alice", "login_id": "22".repeat(16),
        "nonce": "33".repeat(32), "issued": 1_000, "expires": 1_000 + lasts, "credentials": credentials,
        "session_public_key": session,
    } })
}

/// Nobody is asked for a PIN for a page that is not there any more.
#[test]
fn an_agent_waits_no_longer_than_the_login() {
    let bed = Bed::new();
    let pin = bed.path("card-pin");
    let wait = ["token", "agent", "--origin", ORIGIN, "--piv", "--pin-file", &pin, "--wait"];
    let mut agent = Agent::start(bed.world.command("keyward").args(wait));
    let mut ask = |lasts| agent.ask(&login(lasts, json!([])))["error"]["reason"].clone();
    assert_eq!(ask(1_000), "LOGIN_OVER");
    let _card = bed.insert();
    ok(&bed.make_login_key(&["--touch", "never"]));
    // It goes on: this is not a token that may answer.
    assert_eq!(ask(60_000), "TOKEN_REFUSED");
    agent.end();
}

/// The challenge says which keys may answer: nobody has to say which of two cards has one.
#[test]
fn an_agent_finds_the_card_that_may_answer() {
    let bed = Bed::new();
    let cards = [bed.readers.insert(0, "alice", 10_000_001), bed.readers.insert(1, "bob", 10_000_002)];
    let make = |serial: &str| {
        let make = ["generate", "--name", "x", "--login", "--factory-management-key", "--touch", "never"];
        let made = ok(&bed.token("card-pin", &[&make[..], &["--token", serial, "--json"]].concat()));
        serde_json::from_str::<Value>(&made).unwrap()["keys"][0]["credential"].clone()
    };
    let credentials = [make("serial:10000001"), make("serial:10000002")];
    let pin = bed.path("card-pin");
    let agent = ["token", "agent", "--origin", ORIGIN, "--piv", "--pin-file", &pin];
    let mut agent = Agent::start(bed.world.command("keyward").args(agent));
    let mut ask = |credentials| agent.ask(&login(60_000, credentials));
    for credential in &credentials {
        assert_eq!(ask(json!(["44".repeat(32), credential]))["result"]["credential"], *credential);
    }
    let several = ask(json!(["44".repeat(32)]));
    assert!(several.to_string().contains("several tokens fit"), "{several}");
    // Whoever asks does not choose a key that is for something else.
    let make = ["generate", "--name", "x", "--factory-management-key", "--touch", "never", "--token"];
    let made = ok(&bed.token("card-pin", &[&make[..], &["serial:10000001", "--json"]].concat()));
    let custodian = serde_json::from_str::<Value>(&made).unwrap()["keys"].clone();
    let signing = custodian.as_array().unwrap().iter().find(|key| key["id"] == "9c").unwrap();
    let refused = ask(json!([signing["credential"]]));
    assert!(refused["error"].is_object(), "{refused}");
    // A card that talks nonsense keeps no other from being found.
    cards[0].trouble("garbage");
    assert_eq!(ask(json!([credentials[1]]))["result"]["credential"], credentials[1]);
    agent.end();
}

/// Another program that uses the card makes it forget that its PIN was proved.
#[test]
fn a_card_that_forgets_its_pin_is_asked_once_more() {
    let bed = Bed::new();
    let card = bed.insert();
    ok(&bed.make_login_key(&["--touch", "never"]));
    let out = bed.path("out");
    let enroll = || {
        let ticket = bed.ticket();
        bed.token("card-pin", &["enroll", "--ticket", &ticket, "--name", "card", "--out", &out, "--force"])
    };
    card.trouble("forgetful-once");
    ok(&enroll());
    card.trouble("forgetful");
    refused(&enroll(), "another program uses it at the same time");
    card.well();
    assert_eq!(bed.list()[0]["pin_tries"], 3, "it was the right one each time");
    // A key that wants a touch is not said to have waited for one.
    ok(&bed.make_login_key(&["--touch", "always", "--replace"]));
    card.touch(true);
    card.trouble("forgetful-once");
    ok(&enroll());
}

/// A signature waits for a touch: the PIN was right, and the card has what it is to sign.
#[test]
fn a_card_that_is_pulled_out_while_it_signs_says_so() {
    let bed = Bed::new();
    let card = bed.readers.insert_with(0, "alice", 10_000_001, &["--patience", "60000"]);
    ok(&bed.make_login_key(&["--touch", "always"]));
    let (ticket, pin, out) = (bed.ticket(), bed.path("card-pin"), bed.path("out"));
    let signing = bed
        .world
        .command("keyward")
        .args(["token", "enroll", "--ticket", &ticket, "--name", "card", "--out", &out])
        .args(["--piv", "--pin-file", &pin, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    card.blinks();
    card.remove();
    let ended = signing.wait_with_output().unwrap();
    refused(&ended, "TOKEN_LOST");
    assert!(!Path::new(&out).exists());
    bed.readers.wait_for(0, false);
    eventually_now("no card", || (bed.list() == json!([])).then_some(()));
}

/// scdaemon of GnuPG holds a card for itself as long as it runs.
#[test]
fn a_card_that_another_program_holds_keeps_no_other_from_working() {
    let bed = Bed::new();
    let _held = bed.insert();
    let mut scdaemon = bed
        .readers
        .command("/usr/lib/gnupg/scdaemon")
        .args(["--server", "--disable-ccid"])
        .env("GNUPGHOME", bed.world.path("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut orders = scdaemon.stdin.take().unwrap();
    orders.write_all(b"SERIALNO undefined\n").unwrap();
    let mut said = BufReader::new(scdaemon.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().starts_with("S SERIALNO")), "it has the card");
    refused(&bed.plain(&["list"]), "another program has the card for itself");
    let _other = bed.readers.insert(1, "bob", 10_000_002);
    let other = ["generate", "--name", "bob", "--login", "--factory-management-key", "--touch", "never"];
    ok(&bed.token("card-pin", &[&other[..], &["--token", "serial:10000002"]].concat()));
    drop(orders);
    scdaemon.wait().unwrap();
    assert_eq!(bed.list().as_array().unwrap().len(), 2);
}

#[test]
fn without_its_program_piv_says_what_is_missing() {
    let bed = Bed::new();
    // A copy of the command line alone, as a package without the other program installs it.
    let alone = bed.world.path("alone");
    std::fs::create_dir(&alone).unwrap();
    keyward_softhsm_tests::copy_program(&keyward_softhsm_tests::binary("keyward"), &alone.join("keyward"));
    let output = std::process::Command::new(alone.join("keyward")).args(["token", "list", "--piv"]).output();
    refused(&output.unwrap(), "keyward-piv");
}
