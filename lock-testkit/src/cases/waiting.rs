//! Who waits is woken, gets the lock, and hears when the wait is over. The promises of `Wakeups` and `Wakeup`; SCENARIOS C02,
//! C14, C15.

use std::time::Duration;

use lock_core::{LockBackend, LockError, LockKey, Moment, Ownership, Released, Wakeup};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::{
    BOUND, HOLD, MILLISECOND, SHORT, hold, key, labelled, locks, owner, release, take, unrenewed,
    watched_locks,
};
use crate::faulty::Op;
use crate::fixture::Fixture;
use crate::sweep::drive;

/// A release wakes all who subscribe to the key, at whatever client, once for each release.
pub async fn a_release_wakes_all_who_subscribe<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let key = key(&fixture, "k");
    let mut all = [
        subscribe(&a, &key).await,
        subscribe(&b, &key).await,
        subscribe(&b, &key).await,
    ];
    for _ in 0..3 {
        take_and_release(&a, &key).await;
        for wakeup in &mut all {
            woken(wakeup).await;
        }
    }
}

/// What happened between subscribing and waiting is not lost.
pub async fn a_release_before_the_wait_counts<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let key = key(&fixture, "k");
    let mut wakeup = subscribe(&b, &key).await;
    take_and_release(&a, &key).await;
    // Delivered before anybody waits for it.
    sleep(100 * MILLISECOND).await;
    woken(&mut wakeup).await;
}

/// A wait that is dropped at any of its await points, before or after it was woken, takes no wake-up along.
pub async fn an_unfinished_wait_can_be_dropped<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    for release_first in [true, false] {
        for cut in 0.. {
            let key = key(&fixture, "k");
            let mut wakeup = subscribe(&b, &key).await;
            if release_first {
                take_and_release(&a, &key).await;
            }
            let wait = drive(wakeup.notified(), 1 + cut / 2, cut % 2 == 1);
            let is_over = if release_first {
                wait.await
            } else {
                tokio::join!(wait, take_and_release(&a, &key)).0
            };
            if is_over {
                break;
            }
            woken(&mut wakeup).await;
        }
    }
}

/// The last of several subscriptions is woken although the others are gone, and a new one works as well.
pub async fn dropping_one_subscription_leaves_the_others<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let key = key(&fixture, "k");
    let (first, mut second) = (subscribe(&b, &key).await, subscribe(&b, &key).await);
    drop(first);
    take_and_release(&a, &key).await;
    woken(&mut second).await;
    drop(second);
    let mut third = subscribe(&b, &key).await;
    take_and_release(&a, &key).await;
    woken(&mut third).await;
}

/// Who waits for a lock gets it when it is released.
pub async fn a_waiter_gets_what_is_released<F: Fixture>(fixture: F) {
    let (a, b, key) = (
        locks(&fixture).await,
        locks(&fixture).await,
        key(&fixture, "k"),
    );
    let guard = hold(&unrenewed(&a, &key)).await;
    let waiter = Handle::current().spawn(async move { unrenewed(&b, &key).acquire().await });
    sleep(100 * MILLISECOND).await;
    assert!(!waiter.is_finished(), "it did not wait for the holder");
    let asked = Moment::now();
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
    let next = waiter.await.expect("it did not panic");
    let took = asked.elapsed();
    assert!(
        next.is_ok_and(|next| next.is_held()) && took < BOUND,
        "{took:?}"
    );
}

/// A wait of zero is one attempt, and nobody subscribes for it.
pub async fn a_wait_of_zero_is_one_attempt<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key) = (fixture.client().await, key(&fixture, "k"));
    take(&oracle, &key, &owner(), HOLD).await;
    let lock = unrenewed(&locks, &key).with_wait(Duration::ZERO);
    let error = lock.acquire().await.expect_err("a held lock was granted");
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    let calls = client.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].op, Op::Acquire);
}

/// A wait that is over while the lock is held has lasted as long as it should, and says who holds the lock.
pub async fn a_wait_that_is_over_says_so<F: Fixture>(fixture: F) {
    let (locks, oracle, key) = (
        locks(&fixture).await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    take(&oracle, &key, &labelled("me"), HOLD).await;
    let (lock, asked) = (unrenewed(&locks, &key).with_wait(SHORT), Moment::now());
    let error = lock.acquire().await.expect_err("a held lock was granted");
    let took = asked.elapsed();
    assert!(took >= SHORT && took < SHORT + BOUND, "waited {took:?}");
    let LockError::TimedOut { waited, holder, .. } = &error else {
        panic!("a lock that is held until the end of the wait is no failure: {error}");
    };
    assert!(
        *waited >= SHORT && *waited <= took,
        "{waited:?} of {took:?}"
    );
    assert_eq!(holder.label.as_deref(), Some("me"));
}

pub(crate) async fn subscribe(client: &impl LockBackend, key: &LockKey) -> Box<dyn Wakeup> {
    let wakeups = client
        .wakeups()
        .expect("a store that declares wake-ups has them");
    wakeups
        .subscribe(key, None)
        .await
        .expect("a subscription is confirmed")
}

pub(crate) async fn woken(wakeup: &mut Box<dyn Wakeup>) {
    let woken = timeout(BOUND, wakeup.notified()).await;
    assert!(woken.is_ok(), "not woken within {BOUND:?}: {wakeup:?}");
}

async fn take_and_release(client: &impl LockBackend, key: &LockKey) {
    let owner = owner();
    take(client, key, &owner, HOLD).await;
    assert_eq!(release(client, key, &owner).await, Ownership::Held);
}
