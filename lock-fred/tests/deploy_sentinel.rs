//! Locks behind Sentinel: every promise is kept, and the new primary is found after a failover.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::deploy::{Deployment, KEEP_DATA, On, Pool};
use common::*;
use lock_core::{BackendErrorKind, LockBackend, LockKey, Ownership, Renew};
use lock_testkit::Gap;
use lock_testkit::server::{RedisOptions, RedisSentinel, RedisServer, Reply};

static SENTINELS: Pool<RedisSentinel> = Pool::new(start);

fn start() -> RedisSentinel {
    let options = RedisOptions::new().with_args(KEEP_DATA);
    let sentinel = RedisSentinel::with(&options);
    for one in &sentinel.sentinels {
        // Longer than any case.
        let down_after = ["down-after-milliseconds", "600000"];
        let set = ["SENTINEL", "SET", RedisSentinel::NAME];
        let set = one.cli(&[&set[..], &down_after].concat());
        assert_eq!(set, Reply::Status("OK".to_owned()));
    }
    sentinel
}

/// They keep their data, and nobody takes over.
struct Sentinel;

impl Deployment for Sentinel {
    type Servers = RedisSentinel;
    const GAPS: &'static [Gap] = &[Gap::Order];

    fn pool() -> &'static Pool<RedisSentinel> {
        &SENTINELS
    }

    fn urls(sentinel: &RedisSentinel) -> Vec<String> {
        sentinel.urls()
    }

    async fn client(urls: Vec<String>) -> Backend {
        let builder = patient(Backend::sentinel(urls, RedisSentinel::NAME));
        let builder = builder.with_survives_restart(true);
        builder.connect().await.unwrap()
    }
}

mod conformance {
    lock_testkit::conformance!(super::On<super::Sentinel>);
}

#[tokio::test]
async fn the_new_primary_is_found_after_the_old_one_was_killed() {
    let mut sentinel = RedisSentinel::start();
    let backend = Backend::sentinel(sentinel.urls(), RedisSentinel::NAME)
        .with_connect_timeout(3 * SECOND)
        .connect()
        .await
        .unwrap();
    let (key, mine) = (key("k"), owner());
    let first = take(&backend, &key, &mine).await;
    let wakeups = backend.wakeups().unwrap();
    let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
    let replica = 1 - sentinel.primary_index();
    eventually("the replica has the lock", async || {
        exists(&sentinel.servers[replica], "k")
    })
    .await;

    let killed = sentinel.kill_primary();
    soon("a wake-up, in doubt", wakeup.notified()).await;
    eventually("renewed at the new primary", async || {
        let answer = renew(&backend, &key, &mine, TTL, Renew::AtLeast).await;
        answer.is_ok_and(|ownership| ownership == Ownership::Held)
    })
    .await;
    let primary = sentinel.wait_for_failover(killed);
    assert!(pttl(primary, "k") > 20_000);
    eventually("subscribed at the new primary", async || {
        primary
            .cli(&["PUBSUB", "NUMSUB", "{k}:fencelock:wake"])
            .array()[1]
            .integer()
            == 1
    })
    .await;
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    soon("a wake-up", wakeup.notified()).await;
    let next = take(&backend, &key, &owner()).await;
    assert!(next.first() > first.last());
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_while_it_is_connected_to_is_left() {
    let sentinel = RedisSentinel::start();
    let backend = Backend::sentinel(sentinel.urls(), RedisSentinel::NAME)
        .with_connect_timeout(3 * SECOND)
        .connect()
        .await
        .unwrap();
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    let before = sentinel.primary_index();
    let ordered = sentinel.sentinels[0].cli(&["SENTINEL", "FAILOVER", RedisSentinel::NAME]);
    assert_eq!(ordered, Reply::Status("OK".to_owned()));
    sentinel.wait_for_failover(before);
    // Until the old primary is told, who is connected to it goes on there: the price of replication.
    eventually("the old primary is told", async || {
        let role = sentinel.servers[before].try_cli(&["ROLE"]);
        role.is_ok_and(|role| role.array()[0].text() == "slave")
    })
    .await;
    eventually("released at the new primary", async || {
        // Before that the answer is that nothing was done, or that nobody knows.
        match backend.release(&key, &mine).await {
            Ok(_) => true,
            Err(error) => {
                assert_ne!(error.kind(), BackendErrorKind::Permanent, "{error}");
                false
            }
        }
    })
    .await;
    assert!(!exists(sentinel.primary(), "k"));
}

#[tokio::test]
async fn sentinels_that_are_down_or_silent_keep_nobody_from_the_primary() {
    let mut sentinel = RedisSentinel::start();
    sentinel.sentinels[0].stop();
    sentinel.sentinels[1].pause();
    let connecting = patient(Backend::sentinel(sentinel.urls(), RedisSentinel::NAME)).connect();
    let backend = soon("a connection", connecting).await.unwrap();
    take(&backend, &key("k"), &owner()).await;
    sentinel.sentinels[1].resume();
}

#[tokio::test]
async fn what_is_wrong_is_told_and_no_password_with_it() {
    let sentinel = SENTINELS.shared();
    let error = patient(Backend::sentinel(sentinel.urls(), "somebody-else"))
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    assert!(
        error
            .to_string()
            .contains("knows nobody called \"somebody-else\""),
        "{error}"
    );

    let primary = format!("redis://nobody:very-secret@{}", RedisSentinel::NAME);
    let error = patient(Backend::sentinel(sentinel.urls(), primary))
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    assert!(
        !format!("{error} {error:?}").contains("very-secret"),
        "{error:?}"
    );

    let nobody = Backend::sentinel(["redis://127.0.0.1:1"], RedisSentinel::NAME);
    let error = soon("a refusal", nobody.connect()).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    for (sentinels, primary) in [
        (vec![], "x"),
        (vec!["nonsense"], "x"),
        (vec!["redis://h"], "http://x"),
    ] {
        let error = Backend::sentinel(sentinels, primary)
            .connect()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Invalid, "{error}");
    }
}

