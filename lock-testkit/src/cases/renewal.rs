//! Prolonging what is held, and nothing else. The promises of `renew`; SCENARIOS C05 to C07, R01, R06, R17.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{
    BackendError, LockBackend, LockError, LockKey, LossReason, Moment, Owner, Ownership, Released,
    Renew, RenewRequest, RenewalPolicy,
};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::{
    HOLD, LEASE, MILLISECOND, SECOND, assert_lasts, assert_outlives, eventually, evict, hold,
    is_free, key, locks, loss, obstruct, owner, refused, release, remaining, renew, renewed, take,
    take_and_let_end, unrenewed, watched_locks, with_all,
};
use crate::faulty::{Effect, Op};
use crate::fixture::Fixture;

const BOTH: [Renew; 2] = [Renew::AtLeast, Renew::Exactly];

/// After a renewal the entry lasts the ttl from the renewal on.
pub async fn a_renewal_prolongs<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take::<F>(&client, &key, &owner, HOLD).await;
    for how in BOTH {
        sleep(50 * MILLISECOND).await;
        let asked = Moment::now();
        assert_eq!(
            renew::<F>(&client, &key, &owner, HOLD, how).await,
            Ownership::Held
        );
        assert_lasts::<F>(&client, &key, HOLD, asked).await;
    }
}

/// A renewal is for as long as it says, also where that is longer than the grant.
pub async fn a_renewal_may_be_for_longer_than_the_grant<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take::<F>(&client, &key, &owner, HOLD).await;
    for (how, ttl) in [(Renew::AtLeast, 2 * HOLD), (Renew::Exactly, 3 * HOLD)] {
        let asked = Moment::now();
        assert_eq!(
            renew::<F>(&client, &key, &owner, ttl, how).await,
            Ownership::Held
        );
        assert_lasts::<F>(&client, &key, ttl, asked).await;
    }
}

/// A renewal by somebody else changes nothing.
pub async fn a_stranger_cannot_renew<F: Fixture>(fixture: F) {
    let (client, key, holder) = (fixture.client().await, key(&fixture, "k"), owner());
    take::<F>(&client, &key, &holder, HOLD).await;
    sleep(50 * MILLISECOND).await;
    let before = super::remaining(&client, &key).await;
    for how in BOTH {
        assert_eq!(
            renew::<F>(&client, &key, &owner(), 2 * HOLD, how).await,
            Ownership::Taken
        );
    }
    assert!(
        super::remaining(&client, &key).await <= before,
        "a stranger prolonged the entry"
    );
    assert_eq!(release(&client, &key, &holder).await, Ownership::Held);
}

/// An entry whose ttl is over stays away.
pub async fn renewing_after_the_end_does_not_resurrect<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take_and_let_end(&fixture, &client, &key, &owner).await;
    assert_stays_away::<F>(&client, &key, &owner).await;
    assert_stays_away::<F>(&client, &key, &super::owner()).await;
}

/// An entry that was released stays away: a renewal may overtake the release.
pub async fn renewing_after_a_release_does_not_resurrect<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take::<F>(&client, &key, &owner, HOLD).await;
    assert_eq!(release(&client, &key, &owner).await, Ownership::Held);
    assert_stays_away::<F>(&client, &key, &owner).await;
}

/// An entry that was deleted stays away.
pub async fn renewing_after_an_eviction_does_not_resurrect<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take::<F>(&client, &key, &owner, HOLD).await;
    evict(&fixture, &key).await;
    assert_stays_away::<F>(&client, &key, &owner).await;
}

/// An entry that belongs to the next holder keeps its owner and its end.
pub async fn renewing_after_a_takeover_leaves_the_new_holder_alone<F: Fixture>(fixture: F) {
    let (a, b, key) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    let (late, next) = (owner(), owner());
    take_and_let_end(&fixture, &a, &key, &late).await;
    let asked = Moment::now();
    take::<F>(&b, &key, &next, HOLD).await;
    for (how, ttl) in [(Renew::AtLeast, 2 * HOLD), (Renew::Exactly, HOLD / 2)] {
        assert_eq!(
            renew::<F>(&a, &key, &late, ttl, how).await,
            Ownership::Taken
        );
        assert_lasts::<F>(&b, &key, HOLD, asked).await;
    }
    assert_eq!(release(&b, &key, &next).await, Ownership::Held);
}

