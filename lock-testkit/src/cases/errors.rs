//! What goes wrong is told as what it is, and no owner is ever shown. Promises 6 and 8 of the contract, G10, G21; SCENARIOS C25.

use std::error::Error;

use lock_core::{
    AcquireRequest, BackendErrorKind, LockBackend, LockError, Moment, Ownership, Renew,
    RenewRequest,
};

use super::{
    BOUND, HOLD, LEASE, MILLISECOND, SHORT, attempt, hold, key, labelled, locks, obstruct, owner,
    renewed, stop, unrenewed, watched_locks,
};
use crate::fixture::Fixture;

/// Something else at the key is a conflict: not busy, not taken, not changed.
pub async fn what_is_no_lock_is_a_conflict<F: Fixture>(fixture: F) {
    let (client, key, me) = (fixture.client().await, key(&fixture, "k"), owner());
    obstruct(&fixture, &key).await;
    for _ in 0..2 {
        let answer = client
            .try_acquire(AcquireRequest::new(&key, &me, HOLD))
            .await;
        let error = answer.expect_err("something that is no lock is not granted and not busy");
        assert_eq!(error.kind(), BackendErrorKind::Conflict, "{error}");
        let answers = client
            .renew(&[RenewRequest::new(&key, &me, HOLD, Renew::AtLeast)])
            .await;
        assert!(!matches!(answers[..], [Ok(Ownership::Held)]), "{answers:?}");
        let answer = client.release(&key, &me).await;
        assert!(
            !matches!(answer, Ok(Ownership::Held)),
            "something else was deleted"
        );
    }
}

/// Something else at the key is told as what it is: at once, by each call, and not as a lock that is held or lost.
pub async fn what_is_no_lock_is_told_as_a_conflict<F: Fixture>(fixture: F) {
    let (locks, key) = (locks(&fixture).await, key(&fixture, "k"));
    obstruct(&fixture, &key).await;
    let (lock, asked) = (unrenewed(&locks, &key), Moment::now());
    let errors = [
        lock.try_acquire().await.expect_err("granted"),
        lock.acquire().await.expect_err("granted"),
        lock.status().await.expect_err("told as free or held"),
    ];
    let took = asked.elapsed();
    for error in errors {
        assert!(matches!(error, LockError::Conflict { .. }), "{error}");
        assert!(!error.is_retryable() && !error.is_busy());
        assert!(error.to_string().contains(key.as_str()), "{error}");
    }
    assert!(took < BOUND, "it was tried again and again, for {took:?}");
}

/// A store that is down is told as what it is: never as a lock that is busy, free, or lost.
pub async fn a_store_that_is_down_is_a_failure_and_never_busy<F: Fixture>(fixture: F) {
    let (locks, others, key, other) = (
        locks(&fixture).await,
        locks(&fixture).await,
        key(&fixture, "k"),
        key(&fixture, "other"),
    );
    let guard = hold(&renewed(&locks, &key)).await;
    stop(&fixture).await;
    let lock = unrenewed(&locks, &other).with_wait(SHORT);
    let errors = [
        lock.try_acquire().await.expect_err("granted"),
        lock.acquire().await.expect_err("granted"),
        // Those who hold it would not ask the store.
        unrenewed(&others, &key)
            .try_acquire()
            .await
            .expect_err("granted"),
        lock.status().await.expect_err("told as free or held"),
        guard.renew_for(LEASE).await.expect_err("prolonged"),
        guard.release().await.expect_err("released"),
    ];
    for error in errors {
        let is_failure = matches!(
            error,
            LockError::Backend { .. } | LockError::Unknown { .. } | LockError::Unsupported { .. }
        );
        assert!(is_failure, "{error}");
        assert!(error.to_string().contains("case-"), "{error}");
    }
}

/// No answer and no client shows an owner when printed: whoever knows it could release the lock.
pub async fn no_owner_is_ever_printed<F: Fixture>(fixture: F) {
    let (client, key, holder, other) = (
        fixture.client().await,
        key(&fixture, "k"),
        labelled("me"),
        owner(),
    );
    let granted = attempt(&client, &key, &holder, HOLD).await;
    let busy = attempt(&client, &key, &other, HOLD).await;
    let found = client.inspect(&key).await;
    let mut printed = format!(
        "{client:?} {granted:?} {busy:?} {found:?} {:?}",
        client.wakeups()
    );
    if let Some(wakeups) = client.wakeups() {
        printed += &format!("{:?}", wakeups.subscribe(&key, None).await);
    }
    for owner in [&holder, &other] {
        assert!(
            !printed.contains(&owner.expose()[..32]),
            "an owner is printed: {printed}"
        );
    }
}

/// No guard, lock, or error shows an owner when printed, whatever became of it.
pub async fn no_guard_and_no_error_prints_an_owner<F: Fixture>(fixture: F) {
    let ((a, holders), (b, others)) =
        (watched_locks(&fixture).await, watched_locks(&fixture).await);
    let key = key(&fixture, "k");
    let (lock, other) = (unrenewed(&holders, &key), unrenewed(&others, &key));
    let guard = hold(&lock).await;
    let busy = other.try_acquire().await;
    let over = other.clone().with_wait(MILLISECOND).acquire().await;
    let status = other.status().await;
    let renewed = guard.renew_for(HOLD).await;
    let mut printed = format!(
        "{lock:?} {holders:?} {guard:?} {:?} {busy:?} {over:?} {status:?} {renewed:?}",
        guard.loss()
    );
    printed += &format!("{:?} {a:?} {b:?}", guard.release().await);
    for error in [busy, over].map(|answer| answer.expect_err("it is held")) {
        let mut error: Option<&dyn Error> = Some(&error);
        while let Some(cause) = error {
            printed += &format!("{cause} ");
            error = cause.source();
        }
    }
    let owners: Vec<_> = a.calls().into_iter().chain(b.calls()).collect();
    let owners = owners.iter().filter_map(|call| call.owner.as_ref());
    assert!(owners.clone().count() >= 3, "{owners:?}");
    for owner in owners {
        let token = &owner.expose()[..32];
        assert!(!printed.contains(token), "an owner is printed: {printed}");
    }
}
