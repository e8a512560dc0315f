//! The architecture: imports in `src/` go downwards only, and each foreign
//! library is named in one place.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The floors of the house, the ground floor first.
const FLOORS: [&[&str]; 6] = [
    &["id", "secret", "clock", "child", "modes"],
    &["envelope", "keyring", "config"],
    &["access", "hsm", "store", "audit", "token"],
    &["ops"],
    &["rpc", "client"],
    &["daemon", "cli"],
];

/// Who may use its neighbour on the same floor. Nobody may among hsm, store and audit: ops joins them.
const NEIGHBOURS: [(&str, &str); 7] = [
    ("secret", "id"),
    ("envelope", "keyring"),
    ("config", "keyring"),
    ("token", "hsm"),
    ("audit", "access"),
    ("client", "rpc"),
    ("cli", "daemon"),
];

/// Libraries, and the only places that may name them.
const LIBRARIES: [(&str, &[&str]); 9] = [
    ("cryptoki", &["hsm", "token/child"]),
    ("cryptoki_sys", &["hsm", "token/child"]),
    ("tonic", &["rpc", "daemon", "client"]),
    ("rusqlite", &["store/sqlite"]),
    ("etcd_client", &["store/etcd"]),
    ("yubikey", &[]),
    ("pcsc", &[]),
    ("landlock", &["hsm/confine"]),
    ("seccompiler", &["hsm/confine"]),
];

#[test]
fn imports_go_downwards_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut violations = String::new();
    let files = files(&source);
    let tests = test_files(&source, &files);
    for file in files.iter().filter(|file| !tests.iter().any(|test| file.starts_with(test))) {
        let text = std::fs::read_to_string(source.join(file)).expect("a source file");
        for (line, what) in check(file, &text) {
            writeln!(violations, "src/{}:{line}: {what}", file.display()).expect("a string");
        }
    }
    assert!(files.len() > 100, "only {} files found", files.len());
    assert!(violations.is_empty(), "\n{violations}");
}

#[test]
fn violations_are_found() {
    let found = |file: &str, text: &str| check(Path::new(file), text);
    let upwards = "store may not use ops";
    assert_eq!(found("store/sqlite.rs", "use crate::ops::Error;\n"), [(1, upwards.to_owned())]);
    assert_eq!(found("store.rs", "\nuse crate::{clock, ops};\n"), [(2, upwards.to_owned())]);
    assert_eq!(found("store/a/b.rs", "use super::super::super::ops;\n"), [(1, upwards.to_owned())]);
    assert_eq!(found("store.rs", "fn f() { crate::ops::f() }\n"), [(1, upwards.to_owned())]);
    assert_eq!(
        found("store.rs", "use crate::{\n    clock,\n    audit::{Record, ops},\n};\n"),
        [(3, "store may not use audit".to_owned())]
    );
    assert_eq!(found("rpc.rs", "use crate::client::Client;\n").len(), 1);
    assert_eq!(found("client.rs", "use crate::rpc::proto;\nuse crate::newcomer::X;\n").len(), 1);
    assert_eq!(found("ops/x.rs", "use tonic_types::Status;\nfn f(e: rusqlite::Error) {}\n").len(), 2);
    assert_eq!(found("store/kv.rs", "use rusqlite;\n").len(), 1);
    let harmless = "//! crate::ops\nuse crate::clock::Date; // crate::ops\nconst A: &str = \"crate::ops\";\n\
                    #[cfg(test)]\nuse crate::ops;\n#[cfg(test)]\nmod tests {\n    use crate::ops;\n}\n";
    assert_eq!(found("store/sqlite.rs", harmless), []);
    let after = "#[cfg(test)]\nmod tests {\n    use crate::ops;\n}\nuse crate::ops;\n";
    assert_eq!(found("store.rs", after), [(5, upwards.to_owned())]);
}

/// What opens a file.
const OPENING: [&str; 9] = [
    "File::open(",
    "File::options(",
    "File::create(",
    "OpenOptions::new(",
    "fs::read(",
    "fs::read_to_string(",
    "fs::write(",
    "fs::copy(",
    "hard_link(",
];

