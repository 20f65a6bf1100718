//! Servers and networks that fail: what is known afterwards, and that the backend recovers.
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
use lock_core::{BackendErrorKind, LockBackend, Ownership, Renew};
use lock_testkit::proxy::Proxy;
use lock_testkit::server::{RedisOptions, RedisServer};

#[tokio::test]
async fn an_unreachable_server_is_a_transient_error() {
    let mut server = RedisServer::start();
    let backend = connected(server.url()).await;
    let url = server.url();
    let (key, mine) = (key("k"), owner());
    server.stop();
    let error = soon("refusal", Backend::connect(&url)).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    // The backend that was connected: what was not sent is known not to be applied.
    eventually("the connection is known to be gone", async || {
        attempt(&backend, &key, &mine).await.unwrap_err().kind() == BackendErrorKind::Transient
    })
    .await;
    let error = attempt(&backend, &key, &mine).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    assert!(
        error
            .to_string()
            .contains(&format!("127.0.0.1:{}", server.port())),
        "{error}"
    );

    server.restart_empty();
    take(&backend, &key, &mine).await;
}

#[tokio::test]
async fn a_server_that_has_no_room_for_another_client_is_a_transient_error() {
    let server = RedisServer::start();
    let (first, second) = (quick(&server.url()).await, quick(&server.url()).await);
    server.cli(&["CONFIG", "SET", "maxclients", "2"]);
    let error = soon("refusal", Backend::connect(server.url())).await;
    assert_eq!(error.unwrap_err().kind(), BackendErrorKind::Transient);
    drop((first, second));
    eventually("there is room again", async || {
        Backend::connect(server.url()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up_in_time() {
    let server = RedisServer::start();
    server.pause();
    let connecting = Backend::builder(server.url())
        .with_connect_timeout(Duration::from_millis(100))
        .connect();
    let error = soon("the connect timeout", connecting).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    server.resume();
}

#[tokio::test]
async fn a_call_without_an_answer_is_of_unknown_outcome() {
    let server = RedisServer::start();
    let backend = quick(&server.url()).await;
    let (key, mine) = (key("k"), owner());
    server.pause();
    let error = attempt(&backend, &key, &mine).await.unwrap_err();
    assert!(error.may_have_been_applied(), "{error}");
    let error = renew(&backend, &key, &mine, TTL, Renew::AtLeast)
        .await
        .unwrap_err();
    assert!(error.may_have_been_applied(), "{error}");
    server.resume();
    // It was applied, and a copy of the request learns so.
    eventually("it answers again", async || {
        attempt(&backend, &key, &mine).await.is_ok()
    })
    .await;
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
}

async fn quick(url: &str) -> Backend {
    patient(Backend::builder(url))
        .with_response_timeout(SECOND)
        .connect()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_silent_connection_is_replaced_after_two_calls_without_an_answer() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let backend = quick(&proxy.url()).await;
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    assert_eq!(proxy.connections(), 1);
    proxy.blackhole();
    for _ in 0..2 {
        assert!(
            attempt(&backend, &key, &mine)
                .await
                .unwrap_err()
                .may_have_been_applied()
        );
    }
    take(&backend, &key, &mine).await;
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn calls_that_their_caller_gave_up_count_as_unanswered() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let backend = connected(proxy.url()).await;
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    proxy.blackhole();
    for _ in 0..2 {
        let given_up =
            tokio::time::timeout(Duration::from_millis(20), backend.release(&key, &mine)).await;
        assert!(given_up.is_err());
    }
    assert_eq!(
        soon("a new connection", backend.release(&key, &mine))
            .await
            .unwrap(),
        Ownership::Held
    );
    // An answer in between starts the count anew.
    for _ in 0..6 {
        let _ = tokio::time::timeout(Duration::ZERO, backend.inspect(&key)).await;
        assert_eq!(backend.inspect(&key).await.unwrap(), None);
    }
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn a_killed_connection_costs_one_call_at_most() {
    let server = RedisServer::start();
    for protocol in ["resp2", "resp3"] {
        let url = format!("{}?protocol={protocol}", server.url());
        let backend = connected(url).await;
        let (key, mine) = (key(protocol), owner());
        take(&backend, &key, &mine).await;
        for _ in 0..5 {
            server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            let answer = renew(&backend, &key, &mine, TTL, Renew::AtLeast).await;
            if let Err(error) = answer {
                assert!(error.may_have_been_applied(), "{error}");
            }
            let answer = renew(&backend, &key, &mine, TTL, Renew::AtLeast).await;
            assert_eq!(answer.unwrap(), Ownership::Held);
        }
    }
}

#[tokio::test]
async fn resp3_notices_the_end_of_an_idle_connection() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    assert!(server.cli(&["CLIENT", "LIST"]).text().contains("resp=3"));
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    take(&backend, &key("k"), &owner()).await;
}

#[test]
fn a_backend_outlives_the_runtimes_that_it_was_used_on() {
    let server = RedisServer::start();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (key, mine) = (key("k"), owner());
    let first = runtime();
    let backend = first.block_on(quick(&server.url()));
    first.block_on(take(&backend, &key, &mine));
    // Nobody drives the first runtime any more: calls go without an answer until it is given up.
    let second = runtime();
    let held = second.block_on(async {
        eventually("a connection on the second runtime", async || {
            renew(&backend, &key, &mine, TTL, Renew::AtLeast)
                .await
                .is_ok()
        })
        .await;
        renew(&backend, &key, &mine, TTL, Renew::AtLeast).await
    });
    assert_eq!(held.unwrap(), Ownership::Held);
    drop(first);
    assert_eq!(
        second
            .block_on(renew(&backend, &key, &mine, TTL, Renew::AtLeast))
            .unwrap(),
        Ownership::Held
    );
    drop(second);
    // Ended, not only left alone: one call may meet the dead connection.
    let third = runtime();
    let _ = third.block_on(backend.inspect(&key));
    assert_eq!(
        third.block_on(backend.release(&key, &mine)).unwrap(),
        Ownership::Held
    );
}

/// The address may lead to the new primary by now, so it is asked anew.
#[tokio::test]
async fn a_server_that_became_a_replica_is_connected_to_anew() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let backend = connected(proxy.url()).await;
    take(&backend, &key("a"), &owner()).await;
    let before = proxy.connections();
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = attempt(&backend, &key("b"), &owner()).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    take(&backend, &key("b"), &owner()).await;
    assert!(
        proxy.connections() > before,
        "the old connection is still in use"
    );
}

#[tokio::test]
async fn a_read_only_replica_is_a_transient_error() {
    let primary = RedisOptions::new()
        .with_args(["--repl-diskless-sync-delay", "0"])
        .start();
    let replica = RedisOptions::new()
        .with_args(["--replicaof", &format!("127.0.0.1 {}", primary.port())])
        .start();
    let backend = connected(replica.url()).await;
    let (key, mine) = (key("k"), owner());
    primary.cli(&["SET", "held", mine.expose()]);
    eventually("replication", async || {
        replica.cli(&["EXISTS", "held"]).integer() == 1
    })
    .await;
    let held = common::key("held");
    let errors = [
        attempt(&backend, &key, &mine).await.unwrap_err(),
        renew(&backend, &held, &mine, TTL, Renew::AtLeast)
            .await
            .unwrap_err(),
        backend.release(&held, &mine).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
        assert!(error.to_string().contains("READONLY"), "{error}");
    }
    assert!(backend.inspect(&held).await.unwrap().is_some());
    // After a failover it is the primary.
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    take(&backend, &key, &mine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_with_a_script_is_a_transient_error() {
    let server = Arc::new(
        RedisOptions::new()
            .with_args(["--lua-time-limit", "10"])
            .start(),
    );
    let backend = quick(&server.url()).await;
    let (key, mine) = (key("k"), owner());
    let endless = {
        let server = Arc::clone(&server);
        std::thread::spawn(move || server.cli(&["EVAL", "while true do end", "0"]))
    };
    let mut said = BackendErrorKind::Unknown;
    eventually("BUSY", async || {
        let Err(error) = backend.inspect(&key).await else {
            return false;
        };
        said = error.kind();
        error.to_string().contains("BUSY")
    })
    .await;
    assert_eq!(said, BackendErrorKind::Transient);
    server.cli(&["SCRIPT", "KILL"]);
    endless.join().unwrap();
    take(&backend, &key, &mine).await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_a_transient_error_and_keeps_nothing() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (free, held, mine) = (key("free"), key("held"), owner());
    take(&backend, &held, &mine).await;
    let refused = async |code: &str| {
        for error in [
            attempt(&backend, &free, &mine).await.unwrap_err(),
            backend.release(&held, &mine).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
            assert!(error.to_string().contains(code), "{error}");
        }
        assert_eq!(server.cli(&["EXISTS", "free"]).integer(), 0);
        assert_eq!(server.cli(&["EXISTS", "held"]).integer(), 1);
        assert!(backend.inspect(&held).await.unwrap().is_some());
    };
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    refused("NOREPLICAS").await;
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);

    // A snapshot fails, because its directory is gone.
    server.cli(&["CONFIG", "SET", "save", "3600 1"]);
    let directory = server.cli(&["CONFIG", "GET", "dir"]).array()[1].text();
    std::fs::remove_dir_all(directory).unwrap();
    server.cli(&["BGSAVE"]);
    eventually("the snapshot has failed", async || {
        server
            .cli(&["INFO", "persistence"])
            .text()
            .contains("rdb_last_bgsave_status:err")
    })
    .await;
    refused("MISCONF").await;
    server.cli(&["CONFIG", "SET", "save", ""]);
    assert_eq!(
        backend.release(&held, &mine).await.unwrap(),
        Ownership::Held
    );
}

#[tokio::test]
async fn a_response_timeout_of_zero_is_invalid() {
    let server = RedisServer::start();
    let builder = Backend::builder(server.url()).with_response_timeout(Duration::ZERO);
    let error = builder.connect().await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Invalid, "{error}");
}

#[test]
fn connecting_on_a_runtime_without_io_is_an_error_that_says_so() {
    let server = RedisServer::start();
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().build().unwrap();
    let error = runtime
        .block_on(Backend::connect(server.url()))
        .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    assert!(error.to_string().contains("enable_all"), "{error}");
}
