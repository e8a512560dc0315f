//! The few things that the writer asks of the operating system, so that tests
//! can make each of them fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// File operations of the writer. The defaults are the real ones.
pub(super) trait Disk: Send + Sync {
    /// Opens a file for reading and writing; makes it, for its owner only,
    /// when there is none.
    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    }

    /// Writes all of `bytes`.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Makes data, and the length needed to read it, durable.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Cuts or extends.
    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    /// Takes room up to `length`, which becomes the length of the file; what
    /// is new reads as zeros.
    fn reserve(&self, file: &File, length: u64) -> io::Result<()> {
        Ok(fallocate(file, FallocateFlags::empty(), 0, length)?)
    }

    /// Renames a file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// Puts `bytes` in the place of a file: after a crash there is the old or the new one, whole.
pub(super) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let file = disk.open(&draft)?;
    disk.set_len(&file, 0)?;
    disk.write(&file, bytes, 0)?;
    disk.sync(&file)?;
    disk.rename(&draft, path)?;
    disk.sync_dir(path.parent().unwrap_or(path))
}

/// Writes zeros.
pub(super) fn zero(disk: &dyn Disk, file: &File, mut from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    while from < to {
        let count = ZEROS.len().min(usize::try_from(to - from).unwrap_or(usize::MAX));
        disk.write(file, &ZEROS[..count], from)?;
        from += count as u64;
    }
    Ok(())
}

/// The real thing.
pub(super) struct System;

impl Disk for System {}
