//! When to try again and for how long to wait. Not the waiting itself: one loop in `acquire.rs` does that.

use std::time::Duration;

/// The longest wait unless said otherwise.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

/// No wait is shorter: a delay of zero must not spin.
pub(crate) const MIN_DELAY: Duration = Duration::from_millis(1);

/// When `acquire` tries again and when it gives up.
///
/// Where the store wakes waiters, a policy without [`at_most`](Self::at_most) polls only now and then as a
/// safety net, and its delays serve while the store fails. A wait is limited to 30 s unless
/// [`at_most`](Self::at_most), [`give_up_after`](Self::give_up_after) or [`wait_forever`](Self::wait_forever)
/// says otherwise.
///
/// ```
/// use std::time::Duration;
/// use lock_core::RetryPolicy;
///
/// // Like the Python original's retry_times=3, retry_delay=0.5: one attempt and three more.
/// let policy = RetryPolicy::every(Duration::from_millis(500)).at_most(3);
/// assert_eq!(policy.delays().collect::<Vec<_>>(), [Duration::from_millis(500); 3]);
/// assert_eq!(policy.wait_limit(), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    pace: Pace,
    at_most: Option<u32>,
    wait: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pace {
    Never,
    Every(Duration),
    Backoff { first: Duration, most: Duration },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wait {
    Default,
    AtMost(Duration),
    Forever,
}

impl Default for RetryPolicy {
    /// Backoff from 10 ms to 1 s, for 30 s.
    fn default() -> Self {
        Self::backoff(Duration::from_millis(10), Duration::from_secs(1))
    }
}

impl RetryPolicy {
    /// One attempt.
    #[must_use]
    pub const fn never() -> Self {
        Self::paced(Pace::Never)
    }

    /// An attempt every `delay`; below 1 ms counts as 1 ms.
    #[must_use]
    pub const fn every(delay: Duration) -> Self {
        Self::paced(Pace::Every(delay))
    }

    /// Exponential backoff with full jitter: each delay is drawn evenly from 1 ms to a bound that starts at
    /// `first`, doubles each time, and stays at `most` (Marc Brooker, "Exponential Backoff And Jitter", 2015).
    #[must_use]
    pub const fn backoff(first: Duration, most: Duration) -> Self {
        Self::paced(Pace::Backoff { first, most })
    }

    const fn paced(pace: Pace) -> Self {
        Self {
            pace,
            at_most: None,
            wait: Wait::Default,
        }
    }

    /// Gives up after `retries` attempts beyond the first. Attempts that a wake-up caused do not count. Lifts the
    /// default limit of the wait.
    #[must_use]
    pub const fn at_most(mut self, retries: u32) -> Self {
        self.at_most = Some(retries);
        self
    }

    /// Gives up after waiting for `wait`; zero is one attempt. An attempt that has begun is finished first, which
    /// takes up to the op timeout longer.
    #[must_use]
    pub const fn give_up_after(mut self, wait: Duration) -> Self {
        self.wait = Wait::AtMost(wait);
        self
    }

    /// Never gives up for lack of time.
    #[must_use]
    pub const fn wait_forever(mut self) -> Self {
        self.wait = Wait::Forever;
        self
    }

    /// How long to wait at most; `None` without a limit.
    #[must_use]
    pub const fn wait_limit(&self) -> Option<Duration> {
        match (self.wait, self.at_most) {
            (Wait::AtMost(wait), _) => Some(wait),
            (Wait::Forever, _) | (Wait::Default, Some(_)) => None,
            (Wait::Default, None) => Some(DEFAULT_WAIT),
        }
    }

    /// Whether attempts are counted, so that the delays must be kept whatever else wakes the waiter.
    pub(crate) const fn is_counted(&self) -> bool {
        self.at_most.is_some() || matches!(self.pace, Pace::Never)
    }

    /// Whether there is one attempt and no more.
    pub(crate) fn is_single(&self) -> bool {
        let none_left = self.at_most == Some(0) || matches!(self.pace, Pace::Never);
        none_left || self.wait_limit() == Some(Duration::ZERO)
    }

    /// No delay is longer; `None` where there are none.
    pub(crate) fn longest_delay(&self) -> Option<Duration> {
        match self.pace {
            Pace::Never => None,
            Pace::Every(delay) | Pace::Backoff { most: delay, .. } => Some(delay.max(MIN_DELAY)),
        }
    }

    /// The delays between attempts; its end means give up. Differently drawn each time where there is jitter.
    #[must_use]
    pub fn delays(&self) -> Delays {
        self.delays_with_seed(fastrand::u64(..))
    }

    /// The same, drawn from `seed`: the same seed gives the same delays.
    #[must_use]
    pub fn delays_with_seed(&self, seed: u64) -> Delays {
        Delays {
            pace: self.pace,
            left: self.at_most,
            bound: match self.pace {
                Pace::Backoff { first, most } => first.min(most),
                Pace::Never | Pace::Every(_) => Duration::ZERO,
            },
            random: fastrand::Rng::with_seed(seed),
        }
    }
}

/// The delays of a [`RetryPolicy`], each at least 1 ms.
#[derive(Debug, Clone)]
pub struct Delays {
    pace: Pace,
    left: Option<u32>,
    bound: Duration,
    random: fastrand::Rng,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        let delay = match self.pace {
            Pace::Never => return None,
            Pace::Every(delay) => delay,
            Pace::Backoff { most, .. } => {
                let bound = self.bound;
                self.bound = bound.saturating_mul(2).min(most);
                part_of(bound, self.random.f64())
            }
        };
        Some(delay.max(MIN_DELAY))
    }
}

