//! Starting, not starting, and an HSM that goes and comes.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use keyward::audit::Outcome;
use keyward::client::{Client, Code, Options, context};
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{CreateKeyRequest, Status};
use keyward_softhsm_tests::{
    Daemon, KEY, Random, World, binary, copy_program, create_key, eventually, set_mode, softhsm_module, text,
};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

/// A PIN that no token has, yet.
const WRONG_PIN: &str = "1111-wrong";

async fn works(client: &Client) {
    let about = context([("table", "customers")]);
    let sealed = client.encrypt(KEY, "13812345678", &about).await.unwrap();
    let opened = client.decrypt(KEY, sealed.ciphertext, &about).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"13812345678");
}

/// The files of a folder below the world's, with their contents.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

fn refuses(status: &Status, words: &[&str]) -> bool {
    status.serving() == Serving::NotServing && words.iter().all(|word| status.reason.contains(word))
}

/// Waits until the daemon serves nothing, for a reason that has these words.
async fn not_serving(daemon: &mut Daemon, words: &[&str]) -> Status {
    let status = daemon.wait_for(|status| refuses(status, words)).await;
    status.unwrap_or_else(|last| panic!("expected {words:?}: {last}"))
}

async fn ready(daemon: &mut Daemon) -> Status {
    daemon.wait_for(|status| status.serving() == Serving::Ready).await.unwrap()
}

#[test]
fn nothing_starts_before_init() {
    let world = World::new();
    let said = world.fails_to_start();
    assert!(said.contains("has no store: run `as_keyward init --backup-key FILE` first"), "{said}");
}

#[test]
fn init_never_replaces_an_installation() {
    let world = World::ready();
    let (state, backup) = (contents(&world.path("state")), std::fs::read(world.path("backup-key")).unwrap());
    for name in ["backup-key", "another-backup-key"] {
        let name = world.path(name).display().to_string();
        let again = world.cli(["init", "--config", &world.config_file(), "--backup-key", &name]);
        assert!(!again.status.success() && text(&again).contains("exists already"), "{}", text(&again));
    }
    assert_eq!(contents(&world.path("state")), state);
    assert_eq!(std::fs::read(world.path("backup-key")).unwrap(), backup);
    assert!(!world.path("another-backup-key").exists());
}

#[tokio::test]
async fn an_interrupted_init_can_be_done_again() {
    let mut random = Random::new();
    for _ in 0..12 {
        let world = World::new();
        let (config, backup) = (world.config_file(), world.path("backup-key"));
        let arguments = ["init", "--config", &config, "--backup-key", backup.to_str().unwrap()];
        let pause = Duration::from_millis(random.below(50));
        let cut_short = async {
            let mut command = world.command("keyward");
            let mut first =
                command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            tokio::time::sleep(pause).await;
            first.kill().unwrap();
            first.wait().unwrap().success()
        };
        let done = world.sparing_tokens(cut_short).await;
        let again = world.cli(arguments);
        assert!(!done || !again.status.success(), "it replaced an installation");
        if !done && !again.status.success() {
            let said = text(&again);
            let told = said.contains("if an init was interrupted") || said.contains("--beside-existing");
            assert!(told, "{said}");
            for name in ["state", "backup-key"] {
                // Whatever it had come to.
                std::fs::rename(world.path(name), world.path(&format!("{name}-away"))).ok();
            }
            let again = world.cli(arguments.into_iter().chain(["--beside-existing"]));
            assert!(again.status.success(), "{}", text(&again));
        }
        world.start().await;
    }
}

#[test]
fn an_unfounded_root_must_be_accepted() {
    let mut world = World::new();
    world.reconfigure("custody = \"operator\"\n", "");
    let name = world.path("backup-key").display().to_string();
    let refused = world.cli(["init", "--config", &world.config_file(), "--backup-key", &name]);
    assert!(
        !refused.status.success() && text(&refused).contains("custody = \"operator\""),
        "{}",
        text(&refused)
    );
    assert!(!world.path("backup-key").exists());

    let mut world = World::ready();
    world.reconfigure("custody = \"operator\"\n", "");
    let said = world.fails_to_start();
    assert!(said.contains("unfounded") && said.contains("custody = \"operator\""), "{said}");
}

