//! Grants that count only when replicas have them.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::deploy::{Deployment, KEEP_DATA, On, Pool};
use common::*;
use lock_core::{BackendErrorKind, LockBackend, LockKey, Ownership, Renew};
use lock_fred::FredBackendBuilder;
use lock_testkit::Gap;
use lock_testkit::server::{RedisOptions, RedisReplicas};

static PAIRS: Pool<RedisReplicas> = Pool::new(start);

fn start() -> RedisReplicas {
    let options = RedisOptions::new().with_args(KEEP_DATA);
    RedisReplicas::with(&options, 1)
}

fn builder(url: &str, least: u16) -> FredBackendBuilder {
    // On a loaded machine an answer takes its time: replicas have three seconds (a tenth of the ttl), and we more.
    let builder = patient(Backend::builder(url)).with_response_timeout(20 * SECOND);
    builder.with_replicas(least)
}

async fn careful(pair: &RedisReplicas, least: u16) -> Backend {
    builder(&pair.primary.url(), least).connect().await.unwrap()
}

/// They keep their data.
struct Replicated;

impl Deployment for Replicated {
    type Servers = RedisReplicas;
    const GAPS: &'static [Gap] = &[Gap::Order];

    fn pool() -> &'static Pool<RedisReplicas> {
        &PAIRS
    }

    fn urls(pair: &RedisReplicas) -> Vec<String> {
        vec![pair.primary.url()]
    }

    async fn client(urls: Vec<String>) -> Backend {
        let builder = builder(&urls[0], 1).with_survives_restart(true);
        builder.connect().await.unwrap()
    }
}

mod conformance {
    lock_testkit::conformance!(super::On<super::Replicated>);
}

#[tokio::test]
async fn a_grant_is_at_the_replicas_before_it_counts() {
    let pair = RedisReplicas::start(2);
    let backend = careful(&pair, 2).await;
    for n in 0..50 {
        let key = key(&format!("k{n}"));
        take(&backend, &key, &owner()).await;
        for replica in &pair.replicas {
            assert!(exists(replica, key.as_str()), "{key}");
        }
    }
}

