//! `keyward token` with real tokens: every custodian has one of SoftHSM's.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use keyward::child::Program;
use keyward::clock::Date;
use keyward::daemon::child::TOKEN_COMMAND;
use keyward::id::token::TokenSelector;
use keyward::id::{CeremonyId, DeploymentId};
use keyward::keyring::credential::{Credential, TokenAlgorithm, TokenKind};
use keyward::keyring::custodian::{AgreementKey, Custodian, CustodianCard};
use keyward::secret::Pin;
use keyward::token::client::{Settings, TokenProcess};
use keyward::token::enrolment;
use keyward::token::envelope::{Ceremony, Envelope};
use keyward::token::error::{PinTrouble, TokenError};
use keyward::token::printable::Statement;
use keyward::token::verify::verify;
use keyward::token::wire::{KeySelector, KeyUse, PinState};
use keyward_softhsm_tests::faults::Faults;
use keyward_softhsm_tests::modules::Module;
use keyward_softhsm_tests::{PATIENCE, World, binary, softhsm_module, text};
use serde_json::Value;

const DEPLOYMENT: &str = "00112233445566778899aabbccddeeff";
const CEREMONY: &str = "0f0e0d0c0b0a09080706050403020100";
const ROSTER: &str = "abababababababababababababababababababababababababababababababab";
/// CKF_USER_PIN_FINAL_TRY and CKF_USER_PIN_LOCKED.
const FINAL_TRY: u64 = 0x2_0000;
const LOCKED: u64 = 0x4_0000;

/// Custodians' tokens, and the command line.
struct Bed {
    world: World,
    module: String,
}

impl Bed {
    fn new(tokens: &[&str]) -> Self {
        let world = World::new();
        tokens.iter().for_each(|token| world.make_token(token));
        Self { world, module: softhsm_module() }
    }

    /// Tokens behind the failing module.
    fn faulty(tokens: &[&str]) -> (Self, Faults) {
        let mut bed = Self::new(tokens);
        let faults = Faults::under(&mut bed.world);
        bed.module = binary("libkeyward_fault.so").display().to_string();
        (bed, faults)
    }

    fn path(&self, name: &str) -> String {
        self.world.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        self.world.write_secret(name, text);
        self.path(name)
    }

    fn token(&self, verb: &str, arguments: &[&str]) -> Output {
        self.world.cli([&["token", verb, "--module", &self.module], arguments].concat())
    }

    /// With the right PIN.
    fn with_pin(&self, verb: &str, token: &str, arguments: &[&str]) -> Output {
        let pin = self.path("pin");
        self.token(verb, &[&["--token", token, "--pin-file", &pin], arguments].concat())
    }

    fn generate(&self, name: &str, algorithm: &str) -> Value {
        json(&self.with_pin("generate", name, &["--name", name, "--algorithm", algorithm, "--json"]))
    }

    fn card(&self, name: &str, arguments: &[&str]) -> Output {
        let all = [&["--name", name, "--deployment", DEPLOYMENT], arguments].concat();
        self.with_pin("card", name, &all)
    }

    /// A custodian with a new token.
    fn custodian(&self, name: &str, algorithm: &str) -> Custodian {
        self.generate(name, algorithm);
        let card = CustodianCard::parse(&stdout(&self.card(name, &[]))).unwrap();
        enrolment::prove(card, deployment()).unwrap()
    }

    fn sign(&self, token: &str, statement: &str, arguments: &[&str]) -> Output {
        let statement = self.write("statement", statement);
        let fixed = [
            "--purpose",
            "ceremony",
            "--statement",
            &statement,
            "--deployment",
            DEPLOYMENT,
            "--ceremony",
            CEREMONY,
            "--roster",
            ROSTER,
            "--created",
            "2026-01-02T03:04:05Z",
            "--expires",
            "1800000000000",
        ];
        self.with_pin("sign", token, &[&fixed, arguments].concat())
    }

