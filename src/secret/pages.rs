//! Pages of memory that no file, dump or other process sees.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use libc::{c_int, c_long, c_void};

/// What the kernel does for the pages. Better comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protection {
    /// `memfd_secret(2)`: not even the kernel maps them; never swapped, never dumped.
    Secret,
    /// Locked (`mlock(2)`, never swapped) and left out of dumps.
    Locked,
    /// Left out of dumps; `RLIMIT_MEMLOCK` does not allow more.
    Unlocked,
}

/// The name that `/proc/PID/maps` shows for pages that are not of `memfd_secret`.
const NAME: &CStr = c"keyward-secrets";

/// Maps `length` bytes, a multiple of the page size, all zero, with at best this protection.
///
/// The pages stay for the life of the process.
pub(super) fn map(length: NonZeroUsize, best: Protection) -> io::Result<(NonNull<u8>, Protection)> {
    if best == Protection::Secret
        && let Ok(pages) = secret_file().and_then(|file| map_file(&file, length))
    {
        return Ok((pages, Protection::Secret));
    }
    let pages = map_file(&shared_file()?, length)?;
    let locked = best != Protection::Unlocked && lock(pages, length).is_ok();
    Ok((pages, if locked { Protection::Locked } else { Protection::Unlocked }))
}

fn secret_file() -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags only; libc has no wrapper for it.
    let opened = unsafe { libc::syscall(libc::SYS_memfd_secret, c_long::from(libc::O_CLOEXEC)) };
    owned(c_int::try_from(opened).map_err(io::Error::other)?)
}

fn shared_file() -> io::Result<OwnedFd> {
    // SAFETY: the name is a string that ends with zero.
    owned(unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) })
}

fn owned(opened: c_int) -> io::Result<OwnedFd> {
    match opened {
        0.. => {
            // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
            Ok(unsafe { OwnedFd::from_raw_fd(opened) })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

fn map_file(file: &OwnedFd, length: NonZeroUsize) -> io::Result<NonNull<u8>> {
    let size = libc::off_t::try_from(length.get()).map_err(io::Error::other)?;
    // SAFETY: an open descriptor and a number.
    succeeded(unsafe { libc::ftruncate(file.as_raw_fd(), size) })?;
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let pages = unsafe { libc::mmap(ptr::null_mut(), length.get(), access, flags, file.as_raw_fd(), 0) };
    if pages == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let pages = NonNull::new(pages).ok_or_else(|| io::Error::other("mapped at address zero"))?;
    for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
        advise(pages, length, advice)?;
    }
    Ok(pages.cast())
}

fn advise(pages: NonNull<c_void>, length: NonZeroUsize, advice: c_int) -> io::Result<()> {
    // SAFETY: the mapping was just made, and the advice changes no content.
    succeeded(unsafe { libc::madvise(pages.as_ptr(), length.get(), advice) })
}

fn lock(pages: NonNull<u8>, length: NonZeroUsize) -> io::Result<()> {
    // SAFETY: the mapping was just made.
    succeeded(unsafe { libc::mlock(pages.as_ptr().cast(), length.get()) })
}

fn succeeded(answer: c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
