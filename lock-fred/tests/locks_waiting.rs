//! Who waits for a lock gets it in the end, alone, and is told the truth when it does not.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use lock_core::{LockError, LockOptions, Locks, Moment, Released, RenewalPolicy, RetryPolicy};
use lock_testkit::server::RedisServer;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// `count` waiters, each in a line of its own on a new client, once all of them have subscribed.
async fn waiters(
    server: &RedisServer,
    options: &LockOptions,
    count: usize,
) -> JoinSet<Result<u64, LockError>> {
    let backend = connected(server.url()).await;
    waiters_of(&backend, server, options, count).await
}

/// The same on `backend`.
async fn waiters_of(
    backend: &Backend,
    server: &RedisServer,
    options: &LockOptions,
    count: usize,
) -> JoinSet<Result<u64, LockError>> {
    server.cli(&["CONFIG", "RESETSTAT"]);
    let mut waiters = JoinSet::new();
    for _ in 0..count {
        let lock = Locks::new(backend.clone()).lock("k");
        let lock = lock.with_options(options.clone());
        waiters.spawn(async move {
            let guard = lock.acquire().await?;
            let token = token(&guard);
            assert_eq!(guard.release().await?, Released::Released);
            Ok(token)
        });
    }
    eventually("all wait", async || {
        // Before the subscription, and after it.
        calls(server, "evalsha") >= 2 * count as u64
    })
    .await;
    waiters
}

fn subscribers(server: &RedisServer) -> i64 {
    server
        .cli(&["PUBSUB", "NUMSUB", "{k}:fencelock:wake"])
        .array()[1]
        .integer()
}

/// What each of `waiters` was answered, long before they would look by themselves.
async fn woken(waiters: JoinSet<Result<u64, LockError>>) -> Vec<Result<u64, LockError>> {
    let served = tokio::time::timeout(20 * SECOND, waiters.join_all()).await;
    served.unwrap()
}

