//! Who else may read or write a file: what keys, decisions and code rest on must be in nobody else's hand.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use uzers::os::unix::GroupExt;

/// Reading, writing and executing.
pub(crate) const ANY: u32 = 0o7;
const WRITE: u32 = 0o2;
const STICKY: u32 = 0o1000;

/// To whom beside its owner a file is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenTo {
    /// To its group.
    pub(crate) group: bool,
    /// To every user of the machine.
    pub(crate) others: bool,
}

impl OpenTo {
    /// To anybody.
    pub(crate) fn anybody(self) -> bool {
        self.group || self.others
    }
}

/// To whom any of these rights (`rwx` as three bits) is given.
pub(crate) fn open_to(meta: &Metadata, rights: u32) -> OpenTo {
    OpenTo { group: meta.mode() & (rights << 3) != 0, others: meta.mode() & rights != 0 }
}

/// A file, or a folder above it, that others may write.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// Its mode allows it.
    #[error("{what} is not safe: {path} may be written by {whom} (mode {mode:04o}); run `chmod go-w {path}`")]
    Mode {
        /// What rests on it.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// By whom.
        whom: &'static str,
        /// Its mode.
        mode: u32,
    },
    /// Its owner is somebody else.
    #[error(
        "{what} is not safe: {path} belongs to user {owner}, neither to root nor to the user that runs this; run `chown {us} {path}`"
    )]
    Owner {
        /// What rests on it.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who should be.
        us: u32,
    },
}

/// Who may own what is trusted.
#[derive(Debug, Clone)]
pub(crate) struct Owners {
    us: u32,
    all: Vec<u32>,
}

impl Owners {
    /// Root, this user, and whoever owns `/`: in a user namespace that is how the machine's root looks,
    /// and who owns it can put anything in the place of everything anyway.
    pub(crate) fn of_this_process() -> Self {
        let us = rustix::process::geteuid().as_raw();
        let all = [0, us].into_iter().chain(fs::metadata("/").ok().map(|root| root.uid()));
        Self { us, all: all.collect() }
    }

    /// For root, who looks at the files of a daemon that runs as another user: the owner of this folder too.
    pub(crate) fn or_owner_of(mut self, folder: &Path) -> Self {
        if self.us == 0 {
            self.all.extend(fs::metadata(folder).ok().map(|meta| meta.uid()));
        }
        self
    }
}

/// That nobody else may write a file or a folder, nor put another in its place: itself and every folder
/// above, of the path as it is given and of the one to which links lead, belongs to one of the owners and
/// may be written by no other. Above, a sticky folder such as `/tmp` is as good; and a group that is its
/// owner's alone is no other. What does not exist is passed over. `what` it is begins the error.
///
/// # Errors
/// [`Untrusted`] with the command that mends it.
pub(crate) fn written_by_none_but(owners: &Owners, what: &'static str, path: &Path) -> Result<(), Untrusted> {
    let given = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = given.canonicalize().unwrap_or_else(|_| given.clone());
    for whole in [&given, &real] {
        for place in whole.ancestors() {
            // Where this user may not look, opening the file says so.
            let Ok(meta) = fs::symlink_metadata(place) else { continue };
            judge(owners, what, place, &meta, place == whole.as_path())?;
        }
    }
    Ok(())
}

fn judge(
    owners: &Owners,
    what: &'static str,
    place: &Path,
    meta: &Metadata,
    itself: bool,
) -> Result<(), Untrusted> {
    let path = || place.to_owned();
    if !owners.all.contains(&meta.uid()) {
        return Err(Untrusted::Owner { what, path: path(), owner: meta.uid(), us: owners.us });
    }
    let open = open_to(meta, WRITE);
    // The mode of a link means nothing; in a sticky folder nobody replaces what is another's.
    if meta.is_symlink() || (!itself && meta.mode() & STICKY != 0) || !open.anybody() {
        return Ok(());
    }
    if !open.others && is_private(meta) {
        return Ok(());
    }
    let whom = if open.others { "every user of this machine" } else { "its group" };
    Err(Untrusted::Mode { what, path: path(), whom, mode: meta.mode() & 0o7777 })
}

/// Whether the group of a file is that of its owner alone, as distributions make one for each user.
fn is_private(meta: &Metadata) -> bool {
    let (owner, group) = (uzers::get_user_by_uid(meta.uid()), uzers::get_group_by_gid(meta.gid()));
    let (Some(owner), Some(group)) = (owner, group) else { return false };
    group.name() == owner.name() && group.members().iter().all(|member| member == owner.name())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_may_write_is_found_at_any_height() {
        let folder = tempfile::tempdir().unwrap();
        let (above, file) = (folder.path().join("above"), folder.path().join("above/file"));
        fs::create_dir(&above).unwrap();
        fs::write(&file, "").unwrap();
        let owners = Owners::of_this_process();
        let look = || written_by_none_but(&owners, "the state", &file).map_err(|error| error.to_string());
        for (of_above, of_file, bad) in [
            (0o755, 0o644, None),
            (0o755, 0o646, Some((&file, "0646"))),
            (0o757, 0o644, Some((&above, "0757"))),
            (0o1777, 0o644, None),
            (0o1777, 0o666, Some((&file, "0666"))),
        ] {
            set(&above, of_above);
            set(&file, of_file);
            let found = look();
            let Some((path, mode)) = bad else {
                assert_eq!(found, Ok(()), "{of_above:o} {of_file:o}");
                continue;
            };
            let said = found.unwrap_err();
            let cure = format!("run `chmod go-w {}`", path.display());
            assert!(said.starts_with("the state is not safe") && said.ends_with(&cure), "{said}");
            assert!(said.contains(mode), "{said}");
        }
    }

    #[test]
    fn a_link_is_judged_by_where_it_lies_and_where_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (open, closed) = (folder.path().join("open"), folder.path().join("closed"));
        for one in [&open, &closed] {
            fs::create_dir(one).unwrap();
        }
        set(&open, 0o777);
        fs::write(open.join("file"), "").unwrap();
        fs::write(closed.join("file"), "").unwrap();
        symlink(open.join("file"), closed.join("link")).unwrap();
        symlink(closed.join("file"), open.join("link")).unwrap();
        let owners = Owners::of_this_process();
        written_by_none_but(&owners, "a", &closed.join("file")).unwrap();
        written_by_none_but(&owners, "a", &closed.join("link")).unwrap_err();
        written_by_none_but(&owners, "a", &open.join("link")).unwrap_err();
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let owners = Owners { us: 4711, all: vec![4711] };
        let said = written_by_none_but(&owners, "the module", folder.path()).unwrap_err().to_string();
        assert!(said.contains("run `chown 4711 "), "{said}");
    }

    #[test]
    fn what_is_not_there_rests_on_the_folder_above() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing/file");
        let owners = Owners::of_this_process();
        written_by_none_but(&owners, "a", &missing).unwrap();
        set(folder.path(), 0o777);
        written_by_none_but(&owners, "a", &missing).unwrap_err();
    }
}
