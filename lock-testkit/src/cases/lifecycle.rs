//! From the first call to the last: what is declared, repeated, dropped, asked, shut down. Promise 7 of the contract, 2 of
//! `try_acquire`; SCENARIOS C24, R10, S06, X07.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, LockBackend, LockError, Locks, LossReason, MAX_LABEL_BYTES, Moment,
    Ownership, Released, Renew, RenewRequest,
};
use tokio::runtime::{Builder, Handle};
use tokio::time::{sleep, timeout};

use super::{
    BOUND, HOLD, LEASE, MILLISECOND, SHORT, Stopwatch, TERM, assert_lasts, attempt, comes_free,
    eventually, evict, hold, hook, is_enough, is_free, key, labelled, locks, loss, owner, refused,
    release, remaining, renew, renewed, sweep, take, take_and_let_end, unrenewed, with_all,
};
use crate::fixture::Fixture;
use crate::gap::Gap;
use crate::leak::LeakCheck;

/// A copy of a request that was granted gets the same grant, and does not shorten what was prolonged since. A copy asks
/// for as many fencing tokens: a store need not remember how many it gave. One that comes when the entry has ended is a new
/// attempt.
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
    let copy = b.try_acquire(request(LEASE)).await;
    assert_eq!(copy.expect("an attempt is answered"), grant);
    assert_lasts::<F>(&a, &key, HOLD, asked).await;
    assert_eq!(
        renew::<F>(&a, &key, &owner, HOLD, Renew::Exactly).await,
        Ownership::Held
    );
    sleep(50 * MILLISECOND).await;
    let before = remaining(&a, &key).await;
    let copy = b.try_acquire(request(2 * HOLD)).await;
    assert_eq!(copy.expect("an attempt is answered"), grant);
    assert!(
        remaining(&a, &key).await <= before,
        "a copy of the request prolonged the entry"
    );
    assert_eq!(release(&a, &key, &owner).await, Ownership::Held);

    let ended = take_and_let_end(&fixture, &a, &key, &owner).await;
    let asked = Moment::now();
    let grant = take::<F>(&b, &key, &owner, HOLD).await;
    assert_lasts::<F>(&b, &key, HOLD, asked).await;
    if let (Some(ended), Some(new)) = (ended.fencing, grant.fencing) {
        assert!(new.first() > ended.last(), "{new:?} after {ended:?}");
    }
    assert_eq!(release(&a, &key, &owner).await, Ownership::Held);
}

