//! What an operator takes from a holder is gone, and told; nothing else is touched. The promises of `ForceRelease`; contract G4, G5,
//! G12, security 3.1.

use std::sync::Arc;

use lock_core::{
    AcquireRequest, Attempt, BackendErrorKind, ForceRelease, Forced, LockBackend, LockKey,
    LossReason, Moment, Ownership, Renew,
};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::waiting::{patient, subscribe, woken};
use super::{
    BOUND, HOLD, LEASE, MILLISECOND, assert_lasts, hold, is_free, key, labelled, locks, loss,
    obstruct, owner, release, renew, renewed, take, take_and_let_end,
};
use crate::fixture::Fixture;
use crate::gap::Gap;

/// A lock that is taken from its holder is free, and whose it was is told, but not its owner. The holder from before can do
/// nothing about it, and nothing to the next one.
pub async fn a_lock_that_was_taken_by_force_is_free_and_whose_it_was_is_told<F: Fixture>(
    fixture: F,
) {
    let (operator, client) = (operator(&fixture).await, fixture.client().await);
    let (key, old, next) = (key(&fixture, "k"), labelled("old"), owner());
    take::<F>(&client, &key, &old, HOLD).await;
    let forced = force(&*operator, &key).await.expect("it is held");
    assert_eq!(forced.holder.label.as_deref(), Some("old"));
    let left = forced.holder.remaining.expect("its entry had an end");
    assert!(left <= HOLD + F::RESOLUTION, "{left:?} of {HOLD:?}");
    let printed = format!("{forced:?}");
    assert!(
        !printed.contains(&old.expose()[..32]),
        "an owner is printed: {printed}"
    );
    assert_eq!(
        forced.fencing.is_some(),
        client.capabilities().fencing,
        "a token is reserved where the store has any: {forced:?}"
    );

    assert!(is_free(&client, &key).await, "it is still held");
    let renewed = renew::<F>(&client, &key, &old, HOLD, Renew::AtLeast).await;
    assert_eq!(renewed, Ownership::Absent);
    assert_eq!(release(&client, &key, &old).await, Ownership::Absent);
    let asked = Moment::now();
    take::<F>(&client, &key, &next, HOLD).await;
    let renewed = renew::<F>(&client, &key, &old, 2 * HOLD, Renew::AtLeast).await;
    assert_eq!(renewed, Ownership::Taken);
    assert_eq!(release(&client, &key, &old).await, Ownership::Taken);
    assert_lasts::<F>(&client, &key, HOLD, asked).await;
    assert_eq!(release(&client, &key, &next).await, Ownership::Held);
}

/// Of a free lock it is told that nobody held it, and it stays free: never taken, released, ended or taken by force before.
pub async fn a_free_lock_is_nobodys_to_be_taken_from<F: Fixture>(fixture: F) {
    let (operator, client) = (operator(&fixture).await, fixture.client().await);
    let (key, me) = (key(&fixture, "k"), owner());
    let nobody = async || {
        let forced = force(&*operator, &key).await;
        assert_eq!(forced, None, "nobody held it");
        assert!(is_free(&client, &key).await, "it was made up");
    };
    nobody().await;
    take::<F>(&client, &key, &me, HOLD).await;
    release(&client, &key, &me).await;
    nobody().await;
    take_and_let_end(&fixture, &client, &key, &owner()).await;
    nobody().await;
    take::<F>(&client, &key, &owner(), HOLD).await;
    assert!(force(&*operator, &key).await.is_some());
    nobody().await;
}