#[test]
fn an_error_of_the_configuration_names_line_and_key() {
    let mut world = World::ready();
    let sound = world.config.clone();
    for (from, to, words) in [
        ("level = \"info\"", "level = \"loud\"", ["line 11", "loud", "`debug`"]),
        ("shutdown_grace", "shutdown_grease", ["line 7", "shutdown_grease", "expected"]),
        ("\"10s\"", "\"10 lightyears\"", ["line 7", "shutdown_grace", "\"5s\""]),
        ("pin_file = ", "#", ["hsm.pin_file", "missing", "keywardd.toml"]),
    ] {
        world.config = sound.clone();
        world.reconfigure(from, to);
        let said = world.fails_to_start();
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
}

/// The root is made in the library that is named, or nowhere.
#[test]
fn a_uri_of_another_library_is_refused() {
    let mut world = World::new();
    let other = "token = \"pkcs11:token=token?module-path=/opt/vendor/other.so\"";
    world.reconfigure("token = \"token\"", other);
    let backup = world.path("backup-key").display().to_string();
    let made = world.cli(["init", "--config", &world.config_file(), "--backup-key", &backup]);
    assert!(!made.status.success(), "{}", text(&made));
    let checked =
        world.command("keywardd").args(["--config", &world.config_file(), "--check-config"]).output();
    let checked = text(&checked.unwrap());
    for said in [text(&made), checked, world.fails_to_start()] {
        assert!(said.contains("/opt/vendor/other.so") && said.contains(&softhsm_module()), "{said}");
    }
    let module = softhsm_module();
    world.reconfigure(other, &format!("token = \"pkcs11:token=token?module-path={module}\""));
    world.init();
}

/// Two daemons with state directories of their own, and one socket: a trial beside the real one.
#[tokio::test]
async fn a_socket_on_which_another_daemon_listens_is_left_alone() {
    let (first, mut second) = (World::ready(), World::another());
    let (daemon, client) = first.start_with_key().await;
    let quoted = |world: &World| format!("\"{}\"", world.socket().display());
    second.reconfigure(&quoted(&second), &quoted(&first));
    let said = second.fails_to_start();
    assert!(said.contains("another process listens on"), "{said}");
    works(&client).await;
    assert!(first.cli(["tenant", "list"]).status.success());
    assert!(daemon.stop().await.success());
}

/// Everything that is wrong is said at once; and that nothing is.
#[test]
fn a_configuration_is_checked_whole() {
    let mut world = World::new();
    let checked = |world: &World| {
        let arguments = ["--config", &world.config_file(), "--check-config"];
        let done = world.command("keywardd").args(arguments).output().unwrap();
        (done.status.success(), text(&done))
    };
    let (good, said) = checked(&world);
    assert!(good && said.contains(&format!("{} is good", world.config_file())), "{said}");
    world.reconfigure(&softhsm_module(), "/opt/vendor/none.so");
    world.reconfigure("[login]\n", "[login]\nattestation_roots = [\"/none.pem\"]\n");
    world.config.push_str(
        "\n[[principal]]\nname = \"ghost\"\nrole = \"operator\"\nusers = [\"nobody-of-this-name\"]\n",
    );
    let (good, said) = checked(&world);
    for words in
        ["hsm.module: /opt/vendor/none.so", "login.attestation_roots: /none.pem", "nobody-of-this-name"]
    {
        assert!(!good && said.contains(words), "{words}: {said}");
    }
}

#[tokio::test]
async fn one_daemon_for_one_state_directory() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let said = world.fails_to_start();
    assert!(said.contains("is in use by another keywardd"), "{said}");
    works(&client).await;
    assert!(daemon.stop().await.success());
    assert!(!world.socket().exists(), "the socket is left over");
}

#[tokio::test]
async fn a_left_over_socket_is_replaced_and_a_file_is_not() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    daemon.kill();
    assert!(world.socket().symlink_metadata().unwrap().file_type().is_socket());
    let daemon = world.start().await;
    works(&client).await;
    daemon.stop().await;
    std::fs::write(world.socket(), "mine").unwrap();
    let said = world.fails_to_start();
    assert!(said.contains("is not a socket"), "{said}");
    assert_eq!(std::fs::read_to_string(world.socket()).unwrap(), "mine");
}

