//! Requests and replies that are lost, late or garbled between `Locks` and a real server, and what is known afterwards.
#![cfg(unix)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../common/mod.rs"]
mod common;

mod acquire;
mod matrix;
mod network;
mod release;
mod renewal;
mod replies;
mod soak;
mod waiting;

use std::time::Duration;

use common::*;
use lock_core::{DistributedLock, LockError, LockGuard, LockOptions, Locks, Released};
use lock_testkit::proxy::{Match, Proxy};
use lock_testkit::server::RedisServer;

/// A server that knows the scripts, so that each call is one request; and locks on it through a proxy.
async fn set_up() -> (RedisServer, Proxy, Locks) {
    let server = RedisServer::start();
    teach(&server).await;
    let proxy = Proxy::start(server.port()).await;
    let locks = through(&proxy).await;
    (server, proxy, locks)
}

/// Has the server see each script once.
async fn teach(server: &RedisServer) {
    let lock = locks(server).await.lock("warm");
    let guard = lock.try_acquire().await.unwrap();
    guard.extend(SECOND).await.unwrap();
    lock.status().await.unwrap();
    guard.release().await.unwrap();
}

/// Locks on a client of their own that goes through `proxy`. How long they wait for an answer is up to their options.
async fn through(proxy: &Proxy) -> Locks {
    Locks::new(backend(&proxy.url()).await)
}

async fn backend(url: &str) -> Backend {
    let builder = Backend::builder(url)
        .with_connect_timeout(10 * SECOND)
        .with_response_timeout(LASTING);
    builder.connect().await.unwrap()
}

/// Locks that outlast the test, with calls that are answered, or fail, even on a machine that is very busy.
fn lasting() -> LockOptions {
    LockOptions::default()
        .with_ttl(LASTING)
        .with_op_timeout(10 * SECOND)
}

/// Locks that outlast the test, with calls that are given up after a second.
fn impatient() -> LockOptions {
    lasting().with_op_timeout(SECOND)
}

/// Gives the lock up. An impatient client need not hear that it was done.
async fn let_go(server: &RedisServer, guard: LockGuard) {
    let key = guard.key().as_str().to_owned();
    match guard.release().await {
        Ok(released) => assert_eq!(released, Released::Released, "{key}"),
        Err(error) => assert!(is_unknown(&error), "{error}"),
    }
    given_back(server, &key).await;
}

/// The release of who holds the lock now, and not one that is tried again for an owner before.
fn release_of_holder(server: &RedisServer, key: &str) -> Match {
    let holder = server.cli(&["GET", key]).text().into_bytes();
    Match::release()
        .key(key)
        .and(move |request| request.contains(&holder))
}

#[tokio::test]
async fn the_proxy_knows_our_scripts() {
    let (_server, proxy, locks) = set_up().await;
    let kinds = [
        Match::acquire(),
        Match::renew(),
        Match::release(),
        Match::inspect(),
    ];
    let counts = kinds.map(|kind| proxy.on(kind.key("k")).count());
    let lock = locks.lock("k");
    let guard = lock.try_acquire().await.unwrap();
    guard.extend(SECOND).await.unwrap();
    guard.renew_for(2 * SECOND).await.unwrap();
    lock.status().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert_eq!(counts.map(|count| count.count()), [1, 2, 1, 1]);
}
