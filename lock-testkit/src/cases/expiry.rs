//! Every entry ends, and none too early. Promises 2 and 3 of the contract; SCENARIOS C08, C17, C18, T01 to T06,
//! T11.

use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendErrorKind, DistributedLock, LockBackend, LockError, LockGuard,
    LockKey, Locks, LossReason, MAX_TTL, MIN_TTL, Moment, Ownership, Released, Renew,
    RenewalPolicy,
};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{
    BOUND, BRIEF, EARLY, HOLD, MILLISECOND, SHORT, assert_lasts, assert_outlives, attempt, brief,
    eventually, hold, is_free, key, locks, loss, owner, refused, release, renew, sized, sweep,
    take, unrenewed, watched_locks,
};
use crate::faulty::{Effect, Op};
use crate::fixture::Fixture;

/// What a guard of [`HOLD`] leaves for clocks that do not go alike.
const DRIFT: Duration = Duration::from_millis(302);

/// A holder that does nothing more loses the key, and the next one gets it.
pub async fn an_entry_ends_by_itself<F: Fixture>(fixture: F) {
    let (a, b, key, holder) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    take::<F>(&a, &key, &holder, SHORT).await;
    sleep(SHORT).await;
    eventually("the entry ends", async || is_free(&b, &key).await).await;
    take::<F>(&b, &key, &owner(), HOLD).await;
}

/// No entry ends before its ttl, counted from its grant and from its renewal, also where that is no whole number of the store's
/// units of time.
pub async fn an_entry_lasts_at_least_its_ttl<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let ttls = [
        (Duration::from_micros(10_500), 8),
        (Duration::from_micros(20_900), 4),
        (SHORT, 2),
    ];
    for (ttl, times) in ttls {
        for time in 0..times {
            let (key, next) = (key(&fixture, "k"), owner());
            let (me, mut asked) = loop {
                let (asked, owner) = (Moment::now(), owner());
                match a.try_acquire(AcquireRequest::new(&key, &owner, ttl)).await {
                    Ok(Attempt::Granted(_)) => break (owner, asked),
                    // A grant that counts only when others have it too may not get there in so short a time.
                    Err(error) if error.kind() == BackendErrorKind::Transient => {}
                    other => panic!("{key} should be granted: {other:?}"),
                }
            };
            if time % 2 == 1 {
                sleep(3 * MILLISECOND).await;
                let before = Moment::now();
                // It may have ended by now.
                if renew::<F>(&a, &key, &me, ttl, Renew::AtLeast).await == Ownership::Held {
                    asked = before;
                }
            }
            while let Attempt::Busy(_) = attempt(&b, &key, &next, HOLD).await {
                if F::PAUSED {
                    sleep(MILLISECOND).await
                } else {
                    tokio::task::yield_now().await
                }
            }
            let lasted = asked.elapsed();
            assert!(lasted >= ttl, "an entry for {ttl:?} ended after {lasted:?}");
            release(&b, &key, &next).await;
        }
    }
}

/// A grant and each kind of renewal leave an entry that ends, when it was asked to.
pub async fn every_entry_has_an_end<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    let asked = Moment::now();
    take::<F>(&client, &key, &owner, HOLD).await;
    assert_lasts::<F>(&client, &key, HOLD, asked).await;
    for how in [Renew::AtLeast, Renew::Exactly] {
        let asked = Moment::now();
        assert_eq!(
            renew::<F>(&client, &key, &owner, HOLD, how).await,
            Ownership::Held
        );
        assert_lasts::<F>(&client, &key, HOLD, asked).await;
    }
}

/// An attempt that is dropped at any of its await points leaves no entry, or one that ends.
pub async fn a_dropped_attempt_leaves_nothing_without_an_end<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let (mut keys, owner) = (Vec::new(), owner());
    sweep::<F, _>(
        |_| {
            let (a, owner, key) = (&a, &owner, key(&fixture, "k"));
            keys.push(key.clone());
            async move { attempt(a, &key, owner, SHORT).await }
        },
        async |_| {},
    )
    .await;
    for key in &keys {
        eventually("what was dropped ends", async || is_free(&b, key).await).await;
    }
}

/// The entry ends after the guard, and never before: however long the grant was on its way, and to the very end.
pub async fn an_entry_outlives_its_guard<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let oracle = fixture.client().await;
    // Longer than a guard ends before its entry: and the last comes after an answer that took so long.
    let delay = 2 * SHORT;
    for (effect, late) in [
        (Effect::Honest, Duration::ZERO),
        (Effect::DelayBefore(delay), delay),
        (Effect::DelayAfter(delay), delay),
        (Effect::Honest, Duration::ZERO),
    ] {
        client.on(Op::Acquire).next(effect);
        let guard = hold(&unrenewed(&locks, &key(&fixture, "k"))).await;
        let left = guard.remaining();
        assert!(left + late + DRIFT <= HOLD, "{left:?} left, {late:?} late");
        assert_outlives::<F>(&oracle, &guard).await;
    }
    let guard = hold(&brief(&locks, &key(&fixture, "k"))).await;
    while guard.is_held() {
        let is_free = is_free(&oracle, guard.key()).await;
        // Looked at after the answer.
        assert!(!is_free || !guard.is_held(), "{guard:?} has no entry");
        sleep(MILLISECOND).await;
    }
}

