//! lock-redis and lock-fred on one key are two users of the same lock.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic
)]

mod common;

use std::sync::Arc;

use common::*;
use lock_core::{
    LockBackend, LockError, LockKey, LockOptions, Locks, Ownership, Released, Renew, Ticket,
};
use lock_redis::RedisBackend;
use lock_testkit::server::RedisServer;
use tokio::task::JoinSet;

/// As [`connected`], by the other client.
async fn redis(server: &RedisServer) -> RedisBackend {
    let builder = RedisBackend::builder(server.url()).with_connect_timeout(10 * SECOND);
    builder.connect().await.unwrap()
}

/// Locks on lock-redis and on lock-fred, and the other way round.
async fn both_ways(server: &RedisServer) -> [(Locks, Locks); 2] {
    let redis = async || Locks::new(redis(server).await).with_label("redis");
    let fred = async || locks(server).await.with_label("fred");
    [(redis().await, fred().await), (fred().await, redis().await)]
}

#[tokio::test]
async fn each_excludes_the_other_and_names_it() {
    let server = RedisServer::start();
    let both_ways = both_ways(&server).await;
    for ((holder, other), label) in both_ways.into_iter().zip(["redis", "fred"]) {
        let guard = holder.lock("k").acquire().await.unwrap();
        let error = other.lock("k").try_acquire().await.unwrap_err();
        let LockError::Busy { holder: named, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(named.label.as_deref(), Some(label));
        assert_eq!(named.fencing, guard.fencing_token());
        assert!(named.remaining.is_some());
        let status = other.lock("k").status().await.unwrap();
        assert_eq!(status.unwrap().label, named.label);
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        let guard = other.lock("k").try_acquire().await.unwrap();
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }
    assert_eq!(entries(&server), Vec::<String>::new());
}

#[tokio::test]
async fn a_release_of_one_wakes_the_waiters_of_the_other() {
    let server = RedisServer::start();
    // Nothing but a wake-up ends the wait.
    let options = LockOptions::default()
        .with_ttl(60 * SECOND)
        .with_wait(60 * SECOND)
        .with_recheck(60 * SECOND);
    for (holder, other) in both_ways(&server).await {
        let guard = holder
            .lock("k")
            .with_ttl(60 * SECOND)
            .acquire()
            .await
            .unwrap();
        let waiter = other.lock("k").with_options(options.clone());
        let before = calls(&server, "evalsha");
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { waiter.acquire().await });
        eventually("it has looked again after it subscribed", async || {
            calls(&server, "evalsha") >= before + 2
        })
        .await;
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        let guard = soon("the waiter's turn", waiting.join_next()).await;
        let guard = guard.unwrap().unwrap().unwrap();
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }
}

/// Scenario N09: the same key, value, counter and channel.
#[tokio::test]
async fn what_one_takes_the_other_knows_renews_and_gives_up() {
    let server = RedisServer::start();
    let (redis, fred) = (redis(&server).await, connected(server.url()).await);
    for name in ["k", "{tag}k", "a}b"] {
        of_one_owner(&redis, &fred, &key(name)).await;
        of_one_owner(&fred, &redis, &key(name)).await;
    }
    assert_eq!(entries(&server), Vec::<String>::new());
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn what_one_takes_on_a_cluster_the_other_knows_renews_and_gives_up() {
    let cluster = lock_testkit::server::RedisCluster::start();
    let redis = RedisBackend::cluster(cluster.urls()).with_connect_timeout(10 * SECOND);
    let fred = patient(Backend::cluster(cluster.urls()));
    let (redis, fred) = (
        redis.connect().await.unwrap(),
        fred.connect().await.unwrap(),
    );
    for name in ["a", "b", "c", "d", "{tag}k"] {
        of_one_owner(&redis, &fred, &key(name)).await;
        of_one_owner(&fred, &redis, &key(name)).await;
    }
}

/// Not of the other: its client lets others come between.
#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_a_slot_moves_nothing_comes_between_asking_and_what_is_asked() {
    use lock_testkit::server::RedisCluster;

    let cluster = RedisCluster::start();
    let connecting = patient(Backend::cluster(cluster.urls())).connect();
    let backend = connecting.await.unwrap();
    let slot = cluster.slot_of("{m}");
    let to = (cluster.master_of(slot) + 1) % 3;
    let moving = (0..4).map(|n| key(&format!("{{m}}:{n}")));
    // Of these and those the requests meet at one node.
    let there = (0..).map(|n| format!("n{n}"));
    let there = there.filter(|name| cluster.master_of(cluster.slot_of(name)) == to);
    let keys: Vec<_> = moving.chain(there.take(4).map(|name| key(&name))).collect();
    let mine = owner();
    for key in &keys {
        take(&backend, key, &mine).await;
    }
    cluster.begin_move(slot, to);
    while cluster.move_keys(slot, to, 100) > 0 {}
    let mut calls = JoinSet::new();
    for key in keys {
        let (backend, mine) = (backend.clone(), mine.clone());
        calls.spawn(async move {
            for _ in 0..1000 {
                let answer = renew(&backend, &key, &mine, TTL, Renew::AtLeast).await;
                assert_eq!(answer.unwrap(), Ownership::Held, "{key}");
            }
        });
    }
    calls.join_all().await;
    let errors = cluster.nodes[to].cli(&["INFO", "errorstats"]).text();
    assert!(!errors.contains("errorstat_MOVED"), "{errors}");
}

