//! The options of a lock and the numbers that follow from them, checked before anything is sent.

use std::sync::Arc;
use std::time::Duration;

use super::retry::nth;
use super::{GuardPolicy, PassingOn, RenewalPolicy, RetryPolicy, Terms};
use crate::error::LockError;
use crate::owner::check_label;

/// The shortest ttl.
pub const MIN_TTL: Duration = Duration::from_millis(10);

/// The longest ttl.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// No default op timeout is longer.
const MAX_OP_TIMEOUT: Duration = Duration::from_secs(2);

/// How a lock is taken, kept and let go. Nothing is checked until a lock is taken with it.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{LockOptions, RenewalPolicy};
///
/// let options = LockOptions::default()
///     .with_ttl(Duration::from_secs(10))
///     .with_wait(Duration::from_secs(5))
///     .with_renewal(RenewalPolicy::never())
///     .with_label("web-1");
/// assert_eq!(options.ttl(), Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOptions {
    ttl: Duration,
    retry: RetryPolicy,
    renewal: RenewalPolicy,
    guard: GuardPolicy,
    passing: PassingOn,
    label: Option<Arc<str>>,
    op_timeout: Option<Duration>,
    min_validity: Option<Duration>,
    recheck: Duration,
}

impl Default for LockOptions {
    /// A ttl of 30 s renewed three times within it, a wait of at most 30 s, release on drop, no label.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            renewal: RenewalPolicy::default(),
            guard: GuardPolicy::default(),
            passing: PassingOn::default(),
            label: None,
            op_timeout: None,
            min_validity: None,
            recheck: Duration::from_secs(1),
        }
    }
}

impl LockOptions {
    /// How long a grant lasts: 10 ms to 24 h. Default 30 s.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// When to try again and when to give up. Default: backoff from 10 ms to 1 s, for 30 s.
    #[must_use]
    pub const fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How long `acquire` waits at most: short for [`RetryPolicy::give_up_after`] on the present policy.
    #[must_use]
    pub const fn with_wait(mut self, wait: Duration) -> Self {
        self.retry = self.retry.give_up_after(wait);
        self
    }

    /// Whether, how often and until when the lock is renewed. Default: three times per ttl.
    #[must_use]
    pub const fn with_renewal(mut self, renewal: RenewalPolicy) -> Self {
        self.renewal = renewal;
        self
    }

    /// What dropping the guard does. Default: release.
    #[must_use]
    pub const fn with_guard(mut self, guard: GuardPolicy) -> Self {
        self.guard = guard;
        self
    }

    /// Whether and how often the lock goes straight to the next in line of this process when it is released. Default: at
    /// most 64 times, within 5 ms.
    #[must_use]
    pub const fn with_passing_on(mut self, passing: PassingOn) -> Self {
        self.passing = passing;
        self
    }

