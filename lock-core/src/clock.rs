//! The one clock: elapsed time that is never too short. Not the wall clock, which decides nothing here.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

/// No deadline is further away: 30 years, which every clock can count.
const FARTHEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// From when on tokio's clock is counted, so that a reading is one number.
#[allow(clippy::disallowed_methods, reason = "this is the clock module")]
static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// A point in time, read from two clocks at once.
///
/// The time between two moments is the larger of what both clocks say: tokio's clock, which is virtual in a
/// paused test, and on Linux `CLOCK_BOOTTIME` (clock_gettime(2)), which goes on while the system is suspended.
/// So elapsed time is never underestimated, and a lease never believed to last longer than it does.
///
/// While the clocks go by turns, times do not add up: from one moment to a second and on to a third may be
/// longer than from the first to the third. Whoever compares ends that were counted from different moments keeps each as
/// a [`Deadline`].
///
/// # In a paused test
///
/// There, too, real time counts: a test machine that stands still for a second takes a second of each ttl. With the feature
/// `test-util` (which `lock-testkit` turns on) the second clock goes with tokio's, so that all time of a paused test is virtual and its outcome
/// does not depend on the machine; `suspend` then takes the place of real time. Where tokio's clock is not paused, the
/// feature changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    running: Reading,
    /// In nanoseconds.
    boot: u64,
}

/// A moment to come, reached as soon as either clock gets there.
///
/// Of two deadlines, [`later`](Self::later) and [`earlier`](Self::earlier) are those of each clock by itself: so an order
/// between deadlines stays whatever the clocks do.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    running: Reading,
    boot: u64,
}

/// A reading of tokio's clock alone. For timers and for people; not for deciding about a lease.
///
/// In nanoseconds since [`START`]; negative where a paused clock was stopped before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reading(i64);

impl Moment {
    /// This moment.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    pub fn now() -> Self {
        #[cfg(not(feature = "test-util"))]
        let (running, boot) = (Instant::now(), since_boot());
        #[cfg(feature = "test-util")]
        let (running, boot) = in_a_test();
        Self {
            running: Reading::of(running),
            boot,
        }
    }

    /// The time from this moment until `later`; zero if `later` is earlier.
    #[must_use]
    pub fn until(&self, later: &Self) -> Duration {
        let running = later.running.nanos_since(self.running);
        Duration::from_nanos(running.max(later.boot.saturating_sub(self.boot)))
    }

    /// The time that has passed since this moment.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.until(&Self::now())
    }

    /// The moment `time` later on both clocks; at most 30 years.
    #[must_use]
    pub fn after(&self, time: Duration) -> Deadline {
        Deadline {
            running: self.running.after(time),
            boot: self.boot.saturating_add(nanos(time)),
        }
    }

    /// The reading of tokio's clock alone.
    pub(crate) fn reading(&self) -> Reading {
        self.running
    }
}

impl Deadline {
    /// How long it is from `now` until the deadline; zero once it is reached.
    #[must_use]
    pub fn left(&self, now: &Moment) -> Duration {
        let running = self.running.nanos_since(now.running);
        let left = if cfg!(any(target_os = "linux", feature = "test-util")) {
            running.min(self.boot.saturating_sub(now.boot))
        } else {
            running
        };
        Duration::from_nanos(left)
    }

    /// Where it is on tokio's clock alone.
    pub(crate) fn reading(&self) -> Reading {
        self.running
    }

    /// How long ago the deadline was; zero until it is reached.
    #[must_use]
    pub fn past(&self, now: &Moment) -> Duration {
        let running = now.running.nanos_since(self.running);
        Duration::from_nanos(running.max(now.boot.saturating_sub(self.boot)))
    }

    /// What is not reached before both are.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        Self {
            running: self.running.max(other.running),
            boot: self.boot.max(other.boot),
        }
    }

    /// What is reached as soon as one of them is.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        Self {
            running: self.running.min(other.running),
            boot: self.boot.min(other.boot),
        }
    }
}

