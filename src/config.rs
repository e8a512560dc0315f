//! The configuration file: strict, complete, checked when it is read.
//!
//! `hsm-config/keywardd.toml` lists every option with its default. Unknown
//! keys are refused; an error names the line, the key and what was expected.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

pub mod pattern;
pub mod value;

use pattern::KeyPattern;
use value::{Bytes, FirmwareVersion, KnownBy, Mode, Operation, Role, Span, StaffLevel, Touch, User};

use crate::id::{Origin, PrincipalId};
use crate::keyring::account;
use crate::keyring::state::DataClass;
use crate::secret::SecretMemory;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The whole configuration of the daemon.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
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
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Path of the Unix socket; at most 107 bytes. Ignored under socket activation.
    pub socket: PathBuf,
    /// Its mode.
    pub socket_mode: Mode,
    /// How long calls in flight may take to finish at shutdown.
    pub shutdown_grace: Span,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            socket: "/run/keyward/keyward.sock".into(),
            socket_mode: Mode(0o660),
            shutdown_grace: Span(Duration::from_secs(20)),
        }
    }
}

/// The log (not the audit log).
#[derive(Debug, Clone, Deserialize)]
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

/// The PKCS#11 module and token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hsm {
    /// The vendor's PKCS#11 library.
    pub module: PathBuf,
    /// What the library wants to be told when it is initialised.
    pub init_args: Option<String>,
    /// The token: its label, or a PKCS#11 URI (RFC 7512).
    pub token: String,
    /// File that holds the user PIN.
    pub pin_file: Option<PathBuf>,
    /// systemd credential that holds the user PIN.
    pub pin_credential: Option<String>,
    /// Sessions, and threads, that work in parallel.
    #[serde(default = "defaults::sessions")]
    pub sessions: usize,
    /// Jobs that may wait for a session.
    #[serde(default = "defaults::queue")]
    pub queue: usize,
    /// How long one call to the HSM may take.
    #[serde(default = "defaults::deadline")]
    pub deadline: Span,
    /// Tenant KEKs kept unwrapped in the HSM.
    #[serde(default = "defaults::kek_cache")]
    pub kek_cache: usize,
    /// Longest time that an unwrapped KEK stays in the HSM.
    #[serde(default = "defaults::kek_ttl")]
    pub kek_ttl: Span,
    /// Uses of an unwrapped KEK before it is unwrapped anew.
    #[serde(default = "defaults::kek_uses")]
    pub kek_uses: u64,
    /// How often a connection is probed.
    #[serde(default = "defaults::probe_interval")]
    pub probe_interval: Span,
    /// Token objects that Keyward may have on a token.
    #[serde(default = "defaults::max_objects")]
    pub max_objects: usize,
    /// Most memory that an HSM process may use.
    #[serde(default = "defaults::memory")]
    pub memory: Bytes,
    /// Further tokens with the same root keys.
    #[serde(default)]
    pub standby: Vec<Standby>,
}

/// A token that serves beside the first. What it leaves out is as there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standby {
    /// The token: its label, or a PKCS#11 URI (RFC 7512).
    pub token: String,
    /// The vendor's PKCS#11 library.
    pub module: Option<PathBuf>,
    /// File that holds the user PIN.
    pub pin_file: Option<PathBuf>,
    /// systemd credential that holds the user PIN.
    pub pin_credential: Option<String>,
}

/// What becomes of the KEK that a rotation replaced.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// Whether it is destroyed.
    pub old_kek: OldKek,
    /// How long after the end of the rotation.
    pub old_kek_grace: Span,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { old_kek: OldKek::Destroy, old_kek_grace: Span(30 * DAY) }
    }
}

/// What becomes of a KEK that seals nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OldKek {
    /// It stays, decrypt-only.
    Keep,
    /// It is destroyed.
    Destroy,
}

/// How keys are destroyed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Destruction {
    /// How long a destruction can be called off, unless the caller says how long.
    pub delay: Span,
    /// The shortest delay that a caller may ask for.
    pub min_delay: Span,
}

impl Default for Destruction {
    fn default() -> Self {
        Self { delay: Span(30 * DAY), min_delay: Span(DAY) }
    }
}

/// How the clock is watched.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clock {
    /// How far the wall clock may run ahead of the time that has passed before destructions wait.
    pub max_ahead: Span,
}

