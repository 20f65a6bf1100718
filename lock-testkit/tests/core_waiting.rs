//! Waiting for a lock: when the next attempt is made, what ends the wait, and that nobody is forgotten.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common_acquire;

use std::time::Duration;

use common_acquire::*;
use lock_core::{
    BackendError, Busy, Capabilities, Holder, LockError, LockGuard, Locks, RetryPolicy,
};
use lock_testkit::{Effect, LeakCheck, Op, Scripted};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

/// A backend without wake-ups whose lock is held for an hour.
fn polled() -> Scripted {
    let backend = Scripted::honest().with_wakeups(false);
    backend.steal("k", HOUR);
    backend
}

/// A backend with wake-ups whose lock is held for an hour.
fn watched() -> Scripted {
    let backend = Scripted::honest();
    backend.steal("k", HOUR);
    backend
}

/// The times between attempts.
fn gaps(backend: &Scripted) -> Vec<Duration> {
    let at = times(backend, Op::Acquire);
    at.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

async fn timed_out(backend: &Scripted, policy: RetryPolicy) -> Duration {
    let (answer, took) = timed(lock(backend).with_retry(policy).acquire()).await;
    assert!(
        matches!(answer, Err(LockError::TimedOut { .. })),
        "{answer:?}"
    );
    took
}

fn waiter(backend: &Scripted) -> JoinHandle<Result<LockGuard, LockError>> {
    let lock = lock(backend);
    spawn(async move { lock.acquire().await })
}

/// Answers every attempt with `busy`.
fn answer_always(backend: &Scripted, busy: Busy) -> AbortHandle {
    backend.on(Op::Acquire).always(Effect::Ask);
    let backend = backend.clone();
    let answering = async move {
        loop {
            backend.next_call().await.reply_busy(busy.clone());
        }
    };
    spawn(answering).abort_handle()
}

// When the next attempt is made: the policy.

#[tokio::test(start_paused = true)]
async fn a_wait_of_zero_is_one_attempt_and_no_subscription() {
    let one_attempt = [
        RetryPolicy::never(),
        RetryPolicy::never().wait_forever(),
        RetryPolicy::default().give_up_after(Duration::ZERO),
        RetryPolicy::every(MS).at_most(0),
        RetryPolicy::backoff(MS, MS).at_most(0).wait_forever(),
    ];
    for policy in one_attempt {
        let backend = watched();
        let took = timed_out(&backend, policy).await;
        assert!(took < SLACK, "{policy:?}: {took:?}");
        assert_eq!(backend.calls().len(), 1, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_made_every_delay_as_often_as_said() {
    let backend = polled();
    let policy = RetryPolicy::every(100 * MS).at_most(3);
    let took = timed_out(&backend, policy).await;
    let at = times(&backend, Op::Acquire);
    assert_eq!(at.len(), 4);
    for (n, at) in (0..).zip(&at) {
        assert!(is_about(*at, 100 * MS * n), "{at:?}");
    }
    assert!(is_about(took, 300 * MS), "it gives up with the last one");

    // By way of `with`, too.
    let backend = polled();
    let lock = lock(&backend).with_retry(policy);
    let answer = lock.with(async |_| Ok::<_, LockError>(())).await;
    assert!(answer.unwrap_err().is_busy());
    assert_eq!(backend.calls_of(Op::Acquire).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn backoff_doubles_its_bound_up_to_the_most() {
    let backend = polled();
    let policy = RetryPolicy::backoff(10 * MS, 100 * MS).at_most(50);
    timed_out(&backend, policy).await;
    let gaps = gaps(&backend);
    assert_eq!(gaps.len(), 50);
    let mut bound = 10 * MS;
    for gap in &gaps {
        assert!((MS..=bound + 20 * MS).contains(gap), "{gaps:?}");
        bound = (2 * bound).min(100 * MS);
    }
    let mean = gaps[10..].iter().sum::<Duration>() / 40;
    assert!((25 * MS..80 * MS).contains(&mean), "jitter: {mean:?}");
}

#[tokio::test(start_paused = true)]
async fn no_delay_is_below_a_millisecond() {
    let hasty = [
        RetryPolicy::every(Duration::ZERO),
        RetryPolicy::every(Duration::from_nanos(1)),
        RetryPolicy::every(Duration::ZERO).at_most(u32::MAX),
        RetryPolicy::backoff(Duration::ZERO, Duration::ZERO),
        RetryPolicy::backoff(SECOND, Duration::ZERO).at_most(u32::MAX),
    ];
    for policy in hasty {
        let backend = polled();
        let took = timed_out(&backend, policy.give_up_after(50 * MS)).await;
        assert!(is_about(took, 50 * MS), "{policy:?}: {took:?}");
        let gaps = gaps(&backend);
        // Real time that passes counts as waited too.
        let short = gaps.iter().filter(|gap| **gap < MS).count();
        assert!(short <= 5, "{policy:?}: {gaps:?}");
        assert!(
            (10..=55).contains(&gaps.len()),
            "{policy:?}: {}",
            gaps.len()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_delay_outlasts_the_wait() {
    let slow = [
        RetryPolicy::every(Duration::MAX),
        RetryPolicy::every(HOUR).at_most(u32::MAX),
        RetryPolicy::backoff(Duration::MAX, Duration::MAX),
        RetryPolicy::backoff(HOUR, HOUR),
    ];
    for policy in slow {
        for backend in [polled(), watched()] {
            let took = timed_out(&backend, policy.give_up_after(300 * MS)).await;
            assert!(is_about(took, 300 * MS), "{policy:?}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_finite_unless_asked_to_be_endless() {
    for backend in [polled(), watched()] {
        let took = timed_out(&backend, RetryPolicy::default()).await;
        assert!(is_about(took, 30 * SECOND), "{took:?}");
    }
    let backend = watched();
    backend.steal("k", 24 * HOUR);
    let endless = lock(&backend).with_retry(RetryPolicy::default().wait_forever());
    let options = lock_core::LockOptions::default()
        .with_retry(RetryPolicy::default().wait_forever())
        .with_recheck(HOUR);
    let endless = endless.with_options(options);
    assert!(timeout(23 * HOUR, endless.acquire()).await.is_err());
    assert_eq!(backend.subscriptions(), 0, "the caller's limit ends it");
    let (guard, took) = timed(endless.acquire()).await;
    assert!(guard.is_ok() && is_about(took, HOUR), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn wake_ups_do_not_use_up_retries() {
    let backend = watched();
    let lock = lock(&backend).with_retry(RetryPolicy::every(SECOND).at_most(2));
    let waiter = spawn(async move { timed(lock.acquire()).await });
    for _ in 0..20 {
        sleep(50 * MS).await;
        backend.wake("k");
    }
    let (answer, took) = waiter.await.unwrap();
    assert!(answer.unwrap_err().is_busy());
    assert!(is_about(took, 2 * SECOND), "both delays are kept: {took:?}");
    // The first, the one after subscribing, twenty that were woken, and two retries.
    let attempts = backend.calls_of(Op::Acquire).len();
    assert!((23..=24).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_at_the_end_of_the_holders_entry_uses_up_no_retry() {
    let backend = Scripted::honest();
    backend.steal("k", 300 * MS);
    let lock = lock(&backend).with_retry(RetryPolicy::every(HOUR).at_most(1));
    let (answer, took) = timed(lock.acquire()).await;
    assert!(answer.is_ok() && is_about(took, 300 * MS), "{took:?}");
}

// When the next attempt is made: wake-ups.

#[tokio::test(start_paused = true)]
async fn a_waiter_is_woken_by_the_release() {
    let backend = Scripted::honest();
    let guard = lock(&backend).acquire().await.unwrap();
    let waiter = waiter(&backend);
    sleep(5 * SECOND).await;
    guard.release().await.unwrap();
    let (next, took) = timed(waiter).await;
    assert!(took < 50 * MS, "{took:?}");
    drop(next.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_tries_again_when_its_subscription_is_in_force() {
    let backend = Scripted::honest();
    let guard = lock(&backend).acquire().await.unwrap();
    backend
        .on(Op::Subscribe)
        .next(Effect::DelayBefore(500 * MS));
    let waiter = spawn({
        let lock = lock(&backend);
        async move { timed(lock.acquire()).await }
    });
    sleep(200 * MS).await;
    guard.release().await.unwrap();
    let (answer, took) = waiter.await.unwrap();
    assert!(is_about(took, 500 * MS), "no recheck was needed: {took:?}");
    drop(answer.unwrap());
    let order: Vec<_> = backend.calls().iter().map(|record| record.op).collect();
    let expected = [
        Op::Acquire,
        Op::Acquire,
        Op::Subscribe,
        Op::Release,
        Op::Acquire,
    ];
    assert_eq!(order[..5], expected);
}

#[tokio::test(start_paused = true)]
async fn a_lost_wake_up_is_found_within_the_recheck_interval() {
    for recheck in [200 * MS, SECOND] {
        let backend = Scripted::honest();
        backend.lose_wakeups(true);
        let guard = lock(&backend).acquire().await.unwrap();
        let options = lock_core::LockOptions::default().with_recheck(recheck);
        let waiting = lock(&backend).with_options(options);
        let waiter = spawn(async move { waiting.acquire().await });
        sleep(5 * SECOND).await;
        guard.release().await.unwrap();
        let (next, took) = timed(waiter).await;
        assert!(took <= recheck + 50 * MS, "{recheck:?}: {took:?}");
        drop(next.unwrap().unwrap());
        let gaps = gaps(&backend);
        let rechecks = &gaps[2..gaps.len() - 1];
        let range = recheck * 3 / 4..=recheck + 50 * MS;
        assert!(rechecks.iter().all(|gap| range.contains(gap)), "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_is_noticed_when_its_entry_ends() {
    for wakeups in [true, false] {
        let backend = Scripted::honest().with_wakeups(wakeups);
        backend.steal("k", 7777 * MS);
        let (answer, took) = timed(lock(&backend).acquire()).await;
        assert!(answer.is_ok());
        assert!(
            (7777 * MS..7900 * MS).contains(&took),
            "wakeups {wakeups}: {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_end_is_not_known_is_looked_for_by_rechecks() {
    let backend = Scripted::honest();
    let answering = answer_always(&backend, Busy::new(Holder::new()));
    let took = timed_out(&backend, RetryPolicy::default().give_up_after(10 * SECOND)).await;
    assert!(is_about(took, 10 * SECOND), "{took:?}");
    let attempts = backend.calls_of(Op::Acquire).len();
    assert!((10..=16).contains(&attempts), "{attempts}");
    answering.abort();
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_seems_to_end_at_once_is_not_hammered() {
    for remaining in [Duration::ZERO, Duration::from_nanos(1), MS] {
        for wakeups in [true, false] {
            let backend = Scripted::honest().with_wakeups(wakeups);
            let holder = Holder::new().with_remaining(Some(remaining));
            let answering = answer_always(&backend, Busy::new(holder));
            timed_out(&backend, every(HOUR).give_up_after(10 * SECOND)).await;
            let attempts = backend.calls_of(Op::Acquire).len();
            assert!((10..=30).contains(&attempts), "{remaining:?}: {attempts}");
            answering.abort();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_stores_own_recheck_is_kept() {
    for (recheck, range) in [(20 * MS, 40..=53), (Duration::ZERO, 300..=1010)] {
        for wakeups in [true, false] {
            let backend = Scripted::honest().with_wakeups(wakeups);
            let busy = Busy::new(Holder::new()).with_recheck(recheck);
            let answering = answer_always(&backend, busy);
            timed_out(&backend, every(HOUR).give_up_after(SECOND)).await;
            let attempts = backend.calls_of(Op::Acquire).len();
            assert!(range.contains(&attempts), "{recheck:?}: {attempts}");
            answering.abort();
        }
    }
}

#[tokio::test]
async fn a_storm_of_wake_ups_makes_no_storm_of_attempts() {
    let backend = watched();
    let storm = spawn({
        let backend = backend.clone();
        async move {
            loop {
                backend.wake("k");
                tokio::task::yield_now().await;
            }
        }
    });
    let lock = lock(&backend).with_wait(100 * MS);
    let (answer, took) = timed(lock.acquire()).await;
    storm.abort();
    assert!(answer.unwrap_err().is_busy());
    // In real time, which a busy machine may stretch.
    assert!((50 * MS..10 * SECOND).contains(&took), "{took:?}");
    let attempts = backend.calls_of(Op::Acquire).len();
    assert!(
        attempts as u128 <= took.as_millis() + 20,
        "{attempts} in {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_or_hanging_subscription_means_polling() {
    for effect in [
        Effect::FailBefore(refused()),
        Effect::FailBefore(BackendError::permanent("no channel")),
        Effect::HangBefore,
        Effect::HangAfter,
    ] {
        let backend = watched();
        backend.on(Op::Subscribe).always(effect.clone());
        let policy = RetryPolicy::every(100 * MS).give_up_after(5 * SECOND);
        timed_out(&backend, policy).await;
        assert_eq!(backend.calls_of(Op::Subscribe).len(), 1, "{effect:?}");
        assert_eq!(backend.subscriptions(), 0, "{effect:?}");
        let attempts = backend.calls_of(Op::Acquire).len();
        assert!((29..=51).contains(&attempts), "{effect:?}: {attempts}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_wake_ups_is_never_subscribed_to() {
    let backend = Scripted::honest().with_capabilities(Capabilities::new());
    backend.steal("k", SECOND);
    drop(lock(&backend).acquire().await.unwrap());
    assert!(backend.calls_of(Op::Subscribe).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_is_no_reason_to_hurry_while_the_store_fails() {
    let backend = watched();
    backend
        .on(Op::Acquire)
        .next(Effect::Honest)
        .next(Effect::Honest)
        .always(Effect::FailBefore(refused()));
    let odd = Odd {
        restless: true,
        ..Odd::new(&backend)
    };
    let policy = RetryPolicy::every(100 * MS).give_up_after(SECOND);
    let error = Locks::new(odd).lock("k").with_retry(policy).acquire().await;
    assert!(matches!(error, Err(LockError::Backend { .. })), "{error:?}");
    let attempts = backend.calls_of(Op::Acquire).len();
    assert!((8..=13).contains(&attempts), "{attempts}");
}

// What ends the wait.

#[tokio::test(start_paused = true)]
async fn the_last_answer_is_the_error() {
    let busy = |backend: &Scripted| _ = backend.steal("k", HOUR);
    let down = |backend: &Scripted, error: BackendError| {
        _ = backend.on(Op::Acquire).always(Effect::FailBefore(error));
    };
    let waiting = |backend: &Scripted| lock(backend).with_wait(SECOND);

    let backend = Scripted::honest();
    down(&backend, refused());
    let (answer, took) = timed(waiting(&backend).acquire()).await;
    let error = answer.unwrap_err();
    assert!(
        matches!(
            error,
            LockError::Backend {
                transient: true,
                ..
            }
        ),
        "refused is not busy: {error:?}"
    );
    assert!(is_about(took, SECOND), "{took:?}");

    let backend = Scripted::honest();
    down(&backend, cut());
    let (answer, took) = timed(waiting(&backend).acquire()).await;
    assert!(
        matches!(answer, Err(LockError::Unknown { .. })),
        "{answer:?}"
    );
    assert!(is_about(took, SECOND), "{took:?}");

    let backend = Scripted::honest();
    busy(&backend);
    let lock = waiting(&backend);
    let waiter = spawn(async move { lock.acquire().await });
    sleep(100 * MS).await;
    down(&backend, refused());
    backend.wake("k");
    let error = waiter.await.unwrap().unwrap_err();
    assert!(matches!(error, LockError::Backend { .. }), "{error:?}");

    let backend = Scripted::honest();
    busy(&backend);
    down(&backend, refused());
    let lock = waiting(&backend);
    let waiter = spawn(async move { lock.acquire().await });
    sleep(100 * MS).await;
    backend.on(Op::Acquire).clear();
    let error = waiter.await.unwrap().unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn counted_retries_end_with_the_stores_error() {
    for error in [refused(), cut()] {
        let backend = Scripted::honest();
        backend.on(Op::Acquire).always(Effect::FailBefore(error));
        let lock = lock(&backend).with_retry(RetryPolicy::every(100 * MS).at_most(2));
        let (answer, took) = timed(lock.acquire()).await;
        let error = answer.unwrap_err();
        assert!(error.is_retryable() && !error.is_busy(), "{error:?}");
        assert_eq!(backend.calls_of(Op::Acquire).len(), 3);
        assert!(is_about(took, 200 * MS), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_store_ends_the_wait_by_the_attempts_own_timeout() {
    let backend = Scripted::honest();
    backend.on(Op::Acquire).always(Effect::HangBefore);
    let (answer, took) = timed(lock(&backend).with_wait(300 * MS).acquire()).await;
    assert!(
        matches!(answer, Err(LockError::Unknown { .. })),
        "{answer:?}"
    );
    assert!(is_about(took, OP), "{took:?}");
}

// Many.

/// Takes the lock, holds it for a millisecond, and releases it.
fn user(backend: &Scripted, policy: RetryPolicy) -> JoinHandle<Result<(), LockError>> {
    let lock = lock(backend).with_retry(policy);
    spawn(async move {
        let guard = lock.acquire().await?;
        sleep(MS).await;
        assert!(guard.is_held());
        guard.release().await.map(|_| ())
    })
}

async fn all_are_served(backend: &Scripted, waiters: usize) {
    let leaks = LeakCheck::start();
    let policy = RetryPolicy::default().wait_forever();
    let (_, took) = timed(async {
        let users: Vec<_> = (0..waiters).map(|_| user(backend, policy)).collect();
        for user in users {
            user.await.unwrap().unwrap();
        }
    })
    .await;
    assert!(took < 30 * SECOND, "{took:?}");
    assert_quiet(backend, &leaks, CLEAN).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waiters_are_all_served_even_if_no_wake_up_arrives() {
    let backend = Scripted::honest();
    backend.lose_wakeups(true);
    all_are_served(&backend, 1000).await;
    let backend = Scripted::honest().with_wakeups(false);
    all_are_served(&backend, 1000).await;
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_waiters_that_are_all_woken_are_all_served() {
    let backend = Scripted::honest();
    all_are_served(&backend, 300).await;
    let attempts = backend.calls_of(Op::Acquire).len();
    assert!(attempts <= 300 * 302, "one a wake-up: {attempts}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waiters_time_out_in_time() {
    let backend = watched();
    let waiters: Vec<_> = (0..1000)
        .map(|_| {
            let lock = lock(&backend).with_wait(500 * MS);
            spawn(async move { timed(lock.acquire()).await })
        })
        .collect();
    for waiter in waiters {
        let (answer, took) = waiter.await.unwrap();
        assert!(matches!(answer, Err(LockError::TimedOut { .. })));
        // A good part of it may have been real time: see `is_about`.
        assert!((100 * MS..500 * MS + SLACK).contains(&took), "{took:?}");
    }
    assert_eq!(backend.subscriptions(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_rest_is_served_when_half_of_the_waiters_go() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let guard = lock(&backend).acquire().await.unwrap();
    let policy = RetryPolicy::default();
    let users: Vec<_> = (0..100).map(|_| user(&backend, policy)).collect();
    let impatient: Vec<_> = (0..50)
        .map(|_| user(&backend, policy.give_up_after(SECOND)))
        .collect();
    sleep(2 * SECOND).await;
    users.iter().step_by(2).for_each(JoinHandle::abort);
    guard.release().await.unwrap();
    for (n, user) in users.into_iter().enumerate() {
        match user.await {
            Ok(answer) => answer.unwrap(),
            Err(error) => assert!(error.is_cancelled() && n % 2 == 0),
        }
    }
    for user in impatient {
        assert!(user.await.unwrap().unwrap_err().is_busy());
    }
    assert_quiet(&backend, &leaks, CLEAN).await;
}

#[tokio::test(start_paused = true)]
async fn waiters_outlast_a_store_that_is_down_and_do_not_hammer_it() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    backend
        .on(Op::Acquire)
        .always(Effect::FailBefore(refused()));
    let policy = RetryPolicy::default();
    let users: Vec<_> = (0..100).map(|_| user(&backend, policy)).collect();
    sleep(10 * SECOND).await;
    let attempts = backend.calls_of(Op::Acquire).len();
    assert!(
        (1000..=4500).contains(&attempts),
        "{attempts} by 100 in 10 s"
    );
    backend.on(Op::Acquire).clear();
    for user in users {
        user.await.unwrap().unwrap();
    }
    assert_quiet(&backend, &leaks, CLEAN).await;
}
