//! Where a file goes: written without a name, which it gets when it is whole. So nothing is left of one
//! that is not, whatever ends the program. Where the file system has no files without a name
//! (`O_TMPFILE`), it is written under a temporary one.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::failure::Failure;

/// A file or stdout.
pub(crate) enum Output {
    /// A file that appears when it is whole.
    File(NewFile),
    /// The standard output.
    Stdout(tokio::io::Stdout),
}

impl Output {
    /// Opens `path`; stdout when there is none or it is `-`.
    ///
    /// # Errors
    /// [`Failure::Exists`], or [`Failure::File`] when the file cannot be made.
    pub(crate) fn open(path: Option<&Path>, force: bool) -> Result<Self, Failure> {
        match path {
            Some(path) if path != Path::new("-") => Ok(Self::File(NewFile::create(path, force)?)),
            _ => Ok(Self::Stdout(tokio::io::stdout())),
        }
    }

    /// As [`open`](Self::open), for what is no secret and somebody else must read: mode 0644.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_for_everybody(path: Option<&Path>, force: bool) -> Result<Self, Failure> {
        match Self::open(path, force)? {
            Self::File(file) => Ok(Self::File(file.for_everybody()?)),
            stdout => Ok(stdout),
        }
    }

    /// What to write to.
    pub(crate) fn writer(&mut self) -> &mut (dyn AsyncWrite + Unpin) {
        match self {
            Self::File(file) => &mut file.file,
            Self::Stdout(stdout) => stdout,
        }
    }

    /// How to name it in messages.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::File(file) => &file.path,
            Self::Stdout(_) => Path::new("stdout"),
        }
    }

    /// The output is whole: a file gets its name.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be made durable or named.
    pub(crate) async fn commit(self) -> Result<(), Failure> {
        match self {
            Self::File(file) => file.commit().await,
            Self::Stdout(mut stdout) => {
                stdout.flush().await.map_err(Failure::file("write", Path::new("stdout")))
            }
        }
    }
}

/// A file without a name, or under a temporary one in the same directory, mode 0600; gone unless committed.
pub(crate) struct NewFile {
    file: tokio::fs::File,
    /// Its name until it is whole, where the file system wants one.
    temporary: Option<PathBuf>,
    path: PathBuf,
    replace: bool,
}

impl NewFile {
    /// Refuses a path where something is, unless `replace` is set and it is a plain file.
    ///
    /// # Errors
    /// [`Failure::Exists`], or [`Failure::File`] when the file cannot be made.
    pub(crate) fn create(path: &Path, replace: bool) -> Result<Self, Failure> {
        match path.symlink_metadata() {
            Ok(found) if !found.is_file() => {
                let what = format!("{} is not a plain file; write to stdout instead", path.display());
                return Err(Failure::Input(what));
            }
            Ok(_) if !replace => return Err(Failure::Exists(path.into())),
            _ => {}
        }
        let (file, temporary) = match nameless(path) {
            Some(file) => (file, None),
            None => named(path).map_err(Failure::file("create", path))?,
        };
        Ok(Self { file: file.into(), temporary, path: path.into(), replace })
    }

    /// Lets everybody on this machine read it, whatever the umask: it is no secret, and somebody else needs it.
    fn for_everybody(self) -> Result<Self, Failure> {
        let readable = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        rustix::fs::fchmod(&self.file, readable)
            .map_err(|error| Failure::file("write", &self.path)(error.into()))?;
        Ok(self)
    }

    /// What to write to.
    pub(crate) fn writer(&mut self) -> &mut (dyn AsyncWrite + Unpin) {
        &mut self.file
    }