/// A renewal that arrives late, or asks for less, leaves an entry that lasts longer.
pub async fn at_least_never_shortens<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    let asked = Moment::now();
    take::<F>(&client, &key, &owner, HOLD).await;
    for ttl in [HOLD / 2, 10 * MILLISECOND] {
        assert_eq!(
            renew::<F>(&client, &key, &owner, ttl, Renew::AtLeast).await,
            Ownership::Held
        );
        assert_lasts::<F>(&client, &key, HOLD, asked).await;
    }
}

/// An exact renewal sets the end, earlier or later.
pub async fn exactly_shortens<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take::<F>(&client, &key, &owner, HOLD).await;
    for ttl in [HOLD / 2, 2 * HOLD] {
        let asked = Moment::now();
        assert_eq!(
            renew::<F>(&client, &key, &owner, ttl, Renew::Exactly).await,
            Ownership::Held
        );
        assert_lasts::<F>(&client, &key, ttl, asked).await;
    }
}

/// A thousand renewals in one call, of keys that are held, free and taken, are answered one by one, also where one is for the holder
/// of a key and the next for somebody who lost it; none is none.
pub async fn a_thousand_renewals_are_answered_in_order<F: Fixture>(fixture: F) {
    // To take a thousand keys takes a while, at some stores.
    const TTL: Duration = Duration::from_secs(300);
    let (client, me, other) = (fixture.client().await, owner(), owner());
    assert!(client.renew(&[]).await.is_empty());
    let (mut keys, mut held) = (Vec::new(), Vec::new());
    for n in 0..1000_usize {
        let key = key(&fixture, "k");
        // Not a regular pattern: an answer that slips by a few places must differ.
        let expected = match n * n % 7 {
            0 | 1 => Ownership::Held,
            2 => Ownership::Taken,
            _ => Ownership::Absent,
        };
        let holder = match expected {
            Ownership::Held => Some(&me),
            Ownership::Taken => Some(&other),
            Ownership::Absent => None,
        };
        held.extend(holder.map(|holder| (key.clone(), holder.clone())));
        keys.push((key, expected));
    }
    with_all(&held, |(key, holder)| take::<F>(&client, key, holder, TTL)).await;
    sleep(50 * MILLISECOND).await;
    let asked = Moment::now();
    let lost = owner();
    let (mut batch, mut all) = (Vec::new(), Vec::new());
    for (n, (key, expected)) in keys.iter().enumerate() {
        batch.push(RenewRequest::new(key, &me, TTL, Renew::AtLeast));
        all.push((key, *expected));
        if n % 5 == 0 && *expected == Ownership::Held {
            batch.push(RenewRequest::new(key, &lost, 2 * TTL, Renew::AtLeast));
            all.push((key, Ownership::Taken));
        }
    }
    let answers = client.renew(&batch).await;
    assert_eq!(answers.len(), all.len(), "an answer is missing");
    for (n, ((key, expected), answer)) in all.into_iter().zip(answers).enumerate() {
        assert_eq!(
            answer.expect("a renewal is answered"),
            expected,
            "the answer to renewal {n}, of {key}, which may be there for another owner too"
        );
    }
    keys.retain(|(_, expected)| *expected == Ownership::Held);
    with_all(&keys, |(key, _)| {
        assert_lasts::<F>(&client, key, TTL, asked)
    })
    .await;
}

/// Something that is no lock in the midst of a batch is an error of its own.
pub async fn one_key_that_fails_does_not_keep_the_others_from_being_renewed<F: Fixture>(
    fixture: F,
) {
    let (client, me) = (fixture.client().await, owner());
    let (first, odd, last) = (key(&fixture, "1"), key(&fixture, "2"), key(&fixture, "3"));
    obstruct(&fixture, &odd).await;
    take::<F>(&client, &first, &me, HOLD).await;
    take::<F>(&client, &last, &me, HOLD).await;
    let renewal = |key| RenewRequest::new(key, &me, HOLD, Renew::AtLeast);
    let answers = client
        .renew(&[renewal(&first), renewal(&odd), renewal(&last)])
        .await;
    assert!(
        matches!(
            answers[..],
            [Ok(Ownership::Held), Err(_), Ok(Ownership::Held)]
        ),
        "{answers:?}"
    );
    refused(&client, &last, &owner()).await;
}

