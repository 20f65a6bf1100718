//! At most one owner at a time. Promises 1 and 5 of `try_acquire`; contract G1, G12; SCENARIOS C01, C10, C21 to C23.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lock_core::{
    Attempt, Holder, LockBackend, LockError, LockKey, Moment, Owner, Ownership, Released, Renew,
};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

use super::{
    BOUND, HOLD, MILLISECOND, assert_lasts, attempt, beside, eager, hold, is_enough, key, labelled,
    locks, owner, refused, release, renew, sized, take, unrenewed, watched_locks,
};
use crate::fixture::Fixture;
use crate::history::History;
use crate::linear::{Answered, Asked, Calls, UNNAMED};

/// A held key is busy, at once, for another client and for another owner of the same client.
pub async fn a_held_key_is_busy_for_everybody_else<F: Fixture>(fixture: F) {
    let (a, b, key, holder) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    take::<F>(&a, &key, &holder, HOLD).await;
    let asked = Moment::now();
    refused(&b, &key, &owner()).await;
    refused(&a, &key, &owner()).await;
    assert!(asked.elapsed() < BOUND, "an attempt waited for the holder");
    assert_eq!(release(&a, &key, &holder).await, Ownership::Held);
}

/// Attempts that are refused neither prolong nor shorten nor take the entry.
pub async fn a_busy_answer_touches_nothing<F: Fixture>(fixture: F) {
    let (a, b, key, holder) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    let asked = Moment::now();
    take::<F>(&a, &key, &holder, HOLD).await;
    sleep(50 * MILLISECOND).await;
    let before = super::remaining(&b, &key).await;
    for ttl in [MILLISECOND * 10, HOLD, 2 * HOLD] {
        assert!(matches!(
            attempt(&b, &key, &owner(), ttl).await,
            Attempt::Busy(_)
        ));
    }
    assert!(
        super::remaining(&b, &key).await <= before,
        "a refused attempt prolonged the entry"
    );
    assert_lasts::<F>(&a, &key, HOLD, asked).await;
    assert_eq!(release(&a, &key, &holder).await, Ownership::Held);
}

/// Of sixteen attempts at the same time, exactly one is granted, many times over; and each of them where each is for a key of its
/// own.
pub async fn of_many_concurrent_attempts_one_is_granted<F: Fixture>(fixture: F) {
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(Arc::new(fixture.client().await));
    }
    for round in 0..24 {
        let (one, alone) = (key(&fixture, "k"), round % 6 == 5);
        let mut attempts = JoinSet::new();
        for client in &clients {
            let key = if alone {
                key(&fixture, "k")
            } else {
                one.clone()
            };
            let client = Arc::clone(client);
            attempts.spawn(async move { attempt(&*client, &key, &owner(), HOLD).await });
        }
        let granted = attempts.join_all().await;
        let granted = granted
            .iter()
            .filter(|answer| matches!(answer, Attempt::Granted(_)))
            .count();
        let free = if alone { 16 } else { 1 };
        assert_eq!(granted, free, "of 16 concurrent attempts for {free} keys");
    }
}

/// Sixteen tasks that take and release one key are never inside at the same time.
pub async fn two_holds_never_overlap<F: Fixture>(fixture: F) {
    let (key, inside) = (key(&fixture, "k"), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let (client, key, inside) = (fixture.client().await, key.clone(), Arc::clone(&inside));
        tasks.spawn(async move {
            let mut sections = 0;
            while sections < 8 {
                let owner = owner();
                if let Attempt::Granted(_) = attempt(&client, &key, &owner, HOLD).await {
                    assert_eq!(
                        inside.fetch_add(1, Ordering::SeqCst),
                        0,
                        "two holds at a time"
                    );
                    sleep(MILLISECOND).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(release(&client, &key, &owner).await, Ownership::Held);
                    sections += 1;
                }
                sleep(MILLISECOND * (1 + task % 3)).await;
            }
        });
    }
    tasks.join_all().await;
}

/// A lock that is held is busy for everybody else, who is told by whom and for how long, and stays the holder's.
pub async fn a_held_lock_is_busy_and_says_who_holds_it<F: Fixture>(fixture: F) {
    let (a, b, key) = (
        locks(&fixture).await.with_label("a"),
        locks(&fixture).await,
        key(&fixture, "k"),
    );
    let guard = hold(&unrenewed(&a, &key)).await;
    for other in [&a, &b] {
        let error = other.lock(key.name()).try_acquire().await;
        let error = error.expect_err("a held lock was granted");
        let LockError::Busy {
            key: told, holder, ..
        } = &error
        else {
            panic!("a held lock is busy, and not: {error}");
        };
        assert_eq!((told, holder.label.as_deref()), (&key, Some("a")));
        let left = holder.remaining.expect("an entry of ours has an end");
        assert!(!left.is_zero() && left <= HOLD + F::RESOLUTION, "{left:?}");
        assert!(error.is_retryable());
    }
    assert!(guard.is_held());
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
}

