//! When to renew. Not how: that is the lease's business.

use std::time::Duration;

use crate::error::LockError;

/// Renewals per ttl unless said otherwise.
const DEFAULT_PER_TTL: u32 = 3;

/// The most renewals per ttl.
const MAX_PER_TTL: u32 = 100;

/// Whether, how often and until when a held lock is renewed.
///
/// ```
/// use std::time::Duration;
/// use lock_core::RenewalPolicy;
///
/// // Renewed three times per ttl, for an hour at most, and only while the holder calls `checkpoint()`
/// // at least once a minute.
/// let policy = RenewalPolicy::default()
///     .hold_at_most(Duration::from_secs(3600))
///     .while_progressing(Duration::from_secs(60));
/// assert_ne!(policy, RenewalPolicy::never());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RenewalPolicy {
    per_ttl: u32,
    hold_at_most: Option<Duration>,
    progress: Option<Duration>,
}

impl Default for RenewalPolicy {
    /// Three renewals per ttl, for as long as the guard lives.
    fn default() -> Self {
        Self::per_ttl(DEFAULT_PER_TTL)
    }
}

impl RenewalPolicy {
    /// No renewal: the lock ends with its ttl unless the holder prolongs it.
    #[must_use]
    pub const fn never() -> Self {
        Self {
            per_ttl: 0,
            hold_at_most: None,
            progress: None,
        }
    }

    /// `renewals` in each ttl, 2 to 100. More than that, or 1, is refused when the lock is taken: with one
    /// renewal per ttl it would come too late.
    #[must_use]
    pub const fn per_ttl(renewals: u32) -> Self {
        Self {
            per_ttl: renewals,
            hold_at_most: None,
            progress: None,
        }
    }

    /// The guard is valid for at most `limit` from the grant on, renewed or not: then the holder is told that it
    /// lost the lock, and the entry goes when the guard does, or with its ttl.
    ///
    /// Give one wherever a task might hang while it holds a lock.
    #[must_use]
    pub const fn hold_at_most(mut self, limit: Duration) -> Self {
        self.hold_at_most = Some(limit);
        self
    }

    /// Renews only while the holder has called `guard.checkpoint()` within the last `period` (the grant counts
    /// as a call), so that a holder that hangs lets go.
    #[must_use]
    pub const fn while_progressing(mut self, period: Duration) -> Self {
        self.progress = Some(period);
        self
    }

    pub(crate) fn check(&self) -> Result<(), LockError> {
        if self.per_ttl == 1 || self.per_ttl > MAX_PER_TTL {
            return Err(LockError::invalid(
                "renewal",
                format!(
                    "{} renewals per ttl; use 2 to {MAX_PER_TTL}, or never()",
                    self.per_ttl
                ),
            ));
        }
        for (what, limit) in [
            ("hold_at_most", self.hold_at_most),
            ("progress", self.progress),
        ] {
            if limit.is_some_and(|limit| limit.is_zero()) {
                return Err(LockError::invalid(
                    what,
                    "it is zero; give a duration above zero",
                ));
            }
        }
        Ok(())
    }

    /// How many there are in a ttl.
    pub(crate) fn renewals(&self) -> u32 {
        self.per_ttl
    }

    pub(crate) fn hold_limit(&self) -> Option<Duration> {
        self.hold_at_most
    }

    pub(crate) fn progress_period(&self) -> Option<Duration> {
        self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_two_to_a_hundred_renewals_per_ttl() {
        assert!(RenewalPolicy::per_ttl(1).check().is_err());
        assert!(RenewalPolicy::per_ttl(101).check().is_err());
        assert!(RenewalPolicy::per_ttl(2).check().is_ok());
        assert!(RenewalPolicy::per_ttl(100).check().is_ok());
        assert!(
            RenewalPolicy::default()
                .hold_at_most(Duration::ZERO)
                .check()
                .is_err()
        );
        assert!(
            RenewalPolicy::default()
                .while_progressing(Duration::ZERO)
                .check()
                .is_err()
        );
    }
}
