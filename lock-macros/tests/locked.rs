//! What `#[locked]` does: take, run, stop when lost, let go. In virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a test"
)]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fencelock::{LockError, Locks, LossReason, MemoryBackend, Moment, locked};
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Real time counts in a paused test too, and the machine may be busy.
const SLACK: Duration = Duration::from_secs(2);

#[locked("report:{id}", ttl = "10s", wait = "1m30s", locks = locks)]
async fn report(locks: &Locks, id: u64, work: Duration) -> Result<&'static str, LockError> {
    sleep(work).await;
    Ok("done")
}

#[locked("report:{id}", wait = "0s", on_busy = "skip", locks = locks)]
async fn skipped(locks: &Locks, id: u64) -> Result<Option<u64>, LockError> {
    Ok(Some(id))
}

#[locked("report:{id}", wait = "5s", on_busy = "skip", locks = locks)]
async fn skipped_later(locks: &Locks, id: u64) -> Result<Option<u64>, LockError> {
    Ok(Some(id))
}

#[locked("short", ttl = "1s", renew = false, locks = locks)]
async fn without_renewal(locks: &Locks, work: Duration) -> Result<(), LockError> {
    sleep(work).await;
    Ok(())
}

fn memory() -> (MemoryBackend, Locks) {
    let backend = MemoryBackend::new();
    (backend.clone(), Locks::new(backend))
}

