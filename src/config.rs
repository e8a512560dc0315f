//! The configuration file: strict, complete, checked when it is read.
//!
//! `hsm-config/keywardd.toml` lists every option with its default. Unknown
//! keys are refused; an error names the line, the key and what was expected.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

mod changes;
mod check;
mod class;
mod faults;
mod hsm;
mod lifecycle;
mod login;
pub mod pattern;
mod principal;
pub mod value;

pub use changes::Changes;
use check::{faults, unless, within};
pub use class::{Class, Classes};
pub use hsm::{Confinement, Hsm, Standby};
pub use lifecycle::{Clock, Destruction, Erasure, OldKek, Rotation};
pub use login::Login;
pub use principal::{Allow, NOBODY, OWN_USER, Principal};
use value::{Bytes, Mode, Span};

use crate::secret::SecretMemory;

/// The whole configuration of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file that this was read from.
    #[serde(skip)]
    pub file: PathBuf,
    /// The SHA-256 of that file, for the audit log.
    #[serde(skip)]
    pub digest: [u8; 32],
    /// Where the daemon keeps what it must not lose.
    pub state_dir: PathBuf,
    /// Who holds the root: must say "operator" while the root is unfounded.
    pub custody: Option<CustodyMode>,
    /// How the memory of keys and PINs is protected.
    #[serde(default)]
    pub secret_memory: SecretMemory,
    /// The socket.
    #[serde(default)]
    pub server: Server,
    /// What is logged, and where.
    #[serde(default)]
    pub log: Log,
    /// The HSM.
    pub hsm: Hsm,
    /// The store.
    #[serde(default)]
    pub store: Store,
    /// The erasure key.
    #[serde(default)]
    pub erasure: Erasure,
    /// The audit log.
    #[serde(default)]
    pub audit: Audit,
    /// How much one call may ask.
    #[serde(default)]
    pub limits: Limits,
    /// How keys of each data class are cached.
    #[serde(default)]
    pub class: Classes,
    /// What becomes of what a rotation replaced.
    #[serde(default)]
    pub rotation: Rotation,
    /// How keys are destroyed.
    #[serde(default)]
    pub destruction: Destruction,
    /// How the clock is watched.
    #[serde(default)]
    pub clock: Clock,
    /// Logins of staff.
    #[serde(default)]
    pub login: Login,
    /// Who may call.
    #[serde(default, rename = "principal")]
    pub principals: Vec<Principal>,
}

/// Who answers for the root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CustodyMode {
    /// One operator holds the backup key of an unfounded root.
    Operator,
    /// Custodians: the root was founded by a ceremony.
    Custodians,
}

/// The listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Path of the Unix socket; at most 107 bytes. Ignored under socket activation.
    pub socket: PathBuf,
    /// Its mode.
    pub socket_mode: Mode,
    /// How long a stop may take; calls in flight have three quarters of it.
    pub shutdown_grace: Span,
    /// Most connections in all; fewer where the limit of open files demands it.
    pub max_connections: usize,
    /// Most connections of one user.
    pub max_connections_per_uid: usize,
    /// Whether the daemon's own user may be a principal: for trying it out as one user.
    pub allow_own_user: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            socket: "/run/keyward/keyward.sock".into(),
            socket_mode: Mode(0o660),
            shutdown_grace: Span(Duration::from_secs(20)),
            max_connections: 4096,
            max_connections_per_uid: 256,
            allow_own_user: false,
        }
    }
}

impl Server {
    fn check(&self) -> Vec<String> {
        let bytes = self.socket.as_os_str().len();
        faults([
            within("server.max_connections", self.max_connections, 16..=1_000_000),
            within("server.max_connections_per_uid", self.max_connections_per_uid, 1..=self.max_connections),
            unless(bytes > 107, || {
                format!("server.socket has {bytes} bytes; a Unix socket path has at most 107")
            }),
        ])
    }
}

/// The log (not the audit log).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The least important level that is shown.
    pub level: Level,
    /// Where and how.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: Level::Info, format: LogFormat::Auto }
    }
}

/// Log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Only what went wrong.
    Error,
    /// And what might.
    Warn,
    /// And start, stop, state changes and refusals.
    Info,
    /// And each call.
    Debug,
}

/// Log formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// journald when started by systemd, text otherwise.
    Auto,
    /// Lines for people, to stderr.
    Text,
    /// One JSON object a line, to stderr.
    Json,
    /// The systemd journal.
    Journald,
}

