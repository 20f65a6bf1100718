//! Waiters are woken by a release, and on every doubt.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use lock_core::{BackendErrorKind, LockBackend, LockKey, Locks, Wakeup, Wakeups};
use lock_testkit::proxy::Proxy;
use lock_testkit::server::RedisServer;

async fn start() -> (RedisServer, Backend, Arc<dyn Wakeups>) {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let wakeups = backend.wakeups().unwrap();
    (server, backend, wakeups)
}

fn subscribers(server: &RedisServer, key: &str) -> i64 {
    server
        .cli(&["PUBSUB", "NUMSUB", &format!("{{{key}}}:fencelock:wake")])
        .array()[1]
        .integer()
}

fn subscriptions(server: &RedisServer) -> usize {
    server.cli(&["PUBSUB", "CHANNELS"]).array().len()
}

async fn is_quiet(wakeup: &mut Box<dyn Wakeup>) -> bool {
    tokio::time::timeout(Duration::from_millis(100), wakeup.notified())
        .await
        .is_err()
}

async fn pass(backend: &Backend, key: &LockKey) {
    let mine = owner();
    take(backend, key, &mine).await;
    backend.release(key, &mine).await.unwrap();
}

#[tokio::test]
async fn a_release_wakes_those_who_wait_for_the_key_and_nobody_else() {
    let (server, backend, wakeups) = start().await;
    assert!(
        !server.cli(&["CLIENT", "LIST"]).text().contains("subscribe"),
        "opened before it is needed"
    );
    let mut first = wakeups.subscribe(&key("a"), None).await.unwrap();
    let mut second = wakeups.subscribe(&key("a"), None).await.unwrap();
    let mut other = wakeups.subscribe(&key("b"), None).await.unwrap();
    assert!(
        is_quiet(&mut first).await,
        "a new subscription is woken by nothing"
    );
    pass(&backend, &key("a")).await;
    // Asked for later: what came before the call counts, once.
    soon("the first", first.notified()).await;
    soon("the second", second.notified()).await;
    assert!(is_quiet(&mut first).await && is_quiet(&mut other).await);
    // A lost race for the notification loses nothing.
    pass(&backend, &key("a")).await;
    for _ in 0..3 {
        let _ = tokio::time::timeout(Duration::ZERO, async { std::future::pending::<()>().await })
            .await;
    }
    soon("the first", first.notified()).await;
    // Whatever is said on the channel is a hint.
    server.cli_bytes(&[b"PUBLISH", b"{b}:fencelock:wake", b"\xff\0 garbage"]);
    soon("the other", other.notified()).await;
}

#[tokio::test]
async fn a_subscription_is_shared_and_ends_with_the_last_waiter() {
    let (server, _backend, wakeups) = start().await;
    let first = wakeups.subscribe(&key("a"), None).await.unwrap();
    let second = wakeups.subscribe(&key("a"), None).await.unwrap();
    let third = wakeups.subscribe(&key("b"), None).await.unwrap();
    assert_eq!(
        (subscribers(&server, "a"), subscribers(&server, "b")),
        (1, 1)
    );
    drop(first);
    drop(third);
    eventually("b is unsubscribed", async || subscribers(&server, "b") == 0).await;
    assert_eq!(subscribers(&server, "a"), 1);
    drop(second);
    eventually("a is unsubscribed", async || subscribers(&server, "a") == 0).await;
    let connections = server.cli(&["CLIENT", "LIST"]).text().lines().count();
    for _ in 0..50 {
        drop(wakeups.subscribe(&key("a"), None).await.unwrap());
    }
    assert_eq!(
        server.cli(&["CLIENT", "LIST"]).text().lines().count(),
        connections
    );
    eventually("nothing is left", async || subscriptions(&server) == 0).await;
}

#[tokio::test]
async fn dropping_the_backend_closes_its_connections() {
    let (server, backend, wakeups) = start().await;
    let wakeup = wakeups.subscribe(&key("a"), None).await.unwrap();
    drop((backend, wakeups, wakeup));
    eventually("only the oracle is connected", async || {
        server.cli(&["CLIENT", "LIST"]).text().lines().count() == 1
    })
    .await;
}

#[tokio::test]
async fn a_lost_connection_wakes_everybody_and_is_made_again() {
    for protocol in ["resp2", "resp3"] {
        let server = RedisServer::start();
        let backend = connected(format!("{}?protocol={protocol}", server.url())).await;
        let wakeups = backend.wakeups().unwrap();
        let mut waiting = Vec::new();
        for n in 0..20 {
            waiting.push((
                key(&format!("k{n}")),
                wakeups
                    .subscribe(&key(&format!("k{n}")), None)
                    .await
                    .unwrap(),
            ));
        }
        for _ in 0..3 {
            server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            for (_, wakeup) in &mut waiting {
                soon("the doubt", wakeup.notified()).await;
            }
            eventually("subscribed again", async || subscriptions(&server) == 20).await;
            for (key, wakeup) in waiting.iter_mut().take(2) {
                // Perhaps still the second doubt, after subscribing again.
                while !is_quiet(wakeup).await {}
                pass(&backend, key).await;
                soon("the release", wakeup.notified()).await;
            }
        }
    }
}

