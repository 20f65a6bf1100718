//! A lock that is held stays held: renewed in time, in few commands, and whatever happens to scripts and connections.
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
use lock_core::{LockError, Moment, Released, RenewalPolicy};
use lock_testkit::LeakCheck;
use lock_testkit::server::RedisServer;
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_outlives_five_ttls_while_somebody_tries_to_get_it() {
    let server = RedisServer::start();
    let ttl = 2 * SECOND;
    let lock = locks(&server).await.lock("k").with_ttl(ttl);
    let lock = lock.with_op_timeout(SECOND);
    let other = locks(&server).await.lock("k");
    let guard = lock.try_acquire().await.unwrap();
    server.cli(&["CONFIG", "RESETSTAT"]);
    let start = Moment::now();
    let mut samples = 0;
    while start.elapsed() < 5 * ttl {
        let error = other.try_acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Busy { .. }), "{error}");
        let left = pttl(&server, "k");
        assert!(0 < left && left <= 2000, "PTTL {left} of 2000");
        assert!(guard.is_held());
        samples += 1;
        sleep(10 * MS).await;
    }
    assert!(samples > 50, "{samples}");
    // A renewal is due at the latest after a third of the ttl, and the first one not before half of that.
    let renewals = calls(&server, "pexpire");
    let most = 2 + start.elapsed().as_millis() as u64 / 600;
    assert!(5 < renewals && renewals <= most, "{renewals} of {most}");
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert!(!exists(&server, "k"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_cache_that_is_lost_all_the_time_loses_no_lock() {
    let server = Arc::new(RedisServer::start());
    let ttl = 1500 * MS;
    let locks = locks(&server).await.with_ttl(ttl);
    let locks = locks.with_op_timeout(SECOND);
    let _flushes = Nuisance::commands(&server, MS, &["SCRIPT", "FLUSH"]);
    let guard = locks.lock("k").acquire().await.unwrap();
    let start = Moment::now();
    while start.elapsed() < 3 * ttl {
        // With a ttl that leaves time for answers on a busy machine.
        let other = locks.lock("other").with_ttl(LASTING);
        let other = other.acquire().await.unwrap();
        assert_eq!(other.release().await.unwrap(), Released::Released);
        assert!(guard.is_held());
    }
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_killed_all_the_time_lose_no_lock() {
    let server = Arc::new(RedisServer::start());
    let locks = locks(&server).await.with_ttl(2 * SECOND);
    let locks = locks.with_op_timeout(SECOND);
    let guard = locks.lock("k").acquire().await.unwrap();
    works(&locks.lock("warm")).await;
    let (tasks, files) = (LeakCheck::start(), open_files());
    let killing = Nuisance::commands(&server, 50 * MS, &["CLIENT", "KILL", "TYPE", "normal"]);
    let start = Moment::now();
    let (mut taken, mut failed) = (0, 0);
    while start.elapsed() < 5 * SECOND {
        // A release of unknown outcome is tried again in the background, so that the next one gets the lock.
        let other = locks.lock("other").acquire().await.unwrap();
        match other.release().await {
            Ok(_) => taken += 1,
            Err(LockError::Backend { .. } | LockError::Unknown { .. }) => failed += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(guard.is_held(), "{:?}", guard.check());
        // Not so often that none is hit.
        sleep(5 * MS).await;
    }
    drop(killing);
    assert!(taken > 20, "{taken} taken, {failed} of unknown outcome");
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    eventually("nothing is left", async || entries(&server).is_empty()).await;
    let clients = server.cli(&["CLIENT", "LIST"]).text().lines().count();
    assert!(clients <= 3, "{clients} connections");
    tasks.assert_none(20 * SECOND).await;
    // A hundred connections were cut. (Other tests of this process have some too.)
    let grown = open_files().saturating_sub(files);
    assert!(grown < 60, "{grown} more files are open");
}

#[tokio::test]
async fn a_lock_is_renewed_after_its_locks_and_backend_are_dropped() {
    let server = RedisServer::start();
    let guard = {
        let lock = locks(&server).await.lock("k").with_ttl(2 * SECOND);
        let lock = lock.with_op_timeout(SECOND);
        lock.try_acquire().await.unwrap()
    };
    sleep(5 * SECOND).await;
    assert!(guard.is_held() && exists(&server, "k"));
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test]
async fn extending_adds_and_renewing_sets_and_nobody_gets_the_lock_meanwhile() {
    let server = RedisServer::start();
    let lock = locks(&server).await.lock("k").with_ttl(5 * SECOND);
    let other = locks(&server).await.lock("k");
    let guard = lock
        .with_renewal(RenewalPolicy::never())
        .try_acquire()
        .await
        .unwrap();
    let spins = async {
        loop {
            assert!(other.try_acquire().await.unwrap_err().is_busy());
            assert!(0 < pttl(&server, "k"));
        }
    };
    let changes = async {
        sleep(200 * MS).await;
        guard.extend(2 * SECOND).await.unwrap();
        let left = pttl(&server, "k");
        assert!(5_000 < left && left <= 6_800, "{left}");
        guard.renew_for(2 * SECOND).await.unwrap();
        let left = pttl(&server, "k");
        assert!(0 < left && left <= 2_000, "{left}");
        assert!(guard.remaining() <= 2 * SECOND);
        guard.renew_for(20 * SECOND).await.unwrap();
        assert!(pttl(&server, "k") > 15_000);
        assert!(guard.remaining() > 15 * SECOND);
    };
    tokio::select! {
        () = spins => {}
        () = changes => {}
    }
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_held_locks_are_renewed_in_few_commands() {
    let server = RedisServer::start();
    let ttl = 3 * SECOND;
    let locks = locks(&server).await.with_ttl(ttl);
    let count = scaled(1000, 10_000);
    let takes: Vec<_> = (0..count).map(|n| locks.lock(format!("k{n}"))).collect();
    let mut guards = Vec::new();
    for some in takes.chunks(100) {
        let some = join_all(some.iter().map(|lock| lock.acquire())).await;
        guards.extend(some.into_iter().map(Result::unwrap));
    }
    server.cli(&["CONFIG", "RESETSTAT"]);
    let start = Moment::now();
    sleep(2 * ttl).await;
    let (commands, renewals) = (calls(&server, "evalsha"), calls(&server, "pexpire"));
    let took = start.elapsed();
    assert!(guards.iter().all(lock_core::LockGuard::is_held));
    assert!(renewals >= 3 * count, "{renewals}");
    // However many there are.
    assert!(
        commands <= 100 * (took.as_secs() + 1),
        "{commands} commands in {took:?}"
    );
    assert!(
        commands * 8 <= renewals,
        "{commands} commands for {renewals} renewals"
    );
    drop(guards);
    eventually("all are released", async || entries(&server).is_empty()).await;
}
