//! What is answered, repeated, dropped, and printed. Promises 6 to 8 of the contract, 2 of `try_acquire`.

use lock_core::{
    AcquireRequest, Attempt, BackendErrorKind, LockBackend, Moment, Ownership, Renew, RenewRequest,
};

use super::{
    HOLD, MILLISECOND, RESOLUTION, SHORT, assert_lasts, attempt, eventually, hook, is_free, key,
    labelled, obstruct, owner, refused, release, renew, take,
};
use crate::fixture::Fixture;
use crate::gap::Gap;
use crate::sweep::cancel_sweep;

/// A copy of a request that was granted gets the same grant, and does not shorten what was prolonged since. A copy asks
/// for as many fencing tokens: a store need not remember how many it gave.
pub async fn a_repeated_attempt_answers_the_same_grant_and_touches_nothing<F: Fixture>(fixture: F) {
    let (a, b, key, owner) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    let asked = Moment::now();
    let request = |ttl| AcquireRequest::new(&key, &owner, ttl).with_tokens(5);
    let grant = a.try_acquire(request(HOLD)).await;
    let grant = grant.expect("an attempt is answered");
    assert!(matches!(grant, Attempt::Granted(_)), "{grant:?}");
    let copy = b.try_acquire(request(SHORT)).await;
    assert_eq!(copy.expect("an attempt is answered"), grant);
    assert_lasts(&a, &key, HOLD, asked).await;
    assert_eq!(
        renew(&a, &key, &owner, HOLD, Renew::Exactly).await,
        Ownership::Held
    );
    tokio::time::sleep(50 * MILLISECOND).await;
    let before = super::remaining(&a, &key).await;
    let copy = b.try_acquire(request(2 * HOLD)).await;
    assert_eq!(copy.expect("an attempt is answered"), grant);
    assert!(
        super::remaining(&a, &key).await <= before,
        "a copy of the request prolonged the entry"
    );
    assert_eq!(release(&a, &key, &owner).await, Ownership::Held);
}

/// Busy says who (by label), for how long yet, and with which token at most.
pub async fn a_busy_answer_names_the_holder<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    for label in [None, Some("web-1"), Some("a:b 🔒 \"x\"")] {
        let key = key(&fixture, "k");
        let holder = label.map_or_else(owner, labelled);
        let grant = take(&a, &key, &holder, HOLD).await;
        let busy = refused(&b, &key, &owner()).await;
        assert_eq!(busy.holder.label.as_deref(), label);
        let left = busy.holder.remaining.expect("an entry of ours has an end");
        assert!(
            !left.is_zero() && left <= HOLD + RESOLUTION,
            "{left:?} of {HOLD:?}"
        );
        if let (Some(told), Some(given)) = (busy.holder.fencing, grant.fencing) {
            assert!(
                told >= given.first(),
                "the holder's token is {given:?}, told was {told}"
            );
        }
    }
}

/// An inspection tells the same as busy does, nothing of a free key, and is no attempt.
pub async fn an_inspection_tells_and_changes_nothing<F: Fixture>(fixture: F) {
    let (a, b, key, holder) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        labelled("me"),
    );
    assert!(is_free(&b, &key).await);
    let asked = Moment::now();
    take(&a, &key, &holder, HOLD).await;
    for _ in 0..3 {
        let found = b
            .inspect(&key)
            .await
            .expect("an inspection is answered")
            .expect("it is held");
        assert_eq!(found.label.as_deref(), Some("me"));
    }
    assert_lasts(&b, &key, HOLD, asked).await;
    assert_eq!(release(&a, &key, &holder).await, Ownership::Held);
    assert!(is_free(&b, &key).await);
}

/// Capabilities are the same at every client and every time, and wake-ups are there exactly if declared.
pub async fn what_is_declared_stays_and_is_there<F: Fixture>(fixture: F) {
    let (a, b, key, owner) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    let declared = a.capabilities();
    let grant = take(&a, &key, &owner, HOLD).await;
    assert_eq!(grant.fencing.is_some(), declared.fencing, "fencing");
    assert_eq!((a.capabilities(), b.capabilities()), (declared, declared));
    assert_eq!(a.wakeups().is_some(), declared.wakeups, "wake-ups");
}

