//! Who waits is woken, and served, or told that the wait is over. The promises of `Wakeups` and `Wakeup`; contract G7, G17,
//! G18; SCENARIOS C02, C08, C14 to C16, W01, W05, W07 to W10, W13.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_core::{
    BackendError, LockBackend, LockError, LockKey, LockOptions, Moment, Ownership, RetryPolicy,
    Wakeup,
};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::{
    BOUND, EARLY, HOLD, MILLISECOND, OP, SHORT, assert_lasts, distant_locks, eager, eventually,
    key, labelled, locks, owner, refused, release, scaled, sized, take, unrenewed, watched_locks,
    with_all,
};
use crate::faulty::{Effect, Op};
use crate::fixture::Fixture;
use crate::sweep::drive;

/// A waiter that a store with wake-ups serves only if it is woken, and that polls all the time at one without.
pub(super) fn patient() -> LockOptions {
    LockOptions::default()
        .with_ttl(HOLD)
        .with_retry(eager())
        .with_recheck(10 * BOUND)
}

/// A release wakes all who subscribe to the key, at whatever client, once for each release.
pub async fn a_release_wakes_all_who_subscribe<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let key = key(&fixture, "k");
    let mut all = [
        subscribe(&a, &key).await,
        subscribe(&b, &key).await,
        subscribe(&b, &key).await,
    ];
    for _ in 0..3 {
        take_and_release::<F>(&a, &key).await;
        for wakeup in &mut all {
            woken(wakeup).await;
        }
    }
}

/// What happened between subscribing and waiting is not lost.
pub async fn a_release_before_the_wait_counts<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let key = key(&fixture, "k");
    let mut wakeup = subscribe(&b, &key).await;
    take_and_release::<F>(&a, &key).await;
    // Delivered before anybody waits for it.
    sleep(100 * MILLISECOND).await;
    woken(&mut wakeup).await;
}

/// A wait that is dropped at any of its await points, before or after it was woken, takes no wake-up along.
pub async fn an_unfinished_wait_can_be_dropped<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    for release_first in [true, false] {
        for cut in 0.. {
            let key = key(&fixture, "k");
            let mut wakeup = subscribe(&b, &key).await;
            if release_first {
                take_and_release::<F>(&a, &key).await;
            }
            let wait = drive(wakeup.notified(), 1 + cut / 2, cut % 2 == 1);
            let is_over = if release_first {
                wait.await
            } else {
                tokio::join!(wait, take_and_release::<F>(&a, &key)).0
            };
            if is_over {
                break;
            }
            woken(&mut wakeup).await;
        }
    }
}

/// The last of several subscriptions is woken although the others are gone, and a new one works as well.
pub async fn dropping_one_subscription_leaves_the_others<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let key = key(&fixture, "k");
    let (first, mut second) = (subscribe(&b, &key).await, subscribe(&b, &key).await);
    drop(first);
    take_and_release::<F>(&a, &key).await;
    woken(&mut second).await;
    drop(second);
    let mut third = subscribe(&b, &key).await;
    take_and_release::<F>(&a, &key).await;
    woken(&mut third).await;
}

/// A waiter at another client gets the lock when its holder releases it, or drops its guard.
pub async fn a_waiter_is_served_after_a_release<F: Fixture>(fixture: F) {
    let (a, b) = (locks(&fixture).await, locks(&fixture).await);
    for drops in [false, true] {
        let key = key(&fixture, "k");
        let guard = a.lock(key.name()).with_options(patient()).acquire().await;
        let guard = guard.expect("it is free");
        let waiter = b.lock(key.name()).with_options(patient());
        let waiter = Handle::current().spawn(async move { waiter.acquire().await });
        sleep(50 * MILLISECOND).await;
        assert!(!waiter.is_finished(), "it is held");
        if drops {
            drop(guard);
        } else {
            guard.release().await.expect("a release is answered");
        }
        let next = timeout(BOUND, waiter).await;
        let next = next.expect("the waiter is served").expect("no panic");
        assert!(next.expect("it is free").is_held());
    }
}