/// A guard that is renewed keeps its lock for longer than its ttl, nobody gets it meanwhile, and it is renewed no more often than
/// it was to be.
pub async fn a_held_lock_is_renewed_for_as_long_as_it_is_held<F: Fixture>(fixture: F) {
    // Real time is dear: there, that the entry's end moves on has to do.
    if F::PAUSED {
        let (asked, oracle) = (Moment::now(), fixture.client().await);
        assert!(is_free(&oracle, &key(&fixture, "k")).await);
        // As short as a store can renew that is so far away.
        let ttl = (LEASE / 100).max(8 * asked.elapsed());
        is_kept(&fixture, ttl, 3, LEASE.min(10 * ttl)).await;
        is_kept(&fixture, LEASE, 100, 10 * LEASE).await;
    } else {
        // Longer than it takes until what is not renewed has less, however it is counted.
        is_kept(&fixture, LEASE, 100, SECOND + 2 * F::RESOLUTION).await;
    }
}

async fn is_kept<F: Fixture>(fixture: &F, ttl: Duration, often: u32, long: Duration) {
    let ((client, locks), oracle) = (watched_locks(fixture).await, fixture.client().await);
    let key = key(fixture, "k");
    let lock = locks.lock(key.name()).with_ttl(ttl);
    let guard = hold(&lock.with_renewal(RenewalPolicy::per_ttl(often))).await;
    let asked = Moment::now();
    while asked.elapsed() < long {
        refused(&oracle, &key, &owner()).await;
        assert!(guard.is_held(), "{:?}", guard.check());
        assert_outlives::<F>(&oracle, &guard).await;
        sleep(20 * MILLISECOND).await;
    }
    let interval = ttl / often;
    let fresh = ttl - (interval / 2).max(ttl / 20);
    eventually("it is renewed", async || {
        remaining(&oracle, &key).await + F::RESOLUTION > fresh
            && guard.remaining() > fresh - ttl / 20
    })
    .await;
    let (renewals, since) = (client.calls_of(Op::Renew).len(), asked.elapsed());
    let renewals = u32::try_from(renewals).expect("not that many");
    // Each may come a little sooner than all the time would say.
    let least = interval * 7 / 8;
    assert!(
        renewals * least <= since + 3 * least,
        "{renewals} renewals in {since:?}"
    );
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
    assert!(is_free(&oracle, &key).await);
}

/// Renewals that were applied and not answered are repeated, cost nothing, and make the entry last no longer than asked.
pub async fn a_renewal_whose_answer_is_lost_is_repeated<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key) = (fixture.client().await, key(&fixture, "k"));
    let guard = hold(&renewed(&locks, &key)).await;
    for _ in 0..3 {
        let lost = BackendError::unknown("the answer was lost");
        client.on(Op::Renew).next(Effect::LoseReply(lost));
    }
    let done = client.calls_of(Op::Renew).len() + 8;
    eventually("it is renewed", async || {
        assert_outlives::<F>(&oracle, &guard).await;
        let left = remaining(&oracle, &key).await;
        assert!(left <= LEASE + F::RESOLUTION, "the entry lasts {left:?}");
        client.calls_of(Op::Renew).len() >= done
    })
    .await;
    assert!(guard.is_held(), "{:?}", guard.check());
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
}

