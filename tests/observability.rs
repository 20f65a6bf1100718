//! What locks tell to `tracing` and to `metrics`: every outcome, with bounded fields, and never an owner.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fencelock::{
    BackendCall, BackendError, LockBackend, LockError, LockGuard, Locks, LossReason, MemoryBackend,
    Observed, PassingOn, RetryPolicy,
};
use lock_testkit::{Effect, Op, Scripted};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);
const TTL: Duration = Duration::from_secs(30);

/// Whether an event is wanted at all, `tracing` keeps for the whole process, and asks whichever thread comes first.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A writer that keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn subscriber(&self, level: tracing::Level) -> impl tracing::Subscriber + Send + Sync + use<> {
        let log = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A subscriber that panics whenever it is told something.
fn panicking_subscriber() -> impl tracing::Subscriber + Send + Sync {
    struct Panics;
    impl Write for Panics {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            panic!("a subscriber panics");
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(|| Panics)
        .finish()
}

/// A life with everything in it: taken, busy, waited for, renewed, failed, extended, lost, released.
async fn life(backend: &Scripted) {
    let locks = Locks::new(backend.clone()).with_ttl(TTL).with_label("me");
    let guard = locks.lock("secret-name").acquire().await.unwrap();
    assert!(
        locks
            .lock("secret-name")
            .try_acquire()
            .await
            .unwrap_err()
            .is_busy()
    );
    let brief = RetryPolicy::every(MS).at_most(1);
    let timed_out = locks.lock("secret-name").with_retry(brief).acquire().await;
    assert!(matches!(timed_out, Err(LockError::TimedOut { .. })));
    sleep(TTL).await;
    guard.extend(TTL).await.unwrap();
    backend
        .on(Op::Renew)
        .next(Effect::FailBefore(BackendError::transient("refused")));
    sleep(TTL).await;
    guard.release().await.unwrap();

    let guard = locks.lock("secret-name").acquire().await.unwrap();
    backend.evict("secret-name");
    assert_eq!(guard.lost().await, LossReason::Absent);
    drop(guard);

    backend
        .on(Op::Acquire)
        .next(Effect::LoseReply(BackendError::unknown("cut")));
    let unknown = locks.lock("secret-name").try_acquire().await;
    assert!(matches!(unknown, Err(LockError::Unknown { .. })));
    sleep(TTL).await;
}

#[tokio::test(start_paused = true)]
async fn every_step_of_a_lock_is_traced_and_no_owner_is() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (log, backend) = (Log::default(), Scripted::honest());
    let tracing = tracing::subscriber::set_default(log.subscriber(tracing::Level::TRACE));
    life(&backend).await;
    drop(tracing);

    let text = log.text();
    for expected in [
        "outcome=\"acquired\"",
        "outcome=\"busy\"",
        "outcome=\"timed_out\"",
        "outcome=\"unknown\"",
        "outcome=\"held\"",
        "outcome=\"failed\"",
        "outcome=\"released\"",
        "a lock was lost",
        "acquire{key=\"secret-name\"}",
        "wait",
    ] {
        assert!(text.contains(expected), "no {expected} in:\n{text}");
    }
    let owners: Vec<_> = backend
        .calls()
        .into_iter()
        .filter_map(|call| call.owner)
        .collect();
    assert!(owners.len() > 5);
    for owner in owners {
        assert!(
            !text.contains(&owner.expose()[..32]),
            "an owner in:\n{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_named_at_level_debug_only() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let log = Log::default();
    let tracing = tracing::subscriber::set_default(log.subscriber(tracing::Level::INFO));
    life(&Scripted::honest()).await;
    drop(tracing);
    let text = log.text();
    assert!(text.contains("a lock was lost"), "{text}");
    assert!(!text.contains("secret-name"), "{text}");
}

#[test]
fn metrics_count_outcomes_without_keys() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(life(&Scripted::honest()));
    });
    let mut counted = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        assert!(
            labels.iter().all(|label| !label.contains("secret-name")),
            "{labels:?}"
        );
        let count = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Histogram(values) => values.len() as u64,
            DebugValue::Gauge(_) => panic!("no gauge is documented"),
        };
        counted.insert((key.name().to_owned(), labels.join(",")), count);
    }
    let count = |name: &str, label: &str| {
        *counted
            .get(&(name.to_owned(), label.to_owned()))
            .unwrap_or_else(|| panic!("{name} {label}: {counted:?}"))
    };
    assert_eq!(count("fencelock_acquisitions_total", "acquired"), 2);
    assert_eq!(count("fencelock_acquisitions_total", "busy"), 1);
    assert_eq!(count("fencelock_acquisitions_total", "timed_out"), 1);
    assert_eq!(count("fencelock_acquisitions_total", "unknown"), 1);
    assert_eq!(count("fencelock_wait_seconds", "acquired"), 2);
    assert_eq!(count("fencelock_hold_seconds", ""), 2);
    assert_eq!(count("fencelock_losses_total", "absent"), 1);
    assert_eq!(count("fencelock_releases_total", "released"), 1);
    assert_eq!(count("fencelock_renewals_total", "failed"), 1);
    assert!(count("fencelock_renewals_total", "held") >= 3);
}

