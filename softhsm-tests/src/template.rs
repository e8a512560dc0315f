//! The files of an initialised world, of which others are copies.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The files that name the folder they are in. No other may: a copy would reach into the first.
const NAMING: [&str; 2] = ["softhsm2.conf", "keywardd.toml"];
/// What daemons wrote before is no part of a copy.
const LOG: &str = "log";

/// What is in a folder, held in memory: nothing is left when the process ends.
pub(crate) struct Template {
    folder: String,
    entries: Vec<Entry>,
}

struct Entry {
    path: PathBuf,
    mode: u32,
    /// None for a folder.
    content: Option<Vec<u8>>,
}

impl Template {
    /// Reads a folder whose programs have ended.
    pub(crate) fn of(folder: &Path) -> Self {
        let mut entries = Vec::new();
        read(folder, Path::new(""), &mut entries);
        let template = Self { folder: folder.to_str().expect("ASCII").to_owned(), entries };
        for entry in template.entries.iter().filter(|entry| !entry.names_its_folder()) {
            let content = entry.content.as_deref().unwrap_or_default();
            let found = content.windows(template.folder.len()).any(|part| part == template.folder.as_bytes());
            assert!(!found, "{} names the folder it is in", entry.path.display());
        }
        template
    }

    /// Writes everything into an empty folder.
    pub(crate) fn copy_to(&self, folder: &Path) {
        for entry in &self.entries {
            let path = folder.join(&entry.path);
            match &entry.content {
                None => DirBuilder::new().mode(entry.mode).create(&path).expect("a folder"),
                Some(content) if entry.names_its_folder() => {
                    let text = str::from_utf8(content).expect("text");
                    let text = text.replace(&self.folder, folder.to_str().expect("ASCII"));
                    write(&path, entry.mode, text.as_bytes());
                }
                Some(content) => write(&path, entry.mode, content),
            }
            // Whatever the umask is.
            fs::set_permissions(&path, Permissions::from_mode(entry.mode)).expect("its mode");
        }
    }
}

impl Entry {
    fn names_its_folder(&self) -> bool {
        NAMING.iter().any(|name| self.path == Path::new(name))
    }
}

/// Adds what is at `path` in `folder`, each folder before what is in it.
fn read(folder: &Path, path: &Path, entries: &mut Vec<Entry>) {
    for found in fs::read_dir(folder.join(path)).expect("a folder") {
        let found = found.expect("an entry");
        if found.file_name() == LOG {
            continue;
        }
        let (path, about) = (path.join(found.file_name()), found.metadata().expect("its mode"));
        let mode = about.permissions().mode() & 0o7777;
        if about.is_dir() {
            entries.push(Entry { path: path.clone(), mode, content: None });
            read(folder, &path, entries);
        } else {
            assert!(about.is_file(), "{} is neither file nor folder", path.display());
            let content = Some(fs::read(found.path()).expect("a file"));
            entries.push(Entry { path, mode, content });
        }
    }
}

fn write(path: &Path, mode: u32, content: &[u8]) {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).expect("a file");
    file.write_all(content).expect("a file");
}
