//! A lock that is lost is told lost: in time, with the reason, once and for all; and what came after it is left alone.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use lock_core::{LockError, LockGuard, LockOptions, LossReason, Moment, Released};
use lock_testkit::server::{RedisServer, Reply};
use tokio::runtime::Handle;
use tokio::time::sleep;

/// How late a signal may be on a busy machine.
const LATE: Duration = Duration::from_secs(2);

/// Holds a lock, lets `happen` happen to the server, and sees the loss told with `reason` and nothing sent any more.
async fn is_lost_by(happen: &[&[&str]], reason: LossReason) -> (RedisServer, LockGuard) {
    let server = RedisServer::start();
    let lock = locks(&server).await.lock("k").with_ttl(6 * SECOND);
    let guard = lock.try_acquire().await.unwrap();
    let handle = guard.loss();
    let elsewhere = Handle::current().spawn(async move { handle.lost().await });
    assert!(guard.is_held());
    for command in happen {
        let answer = server.cli(command);
        assert!(
            !matches!(answer, Reply::Error(_)),
            "{command:?}: {answer:?}"
        );
    }
    let start = Moment::now();
    assert_eq!(soon("the loss", guard.lost()).await, reason);
    // A third of the ttl and one op timeout.
    let took = start.elapsed();
    assert!(took <= 3200 * MS + LATE, "told after {took:?}");
    assert!(!guard.is_held() && guard.remaining().is_zero());
    assert_eq!(guard.lost().await, reason, "after the fact");
    assert_eq!(elsewhere.await.unwrap(), reason, "in another task");
    match guard.check() {
        Err(LockError::Lost { reason: told, .. }) => assert_eq!(told, reason),
        other => panic!("{other:?}"),
    }
    let errors = [
        guard.extend(SECOND).await.unwrap_err(),
        guard.renew_for(SECOND).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, LockError::Lost { .. }), "{error}");
    }
    server.cli(&["CONFIG", "RESETSTAT"]);
    sleep(2200 * MS).await;
    assert_eq!(
        (calls(&server, "evalsha"), calls(&server, "pexpire")),
        (0, 0),
        "renewed after the loss"
    );
    (server, guard)
}

#[tokio::test]
async fn a_deleted_lock_is_lost_and_not_made_again() {
    let (server, guard) = is_lost_by(&[&["DEL", "k"]], LossReason::Absent).await;
    assert_eq!(guard.release().await.unwrap(), Released::Expired);
    assert!(!exists(&server, "k"));
}

#[tokio::test]
async fn a_flushed_lock_is_lost_and_not_made_again() {
    let (server, guard) = is_lost_by(&[&["FLUSHALL"]], LossReason::Absent).await;
    drop(guard);
    sleep(100 * MS).await;
    assert_eq!(server.cli(&["DBSIZE"]).integer(), 0);
}

#[tokio::test]
async fn an_evicted_lock_is_lost_and_not_made_again() {
    let evict: &[&[&str]] = &[
        &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"],
        // Less than it has: everything goes.
        &["CONFIG", "SET", "maxmemory", "1"],
        &["PING"],
        &["CONFIG", "SET", "maxmemory", "0"],
    ];
    let (server, guard) = is_lost_by(evict, LossReason::Absent).await;
    assert_eq!(guard.release().await.unwrap(), Released::Expired);
    assert_eq!(server.cli(&["DBSIZE"]).integer(), 0);
}

#[tokio::test]
async fn a_lock_that_others_took_is_lost_and_theirs_is_left_alone() {
    for end in [None, Some("60000")] {
        let mut set = vec!["SET", "k", "of another"];
        set.extend(end.map(|end| ["PX", end]).into_iter().flatten());
        let (server, guard) = is_lost_by(&[&set], LossReason::Taken).await;
        assert_eq!(guard.release().await.unwrap(), Released::TakenOver);
        assert_eq!(server.cli(&["GET", "k"]).text(), "of another");
        let left = pttl(&server, "k");
        match end {
            None => assert_eq!(left, -1),
            Some(_) => assert!(50_000 < left && left < 60_000, "{left}"),
        }
    }
}

#[tokio::test]
async fn who_lost_a_lock_can_take_it_again_while_the_old_guard_lives() {
    let server = RedisServer::start();
    let options = LockOptions::default().with_ttl(3 * SECOND);
    let options = options.with_op_timeout(SECOND);
    let lock = locks(&server).await.lock("k").with_options(options.clone());
    // In its own process as soon as it knows, and in another at once.
    let other = locks(&server).await.lock("k").with_options(options);
    for (next, reason) in [(&lock, LossReason::Absent), (&other, LossReason::Taken)] {
        let old = lock.try_acquire().await.unwrap();
        server.cli(&["DEL", "k"]);
        if reason == LossReason::Absent {
            assert_eq!(soon("the loss", old.lost()).await, reason);
        }
        let new = next.try_acquire().await.unwrap();
        assert!(token(&new) > token(&old));
        assert_eq!(soon("the loss", old.lost()).await, reason);
        sleep(SECOND).await;
        drop(old);
        sleep(3 * SECOND).await;
        assert!(new.is_held() && exists(&server, "k"));
        assert_eq!(new.release().await.unwrap(), Released::Released);
    }
}

