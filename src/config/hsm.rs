//! The HSM: which library and tokens, and how they are used.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::check::{faults, unless, within};
use super::value::{Bytes, Span};

/// The PKCS#11 module and token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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
    /// What happens where the library's process cannot be confined.
    #[serde(default)]
    pub confinement: Confinement,
    /// Files and folders, beside those of the system, that the library may read and write.
    #[serde(default)]
    pub allow_paths: Vec<PathBuf>,
    /// Whether the library may make sockets.
    #[serde(default)]
    pub allow_network: bool,
    /// Further tokens with the same root keys.
    #[serde(default)]
    pub standby: Vec<Standby>,
}

/// What happens where the library's process cannot be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confinement {
    /// The library is not loaded.
    #[default]
    Required,
    /// The library is loaded with what can be enforced.
    BestEffort,
}

/// A token that serves beside the first. What it leaves out is as there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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

impl Hsm {
    pub(super) fn check(&self) -> Vec<String> {
        let (file, credential) = (self.pin_file.is_some(), self.pin_credential.is_some());
        let both = |one: &Standby| one.pin_file.is_some() && one.pin_credential.is_some();
        let (memory, relative) = (self.memory.0, self.allow_paths.iter().find(|path| !path.is_absolute()));
        faults([
            unless(file && credential, || "give hsm.pin_file or hsm.pin_credential, not both".into()),
            unless(!file && !credential, || {
                "hsm.pin_file or hsm.pin_credential is missing: where is the user PIN?".into()
            }),
            within("hsm.sessions", self.sessions, 1..=256),
            within("hsm.queue", self.queue, 1..=65_536),
            within("hsm.kek_cache", self.kek_cache, 1..=1_000_000),
            within("hsm.max_objects", self.max_objects, 1..=1_000_000),
            unless(self.standby.iter().any(both), || {
                "give pin_file or pin_credential of an hsm.standby, not both".into()
            }),
            unless(memory < 16 << 20, || format!("hsm.memory is {memory} bytes; expected at least 16MiB")),
            unless(self.deadline.0.is_zero() || self.probe_interval.0.is_zero(), || {
                "hsm.deadline and hsm.probe_interval must be longer than 0".into()
            }),
            relative.map_or(Ok(()), |path| {
                Err(format!("hsm.allow_paths names {}; expected absolute paths", path.display()))
            }),
        ])
    }

    /// That no path which the library may reach leads to one that it must not.
    pub(super) fn check_reach(&self, kept: &[(&str, PathBuf)], log: &Path) -> Vec<String> {
        let each = self.allow_paths.iter().map(|allowed| {
            let shown = allowed.display();
            match kept.iter().find(|(_, path)| path.starts_with(allowed)) {
                Some((what, path)) => Err(format!(
                    "hsm.allow_paths names {shown}, where {what} {} lies; name the token's own folder",
                    path.display()
                )),
                None => unless(allowed.starts_with(log), || {
                    format!("hsm.allow_paths names {shown}, which lies in the audit log")
                }),
            }
        });
        faults(each)
    }
}

mod defaults {
    use std::time::Duration;

    use super::{Bytes, Span};

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
