//! The reserved file: room on a full disk for the record that says why.

use std::fs::File;
use std::io;

use super::disk::zero;
use super::tail::Place;

const NAME: &str = "reserve";

/// Takes the room, when it is not taken yet, and makes that durable.
pub(super) fn take(place: &Place) -> io::Result<()> {
    let wanted = place.settings.reserve_bytes;
    let file = place.disk.open(&place.settings.dir.join(NAME))?;
    if file.metadata()?.len() == wanted {
        return Ok(());
    }
    let taken = fill(place, &file, wanted)
        .and_then(|()| place.disk.sync(&file))
        .and_then(|()| place.disk.sync_dir(&place.settings.dir));
    if taken.is_err() {
        // What was taken of it is of more use to the log.
        place.disk.set_len(&file, 0)?;
    }
    taken
}

fn fill(place: &Place, file: &File, wanted: u64) -> io::Result<()> {
    if wanted == 0 {
        return place.disk.set_len(file, 0);
    }
    match place.disk.reserve(file, wanted) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => (),
        other => return other,
    }
    // Zeros that were written take room on any file system but a compressing one.
    zero(&*place.disk, file, 0, wanted)
}

/// Gives the room back to the disk.
pub(super) fn release(place: &Place) -> io::Result<()> {
    let file = place.disk.open(&place.settings.dir.join(NAME))?;
    place.disk.set_len(&file, 0)?;
    // Only a finished transaction of the file system makes the blocks free.
    file.sync_all()
}
