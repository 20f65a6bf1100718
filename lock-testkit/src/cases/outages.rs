//! A store that is cut off, stalls or restarts costs time and no promise. Contract G7, G10, G12, G15, G17, G18; SCENARIOS C15, F06
//! to F10.

use std::sync::Arc;

use lock_core::{LockError, Moment, Released};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::cut_off::{Cuts, Failed, connected, cut_off, take_and_let_go};
use super::waiting::{subscribe, take_and_release, woken};
use super::{
    BOUND, HOLD, LEASE, MILLISECOND, SECOND, SHORT, assert_lasts, cut_connections, eventually,
    hold, is_free, key, locks, owner, refused, release, remaining, renewed, restart, stall, take,
    unrenewed,
};
use crate::faulty::Op;
use crate::fixture::Fixture;

/// A lock that is renewed is kept although all connections are cut again and again.
pub async fn a_held_lock_outlives_cut_connections<F: Fixture>(fixture: F) {
    let (locks, key) = (locks(&fixture).await, key(&fixture, "k"));
    let guard = hold(&renewed(&locks, &key)).await;
    let asked = Moment::now();
    for _ in 0..5 {
        cut_connections(&fixture).await;
        sleep(100 * MILLISECOND).await;
    }
    assert!(guard.is_held(), "{:?}", guard.check());
    // Longer than it takes until what is not renewed has less, however it is counted.
    sleep((SECOND + 2 * F::RESOLUTION).saturating_sub(asked.elapsed())).await;
    let oracle = fixture.client().await;
    eventually("it is renewed again", async || {
        remaining(&oracle, &key).await > LEASE - SECOND / 2 - F::RESOLUTION
    })
    .await;
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
}

/// A subscription goes on after its connection was cut, or its waiter is woken for the doubt: no release is missed.
pub async fn a_subscription_outlives_cut_connections<F: Fixture>(fixture: F) {
    let (client, key) = (fixture.client().await, key(&fixture, "k"));
    let mut wakeup = subscribe(&client, &key).await;
    for _ in 0..3 {
        cut_connections(&fixture).await;
        // At a client of its own: the other may not be connected again yet.
        take_and_release::<F>(&fixture.client().await, &key).await;
        woken(&mut wakeup).await;
    }
}

/// Who waits for a lock while connections are cut gets it when it is released.
pub async fn a_waiter_outlives_cut_connections<F: Fixture>(fixture: F) {
    let (a, b, key) = (
        locks(&fixture).await,
        locks(&fixture).await,
        key(&fixture, "k"),
    );
    let guard = hold(&unrenewed(&a, &key)).await;
    let waiter = unrenewed(&b, &key);
    let waiter = Handle::current().spawn(async move { waiter.acquire().await });
    for _ in 0..3 {
        sleep(50 * MILLISECOND).await;
        cut_connections(&fixture).await;
    }
    drop(guard);
    let next = waiter.await.expect("it did not panic");
    assert!(next.is_ok_and(|next| next.is_held()));
}

/// What a call says of itself whose connection was cut while it was under way is true: an attempt that failed and is not called
/// unknown left nothing behind, and a release that did took nothing away.
pub async fn what_is_said_not_to_be_done_is_not_done<F: Fixture>(fixture: F) {
    let client = Arc::new(fixture.client().await);
    let (mut cuts, mut attempts, mut releases) = (Cuts::of::<F>(&client), 0, 0);
    while let Some(pause) = cuts.next(attempts.min(releases)) {
        connected(&fixture, &client).await;
        let at = Arc::clone(&client);
        let life = move |key| take_and_let_go(Arc::clone(&at), key);
        let failed = cut_off(&fixture, pause, cut_connections(&fixture), life).await;
        // One whose connections were not cut.
        let oracle = fixture.client().await;
        for Failed { op, key, error, .. } in failed {
            match (op, error.may_have_been_applied()) {
                // It may be there until its ttl ends.
                (Op::Acquire, true) => attempts += 1,
                (_, true) => releases += 1,
                (Op::Acquire, false) => {
                    let is_free = is_free(&oracle, &key).await;
                    assert!(is_free, "it was applied, and was said not to be: {error}");
                    take::<F>(&oracle, &key, &owner(), HOLD).await;
                }
                (_, false) => drop(refused(&oracle, &key, &owner()).await),
            }
        }
    }
}