/// The entry belongs to its owner, and not to the client or the connection that took it: it is there until its ttl is over, and its
/// owner can prolong and release it at another client.
pub async fn an_entry_outlives_the_client_that_took_it<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let (key, me, asked) = (key(&fixture, "k"), owner(), Moment::now());
    take::<F>(&a, &key, &me, HOLD).await;
    drop(a);
    // It may end in the background.
    sleep(100 * MILLISECOND).await;
    assert_lasts::<F>(&b, &key, HOLD, asked).await;
    refused(&b, &key, &owner()).await;
    let renewed = renew::<F>(&b, &key, &me, HOLD, Renew::AtLeast).await;
    assert_eq!(renewed, Ownership::Held);
    assert_eq!(release(&b, &key, &me).await, Ownership::Held);
}

/// Who waited for a lock has it for the whole ttl from the winning attempt on, however long the wait was.
pub async fn a_ttl_counts_from_the_attempt_that_was_granted<F: Fixture>(fixture: F) {
    let (a, (client, b)) = (locks(&fixture).await, watched_locks(&fixture).await);
    let (oracle, key) = (fixture.client().await, key(&fixture, "k"));
    let held = hold(&unrenewed(&a, &key)).await;
    let waiter = async {
        let guard = hold(&unrenewed(&b, &key)).await;
        let left = guard.remaining();
        // The last that was made.
        let attempts = client.calls_of(Op::Acquire);
        let since = attempts.last().expect("an attempt").at.elapsed();
        assert_outlives::<F>(&oracle, &guard).await;
        (guard, left, since)
    };
    let ((guard, left, since), asked) = tokio::join!(waiter, async {
        sleep(2 * SHORT).await;
        let asked = Moment::now();
        drop(held);
        asked
    });
    assert!(
        left + since + DRIFT + EARLY >= HOLD,
        "{left:?} left, {since:?} after the attempt that was granted"
    );
    assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
}

/// A lock whose holder is no more comes free when its ttl is over: not before, and not much later.
pub async fn a_lock_whose_holder_is_gone_comes_free_after_its_ttl<F: Fixture>(fixture: F) {
    let (a, b, key) = (
        locks(&fixture).await,
        locks(&fixture).await,
        key(&fixture, "k"),
    );
    let (took, asked) = {
        let (lock, asked) = (brief(&a, &key), Moment::now());
        // As if its process had ended.
        std::mem::forget(hold(&lock).await);
        let granted = Moment::now();
        drop(hold(&unrenewed(&b, &key)).await);
        (granted.elapsed(), asked)
    };
    assert!(
        asked.elapsed() >= BRIEF,
        "it came free before the ttl was over"
    );
    assert!(took < BRIEF + BOUND, "it came free after {took:?}");
}

/// What is left to expire is not renewed and not released: it ends with its ttl.
pub async fn what_is_left_to_expire_ends_with_its_ttl<F: Fixture>(fixture: F) {
    let (client, a) = watched_locks(&fixture).await;
    let (b, key) = (locks(&fixture).await, key(&fixture, "k"));
    let lock = brief(&a, &key).with_renewal(RenewalPolicy::default());
    let asked = Moment::now();
    hold(&lock).await.leave_to_expire();
    let renewals = client.calls_of(Op::Renew).len();
    drop(hold(&unrenewed(&b, &key)).await);
    assert!(asked.elapsed() >= BRIEF, "it ended before its ttl was over");
    // One may have been on its way already.
    let renewals = client.calls_of(Op::Renew).len() - renewals;
    assert!(renewals <= 1, "renewed {renewals} times");
}

/// The longest ttl is kept; one that is longer, or shorter than the shortest, is refused before anything is sent.
pub async fn the_longest_ttl_is_kept_and_no_other_ttl_is_sent<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key) = (fixture.client().await, key(&fixture, "k"));
    let lock = unrenewed(&locks, &key);
    let nanosecond = Duration::from_nanos(1);
    for ttl in [
        Duration::ZERO,
        nanosecond,
        MIN_TTL - nanosecond,
        MAX_TTL + nanosecond,
        Duration::MAX,
    ] {
        let lock = lock.clone().with_ttl(ttl);
        for answer in [lock.try_acquire().await, lock.acquire().await] {
            let error = answer.expect_err("a ttl out of bounds was granted");
            assert!(matches!(error, LockError::Invalid { .. }), "{error}");
            assert!(!error.is_retryable());
        }
    }
    assert!(client.calls().is_empty(), "{:?}", client.calls());
    let asked = Moment::now();
    let guard = hold(&lock.with_ttl(MAX_TTL)).await;
    assert_lasts::<F>(&oracle, &key, MAX_TTL, asked).await;
    assert_outlives::<F>(&oracle, &guard).await;
}