/// Whoever holds a lock and asks for it again finds it busy, through the same lock, a clone, another lock, and other locks
/// at the same client.
pub async fn a_lock_is_not_reentrant<F: Fixture>(fixture: F) {
    let ((client, locks), key) = (watched_locks(&fixture).await, key(&fixture, "k"));
    let lock = unrenewed(&locks, &key);
    let guard = hold(&lock).await;
    let others = [locks.clone(), beside(&fixture, &client)].map(|locks| locks.lock(key.name()));
    for again in [&lock, &lock.clone()].into_iter().chain(&others) {
        let error = again.try_acquire().await.expect_err("taken twice");
        assert!(matches!(error, LockError::Busy { .. }), "{error}");
    }
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
    drop(hold(&lock).await);
}

/// What sixteen tasks at four clients believe about three locks fits together: no two hold one at the same time, and a
/// counter that is read, left alone for a while and then written loses nothing.
pub async fn holds_of_many_tasks_do_not_overlap<F: Fixture>(fixture: F) {
    let rounds = sized::<F, _>(12, 500);
    let history = if F::PAUSED {
        History::in_paused_time()
    } else {
        History::new()
    };
    let counters: Arc<Vec<_>> = Arc::new(
        ["a", "b", "c"]
            .map(|name| (key(&fixture, name), AtomicUsize::new(0)))
            .into(),
    );
    let (start, mut tasks) = (Moment::now(), JoinSet::new());
    for client in 0..4 {
        let locks = locks(&fixture).await.with_retry(eager());
        for task in 0..4 {
            let (locks, history) = (locks.clone(), history.clone());
            let counters = Arc::clone(&counters);
            tasks.spawn(async move {
                let mut releases = Vec::new();
                for round in (0..rounds).take_while(|_| !is_enough(start)) {
                    let (key, counter) = &counters[(task + round) % counters.len()];
                    let who = format!("client {client}, task {task}, round {round}");
                    let attempt = history.attempt(key.as_str(), who);
                    let guard = locks.lock(key.name()).acquire().await;
                    let guard = guard.expect("it is free again and again");
                    let hold = attempt.granted(&guard);
                    let seen = counter.load(Ordering::SeqCst);
                    if (client + round) % 3 == 0 {
                        yield_now().await;
                    } else {
                        sleep(MILLISECOND).await;
                    }
                    counter.store(seen + 1, Ordering::SeqCst);
                    hold.released();
                    if round % 4 == 0 {
                        drop(guard);
                    } else {
                        releases.push(guard.release().await);
                    }
                }
                releases
            });
        }
    }
    let releases = tasks.join_all().await;
    // What two held at once counts before what became of it.
    history.assert_sound();
    let counted: usize = counters
        .iter()
        .map(|(_, counter)| counter.load(Ordering::SeqCst))
        .sum();
    let holds = history.holds().len();
    assert_eq!(counted, holds, "the counter lost some");
    assert!(
        holds == 16 * rounds || is_enough(start) && holds > 16,
        "{holds} holds"
    );
    for released in releases.into_iter().flatten() {
        let released = released.expect("a release is answered");
        assert_eq!(released, Released::Released);
    }
}

/// Whatever up to five clients do with one key at the same time, the answers are those of a lock that does one thing at a
/// time. Looked for is an order of the calls that explains them all, by a search of our own (after Wing and Gong); tests of
/// this crate compare its verdicts with those of stateright's tester.
pub async fn small_histories_are_linearizable<F: Fixture>(fixture: F) {
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Arc::new(fixture.client().await));
    }
    for round in 0..24 {
        let (key, calls) = (key(&fixture, "k"), Arc::new(Calls::default()));
        let mut tasks = JoinSet::new();
        for (me, client) in clients.iter().enumerate().take(2 + round % 4) {
            let (client, key, calls) = (Arc::clone(client), key.clone(), Arc::clone(&calls));
            // The same calls every time, in whatever order.
            let seed = u64::try_from(8 * round + me).expect("a small number");
            let mut random = fastrand::Rng::with_seed(seed);
            tasks.spawn(async move {
                let owner = labelled(&me.to_string());
                for _ in 0..8 {
                    let asked = match random.u8(..6) {
                        0 | 1 => Asked::Acquire,
                        2 | 3 => Asked::Release,
                        4 => Asked::Renew,
                        _ => Asked::Inspect,
                    };
                    calls
                        .note(me, asked, ask::<F>(&*client, &key, &owner, asked))
                        .await;
                    if random.bool() {
                        yield_now().await;
                    }
                }
            });
        }
        tasks.join_all().await;
        assert!(
            calls.are_linearizable(),
            "no lock that does one thing at a time answers like this: {calls:#?}"
        );
    }
}

async fn ask<F: Fixture>(
    client: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
    asked: Asked,
) -> Answered {
    // The number of nobody is never right. (That a holder is named where nothing else happens is a case of its own.)
    let number = |holder: Holder| match holder.label {
        None => UNNAMED,
        Some(label) => label.parse().unwrap_or(UNNAMED - 1),
    };
    match asked {
        Asked::Acquire => match attempt(client, key, owner, HOLD).await {
            Attempt::Granted(_) => Answered::Granted,
            Attempt::Busy(busy) => Answered::Busy(Some(number(busy.holder))),
        },
        Asked::Renew => Answered::Found(renew::<F>(client, key, owner, HOLD, Renew::AtLeast).await),
        Asked::Release => Answered::Found(release(client, key, owner).await),
        Asked::Inspect => {
            let found = client.inspect(key).await.expect("it is answered");
            Answered::Held(found.map(number))
        }
    }
}
