//! What tokens show when they are enrolled: the maker's attestation, the company's certificate.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use keyward::audit::Outcome;
use keyward::client::{Client, Error};
use keyward::rpc::proto::{
    ApproveCredentialRequest, CompleteLoginResponse, CreateAccountRequest, LoginCredential,
    OpenEnrolmentRequest,
};
use keyward_softhsm_tests::authority::{Authority, LOGIN};
use keyward_softhsm_tests::piv::{PIN, Readers};
use keyward_softhsm_tests::staff::{
    Agent, MemoryKey, ORIGIN, Staff, begin, complete, one_time_passwords, submission,
};
use keyward_softhsm_tests::{Daemon, World, text};
use serde_json::{Value, json};

const ANY: &str = "assurance = [\"attested\", \"certified\", \"witnessed\"]\n";

/// A world with logins, and more in its `[login]`.
fn world(login: &str) -> World {
    let mut world = World::new();
    world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
    world.reconfigure(ANY, login);
    world
}

async fn serving(world: &World) -> (Daemon, Client) {
    world.init();
    let daemon = world.start().await;
    let client = daemon.client().await;
    (daemon, client)
}

/// What a company's certificates are accepted by, and nothing else.
fn certified_only(authority: &Authority) -> String {
    let (root, list) = (authority.root(), authority.revocations());
    format!("assurance = [\"certified\"]\ncorporate_roots = [\"{root}\"]\ncorporate_crls = [\"{list}\"]\n")
}

fn der(pem: &Path) -> Vec<u8> {
    let output = Command::new("openssl").args(["x509", "-outform", "DER", "-in"]).arg(pem).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output.stdout
}

/// Hands in what a token makes of a ticket, with certificates.
async fn submit(
    client: &Client,
    account: &str,
    token: &MemoryKey,
    chain: &[&Path],
) -> Result<LoginCredential, Error> {
    let request = OpenEnrolmentRequest { name: account.to_owned(), ..Default::default() };
    let ticket = client.call(client.logins().open_enrolment(request)).await.unwrap();
    let mut submitted = submission(&ticket, token);
    submitted.certificates = chain.iter().map(|pem| der(pem).into()).collect();
    client.call(client.logins().submit_enrolment(submitted)).await
}

async fn refused(client: &Client, account: &str, token: &MemoryKey, chain: &[&Path], word: &str) {
    let error = submit(client, account, token, chain).await.unwrap_err();
    assert!(error.reason() == "ENROLMENT_REFUSED" && error.message.contains(word), "{word}: {error}");
}

#[tokio::test]
async fn a_certificate_of_the_company_is_demanded_and_checked() {
    let mut world = world("");
    let (company, other) = (Authority::new(world.path("company")), Authority::new(world.path("other")));
    world.config = world.config.replace("[login]\n", &format!("[login]\n{}", certified_only(&company)));
    let (daemon, client) = serving(&world).await;
    let account = "accounts/alice";
    let request = CreateAccountRequest { name: account.into(), ..Default::default() };
    client.call(client.logins().create_account(request)).await.unwrap();
    let token = MemoryKey::default();
    let spki = token.public();
    let certify = |authority: &Authority, name: &str, extensions: &str, time: Option<&str>| {
        authority.certify(name, spki.spki(), extensions, time)
    };
    refused(&client, account, &token, &[], "must be certified here").await;
    let foreign = certify(&other, "foreign", LOGIN, None);
    refused(&client, account, &token, &[&foreign], "leads to no root").await;
    let expired = certify(&company, "expired", LOGIN, Some("-3d"));
    refused(&client, account, &token, &[&expired], "has expired").await;
    let early = certify(&company, "early", LOGIN, Some("+3d"));
    refused(&client, account, &token, &[&early], "not valid yet").await;
    let usages = [
        "keyUsage=critical,keyEncipherment\n",
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n",
    ];
    for usage in usages {
        let wrong = certify(&company, "usage", usage, None);
        refused(&client, account, &token, &[&wrong], "not for logging in").await;
    }
    let revoked = certify(&company, "revoked", LOGIN, None);
    company.revoke(&revoked);
    refused(&client, account, &token, &[&revoked], "was revoked").await;
    let good = certify(&company, "good", LOGIN, None);
    refused(&client, account, &MemoryKey::default(), &[&good], "of another key").await;
    // No list, no login: it is not known whether anybody was revoked.
    let list = std::fs::read(company.revocations()).unwrap();
    std::fs::copy(other.revocations(), company.revocations()).unwrap();
    refused(&client, account, &token, &[&good], "nobody says that").await;
    std::fs::write(company.revocations(), list).unwrap();
    let enrolled = submit(&client, account, &token, &[&good]).await.unwrap();
    assert_eq!((enrolled.assurance.as_str(), enrolled.state.as_str()), ("certified", "pending"));
    assert!(enrolled.certificate_subject.contains("CN=good"), "{}", enrolled.certificate_subject);
    assert!(enrolled.certificate_expire_time.is_some());
    assert!(daemon.stop().await.success());
}

