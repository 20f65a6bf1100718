//! Letting go of a lock: what a release answers, and what becomes of a guard that is dropped, wherever that happens.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common_acquire;

use std::cell::RefCell;
use std::error::Error;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use common_acquire::*;
use lock_core::{
    BackendError, Capabilities, GuardPolicy, LockError, LockGuard, LossReason, MAX_TTL, Released,
    RenewalPolicy,
};
use lock_testkit::{Effect, LeakCheck, Op, Scripted};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, block_in_place, spawn_blocking};
use tokio::time::{sleep, timeout};

async fn held(backend: &Scripted) -> LockGuard {
    take(backend, &lock(backend)).await
}

// What a release answers.

#[tokio::test(start_paused = true)]
async fn a_release_says_what_it_found() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let released = held(&backend).await.release().await;
    assert_eq!(released.unwrap(), Released::Released);
    assert!(is_free(&backend));

    let guard = held(&backend).await;
    backend.evict("k");
    assert_eq!(guard.release().await.unwrap(), Released::Expired);

    let guard = held(&backend).await;
    backend.steal("k", SECOND);
    assert_eq!(guard.release().await.unwrap(), Released::TakenOver);
    assert!(!is_free(&backend), "the later holder is left alone");
    sleep(SECOND).await;
    assert_quiet(&backend, &leaks, MS).await;
    assert_eq!(backend.calls_of(Op::Release).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_release_after_a_loss_says_how_it_was_lost_and_asks_only_if_need_be() {
    for (is_stolen, expected) in [(false, Released::Expired), (true, Released::TakenOver)] {
        let backend = Scripted::honest();
        let guard = held(&backend).await;
        backend.evict("k");
        if is_stolen {
            backend.steal("k", MAX_TTL);
        }
        guard.lost().await;
        assert_eq!(guard.release().await.unwrap(), expected);
        assert!(backend.calls_of(Op::Release).is_empty(), "it is known");
    }
    // What only the clock says is asked.
    let backend = Scripted::honest();
    let lock = lock(&backend).with_renewal(RenewalPolicy::never());
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.lost().await, LossReason::Unconfirmed);
    assert!(!is_free(&backend), "the drift is not over");
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert!(is_free(&backend));
    let guard = lock.acquire().await.unwrap();
    sleep(TTL).await;
    assert_eq!(guard.release().await.unwrap(), Released::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_again_by_itself_may_have_released_with_the_first_copy() {
    let capabilities = Scripted::honest().with_capabilities(Capabilities::new().with_resends(true));
    let guard = held(&capabilities).await;
    capabilities.evict("k");
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test(start_paused = true)]
async fn a_stale_guard_leaves_a_later_holder_alone() {
    let backend = Scripted::honest();
    let lock = lock(&backend)
        .with_renewal(RenewalPolicy::never())
        .with_wait(HOUR);
    for by_drop in [false, true] {
        // Both by one lock object.
        let stale = lock.acquire().await.unwrap();
        let later = lock.acquire().await.unwrap();
        assert!(!stale.is_held() && later.is_held());
        let before = backend.entries()["k"].clone();
        if by_drop {
            drop(stale);
            sleep(CLEAN).await;
        } else {
            assert_eq!(stale.release().await.unwrap(), Released::TakenOver);
        }
        let after = backend.entries()["k"].clone();
        assert_eq!(after.owner, before.owner);
        assert!(after.remaining + CLEAN + SLACK > before.remaining);
        assert_eq!(later.release().await.unwrap(), Released::Released);
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_is_an_error_and_tried_again_in_the_background() {
    let effects = [
        (Effect::FailBefore(refused()), true),
        (Effect::FailBefore(BackendError::permanent("no")), true),
        (Effect::LoseReply(cut()), false),
        (Effect::FailBefore(cut()), false),
        (Effect::HangBefore, false),
        (Effect::HangAfter, false),
    ];
    for (effect, is_known) in effects {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let guard = held(&backend).await;
        backend.on(Op::Release).next(effect.clone());
        let (answer, took) = timed(guard.release()).await;
        match answer.unwrap_err() {
            LockError::Backend { .. } => assert!(is_known, "{effect:?}"),
            LockError::Unknown { .. } => assert!(!is_known, "{effect:?}"),
            other => panic!("{effect:?}: {other:?}"),
        }
        assert!(took < OP + SLACK, "{effect:?}: {took:?}");
        assert_quiet(&backend, &leaks, 200 * MS).await;
        assert_eq!(backend.calls_of(Op::Release).len(), 2, "{effect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_release_is_tried_until_the_entry_has_ended_and_no_longer() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let guard = held(&backend).await;
    backend
        .on(Op::Release)
        .always(Effect::FailBefore(refused()));
    guard.release().await.unwrap_err();
    // A request that was not answered may have been applied an op timeout later.
    leaks.assert_none(TTL + OP + SECOND).await;
    assert!(is_free(&backend));
    let releases = times(&backend, Op::Release);
    assert!((4..=10).contains(&releases.len()), "{releases:?}");

    // Succeeding at last, it frees the lock.
    let guard = held(&backend).await;
    guard.release().await.unwrap_err();
    sleep(5 * SECOND).await;
    assert!(!is_free(&backend));
    backend.on(Op::Release).clear();
    sleep(5 * SECOND).await;
    assert!(is_free(&backend));
}

/// The store fails for so long after the loss, and then the entry is released.
async fn assert_released_at_last(backend: &Scripted, failing: Duration) {
    backend
        .on(Op::Release)
        .always(Effect::FailBefore(refused()));
    sleep(failing).await;
    assert!(!is_free(backend), "the entry lasts that long");
    backend.on(Op::Release).clear();
    sleep(CLEAN + TTL / 4).await;
    assert!(is_free(backend), "given up before the entry had ended");
    assert!(backend.calls_of(Op::Release).last().unwrap().at.elapsed() < TTL / 2);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_tried_for_as_long_as_what_was_sent_unheard_may_last() {
    // Renewals that are applied and not heard of prolong the entry beyond what the holder may believe in.
    let backend = Scripted::honest();
    let guard = held(&backend).await;
    backend.on(Op::Renew).always(Effect::LoseReply(cut()));
    backend
        .on(Op::Release)
        .always(Effect::FailBefore(refused()));
    assert_eq!(guard.lost().await, LossReason::Unconfirmed);
    drop(guard);
    backend.on(Op::Renew).clear();
    assert_released_at_last(&backend, TTL / 3).await;

    // A shortening that never arrived leaves the entry as long as it was.
    let backend = Scripted::honest();
    let guard = held(&backend).await;
    backend.on(Op::Renew).next(Effect::HangBefore);
    guard.renew_for(20 * MS).await.unwrap_err();
    drop(guard);
    assert_released_at_last(&backend, TTL / 3).await;
}

#[tokio::test(start_paused = true)]
async fn releases_that_fail_are_bounded_in_number() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let day = Duration::from_secs(24 * 3600);
    let lock = locks(&backend).lock("k").with_ttl(day).with_wait(day / 2);
    backend.on(Op::Acquire).always(Effect::HangBefore);
    backend.on(Op::Release).always(Effect::HangBefore);
    lock.acquire().await.unwrap_err();
    assert!(leaks.extra() < 1200, "{} tasks", leaks.extra());
}

/// Those that the store comes to last would else be given up before, and be left to their ttl.
#[tokio::test(start_paused = true)]
async fn of_thousands_that_are_dropped_together_some_hundreds_are_released_at_once() {
    let backend = Scripted::honest();
    let (locks, leaks) = (locks(&backend), LeakCheck::start());
    let mut guards = Vec::new();
    for n in 0..2000 {
        guards.push(locks.lock(n.to_string()).acquire().await.unwrap());
    }
    let wait = Effect::DelayBefore(100 * MS);
    backend.on(Op::Release).always(wait);
    drop(guards);
    sleep(50 * MS).await;
    let under_way = backend.calls_of(Op::Release).len();
    assert!((100..1000).contains(&under_way), "{under_way}");
    leaks.assert_none(CLEAN).await;
    assert!(is_free(&backend));
    assert_eq!(backend.calls_of(Op::Release).len(), 2000);
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_store_that_is_silent_holds_up_the_releases_of_no_other() {
    let backend = Scripted::honest();
    let (locks, mut guards) = (locks(&backend), Vec::new());
    for n in 0..1500 {
        // Those at the silent part come first, or between the others.
        let is_silent = n < 1100 || n % 4 != 0;
        let name = format!("{n}:{is_silent}");
        guards.push(locks.lock(&name).acquire().await.unwrap());
        if is_silent {
            let release = backend.on(Op::Release).of(&name);
            release.always(Effect::HangBefore);
        }
    }
    drop(guards);
    sleep(OP * 3 / 4).await;
    let held = backend.entries();
    assert!(held.keys().all(|name| name.ends_with("true")));
    assert_eq!(held.len(), 1400);
}

#[tokio::test(start_paused = true)]
async fn a_release_does_not_wait_for_a_renewal_in_flight() {
    let backend = Scripted::honest();
    let guard = held(&backend).await;
    backend.on(Op::Renew).always(Effect::Ask);
    let renewal = backend.next_call().await;
    let (answer, took) = timed(guard.release()).await;
    assert_eq!(answer.unwrap(), Released::Released);
    assert!(took < SLACK, "{took:?}");
    renewal.reply_honestly().await;
    sleep(HOUR).await;
    assert!(is_free(&backend), "nothing comes back");
    assert_eq!(backend.calls_of(Op::Renew).len(), 1);
}

// What a drop does.

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_released_in_the_background() {
    for effect in [
        Effect::Honest,
        Effect::DelayBoth(500 * MS),
        Effect::LoseReply(cut()),
        Effect::FailBefore(refused()),
        Effect::HangBefore,
    ] {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let guard = held(&backend).await;
        backend.on(Op::Release).next(effect);
        let loss = guard.loss();
        drop(guard);
        assert!(!loss.is_held());
        assert_eq!(loss.lost().await, LossReason::Released);
        assert_quiet(&backend, &leaks, CLEAN).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_left_to_expire_keeps_its_entry_and_is_not_renewed() {
    for is_policy in [true, false] {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let guard = if is_policy {
            let lock = lock(&backend).with_guard(GuardPolicy::LeaveToExpire);
            lock.acquire().await.unwrap()
        } else {
            held(&backend).await
        };
        sleep(TTL).await;
        let (loss, renewals) = (guard.loss(), backend.calls_of(Op::Renew).len());
        assert!(renewals >= 2, "renewed while it is held");
        if is_policy {
            drop(guard);
        } else {
            guard.leave_to_expire();
        }
        assert!(!loss.is_held());
        let left = backend.entries()["k"].remaining;
        assert!(left > TTL / 2);
        sleep(left - SECOND).await;
        assert!(!is_free(&backend));
        sleep(SECOND).await;
        assert!(is_free(&backend));
        assert!(backend.calls_of(Op::Release).is_empty());
        assert_eq!(backend.calls_of(Op::Renew).len(), renewals);
        leaks.assert_none(TTL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_releases_under_every_policy() {
    let backend = Scripted::honest();
    let lock = lock(&backend).with_guard(GuardPolicy::LeaveToExpire);
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert!(is_free(&backend));
    // Also one that is dropped before it was polled.
    drop(lock.acquire().await.unwrap().release());
    sleep(MS).await;
    assert!(is_free(&backend));
}

#[tokio::test(start_paused = true)]
async fn with_lets_go_as_the_policy_says() {
    let backend = Scripted::honest();
    let lock = lock(&backend).with_guard(GuardPolicy::LeaveToExpire);
    for body in [Ok(7), Err("no")] {
        let result = lock
            .with(async |_| body.map_err(Box::<dyn Error>::from))
            .await;
        assert_eq!(result.is_ok(), body.is_ok());
        assert!(!is_free(&backend), "left to its ttl");
        sleep(TTL).await;
        assert!(is_free(&backend));
    }
    assert!(backend.calls_of(Op::Release).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_nobody_received_is_released_under_every_policy() {
    let backend = Scripted::honest().with_latency(5 * MS);
    let lock = lock(&backend).with_guard(GuardPolicy::LeaveToExpire);
    for resumes in [false, true] {
        let locks = locks(&backend).with_guard(GuardPolicy::LeaveToExpire);
        let leaks = LeakCheck::start();
        if resumes {
            let ticket = lock.acquire().await.unwrap().into_ticket().await.unwrap();
            assert!(timeout(7 * MS, locks.resume(&ticket)).await.is_err());
        } else {
            assert!(timeout(7 * MS, lock.acquire()).await.is_err());
        }
        assert!(!is_free(&backend), "it was granted");
        assert_quiet(&backend, &leaks, CLEAN).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaked_guard_harms_nobody_longer_than_it_may_be_held() {
    let backend = Scripted::honest();
    let limit = RenewalPolicy::default().hold_at_most(2 * TTL);
    let lock = lock(&backend).with_renewal(limit);
    std::mem::forget(lock.acquire().await.unwrap());
    sleep(2 * TTL - SECOND).await;
    assert!(!is_free(&backend));
    sleep(TTL + 2 * SECOND).await;
    assert!(is_free(&backend));
}

// Where a drop happens. Real runtimes: no time passes but what the machine takes.

fn runtime() -> Runtime {
    let builder = &mut Builder::new_multi_thread();
    builder.worker_threads(2).enable_time().build().unwrap()
}

fn until_free(backend: &Scripted) {
    for _ in 0..1000 {
        if is_free(backend) {
            return;
        }
        thread::sleep(MS);
    }
    panic!("not released: {:?}", backend.entries());
}

#[test]
fn a_drop_releases_wherever_it_happens_while_the_runtime_lives() {
    type Drops = fn(&Runtime, LockGuard);
    let places: [(&str, Drops); 10] = [
        ("a task", |runtime, guard| {
            runtime
                .block_on(runtime.spawn(async { drop(guard) }))
                .unwrap();
        }),
        ("outside every runtime", |_, guard| drop(guard)),
        ("a thread", |_, guard| {
            thread::spawn(|| drop(guard)).join().unwrap();
        }),
        ("another runtime", |_, guard| {
            let other = Builder::new_current_thread().build().unwrap();
            other.block_on(async { drop(guard) });
        }),
        ("spawn_blocking", |runtime, guard| {
            runtime.block_on(async { spawn_blocking(|| drop(guard)).await.unwrap() });
        }),
        ("block_in_place", |runtime, guard| {
            runtime
                .block_on(runtime.spawn(async { block_in_place(|| drop(guard)) }))
                .unwrap();
        }),
        ("a local set", |runtime, guard| {
            let local = LocalSet::new();
            let task = local.spawn_local(async { drop(guard) });
            runtime.block_on(local.run_until(task)).unwrap();
        }),
        ("a panic", |runtime, guard| {
            let task = runtime.spawn(async move {
                let _guard = guard;
                panic!("on purpose");
            });
            assert!(runtime.block_on(task).unwrap_err().is_panic());
        }),
        ("a thread's panic", |_, guard| {
            let thread = thread::spawn(move || {
                let _guard = guard;
                panic!("on purpose");
            });
            assert!(thread.join().is_err());
        }),
        ("an aborted task", |runtime, guard| {
            let task = runtime.spawn(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            });
            task.abort();
            assert!(runtime.block_on(task).unwrap_err().is_cancelled());
        }),
    ];
    let runtime = runtime();
    for (place, drops) in places {
        let backend = Scripted::honest();
        let guard = runtime.block_on(held(&backend));
        drops(&runtime, guard);
        until_free(&backend);
        assert_eq!(backend.calls_of(Op::Release).len(), 1, "in {place}");
    }
}

thread_local! {
    static KEPT: RefCell<Vec<LockGuard>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn a_drop_in_a_thread_locals_destructor_releases() {
    let runtime = runtime();
    let backend = Scripted::honest();
    // In a thread that has never seen a runtime, and in one whose runtime state is destroyed before or after.
    for knows_runtime in [false, true] {
        for keeps_first in [false, true] {
            let guard = runtime.block_on(held(&backend));
            let handle = runtime.handle().clone();
            let thread = thread::spawn(move || {
                if keeps_first {
                    KEPT.with_borrow_mut(|_| ());
                }
                if knows_runtime {
                    handle.block_on(async { tokio::task::yield_now().await });
                }
                KEPT.with_borrow_mut(|kept| kept.push(guard));
            });
            thread.join().expect("no panic");
            until_free(&backend);
        }
    }
    // In a worker of its own runtime, while that ends.
    let ending = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    ending
        .block_on(ending.spawn({
            let backend = backend.clone();
            async move {
                let guard = held(&backend).await;
                KEPT.with_borrow_mut(|kept| kept.push(guard));
            }
        }))
        .unwrap();
    drop(ending);
}

#[test]
fn a_drop_after_the_runtime_has_ended_is_harmless() {
    for policy in [GuardPolicy::Release, GuardPolicy::LeaveToExpire] {
        let backend = Scripted::honest();
        let runtime = runtime();
        let lock = lock(&backend).with_guard(policy).with_ttl(SECOND);
        let guard = runtime.block_on(lock.acquire()).unwrap();
        let loss = guard.loss();
        drop(runtime);
        drop(guard);
        assert!(!loss.is_held());
        assert!(!is_free(&backend), "nobody is there to release it");
        assert!(backend.entries()["k"].remaining <= SECOND, "but its ttl");
    }
}

#[test]
fn a_runtime_that_ends_with_guards_and_waiters_neither_panics_nor_hangs() {
    type Ends = fn(Runtime);
    let ways: [Ends; 3] = [
        Runtime::shutdown_background,
        |runtime| runtime.shutdown_timeout(Duration::ZERO),
        drop,
    ];
    let runtimes: [fn() -> Runtime; 2] = [runtime, || {
        Builder::new_current_thread().enable_time().build().unwrap()
    }];
    for make in runtimes {
        for ends in ways {
            let backend = Scripted::honest().with_latency(MS);
            let runtime = make();
            let locks = locks(&backend).with_ttl(300 * MS);
            let (mut kept, mut waiters) = (Vec::new(), Vec::new());
            runtime.block_on(async {
                for n in 0..50 {
                    let guard = locks.lock(n.to_string()).acquire().await.unwrap();
                    if n % 2 == 0 {
                        kept.push(guard);
                    } else {
                        waiters.push(spawn(async move {
                            let lost = guard.lost().await;
                            drop(guard);
                            Err(lost)
                        }));
                    }
                    let lock = locks.lock(n.to_string());
                    waiters.push(spawn(async move { Ok(lock.acquire().await) }));
                }
                sleep(10 * MS).await;
            });
            let ended = thread::spawn(move || ends(runtime));
            for _ in 0..2000 {
                if ended.is_finished() {
                    break;
                }
                thread::sleep(MS);
            }
            assert!(ended.is_finished(), "it hangs");
            ended.join().expect("no panic");
            drop(kept);
            drop(waiters);
            assert!(
                backend
                    .entries()
                    .values()
                    .all(|entry| entry.remaining <= 300 * MS),
                "what is left ends with its ttl"
            );
        }
    }
}

#[test]
fn outside_a_runtime_a_lock_is_given_back_in_the_background_and_not_prolonged() {
    let backend = Scripted::honest();
    let (runtime, bare) = (runtime(), Builder::new_current_thread().build().unwrap());
    for in_a_runtime_without_timers in [false, true] {
        let guard = runtime.block_on(lock(&backend).acquire()).unwrap();
        let _entered = in_a_runtime_without_timers.then(|| bare.enter());
        let mut context = Context::from_waker(Waker::noop());
        let extended = pin!(guard.extend(SECOND)).poll(&mut context);
        let renewed = pin!(guard.renew_for(SECOND)).poll(&mut context);
        let released = pin!(guard.release()).poll(&mut context).map_ok(drop);
        for poll in [extended, renewed, released] {
            let is_refused = matches!(poll, Poll::Ready(Err(LockError::NoRuntime { .. })));
            assert!(is_refused, "{poll:?}");
        }
        until_free(&backend);
    }
    assert_eq!(backend.calls_of(Op::Renew).len(), 0);
}

#[test]
fn a_guard_outside_every_runtime_still_knows_whether_it_is_held() {
    let backend = Scripted::honest();
    let runtime = runtime();
    let lock = lock(&backend).with_ttl(2 * SECOND);
    let guard = runtime.block_on(lock.acquire()).unwrap();
    drop(runtime);
    assert!(guard.is_held());
    thread::sleep(2 * SECOND);
    assert!(!guard.is_held(), "by the clock alone");
    assert_eq!(guard.remaining(), Duration::ZERO);
    assert!(matches!(
        guard.check(),
        Err(LockError::Lost {
            reason: LossReason::Unconfirmed,
            ..
        })
    ));
}
