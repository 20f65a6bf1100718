//! What several processes of one machine do with a lock fits together. Contract G1, G7; SCENARIOS C21, C22, T11,
//! X12.

use std::fs::{self, File, OpenOptions};
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use lock_core::{Attempt, LockGuard, LockKey, Locks, Moment, Ownership, Released, RenewalPolicy};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::expiry::wake_up;
use super::{
    BOUND, HOLD, MILLISECOND, OP, SECOND, assert_lasts, attempt, eager, eventually, hold, locks,
    loss, owner, refused, release, remaining, scaled, unrenewed,
};
use crate::fixture::Fixture;
use crate::gap::Gap;
use crate::history::History;
use crate::others::{Others, Told};

/// What eight tasks in each of three processes believe about a lock fits together: no two hold it at the same time, and a
/// number in a file that is read, left alone for a while and then written loses nothing.
pub async fn holds_of_several_processes_do_not_overlap<F: Fixture>(fixture: F) {
    const PROCESSES: usize = 3;
    const TASKS: usize = 8;
    let rounds = scaled(4, 100);
    if let Some(told) = Told::here() {
        let (here, key) = (&*told.directory, key_in(&fixture, &told.directory));
        let log = here.join(format!("history-{}", told.number));
        let log = OpenOptions::new().create(true).append(true).open(log);
        let history = History::new().with_log(log.expect("a log can be opened"));
        let locks = locks(&fixture).await.with_retry(eager());
        // So that all are there when it begins.
        fs::write(here.join(format!("ready-{}", told.number)), "").expect("a file can be written");
        let is_ready = |number: usize| here.join(format!("ready-{number}")).exists();
        eventually("all are there", async || (0..PROCESSES).all(is_ready)).await;
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (lock, history) = (locks.lock(key.name()), history.clone());
            let counter = here.join("counter");
            tasks.spawn(async move {
                for round in 0..rounds {
                    let who = format!("process {}, task {task}, round {round}", told.number);
                    let attempt = history.attempt(lock.key().as_str(), who);
                    let guard = hold(&lock).await;
                    let hold = attempt.granted(&guard);
                    let seen = count(&counter);
                    sleep(MILLISECOND).await;
                    fs::write(&counter, (seen + 1).to_string()).expect("a file can be written");
                    hold.released();
                    let released = guard.release().await.expect("a release is answered");
                    assert_eq!(released, Released::Released);
                }
            });
        }
        tasks.join_all().await;
        return;
    }
    let mut others = Others::start(&fixture, PROCESSES);
    others.end().await;
    let (history, here) = (History::new(), others.directory());
    for number in 0..PROCESSES {
        let log = File::open(here.join(format!("history-{number}")));
        let log = BufReader::new(log.expect("a history was written"));
        history.read(log).expect("a history was written");
    }
    // The clock that all processes share.
    if cfg!(target_os = "linux") {
        history.assert_sound();
    }
    let all = PROCESSES * TASKS * rounds;
    assert_eq!(history.holds().len(), all);
    assert_eq!(count(&here.join("counter")), all, "holds were not alone");
}

/// The lock of a process that was killed while it held and renewed it comes free when its ttl is over: not before, and not much
/// later. So does that of one that aborts, or exits without a word.
pub async fn the_lock_of_a_process_that_was_killed_comes_free_after_its_ttl<F: Fixture>(
    fixture: F,
) {
    /// The first is killed, the others are told to go.
    const PROCESSES: usize = 3;
    let ttl = 6 * SECOND;
    if let Some(told) = Told::here() {
        let (here, locks) = (&*told.directory, locks(&fixture).await);
        let key = key_of(&fixture, here, told.number);
        let _guard = hold_until_renewed(&locks, &key, ttl).await;
        fs::write(here.join(format!("held-{}", told.number)), "").expect("a file can be written");
        while told.number == 0 || !here.join("go").exists() {
            sleep(MILLISECOND).await;
        }
        if told.number == 1 {
            std::process::abort();
        }
        std::process::exit(0);
    }
    let mut others = Others::start(&fixture, PROCESSES);
    let here = others.directory().to_owned();
    let is_held = |number: usize| here.join(format!("held-{number}")).exists();
    eventually("all are held", async || (0..PROCESSES).all(is_held)).await;
    let (oracle, locks) = (fixture.client().await, locks(&fixture).await);
    let keys = [0, 1, 2].map(|number| key_of(&fixture, &here, number));
    for key in &keys {
        refused(&oracle, key, &owner()).await;
    }
    fs::write(here.join("go"), "").expect("a file can be written");
    others.kill().await;
    let comes_free = async |key: &LockKey| {
        let (killed, left) = (Moment::now(), remaining(&oracle, key).await);
        assert!(left <= ttl + F::RESOLUTION, "{left:?} of {ttl:?}");
        let lock = unrenewed(&locks, key).with_wait(ttl + BOUND);
        let next = hold(&lock).await;
        let took = killed.elapsed();
        assert!(took + F::RESOLUTION >= left, "after {took:?} of {left:?}");
        assert!(took < ttl + BOUND, "it came free after {took:?}");
        assert_eq!(next.release().await.ok(), Some(Released::Released));
    };
    let [killed, aborted, exited] = &keys;
    tokio::join!(comes_free(killed), comes_free(aborted), comes_free(exited));
}

