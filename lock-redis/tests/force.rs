//! What an operator can do to a lock, and what becomes of its holder.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::{SECOND, TTL, connected, eventually, key, locks, token};
use lock_core::{BackendErrorKind, ForceRelease, LossReason, RenewalPolicy};
use lock_testkit::server::RedisServer;
use tokio::runtime::Handle;
use tokio::time::timeout;

#[tokio::test]
async fn a_lock_that_was_taken_by_force_is_free_and_its_holder_is_fenced_and_told() {
    let server = RedisServer::start();
    let (holder, other) = (locks(&server).await, locks(&server).await);
    let operator = connected(server.url()).await;
    let lock = holder.lock("k").with_label("web-1").with_ttl(3 * SECOND);
    let guard = lock.acquire().await.unwrap();

    let forced = operator.force_release(&key("k")).await.unwrap().unwrap();
    assert_eq!(forced.holder.label.as_deref(), Some("web-1"));
    let fencing = forced.fencing.unwrap().get();
    assert!(fencing > token(&guard));
    assert!(
        server.cli(&["PTTL", "{k}:fencelock:fence"]).integer() > 0,
        "the counter ends"
    );

    let next = other.lock("k").try_acquire().await.unwrap();
    assert!(token(&next) > fencing);
    assert_eq!(
        timeout(10 * SECOND, guard.lost()).await.unwrap(),
        LossReason::Taken
    );
    next.release().await.unwrap();
    assert_eq!(operator.force_release(&key("k")).await.unwrap(), None);
}

#[tokio::test]
async fn a_waiter_is_woken_by_force() {
    let server = RedisServer::start();
    let (holder, waiter) = (locks(&server).await, locks(&server).await);
    let operator = connected(server.url()).await;
    let unrenewed = holder.lock("k").with_renewal(RenewalPolicy::never());
    let guard = unrenewed.with_ttl(TTL * 10).acquire().await.unwrap();
    let waiting = Handle::current()
        .spawn(async move { waiter.lock("k").with_wait(TTL).acquire().await.map(drop) });
    eventually("the waiter has subscribed", async || {
        let numbers = server.cli(&["PUBSUB", "NUMSUB", "{k}:fencelock:wake"]);
        numbers.array()[1].integer() > 0
    })
    .await;
    assert!(operator.force_release(&key("k")).await.unwrap().is_some());
    timeout(20 * SECOND, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    drop(guard);
}

#[tokio::test]
async fn what_others_wrote_is_released_too_but_another_type_is_a_conflict() {
    let server = RedisServer::start();
    let operator = connected(server.url()).await;
    server.cli_bytes(&[b"SET", b"k", b"\xff\x00raw"]);
    let forced = operator.force_release(&key("k")).await.unwrap().unwrap();
    assert_eq!((forced.holder.label, forced.holder.remaining), (None, None));
    assert_eq!(server.cli(&["EXISTS", "k"]).integer(), 0);

    server.cli(&["HSET", "k", "a", "b"]);
    let error = operator.force_release(&key("k")).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Conflict);
    assert_eq!(server.cli(&["TYPE", "k"]).text(), "hash");

    server.cli(&["DEL", "k"]);
    server.cli(&["SET", "k", "x"]);
    server.cli(&["SET", "{k}:fencelock:fence", "no number"]);
    operator.force_release(&key("k")).await.unwrap_err();
    assert_eq!(server.cli(&["GET", "k"]).text(), "x", "nothing was changed");
}