    /// A label that others see while this holds the lock, such as host and pid: at most 128 bytes without control
    /// characters. Everybody who can read the store can read it. Default: none.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into().into());
        self
    }

    /// How long one request to the store may take; less than the ttl less its drift (1 % + 2 ms). Default: a fifth
    /// of the ttl, 2 s at most.
    #[must_use]
    pub const fn with_op_timeout(mut self, timeout: Duration) -> Self {
        self.op_timeout = Some(timeout);
        self
    }

    /// The least validity of a guard when it is handed out; a grant with less is given back. Less than the ttl less
    /// its drift. Default: half the ttl.
    #[must_use]
    pub const fn with_min_validity(mut self, validity: Duration) -> Self {
        self.min_validity = Some(validity);
        self
    }

    /// How often a waiter that is woken by the store looks for itself all the same; at least 1 ms, shortened by up
    /// to a quarter at random. Default: 1 s.
    #[must_use]
    pub const fn with_recheck(mut self, recheck: Duration) -> Self {
        self.recheck = recheck;
        self
    }

    /// How long a grant lasts.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// When to try again and when to give up.
    #[must_use]
    pub const fn retry(&self) -> RetryPolicy {
        self.retry
    }

    /// Whether, how often and until when the lock is renewed.
    #[must_use]
    pub const fn renewal(&self) -> RenewalPolicy {
        self.renewal
    }

    /// What dropping the guard does.
    #[must_use]
    pub const fn guard(&self) -> GuardPolicy {
        self.guard
    }

    /// Whether and how often the lock goes straight to the next in line.
    #[must_use]
    pub const fn passing_on(&self) -> PassingOn {
        self.passing
    }

    /// The label that others see.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The label, to be kept.
    pub(crate) fn shared_label(&self) -> Option<Arc<str>> {
        self.label.clone()
    }

    /// How often a woken waiter looks for itself.
    pub(crate) const fn recheck(&self) -> Duration {
        self.recheck
    }

    /// Checks everything, and works out what follows.
    pub(crate) fn terms(&self) -> Result<Terms, LockError> {
        check_ttl("ttl", self.ttl)?;
        self.renewal.check()?;
        if let Some(label) = &self.label {
            check_label(label)?;
        }
        let longest = validity(self.ttl);
        let op_timeout = match self.op_timeout {
            None => MAX_OP_TIMEOUT.min(nth(self.ttl, 5)),
            Some(timeout) if timeout.is_zero() || timeout >= longest => {
                return Err(LockError::invalid(
                    "op timeout",
                    format!(
                        "{timeout:?}; use more than zero and less than {longest:?}, what the ttl leaves"
                    ),
                ));
            }
            Some(timeout) => timeout,
        };
        let min_validity = match self.min_validity {
            None => nth(self.ttl, 2),
            Some(least) if least >= longest => {
                return Err(LockError::invalid(
                    "min validity",
                    format!("{least:?}; use less than {longest:?}, what the ttl leaves"),
                ));
            }
            Some(least) => least,
        };
        Ok(Terms::new(self, op_timeout, min_validity))
    }
}

/// Refuses a ttl that no lease may have.
pub(crate) fn check_ttl(what: &str, ttl: Duration) -> Result<(), LockError> {
    if (MIN_TTL..=MAX_TTL).contains(&ttl) {
        return Ok(());
    }
    Err(LockError::invalid(
        what,
        format!("{ttl:?}; use {MIN_TTL:?} to 24 h"),
    ))
}

/// How long a holder believes in a grant of `ttl`, counted from before the request: the ttl less the allowance
/// for clocks that run at different rates, 1 % + 2 ms.
pub(crate) fn validity(ttl: Duration) -> Duration {
    ttl.saturating_sub(nth(ttl, 100))
        .saturating_sub(Duration::from_millis(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_ttl_out_of_bounds_is_invalid() {
        let bad = [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_micros(9_990),
            MAX_TTL + MS,
            Duration::MAX,
        ];
        for ttl in bad {
            let error = LockOptions::default().with_ttl(ttl).terms().unwrap_err();
            assert!(error.to_string().contains("10ms to 24 h"), "{error}");
        }
        for ttl in [MIN_TTL, MAX_TTL] {
            assert!(LockOptions::default().with_ttl(ttl).terms().is_ok());
        }
    }

    #[test]
    fn an_op_timeout_or_min_validity_that_the_ttl_cannot_hold_is_invalid() {
        let options = LockOptions::default().with_ttl(1000 * MS);
        for bad in [Duration::ZERO, 988 * MS, 1000 * MS, Duration::MAX] {
            assert!(
                options.clone().with_op_timeout(bad).terms().is_err(),
                "{bad:?}"
            );
        }
        assert!(options.clone().with_op_timeout(987 * MS).terms().is_ok());
        assert!(options.clone().with_min_validity(988 * MS).terms().is_err());
        assert!(
            options
                .clone()
                .with_min_validity(Duration::ZERO)
                .terms()
                .is_ok()
        );
    }

    #[test]
    fn defaults_follow_from_the_ttl() {
        let terms = LockOptions::default().with_ttl(1000 * MS).terms().unwrap();
        assert_eq!(
            (terms.op_timeout(), terms.min_validity()),
            (200 * MS, 500 * MS)
        );
        assert_eq!(
            LockOptions::default().terms().unwrap().op_timeout(),
            2000 * MS
        );
        assert_eq!(validity(1000 * MS), 988 * MS);
        assert_eq!(validity(MS), Duration::ZERO);
    }
}
