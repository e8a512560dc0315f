//! PIV cards in readers, all in software: a PC/SC daemon in namespaces of its own, and cards that can
//! be inserted, touched and pulled out.
//!
//! The cards are processes of `softhsm-tests/piv-card`; everything between them and Keyward is what
//! is there with real tokens too.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{World, binary, eventually_now};

/// PIN of a card whose holder has one.
pub const PIN: &str = "502917";
/// PUK of such a card: what sets a new PIN when that is blocked.
pub const PUK: &str = "61840275";
/// PIN of a card that comes from the factory.
pub const FACTORY_PIN: &str = "123456";
/// PUK of such a card.
pub const FACTORY_PUK: &str = "12345678";
/// How many cards can be inserted at a time.
pub const READERS: u16 = 2;

/// A PC/SC daemon and its readers; they end when it is dropped.
pub struct Readers {
    folder: PathBuf,
    /// Runs `cat`: it ends when this process does.
    inside: Child,
}

/// A card in a reader; pulled out when dropped. What it holds stays in its folder.
pub struct Card {
    folder: PathBuf,
    process: Child,
}

impl Readers {
    /// Starts them, with two empty readers, for the command line of a world.
    pub fn start(world: &mut World) -> Self {
        let folder = world.path("pcsc");
        std::fs::create_dir_all(&folder).expect("a folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pcsc.sh");
        let mut inside = Command::new(script)
            .arg(&folder)
            .arg("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("pcsc.sh");
        inside.stdin.as_mut().expect("piped").write_all(b"ready\n").expect("pcsc.sh: see its message above");
        let mut line = String::new();
        let output = inside.stdout.as_mut().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("pcsc.sh");
        assert_eq!(line, "ready\n", "pcsc.sh ended: see its message above");
        let readers = Self { folder, inside };
        world.cli_launcher = readers.launcher();
        readers
    }

    /// What starts a program that sees the readers.
    pub fn launcher(&self) -> Vec<String> {
        let target = self.inside.id().to_string();
        let mut words = vec!["nsenter", "--target", &target, "--net", "--mount"];
        if !rustix::process::getuid().is_root() {
            words.extend(["--user", "--preserve-credentials"]);
        }
        words.push("--");
        words.into_iter().map(str::to_owned).collect()
    }

    /// A program that sees the readers.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let launcher = self.launcher();
        let mut command = Command::new(&launcher[0]);
        command.args(&launcher[1..]).arg(program.as_ref());
        command
    }

    /// Inserts the card that is kept under a name, a new one if there is none, into reader 0 or 1.
    pub fn insert(&self, reader: u16, name: &str, serial: u32) -> Card {
        self.insert_with(reader, name, serial, &[])
    }

    /// The same, with more options of `piv-card`.
    pub fn insert_with(&self, reader: u16, name: &str, serial: u32, options: &[&str]) -> Card {
        self.insert_new(reader, name, serial, &[&["--pin", PIN, "--puk", PUK], options].concat())
    }

    /// The same, as a card comes from the factory.
    pub fn insert_new(&self, reader: u16, name: &str, serial: u32, options: &[&str]) -> Card {
        assert!(reader < READERS);
        let folder = self.folder.join(name);
        let process = self
            .command(binary("piv-card"))
            .args(["--port", &(35963 + reader).to_string(), "--serial", &serial.to_string()])
            .arg("--state")
            .arg(&folder)
            .arg("--authority")
            .arg(self.authority())
            .args(options)
            .stdin(Stdio::null())
            .spawn()
            .expect("piv-card");
        let card = Card { folder, process };
        self.wait_for(reader, true);
        card
    }

    /// Waits until a reader has a card, or none.
    pub fn wait_for(&self, reader: u16, card: bool) {
        let wanted = format!("{reader}    {}", if card { "Yes" } else { "No" });
        eventually_now(&format!("reader {wanted}"), || {
            let listed = self.command("opensc-tool").arg("--list-readers").output().expect("opensc-tool");
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            listed.lines().any(|line| line.starts_with(&wanted)).then_some(())
        });
    }

    /// Folder with `root.pem`, the root that attests to the cards.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("authority")
    }

    /// What the PC/SC daemon wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("pcscd.log")).unwrap_or_default()
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // It may have ended already.
        self.inside.kill().ok();
        self.inside.wait().ok();
    }
}

impl Card {
    /// The user touches it, or no longer does.
    pub fn touch(&self, touches: bool) {
        let file = self.folder.join("touch");
        match touches {
            true => std::fs::write(file, "").expect("a file"),
            false => std::fs::remove_file(file).expect("a file"),
        }
    }

    /// Waits until it waits for a touch.
    pub fn blinks(&self) {
        eventually_now("a card that waits for a touch", || self.folder.join("blinks").exists().then_some(()));
    }

    /// It misbehaves from now on: one of the words in `piv-card/src/trouble.rs`.
    pub fn trouble(&self, word: &str) {
        let new = self.folder.join("trouble.new");
        std::fs::write(&new, word).expect("a file");
        std::fs::rename(new, self.folder.join("trouble")).expect("a file");
    }

    /// It behaves again.
    pub fn well(&self) {
        std::fs::remove_file(self.folder.join("trouble")).expect("a file");
    }

    /// Pulls it out.
    pub fn remove(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.end();
    }
}
