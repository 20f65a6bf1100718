//! The suite is tested too: for each promise there are backends that break it, and the case that says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod broken;

use std::collections::HashSet;

use broken::{FLAW, Flaw, TABLE, Zoo};
use lock_testkit::{CASES, Case, cases, for_each_case, run_case};

macro_rules! run_by_name {
    ([] $($promise:ident { $($case:ident $([$($need:ident)+])?)* })*) => {
        fn run(case: Case) {
            match (case.promise, case.name) {
                $($((stringify!($promise), stringify!($case)) =>
                    run_case::<Zoo, _>(case, cases::$promise::$case),)*)*
                _ => panic!("there is no case {case}"),
            }
        }
    };
}
for_each_case! { [run_by_name] }

fn rejects(name: &str, flaw: Flaw) -> bool {
    let case = CASES.iter().find(|case| case.to_string() == name);
    let case = *case.unwrap_or_else(|| panic!("there is no case {name}"));
    assert!(case.lacks::<Zoo>().is_empty(), "{case} is skipped");
    FLAW.set(flaw);
    let rejected = std::panic::catch_unwind(|| run(case)).is_err();
    FLAW.set(Flaw::Nothing);
    rejected
}

#[test]
fn every_flaw_is_caught_by_the_cases_of_its_promise() {
    let missed: Vec<_> = TABLE
        .iter()
        .flat_map(|(flaw, cases)| cases.iter().map(move |case| (flaw, case)))
        .filter(|(flaw, case)| !rejects(case, **flaw))
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

#[test]
fn every_case_catches_something() {
    let tested: HashSet<_> = TABLE
        .iter()
        .flat_map(|(_, cases)| cases.iter().copied())
        .collect();
    let idle: Vec<_> = CASES
        .iter()
        .map(ToString::to_string)
        .filter(|case| !tested.contains(case.as_str()))
        .collect();
    assert!(idle.is_empty(), "no flaw in the table for {idle:#?}");
}

mod no_flaw {
    lock_testkit::conformance!(super::Zoo);
}