/// A hundred waiters at four clients are served one after the other, until none is left. (With `FENCELOCK_LONG` a thousand.)
pub async fn a_hundred_waiters_are_all_served<F: Fixture>(fixture: F) {
    let (key, holder) = (key(&fixture, "k"), fixture.client().await);
    let (me, of_each) = (owner(), scaled(25, 250));
    take::<F>(&holder, &key, &me, HOLD).await;
    let mut waiters = JoinSet::new();
    for _ in 0..4 {
        let lock = locks(&fixture).await.lock(key.name());
        let lock = lock.with_options(patient()).with_wait(12 * BOUND);
        for _ in 0..of_each {
            let lock = lock.clone();
            waiters.spawn(async move {
                let guard = lock.acquire().await.expect("everybody is served");
                sleep(MILLISECOND).await;
                guard.release().await.expect("a release is answered");
            });
        }
    }
    sleep(50 * MILLISECOND).await;
    assert_eq!(release(&holder, &key, &me).await, Ownership::Held);
    // Each before the ttl of a holder is over, when all would look by themselves.
    let mut served = 0;
    let next = async |waiters: &mut JoinSet<()>| timeout(BOUND, waiters.join_next()).await;
    while let Some(waiter) = next(&mut waiters).await.expect("all are served") {
        waiter.expect("no panic");
        served += 1;
    }
    assert_eq!(served, 4 * of_each);
}

/// Waiters that give up, or are dropped, neither get the lock nor keep those that stay from it.
pub async fn waiters_that_go_do_not_keep_the_others_waiting<F: Fixture>(fixture: F) {
    let (key, holder) = (key(&fixture, "k"), fixture.client().await);
    let me = owner();
    take::<F>(&holder, &key, &me, HOLD).await;
    let (mut go, mut stay) = (JoinSet::new(), JoinSet::new());
    for _ in 0..2 {
        let lock = locks(&fixture).await.lock(key.name());
        let lock = lock.with_options(patient());
        for waiter in 0..12 {
            let lock = lock.clone();
            match waiter % 4 {
                0 => {
                    _ = go.spawn(async move {
                        let error = lock.with_wait(30 * MILLISECOND).acquire().await;
                        assert!(error.expect_err("it is held").is_busy());
                    })
                }
                1 => {
                    _ = go.spawn(async move {
                        let dropped = timeout(30 * MILLISECOND, lock.acquire()).await;
                        assert!(dropped.is_err(), "it is held");
                    })
                }
                _ => {
                    _ = stay.spawn(async move {
                        let guard = lock.acquire().await.expect("who stays is served");
                        guard.release().await.expect("a release is answered");
                    })
                }
            }
        }
    }
    go.join_all().await;
    assert_eq!(release(&holder, &key, &me).await, Ownership::Held);
    let served = timeout(BOUND, stay.join_all()).await;
    assert_eq!(served.expect("who stays is served").len(), 12);
}

/// A thousand waiters whose wait is over before the lock is free are told so, by then and not before; the holder's entry is
/// as it was.
pub async fn a_wait_that_is_over_says_who_holds_the_lock<F: Fixture>(fixture: F) {
    // Who the holder is, one of each client's is told by the store, and the others by that one: some time before.
    let wait = 2 * OP;
    let (key, holder) = (key(&fixture, "k"), fixture.client().await);
    let (me, asked) = (labelled("me"), Moment::now());
    take::<F>(&holder, &key, &me, HOLD).await;
    let mut waiters = JoinSet::new();
    for _ in 0..4 {
        let lock = locks(&fixture).await.lock(key.name()).with_wait(wait);
        for _ in 0..250 {
            let lock = lock.clone();
            waiters.spawn(async move {
                let start = Moment::now();
                let error = lock.acquire().await.expect_err("it is held");
                let LockError::TimedOut { waited, holder, .. } = &error else {
                    panic!("the wait is over, and the error is {error}");
                };
                assert_eq!(holder.label.as_deref(), Some("me"));
                let took = start.elapsed();
                let in_time = wait - EARLY..wait + BOUND;
                assert!(in_time.contains(&took), "{wait:?} took {took:?}");
                assert!(in_time.contains(waited), "{took:?}, said {waited:?}");
            });
        }
    }
    waiters.join_all().await;
    assert_lasts::<F>(&holder, &key, HOLD, asked).await;
    assert_eq!(release(&holder, &key, &me).await, Ownership::Held);
}

