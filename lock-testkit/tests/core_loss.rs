//! What a holder believes, and how it hears that it is over.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use common::{
    MS, SECOND, SLACK, assert_lost, assert_safe, cut, entry_left, hold, lost_at_the_deadline,
    options, refused, watch,
};
use lock_core::{
    BackendError, DistributedLock, LockError, LockGuard, LockOptions, Locks, LossReason, Moment,
    Ownership, Released, RenewalPolicy, suspend,
};
use lock_testkit::{Effect, LeakCheck, Op, Scripted};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_secs(1);
const OP: Duration = Duration::from_millis(600);

fn by_hand(ttl: Duration) -> LockOptions {
    options(ttl).with_renewal(RenewalPolicy::never())
}

/// Notes that it was dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn flag() -> (Flag, Arc<AtomicBool>) {
    let seen = Arc::new(AtomicBool::new(false));
    (Flag(Arc::clone(&seen)), seen)
}

// C17, C18, T03, T04, T07: the deadline.

#[tokio::test(start_paused = true)]
async fn what_remains_falls_from_the_ttl_less_the_drift_to_nothing() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", by_hand(TTL)).await;
    for op in Op::ALL {
        backend.on(op).always(Effect::HangBefore);
    }
    let start = Moment::now();
    let mut last = guard.remaining();
    assert!(last <= TTL - 32 * MS && last > TTL - 32 * MS - SLACK);
    while start.elapsed() < 2 * TTL {
        tokio::time::advance(10 * MS).await;
        let passed = start.elapsed();
        let now = guard.remaining();
        assert!(now <= last && now <= (TTL - 32 * MS).saturating_sub(passed));
        assert_eq!(guard.is_held(), !guard.remaining().is_zero());
        assert!(guard.is_held() || passed > TTL - 32 * MS - SLACK);
        last = now;
    }
    assert!(!guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn validity_counts_from_before_the_winning_attempt() {
    let options = by_hand(SECOND)
        .with_op_timeout(500 * MS)
        .with_min_validity(MS);
    let backend = Scripted::honest();
    backend.on(Op::Acquire).next(Effect::DelayAfter(300 * MS));
    let lock = Locks::new(backend.clone()).lock("k");
    let lock = lock.with_options(options.clone());
    let guard = lock.try_acquire().await.unwrap();
    let right = SECOND - 300 * MS - 12 * MS;
    assert!(guard.remaining() <= right && guard.remaining() > right - SLACK);
    assert_safe(&backend, &guard);

    // After a wait: neither from its start nor from the reply.
    let backend = Scripted::honest();
    backend.steal("k", 5 * SECOND);
    let lock = Locks::new(backend.clone()).lock("k").with_options(options);
    let waiter = async {
        let guard = lock.acquire().await.unwrap();
        assert!(guard.remaining() <= right && guard.remaining() > right - SLACK);
        assert_safe(&backend, &guard);
    };
    let slow = async {
        sleep(4900 * MS).await;
        backend.on(Op::Acquire).always(Effect::DelayAfter(300 * MS));
    };
    tokio::join!(waiter, slow);
}

#[tokio::test(start_paused = true)]
async fn the_shortest_ttls_give_a_guard_that_soon_ends_or_none() {
    let backend = Scripted::honest();
    let locks = Locks::new(backend.clone());
    let (mut granted, mut keys) = (0, 0);
    for n in 0..1000_u32 {
        for ttl in [10 * MS, 11 * MS, 20 * MS] {
            for renewal in [RenewalPolicy::never(), RenewalPolicy::default()] {
                // A name for each, because what came late is given back in the background.
                keys += 1;
                let lock = locks.lock(format!("k{keys}"));
                let lock = lock.with_ttl(ttl).with_renewal(renewal);
                if n % 4 == 3 {
                    backend.on(Op::Acquire).next(Effect::DelayAfter(ttl));
                }
                match lock.try_acquire().await {
                    Ok(guard) => {
                        granted += 1;
                        assert!(guard.remaining() <= ttl - 2 * MS);
                        if n % 10 == 0 {
                            sleep(2 * ttl).await;
                            assert_safe(&backend, &guard);
                            assert!(!guard.is_held() || renewal != RenewalPolicy::never());
                        }
                        let _ = guard.release().await;
                    }
                    Err(LockError::Late { .. } | LockError::Unknown { .. }) => {}
                    other => panic!("{other:?}"),
                }
                if n % 4 == 3 {
                    // What came late is given back.
                    sleep(5 * ttl).await;
                }
            }
        }
    }
    assert!(granted > 2000, "{granted}");
    let calls = backend.calls().len();
    assert!(calls < 40_000, "{calls} calls");
}

#[tokio::test(start_paused = true)]
async fn the_store_keeps_an_entry_at_least_as_long_as_its_holder_believes() {
    for micros in [10_500, 10_001, 1_000_900, 33_333] {
        let ttl = Duration::from_micros(micros);
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(ttl)).await;
        watch(10 * ttl, ttl / 20, || assert_safe(&backend, &guard)).await;
        backend.on(Op::Renew).always(Effect::FailBefore(refused()));
        watch(2 * ttl, ttl / 20, || assert_safe(&backend, &guard)).await;
        assert!(!guard.is_held());
    }
}

