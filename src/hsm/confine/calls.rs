//! seccomp: system calls that the library does not make.
//!
//! A list of what is denied, not of what is allowed: what vendors' libraries call is not known, and a list
//! of what is allowed would break with their next release; the service unit has one around it
//! (`SystemCallFilter=@system-service`). What is denied answers an error, so that a library can go on.
//!
//! Landlock of Debian 12 (version 2) governs neither truncation nor modes, owners, signals or sockets.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Numbers that the libc crate does not have for every architecture; they are the same on all.
mod newer {
    pub(super) const QUOTACTL_FD: i64 = 443;
    pub(super) const FCHMODAT2: i64 = 452;
    pub(super) const SETXATTRAT: i64 = 463;
    pub(super) const REMOVEXATTRAT: i64 = 466;
    pub(super) const OPEN_TREE_ATTR: i64 = 467;
    pub(super) const FILE_SETATTR: i64 = 469;
}

/// Files by their path, past Landlock: attributes of any file of this user, file handles, mounts.
const FILES: [i64; 31] = [
    libc::SYS_truncate,
    libc::SYS_fchmodat,
    newer::FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    newer::SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    newer::REMOVEXATTRAT,
    newer::FILE_SETATTR,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_quotactl,
    newer::QUOTACTL_FD,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    newer::OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_fanotify_init,
];

/// The same, of the older architecture.
#[cfg(target_arch = "x86_64")]
const OLD: [i64; 8] = [
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_fork,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: [i64; 0] = [];

/// Other processes of this user, programs, and the kernel.
const PROCESSES: [i64; 34] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_syslog,
];

/// Sockets. The one to the journal is there already, and only sent to.
const SOCKETS: [i64; 5] =
    [libc::SYS_socket, libc::SYS_socketpair, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

/// Calls whose arguments lie in memory, where no filter sees them. They are said to be missing, so that
/// libraries take the older call, which is filtered: `clone` for `clone3`, `openat` for `openat2`.
const UNSEEN: [i64; 5] = [
    libc::SYS_clone3,
    libc::SYS_openat2,
    // Does most of what is denied here without a system call.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// On x86_64 the kernel may take the numbers of x32 as well, which name the same calls.
#[cfg(target_arch = "x86_64")]
const X32: std::ops::RangeInclusive<i64> = 0x4000_0000..=0x4000_0000 + 547;

const O_ACCMODE: u64 = 0o3;
const O_TRUNC: u64 = 0o1000;
const CLONE_THREAD: u64 = 0x0001_0000;
/// `fcntl` and `ioctl` that have the kernel send this process' choice of signal to any process of this user.
const F_SETOWN: u64 = 8;
const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
/// `ioctl` that types on the terminal of whoever runs `keyward hsm check`.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;
const PR_SET_DUMPABLE: u64 = 4;
const PR_SET_PTRACER: u64 = 0x5961_6d61;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Restricts the calling thread.
///
/// # Errors
/// When the kernel has no seccomp, or refuses.
pub(super) fn restrict(network: bool) -> Result<(), seccompiler::Error> {
    apply(denied(network)?, libc::EPERM)?;
    #[cfg(target_arch = "x86_64")]
    apply(X32.map(|call| (call, Vec::new())).collect(), libc::EPERM)?;
    apply(UNSEEN.map(|call| (call, Vec::new())).into(), libc::ENOSYS)
}

fn apply(rules: Rules, errno: i32) -> Result<(), seccompiler::Error> {
    let errno = SeccompAction::Errno(errno.unsigned_abs());
    // A call of another architecture than this ends the process.
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, architecture)?;
    apply_filter(&BpfProgram::try_from(filter)?)
}

fn denied(network: bool) -> Result<Rules, BackendError> {
    let sockets: &[i64] = if network { &[] } else { &SOCKETS };
    let always = FILES.iter().chain(&OLD).chain(&PROCESSES).chain(sockets);
    let mut rules: Rules = always.map(|call| (*call, Vec::new())).collect();
    rules.extend(opening()?);
    rules.extend(of_others(u64::from(std::process::id()))?);
    rules.extend(controls()?);
    Ok(rules)
}

/// Opening for neither reading nor writing (access mode 3) passes Landlock, and O_TRUNC then empties the
/// file; before version 3, so does O_TRUNC with reading alone.
fn opening() -> Result<Rules, BackendError> {
    let flags = |argument| -> Result<Vec<SeccompRule>, BackendError> {
        Ok(vec![
            when(&[(argument, SeccompCmpOp::MaskedEq(O_ACCMODE), O_ACCMODE)])?,
            when(&[(argument, SeccompCmpOp::MaskedEq(O_ACCMODE | O_TRUNC), O_TRUNC)])?,
        ])
    };
    let path = SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    let mut rules = Rules::from([
        (libc::SYS_openat, flags(2)?),
        // Without a path it is about an open file.
        (libc::SYS_utimensat, vec![SeccompRule::new(vec![path])?]),
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, flags(1)?);
    // Processes of its own would outlive this one; threads are welcome.
    rules.insert(libc::SYS_clone, vec![when(&[(0, SeccompCmpOp::MaskedEq(CLONE_THREAD), 0)])?]);
    Ok(rules)
}

/// What a process may do to itself alone: `abort` is a signal to oneself.
fn of_others(own: u64) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for call in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
        rules.insert(call, vec![when(&[(0, SeccompCmpOp::Ne, own)])?]);
    }
    for call in [
        libc::SYS_prlimit64,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
    ] {
        rules.insert(call, vec![when(&[(0, SeccompCmpOp::Ne, 0), (0, SeccompCmpOp::Ne, own)])?]);
    }
    Ok(rules)
}

/// Calls of many purposes.
fn controls() -> Result<Rules, BackendError> {
    let one_of = |argument, values: &[u64]| -> Result<Vec<SeccompRule>, BackendError> {
        values.iter().map(|value| when(&[(argument, SeccompCmpOp::Eq, *value)])).collect()
    };
    Ok(Rules::from([
        (libc::SYS_fcntl, one_of(1, &[F_SETOWN, F_SETSIG, F_SETOWN_EX])?),
        (libc::SYS_ioctl, one_of(1, &[FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX])?),
        (libc::SYS_prctl, one_of(0, &[PR_SET_DUMPABLE, PR_SET_PTRACER])?),
    ]))
}

/// All of these tests of arguments, by their lower 32 bits, which is all that the kernel looks at.
fn when(tests: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, BackendError> {
    let conditions = tests.iter().map(|(argument, operator, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_fit_into_a_program() {
        for network in [false, true] {
            let architecture = TargetArch::try_from(std::env::consts::ARCH).unwrap();
            let rules = denied(network).unwrap();
            assert_eq!(rules.contains_key(&libc::SYS_socket), !network);
            let (allow, deny) = (SeccompAction::Allow, SeccompAction::Errno(1));
            BpfProgram::try_from(SeccompFilter::new(rules, allow, deny, architecture).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_confined_thread_still_makes_threads_and_no_processes() {
        // The filter is of this thread, and of those that it starts.
        let confined = std::thread::spawn(|| {
            restrict(false).unwrap();
            let thread = std::thread::spawn(|| 7).join().unwrap();
            let program = std::process::Command::new("/bin/true").status().map(drop);
            let socket = std::os::unix::net::UnixStream::connect("/nonexistent").map(drop);
            (thread, [program, socket].map(|denied| denied.unwrap_err().raw_os_error()))
        });
        assert_eq!(confined.join().unwrap(), (7, [Some(libc::EPERM); 2]));
    }
}
