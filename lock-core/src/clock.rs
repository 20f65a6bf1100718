//! The one clock: elapsed time that is never too short. Not the wall clock, which decides nothing here.

use std::time::Duration;

use tokio::time::Instant;

/// A point in time, read from two clocks at once.
///
/// The time between two moments is the larger of what both clocks say: tokio's clock, which is virtual in a
/// paused test, and on Linux `CLOCK_BOOTTIME` (clock_gettime(2)), which goes on while the system is suspended.
/// So elapsed time is never underestimated, and a lease never believed to last longer than it does.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    instant: Instant,
    boot: Duration,
}

impl Moment {
    /// This moment.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    pub fn now() -> Self {
        Self {
            instant: Instant::now(),
            boot: since_boot(),
        }
    }

    /// The time from this moment until `later`; zero if `later` is earlier.
    #[must_use]
    pub fn until(&self, later: &Self) -> Duration {
        let running = later.instant.saturating_duration_since(self.instant);
        running.max(later.boot.saturating_sub(self.boot))
    }

    /// The time that has passed since this moment.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.until(&Self::now())
    }

    /// The instant of tokio's clock, `after` later. For timers and for people; not for deciding about a lease.
    pub(crate) fn instant_after(&self, after: Duration) -> Option<Instant> {
        self.instant.checked_add(after)
    }

    /// The reading of tokio's clock alone.
    pub(crate) fn instant(&self) -> Instant {
        self.instant
    }
}

#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn later(moment: Moment, running: Duration, boot: Duration) -> Moment {
        Moment {
            instant: moment.instant + running,
            boot: moment.boot + boot,
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

    #[tokio::test(start_paused = true)]
    async fn elapsed_time_is_virtual_in_a_paused_test() {
        let start = Moment::now();
        tokio::time::sleep(3600 * SECOND).await;
        assert!(start.elapsed() >= 3600 * SECOND);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(start_paused = true)]
    async fn time_counts_while_tokios_clock_stands_still() {
        let start = Moment::now();
        std::thread::sleep(Duration::from_millis(20));
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