/// The store and its journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// The database; `store.db` in the state directory unless given.
    pub database: Option<PathBuf>,
    /// The key journal, ideally on another disk; `journal.kwj` in the state directory unless given.
    pub journal: Option<PathBuf>,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Its directory; `audit` in the state directory unless given.
    pub directory: Option<PathBuf>,
    /// Size of one file.
    pub segment: Bytes,
    /// Room kept to say why the log stopped when the disk is full.
    pub reserve: Bytes,
    /// Keep the digest of each decrypted item, not only their Merkle root.
    pub list_decrypted_items: bool,
    /// How often the HSM signs a checkpoint, when there are new records.
    pub checkpoint_interval: Span,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            directory: None,
            segment: Bytes(64 << 20),
            reserve: Bytes(1 << 20),
            list_decrypted_items: true,
            checkpoint_interval: Span(Duration::from_secs(10)),
        }
    }
}

impl Audit {
    fn check(&self) -> Vec<String> {
        let often = self.checkpoint_interval.0 < Duration::from_millis(100);
        faults([
            within("audit.segment", self.segment.0, 1 << 20..=4096 << 20),
            within("audit.reserve", self.reserve.0, 4096..=64 << 20),
            unless(often, || "audit.checkpoint_interval must be at least 100ms".into()),
        ])
    }
}

/// How much one call may ask.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest plaintext of one field.
    pub plaintext: Bytes,
    /// Most items in one batch.
    pub batch_items: usize,
    /// Largest batch, all plaintexts or ciphertexts together.
    pub batch: Bytes,
    /// Named keys whose data keys are kept open.
    pub open_keys: usize,
    /// What the calls of one connection may have in flight; a message of the largest size always fits.
    pub in_flight_per_connection: Bytes,
    /// What the calls of one principal may have in flight, on all its connections.
    pub in_flight_per_principal: Bytes,
    /// Most fields of one key that have a blind index.
    pub index_fields: usize,
    /// Refusals of one principal, each second, that have a record of their own; ten times as many at once.
    pub refusals_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            plaintext: Bytes(1 << 20),
            batch_items: 1000,
            batch: Bytes(4 << 20),
            open_keys: 10_000,
            in_flight_per_connection: Bytes(32 << 20),
            in_flight_per_principal: Bytes(128 << 20),
            index_fields: 64,
            refusals_per_second: 20,
        }
    }
}