#[test]
fn a_subscriber_that_panics_or_asks_the_guard_reaches_no_drop() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let backend = Scripted::honest();
        let guard = Locks::new(backend.clone())
            .lock("k")
            .acquire()
            .await
            .unwrap();
        backend.evict("k");
        let tracing = tracing::subscriber::set_default(panicking_subscriber());
        assert_eq!(guard.lost().await, LossReason::Absent);
        drop(guard);
        drop(tracing);
    });
}

#[test]
fn a_subscriber_that_panics_costs_no_lock() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let backend = Scripted::honest();
        let locks = Locks::new(backend.clone()).with_ttl(TTL);
        let mut guards = Vec::new();
        for n in 0..20 {
            guards.push(locks.lock(format!("k{n}")).acquire().await.unwrap());
        }
        let tracing = tracing::subscriber::set_default(panicking_subscriber());
        sleep(10 * TTL).await;
        assert!(guards.iter().all(LockGuard::is_held));
        guards.clear();
        sleep(TTL).await;
        assert!(backend.entries().is_empty());
        drop(tracing);
    });
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_told_too() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (log, backend) = (Log::default(), Scripted::honest());
    let tracing = tracing::subscriber::set_default(log.subscriber(tracing::Level::TRACE));
    let locks = Locks::new(backend.clone()).with_ttl(TTL);
    let guard = locks.lock("k").acquire().await.unwrap();
    assert!(
        tokio::time::timeout(50 * MS, locks.lock("k").acquire())
            .await
            .is_err()
    );
    assert!(!log.text().contains("outcome=\"released\""));
    drop(guard);
    sleep(TTL).await;
    drop(tracing);
    let text = log.text();
    assert!(text.contains("outcome=\"cancelled\""), "{text}");
    assert!(text.contains("outcome=\"released\""), "{text}");
}

#[test]
fn a_lock_that_is_passed_on_is_counted_as_such() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let backend = Scripted::honest();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            // However long a busy machine takes.
            let passing = PassingOn::default().within(Duration::from_secs(3600));
            let lock = Locks::new(backend.clone()).lock("k");
            let lock = lock.with_passing_on(passing);
            let guard = lock.acquire().await.unwrap();
            let waits = async || lock.acquire().await.unwrap().release().await.unwrap();
            tokio::join!(waits(), waits(), async { guard.release().await.unwrap() });
        });
    });
    let mut released = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let (key, DebugValue::Counter(count)) = (key.key(), value) else {
            continue;
        };
        if key.name() == "fencelock_releases_total" {
            let outcome = key.labels().next().unwrap().value().to_owned();
            released.insert(outcome, count);
        }
    }
    let expected = [("passed_on".to_owned(), 1), ("released".to_owned(), 2)];
    assert_eq!(released, BTreeMap::from(expected));
    assert_eq!(backend.calls_of(Op::Release).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_observed_backend_tells_of_every_call_and_keeps_its_promises() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let seen: Arc<Mutex<Vec<(&'static str, &'static str)>>> = Arc::default();
    let observer = {
        let seen = Arc::clone(&seen);
        move |call: &BackendCall<'_>| {
            assert!(call.took < Duration::from_secs(1));
            seen.lock().unwrap().push((call.method, call.outcome));
            panic!("an observer panics");
        }
    };
    let backend = MemoryBackend::new();
    let observed: Arc<dyn LockBackend> = Arc::new(Observed::new(backend.clone(), observer));
    let locks = Locks::from_arc(Arc::clone(&observed)).with_ttl(TTL);
    let lock = locks.lock("k");
    let guard = lock.acquire().await.unwrap();
    // In its own process it would be busy without a call.
    let other = Locks::from_arc(observed).lock("k");
    other.try_acquire().await.unwrap_err();
    lock.status().await.unwrap().unwrap();
    sleep(TTL).await;
    assert!(guard.is_held());
    guard.release().await.unwrap();
    assert!(lock.status().await.unwrap().is_none());
    let seen = seen.lock().unwrap();
    for expected in [
        ("try_acquire", "granted"),
        ("try_acquire", "busy"),
        ("inspect", "held"),
        ("renew", "held"),
        ("release", "held"),
        ("inspect", "free"),
    ] {
        assert!(seen.contains(&expected), "no {expected:?} in {seen:?}");
    }
}