async fn of_one_owner(taker: &impl LockBackend, other: &impl LockBackend, key: &LockKey) {
    let (mine, theirs) = (owner(), owner());
    let mut wakeup = other.wakeups().unwrap().subscribe(key, None).await.unwrap();
    let tokens = take(taker, key, &mine).await;
    let holder = busy(attempt(other, key, &theirs).await).holder;
    assert_eq!(holder.fencing, Some(tokens.last()));
    assert_eq!(holder.label.as_deref(), Some("tester"));
    // Another copy of the same attempt, whichever client sends it, is the same grant.
    assert_eq!(take(other, key, &mine).await, tokens);
    let seen = other.inspect(key).await.unwrap().unwrap();
    assert_eq!(seen.fencing, Some(tokens.last()));
    let answer = renew(other, key, &mine, TTL * 2, Renew::AtLeast).await;
    assert_eq!(answer.unwrap(), Ownership::Held);
    let answer = renew(other, key, &theirs, TTL, Renew::Exactly).await;
    assert_eq!(answer.unwrap(), Ownership::Taken);
    assert_eq!(other.release(key, &theirs).await.unwrap(), Ownership::Taken);
    assert_eq!(taker.release(key, &mine).await.unwrap(), Ownership::Held);
    soon("a wake-up", wakeup.notified()).await;
    assert_eq!(other.release(key, &mine).await.unwrap(), Ownership::Absent);
    let next = take(other, key, &theirs).await;
    assert!(next.first() > tokens.last());
    assert_eq!(taker.release(key, &theirs).await.unwrap(), Ownership::Held);
}

#[tokio::test]
async fn fencing_tokens_rise_from_one_to_the_other() {
    let server = RedisServer::start();
    let mut last = 0;
    for _ in 0..50 {
        for (one, other) in both_ways(&server).await {
            for locks in [one, other] {
                let guard = locks.lock("k").acquire().await.unwrap();
                assert!(token(&guard) > last);
                last = token(&guard);
                assert_eq!(guard.release().await.unwrap(), Released::Released);
            }
        }
    }
}

#[tokio::test]
async fn a_ticket_of_one_is_resumed_by_the_other_once() {
    let server = RedisServer::start();
    for (here, there) in both_ways(&server).await {
        let guard = here.lock("k").acquire().await.unwrap();
        let first = token(&guard);
        let ticket: Ticket = guard.into_ticket().await.unwrap().expose().parse().unwrap();
        let guard = there.resume(&ticket).await.unwrap();
        assert!(token(&guard) > first);
        let error = here.resume(&ticket).await.unwrap_err();
        assert!(matches!(error, LockError::Lost { .. }), "{error}");
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_of_both_are_served_one_at_a_time() {
    let server = RedisServer::start();
    let mut tasks = JoinSet::new();
    server.cli(&["SET", "counter", "0"]);
    let server = Arc::new(server);
    for (one, other) in both_ways(&server).await {
        for locks in [one, other] {
            for _ in 0..5 {
                let (lock, server) = (locks.lock("k").with_wait(60 * SECOND), Arc::clone(&server));
                tasks.spawn(async move {
                    for _ in 0..5 {
                        let guard = lock.acquire().await.unwrap();
                        // Read, then write: whoever came between would be lost.
                        let count: u32 = server.cli(&["GET", "counter"]).text().parse().unwrap();
                        tokio::time::sleep(MS).await;
                        assert!(guard.is_held());
                        server.cli(&["SET", "counter", &(count + 1).to_string()]);
                        assert_eq!(guard.release().await.unwrap(), Released::Released);
                    }
                });
            }
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(server.cli(&["GET", "counter"]).text(), "100");
}
