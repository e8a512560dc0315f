//! A real systemd over this machine's `/usr`, in which the shipped units run: `scripts/rig.sh`.
//!
//! What a test does in there it does as an administrator would, by the real tools. Answers are
//! `Result`s, so that a scenario that fails does not keep the next ones from running.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::{binary, text};

/// The unit of the daemon.
pub const SERVICE: &str = "keywardd.service";
/// The unit of its socket.
pub const SOCKET: &str = "keywardd.socket";

/// A booted system; powered off when dropped, and when this process ends in another way.
pub struct Rig {
    folder: TempDir,
    script: Child,
}

impl Rig {
    /// Boots one, in a second or two.
    ///
    /// # Panics
    /// When it does not boot: the message of `rig.sh`, before, says why and what to do.
    pub fn boot() -> Self {
        let folder = TempDir::with_prefix_in("kw-rig-", "/tmp").expect("a temporary folder");
        let mut script = Command::new(script())
            .arg("boot")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("rig.sh");
        let mut state = String::new();
        let output = script.stdout.as_mut().expect("piped");
        BufReader::new(output).read_line(&mut state).expect("rig.sh");
        let rig = Self { folder, script };
        // Another package's unit may fail in there; ours are not installed yet.
        let known = ["running\n", "degraded\n"];
        let own = std::env::current_exe().expect("the path of this program");
        assert!(
            known.contains(&state.as_str()),
            "rig.sh said {state:?}: see its message above; as root: sudo {}",
            own.display()
        );
        rig
    }

    /// How the boot ended: `running`, or `degraded` and the units that failed.
    pub fn state(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("ready")).unwrap_or_default()
    }

    /// Runs `make install-files` with the binaries of this build, as a package would have it: `/usr/local`
    /// is the one in there; what belongs into `/etc` waits in `/mnt/etc`.
    ///
    /// # Errors
    /// What `make` wrote.
    pub fn install(&self) -> Result<(), String> {
        let daemon = binary("keywardd");
        let built = daemon.parent().expect("a file lies in a folder");
        let output = Command::new("make")
            .args(["-s", "install-files", "PREFIX=/usr/local", "SYSCONFDIR=/etc"])
            .arg(format!("DESTDIR={}", self.destination().display()))
            .arg(format!("BUILT={}", built.display()))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            // Not a part of a `make test` that may have started us.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .output()
            .map_err(|error| format!("make: {error}"))?;
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    }

    /// The folder that is `/mnt` in there, and whose `usr/local` is `/usr/local`.
    pub fn destination(&self) -> PathBuf {
        self.folder.path().join("destination")
    }

    /// Runs a command as root, with something on its standard input, for a minute at most.
    pub fn run(&self, words: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(script())
            .arg("enter")
            .arg(self.folder.path())
            // Longer than the unit's TimeoutStopSec.
            .args(["timeout", "60"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rig.sh");
        // Short, so that it fits into the pipe; a program that does not read it closes it.
        child.stdin.take().expect("piped").write_all(input).ok();
        child.wait_with_output().expect("rig.sh")
    }

    /// Runs a command as root that must succeed; answers its standard output, without the last line's end.
    ///
    /// # Errors
    /// The command, its exit code and all that it wrote.
    pub fn root(&self, words: &[&str]) -> Result<String, String> {
        succeeded(words, &self.run(words, b""))
    }

    /// The same as another user, with all groups of that user.
    ///
    /// # Errors
    /// As [`root`](Self::root).
    pub fn user(&self, user: &str, words: &[&str], input: &str) -> Result<String, String> {
        let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
        let words = [&["setpriv", uid.as_str(), gid.as_str(), "--init-groups"][..], words].concat();
        succeeded(&words, &self.run(&words, input.as_bytes()))
    }

    /// Runs `keyward` like the service does: as its user, with its credential and environment.
    ///
    /// # Errors
    /// As [`root`](Self::root).
    pub fn as_keyward(&self, arguments: &[&str]) -> Result<String, String> {
        self.root(&[&["as_keyward"], arguments].concat())
    }

    /// Puts a program of this build into a folder in there, for root to write and all to run; answers its path.
    ///
    /// # Errors
    /// As [`root`](Self::root), and where it cannot be copied.
    pub fn place(&self, program: &Path, folder: &str) -> Result<String, String> {
        let name = program.file_name().ok_or("no program")?.to_string_lossy();
        std::fs::copy(program, self.destination().join(&*name))
            .map_err(|error| format!("{name}: {error}"))?;
        let path = format!("{folder}/{name}");
        self.root(&["install", "-D", "-m", "0755", &format!("/mnt/{name}"), &path])?;
        Ok(path)
    }

    /// Runs a command as root on a terminal of its own: whenever one of the texts is shown, its answer is typed. Answers what
    /// was shown.
    ///
    /// # Errors
    /// As [`root`](Self::root).
    pub fn terminal(&self, command: &str, answers: &[(&str, &str)]) -> Result<String, String> {
        let mut child = Command::new(script())
            .arg("enter")
            .arg(self.folder.path())
            .args(["timeout", "60", "script", "--quiet", "--return", "--command", command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let (mut keys, mut screen) =
            (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (mut shown, mut seen, mut piece) = (Vec::new(), 0, [0; 4096]);
        while let Ok(length) = screen.read(&mut piece) {
            if length == 0 {
                break;
            }
            shown.extend_from_slice(&piece[..length]);
            let new = String::from_utf8_lossy(&shown[seen..]).into_owned();
            if let Some((_, answer)) = answers.iter().find(|(prompt, _)| new.contains(prompt)) {
                seen = shown.len();
                // A program that has ended needs no answer.
                writeln!(keys, "{answer}").ok();
            }
        }
        drop(keys);
        let status = child.wait().map_err(|error| error.to_string())?;
        let shown = String::from_utf8_lossy(&shown).into_owned();
        if status.success() { Ok(shown) } else { Err(format!("`{command}` on a terminal: {shown}")) }
    }

    /// Writes a file, with its folder, for root alone unless `mode` says otherwise.
    ///
    /// # Errors
    /// As [`root`](Self::root).
    pub fn write(&self, path: &str, mode: &str, text: &str) -> Result<(), String> {
        // Through standard input: a secret stands in no list of processes.
        let words = ["install", "-D", "-m", mode, "/dev/stdin", path];
        succeeded(&words, &self.run(&words, text.as_bytes())).map(drop)
    }

    /// A property of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// As [`root`](Self::root).
    pub fn property(&self, unit: &str, name: &str) -> Result<String, String> {
        self.root(&["systemctl", "show", "--value", "--property", name, unit])
    }

    /// The lines of the journal about both units since the last call, and since the boot at the first one.
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "--sync"], b"");
        let (service, socket) = (format!("--unit={SERVICE}"), format!("--unit={SOCKET}"));
        let words = ["journalctl", "--cursor-file=/run/journal-cursor", "--output=short-precise", "--quiet"];
        let words = [&words[..], &["--no-pager", service.as_str(), socket.as_str()][..]].concat();
        String::from_utf8_lossy(&self.run(&words, b"").stdout).into_owned()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // It powers off when its standard input ends, and ends within a deadline of its own.
        drop(self.script.stdin.take());
        self.script.wait().ok();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rig.sh")
}

fn succeeded(words: &[&str], output: &Output) -> Result<String, String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let mut message = String::from("`");
    for word in words {
        write!(message, "{word} ").expect("a string");
    }
    Err(format!("{}`: {}", message.trim_end(), text(output)))
}
