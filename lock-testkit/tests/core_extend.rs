//! What `extend` and `renew_for` do to a held lock, also when they fail, hang or are dropped.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{
    MS, SECOND, SLACK, assert_lost, assert_safe, cut, entry_left, hold, options, refused, watch,
};
use lock_core::{
    BackendError, BackendErrorKind, LockError, LockGuard, LockOptions, Locks, LossReason, MAX_TTL,
    Moment, Ownership, Renew, RenewalPolicy,
};
use lock_testkit::{Effect, Op, Record, Scripted, cancel_sweep};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(5);
const OP: Duration = Duration::from_secs(1);

/// The lock is renewed by the test alone.
fn by_hand(ttl: Duration) -> LockOptions {
    options(ttl).with_renewal(RenewalPolicy::never())
}

fn requests(backend: &Scripted) -> Vec<Record> {
    backend.calls_of(Op::Renew)
}

/// Either of the two, where it does not matter which.
async fn prolong(guard: &LockGuard, shorter: bool) -> Result<(), LockError> {
    if shorter {
        guard.renew_for(2 * SECOND).await
    } else {
        guard.extend(2 * SECOND).await
    }
}

// C07: what they set.

#[tokio::test(start_paused = true)]
async fn renew_for_sets_what_remains_and_extend_adds_to_it_without_letting_anybody_in() {
    for shorter in [true, false] {
        let backend = Scripted::honest().with_latency(20 * MS);
        let guard = hold(&backend, "k", by_hand(TTL)).await;
        let other = Locks::new(backend.clone()).lock("k");
        let spinning = async {
            loop {
                assert!(other.try_acquire().await.unwrap_err().is_busy());
            }
        };
        let work = async {
            sleep(SECOND - 40 * MS).await;
            prolong(&guard, shorter).await.unwrap();
            let left = entry_left(&backend, "k");
            let right = if shorter { 2 * SECOND } else { 6 * SECOND };
            assert!(left.abs_diff(right) < SLACK, "{left:?}");
            let (low, high) = (right - right / 50 - 2 * SLACK, left);
            assert!((low..=high).contains(&guard.remaining()), "{guard:?}");
            watch(SECOND, 50 * MS, || assert_safe(&backend, &guard)).await;
        };
        tokio::select! { () = spinning => {}, () = work => {} }
        let how = requests(&backend)[0].how.unwrap();
        assert_eq!(
            how == Renew::Exactly,
            shorter,
            "only what shortens may shorten"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn renew_for_more_than_remains_lengthens() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    guard.renew_for(60 * SECOND).await.unwrap();
    assert_eq!(requests(&backend)[0].how, Some(Renew::AtLeast));
    assert!(guard.remaining() > 59 * SECOND);
    watch(50 * SECOND, SECOND, || assert_safe(&backend, &guard)).await;
    assert!(
        guard.remaining() > 9 * SECOND,
        "automatic renewal shortened it"
    );
    let least = requests(&backend)[1].ttl.unwrap();
    assert!(least > 50 * SECOND, "renewals ask for what remains");
    sleep(60 * SECOND).await;
    assert!(guard.is_held(), "automatic renewal goes on");
}

#[tokio::test(start_paused = true)]
async fn automatic_renewal_goes_on_after_a_shortening() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(60 * SECOND)).await;
    guard.renew_for(200 * MS).await.unwrap();
    assert!(guard.remaining() <= 200 * MS);
    watch(2 * SECOND, 5 * MS, || {
        assert_safe(&backend, &guard);
        assert!(guard.is_held());
    })
    .await;
    assert!(guard.remaining() > 50 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn two_extensions_at_once_both_count() {
    let backend = Scripted::honest().with_latency(50 * MS);
    let guard = hold(&backend, "k", by_hand(TTL)).await;
    let before = entry_left(&backend, "k");
    let (one, two) = tokio::join!(guard.extend(2 * SECOND), guard.extend(3 * SECOND));
    one.unwrap();
    two.unwrap();
    let left = entry_left(&backend, "k");
    assert!(left.abs_diff(before + 5 * SECOND) < 300 * MS, "{left:?}");
    assert_safe(&backend, &guard);
}

#[tokio::test(start_paused = true)]
async fn a_retry_asks_for_what_is_left_to_the_target() {
    for shorter in [true, false] {
        for failure in [Effect::FailBefore(refused()), Effect::LoseReply(cut())] {
            let backend = Scripted::honest();
            let guard = hold(&backend, "k", by_hand(TTL)).await;
            backend.on(Op::Renew).next(failure.clone()).next(failure);
            prolong(&guard, shorter).await.unwrap();
            let tries = requests(&backend);
            assert_eq!(tries.len(), 3);
            for later in &tries[1..] {
                let spent = later.at - tries[0].at;
                assert!(spent > MS);
                let (first, then) = (tries[0].ttl.unwrap(), later.ttl.unwrap());
                assert!(
                    then.abs_diff(first - spent) < SLACK,
                    "{then:?} of {first:?}"
                );
                assert_eq!(later.how, tries[0].how);
            }
            let target = tries[0].ttl.unwrap() - (tries[2].at - tries[0].at);
            assert!(entry_left(&backend, "k").abs_diff(target) < SLACK);
            assert_safe(&backend, &guard);
        }
    }
}

// Shortening.

#[tokio::test(start_paused = true)]
async fn a_shortening_lowers_the_deadline_before_it_is_sent() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", by_hand(TTL)).await;
    backend.on(Op::Renew).next(Effect::Ask);
    let (answer, ()) = tokio::join!(guard.renew_for(2 * SECOND), async {
        let call = backend.next_call().await;
        assert!(guard.remaining() <= 2 * SECOND - 22 * MS);
        assert!(entry_left(&backend, "k") > 4 * SECOND, "not applied yet");
        call.reply_honestly().await;
    });
    answer.unwrap();
    assert_safe(&backend, &guard);
}

/// From now on `guard`'s deadline never rises, whatever is done, until it is lost.
async fn assert_never_rises(backend: &Scripted, guard: &LockGuard) {
    let limit = guard.remaining();
    let start = Moment::now();
    let sent = requests(backend).len();
    assert!(matches!(
        guard.extend(SECOND).await,
        Err(LockError::Unknown { .. } | LockError::Unsupported { .. })
    ));
    assert!(matches!(
        guard.renew_for(30 * SECOND).await,
        Err(LockError::Unknown { .. } | LockError::Unsupported { .. })
    ));
    assert_eq!(
        requests(backend).len(),
        sent,
        "what cannot help is not sent"
    );
    watch(limit + SECOND, 20 * MS, || {
        let passed = start.elapsed();
        assert!(guard.remaining() <= limit.saturating_sub(passed) + MS);
        assert_safe(backend, guard);
    })
    .await;
    assert!(!guard.is_held());
    assert_lost(guard.check(), LossReason::Unconfirmed);
}

#[tokio::test(start_paused = true)]
async fn after_a_shortening_that_was_not_answered_the_deadline_never_rises() {
    let failures = [
        vec![Effect::HangBefore],
        vec![Effect::HangAfter],
        vec![Effect::DelayBeforeDetached(3 * SECOND / 2)],
        // Answered at the second try: the first may yet arrive.
        vec![Effect::FailBefore(cut())],
        vec![Effect::LoseReply(cut()), Effect::FailBefore(refused())],
    ];
    for failures in failures {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL)).await;
        for failure in &failures {
            backend.on(Op::Renew).next(failure.clone());
        }
        let _ = guard.renew_for(3 * SECOND).await;
        assert!(guard.is_held() && guard.remaining() <= 3 * SECOND);
        assert_never_rises(&backend, &guard).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_shortening_the_deadline_never_rises_where_the_client_sends_again_by_itself() {
    let honest = Scripted::honest();
    let capabilities = lock_core::LockBackend::capabilities(&honest).with_resends(true);
    let backend = honest.with_capabilities(capabilities);
    let guard = hold(&backend, "k", options(TTL)).await;
    guard.extend(SECOND).await.unwrap();
    guard.renew_for(3 * SECOND).await.unwrap();
    assert_never_rises(&backend, &guard).await;
}

#[tokio::test(start_paused = true)]
async fn a_shortening_after_an_unanswered_one_still_shortens() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    backend.on(Op::Renew).next(Effect::HangAfter);
    assert!(guard.renew_for(4 * SECOND).await.is_err());
    guard.renew_for(SECOND).await.unwrap();
    assert!(guard.remaining() <= SECOND);
    assert!(entry_left(&backend, "k") <= SECOND);
    assert_never_rises(&backend, &guard).await;
}

