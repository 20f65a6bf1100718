//! A lock that goes from task to task of one process without asking the store: when it does, what the next one gets, and
//! that nothing of the guards before it is left.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common_acquire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common_acquire::*;
use lock_core::{
    BackendError, Capabilities, DistributedLock, Fence, GuardPolicy, LockError, LockGuard,
    LockOptions, Locks, LossReason, Moment, PassingOn, Released, RenewalPolicy,
};
use lock_testkit::{Effect, LeakCheck, Op, Scripted};
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep, timeout};

/// A bound that no test reaches.
fn endless() -> PassingOn {
    PassingOn::at_most(1000).within(HOUR)
}

/// The lock, passed on for as long as it takes.
fn lock_of(backend: &Scripted) -> DistributedLock {
    lock(backend)
        .with_passing_on(endless())
        .with_wait(24 * HOUR)
}

fn next(
    waiters: &mut Vec<JoinHandle<Result<LockGuard, LockError>>>,
) -> JoinHandle<Result<LockGuard, LockError>> {
    waiters.remove(0)
}

async fn granted(waiter: JoinHandle<Result<LockGuard, LockError>>) -> LockGuard {
    soon("the next in line", waiter).await.unwrap().unwrap()
}

fn token(guard: &LockGuard) -> u64 {
    guard.fencing_token().unwrap().get()
}

/// A guard that may be passed on, and `count` who stand in line behind it.
async fn line_of(
    lock: &DistributedLock,
    count: usize,
) -> (LockGuard, Vec<JoinHandle<Result<LockGuard, LockError>>>) {
    let first = lock.acquire().await.unwrap();
    let mut waiting = waiters(lock, count + 1).await;
    first.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    (guard, waiting)
}

/// A guard that may be passed on, with nobody in line.
async fn passable(lock: &DistributedLock) -> LockGuard {
    let (guard, waiting) = line_of(lock, 1).await;
    for waiting in waiting {
        waiting.abort();
        assert!(waiting.await.is_err());
    }
    guard
}

/// How often the store was asked to grant or release.
fn trips(backend: &Scripted) -> usize {
    count(backend, Op::Acquire) + count(backend, Op::Release)
}

// It goes on.

#[tokio::test(start_paused = true)]
async fn a_lock_is_passed_on_without_a_round_trip_and_with_a_larger_fencing_token() {
    for dropped in [false, true] {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let lock = lock_of(&backend);
        let (mut guard, waiting) = line_of(&lock, 30).await;
        let (calls, owner) = (backend.calls().len(), backend.entries()["k"].owner.clone());
        let (fence, mut newest) = (Fence::new(), guard.fencing_token().unwrap());
        for waiting in waiting {
            fence.admit(newest).unwrap();
            match dropped {
                false => assert_eq!(guard.release().await.unwrap(), Released::Released),
                true => drop(guard),
            }
            guard = granted(waiting).await;
            let token = guard.fencing_token().unwrap();
            assert!(guard.is_held() && token > newest);
            newest = token;
            assert!(guard.remaining() <= backend.entries()["k"].remaining);
        }
        assert_eq!(backend.calls().len(), calls);
        assert_eq!(backend.entries()["k"].owner, owner, "one lease");
        guard.release().await.unwrap();
        assert_quiet(&backend, &leaks, CLEAN).await;
        // The next grant is above all of them.
        assert!(lock.acquire().await.unwrap().fencing_token().unwrap() > newest);
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_of_tokens_is_asked_for_only_when_somebody_stands_in_line() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    for _ in 0..3 {
        lock.acquire().await.unwrap().release().await.unwrap();
        lock.try_acquire().await.unwrap().release().await.unwrap();
    }
    let (guard, waiting) = line_of(&lock, 1).await;
    guard.release().await.unwrap();
    for waiting in waiting {
        granted(waiting).await.release().await.unwrap();
    }
    let asked: Vec<_> = backend
        .calls_of(Op::Acquire)
        .iter()
        .map(|call| call.tokens.unwrap())
        .collect();
    assert_eq!(asked, [1, 1, 1, 1, 1, 1, 1, 64]);
    // No more than the bound takes.
    let backend = Scripted::honest();
    let lock = lock_of(&backend).with_passing_on(PassingOn::at_most(3).within(HOUR));
    drop(line_of(&lock, 1).await);
    assert_eq!(backend.calls_of(Op::Acquire)[1].tokens, Some(4));
}

#[tokio::test(start_paused = true)]
async fn no_block_of_tokens_is_asked_for_when_it_cannot_be_passed_on() {
    type Change = fn(DistributedLock) -> DistributedLock;
    let same: Change = |lock| lock;
    let leaves: Change = |lock| lock.with_guard(GuardPolicy::LeaveToExpire);
    let cases: [(Change, Change, u16); 6] = [
        (same, same, 64),
        (same, leaves, 64),
        (leaves, same, 1),
        (same, |lock| lock.with_ttl(TTL - MS), 1),
        (same, |lock| lock.with_label("another"), 1),
        (same, |lock| lock.with_passing_on(PassingOn::never()), 1),
    ];
    for (asker, follower, tokens) in cases {
        let backend = Scripted::honest();
        let lock = lock_of(&backend);
        let first = lock.acquire().await.unwrap();
        let asker = waiters(&asker(lock.clone()), 1).await.remove(0);
        let follower = waiters(&follower(lock), 1).await;
        first.release().await.unwrap();
        drop(granted(asker).await);
        assert_eq!(backend.calls_of(Op::Acquire)[1].tokens, Some(tokens));
        drop(follower);
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_holders_deadline_is_that_of_the_last_confirmed_request() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    let (guard, mut waiting) = line_of(&lock, 2).await;
    sleep(2 * SECOND).await;
    let left = guard.remaining();
    guard.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    assert!(guard.remaining() <= left, "no request was sent since");
    assert!(guard.remaining() + SLACK > left);
    // It is renewed when the giver would have been, and what was prolonged counts for the next one.
    sleep(TTL / 3 - 2 * SECOND + 10 * MS).await;
    assert_eq!(count(&backend, Op::Renew), 1);
    sleep(2 * TTL).await;
    assert!(guard.is_held());
    guard.renew_for(TTL).await.unwrap();
    sleep(SECOND).await;
    let left = guard.remaining();
    guard.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    assert!(guard.remaining() <= left && guard.remaining() + SLACK > left);
    assert!(guard.remaining() <= backend.entries()["k"].remaining);
}

#[tokio::test(start_paused = true)]
async fn of_the_giver_nothing_is_left() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    let (guard, mut waiting) = line_of(&lock, 1).await;
    let loss = guard.loss();
    let told = spawn({
        let loss = loss.clone();
        async move { loss.lost().await }
    });
    yield_now().await;
    guard.release().await.unwrap();
    assert!(!loss.is_held(), "before the next one has it");
    assert_eq!(soon("told", told).await.unwrap(), LossReason::Released);
    let guard = granted(next(&mut waiting)).await;
    sleep(HOUR).await;
    assert!(guard.is_held() && !loss.is_held());
    backend.evict("k");
    assert_eq!(guard.lost().await, LossReason::Absent);
    assert_eq!(loss.lost().await, LossReason::Released, "it hears no more");
}

#[tokio::test(start_paused = true)]
async fn a_write_of_the_giver_that_comes_late_is_refused() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    let (guard, mut waiting) = line_of(&lock, 2).await;
    let fence = Fence::new();
    let first = guard.fencing_token().unwrap();
    fence.admit(first).unwrap();
    drop(guard);
    let guard = granted(next(&mut waiting)).await;
    let second = guard.fencing_token().unwrap();
    fence.admit(second).unwrap();
    assert_eq!(fence.admit(first).unwrap_err().newest, second);
    drop(guard);
    let guard = granted(next(&mut waiting)).await;
    fence.admit(guard.fencing_token().unwrap()).unwrap();
    assert!(fence.admit(second).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_passed_on_guard_that_is_forgotten_counts_until_its_deadline() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend).with_renewal(RenewalPolicy::never());
    let (guard, mut waiting) = line_of(&lock, 2).await;
    guard.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    let left = guard.remaining();
    std::mem::forget(guard);
    let busy = lock.try_acquire().await.unwrap_err();
    assert!(busy.holder().is_some(), "{busy:?}");
    let (guard, took) = timed(next(&mut waiting)).await;
    assert!(took + SLACK >= left && took <= TTL + SECOND, "{took:?}");
    let guard = guard.unwrap().unwrap();
    assert!(guard.remaining() <= backend.entries()["k"].remaining);
}