#[tokio::test]
async fn twenty_restarts_present_a_wrong_pin_once() {
    let world = World::ready();
    world.write_secret("pin", WRONG_PIN);
    let mut daemon = world.spawn();
    let status = not_serving(&mut daemon, &["CKR_PIN_INCORRECT", "keyward hsm clear-refused-pin"]).await;
    assert!(status.hsm.unwrap().state.starts_with("refused"));
    daemon.kill();

    // From now on the token takes that very PIN, so whoever presents it is let in.
    accept_pin(&world, WRONG_PIN);
    for _ in 0..20 {
        let mut daemon = world.spawn();
        not_serving(&mut daemon, &["has refused this PIN before", "keyward hsm clear-refused-pin"]).await;
        daemon.kill();
    }
    let cleared = world.cli(["hsm", "clear-refused-pin", "--config", &world.config_file()]);
    assert!(cleared.status.success(), "{}", text(&cleared));
    world.start().await;
    assert!(!world.log().contains(WRONG_PIN));
}

/// A try is spent on what a person could have typed only; and what no token refused waits for nobody.
#[tokio::test]
async fn what_an_editor_made_of_a_pin_file_costs_no_try() {
    let world = World::ready();
    let pin = std::fs::read_to_string(world.path("pin")).unwrap();
    let mut daemon = world.spawn();
    ready(&mut daemon).await;
    assert!(daemon.stop().await.success());
    let utf16: Vec<u8> = pin.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content, words) in [
        ([b"\xef\xbb\xbf", pin.as_bytes()].concat(), "begins with a byte order mark"),
        ([&b"\xff\xfe"[..], &utf16].concat(), "it is UTF-16"),
        (utf16, "U+0000"),
        (format!("{}\u{a0}", pin.trim_end()).into_bytes(), "U+00A0"),
        (format!("{}\nsecond line\n", pin.trim_end()).into_bytes(), "another line begins at byte"),
        (vec![0xb2, 0xe2, 0xca, 0xd4], "no UTF-8 text"),
    ] {
        std::fs::write(world.path("pin"), content).unwrap();
        let mut daemon = world.spawn();
        let file = world.path("pin").display().to_string();
        let status = not_serving(&mut daemon, &["there is no PIN in", &file, words]).await;
        assert!(status.hsm.unwrap().state.starts_with("refused"));
        std::fs::write(world.path("pin"), &pin).unwrap();
        ready(&mut daemon).await;
        assert!(daemon.stop().await.success());
    }
    let log = world.log();
    assert!(!log.contains("CKR_PIN") && !log.contains(pin.trim_end()), "{log}");
}

/// Makes the token accept `pin`, as its security officer.
fn accept_pin(world: &World, pin: &str) {
    let done = Command::new("pkcs11-tool")
        .args(["--module", &softhsm_module(), "--token-label", "token", "--login", "--login-type", "so"])
        .args(["--so-pin", "so-pin-test", "--init-pin", "--new-pin", pin])
        .env("SOFTHSM2_CONF", world.path("softhsm2.conf"))
        .output()
        .expect("pkcs11-tool: run softhsm-tests/scripts/setup.sh");
    assert!(done.status.success(), "{}", text(&done));
}

#[tokio::test]
async fn a_module_that_is_missing_at_start_may_come_later() {
    let mut world = World::ready();
    let (module, later) = (softhsm_module(), world.path("module.so"));
    world.reconfigure(&module, later.to_str().unwrap());
    let mut daemon = world.spawn();
    not_serving(&mut daemon, &["module.so"]).await;
    world.healthy(ServingStatus::NotServing).await;
    std::os::unix::fs::symlink(module, later).unwrap();
    ready(&mut daemon).await;
    world.healthy(ServingStatus::Serving).await;
}

