//! The command line against a fake daemon, and its texts against golden files.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;
use crate::client::fake::{self, Fake, Running};

#[derive(Clone, Default)]
struct Buffer(Rc<RefCell<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

struct Bed {
    fake: Arc<Fake>,
    _running: Running,
    dir: tempfile::TempDir,
}

/// What a command printed, and its exit code.
struct Done {
    out: String,
    err: String,
    exit: u8,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::default());
        let running = fake::start(&dir.path().join("socket"), &fake);
        Self { fake, _running: running, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.name(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn run(&self, args: &[&str]) -> Done {
        self.run_on(args, false)
    }

    fn run_on(&self, args: &[&str], to_terminal: bool) -> Done {
        let cli = Cli::try_parse_from([&["keyward"], args].concat()).unwrap();
        let (out, err) = (Buffer::default(), Buffer::default());
        let print = Printer {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            json: cli.global.json,
            quiet: cli.global.quiet,
            to_terminal,
        };
        let mut shell = Shell::new(print, Some(self.path("socket")));
        let exit = block_on(cli.command.run(&mut shell));
        let exit = exit.unwrap_or_else(|failure| shell.print.failure(&failure));
        Done { out: out.text(), err: err.text(), exit: exit as u8 }
    }

    /// Runs a command that must succeed; answers with what it printed.
    fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert_eq!(done.exit, 0, "{args:?}: {}", done.err);
        done.out
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.log.lock().unwrap())
    }
}

const KEY: &str = "acme/pii";

#[test]
fn a_field_round_trips_as_text() {
    let bed = Bed::new();
    let sealed = bed.ok(&["encrypt", KEY, "13812345678", "--context", "column=phone"]);
    assert!(sealed.starts_with("kw1:") && sealed.ends_with('\n'), "{sealed}");
    let decrypt = |key, context| bed.run(&["decrypt", key, sealed.trim(), "--context", context]);
    assert_eq!(decrypt("tenants/acme/keys/pii", "column=phone").out, "13812345678");
    for refused in [decrypt(KEY, "column=fax"), decrypt("globex/pii", "column=phone")] {
        assert_eq!((refused.out.as_str(), refused.exit), ("", 6));
        assert!(refused.err.starts_with("keyward: error: refused: CIPHERTEXT_REFUSED\nkeyward: hint: check"));
    }
    let moved = bed.ok(&["re-encrypt", KEY, sealed.trim(), "--context", "column=phone", "--json"]);
    assert!(moved.contains("\"previous_version\": 1"), "{moved}");
}

/// Everybody can see it in /proc; what stands in an argument that is no secret needs no word.
#[test]
fn a_plaintext_in_an_argument_is_noted() {
    let bed = Bed::new();
    let sealed = bed.run(&["encrypt", KEY, "13812345678"]);
    assert_eq!(sealed.exit, 0);
    assert!(sealed.err.starts_with("keyward: the plaintext was an argument"), "{}", sealed.err);
    assert!(!sealed.err.contains("138"), "{}", sealed.err);
    assert_eq!(bed.run(&["encrypt", KEY, "13812345678", "--quiet"]).err, "");
    assert_eq!(bed.run(&["decrypt", KEY, sealed.out.trim()]).err, "");
}

#[test]
fn only_printable_plaintext_reaches_a_terminal() {
    let bed = Bed::new();
    let sealed = |text: &str| bed.ok(&["encrypt", KEY, text]).trim().to_owned();
    let shown = |text: &str| bed.run_on(&["decrypt", KEY, &sealed(text)], true);
    assert_eq!(shown("Zoë\n").out, "Zoë\n");
    assert_eq!(shown("Zoë").out, "Zoë\n");
    let refused = shown("\u{1b}[2J");
    assert_eq!((refused.out.as_str(), refused.exit), ("", 2));
    assert_eq!(bed.run(&["decrypt", KEY, &sealed("\u{1b}[2J")]).out, "\u{1b}[2J");
    assert_eq!(bed.run_on(&["encrypt", KEY, "x", "--raw"], true).exit, 2);
}