/// The token that is reserved is greater than all that were given, and smaller than all that will be: who has seen it refuses the
/// holder from before.
pub async fn tokens_rise_across_force<F: Fixture>(fixture: F) {
    let (operator, client, key) = (
        operator(&fixture).await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    let mut newest = None;
    for tokens in [1, 7, 1] {
        let me = owner();
        let request = AcquireRequest::new(&key, &me, HOLD).with_tokens(tokens);
        let granted = client.try_acquire(request).await;
        let Attempt::Granted(grant) = granted.expect("an attempt is answered") else {
            panic!("{key} should be free");
        };
        let range = grant
            .fencing
            .expect("a store that declares fencing gives tokens");
        assert!(Some(range.first()) > newest, "{newest:?}, then {range:?}");
        let forced = force(&*operator, &key).await.expect("it is held");
        newest = forced.fencing;
        assert!(newest > Some(range.last()), "{range:?}, then {newest:?}");
    }
}

/// A holder hears of it with its next renewal, does not bring its lock back, and leaves the next holder alone.
pub async fn a_holder_hears_that_its_lock_was_taken_by_force<F: Fixture>(fixture: F) {
    let (operator, locks) = (operator(&fixture).await, locks(&fixture).await);
    let (oracle, key, next) = (fixture.client().await, key(&fixture, "k"), owner());
    let guard = hold(&renewed(&locks, &key)).await;
    assert!(force(&*operator, &key).await.is_some(), "it is held");
    assert_eq!(loss(&guard).await, LossReason::Absent);
    assert!(!guard.is_held());
    sleep(LEASE / 50).await;
    assert!(is_free(&oracle, &key).await, "it was brought back");
    let asked = Moment::now();
    take::<F>(&oracle, &key, &next, HOLD).await;
    drop(guard);
    sleep(100 * MILLISECOND).await;
    assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
    assert_eq!(release(&oracle, &key, &next).await, Ownership::Held);
}

/// It wakes those who wait, as a release does.
pub async fn force_wakes_all_who_wait<F: Fixture>(fixture: F) {
    let (operator, client, key) = (
        operator(&fixture).await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    let mut all = [
        subscribe(&client, &key).await,
        subscribe(&fixture.client().await, &key).await,
    ];
    take::<F>(&client, &key, &owner(), HOLD).await;
    let waiter = locks(&fixture).await.lock(key.name());
    let waiter = waiter.with_options(patient());
    let waiter = Handle::current().spawn(async move { waiter.acquire().await });
    sleep(50 * MILLISECOND).await;
    assert!(force(&*operator, &key).await.is_some(), "it is held");
    for wakeup in &mut all {
        woken(wakeup).await;
    }
    let next = timeout(BOUND, waiter).await;
    let next = next.expect("the waiter is served").expect("no panic");
    assert!(next.expect("it is free").is_held());
}

/// One lock is taken from its holder, and no other, however alike their names are.
pub async fn force_takes_one_lock_and_no_other<F: Fixture>(fixture: F) {
    let (operator, client) = (operator(&fixture).await, fixture.client().await);
    let (forced, me) = (key(&fixture, "k"), owner());
    let names = ["", "k", ":", "*", "?"].map(|more| format!("{}{more}", forced.name()));
    let asked = Moment::now();
    let mut others = Vec::new();
    for name in [names.as_slice(), &[forced.name().replace(":k", ":K")]].concat() {
        let key = LockKey::with_prefix(fixture.prefix(), name).expect("a valid key");
        take::<F>(&client, &key, &me, HOLD).await;
        if key != forced {
            others.push(key);
        }
    }
    assert!(force(&*operator, &forced).await.is_some(), "it is held");
    for key in &others {
        assert_lasts::<F>(&client, key, HOLD, asked).await;
        assert_eq!(release(&client, key, &me).await, Ownership::Held, "{key}");
    }
    assert!(is_free(&client, &forced).await);
}

/// Something else at the key is a conflict also for an operator, and left alone.
pub async fn what_is_no_lock_is_not_taken_by_force<F: Fixture>(fixture: F) {
    let (operator, client, key) = (
        operator(&fixture).await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    obstruct(&fixture, &key).await;
    for _ in 0..2 {
        let error = operator.force_release(&key).await;
        let error = error.expect_err("something that is no lock was taken by force");
        assert_eq!(error.kind(), BackendErrorKind::Conflict, "{error}");
    }
    let me = owner();
    let answer = client
        .try_acquire(AcquireRequest::new(&key, &me, HOLD))
        .await;
    let error = answer.expect_err("it is gone");
    assert_eq!(error.kind(), BackendErrorKind::Conflict, "{error}");
}

/// Who may take locks from their holders, whom the fixture must have.
async fn operator<F: Fixture>(fixture: &F) -> Arc<dyn ForceRelease> {
    let operator = fixture.operator().await;
    operator.unwrap_or_else(|| panic!("{}", Gap::ForceRelease.advice()))
}

async fn force(operator: &dyn ForceRelease, key: &LockKey) -> Option<Forced> {
    let forced = operator.force_release(key).await;
    forced.expect("an operator is answered")
}