    /// The file is whole: it gets its name.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be made durable or named.
    pub(crate) async fn commit(mut self) -> Result<(), Failure> {
        self.file.flush().await.map_err(Failure::file("write", &self.path))?;
        self.file.sync_all().await.map_err(Failure::file("write", &self.path))?;
        self.publish().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::Exists(self.path.clone()),
            _ => Failure::file("write", &self.path)(error),
        })
    }

    fn publish(&self) -> io::Result<()> {
        match &self.temporary {
            Some(temporary) => self.rename(temporary)?,
            // Fails where something has appeared since `create` looked.
            None if !self.replace => self.link(&self.path)?,
            None => {
                // A name cannot be linked over another one: for a moment the whole file has a temporary one.
                let temporary = temporary_name(&self.path)?;
                self.link(&temporary)?;
                self.rename(&temporary).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
            }
        }
        fs::File::open(directory(&self.path))?.sync_all()
    }

    fn rename(&self, temporary: &Path) -> io::Result<()> {
        // Something may have appeared since `create` looked.
        let flags = if self.replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        Ok(rustix::fs::renameat_with(CWD, temporary, CWD, &self.path, flags)?)
    }

    /// Gives the file without a name this one.
    fn link(&self, name: &Path) -> io::Result<()> {
        let file = own_name(self.file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, &file, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After a commit there is nothing under this name. Otherwise the bytes are not to be used,
        // and the failure that led here is already being told.
        if let Some(temporary) = &self.temporary {
            drop(fs::remove_file(temporary));
        }
    }
}

/// A file without a name in the directory of `path`; `None` where there are none, or they could get no name.
fn nameless(path: &Path) -> Option<fs::File> {
    // What is wrong with the directory or the name is told by the way that works everywhere.
    path.file_name()?;
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, directory(path), flags, Mode::RUSR | Mode::WUSR).ok()?;
    // Linking goes through /proc, which a sandbox may not have.
    own_name(file.as_raw_fd()).symlink_metadata().is_ok().then(|| file.into())
}

/// The kernel's name for a file that this process has open.
fn own_name(file: std::os::fd::RawFd) -> PathBuf {
    format!("/proc/self/fd/{file}").into()
}

fn named(path: &Path) -> io::Result<(fs::File, Option<PathBuf>)> {
    let temporary = temporary_name(path)?;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    Ok((file, Some(temporary)))
}

fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{:016x}.part", getrandom::u64().map_err(io::Error::other)?));
    Ok(directory(path).join(hidden))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn write(path: &Path, replace: bool, text: &str) -> Result<Output, Failure> {
        let mut output = Output::open(Some(path), replace)?;
        output.writer().write_all(text.as_bytes()).await.unwrap();
        Ok(output)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_is_for_others_can_be_read_by_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("card");
        let mut output = Output::open_for_everybody(Some(&path), false).unwrap();
        output.writer().write_all(b"whole").await.unwrap();
        output.commit().await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[tokio::test]
    async fn a_whole_file_gets_its_name_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        write(&path, false, "whole").await.unwrap().commit().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[tokio::test]
    async fn a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(write(&dir.path().join("out"), false, "half").await.unwrap());
        assert!(names(dir.path()).is_empty());
    }

    /// Where no code of this program runs any more.
    #[tokio::test]
    async fn a_file_that_is_not_whole_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut half = write(&dir.path().join("out"), false, "half").await.unwrap();
        half.writer().flush().await.unwrap();
        assert!(names(dir.path()).is_empty());
        // The same file under a name, for file systems that want one.
        let (_, temporary) = named(&dir.path().join("out")).unwrap();
        assert_eq!(names(dir.path()), [temporary.unwrap().file_name().unwrap().to_str().unwrap()]);
    }

    #[tokio::test]
    async fn a_named_file_keeps_the_same_rules() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let make = |replace| {
            let (file, temporary) = named(&path).unwrap();
            NewFile { file: file.into(), temporary, path: path.clone(), replace }
        };
        drop(make(false));
        assert!(names(dir.path()).is_empty());
        let mut first = make(false);
        first.writer().write_all(b"first").await.unwrap();
        first.commit().await.unwrap();
        assert!(matches!(make(false).commit().await, Err(Failure::Exists(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        make(true).commit().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[tokio::test]
    async fn nothing_is_replaced_without_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let early = write(&path, false, "mine").await.unwrap();
        fs::write(&path, "other").unwrap();
        assert!(matches!(early.commit().await, Err(Failure::Exists(_))), "appeared in the meantime");
        assert!(matches!(write(&path, false, "mine").await, Err(Failure::Exists(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
        drop(write(&path, true, "half").await.unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
        write(&path, true, "mine").await.unwrap().commit().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn links_and_devices_are_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        for path in [&link, Path::new("/dev/null"), dir.path()] {
            assert!(matches!(NewFile::create(path, true), Err(Failure::Input(_))), "{}", path.display());
        }
    }
}