#[tokio::test(start_paused = true)]
async fn a_shortening_that_was_refused_counts_and_automatic_renewal_goes_on() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(10 * SECOND)).await;
    backend
        .on(Op::Renew)
        .always(Effect::FailBefore(BackendError::permanent("no")));
    assert!(matches!(
        guard.renew_for(SECOND).await,
        Err(LockError::Backend {
            transient: false,
            ..
        })
    ));
    assert!(guard.remaining() <= SECOND);
    backend.on(Op::Renew).clear();
    watch(30 * SECOND, 50 * MS, || {
        assert_safe(&backend, &guard);
        assert!(guard.is_held());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_told_by_the_shortened_deadline_while_the_shortening_hangs() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(10 * SECOND)).await;
    backend.on(Op::Renew).always(Effect::HangBefore);
    let start = Moment::now();
    let waiting = async {
        assert_eq!(guard.lost().await, LossReason::Unconfirmed);
        start.elapsed()
    };
    let (told, answer) = tokio::join!(waiting, guard.renew_for(500 * MS));
    assert!(told <= 500 * MS, "{told:?}");
    assert!(answer.is_err());
    assert!(start.elapsed() <= 2 * SECOND + SLACK);
}

// What is refused.

#[tokio::test(start_paused = true)]
async fn a_target_out_of_bounds_is_refused_before_anything_is_sent() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", by_hand(TTL)).await;
    let before = guard.remaining();
    let (calls, nano) = (backend.calls().len(), Duration::from_nanos(1));
    let bad = [
        Duration::ZERO,
        10 * MS - nano,
        MAX_TTL + nano,
        Duration::MAX,
    ];
    for ttl in bad {
        let answer = guard.renew_for(ttl).await;
        assert!(matches!(answer, Err(LockError::Invalid { .. })), "{ttl:?}");
    }
    for additional in [MAX_TTL - 4 * SECOND, MAX_TTL, Duration::MAX] {
        let answer = guard.extend(additional).await;
        assert!(matches!(answer, Err(LockError::Invalid { .. })));
    }
    assert_eq!(backend.calls().len(), calls);
    assert!(before - guard.remaining() < SLACK, "and nothing is changed");
    guard.extend(Duration::ZERO).await.unwrap();
    guard.renew_for(MAX_TTL).await.unwrap();
    assert_safe(&backend, &guard);
}

