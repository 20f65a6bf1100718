//! Everything at once: whatever fails that loses no data, no two are ever in together, and all end.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::*;
use lock_core::{LockError, Moment};
use lock_testkit::server::RedisServer;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long the storm lasts.
const STORM: Duration = Duration::from_secs(5);

/// A visit: its fencing token, when it began, and until when the guard said that it was held.
type Visit = (u64, Duration, Duration);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_of_faults_no_two_are_in_together() {
    let server = Arc::new(RedisServer::start());
    let mut tasks = JoinSet::new();
    let start = Moment::now();
    for client in 0..4 {
        let locks = locks(&server).await.with_ttl(SECOND);
        for task in 0..4 {
            let locks = locks.clone();
            // Half of them also give up, or drop what they do half way.
            let wait = if task % 2 == 0 { 20 * SECOND } else { 100 * MS };
            let lock = locks.lock("k").with_wait(wait);
            tasks.spawn(async move {
                let mut visits: Vec<Visit> = Vec::new();
                for round in 0.. {
                    if start.elapsed() > STORM {
                        break;
                    }
                    let hold = MS * ((client + round) % 7);
                    let acquire = lock.acquire();
                    let guard = if round % 5 == 4 {
                        let Ok(guard) = tokio::time::timeout(3 * MS, acquire).await else {
                            continue;
                        };
                        guard
                    } else {
                        acquire.await
                    };
                    let guard = match guard {
                        Ok(guard) => guard,
                        Err(error) if error.is_retryable() => continue,
                        Err(error) => panic!("{error}"),
                    };
                    let began = start.elapsed();
                    sleep(hold).await;
                    let until = start.elapsed();
                    if guard.is_held() {
                        visits.push((token(&guard), began, until));
                    }
                    if round % 3 == 0 {
                        drop(guard);
                    } else {
                        match guard.release().await {
                            Ok(_)
                            | Err(
                                LockError::Unknown { .. }
                                | LockError::Backend { .. }
                                | LockError::Lost { .. },
                            ) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                visits
            });
        }
    }
    let (weather, tick) = (Arc::clone(&server), AtomicU32::new(0));
    // One after the other: the oracle's own connections are killed as well.
    let storm = Nuisance::start(20 * MS, move || {
        let tick = tick.fetch_add(1, Ordering::SeqCst);
        weather.cli(&["SCRIPT", "FLUSH"]);
        if tick % 3 == 0 {
            weather.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        }
        if tick % 5 == 0 {
            weather.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        if tick % 20 == 19 {
            // For longer than an operation may take.
            weather.pause();
            std::thread::sleep(250 * MS);
            weather.resume();
        }
    });
    sleep(STORM).await;
    tokio::task::block_in_place(|| drop(storm));
    let visits = tokio::time::timeout(60 * SECOND, tasks.join_all()).await;
    let mut visits = visits.unwrap().concat();
    assert!(visits.len() > 50, "{} visits", visits.len());
    visits.sort_unstable();
    for pair in visits.windows(2) {
        let ((one, _, left), (next, entered, _)) = (pair[0], pair[1]);
        assert!(next > one, "token {next} was given twice");
        assert!(entered >= left, "{next} was in before {one} was out");
    }
    eventually("nothing is left", async || entries(&server).is_empty()).await;
    // All is as before.
    let guard = locks(&server).await.lock("k").try_acquire().await.unwrap();
    assert!(token(&guard) > visits[visits.len() - 1].0);
}
