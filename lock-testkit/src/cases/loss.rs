//! Whoever loses a lock hears of it, and leaves it to who has it now. Contract G5, G6; SCENARIOS R02, R09, R16, R18, T09.

use lock_core::{BackendError, LockError, LossReason, Moment, Ownership, Released};
use tokio::time::sleep;

use super::{
    HOLD, LEASE, MILLISECOND, assert_lasts, beside, eventually, evict, expire, hold, is_free, key,
    locks, loss, owner, refused, release, remaining, renewed, take, unrenewed, watched_locks,
};
use crate::faulty::{Effect, Faulty, Op};
use crate::fixture::Fixture;

/// A holder whose lock somebody else has hears of it, every time it asks, stops renewing, and does not touch it.
pub async fn a_lock_that_was_taken_over_is_lost_and_left_alone<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key, next) = (fixture.client().await, key(&fixture, "k"), owner());
    // Before it is held, so that none is under way that could find the key absent.
    hold_back_renewals(&client);
    let guard = hold(&renewed(&locks, &key)).await;
    let handle = guard.loss();
    evict(&fixture, &key).await;
    let asked = Moment::now();
    take::<F>(&oracle, &key, &next, HOLD).await;
    client.on(Op::Renew).clear();
    assert_eq!(loss(&guard).await, LossReason::Taken);
    assert_eq!(loss(&guard).await, LossReason::Taken, "the second time");
    assert_eq!(handle.lost().await, LossReason::Taken);
    assert!(!guard.is_held() && !handle.is_held());
    let lost = guard.check();
    assert!(
        matches!(
            &lost,
            Err(LockError::Lost {
                reason: LossReason::Taken,
                ..
            })
        ),
        "{lost:?}"
    );
    let renewals = client.calls_of(Op::Renew).len();
    sleep(300 * MILLISECOND).await;
    assert_eq!(
        client.calls_of(Op::Renew).len(),
        renewals,
        "it goes on renewing"
    );
    assert_eq!(guard.release().await.ok(), Some(Released::TakenOver));
    assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
    assert_eq!(release(&oracle, &key, &next).await, Ownership::Held);
}

/// A holder whose entry was deleted, by an operator, an eviction or a store that lost its data, hears of it, and does not
/// bring it back.
pub async fn a_lock_that_was_deleted_is_lost_and_not_brought_back<F: Fixture>(fixture: F) {
    let (locks, oracle, key) = (
        locks(&fixture).await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    let guard = hold(&renewed(&locks, &key)).await;
    evict(&fixture, &key).await;
    assert_eq!(loss(&guard).await, LossReason::Absent);
    assert!(!guard.is_held());
    assert!(is_free(&oracle, &key).await, "a renewal brought it back");
    drop(guard);
    drop(hold(&unrenewed(&locks, &key)).await);
}

/// A holder whose entry ended early, as when the store's clock was set ahead, hears of it.
pub async fn a_lock_that_ended_early_is_lost<F: Fixture>(fixture: F) {
    let (locks, oracle, key) = (
        locks(&fixture).await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    let guard = hold(&renewed(&locks, &key)).await;
    // A renewal may come between and save it.
    eventually("the entry ends", async || {
        expire(&fixture, &key).await;
        is_free(&oracle, &key).await
    })
    .await;
    assert_eq!(loss(&guard).await, LossReason::Absent);
    assert!(is_free(&oracle, &key).await, "a renewal brought it back");
}

/// That the same client took the lock anew does not save the guard that lost it.
pub async fn a_guard_is_lost_when_the_same_client_took_the_lock_anew<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key) = (fixture.client().await, key(&fixture, "k"));
    let others = beside(&fixture, &client);
    // Before it is held, so that none is under way that could find the key absent.
    hold_back_renewals(&client);
    let old = hold(&renewed(&locks, &key)).await;
    evict(&fixture, &key).await;
    let new = hold(&renewed(&others, &key)).await;
    client.on(Op::Renew).clear();
    assert_eq!(loss(&old).await, LossReason::Taken);
    assert!(new.is_held());
    refused(&oracle, &key, &owner()).await;
    assert_eq!(new.release().await.ok(), Some(Released::Released));
}

/// A lock that was lost can be taken again while the old guard is still there, which then does nothing to the new one.
pub async fn a_lost_lock_can_be_taken_again_beside_the_old_guard<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key) = (fixture.client().await, key(&fixture, "k"));
    let old = hold(&unrenewed(&locks, &key)).await;
    evict(&fixture, &key).await;
    let new = hold(&renewed(&beside(&fixture, &client), &key)).await;
    drop(old);
    eventually("the old guard is released", async || {
        !client.calls_of(Op::Release).is_empty()
    })
    .await;
    // Longer than any answer takes, and than it takes to be renewed: what was not has less by then, however it is counted.
    sleep(600 * MILLISECOND + 2 * F::RESOLUTION).await;
    eventually("the new guard is renewed", async || {
        remaining(&oracle, &key).await > LEASE - 500 * MILLISECOND - F::RESOLUTION
    })
    .await;
    assert!(new.is_held());
    refused(&oracle, &key, &owner()).await;
    assert_eq!(new.release().await.ok(), Some(Released::Released));
}

/// No renewal gets to the store, as if it were short of connections.
fn hold_back_renewals<B>(client: &Faulty<B>) {
    let error = BackendError::transient("renewals are held back");
    client.on(Op::Renew).always(Effect::FailBefore(error));
}