/// A wait of zero is one attempt, which takes no longer than one that is granted, and nobody subscribes for it.
#[allow(
    clippy::disallowed_methods,
    reason = "whether virtual time went on, which the suspended machine's clock does not say"
)]
pub async fn a_wait_of_zero_is_one_attempt<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key) = (fixture.client().await, key(&fixture, "k"));
    let start = Instant::now();
    take::<F>(&oracle, &key, &owner(), HOLD).await;
    let usual = start.elapsed();
    let lock = unrenewed(&locks, &key).with_wait(Duration::ZERO);
    let start = Instant::now();
    let error = lock.acquire().await.expect_err("a held lock was granted");
    let took = start.elapsed();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    let is_at_once = if F::PAUSED {
        took <= usual
    } else {
        took < BOUND
    };
    assert!(is_at_once, "an attempt for nothing took {took:?}");
    let mut calls = client.calls();
    // Where there is a line, its place is given up in the background.
    calls.retain(|call| call.op != Op::Leave);
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].op, Op::Acquire);
}

/// A policy of so many retries makes them, with its delays between them, from every way in; then the lock is busy.
pub async fn retries_are_made_as_often_as_was_asked<F: Fixture>(fixture: F) {
    let ((client, locks), key) = (watched_locks(&fixture).await, key(&fixture, "k"));
    let (holder, me) = (fixture.client().await, owner());
    take::<F>(&holder, &key, &me, HOLD).await;
    let delay = 50 * MILLISECOND;
    for (retries, with) in [(3, false), (3, true), (0, false)] {
        let (start, before) = (Moment::now(), client.calls_of(Op::Acquire).len());
        let retry = RetryPolicy::every(delay).at_most(retries);
        // Who tries for ever is found by its attempts, long before the lock comes free.
        let retry = retry.give_up_after(BOUND);
        let lock = locks.lock(key.name()).with_retry(retry);
        let error = if with {
            lock.with(async |_| Ok::<_, LockError>(())).await.err()
        } else {
            lock.acquire().await.err()
        };
        let error = error.expect("it is held");
        assert!(error.is_busy(), "{error}");
        let took = start.elapsed() + EARLY;
        assert!(took >= delay * retries, "{retries} retries in {took:?}");
        let attempts = client.calls_of(Op::Acquire).len() - before;
        // One more looks for what was released before it subscribed; and a store may wake for no reason.
        let least = usize::try_from(retries).expect("a small number") + 1;
        assert!(
            (least..=least + 4).contains(&attempts),
            "{attempts} attempts"
        );
    }
    assert_eq!(release(&holder, &key, &me).await, Ownership::Held);
}

/// Where a holder has died without a word, its waiters get the lock when its ttl is over, and not before.
pub async fn a_waiter_is_served_when_the_holder_has_died<F: Fixture>(fixture: F) {
    let (key, holder) = (key(&fixture, "k"), fixture.client().await);
    let asked = Moment::now();
    take::<F>(&holder, &key, &owner(), SHORT).await;
    let mut waiters = JoinSet::new();
    for _ in 0..3 {
        let lock = locks(&fixture).await.lock(key.name()).with_retry(eager());
        waiters.spawn(async move {
            let guard = lock.acquire().await.expect("it comes free");
            let since = asked.elapsed();
            assert!(since >= SHORT, "granted after {since:?} of {SHORT:?}");
            guard.release().await.expect("a release is answered");
        });
    }
    let served = timeout(BOUND, waiters.join_all()).await;
    assert_eq!(served.expect("all are served").len(), 3);
}

