//! The suite is tested too: for each promise there are backends that break it, and the case that says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod broken;

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{catch_unwind, set_hook, take_hook};
use std::sync::Once;

use broken::{FLAW, Flaw, REASONS, TABLE, Zoo};
use lock_testkit::{CASES, Case, Gap, cases, for_each_case, run_case};

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

thread_local! {
    /// Where and how this thread panicked last.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Where and how `name` panics at a backend with `flaw`, if it does.
fn rejection(name: &str, flaw: Flaw) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = take_hook();
        set_hook(Box::new(move |panic| {
            PANIC.set(panic.to_string());
            default(panic);
        }));
    });
    let case = CASES.iter().find(|case| case.to_string() == name);
    let case = *case.unwrap_or_else(|| panic!("there is no case {name}"));
    assert!(case.lacks::<Zoo>().is_empty(), "{case} is skipped");
    FLAW.set(flaw);
    let ended = catch_unwind(|| run(case));
    FLAW.set(Flaw::Nothing);
    ended.err().map(|_| PANIC.take())
}

/// What is wrong with how `case` takes a backend with `flaw`. To run out of patience is no verdict, and a panic of the zoo
/// is none of the case.
fn miss(case: &str, flaw: Flaw) -> Option<String> {
    let Some(panic) = rejection(case, flaw) else {
        return Some("not caught".to_owned());
    };
    let mut reasons = REASONS.iter();
    let reason = reasons.find(|(of, by, _)| *of == flaw && *by == case);
    let is_said = reason.is_none_or(|(_, _, reason)| panic.contains(reason));
    let is_verdict = !panic.contains("is not over after") && !panic.contains("tests/broken");
    (!is_said || !is_verdict).then_some(panic)
}

#[test]
fn every_flaw_is_caught_by_the_cases_of_its_promise() {
    let missed: Vec<_> = TABLE
        .iter()
        .flat_map(|(flaw, cases)| cases.iter().map(move |case| (flaw, case)))
        .filter_map(|(flaw, case)| miss(case, *flaw).map(|why| (flaw, case, why)))
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

#[test]
fn every_reason_is_asked_for() {
    for (flaw, case, _) in REASONS {
        let mut rows = TABLE.iter();
        let is_row = rows.any(|(of, cases)| of == flaw && cases.contains(case));
        assert!(is_row, "no row of {flaw:?} and {case}");
    }
}

/// But those of several processes, which have a flaw of their own in `tests/processes.rs`: the zoo is in one.
#[test]
fn every_case_catches_something() {
    let tested: HashSet<_> = TABLE
        .iter()
        .flat_map(|(_, cases)| cases.iter().copied())
        .collect();
    let idle: Vec<_> = CASES
        .iter()
        .filter(|case| !case.needs.contains(&Gap::Processes))
        .map(ToString::to_string)
        .filter(|case| !tested.contains(case.as_str()))
        .collect();
    assert!(idle.is_empty(), "no flaw in the table for {idle:#?}");
}

mod no_flaw {
    lock_testkit::conformance!(super::Zoo);
}
