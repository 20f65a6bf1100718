//! Only the owner gives the key back. Promise 5 of the contract, and `release`; SCENARIOS C03,
//! C04, C13.

use std::thread;

use lock_core::{Moment, Owner, Ownership, Released};
use tokio::runtime::Handle;

use super::{
    HOLD, assert_lasts, eventually, hold, is_free, key, labelled, locks, owner, refused, release,
    take, take_and_let_end, unrenewed,
};
use crate::fixture::Fixture;

/// Released is free at once, for everybody.
pub async fn a_release_frees_the_key<F: Fixture>(fixture: F) {
    let (a, b, key, holder) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    assert_eq!(
        release(&a, &key, &holder).await,
        Ownership::Absent,
        "never held"
    );
    let other = super::key(&fixture, "other");
    take::<F>(&a, &other, &holder, HOLD).await;
    take::<F>(&a, &key, &holder, HOLD).await;
    // From another client: ownership goes by owner, not by connection.
    assert_eq!(release(&b, &key, &holder).await, Ownership::Held);
    assert!(is_free(&a, &key).await);
    refused(&a, &other, &owner()).await;
    take::<F>(&b, &key, &owner(), HOLD).await;
}

/// The second release finds nothing, or somebody else whom it leaves alone.
pub async fn releasing_twice_is_harmless<F: Fixture>(fixture: F) {
    let (a, b, key, holder) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    take::<F>(&a, &key, &holder, HOLD).await;
    assert_eq!(release(&a, &key, &holder).await, Ownership::Held);
    assert_eq!(release(&a, &key, &holder).await, Ownership::Absent);
    let asked = Moment::now();
    let next = owner();
    take::<F>(&b, &key, &next, HOLD).await;
    assert_eq!(release(&a, &key, &holder).await, Ownership::Taken);
    assert_lasts::<F>(&b, &key, HOLD, asked).await;
    assert_eq!(release(&b, &key, &next).await, Ownership::Held);
}

/// A release by somebody else changes nothing.
pub async fn a_stranger_cannot_release<F: Fixture>(fixture: F) {
    let (a, b, key, holder) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    let asked = Moment::now();
    take::<F>(&a, &key, &holder, HOLD).await;
    assert_eq!(release(&b, &key, &owner()).await, Ownership::Taken);
    assert_lasts::<F>(&a, &key, HOLD, asked).await;
    refused(&b, &key, &owner()).await;
}

/// Owners whose texts begin alike, or have the same label, are different owners.
pub async fn the_whole_owner_is_compared<F: Fixture>(fixture: F) {
    let (client, key, holder) = (
        fixture.client().await,
        key(&fixture, "k"),
        labelled("web-1"),
    );
    take::<F>(&client, &key, &holder, HOLD).await;
    let token = &holder.expose()[..32];
    let others = [
        Owner::from_exposed(token),
        Owner::from_exposed(format!("{token}:web-12")),
        Owner::from_exposed(format!("{token}:web")),
        Owner::from_exposed(holder.expose().to_uppercase()),
        labelled("web-1"),
    ];
    for other in others {
        assert_eq!(release(&client, &key, &other).await, Ownership::Taken);
        refused(&client, &key, &other).await;
    }
    assert_eq!(release(&client, &key, &holder).await, Ownership::Held);
}

/// A holder whose ttl is over does not release the next one's entry, also where both use one client.
pub async fn a_late_release_leaves_the_next_holder_alone<F: Fixture>(fixture: F) {
    let (client, key, late, next) = (fixture.client().await, key(&fixture, "k"), owner(), owner());
    take_and_let_end(&fixture, &client, &key, &late).await;
    assert_eq!(release(&client, &key, &late).await, Ownership::Absent);
    assert_eq!(release(&client, &key, &next).await, Ownership::Absent);
    let asked = Moment::now();
    take::<F>(&client, &key, &next, HOLD).await;
    assert_eq!(release(&client, &key, &late).await, Ownership::Taken);
    assert_lasts::<F>(&client, &key, HOLD, asked).await;
    assert_eq!(release(&client, &key, &next).await, Ownership::Held);
}

/// A guard belongs to whoever has it: another task than the one that took it releases it, and so does a thread without a
/// runtime that drops it.
pub async fn a_guard_may_go_to_other_tasks_and_threads<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    let lock = unrenewed(&locks, &key(&fixture, "k"));
    let guard = hold(&lock).await;
    let released = Handle::current().spawn(async move {
        assert!(guard.is_held());
        guard.release().await
    });
    let found = released.await.expect("it did not panic");
    assert_eq!(found.ok(), Some(Released::Released));
    assert!(is_free(&oracle, lock.key()).await);

    let guard = hold(&lock).await;
    let dropped = thread::spawn(move || {
        assert!(guard.is_held());
        drop(guard);
    });
    dropped.join().expect("it did not panic");
    eventually("it is released", async || {
        is_free(&oracle, lock.key()).await
    })
    .await;
}