/// Busy says who (by label, however long), for how long yet, and with which token at most.
pub async fn a_busy_answer_names_the_holder<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let longest = "x".repeat(MAX_LABEL_BYTES);
    let labels = [
        None,
        Some("web-1"),
        Some("a:b 🔒 \"x\""),
        Some(longest.as_str()),
    ];
    for label in labels {
        let (key, asked) = (key(&fixture, "k"), Moment::now());
        let holder = label.map_or_else(owner, labelled);
        let grant = take::<F>(&a, &key, &holder, HOLD).await;
        let granted = Moment::now();
        // So that what is left is not what there was.
        sleep(50 * MILLISECOND + 2 * F::RESOLUTION).await;
        let most = (HOLD + F::RESOLUTION).saturating_sub(granted.elapsed());
        let busy = refused(&b, &key, &owner()).await;
        assert_eq!(busy.holder.label.as_deref(), label);
        let left = busy.holder.remaining.expect("an entry of ours has an end");
        let least = HOLD.saturating_sub(asked.elapsed() + F::RESOLUTION);
        assert!(
            least <= left && left <= most,
            "busy told {left:?}, and what is left of the entry is {least:?} to {most:?}"
        );
        if let (Some(told), Some(given)) = (busy.holder.fencing, grant.fencing) {
            assert!(
                told >= given.first(),
                "the holder's token is {given:?}, told was {told}"
            );
        }
        assert_eq!(release(&b, &key, &holder).await, Ownership::Held);
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
    take::<F>(&a, &key, &holder, HOLD).await;
    for _ in 0..3 {
        let found = b
            .inspect(&key)
            .await
            .expect("an inspection is answered")
            .expect("it is held");
        assert_eq!(found.label.as_deref(), Some("me"));
    }
    assert_lasts::<F>(&b, &key, HOLD, asked).await;
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
    let grant = take::<F>(&a, &key, &owner, HOLD).await;
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
        assert!(is_there || is_gap, "no {gap} here: {}", gap.advice());
        assert!(
            !(is_there && is_gap),
            "`Gap::{gap:?}` is declared in `Fixture::GAPS` and is none: take it out"
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
    sweep::<F, _>(|_| a.try_acquire(request), free_again).await;
    let renewals = [RenewRequest::new(&key, &me, SHORT, Renew::AtLeast)];
    sweep::<F, _>(|_| a.renew(&renewals), free_again).await;
    sweep::<F, _>(|_| a.release(&key, &me), free_again).await;
    sweep::<F, _>(|_| a.inspect(&key), free_again).await;
    if let Some(wakeups) = a.wakeups() {
        sweep::<F, _>(|_| wakeups.subscribe(&key, None), free_again).await;
    }
}

/// A status tells who holds a lock, for how long yet, and nothing of a free one; and is no attempt.
pub async fn a_status_tells_who_holds_the_lock<F: Fixture>(fixture: F) {
    let (a, b, key) = (
        locks(&fixture).await.with_label("a"),
        locks(&fixture).await,
        key(&fixture, "k"),
    );
    let status = async || {
        let status = b.lock(key.name()).status().await;
        status.expect("a status is answered")
    };
    assert_eq!(status().await, None);
    let guard = hold(&unrenewed(&a, &key)).await;
    for _ in 0..2 {
        let holder = status().await.expect("it is held");
        let left = holder.remaining.expect("an entry of ours has an end");
        assert_eq!(holder.label.as_deref(), Some("a"));
        assert!(!left.is_zero() && left <= HOLD + F::RESOLUTION, "{left:?}");
    }
    assert_eq!(guard.release().await.ok(), Some(Released::Released));
    assert_eq!(status().await, None);
}

/// A shutdown tells holders that they lost their locks, releases them, sends waiters home, and refuses what comes later.
pub async fn a_shutdown_releases_what_is_held_and_refuses_what_is_new<F: Fixture>(fixture: F) {
    let (locks, oracle, next) = (locks(&fixture).await, fixture.client().await, owner());
    let keys: Vec<_> = (0..4).map(|_| key(&fixture, "k")).collect();
    let (free, held) = keys.split_first().expect("four keys");
    let taken = key(&fixture, "taken");
    take::<F>(&oracle, &taken, &next, HOLD).await;
    let waiter = unrenewed(&locks, &taken);
    let waiter = Handle::current().spawn(async move { waiter.acquire().await });
    let mut guards = Vec::new();
    for key in held {
        guards.push(hold(&renewed(&locks, key)).await);
    }
    assert!(locks.shutdown().await, "a release was not answered");
    assert!(locks.clone().shutdown().await, "the second time");
    for (key, guard) in held.iter().zip(guards) {
        assert!(is_free(&oracle, key).await, "{key} is still held");
        assert_eq!(loss(&guard).await, LossReason::ShutDown);
        assert!(!guard.is_held());
        take::<F>(&oracle, key, &next, HOLD).await;
        drop(guard);
    }
    let waited = timeout(BOUND, waiter).await.expect("it waits for ever");
    for answer in [
        waited.expect("it did not panic"),
        locks.lock(free.name()).try_acquire().await,
        locks.lock(free.name()).acquire().await,
    ] {
        let error = answer.expect_err("granted after the shutdown");
        assert!(matches!(error, LockError::Closed { .. }), "{error}");
        assert!(!error.is_retryable());
    }
    assert!(is_free(&oracle, free).await);
    // Those of others are left alone, also by the guards that were dropped late.
    sleep(100 * MILLISECOND).await;
    for key in held.iter().chain([&taken]) {
        assert_eq!(release(&oracle, key, &next).await, Ownership::Held);
    }
}

/// Taking, renewing, releasing and dropping a lock two hundred times leaves no task behind.
pub async fn two_hundred_holds_leave_no_task_behind<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    let lives = async |times: usize| {
        let start = Moment::now();
        for life in (0..times).take_while(|_| !is_enough(start)) {
            let key = key(&fixture, "k");
            let guard = hold(&renewed(&locks, &key)).await;
            match life % 3 {
                0 => drop(guard),
                1 => {
                    let other = unrenewed(&locks, &key).with_wait(MILLISECOND);
                    other.acquire().await.expect_err("it is held");
                    guard.leave_to_expire();
                }
                _ => {
                    guard.release().await.expect("a release is answered");
                    assert!(is_free(&oracle, &key).await);
                }
            }
        }
    };
    // What a client starts with its first calls and its first wait stays.
    lives(4).await;
    let key = key(&fixture, "k");
    let guard = hold(&renewed(&locks, &key)).await;
    let other = unrenewed(&locks, &key).with_wait(SHORT);
    other.acquire().await.expect_err("it is held");
    drop(guard);
    eventually("it is released", async || is_free(&oracle, &key).await).await;
    let leaks = LeakCheck::start();
    lives(200).await;
    leaks.assert_none(BOUND).await;
}