/// Nothing is declared to be lacking that is there, and nothing that is lacking goes without saying.
pub async fn a_declared_gap_is_one<F: Fixture>(fixture: F) {
    let declared = fixture.client().await.capabilities();
    for gap in Gap::ALL {
        let is_gap = F::GAPS.contains(gap);
        let is_there = match (gap.is_declared_in(&declared), is_gap) {
            (Some(is_there), _) => is_there,
            (None, true) => hook(&fixture, *gap, &key(&fixture, "k")).await,
            // The cases that use it find out.
            (None, false) => continue,
        };
        assert!(is_there || is_gap, "there is no {gap}: {}", gap.advice());
        assert!(
            !(is_there && is_gap),
            "there is a {gap}, which is declared to be lacking: take `Gap::{gap:?}` out of `Fixture::GAPS`"
        );
    }
}

/// No answer and no client shows an owner when printed: whoever knows it could release the lock.
pub async fn no_owner_is_ever_printed<F: Fixture>(fixture: F) {
    let (client, key, holder, other) = (
        fixture.client().await,
        key(&fixture, "k"),
        labelled("me"),
        owner(),
    );
    let granted = attempt(&client, &key, &holder, HOLD).await;
    let busy = attempt(&client, &key, &other, HOLD).await;
    let found = client.inspect(&key).await;
    let mut printed = format!(
        "{client:?} {granted:?} {busy:?} {found:?} {:?}",
        client.wakeups()
    );
    if let Some(wakeups) = client.wakeups() {
        printed += &format!("{:?}", wakeups.subscribe(&key, None).await);
    }
    for owner in [&holder, &other] {
        assert!(
            !printed.contains(&owner.expose()[..32]),
            "an owner is printed: {printed}"
        );
    }
}

/// Each method's future can be dropped at each of its await points: the client and the key stay usable.
pub async fn a_dropped_call_leaves_the_store_usable<F: Fixture>(fixture: F) {
    let (a, b, key, me) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    // What was dropped may still be applied after the release; then the ttl ends it.
    let free_again = async |_: usize| {
        eventually("the key is usable again", async || {
            release(&a, &key, &me).await;
            let next = owner();
            let is_granted = matches!(attempt(&b, &key, &next, HOLD).await, Attempt::Granted(_));
            release(&b, &key, &next).await;
            is_granted
        })
        .await;
    };
    let request = AcquireRequest::new(&key, &me, SHORT);
    cancel_sweep(|_| a.try_acquire(request), free_again).await;
    let renewals = [RenewRequest::new(&key, &me, SHORT, Renew::AtLeast)];
    cancel_sweep(|_| a.renew(&renewals), free_again).await;
    cancel_sweep(|_| a.release(&key, &me), free_again).await;
    cancel_sweep(|_| a.inspect(&key), free_again).await;
    if let Some(wakeups) = a.wakeups() {
        cancel_sweep(|_| wakeups.subscribe(&key, None), free_again).await;
    }
}

/// Something else at the key is a conflict: not busy, not taken, not changed.
pub async fn what_is_no_lock_is_a_conflict<F: Fixture>(fixture: F) {
    let (client, key, me) = (fixture.client().await, key(&fixture, "k"), owner());
    obstruct(&fixture, &key).await;
    for _ in 0..2 {
        let answer = client
            .try_acquire(AcquireRequest::new(&key, &me, HOLD))
            .await;
        let error = answer.expect_err("something that is no lock is not granted and not busy");
        assert_eq!(error.kind(), BackendErrorKind::Conflict, "{error}");
        let answers = client
            .renew(&[RenewRequest::new(&key, &me, HOLD, Renew::AtLeast)])
            .await;
        assert!(!matches!(answers[..], [Ok(Ownership::Held)]), "{answers:?}");
        let answer = client.release(&key, &me).await;
        assert!(
            !matches!(answer, Ok(Ownership::Held)),
            "something else was deleted"
        );
    }
}
