//! The command line against a real daemon, as an operator and an application would use it.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Output, Stdio};

use keyward_softhsm_tests::{KEY, World, eventually_now, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const CSV: &str = "id,name,phone,card\r\n1,\"Wang, Wei\",13812345678,6222020200112233445\r\n2,\"Zoë \"\"Zo\"\" Müller\",,4111\r\n3,王小明,13987654321,\"a\nb\"\r\n";

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

#[tokio::test]
async fn fields_files_and_tables_come_back() {
    let world = World::ready();
    let _daemon = world.start().await;
    stdout(&world.cli(["tenant", "create", "acme"]));
    stdout(&world.cli(["key", "create", "acme/customer-pii", "--class", "2"]));

    let key = "acme/customer-pii";
    let sealed = stdout(&world.cli_with_input(["encrypt", key, "--context", "column=phone"], b"13812345678"));
    assert!(sealed.starts_with("kw1:"), "{sealed}");
    let opened = world.cli_with_input(["decrypt", key, "--context", "column=phone"], sealed.as_bytes());
    assert_eq!(stdout(&opened), "13812345678");
    let refused = world.cli_with_input(["decrypt", key, "--context", "column=fax"], sealed.as_bytes());
    assert_eq!((code(&refused), refused.stdout.as_slice()), (6, &b""[..]));
    assert!(text(&refused).contains("keyward: hint: "), "{}", text(&refused));

    let path = |name: &str| world.path(name).display().to_string();
    std::fs::write(world.path("plain.csv"), CSV).unwrap();
    let columns = ["--csv", "--columns", "phone,card"];
    let csv = |verb: &str, from: &str, to: &str| {
        let (from, to) = (path(from), path(to));
        world.cli([verb, key].into_iter().chain(columns).chain(["--in", &from, "--out", &to]))
    };
    stdout(&csv("encrypt", "plain.csv", "sealed.csv"));
    let sealed = std::fs::read_to_string(world.path("sealed.csv")).unwrap();
    assert!(
        sealed.contains("王小明") && !sealed.contains("13987654321") && sealed.contains("kw1:"),
        "{sealed}"
    );
    stdout(&csv("decrypt", "sealed.csv", "opened.csv"));
    assert_eq!(std::fs::read_to_string(world.path("opened.csv")).unwrap(), CSV);

    let file: Vec<u8> = (0..500_000_u32).flat_map(u32::to_be_bytes).collect();
    std::fs::write(world.path("file"), &file).unwrap();
    stdout(&world.cli(["encrypt", key, "--in", &path("file"), "--out", &path("file.kw")]));
    stdout(&world.cli(["decrypt", key, "--in", &path("file.kw"), "--out", &path("file.again")]));
    assert_eq!(std::fs::read(world.path("file.again")).unwrap(), file);
    let mut cut = std::fs::read(world.path("file.kw")).unwrap();
    cut.truncate(cut.len() - 1);
    std::fs::write(world.path("cut.kw"), cut).unwrap();
    let refused = world.cli(["decrypt", key, "--in", &path("cut.kw"), "--out", &path("cut")]);
    assert_eq!(code(&refused), 6, "{}", text(&refused));
    assert!(!world.path("cut").exists(), "a file that did not verify must not appear");
}

#[tokio::test]
async fn scripts_get_json_and_fixed_exit_codes() {
    let world = World::ready();
    let daemon = world.start().await;
    stdout(&world.cli(["tenant", "create", "acme"]));
    stdout(&world.cli(["key", "create", "acme/k"]));
    let status = json(&world.cli(["status", "--json"]));
    assert_eq!(
        (status["serving"].as_str(), status["root"]["custody"].as_str()),
        (Some("ready"), Some("unfounded"))
    );
    let rotation = json(&world.cli(["tenant", "rotate", "acme", "--wait", "--json"]));
    assert_eq!(rotation["state"], "done");
    let versions = json(&world.cli(["key", "versions", "acme/k", "--json"]));
    assert_eq!(versions["key_versions"].as_array().map(Vec::len), Some(2), "{versions}");

    assert_eq!(code(&world.cli(["tenant", "create", "acme"])), 1);
    assert_eq!(code(&world.cli(["tenant", "create", "ACME"])), 2);
    assert_eq!(code(&world.cli(["frobnicate"])), 2);
    assert_eq!(code(&world.cli(["key", "show", "acme/nothing"])), 4);
    assert_eq!(code(&world.cli(["decrypt", "acme/k", "kw1:AAAA"])), 6);
    let error = world.cli(["key", "show", "acme/nothing", "--json"]);
    let error: Value = serde_json::from_slice(&error.stderr).unwrap();
    assert_eq!(error["error"]["reason"], "NOT_FOUND");
    daemon.stop().await;
    let away = world.cli(["status"]);
    assert_eq!(code(&away), 5, "{}", text(&away));
    assert!(text(&away).contains("is keywardd running"), "{}", text(&away));
}

#[tokio::test]
async fn a_store_is_exported_imported_checked_and_repaired() {
    let mut world = World::ready();
    let daemon = world.start().await;
    stdout(&world.cli(["tenant", "create", "acme"]));
    stdout(&world.cli(["key", "create", "acme/k"]));
    let sealed = stdout(&world.cli(["encrypt", "acme/k", "hello"]));
    let config = world.config_file();
    let path = |name: &str| world.path(name).display().to_string();
    let local = |world: &World, words: &[&str]| world.cli(words.iter().copied().chain(["--config", &config]));

    // Both work while the daemon runs.
    let exported = json(&local(&world, &["store", "export", "--out", &path("export"), "--json"]));
    // Root, secret, erasure and audit key, tenant, KEK, key, version, data key; from its first look on also
    // the scheduler's two.
    assert!((9..=11).contains(&exported["records"].as_u64().unwrap()), "{exported}");
    stdout(&local(&world, &["store", "check"]));
    let busy = local(&world, &["store", "check", "--repair"]);
    assert_eq!(code(&busy), 1);
    assert!(text(&busy).contains("in use"), "{}", text(&busy));
    assert!(daemon.stop().await.success(), "{}", world.log());

    // A damaged store is rebuilt from the journal.
    let database = world.path("state/store.db");
    let mut bytes = std::fs::read(&database).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    std::fs::write(&database, bytes).unwrap();
    let damaged = local(&world, &["store", "check"]);
    assert_eq!(code(&damaged), 6, "{}", text(&damaged));
    stdout(&local(&world, &["store", "check", "--repair"]));
    stdout(&local(&world, &["store", "check"]));
    let daemon = world.start().await;
    assert_eq!(stdout(&world.cli(["decrypt", "acme/k", sealed.trim()])), "hello");
    daemon.stop().await;

    // A cut journal is rebuilt from the store.
    let journal = world.path("state/journal.kwj");
    let length = std::fs::metadata(&journal).unwrap().len();
    std::fs::File::options().write(true).open(&journal).unwrap().set_len(length / 2).unwrap();
    stdout(&local(&world, &["store", "check", "--repair"]));
    stdout(&local(&world, &["store", "check"]));

    // An export fills a new place, and only an empty one.
    let occupied = local(&world, &["store", "import", "--in", &path("export")]);
    assert_eq!(code(&occupied), 1, "{}", text(&occupied));
    let export = path("export");
    world.reconfigure("/state\"", "/other\"");
    let config = world.config_file();
    stdout(&world.cli(["store", "import", "--in", &export, "--config", &config]));
    let _daemon = world.start().await;
    assert_eq!(stdout(&world.cli(["decrypt", "acme/k", sealed.trim()])), "hello");
}

#[tokio::test]
async fn an_older_store_is_refused_until_an_operator_accepts_it() {
    let world = World::ready();
    let daemon = world.start().await;
    stdout(&world.cli(["tenant", "create", "acme"]));
    daemon.stop().await;
    let old = world.path("old");
    std::fs::create_dir(&old).unwrap();
    let files = ["store.db", "journal.kwj"];
    for file in files {
        std::fs::copy(world.path("state").join(file), old.join(file)).unwrap();
    }
    let daemon = world.start().await;
    stdout(&world.cli(["tenant", "create", "globex"]));
    daemon.stop().await;
    for file in files {
        std::fs::copy(old.join(file), world.path("state").join(file)).unwrap();
    }
    for left in ["store.db-wal", "store.db-shm"] {
        std::fs::remove_file(world.path("state").join(left)).ok();
    }

    let mut daemon = world.spawn();
    let status = daemon.wait_for(|status| status.reason.contains("older than the audit log")).await.unwrap();
    assert_eq!(status.serving(), keyward::rpc::proto::status::Serving::NotServing);
    assert_eq!(code(&world.cli(["tenant", "list"])), 5);
    daemon.stop().await;
    stdout(&world.cli(["store", "accept-rollback", "--config", &world.config_file()]));
    let _daemon = world.start().await;
    assert!(!stdout(&world.cli(["tenant", "list"])).contains("globex"));
    assert!(world.audit().iter().any(|record| record.operation == "store-rollback-accepted"));
}

#[tokio::test]
async fn the_hsm_is_examined_without_a_daemon() {
    let world = World::new();
    let report = json(&world.cli(["hsm", "check", "--config", &world.config_file(), "--json"]));
    assert_eq!(
        (report["usable"].as_bool(), report["token"].as_str()),
        (Some(true), Some("token")),
        "{report}"
    );
    let wrong = world.config.replace("libsofthsm2.so", "nothing.so");
    std::fs::write(world.path("wrong.toml"), wrong).unwrap();
    let missing = world.cli(["hsm", "check", "--config", &world.path("wrong.toml").display().to_string()]);
    assert_eq!(code(&missing), 1);
    assert!(text(&missing).contains("nothing.so"), "{}", text(&missing));
}

/// Whatever ends the command: a file that is not whole leaves nothing that was decrypted.
#[tokio::test]
async fn a_decrypted_file_that_is_not_whole_leaves_nothing() {
    let mut world = World::ready();
    // A test that was started by nohup has it ignored, and so would its children.
    world.cli_launcher = ["env", "--default-signal=HUP,INT"].map(str::to_owned).to_vec();
    let (_daemon, client) = world.start_with_key().await;
    let mut sealed = Vec::new();
    let about = keyward::client::Context::new();
    client.encrypt_stream(KEY, &about, &vec![7_u8; 3_000_000][..], &mut sealed).await.unwrap();
    let folder = world.path("decrypted");
    std::fs::create_dir(&folder).unwrap();
    let out = folder.join("out");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL] {
        let mut command = world.command("keyward");
        command.args(["decrypt", KEY, "--in", "-", "--out"]).arg(&out);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // The end is missing, so it waits for more.
        input.write_all(&sealed[..2_000_000]).unwrap();
        let fds = format!("/proc/{}/fd", child.id());
        eventually_now("some of it is decrypted", || {
            // `env` becomes the command line in the same process.
            let open = std::fs::read_dir(&fds).ok()?.filter_map(Result::ok);
            let own = |fd: &std::fs::DirEntry| {
                std::fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(&folder))
            };
            open.filter(own)
                .find_map(|fd| Some(std::fs::metadata(fd.path()).ok()?.len()).filter(|len| *len > 0))
        });
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
        let ended = child.wait().unwrap();
        let expected = if signal == Signal::KILL { None } else { Some(130) };
        assert_eq!(ended.code(), expected, "{signal:?}");
        let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{signal:?} leaves {left:?}");
        drop(input);
    }
}
