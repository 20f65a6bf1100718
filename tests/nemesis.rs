//! The example `nemesis`, for some seconds: whatever goes wrong, no two hold a lock at once; and who does wrong is found out.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

#[path = "../examples/nemesis/plan.rs"]
mod plan;
#[path = "../examples/nemesis/run.rs"]
mod run;
#[path = "../examples/nemesis/task.rs"]
mod task;
#[path = "../examples/nemesis/worker.rs"]
mod worker;

use std::process::Command;

use lock_testkit::nemesis::Breach;
use plan::Plan;
use run::{Options, Outcome};
use worker::{Broken, Client, Worker};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const STORM: Options = Options {
    seconds: 7,
    processes: 4,
    seed: 1,
    lose_data: false,
    broken: None,
    client: if cfg!(feature = "fred") {
        Client::Both
    } else {
        Client::Redis
    },
};

/// Not a test: what the tests below start several times, as processes of their own.
#[test]
fn a_worker() {
    if let Some(worker) = Worker::told().unwrap() {
        worker.run().unwrap();
    }
}

/// Runs it with workers of this program.
#[tokio::main]
async fn run(options: Options) -> Outcome {
    let program = std::env::current_exe().unwrap();
    let worker = move || {
        let mut command = Command::new(&program);
        command.args(["--exact", "a_worker", "--nocapture"]);
        command
    };
    // First of all: whatever becomes of it, it can be done again.
    println!("with {options}");
    let outcome = run::run(options, worker).await.unwrap();
    println!("{outcome}");
    outcome
}

fn assert_sound(outcome: &Outcome) {
    assert!(
        outcome.is_sound(),
        "{outcome}\nagain: {}",
        outcome.options.command()
    );
    // Enough happened for that to mean something.
    assert!(outcome.holds.len() > 20, "{outcome}");
    assert!(outcome.done.len() > 10, "{outcome}");
}

#[test]
fn a_seed_replays_what_goes_wrong_and_what_each_task_does() {
    for seed in 0..100 {
        let options = Options { seed, ..STORM };
        assert_eq!(options.schedule().unwrap(), options.schedule().unwrap());
        let plans = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..100).map(move |_| format!("{:?}", Plan::draw(&mut rng)))
        };
        assert!(plans(seed).eq(plans(seed)));
        assert!(plans(seed).ne(plans(seed + 1)));
    }
}

#[test]
fn a_storm_of_faults_breaks_no_promise() {
    assert_sound(&run(STORM));
}

#[test]
fn nor_does_a_storm_that_nobody_has_seen_before() {
    let seed = fastrand::u64(..1_000_000);
    assert_sound(&run(Options { seed, ..STORM }));
}

#[test]
fn a_run_in_which_too_little_happened_is_not_sound() {
    let mut outcome = run(STORM);
    assert_sound(&outcome);
    let says = |outcome: &Outcome, what: &str| {
        assert!(!outcome.is_sound(), "{outcome}");
        let printed = outcome.to_string();
        assert!(
            printed.ends_with(&format!("TOO LITTLE SHOWN: {what} are needed")),
            "{printed}"
        );
    };
    outcome.options.seconds = 20;
    outcome.writes.retain(|write| write.admitted);
    says(&outcome, "stale writes refused: 0, at least 1");
    outcome.done.clear();
    says(&outcome, "faults: 0, at least 5");
    outcome.holds.clear();
    says(&outcome, "grants: 0, at least 20");
}

#[test]
fn lost_data_lets_two_hold_a_lock_but_no_stale_write_through() {
    let seed = fastrand::u64(..1_000_000);
    let outcome = run(Options {
        seed,
        processes: 3,
        lose_data: true,
        ..STORM
    });
    assert_sound(&outcome);
    let lost = outcome.done.iter().filter(|done| done.fault.loses_data());
    assert!(lost.count() > 1, "{outcome}");
}

#[test]
fn holders_that_do_not_look_at_their_deadlines_are_found_out() {
    let outcome = run(Options {
        broken: Some(Broken::Clock),
        ..STORM
    });
    assert!(outcome.audit.overlaps() > 0, "{outcome}");
    assert_eq!(outcome.flaws, [""; 0], "{outcome}");
    // The register refuses what they write too late, and admits nothing stale.
    let refused = |breach: &Breach| matches!(breach, Breach::HolderRefused { .. });
    let stale = |breach: &Breach| {
        matches!(
            breach,
            Breach::StaleWrite { .. } | Breach::TokenFell { .. } | Breach::NobodysToken(_)
        )
    };
    assert!(outcome.audit.breaches.iter().any(refused), "{outcome}");
    assert!(!outcome.audit.breaches.iter().any(stale), "{outcome}");
    remove(&outcome);
}

#[test]
fn processes_without_a_lock_are_found_out() {
    let outcome = run(Options {
        seconds: 2,
        broken: Some(Broken::Lock),
        ..STORM
    });
    assert!(outcome.audit.overlaps() > 0, "{outcome}");
    assert_eq!(outcome.flaws, [""; 0], "{outcome}");
    remove(&outcome);
}

/// What a run that is not sound keeps, where that is how it should be.
fn remove(outcome: &Outcome) {
    if let Some(folder) = &outcome.folder {
        std::fs::remove_dir_all(folder).unwrap();
    }
}