#[tokio::test]
async fn a_user_and_a_database_of_the_primary_are_used() {
    let primary = SENTINELS.shared().primary();
    primary.add_user("sentinel-user", "pw", "~lock:* &lock:* +@all -role");
    let url = format!("redis://sentinel-user:pw@{}/3", RedisSentinel::NAME);
    let backend = patient(Backend::sentinel(SENTINELS.shared().urls(), url))
        .connect()
        .await
        .unwrap();
    let key = LockKey::with_prefix("lock:", "in-three").unwrap();
    take(&backend, &key, &owner()).await;
    let keys = |database: &str| {
        let script = "redis.call('SELECT', ARGV[1]) return redis.call('EXISTS', KEYS[1])";
        let command = ["EVAL", script, "1", "lock:in-three", database];
        RedisServer::cli(primary, &command).integer()
    };
    assert_eq!((keys("0"), keys("3")), (0, 1));
    let shown = format!("{backend:?}");
    assert!(
        shown.contains("fencelock") && !shown.contains("pw"),
        "{shown}"
    );
}

/// Sentinels have credentials of their own, in their URLs, and are not shown those of the primary.
#[tokio::test]
async fn sentinels_that_want_a_password_get_theirs_and_the_primary_its_own() {
    let sentinel = RedisSentinel::start_with_password("sentinel-secret");
    let rights = format!("{LEAST_RIGHTS} {RIGHTS_TO_ASK} +role");
    for server in &sentinel.servers {
        server.add_user("locks", "very-secret", &rights);
    }
    for one in &sentinel.sentinels {
        one.add_user(
            "asks",
            "asks-secret",
            "-@all +sentinel|get-master-addr-by-name",
        );
    }
    let primary = format!("redis://locks:very-secret@{}", RedisSentinel::NAME);
    let asking = sentinel.sentinels.iter();
    let asking = asking.map(|one| one.url_for("asks", "asks-secret"));
    for sentinels in [sentinel.urls(), asking.collect()] {
        let backend = patient(Backend::sentinel(sentinels, &primary)).connect();
        let (backend, mine) = (backend.await.unwrap(), owner());
        let key = LockKey::with_prefix("lock:", "k").unwrap();
        let wakeups = backend.wakeups().unwrap();
        let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
        take(&backend, &key, &mine).await;
        assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
        soon("a wake-up", wakeup.notified()).await;
    }
    assert_eq!(all_refusals(sentinel.primary()), Vec::<String>::new());

    let wrong = |password: &str| {
        let urls = sentinel.sentinels.iter();
        urls.map(|one| format!("redis://{password}127.0.0.1:{}", one.port()))
            .collect::<Vec<_>>()
    };
    for sentinels in [
        wrong(""),
        wrong(":very-secret@"),
        wrong("asks:sentinel-secret@"),
    ] {
        let connecting = patient(Backend::sentinel(sentinels, &primary)).connect();
        let error = soon("a refusal", connecting).await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
        assert!(error.to_string().contains("credentials"), "{error}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_primary_that_falls_silent_is_left_for_its_successor() {
    let sentinel = RedisSentinel::start();
    let backend = Backend::sentinel(sentinel.urls(), RedisSentinel::NAME)
        .with_connect_timeout(3 * SECOND)
        .connect()
        .await
        .unwrap();
    let (key, mine) = (key("k"), owner());
    let before = sentinel.primary_index();
    take(&backend, &key, &mine).await;
    eventually("the replica has the lock", async || {
        exists(&sentinel.servers[1 - before], "k")
    })
    .await;
    sentinel.servers[before].pause();
    eventually("renewed at the successor", async || {
        match renew(&backend, &key, &mine, TTL, Renew::AtLeast).await {
            Ok(answer) => answer == Ownership::Held,
            Err(error) => {
                assert_ne!(error.kind(), BackendErrorKind::Permanent, "{error}");
                false
            }
        }
    })
    .await;
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    sentinel.servers[before].resume();
}