/// A process that was stopped for longer than its ttl, wherever it was, sees that it lost its lock before it does anything else,
/// and what it does late leaves who has it by then alone.
pub async fn a_process_that_was_stopped_leaves_the_next_holder_alone<F: Fixture>(fixture: F) {
    let ttl = 6 * SECOND;
    if let Some(told) = Told::here() {
        let (here, locks) = (&*told.directory, locks(&fixture).await);
        let guard = hold_until_renewed(&locks, &key_in(&fixture, here), ttl).await;
        fs::write(here.join("held"), "").expect("a file can be written");
        // This thread, which renews nothing, waits for nothing in between.
        while !here.join("taken").exists() {
            std::thread::sleep(MILLISECOND);
        }
        let is_held = guard.is_held();
        assert!(!is_held, "it believes in a lock that others have");
        loss(&guard).await;
        return wake_up(guard).await;
    }
    let mut others = Others::start(&fixture, 1);
    let (held, taken) = (
        others.directory().join("held"),
        others.directory().join("taken"),
    );
    eventually("it is held", async || held.exists()).await;
    let (oracle, next) = (fixture.client().await, owner());
    let key = key_in(&fixture, others.directory());
    refused(&oracle, &key, &owner()).await;
    assert!(others.stop(), "{}", Gap::Signals.advice());
    let mut asked = Moment::now();
    eventually("the entry of who was stopped ends", async || {
        asked = Moment::now();
        let answer = attempt(&oracle, &key, &next, HOLD).await;
        matches!(answer, Attempt::Granted(_))
    })
    .await;
    fs::write(taken, "").expect("a file can be written");
    others.resume();
    others.end().await;
    assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
    assert_eq!(release(&oracle, &key, &next).await, Ownership::Held);
}

/// The lock of `key`, taken and renewed once already, and again and again: a loaded machine may miss several renewals.
async fn hold_until_renewed(locks: &Locks, key: &LockKey, ttl: Duration) -> LockGuard {
    let renewal = RenewalPolicy::per_ttl(12);
    let guard = hold(&locks.lock(key.name()).with_ttl(ttl).with_renewal(renewal)).await;
    let mut least = ttl;
    eventually("it is renewed", async || {
        let left = guard.remaining();
        least = left.min(least);
        left > least + OP / 5
    })
    .await;
    guard
}

/// The key of one of several processes of a case, which all know.
fn key_of<F: Fixture>(fixture: &F, directory: &Path, number: usize) -> LockKey {
    let name = format!("{}-{number}", key_in(fixture, directory).name());
    LockKey::with_prefix(fixture.prefix(), name).expect("a valid key")
}

/// The key of a case, which all its processes know.
fn key_in<F: Fixture>(fixture: &F, directory: &Path) -> LockKey {
    let name = directory.file_name().and_then(|name| name.to_str());
    let name = name.expect("a directory of ours has a name");
    LockKey::with_prefix(fixture.prefix(), name).expect("a valid key")
}

/// The number in a file; 0 if there is none yet, or if two write it at the same time.
fn count(file: &Path) -> usize {
    let number = fs::read_to_string(file).ok();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