#[test]
fn text_that_is_no_ciphertext_is_refused_before_the_daemon_is_asked() {
    let bed = Bed::new();
    for text in ["", "kw1", "kw2:AAAA", "kw1:A", "kw1:AA==", "kw1:+/+/"] {
        let refused = bed.run(&["decrypt", KEY, text]);
        assert_eq!(refused.exit, 6, "{text}");
        assert!(refused.err.contains("not a ciphertext"), "{}", refused.err);
    }
    assert_eq!(bed.fake.seen.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_table_round_trips_byte_by_byte() {
    let bed = Bed::new();
    let file = "id,phone,\"note\"\r\n1,\"0912, 1\",a\r\n2,,\"b\"\"c\"\r\n\r\n";
    let customers = bed.write("customers.csv", file);
    let (sealed, opened, moved) = (bed.name("sealed.csv"), bed.name("opened.csv"), bed.name("moved.csv"));
    let csv = ["--csv", "--columns", "phone,note", "--context-from", "id", "--context", "table=customers"];
    let run = |verb, from: &str, to: &str| {
        bed.run(&[&[verb, KEY], &csv[..], &["--in", from, "--out", to]].concat())
    };
    let done = run("encrypt", &customers, &sealed);
    assert_eq!((done.exit, done.err.as_str()), (0, "keyward: encrypted 4 cells in 2 rows\n"));
    assert!(!bed.read("sealed.csv").contains("0912"));
    assert_eq!(run("re-encrypt", &sealed, &moved).exit, 0);
    assert_eq!(run("decrypt", &moved, &opened).exit, 0);
    assert_eq!(bed.read("opened.csv"), file);

    let again = run("decrypt", &sealed, &opened);
    assert_eq!(again.exit, 1);
    assert!(
        again.err.contains("exists already\nkeyward: hint: give another --out, or --force"),
        "{}",
        again.err
    );
}

#[test]
fn a_bad_cell_leaves_no_file_unless_told_to_go_on() {
    let bed = Bed::new();
    let plain = bed.write("plain.csv", "a,b\nx,y\n");
    let (sealed, opened) = (bed.name("sealed.csv"), bed.name("opened.csv"));
    bed.ok(&["encrypt", KEY, "--csv", "--columns", "a,b", "--in", &plain, "--out", &sealed]);
    let swapped = bed.read("sealed.csv").replacen("kw1:", "kw9:", 1);
    let swapped = bed.write("swapped.csv", swapped);
    let decrypt = ["decrypt", KEY, "--csv", "--columns", "a,b", "--in", &swapped, "--out", &opened];
    let refused = bed.run(&decrypt);
    assert_eq!(refused.exit, 6);
    assert!(
        refused.err.starts_with("keyward: error: line 2, column \"a\": not a ciphertext"),
        "{}",
        refused.err
    );
    assert_eq!(bed.names(), ["plain.csv", "sealed.csv", "socket", "swapped.csv"]);

    let partial = bed.run(&[&decrypt[..], &["--keep-going", "--json"]].concat());
    assert_eq!(partial.exit, 7);
    let last: serde_json::Value = serde_json::from_str(partial.err.lines().last().unwrap()).unwrap();
    assert_eq!(last["error"]["reason"], "PARTIAL");
    let summary: serde_json::Value = serde_json::from_str(&partial.out).unwrap();
    assert_eq!((&summary["cells"], &summary["failed"]), (&2.into(), &1.into()));
    let opened = bed.read("opened.csv");
    assert!(opened.starts_with("a,b\nkw9:") && opened.ends_with(",y\n"), "{opened}");
}

#[test]
fn a_file_round_trips_and_a_damaged_one_leaves_nothing() {
    let bed = Bed::new();
    let data = "0123456789".repeat(100_000);
    let (file, sealed, opened) = (bed.write("file", &data), bed.name("sealed"), bed.name("opened"));
    bed.ok(&["encrypt", KEY, "--in", &file, "--out", &sealed]);
    let done = bed.run(&["decrypt", KEY, "--in", &sealed, "--out", &opened, "--json"]);
    assert!(done.out.contains("\"bytes_out\": 1000000"), "{}", done.out);
    assert_eq!(bed.read("opened"), data);

    let mut damaged = std::fs::read(bed.path("sealed")).unwrap();
    damaged[900_000] = 0xff;
    let (damaged, lost) = (bed.write("damaged", damaged), bed.name("lost"));
    let refused = bed.run(&["decrypt", KEY, "--in", &damaged, "--out", &lost]);
    assert_eq!(refused.exit, 6);
    assert_eq!(bed.names(), ["damaged", "file", "opened", "sealed", "socket"]);
    assert_eq!(bed.run_on(&["decrypt", KEY, "--in", &sealed], true).exit, 2, "binary to a terminal");
    let missing = bed.run(&["encrypt", KEY, "--in", "/nowhere", "--out", &lost]);
    assert_eq!((missing.exit, missing.out.as_str()), (1, ""));
    assert!(missing.err.starts_with("keyward: error: cannot open /nowhere: "), "{}", missing.err);
}

#[test]
fn data_keys_and_indexes_are_text() {
    let bed = Bed::new();
    let made = bed.ok(&["data-key", "generate", KEY, "--with-plaintext", "--context", "file=7"]);
    let (sealed, key) = made.trim().split_once('\n').unwrap();
    let opened = bed.ok(&["data-key", "decrypt", KEY, sealed, "--context", "file=7"]);
    assert_eq!(opened.trim(), key);
    assert_eq!(bed.ok(&["data-key", "generate", KEY]).lines().count(), 1, "no key in the clear");
    let index = bed.ok(&["index", "compute", KEY, "phone", "0912", "--normalize", "digits"]);
    assert_eq!(index.trim().len(), 40);
}

#[test]
fn each_command_asks_for_what_it_says() {
    let bed = Bed::new();
    for (args, parts) in [
        (
            &["tenant", "create", "acme", "--display-name", "ACME"][..],
            &["CreateTenant", "\"acme\"", "\"ACME\""][..],
        ),
        (
            &["tenant", "rename", "acme", "New"],
            &["UpdateTenant", "\"tenants/acme\"", "\"New\"", "[\"display_name\"]"],
        ),
        (&["tenant", "rotate", "acme"], &["RotateTenant", "\"tenants/acme\""]),
        (&["tenant", "rotation", "show", "acme/2"], &["GetRotation", "\"tenants/acme/rotations/2\""]),
        (&["tenant", "keks", "acme"], &["ListKekVersions", "\"tenants/acme\""]),
        (&["tenant", "freeze", "acme", "--reason", "r"], &["FreezeRequest", "\"tenants/acme\"", "\"r\""]),
        (
            &["key", "create", KEY, "--class", "3"],
            &["CreateKey", "\"tenants/acme\"", "\"pii\"", "data_class: 3"],
        ),
        (
            &["key", "enable", KEY],
            &["UpdateKey", "\"tenants/acme/keys/pii\"", "state: Active", "[\"state\"]"],
        ),
        (&["key", "disable", KEY], &["UpdateKey", "state: Disabled"]),
        (&["key", "decrypt-only", KEY], &["UpdateKey", "state: DecryptOnly"]),
        (&["key", "set-class", KEY, "3"], &["UpdateKey", "data_class: 3", "[\"data_class\"]"]),
        (
            &[
                "key",
                "update",
                KEY,
                "--rotate-every",
                "90d",
                "--rotate-after-uses",
                "17",
                "--min-version",
                "2",
            ],
            &["UpdateKey", "seconds: 7776000", "rotation_uses: 17", "min_version: 2", "rotation_period"],
        ),
        (&["key", "update", KEY, "--rotate-every", "never"], &["UpdateKey", "rotation_period: None"]),
        (&["tenant", "update", "acme", "--rotate-every", "1d"], &["UpdateTenant", "seconds: 86400"]),
        (
            &["key", "destroy", KEY, "--reason", "r", "--delay", "7d", "--yes"],
            &["ScheduleDestroy", "\"tenants/acme/keys/pii\"", "seconds: 604800", "\"r\""],
        ),
        (&["tenant", "destroy", "acme", "--reason", "r", "--yes"], &["ScheduleDestroy", "delay: None"]),
        (
            &["version", "cancel-destroy", "acme/pii/2", "--reason", "r"],
            &["CancelDestroy", "keys/pii/versions/2\""],
        ),
        (
            &["version", "create", KEY, "--activate", "2027-01-01T00:00:00Z"],
            &["CreateKeyVersion", "seconds: 1798761600"],
        ),
        (&["reload"], &["Reload"]),
        (&["clock", "accept", "--reason", "r"], &["AcceptClock", "\"r\""]),
        (&["key", "rotate", KEY], &["RotateKey", "\"tenants/acme/keys/pii\""]),
        (&["key", "versions", KEY], &["ListKeyVersions", "\"tenants/acme/keys/pii\""]),
        (&["key", "unfreeze", KEY, "--reason", "r"], &["UnfreezeRequest", "\"tenants/acme/keys/pii\""]),
        (
            &["version", "disable", "acme/pii/2"],
            &["UpdateKeyVersion", "keys/pii/versions/2\"", "state: Disabled"],
        ),
        (&["version", "show", "acme/pii/2"], &["GetKeyVersion", "\"tenants/acme/keys/pii/versions/2\""]),
        (&["principal", "freeze", "web", "--reason", "r"], &["FreezeRequest", "\"principals/web\""]),
        (&["index", "rotate", KEY, "phone"], &["RotateIndexKey", "\"phone\""]),
    ] {
        bed.ok(args);
        let log = bed.log();
        assert_eq!(log.len(), 1, "{args:?}: {log:?}");
        for part in parts {
            assert!(log[0].contains(part), "{args:?}: no {part} in {}", log[0]);
        }
    }
}

#[test]
fn results_are_tables_or_json() {
    let bed = Bed::new();
    golden("key-list", &bed.ok(&["key", "list", "acme"]));
    golden("key-show", &bed.ok(&["key", "show", KEY]));
    golden("rotate-wait", &bed.ok(&["tenant", "rotate", "acme", "--wait"]));
    golden("tenants.json", &bed.ok(&["tenant", "list", "--json"]));
    golden("status", &bed.ok(&["status"]));
}

#[test]
fn without_a_daemon_the_error_says_so() {
    let bed = Bed::new();
    std::fs::remove_file(bed.path("socket")).unwrap();
    let refused = bed.run(&["status"]);
    assert_eq!((refused.exit, refused.out.as_str()), (5, ""));
    golden("no-daemon", &refused.err.replace(bed.dir.path().to_str().unwrap(), "/run/keyward"));
    let json: serde_json::Value = serde_json::from_str(&bed.run(&["status", "--json"]).err).unwrap();
    assert_eq!(
        (&json["error"]["code"], &json["error"]["reason"]),
        (&"Unavailable".into(), &"UNREACHABLE".into())
    );
}

#[test]
fn help_fits_on_one_screen_with_an_example() {
    let mut root = Cli::command().term_width(100);
    root.build();
    golden("help", &root.render_help().to_string());
    golden("help-encrypt", &root.find_subcommand_mut("encrypt").unwrap().render_help().to_string());
    check_help(&mut root, "keyward");
}

fn check_help(command: &mut clap::Command, path: &str) {
    let help = command.render_help().to_string();
    assert!(help.lines().count() <= 50, "{path}: {} lines", help.lines().count());
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{path}: a line is too long");
    let is_leaf = command.get_subcommands().next().is_none();
    assert!(!is_leaf || help.contains("Example"), "{path}: no example");
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        check_help(sub, &path);
    }
}

#[test]
fn examples_in_help_are_valid() {
    fn examples(command: &clap::Command, found: &mut Vec<String>) {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let text = text.replace("\\\n", " ");
        let lines = text.lines().filter_map(|line| Some(&line[line.find("keyward ")?..]));
        found.extend(lines.filter(|line| !line.contains('`')).map(str::to_owned));
        command.get_subcommands().for_each(|sub| examples(sub, found));
    }
    let mut found = Vec::new();
    examples(&Cli::command(), &mut found);
    assert!(found.len() > 30, "{found:?}");
    for example in found {
        let line = example.split([';', '>', '<']).next().unwrap().replace('\'', "\"");
        let mut words: Vec<String> = Vec::new();
        for (n, part) in line.split('"').enumerate() {
            if n % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{example}: {error}"));
    }
}

#[test]
fn wrong_usage_is_told_apart_from_help() {
    let kind = |args: &[&str]| Cli::try_parse_from([&["keyward"], args].concat()).unwrap_err().kind();
    assert_eq!(kind(&["encrypt", KEY, "text", "--in", "f"]), ErrorKind::ArgumentConflict);
    assert_eq!(kind(&["encrypt", KEY, "--csv"]), ErrorKind::MissingRequiredArgument);
    assert_eq!(kind(&["key", "create", "acme"]), ErrorKind::ValueValidation);
    assert_eq!(kind(&["key", "create", KEY, "--class", "4"]), ErrorKind::ValueValidation);
    assert_eq!(kind(&["--version"]), ErrorKind::DisplayVersion);

    let (out, err) = (Buffer::default(), Buffer::default());
    let mut print = Printer {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
        json: false,
        quiet: false,
        to_terminal: false,
    };
    let error = Cli::try_parse_from(["keyward", "key", "create", "acme"]).unwrap_err();
    assert_eq!(usage(&error, &mut print) as u8, 2);
    golden("usage", &err.text());
    // In JSON it is one text, which says what is missing.
    let err = Buffer::default();
    print = Printer { err: Box::new(err.clone()), json: true, ..print };
    usage(&Cli::try_parse_from(["keyward", "account", "revoke", "alice"]).unwrap_err(), &mut print);
    let told: serde_json::Value = serde_json::from_str(&err.text()).unwrap();
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.contains("--reason") && message.contains("<CREDENTIAL>"), "{message}");
    assert!(!message.contains("Usage") && !message.contains("--help"), "{message}");
    print.json = false;
    assert_eq!(usage(&Cli::try_parse_from(["keyward", "--help"]).unwrap_err(), &mut print) as u8, 0);
    assert!(out.text().contains("Usage: keyward"), "{}", out.text());
}

/// Compares with a golden file; `KEYWARD_BLESS=1` writes it.
fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/golden").join(name);
    if std::env::var_os("KEYWARD_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{name} differs from its golden file");
}