impl Reading {
    fn of(instant: Instant) -> Self {
        let (start, instant) = (*START, instant.into_std());
        let signed = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        Self(match instant.checked_duration_since(start) {
            Some(since) => signed(since),
            None => signed(start.saturating_duration_since(instant)).saturating_neg(),
        })
    }

    /// The instant of tokio's clock.
    pub(crate) fn instant(self) -> Instant {
        let from_start = Duration::from_nanos(self.0.unsigned_abs());
        let instant = if self.0 < 0 {
            START.checked_sub(from_start)
        } else {
            START.checked_add(from_start)
        };
        Instant::from_std(instant.unwrap_or(*START))
    }

    /// The reading `time` later; at most 30 years.
    pub(crate) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add_unsigned(nanos(time)))
    }

    /// The reading `time` earlier; at most 30 years.
    pub(crate) fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(nanos(time)))
    }

    /// The time from this reading until `later`; zero if `later` is earlier.
    pub(crate) fn until(self, later: Self) -> Duration {
        Duration::from_nanos(later.nanos_since(self))
    }

    fn nanos_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default()
    }
}

#[cfg(target_os = "linux")]
fn since_boot() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let rest = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> u64 {
    0
}

#[cfg(feature = "test-util")]
thread_local! {
    /// For how many nanoseconds the system was said to be suspended.
    static SUSPENDED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// For tests: as if the system had been suspended for `time` just now, as this thread sees it. tokio's clock stands still,
/// the time of leases goes on. At most 30 years.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{Moment, suspend};
///
/// let start = Moment::now();
/// suspend(Duration::from_secs(60));
/// assert!(start.elapsed() >= Duration::from_secs(60));
/// ```
#[cfg(feature = "test-util")]
pub fn suspend(time: Duration) {
    SUSPENDED.with(|suspended| suspended.set(suspended.get().saturating_add(nanos(time))));
}

/// The reading of both clocks in a build for tests: where tokio's is paused, the second goes with it.
#[cfg(feature = "test-util")]
#[allow(clippy::disallowed_methods, reason = "this is the clock module")]
fn in_a_test() -> (Instant, u64) {
    /// What both clocks said at one moment.
    static BOTH: LazyLock<(std::time::Instant, u64)> =
        LazyLock::new(|| (std::time::Instant::now(), since_boot()));
    let (start, boot_then) = *BOTH;
    let suspended = SUSPENDED.get();
    for _ in 0..100 {
        let before = std::time::Instant::now();
        let running = Instant::now();
        let real = running.into_std();
        if !(before..=std::time::Instant::now()).contains(&real) {
            let boot = boot_then
                .saturating_add(nanos(real.saturating_duration_since(start)))
                .saturating_sub(nanos(start.saturating_duration_since(real)));
            return (running, boot.saturating_add(suspended));
        }
        let boot = since_boot();
        // Else real time may have gone past a paused clock just then.
        if before.elapsed() < Duration::from_micros(2) {
            return (running, boot.saturating_add(suspended));
        }
    }
    (Instant::now(), since_boot().saturating_add(suspended))
}

/// At most those of 30 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.min(FARTHEST).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn later(moment: Moment, running: Duration, boot: Duration) -> Moment {
        Moment {
            running: moment.running.after(running),
            boot: moment.boot + nanos(boot),
        }
    }

    #[test]
    fn elapsed_time_is_the_larger_of_both_clocks() {
        let start = Moment::now();
        assert_eq!(start.until(&later(start, SECOND, Duration::ZERO)), SECOND);
        // Suspended for ten seconds: tokio's clock stood still.
        assert_eq!(start.until(&later(start, SECOND, 11 * SECOND)), 11 * SECOND);
        // A moment before has not elapsed negatively.
        assert_eq!(later(start, SECOND, SECOND).until(&start), Duration::ZERO);
    }

    #[test]
    fn a_deadline_is_reached_when_either_clock_gets_there() {
        let start = Moment::now();
        let deadline = start.after(3 * SECOND);
        for (running, boot, left, past) in [
            (0, 0, 3, 0),
            (2, 1, 1, 0),
            (1, 2, 1, 0),
            (0, 4, 0, 1),
            (9, 0, 0, 6),
        ] {
            let now = later(start, running * SECOND, boot * SECOND);
            assert_eq!(
                (deadline.left(&now), deadline.past(&now)),
                (left * SECOND, past * SECOND),
                "{running} {boot}"
            );
        }
        assert_eq!(start.after(Duration::MAX).left(&start), FARTHEST);
    }

    #[test]
    fn the_order_of_deadlines_stays_whatever_the_clocks_do() {
        let start = Moment::now();
        let moments: Vec<_> = (0..6)
            .flat_map(|running| {
                (0..6).map(move |boot| later(start, running * SECOND, boot * SECOND))
            })
            .collect();
        for one in &moments {
            for other in &moments {
                let (one, other) = (one.after(4 * SECOND), other.after(SECOND));
                let (late, early) = (one.later(other), one.earlier(other));
                for now in &moments {
                    let lefts = (one.left(now), other.left(now));
                    assert!(late.left(now) >= lefts.0.max(lefts.1));
                    assert!(early.left(now) == lefts.0.min(lefts.1));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    async fn a_reading_is_the_instant_that_was_read_also_one_before_the_first() {
        let now = Instant::now();
        for instant in [now, now + 3600 * SECOND, now - SECOND, now - 60 * SECOND] {
            assert_eq!(Reading::of(instant).instant(), instant);
        }
        let (early, late) = (Reading::of(now - SECOND), Reading::of(now + SECOND));
        assert!(early < late);
        assert_eq!(early.until(late), 2 * SECOND);
        assert_eq!(late.until(early), Duration::ZERO);
        assert_eq!(early.after(2 * SECOND), late);
        assert_eq!(late.before(2 * SECOND), early);
    }

    #[tokio::test(start_paused = true)]
    async fn elapsed_time_is_virtual_in_a_paused_test() {
        let start = Moment::now();
        tokio::time::sleep(3600 * SECOND).await;
        assert!(start.elapsed() >= 3600 * SECOND);
    }

    #[cfg(all(target_os = "linux", not(feature = "test-util")))]
    #[tokio::test(start_paused = true)]
    async fn time_counts_while_tokios_clock_stands_still() {
        let start = Moment::now();
        std::thread::sleep(Duration::from_millis(20));
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[cfg(feature = "test-util")]
    #[tokio::test(start_paused = true)]
    async fn real_time_does_not_count_in_a_paused_test_but_that_of_a_suspended_system_does() {
        let start = Moment::now();
        let deadline = start.after(2 * SECOND);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(start.elapsed(), Duration::ZERO);
        tokio::time::advance(SECOND).await;
        assert_eq!(start.elapsed(), SECOND);
        suspend(SECOND);
        assert_eq!(start.elapsed(), 2 * SECOND);
        assert_eq!(deadline.left(&Moment::now()), Duration::ZERO);
        assert_eq!(start.reading().until(Moment::now().reading()), SECOND);
    }

    #[cfg(feature = "test-util")]
    #[tokio::test]
    async fn where_time_is_not_paused_both_clocks_are_real() {
        let (boot, start) = (since_boot(), Moment::now());
        std::thread::sleep(Duration::from_millis(20));
        let elapsed = start.elapsed();
        assert!(elapsed >= Duration::from_millis(20));
        if cfg!(target_os = "linux") {
            let all = Duration::from_nanos(since_boot() - boot);
            assert!(
                elapsed <= all + Duration::from_millis(1),
                "{elapsed:?} of {all:?}"
            );
        }
    }
}
