//! Who waits is woken. The promises of `Wakeups` and `Wakeup`.

use lock_core::{LockBackend, LockKey, Ownership, Wakeup};
use tokio::time::{sleep, timeout};

use super::{BOUND, HOLD, MILLISECOND, key, owner, release, take};
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
