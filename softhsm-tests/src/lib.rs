//! A daemon of one's own for each test: fresh token, store, audit log and socket.
//!
//! The PKCS#11 module is loaded by the daemon and the command line only, never
//! by the test process.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyward::client::{Client, Code};
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{CreateKeyRequest, CreateTenantRequest, GetStatusRequest, Status};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

pub mod authority;
pub mod browser;
pub mod chromium;
pub mod custodians;
pub mod faketime;
pub mod faults;
pub mod modules;
pub mod offline;
pub mod person;
pub mod piv;
pub mod staff;

/// The key that most tests use.
pub const KEY: &str = "tenants/acme/keys/customer-pii";
/// How long anything may take before a test gives up: far more than it needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The user PIN of every test token.
const PIN: &str = "8521-test";

/// A folder with a token, a configuration and, after [`init`](Self::init), a store.
pub struct World {
    folder: TempDir,
    /// The text of the configuration; a change is used by the next start.
    pub config: String,
    /// What every program of this world has in its environment beside the usual.
    environment: Vec<(&'static str, PathBuf)>,
    /// A program with its arguments that starts every program of this world, such as `prlimit`.
    pub launcher: Vec<String>,
    /// The same for the command line alone, such as `nsenter`.
    pub cli_launcher: Vec<String>,
    helper: Option<modules::Helper>,
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl World {
    /// A fresh token and configuration in memory, where there is some.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        Self::in_folder(if memory.is_dir() { memory } else { Path::new("/tmp") })
    }

    /// A fresh token and configuration on a real disk.
    pub fn on_disk() -> Self {
        Self::in_folder(Path::new("/tmp"))
    }

    /// A fresh token and configuration under `parent`, whose path must be short.
    pub fn in_folder(parent: &Path) -> Self {
        let folder = TempDir::with_prefix_in("kw-", parent).expect("a temporary folder");
        let world = Self {
            config: String::new(),
            folder,
            environment: Vec::new(),
            launcher: Vec::new(),
            cli_launcher: Vec::new(),
            helper: None,
        };
        world.make_token("token");
        let config = world.default_config(&softhsm_module());
        Self { config, ..world }
    }

    /// A world without a token, for another module than SoftHSM.
    fn bare(parent: &Path, module: &str) -> Self {
        let folder = TempDir::with_prefix_in("kw-", parent).expect("a temporary folder");
        let world = Self {
            config: String::new(),
            folder,
            environment: Vec::new(),
            launcher: Vec::new(),
            cli_launcher: Vec::new(),
            helper: None,
        };
        world.write_secret("pin", PIN);
        let config = world.default_config(module);
        Self { config, ..world }
    }

    /// A world that has been initialised.
    pub fn ready() -> Self {
        let world = Self::new();
        world.init();
        world
    }

    /// A path in the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("s")
    }