#[tokio::test(start_paused = true)]
async fn numbers_that_do_not_fit_are_refused_before_anything_is_sent() {
    let backend = Scripted::honest();
    let drift = 32 * MS;
    let table = [
        options(Duration::ZERO),
        options(9 * MS),
        options(Duration::MAX),
        options(TTL).with_op_timeout(Duration::ZERO),
        options(TTL).with_op_timeout(TTL - drift),
        options(TTL).with_op_timeout(Duration::MAX),
        options(TTL).with_min_validity(TTL - drift),
        options(TTL).with_renewal(RenewalPolicy::per_ttl(1)),
        options(TTL).with_renewal(RenewalPolicy::per_ttl(101)),
        options(TTL).with_renewal(RenewalPolicy::default().hold_at_most(Duration::ZERO)),
        options(TTL).with_renewal(RenewalPolicy::default().while_progressing(Duration::ZERO)),
    ];
    for options in table {
        let lock = Locks::new(backend.clone())
            .lock("k")
            .with_options(options.clone());
        for answer in [lock.try_acquire().await, lock.acquire().await] {
            assert!(
                matches!(answer, Err(LockError::Invalid { .. })),
                "{options:?}"
            );
        }
    }
    assert!(backend.calls().is_empty());
}

// Local and final.

/// A lock of 40 ms, for tests in which the system is suspended.
async fn brief(backend: &Scripted) -> LockGuard {
    hold(backend, "k", options(40 * MS).with_min_validity(MS)).await
}

#[tokio::test(start_paused = true)]
async fn is_held_is_right_though_no_task_has_run_and_tokios_clock_stood_still() {
    let backend = Scripted::honest();
    let guard = brief(&backend).await;
    let loss = guard.loss();
    suspend(40 * MS);
    assert!(!guard.is_held() && !loss.is_held());
    assert_eq!(guard.remaining(), Duration::ZERO);
    assert_lost(guard.check(), LossReason::Unconfirmed);
    assert!(backend.calls_of(Op::Renew).is_empty(), "no task has run");
    // Final: what the tasks do now does not bring it back.
    watch(200 * MS, MS, || assert!(!guard.is_held())).await;
    assert!(backend.calls_of(Op::Renew).is_empty());
    assert_eq!(
        timeout(MS, loss.lost()).await.unwrap(),
        LossReason::Unconfirmed
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_heard_after_the_deadline_changes_nothing_though_nobody_noted_the_end() {
    let mut late = 0;
    for _ in 0..10 {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL)).await;
        backend.on(Op::Renew).always(Effect::Ask);
        sleep(guard.remaining() - 100 * MS).await;
        let mut last = None;
        while let Some(call) = backend.try_next_call() {
            last = Some(call);
        }
        let Some(call) = last.filter(|call| !call.is_abandoned()) else {
            continue;
        };
        late += 1;
        call.apply().await;
        // The renewal's task is the first to run after the deadline.
        call.reply_ownership([Ownership::Held]);
        tokio::time::advance(150 * MS).await;
        watch(2 * TTL, 10 * MS, || assert!(!guard.is_held())).await;
    }
    assert!(late > 0, "no answer was late");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_answered_after_the_deadline_changes_nothing() {
    let mut late = 0;
    for _ in 0..10 {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL).with_op_timeout(900 * MS)).await;
        backend.on(Op::Renew).always(Effect::Ask);
        assert_eq!(lost_at_the_deadline(&guard).await, LossReason::Unconfirmed);
        while let Some(call) = backend.try_next_call() {
            if !call.is_abandoned() {
                late += 1;
                call.apply().await;
                call.reply_ownership([Ownership::Held]);
            }
        }
        watch(TTL, 10 * MS, || assert!(!guard.is_held())).await;
        assert_lost(guard.check(), LossReason::Unconfirmed);
    }
    assert!(late > 0, "no answer was late");
}