impl Default for Clock {
    fn default() -> Self {
        Self { max_ahead: Span(DAY) }
    }
}

/// Logins of staff.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    /// How long a challenge can be answered: 10 seconds to 2 minutes.
    pub challenge_ttl: Span,
    /// How long an assertion is good for: 1 minute to 12 hours.
    pub assertion_ttl: Span,
    /// What must be known of where a token's key was made.
    pub assurance: Vec<KnownBy>,
    /// Whether attestations may lead to Yubico's roots.
    pub yubico_roots: bool,
    /// Files with other roots of attestations, in PEM.
    pub attestation_roots: Vec<PathBuf>,
    /// The lowest firmware of an attested card whose key is on an elliptic curve.
    pub minimum_firmware: FirmwareVersion,
    /// When an attested key must want a touch, at least.
    pub touch: Touch,
    /// Files with the roots of the company's own authority, in PEM.
    pub corporate_roots: Vec<PathBuf>,
    /// Files with its revocation lists, in PEM or DER; read when they are needed.
    pub corporate_crls: Vec<PathBuf>,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            challenge_ttl: Span(Duration::from_secs(120)),
            assertion_ttl: Span(Duration::from_secs(600)),
            assurance: vec![KnownBy::Attested, KnownBy::Certified],
            yubico_roots: true,
            attestation_roots: Vec::new(),
            minimum_firmware: FirmwareVersion(account::Firmware([5, 7, 0])),
            touch: Touch::Any,
            corporate_roots: Vec::new(),
            corporate_crls: Vec::new(),
        }
    }
}

mod defaults {
    use super::{Bytes, Duration, Span};

    pub(super) fn sessions() -> usize {
        2
    }
    pub(super) fn queue() -> usize {
        256
    }
    pub(super) fn deadline() -> Span {
        Span(Duration::from_secs(5))
    }
    pub(super) fn kek_cache() -> usize {
        4096
    }
    pub(super) fn kek_ttl() -> Span {
        Span(Duration::from_secs(60 * 60))
    }
    pub(super) fn kek_uses() -> u64 {
        1_000_000
    }
    pub(super) fn max_objects() -> usize {
        256
    }
    pub(super) fn memory() -> Bytes {
        Bytes(1 << 30)
    }
    pub(super) fn probe_interval() -> Span {
        Span(Duration::from_secs(5))
    }
}

/// The store and its journal.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// The database; `store.db` in the state directory unless given.
    pub database: Option<PathBuf>,
    /// The key journal, ideally on another disk; `journal.kwj` in the state directory unless given.
    pub journal: Option<PathBuf>,
}

/// The erasure key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Erasure {
    /// It is replaced at this age; `0s`: only by hand.
    pub replace_every: Span,
}

impl Default for Erasure {
    fn default() -> Self {
        Self { replace_every: Span(Duration::from_secs(24 * 60 * 60)) }
    }
}

/// The audit log.
#[derive(Debug, Clone, Deserialize)]
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

/// How much one call may ask.
#[derive(Debug, Clone, Deserialize)]
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
}

impl Default for Limits {
    fn default() -> Self {
        Self { plaintext: Bytes(1 << 20), batch_items: 1000, batch: Bytes(4 << 20), open_keys: 10_000 }
    }
}

/// Caching, and what staff need, by data class.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Classes {
    /// Class 1: basic.
    #[serde(rename = "1", deserialize_with = "Class::read_basic")]
    pub basic: Class,
    /// Class 2: sensitive.
    #[serde(rename = "2", deserialize_with = "Class::read_sensitive")]
    pub sensitive: Class,
    /// Class 3: highest.
    #[serde(rename = "3", deserialize_with = "Class::read_highest")]
    pub highest: Class,
}

impl Default for Classes {
    fn default() -> Self {
        Self { basic: Class::basic(), sensitive: Class::sensitive(), highest: Class::highest() }
    }
}

impl Classes {
    /// The settings of one class.
    pub fn of(&self, class: DataClass) -> &Class {
        match class {
            DataClass::Basic => &self.basic,
            DataClass::Sensitive => &self.sensitive,
            DataClass::Highest => &self.highest,
        }
    }
}