#[tokio::test]
async fn a_token_that_is_missing_at_start_may_come_later() {
    let world = World::ready();
    let (tokens, away) = (world.path("tokens"), world.path("away"));
    std::fs::rename(&tokens, &away).unwrap();
    std::fs::create_dir(&tokens).unwrap();
    let mut daemon = world.spawn();
    let status = not_serving(&mut daemon, &["the HSM is away", "token"]).await;
    assert!(status.store.is_none() && status.hsm.unwrap().state.starts_with("down"));
    world.healthy(ServingStatus::NotServing).await;
    let client = daemon.client().await;
    let refused = client.keys().create_key(CreateKeyRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let asked = CreateKeyRequest { parent: "tenants/acme".into(), key_id: "k".into(), data_class: 0 };
    let refused = client.keys().create_key(asked).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "NOT_READY".into()));

    std::fs::remove_dir(&tokens).unwrap();
    std::fs::rename(&away, &tokens).unwrap();
    ready(&mut daemon).await;
    world.healthy(ServingStatus::Serving).await;
    create_key(&client, "acme", "customer-pii").await;
    works(&client).await;
}

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test]
async fn a_store_of_another_token_is_refused_and_left_alone() {
    let mut world = World::ready();
    world.start_with_key().await.0.stop().await;
    let own = world.config.clone();
    world.make_token("other");
    world.reconfigure("/state\"", "/state-2\"");
    world.reconfigure("token = \"token\"", "token = \"other\"");
    let backup = world.path("backup-key-2").display().to_string();
    let made = world.cli(["init", "--config", &world.config_file(), "--backup-key", &backup]);
    assert!(made.status.success(), "{}", text(&made));

    world.reconfigure("/state-2\"", "/state\"");
    let before = contents(&world.path("state"));
    let mut daemon = world.spawn();
    not_serving(
        &mut daemon,
        &["token \"other\"", "is not the one that this store was made with", "check hsm.token"],
    )
    .await;
    assert!(daemon.stop().await.success());
    assert_eq!(contents(&world.path("state")), before);

    world.config = own;
    let daemon = world.start().await;
    works(&daemon.client().await).await;
}

#[tokio::test]
async fn cached_keys_outlast_the_token_unless_their_class_is_the_highest() {
    let mut world = World::ready();
    world.reconfigure("[hsm]\n", "[hsm]\nprobe_interval = \"100ms\"\n");
    let (mut daemon, client) = world.start_with_key().await;
    for (key, data_class) in [("basic", 1), ("highest", 3), ("cold", 1)] {
        let asked = CreateKeyRequest { parent: "tenants/acme".into(), key_id: key.into(), data_class };
        client.keys().create_key(asked).await.unwrap();
    }
    let about = context([("id", "7")]);
    let (basic, highest) = ("tenants/acme/keys/basic", "tenants/acme/keys/highest");
    let secret = client.encrypt(highest, "x", &about).await.unwrap().ciphertext;
    works(&client).await;
    client.encrypt(basic, "x", &about).await.unwrap();

    let (tokens, away) = (world.path("tokens"), world.path("away"));
    std::fs::rename(&tokens, &away).unwrap();
    std::fs::create_dir(&tokens).unwrap();
    let status = daemon.wait_for(|status| status.serving() == Serving::Degraded).await.unwrap();
    assert!(!status.reason.is_empty(), "{status:?}");
    world.healthy(ServingStatus::Serving).await;
    works(&client).await;
    client.encrypt(basic, "x", &about).await.unwrap();
    // Calls wait for a short absence: this client gives up after a long one.
    let options = Options { deadline: Duration::from_secs(2), ..Options::default() };
    let hasty = Client::connect_with(world.socket(), options).await.unwrap();
    for refused in [
        hasty.encrypt(highest, "x", &about).await.map(drop),
        hasty.decrypt(highest, secret.clone(), &about).await.map(drop),
        hasty.encrypt("tenants/acme/keys/cold", "x", &about).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!((error.code, error.reason()), (Code::Unavailable, "HSM_UNAVAILABLE"), "{error}");
    }

    std::fs::remove_dir(&tokens).unwrap();
    std::fs::rename(&away, &tokens).unwrap();
    let status = ready(&mut daemon).await;
    assert!(status.hsm.unwrap().epoch >= 2);
    assert_eq!(client.decrypt(highest, secret, &about).await.unwrap().plaintext.expose(), b"x");
    client.encrypt("tenants/acme/keys/cold", "x", &about).await.unwrap();
    daemon.stop().await;
    let states: Vec<_> = world.audit().into_iter().filter(|record| record.operation == "hsm-state").collect();
    let told =
        |word: &str| states.iter().any(|state| state.detail.as_deref().unwrap_or("").starts_with(word));
    assert!(told("down") && told("ready: connection 2"), "{states:?}");
}

/// A folder that every user of the machine reaches, with the program; and lets them into the world's.
fn for_everybody(world: &World) -> (tempfile::TempDir, std::path::PathBuf) {
    let open = tempfile::tempdir_in("/tmp").unwrap();
    set_mode(open.path(), 0o755);
    set_mode(&world.path(""), 0o755);
    let program = open.path().join("keyward");
    copy_program(&binary("keyward"), &program);
    (open, program)
}