/// Nothing but a wake-up ends the wait within 20 s.
fn by_wakeups() -> LockOptions {
    LockOptions::default()
        .with_ttl(60 * SECOND)
        .with_wait(60 * SECOND)
        .with_recheck(60 * SECOND)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_waiters_are_served_one_at_a_time() {
    let server = RedisServer::start();
    let start = Moment::now();
    let holder = locks(&server).await.lock("k").acquire().await.unwrap();
    let mut waiters = JoinSet::new();
    for _ in 0..5 {
        let client = locks(&server).await.with_wait(60 * SECOND);
        for _ in 0..20 {
            let lock = client.lock("k");
            waiters.spawn(async move {
                let guard = lock.acquire().await.unwrap();
                let entered = start.elapsed();
                sleep(MS).await;
                assert!(guard.is_held());
                let (token, left) = (token(&guard), start.elapsed());
                assert_eq!(guard.release().await.unwrap(), Released::Released);
                (token, entered, left)
            });
        }
    }
    sleep(200 * MS).await;
    let first = (token(&holder), start.elapsed(), start.elapsed());
    holder.release().await.unwrap();
    let mut history = vec![first];
    history.extend(soon_all(waiters).await);
    assert_eq!(history.len(), 101);
    history.sort_by_key(|(token, ..)| *token);
    for pair in history.windows(2) {
        let ((one, _, left), (next, entered, _)) = (&pair[0], &pair[1]);
        assert!(next > one, "token {next} was given twice");
        assert!(entered >= left, "{next} came in before {one} was out");
    }
    eventually("nobody is subscribed", async || subscribers(&server) == 0).await;
    assert!(entries(&server).is_empty());
}

async fn soon_all<T: 'static>(tasks: JoinSet<T>) -> Vec<T> {
    let all = timeout(60 * SECOND, tasks.join_all()).await;
    all.unwrap_or_else(|_| panic!("not all are served"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_nothing_else_protects_counts_right() {
    let server = Arc::new(RedisServer::start());
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let client = locks(&server).await;
        for _ in 0..4 {
            let (client, server) = (client.clone(), Arc::clone(&server));
            tasks.spawn(async move {
                for _ in 0..10 {
                    let count = client.with("k", async |_| {
                        let count = match server.cli(&["GET", "counter"]) {
                            lock_testkit::server::Reply::Nil => 0,
                            reply => reply.text().parse::<u64>().unwrap(),
                        };
                        sleep(MS).await;
                        server.cli(&["SET", "counter", &(count + 1).to_string()]);
                        Ok::<_, LockError>(())
                    });
                    count.await.unwrap();
                }
            });
        }
    }
    soon_all(tasks).await;
    assert_eq!(server.cli(&["GET", "counter"]).text(), "160");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_are_woken_although_their_subscription_is_cut_again_and_again() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let lock = locks(&server).await.lock("k").with_options(by_wakeups());
    for round in 0..4 {
        let guard = lock.try_acquire().await.unwrap();
        let waiters = waiters_of(&backend, &server, &by_wakeups(), 20).await;
        if round < 3 {
            server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        // Round 3: nothing is cut, to see that messages come again over the connection that was made last.
        guard.release().await.unwrap();
        let served = woken(waiters).await;
        assert!(served.iter().all(Result::is_ok), "{served:?}");
    }
    eventually("nobody is subscribed", async || subscribers(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_that_go_away_take_nobody_elses_turn() {
    let server = RedisServer::start();
    let options = by_wakeups().with_ttl(30 * SECOND);
    let lock = locks(&server).await.lock("k").with_options(options.clone());
    let guard = lock.try_acquire().await.unwrap();
    let mut dropped = waiters(&server, &options, 10).await;
    let impatient = waiters(&server, &options.clone().with_wait(3 * SECOND), 10).await;
    let patient = waiters(&server, &options, 10).await;
    dropped.abort_all();
    while dropped.join_next().await.is_some() {}
    for answer in soon_all(impatient).await {
        let error = answer.unwrap_err();
        assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    }
    guard.release().await.unwrap();
    let served = woken(patient).await;
    assert!(served.iter().all(Result::is_ok), "{served:?}");
    eventually("nobody is subscribed", async || subscribers(&server) == 0).await;
    eventually("nothing is left", async || entries(&server).is_empty()).await;
}

#[tokio::test]
async fn a_waiter_notices_the_end_of_a_holder_that_died() {
    let server = RedisServer::start();
    let ttl = 2 * SECOND;
    let lock = locks(&server).await.lock("k");
    let start = Moment::now();
    let dead = lock
        .clone()
        .with_ttl(ttl)
        .with_op_timeout(SECOND)
        .with_renewal(RenewalPolicy::never());
    let dead = dead.try_acquire().await.unwrap();
    std::mem::forget(dead);
    let waiter = locks(&server).await.lock("k");
    let waiter = waiter.with_options(LockOptions::default().with_recheck(60 * SECOND));
    let guard = soon("the waiter's turn", waiter.acquire()).await.unwrap();
    let took = start.elapsed();
    assert!(ttl - MS <= took && took < ttl + 2 * SECOND, "{took:?}");
    drop(guard);
    eventually("it is free", async || !exists(&server, "k")).await;
    // The entry went away without a word, long before its end: the timed look finds out.
    server.cli(&["SET", "k", "of another", "PX", "60000"]);
    let delete = async {
        sleep(200 * MS).await;
        server.cli(&["DEL", "k"]);
    };
    let waiter = waiter.with_options(LockOptions::default().with_recheck(300 * MS));
    let (guard, ()) = tokio::join!(soon("the waiter's turn", waiter.acquire()), delete);
    assert!(guard.unwrap().is_held());
}

#[tokio::test]
async fn an_entry_without_an_end_is_waited_for_and_left_alone() {
    let server = RedisServer::start();
    server.cli(&["SET", "k", "of another"]);
    let lock = locks(&server).await.lock("k");
    let options = LockOptions::default()
        .with_wait(1500 * MS)
        .with_recheck(300 * MS);
    let start = Moment::now();
    let error = lock
        .clone()
        .with_options(options)
        .acquire()
        .await
        .unwrap_err();
    let took = start.elapsed();
    let LockError::TimedOut { holder, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((holder.label, holder.remaining), (None, None));
    assert!(
        1500 * MS <= took && took < 1500 * MS + 3 * SECOND,
        "{took:?}"
    );
    // One, one after subscribing, one each 225 to 300 ms, and the first in full as well.
    let attempts = calls(&server, "evalsha");
    assert!((4..=11).contains(&attempts), "{attempts} attempts");
    // Without wake-ups the policy's pace counts.
    let polling = lock.with_retry(RetryPolicy::every(50 * MS).at_most(5));
    server.cli(&["CONFIG", "RESETSTAT"]);
    assert!(polling.acquire().await.unwrap_err().is_busy());
    let attempts = calls(&server, "evalsha");
    assert!((6..=7).contains(&attempts), "{attempts} attempts");
    assert_eq!(server.cli(&["GET", "k"]).text(), "of another");
    assert_eq!(pttl(&server, "k"), -1);
}

#[tokio::test]
async fn what_is_no_lock_is_a_conflict_at_once() {
    let server = RedisServer::start();
    server.cli(&["HSET", "k", "a", "b"]);
    let lock = locks(&server).await.lock("k");
    let errors = [
        soon("an answer", lock.acquire()).await.unwrap_err(),
        lock.try_acquire().await.unwrap_err(),
        lock.status().await.unwrap_err(),
    ];
    for error in errors {
        let LockError::Conflict { found, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(found, "a hash");
        assert!(!error.is_retryable() && !error.is_busy());
    }
    assert_eq!(server.cli(&["HGET", "k", "a"]).text(), "b");
    assert_eq!(pttl(&server, "k"), -1);
    // A lock that turned into something else while it was held.
    server.cli(&["DEL", "k"]);
    let guard = lock.clone().with_ttl(SECOND).try_acquire().await.unwrap();
    server.cli(&["DEL", "k"]);
    server.cli(&["HSET", "k", "a", "b"]);
    soon("the loss", guard.lost()).await;
    let answer = guard.release().await;
    assert!(
        !matches!(answer, Ok(Released::Released)),
        "a hash was released"
    );
    assert_eq!(server.cli(&["HGET", "k", "a"]).text(), "b");
}

/// Fails as a store fails, and in time.
fn assert_failed(error: &LockError, start: Moment, bound: std::time::Duration) {
    assert!(
        matches!(error, LockError::Backend { .. } | LockError::Unknown { .. }),
        "{error}"
    );
    assert!(!error.is_busy() && error.is_retryable(), "{error}");
    let took = start.elapsed();
    assert!(took < bound + SECOND, "{took:?} of {bound:?}");
}

#[tokio::test]
async fn a_server_that_is_down_or_hangs_is_an_error_in_time_and_never_busy() {
    let mut server = RedisServer::start();
    let client = locks(&server)
        .await
        .with_wait(500 * MS)
        .with_ttl(2 * SECOND);
    let op = 400 * MS;
    let lock = client.lock("k");
    for down in [false, true] {
        if down {
            server.resume();
            server.stop();
        } else {
            server.pause();
        }
        let start = Moment::now();
        let error = lock.acquire().await.unwrap_err();
        assert_failed(&error, start, 500 * MS + 2 * op);
        assert!(start.elapsed() >= 500 * MS, "{:?}", start.elapsed());
        let start = Moment::now();
        assert_failed(&lock.try_acquire().await.unwrap_err(), start, 2 * op);
        let start = Moment::now();
        assert_failed(&lock.status().await.unwrap_err(), start, op);
        let start = Moment::now();
        let none = lock.clone().with_retry(RetryPolicy::never());
        assert_failed(&none.acquire().await.unwrap_err(), start, 2 * op);
    }
    // Whoever waits through it gets the lock when the server is back.
    let patient = lock.clone().with_wait(30 * SECOND);
    let back = async {
        sleep(300 * MS).await;
        server.restart_empty();
    };
    let (guard, ()) = tokio::join!(soon("the lock", patient.acquire()), back);
    assert_eq!(guard.unwrap().release().await.unwrap(), Released::Released);
    eventually("nothing is left", async || entries(&server).is_empty()).await;
}

#[tokio::test]
async fn a_wait_of_nothing_is_one_attempt_without_a_subscription() {
    let server = RedisServer::start();
    let holder = locks(&server).await.lock("k");
    let _guard = holder.try_acquire().await.unwrap();
    let lock = locks(&server).await.lock("k");
    for lock in [
        lock.clone().with_wait(std::time::Duration::ZERO),
        lock.with_retry(RetryPolicy::never()),
    ] {
        server.cli(&["CONFIG", "RESETSTAT"]);
        let error = lock.acquire().await.unwrap_err();
        assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
        assert_eq!(
            (calls(&server, "evalsha"), calls(&server, "subscribe")),
            (1, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_wakeups_waiters_poll_and_need_no_right_to_the_channel() {
    let server = RedisServer::start();
    let rules = "on >pw resetkeys resetchannels -@all ~lock:* +evalsha +eval +set +get +getrange \
                 +type +del +pexpire +pttl +time";
    let mut command = vec!["ACL", "SETUSER", "locks"];
    command.extend(rules.split_whitespace());
    assert_eq!(server.cli(&command).text(), "OK");
    let url = format!("redis://locks:pw@127.0.0.1:{}", server.port());
    let client = async || {
        let backend = connected(&url).await.without_wakeups();
        Locks::new(backend).with_prefix("lock:")
    };
    let guard = client().await.lock("k").try_acquire().await.unwrap();
    let served = Arc::new(AtomicU32::new(0));
    let mut waiters = JoinSet::new();
    for _ in 0..5 {
        let (lock, served) = (client().await.lock("k"), Arc::clone(&served));
        waiters.spawn(async move {
            let guard = lock.acquire().await.unwrap();
            served.fetch_add(1, Ordering::SeqCst);
            assert_eq!(guard.release().await.unwrap(), Released::Released);
        });
    }
    sleep(500 * MS).await;
    assert_eq!(served.load(Ordering::SeqCst), 0);
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    soon_all(waiters).await;
    assert_eq!(served.load(Ordering::SeqCst), 5);
    assert_eq!(refusals(&server), Vec::<String>::new());
}
