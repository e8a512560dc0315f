//! A store with a million tenants: how long a start takes, what the first use of
//! a tenant costs, how much memory is used, and how fast keys move.

use std::path::Path;
use std::time::Instant;

use futures_util::future::try_join_all;
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{EncryptRequest, GetRotationRequest, RotateTenantRequest, Rotation, rotation};
use keyward_softhsm_tests::{Daemon, PATIENCE, World, softhsm_module};
use serde::Serialize;
use serde_json::Value;
use tonic::transport::Channel;

use super::Outcome;
use super::figures::median;
use super::fill::{WITH_KEY, key_name, old_key};
use super::report::say;

/// How much is measured.
pub(crate) struct Scale {
    tenants: usize,
    /// Versions of the key that is moved by rotations, and rotations of it.
    versions: u32,
    rotations: usize,
    /// Tenants whose first use is counted, and those that are used after.
    counted: usize,
    used: usize,
}

/// What `make bench` does.
pub(crate) const MILLION: Scale =
    Scale { tenants: 1_000_000, versions: 5_000, rotations: 5, counted: 1_000, used: 50_000 };

/// What `bench --quick tenants` does.
pub(crate) const FEW: Scale =
    Scale { tenants: 20_000, versions: 1_000, rotations: 3, counted: 200, used: 1_500 };

/// The measurements.
#[derive(Debug, Serialize)]
pub(crate) struct Tenants {
    pub(crate) tenants: usize,
    /// Seconds that filling took, and bytes of store and journal.
    pub(crate) fill_seconds: f64,
    pub(crate) store_bytes: u64,
    pub(crate) journal_bytes: u64,
    /// From the start of the program to the first status that says ready.
    pub(crate) start_seconds: Vec<f64>,
    /// HSM operations for the first use of a tenant.
    pub(crate) cold_operations: f64,
    pub(crate) cold_seconds: f64,
    /// Memory of the daemon and its HSM process: after the start, and after many tenants were used.
    pub(crate) idle_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) used: usize,
    /// Keys moved each second by rotations, and the module's own rate on one session.
    pub(crate) moved: Vec<f64>,
    pub(crate) raw: Vec<f64>,
}

impl Tenants {
    pub(crate) fn rss_mib(&self) -> f64 {
        self.used_bytes as f64 / f64::from(1 << 20)
    }

    pub(crate) fn start_s(&self) -> f64 {
        median(self.start_seconds.iter().copied())
    }

    pub(crate) fn rewrap_vs_raw(&self) -> f64 {
        median(self.moved.iter().copied()) / median(self.raw.iter().copied())
    }
}

