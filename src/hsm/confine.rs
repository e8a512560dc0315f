//! What the HSM process gives up before it loads the vendor's library, which then has the rights of
//! this process and not those of the daemon's user.
//!
//! ```text
//! files   Landlock: the system to read, the token folders to write, and nothing else
//! calls   seccomp: what Landlock does not govern on every kernel: truncation, modes, signals, programs, sockets
//! ```
//!
//! Both hold for the calling thread and those that it starts, so this comes before any other thread.

use std::fmt;
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

mod calls;
mod files;

/// What a module that was stopped by its confinement most often lacks.
pub(crate) const HINT: &str = "if the module works outside of Keyward, name the folders that it needs in \
     hsm.allow_paths, and say hsm.allow_network = true if it needs a socket";

/// What happens where the kernel cannot enforce it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Mode {
    /// The library is not loaded.
    #[default]
    #[n(0)]
    Required,
    /// The library is loaded with what can be enforced.
    #[n(1)]
    BestEffort,
}

/// What a library may reach beside the system's own files.
#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct Confinement {
    /// What happens where it cannot be enforced.
    #[n(0)]
    pub mode: Mode,
    /// Folders and files that the library may read and write, such as those of a token in software.
    #[n(1)]
    pub allow_paths: Vec<PathBuf>,
    /// Whether it may make sockets, of any family.
    #[n(2)]
    pub allow_network: bool,
    /// What it may never reach, whatever else lies around: store, journal, audit log, configuration, PIN files.
    #[n(3)]
    pub kept: Vec<PathBuf>,
    /// The folder of the configuration: out of reach but for what `allow_paths` or the environment name in it.
    #[n(4)]
    pub configuration: Option<PathBuf>,
}

/// What is enforced in one HSM process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
pub struct Confined {
    /// The version of Landlock that is used; 0: none.
    #[n(0)]
    pub landlock: u32,
    /// Landlock governs everything that was asked of it. Truncation, for one, needs version 3, and is
    /// denied by seccomp below it.
    #[n(1)]
    pub whole: bool,
    /// System calls are filtered.
    #[n(2)]
    pub seccomp: bool,
    /// Sockets are allowed.
    #[n(3)]
    pub network: bool,
}

impl Confined {
    /// Whether files and system calls are both confined.
    pub fn holds(self) -> bool {
        self.landlock > 0 && self.seccomp
    }
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.landlock, self.whole) {
            (0, _) => write!(f, "no Landlock")?,
            (abi, true) => write!(f, "Landlock {abi}")?,
            (abi, false) => write!(f, "Landlock {abi} (in part)")?,
        }
        f.write_str(if self.seccomp { ", seccomp" } else { ", no seccomp" })?;
        f.write_str(if self.network { ", sockets allowed" } else { ", no sockets" })
    }
}

/// Why the library must not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    /// The kernel has no Landlock, or it may not be used here.
    #[error(
        "the HSM process cannot be confined: {0}. Landlock needs Linux 5.13 with \"landlock\" in /sys/kernel/security/lsm, \
         seccomp needs the system call of that name, and a service unit must allow both (SystemCallFilter=). \
         hsm.confinement = \"best-effort\" loads the module nevertheless"
    )]
    Unable(String),
    /// A path of the configuration covers what must stay out of reach.
    #[error(
        "hsm.allow_paths names {0}, through which the module would reach {1}: name the token's own folder"
    )]
    Covers(String, String),
}

/// Confines the calling thread, and all that it starts, for good. `module` is the library, `own` the
/// folder that this program itself writes meanwhile.
///
/// # Errors
/// [`ConfineError`] when a path of the configuration defeats it, and in [`Mode::Required`] when the
/// kernel enforces less than Landlock and seccomp.
pub(crate) fn confine(
    confinement: &Confinement,
    module: &Path,
    own: &Path,
) -> Result<Confined, ConfineError> {
    let places = files::Places::of(confinement, module, own)?;
    for missing in &places.missing {
        tracing::warn!("hsm.allow_paths names {}, which is not there", missing.display());
    }
    let network = confinement.allow_network;
    let mut confined = Confined { network: true, ..Confined::default() };
    let mut wrong = Vec::new();
    match files::restrict(&places) {
        Ok((0, _)) => {
            wrong.push("the kernel has no Landlock, or does not let this process use it".to_owned());
        }
        Ok((abi, whole)) => (confined.landlock, confined.whole) = (abi, whole),
        Err(error) => wrong.push(format!("Landlock: {error}")),
    }
    // Last: it also ends the calls that change what a process may do.
    match calls::restrict(network) {
        Ok(()) => (confined.seccomp, confined.network) = (true, network),
        Err(error) => wrong.push(format!("seccomp: {error}")),
    }
    match (wrong.is_empty(), confinement.mode) {
        (false, Mode::Required) => Err(ConfineError::Unable(wrong.join("; "))),
        _ => Ok(confined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enforced_is_said_in_words() {
        let whole = Confined { landlock: 7, whole: true, seccomp: true, network: false };
        assert_eq!(whole.to_string(), "Landlock 7, seccomp, no sockets");
        let debian = Confined { landlock: 2, whole: false, network: true, ..whole };
        assert_eq!(debian.to_string(), "Landlock 2 (in part), seccomp, sockets allowed");
        assert!(whole.holds() && debian.holds());
        let none = Confined { network: true, ..Confined::default() };
        assert_eq!(none.to_string(), "no Landlock, no seccomp, sockets allowed");
        assert!(!none.holds());
    }
}
