//! Taking a lock: whose grant it is, what is given back, which error it is, and how long it takes at the most.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common_acquire;

use std::collections::HashSet;
use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common_acquire::*;
use lock_core::{
    BackendError, BackendErrorKind, Busy, Capabilities, Holder, LockBackend, LockError,
    LockOptions, Locks, LossReason, MAX_TTL, Place, RenewalPolicy, RetryPolicy,
};
use lock_testkit::{Effect, LeakCheck, Op, Request, Scripted};
use tokio::time::{sleep, timeout};

// Whose grant it is.

#[tokio::test(start_paused = true)]
async fn every_attempt_has_an_owner_of_its_own() {
    let backend = Scripted::honest().with_wakeups(false);
    backend.steal("k", SECOND);
    let lock = lock(&backend).with_retry(every(10 * MS)).with_label("me");
    backend
        .on(Op::Acquire)
        .next(Effect::FailBefore(refused()))
        .next(Effect::LoseReply(cut()));
    // As many processes: in one of them, one asks for all.
    let waiters: Vec<_> = (0..8)
        .map(|_| {
            let lock = common_acquire::lock(&backend)
                .with_retry(every(10 * MS))
                .with_label("me");
            spawn(async move { lock.acquire().await?.release().await })
        })
        .collect();
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
    for _ in 0..8 {
        drop(lock.try_acquire().await);
    }
    let calls = backend.calls_of(Op::Acquire);
    assert!(calls.len() > 500, "{}", calls.len());
    let owners: HashSet<_> = owners(&calls)
        .iter()
        .map(|owner| owner.expose().to_owned())
        .collect();
    assert_eq!(owners.len(), calls.len());
    assert!(owners.iter().all(|owner| owner.len() >= 32));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_tries_again_finds_it_busy() {
    let backend = Scripted::honest();
    let lock = lock(&backend).with_label("me");
    let guard = lock.try_acquire().await.unwrap();
    let before = backend.entries();
    let error = lock.clone().try_acquire().await.unwrap_err();
    assert_eq!(error.holder().unwrap().label.as_deref(), Some("me"));
    assert_eq!(backend.entries()["k"].owner, before["k"].owner);
    assert!(guard.is_held());
}

// A late grant.

/// The lock with a ttl of 1 s, of which 988 ms are validity, and an op timeout that lets late answers in.
fn slow_lock(backend: &Scripted) -> lock_core::DistributedLock {
    let options = LockOptions::default()
        .with_ttl(SECOND)
        .with_op_timeout(900 * MS);
    lock(backend).with_options(options)
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_comes_too_late_is_given_back() {
    let backend = Scripted::honest();
    backend.on(Op::Acquire).next(Effect::DelayAfter(600 * MS));
    let (answer, took) = timed(slow_lock(&backend).try_acquire()).await;
    let Err(LockError::Late { remaining, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert!(is_about(took, 600 * MS), "{took:?}");
    assert!(remaining <= 388 * MS && remaining + SLACK > 388 * MS);
    sleep(10 * SECOND).await;
    let releases = backend.calls_of(Op::Release);
    assert_eq!(releases.len(), 1, "it was granted, so nothing comes late");
    assert_eq!(
        owners(&releases),
        owners(&backend.calls_of(Op::Acquire)),
        "by its own owner"
    );
    assert!(is_about(times(&backend, Op::Release)[0], 600 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_comes_in_time_counts_from_its_request() {
    let backend = Scripted::honest();
    backend.on(Op::Acquire).always(Effect::DelayAfter(300 * MS));
    // After five seconds of waiting too: what counts is the request that won.
    backend.steal("k", 5 * SECOND);
    let guard = slow_lock(&backend).acquire().await.unwrap();
    assert!(
        guard.remaining() <= (988 - 300) * MS,
        "{:?}",
        guard.remaining()
    );
    assert!(guard.remaining() + SLACK > (988 - 300) * MS);
    assert!(guard.remaining() <= backend.entries()["k"].remaining);
}

#[tokio::test(start_paused = true)]
async fn the_least_validity_is_an_option() {
    for (least, is_granted) in [(100, true), (0, true), (600, false)] {
        let backend = Scripted::honest();
        backend.on(Op::Acquire).next(Effect::DelayAfter(500 * MS));
        let options = LockOptions::default()
            .with_ttl(SECOND)
            .with_op_timeout(900 * MS)
            .with_min_validity(Duration::from_millis(least));
        let answer = lock(&backend).with_options(options).try_acquire().await;
        assert_eq!(answer.is_ok(), is_granted, "{least}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_grant_is_tried_again_after_it_was_given_back() {
    let backend = Scripted::honest();
    backend.on(Op::Acquire).next(Effect::DelayAfter(600 * MS));
    let guard = slow_lock(&backend).acquire().await.unwrap();
    assert_eq!(backend.calls_of(Op::Acquire).len(), 2);
    let order: Vec<_> = backend.calls().iter().map(|record| record.op).collect();
    assert_eq!(order, [Op::Acquire, Op::Release, Op::Acquire]);
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_always_too_slow_does_not_flap() {
    // F12: latency above half the ttl. Each grant is given back, and the policy's delay lies between attempts.
    let backend = Scripted::honest();
    backend.on(Op::Acquire).always(Effect::DelayAfter(600 * MS));
    let lock = slow_lock(&backend).with_wait(10 * SECOND);
    let (answer, took) = timed(lock.acquire()).await;
    assert!(matches!(answer, Err(LockError::Late { .. })), "{answer:?}");
    assert!(took < 10 * SECOND + 2 * 900 * MS + SLACK, "{took:?}");
    assert!(backend.calls_of(Op::Acquire).len() <= 17);
    sleep(SECOND).await;
    assert!(is_free(&backend));
}

// Unknown outcomes.

fn of_unknown_outcome() -> Vec<Effect> {
    vec![
        Effect::LoseReply(cut()),
        Effect::FailBefore(cut()),
        Effect::HangBefore,
        Effect::HangAfter,
        Effect::DelayAfter(HOUR),
        Effect::DelayBefore(HOUR),
        Effect::DelayBeforeDetached(3 * SECOND),
    ]
}

#[tokio::test(start_paused = true)]
async fn an_attempt_of_unknown_outcome_is_released_at_once_and_again_after_the_op_timeout() {
    for effect in of_unknown_outcome() {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        backend.on(Op::Acquire).next(effect.clone());
        let (answer, took) = timed(lock(&backend).try_acquire()).await;
        let error = answer.unwrap_err();
        assert!(
            matches!(error, LockError::Unknown { .. }),
            "{effect:?}: {error}"
        );
        assert!(took < OP + SLACK, "{effect:?}: {took:?}");
        leaks.assert_none(10 * SECOND).await;
        assert!(is_free(&backend), "{effect:?}");
        let (acquires, releases) = (backend.calls_of(Op::Acquire), backend.calls_of(Op::Release));
        assert_eq!(releases.len(), 2, "{effect:?}");
        assert!(
            releases
                .iter()
                .all(|release| release.owner == acquires[0].owner),
            "by the burnt owner"
        );
        let at = times(&backend, Op::Release);
        assert!(is_about(took, at[0]), "{effect:?}: {at:?}");
        assert!(is_about(at[1] - at[0], OP), "{effect:?}: {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_zombie_that_lands_after_the_first_release_is_gone_with_the_second() {
    let backend = Scripted::honest();
    backend
        .on(Op::Acquire)
        .next(Effect::DelayBeforeDetached(3 * SECOND));
    assert!(lock(&backend).try_acquire().await.is_err());
    sleep(500 * MS).await;
    assert_eq!(backend.calls_of(Op::Release).len(), 1);
    sleep(700 * MS).await;
    assert!(!is_free(&backend), "the zombie has landed");
    sleep(SECOND).await;
    assert_eq!(backend.calls_of(Op::Release).len(), 2);
    assert!(is_free(&backend));
}

#[tokio::test(start_paused = true)]
async fn the_next_attempt_starts_after_the_release_of_the_last_was_answered() {
    let backend = Scripted::honest();
    backend.on(Op::Acquire).next(Effect::LoseReply(cut()));
    backend.on(Op::Release).next(Effect::Ask);
    let lock = lock(&backend).with_retry(every(MS));
    let waiter = spawn(async move { lock.acquire().await });
    let release = backend.next_call().await;
    assert_eq!(release.op(), Op::Release);
    sleep(SECOND).await;
    assert_eq!(backend.calls_of(Op::Acquire).len(), 1, "not before");
    release.reply_honestly().await;
    let guard = timeout(10 * MS, waiter).await.unwrap().unwrap().unwrap();
    assert_eq!(backend.calls_of(Op::Acquire).len(), 2);
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_next_attempt_starts_when_the_release_of_the_last_has_timed_out() {
    let backend = Scripted::honest();
    backend.on(Op::Acquire).next(Effect::LoseReply(cut()));
    backend.on(Op::Release).next(Effect::HangBefore);
    let lock = lock(&backend).with_retry(every(MS));
    let guard = lock.acquire().await.unwrap();
    let at = times(&backend, Op::Acquire);
    assert!(
        is_about(at[1], OP),
        "{at:?}: the second may find the entry of the first"
    );
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_compensation_that_fails_is_tried_until_the_entry_has_ended() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    backend.on(Op::Acquire).next(Effect::LoseReply(cut()));
    backend
        .on(Op::Release)
        .always(Effect::FailBefore(refused()));
    assert!(lock(&backend).try_acquire().await.is_err());
    sleep(TTL).await;
    assert!(is_free(&backend));
    leaks.assert_none(2 * TTL).await;
    let releases = backend.calls_of(Op::Release).len();
    assert!((3..=10).contains(&releases), "{releases}");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_not_to_be_applied_is_not_released() {
    let kinds = [
        BackendErrorKind::Transient,
        BackendErrorKind::Permanent,
        BackendErrorKind::Conflict,
        BackendErrorKind::Unsupported,
        BackendErrorKind::Invalid,
        BackendErrorKind::Closed,
    ];
    for kind in kinds {
        let backend = Scripted::honest();
        let error = BackendError::new(kind, "no");
        backend.on(Op::Acquire).next(Effect::FailBefore(error));
        let error = lock(&backend).try_acquire().await.unwrap_err();
        assert!(!matches!(error, LockError::Unknown { .. }), "{error:?}");
        sleep(HOUR).await;
        assert!(backend.calls_of(Op::Release).is_empty(), "{kind:?}");
    }
    let backend = Scripted::honest();
    backend.steal("k", SECOND);
    assert!(lock(&backend).try_acquire().await.unwrap_err().is_busy());
    sleep(HOUR).await;
    assert!(backend.calls_of(Op::Release).is_empty(), "busy");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_panics_after_it_was_applied_leaves_nothing_behind() {
    let backend = Scripted::honest();
    let odd = Odd::new(&backend);
    let lock = Locks::new(odd.clone()).lock("k");
    let leaks = LeakCheck::start();
    odd.panics_once.store(true, Ordering::SeqCst);
    let task = spawn({
        let lock = lock.clone();
        async move { lock.try_acquire().await }
    });
    assert!(task.await.unwrap_err().is_panic());
    assert_quiet(&backend, &leaks, CLEAN).await;
    assert_eq!(backend.calls_of(Op::Release).len(), 2);

    // In a task that goes on after its caller has gone, too.
    backend.on(Op::Acquire).next(Effect::DelayBoth(500 * MS));
    odd.panics_once.store(true, Ordering::SeqCst);
    assert!(timeout(100 * MS, lock.try_acquire()).await.is_err());
    assert_quiet(&backend, &leaks, CLEAN).await;
    lock.try_acquire().await.unwrap().release().await.unwrap();
}

// Which error it is.

#[derive(Debug)]
struct ClientError;

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the client's own words")
    }
}

impl Error for ClientError {}

#[tokio::test(start_paused = true)]
async fn every_failure_has_a_variant_of_its_own() {
    type Check = fn(&LockError) -> bool;
    let table: [(BackendErrorKind, Check, bool, bool); 7] = [
        (
            BackendErrorKind::Transient,
            |e| {
                matches!(
                    e,
                    LockError::Backend {
                        transient: true,
                        ..
                    }
                )
            },
            true,
            true,
        ),
        (
            BackendErrorKind::Permanent,
            |e| {
                matches!(
                    e,
                    LockError::Backend {
                        transient: false,
                        ..
                    }
                )
            },
            false,
            true,
        ),
        (
            BackendErrorKind::Unknown,
            |e| matches!(e, LockError::Unknown { .. }),
            true,
            true,
        ),
        (
            BackendErrorKind::Conflict,
            |e| matches!(e, LockError::Conflict { .. }),
            false,
            false,
        ),
        (
            BackendErrorKind::Unsupported,
            |e| matches!(e, LockError::Unsupported { .. }),
            false,
            false,
        ),
        (
            BackendErrorKind::Invalid,
            |e| matches!(e, LockError::Invalid { .. }),
            false,
            false,
        ),
        (
            BackendErrorKind::Closed,
            |e| matches!(e, LockError::Closed { .. }),
            false,
            false,
        ),
    ];
    for (kind, is_variant, is_retryable, has_source) in table {
        let backend = Scripted::honest();
        let source = BackendError::new(kind, "store's words").with_source(ClientError);
        backend.on(Op::Acquire).next(Effect::FailBefore(source));
        let error = lock(&backend).try_acquire().await.unwrap_err();
        assert!(is_variant(&error), "{kind:?}: {error:?}");
        assert_eq!(error.is_retryable(), is_retryable, "{kind:?}");
        assert!(!error.is_busy());
        assert_no_owner(&error, &backend);
        assert!(error.to_string().contains("\"k\""), "{error}");
        if has_source {
            assert!(error.to_string().contains("store's words"), "{error}");
            let own = error.source().and_then(Error::source).unwrap();
            assert_eq!(own.to_string(), "the client's own words");
        }
    }
}

fn assert_no_owner(error: &LockError, backend: &Scripted) {
    for record in backend.calls() {
        let Some(owner) = record.owner else { continue };
        for text in [
            error.to_string(),
            format!("{error:?}"),
            format!("{error:#?}"),
        ] {
            assert!(!text.contains(&owner.expose()[..32]), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn busy_timed_out_late_lost_and_closed_name_the_key_and_no_owner() {
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let lock = locks.lock("k").with_label("me");
    let guard = lock.acquire().await.unwrap();

    let busy = lock.try_acquire().await.unwrap_err();
    assert!(matches!(busy, LockError::Busy { .. }), "{busy:?}");
    assert!(busy.is_retryable() && busy.to_string().contains("me"));

    let waiting = lock.clone().with_wait(100 * MS);
    let timed_out = waiting.acquire().await.unwrap_err();
    let LockError::TimedOut { waited, .. } = &timed_out else {
        panic!("{timed_out:?}")
    };
    assert!(is_about(*waited, 100 * MS), "{waited:?}");
    assert!(timed_out.is_retryable() && timed_out.is_busy());

    backend.evict("k");
    let lost = guard.extend(SECOND).await.unwrap_err();
    assert!(
        matches!(
            lost,
            LockError::Lost {
                reason: LossReason::Absent,
                ..
            }
        ),
        "{lost:?}"
    );
    assert!(!lost.is_retryable() && !lost.is_busy());

    backend.on(Op::Acquire).next(Effect::DelayAfter(600 * MS));
    let late = slow_lock(&backend).try_acquire().await.unwrap_err();
    assert!(late.is_retryable() && !late.is_busy());

    assert!(locks.shutdown().await);
    let closed = lock.try_acquire().await.unwrap_err();
    assert!(matches!(closed, LockError::Closed { .. }), "{closed:?}");
    assert!(!closed.is_retryable() && !closed.is_busy());

    for error in [busy, timed_out, lost, late, closed] {
        assert!(error.to_string().contains("\"k\""), "{error}");
        assert_eq!(error.key().unwrap().as_str(), "k");
        assert_no_owner(&error, &backend);
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_mends_comes_at_once() {
    let kinds = [
        BackendErrorKind::Permanent,
        BackendErrorKind::Conflict,
        BackendErrorKind::Unsupported,
        BackendErrorKind::Invalid,
        BackendErrorKind::Closed,
    ];
    for kind in kinds {
        let backend = Scripted::honest();
        let error = BackendError::new(kind, "no");
        backend.on(Op::Acquire).always(Effect::FailBefore(error));
        let (answer, took) = timed(lock(&backend).acquire()).await;
        assert!(!answer.unwrap_err().is_retryable(), "{kind:?}");
        assert!(took < SLACK, "{kind:?}: {took:?}");
        assert_eq!(backend.calls().len(), 1, "{kind:?}");

        // And in the midst of a wait.
        let backend = Scripted::honest();
        backend.steal("k", HOUR);
        let error = BackendError::new(kind, "no");
        backend
            .on(Op::Acquire)
            .next(Effect::Honest)
            .next(Effect::FailBefore(refused()))
            .next(Effect::FailBefore(error));
        let (answer, took) = timed(lock(&backend).acquire()).await;
        let error = answer.unwrap_err();
        assert!(!error.is_retryable() && !error.is_busy(), "{error:?}");
        assert!(took < SECOND, "{kind:?}: {took:?}");
        assert_eq!(backend.subscriptions(), 0);
    }
}

#[test]
fn outside_a_runtime_nothing_is_sent() {
    let backend = Scripted::honest();
    let lock = lock(&backend);
    let mut context = Context::from_waker(Waker::noop());
    let poll = pin!(lock.try_acquire()).poll(&mut context);
    assert!(
        matches!(poll, Poll::Ready(Err(LockError::NoRuntime { .. }))),
        "{poll:?}"
    );
    let poll = pin!(lock.acquire()).poll(&mut context);
    assert!(matches!(
        poll,
        Poll::Ready(Err(LockError::NoRuntime { .. }))
    ));
    let poll = pin!(lock.status()).poll(&mut context);
    assert!(matches!(
        poll,
        Poll::Ready(Err(LockError::NoRuntime { .. }))
    ));
    let poll = pin!(lock.with(async |_| Ok::<_, LockError>(()))).poll(&mut context);
    assert!(matches!(
        poll,
        Poll::Ready(Err(LockError::NoRuntime { .. }))
    ));
    assert!(backend.calls().is_empty());
}

#[test]
fn a_runtime_without_timers_is_no_runtime() {
    let backend = Scripted::honest();
    let lock = lock(&backend);
    let bare = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let error = bare.block_on(lock.acquire()).unwrap_err();
    assert!(matches!(error, LockError::NoRuntime { .. }), "{error:?}");
    assert!(!error.is_retryable() && error.to_string().contains("\"k\""));
    assert!(matches!(
        bare.block_on(lock.status()),
        Err(LockError::NoRuntime { .. })
    ));
    assert!(backend.calls().is_empty());

    // The same lock works where there are timers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async { lock.acquire().await.unwrap().release().await.unwrap() });
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_invalid_before_anything_is_sent() {
    let backend = Scripted::honest();
    let options = LockOptions::default;
    let bad_options = [
        options().with_ttl(Duration::ZERO),
        options().with_ttl(Duration::from_nanos(9_999_999)),
        options().with_ttl(MAX_TTL + Duration::from_nanos(1)),
        options().with_ttl(Duration::MAX),
        options().with_op_timeout(Duration::ZERO),
        options().with_op_timeout(TTL),
        options().with_op_timeout(Duration::MAX),
        options().with_min_validity(TTL),
        options().with_label("x".repeat(129)),
        options().with_label("a\nb"),
        options().with_renewal(RenewalPolicy::per_ttl(1)),
        options().with_renewal(RenewalPolicy::per_ttl(u32::MAX)),
        options().with_renewal(RenewalPolicy::default().hold_at_most(Duration::ZERO)),
        options().with_renewal(RenewalPolicy::default().while_progressing(Duration::ZERO)),
    ];
    for options in bad_options {
        let lock = lock(&backend).with_options(options.clone());
        let what = format!("{options:?}");
        assert_invalid(lock.try_acquire().await, &what);
        assert_invalid(lock.acquire().await, &what);
        assert_invalid(lock.status().await, &what);
        assert_invalid(lock.with(async |_| Ok::<_, LockError>(())).await, &what);
    }
    let long = "x".repeat(64 << 20);
    let too_long = "x".repeat(lock_core::MAX_KEY_BYTES + 1);
    let names = [
        "",
        &long,
        &too_long,
        "a:fencelock:fence",
        "a:fencelock:line",
        "a:fencelock:wake",
    ];
    for name in names {
        let lock = locks(&backend).lock(name);
        let what = &name[..name.len().min(40)];
        assert_invalid(lock.try_acquire().await, what);
        assert_invalid(lock.acquire().await, what);
        assert_invalid(lock.status().await, what);
        assert_invalid(
            locks(&backend)
                .with(name, async |_| Ok::<_, LockError>(()))
                .await,
            what,
        );
    }
    assert!(backend.calls().is_empty());
}

fn assert_invalid<T: std::fmt::Debug>(answer: Result<T, LockError>, what: &str) {
    let Err(error @ LockError::Invalid { .. }) = answer else {
        panic!("{what}: {answer:?}")
    };
    assert!(!error.is_retryable());
    assert!(error.to_string().len() < 400, "{what}");
}

// How long it takes at the most.

#[tokio::test(start_paused = true)]
async fn an_acquire_ends_within_its_wait_and_two_op_timeouts_whatever_the_backend_does() {
    let wait = 5 * SECOND;
    let everything = |backend: &Scripted, effect: &Effect| {
        for op in Op::ALL {
            backend.on(op).always(effect.clone());
        }
    };
    let effects = [
        Effect::HangBefore,
        Effect::HangAfter,
        Effect::FailBefore(refused()),
        Effect::FailBefore(cut()),
        Effect::LoseReply(cut()),
        Effect::DelayBefore(OP - MS),
        Effect::DelayAfter(OP - MS),
        Effect::DelayBoth(1500 * MS),
        Effect::DelayBeforeDetached(3 * SECOND),
    ];
    for effect in effects {
        for is_held in [true, false] {
            for scope in [
                None,
                Some(Op::Acquire),
                Some(Op::Release),
                Some(Op::Subscribe),
            ] {
                let backend = Scripted::honest();
                let leaks = LeakCheck::start();
                if is_held {
                    backend.steal("k", MAX_TTL);
                }
                match scope {
                    None => everything(&backend, &effect),
                    Some(op) => _ = backend.on(op).always(effect.clone()),
                }
                let lock = lock(&backend).with_wait(wait);
                let what = format!("{effect:?} in {scope:?}, held: {is_held}");
                let (answer, took) = timed(lock.acquire()).await;
                assert!(took < wait + 2 * OP + SLACK, "{what}: {took:?}");
                assert!(!(is_held && answer.is_ok()), "{what}");
                if is_held && scope == Some(Op::Subscribe) {
                    assert!(took >= wait, "{what}: {took:?}");
                    assert!(matches!(answer, Err(LockError::TimedOut { .. })), "{what}");
                }
                drop(answer);
                let (_, took) = timed(lock.try_acquire()).await;
                assert!(took < 2 * OP + SLACK, "{what}: {took:?}");
                let (_, took) = timed(lock.status()).await;
                assert!(took < OP + SLACK, "{what}: {took:?}");
                drop(lock);
                for op in Op::ALL {
                    backend.on(op).clear();
                }
                // A release that hung before its time may be retried as long as the entry may last.
                leaks.assert_none(2 * TTL + SLACK).await;
                assert_eq!(backend.subscriptions(), 0, "{what}");
                assert_eq!(is_free(&backend), !is_held, "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wake_ups_that_come_all_the_time_prolong_nothing() {
    let backend = Scripted::honest();
    backend.steal("k", HOUR);
    let odd = Odd {
        restless: true,
        ..Odd::new(&backend)
    };
    let lock = Locks::new(odd).lock("k").with_wait(SECOND);
    let (answer, took) = timed(lock.acquire()).await;
    assert!(
        matches!(answer, Err(LockError::TimedOut { .. })),
        "{answer:?}"
    );
    assert!(is_about(took, SECOND), "{took:?}");
    let attempts = backend.calls_of(Op::Acquire).len();
    assert!(attempts <= 1020, "{attempts} attempts in a second");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_changes_all_the_time_is_no_reason_to_spin() {
    let backend = Scripted::honest();
    backend.steal("k", HOUR);
    let odd = Odd {
        shuffles: true,
        ..Odd::new(&backend)
    };
    let lock = Locks::new(odd).lock("k").with_wait(100 * MS);
    let (answer, took) = timed(lock.acquire()).await;
    assert!(
        matches!(answer, Err(LockError::TimedOut { .. })),
        "{answer:?}"
    );
    assert!(is_about(took, 100 * MS), "{took:?}");
    let attempts = backend.calls_of(Op::Acquire).len();
    assert!(attempts <= 120, "{attempts} attempts in 100 ms");
}

// The place in line.

fn placed(place: &str) -> Busy {
    let holder = Holder::new().with_label(Some("other".into()));
    Busy::new(holder).with_place(Place::new(place))
}

/// A backend whose attempts are answered by the test.
fn with_a_line() -> Scripted {
    let capabilities = Capabilities::new().with_wakeups(true).with_order(true);
    let backend = Scripted::honest().with_capabilities(capabilities);
    backend.on(Op::Acquire).always(Effect::Ask);
    backend
}

fn place_of(request: &Request) -> Option<&str> {
    match request {
        Request::Acquire { place, .. } => place.as_ref().map(Place::as_str),
        other => panic!("{other:?}"),
    }
}

fn places_of(backend: &Scripted, op: Op) -> Vec<Option<String>> {
    let records = backend.calls_of(op);
    let place =
        |record: &lock_testkit::Record| record.place.as_ref().map(|p| p.as_str().to_owned());
    records.iter().map(place).collect()
}

#[tokio::test(start_paused = true)]
async fn a_place_in_line_is_kept_between_attempts_and_spent_by_the_grant() {
    let backend = with_a_line();
    let leaks = LeakCheck::start();
    let lock = lock(&backend);
    let waiter = spawn(async move { lock.acquire().await });
    let first = backend.next_call().await;
    assert_eq!(place_of(first.request()), None);
    first.reply_busy(placed("7"));
    // The subscription is made for the place, and the next attempt hands it back; also after a failure.
    for answer in 0..4 {
        let next = backend.next_call().await;
        assert_eq!(place_of(next.request()), Some("7"), "{answer}");
        match answer {
            0 => next.fail(refused()),
            1 => next.fail(cut()),
            2 => next.reply_busy(placed("7")),
            _ => next.reply_granted(1..=1),
        }
    }
    let guard = waiter.await.unwrap().unwrap();
    assert_eq!(places_of(&backend, Op::Subscribe), [Some("7".to_owned())]);
    guard.release().await.unwrap();
    leaks.assert_none(TTL).await;
    assert!(backend.calls_of(Op::Leave).is_empty(), "it was spent");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_changes_is_subscribed_to_anew() {
    let backend = with_a_line();
    let lock = lock(&backend);
    let waiter = spawn(async move { lock.acquire().await });
    for place in ["1", "1", "2", "2"] {
        backend.next_call().await.reply_busy(placed(place));
    }
    let next = backend.next_call().await;
    assert_eq!(place_of(next.request()), Some("2"));
    assert_eq!(
        places_of(&backend, Op::Subscribe),
        [Some("1".to_owned()), Some("2".to_owned())]
    );
    assert_eq!(backend.subscriptions(), 1, "the old one is over");
    next.reply_granted(1..=1);
    drop(waiter.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_leaves_the_line_once() {
    let backend = with_a_line();
    let leaks = LeakCheck::start();
    let waiting = lock(&backend).with_wait(100 * MS);
    let waiter = spawn(async move { waiting.acquire().await });
    for _ in 0..2 {
        backend.next_call().await.reply_busy(placed("7"));
    }
    assert!(waiter.await.unwrap().unwrap_err().is_busy());
    leaks.assert_none(CLEAN).await;
    assert_eq!(places_of(&backend, Op::Leave), [Some("7".to_owned())]);

    // One attempt is a short wait.
    let trying = lock(&backend);
    let trying = spawn(async move { trying.try_acquire().await });
    backend.next_call().await.reply_busy(placed("8"));
    assert!(trying.await.unwrap().unwrap_err().is_busy());
    leaks.assert_none(CLEAN).await;
    assert_eq!(places_of(&backend, Op::Leave)[1..], [Some("8".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_leaves_the_line_when_the_outcome_is_known() {
    let backend = with_a_line();
    let leaks = LeakCheck::start();
    let lock = lock(&backend);
    let waiter = spawn(async move { lock.acquire().await });
    backend.next_call().await.reply_busy(placed("7"));
    let second = backend.next_call().await;
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    sleep(100 * MS).await;
    assert!(!second.is_abandoned(), "the call goes on");
    assert!(
        backend.calls_of(Op::Leave).is_empty(),
        "it may be granted yet"
    );
    second.reply_busy(placed("7"));
    leaks.assert_none(CLEAN).await;
    assert_eq!(places_of(&backend, Op::Leave), [Some("7".to_owned())]);
    assert_eq!(backend.subscriptions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_when_the_store_grants_gives_back_and_leaves_nothing() {
    let backend = with_a_line();
    let leaks = LeakCheck::start();
    let lock = lock(&backend);
    let waiter = spawn(async move { lock.acquire().await });
    backend.next_call().await.reply_busy(placed("7"));
    let second = backend.next_call().await;
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    second.reply_honestly().await;
    assert_quiet(&backend, &leaks, CLEAN).await;
    assert_eq!(backend.calls_of(Op::Release).len(), 1);
    assert!(backend.calls_of(Op::Leave).is_empty(), "it was spent");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_the_place_back_is_not_told_again() {
    let backend = with_a_line();
    let leaks = LeakCheck::start();
    let lock = lock(&backend).with_wait(50 * MS);
    let waiter = spawn(async move { lock.acquire().await });
    backend.next_call().await.reply_busy(placed("7"));
    backend
        .next_call()
        .await
        .reply_busy(Busy::new(Holder::new()));
    let third = backend.next_call().await;
    assert_eq!(place_of(third.request()), None);
    third.reply_busy(Busy::new(Holder::new()));
    assert!(waiter.await.unwrap().unwrap_err().is_busy());
    leaks.assert_none(CLEAN).await;
    assert!(backend.calls_of(Op::Leave).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_leave_that_hangs_or_fails_holds_nobody_up() {
    for effect in [
        Effect::HangBefore,
        Effect::FailBefore(refused()),
        Effect::Panic,
    ] {
        let backend = with_a_line();
        let leaks = LeakCheck::start();
        backend.on(Op::Leave).always(effect.clone());
        let lock = lock(&backend).with_retry(RetryPolicy::never());
        let waiter = spawn(async move { timed(lock.acquire()).await });
        backend.next_call().await.reply_busy(placed("7"));
        let (answer, took) = waiter.await.unwrap();
        assert!(answer.unwrap_err().is_busy());
        assert!(took < SLACK, "{effect:?}: {took:?}");
        leaks.assert_none(OP + SLACK).await;
        assert_eq!(backend.calls_of(Op::Leave).len(), 1, "{effect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_client_that_sends_again_leaves_nothing_of_an_earlier_copy() {
    let backend = Scripted::honest();
    let capabilities = backend.capabilities().with_resends(true);
    let backend = backend.with_capabilities(capabilities);
    // The first copy was applied and its reply lost; the second met a server that was loading.
    backend
        .on(Op::Acquire)
        .next(Effect::LoseReply(BackendError::transient("loading")));
    let error = locks(&backend).lock("k").try_acquire().await.unwrap_err();
    assert!(matches!(
        error,
        LockError::Backend {
            transient: true,
            ..
        }
    ));
    sleep(CLEAN).await;
    assert!(backend.entries().is_empty());
}
