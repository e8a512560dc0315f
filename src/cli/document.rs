//! Documents that people carry: cards, escrow files, shares, transcripts, certificates.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::failure::Failure;

/// Largest document that is read, in bytes.
const LARGEST: u64 = 64 << 20;

/// Reads a document.
///
/// # Errors
/// [`Failure`] for one that cannot be read, is no text, or is larger than 64 MiB.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let file = File::open(path).map_err(Failure::file("read", path))?;
    let length = file.take(LARGEST + 1).read_to_string(&mut text).map_err(Failure::file("read", path))?;
    match u64::try_from(length).is_ok_and(|length| length <= LARGEST) {
        true => Ok(text),
        false => Err(Failure::Input(format!(
            "{} is longer than 64 MiB: no document of Keyward is",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_file_is_no_document() {
        let refused = read(Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(refused, Failure::Input(said) if said.contains("longer than 64 MiB")));
    }
}