/// A waiter that no wake-up reaches, or that cannot subscribe, looks again by itself.
pub async fn a_waiter_that_nobody_wakes_is_served<F: Fixture>(fixture: F) {
    let error = BackendError::transient("part of the case");
    for effect in [
        Effect::Honest,
        Effect::FailBefore(error),
        Effect::HangBefore,
    ] {
        let ((client, locks), key) = (watched_locks(&fixture).await, key(&fixture, "k"));
        let (holder, me) = (fixture.client().await, owner());
        take::<F>(&holder, &key, &me, HOLD).await;
        client.lose_wakeups(true);
        client.on(Op::Subscribe).always(effect);
        let options = LockOptions::default().with_recheck(OP / 5);
        let lock = locks.lock(key.name()).with_options(options);
        let lock = lock.with_op_timeout(OP).with_retry(eager());
        let waiter = Handle::current().spawn(async move { lock.acquire().await });
        sleep(50 * MILLISECOND).await;
        assert_eq!(release(&holder, &key, &me).await, Ownership::Held);
        let next = timeout(BOUND, waiter).await;
        let next = next.expect("the waiter is served").expect("no panic");
        assert!(next.expect("it is free").is_held());
    }
}

/// A waiter is served although another client takes the lock again as soon as it has released it. In the end: how soon
/// is for the store to say.
pub async fn a_waiter_is_served_beside_a_greedy_one<F: Fixture>(fixture: F) {
    let (key, is_over) = (key(&fixture, "k"), Arc::new(AtomicBool::new(false)));
    // As for everybody, it takes time until its next attempt arrives: who polls can come in between.
    let greedy = distant_locks(&fixture).await.1.lock(key.name());
    let greedy = greedy.with_options(patient());
    let first = greedy.acquire().await.expect("it is free");
    let greed = {
        let is_over = Arc::clone(&is_over);
        async move {
            let mut guard = first;
            while !is_over.load(Ordering::SeqCst) {
                sleep(MILLISECOND).await;
                guard.release().await.expect("a release is answered");
                guard = greedy.acquire().await.expect("it comes free");
            }
        }
    };
    let greed = Handle::current().spawn(greed);
    let polite = locks(&fixture).await.lock(key.name());
    let polite = polite.with_options(patient());
    for _ in 0..3 {
        let guard = timeout(BOUND, polite.acquire()).await;
        let guard = guard.expect("it is served in the end");
        drop(guard.expect("it comes free"));
    }
    is_over.store(true, Ordering::SeqCst);
    greed.await.expect("no panic");
}

/// Waiters of several clients get the lock in the order in which they came, and nobody who comes later is served before them; those
/// that have gone keep nobody waiting.
pub async fn waiters_are_served_in_the_order_they_came<F: Fixture>(fixture: F) {
    const WAITERS: usize = 6;
    let ((holder, me), key) = ((fixture.client().await, owner()), key(&fixture, "k"));
    take::<F>(&holder, &key, &me, HOLD).await;
    let (served, mut waiters) = (Arc::default(), Vec::new());
    for place in 0..WAITERS {
        waiters.push(comes(&fixture, &key, place, &served).await);
    }
    // The first, and one in the middle.
    for gone in [0, 3] {
        waiters[gone].abort();
    }
    let late = locks(&fixture).await.lock(key.name());
    sleep(50 * MILLISECOND).await;
    assert_eq!(release(&holder, &key, &me).await, Ownership::Held);
    let answer = late.try_acquire().await;
    assert!(answer.is_err(), "who came last is served first: {answer:?}");
    for (place, waiter) in waiters.into_iter().enumerate() {
        let ended = timeout(BOUND, waiter).await;
        let ended = ended.unwrap_or_else(|_| panic!("{place} is not served"));
        assert_eq!(ended.is_ok(), ![0, 3].contains(&place));
    }
    let served = served.lock().expect("no panic").clone();
    assert_eq!(served, [1, 2, 4, 5], "they are not served in order");
}

