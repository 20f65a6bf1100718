//! Fencing tokens grow whatever happens, and a counter that cannot count never costs a lock.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::time::Duration;

use common::*;
use lock_core::{AcquireRequest, BackendErrorKind, LockBackend, Renew};
use lock_testkit::server::{RedisServer, Reply};

const COUNTER: &str = "{k}:fencelock:fence";

#[tokio::test]
async fn tokens_grow_across_release_expiry_flush_and_restart() {
    let mut server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mut newest) = (key("k"), 0);
    for round in 0..40 {
        let mine = owner();
        // What is deleted has not ended by itself before.
        let ttl = if round % 4 == 1 { 20 * MS } else { TTL };
        let request = AcquireRequest::new(&key, &mine, ttl).with_tokens(round % 8 + 1);
        let mut answer = backend.try_acquire(request).await;
        if round > 0 && answer.is_err() {
            // The first call after a restart may meet the old connection.
            answer = backend.try_acquire(request).await;
        }
        let tokens = granted(answer);
        assert!(
            tokens.first().get() > newest,
            "{} after {newest}",
            tokens.first()
        );
        newest = tokens.last().get();
        assert_eq!(
            server.cli(&["GET", COUNTER]).text(),
            newest.to_string(),
            "a digit is lost"
        );
        match round % 4 {
            0 => assert!(backend.release(&key, &mine).await.is_ok()),
            1 => {
                eventually("expiry", async || {
                    backend.inspect(&key).await.unwrap().is_none()
                })
                .await
            }
            2 => assert_eq!(server.cli(&["FLUSHALL"]).text(), "OK"),
            _ if round == 19 => server.restart_empty(),
            _ => assert_eq!(server.cli(&["DEL", "k"]).integer(), 1),
        }
    }
}

#[tokio::test]
async fn a_counter_ahead_of_the_clock_keeps_every_digit() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine) = (key("k"), owner());
    for last in [8_999_999_999_999_999_u64, 9_007_199_254_740_927] {
        server.cli(&["SET", COUNTER, &last.to_string()]);
        let request = AcquireRequest::new(&key, &mine, TTL).with_tokens(64);
        let tokens = granted(backend.try_acquire(request).await);
        assert_eq!(
            (tokens.first().get(), tokens.last().get()),
            (last + 1, last + 64)
        );
        assert_eq!(granted(backend.try_acquire(request).await), tokens);
        assert_eq!(
            busy(attempt(&backend, &key, &owner()).await).holder.fencing,
            Some(tokens.last())
        );
        assert_eq!(
            server.cli(&["GET", COUNTER]).text(),
            (last + 64).to_string()
        );
        backend.release(&key, &mine).await.unwrap();
    }
}

#[tokio::test]
async fn a_counter_outlives_its_lock_but_not_for_ever() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine) = (key("k"), owner());
    let day = 86_400_000;
    for (ttl, keeps) in [
        (Duration::from_secs(1), day),
        (Duration::from_secs(86_400), 10 * day),
    ] {
        granted(
            backend
                .try_acquire(AcquireRequest::new(&key, &mine, ttl))
                .await,
        );
        let left = pttl(&server, COUNTER);
        assert!(keeps - 60_000 < left && left <= keeps, "{left}");
        backend.release(&key, &mine).await.unwrap();
    }
}

#[tokio::test]
async fn a_counter_that_cannot_count_is_an_error_and_leaves_no_lock() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine, heir) = (key("k"), owner(), owner());
    for (bad, what) in [
        (
            ["SET", COUNTER, "garbage"].as_slice(),
            "text that is no number",
        ),
        (&["SET", COUNTER, ""], "text that is no number"),
        (&["SET", COUNTER, "-5"], "text that is no number"),
        (&["SET", COUNTER, "1e15"], "text that is no number"),
        (
            &["SET", COUNTER, "99999999999999999999"],
            "text that is no number",
        ),
        (
            &["SET", COUNTER, "9007199254740992"],
            "a number beyond 2^53",
        ),
        (&["RPUSH", COUNTER, "1"], "a list"),
        (&["HSET", COUNTER, "1", "2"], "a hash"),
    ] {
        server.cli(bad);
        let before = server.cli(&["DUMP", COUNTER]);
        let error = attempt(&backend, &key, &mine).await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
        assert!(
            error.to_string().contains(what) && error.to_string().contains(COUNTER),
            "{error}"
        );
        assert_eq!(
            server.cli(&["EXISTS", "k"]).integer(),
            0,
            "{bad:?} left a lock"
        );

        // A lock that stands is still busy, renewed, released; and not handed over.
        server.cli(&["SET", "k", mine.expose(), "PX", "30000"]);
        assert_eq!(
            busy(attempt(&backend, &key, &heir).await).holder.fencing,
            None
        );
        assert!(backend.inspect(&key).await.unwrap().is_some());
        let hand_over = AcquireRequest::new(&key, &heir, TTL).with_from(Some(&mine));
        assert_eq!(
            backend.try_acquire(hand_over).await.unwrap_err().kind(),
            BackendErrorKind::Permanent
        );
        assert_eq!(server.cli(&["GET", "k"]).text(), mine.expose());
        renew(&backend, &key, &mine, TTL, Renew::Exactly)
            .await
            .unwrap();
        backend.release(&key, &mine).await.unwrap();
        assert_eq!(server.cli(&["DUMP", COUNTER]), before);
        assert_ne!(server.cli(&["DEL", COUNTER]), Reply::Integer(0));
    }
}

#[tokio::test]
async fn the_counter_stops_before_numbers_lose_digits() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    for last in ["9007199254740928", "9007199254740991", "9007199254740992"] {
        server.cli(&["SET", COUNTER, last]);
        let error = attempt(&backend, &key("k"), &owner()).await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
        assert_eq!(server.cli(&["EXISTS", "k"]).integer(), 0);
    }
}

#[tokio::test]
async fn without_memory_nothing_is_taken_and_everything_is_given_back() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (held, free, mine) = (key("held"), key("free"), owner());
    let tokens = take(&backend, &held, &mine).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for _ in 0..2 {
        let error = attempt(&backend, &free, &mine).await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
        assert!(error.to_string().contains("OOM"), "{error}");
        server.cli(&["SCRIPT", "FLUSH"]);
    }
    let hand_over = owner();
    let request = AcquireRequest::new(&held, &hand_over, TTL).with_from(Some(&mine));
    assert_eq!(
        backend.try_acquire(request).await.unwrap_err().kind(),
        BackendErrorKind::Transient
    );
    assert_eq!(server.cli(&["KEYS", "*free*"]), Reply::Array(vec![]));
    // What was taken before is known as such, also to a copy of the request that took it.
    assert_eq!(take(&backend, &held, &mine).await, tokens);
    busy(attempt(&backend, &held, &owner()).await);
    let longer = Duration::from_secs(100);
    renew(&backend, &held, &mine, longer, Renew::AtLeast)
        .await
        .unwrap();
    assert!(pttl(&server, "held") > 60_000);
    backend.release(&held, &mine).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "held"]).integer(), 0);
}
