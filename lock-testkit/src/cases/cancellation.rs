//! Futures that are dropped, wherever and whenever: nothing is left behind, and what was begun is finished. Contract G8;
//! SCENARIOS X02, X04.
//!
//! A future is dropped at each of its await points in turn; the calls of the client are slowed down, so that there are
//! some at every store.

use std::cell::RefCell;
use std::sync::Arc;

use lock_core::{LockBackend, LockError, LockGuard, LockKey, Moment, Ownership, RetryPolicy};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{
    BOUND, HOLD, LEASE, MILLISECOND, SECOND, TERM, assert_lasts, assert_outlives, beside,
    comes_free, distant_locks, eager, eventually, hold, key, owner, refused, release, take,
    unrenewed,
};
use crate::fixture::Fixture;
use crate::leak::LeakCheck;
use crate::sweep::cancel_sweep;

/// The keys of a sweep. Each cut has one of its own, so that it does not wait for what the one before left behind.
struct Keys<'a, F: Fixture> {
    fixture: &'a F,
    oracle: F::Backend,
    used: RefCell<Vec<LockKey>>,
}

impl<'a, F: Fixture> Keys<'a, F> {
    async fn new(fixture: &'a F) -> Self {
        Self {
            fixture,
            oracle: fixture.client().await,
            used: RefCell::default(),
        }
    }

    fn next(&self) -> LockKey {
        let key = key(self.fixture, "k");
        self.used.borrow_mut().push(key.clone());
        key
    }

    /// The key of the latest cut comes free.
    async fn comes_free(&self) {
        let key = self.used.borrow().last().cloned();
        comes_free(&self.oracle, &key.expect("a cut has a key")).await;
    }

    /// All keys are free in the end, also of what arrived late, and can be taken.
    async fn are_usable(self) {
        sleep(50 * MILLISECOND).await;
        for key in self.used.take() {
            comes_free(&self.oracle, &key).await;
            take::<F>(&self.oracle, &key, &owner(), HOLD).await;
        }
    }
}

/// An acquire of a free lock, dropped anywhere.
pub async fn a_cancelled_acquire_of_a_free_lock_leaves_nothing_behind<F: Fixture>(fixture: F) {
    let (client, locks) = distant_locks(&fixture).await;
    for once in [false, true] {
        let keys = Keys::new(&fixture).await;
        let acquire = |_| {
            let lock = locks.lock(keys.next().name());
            async move {
                let guard = if once {
                    lock.try_acquire().await
                } else {
                    lock.acquire().await
                };
                drop(guard.expect("it is free"));
            }
        };
        let cuts = cancel_sweep(acquire, async |_| keys.comes_free().await).await;
        assert!(cuts >= 5, "{cuts}");
        keys.are_usable().await;
    }
    assert_eq!(client.subscriptions(), 0);
}

/// An acquire that waits for a held lock, dropped anywhere: the holder keeps it, and nobody subscribes any more.
pub async fn a_cancelled_wait_leaves_the_holder_alone<F: Fixture>(fixture: F) {
    let (client, locks) = distant_locks(&fixture).await;
    let (oracle, key, holder) = (fixture.client().await, key(&fixture, "k"), owner());
    let asked = Moment::now();
    take::<F>(&oracle, &key, &holder, HOLD).await;
    let lock = locks
        .lock(key.name())
        .with_retry(RetryPolicy::every(20 * MILLISECOND).give_up_after(60 * MILLISECOND));
    let cuts = cancel_sweep(
        |_| async {
            let error = lock.acquire().await.expect_err("it is held");
            assert!(error.is_busy(), "{error}");
        },
        async |_| {
            let gone = async || client.subscriptions() == 0;
            eventually("the subscription is gone", gone).await;
        },
    )
    .await;
    // Where time is short, there is one attempt: on its way there, at the store, and on its way back.
    assert!(cuts >= 3, "{cuts}");
    assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
    assert_eq!(release(&oracle, &key, &holder).await, Ownership::Held);
    sleep(50 * MILLISECOND).await;
    comes_free(&oracle, &key).await;
}

/// An acquire that waits for a lock which is released meanwhile, dropped anywhere, also between the grant and its receipt.
pub async fn a_cancelled_wait_for_a_lock_that_comes_free_leaves_nothing_behind<F: Fixture>(
    fixture: F,
) {
    let ((client, locks), keys) = (distant_locks(&fixture).await, Keys::new(&fixture).await);
    let holder = Arc::new(fixture.client().await);
    let acquire = |_| {
        let (key, holder) = (keys.next(), Arc::clone(&holder));
        let lock = locks.lock(key.name());
        let lock = lock.with_retry(RetryPolicy::every(5 * MILLISECOND).give_up_after(BOUND));
        let (taken, is_taken) = oneshot::channel();
        // In a task of its own: the holder is not cut.
        Handle::current().spawn(async move {
            let me = owner();
            take::<F>(&*holder, &key, &me, HOLD).await;
            let _ = taken.send(());
            sleep(15 * MILLISECOND).await;
            release(&*holder, &key, &me).await;
        });
        async move {
            is_taken.await.expect("it was free");
            drop(lock.acquire().await.expect("it comes free"));
        }
    };
    let cuts = cancel_sweep(acquire, async |_| keys.comes_free().await).await;
    // Where time is short, there is one attempt.
    assert!(cuts >= 5, "{cuts}");
    keys.are_usable().await;
    let gone = async || client.subscriptions() == 0;
    eventually("the subscriptions are gone", gone).await;
}

