//! What was measured on.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use serde::Serialize;

use super::Outcome;
use super::figures::quantile;

/// Facts about the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    /// Median time in microseconds to write 4 KiB to a file that has its room, and to sync it.
    pub(crate) disk_sync_us: f64,
    /// The same for 99 of 100.
    disk_sync_p99_us: f64,
}

/// Gathers the facts; the disk is that of `folder`.
pub(crate) fn facts(folder: &Path) -> Outcome<Machine> {
    let processors = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let syncs = syncs(folder)?;
    Ok(Machine {
        cores: std::thread::available_parallelism()?.get(),
        processor: model.trim_start_matches([' ', '\t', ':']).to_owned(),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        disk_sync_us: quantile(&syncs, 0.5),
        disk_sync_p99_us: quantile(&syncs, 0.99),
    })
}

/// Sorted times of some hundred syncs.
fn syncs(folder: &Path) -> Outcome<Vec<Duration>> {
    const COUNT: u64 = 300;
    let path = folder.join("sync-test");
    let file = File::create(&path)?;
    fallocate(&file, FallocateFlags::empty(), 0, COUNT * 4096)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for number in 0..COUNT {
        let begun = Instant::now();
        file.write_all_at(&[7; 4096], number * 4096)?;
        fdatasync(&file)?;
        times.push(begun.elapsed());
    }
    std::fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times)
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, processor, kernel, disk_sync_us, disk_sync_p99_us } = self;
        write!(f, "{cores} cores of {processor}, Linux {kernel}; ")?;
        write!(f, "a write of 4 KiB is durable after {disk_sync_us:.0} us (p99 {disk_sync_p99_us:.0} us)")
    }
}
