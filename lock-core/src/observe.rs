//! What is told to `tracing` and `metrics`, where these features are on. Nothing here decides, and nothing carries an
//! owner.
//!
//! Spans and events have the target `fencelock` and name the key at level debug only, because keys may be personal
//! data. Metrics have no key: their labels are bounded.
#![cfg_attr(
    not(all(feature = "tracing", feature = "metrics")),
    allow(unused_variables, reason = "not everything is told to everybody")
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::clock::Moment;
use crate::error::{LockError, LossReason};
use crate::key::LockKey;
use crate::lease::Released;

/// Runs code that may call what the user wrote: a subscriber, a recorder, a waker. Its panic ends here, because locks
/// are renewed and guards are dropped around it. Also needed where tokio's clock is gone already, in the destructor of
/// a thread-local.
pub(crate) fn contained(tell: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(tell));
}

/// Runs `acquire` in a span of its own.
#[cfg(feature = "tracing")]
pub(crate) fn in_acquire_span<F: Future>(
    key: &LockKey,
    acquire: F,
) -> impl Future<Output = F::Output> {
    use tracing::Instrument;
    acquire.instrument(tracing::debug_span!(target: "fencelock", "acquire", %key))
}

/// Runs `acquire`; there is nobody to tell of it.
#[cfg(not(feature = "tracing"))]
pub(crate) fn in_acquire_span<F: Future>(_: &LockKey, acquire: F) -> F {
    acquire
}

/// An attempt, or a wait with all its attempts, is over.
pub(crate) fn acquired<T>(key: &LockKey, start: Moment, result: &Result<T, LockError>) {
    let outcome = match result {
        Ok(_) => "acquired",
        Err(error) => outcome_of(error),
    };
    contained(|| told(key, start, outcome));
}

/// An attempt or a wait was dropped by its caller.
pub(crate) fn cancelled(key: &LockKey, start: Moment) {
    contained(|| told(key, start, "cancelled"));
}

fn told(key: &LockKey, start: Moment, outcome: &'static str) {
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    let waited = start.elapsed();
    #[cfg(feature = "tracing")]
    tracing::debug!(target: "fencelock", %key, outcome, ?waited, "acquire");
    #[cfg(feature = "metrics")]
    {
        metrics::counter!("fencelock_acquisitions_total", "outcome" => outcome).increment(1);
        metrics::histogram!("fencelock_wait_seconds", "outcome" => outcome).record(waited);
    }
}

/// The lock was busy, and is waited for.
pub(crate) fn waiting(key: &LockKey, pause: Duration) {
    contained(|| {
        #[cfg(feature = "tracing")]
        tracing::trace!(target: "fencelock", %key, ?pause, "wait");
    });
}

/// A renewal, automatic or asked for, was answered or not.
pub(crate) fn renewed(key: &LockKey, outcome: &'static str) {
    contained(|| {
        #[cfg(feature = "tracing")]
        tracing::trace!(target: "fencelock", %key, outcome, "renew");
        #[cfg(feature = "metrics")]
        metrics::counter!("fencelock_renewals_total", "outcome" => outcome).increment(1);
    });
}

/// A lease that was granted at that moment ended.
pub(crate) fn ended(key: &LockKey, granted: Moment, reason: LossReason) {
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    contained(|| {
        let held = granted.elapsed();
        #[cfg(feature = "metrics")]
        metrics::histogram!("fencelock_hold_seconds").record(held);
        if reason != LossReason::Released {
            lost(key, held, reason);
        }
    });
}

#[cfg(any(feature = "tracing", feature = "metrics"))]
fn lost(key: &LockKey, held: Duration, reason: LossReason) {
    #[cfg(feature = "tracing")]
    {
        tracing::warn!(target: "fencelock", %reason, ?held, "a lock was lost");
        tracing::debug!(target: "fencelock", %key, %reason, ?held, "lost");
    }
    #[cfg(feature = "metrics")]
    metrics::counter!("fencelock_losses_total", "reason" => reason_name(reason)).increment(1);
}

/// A lease went to the next in line.
pub(crate) fn passed_on(key: &LockKey) {
    contained(|| {
        #[cfg(feature = "tracing")]
        tracing::debug!(target: "fencelock", %key, outcome = "passed_on", "release");
        #[cfg(feature = "metrics")]
        metrics::counter!("fencelock_releases_total", "outcome" => "passed_on").increment(1);
    });
}

/// A release failed, and there are too many like it to go on with all of them.
pub(crate) fn left_to_expire(key: &LockKey) {
    contained(|| {
        #[cfg(feature = "tracing")]
        {
            tracing::warn!(target: "fencelock", "too many releases fail; an entry is left to its ttl");
            tracing::debug!(target: "fencelock", %key, "left to its ttl");
        }
        #[cfg(feature = "metrics")]
        metrics::counter!("fencelock_releases_total", "outcome" => "left_to_expire").increment(1);
    });
}

/// A release was answered or not.
pub(crate) fn released(key: &LockKey, result: &Result<Released, LockError>) {
    let outcome = match result {
        Ok(Released::Released) => "released",
        Ok(Released::Expired) => "expired",
        Ok(Released::TakenOver) => "taken_over",
        Err(error) => outcome_of(error),
    };
    contained(|| {
        #[cfg(feature = "tracing")]
        tracing::debug!(target: "fencelock", %key, outcome, "release");
        #[cfg(feature = "metrics")]
        metrics::counter!("fencelock_releases_total", "outcome" => outcome).increment(1);
    });
}

fn outcome_of(error: &LockError) -> &'static str {
    match error {
        LockError::Invalid { .. } => "invalid",
        LockError::Busy { .. } => "busy",
        LockError::TimedOut { .. } => "timed_out",
        LockError::Backend { .. } => "backend",
        LockError::Unknown { .. } => "unknown",
        LockError::Late { .. } => "late",
        LockError::Lost { .. } => "lost",
        LockError::Conflict { .. } => "conflict",
        LockError::Unsupported { .. } => "unsupported",
        LockError::Closed { .. } => "closed",
        LockError::NoRuntime { .. } => "no_runtime",
        LockError::Entropy { .. } => "entropy",
    }
}

#[cfg(feature = "metrics")]
fn reason_name(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Absent => "absent",
        LossReason::Taken => "taken",
        LossReason::Unconfirmed => "unconfirmed",
        LossReason::HeldTooLong => "held_too_long",
        LossReason::NoProgress => "no_progress",
        LossReason::ShutDown => "shut_down",
        LossReason::Released => "released",
    }
}
