//! Who waits is woken. The promises of `Wakeups` and `Wakeup`.

use std::future::poll_fn;
use std::task::Poll;

use lock_core::{LockBackend, LockKey, Ownership, Wakeup};
use tokio::time::{sleep, timeout};

use super::{BOUND, HOLD, MILLISECOND, key, owner, release, take};
use crate::fixture::{Fixture, lacks};

/// A release wakes all who subscribe to the key, at whatever client, once for each release.
pub async fn a_release_wakes_all_who_subscribe<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    if lacks("wake-ups", a.capabilities().wakeups) {
        return;
    }
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
    if lacks("wake-ups", a.capabilities().wakeups) {
        return;
    }
    let key = key(&fixture, "k");
    let mut wakeup = subscribe(&b, &key).await;
    take_and_release(&a, &key).await;
    // Delivered before anybody waits for it.
    sleep(100 * MILLISECOND).await;
    woken(&mut wakeup).await;
}

/// A wait that is dropped, before or after it was woken, takes no wake-up along.
pub async fn an_unfinished_wait_can_be_dropped<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    if lacks("wake-ups", a.capabilities().wakeups) {
        return;
    }
    let key = key(&fixture, "k");
    let mut wakeup = subscribe(&b, &key).await;
    {
        let mut wait = wakeup.notified();
        // A wake-up for no reason is allowed.
        let _ = poll_fn(|context| Poll::Ready(wait.as_mut().poll(context).is_ready())).await;
    }
    take_and_release(&a, &key).await;
    woken(&mut wakeup).await;

    {
        let mut wait = wakeup.notified();
        let is_over = poll_fn(|context| Poll::Ready(wait.as_mut().poll(context).is_ready())).await;
        take_and_release(&a, &key).await;
        sleep(100 * MILLISECOND).await;
        if is_over {
            return;
        }
    }
    woken(&mut wakeup).await;
}

/// The last of several subscriptions is woken although the others are gone, and a new one works as well.
pub async fn dropping_one_subscription_leaves_the_others<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    if lacks("wake-ups", a.capabilities().wakeups) {
        return;
    }
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
