//! The table of actions, held against what is said of it elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use keyward::access::Action;
use keyward::access::action::Kind;
use keyward::config::value::Operation;

/// The one method that leaves no record: it answers while none can be written.
const UNRECORDED: &str = "/keyward.v1.SystemService/GetStatus";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Words of section 5 of the page: the first column of its tables, as far as it lists words.
fn words_of_the_page() -> BTreeSet<String> {
    let page = std::fs::read_to_string(root().join("docs/audit-format.md")).expect("the page");
    let section = page.split("\n## 5. Operations\n").nth(1).expect("section 5").split("\n### ").next();
    let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
    let first = rows.filter_map(|row| row.split('|').nth(1));
    first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The methods of the API, as paths.
fn methods_of_the_api() -> BTreeSet<String> {
    let mut methods = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("proto/keyward/v1")).expect("the API") {
        let text = std::fs::read_to_string(entry.expect("a file").path()).expect("a file");
        let mut service = "";
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("service") => service = words.next().unwrap_or_default(),
                Some("rpc") => {
                    let method = words.next().unwrap_or_default().split('(').next().unwrap_or_default();
                    methods.insert(format!("/keyward.v1.{service}/{method}"));
                }
                _ => {}
            }
        }
    }
    methods
}

#[test]
fn each_has_a_word_of_its_own_and_the_page_has_them_all() {
    let words: BTreeSet<String> = Action::ALL.iter().map(|action| action.word().to_owned()).collect();
    assert_eq!(words.len(), Action::ALL.len(), "a word stands twice");
    // The refusals that are counted have a section of their own.
    let page = words_of_the_page();
    let missing: Vec<_> = words.difference(&page).collect();
    let unknown: Vec<_> = page.difference(&words).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not on the page: {missing:?}; not in the table: {unknown:?}"
    );
}

#[test]
fn each_method_of_the_api_is_an_action() {
    let known: BTreeSet<String> =
        Action::ALL.iter().filter_map(|action| action.method()).map(str::to_owned).collect();
    let mut methods = methods_of_the_api();
    assert!(methods.remove(UNRECORDED), "{UNRECORDED}");
    assert_eq!(known, methods);
}

/// What is granted is called in a configuration as it is in the log.
#[test]
fn what_grants_name_are_actions_on_data() {
    let words: BTreeMap<&str, Action> = Action::ALL.iter().map(|action| (action.word(), *action)).collect();
    for operation in
        ["encrypt", "decrypt", "re-encrypt", "generate-data-key", "decrypt-data-key", "blind-index"]
    {
        let action = words.get(operation).unwrap_or_else(|| panic!("{operation} is no action"));
        assert!(action.kind().is_data(), "{operation}");
        let read: Result<Operation, _> = toml::Value::from(operation).try_into();
        assert!(read.is_ok(), "no configuration can grant {operation}");
    }
}

#[test]
fn the_daemons_own_have_no_method_and_all_others_one() {
    for action in Action::ALL {
        assert_eq!(action.method().is_none(), action.kind() == Kind::Own, "{action:?}");
    }
}

/// The lines of the table of what callers ask for, as words.
fn table() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join("src/access/action.rs")).expect("the table");
    let called = text.split("    called {").nth(2).or_else(|| text.split("    called {").nth(1));
    let called = called.and_then(|rest| rest.split("    own {").next()).expect("what callers ask for");
    let lines = called.split(';').map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|words| words.len() == 6).collect()
}

/// Whoever may look changes nothing.
#[test]
fn a_right_to_look_changes_nothing() {
    let table = table();
    assert!(table.len() > 70, "{} lines", table.len());
    for words in table {
        let [name, word, _, _, permission, _] = &words[..] else { unreachable!() };
        let looks = ["View", "List"].iter().any(|begin| permission.starts_with(begin));
        let looked =
            ["\"get-", "\"list-", "\"watch-", "\"attest-"].iter().any(|begin| word.starts_with(begin));
        assert!(!looks || looked, "{name}: {word} is done by whoever may {permission}");
    }
}

/// The parameters of a function that are proofs, and its body.
fn proofs(function: &str) -> Option<(Vec<&str>, &str)> {
    let (head, body) = function.split_once("{\n")?;
    let parameters = head.split([',', '(', '\n']).filter_map(|part| part.trim().split_once(": "));
    let proof = |kind: &str| kind.trim_start_matches('&').starts_with("Authorized<");
    let names = parameters.filter(|(_, kind)| proof(kind)).map(|(name, _)| name);
    Some((names.collect(), body))
}

/// The functions that are handed a proof and do without it.
fn ignored(text: &str) -> Vec<String> {
    let mut ignored = Vec::new();
    for function in text.split("fn ").skip(1) {
        let end = function.find("\n    }\n").or_else(|| function.find("\n}\n")).unwrap_or(function.len());
        let Some((names, body)) = proofs(&function[..end]) else { continue };
        let name = function.split(['(', '<']).next().unwrap_or_default();
        let unused = |proof: &&str| {
            !body.split(|one: char| !one.is_alphanumeric() && one != '_').any(|word| word == *proof)
        };
        ignored.extend(names.iter().filter(|proof| unused(proof)).map(|proof| format!("{name}({proof}: …)")));
    }
    ignored
}

#[test]
fn no_operation_ignores_its_proof() {
    let careless = "fn show(\n        &self,\n        _right: &Authorized<permission::ViewKey>,\n        id: Id,\n    ) -> R {\n        self.get(id)\n    }\n";
    assert_eq!(ignored(careless), ["show(_right: …)"]);
    assert_eq!(ignored(&careless.replace("self.get(id)", "self.get(_right.resource())")), [""; 0]);
    let mut files = Vec::new();
    for folder in ["src/ops", "src/rpc"] {
        sources(&root().join(folder), &mut files);
    }
    let (mut count, mut wrong) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        count += text.matches("&Authorized<").count();
        wrong.extend(ignored(&text).into_iter().map(|one| format!("{}: {one}", file.display())));
    }
    assert!(count > 70, "{count} proofs");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A signature counts as verified by the one function that verifies it; its own tests may say so too.
#[test]
fn one_place_says_that_a_signature_was_verified() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let says = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).expect("a source");
        text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().contains("Verified::of(")
    };
    let places: Vec<_> = files.iter().filter(|file| says(file)).collect();
    assert!(places.len() == 1 && places[0].ends_with("src/token/verify.rs"), "{places:?}");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the sources") {
        let path = entry.expect("the sources").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