/// Where this user may not look there may be everything or nothing: that is no damage, and no reason for an `init`.
#[tokio::test]
async fn who_may_not_read_the_files_is_told_so() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let world = World::ready();
    let (open, program) = for_everybody(&world);
    std::fs::write(open.path().join("in"), "x").unwrap();
    let (config, file) = (world.config_file(), open.path().join("in"));
    set_mode(Path::new(&config), 0o644);
    set_mode(&world.path("state"), 0o700);
    let input = file.to_str().unwrap();
    for words in [
        &["store", "check"][..],
        &["store", "check", "--repair"],
        &["store", "accept-rollback"],
        &["store", "import", "--in", input],
        &["backup", "restore", "--in", input],
        &["audit", "verify"],
        &["audit", "show"],
    ] {
        for json in [&[][..], &["--json"]] {
            let refused = Command::new("setpriv")
                .args(["--reuid=65534", "--clear-groups"])
                .arg(&program)
                .args(words)
                .args(["--config", &config])
                .args(json)
                .output()
                .unwrap();
            let said = text(&refused);
            assert_eq!(refused.status.code(), Some(1), "{words:?}: {said}");
            assert!(said.contains("Permission denied") && said.contains("as its user"), "{words:?}: {said}");
            assert!(!said.contains("keyward init") && !said.contains("damaged"), "{words:?}: {said}");
        }
    }
}

/// An operator may not look into the state directory, and need not: the daemon does.
#[tokio::test]
async fn an_operator_who_may_not_read_the_files_asks_the_daemon() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let mut world = World::ready();
    world.reconfigure("socket_mode = \"0600\"", "socket_mode = \"0660\"");
    world.reconfigure("users = [", "users = [7012, ");
    let (daemon, _client) = world.start_with_key().await;
    let open = tempfile::tempdir_in("/tmp").unwrap();
    set_mode(open.path(), 0o777);
    set_mode(&world.path(""), 0o755);
    set_mode(&world.path("state"), 0o700);
    let program = open.path().join("keyward");
    copy_program(&binary("keyward"), &program);
    let (config, copy) = (world.config_file(), open.path().join("copy").display().to_string());
    let other = open.path().join("other").display().to_string();
    for (mode, words) in [
        (0o644, &["store", "check"][..]),
        (0o644, &["store", "export", "--out", &copy]),
        // As it is installed: not even the configuration may be read.
        (0o600, &["store", "check"]),
        (0o600, &["store", "export", "--out", &other]),
    ] {
        set_mode(Path::new(&config), mode);
        let done = Command::new("setpriv")
            .args(["--reuid=7012", "--regid=0", "--clear-groups"])
            .arg(&program)
            .args(words)
            .args(["--config", &config])
            .env("KEYWARD_SOCKET", world.socket())
            .output()
            .unwrap();
        assert!(done.status.success(), "{words:?}: {}", text(&done));
    }
    assert!(daemon.stop().await.success());
}

