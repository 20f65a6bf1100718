//! Clusters and Sentinel over TLS: every promise is kept on a cluster, as the user with the least rights; moves and failovers are
//! survived; nodes that are not who they say are refused.
#![cfg(all(feature = "tls", feature = "cluster"))]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::LazyLock;

use common::deploy::{Deployment, GAPS_OF_A_CLUSTER, On, Pool};
use common::*;
use lock_core::{BackendErrorKind, LockBackend, Ownership, Renew};
use lock_testkit::Gap;
use lock_testkit::server::{Authority, RedisCluster, RedisOptions, RedisSentinel, RedisServer};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

static CLUSTERS: Pool<RedisCluster> = Pool::new(start);

fn start() -> RedisCluster {
    // In its configuration, so that the user is there from the first connection on, also after a restart.
    let options = options().with_args(["--user", "locks", "on", ">pw"]);
    let rights = format!("{LEAST_RIGHTS_OF_A_CLUSTER} {RIGHTS_TO_ASK}");
    let options = options.with_args(rights.split_whitespace());
    RedisCluster::with(&options, 3, 0)
}

fn options() -> RedisOptions {
    RedisOptions::new().with_tls(AUTHORITY.localhost())
}

async fn connect(cluster: &RedisCluster) -> Backend {
    choose_provider();
    let builder = Backend::cluster([cluster.nodes[0].url()]);
    let builder = builder.with_certificates(trusting(&AUTHORITY.certificate()));
    let builder = builder.with_connect_timeout(10 * SECOND);
    builder.connect().await.unwrap()
}

struct Cluster;

impl Deployment for Cluster {
    type Servers = RedisCluster;
    const GAPS: &'static [Gap] = GAPS_OF_A_CLUSTER;
    const PREFIX: &'static str = "lock:";

    fn pool() -> &'static Pool<RedisCluster> {
        &CLUSTERS
    }

    fn urls(cluster: &RedisCluster) -> Vec<String> {
        // And whom to trust, which another process does not know.
        let node = cluster.nodes[0].url_for("locks", "pw");
        vec![node, AUTHORITY.certificate()]
    }

    async fn client(urls: Vec<String>) -> Backend {
        choose_provider();
        let builder = Backend::cluster([&urls[0]]);
        let builder = builder.with_certificates(trusting(&urls[1]));
        let builder = builder.with_connect_timeout(10 * SECOND);
        builder.connect().await.unwrap()
    }

    fn check(server: &RedisServer) {
        assert_eq!(all_refusals(server), Vec::<String>::new());
    }
}

mod cluster {
    lock_testkit::conformance!(super::On<super::Cluster>);
}

#[tokio::test]
async fn locks_are_renewed_and_woken_for_while_their_slot_moves() {
    let cluster = RedisCluster::with(&options(), 3, 0);
    let backend = connect(&cluster).await;
    let keys: Vec<_> = (0..5).map(|n| key(&format!("{{moving}}:{n}"))).collect();
    let mine = owner();
    for key in &keys {
        take(&backend, key, &mine).await;
    }
    let all_held = async || {
        for key in &keys {
            let answer = renew(&backend, key, &mine, TTL, Renew::AtLeast).await;
            assert_eq!(answer.unwrap(), Ownership::Held, "{key}");
        }
    };
    let wakeups = backend.wakeups().unwrap();
    let mut wakeup = wakeups.subscribe(&keys[0], None).await.unwrap();
    let slot = cluster.slot_of("{moving}");
    let to = (cluster.master_of(slot) + 1) % 3;
    cluster.begin_move(slot, to);
    all_held().await;
    while cluster.move_keys(slot, to, 3) > 0 {
        all_held().await;
    }
    cluster.end_move(slot, to);
    all_held().await;
    soon("a wake-up when the subscription moves", wakeup.notified()).await;
    eventually("the new server has the subscription", async || {
        let channel = "{moving}:0:fencelock:tag:wake";
        let subscribed = cluster.nodes[to].cli(&["PUBSUB", "SHARDNUMSUB", channel]);
        subscribed.array()[1].integer() == 1
    })
    .await;
    for key in &keys {
        assert_eq!(backend.release(key, &mine).await.unwrap(), Ownership::Held);
    }
    soon("a wake-up from the new server", wakeup.notified()).await;
}