/// The places in the store that may: new files, the key journal, the search process, and a repair, which needs the
/// daemon stopped. None of them opens the database in the daemon's process.
const OPENERS: [&str; 4] = ["store/files", "store/journal", "store/search", "store/repair"];

#[test]
fn nothing_but_sqlite_opens_the_database() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let files = files(&source);
    let tests = test_files(&source, &files);
    let own = |file: &&PathBuf| file.starts_with("store") || file.starts_with("store.rs");
    let (mut violations, mut openers) = (String::new(), BTreeSet::new());
    for file in files.iter().filter(own).filter(|file| !tests.iter().any(|test| file.starts_with(test))) {
        let text = std::fs::read_to_string(source.join(file)).expect("a source file");
        for line in opening(&text) {
            match OPENERS.iter().find(|place| is_under(file, place)) {
                Some(place) => drop(openers.insert(*place)),
                None => writeln!(violations, "src/{}:{line} opens a file", file.display()).expect("a string"),
            }
        }
    }
    assert!(violations.is_empty(), "\n{violations}");
    assert_eq!(openers.len(), OPENERS.len(), "{openers:?}");
    let found = opening(
        "// File::open(x)\nlet file = std::fs::File::open(path)?;\n#[cfg(test)]\nmod tests { fs::read(x) }\n",
    );
    assert_eq!(found, [2]);
}

/// The lines on which a file is opened.
fn opening(text: &str) -> Vec<usize> {
    let code = without_tests(&code_only(text));
    let mut lines: Vec<usize> = OPENING
        .iter()
        .flat_map(|word| {
            code.match_indices(word).map(|(offset, _)| line_of(&code, offset)).collect::<Vec<_>>()
        })
        .collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// What is wrong in one file of `src/`: line and words.
fn check(file: &Path, text: &str) -> Vec<(usize, String)> {
    let module = module_path(file);
    let own = module.first().map_or("", String::as_str);
    let code = without_tests(&code_only(text));
    let mut wrong = Vec::new();
    for (offset, target) in own_modules(&code, &module) {
        if own != "bin" && !may_use(own, &target) {
            wrong.push((line_of(&code, offset), format!("{own} may not use {target}")));
        }
    }
    for (offset, word) in words(&code) {
        let library =
            LIBRARIES.iter().find(|(name, _)| word == *name || word.starts_with(&format!("{name}_")));
        let Some((name, places)) = library.filter(|_| names_a_crate(&code, offset, word)) else { continue };
        if !places.iter().any(|place| is_under(file, place)) {
            wrong.push((line_of(&code, offset), format!("{name} may not be used here")));
        }
    }
    wrong.sort();
    wrong.dedup();
    wrong
}

fn may_use(own: &str, target: &str) -> bool {
    let floor = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    match (floor(own), floor(target)) {
        (Some(above), Some(below)) => own == target || above > below || NEIGHBOURS.contains(&(own, target)),
        // A module without a floor: give it one.
        _ => false,
    }
}

fn is_under(file: &Path, place: &str) -> bool {
    file.starts_with(place) || file.with_extension("") == Path::new(place)
}

/// `store/sqlite/file.rs` → store, sqlite, file.
fn module_path(file: &Path) -> Vec<String> {
    file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect()
}

/// The modules of the crate that the code names with `crate::` or enough `super::`.
fn own_modules(code: &str, module: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (offset, word) in words(code) {
        let rest = &code[offset + word.len()..];
        let starts = !code[..offset].trim_end().ends_with("::");
        match (word, rest.strip_prefix("::")) {
            ("crate", Some(path)) => found.extend(heads(path, offset + word.len() + 2)),
            ("super", Some(path)) if starts => {
                let (mut path, mut ups) = (path, 1);
                while let Some(more) = path.strip_prefix("super::") {
                    (path, ups) = (more, ups + 1);
                }
                if ups == module.len() {
                    let names = heads(path, code.len() - path.len());
                    // In a module within the file, this is the file itself: only what has a floor counts.
                    found.extend(
                        names.into_iter().filter(|(_, name)| FLOORS.concat().contains(&name.as_str())),
                    );
                }
            }
            _ => {}
        }
    }
    found
}

/// The first names of a path, or of each path of a group in braces.
fn heads(path: &str, at: usize) -> Vec<(usize, String)> {
    let Some(group) = path.strip_prefix('{') else {
        return words(path)
            .into_iter()
            .take(1)
            .map(|(offset, word)| (at + offset, word.to_owned()))
            .collect();
    };
    let (mut depth, mut fresh, mut found) = (1, true, Vec::new());
    let mut words = words(group).into_iter().peekable();
    for (offset, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if let Some((_, word)) = words.next_if(|(start, _)| *start == offset)
            && std::mem::take(&mut fresh)
        {
            found.push((at + 1 + offset, word.to_owned()));
        }
    }
    found
}

/// Identifiers and where they begin.
fn words(code: &str) -> Vec<(usize, &str)> {
    let inside = |character: char| character.is_alphanumeric() || character == '_';
    let mut found = Vec::new();
    let mut rest = 0;
    while let Some(start) = code[rest..].find(inside).map(|at| rest + at) {
        let end = code[start..].find(|character| !inside(character)).map_or(code.len(), |at| start + at);
        found.push((start, &code[start..end]));
        rest = end;
    }
    found
}

/// Whether a word is a crate: the first part of a path, or imported as it is.
fn names_a_crate(code: &str, offset: usize, word: &str) -> bool {
    let (before, after) = (code[..offset].trim_end(), code[offset + word.len()..].trim_start());
    let first = !before.ends_with("::") || before.ends_with(" ::");
    first && (after.starts_with("::") || before.ends_with("use") || before.ends_with("extern crate"))
}

fn line_of(code: &str, offset: usize) -> usize {
    code[..offset].matches('\n').count() + 1
}

/// The code with comments and the contents of strings blanked out, line for line.
fn code_only(text: &str) -> String {
    let (mut code, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            'r' if raw_string(rest).is_some()
                && !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') =>
            {
                raw_string(rest).unwrap_or(1)
            }
            '"' => string(rest),
            '\'' if rest.starts_with("'\"'") || rest.starts_with("'{'") || rest.starts_with("'}'") => 3,
            '\'' if rest.starts_with("'\\") => 2 + rest[2..].find('\'').map_or(0, |at| at + 1),
            _ => 0,
        };
        match skipped {
            0 => code.push(first),
            _ => code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
        }
        rest = &rest[skipped.max(first.len_utf8())..];
    }
    code
}