/// The shortest ttls are granted late, or end, and leave nothing; where they are renewed, that is not again and again without a
/// pause. (Thirty times; a thousand in virtual time, and with `FENCELOCK_LONG`.)
pub async fn the_shortest_ttls_end_and_leave_nothing<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (watched_locks(&fixture).await, fixture.client().await);
    for ttl in [MIN_TTL, MIN_TTL + MILLISECOND, 2 * MIN_TTL] {
        for renewal in [RenewalPolicy::never(), RenewalPolicy::default()] {
            let key = key(&fixture, "k");
            let lock = locks.lock(key.name()).with_ttl(ttl).with_renewal(renewal);
            let start = Moment::now();
            for _ in (0..sized::<F, _>(5, 170)).take_while(|_| start.elapsed() < BOUND) {
                match lock.try_acquire().await {
                    Ok(guard) if renewal == RenewalPolicy::never() => {
                        let found = oracle.inspect(&key).await;
                        let found = found.expect("an inspection is answered");
                        // On a loaded machine it may have ended by now.
                        let left = found.and_then(|holder| holder.remaining);
                        let left = left.unwrap_or_default();
                        assert!(
                            left <= ttl + F::RESOLUTION,
                            "an entry for {ttl:?} lasts {left:?}"
                        );
                        eventually("the guard ends", async || !guard.is_held()).await;
                        assert_eq!(loss(&guard).await, LossReason::Unconfirmed);
                        guard.leave_to_expire();
                    }
                    Ok(guard) => {
                        let (asked, before) = (Moment::now(), client.calls_of(Op::Renew).len());
                        sleep(3 * ttl).await;
                        let renewals = client.calls_of(Op::Renew).len() - before;
                        let since = asked.elapsed();
                        // None of its waits is shorter, whatever becomes of it.
                        let most = since.as_millis() + 3;
                        let is_enough = u128::try_from(renewals).is_ok_and(|number| number <= most);
                        assert!(is_enough, "{renewals} renewals in {since:?}");
                        drop(guard);
                    }
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                eventually("the entry ends", async || is_free(&oracle, &key).await).await;
            }
        }
    }
}

/// A holder that did not run for longer than its ttl sees so before it does anything, and what it does late harms nobody.
pub async fn a_holder_that_was_frozen_leaves_the_next_one_alone<F: Fixture>(fixture: F) {
    let (oracle, key, next) = (fixture.client().await, key(&fixture, "k"), owner());
    let take_when_free = async || {
        let mut asked = Moment::now();
        eventually("the frozen holder's entry ends", async || {
            asked = Moment::now();
            let answer = attempt(&oracle, &key, &next, HOLD).await;
            matches!(answer, Attempt::Granted(_))
        })
        .await;
        asked
    };
    let asked;
    if F::PAUSED {
        let guard = hold(&frozen(&locks(&fixture).await, &key)).await;
        // All at once: nothing runs on the way.
        tokio::time::advance(2 * BRIEF).await;
        asked = take_when_free().await;
        wake_up(guard).await;
    } else {
        // A runtime of its own, which nobody drives while it is frozen.
        let (client, prefix) = (fixture.client().await, fixture.prefix().to_owned());
        let (froze, frozen_now) = oneshot::channel();
        let (resume, resumed) = std::sync::mpsc::channel::<()>();
        let holder = Handle::current().spawn_blocking({
            let key = key.clone();
            move || {
                let runtime = Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime can be started");
                let locks = Locks::new(client).with_prefix(prefix);
                let guard = runtime.block_on(async { hold(&frozen(&locks, &key)).await });
                let _ = froze.send(());
                let _ = resumed.recv();
                runtime.block_on(wake_up(guard));
            }
        });
        frozen_now.await.expect("it was granted");
        asked = take_when_free().await;
        drop(resume);
        holder.await.expect("it did not panic");
    }
    assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
    assert_eq!(release(&oracle, &key, &next).await, Ownership::Held);
}

/// As brief as a case can wait for, and renewed, while somebody runs it.
fn frozen(locks: &Locks, key: &LockKey) -> DistributedLock {
    brief(locks, key).with_renewal(RenewalPolicy::default())
}

/// What a holder does that has been frozen, while another took the lock.
pub(super) async fn wake_up(guard: LockGuard) {
    assert!(!guard.is_held(), "it believes in a lock that it lost");
    assert!(matches!(guard.check(), Err(LockError::Lost { .. })));
    assert!(guard.renew_for(HOLD).await.is_err());
    let found = guard.release().await;
    assert!(!matches!(found, Ok(Released::Released)), "{found:?}");
}
