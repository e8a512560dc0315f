//! What the daemon decided, answered and recorded before its inside was made anew: every method by every kind of caller, on what is there
//! and what is not, before the founding and after; and work on data by class, level, proof, state and freeze. The tables in
//! `softhsm-tests/pins/` were written by the version before; a line that differs is a promise that was broken, or one that is
//! made anew on purpose: then `KEYWARD_BLESS=1` writes them, and the commit says why.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

mod callers;
mod calls;
mod data;
mod scene;

use std::path::Path;

/// Compares a table with the one of before.
fn pinned(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pins").join(name);
    if std::env::var_os("KEYWARD_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
    }
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let differ = |(number, (before, now)): (usize, (&str, &str))| {
        (before != now).then(|| format!("line {number}\n  before: {before}\n  now:    {now}"))
    };
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (lines(&before), lines(found));
    let pairs = old.iter().zip(&new).map(|(old, new)| (old.as_str(), new.as_str()));
    let mut wrong: Vec<String> = (1..).zip(pairs).filter_map(differ).collect();
    if old.len() != new.len() {
        wrong.push(format!("{} lines before, {} now", old.len(), new.len()));
    }
    wrong.truncate(30);
    assert!(wrong.is_empty(), "{}:\n{}", path.display(), wrong.join("\n"));
}
