//! The files of checkpoints, as they are read: see docs/audit-format.md, section 9.

/// The file that has every checkpoint.
pub(super) const ALL: &str = "checkpoints";
/// The file that has the newest one.
pub(super) const NEWEST: &str = "checkpoint";
/// What a signature begins with.
const DASH: &[u8] = "\u{2014} ".as_bytes();

/// The whole checkpoints in a piece of the file of all: the place behind each, and its
/// text. What stands before the first one or behind the last one is passed over.
pub(super) fn whole_notes(bytes: &[u8]) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    let mut text: Option<usize> = None;
    std::iter::from_fn(move || {
        loop {
            let start = at;
            at += bytes.get(start..)?.windows(2).position(|pair| pair == b"\n\n")? + 2;
            let is_signature = bytes[start..at].starts_with(DASH);
            match text.take() {
                // The text, its empty line, the signatures with the end of their last line.
                Some(from) if is_signature => {
                    if let Ok(note) = std::str::from_utf8(&bytes[from..at - 1]) {
                        return Some((at, note));
                    }
                }
                _ if is_signature => {}
                // A piece may begin in the middle of an empty line.
                _ => text = Some(start + usize::from(bytes[start] == b'\n')),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_notes_are_found() {
        let (first, second) = ("a\n1\nx\n\n\u{2014} k s\n", "a\n2\nx\n\n\u{2014} k s\n\u{2014} w t\n");
        let all = format!("{first}\n{second}\n");
        let found = |bytes: &[u8]| whole_notes(bytes).map(|(_, note)| note.to_owned()).collect::<Vec<_>>();
        assert_eq!(found(all.as_bytes()), [first, second]);
        assert_eq!(whole_notes(all.as_bytes()).last().unwrap().0, all.len());
        let end = first.len() + 1;
        for cut in 0..all.len() {
            let whole = usize::from(cut >= end);
            assert_eq!(found(&all.as_bytes()[..cut]).len(), whole, "{cut} bytes");
        }
        // From the middle of the first one on.
        for from in 1..end {
            let rest = found(&all.as_bytes()[from..]);
            assert_eq!(rest.last().map(String::as_str), Some(second), "from {from}");
        }
    }
}