#[tokio::test]
async fn a_master_that_is_killed_is_left_for_its_successor() {
    let mut cluster = RedisCluster::with(&options(), 3, 1);
    let backend = connect(&cluster).await;
    let (key, mine) = (key("k"), owner());
    let slot = cluster.slot_of("k");
    let before = cluster.master_of(slot);
    let first = take(&backend, &key, &mine).await;
    eventually("the replica has the lock", async || {
        cluster.nodes[before + 3].cli(&["DBSIZE"]).integer() == 2
    })
    .await;
    cluster.nodes[before].stop();
    held_again(&backend, &key, &mine).await;
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    let next = take(&backend, &key, &owner()).await;
    assert!(next.first() > first.last());
}

#[tokio::test]
async fn the_new_primary_behind_sentinel_is_found_after_the_old_one_was_killed() {
    choose_provider();
    let mut sentinel = RedisSentinel::with(&options());
    assert!(
        sentinel
            .urls()
            .iter()
            .all(|url| url.starts_with("rediss://"))
    );
    let primary = format!("rediss://{}", RedisSentinel::NAME);
    let builder = Backend::sentinel(sentinel.urls(), &primary);
    let builder = builder.with_certificates(trusting(&AUTHORITY.certificate()));
    let builder = builder.with_connect_timeout(3 * SECOND);
    let backend = builder.connect().await.unwrap();
    let (key, mine) = (key("k"), owner());
    let first = take(&backend, &key, &mine).await;
    let wakeups = backend.wakeups().unwrap();
    let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
    let before = sentinel.primary_index();
    eventually("the replica has the lock", async || {
        exists(&sentinel.servers[1 - before], "k")
    })
    .await;
    sentinel.kill_primary();
    soon("a wake-up, in doubt", wakeup.notified()).await;
    held_again(&backend, &key, &mine).await;
    let primary = sentinel.wait_for_failover(before);
    eventually("subscribed at the new primary", async || {
        let subscribed = primary.cli(&["PUBSUB", "NUMSUB", "{k}:fencelock:wake"]);
        subscribed.array()[1].integer() == 1
    })
    .await;
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    soon("a wake-up", wakeup.notified()).await;
    let next = take(&backend, &key, &owner()).await;
    assert!(next.first() > first.last());
}

async fn held_again(backend: &Backend, key: &lock_core::LockKey, mine: &lock_core::Owner) {
    // Meanwhile the answer is that nobody knows, or that nothing was done.
    eventually("renewed at the successor", async || {
        match renew(backend, key, mine, TTL, Renew::AtLeast).await {
            Ok(answer) => answer == Ownership::Held,
            Err(error) => {
                assert_ne!(error.kind(), BackendErrorKind::Permanent, "{error}");
                false
            }
        }
    })
    .await;
}

#[tokio::test]
async fn nodes_that_are_not_who_they_say_are_refused() {
    choose_provider();
    let stranger = Authority::new();
    let builder = Backend::cluster([CLUSTERS.shared().nodes[0].url()]);
    let connecting = patient(builder)
        .with_certificates(trusting(&stranger.certificate()))
        .connect();
    let error = soon("a refusal", connecting).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    let sentinel = RedisSentinel::with(&options());
    let primary = format!("rediss://{}", RedisSentinel::NAME);
    for authority in [None, Some(&stranger)] {
        let builder = Backend::sentinel(sentinel.urls(), &primary);
        let mut builder = builder.with_connect_timeout(3 * SECOND);
        if let Some(authority) = authority {
            builder = builder.with_certificates(trusting(&authority.certificate()));
        }
        let error = soon("a refusal", builder.connect()).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    // Certificates are for whom they name: elsewhere they are somebody else's.
    let elsewhere = RedisOptions::new().with_tls(AUTHORITY.elsewhere());
    let cluster = RedisCluster::with(&elsewhere, 3, 0);
    let builder = Backend::cluster([cluster.nodes[0].url()]);
    let connecting = patient(builder)
        .with_certificates(trusting(&AUTHORITY.certificate()))
        .connect();
    let error = soon("a refusal", connecting).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}
