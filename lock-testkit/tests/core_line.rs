//! The line of one process: its head alone talks to the store, in order, and everybody is told the truth.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common_acquire;

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common_acquire::*;
use lock_core::{
    BackendError, Busy, Capabilities, Holder, LockError, LockGuard, Locks, PassingOn, Place,
    Released, RenewalPolicy, RetryPolicy,
};
use lock_testkit::{Effect, LeakCheck, Op, Scripted};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

// In order, and at no cost.

#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_the_order_they_came() {
    for wakeups in [true, false] {
        let backend = Scripted::honest().with_wakeups(wakeups);
        let lock = lock(&backend);
        let leaks = LeakCheck::start();
        let guard = lock.acquire().await.unwrap();
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut users = Vec::new();
        for n in 0..50 {
            let (lock, served) = (lock.clone(), Arc::clone(&served));
            users.push(spawn(async move {
                let guard = lock.acquire().await.unwrap();
                served.lock().unwrap().push(n);
                sleep(MS).await;
                match n % 2 {
                    0 => drop(guard),
                    _ => assert_eq!(guard.release().await.unwrap(), Released::Released),
                }
            }));
            yield_now().await;
        }
        guard.release().await.unwrap();
        for user in users {
            user.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), (0..50).collect::<Vec<_>>());
        assert_eq!(count(&backend, Op::Subscribe), 0, "nobody else had it");
        assert_quiet(&backend, &leaks, CLEAN).await;
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_guard_of_the_process_waiters_cost_the_store_nothing() {
    for wakeups in [true, false] {
        let backend = Scripted::honest().with_wakeups(wakeups);
        let lock = lock(&backend);
        let guard = lock.acquire().await.unwrap();
        let waiters = waiters(&lock.clone().with_wait(HOUR), 1000).await;
        sleep(10 * SECOND).await;
        let others = backend
            .calls()
            .iter()
            .filter(|call| call.op != Op::Renew)
            .count();
        assert_eq!(others, 1, "the holder's own attempt");
        assert!(guard.is_held());
        for waiter in &waiters {
            waiter.abort();
        }
        guard.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_waiters_one_asks_and_subscribes() {
    let backend = Scripted::honest();
    let lock = lock(&backend).with_wait(HOUR);
    backend.steal("k", HOUR);
    let waiters = waiters(&lock, 1000).await;
    sleep(20 * SECOND).await;
    assert_eq!(count(&backend, Op::Subscribe), 1);
    assert_eq!(backend.subscriptions(), 1);
    let attempts = count(&backend, Op::Acquire);
    assert!((20..30).contains(&attempts), "{attempts} in 20 s");
    backend.evict("k");
    backend.wake("k");
    for waiter in waiters {
        let guard = waiter.await.unwrap().unwrap();
        guard.release().await.unwrap();
    }
    assert_eq!(backend.subscriptions(), 0);
}

#[tokio::test(start_paused = true)]
async fn waiters_outlast_a_store_that_is_down_with_one_of_them_asking() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    backend
        .on(Op::Acquire)
        .always(Effect::FailBefore(refused()));
    let waiters = waiters(&lock(&backend), 100).await;
    sleep(10 * SECOND).await;
    let attempts = count(&backend, Op::Acquire);
    assert!((10..60).contains(&attempts), "{attempts} by 100 in 10 s");
    backend.on(Op::Acquire).clear();
    for waiter in waiters {
        drop(waiter.await.unwrap().unwrap());
    }
    assert_quiet(&backend, &leaks, CLEAN).await;
}

#[tokio::test(start_paused = true)]
async fn the_lock_is_shared_fairly() {
    let backend = Scripted::honest();
    let lock = lock(&backend);
    let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..64).map(|_| AtomicUsize::new(0)).collect());
    let greedy: Vec<_> = (0..64)
        .map(|n| {
            let (lock, counts) = (lock.clone(), Arc::clone(&counts));
            spawn(async move {
                loop {
                    let guard = lock.acquire().await.unwrap();
                    counts[n].fetch_add(1, Ordering::SeqCst);
                    sleep(MS).await;
                    drop(guard);
                }
            })
        })
        .collect();
    sleep(10 * SECOND).await;
    for task in greedy {
        task.abort();
    }
    let counts: Vec<f64> = counts
        .iter()
        .map(|count| count.load(Ordering::SeqCst) as f64)
        .collect();
    let sum: f64 = counts.iter().sum();
    let squares: f64 = counts.iter().map(|count| count * count).sum();
    let jain = sum * sum / (64.0 * squares);
    assert!(jain >= 0.99 && sum > 1000.0, "{jain}: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn clones_share_a_line_and_other_locks_on_the_backend_have_their_own() {
    let backend = Scripted::honest();
    backend.steal("p:k", HOUR);
    let locks = locks(&backend);
    // The whole key counts.
    let one = locks.clone().with_prefix("p:").lock("k");
    let same = locks.clone().with_ttl(SECOND).lock("p:k");
    let other = Locks::new(backend.clone()).lock("p:k");
    let waiters = [waiter(&one), waiter(&same), waiter(&other)];
    sleep(SECOND / 2).await;
    assert_eq!(backend.subscriptions(), 2);
    for waiter in waiters {
        waiter.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn many_keys_have_as_many_lines() {
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let leaks = LeakCheck::start();
    let mut guards = Vec::new();
    let mut all = Vec::new();
    for n in 0..500 {
        let lock = locks.lock(format!("k{n}"));
        guards.push(lock.acquire().await.unwrap());
        all.push((waiters(&lock, 2).await, lock));
    }
    for (n, guard) in guards.into_iter().enumerate() {
        let (waiters, lock) = &all[n];
        assert!(lock.try_acquire().await.unwrap_err().is_busy());
        guard.release().await.unwrap();
        sleep(MS).await;
        assert!(waiters[0].is_finished() && !waiters[1].is_finished());
    }
    assert_eq!(count(&backend, Op::Subscribe), 0);
    for (waiters, _) in all {
        for waiter in waiters {
            drop(waiter.await.unwrap().unwrap());
        }
    }
    assert_quiet(&backend, &leaks, CLEAN).await;
}

// One attempt.

#[tokio::test(start_paused = true)]
async fn busy_in_the_process_is_answered_without_a_round_trip() {
    let backend = Scripted::honest();
    let lock = lock(&backend).with_label("me");
    let guard = lock.acquire().await.unwrap();
    sleep(SECOND).await;
    let calls = backend.calls().len();
    let busy = lock.try_acquire().await.unwrap_err();
    assert!(matches!(busy, LockError::Busy { .. }), "{busy:?}");
    let holder = busy.holder().unwrap();
    assert_eq!(holder.label.as_deref(), Some("me"));
    assert_eq!(holder.fencing, guard.fencing_token());
    let (remaining, left) = (holder.remaining.unwrap(), guard.remaining());
    assert!(left <= remaining && remaining < TTL, "{remaining:?}");
    for policy in [
        RetryPolicy::never(),
        RetryPolicy::every(SECOND).at_most(0),
        RetryPolicy::default().give_up_after(Duration::ZERO),
    ] {
        let waiting = lock.clone().with_retry(policy);
        let (answer, took) = timed(waiting.acquire()).await;
        let error = answer.unwrap_err();
        assert!(matches!(error, LockError::TimedOut { .. }), "{error:?}");
        assert_eq!(error.holder().unwrap().label.as_deref(), Some("me"));
        assert!(took < SLACK, "{took:?}");
    }
    assert_eq!(backend.calls().len(), calls);
    guard.release().await.unwrap();
    lock.try_acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_stands_in_line_makes_it_busy_in_the_name_of_the_holder() {
    let backend = Scripted::honest();
    let lock = lock(&backend);
    backend.steal("k", TTL);
    let head = waiter(&lock);
    sleep(SECOND).await;
    let calls = backend.calls().len();
    let busy = lock.try_acquire().await.unwrap_err();
    let holder = busy.holder().unwrap();
    assert_eq!(holder.label.as_deref(), Some("thief"));
    let remaining = holder.remaining.unwrap();
    assert!(remaining <= backend.entries()["k"].remaining);
    assert_eq!(backend.calls().len(), calls);

    // And while it is being asked for.
    head.abort();
    assert!(head.await.is_err());
    backend.on(Op::Acquire).next(Effect::DelayBefore(SECOND));
    let asking = waiter(&lock);
    sleep(MS).await;
    let calls = backend.calls().len();
    assert!(lock.try_acquire().await.unwrap_err().is_busy());
    assert_eq!(backend.calls().len(), calls);
    asking.abort();
}

#[tokio::test(start_paused = true)]
async fn a_leaked_guard_counts_until_its_deadline() {
    let backend = Scripted::honest();
    let lock = lock(&backend)
        .with_renewal(RenewalPolicy::never())
        .with_wait(HOUR);
    let guard = lock.acquire().await.unwrap();
    let deadline = guard.remaining();
    std::mem::forget(guard);
    sleep(deadline - 10 * MS).await;
    assert!(lock.try_acquire().await.unwrap_err().is_busy());
    assert_eq!(backend.calls().len(), 1);
    sleep(10 * MS).await;
    // The store decides again: its entry outlasts the guard by the drift.
    assert!(lock.try_acquire().await.unwrap_err().is_busy());
    assert_eq!(backend.calls().len(), 2);

    let (answer, took) = timed(lock.acquire()).await;
    let guard = answer.unwrap();
    assert!(is_about(took, TTL - deadline), "{took:?}");
    let waiting = waiter(&lock);
    yield_now().await;
    std::mem::forget(guard);
    let (guard, took) = timed(waiting).await;
    assert!(is_about(took, TTL), "{took:?}");
    guard.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_guard_does_not_count() {
    let backend = Scripted::honest();
    let lock = lock(&backend);
    let guard = lock.acquire().await.unwrap();
    let waiting = waiter(&lock);
    yield_now().await;
    backend.evict("k");
    guard.lost().await;
    let next = soon("the next in line", waiting).await.unwrap().unwrap();
    assert!(next.is_held());
    // The lost one says nothing more in its line.
    drop(guard);
    sleep(SECOND).await;
    assert!(next.is_held());
    assert!(lock.try_acquire().await.unwrap_err().is_busy());
    next.release().await.unwrap();

    let guard = lock.acquire().await.unwrap();
    backend.steal("k", TTL);
    guard.lost().await;
    let busy = lock.try_acquire().await.unwrap_err();
    assert_eq!(busy.holder().unwrap().label.as_deref(), Some("thief"));
    backend.evict("k");
    lock.try_acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_held_too_long_does_not_count() {
    let backend = Scripted::honest();
    let renewal = RenewalPolicy::default().hold_at_most(SECOND);
    let lock = lock(&backend).with_renewal(renewal);
    let guard = lock.acquire().await.unwrap();
    let waiting = waiter(&lock);
    sleep(SECOND + 100 * MS).await;
    assert!(!guard.is_held());
    assert_eq!(count(&backend, Op::Acquire), 3, "it waits at the store");
    drop(guard);
    drop(soon("the next in line", waiting).await.unwrap().unwrap());
}

// The turn goes on with the answer to the release.

#[tokio::test(start_paused = true)]
async fn the_next_asks_when_the_release_is_answered() {
    for dropped in [false, true] {
        let backend = Scripted::honest();
        let lock = lock(&backend);
        let guard = lock.acquire().await.unwrap();
        let waiting = waiter(&lock);
        yield_now().await;
        backend.on(Op::Release).next(Effect::Ask);
        let releasing = match dropped {
            true => {
                drop(guard);
                None
            }
            false => Some(spawn(guard.release())),
        };
        let release = backend.next_call().await;
        sleep(SECOND).await;
        assert_eq!(count(&backend, Op::Acquire), 1, "not before");
        release.reply_honestly().await;
        drop(soon("the next in line", waiting).await.unwrap().unwrap());
        assert_eq!(count(&backend, Op::Subscribe), 0);
        if let Some(releasing) = releasing {
            assert_eq!(releasing.await.unwrap().unwrap(), Released::Released);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_without_an_answer_holds_the_line_up_for_one_op_timeout() {
    for effect in [
        Effect::HangBefore,
        Effect::HangAfter,
        Effect::FailBefore(refused()),
        Effect::LoseReply(cut()),
        Effect::Panic,
    ] {
        for dropped in [false, true] {
            let backend = Scripted::honest();
            let leaks = LeakCheck::start();
            let lock = lock(&backend).with_wait(HOUR);
            let guard = lock.acquire().await.unwrap();
            let waiting = spawn({
                let lock = lock.clone();
                async move { timed(lock.acquire()).await }
            });
            yield_now().await;
            backend.on(Op::Release).next(effect.clone());
            match dropped {
                true => drop(guard),
                false => drop(spawn(guard.release())),
            }
            let (guard, took) = waiting.await.unwrap();
            // One that panicked in the background is not repeated.
            let is_left = matches!(effect, Effect::Panic) && dropped;
            let limit = if is_left { TTL + SLACK } else { 3 * OP };
            assert!(took < limit, "{effect:?}, dropped: {dropped}: {took:?}");
            drop(guard.unwrap());
            assert_quiet(&backend, &leaks, CLEAN + TTL).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_left_to_expire_is_waited_for_at_the_store() {
    let backend = Scripted::honest();
    let lock = patient(lock(&backend));
    let guard = lock.acquire().await.unwrap();
    let waiting = waiter(&lock);
    yield_now().await;
    guard.leave_to_expire();
    let (guard, took) = timed(waiting).await;
    assert!(is_about(took, TTL), "{took:?}");
    guard.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_passes_the_line_by() {
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let lock = patient(locks.lock("k"));
    let guard = lock.acquire().await.unwrap();
    let waiting = waiters(&lock, 3).await;
    let ticket = guard.into_ticket().await.unwrap();
    sleep(SECOND).await;
    let resumed = locks.resume(&ticket).await.unwrap();
    sleep(HOUR / 2).await;
    assert!(resumed.is_held() && !waiting[0].is_finished());
    assert_eq!(backend.subscriptions(), 1);
    resumed.release().await.unwrap();
    for waiting in waiting {
        let guard = soon("a turn", waiting).await.unwrap().unwrap();
        guard.release().await.unwrap();
    }
}

// What the next head inherits.

#[tokio::test(start_paused = true)]
async fn the_subscription_is_kept_for_the_next_head() {
    let backend = Scripted::honest();
    backend.steal("k", HOUR);
    let lock = patient(lock(&backend));
    let mut heads = Vec::new();
    for n in 1..=4 {
        heads.push(waiter(&lock.clone().with_wait(n * SECOND)));
        yield_now().await;
    }
    let last = waiter(&lock);
    for head in heads {
        assert!(head.await.unwrap().unwrap_err().is_busy());
        yield_now().await;
        assert_eq!(backend.subscriptions(), 1);
    }
    assert_eq!(count(&backend, Op::Subscribe), 1);
    // One attempt for each head, and one when the subscription was in force.
    assert_eq!(count(&backend, Op::Acquire), 6);
    backend.evict("k");
    backend.wake("k");
    let guard = soon("the last in line", last).await.unwrap().unwrap();
    assert_eq!(backend.subscriptions(), 0, "nobody waits any more");
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_subscription_is_kept_while_others_wait_and_ends_with_the_last() {
    let backend = Scripted::honest();
    backend.steal("k", HOUR);
    let lock = patient(lock(&backend));
    let waiters = waiters(&lock, 3).await;
    sleep(MS).await;
    backend.evict("k");
    backend.wake("k");
    sleep(MS).await;
    assert!(waiters[0].is_finished());
    assert_eq!(backend.subscriptions(), 1);
    waiters[1].abort();
    waiters[2].abort();
    sleep(MS).await;
    assert_eq!(backend.subscriptions(), 0, "the guard needs none");
}

#[tokio::test(start_paused = true)]
async fn the_subscription_is_kept_for_the_head_after_a_holder() {
    let backend = Scripted::honest();
    backend.steal("k", HOUR);
    let lock = patient(lock(&backend)).with_passing_on(PassingOn::never());
    let waiters = waiters(&lock, 4).await;
    for waiter in waiters {
        sleep(2 * MS).await;
        assert!(!waiter.is_finished());
        backend.evict("k");
        backend.wake("k");
        let guard = soon("the next in line", waiter).await.unwrap().unwrap();
        backend.steal("k", HOUR);
        guard.release().await.unwrap();
        assert_eq!(count(&backend, Op::Subscribe), 1);
    }
    sleep(MS).await;
    assert_eq!(backend.subscriptions(), 0, "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn the_place_in_the_stores_line_is_kept_for_the_next_head() {
    let capabilities = Capabilities::new().with_wakeups(true).with_order(true);
    let backend = Scripted::honest().with_capabilities(capabilities);
    backend.on(Op::Acquire).always(Effect::Ask);
    let leaks = LeakCheck::start();
    let lock = patient(lock(&backend));
    let first = waiter(&lock.clone().with_wait(SECOND));
    yield_now().await;
    let second = waiter(&lock);
    let busy = || Busy::new(Holder::new()).with_place(Place::new("7"));
    for _ in 0..2 {
        backend.next_call().await.reply_busy(busy());
    }
    assert!(first.await.unwrap().unwrap_err().is_busy());
    let call = soon("the second asks", backend.next_call()).await;
    let place = backend.calls_of(Op::Acquire).pop().unwrap().place;
    assert_eq!(place.unwrap().as_str(), "7");
    call.reply_granted(1..=1);
    let guard = soon("the second", second).await.unwrap().unwrap();
    guard.release().await.unwrap();
    leaks.assert_none(TTL).await;
    assert!(backend.calls_of(Op::Leave).is_empty(), "it was spent");
    assert_eq!(count(&backend, Op::Subscribe), 1);
}

// How long, how often, and which error.

#[tokio::test(start_paused = true)]
async fn a_wait_in_line_ends_in_time() {
    let backend = Scripted::honest();
    let lock = lock(&backend);
    let _guard = lock.acquire().await.unwrap();
    for wait in [MS, 10 * MS, CLAIM, SECOND, 10 * SECOND] {
        let (answer, took) = timed(lock.clone().with_wait(wait).acquire()).await;
        let Err(LockError::TimedOut { waited, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert!(is_about(took, wait) && waited <= took, "{wait:?}: {took:?}");
    }
    assert_eq!(count(&backend, Op::Acquire), 1);
}

#[tokio::test(start_paused = true)]
async fn retries_are_counted_in_line_as_at_the_store() {
    for wakeups in [true, false] {
        let backend = Scripted::honest().with_wakeups(wakeups);
        let lock = lock(&backend);
        let guard = lock.acquire().await.unwrap();
        let policy = RetryPolicy::every(300 * MS).at_most(3);
        let counted = lock.clone().with_retry(policy);
        let (answer, took) = timed(counted.acquire()).await;
        assert!(answer.unwrap_err().is_busy());
        assert!(is_about(took, 900 * MS), "{took:?}");
        assert_eq!(count(&backend, Op::Acquire), 1, "no one was sent");
        // The turn is no retry.
        let waiting = waiter(&lock.clone().with_retry(RetryPolicy::every(HOUR).at_most(1)));
        sleep(SECOND).await;
        guard.release().await.unwrap();
        drop(soon("a turn", waiting).await.unwrap().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn retries_that_began_in_line_go_on_at_the_store() {
    let backend = Scripted::honest();
    let lock = lock(&backend);
    let guard = lock.acquire().await.unwrap();
    let policy = RetryPolicy::every(300 * MS).at_most(4);
    let waiting = spawn({
        let lock = lock.clone().with_retry(policy);
        async move { timed(lock.acquire()).await }
    });
    sleep(700 * MS).await;
    backend.steal("k", HOUR);
    assert_eq!(guard.release().await.unwrap(), Released::TakenOver);
    let (answer, took) = waiting.await.unwrap();
    assert!(answer.unwrap_err().is_busy());
    assert!(is_about(took, 1200 * MS), "{took:?}");
    // The turn, after the subscription, and two retries at 900 and 1200.
    assert_eq!(count(&backend, Op::Acquire), 1 + 4);
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_a_failing_store_is_told_so() {
    let backend = Scripted::honest();
    backend
        .on(Op::Acquire)
        .always(Effect::FailBefore(refused()));
    let lock = lock(&backend);
    let head = waiter(&lock);
    yield_now().await;
    let (answer, took) = timed(lock.clone().with_wait(SECOND).acquire()).await;
    let error = answer.unwrap_err();
    assert!(matches!(error, LockError::Backend { .. }), "{error:?}");
    assert!(is_about(took, SECOND), "{took:?}");
    head.abort();

    // What no retry mends, each finds out for itself.
    let denied = BackendError::permanent("denied");
    backend
        .on(Op::Acquire)
        .clear()
        .always(Effect::FailBefore(denied));
    for waiting in waiters(&lock, 10).await {
        let error = soon("an error", waiting).await.unwrap().unwrap_err();
        assert!(!error.is_retryable() && !error.is_busy(), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_left_to_itself_keeps_the_spot_until_its_outcome_is_known() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let lock = lock(&backend);
    backend.on(Op::Acquire).next(Effect::DelayAfter(SECOND));
    assert!(timeout(MS, lock.acquire()).await.is_err());
    let waiting = waiter(&lock);
    sleep(900 * MS).await;
    assert_eq!(count(&backend, Op::Acquire), 1);
    let (guard, took) = timed(waiting).await;
    assert!(took < 200 * MS, "{took:?}");
    let order: Vec<_> = backend.calls().iter().map(|call| call.op).collect();
    assert_eq!(order, [Op::Acquire, Op::Release, Op::Acquire]);
    drop(guard.unwrap().unwrap());
    assert_quiet(&backend, &leaks, CLEAN).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_closes_the_line() {
    for local in [true, false] {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let locks = locks(&backend);
        let lock = locks.lock("k");
        let guard = match local {
            true => Some(lock.acquire().await.unwrap()),
            false => {
                backend.steal("k", HOUR);
                None
            }
        };
        let waiting = waiters(&lock, 100).await;
        sleep(SECOND).await;
        let attempts = count(&backend, Op::Acquire);
        assert!(locks.shutdown().await);
        for waiting in waiting {
            let error = soon("the end", waiting).await.unwrap().unwrap_err();
            assert!(matches!(error, LockError::Closed { .. }), "{error:?}");
        }
        assert_eq!(count(&backend, Op::Acquire), attempts);
        drop(guard);
        backend.evict("k");
        assert_quiet(&backend, &leaks, CLEAN).await;
    }
}

// What others wrote runs while no line is locked.

/// Wakes its task, after it did what a test says.
struct Odd {
    waker: Waker,
    first: Box<dyn Fn() + Send + Sync>,
}

impl Wake for Odd {
    fn wake(self: Arc<Self>) {
        self.waker.wake_by_ref();
        (self.first)();
    }
}

/// Polls `future` with a waker that does `first`.
async fn with_waker(mut future: Acquiring, first: impl Fn() + Send + Sync + 'static) -> LockGuard {
    let first: Arc<dyn Fn() + Send + Sync> = Arc::new(first);
    poll_fn(|context| {
        let first = Arc::clone(&first);
        let waker = Waker::from(Arc::new(Odd {
            waker: context.waker().clone(),
            first: Box::new(move || first()),
        }));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_waker_may_use_the_lock_or_panic() {
    for panics in [false, true] {
        let backend = Scripted::honest();
        let lock = lock(&backend);
        let guard = lock.acquire().await.unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let waiting = spawn({
            let (future, lock, woken) = (acquiring(&lock), lock.clone(), Arc::clone(&woken));
            with_waker(future, move || {
                woken.fetch_add(1, Ordering::SeqCst);
                let mut trying = Box::pin(lock.try_acquire());
                let _ = trying
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()));
                assert!(!panics, "scripted panic");
            })
        });
        yield_now().await;
        guard.release().await.unwrap();
        let guard = soon("the waiter", waiting).await.unwrap();
        assert!(woken.load(Ordering::SeqCst) > 0);
        guard.release().await.unwrap();
        lock.acquire().await.unwrap().release().await.unwrap();
    }
}
