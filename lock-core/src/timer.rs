//! Timers that are made where they are polled. Not a clock: what a lease is worth is decided in `clock.rs`.
//!
//! A tokio `Sleep` belongs to the runtime it was made on, and panics when that runtime has ended. Futures of ours may
//! be polled on one runtime first and on another later, so a timer notices and starts anew.

use std::future::{Future, pending, poll_fn};
use std::panic::catch_unwind;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::{Sleep, sleep_until};

use crate::clock::{Moment, Reading};

/// Whether the current runtime can make timers.
pub(crate) fn timers_work_here() -> bool {
    Handle::try_current().is_ok() && make_sleep(Moment::now().reading()).is_some()
}

/// A runtime without a time driver says so by a panic, and in no other way.
fn make_sleep(until: Reading) -> Option<Sleep> {
    catch_unwind(|| sleep_until(until.instant())).ok()
}

/// Resolves `after` after it was first polled, on whatever runtime polls it. Polled outside every runtime it is silent.
pub(crate) async fn sleep(after: Duration) {
    timeout(after, pending::<()>()).await;
}

/// What `future` resolves to, or `None` if it takes longer than `limit` after it was first polled. On a runtime that has no timers,
/// and outside every runtime, there is no limit.
pub(crate) fn timeout<F: Future + Unpin>(
    limit: Duration,
    future: F,
) -> impl Future<Output = Option<F::Output>> {
    timeout_from(None, limit, future)
}

/// The same for who read the clock just now, in the poll in which this is first polled.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps room for its arguments twice"
)]
pub(crate) fn timeout_from<F: Future + Unpin>(
    now: Option<Moment>,
    limit: Duration,
    mut future: F,
) -> impl Future<Output = Option<F::Output>> {
    async move {
        let mut begun = now;
        // Made once there is something to wait for, and the runtime it was made on.
        let mut sleep = pin!(None::<Sleep>);
        let mut made_on: Option<Id> = None;
        let mut is_first = true;
        poll_fn(|context| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(context) {
                return Poll::Ready(Some(output));
            }
            let begun = *begun.get_or_insert_with(Moment::now);
            let is_first = std::mem::take(&mut is_first);
            let Ok(runtime) = Handle::try_current() else {
                made_on = None;
                sleep.set(None);
                return Poll::Pending;
            };
            if made_on != Some(runtime.id()) {
                let end = if is_first {
                    // The whole of it, so that tokio's clock gets there: in a paused test it stands still while real time
                    // counts, and whoever fires before he is due would fire for ever.
                    begun.after(limit)
                } else {
                    let now = Moment::now();
                    now.after(limit.saturating_sub(begun.until(&now)))
                };
                made_on = Some(runtime.id());
                sleep.set(make_sleep(end.reading()));
            }
            match sleep.as_mut().as_pin_mut() {
                Some(sleep) => sleep.poll(context).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await
    }
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
        assert_eq!(timeout(Duration::ZERO, pin!(async { 7 })).await, Some(7));
    }
}
