//! What becomes of a guard, wherever it is dropped, and of what runs under it, however that ends. Contract G6, G9; SCENARIOS
//! W02, X05, X09 to X11, X13, X14.

use std::error::Error;
use std::thread;
use std::time::Duration;

use lock_core::{
    BackendError, LockBackend, LockError, LockGuard, LockKey, LossReason, Moment, Ownership,
    Released, RenewalPolicy,
};
use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::task::{LocalSet, spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};

use super::{
    BOUND, BRIEF, HOLD, LEASE, MILLISECOND, OP, TERM, assert_outlives, brief, comes_free,
    distant_locks, eventually, evict, hold, is_free, key, locks, loss, owner, refused, release,
    renewed, take, unrenewed, watched_locks, with_all,
};
use crate::faulty::{Effect, Op};
use crate::fixture::Fixture;

/// A body's error that is not the lock's.
type BoxError = Box<dyn Error + Send + Sync>;

/// A guard that is dropped in a task, in blocking code, on another runtime, or on a thread that has none is released; nothing
/// panics and nothing waits.
pub async fn a_guard_is_released_wherever_it_is_dropped<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    let lock = locks.lock(key.name()).with_ttl(HOLD);
    let guard = || async {
        let guard = hold(&lock).await;
        refused(&oracle, &key, &owner()).await;
        guard
    };

    drop(guard().await);
    comes_free(&oracle, &key).await;

    let moved = guard().await;
    let task = Handle::current().spawn(async move { drop(moved) });
    task.await.expect("a drop does not panic");
    comes_free(&oracle, &key).await;

    let moved = guard().await;
    let blocking = spawn_blocking(move || drop(moved));
    blocking.await.expect("a drop does not panic");
    comes_free(&oracle, &key).await;

    let moved = guard().await;
    let local = LocalSet::new();
    let task = local.run_until(async { spawn_local(async move { drop(moved) }).await });
    task.await.expect("a drop does not panic");
    comes_free(&oracle, &key).await;

    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        let moved = guard().await;
        let task = async move { tokio::task::block_in_place(move || drop(moved)) };
        let task = Handle::current().spawn(task);
        task.await.expect("a drop does not panic");
        comes_free(&oracle, &key).await;
    }

    let moved = guard().await;
    let dropped = thread::spawn(move || drop(moved)).join();
    dropped.expect("a drop does not panic");
    comes_free(&oracle, &key).await;

    let moved = guard().await;
    let elsewhere = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be started");
        runtime.block_on(async move { drop(moved) });
    });
    elsewhere.join().expect("a drop does not panic");
    comes_free(&oracle, &key).await;
}

/// A guard that is forgotten and never dropped holds the lock for as long as it was allowed to, and no longer.
pub async fn a_forgotten_guard_ends_with_the_longest_hold<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    let renewal = RenewalPolicy::default().hold_at_most(3 * TERM / 2);
    let lock = locks.lock(key.name()).with_ttl(TERM).with_renewal(renewal);
    let guard = hold(&lock).await;
    std::mem::forget(guard);
    comes_free(&oracle, &key).await;
    take::<F>(&oracle, &key, &owner(), HOLD).await;
}

/// A guard whose locks are gone, and with them other clients of its store, is renewed, or says that it is lost; it never believes
/// what is not so.
pub async fn a_guard_outlives_the_locks_it_came_from<F: Fixture>(fixture: F) {
    let (ours, others) = (locks(&fixture).await, locks(&fixture).await);
    let oracle = fixture.client().await;
    let ttl = if F::PAUSED { LEASE } else { TERM };
    let key = key(&fixture, "k");
    let (lock, other) = (ours.lock(key.name()), others.lock(key.name()));
    let lock = lock.with_ttl(ttl);
    let guard = hold(&lock).await;
    // Nothing keeps that client, which has done something, when its locks are gone.
    let seen = other.status().await.expect("a status is answered");
    assert!(seen.is_some(), "{key} should be held and is free");
    drop((lock, ours, other, others));
    let start = Moment::now();
    while start.elapsed() < ttl + ttl / 4 {
        assert_outlives::<F>(&oracle, &guard).await;
        sleep(20 * MILLISECOND).await;
    }
    if F::PAUSED {
        assert!(guard.is_held(), "nothing kept it from being renewed");
    }
    drop(guard);
    comes_free(&oracle, &key).await;
}

