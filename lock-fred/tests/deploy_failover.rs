//! A failover to a replica while 200 locks are held and waited for: nobody hangs, no lock that the replica had is lost, and each
//! loss is told in time. What it costs is printed, and stands in the crate's documentation.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(clippy::disallowed_methods, reason = "times are measured here")]

mod common;

use std::io::Write as _;
use std::time::{Duration, Instant};

use common::*;
use lock_core::{LockGuard, Locks, LossReason, Released, RenewalPolicy};
use lock_testkit::server::{RedisSentinel, RedisServer};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// So long that all locks which the replica has outlast a failover.
const LONG: Duration = Duration::from_secs(30);

/// Every 3.3 s.
const RENEWAL: RenewalPolicy = RenewalPolicy::per_ttl(9);

/// How long after the failover a lock that is not lost by then is taken to be kept: it was renewed at the new primary.
const KEPT: Duration = Duration::from_secs(10);

/// Half of them are replicated, the other half is not.
const HELD: usize = 200;

/// Loss may be told so much later than the deadline on a loaded machine.
const SLACK: Duration = Duration::from_secs(2);

/// A lock that is held when the primary is lost.
struct Hold {
    guard: LockGuard,
    replicated: bool,
}

/// What became of a lock.
struct Outcome {
    replicated: bool,
    /// When and why the guard was lost, and by how much after its deadline; `None` if it was not.
    lost: Option<(Instant, LossReason, Duration)>,
    /// When the waiter had it.
    granted: Instant,
}

/// Connects, for which a loaded machine takes its time, and is as quick afterwards as by default to leave who is silent.
async fn in_time(builder: BackendBuilder) -> Backend {
    let builder = builder.with_connect_timeout(3 * SECOND);
    builder.connect().await.unwrap()
}

/// Takes the first half of `names`, lets the replica have them, cuts it off, and takes the second half.
async fn hold(
    locks: &Locks,
    names: &[String],
    replica: &RedisServer,
    cut_off: impl FnOnce(),
) -> Vec<Hold> {
    let take = async |name: &String, replicated| {
        let lock = locks.lock(name).with_ttl(LONG).with_renewal(RENEWAL);
        let guard = lock.acquire().await.unwrap();
        Hold { guard, replicated }
    };
    let mut holds = Vec::new();
    for name in &names[..HELD / 2] {
        holds.push(take(name, true).await);
    }
    // Each with its counter.
    eventually("the replica has them", async || {
        replica.cli(&["DBSIZE"]).integer() >= i64::try_from(HELD).unwrap()
    })
    .await;
    cut_off();
    for name in &names[HELD / 2..] {
        holds.push(take(name, false).await);
    }
    holds
}

/// Somebody waits for each of `names`: when and with which token it is granted.
fn wait(locks: &Locks, names: &[String]) -> Vec<JoinHandle<(Instant, u64)>> {
    let wait = |name: &String| {
        let lock = locks.lock(name).with_ttl(LONG).with_wait(60 * SECOND);
        Handle::current().spawn(async move {
            let guard = lock.acquire().await.unwrap();
            let granted = (Instant::now(), token(&guard));
            guard.release().await.unwrap();
            granted
        })
    };
    names.iter().map(wait).collect()
}

/// Waits for what becomes of each lock; those that are not lost are released when the failover is over.
async fn outcomes(
    holds: Vec<Hold>,
    waits: Vec<JoinHandle<(Instant, u64)>>,
    over: Instant,
) -> Vec<Outcome> {
    let watch = |(hold, wait): (Hold, JoinHandle<(Instant, u64)>)| {
        Handle::current().spawn(async move {
            let Hold { guard, replicated } = hold;
            let earlier = token(&guard);
            // The others are lost, sooner or later.
            let kept = if replicated { over } else { over + LONG };
            let lost = tokio::select! {
                reason = guard.lost() => {
                    let now = Instant::now();
                    assert!(!guard.is_held());
                    Some((now, reason, now.saturating_duration_since(guard.deadline())))
                }
                () = tokio::time::sleep_until(kept.into()) => None,
            };
            let asked = Instant::now();
            let released = guard.release().await;
            let (granted, later) = wait.await.unwrap();
            assert!(later > earlier, "tokens: {earlier}, then {later}");
            if lost.is_none() {
                // It was kept in truth: until it was given up nobody else had it.
                assert_eq!(released.unwrap(), Released::Released);
                assert!(granted >= asked, "granted before it was released");
            }
            Outcome {
                replicated,
                lost,
                granted,
            }
        })
    };
    let watches: Vec<_> = holds.into_iter().zip(waits).map(watch).collect();
    let mut outcomes = Vec::new();
    for watch in watches {
        let outcome = tokio::time::timeout(90 * SECOND, watch).await;
        outcomes.push(
            outcome
                .unwrap_or_else(|_| panic!("somebody hangs"))
                .unwrap(),
        );
    }
    outcomes
}