/// Why the last call failed, in the audit log.
fn why(world: &World) -> String {
    let records = world.audit();
    let last = records.iter().rfind(|record| matches!(record.outcome, Outcome::Failed(_))).unwrap();
    last.detail.clone().unwrap()
}

/// The claims of an assertion.
fn claims(logged_in: &CompleteLoginResponse) -> Value {
    let claims = logged_in.assertion.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL.decode(claims).unwrap()).unwrap()
}

#[tokio::test]
async fn a_certificate_that_is_revoked_later_logs_in_no_more() {
    let mut world = world("");
    let company = Authority::new(world.path("company"));
    world.config = world.config.replace("[login]\n", &format!("[login]\n{}", certified_only(&company)));
    let (daemon, client) = serving(&world).await;
    let account = "accounts/alice".to_owned();
    let request = CreateAccountRequest { name: account.clone(), ..Default::default() };
    client.call(client.logins().create_account(request)).await.unwrap();
    let (token, passwords) = (MemoryKey::default(), one_time_passwords(&client, &account).await);
    let certificate = company.certify("alice", token.public().spki(), LOGIN, None);
    let enrolled = submit(&client, &account, &token, &[&certificate]).await.unwrap();
    let request = ApproveCredentialRequest { name: account.clone(), credential: enrolled.id };
    client.call(client.logins().approve_credential(request)).await.unwrap();
    let mut alice = Staff { account, token, passwords };
    let logged_in = alice.log_in(&client).await.unwrap();
    assert_eq!(claims(&logged_in)["acr"], "certified");
    company.revoke(&certificate);
    let error = alice.log_in(&client).await.unwrap_err();
    assert_eq!(error.reason(), "LOGIN_FAILED");
    assert!(why(&world).ends_with("the certificate of the token's key was revoked"), "{}", why(&world));
    std::fs::remove_file(company.revocations()).unwrap();
    alice.log_in(&client).await.unwrap_err();
    assert!(why(&world).contains("cannot be found to be good"), "{}", why(&world));
    assert!(daemon.stop().await.success());
}

