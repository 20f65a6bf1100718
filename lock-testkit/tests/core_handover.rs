//! A lock on its way from one process to another: a ticket works once, and nobody gets in between.
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
    BackendError, Capabilities, LockError, LockGuard, LockOptions, Locks, LossReason,
    RenewalPolicy, Ticket,
};
use lock_testkit::{Effect, LeakCheck, Op, Scripted};
use tokio::time::{sleep, timeout};

async fn held(backend: &Scripted) -> LockGuard {
    take(backend, &lock(backend)).await
}

async fn ticket(backend: &Scripted) -> Ticket {
    let guard = held(backend).await;
    guard.into_ticket().await.unwrap()
}

fn assert_lost<T: std::fmt::Debug>(answer: Result<T, LockError>, expected: LossReason) {
    match answer {
        Err(LockError::Lost { reason, .. }) => assert_eq!(reason, expected),
        other => panic!("{other:?}"),
    }
}

// A ticket works once.

#[tokio::test(start_paused = true)]
async fn a_ticket_works_once_and_with_a_larger_fencing_token() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let guard = held(&backend).await;
    let (first, loss) = (guard.fencing_token(), guard.loss());
    let ticket = guard.into_ticket().await.unwrap();
    assert!(!loss.is_held());
    assert_eq!(loss.lost().await, LossReason::Released);

    let locks = locks(&backend);
    let resumed = locks.resume(&ticket).await.unwrap();
    assert!(resumed.is_held() && resumed.fencing_token() > first);
    assert_lost(locks.resume(&ticket).await, LossReason::Taken);
    assert!(resumed.is_held());

    // It may go on for ever, each ticket working once.
    let next = resumed.into_ticket().await.unwrap();
    assert_lost(locks.resume(&ticket).await, LossReason::Taken);
    let resumed = locks.resume(&next).await.unwrap();
    resumed.release().await.unwrap();
    assert_lost(locks.resume(&next).await, LossReason::Absent);
    assert_quiet(&backend, &leaks, CLEAN).await;
}

