//! Many waiters, many held locks, one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::join_all;
use lock_core::Moment;
use lock_testkit::{History, LeakCheck};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;

/// How many wait for one lock.
const WAITERS: u32 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_waiters_of_one_lock_are_all_served() {
    let server = RedisServer::start();
    let history = History::new();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(locks(&server).await.with_wait(10 * LASTING));
    }
    let first = locks(&server).await.lock("k").try_acquire().await.unwrap();
    let start = Moment::now();
    let mut waiters = JoinSet::new();
    for n in 0..WAITERS {
        let client = &clients[n as usize % clients.len()];
        let (lock, history) = (client.lock("k"), history.clone());
        waiters.spawn(async move {
            let attempt = history.attempt("k", n.to_string());
            let guard = lock.acquire().await.unwrap();
            let waited = start.elapsed();
            let hold = attempt.granted(&guard);
            sleep(MS).await;
            hold.released();
            assert_eq!(guard.release().await.unwrap(), Released::Released);
            waited
        });
    }
    sleep(200 * MS).await;
    assert_eq!(first.release().await.unwrap(), Released::Released);
    let served = timeout(10 * LASTING, waiters.join_all()).await;
    let waits = served.unwrap_or_else(|_| panic!("not all are served"));
    history.assert_sound();
    let (mean, longest) = (
        waits.iter().sum::<Duration>() / WAITERS,
        waits.iter().max().unwrap(),
    );
    println!("{WAITERS} waiters: {mean:.1?} on average, {longest:.1?} at the most");
    assert!(entries(&server).is_empty());
}

/// How many requests of one client are under way at once.
const AT_ONCE: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_locks_are_held_for_three_ttls_within_a_budget() {
    let server = RedisServer::start();
    let ttl = 9 * SECOND;
    let client = locks(&server).await.with_ttl(ttl);
    works(&client.lock("warm")).await;
    let (tasks, memory) = (LeakCheck::start(), resident());
    let count = scaled(2000, 10_000);
    let taken: Vec<_> = (0..count).map(|n| client.lock(format!("k{n}"))).collect();
    let mut guards = Vec::new();
    // Not all at once: the last would be answered too late.
    for some in taken.chunks(AT_ONCE) {
        let some = join_all(some.iter().map(|lock| lock.acquire())).await;
        guards.extend(some.into_iter().map(Result::unwrap));
    }
    let start = Moment::now();
    let mut most = 0;
    while start.elapsed() < 3 * ttl {
        for guard in &guards {
            assert!(guard.is_held(), "{}: {:?}", guard.key(), guard.check());
        }
        most = most.max(tasks.extra());
        sleep(100 * MS).await;
    }
    // None for each lock; one for each batch of renewals under way.
    assert!(most < 50, "{most} tasks");
    let grown = resident().saturating_sub(memory);
    let budget = 44 << 20;
    assert!(grown < budget + count * (10 << 10), "{} MiB", grown >> 20);
    let clients = server.cli(&["CLIENT", "LIST"]).text().lines().count();
    assert!(clients <= 3, "{clients} connections");
    let mut guards = guards.into_iter();
    while guards.len() > 0 {
        let some = guards.by_ref().take(AT_ONCE).map(LockGuard::release);
        for released in join_all(some).await {
            assert_eq!(released.unwrap(), Released::Released);
        }
    }
    assert!(entries(&server).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_waiters_give_up_when_their_wait_is_over() {
    let server = RedisServer::start();
    let holder = locks(&server).await.lock("k").with_ttl(LASTING);
    let guard = holder.try_acquire().await.unwrap();
    let wait = SECOND;
    let client = locks(&server).await.with_wait(wait);
    let mut waiters = JoinSet::new();
    for _ in 0..1000 {
        let lock = client.lock("k");
        waiters.spawn(async move {
            let start = Moment::now();
            let error = lock.acquire().await.unwrap_err();
            assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
            start.elapsed()
        });
    }
    let waits = soon("all are told", waiters.join_all()).await;
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*least >= wait, "{least:?}");
    // One op timeout (2 s) more at the most, on a machine that has nothing else to do.
    println!("1000 waits of {wait:?} ended after {least:.1?} to {most:.1?}");
    // Twice that, on one that has.
    assert!(*most <= wait + 4 * SECOND, "{most:?}");
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    eventually("nobody is subscribed", async || {
        server.cli(&["PUBSUB", "CHANNELS"]).array().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_the_lock_again_at_once_starves_nobody_for_long() {
    let server = RedisServer::start();
    let (greedy, polite) = (
        locks(&server).await.lock("k"),
        locks(&server).await.lock("k"),
    );
    let over = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU64::new(0));
    let eats = {
        let (over, rounds) = (Arc::clone(&over), Arc::clone(&rounds));
        Handle::current().spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let guard = greedy.acquire().await.unwrap();
                sleep(2 * MS).await;
                guard.release().await.unwrap();
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let mut longest = (Duration::ZERO, 0);
    for _ in 0..20 {
        let (start, before) = (Moment::now(), rounds.load(Ordering::SeqCst));
        // Within the default wait. There is no promise of fairness beyond that.
        let guard = polite.acquire().await.unwrap();
        let passed = rounds.load(Ordering::SeqCst) - before;
        longest = longest.max((start.elapsed(), passed));
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }
    over.store(true, Ordering::SeqCst);
    soon("the end", eats).await.unwrap();
    let eaten = rounds.load(Ordering::SeqCst);
    println!(
        "20 turns beside a greedy client: {longest:.1?} at the most, in its rounds, of {eaten}"
    );
    assert!(eaten >= 10, "nobody was greedy: {eaten} rounds");
    // It looks once a second, whoever is woken in its place; and a lock that is free for a moment is there for either.
    assert!(longest.0 < 20 * SECOND, "{longest:.1?}");
}

/// Neither the waiters nor their subscriptions occupy what the releases need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_waiters_on_a_hundred_locks_share_two_connections() {
    let server = RedisServer::start();
    let (holder, client) = (locks(&server).await, locks(&server).await);
    let held: Vec<_> = (0..100).map(|n| holder.lock(format!("k{n}"))).collect();
    let guards = join_all(held.iter().map(|lock| lock.acquire())).await;
    let mut waiters = JoinSet::new();
    for lock in &held {
        let lock = client.lock(lock.key().name()).with_ttl(LASTING);
        waiters.spawn(async move { lock.acquire().await.unwrap().release().await });
    }
    eventually("all wait", async || {
        server.cli(&["PUBSUB", "CHANNELS"]).array().len() == 100
    })
    .await;
    // Theirs, the holder's, and the oracle's.
    let clients = server.cli(&["CLIENT", "LIST"]).text().lines().count();
    assert_eq!(clients, 4);
    for guard in guards {
        assert_eq!(guard.unwrap().release().await.unwrap(), Released::Released);
    }
    for released in soon("all are served", waiters.join_all()).await {
        assert_eq!(released.unwrap(), Released::Released);
    }
}