/// What root does in the folder of the service's user would lock that user out: it is refused, and what root left is told.
#[tokio::test]
async fn root_beside_a_user_of_the_service_is_told_how() {
    const SERVICE: u32 = 7014;
    if !rustix::process::getuid().is_root() {
        return;
    }
    let mut world = World::ready();
    world.reconfigure("users = [0]", "users = [0, 7015]");
    let config = world.config_file();
    let owned = |path: &Path, owner: u32| {
        let done = Command::new("chown").args(["-R", &owner.to_string()]).arg(path).status().unwrap();
        assert!(done.success());
    };
    owned(&world.path(""), SERVICE);
    for command in [
        &["init", "--backup-key", "/nowhere"][..],
        &["store", "check", "--repair"],
        &["store", "accept-rollback"],
    ] {
        let refused = world.cli([command, &["--config", &config]].concat());
        let said = text(&refused);
        assert!(
            !refused.status.success() && said.contains("as_keyward") && said.contains("7014"),
            "{command:?}: {said}"
        );
        assert!(!said.contains("chown"), "that would take it from the service: {said}");
    }
    let said = world.fails_to_start();
    assert!(said.contains("as_keyward") && !said.contains("chown"), "{said}");
    // Nothing of root is left, so far.
    let (open, _) = for_everybody(&world);
    let program = open.path().join("keywardd");
    copy_program(&binary("keywardd"), &program);
    let start = || {
        let mut daemon = Command::new("setpriv");
        daemon
            .args(["--reuid=7014", "--regid=7014", "--clear-groups"])
            .arg(&program)
            .args(["--config", &config]);
        daemon.env("SOFTHSM2_CONF", world.path("softhsm2.conf"));
        daemon
    };
    // A file of root, as a daemon leaves it that root has started once.
    let mut entries = world.path("state/audit").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let left = entries.find(|path| path.is_file()).unwrap();
    std::os::unix::fs::chown(&left, Some(0), Some(0)).unwrap();
    set_mode(&left, 0o600);
    let refused = start().output().unwrap();
    let said = text(&refused);
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains(&left.display().to_string()) && said.contains("chown -R 7014 "), "{said}");
    // By the command that it prints.
    let (_, cure) = said.split_once("run `").unwrap();
    let cure = cure.split('`').next().unwrap();
    assert!(Command::new("sh").args(["-ec", cure]).status().unwrap().success(), "{cure}");
    // It serves until somebody ends it.
    let daemon = start().stderr(std::fs::File::create(open.path().join("log")).unwrap()).spawn().unwrap();
    let log = || std::fs::read_to_string(open.path().join("log")).unwrap();
    let serves = async || {
        log().contains("the vault is open").then_some(()).or_else(|| {
            assert!(!log().contains("error:"), "{}", log());
            None
        })
    };
    eventually("the daemon of the service's user", serves).await;
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!({ daemon }.wait().unwrap().success(), "{}", log());
}

/// A library says CKR_GENERAL_ERROR, or shows no token: who it runs as, and what that user may not read, is said for it.
#[test]
fn a_library_whose_files_its_user_may_not_read_is_explained() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let world = World::new();
    let (open, program) = for_everybody(&world);
    let pin = open.path().join("pin");
    std::fs::write(&pin, "1234").unwrap();
    std::os::unix::fs::chown(&pin, Some(7013), None).unwrap();
    set_mode(&pin, 0o600);
    let state = open.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(7013), None).unwrap();
    let (configuration, tokens) = (world.path("softhsm2.conf"), world.path("tokens"));
    set_mode(&tokens, 0o700);
    for (mode, unreadable) in [(0o644, &tokens), (0o600, &configuration)] {
        set_mode(&configuration, mode);
        let checked = Command::new("setpriv")
            .args(["--reuid=7013", "--clear-groups"])
            .arg(&program)
            .args(["hsm", "check", "--module", &softhsm_module(), "--pin-file"])
            .arg(&pin)
            .arg("--allow-path")
            .arg(&tokens)
            .env("SOFTHSM2_CONF", &configuration)
            .env("HOME", open.path())
            .env("XDG_STATE_HOME", &state)
            .output()
            .unwrap();
        let said = text(&checked);
        assert!(!checked.status.success() && said.contains("it runs as user 7013"), "{said}");
        assert!(said.contains("may not read") && said.contains("Permission denied"), "{said}");
        assert!(said.contains(&unreadable.display().to_string()), "{said}");
    }
}

/// Only root can become somebody else.
#[tokio::test]
async fn another_user_of_the_machine_is_unknown() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let mut world = World::ready();
    world.reconfigure("socket_mode = \"0600\"", "socket_mode = \"0660\"");
    let (daemon, client) = world.start_with_key().await;
    // The program and the socket where everybody finds them; its group may open the socket.
    let (_open, program) = for_everybody(&world);
    let refused = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--json", "key", "show", "acme/customer-pii", "--socket"])
        .arg(world.socket())
        .output()
        .unwrap();
    assert!(text(&refused).contains("UNKNOWN_CALLER"), "{}", text(&refused));
    assert_eq!(refused.status.code(), Some(3), "not permitted");
    works(&client).await;
    daemon.stop().await;
    let records = world.audit();
    let record =
        records.iter().find(|record| record.caller.as_ref().is_some_and(|by| by.uid == 65534)).unwrap();
    assert_eq!(record.outcome, Outcome::Failed("UNKNOWN_CALLER".into()));
    assert_eq!((record.operation.as_str(), record.resource.as_str()), ("unknown-callers", ""));
}
