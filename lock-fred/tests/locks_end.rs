//! How locks end: released, dropped, left to expire, shut down, left behind by a runtime; and that nothing stays behind.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;

use common::*;
use futures_util::future::join_all;
use lock_core::{GuardPolicy, LockError, LossReason, Moment, Released};
use lock_testkit::LeakCheck;
use lock_testkit::server::RedisServer;
use tokio::runtime::{Builder, Handle};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_guard_frees_its_key_wherever_it_is_dropped() {
    let server = RedisServer::start();
    let lock = locks(&server).await.lock("k");
    let freed = async || eventually("the key is free", async || !exists(&server, "k")).await;
    drop(lock.acquire().await.unwrap());
    freed().await;
    let guard = lock.acquire().await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    freed().await;
    let guard = lock.acquire().await.unwrap();
    let panics = Handle::current().spawn(async move {
        let _guard = guard;
        panic!("on purpose, with the lock held");
    });
    assert!(panics.await.unwrap_err().is_panic());
    freed().await;
    let guard = lock.acquire().await.unwrap();
    let elsewhere = std::thread::spawn(move || {
        let other = Builder::new_current_thread().enable_all().build().unwrap();
        other.block_on(async move { drop(guard) });
    });
    elsewhere.join().unwrap();
    freed().await;
    let guard = lock.acquire().await.unwrap();
    let aborted = Handle::current().spawn(async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    yield_now().await;
    aborted.abort();
    freed().await;
}

#[tokio::test]
async fn an_acquire_that_is_dropped_at_any_time_leaves_no_key() {
    let server = RedisServer::start();
    let client = locks(&server).await;
    let held = client.lock("held").acquire().await.unwrap();
    let (mut granted, mut dropped) = (0, 0);
    for n in 0..400_u64 {
        // 0 to 1.2 ms, in steps that do not fall together with anything.
        let after = MS * (n * 7 % 400) as u32 / 333;
        let (start, lock) = (Moment::now(), client.lock(format!("k{n}")));
        let over = async {
            while start.elapsed() < after {
                yield_now().await;
            }
        };
        tokio::select! {
            biased;
            guard = lock.acquire() => {
                granted += 1;
                drop(guard.unwrap());
            }
            () = over => dropped += 1,
        }
        // And one who waits for what is held.
        let contended = client.lock("held");
        let over = async {
            while start.elapsed() < 2 * after {
                yield_now().await;
            }
        };
        tokio::select! {
            biased;
            guard = contended.acquire() => panic!("{guard:?}"),
            () = over => {}
        }
    }
    assert!(dropped > 20, "{dropped} dropped, {granted} granted");
    eventually("only what is held is left", async || {
        entries(&server) == ["held"]
    })
    .await;
    assert!(held.is_held());
    assert_eq!(held.release().await.unwrap(), Released::Released);
    eventually("nobody is subscribed", async || {
        server.cli(&["PUBSUB", "CHANNELS"]).array().is_empty()
    })
    .await;
    // Nothing comes late.
    sleep(3 * SECOND).await;
    assert_eq!(entries(&server), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_of_a_lock_stays_behind_in_the_process() {
    let server = RedisServer::start();
    let client = locks(&server).await;
    // The connections, with their tasks.
    let held = client.lock("k").acquire().await.unwrap();
    let waiting = client.lock("k").with_wait(50 * MS).acquire().await;
    assert!(waiting.unwrap_err().is_busy());
    drop(held);
    sleep(200 * MS).await;
    let leaks = LeakCheck::start();
    for n in 0..200 {
        let guard = client.lock("k").acquire().await.unwrap();
        let waiter = client.lock("k").with_wait(2 * MS).acquire().await;
        assert!(waiter.unwrap_err().is_busy());
        match n % 3 {
            0 => drop(guard),
            1 => assert_eq!(guard.release().await.unwrap(), Released::Released),
            _ => {
                server.cli(&["DEL", "k"]);
                assert_eq!(guard.release().await.unwrap(), Released::Expired);
            }
        }
    }
    leaks.assert_none(10 * SECOND).await;
    assert!(entries(&server).is_empty());
}

#[tokio::test]
async fn a_lock_that_is_left_to_expire_stays_for_its_ttl() {
    let server = RedisServer::start();
    let ttl = 2 * SECOND;
    let client = locks(&server).await.with_ttl(ttl);
    let start = Moment::now();
    drop({
        let lock = client.lock("a").with_guard(GuardPolicy::LeaveToExpire);
        lock.acquire().await.unwrap()
    });
    client.lock("b").acquire().await.unwrap().leave_to_expire();
    for name in ["a", "b"] {
        let left = pttl(&server, name);
        assert!(0 < left && left <= 2_000, "{left}");
        assert!(client.lock(name).try_acquire().await.unwrap_err().is_busy());
    }
    let again = client.lock("a").acquire().await.unwrap();
    assert!(start.elapsed() >= ttl, "{:?}", start.elapsed());
    // What the policy is does not matter to who releases.
    let lock = client.lock("c").with_guard(GuardPolicy::LeaveToExpire);
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    drop(again);
    eventually("all are gone", async || entries(&server).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_gives_everything_back_and_refuses_the_rest() {
    let server = RedisServer::start();
    let (client, others) = (locks(&server).await, locks(&server).await);
    let taken: Vec<_> = (0..50).map(|n| client.lock(format!("k{n}"))).collect();
    let guards = join_all(taken.iter().map(|lock| lock.acquire())).await;
    let guards: Vec<_> = guards.into_iter().map(Result::unwrap).collect();
    let theirs = others.lock("theirs").acquire().await.unwrap();
    let mut waiting = JoinSet::new();
    for _ in 0..10 {
        let lock = client.lock("theirs");
        waiting.spawn(async move { lock.acquire().await });
    }
    sleep(200 * MS).await;
    assert!(soon("the shutdown", client.shutdown()).await);
    assert_eq!(entries(&server), ["theirs"]);
    for guard in &guards {
        assert_eq!(guard.lost().await, LossReason::ShutDown);
    }
    while let Some(waiter) = waiting.join_next().await {
        let error = waiter.unwrap().unwrap_err();
        assert!(matches!(error, LockError::Closed { .. }), "{error}");
    }
    let error = client.lock("k0").try_acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Closed { .. }), "{error}");
    let free = others.lock("k0").try_acquire().await.unwrap();
    drop(guards);
    assert!(client.shutdown().await, "it may be called again");
    sleep(200 * MS).await;
    assert!(free.is_held() && exists(&server, "k0"));
    assert!(theirs.is_held());
    assert_eq!(theirs.release().await.unwrap(), Released::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_for_a_server_that_hangs() {
    let server = RedisServer::start();
    let client = locks(&server).await.with_ttl(10 * SECOND);
    let guard = client.lock("k").acquire().await.unwrap();
    server.pause();
    let start = Moment::now();
    assert!(!soon("the shutdown", client.shutdown()).await);
    assert!(start.elapsed() < 6 * SECOND, "{:?}", start.elapsed());
    assert_eq!(guard.lost().await, LossReason::ShutDown);
    server.resume();
    eventually("it is released after all", async || !exists(&server, "k")).await;
}

#[test]
fn a_runtime_that_ends_with_locks_held_and_waited_for_harms_nobody() {
    let server = Arc::new(RedisServer::start());
    let runtime = || {
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let client = first.block_on(locks(&server)).with_ttl(2 * SECOND);
    let guards = first.block_on(async {
        let taken: Vec<_> = (0..50).map(|n| client.lock(format!("k{n}"))).collect();
        let guards = join_all(taken.iter().map(|lock| lock.acquire())).await;
        for lock in taken {
            Handle::current().spawn(async move { lock.acquire().await.map(drop) });
        }
        sleep(100 * MS).await;
        guards.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    });
    first.shutdown_background();
    // Nothing renews them any more, and they say so.
    let second = runtime();
    second.block_on(async {
        for guard in &guards {
            let reason = soon("the deadline", guard.lost()).await;
            assert_eq!(reason, LossReason::Unconfirmed);
            assert!(!guard.is_held());
        }
    });
    drop(guards);
    second.block_on(async {
        eventually("all have ended", async || entries(&server).is_empty()).await;
        // The same locks serve on another runtime.
        let guard = client.lock("k0").acquire().await.unwrap();
        sleep(3 * SECOND).await;
        assert!(guard.is_held());
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    });
}