#[tokio::test(start_paused = true)]
async fn an_extend_that_was_dropped_does_nothing_to_the_next_holder() {
    for effect in [
        Effect::DelayBefore(SECOND),
        Effect::DelayAfter(SECOND),
        Effect::HangBefore,
        Effect::HangAfter,
        Effect::DelayBeforeDetached(3 * SECOND),
    ] {
        for shortens in [false, true] {
            let backend = Scripted::honest();
            let lock = lock_of(&backend);
            let (guard, mut waiting) = line_of(&lock, 1).await;
            backend.on(Op::Renew).next(effect.clone());
            let (releases, owner) = (
                count(&backend, Op::Release),
                backend.entries()["k"].owner.clone(),
            );
            let cut = match shortens {
                false => timeout(10 * MS, guard.extend(SECOND)).await,
                true => timeout(10 * MS, guard.renew_for(SECOND)).await,
            };
            assert!(cut.is_err(), "{effect:?}");
            drop(guard);
            let guard = granted(next(&mut waiting)).await;
            assert_eq!(
                count(&backend, Op::Release),
                releases + 1,
                "released at the store"
            );
            assert!(backend.entries()["k"].owner != owner);
            for _ in 0..100 {
                sleep(SECOND).await;
                assert!(guard.is_held());
                assert!(guard.remaining() <= backend.entries()["k"].remaining);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn how_long_it_may_be_held_counts_anew_for_each_guard() {
    let backend = Scripted::honest();
    let renewal = RenewalPolicy::default()
        .hold_at_most(20 * SECOND)
        .while_progressing(15 * SECOND);
    let lock = lock_of(&backend).with_renewal(renewal);
    let (mut guard, mut waiting) = line_of(&lock, 3).await;
    for _ in 0..3 {
        sleep(8 * SECOND).await;
        guard.checkpoint();
        sleep(8 * SECOND).await;
        assert!(guard.is_held());
        guard.release().await.unwrap();
        guard = granted(next(&mut waiting)).await;
    }
    assert_eq!(trips(&backend), 3);
    let (reason, took) = timed(guard.lost()).await;
    assert_eq!(reason, LossReason::HeldTooLong);
    assert!(is_about(took, 20 * SECOND), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn progress_counts_anew_for_each_guard() {
    let backend = Scripted::honest();
    let renewal = RenewalPolicy::default().while_progressing(TTL);
    let lock = lock_of(&backend).with_renewal(renewal);
    let (guard, mut waiting) = line_of(&lock, 1).await;
    sleep(TTL - SECOND).await;
    guard.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    let (reason, took) = timed(guard.lost()).await;
    assert_eq!(reason, LossReason::NoProgress);
    assert!(took > TTL, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn others_see_the_grants_label_and_a_token_that_is_not_below_the_holders() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend).with_label("me");
    let (mut guard, mut waiting) = line_of(&lock, 3).await;
    for _ in 0..3 {
        let told = [
            lock.status().await.unwrap().unwrap(),
            lock.try_acquire()
                .await
                .unwrap_err()
                .holder()
                .unwrap()
                .clone(),
            Locks::new(backend.clone())
                .lock("k")
                .try_acquire()
                .await
                .unwrap_err()
                .holder()
                .unwrap()
                .clone(),
        ];
        // What the process says itself is what the store says.
        assert_eq!(told[1].fencing, told[2].fencing);
        for holder in told {
            assert_eq!(holder.label.as_deref(), Some("me"));
            assert!(holder.fencing >= guard.fencing_token());
            assert!(holder.remaining.unwrap() >= guard.remaining());
        }
        guard.release().await.unwrap();
        guard = granted(next(&mut waiting)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_it_is_on_its_way_it_is_busy() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend).with_label("me");
    let guard = passable(&lock).await;
    let mut receiving = acquiring(&lock);
    poll_once(&mut receiving).await;
    guard.release().await.unwrap();
    let calls = backend.calls().len();
    let busy = lock.try_acquire().await.unwrap_err();
    assert_eq!(busy.holder().unwrap().label.as_deref(), Some("me"));
    assert_eq!(backend.calls().len(), calls);
    receiving.await.unwrap().release().await.unwrap();
}

/// The runtime of giver and receiver is not driven any more: nobody of them ends the offer.
#[test]
fn a_lease_on_offer_counts_until_its_deadline() {
    let ttl = 200 * MS;
    let backend = Scripted::honest();
    let lock = lock_of(&backend).with_ttl(ttl);
    let (idle, other) = (single(), single());
    let guard = idle.block_on(async { passable(&lock).await });
    idle.block_on(async {
        drop(waiter(&lock));
        yield_now().await;
    });
    drop(guard);
    std::thread::sleep(2 * ttl);
    assert!(is_free(&backend));
    let guard = other.block_on(lock.try_acquire()).unwrap();
    assert!(guard.is_held());
    other.block_on(guard.release()).unwrap();
    drop(idle);
}

#[test]
fn the_next_in_line_runs_before_a_release_returns() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    let runtime = single();
    let guard = runtime.block_on(async { passable(&lock).await });
    let receiving = runtime.block_on(waiters(&lock, 1)).remove(0);
    // Nobody drives the runtime after that.
    assert_eq!(
        runtime.block_on(guard.release()).unwrap(),
        Released::Released
    );
    assert!(receiving.is_finished());
    drop(runtime);
}

/// The first head found the line empty, and asks again when others stand behind it.
#[test]
fn who_comes_back_at_once_stands_in_line_before_the_others_are_through() {
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let runtime = builder.worker_threads(2).enable_time().build().unwrap();
        let backend = Scripted::honest().with_latency(MS);
        let lock = lock_of(&backend);
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let lock = lock.clone();
                runtime.spawn(async move {
                    for _ in 0..200 {
                        lock.acquire().await.unwrap().release().await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        // Once for each block of 64 tokens would be 25 times.
        let asked = count(&backend, Op::Acquire);
        assert!(
            asked <= 100,
            "1600 holds, of which {asked} were granted by the store"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_head_asks_for_a_block_once_somebody_stands_behind_it() {
    let backend = Scripted::honest();
    let others = Locks::new(backend.clone()).lock("k");
    let other = others.acquire().await.unwrap();
    let mut waiting = waiters(&lock_of(&backend), 8).await;
    other.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    let asked = backend.calls_of(Op::Acquire);
    assert_eq!(asked.last().unwrap().tokens, Some(64));
    let before = trips(&backend);
    guard.release().await.unwrap();
    drop(granted(next(&mut waiting)).await);
    assert_eq!(trips(&backend), before);
}

#[tokio::test(start_paused = true)]
async fn a_passed_on_lock_is_extended_handed_over_and_lost_like_any_other() {
    let backend = Scripted::honest();
    let locks = locks(&backend).with_passing_on(endless());
    let lock = locks.lock("k");
    let (guard, mut waiting) = line_of(&lock, 1).await;
    guard.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    guard.extend(TTL).await.unwrap();
    assert!(guard.remaining() > TTL && guard.remaining() <= backend.entries()["k"].remaining);
    guard.renew_for(TTL).await.unwrap();
    let ticket = guard.into_ticket().await.unwrap();
    let guard = locks.resume(&ticket).await.unwrap();
    assert!(guard.is_held());
    backend.steal("k", HOUR);
    assert_eq!(guard.lost().await, LossReason::Taken);
}

#[tokio::test(start_paused = true)]
async fn with_passes_on_too() {
    let backend = Scripted::honest();
    let locks = locks(&backend).with_passing_on(endless()).with_wait(HOUR);
    let users: Vec<_> = (0..20)
        .map(|n| {
            let locks = locks.clone();
            spawn(async move {
                let result = locks.with("k", async |guard| {
                    sleep(MS).await;
                    assert!(guard.is_held());
                    Ok::<_, LockError>(n)
                });
                result.await.unwrap()
            })
        })
        .collect();
    for (n, user) in users.into_iter().enumerate() {
        assert_eq!(user.await.unwrap(), n);
    }
    assert_eq!(
        trips(&backend),
        4,
        "one grant for the first, and one for the rest"
    );
}

// It is bounded.

/// How many guards each grant of the store had, with 300 tasks in line that hold it for `hold`.
async fn series(lock: &DistributedLock, backend: &Scripted, hold: Duration) -> Vec<usize> {
    let first = lock.acquire().await.unwrap();
    let waiting = waiters(lock, 300).await;
    first.release().await.unwrap();
    let mut series: Vec<usize> = Vec::new();
    let mut grants = count(backend, Op::Acquire);
    for waiting in waiting {
        let guard = granted(waiting).await;
        let now = count(backend, Op::Acquire);
        if now > grants || series.is_empty() {
            series.push(0);
        }
        grants = now;
        *series.last_mut().unwrap() += 1;
        if !hold.is_zero() {
            sleep(hold).await;
        }
        guard.release().await.unwrap();
    }
    series
}

#[tokio::test(start_paused = true)]
async fn a_series_is_bounded_in_number_in_tokens_and_in_time() {
    let table = [
        (PassingOn::at_most(9).within(HOUR), Duration::ZERO, 10),
        (PassingOn::at_most(1).within(HOUR), Duration::ZERO, 2),
        (PassingOn::at_most(1000).within(HOUR), Duration::ZERO, 64),
        (PassingOn::at_most(0).within(HOUR), Duration::ZERO, 1),
        (
            PassingOn::at_most(64).within(Duration::ZERO),
            Duration::ZERO,
            1,
        ),
        (PassingOn::never(), Duration::ZERO, 1),
        (PassingOn::at_most(64).within(10 * SECOND), SECOND, 10),
    ];
    for (passing, hold, most) in table {
        let backend = Scripted::honest();
        let lock = lock(&backend).with_wait(HOUR).with_passing_on(passing);
        let series = series(&lock, &backend, hold).await;
        assert!(
            series.iter().all(|guards| *guards <= most),
            "{passing:?}: {series:?}"
        );
        // Virtual time is rounded up to milliseconds.
        assert!(series[0] * 10 >= most * 9, "{passing:?}: {series:?}");
        assert_eq!(series.iter().sum::<usize>(), 300);
    }
}

#[tokio::test(start_paused = true)]
async fn by_default_a_series_ends_after_five_milliseconds() {
    let backend = Scripted::honest();
    let lock = lock(&backend).with_wait(HOUR);
    let series = series(&lock, &backend, MS).await;
    assert!(series.iter().all(|guards| *guards <= 6), "{series:?}");
    assert!(series.len() < 200, "{series:?}");
}

#[tokio::test(start_paused = true)]
async fn without_fencing_tokens_the_number_alone_is_the_bound() {
    let capabilities = Capabilities::new().with_wakeups(true);
    let backend = Scripted::honest().with_capabilities(capabilities);
    let lock = lock_of(&backend).with_passing_on(PassingOn::at_most(99).within(HOUR));
    // The first grant needs no block here, and is passed on as well.
    let series = series(&lock, &backend, Duration::ZERO).await;
    assert_eq!(series[0], 99);
    assert!(
        series[1..].iter().all(|guards| *guards <= 100),
        "{series:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_bounds_of_giver_and_receiver_both_count() {
    let never = PassingOn::never();
    for (giver, receiver) in [(never, endless()), (endless(), never)] {
        let backend = Scripted::honest();
        let lock = lock_of(&backend);
        let first = lock.acquire().await.unwrap();
        let giving = waiter(&lock.clone().with_passing_on(giver));
        yield_now().await;
        let receiving = waiter(&lock.clone().with_passing_on(receiver));
        yield_now().await;
        first.release().await.unwrap();
        granted(giving).await.release().await.unwrap();
        assert_eq!(count(&backend, Op::Release), 2, "at the store");
        drop(granted(receiving).await);
    }
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "virtual time alone")]
async fn a_process_that_does_not_pass_on_is_served_within_the_bound() {
    for passing in [PassingOn::default(), PassingOn::never()] {
        for hold in [2 * MS, 7 * MS, 30 * MS] {
            let begun = std::time::Instant::now();
            let backend = Scripted::honest();
            // Who has the lock knows sooner than others that it was released.
            let odd = Odd {
                wakes_late: true,
                ..Odd::new(&backend)
            };
            let greedy = Locks::new(odd.clone()).lock("k").with_passing_on(passing);
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let lock = greedy.clone();
                    spawn(async move {
                        loop {
                            let guard = lock.acquire().await.unwrap();
                            sleep(hold).await;
                            drop(guard);
                        }
                    })
                })
                .collect();
            sleep(MS).await;
            let polite = Locks::new(odd).lock("k");
            let polite = polite.with_passing_on(PassingOn::never());
            // Real time counts too: where the machine stalls, a rest is over before others could ask, and the next is theirs. Such
            // turns say nothing.
            let (mut seen, mut undisturbed, mut before) = (false, 0, begun.elapsed());
            for turn in 0.. {
                assert!(turn < 5_000, "the machine does nothing but stall");
                let (start, real) = (Instant::now(), std::time::Instant::now());
                let guard = polite.acquire().await.unwrap();
                let took = start.elapsed();
                // Four times 5 ms, or 5 ms when it was seen, the hold under way, and what timers round up.
                let bound = if seen { 5 * MS } else { 20 * MS } + hold + 10 * MS;
                let stalled = before + real.elapsed() >= MS;
                assert!(
                    took <= bound || stalled,
                    "{passing:?}, {hold:?}, {turn}: {took:?}"
                );
                seen = true;
                undisturbed += usize::from(!stalled);
                if undisturbed == 50 {
                    break;
                }
                sleep(3 * MS).await;
                guard.release().await.unwrap();
                sleep(3 * MS).await;
                before = real.elapsed();
            }
            for task in tasks {
                task.abort();
            }
        }
    }
}

// It is not passed on.

/// The release of a guard with one in line is sent to the store, and the next has the lock by a grant of its own.
async fn assert_released_at_the_store(
    backend: &Scripted,
    guard: LockGuard,
    waiting: JoinHandle<Result<LockGuard, LockError>>,
) {
    let (acquires, releases) = (count(backend, Op::Acquire), count(backend, Op::Release));
    let owner = backend.entries()["k"].owner.clone();
    guard.release().await.unwrap();
    let next = timeout(HOUR, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(count(backend, Op::Release), releases + 1);
    assert!(count(backend, Op::Acquire) > acquires);
    assert!(backend.entries()["k"].owner != owner);
    next.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_another_ttl_or_label_is_not_passed_on() {
    type Change = fn(DistributedLock) -> DistributedLock;
    let others: [Change; 4] = [
        |lock| lock.with_ttl(TTL - MS),
        |lock| lock.with_ttl(TTL + MS),
        |lock| lock.with_label("other"),
        |lock| lock.with_label("mee"),
    ];
    for other in others {
        let backend = Scripted::honest();
        let lock = lock_of(&backend).with_label("me");
        let first = lock.acquire().await.unwrap();
        let giving = waiter(&lock);
        yield_now().await;
        let receiving = waiter(&other(lock.clone()));
        yield_now().await;
        // Who comes after it would fit, and is not preferred.
        let later = waiter(&lock);
        yield_now().await;
        first.release().await.unwrap();
        let guard = granted(giving).await;
        let (releases, token) = (count(&backend, Op::Release), token(&guard));
        guard.release().await.unwrap();
        let guard = granted(receiving).await;
        assert_eq!(count(&backend, Op::Release), releases + 1);
        assert!(guard.fencing_token().unwrap().get() > token);
        assert!(!later.is_finished());
        let entry = &backend.entries()["k"];
        assert!(guard.remaining() <= entry.remaining);
        drop(guard);
        drop(granted(later).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_left_to_expire_is_not_passed_on() {
    for by_policy in [false, true] {
        let backend = Scripted::honest();
        let lock = lock_of(&backend);
        let first = lock.acquire().await.unwrap();
        let policy = if by_policy {
            GuardPolicy::LeaveToExpire
        } else {
            GuardPolicy::Release
        };
        let giving = waiter(&lock.clone().with_guard(policy));
        yield_now().await;
        let waiting = waiter(&lock);
        yield_now().await;
        first.release().await.unwrap();
        let guard = granted(giving).await;
        let left = guard.remaining();
        match by_policy {
            true => drop(guard),
            false => guard.leave_to_expire(),
        }
        let (guard, took) = timed(waiting).await;
        assert!(took >= left, "{took:?} of {left:?}");
        assert!(took < TTL + SLACK, "{took:?}");
        drop(guard.unwrap().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_to_expire_ends_with_its_guards_own_deadline() {
    for (effect, trims) in [
        (Effect::Honest, 0),
        (Effect::LoseReply(cut()), 1),
        (Effect::FailBefore(cut()), 1),
        (Effect::DelayAfter(OP / 2), 1),
        (Effect::DelayBefore(OP / 2), 1),
    ] {
        for passed_on in [false, true] {
            for by_policy in [false, true] {
                let backend = Scripted::honest();
                let leaks = LeakCheck::start();
                let lock = lock_of(&backend);
                let leaving = match by_policy {
                    true => lock.clone().with_guard(GuardPolicy::LeaveToExpire),
                    false => lock.clone(),
                };
                let guard = if passed_on {
                    let guard = passable(&lock).await;
                    let receiving = waiter(&leaving);
                    yield_now().await;
                    guard.release().await.unwrap();
                    granted(receiving).await
                } else {
                    leaving.try_acquire().await.unwrap()
                };
                backend.on(Op::Renew).clear();
                let granted = Moment::now();
                backend.on(Op::Renew).next(effect.clone());
                let before = count(&backend, Op::Renew);
                while count(&backend, Op::Renew) == before {
                    sleep(10 * MS).await;
                }
                let (left, renewals) = (guard.remaining(), count(&backend, Op::Renew));
                match by_policy {
                    true => drop(guard),
                    false => guard.leave_to_expire(),
                }
                sleep(OP).await;
                let case = format!("{effect:?} {passed_on} {by_policy}");
                assert_eq!(count(&backend, Op::Renew), renewals + trims, "{case}");
                // By what clocks may differ, the entry lasts longer.
                let drift = TTL / 100 + 2 * MS;
                let ends = backend.entries()["k"].remaining + OP;
                assert!(
                    ends >= left && ends <= left + drift + SLACK,
                    "{case}: {ends:?} {left:?}"
                );
                if trims > 0 {
                    let lasts = granted.elapsed() + backend.entries()["k"].remaining;
                    assert!(lasts <= TTL + SLACK, "{case}: {lasts:?}");
                }
                sleep(TTL).await;
                assert_quiet(&backend, &leaks, MS).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_leaves_it_to_expire_has_all_of_its_ttl() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    let first = lock.acquire().await.unwrap();
    let giving = waiter(&lock);
    yield_now().await;
    let receiving = waiter(&lock.clone().with_guard(GuardPolicy::LeaveToExpire));
    yield_now().await;
    first.release().await.unwrap();
    let guard = granted(giving).await;
    sleep(TTL / 4).await;
    guard.release().await.unwrap();
    let guard = granted(receiving).await;
    let start = Moment::now();
    drop(guard);
    while !is_free(&backend) {
        sleep(10 * MS).await;
    }
    assert!(is_about(start.elapsed(), TTL), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lock_whose_entry_may_outlast_the_next_holders_ttl_is_not_passed_on() {
    for effect in [
        Effect::Honest,
        Effect::LoseReply(refused()),
        Effect::LoseReply(cut()),
    ] {
        let backend = Scripted::honest();
        let lock = lock_of(&backend);
        let (guard, mut waiting) = line_of(&lock, 1).await;
        backend.on(Op::Renew).always(effect);
        let _ = guard.extend(HOUR).await;
        backend.on(Op::Renew).clear();
        assert_released_at_the_store(&backend, guard, next(&mut waiting)).await;
    }
    // As soon as it does not any more, it is.
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    let (guard, mut waiting) = line_of(&lock, 1).await;
    guard.extend(10 * SECOND).await.unwrap();
    sleep(11 * SECOND).await;
    let releases = count(&backend, Op::Release);
    guard.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    assert_eq!(count(&backend, Op::Release), releases);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_lock_with_a_renewal_in_flight_or_of_unknown_outcome_is_not_passed_on() {
    for effect in [
        Effect::HangBefore,
        Effect::HangAfter,
        Effect::LoseReply(cut()),
        Effect::FailBefore(cut()),
        Effect::Panic,
    ] {
        let backend = Scripted::honest();
        let lock = lock_of(&backend);
        let (guard, mut waiting) = line_of(&lock, 1).await;
        backend.on(Op::Renew).always(effect.clone());
        sleep(TTL / 3 + MS).await;
        assert!(count(&backend, Op::Renew) >= 1, "{effect:?}");
        assert_released_at_the_store(&backend, guard, next(&mut waiting)).await;
    }
    // When the doubt is over, it is.
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    let (guard, mut waiting) = line_of(&lock, 1).await;
    backend.on(Op::Renew).next(Effect::LoseReply(cut()));
    sleep(TTL).await;
    let releases = count(&backend, Op::Release);
    guard.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    assert_eq!(count(&backend, Op::Release), releases);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_shortened_without_an_answer_is_never_passed_on() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    let (guard, mut waiting) = line_of(&lock, 1).await;
    backend
        .on(Op::Renew)
        .next(Effect::LoseReply(cut()))
        .next(Effect::LoseReply(cut()));
    backend.on(Op::Renew).always(Effect::FailBefore(refused()));
    assert!(guard.renew_for(TTL / 2).await.is_err());
    backend.on(Op::Renew).clear();
    sleep(SECOND).await;
    assert_released_at_the_store(&backend, guard, next(&mut waiting)).await;

    // Of a client that sends again by itself, not after any shortening.
    let backend = Scripted::honest();
    let capabilities = backend_capabilities(&backend).with_resends(true);
    let backend = backend.with_capabilities(capabilities);
    let lock = lock_of(&backend);
    let (guard, mut waiting) = line_of(&lock, 1).await;
    guard.renew_for(TTL / 2).await.unwrap();
    assert_released_at_the_store(&backend, guard, next(&mut waiting)).await;
}

fn backend_capabilities(backend: &Scripted) -> Capabilities {
    lock_core::LockBackend::capabilities(backend)
}

#[tokio::test(start_paused = true)]
async fn a_lost_lock_is_not_passed_on() {
    for stolen in [false, true] {
        let backend = Scripted::honest();
        let lock = lock_of(&backend);
        let (guard, mut waiting) = line_of(&lock, 1).await;
        match stolen {
            true => drop(backend.steal("k", TTL)),
            false => assert!(backend.evict("k")),
        }
        guard.lost().await;
        let waiting = next(&mut waiting);
        if stolen {
            sleep(SECOND).await;
            assert!(!waiting.is_finished());
        }
        let released = guard.release().await.unwrap();
        assert_eq!(
            released,
            if stolen {
                Released::TakenOver
            } else {
                Released::Expired
            }
        );
        let guard = timeout(2 * TTL, waiting).await.unwrap().unwrap().unwrap();
        assert!(guard.remaining() <= backend.entries()["k"].remaining);
    }
    // Nor one whose deadline was not noticed yet.
    let backend = Scripted::honest();
    let lock = lock_of(&backend).with_renewal(RenewalPolicy::never());
    let (guard, mut waiting) = line_of(&lock, 1).await;
    tokio::time::advance(TTL - 20 * MS).await;
    assert!(!guard.is_held());
    guard.release().await.unwrap();
    let guard = granted(next(&mut waiting)).await;
    assert!(guard.remaining() > TTL - SECOND, "a grant of its own");
}

// A lease with too little left is renewed first.

/// A guard, old enough for what comes after it to renew the lease first, and one in line that is not renewed.
async fn old_lease(backend: &Scripted) -> (LockGuard, JoinHandle<Result<LockGuard, LockError>>) {
    let lock = lock_of(backend);
    let first = lock.acquire().await.unwrap();
    let giving = waiter(&lock);
    yield_now().await;
    let receiving = waiter(&lock.clone().with_renewal(RenewalPolicy::never()));
    yield_now().await;
    first.release().await.unwrap();
    let guard = granted(giving).await;
    sleep(SECOND).await;
    (guard, receiving)
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_not_renewed_gets_all_of_its_ttl() {
    let backend = Scripted::honest();
    let (guard, receiving) = old_lease(&backend).await;
    let (trips_before, owner) = (trips(&backend), backend.entries()["k"].owner.clone());
    guard.release().await.unwrap();
    let guard = granted(receiving).await;
    assert_eq!(
        (trips(&backend), count(&backend, Op::Renew)),
        (trips_before, 1)
    );
    assert_eq!(backend.entries()["k"].owner, owner);
    let all = TTL - TTL / 100 - 2 * MS;
    assert!(guard.remaining() <= all && guard.remaining() + SLACK > all);
    sleep(TTL - SECOND).await;
    assert!(guard.is_held());
    assert_eq!(count(&backend, Op::Renew), 1);
    sleep(SECOND).await;
    assert!(!guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_renewed_gets_two_thirds_of_its_ttl() {
    for (held, renewals) in [(TTL / 8, 0), (TTL * 2 / 5, 1)] {
        let backend = Scripted::honest();
        let lock = lock_of(&backend);
        let first = lock.acquire().await.unwrap();
        // The giver is renewed seldom.
        let seldom = RenewalPolicy::per_ttl(2);
        let giving = waiter(&lock.clone().with_renewal(seldom));
        yield_now().await;
        let receiving = waiter(&lock);
        yield_now().await;
        first.release().await.unwrap();
        let guard = granted(giving).await;
        // Before its own renewal, which is spread over the second half of half the ttl.
        backend.on(Op::Renew).always(Effect::FailBefore(refused()));
        sleep(held).await;
        backend.on(Op::Renew).clear();
        let before = count(&backend, Op::Renew);
        guard.release().await.unwrap();
        let guard = granted(receiving).await;
        assert_eq!(count(&backend, Op::Renew), before + renewals, "{held:?}");
        assert!(guard.remaining() >= TTL * 2 / 3, "{:?}", guard.remaining());
        assert!(guard.remaining() <= backend.entries()["k"].remaining);
        assert_eq!(count(&backend, Op::Acquire), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_least_validity_holds_for_a_passed_on_lock_too() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    let first = lock.acquire().await.unwrap();
    let giving = waiter(&lock);
    yield_now().await;
    let options = LockOptions::default()
        .with_min_validity(TTL - SECOND)
        .with_wait(HOUR)
        .with_passing_on(endless());
    let receiving = waiter(&lock.clone().with_options(options));
    yield_now().await;
    first.release().await.unwrap();
    let guard = granted(giving).await;
    sleep(2 * SECOND).await;
    guard.release().await.unwrap();
    let guard = granted(receiving).await;
    assert!(guard.remaining() > TTL - SECOND);
    assert_eq!(count(&backend, Op::Renew), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_costs_the_lease_and_not_the_receiver() {
    let failures = [
        vec![Effect::FailBefore(refused()); 40],
        vec![Effect::LoseReply(cut()); 40],
        vec![Effect::HangBefore],
        vec![Effect::HangAfter],
        vec![Effect::DelayAfter(HOUR)],
        vec![Effect::DelayBeforeDetached(3 * SECOND)],
    ];
    for effects in failures {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let (guard, receiving) = old_lease(&backend).await;
        for effect in &effects {
            backend.on(Op::Renew).next(effect.clone());
        }
        let owner = backend.entries()["k"].owner.clone();
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        let (guard, took) = timed(receiving).await;
        assert!(took < 2 * OP + SLACK, "{effects:?}: {took:?}");
        let guard = guard.unwrap().unwrap();
        backend.on(Op::Renew).clear();
        assert!(
            backend.entries()["k"].owner != owner,
            "{effects:?}: a grant of its own"
        );
        assert!(guard.remaining() <= backend.entries()["k"].remaining);
        sleep(5 * SECOND).await;
        assert!(guard.is_held());
        guard.release().await.unwrap();
        assert_quiet(&backend, &leaks, CLEAN).await;
    }
}

/// The store lets nobody renew (no permission for it, say), and its receivers are not renewed, so that each needs all of
/// its ttl.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_refused_for_good_costs_no_receiver_the_lock() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend).with_renewal(RenewalPolicy::never());
    let (mut guard, waiting) = line_of(&lock, 3).await;
    let refused = BackendError::permanent("not permitted");
    backend.on(Op::Renew).always(Effect::FailBefore(refused));
    for waiting in waiting {
        sleep(MS).await;
        let owner = backend.entries()["k"].owner.clone();
        guard.release().await.unwrap();
        guard = granted(waiting).await;
        assert!(backend.entries()["k"].owner != owner, "a grant of its own");
    }
    assert!(count(&backend, Op::Renew) > 0);
    guard.release().await.unwrap();
}

/// The giver's runtime is not driven any more, so that the offer is still there when its turn is taken over.
#[test]
fn who_takes_over_the_turn_of_another_gets_no_lease_of_another_label() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend).with_ttl(20 * SECOND).with_label("one");
    let (idle, stays) = (single(), single());
    let (guard, stopped) = idle.block_on(async {
        let guard = passable(&lock).await;
        let mut stopped = acquiring(&lock);
        poll_once(&mut stopped).await;
        (guard, stopped)
    });
    let two = lock.clone().with_label("two");
    let other = stays.block_on(waiters(&two, 1)).remove(0);
    idle.block_on(guard.release()).unwrap();
    assert!(!is_free(&backend), "on its way");
    let (guard, took) = stays.block_on(timed(other));
    let guard = guard.unwrap().unwrap();
    // Released by who took the turn over, since the giver's runtime does nothing.
    assert!(took < 20 * CLAIM, "{took:?}");
    assert_eq!(backend.entries()["k"].owner.label(), Some("two"));
    stays.block_on(guard.release()).unwrap();
    drop((stopped, idle));
}

/// Likewise.
#[test]
fn who_takes_over_the_turn_of_another_gets_no_lease_beyond_the_bound() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend).with_ttl(2 * SECOND);
    for bound in [
        PassingOn::never(),
        PassingOn::at_most(1),
        endless().within(CLAIM),
    ] {
        let (idle, stays) = (single(), single());
        let (guard, stopped) = idle.block_on(async {
            let guard = passable(&lock).await;
            let mut stopped = acquiring(&lock);
            poll_once(&mut stopped).await;
            (guard, stopped)
        });
        let bounded = lock.clone().with_passing_on(bound);
        let other = stays.block_on(waiters(&bounded, 1)).remove(0);
        let owner = backend.entries()["k"].owner.clone();
        idle.block_on(guard.release()).unwrap();
        let guard = stays.block_on(other).unwrap().unwrap();
        assert_ne!(backend.entries()["k"].owner, owner, "{bound:?}");
        stays.block_on(guard.release()).unwrap();
        drop((stopped, idle));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_proves_lost_is_waited_for_like_any_lock() {
    for stolen in [false, true] {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let (guard, receiving) = old_lease(&backend).await;
        let thief = match stolen {
            true => Some(backend.steal("k", 10 * SECOND)),
            false => {
                backend.evict("k");
                None
            }
        };
        assert_eq!(
            guard.release().await.unwrap(),
            Released::Released,
            "as far as it knew"
        );
        if thief.is_some() {
            sleep(5 * SECOND).await;
            assert!(!receiving.is_finished());
            assert_eq!(
                Some(&backend.entries()["k"].owner),
                thief.as_ref(),
                "left alone"
            );
        }
        let guard = timeout(11 * SECOND, receiving)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(guard.remaining() <= backend.entries()["k"].remaining);
        drop(guard);
        assert_quiet(&backend, &leaks, CLEAN).await;
    }
}

// Who goes, or is not there any more.

#[tokio::test(start_paused = true)]
async fn a_receiver_that_goes_passes_it_on() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let lock = lock_of(&backend);
    let guard = passable(&lock).await;
    let mut gone = acquiring(&lock);
    poll_once(&mut gone).await;
    let after = waiter(&lock);
    yield_now().await;
    let before = trips(&backend);
    guard.release().await.unwrap();
    drop(gone);
    let guard = granted(after).await;
    assert_eq!(trips(&backend), before);
    // With nobody behind it, it is released.
    let mut gone = acquiring(&lock);
    poll_once(&mut gone).await;
    drop(guard);
    drop(gone);
    assert_quiet(&backend, &leaks, MS).await;
    assert_eq!(trips(&backend), before + 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_receiver_that_goes_had_at_the_store_is_the_nexts() {
    let backend = Scripted::honest();
    let lock = lock_of(&backend);
    backend.steal("k", HOUR);
    let first = waiter(&lock);
    sleep(MS).await;
    let mut gone = acquiring(&lock);
    poll_once(&mut gone).await;
    let mut after = waiters(&lock, 2).await;
    backend.evict("k");
    backend.wake("k");
    let guard = granted(first).await;
    guard.release().await.unwrap();
    drop(gone);
    let guard = granted(next(&mut after)).await;
    assert_eq!(backend.subscriptions(), 1);
    guard.release().await.unwrap();
    granted(next(&mut after)).await.release().await.unwrap();
    assert_eq!(backend.subscriptions(), 0);
    assert_eq!(count(&backend, Op::Subscribe), 1);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_nobody_polls_is_passed_over() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let lock = lock_of(&backend);
    let guard = passable(&lock).await;
    let mut stopped = acquiring(&lock);
    poll_once(&mut stopped).await;
    let after = waiter(&lock);
    yield_now().await;
    let before = trips(&backend);
    guard.release().await.unwrap();
    let (guard, took) = timed(after).await;
    assert!(took < 3 * CLAIM, "{took:?}");
    assert_eq!(trips(&backend), before, "it went to the next in line");
    drop(guard.unwrap().unwrap());
    // That one was released: nobody but the sleeper stood in line.
    let (guard, took) = timed(Locks::new(backend.clone()).lock("k").acquire()).await;
    assert!(took < SLACK, "{took:?}");
    guard.unwrap().release().await.unwrap();

    // Alone in line, it holds up no other process.
    let guard = passable(&lock).await;
    let mut alone = acquiring(&lock);
    poll_once(&mut stopped).await;
    poll_once(&mut alone).await;
    guard.release().await.unwrap();
    let (guard, took) = timed(Locks::new(backend.clone()).lock("k").acquire()).await;
    assert!(took < 3 * CLAIM, "{took:?}");
    guard.unwrap().release().await.unwrap();
    // Polled again, it gets its turn.
    drop(stopped.await.unwrap());
    drop(alone.await.unwrap());
    assert_quiet(&backend, &leaks, CLEAN).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_on_its_way_is_nobodys() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let lock = lock_of(&backend).with_ttl(100 * MS);
    let guard = passable(&lock).await;
    let mut late = acquiring(&lock);
    poll_once(&mut late).await;
    guard.release().await.unwrap();
    tokio::time::advance(99 * MS).await;
    let guard = late.await.unwrap();
    assert!(guard.remaining() > 50 * MS, "a grant of its own");
    assert!(guard.remaining() <= backend.entries()["k"].remaining);
    guard.release().await.unwrap();
    assert_quiet(&backend, &leaks, CLEAN).await;
}

#[test]
fn a_lock_is_passed_on_to_another_runtime_which_renews_it() {
    let backend = Scripted::honest();
    let short = SECOND;
    let lock = lock_of(&backend)
        .with_ttl(short)
        .with_renewal(RenewalPolicy::per_ttl(8));
    let (ends, stays) = (single(), single());
    let guard = ends.block_on(async { passable(&lock).await });
    let waiting = stays.block_on(waiters(&lock, 1)).remove(0);
    let before = trips(&backend);
    ends.block_on(guard.release()).unwrap();
    let guard = stays.block_on(waiting).unwrap().unwrap();
    assert_eq!(trips(&backend), before);
    drop(ends);
    stays.block_on(async {
        sleep(2 * short).await;
        assert!(guard.is_held(), "renewed by its own runtime");
        guard.release().await.unwrap();
    });
    assert!(is_free(&backend));
}

#[test]
fn a_lease_that_was_passed_to_a_runtime_that_ends_or_stops_is_released() {
    for ends in [true, false] {
        let backend = Scripted::honest();
        let lock = lock_of(&backend);
        let (other, stays) = (single(), single());
        let guard = stays.block_on(async { passable(&lock).await });
        other.block_on(async {
            drop(waiter(&lock));
            yield_now().await;
        });
        stays.block_on(async {
            guard.release().await.unwrap();
            assert!(!is_free(&backend), "on its way");
        });
        let other = (!ends).then_some(other);
        stays.block_on(async {
            let others = Locks::new(backend.clone()).lock("k");
            let guard = timeout(10 * CLAIM, others.acquire())
                .await
                .unwrap()
                .unwrap();
            guard.release().await.unwrap();
        });
        drop(other);
    }
}

#[test]
fn a_receiver_that_goes_gives_back_what_a_runtime_that_ended_or_stopped_offered_it() {
    for ends in [false, true] {
        let backend = Scripted::honest();
        let lock = lock_of(&backend).with_ttl(HOUR);
        let (giver, stays) = (single(), single());
        let guard = giver.block_on(passable(&lock));
        let mut receiver = acquiring(&lock);
        stays.block_on(poll_once(&mut receiver));
        giver.block_on(guard.release()).unwrap();
        assert!(!is_free(&backend), "on its way");
        let giver = (!ends).then_some(giver);
        stays.block_on(async {
            drop(receiver);
            let others = Locks::new(backend.clone()).lock("k");
            let others = timeout(10 * CLAIM, others.acquire()).await;
            others.unwrap().unwrap().release().await.unwrap();
        });
        drop(giver);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_releases_what_is_on_its_way() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let locks = locks(&backend).with_passing_on(endless());
    let lock = locks.lock("k");
    let guard = passable(&lock).await;
    let mut receiving = acquiring(&lock);
    poll_once(&mut receiving).await;
    guard.release().await.unwrap();
    assert!(!is_free(&backend));
    assert!(locks.shutdown().await);
    assert!(is_free(&backend));
    let error = receiving.await.unwrap_err();
    assert!(matches!(error, LockError::Closed { .. }), "{error:?}");
    assert_quiet(&backend, &leaks, CLEAN).await;
}

#[tokio::test(start_paused = true)]
async fn giver_and_receiver_are_cut_at_every_point() {
    for latency in [Duration::ZERO, 5 * MS] {
        for renewal in [RenewalPolicy::default(), RenewalPolicy::never()] {
            let backend = Scripted::honest().with_latency(latency);
            let leaks = LeakCheck::start();
            let lock = lock_of(&backend);
            let receiver = lock.clone().with_renewal(renewal);
            let cuts = lock_testkit::cancel_sweep(
                |_| async {
                    let guard = lock.acquire().await.unwrap();
                    let mut first = acquiring(&lock);
                    poll_once(&mut first).await;
                    let mut second = acquiring(&receiver);
                    poll_once(&mut second).await;
                    let third = waiter(&lock);
                    guard.release().await.unwrap();
                    let guard = first.await.unwrap();
                    sleep(10 * MS).await;
                    guard.release().await.unwrap();
                    let guard = second.await.unwrap();
                    assert!(guard.is_held());
                    guard.release().await.unwrap();
                    drop(third.await.unwrap().unwrap());
                },
                async |_| {
                    let others = Locks::new(backend.clone()).lock("k");
                    drop(timeout(SECOND, others.acquire()).await.unwrap().unwrap());
                    assert_quiet(&backend, &leaks, CLEAN).await;
                },
            )
            .await;
            assert!(cuts >= 7, "{cuts}");
        }
    }
}

// Many.

#[test]
fn on_many_threads_no_two_hold_it_and_tokens_rise() {
    let backend = Scripted::honest();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_time()
        .build()
        .unwrap();
    let inside = Arc::new(AtomicUsize::new(0));
    let newest = Arc::new(Mutex::new(0));
    // Two processes of twelve tasks, one of which passes on for as long as it can.
    let tasks: Vec<_> = (0..24)
        .map(|n| (n, n % 2))
        .scan(
            [
                Locks::new(backend.clone()).with_passing_on(endless()),
                Locks::new(backend.clone()),
            ],
            |locks, (n, which)| {
                let lock = locks[which].lock("k").with_wait(100 * SECOND);
                let (inside, newest) = (Arc::clone(&inside), Arc::clone(&newest));
                Some(runtime.spawn(async move {
                    for round in 0..60 {
                        let limit = if round % 7 == 0 {
                            Duration::from_micros(80 * n as u64)
                        } else {
                            100 * SECOND
                        };
                        let Ok(guard) = timeout(limit, lock.acquire()).await else {
                            continue;
                        };
                        let guard = guard.unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are in");
                        let token = token(&guard);
                        {
                            let mut newest = newest.lock().unwrap();
                            assert!(token > *newest, "{token} after {newest}");
                            *newest = token;
                        }
                        if n % 3 == 0 {
                            yield_now().await;
                        }
                        assert!(guard.is_held());
                        inside.fetch_sub(1, Ordering::SeqCst);
                        match round % 2 {
                            0 => drop(guard),
                            _ => drop(guard.release().await.unwrap()),
                        }
                    }
                }))
            },
        )
        .collect();
    runtime.block_on(async {
        for task in tasks {
            timeout(100 * SECOND, task).await.unwrap().unwrap();
        }
        let last = Locks::new(backend.clone()).lock("k");
        timeout(SECOND, last.acquire())
            .await
            .unwrap()
            .unwrap()
            .release()
            .await
            .unwrap();
    });
    let (acquires, holds) = (count(&backend, Op::Acquire), 24 * 60);
    assert!(acquires < holds, "{acquires} attempts for {holds} holds");
}