/// Measures with data in `folder`.
pub(crate) async fn run(scale: &Scale, folder: &Path) -> Outcome<Tenants> {
    let world = World::in_folder(folder);
    world.init();
    let began = Instant::now();
    let filled = world
        .command("bench")
        .args(["fill", &world.config_file(), &scale.tenants.to_string(), &scale.versions.to_string()])
        .status()?;
    if !filled.success() {
        return Err("the tenants could not be made".into());
    }
    let fill_seconds = began.elapsed().as_secs_f64();
    let size = |name: &str| std::fs::metadata(world.path("state").join(name)).map(|file| file.len());
    let (store_bytes, journal_bytes) = (size("store.db")?, size("journal.kwj")?);
    say(&format!("{} tenants in {fill_seconds:.0} s", scale.tenants))?;

    let mut start_seconds = Vec::new();
    for _ in 0..2 {
        let (daemon, took) = start(&world).await?;
        start_seconds.push(took);
        daemon.stop().await;
    }
    let (daemon, took) = start(&world).await?;
    start_seconds.push(took);
    let idle_bytes = memory(&daemon)?;
    let before = operations(&daemon).await?;
    let began = Instant::now();
    encrypt(&daemon, scale.tenants, 0..scale.counted).await?;
    let cold_seconds = began.elapsed().as_secs_f64() / scale.counted as f64;
    let cold_operations = (operations(&daemon).await? - before) as f64 / scale.counted as f64;
    encrypt(&daemon, scale.tenants, scale.counted..scale.counted + scale.used).await?;
    let used_bytes = memory(&daemon)?;
    say(&format!("{} tenants used", scale.used))?;

    let (mut moved, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..scale.rotations {
        raw.push(raw_rate(&world)?);
        moved.push(rotate(&daemon).await?);
    }
    say(&format!("{} rotations of {} keys", scale.rotations, scale.versions))?;
    daemon.stop().await;
    Ok(Tenants {
        tenants: scale.tenants,
        fill_seconds,
        store_bytes,
        journal_bytes,
        start_seconds,
        cold_operations,
        cold_seconds,
        idle_bytes,
        used_bytes,
        used: scale.used,
        moved,
        raw,
    })
}

/// Starts a daemon; answers it with the seconds until its status said ready.
pub(crate) async fn start(world: &World) -> Outcome<(Daemon, f64)> {
    let began = Instant::now();
    let mut daemon = world.spawn();
    daemon.wait_for(|status| status.serving() == Serving::Ready).await?;
    Ok((daemon, began.elapsed().as_secs_f64()))
}

async fn operations(daemon: &Daemon) -> Outcome<u64> {
    Ok(daemon.status().await?.hsm.unwrap_or_default().operations)
}

/// Encrypts once for each of these numbers, 64 at a time, where `bench fill` made so many tenants. One in
/// [`WITH_KEY`] of them has a key: numbers beyond come to the same tenants again.
pub(crate) async fn encrypt(daemon: &Daemon, tenants: usize, numbers: std::ops::Range<usize>) -> Outcome<()> {
    let crypto = daemon.crypto().await;
    // Far apart in the store, as requests of real tenants are.
    let with_key = tenants / WITH_KEY;
    let scattered: Vec<usize> = numbers.map(|number| number * 7_919 % with_key * WITH_KEY).collect();
    let lanes = scattered.chunks(scattered.len().div_ceil(64)).map(|lane| encrypt_lane(crypto.clone(), lane));
    try_join_all(lanes).await.map(drop)
}

async fn encrypt_lane(mut crypto: CryptoServiceClient<Channel>, lane: &[usize]) -> Outcome<()> {
    for number in lane {
        let name = key_name(*number).to_string();
        let asked = EncryptRequest { name, plaintext: vec![7; 256].into(), context: Default::default() };
        crypto.encrypt(asked).await?;
    }
    Ok(())
}

/// Memory of the daemon and its HSM process, in bytes.
fn memory(daemon: &Daemon) -> Outcome<u64> {
    let processes = daemon.hsm_processes().into_iter().map(|process| process.pid).chain([daemon.pid()]);
    processes.map(resident).sum()
}

fn resident(pid: u32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Rotates the tenant with the many versions; answers keys moved each second, commits and audit included.
async fn rotate(daemon: &Daemon) -> Outcome<f64> {
    let mut keys = daemon.client().await.keys();
    let name = format!("tenants/{}", old_key().tenant);
    let began = Instant::now();
    let asked = RotateTenantRequest { name };
    let Rotation { name, .. } = keys.rotate_tenant(asked).await?.into_inner();
    loop {
        let now = keys.get_rotation(GetRotationRequest { name: name.clone() }).await?.into_inner();
        if now.state() == rotation::State::Done {
            return Ok(now.done as f64 / began.elapsed().as_secs_f64());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("the rotation takes too long: {now:?}").into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// Openings and sealings of keys that the module does on one session, each second.
fn raw_rate(world: &World) -> Outcome<f64> {
    let (module, pin) = (softhsm_module(), world.path("pin").display().to_string());
    let tokens = world.path("tokens").display().to_string();
    let place = ["--module", &module, "--token", "token", "--pin-file", &pin, "--allow-path", &tokens];
    let report = world.cli(["hsm", "check", "--json"].iter().chain(&place));
    let report: Value = serde_json::from_slice(&report.stdout)?;
    let timing = &report["timing"];
    let micros = |name: &str| -> Outcome<f64> {
        let text = timing[name].as_str().ok_or_else(|| format!("no timing {name:?} in {report}"))?;
        Ok(text.trim_end_matches(" us").parse()?)
    };
    Ok(1e6 / (micros("open a 32-byte key")? + micros("seal a 32-byte key")?))
}