/// Bundles, text around, an editor's mark, lists of other authorities: as other programs want them, and as people keep them.
#[tokio::test]
async fn what_a_company_publishes_is_read_as_it_is() {
    let mut world = world("");
    let (company, other) = (Authority::new(world.path("company")), Authority::new(world.path("other")));
    let read = |path: String| std::fs::read_to_string(path).unwrap();
    let [roots, lists, broken] = ["roots.pem", "lists.pem", "third.crl"].map(|name| world.path(name));
    let marked = format!("\u{feff}{}\nIssuer: the other one\n{}", read(other.root()), read(company.root()));
    std::fs::write(&roots, marked.replace('\n', "\r\n")).unwrap();
    let words = "Certificate Revocation List (CRL):\n    Version 2 (0x1)\n";
    let both =
        [words, &read(other.revocations()), &read(company.root()), words, &read(company.revocations())];
    std::fs::write(&lists, both.concat()).unwrap();
    std::fs::write(&broken, read(other.revocations())).unwrap();
    let shown = |path: &Path| path.display().to_string();
    let login = format!(
        "[login]\nassurance = [\"certified\"]\ncorporate_roots = [\"{}\"]\ncorporate_crls = [\"{}\", \"{}\"]\n",
        shown(&roots),
        shown(&lists),
        shown(&broken)
    );
    world.config = world.config.replace("[login]\n", &login);
    let (daemon, client) = serving(&world).await;
    let account = "accounts/alice";
    let request = CreateAccountRequest { name: account.into(), ..Default::default() };
    client.call(client.logins().create_account(request)).await.unwrap();
    for (name, content) in [("first", None), ("second", Some("no list at all"))] {
        if let Some(content) = content {
            std::fs::write(&broken, content).unwrap();
        }
        let token = MemoryKey::default();
        let certificate = company.certify(name, token.public().spki(), LOGIN, None);
        submit(&client, account, &token, &[&certificate]).await.unwrap();
    }
    // What lets nobody else in is told, with its name, and is found before a start.
    let told = format!("passed over: {}", broken.display());
    assert!(world.log().contains(&told), "{}", world.log());
    assert!(daemon.stop().await.success());
    let checked = || {
        let arguments = ["--config", &world.config_file(), "--check-config"];
        text(&world.command("keywardd").args(arguments).output().unwrap())
    };
    let output = |arguments: &[&str]| ok(&Command::new("openssl").args(arguments).output().unwrap());
    let first_version = shown(&world.path("v1.der"));
    company.list_of_version_1(&first_version);
    for (content, words) in [
        (b"no list at all".to_vec(), "no revocation list that can be read"),
        (b"-----BEGIN X509 CRL-----\n%%\n-----END X509 CRL-----\n".to_vec(), "its PEM is broken"),
        (read(company.root()).into_bytes(), "it has no revocation list"),
        (std::fs::read(&first_version).unwrap(), "version 1"),
    ] {
        std::fs::write(&broken, content).unwrap();
        let said = checked();
        assert!(said.contains(words) && said.contains(&shown(&broken)), "{words}: {said}");
    }
    std::fs::write(&broken, read(other.revocations())).unwrap();
    output(&["x509", "-in", &company.root(), "-outform", "DER", "-out", &shown(&roots)]);
    let said = checked();
    assert!(said.contains("it is DER, and must be PEM") && said.contains(&shown(&roots)), "{said}");
}

/// Of two lists of one authority the newer decides, wherever they stand; and a list that is not understood may have revoked
/// anybody.
#[tokio::test]
async fn an_older_list_does_not_let_in_whom_a_newer_one_revokes() {
    let mut world = world("");
    let company = Authority::new(world.path("company"));
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let (older, third) = (read(&company.revocations()), world.path("third.crl").display().to_string());
    let both = world.path("both.crl").display().to_string();
    std::fs::write(&both, &older).unwrap();
    std::fs::write(&third, &older).unwrap();
    let login = format!(
        "[login]\nassurance = [\"certified\"]\ncorporate_roots = [\"{}\"]\ncorporate_crls = [\"{both}\", \"{third}\"]\n",
        company.root()
    );
    world.config = world.config.replace("[login]\n", &login);
    let (daemon, client) = serving(&world).await;
    let account = "accounts/alice";
    let request = CreateAccountRequest { name: account.into(), ..Default::default() };
    client.call(client.logins().create_account(request)).await.unwrap();
    let token = MemoryKey::default();
    let certificate = company.certify("alice", token.public().spki(), LOGIN, None);
    // A second is the least by which lists differ.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    company.revoke(&certificate);
    let newer = read(&company.revocations());
    for order in [[&older, &newer], [&newer, &older]] {
        std::fs::write(&both, order.map(String::as_str).concat()).unwrap();
        refused(&client, account, &token, &[&certificate], "was revoked").await;
    }
    std::fs::write(&both, &newer).unwrap();
    refused(&client, account, &token, &[&certificate], "was revoked").await;
    let other = company.certify("other", token.public().spki(), LOGIN, None);
    company.delta_list(&third);
    refused(&client, account, &token, &[&other], "not understood here").await;
    std::fs::write(&third, &older).unwrap();
    submit(&client, account, &token, &[&other]).await.unwrap();
    assert!(daemon.stop().await.success());
}