/// What works on the daemon's own files, so that root or an operator, who runs it as themselves, is refused.
const FOR_THE_SERVICE: [&[&str]; 7] = [
    &["init"],
    &["store", "import"],
    &["store", "accept-rollback"],
    &["hsm", "clear-refused-pin"],
    &["backup", "restore"],
    &["backup", "drill"],
    &["root", "restore"],
];

/// Labels of keys on tokens, which begin like a command.
const LABELS: [&str; 4] = ["kek", "sign", "agree", "login"];

/// The commands that a page names: in backticks, and after a prompt.
fn commands(text: &str) -> Vec<String> {
    let prompted = text.lines().filter_map(|line| {
        let line = line.trim_start();
        let (prompt, command) = line.split_once(' ')?;
        (prompt.ends_with('$') || prompt == "#").then_some(command)
    });
    quoted(text).into_iter().chain(prompted).filter(|command| begins(command)).map(str::to_owned).collect()
}

/// What stands in backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).map(str::trim).collect()
}

fn begins(command: &str) -> bool {
    command.starts_with("keyward ")
        || command.starts_with("as_keyward ") && !command.starts_with("as_keyward --run")
}

/// A command as `clap` has it, with the words that lead there.
fn found(words: &[&str]) -> (clap::Command, Vec<String>) {
    let (mut at, mut path) = (Cli::command(), Vec::new());
    at.build();
    for word in words {
        let Some(sub) = at.find_subcommand(word) else { break };
        path.push((*word).to_owned());
        at = sub.clone();
    }
    (at, path)
}