/// How long data keys of a class stay open, and what staff need for its data.
#[derive(Debug, Clone)]
pub struct Class {
    /// Longest age of an open data key while the HSM is there.
    pub cache_ttl: Span,
    /// Uses after which an open data key is opened anew while the HSM is there.
    pub cache_uses: u64,
    /// How long open data keys serve while the HSM is away.
    pub serve_without_hsm: Span,
    /// The level that a staff member needs to read or search data of the class.
    pub staff_read: account::Level,
    /// The level that a staff member needs to make or change data of the class.
    pub staff_write: account::Level,
}

impl Class {
    fn basic() -> Self {
        Self {
            cache_ttl: Span(Duration::from_secs(900)),
            cache_uses: 1_000_000,
            serve_without_hsm: Span(Duration::from_secs(300)),
            staff_read: account::Level::One,
            staff_write: account::Level::Two,
        }
    }

    fn sensitive() -> Self {
        Self { staff_read: account::Level::Two, ..Self::basic() }
    }

    fn highest() -> Self {
        let (staff_read, staff_write) = (account::Level::Three, account::Level::Three);
        Self { serve_without_hsm: Span(Duration::ZERO), staff_read, staff_write, ..Self::basic() }
    }

    fn read_basic<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(deserializer, Self::basic())
    }

    fn read_sensitive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(deserializer, Self::sensitive())
    }

    fn read_highest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(deserializer, Self::highest())
    }

    /// What a class leaves out has its own default, not that of another class.
    fn read<'de, D: Deserializer<'de>>(deserializer: D, own: Self) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            cache_ttl: Option<Span>,
            cache_uses: Option<u64>,
            serve_without_hsm: Option<Span>,
            staff_read: Option<StaffLevel>,
            staff_write: Option<StaffLevel>,
        }

        let written = Written::deserialize(deserializer)?;
        Ok(Self {
            cache_ttl: written.cache_ttl.unwrap_or(own.cache_ttl),
            cache_uses: written.cache_uses.unwrap_or(own.cache_uses),
            serve_without_hsm: written.serve_without_hsm.unwrap_or(own.serve_without_hsm),
            staff_read: written.staff_read.map_or(own.staff_read, |level| level.0),
            staff_write: written.staff_write.map_or(own.staff_write, |level| level.0),
        })
    }
}

/// A caller, and what it may do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Its name in the audit log.
    #[serde(deserialize_with = "value::principal_id")]
    pub name: PrincipalId,
    /// Its role.
    pub role: Role,
    /// Users (name or uid) that are this principal.
    #[serde(default)]
    pub users: Vec<User>,
    /// Groups (name or gid) whose processes are this principal: the primary group at connect.
    #[serde(default)]
    pub groups: Vec<User>,
    /// What it may do with data.
    #[serde(default)]
    pub allow: Vec<Allow>,
    /// How staff who log in to it know it: the origin of a web application, or another name.
    #[serde(default, deserialize_with = "value::origin")]
    pub origin: Option<Origin>,
}

