//! A store that each process has for itself is found out by the cases of several processes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::env;
use std::panic::catch_unwind;

use lock_testkit::{__run_test, CASES, Case, Fixture, Scripted, cases};

/// Locks that no other process knows of, although its fixture says so.
struct Private(Scripted);

impl Fixture for Private {
    type Backend = Scripted;

    async fn start() -> Self {
        Self(Scripted::honest())
    }

    async fn client(&self) -> Scripted {
        self.0.clone()
    }

    fn address(&self) -> Option<String> {
        Some("here".to_owned())
    }

    async fn join(_: String) -> Option<Self> {
        Some(Self(Scripted::honest()))
    }
}

/// What the case, which `run` runs, says of the store. In other processes it is a part of that case.
fn complaint(run: impl FnOnce() + std::panic::UnwindSafe) -> Option<String> {
    if env::var_os("FENCELOCK_CASE_NUMBER").is_some() {
        run();
        return None;
    }
    let panic = catch_unwind(run).unwrap_err();
    Some(panic.downcast_ref::<String>().unwrap().clone())
}

fn case(name: &str) -> Case {
    *CASES.iter().find(|case| case.name == name).unwrap()
}

#[test]
fn holds_that_overlap_are_found() {
    let said = complaint(|| {
        __run_test::<Private, _>(
            concat!(module_path!(), "::holds_that_overlap_are_found"),
            case("holds_of_several_processes_do_not_overlap"),
            cases::processes::holds_of_several_processes_do_not_overlap,
        );
    });
    assert!(said.is_none_or(|said| said.contains("two holds overlap")));
}

#[test]
fn a_lock_that_others_do_not_see_is_found() {
    let said = complaint(|| {
        __run_test::<Private, _>(
            concat!(module_path!(), "::a_lock_that_others_do_not_see_is_found"),
            case("the_lock_of_a_process_that_was_killed_comes_free_after_its_ttl"),
            cases::processes::the_lock_of_a_process_that_was_killed_comes_free_after_its_ttl,
        );
    });
    assert!(said.is_none_or(|said| said.contains("was granted again")));
}
