//! A daemon of one's own for each test: fresh token, store, audit log and socket.
//!
//! The PKCS#11 module is loaded by the daemon and the command line only, never
//! by the test process.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use keyward::client::{Client, Code};
use keyward::rpc::proto::{CreateKeyRequest, CreateTenantRequest};

pub mod authority;
pub mod browser;
pub mod chromium;
pub mod custodians;
mod daemon;
pub mod faketime;
pub mod faults;
pub mod modules;
pub mod offline;
pub mod pages;
pub mod person;
pub mod piv;
mod random;
pub mod raw;
pub mod rig;
pub mod staff;
pub mod tampering;
mod template;
mod tiers;
pub mod wire;
mod world;

pub use daemon::{Daemon, HsmProcess};
pub use random::Random;
pub use tiers::rounds;
pub use world::World;

/// The key that most tests use.
pub const KEY: &str = "tenants/acme/keys/customer-pii";
/// How long anything may take before a test gives up: far more than it needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

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

/// Copies a program, by a process of its own: tests beside this one start processes, and while a child of this process still holds
/// the copy open for writing, nobody can run it (ETXTBSY).
///
/// # Panics
/// When it cannot be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg(from).arg(to).status().expect("cp");
    assert!(copied.success(), "{} is not copied", from.display());
}

/// Writes a script that can be run, for its owner alone, as [`copy_program`] copies one.
///
/// # Panics
/// When it cannot be written.
pub fn write_script(path: &Path, text: &str) {
    let mut written = std::process::Command::new("install")
        .args(["-m", "0700", "/dev/stdin"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("install");
    let mut input = written.stdin.take().expect("piped");
    std::io::Write::write_all(&mut input, text.as_bytes()).expect("install reads it");
    drop(input);
    assert!(written.wait().expect("install").success(), "{} is not written", path.display());
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
