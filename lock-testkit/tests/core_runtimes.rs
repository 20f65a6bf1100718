//! Runtimes that come and go, and the end of all use: shutdown.
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
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use common_acquire::*;
use lock_core::{
    GuardPolicy, LockError, LockGuard, Locks, LossReason, PassingOn, Released, RenewalPolicy,
};
use lock_testkit::{Effect, LeakCheck, Op, Scripted};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{sleep, timeout};

fn single() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn multi() -> Runtime {
    let builder = &mut Builder::new_multi_thread();
    builder.worker_threads(2).enable_time().build().unwrap()
}

// Runtimes that come and go. Real time, so short ttls.

/// Short, and yet longer than a busy machine lets a task wait.
const SHORT: Duration = Duration::from_millis(1500);

fn short(locks: Locks) -> Locks {
    let renewal = RenewalPolicy::per_ttl(8);
    locks.with_ttl(SHORT).with_renewal(renewal)
}

static BACKEND: LazyLock<Scripted> = LazyLock::new(Scripted::honest);
static LOCKS: LazyLock<Locks> = LazyLock::new(|| short(locks(&BACKEND)));

#[test]
fn locks_in_a_static_serve_one_runtime_after_the_other() {
    for (n, make) in [single, multi, single, multi].into_iter().enumerate() {
        let runtime = make();
        runtime.block_on(async {
            let renewals = BACKEND.calls_of(Op::Renew).len();
            let guard = LOCKS.lock("k").acquire().await.unwrap();
            let waiting = LOCKS.lock("k");
            let waiter = spawn(async move { waiting.acquire().await });
            sleep(SHORT * 3 / 2).await;
            assert!(guard.is_held(), "renewed on runtime {n}");
            assert!(BACKEND.calls_of(Op::Renew).len() >= renewals + 3);
            guard.release().await.unwrap();
            waiter.await.unwrap().unwrap().release().await.unwrap();
        });
    }
}

#[test]
fn a_guard_that_outlives_its_runtime_is_invalid_at_its_deadline() {
    for make in [single, multi] {
        let backend = Scripted::honest();
        let lock = lock(&backend).with_ttl(SHORT);
        let first = make();
        let guard = first.block_on(lock.acquire()).unwrap();
        let loss = guard.loss();
        drop(first);
        let second = make();
        assert!(guard.is_held());
        let reason = second.block_on(guard.lost());
        assert_eq!(reason, LossReason::Unconfirmed, "renewed by nobody");
        assert!(!guard.is_held() && !loss.is_held());
        // Its calls work on the runtime that makes them, and end.
        let extended = second.block_on(guard.extend(SECOND));
        assert!(matches!(extended, Err(LockError::Lost { .. })));
        let released = second.block_on(guard.release()).unwrap();
        assert!(matches!(released, Released::Released | Released::Expired));
        drop(second.block_on(lock.acquire()).unwrap());
    }
}

#[test]
fn a_guard_is_released_and_extended_on_another_runtime_than_its_own() {
    let (first, second) = (multi(), single());
    let backend = Scripted::honest();
    let guard = first.block_on(lock(&backend).acquire()).unwrap();
    second.block_on(guard.extend(SECOND)).unwrap();
    let released = second.block_on(guard.release()).unwrap();
    assert_eq!(released, Released::Released);
    assert!(is_free(&backend));
}

#[test]
fn a_runtime_that_nobody_drives_does_not_stop_renewal_on_another() {
    let backend = Scripted::honest();
    let locks = short(locks(&backend));
    let undriven = single();
    let stopped = undriven.block_on(locks.lock("stopped").acquire()).unwrap();
    let driven = single();
    driven.block_on(async {
        let guard = locks.lock("k").acquire().await.unwrap();
        sleep(SHORT * 3 / 2).await;
        assert!(guard.is_held());
        assert!(!stopped.is_held(), "by the clock");
        drop(stopped);
        guard.release().await.unwrap();
    });
    // Driven again, it works as before.
    undriven.block_on(async {
        let guard = locks.lock("k").acquire().await.unwrap();
        sleep(SHORT * 3 / 2).await;
        assert!(guard.is_held());
    });
}