// The signal.

#[tokio::test(start_paused = true)]
async fn a_loss_is_told_before_the_deadline_to_the_millisecond() {
    for millis in [1000, 1001, 2500, 3000, 10_007] {
        for renewal in [RenewalPolicy::never(), RenewalPolicy::default()] {
            let (ttl, backend) = (millis * MS, Scripted::honest());
            backend.on(Op::Renew).always(Effect::HangBefore);
            let guard = hold(&backend, "k", options(ttl).with_renewal(renewal)).await;
            assert_eq!(guard.lost().await, LossReason::Unconfirmed);
            // At the deadline the entry has the drift left; timers are as exact as a millisecond.
            let early = entry_left(&backend, "k").saturating_sub(ttl / 100 + 2 * MS);
            assert!(!early.is_zero() && early <= 2 * MS, "{early:?} early");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_reason_is_told_to_all_who_wait_before_and_after() {
    let reasons = [
        LossReason::Absent,
        LossReason::Taken,
        LossReason::Unconfirmed,
        LossReason::HeldTooLong,
        LossReason::NoProgress,
        LossReason::ShutDown,
    ];
    for reason in reasons {
        let backend = Scripted::honest();
        let locks = Locks::new(backend.clone());
        let policy = match reason {
            LossReason::HeldTooLong => RenewalPolicy::default().hold_at_most(TTL / 2),
            LossReason::NoProgress => RenewalPolicy::default().while_progressing(MS),
            _ => RenewalPolicy::default(),
        };
        let lock = locks.lock("k").with_ttl(TTL).with_renewal(policy);
        let guard = lock.try_acquire().await.unwrap();
        let (one, two) = (guard.loss(), guard.loss().clone());
        let deadline = (guard.remaining(), Moment::now());
        let task = Handle::current().spawn({
            let three = one.clone();
            async move { three.lost().await }
        });
        let cause = async {
            sleep(MS).await;
            match reason {
                LossReason::Absent => drop(backend.evict("k")),
                LossReason::Taken => drop(backend.steal("k", 60 * SECOND)),
                LossReason::Unconfirmed => {
                    backend.on(Op::Renew).always(Effect::HangBefore);
                }
                LossReason::ShutDown => assert!(locks.shutdown().await),
                _ => {}
            }
        };
        let (a, b, c, d, ()) =
            tokio::join!(guard.lost(), guard.lost(), one.lost(), two.lost(), cause);
        assert_eq!([a, b, c, d], [reason; 4]);
        assert!(deadline.1.elapsed() <= deadline.0 + SLACK);
        assert_eq!(task.await.unwrap(), reason);
        assert!(!guard.is_held() && !one.is_held());
        assert_lost(guard.check(), reason);
        assert_eq!(timeout(MS, guard.lost()).await.unwrap(), reason);
        drop(guard);
        // The first reason stays, also for those who ask when the guard is gone.
        assert_eq!(timeout(MS, two.clone().lost()).await.unwrap(), reason);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_hears_that_the_guard_is_gone() {
    for how in 0..4 {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL)).await;
        let loss = guard.loss();
        assert!(loss.is_held());
        let waiting = Handle::current().spawn({
            let loss = loss.clone();
            async move { loss.lost().await }
        });
        sleep(5 * TTL).await;
        assert!(!waiting.is_finished());
        match how {
            0 => drop(guard),
            1 => drop(guard.release().await),
            2 => guard.leave_to_expire(),
            _ => drop(guard.into_ticket().await),
        }
        assert!(!loss.is_held());
        let told = timeout(MS, waiting).await.unwrap();
        assert_eq!(told.unwrap(), LossReason::Released);
        assert_eq!(loss.lost().await, LossReason::Released);
    }
}

#[test]
fn a_handle_hears_of_it_on_another_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let backend = Scripted::honest();
    let home = runtime();
    let guard = home.block_on(hold(&backend, "k", options(60 * SECOND)));
    let loss = guard.loss();
    let other = std::thread::spawn(move || runtime().block_on(loss.lost()));
    std::thread::sleep(5 * MS);
    home.block_on(async { guard.release().await.unwrap() });
    assert_eq!(other.join().unwrap(), LossReason::Released);
}

// `run`.

#[tokio::test(start_paused = true)]
async fn run_gives_the_bodys_answer_while_the_lock_is_held() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    let body = async {
        sleep(5 * TTL).await;
        7
    };
    assert_eq!(guard.run(body).await.unwrap(), 7);
    assert_eq!(guard.run(async { 8 }).await.unwrap(), 8);
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn run_drops_its_body_when_the_lock_is_lost() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    let (dropped, seen) = flag();
    let start = Moment::now();
    backend.evict("k");
    let body = async {
        let _dropped = dropped;
        pending::<()>().await;
    };
    assert_lost(guard.run(body).await, LossReason::Absent);
    assert!(seen.load(Ordering::SeqCst));
    assert!(start.elapsed() <= INTERVAL + OP);
    // Lost before it began, it never begins.
    let polled = AtomicBool::new(false);
    let body = async { polled.store(true, Ordering::SeqCst) };
    assert_lost(guard.run(body).await, LossReason::Absent);
    assert!(!polled.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn run_says_lost_though_its_body_is_done_if_the_deadline_has_passed() {
    let backend = Scripted::honest();
    let guard = brief(&backend).await;
    let body = async {
        suspend(40 * MS);
        7
    };
    assert_lost(guard.run(body).await, LossReason::Unconfirmed);
}

#[tokio::test(start_paused = true)]
async fn run_compares_the_deadline_before_each_poll() {
    let backend = Scripted::honest();
    let guard = brief(&backend).await;
    let polls = AtomicUsize::new(0);
    let body = poll_fn(|context| {
        polls.fetch_add(1, Ordering::SeqCst);
        suspend(40 * MS);
        context.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    assert_lost(guard.run(body).await, LossReason::Unconfirmed);
    assert_eq!(polls.load(Ordering::SeqCst), 1, "polled after the deadline");
}

// `with`: X13, X14.

#[derive(Debug)]
enum Failure {
    Lock(LockError),
    Body,
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

fn lock(backend: &Scripted) -> DistributedLock {
    Locks::new(backend.clone()).lock("k").with_ttl(TTL)
}

#[track_caller]
fn assert_body_lost(answer: Result<u32, Failure>, why: LossReason) {
    match answer {
        Err(Failure::Lock(error)) => assert_lost::<()>(Err(error), why),
        other => panic!("not lost: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn with_releases_however_its_body_ends() {
    let backend = Scripted::honest().with_latency(10 * MS);
    let leaks = LeakCheck::start();
    let answer: Result<u32, Failure> = lock(&backend).with(async |_| Ok(7)).await;
    assert_eq!(answer.unwrap(), 7);
    assert!(backend.entries().is_empty());

    let answer: Result<u32, Failure> = lock(&backend).with(async |_| Err(Failure::Body)).await;
    assert!(matches!(answer, Err(Failure::Body)));
    assert!(backend.entries().is_empty());

    let panicking = lock(&backend);
    let task = Handle::current().spawn(async move {
        let body = async |_: &LockGuard| -> Result<u32, LockError> { panic!("a body that panics") };
        panicking.with(body).await
    });
    assert!(task.await.unwrap_err().is_panic());
    sleep(20 * MS).await;
    assert!(backend.entries().is_empty(), "after a panic");

    for aborted in [true, false] {
        let (dropped, seen) = flag();
        let cancelled = lock(&backend);
        let running = async move {
            let body = async |_: &LockGuard| -> Result<u32, LockError> {
                let _dropped = dropped;
                pending().await
            };
            cancelled.with(body).await
        };
        if aborted {
            let task = Handle::current().spawn(running);
            sleep(SECOND).await;
            assert!(!backend.entries().is_empty());
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        } else {
            assert!(timeout(SECOND, running).await.is_err());
        }
        assert!(seen.load(Ordering::SeqCst));
        sleep(20 * MS).await;
        assert!(backend.entries().is_empty(), "after it was cancelled");
    }
    leaks.assert_none(TTL).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_release_hides_neither_what_the_body_returned_nor_its_error() {
    let failures = [
        Effect::FailBefore(refused()),
        Effect::FailBefore(BackendError::permanent("no")),
        Effect::LoseReply(cut()),
        Effect::HangBefore,
        Effect::HangAfter,
    ];
    for failure in failures {
        for good in [true, false] {
            let backend = Scripted::honest();
            backend.on(Op::Release).next(failure.clone());
            let start = Moment::now();
            let body = async |_: &LockGuard| if good { Ok(7) } else { Err(Failure::Body) };
            let answer: Result<u32, Failure> = lock(&backend).with(body).await;
            match answer {
                Ok(7) if good => {}
                Err(Failure::Body) if !good => {}
                other => panic!("{other:?} after {failure:?}"),
            }
            assert!(start.elapsed() <= OP + SLACK);
            sleep(TTL / 2).await;
            assert!(
                backend.entries().is_empty(),
                "tried again in the background"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_stops_its_body_when_the_lock_is_lost_and_says_so_at_once() {
    for why in [
        LossReason::Absent,
        LossReason::Taken,
        LossReason::Unconfirmed,
    ] {
        let backend = Scripted::honest();
        // Also where no release is ever answered.
        backend.on(Op::Release).always(Effect::HangBefore);
        let (dropped, seen) = flag();
        let start = Moment::now();
        let body = async |guard: &LockGuard| -> Result<u32, Failure> {
            let _dropped = dropped;
            match why {
                LossReason::Absent => drop(backend.evict("k")),
                LossReason::Taken => drop(backend.steal("k", 60 * SECOND)),
                _ => drop(backend.on(Op::Renew).always(Effect::HangBefore)),
            }
            assert!(guard.is_held());
            pending().await
        };
        assert_body_lost(lock(&backend).with(body).await, why);
        assert!(seen.load(Ordering::SeqCst));
        let limit = match why {
            LossReason::Unconfirmed => TTL,
            _ => INTERVAL + OP,
        };
        assert!(start.elapsed() <= limit, "{:?} for {why}", start.elapsed());
        if why == LossReason::Taken {
            assert!(entry_left(&backend, "k") > 50 * SECOND);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_says_lost_though_its_body_returned_ok() {
    // The release finds it.
    for why in [LossReason::Absent, LossReason::Taken] {
        let backend = Scripted::honest();
        let body = async |_: &LockGuard| {
            if why == LossReason::Taken {
                backend.steal("k", 60 * SECOND);
            } else {
                backend.evict("k");
            }
            Ok(7)
        };
        assert_body_lost(lock(&backend).with(body).await, why);
        let body = async |_: &LockGuard| {
            backend.steal("j", 60 * SECOND);
            Err(Failure::Body)
        };
        let other = Locks::new(backend.clone()).lock("j").with_ttl(TTL);
        let answer: Result<u32, Failure> = other.with(body).await;
        assert!(matches!(answer, Err(Failure::Body)), "{answer:?}");
    }
    // The clock finds it.
    let backend = Scripted::honest();
    let options = options(40 * MS).with_min_validity(MS);
    let body = async |_: &LockGuard| {
        suspend(40 * MS);
        Ok(7)
    };
    let answer: Result<u32, Failure> = lock(&backend).with_options(options).with(body).await;
    assert_body_lost(answer, LossReason::Unconfirmed);
}

#[tokio::test(start_paused = true)]
async fn with_says_that_the_locks_were_shut_down() {
    let backend = Scripted::honest();
    let locks = Locks::new(backend.clone());
    let body = async |_: &LockGuard| -> Result<u32, Failure> { pending().await };
    let (answer, ()) = tokio::join!(locks.with("k", body), async {
        sleep(SECOND).await;
        assert!(locks.shutdown().await);
        assert!(backend.entries().is_empty());
    });
    assert_body_lost(answer, LossReason::ShutDown);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_reaches_a_lock_whose_renewal_is_under_way() {
    let backend = Scripted::honest();
    let locks = Locks::new(backend.clone()).with_ttl(60 * SECOND);
    let guard = locks.lock("k").try_acquire().await.unwrap();
    backend.on(Op::Renew).always(Effect::Ask);
    let _call = backend.next_call().await;
    let (done, told) = tokio::join!(locks.shutdown(), timeout(MS, guard.lost()));
    assert!(done);
    assert_eq!(told.unwrap(), LossReason::ShutDown, "told at once");
    assert!(backend.entries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_release_of_what_was_lost_says_what_was_found() {
    let backend = Scripted::honest();
    for thief in [None, Some(60 * SECOND)] {
        let guard = hold(&backend, "k", by_hand(TTL)).await;
        sleep(TTL).await;
        let stolen = thief.map(|ttl| backend.steal("k", ttl));
        let right = if thief.is_some() {
            Released::TakenOver
        } else {
            Released::Expired
        };
        assert_eq!(guard.release().await.unwrap(), right);
        let owner = backend.entries().remove("k").map(|one| one.owner);
        assert_eq!(owner, stolen);
    }
}