/// One grant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Keys, for example `tenants/acme/keys/*`.
    pub keys: Vec<KeyPattern>,
    /// Operations on them.
    pub operations: BTreeSet<Operation>,
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
    /// The file is not what was expected; the text names line, key and expectation.
    #[error("{path}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// Two options contradict each other, or one is missing.
    #[error("{path}: {message}")]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// Which, and what to do.
        message: String,
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
        let config: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Malformed { path: path.into(), message: error.to_string() })?;
        config.check().map_err(|message| ConfigError::Inconsistent { path: path.into(), message })?;
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

    fn check(&self) -> Result<(), String> {
        self.check_hsm()?;
        self.check_limits()?;
        if self.destruction.min_delay.0 > self.destruction.delay.0 {
            return Err("destruction.delay is shorter than destruction.min_delay".into());
        }
        let socket = self.server.socket.as_os_str().len();
        if socket > 107 {
            return Err(format!("server.socket has {socket} bytes; a Unix socket path has at most 107"));
        }
        if self.audit.checkpoint_interval.0 < Duration::from_millis(100) {
            return Err("audit.checkpoint_interval must be at least 100ms".into());
        }
        let challenge = self.login.challenge_ttl.0;
        if !(Duration::from_secs(10)..=Duration::from_secs(120)).contains(&challenge) {
            return Err("login.challenge_ttl must be from 10s to 2m".into());
        }
        let ttl = self.login.assertion_ttl.0;
        if !(Duration::from_secs(60)..=DAY / 2).contains(&ttl) {
            return Err("login.assertion_ttl must be from 1m to 12h".into());
        }
        if self.login.assurance.is_empty() {
            return Err(
                "login.assurance accepts no token at all: name attested, certified or witnessed".into()
            );
        }
        if !self.login.corporate_roots.is_empty() && self.login.corporate_crls.is_empty() {
            return Err("login.corporate_roots need login.corporate_crls: without its revocation lists no certificate of an authority counts".into());
        }
        let mut names = BTreeSet::new();
        for principal in &self.principals {
            if !names.insert(&principal.name) {
                return Err(format!("principal {} stands here twice; merge the two", principal.name));
            }
            if principal.users.is_empty() && principal.groups.is_empty() {
                return Err(format!("principal {} needs `users` or `groups`", principal.name));
            }
        }
        Ok(())
    }

    fn check_hsm(&self) -> Result<(), String> {
        match (&self.hsm.pin_file, &self.hsm.pin_credential) {
            (Some(_), Some(_)) => return Err("give hsm.pin_file or hsm.pin_credential, not both".into()),
            (None, None) => {
                return Err("hsm.pin_file or hsm.pin_credential is missing: where is the user PIN?".into());
            }
            _ => {}
        }
        for (key, value, range) in [
            ("hsm.sessions", self.hsm.sessions, 1..=256),
            ("hsm.queue", self.hsm.queue, 1..=65_536),
            ("hsm.kek_cache", self.hsm.kek_cache, 1..=1_000_000),
            ("hsm.max_objects", self.hsm.max_objects, 1..=1_000_000),
        ] {
            if !range.contains(&value) {
                return Err(format!("{key} is {value}; expected {} to {}", range.start(), range.end()));
            }
        }
        for standby in &self.hsm.standby {
            if standby.pin_file.is_some() && standby.pin_credential.is_some() {
                return Err("give pin_file or pin_credential of an hsm.standby, not both".into());
            }
        }
        let mib = 1 << 20;
        if self.hsm.memory.0 < 16 * mib {
            return Err(format!("hsm.memory is {} bytes; expected at least 16MiB", self.hsm.memory.0));
        }
        if self.hsm.deadline.0.is_zero() || self.hsm.probe_interval.0.is_zero() {
            return Err("hsm.deadline and hsm.probe_interval must be longer than 0".into());
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), String> {
        let (limits, mib) = (&self.limits, 1u64 << 20);
        for (key, value, range) in [
            ("limits.plaintext", limits.plaintext.0, 1..=64 * mib),
            ("limits.batch", limits.batch.0, 1..=256 * mib),
            ("limits.batch_items", limits.batch_items as u64, 1..=100_000),
            ("limits.open_keys", limits.open_keys as u64, 1..=10_000_000),
            ("class.1.cache_uses", self.class.basic.cache_uses, 1..=u64::MAX),
            ("class.2.cache_uses", self.class.sensitive.cache_uses, 1..=u64::MAX),
            ("class.3.cache_uses", self.class.highest.cache_uses, 1..=u64::MAX),
            ("audit.segment", self.audit.segment.0, mib..=4096 * mib),
            ("audit.reserve", self.audit.reserve.0, 4096..=64 * mib),
        ] {
            if !range.contains(&value) {
                return Err(format!("{key} is {value}; expected {} to {}", range.start(), range.end()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("[limits]\nplaintext = \"many\"\n", &["line 8", "for example \"1MiB\""]),
            ("[server]\nsocket_mode = \"0777\"\n", &["line 8", "others"]),
            ("[[principal]]\nname = \"a\"\nrole = \"king\"\n", &["line 9", "operator"]),
            ("[[principal]]\nname = \"a\"\nrole = \"operator\"\n", &["principal a needs"]),
            ("[[principal]]\nname=\"A b\"\nrole=\"operator\"\nusers=[0]\n", &["line 8", "lower-case"]),
            (
                "[[principal]]\nname=\"a\"\nrole=\"application\"\nusers=[0]\nallow=[{keys=[\"tenants/*\"],operations=[]}]\n",
                &["line 11", "tenants/acme/keys/*"],
            ),
            ("pin_credential = \"pin\"\n", &["not both"]),
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
