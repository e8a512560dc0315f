//! Custodians with tokens of their own, on the command line: a founding, a rotation, a
//! custodian who leaves, and a root that is put together again on another token.

use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Instant;

use keyward::audit::Outcome;
use keyward::client::context;
use keyward::id::CustodianId;
use keyward::keyring::armour::Armoured;
use keyward::keyring::recovery::{RestoreRequest, RestoreShare};
use keyward_softhsm_tests::custodians::Person;
use keyward_softhsm_tests::{Daemon, KEY, PATIENCE, World, softhsm_module, text};

const PEOPLE: [&str; 3] = ["alice", "bob", "carol"];

/// A world whose custodians have tokens with keys, and a daemon.
async fn ready() -> (World, Daemon) {
    let world = World::ready();
    let (daemon, _) = world.start_with_key().await;
    for name in PEOPLE {
        enrol(&world, name);
    }
    (world, daemon)
}

/// Gives a custodian a token with keys, and has the card made.
fn enrol(world: &World, name: &str) {
    world.make_token(&format!("{name}-token"));
    ok(&with_token(world, name, &["token", "generate", "--name", name]));
    let card = path(world, &format!("{name}.card"));
    ok(&with_token(world, name, &["token", "card", "--name", name, "--out", &card]));
}

fn path(world: &World, name: &str) -> String {
    world.path(name).display().to_string()
}

/// A command with the token of a custodian.
fn with_token(world: &World, name: &str, arguments: &[&str]) -> Output {
    let (module, pin, token) = (softhsm_module(), path(world, "pin"), format!("{name}-token"));
    let token = ["--module", &module, "--token", &token, "--pin-file", &pin];
    world.cli(arguments.iter().chain(&token))
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The name of the ceremony that a command proposed.
fn proposed(output: &Output) -> String {
    let value: serde_json::Value = serde_json::from_str(&ok(output)).expect("JSON");
    value["name"].as_str().expect("a name").trim_start_matches("ceremonies/").to_owned()
}

fn propose(world: &World, what: &[&str]) -> String {
    let asked = ["ceremony", "propose"].iter().chain(what).chain(&["--reason", "a test", "--json"]);
    proposed(&world.cli(asked))
}

fn found(world: &World) -> String {
    let cards = PEOPLE.map(|name| path(world, &format!("{name}.card")));
    let id = propose(
        world,
        &["found", "--quorum", "2", "--card", &cards[0], "--card", &cards[1], "--card", &cards[2]],
    );
    for name in PEOPLE {
        let approved = with_token(world, name, &["ceremony", "approve", &id[..8]]);
        let said = text(&approved);
        ok(&approved);
        assert!(said.contains("KEYWARD CEREMONY\n") && said.contains("Action: found"), "{said}");
    }
    id
}

#[tokio::test]
async fn three_custodians_found_and_rotate_the_root() {
    let (world, daemon) = ready().await;
    let client = daemon.client().await;
    let about = context([("a", "b")]);
    let sealed = client.encrypt(KEY, "before", &about).await.expect("a ciphertext").ciphertext;
    let founding = found(&world);
    let anchor = path(&world, "founding.json");
    ok(&world.cli(["ceremony", "transcript", &founding, "--out", &anchor]));

    let id = propose(&world, &["rotate-root"]);
    let stranger = {
        enrol(&world, "mallory");
        with_token(&world, "mallory", &["ceremony", "approve", &id])
    };
    assert!(
        text(&stranger).contains("this token is none of the custodians who decide"),
        "{}",
        text(&stranger)
    );
    ok(&with_token(&world, "bob", &["ceremony", "approve", &id]));
    let shown = ok(&world.cli(["ceremony", "list", "--open"]));
    assert!(shown.contains("1 of 2") && shown.contains("alice, carol"), "{shown}");
    let last = with_token(&world, "carol", &["ceremony", "approve", &id]);
    assert!(ok(&last).contains("done"), "{}", text(&last));
    let opened = client.decrypt(KEY, sealed, &about).await.expect("a plaintext");
    assert_eq!(opened.plaintext.expose(), b"before");

    let (file, page) = (path(&world, "rotation.json"), path(&world, "rotation.html"));
    ok(&world.cli(["ceremony", "transcript", &id, "--out", &file, "--html", &page]));
    let verified = ok(&world.cli(["ceremony", "verify", &file, "--anchor", &anchor]));
    assert!(verified.contains("bob, carol"), "{verified}");
    let html = std::fs::read_to_string(&page).expect("a page");
    assert!(html.starts_with("<!doctype html>") && html.contains("Action: rotate-root"), "{html}");
    let altered = std::fs::read_to_string(&file).expect("a transcript").replace("a test", "a jest");
    std::fs::write(&file, altered).expect("a file");
    let refused = world.cli(["ceremony", "verify", &file, "--anchor", &anchor]);
    assert_eq!(refused.status.code(), Some(6), "{}", text(&refused));
    let roster = ok(&world.cli(["ceremony", "roster"]));
    assert!(roster.contains("quorum") && roster.contains("alice"), "{roster}");
}

/// A restore that waits for shares.
struct Meeting<'a> {
    world: &'a World,
    child: Child,
}

