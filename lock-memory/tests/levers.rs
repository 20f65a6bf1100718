//! What a test puts between a client and the store: errors, lost replies, partitions. In virtual time.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, ForceRelease, LockBackend, LockError,
    LockKey, Locks, LossReason, Moment, Owner, Ownership, Released, Renew, RenewRequest,
};
use lock_memory::{MemoryBackend, lock_core};
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_millis(500);

fn key() -> LockKey {
    LockKey::new("k").unwrap()
}

fn locks() -> (MemoryBackend, Locks) {
    let backend = MemoryBackend::new();
    (backend.clone(), Locks::new(backend))
}

#[tokio::test]
async fn a_call_that_fails_is_not_applied_and_the_next_is_honest() {
    let (backend, key, owner) = (MemoryBackend::new(), key(), Owner::fresh(None).unwrap());
    let request = AcquireRequest::new(&key, &owner, SECOND);
    backend.fail_next(BackendError::transient("down"));
    backend.fail_next(BackendError::permanent("denied"));
    for kind in [BackendErrorKind::Transient, BackendErrorKind::Permanent] {
        let error = backend.try_acquire(request).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(backend.is_empty());
    }
    backend.try_acquire(request).await.unwrap();
    backend.fail_next(BackendError::transient("down"));
    backend.inspect(&key).await.unwrap_err();
    backend.fail_next(BackendError::transient("down"));
    backend.release(&key, &owner).await.unwrap_err();
    assert_eq!(backend.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_reply_is_lost_is_applied_and_of_unknown_outcome() {
    let (backend, key, owner) = (MemoryBackend::new(), key(), Owner::fresh(None).unwrap());
    let unknown = |error: BackendError| assert_eq!(error.kind(), BackendErrorKind::Unknown);
    let request = AcquireRequest::new(&key, &owner, SECOND);
    backend.lose_next_reply();
    unknown(backend.try_acquire(request).await.unwrap_err());
    assert!(matches!(
        backend.try_acquire(request).await,
        Ok(Attempt::Granted(_))
    ));

    backend.lose_next_reply();
    let renewal = RenewRequest::new(&key, &owner, 60 * SECOND, Renew::AtLeast);
    for answer in backend.renew(&[renewal, renewal]).await {
        unknown(answer.unwrap_err());
    }
    sleep(30 * SECOND).await;
    assert_eq!(backend.len(), 1, "it was renewed");

    backend.lose_next_reply();
    unknown(backend.release(&key, &owner).await.unwrap_err());
    assert!(backend.is_empty());
    assert_eq!(
        backend.release(&key, &owner).await.unwrap(),
        Ownership::Absent
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_grant_is_given_back_and_the_wait_goes_on() {
    let (backend, locks) = locks();
    backend.lose_next_reply();
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(backend.len(), 1);
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    backend.lose_next_reply();
    let error = locks.lock("k").try_acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Unknown { .. }), "{error}");
    sleep(10 * SECOND).await;
    assert!(backend.is_empty(), "nobody holds what nobody was told of");
}

#[tokio::test(start_paused = true)]
async fn a_short_partition_or_some_failed_renewals_lose_nothing() {
    let (backend, locks) = locks();
    let guard = locks.lock("k").acquire().await.unwrap();
    for _ in 0..10 {
        backend.partition();
        sleep(15 * SECOND).await;
        backend.heal();
        sleep(15 * SECOND).await;
        backend.fail_next(BackendError::transient("down"));
        backend.lose_next_reply();
        sleep(15 * SECOND).await;
        assert!(guard.is_held());
    }
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert!(backend.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_partition_ends_a_hold_at_its_deadline_and_a_call_at_its_op_timeout() {
    let (backend, locks) = locks();
    let guard = locks.lock("k").acquire().await.unwrap();
    sleep(100 * SECOND).await;
    backend.partition();
    let (start, left) = (Moment::now(), guard.remaining());
    assert_eq!(guard.lost().await, LossReason::Unconfirmed);
    assert!(start.elapsed() <= left + SLACK);

    let start = Moment::now();
    let error = locks.lock("other").status().await.unwrap_err();
    assert!(matches!(error, LockError::Unknown { .. }), "{error}");
    assert!(start.elapsed() <= 2 * SECOND + SLACK);
    let error = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Unknown { .. }), "{error}");
    sleep(60 * SECOND).await;
    assert!(backend.is_empty());
    backend.heal();
    assert!(locks.lock("other").acquire().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_cut_off_takes_over_after_the_holders_deadline() {
    let (backend, here) = locks();
    let there = Locks::new(backend.client());
    let guard = here.lock("k").acquire().await.unwrap();
    backend.partition();
    let lock = there.lock("k").with_wait(60 * SECOND);
    let (next, ()) = tokio::join!(lock.acquire(), async {
        guard.lost().await;
        assert!(there.lock("k").try_acquire().await.unwrap_err().is_busy());
    });
    let next = next.unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
    backend.heal();
    assert_eq!(guard.release().await.unwrap(), Released::TakenOver);
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn wake_ups_arrive_when_a_partition_is_over() {
    let (backend, key) = (MemoryBackend::new(), key());
    let mut wakeup = backend
        .wakeups()
        .unwrap()
        .subscribe(&key, None)
        .await
        .unwrap();
    let waits = async |wakeup: &mut Box<dyn lock_core::Wakeup>| {
        timeout(SECOND, wakeup.notified()).await.is_err()
    };
    backend.partition();
    backend.client().evict("k");
    assert!(waits(&mut wakeup).await);
    let subscribed = timeout(SECOND, backend.wakeups().unwrap().subscribe(&key, None)).await;
    assert!(subscribed.is_err(), "a subscription is a call");
    backend.heal();
    assert!(!waits(&mut wakeup).await);
    assert!(waits(&mut wakeup).await, "once");
    // A partition that begins during the wait.
    let (woken, ()) = tokio::join!(timeout(SECOND, wakeup.notified()), async {
        sleep(SECOND / 10).await;
        backend.partition();
        backend.client().evict("k");
    });
    assert!(woken.is_err());
    backend.heal();
    assert!(!waits(&mut wakeup).await);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_taken_by_force_is_free_and_its_holder_is_fenced_and_told() {
    let (backend, locks) = locks();
    let guard = locks.lock("k").with_label("web-1").acquire().await.unwrap();
    let forced = backend.force_release(&key()).await.unwrap().unwrap();
    assert_eq!(forced.holder.label.as_deref(), Some("web-1"));
    assert!(forced.fencing > guard.fencing_token());
    assert!(backend.is_empty());
    let next = Locks::new(backend.client())
        .lock("k")
        .acquire()
        .await
        .unwrap();
    assert!(next.fencing_token() > forced.fencing);
    assert_eq!(guard.lost().await, LossReason::Taken);
    next.release().await.unwrap();
    assert_eq!(backend.force_release(&key()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_refuses_all_of_one_client_until_it_is_healed() {
    let (backend, locks) = locks();
    let there = Locks::new(backend.client());
    let guard = locks.lock("k").acquire().await.unwrap();
    let why = || BackendError::transient("connection refused");
    backend.fail_until_healed(why());
    for _ in 0..3 {
        let error = locks.lock("other").try_acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Backend { .. }), "{error}");
    }
    assert!(there.lock("other").try_acquire().await.is_ok());
    assert!(guard.release().await.is_err());
    assert!(there.lock("k").try_acquire().await.unwrap_err().is_busy());
    backend.heal();
    assert!(locks.lock("other").acquire().await.unwrap().is_held());
}
