//! The web login of examples/web-login as staff have it: Chromium with the extension, the helper that it starts, and
//! a PIV card.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use keyward::client::Client;
use keyward::rpc::proto::{CreateAccountRequest, UpdateAccountRequest};
use keyward_softhsm_tests::chromium::Chromium;
use keyward_softhsm_tests::person::Person;
use keyward_softhsm_tests::piv::{Card, PIN, Readers};
use keyward_softhsm_tests::staff::{Passwords, enroll_by_hand, one_time_passwords};
use keyward_softhsm_tests::{Daemon, KEY, World, binary, create_key, set_mode, text};
use serde_json::Value;

/// In the network of the readers nothing else listens.
const SITE: &str = "http://127.0.0.1:8080";
/// Another application, to which the extension belongs too.
const OTHER: &str = "http://127.0.0.1:8081";

/// Of her card.
const SERIAL: u32 = 10_000_001;

struct Site(Child);

impl Site {
    fn start(world: &World, readers: &Readers, url: &str) -> Self {
        let mut process = readers
            .command(binary("web-login"))
            .args(["--socket", &world.socket().display().to_string(), "--key", KEY])
            .args(["--listen", url.trim_start_matches("http://")])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), format!("web-login: {url}"));
        Self(process)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Alice of level 2, with a key in the card that is in the reader.
async fn alice(world: &World, client: &Client) -> Passwords {
    let account = "accounts/alice";
    let request = CreateAccountRequest { name: account.into(), ..Default::default() };
    client.call(client.logins().create_account(request)).await.unwrap();
    let request = UpdateAccountRequest { name: account.into(), level: Some(2), ..Default::default() };
    client.call(client.logins().update_account(request)).await.unwrap();
    let pin = world.path("card-pin").display().to_string();
    let card = ["--piv", "--pin-file", &pin];
    let make =
        ["token", "generate", "--name", "alice", "--login", "--touch", "never", "--factory-management-key"];
    let made = world.cli([&make[..], &card].concat());
    assert!(made.status.success(), "{}", text(&made));
    enroll_by_hand(world, "alice", &card);
    one_time_passwords(client, account).await
}

/// The files of the example, with what its README says to change.
fn install(world: &World, profile: &Path, extension: &str) {
    let example = example();
    let read = |name: &str| std::fs::read_to_string(example.join(name)).unwrap();
    let host = world.path("desk/agent-host");
    keyward_softhsm_tests::copy_program(&example.join("agent-host"), &host);
    let script = read("agent-host")
        .replace("https://crm.example.com", SITE)
        .replace("/usr/bin/keyward", &binary("keyward").display().to_string())
        .replace("/usr/bin/pinentry", &world.path("desk/pinentry").display().to_string());
    std::fs::write(&host, script).unwrap();
    let manifest = read("io.keyward.agent.json")
        .replace("THE-ID-OF-THE-EXTENSION", extension)
        .replace("/usr/local/libexec/keyward/agent-host", &host.display().to_string());
    let hosts = profile.join("NativeMessagingHosts");
    std::fs::create_dir_all(&hosts).unwrap();
    std::fs::write(hosts.join("io.keyward.agent.json"), manifest).unwrap();
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/web-login/extension")
}

/// The search path of somebody who put programs of these names first in it: nothing starts them.
fn path(desk: &Path) -> OsString {
    let trap = desk.join("trap");
    std::fs::create_dir(&trap).unwrap();
    for name in ["keyward", "pinentry"] {
        std::fs::write(trap.join(name), "#!/bin/sh\nexit 9\n").unwrap();
        set_mode(&trap.join(name), 0o755);
    }
    let all = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(trap).chain(std::env::split_paths(&all))).unwrap()
}

/// What the helper answered: the page says so where its state stands.
const ANSWER: &str = "new Promise(done => {
    const [state, answer] = ['#state', '#answer'].map(name => document.querySelector(name));
    const look = () => answer.value && done(answer.value);
    new MutationObserver(look).observe(state, { childList: true });
    look();
})";

/// What the page says when the helper did not sign: then it offers to try again.
const FAILURE: &str = "new Promise(done => {
    const [state, again] = ['#state', '#again'].map(name => document.querySelector(name));
    const look = () => again.hidden || done(state.textContent);
    new MutationObserver(look).observe(again, { attributes: true });
    new MutationObserver(look).observe(state, { childList: true });
    look();
})";

/// Alice at her desk: a card in the reader, a browser with the extension, two applications, and the daemon.
struct Desk {
    world: World,
    readers: Readers,
    card: Option<Card>,
    daemon: Daemon,
    passwords: Passwords,
    person: Person,
    browser: Chromium,
    _sites: [Site; 2],
}

