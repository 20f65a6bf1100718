//! How locks end and who gets them next: released, dropped, left, handed over, shut down; and tokens that only grow.
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
use lock_core::{
    GuardPolicy, LockError, LockGuard, Locks, LossReason, Moment, Released, RenewalPolicy, Ticket,
};
use lock_redis::RedisBackend;
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
    drop({
        let lock = client.lock("a").with_guard(GuardPolicy::LeaveToExpire);
        lock.acquire().await.unwrap()
    });
    client.lock("b").acquire().await.unwrap().leave_to_expire();
    let start = Moment::now();
    for name in ["a", "b"] {
        let left = pttl(&server, name);
        assert!(0 < left && left <= 2_000, "{left}");
        assert!(client.lock(name).try_acquire().await.unwrap_err().is_busy());
    }
    let again = client.lock("a").acquire().await.unwrap();
    assert!(start.elapsed() > ttl - 500 * MS, "{:?}", start.elapsed());
    // What the policy is does not matter to who releases.
    let lock = client.lock("c").with_guard(GuardPolicy::LeaveToExpire);
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    drop(again);
    eventually("all are gone", async || entries(&server).is_empty()).await;
}

#[tokio::test]
async fn who_holds_a_lock_and_for_how_long_is_told() {
    let server = RedisServer::start();
    let lock = locks(&server).await.with_label("web-1 (host: \"é\")");
    let lock = lock.with_prefix("shop:").lock("order:7");
    assert_eq!(lock.status().await.unwrap(), None);
    let guard = lock
        .clone()
        .with_ttl(20 * SECOND)
        .try_acquire()
        .await
        .unwrap();
    let others = locks(&server).await.with_prefix("shop:").lock("order:7");
    let busy = others.try_acquire().await.unwrap_err();
    let timed_out = others.clone().with_wait(50 * MS).acquire().await;
    let timed_out = timed_out.unwrap_err();
    assert!(matches!(busy, LockError::Busy { .. }), "{busy}");
    assert!(
        matches!(timed_out, LockError::TimedOut { .. }),
        "{timed_out}"
    );
    let told = others.status().await.unwrap().unwrap();
    for holder in [busy.holder().unwrap(), timed_out.holder().unwrap(), &told] {
        assert_eq!(holder.label.as_deref(), Some("web-1 (host: \"é\")"));
        let left = holder.remaining.unwrap();
        assert!(10 * SECOND < left && left <= 20 * SECOND, "{left:?}");
        assert!(holder.fencing.unwrap() >= guard.fencing_token().unwrap());
    }
    let text = busy.to_string();
    assert!(
        text.contains("shop:order:7") && text.contains("web-1"),
        "{text}"
    );
    let secret = server.cli(&["GET", "shop:order:7"]).text();
    let printed = format!("{busy:?} {timed_out:?} {told:?} {guard:?} {lock:?} {text}");
    assert!(!printed.contains(&secret[..32]), "{printed}");
    guard.release().await.unwrap();
    assert_eq!(others.status().await.unwrap(), None);
}