#[tokio::test(start_paused = true)]
async fn the_lock_is_held_while_the_body_runs_and_no_longer() {
    let (backend, locks) = memory();
    // Three times its ttl: it is renewed.
    let running = report(&locks, 7, 30 * SECOND);
    let watching = async {
        sleep(29 * SECOND).await;
        let remaining = locks
            .lock("report:7")
            .status()
            .await
            .unwrap()
            .unwrap()
            .remaining;
        assert!(remaining.unwrap() <= 10 * SECOND, "{remaining:?}");
        assert!(locks.lock("report:8").status().await.unwrap().is_none());
    };
    let (done, ()) = tokio::join!(running, watching);
    assert_eq!(done.unwrap(), "done");
    assert!(backend.is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_calls_wait_for_each_other_if_their_keys_are_the_same() {
    let (_, locks) = memory();
    let start = Moment::now();
    let (one, two, other) = tokio::join!(
        report(&locks, 1, 60 * SECOND),
        report(&locks, 1, 60 * SECOND),
        async {
            report(&locks, 2, 60 * SECOND).await.unwrap();
            start.elapsed()
        }
    );
    assert_eq!((one.unwrap(), two.unwrap()), ("done", "done"));
    assert!(start.elapsed() >= 120 * SECOND && other < 60 * SECOND + SLACK);
}

#[tokio::test(start_paused = true)]
async fn a_busy_lock_is_an_error_when_the_wait_is_over() {
    let (_, locks) = memory();
    let _held = locks
        .lock(("report", 7))
        .with_label("other")
        .acquire()
        .await
        .unwrap();
    let start = Moment::now();
    let error = report(&locks, 7, SECOND).await.unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error:?}");
    assert_eq!(error.holder().unwrap().label.as_deref(), Some("other"));
    assert!((90 * SECOND..90 * SECOND + SLACK).contains(&start.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn a_busy_lock_is_skipped_where_that_was_asked_for() {
    let (backend, locks) = memory();
    assert_eq!(skipped(&locks, 7).await.unwrap(), Some(7));

    let held = locks.lock(("report", 7)).acquire().await.unwrap();
    let start = Moment::now();
    assert_eq!(skipped(&locks, 7).await.unwrap(), None);
    assert!(start.elapsed() < SLACK);
    assert_eq!(skipped_later(&locks, 7).await.unwrap(), None);
    assert!(start.elapsed() >= 5 * SECOND);
    assert_eq!(skipped(&locks, 8).await.unwrap(), Some(8));

    let (later, ()) = tokio::join!(skipped_later(&locks, 7), async {
        sleep(SECOND).await;
        held.release().await.unwrap();
    });
    assert_eq!(later.unwrap(), Some(7));

    // Not knowing is not busy.
    backend.partition();
    assert!(matches!(
        skipped(&locks, 7).await,
        Err(LockError::Unknown { .. })
    ));
    let closed = memory().1;
    closed.shutdown().await;
    assert!(matches!(
        skipped(&closed, 7).await,
        Err(LockError::Closed { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_body_is_stopped_where_it_stands_when_its_lock_is_lost() {
    struct Stopped(Arc<AtomicBool>);
    impl Drop for Stopped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[locked("job", locks = locks)]
    async fn job(locks: &Locks, on_stop: Stopped) -> Result<(), LockError> {
        let _on_stop = on_stop;
        pending().await
    }

    let (backend, locks) = memory();
    let stopped = Arc::new(AtomicBool::new(false));
    let stealing = async {
        sleep(SECOND).await;
        backend.steal("job", "thief", 60 * SECOND).unwrap();
    };
    let (lost, ()) = tokio::join!(job(&locks, Stopped(Arc::clone(&stopped))), stealing);
    match lost.unwrap_err() {
        LockError::Lost { reason, .. } => assert_eq!(reason, LossReason::Taken),
        other => panic!("{other:?}"),
    }
    assert!(stopped.load(Ordering::SeqCst));
    assert_eq!(backend.len(), 1, "the thief's lock is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_done_too_late_is_lost_all_the_same() {
    #[locked("job", ttl = "1s", renew = false, locks = locks)]
    async fn job(locks: &Locks, late: bool) -> Result<&'static str, LockError> {
        if late {
            // Without a poll between: nobody could stop it.
            tokio::time::advance(2 * SECOND).await;
        }
        Ok("done")
    }

    let (_, locks) = memory();
    assert_eq!(job(&locks, false).await.unwrap(), "done");
    assert!(matches!(
        job(&locks, true).await,
        Err(LockError::Lost { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn without_renewal_the_body_ends_with_the_ttl() {
    let (_, locks) = memory();
    without_renewal(&locks, SECOND / 2).await.unwrap();
    let start = Moment::now();
    let lost = without_renewal(&locks, 60 * SECOND).await.unwrap_err();
    assert!(matches!(lost, LockError::Lost { .. }), "{lost:?}");
    assert!(start.elapsed() < SECOND + SLACK);
}

#[tokio::test(start_paused = true)]
async fn what_the_body_was_given_ends_before_the_lock() {
    struct Witness(MemoryBackend, Arc<AtomicBool>);
    impl Drop for Witness {
        fn drop(&mut self) {
            self.1.store(self.0.len() == 1, Ordering::SeqCst);
        }
    }

    #[locked("job", locks = locks)]
    async fn job(locks: Locks, witness: Witness, fail: bool) -> Result<(), LockError> {
        if fail {
            return Err(fencelock::LockKey::new("").unwrap_err());
        }
        let _ = witness.0.len();
        Ok(())
    }

    for fail in [false, true] {
        let (backend, locks) = memory();
        let held = Arc::new(AtomicBool::new(false));
        let witness = Witness(backend.clone(), Arc::clone(&held));
        assert_eq!(job(locks, witness, fail).await.is_err(), fail);
        assert!(held.load(Ordering::SeqCst) && backend.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_or_panics_leaves_no_lock_behind() {
    #[locked("job", locks = locks)]
    async fn job(locks: Locks, panics: bool) -> Result<(), LockError> {
        assert!(!panics, "as asked");
        pending().await
    }

    let (backend, locks) = memory();
    assert!(timeout(SECOND, job(locks.clone(), false)).await.is_err());
    sleep(SECOND).await;
    assert!(backend.is_empty());

    let panicked = tokio::spawn(job(locks, true)).await;
    assert!(panicked.unwrap_err().is_panic());
    sleep(SECOND).await;
    assert!(backend.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_shortest_and_longest_ttl_are_those_of_the_locks() {
    #[locked("short", ttl = "10ms", locks = locks)]
    async fn shortest(locks: &Locks) -> Result<(), LockError> {
        Ok(())
    }
    #[locked("long", ttl = "24h", locks = locks)]
    async fn longest(locks: &Locks) -> Result<(), LockError> {
        Ok(())
    }

    let (_, locks) = memory();
    // So short that a busy machine may be too late for it.
    let short = shortest(&locks).await;
    assert!(
        !matches!(short, Err(LockError::Invalid { .. })),
        "{short:?}"
    );
    longest(&locks).await.unwrap();
    assert_eq!(fencelock::MIN_TTL, Duration::from_millis(10));
    assert_eq!(fencelock::MAX_TTL, Duration::from_secs(24 * 3600));
}

#[tokio::test(start_paused = true)]
async fn an_invalid_key_is_told_before_anything_is_sent() {
    #[locked("{name}", locks = locks)]
    async fn named(locks: &Locks, name: &str) -> Result<(), LockError> {
        Ok(())
    }

    let (_, locks) = memory();
    assert!(matches!(
        named(&locks, "").await,
        Err(LockError::Invalid { .. })
    ));
    assert!(matches!(
        named(&locks, &"x".repeat(600)).await,
        Err(LockError::Invalid { .. })
    ));
    named(&locks, "x").await.unwrap();
}
