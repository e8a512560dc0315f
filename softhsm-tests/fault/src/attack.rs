//! What a library that is out for harm would try, where it runs: each attempt answers `done`, or the number
//! of the error.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Tries everything on `victim`, a file of the daemon's state, on the daemon's process and its configuration.
/// What is done is without harm, but for the victim.
pub(crate) fn attempts(victim: &Path, configuration: &Path, daemon: u32) -> String {
    let (beside, moved) = (victim.with_extension("new"), victim.with_extension("moved"));
    let folder = victim.parent().unwrap_or(victim);
    let daemon = libc::pid_t::try_from(daemon).unwrap_or(1);
    let done = [
        ("read", File::open(victim).map(drop)),
        ("list", fs::read_dir(folder).map(drop)),
        ("write", File::options().write(true).open(victim).map(drop)),
        ("append", File::options().append(true).open(victim).map(drop)),
        ("truncate", truncate(victim)),
        ("empty", empty(victim, libc::O_RDONLY)),
        // The access mode that is neither reading nor writing.
        ("empty-by-neither", empty(victim, libc::O_ACCMODE)),
        ("chmod", fs::set_permissions(victim, Permissions::from_mode(0o666))),
        ("chown", std::os::unix::fs::chown(victim, None, None)),
        ("create", File::create_new(&beside).map(drop)),
        ("link", fs::hard_link(victim, victim.with_extension("linked"))),
        ("rename", fs::rename(victim, &moved)),
        ("remove", fs::remove_file(if moved.exists() { moved.as_path() } else { victim })),
        ("configuration", File::open(configuration).map(drop)),
        ("signal", signal(daemon)),
        ("signal-by-file", own(daemon)),
        ("handle-of-process", pidfd(daemon)),
        ("limits", limits(daemon)),
        ("local-socket", socket(libc::AF_UNIX)),
        ("inet-socket", socket(libc::AF_INET)),
        ("process", fork()),
        ("program", Command::new("/bin/true").status().map(drop)),
        ("exec", exec()),
    ];
    done.into_iter().map(|(attempt, outcome)| format!("{attempt} {}\n", word(outcome))).collect()
}

fn word(outcome: io::Result<()>) -> String {
    match outcome {
        Ok(()) => "done".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |code| code.to_string()),
    }
}

fn checked(answer: impl Into<i64>) -> io::Result<()> {
    if answer.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn truncate(path: &Path) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: a string that outlives the call.
    checked(unsafe { libc::truncate(path.as_ptr(), 1) })
}

fn empty(path: &Path, access: libc::c_int) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: a string that outlives the call; the descriptor is left open, in a process that ends soon.
    checked(unsafe { libc::open(path.as_ptr(), access | libc::O_TRUNC | libc::O_CLOEXEC) })
}

fn signal(process: libc::pid_t) -> io::Result<()> {
    // SAFETY: no memory is involved; signal 0 only asks.
    checked(unsafe { libc::kill(process, 0) })
}

/// Has the kernel signal the process when a file is ready.
fn own(process: libc::pid_t) -> io::Result<()> {
    let (file, _other) = io::pipe()?;
    // SAFETY: no memory is involved; the descriptor is open.
    checked(unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_SETOWN, process) })
}

fn pidfd(process: libc::pid_t) -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })
}

fn limits(process: libc::pid_t) -> io::Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: nothing is read, and `now` outlives the call.
    checked(unsafe { libc::prlimit(process, libc::RLIMIT_NOFILE, std::ptr::null(), &mut now) })
}

fn socket(family: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}

fn fork() -> io::Result<()> {
    // SAFETY: the new process does nothing but end.
    match unsafe { libc::fork() } {
        // SAFETY: it ends without running anything of the program.
        0 => unsafe { libc::_exit(0) },
        child => {
            checked(child)?;
            // SAFETY: a null status is allowed.
            checked(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) })
        }
    }
}

/// Of a program that does not exist: without a filter the kernel looks for it.
fn exec() -> io::Result<()> {
    let arguments = [std::ptr::null()];
    // SAFETY: a static string, and lists that end with null.
    checked(unsafe { libc::execve(c"/nonexistent".as_ptr(), arguments.as_ptr(), arguments.as_ptr()) })
}
