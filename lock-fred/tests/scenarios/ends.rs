//! How locks end where they were not meant to: in blocking code, leaked, and with whatever their body does.

use std::sync::Arc;

use lock_core::{Moment, RenewalPolicy};
use tokio::runtime::{Builder, Handle};
use tokio::task::{LocalSet, block_in_place, spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_dropped_in_blocking_or_local_code_is_released() {
    let server = RedisServer::start();
    let lock = locks(&server).await.lock("k").with_ttl(LASTING);
    let take = async || soon("a grant", lock.acquire()).await.unwrap();
    let guard = take().await;
    spawn_blocking(move || drop(guard)).await.unwrap();
    given_back(&server, "k").await;
    let guard = take().await;
    block_in_place(move || drop(guard));
    given_back(&server, "k").await;
    // Inside another runtime, and inside a blocking part of one.
    for deep in [false, true] {
        let guard = take().await;
        let elsewhere = std::thread::spawn(move || {
            let other = Builder::new_multi_thread().build().unwrap();
            other.block_on(async move {
                if deep {
                    spawn_blocking(move || drop(guard)).await.unwrap();
                } else {
                    drop(guard);
                }
            });
        });
        block_in_place(|| elsewhere.join().unwrap());
        given_back(&server, "k").await;
    }
}

#[test]
fn a_guard_that_was_taken_in_a_local_set_is_released_by_it() {
    let server = RedisServer::start();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let lock = locks(&server).await.lock("k").with_ttl(LASTING);
        let task = spawn_local(async move {
            let guard = lock.acquire().await.unwrap();
            sleep(MS).await;
            drop(guard);
        });
        task.await.unwrap();
        given_back(&server, "k").await;
    });
}

#[test]
fn a_runtime_that_is_shut_down_without_patience_takes_locks_and_waiters_with_it() {
    let server = RedisServer::start();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (client, guards) = runtime.block_on(async {
        let client = locks(&server).await.with_ttl(2 * SECOND);
        let mut guards = Vec::new();
        for n in 0..50 {
            guards.push(client.lock(format!("k{n}")).try_acquire().await.unwrap());
            let waiter = client.lock(format!("k{n}"));
            Handle::current().spawn(async move { waiter.acquire().await.map(drop) });
        }
        sleep(100 * MS).await;
        (client, guards)
    });
    let start = Moment::now();
    runtime.shutdown_timeout(Duration::ZERO);
    drop(guards);
    assert!(start.elapsed() < 10 * SECOND, "{:?}", start.elapsed());
    let second = Builder::new_current_thread().enable_all().build().unwrap();
    second.block_on(async {
        eventually("all have ended", async || entries(&server).is_empty()).await;
        works(&client.lock("k0")).await;
    });
}

#[tokio::test]
async fn a_leaked_guard_holds_its_lock_no_longer_than_it_may() {
    let server = RedisServer::start();
    let (limit, ttl) = (SECOND, 2 * SECOND);
    let client = locks(&server).await.with_ttl(ttl);
    let bounded = client.with_renewal(RenewalPolicy::default().hold_at_most(limit));
    let leaked = bounded.lock("a").try_acquire().await.unwrap();
    let shared = Arc::new(bounded.lock("b").try_acquire().await.unwrap());
    let (start, loss) = (Moment::now(), leaked.loss());
    std::mem::forget(leaked);
    std::mem::forget(Arc::clone(&shared));
    soon("the end of what is allowed", loss.lost()).await;
    assert!(!shared.is_held() || start.elapsed() < limit);
    for name in ["a", "b"] {
        eventually("the entry ends", async || !exists(&server, name)).await;
    }
    // A renewal just before the limit may have prolonged them by a ttl.
    works(&locks(&server).await.lock("a")).await;
}

#[tokio::test]
async fn however_the_body_ends_the_lock_is_released_and_its_answer_is_kept() {
    let server = RedisServer::start();
    let client = locks(&server).await.with_ttl(LASTING);
    client
        .with("k", async |_| Ok::<_, LockError>(()))
        .await
        .unwrap();
    assert!(!exists(&server, "k"));

    type Anything = Box<dyn std::error::Error + Send + Sync>;
    let failed = client.with("k", async |_| Err::<(), Anything>("mine".into()));
    assert_eq!(failed.await.unwrap_err().to_string(), "mine");
    assert!(!exists(&server, "k"));

    let panicking = client.clone();
    let panicked = Handle::current().spawn(async move {
        let body = async |_: &LockGuard| -> Result<(), LockError> { panic!("on purpose") };
        panicking.with("k", body).await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    given_back(&server, "k").await;

    let body = async |guard: &LockGuard| {
        assert!(guard.is_held());
        std::future::pending::<Result<(), LockError>>().await
    };
    let cancelled = timeout(300 * MS, client.with("k", body)).await;
    assert!(cancelled.is_err());
    given_back(&server, "k").await;

    let task = client.clone();
    let aborted = Handle::current().spawn(async move { task.with("k", body).await });
    eventually("it is held", async || exists(&server, "k")).await;
    aborted.abort();
    given_back(&server, "k").await;
}
