//! Passing a lock on without letting go of it. Promise 3 of `try_acquire`.

use lock_core::{
    AcquireRequest, Attempt, Holder, LockBackend, LockError, LockKey, Moment, Owner, Ownership,
    Released,
};

use super::{
    HOLD, assert_lasts, hold, is_free, key, labelled, locks, owner, refused, release, renewed,
    take, take_and_let_end,
};
use crate::fixture::Fixture;

/// The new owner replaces the old one, with a greater token, and the old one has nothing left to hand over.
pub async fn a_hand_over_replaces_the_owner_once<F: Fixture>(fixture: F) {
    let (a, b, key) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    let (old, new) = (owner(), labelled("new"));
    let before = take::<F>(&a, &key, &old, HOLD).await;
    let asked = Moment::now();
    let Attempt::Granted(after) = hand_over(&b, &key, &old, &new).await else {
        panic!("a hand-over from the holder is granted");
    };
    assert_lasts::<F>(&b, &key, 2 * HOLD, asked).await;
    assert_eq!(after.fencing.is_some(), before.fencing.is_some(), "fencing");
    if let (Some(before), Some(after)) = (before.fencing, after.fencing) {
        assert!(after.first() > before.last(), "{after:?} after {before:?}");
    }
    assert!(
        matches!(hand_over(&a, &key, &old, &owner()).await, Attempt::Busy(_)),
        "handed over twice"
    );
    assert_eq!(release(&a, &key, &old).await, Ownership::Taken);
    assert_eq!(
        refused(&a, &key, &owner()).await.holder.label.as_deref(),
        Some("new")
    );
    assert_eq!(release(&b, &key, &new).await, Ownership::Held);
}

/// Who does not hold the lock cannot hand it over.
pub async fn a_hand_over_from_a_stranger_is_refused<F: Fixture>(fixture: F) {
    let (client, key, holder) = (fixture.client().await, key(&fixture, "k"), labelled("me"));
    let asked = Moment::now();
    take::<F>(&client, &key, &holder, HOLD).await;
    let Attempt::Busy(busy) = hand_over(&client, &key, &owner(), &owner()).await else {
        panic!("a stranger handed the lock over");
    };
    assert_eq!(busy.holder.label.as_deref(), Some("me"));
    assert_lasts::<F>(&client, &key, HOLD, asked).await;
    assert_eq!(release(&client, &key, &holder).await, Ownership::Held);
}

/// A lock that nobody holds any more is not handed over but refused, with an empty holder, and stays free.
pub async fn a_hand_over_of_a_free_key_is_refused<F: Fixture>(fixture: F) {
    let (client, key) = (fixture.client().await, key(&fixture, "k"));
    let Attempt::Busy(busy) = hand_over(&client, &key, &owner(), &owner()).await else {
        panic!("a free lock was handed over");
    };
    assert_eq!(busy.holder, Holder::new());
    assert!(is_free(&client, &key).await);

    let old = owner();
    take_and_let_end(&fixture, &client, &key, &old).await;
    let Attempt::Busy(busy) = hand_over(&client, &key, &old, &owner()).await else {
        panic!("a lock that had ended was handed over");
    };
    assert_eq!(busy.holder, Holder::new());
    assert!(is_free(&client, &key).await);
}

/// A hand-over that is sent again, because its answer was lost, answers the same grant.
pub async fn a_repeated_hand_over_answers_the_same_grant<F: Fixture>(fixture: F) {
    let (client, key, old, new) = (fixture.client().await, key(&fixture, "k"), owner(), owner());
    take::<F>(&client, &key, &old, HOLD).await;
    let first = hand_over(&client, &key, &old, &new).await;
    assert!(matches!(first, Attempt::Granted(_)), "{first:?}");
    assert_eq!(hand_over(&client, &key, &old, &new).await, first);
}

/// A ticket takes a lock to another client, with a greater fencing token, without letting go of it; and works once.
pub async fn a_ticket_works_once<F: Fixture>(fixture: F) {
    let (a, b, oracle) = (
        locks(&fixture).await,
        locks(&fixture).await,
        fixture.client().await,
    );
    let key = key(&fixture, "k");
    let guard = hold(&renewed(&a, &key)).await;
    let before = guard.fencing_token();
    let ticket = guard.into_ticket().await.expect("it is held");
    refused(&oracle, &key, &owner()).await;
    let guard = b.resume(&ticket).await.expect("it is held");
    assert!(guard.fencing_token() > before || before.is_none());
    let error = a.resume(&ticket).await.expect_err("resumed twice");
    assert!(matches!(error, LockError::Lost { .. }), "{error}");
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
    let error = b
        .resume(&ticket)
        .await
        .expect_err("a free lock was resumed");
    assert!(matches!(error, LockError::Lost { .. }), "{error}");
    assert!(is_free(&oracle, &key).await);
}

async fn hand_over(client: &impl LockBackend, key: &LockKey, from: &Owner, to: &Owner) -> Attempt {
    let request = AcquireRequest::new(key, to, 2 * HOLD).with_from(Some(from));
    client
        .try_acquire(request)
        .await
        .expect("a hand-over is answered")
}
