//! Absence is not evidence: whatever a database file is made to show of one row, a use case fails or does what it
//! does without that, and in no HSM anything is gone then that records name.
//!
//! Generated, not written by hand: each use case is run on an honest copy of an installation, which tells which rows
//! it reads and how often. Then it is run again for each table that it reads and each lie that can be told about a
//! row of it, in the first read or the last one: on another copy of the same installation. With
//! `KEYWARD_TEST_FULL=1` it is each row and each read.
//!
//! The program has a main function of its own: a destruction starts it once more, to search the store's files.

#![allow(clippy::unwrap_used)]

mod applications;
mod deeds;
mod founded;
mod harness;
mod judge;
mod operators;
mod works;
mod worlds;
mod wrong;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use harness::UseCase;
use judge::{Verdict, judge_all, tables_of};
use keyward::daemon::child;
use keyward::store::tables::Table;
use keyward_hsm_memory::{Lie, When};
use worlds::{Scene, on_runtime};

/// Tables that no use case reads as records, and why.
const NOT_READ: [(Table, &str); 3] = [
    (Table::OldLease, "what a store from before format 3 has left; nobody reads it"),
    (Table::Digest, "nodes of the tree that proves the others: src/store/view.rs edits each of them"),
    (Table::Meta, "the row that the others hang from: src/store/view.rs and recover.rs put old ones back"),
];

/// The installations that are copied.
struct Scenes {
    alone: Scene,
    together: Scene,
}

/// One test; it answers what it did.
type Test = fn(&Scenes) -> String;

const TESTS: [(&str, Test); 7] = [
    ("operators_decide_nothing_from_what_is_not_there", operators_decide_nothing),
    ("applications_and_staff_get_nothing_by_what_is_not_there", applications_get_nothing),
    ("custodians_are_not_passed_by_what_is_not_there", custodians_are_not_passed),
    ("every_table_is_read_by_a_use_case", every_table_is_read),
    ("a_check_tells_every_lie", a_check_tells_every_lie),
    ("a_use_case_that_decides_from_a_page_is_caught", a_page_is_caught),
    ("a_use_case_that_destroys_what_no_record_names_is_caught", a_careless_one_is_caught),
];

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(ended) = child::run_if_asked(&words) {
        return child::report("kind", ended);
    }
    let words: Vec<String> = words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let chosen = chosen(&words);
    if words.iter().any(|word| word == "--list") {
        chosen.iter().for_each(|(name, _)| say(&format!("{name}: test")));
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        return ExitCode::SUCCESS;
    }
    let scenes = Scenes { alone: worlds::unfounded(), together: worlds::founded() };
    let mut failed = 0;
    for (name, test) in chosen {
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| test(&scenes)));
        let took = begun.elapsed();
        match outcome {
            Ok(what) => say(&format!("test {name} ... ok ({what}, {took:.1?})")),
            Err(_) => {
                failed += 1;
                say(&format!("test {name} ... FAILED ({took:.1?})"));
            }
        }
    }
    say(&format!("{failed} failed"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Those whose name has one of the words in it, as with any test program; options are for others.
fn chosen(words: &[String]) -> Vec<(&'static str, Test)> {
    let mut filters = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--test-threads" | "--format" | "--color" | "--skip" => {
                rest.next();
            }
            option if option.starts_with('-') => {}
            filter => filters.push(filter),
        }
    }
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter));
    TESTS.into_iter().filter(|(name, _)| wanted(name)).collect()
}

fn say(line: &str) {
    // Nobody is left to be told when it is closed.
    writeln!(std::io::stdout(), "{line}").ok();
}

/// Runs the use cases under every lie; says how much that was.
fn harmless(scene: &Scene, cases: &[UseCase]) -> String {
    let Verdict { judged, told, violations } = judge_all(scene, cases);
    let (count, uses) = (violations.len(), cases.len());
    assert!(violations.is_empty(), "{count} of {judged}:\n{}", violations.join("\n"));
    assert!(judged > 0 && told * 2 > judged, "only {told} of {judged} lies were told");
    format!("{uses} use cases, {told} of {judged} lies told")
}

fn operators_decide_nothing(scenes: &Scenes) -> String {
    harmless(&scenes.alone, &operators::use_cases())
}

fn applications_get_nothing(scenes: &Scenes) -> String {
    harmless(&scenes.alone, &applications::use_cases())
}

fn custodians_are_not_passed(scenes: &Scenes) -> String {
    harmless(&scenes.together, &founded::use_cases())
}

/// A table that nobody reads here would never be disturbed.
fn every_table_is_read(scenes: &Scenes) -> String {
    let mut read = tables_of(&scenes.alone, &operators::use_cases());
    read.extend(tables_of(&scenes.alone, &applications::use_cases()));
    read.extend(tables_of(&scenes.together, &founded::use_cases()));
    let excepted: BTreeSet<Table> = NOT_READ.into_iter().map(|(table, _)| table).collect();
    let unread = Table::ALL.into_iter().filter(|table| !read.contains(table) && !excepted.contains(table));
    assert_eq!(unread.collect::<Vec<_>>(), [], "add a use case that reads them");
    assert!(excepted.is_disjoint(&read));
    format!("{} tables", read.len())
}

/// While a row is disturbed for good, a check of the store says so, whatever the use cases make of it.
fn a_check_tells_every_lie(scenes: &Scenes) -> String {
    let told = [&scenes.alone, &scenes.together].map(|scene| on_runtime(check_tells(scene)));
    format!("{} lies", told.iter().sum::<usize>())
}

async fn check_tells(scene: &Scene) -> usize {
    let world = scene.place.copy().open().await.unwrap();
    let lies = &world.lies;
    lies.forget_reads();
    assert!(world.records().check().await.unwrap().is_whole());
    let chosen = judge::chosen(&lies.reads());
    for (key, lie) in &chosen {
        lies.tell(*lie, key.clone(), When::From(1));
        let report = world.records().check().await;
        assert!(lies.told() > 0, "{lie:?} {key:02x?}");
        assert!(!report.is_ok_and(|report| report.is_whole()), "{lie:?} about {key:02x?} is not noticed");
    }
    lies.be_honest();
    assert!(world.records().check().await.unwrap().is_whole());
    let tables: BTreeSet<u8> = chosen.iter().map(|(key, _)| key[0]).collect();
    assert!(tables.len() > 15, "{tables:?}");
    world.close().await;
    chosen.len()
}

/// What this is for: a use case that takes a page for the whole list is caught.
fn a_page_is_caught(scenes: &Scenes) -> String {
    let verdict = judge_all(&scenes.alone, &[wrong::naive()]);
    let caught =
        |lie: Lie| verdict.violations.iter().any(|violation| violation.contains(&format!("{lie:?}")));
    assert!(caught(Lie::Hidden) && caught(Lie::HiddenInRanges), "{:?}", verdict.violations);
    verdict.violations.join("; ")
}

/// And one that destroys what it does not find a record of.
fn a_careless_one_is_caught(scenes: &Scenes) -> String {
    let verdict = judge_all(&scenes.alone, &[wrong::careless()]);
    let gone = verdict.violations.iter().filter(|violation| violation.contains("destroyed in the HSM"));
    assert!(gone.count() > 0, "{:?}", verdict.violations);
    verdict.violations.join("; ")
}
