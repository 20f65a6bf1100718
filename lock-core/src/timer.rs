//! Timers that are made where they are polled. Not a clock: what a lease is worth is decided in `clock.rs`.
//!
//! A tokio `Sleep` belongs to the runtime it was made on, and panics when that runtime has ended. Futures of ours may
//! be polled on one runtime first and on another later, so a timer notices and starts anew.

use std::future::{Future, poll_fn};
use std::panic::catch_unwind;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::Sleep;

use crate::clock::Moment;

/// Fires once, a given time after it was first polled, on whatever runtime polls it. Polled outside every runtime it
/// is silent.
#[derive(Debug)]
pub(crate) struct Timer {
    begun: Option<Moment>,
    after: Duration,
    /// The runtime it was made on; none on a runtime that has no timers.
    sleep: Option<(Id, Option<Pin<Box<Sleep>>>)>,
}

impl Timer {
    pub(crate) fn new(after: Duration) -> Self {
        Self {
            begun: None,
            after,
            sleep: None,
        }
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let begun = self.begun.replace(self.begun.unwrap_or_else(Moment::now));
        let Ok(runtime) = Handle::try_current() else {
            self.sleep = None;
            return Poll::Pending;
        };
        if self
            .sleep
            .as_ref()
            .is_none_or(|(id, _)| *id != runtime.id())
        {
            // At first the whole of it, so that tokio's clock gets there: in a paused test it stands still while
            // real time counts, and whoever fires before he is due would fire for ever.
            let spent = begun.map_or(Duration::ZERO, |begun| begun.elapsed());
            let left = self.after.saturating_sub(spent);
            self.sleep = Some((runtime.id(), make_sleep(left)));
        }
        match &mut self.sleep {
            Some((_, Some(sleep))) => sleep.as_mut().poll(context),
            Some((_, None)) | None => Poll::Pending,
        }
    }
}

/// Whether the current runtime can make timers.
pub(crate) fn timers_work_here() -> bool {
    Handle::try_current().is_ok() && make_sleep(Duration::ZERO).is_some()
}

/// A runtime without a time driver says so by a panic, and in no other way.
fn make_sleep(after: Duration) -> Option<Pin<Box<Sleep>>> {
    catch_unwind(|| Box::pin(tokio::time::sleep(after))).ok()
}

/// Resolves after `after`.
pub(crate) async fn sleep(after: Duration) {
    let mut timer = Timer::new(after);
    poll_fn(|context| timer.poll(context)).await;
}

/// What `future` resolves to, or `None` if it takes longer than `limit`.
pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = Timer::new(limit);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timer.poll(context).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    #[test]
    fn a_timer_survives_the_end_of_the_runtime_it_was_first_polled_on() {
        let (first, second) = (runtime(), runtime());
        let mut waiting = Box::pin(sleep(Duration::from_millis(30)));
        first.block_on(async {
            poll_fn(|context| {
                assert!(waiting.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
        });
        drop(first);
        second.block_on(waiting);
    }

    #[test]
    fn a_runtime_without_timers_is_recognised() {
        assert!(!timers_work_here());
        let bare = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        assert!(!bare.block_on(async { timers_work_here() }));
        assert!(runtime().block_on(async { timers_work_here() }));
    }

    #[tokio::test(start_paused = true)]
    #[allow(clippy::disallowed_methods, reason = "tokio's clock alone")]
    async fn a_timer_never_fires_before_it_is_due_on_tokios_clock() {
        for nanos in [1, 50, 1_000, 999_999, 1_000_001] {
            let (start, after) = (tokio::time::Instant::now(), Duration::from_nanos(nanos));
            sleep(after).await;
            assert!(start.elapsed() >= after, "{after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_ends_what_takes_too_long() {
        assert_eq!(
            timeout(Duration::from_secs(1), std::future::pending::<()>()).await,
            None
        );
        assert_eq!(timeout(Duration::ZERO, async { 7 }).await, Some(7));
    }
}