/// A client that does not [say](lock_core::Capabilities::resends) that it may sends nothing again that was under way when its
/// connection was cut: an attempt that was released by somebody else does not come back.
pub async fn what_was_cut_off_is_not_sent_again<F: Fixture>(fixture: F) {
    let client = Arc::new(fixture.client().await);
    let (mut cuts, mut attempts) = (Cuts::of::<F>(&client), 0);
    while let Some(pause) = cuts.next(attempts) {
        connected(&fixture, &client).await;
        let at = Arc::clone(&client);
        let life = move |key| take_and_let_go(Arc::clone(&at), key);
        let mut failed = cut_off(&fixture, pause, cut_connections(&fixture), life).await;
        failed.retain(|failed| failed.op == Op::Acquire);
        let may_be = |failed: &&Failed| failed.error.may_have_been_applied();
        attempts += failed.iter().filter(may_be).count();
        let oracle = fixture.client().await;
        for failed in &failed {
            release(&oracle, &failed.key, &failed.owner).await;
        }
        // Connected again, it would send what is left.
        connected(&fixture, &client).await;
        sleep(30 * MILLISECOND).await;
        for failed in &failed {
            let is_free = is_free(&oracle, &failed.key).await;
            assert!(is_free, "an attempt was sent again, unsaid");
        }
    }
}

/// While the store answers nothing, calls end when they were told to, as failures; and what it does when it goes on leaves
/// nothing behind.
pub async fn a_stalled_store_is_waited_for_no_longer_than_said<F: Fixture>(fixture: F) {
    let (locks, key, other) = (
        locks(&fixture).await,
        key(&fixture, "k"),
        key(&fixture, "other"),
    );
    let guard = hold(&unrenewed(&locks, &other)).await;
    let lock = unrenewed(&locks, &key).with_op_timeout(SHORT);
    stall(&fixture, true).await;
    let asked = Moment::now();
    for error in [
        lock.try_acquire().await.expect_err("granted"),
        lock.clone()
            .with_wait(SHORT)
            .acquire()
            .await
            .expect_err("granted"),
        lock.status().await.expect_err("told as free or held"),
    ] {
        assert!(
            matches!(error, LockError::Backend { .. } | LockError::Unknown { .. }),
            "{error}"
        );
    }
    let took = asked.elapsed();
    assert!(took < 6 * SHORT + BOUND, "it took {took:?}");
    assert!(guard.is_held());
    stall(&fixture, false).await;
    let oracle = fixture.client().await;
    eventually("what came late is given back", async || {
        is_free(&oracle, &key).await
    })
    .await;
    let next = hold(&unrenewed(&locks, &key)).await;
    assert_eq!(next.release().await.ok(), Some(Released::Released));
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
}

/// A holder keeps its lock through a restart, or hears that it lost it; and the lock can be taken as before.
pub async fn a_holder_keeps_its_lock_through_a_restart_or_hears_of_it<F: Fixture>(fixture: F) {
    let (locks, key) = (locks(&fixture).await, key(&fixture, "k"));
    let lock = renewed(&locks, &key);
    let guard = hold(&lock).await;
    restart(&fixture).await;
    sleep(SECOND).await;
    let oracle = fixture.client().await;
    eventually("it is renewed, or lost", async || {
        !guard.is_held()
            || (!is_free(&oracle, &key).await
                && remaining(&oracle, &key).await > LEASE - SECOND / 2)
    })
    .await;
    drop(guard);
    let next = hold(&lock).await;
    assert_eq!(next.release().await.ok(), Some(Released::Released));
}

/// A lock in a store that declares to remember is still held after a restart, for as long as it would have been without.
pub async fn a_lock_outlives_a_restart<F: Fixture>(fixture: F) {
    let (locks, key, asked) = (locks(&fixture).await, key(&fixture, "k"), Moment::now());
    let guard = hold(&unrenewed(&locks, &key)).await;
    restart(&fixture).await;
    let oracle = fixture.client().await;
    assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
    refused(&oracle, &key, &owner()).await;
    eventually("its holder can release it", async || {
        locks.lock(key.name()).status().await.is_ok()
    })
    .await;
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
}

/// Fencing tokens rise also if the store forgot everything.
pub async fn tokens_rise_across_a_restart<F: Fixture>(fixture: F) {
    let (locks, key) = (locks(&fixture).await, key(&fixture, "k"));
    let lock = unrenewed(&locks, &key);
    let mut newest = None;
    for _ in 0..3 {
        let guard = hold(&lock).await;
        let token = guard.fencing_token();
        assert!(token > newest, "{newest:?}, then {token:?}");
        newest = token;
        // It is gone with the store, or was given back.
        drop(guard);
        restart(&fixture).await;
    }
}