    /// A token process of this test, with the tokens of this world.
    async fn process(&self) -> TokenProcess {
        let conf = format!("SOFTHSM2_CONF={}", self.path("softhsm2.conf"));
        let program = binary("keyward");
        let arguments = vec![conf.into(), program.into(), TOKEN_COMMAND.into()];
        let settings = Settings {
            module: Some(self.module.clone().into()),
            program: Program::new("/usr/bin/env".into(), arguments),
            deadline: PATIENCE,
        };
        TokenProcess::start(&settings).await.unwrap()
    }

    fn pin(&self) -> Pin {
        Pin::read(std::fs::File::open(self.path("pin")).unwrap()).unwrap().unwrap()
    }
}

fn deployment() -> DeploymentId {
    DeploymentId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes())
}

fn envelope(credential: &Credential, statement: &str) -> Envelope {
    let ceremony = Ceremony {
        ceremony: CeremonyId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100_u128.to_be_bytes()),
        roster: [0xab; 32],
        created: Date(1_767_323_045_000),
        expires: Date(1_800_000_000_000),
        statement: Statement::new(statement).unwrap(),
    };
    ceremony.envelope(deployment(), credential.id())
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// Exit code and reason of a refusal.
fn refusal(output: &Output) -> (i32, String) {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    let line =
        error.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{}", text(output)));
    let error: Value = serde_json::from_str(line).unwrap();
    (output.status.code().unwrap(), error["error"]["reason"].as_str().unwrap().to_owned())
}

