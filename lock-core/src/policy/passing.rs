//! How often a lock goes from hand to hand in one process before others get their turn. Not how it goes: that is the
//! lease's.

use std::time::Duration;

use crate::backend::MAX_TOKENS;

/// Whether a lock that is released goes straight to the next in line of this process, and how often in a row.
///
/// Who waits for a lock in one process stands in one line. When the lock is released, the next in line may have it without
/// a round trip to the store, with a fencing token of its own: the store's entry stays as it is. The bound is for the
/// others: after so many times, or so long after the store's grant, the lock is released at the store. Where the store
/// wakes waiters, but does not serve them in order, the process then also lets others ask first: when it has had the
/// lock for [`within`](Self::within), or four times as long if nobody else was seen to have it within the last second.
/// A process that waits has its turn after that time and the hold that is under way.
///
/// The next in line holds the lock as soon as its task runs. If it does not run (nobody polls it, or its thread is blocked),
/// others have the lock 250 ms later, or, if the giver's runtime is not driven either, at the latest when the ttl is over.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{LockOptions, PassingOn};
///
/// let options = LockOptions::default()
///     .with_passing_on(PassingOn::at_most(16).within(Duration::from_millis(2)));
/// assert_ne!(options.passing_on(), PassingOn::never());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PassingOn {
    at_most: u16,
    within: Duration,
}

impl Default for PassingOn {
    /// At most 64 times, within 5 ms.
    fn default() -> Self {
        Self::at_most(64)
    }
}

impl PassingOn {
    /// Every lock is released at the store.
    #[must_use]
    pub const fn never() -> Self {
        Self::at_most(0)
    }

    /// At most `times` in a row; zero is [`never`](Self::never). Where the store has fencing tokens, no more than 63 times,
    /// for it reserves 64 at most with one grant.
    #[must_use]
    pub const fn at_most(times: u16) -> Self {
        Self {
            at_most: times,
            within: Duration::from_millis(5),
        }
    }

    /// Not later than `time` after the store's grant; zero is [`never`](Self::never). Default: 5 ms.
    #[must_use]
    pub const fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// Whether a lock that went on `times` already may do so again, `spent` after the grant.
    pub(crate) fn allows(&self, times: u16, spent: Duration) -> bool {
        times < self.at_most && spent < self.within
    }

    /// Whether it happens at all.
    pub(crate) fn is_on(&self) -> bool {
        self.allows(0, Duration::ZERO)
    }

    /// How long after the store's grant it may happen.
    pub(crate) fn time(&self) -> Duration {
        self.within
    }

    /// How many times in a row.
    pub(crate) fn times(&self) -> u16 {
        self.at_most
    }

    /// How many fencing tokens it takes.
    pub(crate) fn tokens(&self) -> u16 {
        if self.is_on() {
            self.at_most.saturating_add(1).min(MAX_TOKENS)
        } else {
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_switches_it_off() {
        for off in [
            PassingOn::never(),
            PassingOn::at_most(0),
            PassingOn::default().within(Duration::ZERO),
        ] {
            assert!(!off.allows(0, Duration::ZERO), "{off:?}");
            assert_eq!(off.tokens(), 1);
        }
    }

    #[test]
    fn it_is_bounded_in_number_and_in_time() {
        let passing = PassingOn::at_most(2).within(Duration::from_secs(1));
        assert!(passing.allows(1, Duration::from_millis(999)));
        assert!(!passing.allows(2, Duration::ZERO));
        assert!(!passing.allows(0, Duration::from_secs(1)));
        assert_eq!(passing.tokens(), 3);
        assert_eq!(PassingOn::default().tokens(), 64);
        assert!(PassingOn::default().allows(63, Duration::from_micros(4999)));
        assert!(!PassingOn::default().allows(64, Duration::ZERO));
        assert!(!PassingOn::default().allows(0, Duration::from_millis(5)));
        assert_eq!(PassingOn::at_most(u16::MAX).tokens(), 64);
    }
}