#[tokio::test]
async fn a_grant_that_replicas_do_not_get_is_refused_and_given_back() {
    let pair = RedisReplicas::start(1);
    let backend = careful(&pair, 1).await;
    let (kept, key, mine) = (key("kept"), key("k"), owner());
    take(&backend, &kept, &mine).await;
    pair.replicas[0].pause();
    // Renewals of other locks go on meanwhile.
    let waiting = AtomicBool::new(true);
    let renewals = async {
        let mut count = 0;
        while waiting.load(Ordering::SeqCst) {
            let answer = renew(&backend, &kept, &mine, TTL, Renew::AtLeast).await;
            assert_eq!(answer.unwrap(), Ownership::Held);
            count += 1;
        }
        count
    };
    let refusal = async {
        let error = soon("a refusal", attempt(&backend, &key, &mine))
            .await
            .unwrap_err();
        waiting.store(false, Ordering::SeqCst);
        error
    };
    let (count, error) = tokio::join!(renewals, refusal);
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    assert!(
        error.to_string().contains("only 0 of 1 replicas"),
        "{error}"
    );
    assert!(
        count > 10,
        "{count} renewals while a grant waited for a replica"
    );
    assert!(!exists(&pair.primary, "k") && exists(&pair.primary, "kept"));

    pair.replicas[0].resume();
    eventually("the replica answers again", async || {
        attempt(&backend, &key, &mine).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn more_replicas_than_there_are_never_have_it() {
    let pair = RedisReplicas::start(1);
    let error = attempt(&careful(&pair, 2).await, &key("k"), &owner())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    assert!(
        error.to_string().contains("only 1 of 2 replicas"),
        "{error}"
    );
    assert!(!exists(&pair.primary, "k"));
}

#[tokio::test]
async fn the_right_to_wait_is_missed_by_name_at_the_first_use() {
    PAIRS.shared().primary.add_user("hasty", "pw", LEAST_RIGHTS);
    let rights = format!("{LEAST_RIGHTS} {RIGHTS_TO_ASK} +wait");
    PAIRS.shared().primary.add_user("careful", "pw", &rights);
    let connect = async |user| {
        let url = PAIRS.shared().primary.url_for(user, "pw");
        patient(Backend::builder(url))
            .with_replicas(1)
            .with_response_timeout(20 * SECOND)
            .connect()
            .await
            .unwrap()
    };
    let (key, mine) = (LockKey::with_prefix("lock:", "acl").unwrap(), owner());
    let error = attempt(&connect("hasty").await, &key, &mine)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    assert!(error.to_string().contains("'wait'"), "{error}");
    assert!(!exists(&PAIRS.shared().primary, "lock:acl"));
    PAIRS.shared().primary.cli(&["ACL", "LOG", "RESET"]);
    let careful = connect("careful").await;
    take(&careful, &key, &mine).await;
    assert_eq!(careful.release(&key, &mine).await.unwrap(), Ownership::Held);
    assert_eq!(all_refusals(&PAIRS.shared().primary), Vec::<String>::new());
}

#[tokio::test]
async fn a_wait_whose_answer_is_lost_gives_the_grant_back() {
    let pair = RedisReplicas::start(1);
    let builder = Backend::builder(pair.primary.url()).with_replicas(1);
    let backend = builder
        .with_response_timeout(20 * SECOND)
        .with_connect_timeout(10 * SECOND)
        .connect()
        .await
        .unwrap();
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    backend.release(&key, &mine).await.unwrap();
    // All is over for who waits, and only for them: the connection of WAIT is the one that is killed.
    pair.replicas[0].pause();
    let kill = async {
        eventually("WAIT is under way", async || {
            let blocked = pair.primary.cli(&["INFO", "clients"]).text();
            blocked.contains("blocked_clients:1")
        })
        .await;
        let clients = pair
            .primary
            .cli(&["CLIENT", "LIST", "TYPE", "normal"])
            .text();
        let waiting = clients.lines().find(|client| client.contains("cmd=wait"));
        let id = waiting
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .trim_start_matches("id=")
            .to_owned();
        pair.primary.cli(&["CLIENT", "KILL", "ID", &id]);
    };
    let ((), answer) = tokio::join!(kill, attempt(&backend, &key, &mine));
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    assert!(!exists(&pair.primary, "k"));
    pair.replicas[0].resume();
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn on_a_cluster_the_replicas_of_the_keys_own_master_are_waited_for() {
    use lock_testkit::server::RedisCluster;

    let cluster = RedisCluster::start_with_replicas();
    let backend = Backend::cluster(cluster.urls())
        .with_replicas(1)
        .with_response_timeout(20 * SECOND)
        .with_connect_timeout(10 * SECOND)
        .connect()
        .await
        .unwrap();
    let mine = owner();
    for name in ["a", "b", "c", "d", "e", "f"] {
        take(&backend, &key(name), &mine).await;
        let replica = &cluster.nodes[cluster.master_of(cluster.slot_of(name)) + 3];
        assert!(replica.cli(&["DBSIZE"]).integer() >= 2, "{name}");
    }
    let slot = cluster.slot_of("a");
    let master = cluster.master_of(slot);
    cluster.nodes[master + 3].pause();
    // Renewals at the same node go on meanwhile.
    let (kept, other, waiting) = (key("a"), key("{a}2"), AtomicBool::new(true));
    let renewals = async {
        let mut count = 0;
        while waiting.load(Ordering::SeqCst) {
            let answer = renew(&backend, &kept, &mine, TTL, Renew::AtLeast).await;
            assert_eq!(answer.unwrap(), Ownership::Held);
            count += 1;
        }
        count
    };
    let refusal = async {
        let refusal = soon("a refusal", attempt(&backend, &other, &mine)).await;
        waiting.store(false, Ordering::SeqCst);
        refusal.unwrap_err()
    };
    let (count, error) = tokio::join!(renewals, refusal);
    assert!(
        count > 10,
        "{count} renewals while a grant waited for a replica"
    );
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    assert_eq!(cluster.nodes[master].cli(&["EXISTS", "{a}2"]).integer(), 0);
    // Another master's replica has nothing to do with that.
    let elsewhere = (0..)
        .map(|n| format!("n{n}"))
        .find(|name| cluster.master_of(cluster.slot_of(name)) != master);
    take(&backend, &key(&elsewhere.unwrap()), &mine).await;
    cluster.nodes[master + 3].resume();
}