/// How long a guard is held yet is known without the store: while nothing is answered, it falls to nothing, in time before the entry
/// ends, and nobody is asked.
pub async fn what_is_left_of_a_guard_is_known_without_the_store<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (watched_locks(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    let guard = hold(&brief(&locks, &key)).await;
    let granted = Moment::now();
    let questions = || {
        let ops = [Op::Acquire, Op::Renew, Op::Inspect];
        ops.map(|op| client.calls_of(op).len())
    };
    let asked = questions();
    for op in [Op::Acquire, Op::Renew, Op::Release, Op::Inspect] {
        client.on(op).always(Effect::HangBefore);
    }
    let mut before = BRIEF;
    while guard.is_held() {
        assert_outlives::<F>(&oracle, &guard).await;
        let (since, left) = (granted.elapsed(), guard.remaining());
        assert!(left <= before, "{before:?} became {left:?}");
        let most = BRIEF.saturating_sub(since);
        assert!(left <= most, "{left:?} after {since:?}");
        before = left;
        assert_eq!(questions(), asked, "the store was asked");
        sleep(20 * MILLISECOND).await;
    }
    assert_eq!(loss(&guard).await, LossReason::Unconfirmed);
    assert_eq!(guard.remaining(), Duration::ZERO);
    drop(guard);
    comes_free(&oracle, &key).await;
}

/// Two hundred locks of one client are all renewed, none is lost, and each is released in the end.
pub async fn two_hundred_locks_of_one_client_are_all_kept<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    let (ttl, renewal) = (LEASE, RenewalPolicy::per_ttl(20));
    let keys: Vec<_> = (0..200).map(|_| key(&fixture, "k")).collect();
    let guards = with_all(keys, |key| {
        let lock = locks.lock(key.name()).with_ttl(ttl).with_renewal(renewal);
        async move { hold(&lock).await }
    })
    .await;
    // Real time is dear: there, that the end of each moves on has to do.
    let long = if F::PAUSED { 4 * ttl } else { ttl / 4 };
    let start = Moment::now();
    while start.elapsed() < long {
        with_all(&guards, async |guard| {
            assert!(guard.is_held(), "{:?}", guard.check());
            assert_outlives::<F>(&oracle, guard).await;
        })
        .await;
        sleep(ttl / 8).await;
    }
    // What was not has less.
    let is_renewed = |guard: &LockGuard| guard.remaining() > ttl - ttl / 6;
    eventually("all are renewed", async || guards.iter().all(is_renewed)).await;
    with_all(guards, async |guard| {
        let key = guard.key().clone();
        assert_eq!(guard.release().await.ok(), Some(Released::Released));
        assert!(is_free(&oracle, &key).await);
    })
    .await;
}

/// However the body of `with` ends, the lock is released, and the body's result is what counts.
pub async fn with_lets_go_however_its_body_ends<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (distant_locks(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    let lock = locks.lock(key.name());

    let value = lock.with(async |_| Ok::<_, LockError>(7)).await;
    assert_eq!(value.expect("the body was done"), 7);
    assert!(
        is_free(&oracle, &key).await,
        "`with` releases before it returns"
    );

    let error = lock
        .with(async |_| Err::<(), BoxError>("my own".into()))
        .await;
    assert_eq!(error.expect_err("the body failed").to_string(), "my own");
    assert!(
        is_free(&oracle, &key).await,
        "`with` releases before it returns"
    );

    let panicking = lock.clone();
    let panics = async move {
        let body = async |_: &LockGuard| panic!("this panic is part of the case");
        panicking.with::<(), LockError, _>(body).await
    };
    let ended = Handle::current().spawn(panics).await;
    assert!(ended.expect_err("the body panics").is_panic());
    comes_free(&oracle, &key).await;

    let stuck = async |_: &LockGuard| std::future::pending().await;
    assert!(
        timeout(OP, lock.with::<(), LockError, _>(stuck))
            .await
            .is_err()
    );
    comes_free(&oracle, &key).await;

    // A release that fails is tried again, and hides nothing.
    let lock = lock.with_op_timeout(OP);
    let refused = BackendError::transient("part of the case");
    for body_fails in [false, true] {
        client
            .on(Op::Release)
            .next(Effect::FailBefore(refused.clone()));
        let result: Result<u8, BoxError> = lock
            .with(async |_| {
                if body_fails {
                    Err("my own".into())
                } else {
                    Ok(7)
                }
            })
            .await;
        match result {
            Ok(value) => assert_eq!((value, body_fails), (7, false)),
            Err(error) => assert_eq!((error.to_string().as_str(), body_fails), ("my own", true)),
        }
        comes_free(&oracle, &key).await;
    }
}

/// What runs under a lock that is lost is dropped, and told so, also if it was done and had not noticed.
pub async fn with_says_that_the_lock_was_lost<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    // Whose release is not answered in time is not told that it was lost: calls have two seconds.
    let lock = renewed(&locks, &key);

    let outlives = lock.with(async |_| {
        evict(&fixture, &key).await;
        std::future::pending::<Result<(), LockError>>().await
    });
    let ended = timeout(BOUND, outlives).await;
    is_lost(
        ended.expect("the body is dropped when the lock is lost"),
        &key,
    );

    let unnoticed = lock.with(async |_| {
        evict(&fixture, &key).await;
        Ok::<_, LockError>(())
    });
    match unnoticed.await {
        // The client may have sent the release again, and then found nothing to release.
        Ok(()) if oracle.capabilities().resends => {}
        ended => is_lost(ended, &key),
    }

    // Somebody else has it by then, and keeps it. No renewal finds out before and cuts the body short.
    let (next, lock) = (owner(), unrenewed(&locks, &key));
    let taken = lock.with(async |_| {
        evict(&fixture, &key).await;
        take::<F>(&oracle, &key, &next, HOLD).await;
        Ok::<_, LockError>(())
    });
    is_lost(taken.await, &key);
    assert_eq!(release(&oracle, &key, &next).await, Ownership::Held);
}

fn is_lost(result: Result<(), LockError>, key: &LockKey) {
    match result {
        Err(LockError::Lost {
            key: lost, reason, ..
        }) => {
            assert_eq!(&lost, key);
            // The deadline may have come before the store was asked.
            let reasons = [
                LossReason::Absent,
                LossReason::Taken,
                LossReason::Unconfirmed,
            ];
            assert!(reasons.contains(&reason), "{reason}");
        }
        other => panic!("the lock was lost, and `with` returned {other:?}"),
    }
}