fn report(what: &str, killed: Instant, failover: Duration, outcomes: &[Outcome]) {
    for outcome in outcomes {
        if let Some((_, reason, late)) = &outcome.lost {
            assert!(
                *late <= SLACK,
                "told {late:?} after the deadline: {reason:?}"
            );
        }
    }
    say(format_args!(
        "{what}: the next primary serves {failover:.1?} after the old one was killed"
    ));
    for replicated in [true, false] {
        let half: Vec<_> = outcomes
            .iter()
            .filter(|outcome| outcome.replicated == replicated)
            .collect();
        assert_eq!(half.len(), HELD / 2);
        let losses = half.iter().filter_map(|outcome| outcome.lost.as_ref());
        let latest = losses
            .clone()
            .map(|(at, ..)| at.saturating_duration_since(killed))
            .max()
            .unwrap_or_default();
        let late = losses
            .clone()
            .map(|(.., late)| *late)
            .max()
            .unwrap_or_default();
        // Two hold it at once: from the next one's grant until the old one learns that it is not its own any more.
        let overlap = |outcome: &&Outcome| {
            let (told, ..) = outcome.lost.as_ref()?;
            Some(told.saturating_duration_since(outcome.granted))
        };
        let mut overlaps: Vec<_> = half
            .iter()
            .filter_map(overlap)
            .filter(|overlap| !overlap.is_zero())
            .collect();
        overlaps.sort();
        let which = if replicated {
            "that the replica had"
        } else {
            "that it had not"
        };
        say(format_args!(
            "  {} {which}: {} lost; told at the latest {latest:.1?} after the kill, {late:.0?} after the deadline",
            half.len(),
            losses.clone().count(),
        ));
        say(format_args!(
            "    held by two at once: {}; median {:.2?}, longest {:.2?}",
            overlaps.len(),
            overlaps
                .get(overlaps.len() / 2)
                .copied()
                .unwrap_or_default(),
            overlaps.last().copied().unwrap_or_default(),
        ));
        if replicated {
            assert_eq!(losses.count(), 0, "{what}: locks that the replica had");
        } else {
            assert_ne!(losses.count(), 0, "{what}: this shows nothing");
        }
        // The old holder's remaining validity bounds it.
        assert!(overlaps.iter().all(|overlap| *overlap <= LONG + SLACK));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_by_sentinels_with_200_locks_held_and_waited_for() {
    let mut sentinel = RedisSentinel::start();
    let connect = || in_time(Backend::sentinel(sentinel.urls(), RedisSentinel::NAME));
    let (ours, theirs) = (connect().await, connect().await);
    let (ours, theirs) = (Locks::new(ours), Locks::new(theirs));
    let names: Vec<_> = (0..HELD).map(|n| format!("lock:{n}")).collect();
    let before = sentinel.primary_index();
    let replica = &sentinel.servers[1 - before];
    let holds = hold(&ours, &names, replica, || sentinel.pause_replication()).await;
    let waits = wait(&theirs, &names);
    tokio::time::sleep(500 * MS).await;

    let killed = Instant::now();
    sentinel.kill_primary();
    let sentinel = tokio::task::spawn_blocking(move || {
        sentinel.wait_for_failover(before);
        sentinel
    });
    let sentinel = sentinel.await.unwrap();
    let failover = killed.elapsed();
    let outcomes = outcomes(holds, waits, Instant::now() + KEPT).await;
    report("Sentinel", killed, failover, &outcomes);
    drop(sentinel);
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_in_a_cluster_with_200_locks_held_and_waited_for() {
    use lock_testkit::server::RedisCluster;

    let mut cluster = RedisCluster::start_with_replicas();
    let connect = || in_time(Backend::cluster(cluster.urls()));
    let (ours, theirs) = (connect().await, connect().await);
    let (ours, theirs) = (Locks::new(ours), Locks::new(theirs));
    // All at one master.
    let slot = cluster.slot_of("lock");
    let before = cluster.master_of(slot);
    let names: Vec<_> = (0..)
        .map(|n| format!("lock:{n}"))
        .filter(|name| cluster.master_of(cluster.slot_of(name)) == before)
        .take(HELD)
        .collect();
    // And one at another, whose holder is to notice nothing.
    let elsewhere = (0..).map(|n| format!("other:{n}"));
    let mut elsewhere = elsewhere.filter(|name| cluster.master_of(cluster.slot_of(name)) != before);
    let bystander = ours
        .lock(elsewhere.next().unwrap())
        .with_ttl(LONG)
        .acquire()
        .await
        .unwrap();
    let replica = &cluster.nodes[before + 3];
    let holds = hold(&ours, &names, replica, || cluster.pause_replication(before)).await;
    let waits = wait(&theirs, &names);
    tokio::time::sleep(500 * MS).await;

    let killed = Instant::now();
    cluster.nodes[before].stop();
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.wait_for_failover(slot, before);
        cluster
    });
    let cluster = cluster.await.unwrap();
    let failover = killed.elapsed();
    let outcomes = outcomes(holds, waits, Instant::now() + KEPT).await;
    report("Cluster", killed, failover, &outcomes);
    assert!(bystander.is_held());
    bystander.release().await.unwrap();
    drop(cluster);
}

/// Also where the test harness keeps what passing tests print.
fn say(figures: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{figures}");
}
