//! The checkpoints in files: all of them one behind the other in `checkpoints`,
//! each followed by an empty line, and the newest one alone in `checkpoint`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::OpenError;
use super::disk::replace;
use super::tail::Place;
use crate::audit::checkpoint::{SignedCheckpoint, origin};
use crate::audit::notes::{ALL, whole_notes};
use crate::audit::tree::TreeError;
use crate::audit::{Damage, Flaw, VerifyError};

pub(super) use crate::audit::notes::NEWEST;

/// How far back the newest whole checkpoint can be: each has at most some kilobytes.
const TAIL: u64 = 1 << 16;

/// The files.
pub(super) struct Notes(Mutex<Kept>);

struct Kept {
    all: File,
    /// Where the next one goes in `all`.
    end: u64,
    newest: Option<SignedCheckpoint>,
}

impl Notes {
    /// Opens the files, cuts what a crash left of an unfinished checkpoint, and
    /// makes the one that stands alone the newest of all.
    pub(super) fn open(place: &Place) -> Result<Self, OpenError> {
        let path = place.dir().join(ALL);
        let all = place.disk.open(&path).map_err(OpenError::io(&path))?;
        let (end, last) = tail(&all, &path)?;
        let alone = alone(place)?;
        compare(place, alone.as_ref(), last.as_ref())?;
        for (note, file) in [(&alone, NEWEST), (&last, ALL)] {
            check_origin(place, note.as_ref(), &place.dir().join(file))?;
        }
        let written = || -> io::Result<()> {
            place.disk.set_len(&all, end)?;
            match &last {
                Some(note) if alone != last => {
                    place.disk.sync(&all)?;
                    replace(&*place.disk, &place.dir().join(NEWEST), note.to_string().as_bytes())
                }
                _ => Ok(()),
            }
        };
        written().map_err(OpenError::io(&path))?;
        Ok(Self(Mutex::new(Kept { all, end, newest: last })))
    }

    /// The newest one.
    pub(super) fn newest(&self) -> Option<SignedCheckpoint> {
        self.lock().newest.clone()
    }

    /// Adds one. After an error it may be there or not; both are right.
    pub(super) fn keep(&self, place: &Place, note: &SignedCheckpoint) -> Result<(), TreeError> {
        let mut kept = self.lock();
        let newest = kept.newest.as_ref().map_or(0, |newest| newest.checkpoint.head.size);
        if kept.newest.is_some() && note.checkpoint.head.size <= newest {
            return Ok(());
        }
        let text = format!("{note}\n");
        let disk = &*place.disk;
        let appended = disk.write(&kept.all, text.as_bytes(), kept.end).and_then(|()| disk.sync(&kept.all));
        appended.map_err(TreeError::io(&place.dir().join(ALL)))?;
        kept.end += text.len() as u64;
        kept.newest = Some(note.clone());
        let path = place.dir().join(NEWEST);
        replace(disk, &path, note.to_string().as_bytes()).map_err(TreeError::io(&path))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Each field is right by itself after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the last whole checkpoint ends, and what it is. What stands behind it is no checkpoint: the
/// blocks of an unfinished one reach the disk in any order, so that holes may be in it.
fn tail(all: &File, path: &Path) -> Result<(u64, Option<SignedCheckpoint>), OpenError> {
    let read = || -> io::Result<(u64, Vec<u8>)> {
        let length = all.metadata()?.len();
        let from = length.saturating_sub(TAIL);
        let mut bytes = vec![0; usize::try_from(length - from).unwrap_or_default()];
        all.read_exact_at(&mut bytes, from)?;
        Ok((from, bytes))
    };
    let (from, bytes) = read().map_err(OpenError::io(path))?;
    let good = |(end, text): (usize, &str)| Some((end, text.parse::<SignedCheckpoint>().ok()?));
    match whole_notes(&bytes).filter_map(good).last() {
        Some((end, note)) => Ok((from + end as u64, Some(note))),
        // Nothing whole: a first one that was not finished, or no checkpoints at all.
        None if from == 0 => Ok((0, None)),
        None => Err(flaw(path, "it does not end with a checkpoint".to_owned())),
    }
}

fn alone(place: &Place) -> Result<Option<SignedCheckpoint>, OpenError> {
    let path = place.dir().join(NEWEST);
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.parse() {
            Ok(note) => Ok(Some(note)),
            Err(error) => Err(flaw(&path, error.to_string())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(flaw(&path, "it is no text".to_owned()))
        }
        Err(error) => Err(OpenError::io(&path)(error)),
    }
}

/// `checkpoints` is written first, so it may be one ahead and never behind.
fn compare(
    place: &Place,
    alone: Option<&SignedCheckpoint>,
    last: Option<&SignedCheckpoint>,
) -> Result<(), OpenError> {
    let Some(alone) = alone else { return Ok(()) };
    let (newest, behind) = (alone.checkpoint.head, last.map(|note| note.checkpoint.head));
    match behind {
        Some(head) if head.size > newest.size || head == newest => Ok(()),
        _ => {
            let reason =
                format!("it does not have the checkpoint over {} records that {NEWEST} has", newest.size);
            Err(flaw(&place.dir().join(ALL), reason))
        }
    }
}

fn check_origin(place: &Place, note: Option<&SignedCheckpoint>, path: &Path) -> Result<(), OpenError> {
    match note {
        Some(note) if note.checkpoint.origin != origin(place.deployment) => {
            Err(flaw(path, format!("it is of another log: {}", note.checkpoint.origin)))
        }
        _ => Ok(()),
    }
}

fn flaw(path: &Path, reason: String) -> OpenError {
    let file: PathBuf = path.to_owned();
    let damage = Damage { file, offset: 0, sequence: 0, flaw: Flaw::Checkpoint(reason) };
    VerifyError::from(damage).into()
}