/// Length of the string that begins here.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (offset, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => return offset + 1,
            _ => escaped = character == '\\' && !escaped,
        }
    }
    text.len()
}

/// Length of the raw string that begins here, if one does.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let start = 1 + hashes;
    text[start..].starts_with('"').then(|| {
        let end = format!("\"{}", "#".repeat(hashes));
        text[start + 1..].find(&end).map_or(text.len(), |at| start + 1 + at + end.len())
    })
}

/// The code with every item behind `#[cfg(test)]` blanked out.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..start]);
        let item = &rest[start..];
        let end = item_end(item);
        kept.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    kept + rest
}

/// Where an item ends: at its semicolon, or with its last brace.
fn item_end(item: &str) -> usize {
    let mut depth = 0;
    for (offset, character) in item.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => {
                // A group of imports goes on to its semicolon.
                let more = item[offset + 1..].starts_with(';');
                return offset + 1 + usize::from(more);
            }
            '}' => depth -= 1,
            ';' if depth == 0 => return offset + 1,
            _ => {}
        }
    }
    item.len()
}

/// Files and folders that only tests have: what a `#[cfg(test)] mod name;` names.
fn test_files(source: &Path, files: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for file in files {
        let text = code_only(&std::fs::read_to_string(source.join(file)).expect("a source file"));
        for behind in text.split("#[cfg(test)]").skip(1) {
            let item = &behind[..item_end(behind)];
            if let Some(name) = item.trim().strip_suffix(';').and_then(|item| item.rsplit_once("mod ")) {
                let base = file.with_extension("").join(name.1.trim());
                found.extend([base.with_extension("rs"), base]);
            }
        }
    }
    found
}

/// Every source file, relative to `source`.
fn files(source: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.extension().is_some_and(|extension| extension == "rs") {
                true => drop(found.insert(path.strip_prefix(source).expect("below it").to_owned())),
                false if path.is_dir() => folders.push(path),
                false => {}
            }
        }
    }
    found
}
