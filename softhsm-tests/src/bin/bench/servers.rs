//! The servers: the echo, the daemon, and a daemon whose audit log is in memory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyward_softhsm_tests::{Daemon, PATIENCE, World, binary};
use tempfile::TempDir;

use super::Outcome;

/// All of them, running at the same time; those that are not asked sleep.
pub(crate) struct Servers {
    pub(crate) echo: Echo,
    pub(crate) disk: Keyward,
    /// Its audit log is complete, but a sync costs nothing.
    pub(crate) memory: Keyward,
    _audit_in_memory: TempDir,
}

/// The echo server; killed when dropped.
pub(crate) struct Echo {
    child: Child,
    folder: TempDir,
}

/// A daemon and its world.
pub(crate) struct Keyward {
    pub(crate) world: World,
    pub(crate) daemon: Daemon,
}

impl Servers {
    /// Starts them with their data in `folder`.
    pub(crate) async fn start(folder: &Path) -> Outcome<Self> {
        let audit_in_memory = TempDir::with_prefix_in("kw-bench-", "/dev/shm")?;
        let mut world = World::in_folder(folder);
        world.config +=
            &format!("\n[audit]\ndirectory = \"{}\"\n", audit_in_memory.path().join("audit").display());
        Ok(Self {
            echo: Echo::start(folder)?,
            disk: Keyward::start(World::in_folder(folder)).await,
            memory: Keyward::start(world).await,
            _audit_in_memory: audit_in_memory,
        })
    }
}

impl Echo {
    fn start(folder: &Path) -> Outcome<Self> {
        let folder = TempDir::with_prefix_in("kw-", folder)?;
        let program = binary("keyward-echo");
        let child = Command::new(program).arg(folder.path().join("s")).stdin(Stdio::null()).spawn()?;
        let echo = Self { child, folder };
        let deadline = Instant::now() + PATIENCE;
        while !echo.socket().exists() {
            if Instant::now() > deadline {
                return Err("the echo server did not start".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(echo)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Keyward {
    async fn start(world: World) -> Self {
        world.init();
        let (daemon, _) = world.start_with_key().await;
        Self { world, daemon }
    }

    /// Stops the daemon and starts a new one, which has no key open.
    pub(crate) async fn restart(self) -> Outcome<Self> {
        let Self { world, daemon } = self;
        let status = daemon.stop().await;
        if !status.success() {
            return Err(format!("the daemon did not stop well: {status}\n{}", world.log()).into());
        }
        let daemon = world.start().await;
        Ok(Self { world, daemon })
    }

    pub(crate) async fn hsm_operations(&self) -> Outcome<u64> {
        Ok(self.daemon.status().await?.hsm.unwrap_or_default().operations)
    }
}
