//! What a test has to itself: a folder with token, store, audit log and socket.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use keyward::client::Client;
use keyward::rpc::proto::Status;
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::status::Serving;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::daemon::{channel, crypto, status};
use crate::template::Template;
use crate::{Daemon, PATIENCE, binary, create_key, modules, softhsm_module, text};

/// The user PIN of every test token.
pub(crate) const PIN: &str = "8521-test";

/// A folder with a token, a configuration and, after [`init`](Self::init), a store.
pub struct World {
    folder: TempDir,
    /// The text of the configuration; a change is used by the next start.
    pub config: String,
    /// What every program of this world has in its environment beside the usual.
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
    /// A program with its arguments that starts every program of this world, such as `prlimit`.
    pub launcher: Vec<String>,
    /// The same for the command line alone, such as `nsenter`.
    pub cli_launcher: Vec<String>,
    /// A folder whose programs are used where it has them, such as those of an older version.
    pub programs: Option<PathBuf>,
    pub(crate) helper: Option<modules::Helper>,
}

impl World {
    /// A fresh token and configuration in memory, where there is some.
    pub fn new() -> Self {
        Self::in_folder(memory())
    }

    /// A fresh token and configuration on a real disk.
    pub fn on_disk() -> Self {
        Self::in_folder(Path::new("/tmp"))
    }

    /// A fresh token and configuration under `parent`, whose path must be short.
    pub fn in_folder(parent: &Path) -> Self {
        let world = Self::empty(parent);
        world.make_token("token");
        world.with_token()
    }

    /// A world without a token, for another module than SoftHSM.
    pub(crate) fn bare(parent: &Path, module: &str) -> Self {
        let world = Self::empty(parent);
        world.write_secret("pin", PIN);
        let config = world.default_config(module);
        Self { config, ..world }
    }

    /// A world that has been initialised: a copy of the first of this process, since most tests need of `init` only that
    /// it was run. All copies are one deployment; a test of two takes [`another`](Self::another).
    pub fn ready() -> Self {
        static FIRST: LazyLock<Template> = LazyLock::new(|| {
            let world = World::another();
            world.config_file();
            Template::of(world.folder.path())
        });
        let world = Self::empty(memory());
        FIRST.copy_to(world.folder.path());
        world.with_token()
    }

    /// A world that has been initialised by itself, as a deployment of its own.
    pub fn another() -> Self {
        let world = Self::new();
        world.init();
        world
    }

    /// A copy of this one, none of whose programs runs.
    pub fn copied(&self) -> Self {
        let copy = Self::empty(memory());
        self.config_file();
        Template::of(self.folder.path()).copy_to(copy.folder.path());
        let (from, to) = (self.folder.path().display().to_string(), copy.folder.path().display().to_string());
        let config = self.config.replace(&from, &to);
        Self { config, environment: self.environment.clone(), launcher: self.launcher.clone(), ..copy }
    }

    fn empty(parent: &Path) -> Self {
        Self {
            folder: TempDir::with_prefix_in("kw-", parent).expect("a temporary folder"),
            config: String::new(),
            environment: Vec::new(),
            launcher: Vec::new(),
            cli_launcher: Vec::new(),
            programs: None,
            helper: None,
        }
    }

    /// Configures the token of SoftHSM that is in this world's folder.
    fn with_token(self) -> Self {
        let config = self.default_config(&softhsm_module());
        let mut world = Self { config, ..self };
        world.allow("tokens");
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
allow_own_user = true

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
allow_paths = []
pin_file = "{folder}/pin"
"#
        )
    }

    /// Changes the configuration for the next start.
    pub fn reconfigure(&mut self, from: &str, to: &str) {
        assert!(self.config.contains(from), "{from:?} is not in the configuration");
        self.config = self.config.replace(from, to);
    }

    /// Lets the PKCS#11 module reach a folder of this world.
    pub fn allow(&mut self, name: &str) {
        let path = self.str(name);
        self.reconfigure("allow_paths = [", &format!("allow_paths = [\"{path}\", "));
    }

    /// A copy of a library in this world's folder: where the project is built others may write, and a
    /// module from there is refused.
    pub fn own_copy(&self, library: &Path) -> String {
        let copy = self.path(&library.file_name().expect("a file").to_string_lossy());
        // Never over one that a process may have loaded.
        if !copy.exists() {
            std::fs::copy(library, &copy).expect("a copy of the library");
        }
        copy.display().to_string()
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
        let other = self.programs.as_ref().map(|folder| folder.join(program)).filter(|path| path.is_file());
        let program = other.unwrap_or_else(|| binary(program));
        let mut words = own.iter().chain(&self.launcher).map(Into::into).chain([program.into()]);
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
        Daemon::of(child, self.socket())
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

    /// A connection to the daemon, for clients of other services.
    pub async fn channel(&self) -> Channel {
        channel(&self.socket()).await
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

/// A folder in memory, where there is some.
fn memory() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