/// Losing a lock two hundred times leaves no task behind.
pub async fn losses_leave_no_task_behind<F: Fixture>(fixture: F) {
    let locks = locks(&fixture).await;
    let lives = async |times: usize| {
        with_all(0..times, async |_| {
            let key = key(&fixture, "k");
            let guard = hold(&renewed(&locks, &key)).await;
            evict(&fixture, &key).await;
            // A renewal finds out.
            loss(&guard).await;
        })
        .await;
    };
    // What a client starts with its first calls stays.
    lives(2).await;
    let leaks = LeakCheck::start();
    lives(200).await;
    leaks.assert_none(BOUND).await;
}

/// A runtime that is shut down in the background, with fifty locks held on it and as many waited for, harms nobody: who has the
/// guards hears that they are lost, nothing panics or hangs, and each lock comes free with its ttl.
pub async fn a_runtime_that_is_shut_down_leaves_no_lock_behind<F: Fixture>(fixture: F) {
    let (fixture, ttl) = (Arc::new(fixture), TERM);
    let keys: Vec<_> = (0..50).map(|_| key(&*fixture, "k")).collect();
    let (at, of) = (Arc::clone(&fixture), keys.clone());
    let life = async move {
        let locks = locks(&*at).await.with_ttl(ttl);
        let guards = with_all(&of, |key| {
            let lock = locks.lock(key.name());
            async move { hold(&lock).await }
        })
        .await;
        for key in &of {
            let waiter = locks.lock(key.name());
            Handle::current().spawn(async move { waiter.acquire().await.map(drop) });
        }
        sleep(100 * MILLISECOND).await;
        (locks, guards)
    };
    let thread = Handle::current().spawn_blocking(|| {
        let mut runtime = if F::PAUSED {
            Builder::new_current_thread()
        } else {
            Builder::new_multi_thread()
        };
        runtime
            .worker_threads(2)
            .enable_all()
            .start_paused(F::PAUSED);
        let runtime = runtime.build().expect("a runtime can be started");
        let held = runtime.block_on(life);
        runtime.shutdown_background();
        held
    });
    let (locks, guards) = thread.await.expect("it did not panic");
    for guard in &guards {
        loss(guard).await;
        assert!(!guard.is_held());
    }
    // One by one, and with the locks before the last.
    let mut guards = guards.into_iter();
    let last = guards.next_back();
    guards.for_each(drop);
    drop((locks, last));
    let oracle = fixture.client().await;
    with_all(&keys, async |key| {
        comes_free(&oracle, key).await;
        take::<F>(&oracle, key, &owner(), HOLD).await;
    })
    .await;
}

/// A runtime of one thread is enough, and a backend whose type nobody knows: for a whole life, and a wait, during which others
/// have the thread too.
pub async fn one_thread_is_enough<F: Fixture>(fixture: F) {
    let life = async move {
        let client = async || {
            let backend: Arc<dyn LockBackend> = Arc::new(fixture.client().await);
            Locks::from_arc(backend).with_prefix(fixture.prefix())
        };
        let (locks, others) = (client().await, client().await);
        let key = key(&fixture, "k");
        // Whoever else lives on the thread gets on meanwhile.
        let longest = Arc::new(Mutex::new(Duration::ZERO));
        let other = {
            let (longest, mut last) = (Arc::clone(&longest), Stopwatch::start());
            Handle::current().spawn(async move {
                loop {
                    sleep(10 * MILLISECOND).await;
                    let mut longest = longest.lock().expect("no panic");
                    *longest = last.elapsed().max(*longest);
                    last = Stopwatch::start();
                }
            })
        };
        let guard = hold(&renewed(&locks, &key)).await;
        let busy = unrenewed(&others, &key).with_wait(SHORT).acquire().await;
        assert!(matches!(busy, Err(LockError::TimedOut { .. })), "{busy:?}");
        assert!(guard.is_held());
        let lock = unrenewed(&others, &key);
        let (next, released) = tokio::join!(lock.acquire(), guard.release());
        assert_eq!(released.ok(), Some(Released::Released));
        drop(next.expect("it was released"));
        assert!(locks.shutdown().await && others.shutdown().await);
        // Long enough for the other to see what it missed.
        sleep(20 * MILLISECOND).await;
        other.abort();
        let longest = *longest.lock().expect("no panic");
        assert!(
            longest < BOUND / 2,
            "the only thread was kept for {longest:?}"
        );
    };
    let thread = Handle::current().spawn_blocking(|| {
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(F::PAUSED).build();
        runtime.expect("a runtime can be started").block_on(life);
    });
    thread.await.expect("it did not panic");
}