#[test]
fn a_future_goes_on_where_it_is_polled_after_its_first_runtime_has_ended() {
    type Held = Pin<Box<dyn Future<Output = Result<LockGuard, LockError>> + Send>>;
    let begin = |mut future: Held| {
        let first = single();
        first.block_on(poll_fn(|context| {
            assert!(future.as_mut().poll(context).is_pending());
            Poll::Ready(())
        }));
        drop(first);
        future
    };
    // In the midst of the wait.
    for wakeups in [true, false] {
        let backend = Scripted::honest().with_wakeups(wakeups);
        backend.steal("k", 500 * MS);
        let lock = lock(&backend);
        let future = begin(Box::pin(async move { lock.acquire().await }));
        let guard = single().block_on(async { timeout(10 * SECOND, future).await.unwrap() });
        assert!(guard.unwrap().is_held());
    }
    // In the midst of an attempt that hangs: its timeout goes on too.
    let backend = Scripted::honest();
    backend.on(Op::Acquire).next(Effect::HangAfter);
    let lock = lock(&backend).with_ttl(200 * MS);
    let future = begin(Box::pin(async move { lock.try_acquire().await }));
    let answer = single().block_on(async { timeout(10 * SECOND, future).await.unwrap() });
    assert!(
        matches!(answer, Err(LockError::Unknown { .. })),
        "{answer:?}"
    );
}

#[test]
fn a_waiter_whose_runtime_ends_leaves_no_entry() {
    let backend = Scripted::honest();
    let (first, second) = (multi(), single());
    let holder = second.block_on(lock(&backend).acquire()).unwrap();
    let lock = lock(&backend);
    first.spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    while backend.subscriptions() == 0 {
        thread::sleep(MS);
    }
    drop(first);
    second.block_on(holder.release()).unwrap();
    second.block_on(async {
        drop(timeout(10 * SECOND, lock.acquire()).await.unwrap().unwrap());
    });
}

// Shutdown.