/// That a command's words and options exist; a page may leave arguments out, where it only mentions it.
fn exists(command: &str) -> Result<(), String> {
    let mut words = command.split([';', '|', '>', '<']).next().unwrap_or_default().split_whitespace();
    let service = words.next() == Some("as_keyward");
    let words: Vec<&str> = words.collect();
    if words.first().is_some_and(|word| LABELS.contains(word)) {
        return Ok(());
    }
    let (at, path) = found(&words);
    if path.is_empty() && !words.iter().any(|word| word.starts_with('-')) {
        return Err("there is no such command".to_owned());
    }
    let options: Vec<String> = at
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .map(|long| format!("--{long}"))
        .collect();
    for word in &words[path.len()..] {
        // `keyward index|encrypt`, a placeholder, a value.
        let option = word.trim_end_matches([',', '.', ':', '\'', ')']).split('=').next().unwrap();
        if option.starts_with("--")
            && option != "--"
            && !["--help", "--version"].contains(&option)
            && !options.iter().any(|one| one == option)
        {
            return Err(format!("`{}` has no {option}", path.join(" ")));
        }
    }
    // Without options it is named, and not to be run.
    by_whom(&path, service, &words, words.iter().any(|word| word.starts_with("--")))
}

fn by_whom(path: &[String], service: bool, words: &[&str], run: bool) -> Result<(), String> {
    let repairs = path == ["store", "check"] && words.contains(&"--repair");
    let own = repairs || run && FOR_THE_SERVICE.iter().any(|own| path == *own);
    match own && !service {
        true => Err("it works on the daemon's own files: print `as_keyward`".to_owned()),
        false => Ok(()),
    }
}

