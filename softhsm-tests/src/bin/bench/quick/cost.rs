//! What a process has cost so far, by the kernel's account: CPU time, and instructions where the processor
//! counts them for this machine.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;

use keyward_softhsm_tests::Daemon;
use libc::{c_int, c_long, clockid_t, pid_t};

/// `PERF_TYPE_HARDWARE`, `PERF_COUNT_HW_INSTRUCTIONS` and `PERF_FLAG_FD_CLOEXEC` of linux/perf_event.h.
const HARDWARE: u32 = 0;
const INSTRUCTIONS: u64 = 1;
const CLOEXEC: c_long = 8;
/// `inherit`, `pinned`, `exclude_kernel`, `exclude_hv`: new threads too, on the processor all the time.
const USER_ONLY: u64 = 0b0110_0110;

/// CPU time in nanoseconds, and instructions in user mode where they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cost {
    pub(crate) cpu_ns: u64,
    pub(crate) instructions: Option<u64>,
}

impl Cost {
    /// Takes away what had been used before.
    fn since(self, before: Self) -> Self {
        let instructions = self.instructions.zip(before.instructions);
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            instructions: instructions.map(|(now, before)| now.saturating_sub(before)),
        }
    }

    fn plus(self, other: Self) -> Self {
        let instructions = self.instructions.zip(other.instructions);
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            instructions: instructions.map(|(one, other)| one + other),
        }
    }
}

/// What a daemon and its HSM process used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Used {
    pub(crate) daemon: Cost,
    pub(crate) hsm: Cost,
}

impl Used {
    /// Takes away what had been used before.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { daemon: self.daemon.since(before.daemon), hsm: self.hsm.since(before.hsm) }
    }

    /// Adds the two processes up.
    pub(crate) fn both(self) -> Cost {
        self.daemon.plus(self.hsm)
    }
}

/// The account of a daemon and of the HSM process that serves it.
pub(crate) struct Account {
    daemon: Watched,
    hsm: Watched,
}

impl Account {
    /// Opens it once the HSM processes of the start have ended; instructions count from here, CPU time
    /// from the start of each process.
    ///
    /// # Errors
    /// When a process has gone.
    pub(crate) async fn of(daemon: &Daemon) -> io::Result<Self> {
        let serving = daemon.serving_processes(1).await;
        let hsm = serving.first().ok_or_else(|| io::Error::other("no HSM process"))?;
        Ok(Self { daemon: Watched::new(daemon.pid())?, hsm: Watched::new(hsm.pid)? })
    }

    /// Reads it.
    ///
    /// # Errors
    /// When a process has gone: the HSM process was started anew, and the figures would be of two.
    pub(crate) fn so_far(&self) -> io::Result<Used> {
        Ok(Used { daemon: self.daemon.so_far()?, hsm: self.hsm.so_far()? })
    }

    /// Says why instructions are not counted, where they are not.
    pub(crate) fn refusal(&self) -> Option<&str> {
        [&self.daemon, &self.hsm].into_iter().find_map(|one| one.counters.as_ref().err()).map(String::as_str)
    }
}

struct Watched {
    clock: clockid_t,
    /// One for each thread that there was; or why there is none.
    counters: Result<Vec<File>, String>,
}

impl Watched {
    fn new(pid: u32) -> io::Result<Self> {
        let number = pid_t::try_from(pid).map_err(io::Error::other)?;
        let counters = counters(pid).map_err(|error| error.to_string());
        Ok(Self { clock: clock(number)?, counters })
    }

    fn so_far(&self) -> io::Result<Cost> {
        let instructions = match &self.counters {
            Ok(counters) => Some(counters.iter().map(count).sum::<io::Result<u64>>()?),
            Err(_) => None,
        };
        Ok(Cost { cpu_ns: time(self.clock)?, instructions })
    }
}

/// The CPU clock of another process: all its threads, also those that have ended, in nanoseconds.
fn clock(pid: pid_t) -> io::Result<clockid_t> {
    let mut clock: clockid_t = 0;
    // SAFETY: the call writes one clock id to a place of that type.
    match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
        0 => Ok(clock),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn time(clock: clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one time to a place of that type.
    match unsafe { libc::clock_gettime(clock, &raw mut time) } {
        0 => Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The beginning of `struct perf_event_attr`, as long as its first version.
#[repr(C)]
#[allow(dead_code, reason = "the kernel reads them")]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

fn counters(pid: u32) -> io::Result<Vec<File>> {
    // The flags are bit fields, which other machines lay out from the other end.
    if cfg!(target_endian = "big") {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut counters = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
        match counter(thread) {
            Ok(counter) => counters.push(counter),
            // It has ended since.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => (),
            Err(error) => return Err(error),
        }
    }
    Ok(counters)
}

fn counter(thread: pid_t) -> io::Result<File> {
    let attributes = Attributes {
        kind: HARDWARE,
        size: size_of::<Attributes>() as u32,
        config: INSTRUCTIONS,
        sample_period: 0,
        sample_type: 0,
        read_format: 0,
        flags: USER_ONLY,
        wakeup_events: 0,
        breakpoint_type: 0,
        breakpoint_address: 0,
    };
    let (any_cpu, no_group): (c_long, c_long) = (-1, -1);
    // SAFETY: the attributes are as long as they say and live until the call returns; libc has no wrapper.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            c_long::from(thread),
            any_cpu,
            no_group,
            CLOEXEC,
        )
    };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    let opened = c_int::try_from(opened).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(opened) })
}

/// Nothing can be read, which is an error here, where the counter did not fit onto the processor.
#[allow(clippy::host_endian_bytes, reason = "the kernel writes it so")]
fn count(mut counter: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    counter.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_is_on_the_account() {
        let own = Watched::new(std::process::id()).unwrap();
        let before = own.so_far().unwrap();
        let mut sum = 0_u64;
        // Until the clock has moved; it counts nanoseconds, so that is at once.
        while own.so_far().unwrap().cpu_ns < before.cpu_ns + 1_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        let used = own.so_far().unwrap().since(before);
        assert!(used.cpu_ns >= 1_000_000 && sum > 0, "{used:?}");
        // Where this machine counts them, a millisecond has more than a thousand.
        assert!(used.instructions.is_none_or(|instructions| instructions > 1_000), "{used:?}");
    }

    #[test]
    fn instructions_are_only_told_where_both_were_counted() {
        let counted = |cpu_ns, instructions| Cost { cpu_ns, instructions };
        assert_eq!(counted(9, Some(5)).since(counted(4, Some(2))), counted(5, Some(3)));
        assert_eq!(counted(9, Some(5)).since(counted(4, None)), counted(5, None));
        let used = Used { daemon: counted(1, Some(2)), hsm: counted(3, None) };
        assert_eq!(used.both(), counted(4, None));
    }

    #[test]
    fn a_process_that_has_gone_has_no_clock() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(Watched::new(child.id()).is_err());
    }
}
