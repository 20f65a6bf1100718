//! No task was left behind, and how much memory there is. Not about connections.

use std::time::Duration;

use lock_core::Moment;
use tokio::runtime::Handle;

/// How often the tasks are counted.
const STEP: Duration = Duration::from_millis(1);

/// Remembers how many tasks are alive in the current runtime, to see that there are no more of them later.
///
/// ```
/// use std::time::Duration;
/// use lock_testkit::LeakCheck;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let leaks = LeakCheck::start();
/// tokio::spawn(tokio::time::sleep(Duration::from_millis(5)));
/// leaks.assert_none(Duration::from_secs(5)).await;
/// # }
/// ```
#[derive(Debug)]
pub struct LeakCheck {
    runtime: Handle,
    baseline: usize,
}

impl LeakCheck {
    /// Takes the number of tasks now as the baseline.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start() -> Self {
        let runtime = Handle::current();
        let baseline = runtime.metrics().num_alive_tasks();
        Self { runtime, baseline }
    }

    /// How many tasks are alive beyond the baseline.
    #[must_use]
    pub fn extra(&self) -> usize {
        self.runtime
            .metrics()
            .num_alive_tasks()
            .saturating_sub(self.baseline)
    }

    /// Waits until no more tasks are alive than at the start. In a paused test `within` is virtual time.
    ///
    /// # Panics
    ///
    /// If there still are after `within`.
    pub async fn assert_none(&self, within: Duration) {
        let start = Moment::now();
        while self.extra() > 0 {
            assert!(
                start.elapsed() < within,
                "{} tasks alive after {within:?}",
                self.extra()
            );
            tokio::time::sleep(STEP).await;
        }
    }
}

/// How many bytes of memory this process uses; 0 where the system does not say it like Linux.
pub(crate) fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    // Of 4 KiB at the least.
    pages.map_or(0, |pages: usize| pages * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_in_time_is_no_leak() {
        let leaks = LeakCheck::start();
        let task = Handle::current().spawn(tokio::time::sleep(SECOND));
        assert_eq!(leaks.extra(), 1);
        leaks.assert_none(2 * SECOND).await;
        assert!(task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "1 tasks alive")]
    async fn a_task_that_stays_is_a_leak() {
        let leaks = LeakCheck::start();
        Handle::current().spawn(std::future::pending::<()>());
        leaks.assert_none(SECOND).await;
    }
}
