//! Calls that are under way when their connections are cut. Not a case.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{AcquireRequest, Attempt, BackendError, LockBackend, LockKey, Moment, Owner};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{BOUND, HOLD, MILLISECOND, eventually, key, owner};
use crate::faulty::Op;
use crate::fixture::Fixture;

/// How many tasks call at the same time: a cut then finds some of their calls under way.
const TASKS: usize = 16;

/// How often each task does its thing, which together takes longer than a cut.
const TIMES: usize = 32;

/// How many calls a case wants to see cut off.
const ENOUGH: usize = 24;

/// When connections are cut, and whether that was enough.
pub(crate) struct Cuts {
    start: Moment,
    number: u32,
    /// Whether a cut must find a call under way in the end. Not in virtual time, where a store may answer at once, nor where the
    /// client sends again what was cut off, and nobody hears of it.
    must_hit: bool,
}

impl Cuts {
    pub(crate) fn of<F: Fixture>(client: &F::Backend) -> Self {
        Self {
            start: Moment::now(),
            number: 0,
            must_hit: !F::PAUSED && !client.capabilities().resends,
        }
    }

    /// How long after the calls have begun to cut next, if `hit` calls that were cut off are not enough.
    pub(crate) fn next(&mut self, hit: usize) -> Option<Duration> {
        let is_over = if self.must_hit {
            hit >= ENOUGH || self.start.elapsed() > BOUND
        } else {
            self.number == 4
        };
        if is_over {
            let is_idle = self.must_hit && hit == 0;
            assert!(!is_idle, "no call was under way when it was cut off");
            return None;
        }
        self.number += 1;
        Some(MILLISECOND * (1 + self.number % 4))
    }
}

/// Lets many tasks do `life` again and again, each time with a key of its own, until it comes to something, or until `cut`, which
/// begins after the pause and cuts their connections, is over. What it came to.
pub(crate) async fn cut_off<F, T, Fut>(
    fixture: &F,
    pause: Duration,
    cut: impl Future<Output = ()>,
    life: impl Fn(LockKey) -> Fut + Clone + Send + 'static,
) -> Vec<T>
where
    F: Fixture,
    T: Send + 'static,
    Fut: Future<Output = Option<T>> + Send + 'static,
{
    let (is_over, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    let keys = || (0..TIMES).map(|_| key(fixture, "k")).collect();
    let keys: Vec<Vec<_>> = (0..TASKS).map(|_| keys()).collect();
    for keys in keys {
        let (is_over, life) = (Arc::clone(&is_over), life.clone());
        tasks.spawn(async move {
            for key in keys {
                let came_to = life(key).await;
                if came_to.is_some() || is_over.load(Ordering::SeqCst) {
                    return came_to;
                }
            }
            None
        });
    }
    sleep(pause).await;
    cut.await;
    is_over.store(true, Ordering::SeqCst);
    tasks.join_all().await.into_iter().flatten().collect()
}

/// A call that failed.
pub(crate) struct Failed {
    /// An attempt, or the release of what it was granted.
    pub(crate) op: Op,
    pub(crate) key: LockKey,
    pub(crate) owner: Owner,
    pub(crate) error: BackendError,
}

/// Takes `key`, which is nobody's, and releases it, unless that fails.
pub(crate) async fn take_and_let_go(client: Arc<impl LockBackend>, key: LockKey) -> Option<Failed> {
    let owner = owner();
    let request = AcquireRequest::new(&key, &owner, HOLD);
    let (op, error) = match client.try_acquire(request).await {
        Ok(Attempt::Granted(_)) => (Op::Release, client.release(&key, &owner).await.err()?),
        Ok(Attempt::Busy(busy)) => panic!("{key} is nobody's, and busy: {busy:?}"),
        Err(error) => (Op::Acquire, error),
    };
    Some(Failed {
        op,
        key,
        owner,
        error,
    })
}

/// Waits until `client` is answered again.
pub(crate) async fn connected<F: Fixture>(fixture: &F, client: &F::Backend) {
    let key = key(fixture, "k");
    let is_answered = async || client.inspect(&key).await.is_ok();
    eventually("its client is connected again", is_answered).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn cuts(must_hit: bool) -> Cuts {
        Cuts {
            start: Moment::now(),
            number: 0,
            must_hit,
        }
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "no call was under way when it was cut off")]
    async fn a_case_that_cuts_nothing_off_where_it_must_fails() {
        let mut cuts = cuts(true);
        while cuts.next(0).is_some() {
            advance(BOUND / 4).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_enough_or_all_that_can_be_was_cut_off() {
        let mut must = cuts(true);
        assert!(must.next(ENOUGH - 1).is_some() && must.next(ENOUGH).is_none());
        let mut may = cuts(false);
        assert!((0..4).all(|_| may.next(0).is_some()) && may.next(0).is_none());
    }
}
