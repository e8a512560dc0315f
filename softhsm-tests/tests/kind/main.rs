//! Absence is not evidence: whatever a database file is made to show of one row, a use case fails or does what it
//! does without that, and in no HSM anything is gone then that records name.
//!
//! Generated, not written by hand: each use case is run once on an honest copy of an installation, which tells which
//! rows it reads and how often. Then it is run again for each table that it reads and each lie that can be told
//! about a row of it, in the first read or the last one: on another copy of the same installation. With
//! `KEYWARD_TEST_FULL=1` it is each row and each read.

#![allow(clippy::unwrap_used)]

mod applications;
mod deeds;
mod founded;
mod harness;
mod operators;
mod worlds;

use std::collections::BTreeSet;
use std::time::Instant;

use harness::{UseCase, Verdict, judge_all, tables_of};
use keyward::store::tables::Table;
use keyward_hsm_memory::{Lie, When};
use worlds::{Scene, on_runtime, unfounded};

/// Tables that no use case reads as records, and why.
const NOT_READ: [(Table, &str); 2] = [
    (Table::Digest, "nodes of the tree that proves the others: src/store/view.rs edits each of them"),
    (Table::Meta, "the row that the others hang from: src/store/view.rs and recover.rs put old ones back"),
];

/// Runs the use cases under every lie; says how much that was.
fn assert_harmless(scene: &Scene, cases: &[UseCase]) -> String {
    let begun = Instant::now();
    let Verdict { judged, told, violations } = judge_all(scene, cases);
    let (count, uses) = (violations.len(), cases.len());
    assert!(violations.is_empty(), "{count} of {judged}:\n{}", violations.join("\n"));
    assert!(judged > 0 && told * 2 > judged, "only {told} of {judged} lies were told");
    format!("{uses} use cases, {told} of {judged} lies told, {:?}", begun.elapsed())
}

#[test]
fn operators_decide_nothing_from_what_is_not_there() {
    println!("{}", assert_harmless(&unfounded(), &operators::use_cases()));
}

#[test]
fn applications_and_staff_get_nothing_by_what_is_not_there() {
    println!("{}", assert_harmless(&unfounded(), &applications::use_cases()));
}

#[test]
fn custodians_are_not_passed_by_what_is_not_there() {
    println!("{}", assert_harmless(&worlds::founded(), &founded::use_cases()));
}

/// A table that nobody reads here would never be disturbed.
#[test]
fn every_table_is_read_by_a_use_case() {
    let (alone, together) = (unfounded(), worlds::founded());
    let mut read = tables_of(&alone, &operators::use_cases());
    read.extend(tables_of(&alone, &applications::use_cases()));
    read.extend(tables_of(&together, &founded::use_cases()));
    let excepted: BTreeSet<Table> = NOT_READ.into_iter().map(|(table, _)| table).collect();
    let unread = Table::ALL.into_iter().filter(|table| !read.contains(table) && !excepted.contains(table));
    assert_eq!(unread.collect::<Vec<_>>(), [], "add a use case that reads them");
    assert!(excepted.is_disjoint(&read));
}

/// While a row is disturbed for good, a check of the store says so, whatever the use cases make of it.
#[test]
fn a_check_tells_every_lie() {
    for scene in [unfounded(), worlds::founded()] {
        on_runtime(async {
            let world = scene.place.copy().open().await.unwrap();
            let lies = &world.lies;
            lies.forget_reads();
            assert!(world.records().check().await.unwrap().is_whole());
            let reads = lies.reads();
            let mut tables = BTreeSet::new();
            for (key, lie) in harness::chosen(&reads) {
                lies.tell(lie, key.clone(), When::From(1));
                let report = world.records().check().await;
                assert!(lies.told() > 0, "{lie:?} {key:02x?}");
                assert!(
                    !report.is_ok_and(|report| report.is_whole()),
                    "{lie:?} about {key:02x?} is not noticed"
                );
                tables.insert(Table::from_byte(key[0]).unwrap());
            }
            lies.be_honest();
            assert!(world.records().check().await.unwrap().is_whole());
            assert!(tables.len() > 15, "{tables:?}");
            world.close().await;
        });
    }
}

/// What this is for: a use case that takes a page for the whole list is caught.
#[test]
fn a_use_case_that_decides_from_a_page_is_caught() {
    let verdict = judge_all(&unfounded(), &[operators::naive()]);
    let caught =
        |lie: Lie| verdict.violations.iter().any(|violation| violation.contains(&format!("{lie:?}")));
    assert!(caught(Lie::Hidden) || caught(Lie::HiddenInRanges), "{:?}", verdict.violations);
}

/// And one that destroys what it does not find a record of.
#[test]
fn a_use_case_that_destroys_what_no_record_names_is_caught() {
    let verdict = judge_all(&unfounded(), &[operators::careless()]);
    let gone = |violation: &String| violation.contains("destroyed");
    assert!(verdict.violations.iter().any(gone), "{:?}", verdict.violations);
}
