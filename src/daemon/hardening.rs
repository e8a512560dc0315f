//! What the process gives up before it touches a secret.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};

/// No core dumps, no debugger of the same user, files for this user alone.
///
/// # Errors
/// When the kernel refuses, which it does for none of these.
pub fn harden() -> std::io::Result<()> {
    umask(rustix::fs::Mode::from_raw_mode(0o077));
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