/// A configuration that lets nobody in is refused, before the HSM is touched.
#[test]
fn a_configuration_that_lets_nobody_in_is_refused() {
    for (login, word) in [
        ("attestation_roots = [\"/missing.pem\"]\n", "login.attestation_roots: /missing.pem"),
        ("attestation_roots = [\"/etc/passwd\"]\n", "login.attestation_roots: /etc/passwd"),
        (
            "corporate_roots = [\"/missing.pem\"]\ncorporate_crls = [\"/missing.crl\"]\n",
            "login.corporate_roots",
        ),
        ("yubico_roots = false\n", "accepts no token at all"),
        ("assurance = [\"certified\"]\n", "accepts no token at all"),
        ("challenge_ttl = \"3m\"\n", "from 10s to 2m"),
    ] {
        let world = world(login);
        let checked = world
            .command("keywardd")
            .args(["--config", &world.config_file(), "--check-config"])
            .output()
            .unwrap();
        assert!(!checked.status.success() && text(&checked).contains(word), "{word}: {}", text(&checked));
    }
    let good = world(ANY);
    let checked = good.command("keywardd").args(["--config", &good.config_file(), "--check-config"]).output();
    ok(&checked.unwrap());
}

/// A card, and the command line in front of it.
struct Bed {
    world: World,
    readers: Readers,
}

impl Bed {
    fn new(login: &str) -> Self {
        let mut world = world(login);
        let readers = Readers::start(&mut world);
        world.write_secret("card-pin", PIN);
        Self { world, readers }
    }

    fn token(&self, arguments: &[&str]) -> Output {
        let pin = self.world.path("card-pin").display().to_string();
        self.world.cli([&["token"], arguments, &["--piv", "--pin-file", &pin]].concat())
    }

