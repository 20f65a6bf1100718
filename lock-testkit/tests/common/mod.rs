//! What the tests of a held lock share.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use lock_core::{BackendError, LockError, LockGuard, LockOptions, Locks, LossReason, Moment};
use lock_testkit::Scripted;
use tokio::time::{Instant, sleep};

mod taking;

pub(crate) use taking::take;

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Real time counts too in a paused test: as much as a busy machine may take.
pub(crate) const SLACK: Duration = Duration::from_millis(50);

pub(crate) fn options(ttl: Duration) -> LockOptions {
    LockOptions::default().with_ttl(ttl)
}

pub(crate) async fn hold(backend: &Scripted, name: &str, options: LockOptions) -> LockGuard {
    let lock = Locks::new(backend.clone()).lock(name).with_options(options);
    take(backend, &lock).await
}

pub(crate) fn cut() -> BackendError {
    BackendError::unknown("cut")
}

pub(crate) fn refused() -> BackendError {
    BackendError::transient("refused")
}

/// How long the store's entry of `key` lasts yet; zero if there is none.
pub(crate) fn entry_left(backend: &Scripted, key: &str) -> Duration {
    backend
        .entries()
        .get(key)
        .map_or(Duration::ZERO, |entry| entry.remaining)
}

/// The holder believes in nothing that the store does not have.
#[track_caller]
pub(crate) fn assert_safe(backend: &Scripted, guard: &LockGuard) {
    let left = entry_left(backend, guard.key().as_str());
    let believed = guard.remaining();
    assert!(
        believed <= left,
        "believes in {believed:?}, the store in {left:?}"
    );
}

/// Lets `total` pass, and looks every `step`.
pub(crate) async fn watch(total: Duration, step: Duration, mut look: impl FnMut()) {
    let start = Moment::now();
    while start.elapsed() < total {
        sleep(step).await;
        look();
    }
}

/// Waits for the loss, which must be told at the present deadline. Real time that has passed since the grant makes the
/// deadline look nearer than virtual time will, hence the slack; core_loss.rs has the exact test.
#[allow(clippy::disallowed_methods, reason = "virtual time alone")]
pub(crate) async fn lost_at_the_deadline(guard: &LockGuard) -> LossReason {
    let start = Instant::now();
    let remaining = guard.remaining();
    let reason = guard.lost().await;
    let took = start.elapsed();
    assert!(
        took.abs_diff(remaining) <= SLACK,
        "{took:?} of {remaining:?}"
    );
    assert!(!guard.is_held());
    reason
}

#[track_caller]
pub(crate) fn assert_lost<T: std::fmt::Debug>(answer: Result<T, LockError>, why: LossReason) {
    match answer {
        Err(LockError::Lost { reason, .. }) => assert_eq!(reason, why),
        other => panic!("not lost: {other:?}"),
    }
}
