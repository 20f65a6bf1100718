//! When a process that has a lock again and again lets others have it. Not the bound on one grant: that is
//! [`PassingOn`]'s, and its time is what this goes by.
//!
//! The first in line here knows at once when the lock was released, while others must be woken first: they would come too
//! late again and again. So a process that has had the lock for [`PassingOn::within`] rests for a moment before it asks
//! again, if the store wakes waiters and does not serve them in order itself. As long as nobody else was seen to have the
//! lock, it does so four times less often.

use std::time::Duration;

use crate::clock::Moment;
use crate::policy::PassingOn;

/// Long enough for others to be woken and to ask.
const REST: Duration = Duration::from_millis(1);

/// The same if they may just have asked in vain: they do so once a millisecond at most, and timers are late by another.
const LONG_REST: Duration = Duration::from_millis(3);

/// Who was seen to have the lock may want it again for as long.
const REMEMBERED: Duration = Duration::from_secs(1);

/// How many times longer a run is while nobody was seen.
const SELDOM: u32 = 4;

/// How long this process has had a lock that others may want.
pub(super) struct Run {
    since: Moment,
    /// When the lock was last released at the store.
    released: Moment,
    /// When the store said last that somebody else has it.
    others: Option<Moment>,
    /// When the rest of the next head began, and how long it is.
    rest: Option<(Moment, Duration)>,
}

impl Run {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            since: now,
            released: now,
            others: None,
            rest: None,
        }
    }

    /// Somebody else has the lock.
    pub(super) fn ends(&mut self, now: Moment) {
        (self.since, self.others) = (now, Some(now));
    }

    /// The lock was released at the store, and the next in line is about to ask for it.
    pub(super) fn goes_on(&mut self, passing: PassingOn, now: Moment) {
        let seen = self
            .others
            .is_some_and(|when| when.until(&now) < REMEMBERED);
        let most = if passing.is_on() {
            passing
        } else {
            PassingOn::default()
        };
        let most = most.time().saturating_mul(if seen { 1 } else { SELDOM });
        let quiet = self.released.until(&now) >= LONG_REST;
        self.released = now;
        if self.since.until(&now) >= most {
            let rest = if quiet { REST } else { LONG_REST };
            (self.since, self.rest) = (now, Some((now, rest)));
        }
    }

    /// How long the next head is to rest.
    pub(super) fn take_rest(&mut self, now: Moment) -> Duration {
        match self.rest.take() {
            Some((began, rest)) => rest.saturating_sub(began.until(&now)),
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How long the rest is, after `later`.
    async fn rest(run: &mut Run, passing: PassingOn, later: Duration) -> Duration {
        tokio::time::sleep(later).await;
        run.goes_on(passing, Moment::now());
        run.take_rest(Moment::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_with_a_rest_when_others_were_seen_and_seldom_otherwise() {
        for passing in [PassingOn::default(), PassingOn::never()] {
            let mut run = Run::new(Moment::now());
            assert_eq!(rest(&mut run, passing, 10 * MS).await, Duration::ZERO);
            assert!(rest(&mut run, passing, 11 * MS).await > Duration::ZERO);
            run.ends(Moment::now());
            assert_eq!(rest(&mut run, passing, MS).await, Duration::ZERO);
            for _ in 0..3 {
                assert!(rest(&mut run, passing, 6 * MS).await > Duration::ZERO);
            }
            tokio::time::sleep(2 * REMEMBERED).await;
            assert!(rest(&mut run, passing, MS).await > Duration::ZERO);
            assert_eq!(
                rest(&mut run, passing, 6 * MS).await,
                Duration::ZERO,
                "forgotten"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_longer_if_others_may_just_have_asked_in_vain() {
        let mut run = Run::new(Moment::now());
        assert!(rest(&mut run, PassingOn::default(), 30 * MS).await <= REST);
        rest(&mut run, PassingOn::default(), 19 * MS).await;
        assert!(rest(&mut run, PassingOn::default(), 2 * MS).await > REST);
    }
}
