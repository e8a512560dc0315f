//! Files made durably and for the owner only.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Makes a file, mode 0600, and its directory entry durable. It must not exist.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    sync_directory(path)?;
    Ok(file)
}

/// Renames a file over another, durably.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    sync_directory(to)
}

/// Gives a file a second name, durably. A file that had that name loses it.
pub(super) fn link(file: &Path, name: &Path) -> io::Result<()> {
    let draft = beside(name, ".new");
    remove_if_there(&draft)?;
    std::fs::hard_link(file, &draft)?;
    std::fs::rename(&draft, name)?;
    // If the file had that name already, renaming has done nothing and left the draft.
    remove_if_there(&draft)?;
    sync_directory(name)
}

/// Gives a file its name, durably. Nothing must have that name.
pub(crate) fn name_new(from: &Path, to: &Path) -> io::Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
    sync_directory(to)
}

/// Removes a file if it is there, durably.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_directory(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// `path` with `suffix` behind its whole name: `journal.kwj` and `.new` make `journal.kwj.new`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
