//! A person at a window of pinentry: reads what is shown, and types the PIN.

use std::path::{Path, PathBuf};

/// A program in the window's place, which speaks the protocol of pinentry (GnuPG, "Assuan").
pub struct Person {
    /// The program.
    pub window: PathBuf,
    read: PathBuf,
}

impl Person {
    /// One who knows the PIN in a file; what they need is in a folder.
    pub fn who_knows(pin: &Path, folder: &Path) -> Self {
        let (window, read) = (folder.join("pinentry"), folder.join("read"));
        let (into, from) = (read.display(), pin.display());
        let script = format!(
            r#"#!/bin/sh
echo 'OK ready'
while read -r word rest; do
    case $word in
    SETDESC) echo "$rest" >>'{into}'; echo OK ;;
    GETPIN) printf 'D '; cat '{from}'; echo; echo OK ;;
    BYE) echo OK; exit ;;
    *) echo OK ;;
    esac
done
"#
        );
        std::fs::create_dir_all(folder).expect("a folder");
        crate::write_script(&window, &script);
        Self { window, read }
    }

    /// What was shown to them.
    pub fn has_read(&self) -> String {
        std::fs::read_to_string(&self.read).unwrap_or_default()
    }
}
