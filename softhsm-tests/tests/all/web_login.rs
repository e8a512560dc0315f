//! The web login of examples/web-login, over HTTP.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use keyward::client::Client;
use keyward::rpc::proto::{RevokeCredentialRequest, UpdateAccountRequest};
use keyward_softhsm_tests::browser::{Browser, Page};
use keyward_softhsm_tests::person::Person;
use keyward_softhsm_tests::staff::{Agent, ORIGIN, Staff, enroll_by_hand};
use keyward_softhsm_tests::{Daemon, KEY, World, create_key, softhsm_module, text};
use serde_json::{Value, json};

/// The application, with its daemon.
struct Site {
    world: World,
    daemon: Option<Daemon>,
    client: Client,
    server: SocketAddr,
    process: Child,
}

impl Site {
    async fn start() -> Self {
        let mut world = World::new();
        world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
        world.init();
        let daemon = world.start().await;
        let client = daemon.client().await;
        create_key(&client, "acme", "customer-pii").await;
        let socket = world.socket().display().to_string();
        let mut process = world
            .command("web-login")
            .args(["--socket", &socket, "--listen", "127.0.0.1:0", "--key", KEY])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let server = line.trim().strip_prefix("web-login: http://").unwrap_or_else(|| panic!("{line}"));
        let server = server.parse().unwrap();
        Self { world, daemon: Some(daemon), client, server, process }
    }

    fn browser(&self) -> Browser {
        Browser::new(self.server)
    }

    /// A staff member of level 2, whose token the test holds.
    async fn staff(&self, name: &str) -> Staff {
        let staff = Staff::new(&self.client, name).await;
        let request =
            UpdateAccountRequest { name: staff.account.clone(), level: Some(2), ..Default::default() };
        self.client.call(self.client.logins().update_account(request)).await.unwrap();
        staff
    }

