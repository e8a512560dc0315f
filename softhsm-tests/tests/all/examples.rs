//! The example configuration: it parses, its defaults are the defaults, and no
//! option is missing from it.

use std::path::{Path, PathBuf};

use keyward::config::Config;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hsm-config")
}

fn example() -> String {
    std::fs::read_to_string(folder().join("keywardd.toml")).expect("the example is there")
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("keywardd.toml")).map_err(|error| error.to_string())
}

/// The example with every option that is commented out switched on.
fn everything_on() -> String {
    example().lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_defaults_in_the_comments_are_the_defaults() {
    let plain = parse(&example()).unwrap();
    let mut full = parse(&everything_on()).unwrap();
    assert_eq!(full.database(), plain.database());
    assert_eq!(full.journal(), plain.journal());
    assert_eq!(full.audit_dir(), plain.audit_dir());
    full.store = plain.store.clone();
    full.audit.directory = None;
    full.digest = plain.digest;
    assert_eq!(format!("{full:#?}"), format!("{plain:#?}"));
}

#[test]
fn every_option_stands_in_the_example() {
    let full = everything_on();
    let (top, _) = full.split_once("\n[").unwrap();
    let hsm = "[hsm]\nmodule = \"m\"\ntoken = \"t\"\npin_file = \"p\"\n";
    let principal = "[[principal]]\nname = \"a\"\nrole = \"operator\"\nusers = [0]\n";
    for (table, head) in [
        ("top", format!("nonsense = 1\n{top}\n{hsm}")),
        ("hsm", format!("{top}\n{hsm}nonsense = 1\n")),
        ("standby", format!("{top}\n{hsm}[[hsm.standby]]\nnonsense = 1\n")),
        ("server", format!("{top}\n{hsm}[server]\nnonsense = 1\n")),
        ("log", format!("{top}\n{hsm}[log]\nnonsense = 1\n")),
        ("store", format!("{top}\n{hsm}[store]\nnonsense = 1\n")),
        ("erasure", format!("{top}\n{hsm}[erasure]\nnonsense = 1\n")),
        ("audit", format!("{top}\n{hsm}[audit]\nnonsense = 1\n")),
        ("login", format!("{top}\n{hsm}[login]\nnonsense = 1\n")),
        ("limits", format!("{top}\n{hsm}[limits]\nnonsense = 1\n")),
        ("classes", format!("{top}\n{hsm}[class]\nnonsense = 1\n")),
        ("class", format!("{top}\n{hsm}[class.1]\nnonsense = 1\n")),
        ("principal", format!("{top}\n{hsm}{principal}nonsense = 1\n")),
        ("allow", format!("{top}\n{hsm}{principal}[[principal.allow]]\nnonsense = 1\n")),
    ] {
        for option in options(&parse(&head).unwrap_err()) {
            assert!(lists(&example(), &option), "{table}: {option} is missing from keywardd.toml");
        }
    }
}

/// The options that the parser names when it meets one that does not exist.
fn options(error: &str) -> Vec<String> {
    let (_, expected) = error.split_once("expected ").unwrap_or_else(|| panic!("no list in {error}"));
    let options: Vec<_> = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(!options.is_empty(), "{error}");
    options
}

fn lists(example: &str, option: &str) -> bool {
    example.lines().map(|line| line.trim_start_matches(['#', ' '])).any(|line| {
        line.starts_with(&format!("{option} = "))
            || line.starts_with(&format!("[{option}]"))
            || line.starts_with(&format!("[[{option}]]"))
            || line.starts_with(&format!("[[hsm.{option}]]"))
            || line.starts_with(&format!("[class.{option}]"))
            || line.starts_with(&format!("[{option}."))
    })
}

#[test]
fn every_policy_can_be_appended() {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder().join("policies")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let fragment = std::fs::read_to_string(&path).unwrap();
            let config = parse(&format!("{}\n{fragment}", example()))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(config.principals.len(), 2, "{}", path.display());
            seen += 1;
        }
    }
    assert_eq!(seen, 8);
}
