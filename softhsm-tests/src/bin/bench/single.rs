//! What is measured on a daemon that has just started: files, and how rarely
//! the HSM is asked.

use serde::Serialize;

use super::figures::{Figures, median};
use super::load::{Load, Work};
use super::rounds::Plan;
use super::servers::{Keyward, Servers};
use super::{Outcome, aead, report};

/// Encrypts for which HSM operations are counted.
const ENCRYPTS: u64 = 1_000_000;

/// The measurements.
#[derive(Debug, Serialize)]
pub(crate) struct Single {
    /// Bytes each second of `files` and of AES-256-GCM alone, in turns.
    pub(crate) files: Vec<f64>,
    pub(crate) aead: Vec<f64>,
    pub(crate) file_bytes: usize,
    /// How much more memory the daemon had at its peak than before the first file.
    pub(crate) memory_growth_bytes: u64,
    /// Encrypts that were done, and HSM operations meanwhile.
    pub(crate) encrypts: u64,
    pub(crate) hsm_operations: u64,
}

impl Single {
    pub(crate) fn hsm_operations_per_million(&self) -> f64 {
        self.hsm_operations as f64 * 1e6 / self.encrypts as f64
    }

    pub(crate) fn stream_vs_aead(&self) -> f64 {
        median(self.files.iter().zip(&self.aead).map(|(file, aead)| file / aead))
    }
}

/// Restarts the daemon before each kind: no key is open, and memory is fresh.
pub(crate) async fn run(plan: &Plan, servers: Servers) -> Outcome<Single> {
    let keyward = servers.disk.restart().await?;
    let before = keyward.hsm_operations().await?;
    let encrypts = encrypt_many(&keyward)?;
    let hsm_operations = keyward.hsm_operations().await? - before;
    report::say(&format!("{encrypts} encrypts"))?;

    let keyward = keyward.restart().await?;
    let before = memory(&keyward, "VmRSS")?;
    let (mut files, mut aead) = (Vec::new(), Vec::new());
    for _ in 0..plan.files {
        aead.push(aead::bytes_per_second(plan.file)?);
        files.push(load(&keyward, Work::File, plan.file).spawn()?.per_second);
    }
    report::say(&format!("{} files", plan.files))?;
    let memory_growth_bytes = memory(&keyward, "VmHWM")?.saturating_sub(before);
    Ok(Single { files, aead, file_bytes: plan.file, memory_growth_bytes, encrypts, hsm_operations })
}

fn encrypt_many(keyward: &Keyward) -> Outcome<u64> {
    let mut done = 0;
    while done < ENCRYPTS {
        let Figures { answered, .. } = load(keyward, Work::Session, 256).spawn()?;
        done += answered;
    }
    Ok(done)
}

fn load(keyward: &Keyward, work: Work, bytes: usize) -> Load {
    let socket = keyward.world.socket();
    Load { work, socket, in_flight: 512, connections: 4, bytes, warm_up: 0.0, seconds: 1.0 }
}

/// A size from the kernel's account of the daemon, in bytes.
fn memory(keyward: &Keyward, field: &str) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", keyward.daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    let kib: u64 = line.trim_matches([':', '\t', ' ', 'k', 'B']).parse()?;
    Ok(kib * 1024)
}
