//! Clients in other languages, by the commands and programs that docs/clients.md prints.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyward_softhsm_tests::{Daemon, PATIENCE, World, text};

const PAGE: &str = include_str!("../../../docs/clients.md");
/// Where `make install` puts documents and examples.
const INSTALLED: &str = "/usr/share/doc/keyward";
const SOCKET: &str = "/run/keyward/keyward.sock";

/// The first block of this kind behind a heading.
fn block(heading: &str, kind: &str) -> &'static str {
    let behind = PAGE.split_once(&format!("\n## {heading}\n")).unwrap().1;
    behind.split_once(&format!("```{kind}\n")).unwrap().1.split_once("```").unwrap().0
}

/// Runs the page's commands in `folder`, of what an installation has under `installed`.
fn run(commands: &str, folder: &Path, installed: &Path) {
    for line in commands.lines() {
        let command = line.strip_prefix("$ ").unwrap().replace(INSTALLED, installed.to_str().unwrap());
        let done = Command::new("sh").args(["-euc", &command]).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "{command}: {}", text(&done));
    }
}

/// What `make install` puts there.
fn installed(folder: &Path) -> PathBuf {
    let done = Command::new("make")
        .args(["--no-print-directory", "install-documents", "PREFIX=/usr"])
        .env_remove("MAKEFLAGS")
        .arg(format!("DESTDIR={}", folder.display()))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    let place = folder.join(INSTALLED.trim_start_matches('/'));
    assert!(done.status.success(), "{}", text(&done));
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_call_from_python_works_as_pasted() {
    let world = World::ready();
    let (daemon, _client) = world.start_with_key().await;
    let place = installed(&world.path("installed"));
    let folder = world.path("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    run(block("From Python", "console"), &folder, &place);
    let program = block("From Python", "python");
    let shipped = std::fs::read_to_string(place.join("examples/python/first.py")).unwrap();
    assert_eq!(program, shipped, "the page prints what is installed");
    let socket = world.socket().display().to_string();
    std::fs::write(folder.join("first.py"), program.replace(SOCKET, &socket)).unwrap();
    let python = |arguments: &[&str]| {
        let done = Command::new("venv/bin/python").args(arguments).current_dir(&folder).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}\n{}", text(&done), world.log());
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(python(&["first.py"]), "0912 345 678\n");
    std::fs::copy(place.join("examples/python/tour.py"), folder.join("tour.py")).unwrap();
    let said = python(&["tour.py", &socket]);
    assert_eq!(said.lines().collect::<Vec<_>>(), TOUR);

    std::fs::write(folder.join("restart.py"), RESTART).unwrap();
    let mut restart = Command::new("venv/bin/python");
    restart.args(["restart.py", &socket]).current_dir(&folder);
    goes_on_across_a_restart(
        &world,
        daemon,
        restart,
        &["FileNotFoundError", "ValueError", "ValueError", "Refused", "0 streams are left"],
    )
    .await;
}

/// What is to be copied goes on across a restart, and does not hide what goes wrong on its own side.
async fn goes_on_across_a_restart(world: &World, daemon: Daemon, mut many: Command, own: &[&str]) {
    let mut many = many.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(many.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "begun");
    assert!(daemon.stop().await.success());
    let daemon = world.start().await;
    let rest = tokio::task::spawn_blocking(move || lines.map(Result::unwrap).collect::<Vec<_>>());
    let Ok(rest) = tokio::time::timeout(2 * PATIENCE, rest).await else {
        many.kill().unwrap();
        panic!("it does not end");
    };
    assert_eq!(rest.unwrap(), [&["40000 of 40000"], own].concat());
    assert!(many.wait().unwrap().success());
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Node.js and its registry: make test-all"]
async fn the_first_call_from_node_works_as_pasted() {
    let world = World::ready();
    let (daemon, _client) = world.start_with_key().await;
    let place = installed(&world.path("installed"));
    let folder = world.path("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    run(block("From Node.js", "console"), &folder, &place);
    let program = block("From Node.js", "js");
    let shipped = std::fs::read_to_string(place.join("examples/node/first.mjs")).unwrap();
    assert_eq!(program, shipped, "the page prints what is installed");
    let socket = world.socket().display().to_string();
    std::fs::write(folder.join("first.mjs"), program.replace(SOCKET, &socket)).unwrap();
    let node = |arguments: &[&str]| {
        let done = Command::new("node").args(arguments).current_dir(&folder).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}\n{}", text(&done), world.log());
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(node(&["first.mjs"]), "0912 345 678\n");
    assert_eq!(node(&["tour.mjs", &socket]).lines().collect::<Vec<_>>(), TOUR);
    std::fs::write(folder.join("restart.mjs"), RESTART_NODE).unwrap();
    let mut restart = Command::new("node");
    restart.args(["restart.mjs", &socket]).current_dir(&folder);
    goes_on_across_a_restart(&world, daemon, restart, &["ENOENT", "RangeError"]).await;
}

/// What the tours say.
const TOUR: [&str; 5] = [
    "customer 2: 0987 654 321",
    "in another row: CIPHERTEXT_REFUSED",
    "batch: 100",
    "session: 5000",
    "file: True",
];

const RESTART_NODE: &str = r#"
import { connect, convertFile, encryptMany } from "./tour.mjs";

const crypto = connect(process.argv[2]);
const count = Number(process.argv[3] ?? 40_000);
const value = Buffer.from("value");
const done = new Set();

function* values() {
  for (let n = 0; n < count; n += 1) yield [value, { id: String(n) }];
}

for await (const [number, sealed] of encryptMany(crypto, values())) {
  if (!Buffer.isBuffer(sealed) || done.has(number)) throw sealed;
  if (!done.size) console.log("begun");
  done.add(number);
}
console.log(done.size, "of", count);

await convertFile(crypto.EncryptStream(), "/none", "out", {}).catch((error) => console.log(error.code));

function* broken() {
  yield [value, {}];
  throw new RangeError();
}

try {
  for await (const _ of encryptMany(crypto, broken()));
} catch (error) {
  console.log(error.name);
}
"#;

const RESTART: &str = r#"
import gc, sys, tour

# What only a collection would free is there at the end.
gc.disable()
crypto = tour.connect(sys.argv[1])
done = set()
for number, sealed in tour.encrypt_many(crypto, ((b"value", {"id": str(n)}) for n in range(40000))):
    assert isinstance(sealed, bytes) and number not in done, sealed
    if not done:
        print("begun", flush=True)
    done.add(number)
print(len(done), "of 40000", flush=True)
try:
    tour.convert_file(crypto.EncryptStream, tour.pb.EncryptStreamRequest, "/none", "out", {})
except FileNotFoundError as error:
    print(type(error).__name__)

def items():
    yield b"value", {}
    raise ValueError

try:
    list(tour.encrypt_many(crypto, items()))
except ValueError as error:
    print(type(error).__name__)

class Broken:
    def __init__(self, header=None, chunk=None):
        raise ValueError

for source, request in ((__file__, Broken), (__file__, tour.pb.DecryptStreamRequest)):
    try:
        method = crypto.EncryptStream if request is Broken else crypto.DecryptStream
        tour.convert_file(method, request, source, "out", {})
    except (ValueError, tour.Refused) as error:
        print(type(error).__name__)
# A stream that a cycle holds is freed at the end of the program, which then may hang.
print(sum("Rendezvous" in type(one).__name__ for one in gc.get_objects()), "streams are left")
"#;