impl Desk {
    async fn new() -> Self {
        let mut world = World::new();
        let readers = Readers::start(&mut world);
        world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{SITE}\"\n"));
        world.write_secret("card-pin", PIN);
        let root = readers.authority().join("root.pem");
        let card = Some(readers.insert(0, "alice", SERIAL));
        let accepted =
            format!("[login]\nattestation_roots = [\"{}\"]\nminimum_firmware = \"5.2.0\"\n", root.display());
        world.reconfigure("[login]\n", &accepted);
        world.init();
        let daemon = world.start().await;
        let client = daemon.client().await;
        create_key(&client, "acme", "customer-pii").await;
        let passwords = alice(&world, &client).await;
        let sites = [SITE, OTHER].map(|url| Site::start(&world, &readers, url));
        let person = Person::who_knows(&world.path("card-pin"), &world.path("desk"));
        let mut browser = Chromium::start(&readers, &path(&world.path("desk"))).await;
        let extension = browser.load_extension(&example()).await;
        install(&world, browser.profile(), &extension);
        Self { world, readers, card, daemon, passwords, person, browser, _sites: sites }
    }

    /// She types her account, and sees the page that has the helper sign.
    async fn begin(&mut self) {
        self.browser.open(SITE).await;
        self.browser.enter("#account", "alice").await;
        self.browser.press("button").await;
    }

    /// She types her one-time password, once the helper has signed; answers what she sees then.
    async fn finish(&mut self) -> String {
        let answer = self.browser.run(ANSWER).await;
        let signed: Value = serde_json::from_str(answer.as_str().unwrap()).unwrap();
        assert!(signed["result"]["signature"].is_string(), "{signed}");
        self.browser.enter("#otp", &self.passwords.take()).await;
        self.browser.press("#send").await;
        self.browser.text().await
    }

    async fn leave(self) {
        self.browser.close().await;
        assert!(self.daemon.stop().await.success(), "{}", self.world.log());
    }
}

#[tokio::test]
async fn a_staff_member_logs_in_with_a_card_in_a_browser() {
    let mut desk = Desk::new().await;
    desk.begin().await;
    let challenge = desk.browser.run("document.querySelector('#request').value").await;
    let home = desk.finish().await;
    assert!(home.contains("You are alice, level 2."), "{home}");
    let shown = desk.person.has_read();
    assert!(shown.contains(&format!("log in as alice to {SITE}")), "{shown}");

    // Her work, which has a proof by the session with each call.
    let browser = &mut desk.browser;
    browser.open(&format!("{SITE}/customers")).await;
    browser.enter("#name", "Bob <b>").await;
    browser.enter("#phone", "0912 345 678").await;
    browser.press("button").await;
    let customers = browser.text().await;
    assert!(customers.contains("Bob <b>\t0912 345 678"), "{customers}");
    browser.open(SITE).await;
    browser.press("button").await;
    assert!(browser.text().await.contains("Log in"));

    // Another page that got hold of her challenge: the browser says where it is, and nobody is asked for a PIN.
    browser.open(OTHER).await;
    let script = format!(
        "new Promise(done => {{
            addEventListener('message', event => event.data?.type === 'keyward-signed' && done(event.data.answer));
            postMessage({{ type: 'keyward-login', request: {} }}, location.origin);
        }})",
        challenge.as_str().unwrap()
    );
    let refused = browser.run(&script).await;
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(OTHER) && message.contains("another application"), "{refused}");
    assert_eq!(desk.person.has_read(), shown);
    desk.leave().await;
}

#[tokio::test]
async fn a_card_that_is_not_there_is_asked_again() {
    let mut desk = Desk::new().await;
    desk.card.take().unwrap().remove();
    desk.readers.wait_for(0, false);
    desk.begin().await;
    let state = desk.browser.run(FAILURE).await;
    assert!(state.as_str().unwrap().contains("no token is plugged in"), "{state}");
    // By hand it goes on too: what is typed wakes the button.
    assert_eq!(desk.browser.run("byHand.open && send.disabled").await, true);
    desk.browser.enter("#answer", "{}").await;
    assert_eq!(desk.browser.run("send.disabled").await, false);
    desk.card = Some(desk.readers.insert(0, "alice", SERIAL));
    desk.browser.run("answer.value = ''; again.click()").await;
    let home = desk.finish().await;
    assert!(home.contains("You are alice"), "{home}");
    desk.leave().await;
}