/// An extension, a prolongation or a shortening, dropped anywhere: the guard is still held, and believes in no more than the
/// store does.
pub async fn a_cancelled_extension_leaves_a_deadline_that_is_safe<F: Fixture>(fixture: F) {
    let ((_client, locks), oracle) = (distant_locks(&fixture).await, fixture.client().await);
    for how in ["extend", "prolong", "shorten"] {
        let guard = hold(&unrenewed(&locks, &key(&fixture, "k"))).await;
        let change = |cut| {
            let guard = &guard;
            async move {
                let changed = match how {
                    "extend" => guard.extend(HOLD).await,
                    "prolong" => guard.renew_for(2 * HOLD).await,
                    // Each by some more: after a shortening of unknown outcome, nothing prolongs it.
                    _ => {
                        let cut = u32::try_from(cut).expect("a small number");
                        guard.renew_for(HOLD / 2 - cut * SECOND / 2).await
                    }
                };
                changed.expect("it is held");
            }
        };
        let cuts = cancel_sweep(change, async |_| {
            sleep(20 * MILLISECOND).await;
            assert!(guard.is_held(), "lost by being dropped");
            assert_outlives::<F>(&oracle, &guard).await;
        })
        .await;
        assert!(cuts >= 5, "{how}: {cuts}");
        guard.release().await.expect("a release is answered");
    }
}

/// A release, dropped anywhere, is finished all the same.
pub async fn a_cancelled_release_is_finished<F: Fixture>(fixture: F) {
    let ((_client, locks), keys) = (distant_locks(&fixture).await, Keys::new(&fixture).await);
    let release = |_| {
        let lock = locks.lock(keys.next().name());
        async move {
            let guard = hold(&lock).await;
            guard.release().await.expect("a release is answered");
        }
    };
    let cuts = cancel_sweep(release, async |_| keys.comes_free().await).await;
    assert!(cuts >= 9, "{cuts}");
    keys.are_usable().await;
}

/// `with`, dropped anywhere, drops its body and lets go.
pub async fn a_cancelled_body_lets_go<F: Fixture>(fixture: F) {
    let ((_client, locks), keys) = (distant_locks(&fixture).await, Keys::new(&fixture).await);
    let with = |_| {
        let lock = locks.lock(keys.next().name());
        async move {
            let body = async |guard: &LockGuard| {
                for _ in 0..3 {
                    sleep(MILLISECOND).await;
                    guard.check()?;
                }
                Ok::<_, LockError>(())
            };
            lock.with(body).await.expect("it is free");
        }
    };
    let cuts = cancel_sweep(with, async |_| keys.comes_free().await).await;
    assert!(cuts >= 15, "{cuts}");
    keys.are_usable().await;
}

/// Handing a lock over, dropped anywhere on either side: it is the ticket's, or given back.
pub async fn a_cancelled_hand_over_loses_nothing<F: Fixture>(fixture: F) {
    let ((_client, locks), keys) = (distant_locks(&fixture).await, Keys::new(&fixture).await);
    let tickets = RefCell::new(None);
    let pass_on = |_| {
        let (lock, locks) = (locks.lock(keys.next().name()), locks.clone());
        let tickets = &tickets;
        async move {
            let guard = hold(&lock).await;
            let ticket = guard.into_ticket().await.expect("it is held");
            *tickets.borrow_mut() = Some(ticket.clone());
            drop(locks.resume(&ticket).await.expect("it is the ticket's"));
        }
    };
    let cuts = cancel_sweep(pass_on, async |_| {
        if let Some(ticket) = tickets.take() {
            // The resumption that was cut may be under way: then the ticket is used, or the lock is being given back.
            match locks.resume(&ticket).await {
                Ok(guard) => drop(guard),
                Err(error) => assert!(
                    matches!(error, LockError::Lost { .. } | LockError::Busy { .. }),
                    "{error}"
                ),
            }
        }
        keys.comes_free().await;
    })
    .await;
    assert!(cuts >= 9, "{cuts}");
    keys.are_usable().await;
}

/// Acquires of one lock that are all given up after a moment, at any time of their lives: no entry stays, no subscription
/// and no task.
pub async fn a_storm_of_timeouts_leaves_nothing_behind<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (distant_locks(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    // The renewer looks at its empty list once more within a third of it.
    let lock = locks.lock(key.name()).with_ttl(TERM).with_retry(eager());
    // Whatever the client starts at first use is started now. Behind a guard of their own, nobody would subscribe.
    let others = beside(&fixture, &client).lock(key.name());
    let held = others.with_ttl(LEASE).acquire().await.expect("it is free");
    let subscribed = async || client.subscriptions() > 0 || !client.capabilities().wakeups;
    tokio::select! {
        other = lock.acquire() => panic!("it is held, and another got {other:?}"),
        () = eventually("a waiter subscribes", subscribed) => {}
    }
    drop(held);
    comes_free(&oracle, &key).await;
    let leaks = LeakCheck::start();
    let mut storm = JoinSet::new();
    for task in 0..8_u32 {
        let lock = lock.clone();
        storm.spawn(async move {
            for round in 0..16 {
                let patience = MILLISECOND * ((5 * task + round) % 16);
                if let Ok(guard) = timeout(patience, lock.acquire()).await {
                    drop(guard.expect("it comes free"));
                }
            }
        });
    }
    storm.join_all().await;
    comes_free(&oracle, &key).await;
    let gone = async || client.subscriptions() == 0;
    eventually("the subscriptions are gone", gone).await;
    leaks.assert_none(BOUND).await;
    let last = lock.acquire().await.expect("it is free");
    assert!(last.is_held());
    refused(&oracle, &key, &owner()).await;
}