#[tokio::test(start_paused = true)]
async fn a_backend_with_its_own_ttl_only_does_not_support_them() {
    let honest = Scripted::honest();
    let capabilities = lock_core::LockBackend::capabilities(&honest).with_any_ttl(false);
    let backend = honest.with_capabilities(capabilities);
    let guard = hold(&backend, "k", options(TTL)).await;
    for shorter in [true, false] {
        let answer = prolong(&guard, shorter).await;
        assert!(matches!(answer, Err(LockError::Unsupported { .. })));
    }
    assert!(requests(&backend).is_empty());
    sleep(5 * TTL).await;
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_or_taken_over_is_lost_and_left_alone() {
    for shorter in [true, false] {
        for stolen in [true, false] {
            let backend = Scripted::honest();
            let guard = hold(&backend, "k", by_hand(TTL)).await;
            let (thief, why) = if stolen {
                (Some(backend.steal("k", 60 * SECOND)), LossReason::Taken)
            } else {
                backend.evict("k");
                (None, LossReason::Absent)
            };
            assert!(guard.is_held(), "nobody told it yet");
            assert_lost(prolong(&guard, shorter).await, why);
            assert!(!guard.is_held());
            assert_eq!(timeout(MS, guard.lost()).await.unwrap(), why);
            let calls = backend.calls().len();
            assert_lost(prolong(&guard, !shorter).await, why);
            assert_eq!(backend.calls().len(), calls);
            let entry = backend.entries().remove("k");
            assert_eq!(entry.as_ref().map(|one| &one.owner), thief.as_ref());
            assert!(entry.is_none_or(|one| one.remaining > 59 * SECOND));
        }
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", by_hand(TTL)).await;
        let found = BackendError::new(BackendErrorKind::Conflict, "a list");
        backend.on(Op::Renew).next(Effect::FailBefore(found));
        assert_lost(prolong(&guard, shorter).await, LossReason::Taken);
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_lost_without_a_call() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", by_hand(TTL)).await;
    sleep(TTL - 52 * MS).await;
    assert!(!guard.is_held() && entry_left(&backend, "k") <= 52 * MS);
    assert_lost(guard.extend(TTL).await, LossReason::Unconfirmed);
    assert_lost(guard.renew_for(TTL).await, LossReason::Unconfirmed);
    assert!(requests(&backend).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_after_the_deadline_does_not_bring_the_lock_back() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", by_hand(TTL)).await;
    sleep(TTL - 500 * MS).await;
    backend.on(Op::Renew).next(Effect::Ask);
    let (answer, ()) = tokio::join!(guard.extend(TTL), async {
        let call = backend.next_call().await;
        call.apply().await;
        sleep(700 * MS).await;
        assert!(!guard.is_held());
        call.reply_ownership([Ownership::Held]);
    });
    assert_lost(answer, LossReason::Unconfirmed);
    assert!(!guard.is_held());
    assert!(
        entry_left(&backend, "k") > SECOND,
        "the store has it, the guard has not"
    );
}

// Failures.

fn failures() -> Vec<Effect> {
    vec![
        Effect::FailBefore(refused()),
        Effect::FailBefore(BackendError::permanent("no")),
        Effect::FailBefore(cut()),
        Effect::LoseReply(cut()),
        Effect::HangBefore,
        Effect::HangAfter,
        Effect::DelayBefore(TTL),
        Effect::DelayBoth(OP * 2 / 3),
        Effect::DelayBeforeDetached(OP + SECOND / 2),
    ]
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_failed_leaves_the_lock_held_as_before() {
    for failure in failures() {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL)).await;
        let (before, start) = (guard.remaining(), Moment::now());
        backend.on(Op::Renew).always(failure.clone());
        let answer = guard.extend(TTL).await;
        let took = start.elapsed();
        match answer {
            Err(LockError::Backend { .. } | LockError::Unknown { .. }) => {}
            other => panic!("{other:?} after {failure:?}"),
        }
        assert!(took <= OP + OP / 16 + SLACK, "{took:?} for {failure:?}");
        assert!(guard.is_held());
        assert!(
            guard.remaining().abs_diff(before - took) < SLACK,
            "{failure:?}"
        );
        assert_safe(&backend, &guard);
        backend.on(Op::Renew).clear();
        watch(5 * TTL, 50 * MS, || {
            assert_safe(&backend, &guard);
            assert!(guard.is_held(), "{failure:?}");
        })
        .await;
        guard.extend(TTL).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_shortening_ends_within_the_op_timeout_and_is_safe_whatever_the_store_does() {
    for failure in failures() {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL)).await;
        let start = Moment::now();
        backend.on(Op::Renew).always(failure.clone());
        let looking = watch(TTL + SECOND, 10 * MS, || assert_safe(&backend, &guard));
        let shortening = async {
            assert!(guard.renew_for(3 * SECOND).await.is_err());
            let took = start.elapsed();
            assert!(took <= OP + OP / 16 + SLACK, "{took:?} for {failure:?}");
            assert!(guard.is_held());
        };
        tokio::join!(looking, shortening);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_panics_leaves_the_lock_usable() {
    let backend = Scripted::honest();
    let guard = Arc::new(hold(&backend, "k", options(TTL)).await);
    backend.on(Op::Renew).next(Effect::Panic);
    let extending = Arc::clone(&guard);
    let task = Handle::current().spawn(async move { extending.extend(SECOND).await });
    assert!(task.await.unwrap_err().is_panic());
    assert!(guard.is_held());
    guard.extend(SECOND).await.unwrap();
    sleep(5 * TTL).await;
    assert!(guard.is_held());
}

// X04: dropped.

#[tokio::test(start_paused = true)]
async fn dropped_at_any_await_they_leave_a_safe_deadline_and_a_held_lock() {
    for shorter in [true, false] {
        let ttl = 60 * SECOND;
        let backend = Scripted::honest();
        let locks = Locks::new(backend.clone()).with_options(by_hand(ttl));
        let mut guards = Vec::new();
        for n in 0..40 {
            guards.push(Arc::new(
                locks.lock(format!("k{n}")).try_acquire().await.unwrap(),
            ));
        }
        let began = Moment::now();
        let make = |n: usize| {
            let guard = Arc::clone(&guards[n]);
            backend
                .on(Op::Renew)
                // Another operation goes first, so that this one waits for it.
                .next(Effect::DelayBoth(20 * MS))
                .next(Effect::FailBefore(refused()))
                .next(Effect::DelayBoth(20 * MS));
            async move {
                let first = Arc::clone(&guard);
                Handle::current().spawn(async move { first.extend(MS).await });
                yield_now().await;
                if shorter {
                    guard.renew_for(10 * SECOND).await.unwrap();
                } else {
                    guard.extend(10 * SECOND).await.unwrap();
                }
            }
        };
        let cuts = cancel_sweep(make, async |n| {
            let guard = &guards[n];
            watch(SECOND, 5 * MS, || {
                assert_safe(&backend, guard);
                assert!(guard.is_held());
            })
            .await;
            let sent = requests(&backend)
                .iter()
                .filter(|one| one.key == guard.key().as_str())
                .count();
            // What was begun was finished: the deadline is as the store's, less the drift.
            let left = entry_left(&backend, guard.key().as_str());
            assert!(
                guard.remaining() + SECOND > left,
                "cut {n} after {sent} requests"
            );
            let was = ttl - began.elapsed();
            match (sent, shorter) {
                (0 | 1, _) => assert!(left.abs_diff(was) < SLACK),
                (3, true) => assert!(left < 10 * SECOND),
                (3, false) => assert!(left.abs_diff(was + 10 * SECOND) < SLACK),
                other => panic!("{other:?} requests in cut {n}"),
            }
            backend.on(Op::Renew).clear();
            guard.extend(SECOND).await.unwrap();
        })
        .await;
        assert!(cuts >= 9, "{cuts} cuts");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_while_the_store_hangs_they_leave_a_safe_deadline() {
    for shorter in [true, false] {
        for failure in failures() {
            let backend = Scripted::honest();
            let guard = hold(&backend, "k", options(TTL)).await;
            backend.on(Op::Renew).always(failure);
            let _ = timeout(100 * MS, prolong(&guard, shorter)).await;
            watch(2 * TTL, 20 * MS, || assert_safe(&backend, &guard)).await;
        }
    }
}
