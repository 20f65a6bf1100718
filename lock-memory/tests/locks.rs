//! What an application's own unit tests do with locks in memory: hold for hours, lose, wait, hand over, in virtual time.
#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]

use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Fence, GuardPolicy, LockError, LockGuard, LockOptions, Locks, LossReason, Moment, Released,
    RenewalPolicy, Ticket,
};
use lock_memory::{MemoryBackend, lock_core};
use lock_testkit::LeakCheck;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Real time counts too in a paused test: as much as a busy machine may take.
const SLACK: Duration = Duration::from_millis(500);

fn locks() -> (MemoryBackend, Locks) {
    let backend = MemoryBackend::new();
    (backend.clone(), Locks::new(backend))
}

fn token(guard: &LockGuard) -> u64 {
    guard.fencing_token().unwrap().get()
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_held_for_hours_while_others_find_it_busy() {
    let (backend, locks) = locks();
    let guard = locks.lock("k").with_label("me").acquire().await.unwrap();
    let start = Moment::now();
    while start.elapsed() < 10 * HOUR {
        sleep(7 * SECOND).await;
        assert!(guard.is_held());
        let error = locks.lock("k").try_acquire().await.unwrap_err();
        assert_eq!(error.holder().unwrap().label.as_deref(), Some("me"));
        let left = locks.lock("k").status().await.unwrap().unwrap().remaining;
        assert!(guard.remaining() <= left.unwrap());
    }
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert!(backend.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_not_renewed_ends_at_its_deadline_and_goes_to_who_waits() {
    let (_backend, locks) = locks();
    let lock = locks.lock("k").with_ttl(10 * SECOND);
    let dead = lock.clone().with_renewal(RenewalPolicy::never());
    let dead = dead.acquire().await.unwrap();
    let start = Moment::now();
    let (next, reason) = tokio::join!(lock.acquire(), dead.lost());
    assert_eq!(reason, LossReason::Unconfirmed);
    let took = start.elapsed();
    assert!(
        10 * SECOND <= took + SLACK && took < 11 * SECOND + SLACK,
        "{took:?}"
    );
    let next = next.unwrap();
    assert_eq!(dead.release().await.unwrap(), Released::TakenOver);
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn every_way_to_lose_a_lock_is_told_within_a_third_of_its_ttl() {
    type Happen = fn(&MemoryBackend);
    let ways: [(Happen, LossReason, Released); 3] = [
        (
            |backend| assert!(backend.evict("p:k")),
            LossReason::Absent,
            Released::Expired,
        ),
        (
            |backend| assert!(backend.expire("p:k")),
            LossReason::Absent,
            Released::Expired,
        ),
        (
            |backend| backend.steal("p:k", "thief", HOUR).unwrap(),
            LossReason::Taken,
            Released::TakenOver,
        ),
    ];
    for (happen, reason, found) in ways {
        let (backend, locks) = locks();
        let lock = locks.with_prefix("p:").lock("k");
        let guard = lock.acquire().await.unwrap();
        sleep(100 * SECOND).await;
        happen(&backend);
        assert!(guard.is_held(), "nobody has told yet");
        let left = backend.len();
        let start = Moment::now();
        assert_eq!(guard.lost().await, reason);
        assert!(
            start.elapsed() <= 10 * SECOND + SLACK,
            "{:?}",
            start.elapsed()
        );
        assert!(!guard.is_held());
        assert_eq!(guard.lost().await, reason, "after the fact");
        sleep(100 * SECOND).await;
        assert_eq!(guard.release().await.unwrap(), found);
        assert_eq!(
            backend.len(),
            left,
            "something of the next holder was touched"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_stopped_when_its_lock_is_stolen() {
    let (backend, locks) = locks();
    let mut steps = 0;
    let body = locks.with("k", async |_| {
        loop {
            steps += 1;
            if steps == 5 {
                backend.steal("k", "thief", HOUR).unwrap();
            }
            sleep(SECOND).await;
        }
        #[allow(unreachable_code, reason = "it names the type")]
        Ok::<(), LockError>(())
    });
    let error = body.await.unwrap_err();
    assert!(
        matches!(
            error,
            LockError::Lost {
                reason: LossReason::Taken,
                ..
            }
        ),
        "{error}"
    );
    assert!((5..=16).contains(&steps), "{steps}");
    let holder = locks.lock("k").status().await.unwrap().unwrap();
    assert_eq!(holder.label.as_deref(), Some("thief"));
}

#[tokio::test(start_paused = true)]
async fn waiters_are_woken_by_a_release_and_served_one_at_a_time() {
    let (backend, locks) = locks();
    let options = LockOptions::default()
        .with_wait(HOUR)
        .with_recheck(HOUR)
        .with_ttl(2 * HOUR);
    let guard = locks
        .lock("k")
        .with_options(options.clone())
        .acquire()
        .await
        .unwrap();
    let fence = Arc::new(Fence::new());
    let mut waiters = JoinSet::new();
    for _ in 0..100 {
        let (lock, fence) = (
            locks.lock("k").with_options(options.clone()),
            Arc::clone(&fence),
        );
        waiters.spawn(async move {
            let guard = lock.acquire().await.unwrap();
            for _ in 0..3 {
                fence.admit(guard.fencing_token().unwrap()).unwrap();
                sleep(MS).await;
            }
            assert_eq!(guard.release().await.unwrap(), Released::Released);
        });
    }
    sleep(60 * SECOND).await;
    let start = Moment::now();
    fence.admit(guard.fencing_token().unwrap()).unwrap();
    drop(guard);
    waiters.join_all().await;
    // Each holds for a few milliseconds, and the next is woken at once: no timer of theirs had to end.
    assert!(start.elapsed() < 60 * SECOND, "{:?}", start.elapsed());
    assert!(backend.is_empty());
    assert_eq!(locks.lock("k").status().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_wakes_a_waiter_and_an_expiry_is_found_by_looking() {
    let (backend, locks) = locks();
    for wakes in [true, false] {
        let guard = locks.lock("k").acquire().await.unwrap();
        // Another process: in its own, a guard counts until it notices.
        let lock = Locks::new(backend.clone()).lock("k").with_wait(HOUR);
        let start = Moment::now();
        let happens = async {
            sleep(100 * MS).await;
            assert!(if wakes {
                backend.evict("k")
            } else {
                backend.expire("k")
            });
        };
        let (next, ()) = tokio::join!(lock.acquire(), happens);
        let took = start.elapsed() - 100 * MS;
        // Nobody wakes a waiter at an expiry; it looks once a second.
        let bound = if wakes { SLACK } else { SECOND + SLACK };
        assert!(took <= bound, "{took:?}");
        assert!(token(&next.unwrap()) > token(&guard));
        sleep(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_it_should() {
    let (_backend, locks) = locks();
    let _guard = locks.lock("k").acquire().await.unwrap();
    for wait in [Duration::ZERO, MS, SECOND, 300 * SECOND] {
        let start = Moment::now();
        let error = locks.lock("k").with_wait(wait).acquire().await.unwrap_err();
        assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
        let took = start.elapsed();
        assert!(wait <= took && took <= wait + SLACK, "{took:?} of {wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wait_or_guard_leaves_nothing() {
    let (backend, locks) = locks();
    let guard = locks.lock("k").acquire().await.unwrap();
    let leaks = LeakCheck::start();
    for _ in 0..100 {
        let waiting = timeout(3 * MS, locks.lock("k").acquire()).await;
        assert!(waiting.is_err());
        drop(locks.lock("other").acquire().await.unwrap());
        sleep(MS).await;
    }
    leaks.assert_none(60 * SECOND).await;
    assert_eq!(backend.len(), 1);
    drop(guard);
    sleep(MS).await;
    assert!(backend.is_empty());
    let kept = locks.lock("k").with_guard(GuardPolicy::LeaveToExpire);
    drop(kept.acquire().await.unwrap());
    sleep(29 * SECOND).await;
    assert_eq!(backend.len(), 1, "left to its ttl of 30 s");
    sleep(SECOND + SLACK).await;
    assert!(backend.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_handed_over_once_and_goes_on_there() {
    let (backend, here) = locks();
    let there = Locks::new(backend.clone());
    let guard = here.with_prefix("p:").lock("k").acquire().await.unwrap();
    let before = token(&guard);
    sleep(HOUR).await;
    let text = guard.into_ticket().await.unwrap().expose();
    let ticket: Ticket = text.parse().unwrap();
    let guard = there.resume(&ticket).await.unwrap();
    assert!(token(&guard) > before);
    assert_eq!(guard.key().as_str(), "p:k");
    let again = there.resume(&ticket).await.unwrap_err();
    assert!(
        matches!(
            again,
            LockError::Lost {
                reason: LossReason::Taken,
                ..
            }
        ),
        "{again}"
    );
    sleep(HOUR).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    let again = there.resume(&ticket).await.unwrap_err();
    assert!(
        matches!(
            again,
            LockError::Lost {
                reason: LossReason::Absent,
                ..
            }
        ),
        "{again}"
    );
    assert!(backend.is_empty());
}

#[tokio::test(start_paused = true)]
async fn fencing_tokens_rise_and_a_late_holder_is_refused() {
    let (backend, locks) = locks();
    let (fence, mut newest) = (Fence::new(), None);
    for round in 0..30 {
        let guard = locks.lock("k").acquire().await.unwrap();
        let now = guard.fencing_token();
        assert!(now > newest, "{now:?} after {newest:?}");
        fence.admit(now.unwrap()).unwrap();
        if let Some(old) = newest {
            assert_eq!(fence.admit(old).unwrap_err().newest, now.unwrap());
        }
        newest = now;
        match round % 4 {
            0 => drop(guard.release().await.unwrap()),
            1 => assert!(backend.evict("k")),
            2 => assert!(backend.expire("k")),
            _ => {
                backend.steal("k", "thief", SECOND).unwrap();
                guard.lost().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_all_back() {
    let (backend, locks) = locks();
    let others = Locks::new(backend.clone());
    let mut guards = Vec::new();
    for n in 0..100 {
        guards.push(locks.lock(format!("k{n}")).acquire().await.unwrap());
    }
    let theirs = others.lock("theirs").acquire().await.unwrap();
    let mut waiters = JoinSet::new();
    for _ in 0..10 {
        let lock = locks.lock("theirs");
        waiters.spawn(async move { lock.acquire().await });
    }
    sleep(SECOND).await;
    assert!(locks.shutdown().await);
    assert_eq!(backend.len(), 1);
    for answer in waiters.join_all().await {
        assert!(
            matches!(answer, Err(LockError::Closed { .. })),
            "{answer:?}"
        );
    }
    assert_eq!(guards.remove(0).lost().await, LossReason::ShutDown);
    drop(guards);
    sleep(HOUR).await;
    assert!(theirs.is_held());
}
