//! Chromium, driven over the DevTools protocol through a pipe: JSON that ends in a zero byte, requests on its
//! descriptor 3, answers and events on 4 (<https://chromedevtools.github.io/devtools-protocol/>). It can load
//! extensions, and ends when this ends.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::PATIENCE;
use crate::piv::Readers;

/// The program itself: the wrapper in `/usr/bin` leaves it running when it is killed.
const PROGRAM: &str = "/usr/lib/chromium/chromium";
const OPTIONS: [&str; 11] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--enable-unsafe-extension-debugging",
    // In namespaces of its own already, and the pages are ours.
    "--no-sandbox",
    "--disable-gpu",
    // Containers have little of it.
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--password-store=basic",
];

/// A browser with one page.
pub struct Chromium {
    process: Child,
    /// On a disk: it becomes large.
    profile: TempDir,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Of the page; empty until there is one.
    session: String,
    sent: u64,
    /// Pages that were loaded and not waited for.
    loaded: u32,
}

impl Chromium {
    /// Starts it where the readers are; it finds programs in the folders of `path`.
    ///
    /// # Panics
    /// Where it is not installed.
    pub async fn start(readers: &Readers, path: &OsStr) -> Self {
        let profile = TempDir::with_prefix_in("kw-", "/tmp").expect("a temporary folder");
        let mut command = readers.command("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                "sh",
                "-c",
                "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1",
                "sh",
            ])
            .arg(PROGRAM)
            .args(OPTIONS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("PATH", path);
        let mut browser = Self::spawn(command, profile);
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        attached["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        browser.call("Page.enable", json!({})).await;
        browser
    }

    fn spawn(mut command: Command, profile: TempDir) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .expect("Chromium: run softhsm-tests/scripts/setup.sh");
        let requests = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, profile, requests, answers, session: String::new(), sent: 0, loaded: 0 }
    }

    /// The folder of its profile.
    pub fn profile(&self) -> &Path {
        self.profile.path()
    }

    /// Loads an extension from its folder; answers its id.
    pub async fn load_extension(&mut self, folder: &Path) -> String {
        let session = std::mem::take(&mut self.session);
        let loaded = self.call("Extensions.loadUnpacked", json!({ "path": folder })).await;
        self.session = session;
        loaded["id"].as_str().expect("an id").to_owned()
    }

    /// Opens a page.
    pub async fn open(&mut self, url: &str) {
        self.loaded = 0;
        let opened = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        self.wait_for_page().await;
    }

    /// Presses what leads to another page.
    pub async fn press(&mut self, selector: &str) {
        self.loaded = 0;
        self.run(&format!("document.querySelector({}).click()", json!(selector))).await;
        self.wait_for_page().await;
    }

    /// Types into a field.
    pub async fn enter(&mut self, selector: &str, typed: &str) {
        self.run(&format!("document.querySelector({}).focus()", json!(selector))).await;
        self.call("Input.insertText", json!({ "text": typed })).await;
    }

    /// Everything that can be read on the page.
    pub async fn text(&mut self) -> String {
        self.run("document.body.innerText").await.as_str().expect("a text").to_owned()
    }

    /// Runs a script in the page; answers what it does, or what it promises.
    pub async fn run(&mut self, script: &str) -> Value {
        let evaluate = json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let mut done = self.call("Runtime.evaluate", evaluate).await;
        assert!(done.get("exceptionDetails").is_none(), "{script}: {done}");
        done["result"]["value"].take()
    }

    /// Closes it, and waits until it has ended.
    pub async fn close(mut self) {
        self.session.clear();
        self.call("Browser.close", json!({})).await;
        let ended = timeout(PATIENCE, self.process.wait()).await;
        ended.expect("Chromium ends in time").expect("Chromium ends");
    }

    async fn wait_for_page(&mut self) {
        while self.loaded == 0 {
            self.next().await;
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let id = self.sent;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        let bytes = [request.to_string().as_bytes(), b"\0"].concat();
        self.requests.write_all(&bytes).await.expect("Chromium: run softhsm-tests/scripts/setup.sh");
        loop {
            let mut message = self.next().await;
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
        }
    }

    async fn next(&mut self) -> Value {
        let mut message = Vec::new();
        let read = timeout(PATIENCE, self.answers.read_until(0, &mut message)).await;
        read.expect("Chromium answers in time").expect("Chromium answers");
        assert_eq!(
            message.pop(),
            Some(0),
            "Chromium has ended: is it installed? see softhsm-tests/scripts/setup.sh"
        );
        let message: Value = serde_json::from_slice(&message).expect("JSON");
        if message["method"] == "Page.loadEventFired" {
            self.loaded += 1;
        }
        message
    }
}
