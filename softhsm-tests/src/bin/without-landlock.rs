//! Starts a program on what looks like a kernel without Landlock: `without-landlock PROGRAM [ARGUMENT]…`.

use std::collections::BTreeMap;
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// The three calls, on every architecture, and what the kernel answers that does not know them.
const LANDLOCK: std::ops::RangeInclusive<i64> = 444..=446;
const ENOSYS: u32 = 38;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().ok_or("which program?")?;
    let rules: BTreeMap<_, _> = LANDLOCK.map(|call| (call, Vec::new())).collect();
    let (missing, architecture) =
        (SeccompAction::Errno(ENOSYS), TargetArch::try_from(std::env::consts::ARCH)?);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, architecture)?;
    apply_filter(&BpfProgram::try_from(filter)?)?;
    Err(Command::new(program).args(words).exec().into())
}
