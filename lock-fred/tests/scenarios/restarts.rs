//! Servers that go and come back, and servers that are there but do not serve.

use lock_core::{BackendErrorKind, LockBackend, LossReason, Moment, Renew, RenewalPolicy};
use lock_testkit::server::{RedisOptions, Reply};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_with_its_data_knows_who_holds_the_lock_and_for_how_long() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisOptions::new().with_args(options).start();
    let (here, there) = (locks(&server).await, locks(&server).await);
    let by_hand = here.lock("by hand").with_ttl(LASTING);
    let by_hand = by_hand.with_renewal(RenewalPolicy::never());
    let renewed = here.lock("renewed").with_ttl(10 * SECOND);
    let (by_hand, renewed) = (
        by_hand.try_acquire().await.unwrap(),
        renewed.try_acquire().await.unwrap(),
    );
    let deadline = renewed.deadline();
    let (left, before) = (pttl(&server, "by hand"), server.cli(&["GET", "by hand"]));
    let away = Moment::now();
    server.stop();
    sleep(1500 * MS).await;
    block_in_place(|| server.restart());
    let away = i64::try_from(away.elapsed().as_millis()).unwrap();
    assert_eq!(server.cli(&["GET", "by hand"]), before);
    let now = pttl(&server, "by hand");
    assert!(
        0 < now && now <= left - away + 5,
        "{now} of {left} after {away} ms"
    );
    eventually("the other client is connected", async || {
        there.lock("by hand").status().await.is_ok()
    })
    .await;
    for name in ["by hand", "renewed"] {
        let error = there.lock(name).try_acquire().await.unwrap_err();
        assert!(error.is_busy(), "{error}");
    }
    is_honest(&server, &by_hand);
    eventually("a renewal", async || {
        assert!(renewed.is_held(), "{:?}", renewed.check());
        renewed.deadline() > deadline + 500 * MS
    })
    .await;
    let tokens = (token(&by_hand), token(&renewed));
    assert_eq!(by_hand.release().await.unwrap(), Released::Released);
    assert_eq!(renewed.release().await.unwrap(), Released::Released);
    let next = there.lock("by hand").try_acquire().await.unwrap();
    assert!(token(&next) > tokens.0);
    let next = there.lock("renewed").try_acquire().await.unwrap();
    assert!(token(&next) > tokens.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loads_its_data_is_waited_for() {
    // Slow, and it answers between two keys.
    let slow = [
        "--key-load-delay",
        "3000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let mut server = RedisOptions::new().with_args(slow).start();
    let fill = "for i = 1, 1000 do redis.call('SET', i, string.rep('x', 1000)) end";
    assert_eq!(server.cli(&["EVAL", fill, "0"]), Reply::Nil);
    assert_eq!(server.cli(&["SAVE"]).text(), "OK");
    let url = server.url();
    let backend = connected(&url).await;
    let client = Locks::new(backend.clone());
    let guard = client.lock("k").with_ttl(LASTING).try_acquire().await;
    assert_eq!(guard.unwrap().release().await.unwrap(), Released::Released);
    server.stop();
    let restart = spawn_blocking(move || {
        server.restart();
        server
    });
    let mut said = String::new();
    eventually("LOADING", async || {
        let Err(error) = attempt(&backend, &key("k"), &owner()).await else {
            return false;
        };
        said = format!("{:?}: {error}", error.kind());
        said.contains("LOADING")
    })
    .await;
    assert!(said.starts_with("Transient"), "{said}");
    let lock = client.lock("k").with_ttl(LASTING);
    let error = lock.try_acquire().await.map(drop).unwrap_err();
    assert!(!error.is_busy() && error.is_retryable(), "{error}");
    works(&lock).await;
    drop(restart.await.unwrap());
}

#[tokio::test]
async fn a_replica_without_its_master_and_a_cluster_without_slots_are_transient_errors() {
    let lonely = RedisOptions::new()
        .with_args([
            "--replica-serve-stale-data",
            "no",
            "--replicaof",
            "127.0.0.1 1",
        ])
        .start();
    let slotless = RedisOptions::new()
        .with_args(["--cluster-enabled", "yes"])
        .start();
    for (server, code) in [(&lonely, "MASTERDOWN"), (&slotless, "CLUSTERDOWN")] {
        let backend = connected(server.url()).await;
        let (key, mine) = (key("k"), owner());
        let errors = [
            attempt(&backend, &key, &mine).await.map(drop).unwrap_err(),
            renew(&backend, &key, &mine, TTL, Renew::AtLeast)
                .await
                .unwrap_err(),
            backend.release(&key, &mine).await.unwrap_err(),
            backend.inspect(&key).await.map(drop).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
            assert!(error.to_string().contains(code), "{error}");
        }
        // Waited for until the wait is over, and never busy.
        let lock = Locks::new(backend).lock("k").with_wait(300 * MS);
        let error = lock.acquire().await.unwrap_err();
        assert!(!error.is_busy() && error.is_retryable(), "{error}");
    }
    lonely.cli(&["REPLICAOF", "NO", "ONE"]);
    works(&locks(&lonely).await.lock("k")).await;
}

/// As an operator may have set it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_evicts_locks_costs_one_at_its_next_renewal() {
    let evicting = ["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"];
    let server = RedisOptions::new().with_args(evicting).start();
    let lock = locks(&server).await.lock("k").with_ttl(6 * SECOND);
    let guard = lock.try_acquire().await.unwrap();
    let value = "x".repeat(100_000);
    let mut n = 0;
    eventually("the lock is evicted", async || {
        for _ in 0..10 {
            n += 1;
            server.cli(&["SET", &format!("other {n}"), &value]);
        }
        !exists(&server, "k")
    })
    .await;
    let (start, left) = (Moment::now(), guard.remaining());
    assert_eq!(soon("the loss", guard.lost()).await, LossReason::Absent);
    assert!(start.elapsed() < left, "told at its deadline only");
    assert_eq!(guard.release().await.unwrap(), Released::Expired);
    assert!(!exists(&server, "k"));
}