impl<'a> Meeting<'a> {
    fn begin(world: &'a World, escrow: &str, folder: &Path) -> Self {
        Self::begin_for(world, escrow, folder, &[])
    }

    fn begin_for(world: &'a World, escrow: &str, folder: &Path, more: &[&str]) -> Self {
        std::fs::create_dir(folder).expect("a folder");
        let config = world.config_file();
        let child = world
            .command("keyward")
            .args(["root", "restore", "--config", &config, "--escrow", escrow, "--reason", "a test"])
            .arg("--folder")
            .arg(folder)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("keyward");
        let mut meeting = Self { world, child };
        let deadline = Instant::now() + PATIENCE;
        while !folder.join("restore.request").exists() {
            assert!(Instant::now() < deadline, "no request");
            if meeting.child.try_wait().expect("wait").is_some() {
                panic!("{}", text(&meeting.end()));
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        meeting
    }

    fn share(&self, name: &str, folder: &Path) -> Output {
        let (request, out) = (folder.join("restore.request"), folder.join(format!("{name}.share")));
        let arguments =
            ["ceremony", "share", request.to_str().expect("text"), "--out", out.to_str().expect("text")];
        with_token(self.world, name, &arguments)
    }

    fn end(self) -> Output {
        self.child.wait_with_output().expect("keyward")
    }
}

#[tokio::test]
async fn a_root_is_put_together_again_on_another_token() {
    let (mut world, daemon) = ready().await;
    enrol(&world, "mallory");
    found(&world);
    let escrow = path(&world, "root.escrow");
    ok(&world.cli(["root", "escrow", "--out", &escrow]));
    let while_it_runs = world.cli([
        "root",
        "restore",
        "--config",
        &world.config_file(),
        "--escrow",
        &escrow,
        "--folder",
        "/tmp",
        "--reason",
        "x",
    ]);
    assert!(text(&while_it_runs).contains("in use by another keywardd"), "{}", text(&while_it_runs));
    daemon.stop().await;
    world.make_token("second");
    world.reconfigure("token = \"token\"", "token = \"second\"");
    world.reconfigure("custody = \"operator\"", "custody = \"custodians\"");

    // Shares of another restore do not count: they were sealed to a process that is gone.
    let earlier = world.path("earlier");
    let mut first = Meeting::begin(&world, &escrow, &earlier);
    ok(&first.share("bob", &earlier));
    first.child.kill().expect("kill");
    first.end();

    let folder = world.path("meeting");
    let meeting = Meeting::begin(&world, &escrow, &folder);
    std::fs::copy(earlier.join("bob.share"), folder.join("bob-old.share")).expect("a copy");
    std::fs::write(folder.join("junk.share"), "junk").expect("a file");
    let stranger = meeting.share("mallory", &folder);
    assert!(text(&stranger).contains("this token is none of the custodians"), "{}", text(&stranger));
    a_request_with_another_key_is_refused(&world, &folder);
    ok(&meeting.share("alice", &folder));
    // Alice gives no share in Bob's name.
    let alice = std::fs::read_to_string(folder.join("alice.share")).expect("a share");
    let mut forged = RestoreShare::parse(&alice).expect("a share");
    forged.custodian = CustodianId::new("bob").expect("a name");
    std::fs::write(folder.join("forged.share"), forged.to_text()).expect("a file");
    // One share of two, and copies of it, are not enough.
    std::fs::copy(folder.join("alice.share"), folder.join("alice-again.share")).expect("a copy");
    let shared = meeting.share("carol", &folder);
    assert!(text(&shared).contains("Action: restore"), "{}", text(&shared));
    ok(&shared);
    let restored = meeting.end();
    let said = text(&restored);
    ok(&restored);
    assert!(said.contains("bob-old.share does not count") && said.contains("of another restore"), "{said}");
    assert!(said.contains("junk.share does not count"), "{said}");
    assert!(said.contains("forged.share does not count: the share of bob"), "{said}");
    let refused: Vec<_> = world
        .audit()
        .into_iter()
        .filter(|record| {
            record.operation == "root-restore" && record.outcome == Outcome::Failed("APPROVAL_REFUSED".into())
        })
        .filter_map(|record| record.detail)
        .collect();
    for share in ["bob-old.share", "junk.share", "forged.share"] {
        assert!(refused.iter().any(|detail| detail.contains(share)), "{share}: {refused:?}");
    }
    let transcript = folder.join("restore.json");
    let verified = ok(&world.cli(["ceremony", "verify", transcript.to_str().expect("text")]));
    assert!(verified.contains("restore") && verified.contains("alice, carol"), "{verified}");
    let report = world.cli(["hsm", "check", "--config", &world.config_file(), "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("a report");
    assert!(!report["roots"].as_str().expect("roots").is_empty(), "{report}");
    assert!(world.audit().iter().any(|record| record.operation == "root-restore"));
    let again = Meeting::begin_refused(&world, &escrow);
    assert!(again.contains("has the key already"), "{again}");
}

/// Somebody puts a key of their own into a request: the token does not sign it.
fn a_request_with_another_key_is_refused(world: &World, folder: &Path) {
    let text_of = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file");
    let mut request = RestoreRequest::parse(&text_of("restore.request")).expect("a request");
    request.transport = Person::new("mallory").agreement();
    let (forged, out) = (path(world, "forged.request"), path(world, "x.share"));
    std::fs::write(&forged, request.to_text()).expect("a file");
    let refused = with_token(world, "alice", &["ceremony", "share", &forged, "--out", &out]);
    assert!(text(&refused).contains("does not say \"Shares are sealed to: "), "{}", text(&refused));
    assert!(!Path::new(&out).exists());
}

#[tokio::test]
async fn with_too_few_shares_nothing_is_restored() {
    let (mut world, daemon) = ready().await;
    found(&world);
    let escrow = path(&world, "root.escrow");
    ok(&world.cli(["root", "escrow", "--out", &escrow]));
    daemon.stop().await;
    world.make_token("second");
    world.reconfigure("token = \"token\"", "token = \"second\"");
    let folder = world.path("meeting");
    let meeting = Meeting::begin_for(&world, &escrow, &folder, &["--wait", "3s"]);
    ok(&meeting.share("alice", &folder));
    let ended = meeting.end();
    assert!(!ended.status.success());
    assert!(
        text(&ended).contains("not enough shares came in time; nothing was restored"),
        "{}",
        text(&ended)
    );
    assert!(!folder.join("restore.json").exists());
    let report = world.cli(["hsm", "check", "--config", &world.config_file(), "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("a report");
    assert_eq!(report["roots"], "", "{report}");
    let recorded = world.audit().into_iter().any(|record| {
        record.operation == "root-restore"
            && record.detail.is_some_and(|detail| detail.contains("not enough shares came in time"))
    });
    assert!(recorded);
}

impl Meeting<'_> {
    fn begin_refused(world: &World, escrow: &str) -> String {
        let (config, folder) = (world.config_file(), path(world, "tokens"));
        let refused = world.cli([
            "root", "restore", "--config", &config, "--escrow", escrow, "--folder", &folder, "--reason", "x",
        ]);
        assert!(!refused.status.success());
        text(&refused)
    }
}

#[tokio::test]
async fn a_kek_in_the_hsm_is_put_together_again_on_another_token() {
    let (mut world, daemon) = ready().await;
    found(&world);
    let id = propose(&world, &["move-tenant", "acme", "--resident"]);
    for name in ["alice", "carol"] {
        ok(&with_token(&world, name, &["ceremony", "approve", &id[..8]]));
    }
    ok(&world.cli(["ceremony", "watch", &id]));
    let shown = ok(&world.cli(["tenant", "show", "acme"]));
    assert!(shown.contains("resident"), "{shown}");
    let escrow = path(&world, "root.escrow");
    ok(&world.cli(["root", "escrow", "--out", &escrow]));
    daemon.stop().await;
    world.make_token("second");
    world.reconfigure("token = \"token\"", "token = \"second\"");
    world.reconfigure("custody = \"operator\"", "custody = \"custodians\"");

    let config = world.config_file();
    let start =
        ["root", "restore", "--config", &config, "--escrow", &escrow, "--folder", "/tmp", "--reason", "x"];
    let other = world.cli(start.iter().chain(&["--kek", "zeta"]));
    assert!(text(&other).contains("the escrow has no KEK of tenants/zeta"), "{}", text(&other));
    for (name, what) in [("kek", "KEK of tenants/acme"), ("root", "root key")] {
        let folder = world.path(name);
        let more: &[&str] = if name == "kek" { &["--kek", "acme"] } else { &[] };
        let meeting = Meeting::begin_for(&world, &escrow, &folder, more);
        for custodian in ["bob", "carol"] {
            ok(&meeting.share(custodian, &folder));
        }
        let restored = meeting.end();
        let said = text(&restored);
        ok(&restored);
        assert!(said.contains(&format!("the {what} is on token second")), "{said}");
        let transcript = folder.join("restore.json");
        ok(&world.cli(["ceremony", "verify", transcript.to_str().expect("text")]));
    }
    let again = world.cli(start.iter().chain(&["--kek", "acme"]));
    assert!(text(&again).contains("has the key already"), "{}", text(&again));
}

#[tokio::test]
async fn what_custodians_destroy_has_a_certificate() {
    let (world, daemon) = ready().await;
    let client = daemon.client().await;
    let about = context([("a", "b")]);
    let sealed = client.encrypt(KEY, "secret", &about).await.expect("a ciphertext").ciphertext;
    found(&world);
    let out = path(&world, "certificate.json");
    let early = world.cli(["certificate", "get", "acme/customer-pii", "--out", &out]);
    assert!(text(&early).contains("is not destroyed"), "{}", text(&early));
    let export = path(&world, "export.kwb");
    ok(&world.cli(["backup", "create", "--out", &export, "--keep-for", "20d"]));
    let alone = world.cli(["key", "destroy", "acme/customer-pii", "--yes", "--reason", "x"]);
    assert!(text(&alone).contains("keyward ceremony propose destroy"), "{}", text(&alone));
    let id = propose(&world, &["destroy", "acme/customer-pii"]);
    ok(&with_token(&world, "alice", &["ceremony", "approve", &id]));
    let done = with_token(&world, "bob", &["ceremony", "approve", &id]);
    assert!(ok(&done).contains("done"), "{}", text(&done));
    let refused = client.decrypt(KEY, sealed, &about).await.unwrap_err();
    assert!(["DESTROYED", "KEY_DESTROYED"].contains(&refused.reason()), "{refused}");

    ok(&world.cli(["certificate", "get", "acme/customer-pii", "--out", &out]));
    let keys = path(&world, "keys.txt");
    std::fs::write(&keys, ok(&world.cli(["audit", "keys"]))).expect("a file");
    let verified = ok(&world.cli(["certificate", "verify", &out, "--key", &keys, "--json"]));
    let verified: serde_json::Value = serde_json::from_str(&verified).expect("JSON");
    assert_eq!((&verified["key_trusted"], &verified["all_checks_passed"]), (&true.into(), &true.into()));
    let shown = ok(&world.cli(["certificate", "show", &out, "--key", &keys]));
    assert!(shown.contains(&format!("ceremonies/{id}")), "{shown}");
    assert!(shown.contains("which must be deleted by"), "{shown}");
    for told in ["signers", "alice", "bob", "reason", "class", "age days"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert!(!shown.contains("carol"), "she signed nothing: {shown}");
    let altered =
        std::fs::read_to_string(&out).expect("a certificate").replace("customer-pii", "customer-pij");
    std::fs::write(&out, altered).expect("a file");
    let refused = world.cli(["certificate", "verify", &out, "--key", &keys]);
    assert_eq!(refused.status.code(), Some(6), "{}", text(&refused));
}
