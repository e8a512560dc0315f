//! The attackers, and the echo that they attack in the control: each a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use keyward_softhsm_tests::{World, binary, eventually_now, set_mode, text};
use rusqlite::Connection;
use serde_json::Value;

use crate::{GREEDY, STRANGER};

/// Whom the attackers attack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The daemon, and its store.
    Daemon,
    /// The echo, and a copy of the store.
    Control,
}

/// The echo; killed when dropped.
pub(crate) struct Echo {
    child: Child,
    socket: PathBuf,
}

impl Echo {
    pub(crate) fn start(world: &World) -> Self {
        let socket = world.path("echo");
        let child = Command::new(binary("keyward-echo")).arg(&socket).stdin(Stdio::null()).spawn().unwrap();
        let echo = Self { child, socket };
        eventually_now("the echo's socket", || echo.socket.exists().then_some(()));
        set_mode(&echo.socket, 0o666);
        echo
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The three attackers; they end by themselves when this process does.
pub(crate) struct Attackers {
    stranger: Child,
    greedy: Child,
    rewriter: Child,
}

/// What they say that they did.
pub(crate) struct Told {
    pub(crate) stranger: Value,
    pub(crate) greedy: Value,
    pub(crate) rewriter: Value,
}

impl Attackers {
    pub(crate) fn start(world: &World, echo: &Echo, target: Target) -> Self {
        let (socket, store) = match target {
            Target::Daemon => (world.socket(), store(world)),
            Target::Control => {
                let copy = world.path("copy.db");
                copy_store(world, &copy);
                (echo.socket.clone(), copy)
            }
        };
        let call = |uid: u32, who: &str| attacker(&["call", &name(&socket), &uid.to_string(), who]);
        Self {
            stranger: call(STRANGER, "stranger"),
            greedy: call(GREEDY, "greedy"),
            rewriter: attacker(&["rewrite", &name(&store), &name(&world.path("older.db"))]),
        }
    }

    /// Ends them; the rewriter has put everything back then.
    pub(crate) fn end(self) -> Told {
        Told { stranger: ended(self.stranger), greedy: ended(self.greedy), rewriter: ended(self.rewriter) }
    }
}

/// Copies the store as it is now, whatever stood there.
pub(crate) fn copy_store(world: &World, copy: &Path) {
    if copy.exists() {
        std::fs::remove_file(copy).unwrap();
    }
    let connection = Connection::open(store(world)).unwrap();
    connection.busy_timeout(keyward_softhsm_tests::PATIENCE).unwrap();
    connection.execute("VACUUM INTO ?1", [name(copy)]).unwrap();
}

fn store(world: &World) -> PathBuf {
    world.path("state/store.db")
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn attacker(words: &[&str]) -> Child {
    let mut command = Command::new(binary("soak-attacker"));
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn ended(child: Child) -> Value {
    // Its standard input is closed first, which is the sign to end.
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = said.lines().last().unwrap_or_else(|| panic!("{}", text(&output)));
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}"))
}