#[tokio::test(start_paused = true)]
async fn of_many_who_resume_one_ticket_one_gets_the_lock() {
    let backend = Scripted::honest().with_latency(5 * MS);
    let ticket = ticket(&backend).await;
    let resuming: Vec<_> = (0..20)
        .map(|_| {
            let (locks, ticket) = (locks(&backend), ticket.clone());
            spawn(async move { locks.resume(&ticket).await })
        })
        .collect();
    let mut guards = Vec::new();
    for resumed in resuming {
        match resumed.await.unwrap() {
            Ok(guard) => guards.push(guard),
            error => assert_lost(error, LossReason::Taken),
        }
    }
    assert_eq!(guards.len(), 1);
    assert!(guards[0].is_held());
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_in_between() {
    let backend = Scripted::honest().with_latency(5 * MS);
    let guard = held(&backend).await;
    let spinning = lock(&backend).with_retry(every(MS));
    let spinner = spawn(async move { spinning.acquire().await });
    sleep(SECOND).await;
    let ticket = guard.into_ticket().await.unwrap();
    sleep(SECOND).await;
    let resumed = locks(&backend).resume(&ticket).await.unwrap();
    sleep(SECOND).await;
    assert!(!spinner.is_finished());
    let fencing = resumed.fencing_token();
    resumed.release().await.unwrap();
    let next = spinner.await.unwrap().unwrap();
    assert!(next.fencing_token() > fencing);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_goes_to_other_locks_as_text() {
    let backend = Scripted::honest();
    let here = locks(&backend).with_prefix("a b:").with_label("here 7");
    let guard = here.lock("é 9 ").acquire().await.unwrap();
    let text = guard.into_ticket().await.unwrap().expose();
    assert!(!text.contains('\n'));

    // The prefix is the ticket's, the options are those of the locks that resume it.
    let there = Locks::new(backend.clone())
        .with_prefix("other:")
        .with_label("there")
        .with_ttl(10 * SECOND);
    let ticket: Ticket = text.parse().unwrap();
    assert_eq!(ticket.key().as_str(), "a b:é 9 ");
    let guard = there.resume(&ticket).await.unwrap();
    assert_eq!(guard.key(), ticket.key());
    assert!(guard.remaining() < 10 * SECOND);
    let entry = &backend.entries()["a b:é 9 "];
    assert_eq!(entry.owner.label(), Some("there"));
    assert!(guard.remaining() <= entry.remaining && entry.remaining <= 10 * SECOND);
    // It is renewed like any other.
    sleep(HOUR).await;
    assert!(guard.is_held());
    guard.release().await.unwrap();
    assert!(is_free(&backend));
}

#[tokio::test(start_paused = true)]
async fn a_ticket_does_not_print_its_owner() {
    let backend = Scripted::honest();
    let ticket = ticket(&backend).await;
    let owner = backend.entries()["k"].owner.clone();
    assert!(ticket.expose().contains(owner.expose()));
    let printed = format!("{ticket:?} {ticket:#?}");
    assert!(!printed.contains(&owner.expose()[..32]), "{printed}");
}

// A lock that is on its way ends with its ttl.

#[tokio::test(start_paused = true)]
async fn nothing_is_renewed_or_released_after_the_hand_over() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let guard = held(&backend).await;
    sleep(TTL).await;
    let ticket = guard.into_ticket().await.unwrap();
    let calls = backend.calls().len();
    let left = backend.entries()["k"].remaining;
    assert!(ticket.remaining() <= left && ticket.remaining() > TTL / 2);
    sleep(left - SECOND).await;
    assert!(!is_free(&backend));
    sleep(SECOND).await;
    assert!(is_free(&backend));
    assert_eq!(backend.calls().len(), calls);
    assert_lost(locks(&backend).resume(&ticket).await, LossReason::Absent);
    leaks.assert_none(TTL).await;
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_came_too_late_says_what_became_of_the_lock() {
    let backend = Scripted::honest();
    let late = ticket(&backend).await;
    sleep(TTL).await;
    assert_lost(locks(&backend).resume(&late).await, LossReason::Absent);
    let later = held(&backend).await;
    assert_lost(locks(&backend).resume(&late).await, LossReason::Taken);
    assert!(later.is_held());
    assert_eq!(backend.calls_of(Op::Release).len(), 0, "it is left alone");
    later.release().await.unwrap();
}

// Making the ticket.

#[tokio::test(start_paused = true)]
async fn a_ticket_waits_for_a_renewal_in_flight() {
    let backend = Scripted::honest();
    let guard = held(&backend).await;
    backend.on(Op::Renew).always(Effect::Ask);
    let renewal = backend.next_call().await;
    let making = spawn(guard.into_ticket());
    sleep(SECOND).await;
    assert!(!making.is_finished());
    renewal.reply_honestly().await;
    let ticket = timeout(10 * MS, making).await.unwrap().unwrap().unwrap();
    assert!(ticket.remaining() > TTL - SECOND - TTL / 50);
    sleep(TTL - 2 * SECOND).await;
    assert_eq!(backend.calls_of(Op::Renew).len(), 1);
    drop(locks(&backend).resume(&ticket).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_operation_of_unknown_outcome_keeps_the_guard() {
    for effect in [
        Effect::LoseReply(cut()),
        Effect::FailBefore(cut()),
        Effect::HangAfter,
        Effect::Panic,
    ] {
        let backend = Scripted::honest();
        backend.on(Op::Renew).always(effect.clone());
        let mut guard = held(&backend).await;
        sleep(TTL / 3 + SECOND).await;
        assert!(!backend.calls_of(Op::Renew).is_empty());
        let (answer, took) = timed(guard.into_ticket()).await;
        let error;
        (guard, error) = answer.unwrap_err();
        assert!(
            matches!(error, LockError::Unknown { .. } | LockError::Backend { .. }),
            "{effect:?}: {error:?}"
        );
        assert!(took < OP + SLACK, "{took:?}");
        assert!(guard.is_held(), "{effect:?}");
        backend.on(Op::Renew).clear();
        // It goes on being renewed, and with the first answer the doubt is over.
        sleep(TTL / 2).await;
        assert!(guard.is_held(), "{effect:?}");
        let ticket = guard.into_ticket().await.unwrap();
        drop(locks(&backend).resume(&ticket).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_known_to_have_failed_leaves_no_doubt() {
    let backend = Scripted::honest();
    let refused = Effect::FailBefore(BackendError::transient("refused"));
    backend.on(Op::Renew).always(refused);
    let guard = held(&backend).await;
    sleep(TTL / 3 + SECOND).await;
    assert!(!backend.calls_of(Op::Renew).is_empty());
    let ticket = guard.into_ticket().await.unwrap();
    drop(locks(&backend).resume(&ticket).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_extend_of_unknown_outcome_keeps_the_guard_too() {
    let backend = Scripted::honest();
    let guard = held(&backend).await;
    backend.on(Op::Renew).always(Effect::LoseReply(cut()));
    guard.extend(SECOND).await.unwrap_err();
    let (guard, error) = guard.into_ticket().await.unwrap_err();
    assert!(matches!(error, LockError::Unknown { .. }), "{error:?}");
    backend.on(Op::Renew).clear();
    guard.extend(SECOND).await.unwrap();
    guard.into_ticket().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_lock_is_not_handed_over() {
    let backend = Scripted::honest();
    let lock = lock(&backend).with_renewal(RenewalPolicy::never());
    let guard = lock.acquire().await.unwrap();
    sleep(TTL).await;
    let (guard, error) = guard.into_ticket().await.unwrap_err();
    assert_lost(Err::<(), _>(error), LossReason::Unconfirmed);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn without_hand_over_in_the_backend_it_is_unsupported_and_nothing_is_sent() {
    let able = Scripted::honest();
    let ticket = ticket(&able).await;
    let backend = Scripted::honest().with_capabilities(Capabilities::new().with_fencing(true));
    let resumed = locks(&backend).resume(&ticket).await;
    assert!(matches!(resumed, Err(LockError::Unsupported { .. })));
    assert!(backend.calls().is_empty());
    let guard = held(&backend).await;
    let (guard, error) = guard.into_ticket().await.unwrap_err();
    assert!(matches!(error, LockError::Unsupported { .. }), "{error:?}");
    sleep(HOUR).await;
    assert!(guard.is_held(), "held and renewed as before");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_is_being_made_is_dropped_with_its_guard() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let guard = held(&backend).await;
    backend.on(Op::Renew).always(Effect::Ask);
    let _renewal = backend.next_call().await;
    assert!(timeout(SECOND, guard.into_ticket()).await.is_err());
    assert_quiet(&backend, &leaks, CLEAN).await;
}

// Resuming.

fn slow_options() -> LockOptions {
    LockOptions::default()
        .with_ttl(SECOND)
        .with_op_timeout(900 * MS)
}

#[tokio::test(start_paused = true)]
async fn validity_counts_from_the_resumes_own_request() {
    let backend = Scripted::honest();
    let ticket = ticket(&backend).await;
    sleep(10 * SECOND).await;
    backend.on(Op::Acquire).next(Effect::DelayAfter(300 * MS));
    let locks = locks(&backend).with_options(slow_options());
    let guard = locks.resume(&ticket).await.unwrap();
    let remaining = guard.remaining();
    assert!(remaining <= 688 * MS && remaining + SLACK > 688 * MS);
    assert!(remaining <= backend.entries()["k"].remaining);
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_comes_too_late_is_given_back() {
    let backend = Scripted::honest();
    let leaks = LeakCheck::start();
    let ticket = ticket(&backend).await;
    backend.on(Op::Acquire).next(Effect::DelayAfter(600 * MS));
    let locks = locks(&backend).with_options(slow_options());
    let error = locks.resume(&ticket).await.unwrap_err();
    assert!(matches!(error, LockError::Late { .. }), "{error:?}");
    assert_quiet(&backend, &leaks, CLEAN).await;
    assert_lost(locks.resume(&ticket).await, LossReason::Absent);
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_was_not_applied_may_be_tried_again() {
    for effect in [
        Effect::FailBefore(refused()),
        Effect::FailBefore(cut()),
        Effect::HangBefore,
    ] {
        let backend = Scripted::honest();
        let ticket = ticket(&backend).await;
        backend.on(Op::Acquire).next(effect.clone());
        let (answer, took) = timed(locks(&backend).resume(&ticket)).await;
        assert!(answer.unwrap_err().is_retryable(), "{effect:?}");
        assert!(took < 2 * OP + SLACK, "{took:?}");
        sleep(3 * OP).await;
        let guard: LockGuard = locks(&backend).resume(&ticket).await.unwrap();
        assert!(guard.is_held());
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_of_unknown_outcome_is_given_back() {
    for effect in [
        Effect::LoseReply(cut()),
        Effect::HangAfter,
        Effect::DelayBeforeDetached(OP + SECOND),
    ] {
        let backend = Scripted::honest();
        let leaks = LeakCheck::start();
        let ticket = ticket(&backend).await;
        backend.on(Op::Acquire).next(effect.clone());
        let error = locks(&backend).resume(&ticket).await.unwrap_err();
        assert!(matches!(error, LockError::Unknown { .. }), "{error:?}");
        assert_quiet(&backend, &leaks, CLEAN + Duration::from_secs(1)).await;
        let mine = backend.calls_of(Op::Acquire).pop().unwrap().owner;
        let releases = backend.calls_of(Op::Release);
        assert_eq!(releases.len(), 2);
        assert!(releases.iter().all(|release| release.owner == mine));
    }
}
