//! Full disks: the daemon runs over a tiny file system in a mount namespace of its own.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use keyward::client::{Client, Code, Context, context};
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{
    CreateKeyRequest, DecryptRequest, EncryptRequest, FreezeRequest, GetKeyRequest, Key, Status,
    UnfreezeRequest,
};
use keyward_softhsm_tests::{KEY, PATIENCE, World, binary, create_key};
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

type Crypto = CryptoServiceClient<Channel>;

/// A shell in a mount namespace of its own, where a folder of the world is a small disk.
struct Small {
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Small {
    /// Mounts a disk of so many KiB on the world's folder `disk`.
    fn new(world: &World, kib: u32) -> Self {
        let mut command = world.command("keyward");
        let environment: Vec<_> =
            command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
        command = Command::new("unshare");
        if !rustix::process::getuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let mut shell = command
            .args(["--mount", "sh"])
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The shell tells of processes that were killed.
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare is installed");
        let (input, output) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
        let mut small = Self { shell, input, output };
        let disk = world.path("disk");
        std::fs::create_dir(&disk).unwrap();
        let mounted =
            small.run(&format!("mount -t tmpfs -o size={kib}k,mode=700 keyward {}", disk.display()));
        assert!(
            mounted.0,
            "no mount namespace here ({}): run the tests as root, or `sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`",
            mounted.1
        );
        small
    }

    /// Runs a command; answers whether it succeeded, and what it wrote.
    fn run(&mut self, command: &str) -> (bool, String) {
        writeln!(self.input, "( {command} ) 2>&1; echo \"END $?\"").expect("the shell");
        let mut said = String::new();
        loop {
            let mut line = String::new();
            // Without its first answer, there is no namespace.
            if self.output.read_line(&mut line).expect("the shell") == 0 {
                return (false, "unshare failed".to_owned());
            }
            match line.split_once("END ") {
                Some((before, code)) => return (code.trim() == "0", said + before),
                None => said += &line,
            }
        }
    }

    /// As [`run`](Self::run), when it must succeed.
    fn done(&mut self, command: &str) -> String {
        let (success, said) = self.run(command);
        assert!(success, "{command}: {said}");
        said
    }

    fn start(&mut self, world: &World) {
        let daemon = program("keywardd", "");
        let (config, log) = (world.config_file(), world.path("log").display().to_string());
        writeln!(self.input, "{daemon} --config {config} >>{log} 2>&1 &").expect("the shell");
        writeln!(self.input, "DAEMON=$!").expect("the shell");
    }

    /// Starts the daemon on a full disk, and waits until it has said why that is in vain. It ends
    /// or waits, as the crash before has left the reserved room or not.
    async fn start_in_vain(&mut self, world: &World) {
        let wanted = |line: &&str| line.contains("audit log") && line.contains("No space left");
        let told = || world.log().lines().filter(wanted).count();
        let before = told();
        self.start(world);
        let deadline = Instant::now() + PATIENCE;
        while told() == before {
            assert!(Instant::now() < deadline, "{}", world.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the daemon as a service manager does, or worse.
    fn end(&mut self, signal: &str) {
        writeln!(self.input, "kill -{signal} $DAEMON; wait $DAEMON; echo \"END $?\"").expect("the shell");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the shell");
        assert!(signal == "KILL" || line.trim() == "END 0", "{line}");
    }

    fn fill(&mut self, world: &World) {
        let file = world.path("disk/filler");
        let (filled, said) = self.run(&format!("head -c 100M /dev/zero >{}", file.display()));
        assert!(!filled && said.contains("No space left"), "{said}");
    }

    fn make_room(&mut self, world: &World) {
        self.done(&format!("rm {}", world.path("disk/filler").display()));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What runs in the namespace dies with it; errors mean that it is gone already.
        writeln!(self.input, "kill -KILL $DAEMON; exit").ok();
        self.shell.wait().ok();
    }
}

/// A command line of one of the project's programs.
fn program(name: &str, arguments: &str) -> String {
    format!("{} {arguments}", binary(name).display())
}

/// Waits until the daemon's status is as wanted.
async fn until(world: &World, wanted: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = world.status().await;
        match &status {
            Ok(status) if wanted(status) => return status.clone(),
            _ => assert!(Instant::now() < deadline, "{status:?}\n{}", world.log()),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ready(world: &World) -> Client {
    until(world, |status| status.serving() == Serving::Ready).await;
    world.client().await
}

/// A world whose daemon runs over a small disk, initialised there.
fn world_on(disk: &str, kib: u32) -> (World, Small) {
    let mut world = World::new();
    // In a namespace of one's own one is root.
    world.reconfigure("users = [", "users = [0, ");
    world.config += &disk.replace("DISK", &world.path("disk").display().to_string());
    let mut small = Small::new(&world, kib);
    let backup = world.path("backup-key").display().to_string();
    small.done(&program("keyward", &format!("init --config {} --backup-key {backup}", world.config_file())));
    (world, small)
}

fn about() -> Context {
    context([("table", "customers")])
}

fn reason(status: &tonic::Status) -> (Code, String) {
    let reason = status.get_details_error_info().map(|info| info.reason);
    (status.code(), reason.unwrap_or_else(|| status.message().to_owned()))
}

/// Encrypts, and counts it when it was acknowledged.
async fn encrypt(crypto: &mut Crypto, acknowledged: &mut usize) -> Result<Vec<u8>, tonic::Status> {
    let asked = EncryptRequest { name: KEY.into(), plaintext: "x".into(), context: about() };
    let answer = crypto.encrypt(asked).await?.into_inner();
    *acknowledged += 1;
    Ok(answer.ciphertext.to_vec())
}

async fn decrypt(crypto: &mut Crypto, ciphertext: &[u8]) -> Result<(), tonic::Status> {
    let asked = DecryptRequest { name: KEY.into(), ciphertext: ciphertext.to_vec().into(), context: about() };
    let opened = crypto.decrypt(asked).await?.into_inner();
    assert_eq!(&*opened.plaintext, b"x");
    Ok(())
}

async fn create(client: &Client, number: u32) -> Result<Key, tonic::Status> {
    let asked =
        CreateKeyRequest { parent: "tenants/acme".into(), key_id: format!("k{number}"), data_class: 0 };
    client.keys().create_key(asked).await.map(tonic::Response::into_inner)
}

/// Freezes and unfreezes, one after the other, until one is refused.
async fn until_refused(client: Client, name: &'static str) -> (Code, String) {
    for _ in 0..1000 {
        let asked = FreezeRequest { name: name.into(), reason: "suspicion".into() };
        if let Err(status) = client.access().freeze(asked).await {
            return reason(&status);
        }
        let asked = UnfreezeRequest { name: name.into(), reason: "over".into() };
        if let Err(status) = client.access().unfreeze(asked).await {
            return reason(&status);
        }
    }
    panic!("the disk does not fill");
}

/// A change may be in force although its record found no room. As soon as there is room the log tells of it, before
/// anything is served; and the next start does after a crash. Whoever fills the disk changes nothing unseen.
// The shell is waited for while the clients go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_told_although_the_audit_disk_was_full() {
    const NAMES: [&str; 3] = [KEY, "tenants/globex/keys/orders", "tenants/globex"];
    let audit = "\n[audit]\ndirectory = \"DISK/audit\"\nsegment = \"1MiB\"\nreserve = \"64KiB\"\n";
    let (world, mut small) = world_on(audit, 1024);
    small.start(&world);
    let client = ready(&world).await;
    create_key(&client, "acme", "customer-pii").await;
    create_key(&client, "globex", "orders").await;
    drop(client);
    for round in 0..10 {
        let client = ready(&world).await;
        let turns = NAMES.map(|name| tokio::spawn(until_refused(client.clone(), name)));
        small.fill(&world);
        for turn in turns {
            assert_eq!(turn.await.unwrap(), (Code::Unavailable, "AUDIT_UNAVAILABLE".to_owned()));
        }
        drop(client);
        // Every third time, the daemon is killed before it could tell.
        let killed = round % 3 == 2;
        if killed {
            small.end("KILL");
        }
        small.make_room(&world);
        if killed {
            small.start(&world);
        }
    }
    let client = ready(&world).await;
    client.access().unfreeze(UnfreezeRequest { name: NAMES[2].into(), reason: "over".into() }).await.unwrap();
    client.access().unfreeze(UnfreezeRequest { name: KEY.into(), reason: "over".into() }).await.unwrap();
    client.encrypt(KEY, "x", &about()).await.unwrap();
    drop(client);
    small.end("TERM");
    // A start says where the store stands, behind all that was told late.
    small.start(&world);
    ready(&world).await;
    small.end("TERM");
    let config = world.config_file();
    let verified = small.done(&program("keyward", &format!("audit verify --json --config {config}")));
    let verified: serde_json::Value = serde_json::from_str(&verified).unwrap();
    assert_eq!(verified["changes_without_record"], "", "{verified}");
    assert_eq!(verified["changes_awaiting_record"], 0, "{verified}");
    let store = small.done(&program("keyward", &format!("store check --json --config {config}")));
    let store: serde_json::Value = serde_json::from_str(&store).unwrap();
    assert_eq!(verified["store_revision"], store["revision"], "{verified} {store}");
    assert!(verified["changes_told_from"].as_u64().unwrap() < store["revision"].as_u64().unwrap());
}

/// Nothing is answered without a record: a full disk stops the service, room starts it again.
// The shell is waited for while the clients go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_audit_disk_stops_the_service_until_there_is_room() {
    let audit = "\n[audit]\ndirectory = \"DISK/audit\"\nsegment = \"1MiB\"\nreserve = \"64KiB\"\n";
    let (world, mut small) = world_on(audit, 1024);
    small.start(&world);
    let client = ready(&world).await;
    create_key(&client, "acme", "customer-pii").await;
    let mut crypto = world.crypto().await;
    let mut acknowledged = 0;
    let sealed = encrypt(&mut crypto, &mut acknowledged).await.unwrap();
    let unwritable = (Code::Unavailable, "AUDIT_UNAVAILABLE".to_owned());
    for _ in 0..2 {
        small.fill(&world);
        // The last page of the file may have room for a few more.
        let refused = loop {
            match encrypt(&mut crypto, &mut acknowledged).await {
                Ok(_) => assert!(acknowledged < 1000, "the disk does not fill"),
                Err(status) => break status,
            }
        };
        assert_eq!(reason(&refused), unwritable);
        for _ in 0..20 {
            let refused = encrypt(&mut crypto, &mut acknowledged).await.unwrap_err();
            assert_eq!(reason(&refused), unwritable);
            let refused = decrypt(&mut crypto, &sealed).await.unwrap_err();
            assert_eq!(reason(&refused), unwritable);
        }
        assert_eq!(reason(&create(&client, 1).await.unwrap_err()), unwritable);
        let status = until(&world, |_| true).await;
        assert_eq!((status.serving(), status.audit.unwrap().writable), (Serving::NotServing, false));
        assert!(status.reason.contains("the audit log cannot be written"), "{}", status.reason);
        world.healthy(ServingStatus::NotServing).await;
        small.make_room(&world);
        let status = until(&world, |status| status.serving() == Serving::Ready).await;
        assert!(status.audit.unwrap().writable);
        world.healthy(ServingStatus::Serving).await;
        encrypt(&mut crypto, &mut acknowledged).await.unwrap();
        decrypt(&mut crypto, &sealed).await.unwrap();
    }

    // A crash in the middle of it.
    small.fill(&world);
    while encrypt(&mut crypto, &mut acknowledged).await.is_ok() {}
    small.end("KILL");
    small.start_in_vain(&world).await;
    small.end("KILL");
    small.make_room(&world);
    small.start(&world);
    ready(&world).await;
    let mut crypto = world.crypto().await;
    decrypt(&mut crypto, &sealed).await.unwrap();
    encrypt(&mut crypto, &mut acknowledged).await.unwrap();
    small.end("TERM");

    small.done(&program("keyward", &format!("audit verify --config {}", world.config_file())));
    let records =
        small.done(&program("keyward", &format!("audit show --json --config {}", world.config_file())));
    let records: serde_json::Value = serde_json::from_str(&records).unwrap();
    let records: Vec<_> = records["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            (record["operation"].as_str().unwrap().to_owned(), record["outcome"].as_str().unwrap().to_owned())
        })
        .collect();
    let encrypted =
        records.iter().filter(|(operation, outcome)| operation == "encrypt" && outcome == "ok").count();
    assert_eq!(encrypted, acknowledged);
    let own: Vec<_> = records
        .iter()
        .map(|(operation, _)| operation.as_str())
        .filter(|word| word.starts_with("audit-"))
        .collect();
    let (twice, crash) = own.split_at(4);
    assert_eq!(twice, ["audit-stopped", "audit-resumed", "audit-stopped", "audit-resumed"]);
    assert!(crash.iter().all(|word| *word == "audit-stopped") && crash.len() <= 2, "{own:?}");
}

/// A change that was made when its record could not be written is told as soon as there is room.
// The shell is waited for while the clients go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_on_a_full_audit_disk_has_its_record_later() {
    let audit = "\n[audit]\ndirectory = \"DISK/audit\"\nsegment = \"1MiB\"\nreserve = \"64KiB\"\n";
    let (world, mut small) = world_on(audit, 1024);
    small.start(&world);
    let client = ready(&world).await;
    create_key(&client, "acme", "customer-pii").await;
    let mut told = false;
    for _ in 0..10 {
        small.fill(&world);
        let (mut frozen, mut changes) = (true, 0);
        let refused = loop {
            match set_frozen(&client, frozen).await {
                Ok(()) => (frozen, changes) = (!frozen, changes + 1),
                Err(status) => break status,
            }
            assert!(changes < 1000, "the disk does not fill");
        };
        assert_eq!(reason(&refused), (Code::Unavailable, "AUDIT_UNAVAILABLE".to_owned()));
        small.make_room(&world);
        until(&world, |status| status.serving() == Serving::Ready).await;
        let asked = GetKeyRequest { name: KEY.into() };
        let made = client.keys().get_key(asked).await.unwrap().into_inner().frozen == frozen;
        let records =
            small.done(&program("keyward", &format!("audit show --json --config {}", world.config_file())));
        let records: serde_json::Value = serde_json::from_str(&records).unwrap();
        let is = |record: &&serde_json::Value| {
            record["operation"] == "change-recovered" && record["resource"] == KEY
        };
        let recovered = records["records"].as_array().unwrap().iter().filter(is).count();
        // A change that is in force has its record: its own, or this one. One that is not in force has none.
        assert!(made == (recovered > 0), "in force: {made}, told {recovered} times");
        told |= made;
        // For the next round; it may be so already.
        set_frozen(&client, false).await.ok();
        if told {
            break;
        }
    }
    assert!(told, "no change was in force without its record: this test has shown nothing");
    small.end("TERM");
}

async fn set_frozen(client: &Client, frozen: bool) -> Result<(), tonic::Status> {
    let (name, reason) = (KEY.to_owned(), "test".to_owned());
    if frozen {
        client.access().freeze(FreezeRequest { name, reason }).await.map(drop)
    } else {
        client.access().unfreeze(UnfreezeRequest { name, reason }).await.map(drop)
    }
}

/// The record of refused PINs has no room, so no PIN is presented: that is for whoever makes room, and for nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_lost_on_a_full_disk_comes_back_when_there_is_room() {
    let (world, mut small) = world_on("", 64);
    let pins = world.path("state/pins").display().to_string();
    small.done(&format!("mkdir -p {pins} && mount -t tmpfs -o size=16k,mode=700 keyward {pins}"));
    small.start(&world);
    let client = ready(&world).await;
    create_key(&client, "acme", "customer-pii").await;
    let (filled, _) = small.run(&format!("head -c 1M /dev/zero >{pins}/filler"));
    assert!(!filled);
    small.done("pkill -KILL -P $DAEMON");
    let away = until(&world, |status| status.serving() == Serving::Degraded).await;
    let told = until(&world, |status| status.reason.contains("make room")).await;
    assert!(away.hsm.is_some() && told.serving() == Serving::Degraded, "{told:?}");
    small.done(&format!("rm {pins}/filler"));
    create(&ready(&world).await, 1).await.unwrap();
    // However often it was tried, the log tells it once.
    assert_eq!(world.log().matches("does not serve, and is tried again").count(), 1, "{}", world.log());
    small.end("TERM");
}

/// Keys cannot be made without room; everything that is there goes on.
// The shell is waited for while the clients go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_disk_refuses_changes_only() {
    let store = "\n[store]\ndatabase = \"DISK/store.db\"\njournal = \"DISK/journal.kwj\"\n";
    let (world, mut small) = world_on(store, 2048);
    small.start(&world);
    let client = ready(&world).await;
    create_key(&client, "acme", "customer-pii").await;
    let mut crypto = world.crypto().await;
    let (mut acknowledged, mut made) = (0, Vec::new());
    let sealed = encrypt(&mut crypto, &mut acknowledged).await.unwrap();
    let mut number = 0;
    for round in 0..2 {
        small.fill(&world);
        let refused = loop {
            number += 1;
            match create(&client, number).await {
                Ok(key) => made.push(key.name),
                Err(status) => break status,
            }
            assert!(number < 1000, "the disk does not fill");
        };
        assert_eq!(reason(&refused), (Code::ResourceExhausted, "STORE_FULL".into()), "{refused}");
        for _ in 0..5 {
            number += 1;
            let refused = create(&client, number).await.unwrap_err();
            assert_eq!(reason(&refused), (Code::ResourceExhausted, "STORE_FULL".into()), "{refused}");
        }
        encrypt(&mut crypto, &mut acknowledged).await.unwrap();
        decrypt(&mut crypto, &sealed).await.unwrap();
        if round == 1 {
            small.end("KILL");
        }
        small.make_room(&world);
        if round == 1 {
            small.start(&world);
        }
        ready(&world).await;
        number += 1;
        made.push(create(&world.client().await, number).await.unwrap().name);
    }
    let (client, mut crypto) = (world.client().await, world.crypto().await);
    decrypt(&mut crypto, &sealed).await.unwrap();
    for key in &made {
        let sealed = client.encrypt(key, "x", &about()).await.unwrap();
        client.decrypt(key, sealed.ciphertext, &about()).await.unwrap();
    }
    small.end("TERM");
    small.done(&program("keyward", &format!("store check --config {}", world.config_file())));
}