impl Limits {
    fn check(&self) -> Vec<String> {
        let (one, all) = (self.in_flight_per_connection.0, self.in_flight_per_principal.0);
        faults([
            within("limits.plaintext", self.plaintext.0, 1..=64 << 20),
            within("limits.batch", self.batch.0, 1..=256 << 20),
            within("limits.batch_items", self.batch_items, 1..=100_000),
            within("limits.open_keys", self.open_keys, 1..=10_000_000),
            within("limits.in_flight_per_connection", one, 1 << 20..=1 << 40),
            within("limits.in_flight_per_principal", all, one..=1 << 40),
            within("limits.index_fields", self.index_fields, 1..=4096),
            within("limits.refusals_per_second", self.refusals_per_second, 1..=10_000),
        ])
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what was expected: line, key and expectation, or options that do not go together, of every fault.
    #[error("{path}: {}", .faults.join("; "))]
    Faulty {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        faults: Vec<String>,
        /// What it says, where each value by itself could be read: for whoever looks for further faults.
        read: Option<Box<Config>>,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] that names the place and what was expected.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a configuration; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`] that names the place and what was expected.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let faulty = |faults, read| ConfigError::Faulty { path: path.into(), faults, read };
        let parsed = faults::parse(text).map_err(|faults| faulty(faults, None))?;
        let config = Self { file: path.to_owned(), digest: Sha256::digest(text).into(), ..parsed };
        let faults = config.check();
        if !faults.is_empty() {
            return Err(faulty(faults, Some(Box::new(config))));
        }
        Ok(config)
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.store.database.clone().unwrap_or_else(|| self.state_dir.join("store.db"))
    }

    /// The key journal.
    pub fn journal(&self) -> PathBuf {
        self.store.journal.clone().unwrap_or_else(|| self.state_dir.join("journal.kwj"))
    }

    /// The directory of the audit log.
    pub fn audit_dir(&self) -> PathBuf {
        self.audit.directory.clone().unwrap_or_else(|| self.state_dir.join("audit"))
    }

    fn check(&self) -> Vec<String> {
        let kept = [
            ("the state directory", self.state_dir.clone()),
            ("the store", self.database()),
            ("the journal", self.journal()),
            ("the audit log", self.audit_dir()),
            ("this configuration", self.file.clone()),
        ];
        let checked = [
            self.server.check(),
            self.hsm.check(),
            self.hsm.check_reach(&kept, &self.audit_dir()),
            self.limits.check(),
            self.class.check(),
            self.audit.check(),
            self.destruction.check(),
            self.login.check(),
            principal::check(&self.principals),
        ];
        checked.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::state::DataClass;

    const MINIMAL: &str = r#"
state_dir = "/var/lib/keyward"
[hsm]
module = "/usr/lib/softhsm/libsofthsm2.so"
token = "keyward"
pin_file = "/etc/keyward/pin"
"#;

    fn parse(extra: &str) -> Result<Config, String> {
        Config::parse(&format!("{MINIMAL}{extra}"), Path::new("k.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_minimal_file_is_enough() {
        let config = parse("").unwrap();
        assert_eq!(config.database(), Path::new("/var/lib/keyward/store.db"));
        assert_eq!(config.class.of(DataClass::Highest).serve_without_hsm.0, Duration::ZERO);
        assert_eq!(config.limits.plaintext.0, 1 << 20);
        assert_eq!((config.hsm.confinement, config.hsm.allow_network), (Confinement::Required, false));
    }

    #[test]
    fn a_token_may_lie_below_the_state() {
        let config = parse("allow_paths = [\"/var/lib/keyward/softhsm\"]\n").unwrap();
        assert_eq!(config.hsm.allow_paths, [Path::new("/var/lib/keyward/softhsm")]);
    }

    #[test]
    fn the_highest_class_keeps_its_defaults_in_a_partial_table() {
        let config = parse("[class.3]\ncache_ttl = \"1m\"\n").unwrap();
        assert_eq!(config.class.highest.cache_ttl.0, Duration::from_secs(60));
        assert_eq!(config.class.highest.serve_without_hsm.0, Duration::ZERO);
    }

    #[test]
    fn errors_name_line_key_and_expectation() {
        for (extra, parts) in [
            ("sesions = 3\n", &["line 7", "sesions", "sessions"][..]),
            ("sessions = \"two\"\n", &["line 7", "sessions", "expected"]),
            ("deadline = \"5 parsecs\"\n", &["line 7", "deadline", "for example \"5s\""]),
            ("sessions = 0\n", &["hsm.sessions is 0", "1 to 256"]),
            ("[limits]\nplaintext = \"0\"\n", &["limits.plaintext is 0"]),
            ("[limits]\nindex_fields = 0\n", &["limits.index_fields is 0", "1 to 4096"]),
            ("[limits]\nrefusals_per_second = 0\n", &["limits.refusals_per_second is 0", "1 to 10000"]),
            ("[limits]\nplaintext = \"many\"\n", &["line 8", "for example \"1MiB\""]),
            ("[server]\nsocket_mode = \"0777\"\n", &["line 8", "others"]),
            ("[[principal]]\nname = \"a\"\nrole = \"king\"\n", &["line 9", "operator"]),
            ("[[principal]]\nname = \"a\"\nrole = \"operator\"\n", &["principal a needs"]),
            ("[[principal]]\nname=\"A b\"\nrole=\"operator\"\nusers=[0]\n", &["line 8", "lower-case"]),
            (
                "[[principal]]\nname=\"a\"\nrole=\"application\"\nusers=[0]\nallow=[{keys=[\"tenants/*\"],operations=[]}]\n",
                &["line 11", "tenants/acme/keys/*"],
            ),
            ("[[principal]]\nname=\"a\"\nrole=\"operator\"\nusers=[65534]\n", &["principal a", "65534"]),
            (
                "[[principal]]\nname=\"a\"\nrole=\"operator\"\ngroups=[4294967295]\n",
                &["principal a", "nobody's"],
            ),
            ("[[principal]]\nname=\"keywardd\"\nrole=\"operator\"\nusers=[0]\n", &["keywardd", "daemon"]),
            ("[server]\nmax_connections_per_uid = 5000\n", &["max_connections_per_uid is 5000", "1 to 4096"]),
            ("[limits]\nin_flight_per_principal = \"2MiB\"\n", &["in_flight_per_principal"]),
            ("pin_credential = \"pin\"\n", &["not both"]),
            ("confinement = \"off\"\n", &["line 7", "required", "best-effort"]),
            ("allow_paths = [\"tokens\"]\n", &["tokens", "absolute"]),
            ("allow_paths = [\"/var/lib\"]\n", &["/var/lib", "the state directory /var/lib/keyward"]),
            ("allow_paths = [\"/var/lib/keyward/audit/t\"]\n", &["in the audit log"]),
            ("[rotation]\nold_kek = \"burn\"\n", &["line 8", "keep"]),
            ("[destruction]\ndelay = \"1h\"\n", &["destruction.min_delay"]),
        ] {
            let message = parse(extra).unwrap_err();
            for part in parts {
                assert!(message.contains(part), "{extra:?}: no {part:?} in {message}");
            }
        }
    }
}
