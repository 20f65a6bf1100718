//! A held lock is renewed until it is let go or lost, and no longer.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use async_trait::async_trait;
use common::{
    MS, SECOND, SLACK, assert_lost, assert_safe, cut, entry_left, hold, lost_at_the_deadline,
    options, refused, watch,
};
use lock_core::{
    AcquireRequest, Attempt, BackendError, Capabilities, Grant, Holder, LockBackend, LockGuard,
    LockKey, Locks, LossReason, Moment, Owner, Ownership, Released, Renew, RenewRequest,
    RenewalPolicy, Wakeups,
};
use lock_testkit::{Effect, LeakCheck, Op, Record, Scripted};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_secs(1);
const OP: Duration = Duration::from_millis(600);

fn renewals(backend: &Scripted) -> usize {
    backend.calls_of(Op::Renew).len()
}

/// Which calls were made when.
fn times(records: &[Record]) -> BTreeMap<usize, Instant> {
    records
        .iter()
        .map(|record| (record.call, record.at))
        .collect()
}

/// Starting a task for each lock would wake another worker of the runtime each time.
#[tokio::test(start_paused = true)]
async fn locks_that_come_and_go_share_one_task_which_ends_after_the_last() {
    let backend = Scripted::honest();
    let lock = Locks::new(backend.clone()).lock("k").with_ttl(TTL);
    let leaks = LeakCheck::start();
    for _ in 0..100 {
        let guard = lock.acquire().await.unwrap();
        guard.release().await.unwrap();
        // The task has its turn, and finds an empty list.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(leaks.extra(), 1);
    }
    assert_eq!(renewals(&backend), 0);
    leaks.assert_none(SECOND).await;
}

// R01, R03, R05, R06, R12: it stays held.

#[tokio::test(start_paused = true)]
async fn a_lock_is_renewed_three_times_per_ttl_for_as_long_as_it_is_held() {
    for ttl in [100 * MS, 10 * SECOND] {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(ttl)).await;
        let other = Locks::new(backend.clone()).lock("k").with_ttl(ttl);
        for _ in 0..100 {
            sleep(ttl / 10).await;
            assert_safe(&backend, &guard);
            assert!(guard.is_held());
            assert!(other.try_acquire().await.unwrap_err().is_busy());
        }
        let count = renewals(&backend);
        assert!((28..=38).contains(&count), "{count} renewals in 10 {ttl:?}");
        assert!(
            backend
                .calls_of(Op::Renew)
                .iter()
                .all(|one| one.how == Some(Renew::AtLeast) && one.ttl == Some(ttl))
        );
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }
}