/// Waits for the loss, which must come by the deadline that the guard now believes in.
async fn lost_by_its_deadline(guard: &LockGuard) {
    let (start, left) = (Moment::now(), guard.remaining());
    let reason = soon("the loss", guard.lost()).await;
    let took = start.elapsed();
    assert_eq!(reason, LossReason::Unconfirmed);
    assert!(!guard.is_held());
    assert!(took <= left + LATE, "told after {took:?} of {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_server_hangs_a_lock_is_lost_at_its_deadline() {
    let server = RedisServer::start();
    let (ttl, op) = (2 * SECOND, SECOND);
    let lock = locks(&server).await.lock("k").with_ttl(ttl);
    let lock = lock.with_op_timeout(op);
    let waiter = locks(&server).await.lock("k").with_ttl(10 * SECOND);
    let guard = lock.try_acquire().await.unwrap();
    let before = token(&guard);
    let waiting = Handle::current().spawn(async move { waiter.acquire().await });
    sleep(200 * MS).await;
    server.pause();
    // A renewal may just have been answered.
    sleep(50 * MS).await;
    lost_by_its_deadline(&guard).await;
    let start = Moment::now();
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, LockError::Unknown { .. }), "{error}");
    assert!(start.elapsed() < op + LATE, "{:?}", start.elapsed());
    let start = Moment::now();
    let error = lock.try_acquire().await.unwrap_err();
    assert!(
        matches!(error, LockError::Unknown { .. } | LockError::Backend { .. }),
        "{error}"
    );
    assert!(start.elapsed() < 2 * op + LATE, "{:?}", start.elapsed());
    sleep(ttl).await;
    server.resume();
    let guard = soon("the waiter's turn", waiting).await.unwrap().unwrap();
    assert!(token(&guard) > before);
    // What was sent in vain arrives now, and what was unknown is given back: none of it touches the waiter's lock.
    sleep(SECOND).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    eventually("nothing is left", async || entries(&server).is_empty()).await;
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_survived_by_a_long_ttl_and_not_by_a_short_one() {
    tokio::join!(hold_through_a_pause("WRITE"), hold_through_a_pause("ALL"));
}

async fn hold_through_a_pause(mode: &str) {
    let server = RedisServer::start();
    let locks = locks(&server).await;
    let short = locks.lock("short").with_ttl(2 * SECOND);
    let short = short.with_op_timeout(SECOND);
    let long = locks.lock("long").with_ttl(10 * SECOND);
    let (held, long) = (
        short.try_acquire().await.unwrap(),
        long.try_acquire().await.unwrap(),
    );
    server.cli(&["CLIENT", "PAUSE", "4000", mode]);
    sleep(50 * MS).await;
    lost_by_its_deadline(&held).await;
    let again = short.acquire().await;
    let again = again.unwrap_or_else(|error| panic!("{mode}: {error}"));
    assert!(token(&again) > token(&held));
    assert!(long.is_held());
    drop(held);
    assert_eq!(again.release().await.unwrap(), Released::Released);
    sleep(SECOND).await;
    assert!(long.is_held());
    assert_eq!(long.release().await.unwrap(), Released::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_gives_the_lock_to_the_next_with_a_greater_token() {
    let mut server = RedisServer::start();
    let a = locks(&server).await.lock("k").with_ttl(2 * SECOND);
    let a = a.with_op_timeout(SECOND);
    let b = locks(&server).await.lock("k");
    let guard = a.try_acquire().await.unwrap();
    let waiting = Handle::current().spawn(async move { b.acquire().await });
    sleep(100 * MS).await;
    assert!(!waiting.is_finished());
    server.restart_empty();
    let next = soon("b's turn", waiting).await.unwrap().unwrap();
    let reason = soon("the loss", guard.lost()).await;
    assert!(
        matches!(reason, LossReason::Absent | LossReason::Taken),
        "{reason}"
    );
    assert!(token(&next) > token(&guard));
    assert_eq!(
        guard.release().await.unwrap(),
        if reason == LossReason::Taken {
            Released::TakenOver
        } else {
            Released::Expired
        }
    );
    sleep(200 * MS).await;
    assert!(next.is_held() && exists(&server, "k"));
    assert_eq!(next.release().await.unwrap(), Released::Released);
}

#[tokio::test]
async fn with_stops_its_body_when_the_lock_is_deleted() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let server = RedisServer::start();
    let locks = locks(&server).await.with_ttl(6 * SECOND);
    let stopped = Arc::new(AtomicBool::new(false));
    let body = locks.with("k", async |_| {
        let _here = Dropped(Arc::clone(&stopped));
        server.cli(&["DEL", "k"]);
        std::future::pending::<Result<(), LockError>>().await
    });
    let error = soon("the end of the body", body).await.unwrap_err();
    assert!(
        matches!(
            error,
            LockError::Lost {
                reason: LossReason::Absent,
                ..
            }
        ),
        "{error}"
    );
    assert!(stopped.load(Ordering::SeqCst));
    // A body that is done before anybody noticed, and says that all is well.
    let done = locks.with("k", async |_| {
        server.cli(&["SET", "k", "of another"]);
        Ok::<_, LockError>(())
    });
    let error = done.await.unwrap_err();
    assert!(
        matches!(
            error,
            LockError::Lost {
                reason: LossReason::Taken,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(server.cli(&["GET", "k"]).text(), "of another");
    // The body's own error is not hidden by the loss that the release found.
    server.cli(&["DEL", "k"]);
    let failed = locks.with("k", async |guard| {
        server.cli(&["DEL", "k"]);
        assert!(guard.is_held(), "nobody has told yet");
        Err::<(), Box<dyn std::error::Error + Send + Sync>>("mine".into())
    });
    assert_eq!(failed.await.unwrap_err().to_string(), "mine");
}
