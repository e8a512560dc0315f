//! What the process gives up before it touches a secret.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};

use crate::secret::{self, SecretMemory};

/// No core dumps, no debugger of the same user, files for this user alone, and
/// as much memory for secrets as may be locked.
///
/// # Errors
/// When the kernel refuses, which it does for none of these.
pub fn harden(secrets: SecretMemory) -> std::io::Result<()> {
    umask(rustix::fs::Mode::from_raw_mode(0o077));
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let most = getrlimit(Resource::Memlock).maximum;
    setrlimit(Resource::Memlock, Rlimit { current: most, maximum: most })?;
    secret::protect(secrets);
    Ok(())
}
