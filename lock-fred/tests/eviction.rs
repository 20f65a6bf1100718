//! A server that may throw locks away is told apart from one that does not, by all who may ask.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::{Backend, LEAST_RIGHTS, connected, patient, refusals};
use lock_testkit::server::{Program, RedisOptions, RedisServer};

fn options(limit: &str, policy: &str) -> RedisOptions {
    RedisOptions::new().with_args(["--maxmemory", limit, "--maxmemory-policy", policy])
}

fn server(limit: &str, policy: &str) -> RedisServer {
    options(limit, policy).start()
}

#[tokio::test]
async fn a_server_says_whether_it_may_evict_locks() {
    for (limit, policy, evicts) in [
        ("100mb", "noeviction", false),
        ("100mb", "allkeys-lru", true),
        ("100mb", "volatile-lru", true),
        ("100mb", "volatile-ttl", true),
        // Without a limit nothing is ever evicted.
        ("0", "allkeys-lru", false),
    ] {
        let server = server(limit, policy);
        for url in [server.url(), format!("{}?protocol=resp2", server.url())] {
            let backend = connected(url).await;
            let answer = backend.may_evict().await.unwrap();
            assert_eq!(answer, Some(evicts), "{limit} {policy}");
        }
    }
}

#[tokio::test]
async fn who_must_not_ask_does_not_and_is_told_nothing() {
    let server = server("100mb", "allkeys-lru");
    for (user, more, answer) in [("least", "", None), ("more", " +info", Some(true))] {
        server.add_user(user, "pw", &format!("{LEAST_RIGHTS}{more}"));
        let backend = connected(server.url_for(user, "pw")).await;
        assert_eq!(backend.may_evict().await.unwrap(), answer, "{user}");
    }
    assert_eq!(refusals(&server), Vec::<String>::new());
}

#[tokio::test]
async fn valkey_says_it_too() {
    if !Program::Valkey.is_here() {
        return;
    }
    let valkey = options("100mb", "volatile-lru").with_program(Program::Valkey);
    let server = valkey.start();
    server.add_user("least", "pw", LEAST_RIGHTS);
    for (url, answer) in [
        (server.url(), Some(true)),
        (server.url_for("least", "pw"), None),
    ] {
        let backend = connected(url).await;
        assert_eq!(backend.may_evict().await.unwrap(), answer);
    }
    assert_eq!(refusals(&server), Vec::<String>::new());
}

#[tokio::test]
async fn without_scripts_it_is_not_known() {
    let server = server("100mb", "allkeys-lru");
    let builder = patient(Backend::builder(server.url())).with_native_commands();
    let backend = builder.connect().await.unwrap();
    assert_eq!(backend.may_evict().await.unwrap(), None);
    assert_eq!(common::calls(&server, "evalsha"), 0);
}