    async fn stop(mut self) {
        assert!(self.daemon.take().unwrap().stop().await.success());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Step 1: the page that asks for the token's signature.
async fn begin(browser: &mut Browser, name: &str) -> Page {
    let first = browser.get("/").await;
    assert_eq!(first.status, 200, "{}", first.text);
    browser.post("/login", &[("form", &first.hidden("form")), ("account", name)]).await
}

async fn complete(browser: &mut Browser, page: &Page, otp: &str, answer: &str) -> Page {
    let fields = [("form", &*page.hidden("form")), ("otp", otp), ("answer", answer)];
    browser.post("/login/complete", &fields).await
}

/// Logs in, and answers the page of whoever is logged in.
async fn log_in(browser: &mut Browser, staff: &mut Staff) -> Page {
    let asked = begin(browser, staff.account.trim_start_matches("accounts/")).await;
    let answer = staff.agent_answer(&asked.area("request"));
    let done = complete(browser, &asked, &staff.passwords.take(), &answer).await;
    assert_eq!((done.status, done.location.as_deref()), (303, Some("/")), "{}", done.text);
    browser.get("/").await
}

/// Every failure is the same page.
fn failed(page: &Page) {
    assert_eq!(page.status, 401, "{}", page.text);
    assert!(page.text.contains("The login failed. Begin again"), "{}", page.text);
    assert!(page.text.contains("name=\"account\""), "it begins anew");
}

#[tokio::test]
async fn a_staff_member_logs_in_works_and_logs_out() {
    let site = Site::start().await;
    let mut alice = site.staff("alice").await;
    let mut browser = site.browser();
    let before = {
        browser.get("/").await;
        browser.cookie.clone()
    };
    let home = log_in(&mut browser, &mut alice).await;
    assert!(home.text.contains("<strong>alice</strong>, level 2"), "{}", home.text);
    assert_ne!(browser.cookie, before, "a cookie of before the login is worth nothing");
    for header in ["content-security-policy", "nosniff", "no-store", "no-referrer"] {
        assert!(home.headers.contains(header), "{}", home.headers);
    }
    let form = browser.get("/customers").await.hidden("form");
    let fields = [("form", &*form), ("name", "Bob <b>"), ("phone", "0912 345 678")];
    assert_eq!(browser.post("/customers", &fields).await.status, 303);
    let listed = browser.get("/customers").await;
    assert!(listed.text.contains("0912 345 678") && listed.text.contains("Bob &lt;b&gt;"), "{}", listed.text);
    let records = site.world.audit();
    let decrypted = records.iter().rfind(|record| record.operation == "session-decrypt").unwrap();
    let caller = decrypted.caller.as_ref().unwrap();
    assert_eq!(
        (caller.staff.as_deref(), caller.client.as_deref()),
        (Some("accounts/alice"), Some("127.0.0.1"))
    );

    // Another one's cookie is another one's session; nobody's is nobody's.
    let mut stranger = site.browser();
    stranger.cookie = Some("session=guessed".into());
    assert_eq!(stranger.get("/customers").await.location.as_deref(), Some("/"));
    let copied = browser.clone();
    let out = browser.post("/logout", &[("form", &form)]).await;
    assert_eq!(out.status, 303, "{}", out.text);
    let mut copied = copied;
    assert_eq!(copied.get("/customers").await.location.as_deref(), Some("/"), "a copied cookie ends too");
    site.stop().await;
}

#[tokio::test]
async fn what_is_wrong_looks_the_same() {
    let site = Site::start().await;
    let mut alice = site.staff("alice").await;
    let bob = site.staff("bob").await;
    let mut browser = site.browser();
    // A wrong password, another's token, an answer that is none, an account that is none.
    let asked = begin(&mut browser, "alice").await;
    let answer = alice.agent_answer(&asked.area("request"));
    failed(&complete(&mut browser, &asked, &alice.passwords.wrong(), &answer).await);
    let asked = begin(&mut browser, "alice").await;
    let foreign = bob.agent_answer(&asked.area("request"));
    failed(&complete(&mut browser, &asked, &alice.passwords.take(), &foreign).await);
    let nonsense = ["", "{}", "null", r#"{"result":{"credential":"zz","signature":""}}"#, &"[".repeat(4000)];
    for (number, nonsense) in nonsense.iter().enumerate() {
        // Logins that fail count: ten for an account.
        let asked = begin(&mut browser, &format!("somebody-{number}")).await;
        failed(&complete(&mut browser, &asked, "123456", nonsense).await);
    }
    // What the helper could not do is said in its words, and nothing else of what it sent.
    let asked = begin(&mut browser, "alice").await;
    let told =
        r#"{"id":1,"error":{"reason":"TOKEN_PIN_WRONG","message":"the PIN is wrong: <b>2</b> tries"}}"#;
    let page = complete(&mut browser, &asked, "123456", told).await;
    assert_eq!(page.status, 401);
    assert!(page.text.contains("the PIN is wrong: &lt;b&gt;2&lt;/b&gt; tries"), "{}", page.text);
    let (known, unknown) = (begin(&mut browser, "alice").await, begin(&mut browser, "nobody").await);
    let shape = |page: &Page| {
        let request: Value = serde_json::from_str(&page.area("request")).unwrap();
        (page.status, request["params"]["credentials"].as_array().unwrap().len())
    };
    assert_eq!(shape(&known), shape(&unknown));
    let answer = alice.agent_answer(&unknown.area("request"));
    failed(&complete(&mut browser, &unknown, &alice.passwords.take(), &answer).await);
    failed(&begin(&mut browser, "no such name!").await);
    // The same answer twice: the challenge is used up, and so is the form.
    let asked = begin(&mut browser, "alice").await;
    let (answer, otp) = (alice.agent_answer(&asked.area("request")), alice.passwords.take());
    assert_eq!(complete(&mut browser.clone(), &asked, &otp, &answer).await.status, 303);
    assert_eq!(complete(&mut browser, &asked, &otp, &answer).await.status, 403);
    // A token that was revoked.
    let request = RevokeCredentialRequest {
        name: alice.account.clone(),
        credential: alice.token.credential().0.to_vec().into(),
        reason: "lost".into(),
    };
    let asked = begin(&mut browser, "alice").await;
    site.client.call(site.client.logins().revoke_credential(request)).await.unwrap();
    let answer = alice.agent_answer(&asked.area("request"));
    failed(&complete(&mut browser, &asked, &alice.passwords.take(), &answer).await);
    site.stop().await;
}

#[tokio::test]
async fn forms_of_others_and_too_large_ones_are_refused() {
    let site = Site::start().await;
    let mut alice = site.staff("alice").await;
    let mut browser = site.browser();
    browser.get("/").await;
    assert_eq!(browser.post("/login", &[("form", "guessed"), ("account", "alice")]).await.status, 403);
    assert_eq!(browser.post("/login", &[("account", "alice")]).await.status, 422);
    let mut without = site.browser();
    assert_eq!(without.post("/logout", &[("form", "x")]).await.status, 403);
    let form = browser.get("/").await.hidden("form");
    let large = "x".repeat(20 * 1024);
    assert_eq!(browser.post("/login", &[("form", &form), ("account", &large)]).await.status, 413);
    log_in(&mut browser, &mut alice).await;
    let form = browser.get("/customers").await.hidden("form");
    let long = "x".repeat(300);
    assert_eq!(
        browser.post("/customers", &[("form", &form), ("name", &long), ("phone", "1")]).await.status,
        400
    );
    assert_eq!(
        browser.post("/customers", &[("form", "guessed"), ("name", "a"), ("phone", "1")]).await.status,
        403
    );
    site.stop().await;
}

/// Puts a token in SoftHSM on record for alice; answers what the commands say of it.
fn real_token(world: &World) -> Vec<String> {
    world.make_token("alice-token");
    let (module, pin) = (softhsm_module(), world.path("pin").display().to_string());
    let token = ["--module", &module, "--token", "alice-token", "--pin-file", &pin];
    let made = world.cli([&["token", "generate", "--name", "alice", "--login"], &token[..]].concat());
    assert!(made.status.success(), "{}", text(&made));
    enroll_by_hand(world, "alice", &token);
    token[..4].iter().map(|word| (*word).to_owned()).collect()
}

/// With a token that is not the test's: the helper as staff have it.
#[tokio::test]
async fn the_helper_signs_for_the_page() {
    let site = Site::start().await;
    let mut alice = site.staff("alice").await;
    let world = &site.world;
    let token = real_token(world);
    let pin = world.path("pin");
    let mut command = world.command("keyward");
    command.args(["token", "agent", "--origin", ORIGIN]).args(token).arg("--pin-file").arg(pin);
    let mut agent = Agent::start(&mut command);
    let mut browser = site.browser();
    let asked = begin(&mut browser, "alice").await;
    let request: Value = serde_json::from_str(&asked.area("request")).unwrap();
    let answer = agent.ask(&request);
    agent.end();
    let done = complete(&mut browser, &asked, &alice.passwords.take(), &json!(answer).to_string()).await;
    assert_eq!(done.status, 303, "{}", done.text);
    assert!(browser.get("/").await.text.contains("<strong>alice</strong>"));
    site.stop().await;
}

/// What a browser sends before each message, and gets.
fn frame(message: &Value) -> Vec<u8> {
    let message = message.to_string();
    #[expect(clippy::host_endian_bytes, reason = "native messaging is between programs of one machine")]
    let length = u32::try_from(message.len()).unwrap().to_ne_bytes();
    [&length[..], message.as_bytes()].concat()
}

fn frames(mut bytes: &[u8]) -> Vec<Value> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        #[expect(clippy::host_endian_bytes, reason = "native messaging is between programs of one machine")]
        let (message, rest) = rest.split_at(u32::from_ne_bytes(*length) as usize);
        messages.push(serde_json::from_slice(message).unwrap());
        bytes = rest;
    }
    messages
}

/// A browser's helper has no terminal: a window shows what is signed, and asks for the PIN. What a real browser
/// makes of it: tests/all/chromium.rs.
#[tokio::test]
async fn a_browser_drives_the_helper() {
    let site = Site::start().await;
    let mut alice = site.staff("alice").await;
    let world = &site.world;
    let token = real_token(world);
    let person = Person::who_knows(&world.path("pin"), &world.path("desk"));
    let window = person.window.display().to_string();
    let arguments = ["token", "agent", "--native-messaging", "--origin", ORIGIN, "--pinentry", &window];
    let mut words: Vec<&str> = arguments.to_vec();
    words.extend(token.iter().map(String::as_str));
    // A browser says who starts it.
    words.push("chrome-extension://abcdefghijklmnop/");
    let mut browser = site.browser();
    let asked = begin(&mut browser, "alice").await;
    let mut request: Value = serde_json::from_str(&asked.area("request")).unwrap();
    let mut input = frame(&request);
    request["page"] = json!("https://evil.example");
    input.extend(frame(&request));
    request["page"] = json!(ORIGIN);
    input.extend(frame(&request));
    // Who sits here is told to no other page either.
    input.extend(frame(&json!({ "id": 7, "method": "list" })));
    input.extend(frame(&json!({ "id": 8, "method": "list", "page": "https://evil.example" })));
    input.extend(frame(&json!({ "id": 9, "method": "list", "page": ORIGIN })));
    let output = world.cli_with_input(&words, &input);
    assert!(output.status.success(), "{}", text(&output));
    let answers = frames(&output.stdout);
    assert_eq!(answers.len(), 6);
    assert!(answers[3]["error"]["message"].as_str().unwrap().contains("does not say from which page"));
    assert!(answers[4]["error"]["message"].as_str().unwrap().contains("none of --origin"));
    assert!(answers[5]["result"]["tokens"].is_array(), "{}", answers[5]);
    assert!(answers[0]["error"]["message"].as_str().unwrap().contains("does not say from which page"));
    assert!(answers[1]["error"]["message"].as_str().unwrap().contains("another application"));
    let shown = person.has_read();
    assert!(shown.contains("log in as alice to https://crm.example"), "{shown}");
    let done = complete(&mut browser, &asked, &alice.passwords.take(), &answers[2].to_string()).await;
    assert_eq!(done.status, 303, "{}", done.text);
    // Too long, and cut.
    for (bytes, word) in [(&[0xff; 8][..], "longer than 64 KiB"), (&frame(&json!({}))[..5], "is cut")] {
        let output = world.cli_with_input(&words, bytes);
        assert!(!output.status.success() && text(&output).contains(word), "{}", text(&output));
    }
    site.stop().await;
}
