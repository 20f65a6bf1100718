//! The checked numbers of one lock. Not what they are worked out from: those are the options.

use std::time::Duration;

use super::{GuardPolicy, LockOptions, PassingOn};

/// What was agreed for one lock, checked, in little room, for whoever keeps many. No time in it is longer than 500 years.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    // In nanoseconds.
    ttl: u64,
    op_timeout: u64,
    min_validity: u64,
    /// For as long as there is: none.
    hold_at_most: u64,
    progress: u64,
    passing_within: u64,
    renewals_per_ttl: u16,
    passing_times: u16,
    guard: GuardPolicy,
}

impl Terms {
    /// Those of `options` that were checked, and what they leave to be worked out.
    pub(super) fn new(options: &LockOptions, op_timeout: Duration, min_validity: Duration) -> Self {
        let (renewal, passing) = (options.renewal(), options.passing_on());
        let or_none = |time: Option<Duration>| time.map_or(u64::MAX, nanos);
        Self {
            ttl: nanos(options.ttl()),
            op_timeout: nanos(op_timeout),
            min_validity: nanos(min_validity),
            hold_at_most: or_none(renewal.hold_limit()),
            progress: or_none(renewal.progress_period()),
            passing_within: nanos(passing.time()),
            // 100 at the most.
            renewals_per_ttl: u16::try_from(renewal.renewals()).unwrap_or_default(),
            passing_times: passing.times(),
            guard: options.guard(),
        }
    }

    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl)
    }

    pub(crate) fn op_timeout(&self) -> Duration {
        Duration::from_nanos(self.op_timeout)
    }

    pub(crate) fn min_validity(&self) -> Duration {
        Duration::from_nanos(self.min_validity)
    }

    /// The time between two renewals of an entry of `ttl`; `None` without renewal.
    pub(crate) fn interval(&self, ttl: Duration) -> Option<Duration> {
        ttl.checked_div(self.renewals_per_ttl.into())
    }

    pub(crate) fn hold_limit(&self) -> Option<Duration> {
        some(self.hold_at_most)
    }

    pub(crate) fn progress_period(&self) -> Option<Duration> {
        some(self.progress)
    }

    pub(crate) fn guard(&self) -> GuardPolicy {
        self.guard
    }

    pub(crate) fn passing(&self) -> PassingOn {
        PassingOn::at_most(self.passing_times).within(Duration::from_nanos(self.passing_within))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A time that there need not be.
fn some(nanos: u64) -> Option<Duration> {
    (nanos != u64::MAX).then(|| Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RenewalPolicy;

    #[test]
    fn terms_say_what_the_options_say() {
        let second = Duration::from_secs(1);
        let rare = RenewalPolicy::per_ttl(7)
            .hold_at_most(Duration::MAX)
            .while_progressing(3 * second);
        let often = RenewalPolicy::default().hold_at_most(2 * second);
        let plain = LockOptions::default();
        let terms = plain.terms().unwrap();
        assert_eq!(
            (terms.guard(), terms.passing()),
            (plain.guard(), plain.passing_on())
        );
        for (renewal, interval, limit) in [
            (RenewalPolicy::never(), None, None),
            // Whoever may hold for 500 years may hold for ever.
            (rare, Some(second / 7), None),
            (often, Some(second / 3), Some(2 * second)),
        ] {
            let options = LockOptions::default()
                .with_ttl(90 * second)
                .with_op_timeout(second)
                .with_min_validity(2 * second)
                .with_guard(GuardPolicy::LeaveToExpire)
                .with_renewal(renewal)
                .with_passing_on(PassingOn::at_most(5).within(7 * second));
            let terms = options.terms().unwrap();
            assert_eq!(
                (terms.ttl(), terms.op_timeout(), terms.min_validity()),
                (90 * second, second, 2 * second)
            );
            assert_eq!(terms.interval(second), interval);
            assert_eq!(terms.hold_limit(), limit);
            assert_eq!(terms.progress_period(), renewal.progress_period());
            assert_eq!(terms.guard(), options.guard());
            assert_eq!(terms.passing(), options.passing_on());
        }
        assert_eq!(size_of::<Terms>(), 56);
    }
}
