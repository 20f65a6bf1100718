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
use std::thread;

use broken::Flaw::*;
use broken::{FLAW, Flaw, Reason, TABLE, Zoo};
use lock_testkit::{CASES, Case, Gap, cases, for_each_case, run_case};

macro_rules! run_by_name {
    ([] $($promise:ident { $($case:ident $([$($need:ident)+])?)* })*) => {
        fn run<const PAUSED: bool>(case: Case) {
            match (case.promise, case.name) {
                $($((stringify!($promise), stringify!($case)) =>
                    run_case::<Zoo<PAUSED>, _>(case, cases::$promise::$case),)*)*
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
fn rejection<const PAUSED: bool>(name: &str, flaw: Flaw) -> Option<String> {
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
    assert!(case.lacks::<Zoo<PAUSED>>().is_empty(), "{case} is skipped");
    FLAW.set(flaw);
    let ended = catch_unwind(|| run::<PAUSED>(case));
    FLAW.set(Flaw::Nothing);
    ended.err().map(|_| PANIC.take())
}

/// What is wrong with how `case` takes a backend with `flaw`. To run out of patience is no verdict, and a panic of the zoo
/// is none of the case.
fn miss<const PAUSED: bool>(case: &str, flaw: Flaw) -> Option<String> {
    let Some(panic) = rejection::<PAUSED>(case, flaw) else {
        return Some("not caught".to_owned());
    };
    let reason = Reason::all().find(|reason| reason.is_of(case, flaw));
    let is_said = reason.is_none_or(|reason| reason.is_said_in(&panic));
    let is_verdict = !panic.contains("is not over after") && !panic.contains("tests/broken");
    (!is_said || !is_verdict).then_some(panic)
}

#[test]
fn every_flaw_is_caught_by_the_cases_of_its_promise() {
    let missed: Vec<_> = TABLE
        .iter()
        .flat_map(|(flaw, cases)| cases.iter().map(move |case| (flaw, case)))
        .filter_map(|(flaw, case)| miss::<true>(case, *flaw).map(|why| (flaw, case, why)))
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

/// What virtual time leaves out: the halves of cases that are for real time.
#[test]
fn flaws_are_caught_in_real_time_too() {
    let rows = [
        (
            GrantsWhatIsHeld,
            "exclusion::holds_of_many_tasks_do_not_overlap",
        ),
        (EndsEarly, "expiry::an_entry_lasts_at_least_its_ttl"),
        (
            SetsThenExpires,
            "expiry::a_dropped_attempt_leaves_nothing_without_an_end",
        ),
        (
            StaysLockedWhenDropped,
            "lifecycle::a_dropped_call_leaves_the_store_usable",
        ),
        (
            CallsALostGrantARefusal,
            "outages::what_is_said_not_to_be_done_is_not_done",
        ),
        (
            CallsALostReleaseARefusal,
            "outages::what_is_said_not_to_be_done_is_not_done",
        ),
        (
            SendsAgainWhenCut,
            "outages::what_was_cut_off_is_not_sent_again",
        ),
        (
            CallsACutBusy,
            "faults::an_attempt_that_was_cut_off_is_never_busy",
        ),
        (
            DeletesWithoutComparing,
            "expiry::a_holder_that_was_frozen_leaves_the_next_one_alone",
        ),
        (
            NeverEnds,
            "lifecycle::a_runtime_that_is_shut_down_leaves_no_lock_behind",
        ),
        (
            RenewsTheFirstOfABatch,
            "guards::two_hundred_locks_of_one_client_are_all_kept",
        ),
        (ForgetsOneOfMany, "scale::many_locks_are_held_at_once"),
        (BlocksTheThread, "lifecycle::one_thread_is_enough"),
    ];
    let missed: Vec<_> = thread::scope(|scope| {
        let threads = rows.map(|(flaw, case)| {
            scope.spawn(move || miss::<false>(case, flaw).map(|why| (flaw, case, why)))
        });
        let missed = threads.map(|thread| thread.join().unwrap());
        missed.into_iter().flatten().collect()
    });
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

#[test]
fn every_reason_is_asked_for() {
    for reason in Reason::all() {
        let is_row = TABLE
            .iter()
            .any(|(flaw, cases)| cases.iter().any(|case| reason.is_of(case, *flaw)));
        assert!(is_row, "no row of {} and {}", reason.flaw, reason.case);
    }
}

/// By its own verdict; but those of several processes, which have flaws of their own in `tests/processes.rs`: the zoo is in one.
#[test]
fn every_case_catches_something() {
    let tested: HashSet<_> = Reason::all().map(|reason| reason.case).collect();
    let idle: Vec<_> = CASES
        .iter()
        .filter(|case| !case.needs.contains(&Gap::Processes))
        .map(ToString::to_string)
        .filter(|case| !tested.contains(case.as_str()))
        .collect();
    assert!(idle.is_empty(), "no verdict on any flaw for {idle:#?}");
}

mod no_flaw {
    lock_testkit::conformance!(super::Zoo);
}
