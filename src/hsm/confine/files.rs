//! Landlock: which files the library reaches.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, path_beneath_rules,
};

use super::{ConfineError, Confinement};

/// What libraries read of the system: code, configuration, and what the kernel tells of itself.
const READ: [&str; 14] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/etc",
    "/nix/store",
    "/proc",
    "/sys",
    "/dev/random",
    "/dev/urandom",
    // Name resolution of network HSMs: /etc/resolv.conf points there.
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
];

/// What libraries write: scratch, shared memory, devices of tokens, and the folders in which
/// distributions put tokens. What of it there is, and what of it this user may use, others decide.
const WRITE: [&str; 16] = [
    "/tmp",
    "/var/tmp",
    "/dev/shm",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/bus/usb",
    "/dev/tpm0",
    "/dev/tpmrm0",
    "/run/lock",
    "/run/pcscd",
    "/run/opencryptoki",
    "/var/lib/opencryptoki",
    "/var/log/opencryptoki",
    "/var/lib/softhsm",
    "/var/lib/tpm2_pkcs11",
];

/// What is granted.
#[derive(Debug)]
pub(super) struct Places {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    /// Paths of the configuration that do not exist.
    pub(super) missing: Vec<PathBuf>,
}

impl Places {
    /// # Errors
    /// [`ConfineError::Covers`] when a path of the configuration leads to what is kept.
    pub(super) fn of(confinement: &Confinement, module: &Path, own: &Path) -> Result<Self, ConfineError> {
        let kept: Vec<PathBuf> = confinement.kept.iter().map(|path| real(path)).collect();
        let (mut write, mut missing) = (vec![own.to_owned()], Vec::new());
        for path in &confinement.allow_paths {
            let Ok(real) = path.canonicalize() else {
                missing.push(path.clone());
                continue;
            };
            // A link may lead elsewhere than the configuration's check could see.
            if let Some(reached) = kept.iter().find(|kept| kept.starts_with(&real)) {
                let shown = |path: &Path| path.display().to_string();
                return Err(ConfineError::Covers(shown(path), shown(reached)));
            }
            write.push(real);
        }
        let named = named_by_environment(&kept);
        let mut avoided = kept;
        avoided.extend(confinement.configuration.iter().map(|path| real(path)));
        let around = |place: &Path| around(&real(place), &avoided);
        let mut read: Vec<PathBuf> = READ.iter().flat_map(|place| around(Path::new(place))).collect();
        // Libraries bring others, and data, beside themselves.
        let module = real(module);
        let folder = module.parent().filter(|folder| folder.parent().is_some());
        read.extend(folder.into_iter().flat_map(around));
        read.push(module.clone());
        read.extend(named);
        write.extend(WRITE.iter().flat_map(|place| around(Path::new(place))));
        Ok(Self { read, write, missing })
    }
}

/// Files that a variable of the environment names: that is how libraries are told of their configuration.
/// Folders are not among them, since HOME is one.
fn named_by_environment(kept: &[PathBuf]) -> Vec<PathBuf> {
    let files = std::env::vars_os().map(|(_, value)| PathBuf::from(value));
    let files = files.filter(|path| path.is_absolute()).filter_map(|path| path.canonicalize().ok());
    files.filter(|path| !path.is_dir() && !kept.iter().any(|kept| path.starts_with(kept))).collect()
}

/// The path without links; of what does not exist, that of its folder and its name.
fn real(path: &Path) -> PathBuf {
    let whole = path.canonicalize().ok();
    let beside = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    whole.or_else(beside).unwrap_or_else(|| path.to_owned())
}

/// The place, or when something to be avoided lies in it, all that lies beside that: Landlock grants
/// whole trees and takes nothing out of them. What appears there later is not granted.
fn around(place: &Path, avoided: &[PathBuf]) -> Vec<PathBuf> {
    if avoided.iter().any(|avoided| place.starts_with(avoided)) {
        return Vec::new();
    }
    if !avoided.iter().any(|avoided| avoided.starts_with(place)) {
        return vec![place.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    // A link is left out: it could lead to what is avoided, and is followed to what is granted anyway.
    let entries = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
    entries.flat_map(|entry| around(&entry.path(), avoided)).collect()
}

/// Restricts the calling thread. Answers the version of Landlock, 0 for none, and whether it governs all
/// that is asked for. Programs are started from nowhere.
///
/// # Errors
/// [`RulesetError`] when the kernel has Landlock and refuses.
pub(super) fn restrict(places: &Places) -> Result<(u32, bool), RulesetError> {
    let all = AccessFs::from_all(ABI::V3);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // What does not exist any more is passed over.
    let status = Ruleset::default()
        .handle_access(all)?
        .create()?
        .add_rules(path_beneath_rules(&places.read, read))?
        .add_rules(path_beneath_rules(&places.write, all & !AccessFs::Execute))?
        .restrict_self()?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
        _ => 0,
    };
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => (abi.max(1), true),
        RulesetStatus::PartiallyEnforced => (abi.max(1), false),
        RulesetStatus::NotEnforced => (0, false),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_lies_beside_is_granted_and_what_is_avoided_never() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        for one in ["state/audit", "other/deep", "third"] {
            fs::create_dir_all(top.join(one)).unwrap();
        }
        symlink(top.join("state"), top.join("link")).unwrap();
        let avoided = [top.join("state"), top.join("other/file")];
        let mut granted = around(&top, &avoided);
        granted.sort();
        assert_eq!(granted, [top.join("other/deep"), top.join("third")]);
        assert!(around(&top.join("state/audit"), &avoided).is_empty());
        assert_eq!(around(&top.join("third"), &avoided), [top.join("third")]);
    }

    #[test]
    fn a_path_that_covers_the_state_is_refused_also_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        for one in ["state/tokens", "pins"] {
            fs::create_dir_all(top.join(one)).unwrap();
        }
        symlink(top.join("state"), top.join("link")).unwrap();
        let of = |allowed: PathBuf| {
            let confinement = Confinement {
                allow_paths: vec![allowed],
                kept: vec![top.join("state"), top.join("state/store.db")],
                ..Confinement::default()
            };
            Places::of(&confinement, Path::new("/usr/lib/m.so"), &top.join("pins"))
        };
        for covering in ["state", "link", ""] {
            assert!(matches!(of(top.join(covering)), Err(ConfineError::Covers(..))), "{covering}");
        }
        let places = of(top.join("state/tokens")).unwrap();
        assert!(places.write.contains(&top.join("state/tokens").canonicalize().unwrap()));
        assert_eq!(of(top.join("missing")).unwrap().missing, [top.join("missing")]);
    }
}
