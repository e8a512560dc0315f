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