    /// Has the card make a key, enrol it, and hands that in.
    fn enroll(&self, more: &[&str]) -> Output {
        let [ticket, enrolment] =
            ["ticket", "enrolment"].map(|name| self.world.path(name).display().to_string());
        let make = [
            "generate",
            "--name",
            "alice",
            "--login",
            "--factory-management-key",
            "--replace",
            "--touch",
            "never",
        ];
        ok(&self.token(&make));
        ok(&self.world.cli(["account", "enroll", "alice", "--out", &ticket, "--force"]));
        let enroll = ["enroll", "--ticket", &ticket, "--name", "card", "--out", &enrolment, "--force"];
        ok(&self.token(&[&enroll[..], more].concat()));
        self.world.cli(["account", "submit", &enrolment, "--json"])
    }
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The card's root is that of the test: under those of real cards it is a card that pretends.
#[tokio::test]
async fn a_card_is_attested_under_a_root_that_is_configured() {
    let mut bed = Bed::new("");
    let _card = bed.readers.insert(0, "alice", 10_000_001);
    bed.world.init();
    let daemon = bed.world.start().await;
    ok(&bed.world.cli(["account", "create", "alice"]));
    let pretended = bed.enroll(&[]);
    assert!(text(&pretended).contains("leads to no root"), "{}", text(&pretended));
    let silent = bed.enroll(&["--no-evidence"]);
    assert!(text(&silent).contains("must be attested or certified here"), "{}", text(&silent));
    assert!(daemon.stop().await.success());

    let root = bed.readers.authority().join("root.pem");
    let accepted = format!("[login]\nattestation_roots = [\"{}\"]\n", root.display());
    bed.world.config = bed.world.config.replace("[login]\n", &accepted);
    let daemon = bed.world.start().await;
    let old = bed.enroll(&[]);
    assert!(text(&old).contains("has firmware 5."), "{}", text(&old));
    assert!(daemon.stop().await.success());

    bed.world.config =
        bed.world.config.replace("[login]\n", "[login]\nminimum_firmware = \"5.2.0\"\ntouch = \"always\"\n");
    let daemon = bed.world.start().await;
    let untouched = bed.enroll(&[]);
    assert!(text(&untouched).contains("wants a touch never"), "{}", text(&untouched));
    assert!(daemon.stop().await.success());

    bed.world.config = bed.world.config.replace("touch = \"always\"\n", "");
    let daemon = bed.world.start().await;
    let enrolled: Value = serde_json::from_str(&ok(&bed.enroll(&[]))).unwrap();
    assert_eq!((&enrolled["assurance"], &enrolled["serial"]), (&"attested".into(), &10_000_001.into()));
    assert_eq!((&enrolled["pin_policy"], &enrolled["touch_policy"]), (&"once".into(), &"never".into()));
    ok(&bed.world.cli(["account", "approve", "alice", enrolled["credential"].as_str().unwrap()]));
    let client = daemon.client().await;
    let mut passwords = one_time_passwords(&client, "accounts/alice").await;
    let pin = bed.world.path("card-pin").display().to_string();
    let agent = ["token", "agent", "--origin", ORIGIN, "--piv", "--pin-file", &pin];
    let mut agent = Agent::start(bed.world.command("keyward").args(agent));
    let begun = begin(&client, "accounts/alice").await.unwrap();
    let logged_in = complete(&client, agent.sign(&begun, passwords.take())).await.unwrap();
    assert_eq!(claims(&logged_in)["amr"], json!(["hwk", "pin", "otp", "mfa"]));
    assert!(daemon.stop().await.success());

    // Stricter rules are for those who are on record too.
    bed.world.config = bed.world.config.replace("\"5.2.0\"", "\"5.7.0\"");
    let daemon = bed.world.start().await;
    let client = daemon.client().await;
    let begun = begin(&client, "accounts/alice").await.unwrap();
    let error = complete(&client, agent.sign(&begun, passwords.take())).await.unwrap_err();
    assert_eq!(error.reason(), "LOGIN_FAILED");
    let why = why(&bed.world);
    assert!(why.contains("does not meet the rules of [login] any more"), "{why}");
    agent.end();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_token_that_was_witnessed_counts_while_that_is_accepted() {
    let mut world = world(ANY);
    let (daemon, client) = serving(&world).await;
    let mut alice = Staff::new(&client, "alice").await;
    alice.log_in(&client).await.unwrap();
    assert!(daemon.stop().await.success());
    world.reconfigure(ANY, "");
    let daemon = world.start().await;
    let client = daemon.client().await;
    assert_eq!(alice.log_in(&client).await.unwrap_err().reason(), "LOGIN_FAILED");
    let why = why(&world);
    assert!(why.contains("the token is witnessed, which is not accepted any more"), "{why}");
    assert!(daemon.stop().await.success());
}

/// Where only the company's certificates count, a card is enrolled by its certificate although it attests too.
#[tokio::test]
async fn a_card_is_certified_where_the_company_demands_it() {
    let mut bed = Bed::new("");
    let company = Authority::new(bed.world.path("company"));
    bed.world.config =
        bed.world.config.replace("[login]\n", &format!("[login]\n{}", certified_only(&company)));
    let _card = bed.readers.insert(0, "alice", 10_000_001);
    bed.world.init();
    let daemon = bed.world.start().await;
    ok(&bed.world.cli(["account", "create", "alice"]));
    let attested = bed.enroll(&[]);
    assert!(text(&attested).contains("is attested, and must be certified here"), "{}", text(&attested));
    // The key is made anew each time; the company certifies the one that is there.
    let [ticket, enrolment, public] =
        ["ticket", "enrolment", "public"].map(|name| bed.world.path(name).display().to_string());
    let shown = bed.readers.command("yubico-piv-tool").args(["--slot", "9a", "--action", "attest"]).output();
    std::fs::write(&public, shown.unwrap().stdout).unwrap();
    let spki = Command::new("openssl").args(["x509", "-noout", "-pubkey", "-in", &public]).output().unwrap();
    std::fs::write(&public, spki.stdout).unwrap();
    let spki =
        Command::new("openssl").args(["pkey", "-pubin", "-outform", "DER", "-in", &public]).output().unwrap();
    let certificate = company.certify("alice", &spki.stdout, LOGIN, None).display().to_string();
    let enroll = ["enroll", "--ticket", &ticket, "--name", "card", "--out", &enrolment, "--force"];
    ok(&bed.token(&[&enroll[..], &["--certificate", &certificate]].concat()));
    let enrolled: Value =
        serde_json::from_str(&ok(&bed.world.cli(["account", "submit", &enrolment, "--json"]))).unwrap();
    assert_eq!(enrolled["assurance"], "certified");
    assert!(enrolled["certificate_subject"].as_str().unwrap().contains("CN=alice"), "{enrolled}");
    assert!(daemon.stop().await.success());
}
