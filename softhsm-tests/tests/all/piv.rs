//! `keyward token` with PIV cards, through PC/SC and OpenSC's PKCS#11 library.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output};

use keyward::rpc::proto::ceremony::State;
use keyward::rpc::proto::{CreateAccountRequest, GetCeremonyRequest};
use keyward_softhsm_tests::custodians::Person;
use keyward_softhsm_tests::modules::installed;
use keyward_softhsm_tests::piv::{PIN, Readers};
use keyward_softhsm_tests::staff::{Agent, ORIGIN, begin, complete, enroll_by_hand, one_time_passwords};
use keyward_softhsm_tests::{World, custodians, text};
use serde_json::Value;

/// How often one card logs in.
const LOGINS: u64 = 200;

/// Cards, their readers, and the command line.
struct Bed {
    world: World,
    readers: Readers,
}

impl Bed {
    fn new() -> Self {
        let mut world = World::new();
        let readers = Readers::start(&mut world);
        world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
        world.write_secret("card-pin", PIN);
        world.write_secret("wrong-pin", "654321");
        Self { world, readers }
    }

    fn path(&self, name: &str) -> String {
        self.world.path(name).display().to_string()
    }

    /// Makes a key in a slot of the card, with a certificate, without which OpenSC shows no key.
    fn generate(&self, slot: &str) {
        let (public, certificate, issuer) =
            (self.path("public"), self.path("certificate"), self.path("issuer"));
        let piv = |arguments: &[&str]| {
            run(self.readers.command("yubico-piv-tool").args(["--slot", slot]).args(arguments));
        };
        piv(&["--action", "generate", "--algorithm", "ECCP256", "--output", &public]);
        let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &issuer];
        run(Command::new("openssl").args(curve));
        let certify = ["x509", "-new", "-force_pubkey", &public, "-key", &issuer, "-subj", "/CN=card"];
        run(Command::new("openssl").args(certify).args(["-days", "30", "-out", &certificate]));
        piv(&["--action", "import-certificate", "--input", &certificate]);
    }

    /// A command that uses the card; its key to sign is that of slot 9a.
    fn with_card(&self, pin: &str, arguments: &[&str]) -> Vec<String> {
        let (library, pin) = (library().display().to_string(), self.path(pin));
        let card = ["--module", &library, "--key", "id:01", "--pin-file", &pin];
        [arguments, &card].concat().into_iter().map(str::to_owned).collect()
    }

    fn run(&self, arguments: impl IntoIterator<Item = String>) -> Output {
        self.world.cli(arguments.into_iter().collect::<Vec<_>>())
    }

    fn keyward(&self, arguments: &[&str]) -> String {
        ok(&self.world.cli(arguments))
    }
}

fn library() -> PathBuf {
    installed("opensc-pkcs11.so")
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}

/// Every one of them: a card gives the higher s half of the time, and only the lower is accepted.
#[tokio::test]
async fn one_card_logs_in_two_hundred_times() {
    let bed = Bed::new();
    let _card = bed.readers.insert(0, "alice", 10_000_001);
    bed.generate("9a");
    bed.world.init();
    let daemon = bed.world.start().await;
    let client = daemon.client().await;
    let account = "accounts/alice";
    let request = CreateAccountRequest { name: account.into(), ..Default::default() };
    client.call(client.logins().create_account(request)).await.unwrap();
    let mut passwords = one_time_passwords(&client, account).await;
    let card = bed.with_card("card-pin", &[]);
    let credential =
        enroll_by_hand(&bed.world, "alice", &card.iter().map(String::as_str).collect::<Vec<_>>());
    let arguments = bed.with_card("card-pin", &["token", "agent", "--origin", ORIGIN]);
    let mut agent = Agent::start(bed.world.command("keyward").args(arguments));
    for number in 0..LOGINS {
        let begun = begin(&client, account).await.unwrap();
        let answer = agent.sign(&begun, passwords.take());
        assert_eq!(data_encoding::HEXLOWER.encode(&answer.credential), credential);
        complete(&client, answer).await.unwrap_or_else(|error| panic!("login {number}: {error}"));
    }
    agent.end();
    assert!(daemon.stop().await.success());
}

#[test]
fn what_goes_wrong_with_a_card_is_said() {
    let bed = Bed::new();
    let sign = |pin: &str, more: &[&str]| {
        let arguments =
            ["token", "card", "--name", "alice", "--deployment", "00112233445566778899aabbccddeeff"];
        bed.run(bed.with_card(pin, &[&arguments[..], &["--agreement-key", "id:03"], more].concat()))
    };
    let missing = sign("card-pin", &[]);
    assert!(text(&missing).contains("no token is plugged in"), "{}", text(&missing));
    let card = bed.readers.insert(0, "alice", 10_000_001);
    let empty = sign("card-pin", &[]);
    assert!(text(&empty).contains("no key that signs"), "{}", text(&empty));
    bed.generate("9a");
    bed.generate("9d");
    let wrong = sign("wrong-pin", &[]);
    assert_eq!(wrong.status.code(), Some(3), "{}", text(&wrong));
    assert!(text(&wrong).contains("PIN"), "{}", text(&wrong));
    ok(&sign("card-pin", &[]));
    // A card that has stopped answering: whoever waits for it is not kept waiting.
    card.trouble("silent");
    let silent = sign("card-pin", &["--timeout", "2s"]);
    assert!(text(&silent).contains("did not answer within 2s"), "{}", text(&silent));
    card.well();
    card.remove();
    bed.readers.wait_for(0, false);
    assert!(text(&sign("card-pin", &[])).contains("no token is plugged in"));
}

/// A custodian may have a PIV card: slot 9a signs, slot 9d opens shares.
#[tokio::test]
async fn a_custodian_with_a_card_founds_the_root() {
    let bed = Bed::new();
    let _card = bed.readers.insert(0, "alice", 10_000_001);
    bed.generate("9a");
    bed.generate("9d");
    bed.world.init();
    let daemon = bed.world.start().await;
    let client = daemon.client().await;
    let (alice, bob) = (bed.path("alice.card"), Person::new("bob"));
    let make = ["token", "card", "--name", "alice", "--agreement-key", "id:03", "--out", &alice];
    ok(&bed.run(bed.with_card("card-pin", &make)));
    let here = custodians::deployment(&client).await;
    std::fs::write(bed.path("bob.card"), bob.card(here)).unwrap();
    let proposed = bed.keyward(&[
        "ceremony",
        "propose",
        "found",
        "--quorum",
        "2",
        "--card",
        &alice,
        "--card",
        &bed.path("bob.card"),
        "--reason",
        "a test",
        "--json",
    ]);
    let proposed: Value = serde_json::from_str(&proposed).unwrap();
    let name = proposed["name"].as_str().unwrap();
    let approve = ["ceremony", "approve", name, "--no-wait"];
    ok(&bed.run(bed.with_card("card-pin", &approve)));
    let request = GetCeremonyRequest { name: name.to_owned() };
    let ceremony = client.call(client.ceremonies().get_ceremony(request)).await.unwrap();
    bob.approve(&client, &ceremony).await.unwrap();
    let ended = custodians::ended(&client, name).await;
    assert_eq!(ended.state(), State::Done, "{}", ended.outcome);
    assert!(daemon.stop().await.success());
}