/// A guard can be prolonged and shortened, and at no time in between does anybody else get its lock. Only where the client
/// sends again by itself can it not be prolonged once it was shortened.
pub async fn a_guard_is_prolonged_and_shortened_and_never_free<F: Fixture>(fixture: F) {
    let (locks, oracle, key) = (
        locks(&fixture).await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    let guard = hold(&unrenewed(&locks, &key)).await;
    let is_over = AtomicBool::new(false);
    let try_to_get_it = async {
        while !is_over.load(Ordering::Relaxed) {
            refused(&oracle, &key, &owner()).await;
            yield_now().await;
        }
    };
    let change = async {
        for (add, ttl) in [
            (true, HOLD / 2),
            (false, 3 * HOLD),
            (true, HOLD),
            (false, HOLD / 3),
            (true, HOLD),
        ] {
            let (asked, before) = (Moment::now(), guard.remaining());
            let (changed, least, most) = if add {
                let sum = before + ttl;
                (guard.extend(ttl).await, sum, sum + HOLD / 10)
            } else {
                (guard.renew_for(ttl).await, ttl, ttl)
            };
            if before <= HOLD / 3 && oracle.capabilities().resends {
                let is_refused = matches!(changed, Err(LockError::Unsupported { .. }));
                assert!(is_refused && guard.is_held(), "{changed:?}");
                continue;
            }
            changed.expect("a lock that is held is prolonged");
            let left = remaining(&oracle, &key).await;
            let passed = asked.elapsed();
            assert!(
                left <= most + F::RESOLUTION && left + passed + F::RESOLUTION >= least,
                "{left:?} left after {passed:?}, of {least:?} to {most:?}"
            );
            assert_outlives::<F>(&oracle, &guard).await;
            let believed = guard.remaining();
            assert!(
                believed + asked.elapsed() + HOLD / 10 >= least,
                "{believed:?}"
            );
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(try_to_get_it, change);
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
}

/// A guard that is extended at the very moment at which a renewal of it arrives late, and beside others, has what both gave it:
/// whichever of the two comes first, the longer time stands.
pub async fn extending_beside_renewals_keeps_the_longer_time<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key) = (fixture.client().await, key(&fixture, "k"));
    let guard = hold(&renewed(&locks, &key)).await;
    let (asked, before) = (Moment::now(), guard.remaining());
    let add = LEASE / 2;
    for late_first in [false, true, false, true, false] {
        client.on(Op::Renew).next(Effect::Copy);
        let late = client.next_call().await;
        // The renewal itself has come and gone: an extension waits for it.
        sleep(5 * MILLISECOND).await;
        let extended = if late_first {
            tokio::join!(biased; late.apply(), guard.extend(add)).1
        } else {
            tokio::join!(biased; guard.extend(add), late.apply()).0
        };
        extended.expect("it is held");
        assert_outlives::<F>(&oracle, &guard).await;
    }
    let renewals = client.calls_of(Op::Renew).len() + 3;
    eventually("it is renewed", async || {
        client.calls_of(Op::Renew).len() >= renewals
    })
    .await;
    assert_outlives::<F>(&oracle, &guard).await;
    let left = guard.remaining() + asked.elapsed() + LEASE / 10;
    assert!(left >= before + 5 * add, "{guard:?}");
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
}

/// A guard that lost its lock cannot prolong it: it says how it was lost, brings nothing back and takes nothing away.
pub async fn extending_what_was_lost_says_so<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    for is_taken in [false, true] {
        for by_extend in [false, true] {
            let (key, next) = (key(&fixture, "k"), owner());
            let guard = hold(&unrenewed(&locks, &key)).await;
            evict(&fixture, &key).await;
            let asked = Moment::now();
            let expected = if is_taken {
                take::<F>(&oracle, &key, &next, HOLD).await;
                LossReason::Taken
            } else {
                LossReason::Absent
            };
            let answer = if by_extend {
                guard.extend(HOLD).await
            } else {
                guard.renew_for(HOLD / 2).await
            };
            let error = answer.expect_err("what was lost was prolonged");
            assert!(
                matches!(&error, LockError::Lost { reason, .. } if *reason == expected),
                "{error}"
            );
            assert!(!guard.is_held() && loss(&guard).await == expected);
            if is_taken {
                assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
                assert_eq!(release(&oracle, &key, &next).await, Ownership::Held);
            }
            assert!(is_free(&oracle, &key).await, "{key} was brought back");
        }
    }
}

/// No renewal brings back what is gone.
async fn assert_stays_away<F: Fixture>(client: &impl LockBackend, key: &LockKey, owner: &Owner) {
    for how in BOTH {
        assert_eq!(
            renew::<F>(client, key, owner, HOLD, how).await,
            Ownership::Absent
        );
        assert!(is_free(client, key).await, "a renewal brought {key} back");
    }
}
