//! Who stands in line and goes, or is not there any more, holds nobody up, and nobody is forgotten.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common_acquire;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use common_acquire::*;
use lock_core::{LockError, LockGuard, PassingOn};
use lock_testkit::{Effect, LeakCheck, Op, Scripted, cancel_sweep};
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};

// Who goes.

/// One of five waiters goes, the lock is released, and the rest is served in order.
async fn one_goes(goes: impl AsyncFn(&Scripted, JoinHandle<Result<LockGuard, LockError>>)) {
    for local in [true, false] {
        for position in 0..5 {
            let backend = Scripted::honest();
            let leaks = LeakCheck::start();
            let lock = lock(&backend).with_wait(24 * HOUR);
            let guard = match local {
                true => Some(lock.acquire().await.unwrap()),
                false => {
                    backend.steal("k", HOUR);
                    None
                }
            };
            let mut waiting = Vec::new();
            for n in 0..5 {
                let wait = if n == position { SECOND } else { HOUR };
                waiting.push(waiter(&lock.clone().with_wait(wait)));
                yield_now().await;
            }
            goes(&backend, waiting.remove(position)).await;
            match guard {
                Some(guard) => _ = guard.release().await.unwrap(),
                None => {
                    backend.evict("k");
                    backend.wake("k");
                }
            }
            for waiting in waiting {
                let guard = soon("the next", waiting).await.unwrap().unwrap();
                guard.release().await.unwrap();
            }
            assert_quiet(&backend, &leaks, CLEAN).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_holds_nobody_up() {
    one_goes(async |_, waiter| {
        sleep(MS).await;
        waiter.abort();
        assert!(waiter.await.unwrap_err().is_cancelled());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_times_out_holds_nobody_up() {
    one_goes(async |_, waiter| {
        let (answer, took) = timed(waiter).await;
        let error = answer.unwrap().unwrap_err();
        assert!(matches!(error, LockError::TimedOut { .. }), "{error:?}");
        assert!(error.holder().unwrap().remaining.is_some(), "{error:?}");
        assert!(is_about(took, SECOND), "{took:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_goes_with_the_turn_on_offer_passes_it_on() {
    for timing in 0..3 {
        let backend = Scripted::honest();
        let lock = lock(&backend);
        let guard = lock.acquire().await.unwrap();
        let mut first = acquiring(&lock);
        poll_once(&mut first).await;
        let second = waiter(&lock);
        yield_now().await;
        guard.release().await.unwrap();
        match timing {
            // Never looked at again, and dropped.
            0 => drop(first),
            // Long after it was passed over.
            1 => {
                sleep(SECOND).await;
                drop(first);
            }
            // Looked at again after all.
            _ => drop(first.await.unwrap()),
        }
        let guard = timeout(SECOND, second).await.unwrap().unwrap().unwrap();
        guard.release().await.unwrap();
        lock.try_acquire().await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_cut_at_every_point() {
    for latency in [Duration::ZERO, 5 * MS] {
        let backend = Scripted::honest().with_latency(latency);
        let leaks = LeakCheck::start();
        let lock = lock(&backend);
        let cuts = cancel_sweep(
            |_| async {
                let guard = lock.acquire().await.unwrap();
                let (before, after) = (lock.clone(), lock.clone());
                let before = spawn(async move { drop(before.acquire().await.unwrap()) });
                yield_now().await;
                let release = spawn(async move {
                    sleep(20 * MS).await;
                    guard.release().await.unwrap();
                });
                let mut own = acquiring(&lock);
                poll_once(&mut own).await;
                let after = spawn(async move { after.acquire().await.unwrap().release().await });
                let guard = own.await.unwrap();
                guard.release().await.unwrap();
                for task in [before, release] {
                    task.await.unwrap();
                }
                after.await.unwrap().unwrap();
            },
            async |_| assert_quiet(&backend, &leaks, CLEAN).await,
        )
        .await;
        assert!(cuts >= 7, "{cuts}");
    }
}

#[test]
fn a_waiter_whose_runtime_ends_holds_nobody_up() {
    for position in 0..3 {
        let backend = Scripted::honest();
        let lock = lock(&backend);
        let (ends, stays) = (single(), single());
        let guard = stays.block_on(lock.acquire()).unwrap();
        let mut waiting = Vec::new();
        for n in 0..3 {
            if n == position {
                ends.block_on(async {
                    drop(waiter(&lock));
                    yield_now().await;
                });
            } else {
                stays.block_on(async {
                    waiting.push(waiter(&lock));
                    yield_now().await;
                });
            }
        }
        drop(ends);
        stays.block_on(async {
            guard.release().await.unwrap();
            for waiting in waiting {
                let guard = timeout(CLAIM / 2, waiting).await.unwrap();
                guard.unwrap().unwrap().release().await.unwrap();
            }
        });
    }
}

// Who is not there any more.

#[test]
fn a_runtime_that_nobody_drives_holds_nobody_up() {
    for position in 0..3 {
        let backend = Scripted::honest();
        let lock = lock(&backend);
        let (undriven, driven) = (single(), single());
        let guard = driven.block_on(lock.acquire()).unwrap();
        let (mut waiting, mut stopped) = (Vec::new(), Vec::new());
        for n in 0..3 {
            let (runtime, list) = match n == position {
                true => (&undriven, &mut stopped),
                false => (&driven, &mut waiting),
            };
            runtime.block_on(async {
                list.push(waiter(&lock));
                yield_now().await;
            });
        }
        driven.block_on(async {
            guard.release().await.unwrap();
            for waiting in waiting {
                let guard = timeout(10 * CLAIM, waiting).await.unwrap();
                guard.unwrap().unwrap().release().await.unwrap();
            }
            // Nor one who comes later.
            let later = async {
                loop {
                    match lock.try_acquire().await {
                        Ok(guard) => break guard,
                        Err(_) => sleep(CLAIM / 4).await,
                    }
                }
            };
            let guard = timeout(10 * CLAIM, later).await.unwrap();
            guard.release().await.unwrap();
        });
        // It gets its turn when it is driven again.
        let guard = undriven.block_on(stopped.remove(0)).unwrap().unwrap();
        undriven.block_on(guard.release()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_nobody_polls_is_passed_over_and_keeps_its_place() {
    let backend = Scripted::honest();
    let lock = lock(&backend);
    let guard = lock.acquire().await.unwrap();
    let mut stopped = acquiring(&lock);
    poll_once(&mut stopped).await;
    let waiting = waiters(&lock, 3).await;
    guard.release().await.unwrap();
    let mut guards = Vec::new();
    for (n, waiting) in waiting.into_iter().enumerate() {
        let (guard, took) = timed(waiting).await;
        let limit = if n == 0 { 3 * CLAIM } else { CLAIM / 4 };
        assert!(took < limit, "{n}: {took:?}");
        let guard = guard.unwrap().unwrap();
        if n < 2 {
            guard.release().await.unwrap();
        } else {
            guards.push(guard);
        }
    }
    // Polled again, it comes before those that came later.
    poll_once(&mut stopped).await;
    let later = waiter(&lock);
    yield_now().await;
    drop(guards);
    drop(stopped.await.unwrap());
    drop(soon("the last", later).await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_nobody_polls_cost_little_together() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let lock = lock(&backend);
    let guard = lock.acquire().await.unwrap();
    let mut stopped: Vec<_> = (0..1000).map(|_| acquiring(&lock)).collect();
    for stopped in &mut stopped {
        poll_once(stopped).await;
    }
    let waiting = waiters(&lock, 10).await;
    guard.release().await.unwrap();
    let start = lock_core::Moment::now();
    for waiting in waiting {
        let guard = waiting.await.unwrap().unwrap();
        guard.release().await.unwrap();
    }
    let took = start.elapsed();
    assert!(took < 15 * CLAIM, "{took:?}");
    drop(stopped);
    assert_quiet(&backend, &leaks, CLEAN).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_nobody_polls_is_passed_over() {
    for wakeups in [true, false] {
        let backend = Scripted::honest().with_wakeups(wakeups);
        backend.steal("k", HOUR);
        let lock = lock(&backend);
        let mut stopped = acquiring(&lock);
        poll_once(&mut stopped).await;
        let waiting = waiter(&lock);
        sleep(10 * MS).await;
        backend.evict("k");
        backend.wake("k");
        let (guard, took) = timed(waiting).await;
        assert!(took < 2 * SECOND, "wakeups {wakeups}: {took:?}");
        let guard = guard.unwrap().unwrap();
        // It finds out, and stands in line again.
        poll_once(&mut stopped).await;
        sleep(SECOND).await;
        poll_once(&mut stopped).await;
        guard.release().await.unwrap();
        drop(timeout(2 * SECOND, stopped).await.unwrap().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn who_looks_seldom_without_wake_ups_does_not_slow_down_who_looks_often() {
    let backend = Scripted::honest().with_wakeups(false);
    let thief = || _ = backend.steal("k", HOUR);
    thief();
    let lock = lock(&backend).with_wait(24 * HOUR);
    let start = lock_core::Moment::now();
    let lazy = waiter(&lock.clone().with_retry(every(HOUR / 2)));
    sleep(SECOND).await;
    let eager = waiter(&lock.clone().with_retry(every(10 * MS)));
    sleep(SECOND).await;
    let attempts = count(&backend, Op::Acquire);
    assert!((50..=101).contains(&attempts), "{attempts}");
    backend.evict("k");
    let guard = timeout(20 * MS, eager).await.unwrap().unwrap().unwrap();
    guard.release().await.unwrap();
    assert!(!lazy.is_finished());
    let guard = lazy.await.unwrap().unwrap();
    let took = start.elapsed();
    assert!(is_about(took, HOUR / 2), "{took:?}");
    drop(guard);
}

// On many threads.

/// Tasks on two runtimes of two kinds take one lock, give up, and drop what they do half way.
#[test]
fn in_a_crowd_nobody_is_forgotten_and_no_two_are_in_together() {
    let backend = Scripted::honest();
    let locks = locks(&backend).with_wait(60 * SECOND);
    let many = Builder::new_multi_thread()
        .worker_threads(3)
        .enable_time()
        .build()
        .unwrap();
    let inside = Arc::new(AtomicUsize::new(0));
    let served = Arc::new(AtomicUsize::new(0));
    let user = |n: u64| {
        let (lock, inside, served) = (locks.lock("k"), Arc::clone(&inside), Arc::clone(&served));
        async move {
            for round in 0..50_u64 {
                let lock = match (n + round) % 4 {
                    0 => lock.clone().with_wait(MS),
                    _ => lock.clone(),
                };
                let limit = match (n * round) % 5 {
                    0 => Duration::from_micros(n * 50),
                    _ => 100 * SECOND,
                };
                let guard = match timeout(limit, lock.acquire()).await {
                    Ok(Ok(guard)) => guard,
                    Ok(Err(error)) => {
                        assert!(error.is_busy(), "{error}");
                        continue;
                    }
                    Err(_) => continue,
                };
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are in");
                if n.is_multiple_of(3) {
                    yield_now().await;
                }
                assert!(guard.is_held());
                inside.fetch_sub(1, Ordering::SeqCst);
                served.fetch_add(1, Ordering::SeqCst);
                match round % 2 {
                    0 => drop(guard),
                    _ => drop(guard.release().await.unwrap()),
                }
            }
        }
    };
    let tasks: Vec<_> = (0..24).map(|n| many.spawn(user(n))).collect();
    single().block_on(async {
        let local: Vec<_> = (24..30).map(|n| spawn(user(n))).collect();
        for task in tasks.into_iter().chain(local) {
            timeout(60 * SECOND, task).await.unwrap().unwrap();
        }
    });
    assert!(served.load(Ordering::SeqCst) > 400);
    let last = many.block_on(locks.lock("k").acquire()).unwrap();
    many.block_on(last.release()).unwrap();
    assert!(is_free(&backend));
}

/// The lock is free at the store, and nobody here hears of it.
#[tokio::test(start_paused = true)]
async fn a_release_that_nobody_polls_any_more_holds_up_the_line_for_an_op_timeout() {
    let backend = Scripted::honest();
    let lock = lock(&backend).with_passing_on(PassingOn::never());
    let guard = lock.acquire().await.unwrap();
    let waiting = waiters(&lock, 1).await.remove(0);
    backend.on(Op::Release).next(Effect::DelayAfter(5 * MS));
    let mut release = Box::pin(guard.release());
    let polled = poll_fn(|context| Poll::Ready(release.as_mut().poll(context))).await;
    assert!(polled.is_pending());
    let (guard, took) = timed(waiting).await;
    assert!(took < OP + 3 * CLAIM, "{took:?}");
    drop(guard.unwrap().unwrap());
    drop(release);
}
