//! What many tasks believed at the same time fits together: intervals that do not overlap, tokens that rise.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, LockBackend, LockError, LockKey, LockOptions, Locks, Owner, PassingOn,
    Released, RenewalPolicy,
};
use lock_memory::{MemoryBackend, lock_core};
use lock_testkit::{History, Violation};
use tokio::task::JoinSet;
use tokio::time::sleep;

const TASKS: usize = 16;
const ROUNDS: usize = 200;
const KEYS: [&str; 3] = ["a", "b", "c"];

/// Sixteen tasks in so many processes take one of three locks two hundred times and hold it for up to 2 ms.
async fn sixteen_tasks_take_three_locks(
    history: &History,
    options: &LockOptions,
    processes: usize,
) {
    let (backend, mut tasks) = (MemoryBackend::new(), JoinSet::new());
    let processes: Vec<_> = (0..processes)
        .map(|_| Locks::new(backend.clone()).with_options(options.clone()))
        .collect();
    for (task, locks) in (0..TASKS).zip(processes.iter().cycle().cloned()) {
        let history = history.clone();
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                let key = fastrand::choice(KEYS).unwrap();
                let attempt = history.attempt(key, format!("task {task}, round {round}"));
                let guard = locks.lock(key).acquire().await.unwrap();
                let hold = attempt.granted(&guard);
                sleep(Duration::from_micros(fastrand::u64(..2000))).await;
                hold.renewed(&guard);
                hold.released();
                if round % 4 == 0 {
                    drop(guard);
                } else {
                    assert_eq!(guard.release().await.unwrap(), Released::Released);
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(history.holds().len(), TASKS * ROUNDS);
    history.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_in_real_time_do_not_overlap_and_tokens_rise() {
    let options = LockOptions::default().with_wait(Duration::from_secs(120));
    sixteen_tasks_take_three_locks(&History::new(), &options, TASKS).await;
}

#[tokio::test(start_paused = true)]
async fn holds_in_virtual_time_do_not_overlap_and_tokens_rise() {
    let options = LockOptions::default().with_wait(Duration::from_secs(3600));
    sixteen_tasks_take_three_locks(&History::in_paused_time(), &options, TASKS).await;
}

/// Between tasks of one process or a few, with passing on, without a bound on it, and without it.
fn passing_on() -> impl Iterator<Item = (LockOptions, usize)> {
    let endless = PassingOn::at_most(u16::MAX).within(Duration::from_secs(3600));
    let each = [PassingOn::default(), endless, PassingOn::never()];
    each.into_iter().flat_map(|passing| {
        let options = LockOptions::default()
            .with_wait(Duration::from_secs(3600))
            .with_passing_on(passing);
        [(options.clone(), 1), (options, 3)]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_that_go_from_hand_to_hand_in_real_time_do_not_overlap_and_tokens_rise() {
    for (options, processes) in passing_on() {
        sixteen_tasks_take_three_locks(&History::new(), &options, processes).await;
    }
}

#[tokio::test(start_paused = true)]
async fn holds_that_go_from_hand_to_hand_in_virtual_time_do_not_overlap_and_tokens_rise() {
    for (options, processes) in passing_on() {
        sixteen_tasks_take_three_locks(&History::in_paused_time(), &options, processes).await;
    }
}

/// Holders that outlive their ttl, as if their processes had stood still: the next takes over, and nobody overlaps.
#[tokio::test(start_paused = true)]
async fn holds_that_end_by_ttl_do_not_overlap_either() {
    let (backend, history) = (MemoryBackend::new(), History::in_paused_time());
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (history, locks) = (history.clone(), Locks::new(backend.clone()));
        tasks.spawn(async move {
            for _ in 0..20 {
                let lock = locks
                    .lock("k")
                    .with_ttl(Duration::from_secs(10))
                    .with_wait(Duration::from_secs(24 * 3600))
                    .with_renewal(RenewalPolicy::never());
                let attempt = history.attempt("k", format!("task {task}"));
                let guard = lock.acquire().await.unwrap();
                let hold = attempt.granted(&guard);
                sleep(Duration::from_millis(fastrand::u64(..20_000))).await;
                match guard.check() {
                    Ok(()) => hold.released(),
                    Err(LockError::Lost { .. }) => hold.lost(),
                    Err(error) => unreachable!("{error}"),
                }
                guard.release().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    history.assert_sound();
}

/// The checker sees what an eviction does, so it would see a store that forgets.
#[tokio::test]
async fn an_eviction_is_seen_as_an_overlap() {
    let (backend, history) = (MemoryBackend::new(), History::new());
    let (key, ttl) = (LockKey::new("k").unwrap(), Duration::from_secs(30));
    for who in ["robbed", "next"] {
        let (attempt, owner) = (history.attempt("k", who), Owner::fresh(None).unwrap());
        let request = AcquireRequest::new(&key, &owner, ttl);
        let Attempt::Granted(grant) = backend.try_acquire(request).await.unwrap() else {
            unreachable!("it was evicted");
        };
        let _open = attempt.granted_for(ttl, grant.fencing.map(|range| range.last()));
        backend.evict("k");
    }
    let found = history.check();
    assert!(matches!(
        &found[..],
        [Violation::Overlap { earlier, later }] if earlier.who == "robbed" && later.who == "next"
    ));
}