/// What a name that a message fills in may stand for.
const FILLINGS: [&str; 6] =
    ["acme", "acme/2", "3f0c9a1200112233445566778899aabb", "destroy acme", "set-level acme 3", ""];

/// What a reader puts in the place of a capital word.
const CAPITALS: [(&str, &str); 9] = [
    ("CREDENTIAL", "3f0c9a1200112233445566778899aabbccddeeff00112233445566778899aabb"),
    ("FILE", "file"),
    ("ID", "3f0c9a1200112233445566778899aabb"),
    ("KEY", "acme/pii"),
    ("LABEL", "label"),
    ("N", "3"),
    ("NAME", "alice"),
    ("TENANT", "acme"),
    ("VERSION", "acme/pii/2"),
];

/// That a printed command is whole: with its capital words and what a message fills in replaced, it is understood.
fn whole(command: &str) -> Result<(), String> {
    let line = &command.trim_start_matches("as_").replace("{piv}", "");
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    by_whom(&found(&words).1, command.starts_with("as_"), &words, true)?;
    let capital = |word: &str| {
        let by = CAPITALS.iter().find(|(name, _)| *name == word).map(|(_, by)| *by);
        by.unwrap_or(word).to_owned()
    };
    let tries =
        FILLINGS.map(|by| parsed(&filled(line, by).split_whitespace().map(capital).collect::<Vec<_>>()));
    if tries.iter().any(Result::is_ok) { Ok(()) } else { tries.into_iter().next().unwrap() }
}