#[tokio::test(start_paused = true)]
async fn one_renewal_that_fails_is_tried_again() {
    let failures = [
        Effect::FailBefore(refused()),
        Effect::FailBefore(BackendError::permanent("no permission")),
        Effect::FailBefore(cut()),
        Effect::LoseReply(cut()),
        Effect::HangBefore,
        Effect::HangAfter,
        Effect::Panic,
    ];
    for failure in failures {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL)).await;
        backend.on(Op::Renew).next(failure.clone());
        watch(5 * TTL, TTL / 30, || {
            assert_safe(&backend, &guard);
            assert!(guard.is_held(), "{failure:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_hangs_is_given_up_in_time_for_another() {
    let tight = |per_ttl| {
        options(TTL)
            .with_op_timeout(2900 * MS)
            .with_renewal(RenewalPolicy::per_ttl(per_ttl))
    };
    for options in [
        options(TTL),
        options(20 * MS),
        options(TTL).with_renewal(RenewalPolicy::per_ttl(2)),
        tight(3),
        tight(2),
        tight(20),
    ] {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options.clone()).await;
        backend.on(Op::Renew).always(Effect::HangBefore);
        assert_eq!(lost_at_the_deadline(&guard).await, LossReason::Unconfirmed);
        let count = renewals(&backend);
        assert!((2..20).contains(&count), "{count} attempts, {options:?}");
        // Had the second attempt been answered, nothing would have been lost.
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options.clone()).await;
        backend.on(Op::Renew).next(Effect::HangBefore);
        sleep(5 * options.ttl()).await;
        assert!(guard.is_held(), "{options:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_was_applied_unheard_moves_the_deadline_only_when_one_is_heard() {
    for lost in [Effect::LoseReply(cut()), Effect::HangAfter] {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL)).await;
        let before = (guard.remaining(), Moment::now());
        backend.on(Op::Renew).next(lost);
        let mut seen = false;
        watch(INTERVAL + OP, 10 * MS, || {
            assert_safe(&backend, &guard);
            if renewals(&backend) == 1 {
                seen = true;
                // First, so that a stall here makes what is left less.
                let elapsed = before.1.elapsed();
                assert!(guard.remaining() <= before.0.saturating_sub(elapsed) + MS);
                assert!(entry_left(&backend, "k") > guard.remaining() + 100 * MS);
            }
        })
        .await;
        assert!(seen);
        watch(3 * TTL, 100 * MS, || {
            assert_safe(&backend, &guard);
            assert!(guard.remaining() > INTERVAL);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_when_the_renewal_was_sent() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    backend.on(Op::Renew).next(Effect::Ask);
    let call = backend.next_call().await;
    let sent = Moment::now();
    sleep(500 * MS).await;
    call.reply_honestly().await;
    sleep(MS).await;
    let (believed, passed) = (guard.remaining(), sent.elapsed());
    // 1 % of 3 s and 2 ms are the drift.
    let right = TTL - 32 * MS - passed;
    assert!(
        believed <= right && right - believed < SLACK,
        "{believed:?} of {right:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn whatever_renewals_take_the_deadline_is_safe_and_never_falls() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for _ in 0..20 {
        let backend = Scripted::honest();
        for _ in 0..100 {
            let delay = u32::try_from(draw(500)).unwrap() * MS;
            backend.on(Op::Renew).next(match draw(6) {
                0 => Effect::DelayBefore(delay),
                1 => Effect::DelayAfter(delay),
                2 => Effect::DelayBoth(delay / 2),
                3 => Effect::DelayBeforeDetached(2 * delay),
                4 => Effect::FailBefore(refused()),
                _ => Effect::LoseReply(cut()),
            });
        }
        let guard = hold(&backend, "k", options(TTL)).await;
        let mut last = (guard.remaining(), Moment::now());
        watch(10 * TTL, 37 * MS, || {
            assert_safe(&backend, &guard);
            let next = (guard.remaining(), Moment::now());
            if guard.is_held() {
                let fallen = (last.0.saturating_sub(next.0)).saturating_sub(last.1.until(&next.1));
                assert!(fallen <= MS, "the deadline fell by {fallen:?}");
            }
            last = next;
        })
        .await;
        assert!(
            renewals(&backend) > 10 || !guard.is_held(),
            "nothing happened"
        );
    }
}

// R02, R04, R16, R18: how it is lost.

#[tokio::test(start_paused = true)]
async fn a_lock_that_somebody_took_over_is_lost_within_an_interval_and_an_op() {
    let backend = Scripted::honest().with_latency(20 * MS);
    let guard = hold(&backend, "k", options(TTL)).await;
    sleep(TTL / 2).await;
    let (thief, start) = (backend.steal("k", 60 * SECOND), Moment::now());
    assert_eq!(guard.lost().await, LossReason::Taken);
    assert!(start.elapsed() <= INTERVAL + OP);
    assert!(!guard.is_held());
    let told = timeout(Duration::ZERO, guard.lost()).await;
    assert_eq!(told.unwrap(), LossReason::Taken, "after the fact, at once");
    let count = renewals(&backend);
    sleep(10 * SECOND).await;
    assert_eq!(renewals(&backend), count, "renewed after it was lost");
    assert_eq!(guard.release().await.unwrap(), Released::TakenOver);
    assert_eq!(backend.entries()["k"].owner, thief);
    assert!(entry_left(&backend, "k") > 48 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_cannot_be_renewed_is_lost_at_its_deadline_and_not_after() {
    let failures = [
        Effect::FailBefore(refused()),
        Effect::FailBefore(BackendError::permanent("no permission")),
        Effect::LoseReply(cut()),
        Effect::HangAfter,
        Effect::Panic,
        Effect::DelayBefore(TTL),
    ];
    for failure in failures {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL)).await;
        sleep(4 * TTL).await;
        backend.on(Op::Renew).always(failure.clone());
        let before = renewals(&backend);
        assert_eq!(
            lost_at_the_deadline(&guard).await,
            LossReason::Unconfirmed,
            "{failure:?}"
        );
        let tries = renewals(&backend) - before;
        assert!((2..100).contains(&tries), "{tries} tries, {failure:?}");
        backend.on(Op::Renew).clear();
        sleep(4 * TTL).await;
        assert!(!guard.is_held());
        assert_eq!(
            renewals(&backend) - before,
            tries,
            "renewed after it was lost"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_was_evicted_is_lost_and_never_made_anew() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    sleep(4 * TTL).await;
    let start = Moment::now();
    assert!(backend.evict("k"));
    assert_eq!(guard.lost().await, LossReason::Absent);
    assert!(start.elapsed() <= INTERVAL + OP);
    let calls = backend.calls().len();
    sleep(4 * TTL).await;
    assert!(backend.entries().is_empty());
    assert_eq!(guard.release().await.unwrap(), Released::Expired);
    assert_eq!(
        backend.calls().len(),
        calls,
        "nothing is sent for what is gone"
    );
}

#[tokio::test(start_paused = true)]
async fn something_else_at_the_key_means_that_the_lock_is_lost() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    let found = BackendError::new(lock_core::BackendErrorKind::Conflict, "a list");
    backend.on(Op::Renew).always(Effect::FailBefore(found));
    assert_eq!(guard.lost().await, LossReason::Taken);
    assert_eq!(renewals(&backend), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_taken_again_by_the_same_process_is_lost_for_the_older_guard() {
    let backend = Scripted::honest();
    // Two lines: in that of the old guard the lock counts as held until it notices.
    let lock = || Locks::new(backend.clone()).lock("k").with_ttl(TTL);
    let old = lock().try_acquire().await.unwrap();
    backend.evict("k");
    let new = lock().try_acquire().await.unwrap();
    assert_eq!(old.lost().await, LossReason::Taken);
    assert!(new.is_held());
    sleep(4 * TTL).await;
    assert!(new.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lock_taken_again_after_a_loss_is_renewed_whatever_the_old_guard_does() {
    for evicted in [true, false] {
        let backend = Scripted::honest();
        let lock = Locks::new(backend.clone()).lock("k").with_ttl(TTL);
        let old = lock.try_acquire().await.unwrap();
        if evicted {
            backend.evict("k");
        } else {
            backend.on(Op::Renew).always(Effect::FailBefore(refused()));
        }
        old.lost().await;
        sleep(SECOND / 10).await;
        backend.on(Op::Renew).clear();
        let new = lock.try_acquire().await.unwrap();
        watch(2 * TTL, TTL / 10, || assert_safe(&backend, &new)).await;
        drop(old);
        watch(5 * TTL, TTL / 10, || {
            assert_safe(&backend, &new);
            assert!(new.is_held());
        })
        .await;
        assert_eq!(new.release().await.unwrap(), Released::Released);
    }
}

// R10: nothing stays behind.

async fn cycles(backend: &Scripted) {
    let lock = Locks::new(backend.clone()).lock("k").with_ttl(TTL);
    let leaks = LeakCheck::start();
    for n in 0..1000 {
        let guard = lock.acquire().await.unwrap();
        if n % 2 == 0 {
            guard.release().await.unwrap();
        }
    }
    leaks.assert_none(10 * SECOND).await;
    assert!(backend.entries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_locks_released_or_dropped_leave_no_task() {
    cycles(&Scripted::honest()).await;
    cycles(&Scripted::honest().with_latency(MS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_locks_released_or_dropped_leave_no_task_on_many_threads() {
    cycles(&Scripted::honest()).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_locks_lost_leave_no_task() {
    let backend = Scripted::honest();
    let lock = Locks::new(backend.clone()).lock("k").with_ttl(TTL);
    let leaks = LeakCheck::start();
    for n in 0..1000 {
        let guard = lock.try_acquire().await.unwrap();
        match n % 3 {
            0 => drop(backend.evict("k")),
            1 => drop(backend.steal("k", MS)),
            _ => drop(backend.on(Op::Renew).always(Effect::FailBefore(refused()))),
        }
        guard.lost().await;
        backend.on(Op::Renew).clear();
        guard.release().await.unwrap();
    }
    leaks.assert_none(TTL).await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_let_go_keeps_nothing_of_its_store() {
    let backend = Arc::new(Scripted::honest());
    let store: Arc<dyn LockBackend> = Arc::<Scripted>::clone(&backend);
    let locks = Locks::from_arc(store).with_ttl(3600 * SECOND);
    let (one, two) = (locks.lock("one"), locks.lock("two"));
    one.try_acquire().await.unwrap().release().await.unwrap();
    drop(two.try_acquire().await.unwrap());
    drop((locks, one, two));
    sleep(MS).await;
    assert_eq!(Arc::strong_count(&backend), 1);
}

// R11 and progress: the holder that does not let go.

#[tokio::test(start_paused = true)]
async fn a_lock_held_for_as_long_as_was_allowed_is_lost_and_its_entry_ends_with_the_ttl() {
    let backend = Scripted::honest();
    let limit = 3 * TTL + TTL / 2;
    let policy = RenewalPolicy::default().hold_at_most(limit);
    let guard = hold(&backend, "k", options(TTL).with_renewal(policy)).await;
    let start = Moment::now();
    assert_eq!(guard.lost().await, LossReason::HeldTooLong);
    let held = start.elapsed();
    assert!(held <= limit && limit - held <= SLACK, "{held:?}");
    assert!(!guard.is_held());
    assert!(
        entry_left(&backend, "k") > 100 * MS,
        "told ahead of the entry's end"
    );
    let count = renewals(&backend);
    sleep(TTL).await;
    assert_eq!(renewals(&backend), count);
    assert!(backend.entries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_extension_outlives_hold_at_most() {
    let backend = Scripted::honest();
    let policy = RenewalPolicy::default().hold_at_most(2 * TTL);
    let guard = hold(&backend, "k", options(TTL).with_renewal(policy)).await;
    guard.extend(60 * SECOND).await.unwrap();
    assert!(guard.remaining() <= 2 * TTL);
    assert_eq!(lost_at_the_deadline(&guard).await, LossReason::HeldTooLong);
    drop(guard);
    sleep(MS).await;
    assert!(
        backend.entries().is_empty(),
        "the entry goes with the guard"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hold_limit_holds_without_renewal_too() {
    let backend = Scripted::honest();
    let policy = RenewalPolicy::never().hold_at_most(SECOND);
    let guard = hold(&backend, "k", options(TTL).with_renewal(policy)).await;
    assert!(guard.remaining() <= SECOND);
    assert_eq!(lost_at_the_deadline(&guard).await, LossReason::HeldTooLong);
}

fn while_progressing(period: Duration) -> lock_core::LockOptions {
    options(TTL).with_renewal(RenewalPolicy::default().while_progressing(period))
}

#[tokio::test(start_paused = true)]
async fn a_holder_without_progress_lets_go() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", while_progressing(5 * SECOND)).await;
    let start = Moment::now();
    assert_eq!(guard.lost().await, LossReason::NoProgress);
    let held = start.elapsed();
    assert!(held > 5 * SECOND && held < 5 * SECOND + TTL, "{held:?}");
    sleep(TTL).await;
    assert!(backend.entries().is_empty());
    guard.checkpoint();
    assert!(!guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_holder_with_progress_keeps_the_lock() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", while_progressing(SECOND)).await;
    watch(60 * SECOND, 900 * MS, || {
        assert!(guard.is_held());
        guard.checkpoint();
    })
    .await;
    assert_eq!(guard.lost().await, LossReason::NoProgress);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_before_the_deadline_saves_the_lock() {
    for left in [900 * MS, 500 * MS, 200 * MS, 60 * MS] {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", while_progressing(5 * SECOND)).await;
        sleep(6 * SECOND).await;
        sleep(guard.remaining() - left).await;
        let count = renewals(&backend);
        guard.checkpoint();
        sleep(TTL / 2).await;
        assert!(guard.is_held(), "a checkpoint {left:?} before the deadline");
        assert!(renewals(&backend) > count);
        assert_eq!(guard.lost().await, LossReason::NoProgress);
    }
}

// R14: panics.

#[tokio::test(start_paused = true)]
async fn a_backend_that_panics_in_one_renewal_harms_neither_this_lock_nor_others() {
    let backend = Scripted::honest();
    let locks = Locks::new(backend.clone()).with_ttl(TTL);
    let mut guards = Vec::new();
    for n in 0..10 {
        guards.push(locks.lock(format!("k{n}")).try_acquire().await.unwrap());
        sleep(50 * MS).await;
    }
    for _ in 0..5 {
        backend.on(Op::Renew).next(Effect::Panic);
        sleep(TTL).await;
        assert!(guards.iter().all(LockGuard::is_held));
    }
}

/// Panics whenever it is asked to renew `k0`.
#[derive(Debug)]
struct Poisoned(Scripted);

#[async_trait]
impl LockBackend for Poisoned {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        self.0.try_acquire(request).await
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        assert!(
            renewals.iter().all(|one| one.key.as_str() != "k0"),
            "poisoned"
        );
        self.0.renew(renewals).await
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        self.0.release(key, owner).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        self.0.inspect(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        self.0.wakeups()
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_whose_renewal_always_panics_costs_no_lock_that_was_renewed_with_it() {
    let backend = Scripted::honest();
    let locks = Locks::new(Poisoned(backend.clone())).with_ttl(TTL);
    let mut guards = Vec::new();
    for n in 0..200 {
        guards.push(locks.lock(format!("k{n}")).try_acquire().await.unwrap());
    }
    sleep(10 * TTL).await;
    assert!(!guards[0].is_held());
    assert!(guards[1..].iter().all(LockGuard::is_held));
}

/// A waker that does what it should not.
struct Rude<F>(F);

impl<F: Fn() + Send + Sync> Wake for Rude<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_does_not_stop_the_renewal_of_other_locks() {
    let backend = Scripted::honest();
    let locks = Locks::new(backend.clone()).with_ttl(TTL);
    let rude = locks
        .lock("rude")
        .with_renewal(RenewalPolicy::never())
        .try_acquire()
        .await
        .unwrap();
    let mut others = Vec::new();
    for n in 0..20 {
        others.push(locks.lock(format!("k{n}")).try_acquire().await.unwrap());
    }
    let waker = Waker::from(Arc::new(Rude(|| panic!("a waker that panics"))));
    let loss = rude.loss();
    let mut lost = Box::pin(async move { loss.lost().await });
    // On a thread without a runtime, so that none of its timers has the waker.
    let mut lost = std::thread::spawn(move || {
        let polled = lost.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        lost
    })
    .join()
    .unwrap();
    // The renewer finds that the time of the rude one is over.
    sleep(2 * TTL).await;
    assert!(!rude.is_held());
    assert!(others.iter().all(LockGuard::is_held));
    assert_eq!(lost.as_mut().await, LossReason::Unconfirmed);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(rude))).is_ok());
}

/// Whoever waits for the loss elsewhere has no timer here: the renewer alone tells it.
#[tokio::test(start_paused = true)]
async fn a_loss_is_told_at_the_deadline_while_a_renewal_is_under_way() {
    let backend = Scripted::honest();
    backend.on(Op::Renew).always(Effect::HangBefore);
    let mut waiting = Vec::new();
    for n in 0..10 {
        let guard = hold(&backend, &format!("k{n}"), options(TTL)).await;
        let told = Arc::new(Mutex::new(None));
        let when = Arc::clone(&told);
        let waker = Waker::from(Arc::new(Rude(move || {
            *when.lock().unwrap() = Some(Moment::now());
        })));
        let loss = guard.loss();
        let mut lost = Box::pin(async move { loss.lost().await });
        let lost = std::thread::spawn(move || {
            let polled = lost.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            lost
        });
        waiting.push((guard, told, lost.join().unwrap()));
    }
    sleep(TTL - 32 * MS).await;
    for (guard, told, _lost) in &waiting {
        assert!(!guard.is_held());
        assert!(told.lock().unwrap().is_some(), "{}", guard.key());
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_may_ask_the_guard_at_once() {
    let backend = Scripted::honest();
    let guard = Arc::new(hold(&backend, "k", options(TTL)).await);
    let heard = Arc::new(Mutex::new(None));
    let (asked, answer) = (Arc::clone(&guard), Arc::clone(&heard));
    let waker = Waker::from(Arc::new(Rude(move || {
        *answer.lock().unwrap() = Some(asked.is_held());
    })));
    let mut lost = pin!(guard.lost());
    assert!(
        lost.as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    backend.evict("k");
    sleep(TTL).await;
    assert_eq!(*heard.lock().unwrap(), Some(false));
}

// R15: many locks.

/// One call: when, and the keys.
type Renewed = (Instant, Vec<String>);

/// Grants and confirms everything but what has gone, and counts.
#[derive(Debug, Default, Clone)]
struct Yes {
    renewed: Arc<Mutex<Vec<Renewed>>>,
    gone: Arc<Mutex<BTreeSet<String>>>,
    released: Arc<Mutex<Vec<(Instant, String)>>>,
}

#[async_trait]
impl LockBackend for Yes {
    async fn try_acquire<'a>(&self, _: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        Ok(Attempt::Granted(Grant::default()))
    }

    #[allow(clippy::disallowed_methods, reason = "a log for tests decides nothing")]
    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let keys = renewals
            .iter()
            .map(|one| one.key.as_str().to_owned())
            .collect();
        self.renewed.lock().unwrap().push((Instant::now(), keys));
        let gone = self.gone.lock().unwrap();
        let answers = renewals
            .iter()
            .map(|one| match gone.contains(one.key.as_str()) {
                true => Ok(Ownership::Absent),
                false => Ok(Ownership::Held),
            });
        answers.collect()
    }

    #[allow(clippy::disallowed_methods, reason = "a log for tests decides nothing")]
    async fn release(&self, key: &LockKey, _: &Owner) -> Result<Ownership, BackendError> {
        let release = (Instant::now(), key.as_str().to_owned());
        self.released.lock().unwrap().push(release);
        Ok(Ownership::Held)
    }

    async fn inspect(&self, _: &LockKey) -> Result<Option<Holder>, BackendError> {
        Ok(None)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_locks_of_one_instant_are_renewed_spread_and_in_batches() {
    let backend = Yes::default();
    let locks = Locks::new(backend.clone()).with_ttl(30 * SECOND);
    let mut guards = Vec::new();
    for n in 0..10_000 {
        guards.push(locks.lock(format!("k{n}")).try_acquire().await.unwrap());
    }
    sleep(60 * SECOND).await;
    assert!(guards.iter().all(LockGuard::is_held));
    let renewed = std::mem::take(&mut *backend.renewed.lock().unwrap());
    let start = renewed[0].0;
    let mut buckets = BTreeMap::<u128, usize>::new();
    let mut each = BTreeMap::<&str, usize>::new();
    for (at, keys) in &renewed {
        *buckets.entry((*at - start).as_millis() / 10).or_default() += keys.len();
        for key in keys {
            *each.entry(key).or_default() += 1;
        }
    }
    let total: usize = each.values().sum();
    assert_eq!(each.len(), 10_000);
    assert!(each.values().all(|count| (5..=7).contains(count)));
    let most = buckets.values().max().unwrap();
    assert!(*most <= 150, "{most} renewals in 10 ms");
    assert!(
        renewed.len() <= total / 10,
        "{total} renewals in {} calls",
        renewed.len()
    );
}

/// What becomes of one of many locks.
enum Fate {
    Kept,
    /// Its entry vanishes then.
    Gone(Duration),
    /// Its guard is dropped, or its release begun and dropped.
    LetGo(Duration, bool),
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "virtual time alone")]
async fn of_ten_thousand_locks_each_is_lost_and_let_go_by_itself() {
    let backend = Yes::default();
    let leaks = LeakCheck::start();
    let locks = Locks::new(backend.clone()).with_ttl(3 * SECOND);
    let mut held = Vec::new();
    for n in 0..10_000_u32 {
        let guard = locks.lock(format!("k{n}")).try_acquire().await.unwrap();
        let when = SECOND + 50 * MS * (n / 100);
        let fate = match n % 4 {
            0 => Fate::Gone(when),
            1 => Fate::LetGo(when, true),
            2 => Fate::LetGo(when, false),
            _ => Fate::Kept,
        };
        held.push((guard.loss(), Some(guard), fate));
    }
    let start = Instant::now();
    while start.elapsed() < 8 * SECOND {
        let now = start.elapsed();
        for (loss, guard, fate) in &mut held {
            match fate {
                Fate::Kept => assert!(loss.is_held()),
                Fate::Gone(when) if now < *when => assert!(loss.is_held(), "{now:?} {when:?}"),
                Fate::Gone(when) => {
                    let key = guard.as_ref().unwrap().key().as_str().to_owned();
                    backend.gone.lock().unwrap().insert(key);
                    // The next renewal tells.
                    assert!(!loss.is_held() || now - *when <= SECOND + 100 * MS);
                }
                Fate::LetGo(when, by_drop) => {
                    assert_eq!(loss.is_held(), guard.is_some());
                    if now >= *when
                        && let Some(guard) = guard.take()
                    {
                        match by_drop {
                            true => drop(guard),
                            false => drop(guard.release()),
                        }
                        assert!(!loss.is_held());
                    }
                }
            }
        }
        sleep(50 * MS).await;
    }
    // Each that was let go was released once, and not renewed after that.
    let released = std::mem::take(&mut *backend.released.lock().unwrap());
    assert_eq!(released.len(), 5000);
    let released: BTreeMap<_, _> = released.into_iter().map(|(at, key)| (key, at)).collect();
    assert_eq!(released.len(), 5000);
    for (at, keys) in &*backend.renewed.lock().unwrap() {
        for key in keys {
            assert!(
                released.get(key).is_none_or(|released| at <= released),
                "{key}"
            );
        }
    }
    // Each that had gone was told of it, and of nothing else.
    for (loss, guard, fate) in held {
        match fate {
            Fate::Gone(_) => assert_eq!(loss.lost().await, LossReason::Absent),
            Fate::LetGo(..) => assert_eq!(loss.lost().await, LossReason::Released),
            Fate::Kept => assert!(guard.is_some_and(|guard| guard.is_held())),
        }
    }
    leaks.assert_none(SECOND).await;
}

// Batches.

/// Many locks whose renewals go in batches, each held by its guard.
async fn many(backend: &Scripted, ttl: Duration) -> Vec<LockGuard> {
    let locks = Locks::new(backend.clone()).with_ttl(ttl);
    let mut guards = Vec::new();
    for n in 0..64 {
        guards.push(locks.lock(format!("k{n:02}")).try_acquire().await.unwrap());
    }
    guards
}

#[tokio::test(start_paused = true)]
async fn a_batch_answered_short_is_unknown_for_the_rest_and_tried_again() {
    let backend = Scripted::honest();
    let guards = many(&backend, TTL).await;
    backend.on(Op::Renew).always(Effect::Ask);
    let mut short = 0;
    let answer = async {
        loop {
            let call = backend.next_call().await;
            let count = call.renewals().len();
            if count >= 2 && short < 6 {
                short += 1;
                call.apply().await;
                // None, half, or all but one.
                let answered = [0, count / 2, count - 1][short % 3];
                call.reply_ownership(vec![Ownership::Held; answered]);
            } else {
                call.reply_honestly().await;
            }
        }
    };
    let looking = watch(3 * TTL, 50 * MS, || {
        for guard in &guards {
            assert_safe(&backend, guard);
            assert!(guard.is_held());
        }
    });
    tokio::select! { () = answer => {}, () = looking => {} }
    assert_eq!(short, 6);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_one_lock_does_not_harm_the_others_of_its_batch() {
    let backend = Scripted::honest();
    let guards = many(&backend, TTL).await;
    backend.on(Op::Renew).always(Effect::Ask);
    let mut wronged = Vec::new();
    let answer = async {
        loop {
            let call = backend.next_call().await;
            let count = call.renewals().len();
            if count < 5 || !wronged.is_empty() {
                call.reply_honestly().await;
                continue;
            }
            wronged = call
                .renewals()
                .iter()
                .take(4)
                .map(|one| one.key.as_str().to_owned())
                .collect();
            call.apply().await;
            let mut answers = vec![
                Ok(Ownership::Taken),
                Ok(Ownership::Absent),
                Err(refused()),
                Err(cut()),
            ];
            // One more than was asked.
            answers.resize_with(count + 1, || Ok(Ownership::Held));
            *answers.last_mut().unwrap() = Ok(Ownership::Taken);
            call.reply_renewals(answers);
        }
    };
    tokio::select! { () = answer => {}, () = sleep(5 * TTL) => {} }
    assert_eq!(wronged.len(), 4, "there was no batch");
    for guard in guards {
        let lost = wronged[..2]
            .iter()
            .position(|key| key == guard.key().as_str());
        match lost {
            Some(0) => assert_lost(guard.check(), LossReason::Taken),
            Some(_) => assert_lost(guard.check(), LossReason::Absent),
            None => assert!(guard.is_held(), "{guard:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn locks_with_different_op_timeouts_each_wait_for_their_own() {
    let backend = Scripted::honest();
    let quick = hold(&backend, "quick", options(TTL).with_op_timeout(50 * MS)).await;
    let locks = Locks::new(backend.clone()).with_options(options(TTL).with_op_timeout(500 * MS));
    let slow = locks.lock("slow").try_acquire().await.unwrap();
    backend.on(Op::Renew).always(Effect::HangBefore);
    tokio::join!(quick.lost(), slow.lost());
    for (key, op) in [("quick", 50 * MS), ("slow", 500 * MS)] {
        let all = backend.calls_of(Op::Renew);
        let own: Vec<_> = all.iter().filter(|one| one.key == key).collect();
        let gap = own[1].at - own[0].at;
        assert!(gap >= op && gap <= op + 400 * MS, "{key} after {gap:?}");
    }
    // On one store, their renewals never share a call.
    let backend = Scripted::honest();
    let locks = Locks::new(backend.clone());
    let mut guards = Vec::new();
    for n in 0..64_u32 {
        let op = if n % 2 == 0 { 50 * MS } else { 500 * MS };
        let lock = locks.lock(format!("{}-{n}", n % 2));
        let lock = lock.with_options(options(TTL).with_op_timeout(op));
        guards.push(lock.try_acquire().await.unwrap());
    }
    sleep(2 * TTL).await;
    let records = backend.calls_of(Op::Renew);
    assert!(times(&records).len() < records.len(), "no batches");
    let mut kinds = BTreeMap::new();
    for record in &records {
        let kind = &record.key[..1];
        assert_eq!(*kinds.entry(record.call).or_insert(kind), kind);
    }
}

// R17 and release: one operation at a time.

#[tokio::test(start_paused = true)]
async fn an_extension_waits_for_the_renewal_under_way() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    backend.on(Op::Renew).next(Effect::Ask);
    let call = backend.next_call().await;
    let (extended, ()) = tokio::join!(guard.extend(10 * SECOND), async {
        sleep(300 * MS).await;
        assert_eq!(renewals(&backend), 1, "sent beside a renewal");
        call.reply_honestly().await;
    });
    extended.unwrap();
    assert_eq!(renewals(&backend), 2);
    let left = entry_left(&backend, "k");
    assert!(left > 12 * SECOND && left < 13 * SECOND, "{left:?}");
    assert_safe(&backend, &guard);
    assert!(guard.remaining() > left - 300 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_waits_for_the_extension_under_way() {
    let backend = Scripted::honest();
    // Four renewals fall due within one op timeout.
    let options = options(TTL)
        .with_op_timeout(2 * SECOND)
        .with_renewal(RenewalPolicy::per_ttl(6));
    let guard = hold(&backend, "k", options).await;
    backend.on(Op::Renew).next(Effect::Ask);
    let (extended, ()) = tokio::join!(guard.extend(10 * SECOND), async {
        let call = backend.next_call().await;
        sleep(1900 * MS).await;
        assert_eq!(renewals(&backend), 1, "renewed beside an extension");
        call.reply_honestly().await;
    });
    extended.unwrap();
    watch(20 * SECOND, 100 * MS, || {
        assert_safe(&backend, &guard);
        assert!(guard.is_held());
    })
    .await;
    assert!(renewals(&backend) > 10);
}

#[tokio::test(start_paused = true)]
async fn an_extension_behind_a_renewal_that_hangs_ends_within_one_op_timeout() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    backend.on(Op::Renew).always(Effect::HangBefore);
    while renewals(&backend) == 0 {
        sleep(MS).await;
    }
    for shorter in [false, true] {
        let start = Moment::now();
        let answer = if shorter {
            guard.renew_for(SECOND).await
        } else {
            guard.extend(SECOND).await
        };
        assert!(answer.is_err());
        assert!(start.elapsed() <= OP + SLACK, "{:?}", start.elapsed());
    }
    assert_safe(&backend, &guard);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_sent_at_once_beside_a_renewal_and_nothing_is_renewed_after_it() {
    for late in [true, false] {
        let backend = Scripted::honest();
        let guard = hold(&backend, "k", options(TTL)).await;
        let loss = guard.loss();
        backend.on(Op::Renew).always(Effect::Ask);
        let call = backend.next_call().await;
        let start = Moment::now();
        if late {
            assert_eq!(guard.release().await.unwrap(), Released::Released);
            assert!(start.elapsed() < SLACK, "waited for the renewal");
            call.reply_honestly().await;
        } else {
            call.apply().await;
            assert_eq!(guard.release().await.unwrap(), Released::Released);
            call.reply_ownership([Ownership::Held]);
        }
        sleep(4 * TTL).await;
        assert_eq!(renewals(&backend), 1, "renewed after it was released");
        assert!(backend.entries().is_empty());
        assert_eq!(loss.lost().await, LossReason::Released);
        assert!(!loss.is_held());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_renewed_while_a_release_is_tried_again() {
    let backend = Scripted::honest();
    let guard = hold(&backend, "k", options(TTL)).await;
    backend.on(Op::Release).always(Effect::HangBefore);
    assert!(guard.release().await.is_err());
    sleep(4 * TTL).await;
    assert_eq!(renewals(&backend), 0);
    assert!(backend.entries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_extension_left_to_itself_is_not_tried_again_after_the_release() {
    let backend = Scripted::honest();
    let options = options(TTL).with_renewal(RenewalPolicy::never());
    let guard = hold(&backend, "k", options).await;
    backend.on(Op::Renew).always(Effect::FailBefore(refused()));
    assert!(timeout(MS, guard.extend(SECOND)).await.is_err());
    let count = renewals(&backend);
    assert!(count > 0);
    guard.release().await.unwrap();
    sleep(TTL).await;
    assert_eq!(renewals(&backend), count, "renewed after it was released");
}

#[tokio::test(start_paused = true)]
async fn a_batch_leaves_out_what_was_released_since_its_turn_came() {
    for round in 0..40 {
        let backend = Scripted::honest();
        let guards = many(&backend, 300 * MS).await;
        // Released in the same instant in which the renewals of some fall due, by tasks that run between.
        let releases: Vec<_> = guards
            .into_iter()
            .map(|guard| {
                Handle::current().spawn(async move {
                    sleep((50 + round) * MS).await;
                    guard.release().await.unwrap();
                })
            })
            .collect();
        for release in releases {
            release.await.unwrap();
        }
        sleep(SECOND).await;
        let calls = backend.calls();
        for release in calls.iter().filter(|one| one.op == Op::Release) {
            let after = calls.iter().any(|one| {
                one.op == Op::Renew && one.key == release.key && one.call > release.call
            });
            assert!(!after, "{} renewed after its release", release.key);
        }
    }
}
