//! Cuts a future at each of its await points in turn. Not random: the same cuts every time.

use std::pin::pin;
use std::task::Poll;

/// Runs a future again and again, each time dropping it a little later, until a run completes.
///
/// For each k there are two cuts: the future is dropped as soon as it waits for the k-th time, and, in another
/// run, when it has been woken from that wait, before it sees what it was woken for. The first cut of all drops it
/// before it was ever polled. In between, everything else on the runtime goes on as usual.
///
/// `make(n)` makes the future for the n-th cut, counted from 0. `check(n)` runs after the n-th cut and
/// after the run that completes: it waits for quiet and asserts what must hold. The future's output is dropped before
/// the check. Returns how many cuts there were: 1 + twice the number of times that the whole run waited. Assert a
/// lower bound, so that a future that never waits does not pass for a tested one.
///
/// Futures need not be `Send`. Await the sweep itself in the test's own task, not inside `select!` or `join!`,
/// whose other branches would wake it too.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{AcquireRequest, LockBackend, LockKey, Owner};
/// use lock_testkit::{Scripted, cancel_sweep};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = Scripted::honest().with_latency(Duration::from_millis(5));
/// let (key, owner) = (LockKey::new("order:7")?, Owner::fresh(None)?);
/// let request = AcquireRequest::new(&key, &owner, Duration::from_secs(30));
///
/// let cuts = cancel_sweep(
///     |_| backend.try_acquire(request),
///     async |_| {
///         // Of unknown outcome, but a release with the same owner leaves nothing behind.
///         backend.release(&key, &owner).await.unwrap();
///         assert!(backend.entries().is_empty());
///     },
/// )
/// .await;
/// assert_eq!(cuts, 5, "before, and twice in each of two waits: for the way there and for the way back");
/// # Ok(())
/// # }
/// ```
pub async fn cancel_sweep<Fut: Future>(
    mut make: impl FnMut(usize) -> Fut,
    mut check: impl AsyncFnMut(usize),
) -> usize {
    let mut cut = 0_usize;
    loop {
        // 0 waits; then, for each number of waits: not woken, woken.
        let (waits, woken) = (cut.div_ceil(2), cut > 0 && cut.is_multiple_of(2));
        let completed = drive(make(cut), waits, woken).await;
        check(cut).await;
        if completed {
            return cut;
        }
        cut += 1;
    }
}

/// Drives `future` and drops it in its `waits`-th wait, or once woken from that. Whether it completed.
pub(crate) async fn drive<Fut: Future>(future: Fut, waits: usize, woken: bool) -> bool {
    let mut future = pin!(future);
    let mut waited = 0;
    std::future::poll_fn(|context| {
        if waited == waits {
            return Poll::Ready(false);
        }
        if future.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        waited += 1;
        if waited == waits && !woken {
            Poll::Ready(false)
        } else {
            Poll::Pending
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn every_wait_is_cut_twice_and_the_last_run_completes() {
        // `Rc`: futures that are not `Send` are welcome.
        let steps = Rc::new(RefCell::new(Vec::new()));
        let mut seen = Vec::new();
        let cuts = cancel_sweep(
            |cut| {
                let steps = Rc::clone(&steps);
                async move {
                    for step in ["a", "b", "c"] {
                        steps.borrow_mut().push((cut, step));
                        sleep(MILLISECOND).await;
                    }
                    steps.borrow_mut().push((cut, "end"));
                }
            },
            async |cut| {
                sleep(MILLISECOND).await;
                let last = steps
                    .borrow()
                    .last()
                    .filter(|(n, _)| *n == cut)
                    .map(|(_, step)| *step);
                seen.push(last);
            },
        )
        .await;
        assert_eq!(cuts, 7);
        let (a, b, c) = (Some("a"), Some("b"), Some("c"));
        assert_eq!(seen, [None, a, a, b, b, c, c, Some("end")]);
    }

    #[tokio::test]
    async fn a_future_that_never_waits_is_cut_once() {
        let cuts = cancel_sweep(|_| async {}, async |_| {}).await;
        assert_eq!(cuts, 1);
    }

    #[tokio::test(start_paused = true)]
    #[allow(clippy::disallowed_methods, reason = "virtual time alone")]
    async fn time_passes_between_a_wait_and_the_cut_once_woken() {
        let mut last = tokio::time::Instant::now();
        let mut took = Vec::new();
        cancel_sweep(
            |_| sleep(MILLISECOND),
            async |_| {
                took.push(last.elapsed());
                last = tokio::time::Instant::now();
            },
        )
        .await;
        let zero = Duration::ZERO;
        assert_eq!(took, [zero, zero, MILLISECOND, MILLISECOND]);
    }
}