/// Replaces what `format!` would.
fn filled(line: &str, by: &str) -> String {
    let mut parts = line.split('{');
    let head = parts.next().unwrap_or_default().to_owned();
    parts.fold(head, |line, part| match part.split_once('}') {
        Some((_, rest)) => line + by + rest,
        None => line + "{" + part,
    })
}

fn parsed(words: &[String]) -> Result<(), String> {
    match Cli::try_parse_from(words) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The lines of a source that may be printed: no comments, no tests.
fn printed(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().take_while(|line| *line != "mod tests {");
    lines.filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned).collect()
}

/// A command that is printed so that it cannot be told from the words around it.
fn bare(line: &str) -> Option<String> {
    let outside = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
    let words: Vec<&str> = outside.split([' ', '"', '(']).collect();
    let named = |pair: &[&str]| {
        ["keyward", "as_keyward"].contains(&pair[0])
            && found(&[pair[1].trim_end_matches([';', ':', ','])]).1.len() == 1
    };
    words.windows(2).find(|pair| named(pair)).map(|pair| pair.join(" "))
}

#[test]
fn commands_of_messages_and_hints_are_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    files(&root.join("src"), "rs", &mut sources);
    let (mut wrong, mut count) = (Vec::new(), 0);
    for path in sources.iter().filter(|path| !path.ends_with("tests.rs")) {
        for line in printed(path) {
            for command in quoted(&line).into_iter().filter(|command| begins(command)) {
                count += 1;
                if let Err(why) = whole(command) {
                    wrong.push(format!("{}: {command}: {why}", path.display()));
                }
            }
            // An example of a help page stands alone, and is asked below; labels of keys are no commands.
            let other =
                ["Example", "| keyward", "override_usage", "LABELS"].iter().any(|one| line.contains(one));
            let other = other || line.trim_start().starts_with("keyward ");
            if let Some(command) = bare(&line).filter(|_| !other) {
                wrong.push(format!("{}: {command} … without backticks: {line}", path.display()));
            }
        }
    }
    assert!(count > 60, "{count} commands");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn examples_of_help_pages_are_whole() {
    fn all(command: &clap::Command, found: &mut Vec<String>) {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = after.replace("\\\n", " ");
        let examples = lines
            .lines()
            .filter(|line| line.starts_with("  "))
            .filter_map(|line| line.split_once("keyward "));
        found.extend(examples.map(|(_, rest)| rest.to_owned()));
        command.get_subcommands().for_each(|sub| all(sub, found));
    }
    let mut examples = Vec::new();
    all(&Cli::command(), &mut examples);
    assert!(examples.len() > 80, "{} examples", examples.len());
    for example in examples {
        // The shell's own are not ours.
        let own = example.split([';', '|', '>', '<']).next().unwrap();
        let words: Vec<String> = own
            .split('\'')
            .enumerate()
            .flat_map(|(nth, part)| match nth % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            })
            .collect();
        let words = [vec!["keyward".to_owned()], words].concat();
        assert_eq!(parsed(&words), Ok(()), "{example}");
    }
}

fn files(folder: &Path, extension: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
}

#[test]
fn commands_of_pages_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    files(&root.join("docs"), "md", &mut pages);
    let (mut wrong, mut count) = (Vec::new(), 0);
    for path in &pages {
        let text = std::fs::read_to_string(path).unwrap();
        // A backtick pairs within its paragraph.
        for command in text.split("\n\n").flat_map(commands) {
            count += 1;
            if let Err(why) = exists(&command) {
                wrong.push(format!("{}: {command}: {why}", path.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(count > 150, "{count} commands");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