/// The `n`th part of `duration`.
pub(crate) fn nth(duration: Duration, n: u32) -> Duration {
    duration.checked_div(n).unwrap_or_default()
}

/// `share` (0 to 1) of `duration`, without a panic for any duration.
pub(crate) fn part_of(duration: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * share.clamp(0.0, 1.0)).unwrap_or(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn never_is_one_attempt() {
        assert_eq!(RetryPolicy::never().delays().count(), 0);
        assert_eq!(RetryPolicy::every(MS).at_most(0).delays().count(), 0);
    }

    #[test]
    fn delays_are_counted_and_never_zero() {
        let policy = RetryPolicy::every(Duration::ZERO).at_most(2);
        assert_eq!(policy.delays().collect::<Vec<_>>(), [MS, MS]);
        assert_eq!(
            RetryPolicy::every(Duration::MAX)
                .at_most(u32::MAX)
                .delays()
                .next(),
            Some(Duration::MAX)
        );
    }

    #[test]
    fn backoff_doubles_its_bound_with_full_jitter() {
        let policy = RetryPolicy::backoff(10 * MS, 1000 * MS);
        let mut below_half = 0;
        for seed in 0..200 {
            let delays: Vec<_> = policy.delays_with_seed(seed).take(12).collect();
            assert_eq!(
                delays,
                policy.delays_with_seed(seed).take(12).collect::<Vec<_>>()
            );
            for (delay, bound) in delays
                .iter()
                .zip([10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000])
            {
                assert!(
                    (MS..=bound * MS).contains(delay),
                    "{delay:?} above {bound} ms"
                );
            }
            below_half += u32::from(delays[9] < 500 * MS);
        }
        assert!(
            (60..=140).contains(&below_half),
            "not evenly drawn: {below_half} of 200"
        );
        let extreme = RetryPolicy::backoff(Duration::MAX, Duration::MAX);
        assert!(extreme.delays().take(100).all(|delay| delay >= MS));
    }

    #[test]
    fn a_wait_is_finite_unless_asked_for() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.wait_limit(), Some(30_000 * MS));
        assert_eq!(policy.give_up_after(MS).at_most(3).wait_limit(), Some(MS));
        assert_eq!(policy.at_most(3).give_up_after(MS).wait_limit(), Some(MS));
        assert_eq!(policy.at_most(3).wait_limit(), None);
        assert_eq!(policy.wait_forever().wait_limit(), None);
    }
}