#[tokio::test(start_paused = true)]
async fn a_shutdown_refuses_what_is_new() {
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let (lock, clone) = (locks.lock("k"), locks.clone().with_prefix("p:"));
    let ticket = lock.acquire().await.unwrap().into_ticket().await.unwrap();
    assert!(locks.shutdown().await);
    let calls = backend.calls().len();
    let closed = |error: LockError| assert!(matches!(error, LockError::Closed { .. }), "{error:?}");
    closed(lock.acquire().await.unwrap_err());
    closed(lock.try_acquire().await.unwrap_err());
    closed(lock.status().await.unwrap_err());
    closed(locks.resume(&ticket).await.unwrap_err());
    closed(clone.lock("k").acquire().await.unwrap_err());
    let with = clone.with("k", async |_| Ok::<_, LockError>(())).await;
    closed(with.unwrap_err());
    assert_eq!(backend.calls().len(), calls, "nothing was sent");
    // Other locks on the same backend go on.
    let others = Locks::new(backend.clone());
    others
        .resume(&ticket)
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_releases_the_locks_and_tells_their_holders() {
    let backend = Scripted::honest().with_latency(5 * MS);
    let leaks = LeakCheck::start();
    let locks = locks(&backend);
    let mut guards = Vec::new();
    for n in 0..100 {
        let policy = match n % 3 {
            0 => RenewalPolicy::default(),
            1 => RenewalPolicy::never(),
            _ => RenewalPolicy::default().hold_at_most(HOUR),
        };
        let lock = locks.lock(n.to_string()).with_renewal(policy);
        let guard = match n % 2 {
            0 => GuardPolicy::Release,
            _ => GuardPolicy::LeaveToExpire,
        };
        guards.push(lock.with_guard(guard).acquire().await.unwrap());
    }
    let told = spawn({
        let loss = guards[0].loss();
        async move { loss.lost().await }
    });
    let (is_done, took) = timed(locks.shutdown()).await;
    assert!(is_done && took < 100 * MS, "{took:?}");
    assert!(is_free(&backend));
    assert_eq!(told.await.unwrap(), LossReason::ShutDown);
    let releases = backend.calls_of(Op::Release).len();
    assert_eq!(releases, 100);
    for (n, guard) in guards.into_iter().enumerate() {
        assert!(!guard.is_held());
        assert_eq!(guard.lost().await, LossReason::ShutDown);
        match n % 4 {
            0 => drop(guard),
            1 => guard.leave_to_expire(),
            2 => assert_shut_down(guard.into_ticket().await.map_err(|(_, error)| error)),
            _ => {
                assert_shut_down(guard.extend(SECOND).await);
                assert_shut_down(guard.renew_for(SECOND).await);
                assert_shut_down(guard.run(async {}).await);
                assert_shut_down(guard.release().await);
            }
        }
    }
    leaks.assert_none(TTL).await;
    assert_eq!(backend.calls_of(Op::Release).len(), releases);
    // Again, it changes nothing.
    let (is_done, took) = timed(locks.clone().shutdown()).await;
    assert!(is_done && took < SLACK);
}

fn assert_shut_down<T>(answer: Result<T, LockError>) {
    let error = answer.err().expect("an error");
    assert!(
        matches!(
            error,
            LockError::Lost {
                reason: LossReason::ShutDown,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_every_wait() {
    for scenario in 0..4 {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let locks = locks(&backend);
        backend.steal("k", HOUR);
        match scenario {
            0 => {}
            1 => {
                _ = backend
                    .on(Op::Acquire)
                    .always(Effect::FailBefore(refused()))
            }
            2 => {
                _ = backend
                    .on(Op::Subscribe)
                    .always(Effect::FailBefore(refused()))
            }
            _ => _ = backend.on(Op::Subscribe).always(Effect::HangBefore),
        }
        let waiters: Vec<_> = (0..20)
            .map(|_| {
                let lock = locks.lock("k").with_retry(every(HOUR));
                spawn(async move { lock.acquire().await })
            })
            .collect();
        sleep(SECOND).await;
        let calls = backend.calls().len();
        let (is_done, took) = timed(locks.shutdown()).await;
        assert!(is_done && took < SLACK, "{scenario}: {took:?}");
        for waiter in waiters {
            let (answer, took) = timed(waiter).await;
            let error = answer.unwrap().unwrap_err();
            assert!(matches!(error, LockError::Closed { .. }), "{error:?}");
            assert!(took < SLACK, "{scenario}: {took:?}");
        }
        leaks.assert_none(CLEAN).await;
        assert_eq!(backend.subscriptions(), 0);
        assert_eq!(
            backend.calls().len(),
            calls,
            "{scenario}: sent after the end"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_when_a_shutdown_is_over() {
    // A waiter whose subscription comes into force just then does not try again.
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let thief = backend.steal("k", HOUR);
    backend.on(Op::Subscribe).always(Effect::Ask);
    let lock = locks.lock("k");
    let waiter = spawn(async move { lock.acquire().await });
    let subscribe = backend.next_call().await;
    let (is_done, ()) = tokio::join!(locks.shutdown(), async { subscribe.reply_honestly().await });
    assert!(is_done);
    let error = waiter.await.unwrap().unwrap_err();
    assert!(matches!(error, LockError::Closed { .. }), "{error:?}");
    assert_eq!(backend.calls_of(Op::Acquire).len(), 1);
    assert_eq!(backend.entries()["k"].owner, thief);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_arrives_during_a_shutdown_is_given_back() {
    for effect in [Effect::DelayAfter(SECOND), Effect::DelayBefore(SECOND)] {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let locks = locks(&backend);
        backend.on(Op::Acquire).next(effect);
        let lock = locks.lock("k");
        let waiter = spawn(async move { lock.acquire().await });
        sleep(500 * MS).await;
        assert!(locks.shutdown().await);
        assert!(
            is_free(&backend),
            "it waits for the attempt and its release"
        );
        let error = waiter.await.unwrap().unwrap_err();
        assert!(matches!(error, LockError::Closed { .. }), "{error:?}");
        leaks.assert_none(CLEAN).await;
        let releases = backend.calls_of(Op::Release).len();
        assert_eq!(releases, 1, "granted, so that nothing comes late");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_compensations() {
    let backend = Scripted::honest();
    let locks = locks(&backend).with_ttl(SECOND);
    backend.on(Op::Acquire).next(Effect::LoseReply(cut()));
    backend.on(Op::Release).next(Effect::FailBefore(refused()));
    assert!(locks.lock("k").try_acquire().await.is_err());
    let dropped = locks.lock("dropped").acquire().await.unwrap();
    backend.on(Op::Release).next(Effect::FailBefore(refused()));
    drop(dropped);
    assert!(!is_free(&backend));
    assert!(locks.shutdown().await);
    assert!(is_free(&backend));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_bounded_whatever_the_backend_does() {
    for effect in [
        Effect::HangBefore,
        Effect::HangAfter,
        Effect::FailBefore(refused()),
        Effect::LoseReply(cut()),
        Effect::Panic,
    ] {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let locks = locks(&backend);
        let guard = locks.lock("k").acquire().await.unwrap();
        for op in Op::ALL {
            backend.on(op).always(effect.clone());
        }
        let trying = locks.lock("other");
        let trying = spawn(async move { trying.try_acquire().await });
        sleep(MS).await;
        let (_, took) = timed(locks.shutdown()).await;
        assert!(took < 5 * SECOND + SLACK, "{effect:?}: {took:?}");
        assert!(!guard.is_held());
        let (_, took) = timed(locks.shutdown()).await;
        assert!(took < 5 * SECOND + SLACK, "{effect:?}: {took:?}");
        drop(guard);
        drop(trying.await);
        leaks.assert_none(2 * TTL).await;
    }
}

#[test]
fn a_shutdown_reaches_the_locks_of_every_runtime() {
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let (first, second) = (multi(), single());
    // The first runtime has a waiter and no lease while the second takes its first lock.
    let thief = backend.steal("k", HOUR);
    let lock = locks.lock("k");
    let waiter = first.spawn(async move { lock.acquire().await });
    while backend.subscriptions() == 0 {
        thread::sleep(MS);
    }
    let other = second.block_on(locks.lock("other").acquire()).unwrap();
    assert_eq!(backend.entries()["k"].owner, thief);
    backend.evict("k");
    backend.wake("k");
    let guard = first.block_on(waiter).unwrap().unwrap();
    assert!(second.block_on(locks.shutdown()));
    assert!(!other.is_held() && !guard.is_held());
    assert_eq!(second.block_on(guard.lost()), LossReason::ShutDown);
    assert!(is_free(&backend));
}

#[test]
fn a_shutdown_does_not_wait_for_runtimes_that_have_ended() {
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let (first, second) = (multi(), single());
    let guard = first.block_on(locks.lock("k").acquire()).unwrap();
    drop(first);
    let (is_done, took) = second.block_on(async { timed(locks.shutdown()).await });
    assert!(is_done && took < SECOND, "{took:?}");
    assert!(!guard.is_held());
    drop(guard);
}

// A shutdown on several threads.

/// Resolves when the current runtime has so many tasks.
async fn until_tasks(count: usize) {
    let metrics = Handle::current().metrics();
    poll_fn(|context| {
        if metrics.num_alive_tasks() >= count {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What `f` returns, unless it is stuck.
fn within<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, told) = mpsc::channel();
    thread::spawn(move || done.send(f()));
    let told = told.recv_timeout(30 * SECOND);
    told.expect("it does not go round and round")
}

/// The next poll after the renewer's is that of who shuts down, and not that of the renewal that it started.
#[test]
fn a_shutdown_ends_beside_a_renewal_that_is_about_to_begin() {
    for policy in [GuardPolicy::Release, GuardPolicy::LeaveToExpire] {
        let locks = short(locks(&Scripted::honest())).with_guard(policy);
        let ended = within(move || {
            let builder = &mut Builder::new_current_thread();
            let runtime = builder.enable_time().event_interval(1).build().unwrap();
            runtime.block_on(async {
                let guard = locks.lock("k").acquire().await.unwrap();
                until_tasks(2).await;
                if policy == GuardPolicy::Release {
                    guard.release().await.unwrap();
                } else {
                    drop(guard);
                }
                locks.shutdown().await
            })
        });
        assert!(ended);
    }
}

#[test]
fn a_shutdown_ends_although_nobody_drives_a_renewal_that_was_started() {
    let backend = Scripted::honest();
    let locks = short(locks(&backend));
    let builder = &mut Builder::new_current_thread();
    let undriven = builder.enable_time().event_interval(1).build().unwrap();
    let guard = undriven.block_on(async {
        let guard = locks.lock("k").acquire().await.unwrap();
        until_tasks(2).await;
        guard
    });
    assert!(backend.calls_of(Op::Renew).is_empty());
    let driven = single();
    driven.block_on(guard.release()).unwrap();
    assert!(within(move || driven.block_on(locks.shutdown())));
    drop(undriven);
}

#[test]
fn a_shutdown_right_after_releases_ends() {
    for round in 0..8 {
        let ended = within(move || {
            single().block_on(async {
                let backend = Scripted::honest();
                let locks = locks(&backend).with_ttl(300 * MS);
                let mut guards = Vec::new();
                for n in 0..40 {
                    guards.push(locks.lock(format!("k{n}")).acquire().await.unwrap());
                }
                let life = spawn(async move {
                    sleep((50 + 6 * round) * MS).await;
                    for guard in guards {
                        // Lost, if the machine was too slow.
                        drop(guard.release().await);
                    }
                    locks.shutdown().await
                });
                life.await.unwrap()
            })
        });
        assert!(ended, "round {round}");
    }
}

thread_local! {
    static KEPT: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// The runtime ends with the thread, where tokio's clock is gone.
#[test]
fn a_renewal_that_is_dropped_where_there_is_no_clock_is_over() {
    // From now on tokio looks for a paused clock.
    let builder = &mut Builder::new_current_thread();
    drop(builder.enable_time().start_paused(true).build().unwrap());
    let backend = Scripted::honest();
    backend.on(Op::Renew).always(Effect::HangBefore);
    let locks = locks(&backend).with_ttl(20 * SECOND);
    let (lock, seen) = (locks.lock("k"), backend.clone());
    let thread = thread::spawn(move || {
        // Registered first, and so dropped after what tokio keeps for the thread.
        KEPT.with_borrow_mut(|_| ());
        let renewal = RenewalPolicy::per_ttl(60);
        let runtime = single();
        let guard = runtime.block_on(async {
            let guard = lock.with_renewal(renewal).acquire().await.unwrap();
            while seen.calls_of(Op::Renew).is_empty() {
                sleep(MS).await;
            }
            guard
        });
        KEPT.set(Some(runtime));
        guard
    });
    let guard = thread.join().unwrap();
    backend.on(Op::Renew).clear();
    assert!(guard.is_held());
    let other = single();
    other.block_on(guard.extend(SECOND)).unwrap();
    assert!(other.block_on(locks.shutdown()));
    assert!(!guard.is_held());
}

/// Shuts down while another thread keeps doing `what`, and sees that nothing is held or left behind when it is done.
fn shutdown_races(what: impl Fn(&Locks, &LockGuard, usize) -> Option<LockGuard> + Sync) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    for _ in 0..300 {
        let backend = Scripted::honest();
        let policy = RenewalPolicy::default().while_progressing(Duration::from_nanos(1));
        let locks = locks(&backend).with_renewal(policy);
        let guard = runtime.block_on(locks.lock("k").try_acquire()).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let racing = scope.spawn(|| {
                let _entered = runtime.enter();
                let mut taken = Vec::new();
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    taken.extend(what(&locks, &guard, n));
                }
                taken
            });
            thread::sleep(Duration::from_micros(200));
            assert!(runtime.block_on(locks.shutdown()));
            assert!(!guard.is_held(), "held after the shutdown");
            stop.store(true, Ordering::SeqCst);
            let taken = racing.join().unwrap();
            assert!(
                taken.iter().all(|guard| !guard.is_held()),
                "held after the shutdown"
            );
        });
        assert!(
            backend.entries().is_empty(),
            "left behind: {:?}",
            backend.entries()
        );
    }
}

#[test]
fn a_shutdown_misses_no_lock_that_is_taken_on_another_thread() {
    shutdown_races(|locks, _, n| {
        Handle::current()
            .block_on(locks.lock(format!("k{n}")).try_acquire())
            .ok()
    });
}

#[test]
fn a_shutdown_misses_no_lock_that_is_extended_on_another_thread() {
    shutdown_races(|_, guard, _| {
        let _ = Handle::current().block_on(guard.extend(Duration::from_millis(1)));
        None
    });
}

#[test]
fn a_shutdown_misses_no_lock_that_is_linked_anew_on_another_thread() {
    shutdown_races(|_, guard, _| {
        guard.checkpoint();
        None
    });
}

/// Waiters come and go and pass the lock on while it is shut down.
#[test]
fn after_a_shutdown_nothing_is_left_at_the_store() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    for passing in [PassingOn::never(), PassingOn::at_most(1000).within(HOUR)] {
        for round in 0..500 {
            let backend = Scripted::honest();
            let locks = locks(&backend).with_passing_on(passing).with_wait(HOUR);
            let tasks: Vec<_> = (0..6)
                .map(|n| {
                    let lock = locks.lock("k");
                    runtime.spawn(async move {
                        loop {
                            let limit = Duration::from_micros(30 * (1 + n));
                            match tokio::time::timeout(limit, lock.acquire()).await {
                                Err(_) => {}
                                Ok(Err(_)) => break,
                                Ok(Ok(guard)) if n % 2 == 0 => drop(guard),
                                Ok(Ok(guard)) => drop(guard.release().await),
                            }
                        }
                    })
                })
                .collect();
            thread::sleep(Duration::from_micros(300 + round % 700));
            // On this thread, so that nothing comes between the answer and the look.
            let ended = runtime.block_on(locks.shutdown());
            let left = backend.entries();
            assert!(ended && left.is_empty(), "{passing:?} {round}: {left:?}");
            for task in tasks {
                runtime.block_on(task).unwrap();
            }
        }
    }
}