#[test]
fn a_custodian_makes_keys_and_a_card_and_signs() {
    let bed = Bed::new(&["alice"]);
    let made = bed.generate("alice", "ecdsa-p256-sha256");
    assert_eq!(made["keys"].as_array().unwrap().len(), 2);
    let listed = json(&bed.token("list", &["--json", "--token", "alice"]));
    let token = &listed["tokens"][0];
    let find =
        |label: &str| token["keys"].as_array().unwrap().iter().find(|key| key["label"] == label).unwrap();
    let (signs, agrees) = (find("keyward sign alice"), find("keyward agree alice"));
    assert_eq!((&signs["use"][0], &agrees["use"][0]), (&"sign".into(), &"agree".into()));
    assert!(stdout(&bed.token("list", &[])).contains("keyward sign alice"));

    let out = bed.path("alice.card");
    let report = json(&bed.card("alice", &["--out", &out, "--json"]));
    let card = CustodianCard::parse(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(report["credential"], signs["credential"]);
    let custodian = enrolment::prove(card, deployment()).unwrap();
    assert_eq!(custodian.name().as_str(), "alice");
    assert_eq!(signs["credential"].as_str().unwrap(), custodian.signing().id().to_string());
    assert_eq!(bed.card("alice", &["--out", &out]).status.code(), Some(1), "the card is not replaced");

    let signature = bed.path("signature");
    let signed = bed.sign("alice", "Rotate the root key.\n", &["--out", &signature]);
    assert!(signed.status.success(), "{}", text(&signed));
    let shown = String::from_utf8(signed.stderr).unwrap();
    assert!(shown.contains("\nRotate the root key.\n") && shown.contains("purpose ceremony"), "{shown}");
    assert!(shown.contains("proposed 2026-01-02T03:04:05Z, expires 2027-01-15T08:00:00Z"), "{shown}");
    let signature = std::fs::read(signature).unwrap();
    let envelope = envelope(custodian.signing(), "Rotate the root key.");
    assert_eq!(verify(custodian.signing(), &envelope, &signature).map(drop), Ok(()));
    let again = bed.with_pin("generate", "alice", &["--name", "alice", "--json"]);
    assert_eq!(refusal(&again), (4, "TOKEN_KEY".into()));
}

#[test]
fn every_algorithm_signs() {
    for algorithm in ["ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-pss-sha256", "ed25519"] {
        let bed = Bed::new(&["carol"]);
        let carol = bed.custodian("carol", algorithm);
        assert_eq!(carol.signing().algorithm().as_str(), algorithm);
        // Half of the signatures of a token have the high s.
        for number in 0..4 {
            let statement = format!("Statement {number}.");
            let signed = json(&bed.sign("carol", &statement, &["--json"]));
            let signature = unhex(signed["signature"].as_str().unwrap());
            assert_eq!(
                verify(carol.signing(), &envelope(carol.signing(), &statement), &signature).map(drop),
                Ok(())
            );
        }
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = (0..digits.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn pkcs1_signatures_come_from_the_same_rsa_key() {
    let bed = Bed::new(&["carol"]);
    let carol = bed.custodian("carol", "rsa-pss-sha256");
    let older = TokenAlgorithm::RsaPkcs1Sha256;
    let credential = Credential::new(TokenKind::Pkcs11, older, carol.signing().spki().to_vec()).unwrap();
    let mut process = bed.process().await;
    process.open(TokenSelector::label("carol"), bed.pin(), false).await.unwrap();
    let envelope = envelope(&credential, "Rotate.");
    let signature = process.sign(&KeySelector::Made(KeyUse::Sign), older, &envelope).await.unwrap();
    assert_eq!(verify(&credential, &envelope, &signature).map(drop), Ok(()));
}

#[tokio::test]
async fn a_token_agrees_on_what_software_agrees_on() {
    let bed = Bed::new(&["alice"]);
    let alice = bed.custodian("alice", "ed25519");
    let mut process = bed.process().await;
    process.open(TokenSelector::label("alice"), bed.pin(), false).await.unwrap();
    for _ in 0..8 {
        let own = PrivateKey::generate(&ECDH_P256).unwrap();
        let peer = AgreementKey::of_point(own.compute_public_key().unwrap().as_ref()).unwrap();
        let theirs = process.agree(&KeySelector::Made(KeyUse::Agree), &peer).await.unwrap();
        let token = UnparsedPublicKey::new(&ECDH_P256, alice.agreement().point());
        let ours = agree(&own, token, (), |secret| Ok(secret.to_vec())).unwrap();
        assert_eq!(theirs.expose()[..], ours);
    }
    process.test_agreement(&KeySelector::Made(KeyUse::Agree)).await.unwrap();
    // The key that signs does not agree, and the other way round.
    let wrong = process.test_agreement(&KeySelector::Made(KeyUse::Sign)).await;
    assert!(matches!(wrong, Err(TokenError::Key(_))), "{wrong:?}");
    let wrong = process.test_agreement(&KeySelector::Label("keyward sign alice".into())).await;
    assert!(matches!(wrong, Err(TokenError::Key(_))), "{wrong:?}");
}

#[tokio::test]
async fn a_token_signs_only_what_names_its_key() {
    let bed = Bed::new(&["alice", "bob"]);
    let alice = bed.custodian("alice", "ecdsa-p256-sha256");
    bed.custodian("bob", "ecdsa-p256-sha256");
    let mut process = bed.process().await;
    let key = KeySelector::Made(KeyUse::Sign);
    let algorithm = TokenAlgorithm::EcdsaP256Sha256;
    let closed = process.sign(&key, algorithm, &envelope(alice.signing(), "Rotate.")).await;
    assert!(matches!(closed, Err(TokenError::Refused(_))), "{closed:?}");
    process.open(TokenSelector::label("bob"), bed.pin(), false).await.unwrap();
    let refused = process.sign(&key, algorithm, &envelope(alice.signing(), "Rotate.")).await;
    assert!(matches!(refused, Err(TokenError::Refused(_))), "{refused:?}");
    let twice = process.open(TokenSelector::label("alice"), bed.pin(), false).await;
    assert!(matches!(twice, Err(TokenError::Refused(_))), "{twice:?}");
}

#[test]
fn a_token_of_another_library_does_the_same() {
    let bed =
        Bed { world: World::on(Module::Kryoptic), module: Module::Kryoptic.library().display().to_string() };
    let run = |verb: &str, more: &[&str]| bed.with_pin(verb, "token", &[&["--name", "alice"], more].concat());
    stdout(&run("generate", &[]));
    let card = stdout(&run("card", &["--deployment", DEPLOYMENT]));
    let alice = enrolment::prove(CustodianCard::parse(&card).unwrap(), deployment()).unwrap();
    let signed = json(&bed.sign("token", "Rotate.", &["--json"]));
    let signature = unhex(signed["signature"].as_str().unwrap());
    assert_eq!(verify(alice.signing(), &envelope(alice.signing(), "Rotate."), &signature).map(drop), Ok(()));
}

#[test]
fn a_pin_is_changed_and_a_lost_one_is_set_anew() {
    let bed = Bed::new(&["alice"]);
    let (pin, new) = (bed.path("pin"), bed.write("new", "8642-new"));
    let (officer, wrong) = (bed.write("officer", "so-pin-test"), bed.write("wrong", "0000-wrong"));
    let run = |verb: &str, arguments: &[&str]| bed.token(verb, &[&["--token", "alice"], arguments].concat());
    let refused = |output: Output, words: &str| {
        assert!(!output.status.success() && text(&output).contains(words), "{words}: {}", text(&output));
    };
    refused(run("change-pin", &["--pin-file", &wrong, "--new-file", &new]), "the PIN is wrong");
    stdout(&run("change-pin", &["--pin-file", &pin, "--new-file", &new]));
    refused(run("change-pin", &["--pin-file", &pin, "--new-file", &new]), "the PIN is wrong");
    refused(run("unblock", &["--puk-file", &wrong, "--new-file", &pin]), "the PUK is wrong");
    let unblocked = run("unblock", &["--puk-file", &officer, "--new-file", &pin, "--json"]);
    assert_eq!(json(&unblocked)["token"], "alice");
    stdout(&bed.with_pin("generate", "alice", &["--name", "alice", "--login"]));
    stdout(&run("change-puk", &["--puk-file", &officer, "--new-file", &wrong]));
    refused(run("unblock", &["--puk-file", &officer, "--new-file", &pin]), "the PUK is wrong");
    // Nobody is asked without a terminal.
    refused(run("change-pin", &["--pin-file", &pin]), "run it in a terminal");
}

/// Nobody could type it: it would cost a try, or lock its holder out.
#[test]
fn what_an_editor_made_of_a_pin_is_none() {
    let bed = Bed::new(&["alice"]);
    let marked = bed.write("marked", "\u{feff}8642-new\r\n");
    let (pin, officer) = (bed.path("pin"), bed.write("officer", "so-pin-test"));
    for arguments in [
        &["change-pin", "--pin-file", &pin, "--new-file", &marked][..],
        &["change-pin", "--pin-file", &marked, "--new-file", &pin],
        &["unblock", "--puk-file", &officer, "--new-file", &marked],
        &["unblock", "--puk-file", &marked, "--new-file", &pin],
        &["change-puk", "--puk-file", &officer, "--new-file", &marked],
        &["generate", "--name", "alice", "--login", "--pin-file", &marked],
    ] {
        let refused = bed.token(arguments[0], &[&["--token", "alice"], &arguments[1..]].concat());
        let said = text(&refused);
        assert!(!refused.status.success() && said.contains("byte order mark"), "{arguments:?}: {said}");
        assert!(said.contains("marked") && !said.contains("8642"), "{arguments:?}: {said}");
    }
    // Nothing was tried, and nothing set.
    assert!(!stdout(&bed.token("list", &["--token", "alice"])).contains("few-tries"));
    stdout(&bed.with_pin("generate", "alice", &["--name", "alice", "--login"]));
}

/// What is accepted is used: a library that a URI names, too.
#[test]
fn a_uri_names_the_library_or_is_refused() {
    let bed = Bed::new(&["alice"]);
    let uri = |module: &str| format!("pkcs11:token=alice?module-path={module}");
    let list = |module: Option<&str>, uri: &str| {
        let module = module.map(|module| ["--module", module]).into_iter().flatten();
        bed.world.cli(["token", "list", "--token", uri].into_iter().chain(module))
    };
    assert!(stdout(&list(None, &uri(&bed.module))).contains("alice"));
    assert!(stdout(&list(Some(&bed.module), &uri(&bed.module))).contains("alice"));
    let other = list(Some(&bed.module), &uri("/opt/vendor/other.so"));
    assert_eq!(other.status.code(), Some(2), "{}", text(&other));
    assert!(
        text(&other).contains("/opt/vendor/other.so") && text(&other).contains(&bed.module),
        "{}",
        text(&other)
    );
    let checked =
        bed.world.cli(["hsm", "check", "--module", &bed.module, "--token", &uri("/opt/vendor/other.so")]);
    assert_eq!(checked.status.code(), Some(2), "{}", text(&checked));
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once() {
    let bed = Bed::new(&["alice"]);
    let wrong = bed.write("wrong", "0000-wrong");
    let refused = bed.token("generate", &["--token", "alice", "--name", "alice", "--pin-file", &wrong]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("the PIN is wrong: few tries are left"), "{}", text(&refused));
    assert!(!text(&refused).contains("0000-wrong"), "{}", text(&refused));
    assert!(stdout(&bed.token("list", &["--token", "alice"])).contains("few-tries"));
    let mut process = bed.process().await;
    let pin = Pin::from_bytes(b"0000-wrong").unwrap();
    let refused = process.open(TokenSelector::label("alice"), pin, false).await;
    assert_eq!(refused, Err(TokenError::Pin(PinTrouble::Wrong(PinState::FewTries, None))));
    process.open(TokenSelector::label("alice"), bed.pin(), false).await.unwrap();
    assert!(!stdout(&bed.token("list", &["--token", "alice"])).contains("few-tries"));
}

#[test]
fn the_last_try_is_spent_on_demand_only() {
    let (bed, faults) = Bed::faulty(&["alice"]);
    faults.token_flags(FINAL_TRY);
    let generate =
        |more: &[&str]| bed.with_pin("generate", "alice", &[&["--name", "alice", "--json"], more].concat());
    assert_eq!(refusal(&generate(&[])), (3, "TOKEN_PIN_LAST_TRY".into()));
    faults.token_flags(LOCKED);
    assert_eq!(refusal(&generate(&["--last-try"])), (3, "TOKEN_PIN_UNUSABLE".into()));
    faults.token_flags(FINAL_TRY);
    json(&generate(&["--last-try"]));
}

#[test]
fn a_pin_comes_through_a_descriptor_or_not_at_all() {
    let bed = Bed::new(&["alice"]);
    let run = |redirection: &str, arguments: &str| {
        let script = format!(
            "exec \"$0\" token generate --module {} --token alice --name alice {arguments} {redirection}",
            bed.module
        );
        let keyward = binary("keyward");
        let mut command = std::process::Command::new("setsid");
        // Without a terminal, so that none is asked.
        command.arg("sh").arg("-c").arg(script).arg(keyward).stdin(Stdio::null());
        command.env("SOFTHSM2_CONF", bed.path("softhsm2.conf")).output().unwrap()
    };
    let nobody = run("", "");
    assert_eq!(nobody.status.code(), Some(2), "{}", text(&nobody));
    assert!(text(&nobody).contains("give a file or a descriptor"), "{}", text(&nobody));
    assert!(!run("", "--pin-fd 9").status.success());
    assert!(!run("3</dev/null", "--pin-fd 3").status.success());
    let both = run("3</dev/null", "--pin-fd 3 --pin-file x");
    assert_eq!(both.status.code(), Some(2), "{}", text(&both));
    stdout(&run(&format!("3<{}", bed.path("pin")), "--pin-fd 3"));
    let exposed = bed.write("exposed", "8521-test");
    keyward_softhsm_tests::set_mode(bed.world.path("exposed").as_path(), 0o640);
    let refused = bed.token(
        "card",
        &["--token", "alice", "--name", "alice", "--deployment", DEPLOYMENT, "--pin-file", &exposed],
    );
    assert!(text(&refused).contains("chmod 600"), "{}", text(&refused));
}

#[test]
fn a_token_that_hangs_costs_its_process_at_the_deadline() {
    let (bed, mut faults) = Bed::faulty(&["alice"]);
    bed.generate("alice", "ecdsa-p256-sha256");
    let hang = faults.arm("C_Sign", "hang");
    let begun = Instant::now();
    let refused = bed.sign("alice", "Rotate.", &["--timeout", "2s", "--json"]);
    assert_eq!(refusal(&refused), (5, "TOKEN_LOST".into()));
    assert!(text(&refused).contains("did not answer within 2s"), "{}", text(&refused));
    assert!(faults.fired(&hang) && begun.elapsed() < PATIENCE);
    assert_eq!(token_processes(&bed), 0);
    stdout(&bed.sign("alice", "Rotate.", &[]));
}

/// Token processes of this world that live.
fn token_processes(bed: &Bed) -> usize {
    let conf = bed.path("softhsm2.conf");
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let is_ours = |path: &std::path::PathBuf| {
        let read =
            |file| String::from_utf8_lossy(&std::fs::read(path.join(file)).unwrap_or_default()).into_owned();
        read("cmdline").contains(TOKEN_COMMAND) && read("environ").contains(&conf)
    };
    processes.filter(is_ours).count()
}

#[test]
fn what_goes_wrong_in_the_library_is_told() {
    let (bed, mut faults) = Bed::faulty(&["alice"]);
    for (function, action, expected) in [
        ("C_Initialize", "answer 5", (1, "TOKEN_MODULE")),
        ("C_Initialize", "crash", (5, "TOKEN_LOST")),
        ("C_GenerateKeyPair", "answer 31", (5, "TOKEN_FAILED")),
        ("C_GenerateKeyPair", "crash", (5, "TOKEN_LOST")),
        ("C_Login", "answer a4", (3, "TOKEN_PIN_UNUSABLE")),
        ("C_Login", "answer 30", (5, "TOKEN_FAILED")),
    ] {
        let fault = faults.arm(function, action);
        let refused = bed.with_pin("generate", "alice", &["--name", "alice", "--json"]);
        assert_eq!(refusal(&refused), (expected.0, expected.1.to_owned()), "{function} {action}");
        assert!(faults.fired(&fault));
    }
    bed.generate("alice", "ecdsa-p256-sha256");
    for (function, action, expected) in [
        ("C_Sign", "flip", (5, "TOKEN_FAILED")),
        ("C_Sign", "shorten", (5, "TOKEN_FAILED")),
        ("C_Sign", "answer 30", (5, "TOKEN_FAILED")),
        ("C_Sign", "crash", (5, "TOKEN_LOST")),
        ("C_Sign", "exit", (5, "TOKEN_LOST")),
    ] {
        faults.arm(function, action);
        let refused = bed.sign("alice", "Rotate.", &["--json"]);
        assert_eq!(refusal(&refused), (expected.0, expected.1.to_owned()), "{function} {action}");
    }
    // Once refused, the point is given in its other spelling; twice is a failure.
    faults.arm("C_DeriveKey", "answer 70");
    stdout(&bed.card("alice", &[]));
    let kept = faults.keep("C_DeriveKey", "answer 70");
    assert_eq!(refusal(&bed.card("alice", &["--json"])), (5, "TOKEN_FAILED".into()));
    faults.disarm(&kept);
    stdout(&bed.card("alice", &[]));
}

#[test]
fn an_attempt_that_broke_off_is_finished_by_the_next() {
    let (bed, mut faults) = Bed::faulty(&["alice"]);
    // The key that agrees is made; the one that signs is not.
    faults.arm("C_DeriveKey", "crash");
    let broken = bed.with_pin("generate", "alice", &["--name", "alice", "--json"]);
    assert_eq!(refusal(&broken), (5, "TOKEN_LOST".into()));
    bed.custodian("alice", "ecdsa-p256-sha256");
}

#[test]
fn tokens_are_waited_for() {
    let bed = Bed::new(&[]);
    let arguments = ["token", "list", "--json", "--wait", "--token", "late", "--module", &bed.module];
    let mut command = bed.world.command("keyward");
    // A note says that it waits, which --json would leave out.
    let mut waiting = command
        .args(arguments.iter().filter(|argument| **argument != "--json"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut note = String::new();
    BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut note).unwrap();
    assert!(note.contains("insert your token"), "{note}");
    bed.world.make_token("late");
    let output = waiting.wait_with_output().unwrap();
    assert!(stdout(&output).contains("late"), "{}", text(&output));
}

#[test]
fn the_daemon_says_its_installation() {
    let bed = Bed::new(&["alice"]);
    bed.world.init();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _daemon = runtime.block_on(bed.world.start());
    bed.generate("alice", "ecdsa-p256-sha256");
    let status = json(&bed.world.cli(["status", "--json"]));
    let card = json(&bed.with_pin("card", "alice", &["--name", "alice", "--json"]));
    assert_eq!(card["deployment"], status["root"]["deployment"]);
    assert!(CustodianCard::parse(card["card"].as_str().unwrap()).is_ok());
}

#[test]
fn odd_input_is_refused_with_words() {
    let bed = Bed::new(&["alice", "bob"]);
    let refused = |output: Output, words: &str| {
        assert!(!output.status.success() && text(&output).contains(words), "{words}: {}", text(&output));
    };
    let pin = bed.path("pin");
    let card = |more: &[&str]| {
        let fixed = ["--name", "alice", "--deployment", DEPLOYMENT, "--pin-file", &pin];
        bed.token("card", &[&fixed, more].concat())
    };
    refused(
        bed.world.cli(["token", "list", "--module", "/nonexistent.so"]),
        "cannot load the PKCS#11 library",
    );
    refused(bed.world.cli(["token", "list"]), "KEYWARD_TOKEN_MODULE");
    refused(card(&[]), "several tokens fit");
    refused(card(&["--token", "carol"]), "no token with label \"carol\"");
    refused(card(&["--token", "pkcs11:slot-id=1"]), "slot-id");
    refused(card(&["--token", "alice"]), "no key");
    bed.generate("alice", "ecdsa-p256-sha256");
    refused(card(&["--token", "alice", "--key", "nobody"]), "label \"nobody\"");
    refused(card(&["--token", "alice", "--key", "id:0g"]), "id in hexadecimal");
    refused(card(&["--token", "alice", "--key", "keyward agree alice"]), "no key");
    refused(
        bed.with_pin("card", "alice", &["--name", "Alice", "--deployment", DEPLOYMENT]),
        "custodian name",
    );
    refused(
        bed.with_pin("card", "alice", &["--name", "alice", "--deployment", "00"]),
        "32 hexadecimal digits",
    );
    for (statement, words) in [
        ("", "empty"),
        ("Rotate\u{1b}[2K.", "does not show itself"),
        ("Rotate\u{202e}.", "does not show itself"),
        ("Rotate. \n", "white space"),
    ] {
        refused(bed.sign("alice", statement, &[]), words);
    }
    refused(bed.world.cli([TOKEN_COMMAND]), "standard input must be a socket");
    let purposes = bed.with_pin("sign", "alice", &["--purpose", "login"]);
    refused(purposes, "possible values: ceremony, restore-share");
}

#[tokio::test]
async fn a_process_ends_with_the_one_that_started_it() {
    let bed = Bed::new(&["alice"]);
    let process = bed.process().await;
    assert_eq!(token_processes(&bed), 1);
    drop(process);
    let deadline = Instant::now() + PATIENCE;
    while token_processes(&bed) > 0 {
        assert!(Instant::now() < deadline, "it lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