/// Waiters that died in line, and neither try again nor leave, keep those that live waiting for a minute in all, however many
/// there are; these are served in order. (A hundred that died; a thousand in virtual time, and with
/// `FENCELOCK_LONG`.)
pub async fn those_who_died_in_line_keep_nobody_waiting<F: Fixture>(fixture: F) {
    let ((holder, me), key) = ((fixture.client().await, owner()), key(&fixture, "k"));
    take::<F>(&holder, &key, &me, HOLD).await;
    // Its connections stay, and nothing more is heard of it.
    let (frozen, mut dead) = (fixture.client().await, Vec::new());
    let (served, mut living) = (Arc::default(), JoinSet::new());
    for place in 0..2 {
        let start = Moment::now();
        let die = async |_| {
            let busy = refused(&frozen, &key, &owner()).await;
            let subscribed = frozen.wakeups()?.subscribe(&key, busy.place.as_ref()).await;
            Some(subscribed.expect("a subscription is confirmed"))
        };
        // All of them while the lock is held yet.
        let all = (0..sized::<F, _>(50, 500)).take_while(|_| start.elapsed() < HOLD / 4);
        dead.extend(with_all(all, die).await);
        living.spawn(comes(&fixture, &key, place, &served).await);
    }
    assert_eq!(release(&holder, &key, &me).await, Ownership::Held);
    let ended = timeout(6 * BOUND, living.join_all()).await;
    for waiter in ended.expect("they wait for the dead") {
        waiter.expect("no panic");
    }
    let served = served.lock().expect("no panic").clone();
    assert_eq!(served, [0, 1], "they are not served in order");
}

/// Waits for `key` at a client of its own and notes when it is served; before the next one comes.
async fn comes<F: Fixture>(
    fixture: &F,
    key: &LockKey,
    place: usize,
    served: &Arc<Mutex<Vec<usize>>>,
) -> JoinHandle<()> {
    let (client, locks) = watched_locks(fixture).await;
    let (lock, served) = (locks.lock(key.name()), Arc::clone(served));
    let retry = RetryPolicy::every(20 * MILLISECOND).give_up_after(12 * BOUND);
    let lock = lock.with_retry(retry);
    let waiter = Handle::current().spawn(async move {
        let guard = lock.acquire().await.expect("everybody is served");
        served.lock().expect("no panic").push(place);
        sleep(5 * MILLISECOND).await;
        guard.release().await.expect("a release is answered");
    });
    let waits = async || client.calls_of(Op::Acquire).len() > 1;
    eventually("it has come", waits).await;
    sleep(5 * MILLISECOND).await;
    waiter
}

pub(crate) async fn subscribe(client: &impl LockBackend, key: &LockKey) -> Box<dyn Wakeup> {
    let wakeups = client
        .wakeups()
        .expect("a store that declares wake-ups has them");
    let subscribed = timeout(BOUND, wakeups.subscribe(key, None)).await;
    subscribed
        .unwrap_or_else(|_| panic!("not subscribed within {BOUND:?}"))
        .expect("a subscription is confirmed")
}

pub(crate) async fn woken(wakeup: &mut Box<dyn Wakeup>) {
    let woken = timeout(BOUND, wakeup.notified()).await;
    assert!(woken.is_ok(), "not woken within {BOUND:?}: {wakeup:?}");
}

pub(crate) async fn take_and_release<F: Fixture>(client: &impl LockBackend, key: &LockKey) {
    let owner = owner();
    take::<F>(client, key, &owner, HOLD).await;
    assert_eq!(release(client, key, &owner).await, Ownership::Held);
}