#[tokio::test]
async fn while_the_server_is_away_a_subscription_is_refused_and_comes_back_later() {
    let (mut server, backend, wakeups) = start().await;
    let mut before = wakeups.subscribe(&key("a"), None).await.unwrap();
    server.stop();
    soon("the doubt", before.notified()).await;
    let error = soon("a refusal", wakeups.subscribe(&key("b"), None))
        .await
        .unwrap_err();
    assert!(!error.may_have_been_applied(), "{error}");
    server.restart_empty();
    eventually("subscribed again", async || subscribers(&server, "a") == 1).await;
    soon("the second doubt", before.notified()).await;
    eventually("the backend is connected", async || {
        backend.inspect(&key("a")).await.is_ok()
    })
    .await;
    pass(&backend, &key("a")).await;
    soon("the release", before.notified()).await;
    wakeups.subscribe(&key("b"), None).await.unwrap();
}

#[test]
fn waiters_survive_the_runtime_that_their_subscription_ran_on() {
    let server = RedisServer::start();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let backend = first.block_on(async {
        Backend::builder(server.url())
            .with_connect_timeout(SECOND)
            .with_response_timeout(SECOND)
            .connect()
            .await
            .unwrap()
    });
    let wakeups = backend.wakeups().unwrap();
    let mut wakeup = first.block_on(wakeups.subscribe(&key("a"), None)).unwrap();
    let second = runtime();
    // Nobody drives the first runtime: subscriptions are refused until its task is given up.
    let mut other = second.block_on(async {
        let mut other = None;
        eventually("a task on the second runtime", async || {
            other = wakeups.subscribe(&key("b"), None).await.ok();
            other.is_some()
        })
        .await;
        other.unwrap()
    });
    second.block_on(soon("the doubt", wakeup.notified()));
    drop(first);
    second.block_on(async {
        while !is_quiet(&mut wakeup).await || !is_quiet(&mut other).await {}
        server.cli(&["PUBLISH", "{a}:fencelock:wake", ""]);
        server.cli(&["PUBLISH", "{b}:fencelock:wake", ""]);
        soon("a", wakeup.notified()).await;
        soon("b", other.notified()).await;
    });
    drop(second);
    let third = runtime();
    third.block_on(soon("the doubt", wakeup.notified()));
    let mut again = third.block_on(wakeups.subscribe(&key("c"), None)).unwrap();
    server.cli(&["PUBLISH", "{c}:fencelock:wake", ""]);
    third.block_on(soon("c", again.notified()));
}

#[tokio::test]
async fn a_silent_connection_is_replaced_and_everybody_woken() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let backend = patient(Backend::builder(proxy.url()))
        .with_response_timeout(SECOND)
        .connect()
        .await
        .unwrap();
    let mut wakeup = backend
        .wakeups()
        .unwrap()
        .subscribe(&key("a"), None)
        .await
        .unwrap();
    proxy.blackhole();
    soon("the doubt", wakeup.notified()).await;
    eventually("subscribed again", async || proxy.connections() >= 3).await;
    while !is_quiet(&mut wakeup).await {}
    server.cli(&["PUBLISH", "{a}:fencelock:wake", ""]);
    soon("a message", wakeup.notified()).await;
}

/// It is asked whether it is alive every five seconds. An answer that goes astray would look like silence.
#[tokio::test]
async fn a_subscription_lasts_as_long_as_its_connection_does() {
    let lasting = async |protocol: &str| {
        let server = RedisServer::start();
        let connected = || {
            let clients = server.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).text();
            clients.split(' ').next().unwrap().to_owned()
        };
        let url = format!("{}{protocol}", server.url());
        let backend = common::connected(url).await;
        let wakeups = backend.wakeups().unwrap();
        let mut wakeup = wakeups.subscribe(&key("k"), None).await.unwrap();
        let first = connected();
        tokio::time::sleep(13 * SECOND).await;
        assert_eq!(connected(), first, "{protocol}");
        server.cli(&["PUBLISH", "{k}:fencelock:wake", ""]);
        soon("a message", wakeup.notified()).await;
    };
    tokio::join!(lasting(""), lasting("?protocol=resp2"));
}

#[tokio::test]
async fn no_more_subscribe_than_may_and_who_goes_makes_room() {
    let server = RedisServer::start();
    let builder = patient(Backend::builder(server.url())).with_subscriptions_at_most(2);
    let backend = builder.connect().await.unwrap();
    let wakeups = backend.wakeups().unwrap();
    let first = wakeups.subscribe(&key("a"), None).await.unwrap();
    // Of one lock or of many: each takes memory.
    let mut second = wakeups.subscribe(&key("a"), None).await.unwrap();
    for name in ["a", "b"] {
        let error = wakeups.subscribe(&key(name), None).await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
        assert!(error.to_string().contains("2 subscriptions"), "{error}");
    }
    drop(first);
    let mut third = wakeups.subscribe(&key("b"), None).await.unwrap();
    for channel in ["{a}:fencelock:wake", "{b}:fencelock:wake"] {
        server.cli(&["PUBLISH", channel, ""]);
    }
    soon("a", second.notified()).await;
    soon("b", third.notified()).await;
    // Who could not subscribe looks by itself.
    let locks = Locks::new(backend.clone());
    let guard = locks.lock("c").try_acquire().await.unwrap();
    let other = Locks::new(backend).lock("c");
    let release = async {
        tokio::time::sleep(300 * MS).await;
        guard.release().await
    };
    let (next, released) = tokio::join!(soon("its turn", other.acquire()), release);
    released.unwrap();
    next.unwrap().release().await.unwrap();
    drop((second, third));
    let dead = patient(Backend::builder(server.url())).with_subscriptions_at_most(0);
    let dead = dead.connect().await.unwrap();
    dead.wakeups()
        .unwrap()
        .subscribe(&key("a"), None)
        .await
        .unwrap_err();
    round_trip(&dead).await;
}