#[tokio::test]
async fn fencing_tokens_rise_whatever_ends_a_lock() {
    let mut server = RedisServer::start();
    let clients = [
        locks(&server).await,
        locks(&server).await,
        locks(&server).await,
    ];
    let mut newest = 0;
    for round in 0..30 {
        let lock = clients[round % 3].lock("k").with_ttl(300 * MS);
        let guard: LockGuard = lock.acquire().await.unwrap();
        let now = token(&guard);
        assert!(now > newest, "{now} after {newest}, round {round}");
        newest = now;
        match round % 5 {
            0 => assert_eq!(guard.release().await.unwrap(), Released::Released),
            1 => guard.leave_to_expire(),
            2 => assert_eq!(server.cli(&["FLUSHALL"]).text(), "OK"),
            3 => {
                // Extending is no new grant.
                guard.extend(SECOND).await.unwrap();
                assert_eq!(token(&guard), now);
            }
            _ if round == 14 => server.restart_empty(),
            _ => assert_eq!(server.cli(&["DEL", "k"]).integer(), 1),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_handed_over_to_another_process_once() {
    let server = RedisServer::start();
    let ttl = 3 * SECOND;
    let (here, there) = (locks(&server).await, locks(&server).await.with_ttl(ttl));
    let lock = here.with_prefix("p:").lock("k").with_ttl(ttl);
    let guard = lock.with_label("here").acquire().await.unwrap();
    let (before, handle) = (token(&guard), guard.loss());
    sleep(1500 * MS).await;
    let text = guard.into_ticket().await.unwrap().expose();
    assert_eq!(handle.lost().await, LossReason::Released);
    assert!(exists(&server, "p:k"));

    let ticket: Ticket = text.parse().unwrap();
    let resume = there.clone().with_label("there");
    // Two at once: one gets it.
    let (one, other) = tokio::join!(resume.resume(&ticket), there.resume(&ticket));
    let (guard, error) = match (one, other) {
        (Ok(guard), Err(error)) | (Err(error), Ok(guard)) => (guard, error),
        both => panic!("{both:?}"),
    };
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
    assert!(token(&guard) > before);
    assert!(guard.remaining() > ttl / 2);
    // It is renewed there, and nothing of here disturbs it.
    sleep(ttl + SECOND).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    let error = there.resume(&ticket).await.unwrap_err();
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
    assert!(!exists(&server, "p:k"), "a used ticket made an entry");

    // A ticket that nobody uses ends with the ttl, and a stranger's ticket is none.
    let lock = there.lock("k").with_ttl(SECOND);
    let lost = lock.acquire().await.unwrap().into_ticket().await.unwrap();
    let start = Moment::now();
    let next = there.lock("k").acquire().await.unwrap();
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    let error = there.resume(&lost).await.unwrap_err();
    assert!(matches!(error, LockError::Lost { .. }), "{error}");
    assert_eq!(next.release().await.unwrap(), Released::Released);
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

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let server = RedisServer::start();
    let client = locks(&server).await;
    server.cli(&["CONFIG", "RESETSTAT"]);
    let hour = 3600 * SECOND;
    let errors = [
        client.lock("").acquire().await.unwrap_err(),
        client
            .lock("x".repeat(513))
            .try_acquire()
            .await
            .unwrap_err(),
        client.lock("k:fencelock:wake").status().await.unwrap_err(),
        client
            .lock("k")
            .with_ttl(9 * MS)
            .acquire()
            .await
            .unwrap_err(),
        client
            .lock("k")
            .with_ttl(25 * hour)
            .acquire()
            .await
            .unwrap_err(),
        client
            .lock("k")
            .with_label("a\nb")
            .acquire()
            .await
            .unwrap_err(),
        client
            .lock("k")
            .with_renewal(RenewalPolicy::per_ttl(1))
            .acquire()
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, LockError::Invalid { .. }), "{error}");
    }
    let scripts = calls(&server, "evalsha") + calls(&server, "eval");
    assert_eq!(scripts, 0);
    assert_eq!(server.cli(&["DBSIZE"]).integer(), 0);
}

#[tokio::test]
async fn locks_on_a_connection_made_elsewhere_are_held_waited_for_and_released() {
    let server = RedisServer::start();
    let client = lock_redis::redis::Client::open(server.url()).unwrap();
    let managed = RedisBackend::from_manager(client.get_connection_manager().await.unwrap());
    let given =
        RedisBackend::from_connection(client.get_multiplexed_async_connection().await.unwrap());
    let (managed, given) = (Locks::new(managed), Locks::new(given));
    let guard = managed.lock("k").with_ttl(SECOND).acquire().await.unwrap();
    let waiter = given.lock("k");
    let release = async {
        sleep(1500 * MS).await;
        assert!(guard.is_held());
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    };
    let (guard, ()) = tokio::join!(soon("the waiter's turn", waiter.acquire()), release);
    let guard = guard.unwrap();
    // This client may send again by itself: a release that finds nothing may be the second copy's.
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert!(!exists(&server, "k"));
}