    /// Makes another token of this label, with the usual PIN.
    pub fn make_token(&self, label: &str) {
        let tokens = self.path("tokens");
        std::fs::create_dir_all(&tokens).expect("a folder for tokens");
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        std::fs::write(self.path("softhsm2.conf"), conf).expect("softhsm2.conf");
        self.write_secret("pin", PIN);
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "so-pin-test", "--pin", PIN])
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .output()
            .expect("softhsm2-util: run softhsm-tests/scripts/setup.sh");
        assert!(made.status.success(), "{made:?}");
    }

    /// Runs `work`, in which a process may be killed while it logs in to a token, and mends the tokens
    /// after: SoftHSM empties a token's file at each login before it writes it anew, so a `kill -9` in
    /// between destroys the token, as it would no hardware.
    pub async fn sparing_tokens<T>(&self, work: impl Future<Output = T>) -> T {
        let folders = std::fs::read_dir(self.path("tokens")).expect("the tokens");
        let files = folders.map(|token| token.expect("a token").path().join("token.object"));
        let before: Vec<_> = files.map(|file| (std::fs::read(&file).expect("a token"), file)).collect();
        let done = work.await;
        for (content, file) in before {
            if std::fs::metadata(&file).expect("a token").len() == 0 {
                std::fs::write(&file, content).expect("a token");
            }
        }
        done
    }

    /// Writes a file for this user alone.
    pub fn write_secret(&self, name: &str, text: &str) {
        let mut options = std::fs::File::options();
        let mut file =
            options.create(true).truncate(true).write(true).mode(0o600).open(self.path(name)).expect(name);
        file.write_all(text.as_bytes()).expect(name);
    }

    fn default_config(&self, module: &str) -> String {
        let uid = rustix::process::getuid().as_raw();
        let folder = self.folder.path().display();
        format!(
            r#"state_dir = "{folder}/state"
custody = "operator"

[server]
socket = "{folder}/s"
socket_mode = "0600"
shutdown_grace = "10s"

[log]
level = "info"
format = "text"

[login]
assurance = ["attested", "certified", "witnessed"]

[[principal]]
name = "tester"
role = "operator"
users = [{uid}]

[[principal.allow]]
keys = ["tenants/*/keys/*"]
operations = ["encrypt", "decrypt", "re-encrypt", "generate-data-key", "decrypt-data-key", "blind-index"]

[hsm]
module = "{module}"
token = "token"
pin_file = "{folder}/pin"
"#
        )
    }

    /// Changes the configuration for the next start.
    pub fn reconfigure(&mut self, from: &str, to: &str) {
        assert!(self.config.contains(from), "{from:?} is not in the configuration");
        self.config = self.config.replace(from, to);
    }

    /// Makes root, store and audit log.
    pub fn init(&self) {
        let made = self.cli([
            "init",
            "--config",
            &self.config_file(),
            "--backup-key",
            self.str("backup-key").as_str(),
        ]);
        assert!(made.status.success(), "init: {}", text(&made));
    }

    /// Writes the configuration; answers its path.
    pub fn config_file(&self) -> String {
        let path = self.path("keywardd.toml");
        std::fs::write(&path, &self.config).expect("the configuration");
        path.display().to_string()
    }

    fn str(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The command line, with this world's socket and token.
    pub fn cli<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Output {
        self.cli_with_input(arguments, b"")
    }

    /// The command line with something on its standard input.
    pub fn cli_with_input<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I, input: &[u8]) -> Output {
        let mut child = self
            .command("keyward")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("keyward");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("keyward");
        // A program that does not read its input closes it: no failure of the test.
        feeder.join().expect("the feeding thread").ok();
        output
    }

    /// One of the project's programs, with this world's environment.
    pub fn command(&self, program: &str) -> Command {
        let own = if program == "keyward" { &self.cli_launcher[..] } else { &[] };
        let mut words = own.iter().chain(&self.launcher).map(Into::into).chain([binary(program).into()]);
        let mut command = Command::new(words.next().unwrap_or_else(OsString::new));
        command
            .args(words)
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env("KEYWARD_SOCKET", self.socket())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Starts a daemon without waiting for it.
    pub fn spawn(&self) -> Daemon {
        let config = self.config_file();
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("the log");
        let child = self
            .command("keywardd")
            .args(["--config", &config])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("keywardd");
        Daemon { child, socket: self.socket() }
    }

    /// Starts a daemon and waits until it serves.
    pub async fn start(&self) -> Daemon {
        let mut daemon = self.spawn();
        let status = daemon.wait_for(|status| status.serving() == Serving::Ready).await;
        if let Err(error) = status {
            panic!("{error}\n{}", self.log());
        }
        daemon
    }

    /// Starts a daemon that has the tenant and key of [`KEY`].
    pub async fn start_with_key(&self) -> (Daemon, Client) {
        let daemon = self.start().await;
        let client = daemon.client().await;
        create_key(&client, "acme", "customer-pii").await;
        (daemon, client)
    }

    /// A client of the daemon at this world's socket.
    pub async fn client(&self) -> Client {
        Client::connect(self.socket()).await.expect("a connection")
    }

    /// The generated client of the crypto service, on a connection of its own: one call is one call,
    /// where [`Client`] pipelines and repeats.
    pub async fn crypto(&self) -> CryptoServiceClient<Channel> {
        crypto(&self.socket()).await
    }

    /// The status of the daemon at this world's socket.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<Status, String> {
        status(&self.socket()).await
    }

    /// Waits until the standard health check answers this, for all and for the crypto service.
    pub async fn healthy(&self, wanted: ServingStatus) {
        let deadline = Instant::now() + PATIENCE;
        let mut health = HealthClient::new(channel(&self.socket()).await);
        for service in ["", "keyward.v1.CryptoService"] {
            let asked = HealthCheckRequest { service: service.to_owned() };
            while health.check(asked.clone()).await.expect("an answer").into_inner().status() != wanted {
                assert!(Instant::now() < deadline, "{service:?} is not {wanted:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// What the daemon wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs a daemon that must not start; answers what it wrote.
    pub fn fails_to_start(&self) -> String {
        let output =
            self.command("keywardd").args(["--config", &self.config_file()]).output().expect("keywardd");
        assert!(!output.status.success(), "it started: {}", text(&output));
        text(&output)
    }

    /// The records of the audit log, from its files.
    pub fn audit(&self) -> Vec<keyward::audit::Record> {
        let records = keyward::audit::verify::read(&self.path("state/audit")).expect("the audit log");
        records.map(|item| item.expect("a sound record").1).collect()
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// An HSM process of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsmProcess {
    /// The process.
    pub pid: u32,
    /// What it calls itself: `keyward-hsm: ` and the token that it serves.
    pub name: String,
}

impl HsmProcess {
    /// Sends it a signal; one that has gone already needs none.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).ok();
    }

    /// A file of the process in `/proc`, or nothing when it has gone.
    pub fn proc(&self, file: &str) -> String {
        let read = std::fs::read(format!("/proc/{}/{file}", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&read).replace('\0', " ")
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let deadline = Instant::now() + PATIENCE;
        // A zombie has no command line any more.
        while self.proc("cmdline").starts_with("keyward-hsm: ") {
            assert!(Instant::now() < deadline, "{self:?} lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Daemon {
    /// Its HSM processes, by name.
    pub fn hsm_processes(&self) -> Vec<HsmProcess> {
        let pids = std::fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|entry| entry.expect("/proc").file_name().to_str()?.parse::<u32>().ok());
        let parent = format!("PPid:\t{}\n", self.pid());
        let mut found: Vec<_> = pids
            .map(|pid| HsmProcess { pid, name: String::new() })
            .filter(|process| process.proc("status").contains(&parent))
            .map(|process| HsmProcess { name: process.proc("cmdline"), ..process })
            .filter(|process| process.name.starts_with("keyward-hsm: "))
            .collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    /// Its HSM processes, once those of tasks that are done once, as at its start, have ended.
    pub async fn serving_processes(&self, count: usize) -> Vec<HsmProcess> {
        let look = async || Some(self.hsm_processes()).filter(|found| found.len() == count);
        eventually("the HSM processes", look).await
    }

    /// A client of this daemon.
    pub async fn client(&self) -> Client {
        Client::connect(&self.socket).await.expect("a connection")
    }

    /// A client, as soon as the daemon answers at all.
    pub async fn answering(&mut self) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Client::connect(&self.socket).await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            assert_eq!(self.child.try_wait().expect("wait"), None, "the daemon stopped");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// See [`World::crypto`].
    pub async fn crypto(&self) -> CryptoServiceClient<Channel> {
        crypto(&self.socket).await
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its status is as wanted.
    ///
    /// # Errors
    /// When it stopped, or patience ended; with the last status.
    pub async fn wait_for(&mut self, wanted: impl Fn(&Status) -> bool) -> Result<Status, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = String::from("no answer");
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                return Err(format!("the daemon stopped: {status}"));
            }
            match self.status().await {
                Ok(status) if wanted(&status) => return Ok(status),
                Ok(status) => last = format!("{status:?}"),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("the daemon did not come to the wanted state: {last}"))
    }

    /// Its status now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<Status, String> {
        status(&self.socket).await
    }

    /// Ends it without warning.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Asks it to stop, and waits while clients of this test go on running.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        tokio::task::spawn_blocking(move || self.child.wait().expect("wait")).await.expect("a thread")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("kill");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn crypto(socket: &Path) -> CryptoServiceClient<Channel> {
    CryptoServiceClient::new(channel(socket).await)
}

async fn channel(socket: &Path) -> Channel {
    let socket = format!("unix://{}", socket.display());
    Endpoint::try_from(socket).expect("a path").connect().await.expect("a connection")
}

async fn status(socket: &Path) -> Result<Status, String> {
    let client = Client::connect(socket).await.map_err(|error| error.to_string())?;
    let answer = client.system().get_status(GetStatusRequest {}).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

/// Random numbers with which a failure can be repeated: `KEYWARD_SEED=…`.
pub struct Random(u64);

impl Random {
    /// Numbers from `$KEYWARD_SEED`, or from a seed that is shown when the test fails.
    pub fn new() -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_nanos().into();
        let given = std::env::var("KEYWARD_SEED").ok();
        let seed: u64 = given.map_or_else(now, |seed| seed.parse().expect("KEYWARD_SEED is a number"));
        #[allow(clippy::print_stdout)] // shown when the test fails
        {
            println!("KEYWARD_SEED={seed}");
        }
        Self(seed | 1 << 63)
    }

    /// A number below `limit` (xorshift64*).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One of a list.
    pub fn choose<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[usize::try_from(self.below(list.len() as u64)).expect("below a length")]
    }

    /// Numbers for another task.
    pub fn split(&mut self) -> Self {
        Self(self.next() | 1 << 63)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes a tenant and a key, whichever of them is missing.
pub async fn create_key(client: &Client, tenant: &str, key: &str) {
    let mut keys = client.keys();
    let asked = CreateTenantRequest { tenant_id: tenant.to_owned(), display_name: String::new() };
    let made = keys.create_tenant(asked).await;
    assert!(
        made.is_ok() || made.as_ref().is_err_and(|error| error.code() == Code::AlreadyExists),
        "{made:?}"
    );
    let asked =
        CreateKeyRequest { parent: format!("tenants/{tenant}"), key_id: key.to_owned(), data_class: 0 };
    let made = keys.create_key(asked).await;
    assert!(
        made.is_ok() || made.as_ref().is_err_and(|error| error.code() == Code::AlreadyExists),
        "{made:?}"
    );
}

/// Makes a tenant, whose KEK is made in the HSM.
///
/// # Errors
/// The code and the words of the refusal.
pub async fn create_tenant(client: &Client, tenant: &str) -> Result<(), (Code, String)> {
    let asked = CreateTenantRequest { tenant_id: tenant.to_owned(), display_name: String::new() };
    let made = client.keys().create_tenant(asked).await;
    made.map(drop).map_err(|error| (error.code(), error.to_string()))
}

/// Waits until `look` answers something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same, where nothing else goes on.
pub fn eventually_now<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a program wrote, for messages.
pub fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A program of the project, in the folder where this test was built.
pub fn binary(program: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{program} is not built: run `cargo build --workspace`, or `make test`"))
}

/// The PKCS#11 module of SoftHSM2.
pub fn softhsm_module() -> String {
    let known = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"];
    let chosen = std::env::var("KEYWARD_SOFTHSM").ok();
    let found =
        chosen.or_else(|| known.into_iter().find(|path| Path::new(path).is_file()).map(str::to_owned));
    found.expect("SoftHSM2 is not installed: run softhsm-tests/scripts/setup.sh")
}

/// Makes a file unreadable for others; for tests of refusals.
pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}
