//! How many releases go on at once in the background. Not what they are for: that is a `Compensation`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Moment;
use crate::policy::nth;
use crate::timer;

/// So many are given back at once on one runtime. Who lets go of a hundred thousand would else have most of them given up before
/// the store came to them.
const AT_ONCE: usize = 512;

/// So often within its time it is looked whether a release without an answer keeps others from theirs in vain.
const LOOKS: u32 = 16;

/// The turns of those who give back in the background on one runtime.
///
/// A turn ends with the answer, or before, if the store does not get there: it answers nobody, or others who came later. So a part
/// of it that is silent, such as a node of a cluster, keeps the locks of the others only for a look, whatever the number of its
/// own.
pub(crate) struct Releases {
    turns: Semaphore,
    /// How many were begun.
    begun: AtomicU64,
    /// Of those that were answered, the number of the last.
    answered: AtomicU64,
}

/// The turn of one release.
pub(crate) struct Turn<'a> {
    releases: &'a Releases,
    permit: Option<SemaphorePermit<'a>>,
    /// Whether it was not there at once.
    pub(crate) came_late: bool,
}

impl Releases {
    pub(crate) fn new() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE),
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    pub(crate) async fn turn(&self) -> Turn<'_> {
        let (permit, came_late) = match self.turns.try_acquire() {
            Ok(permit) => (Some(permit), false),
            Err(_) => (self.turns.acquire().await.ok(), true),
        };
        Turn {
            releases: self,
            permit,
            came_late,
        }
    }
}

impl Turn<'_> {
    /// What `release` is answered, or `None` if that takes longer than `limit`.
    pub(crate) async fn run<T, E>(
        mut self,
        limit: Duration,
        mut release: impl Future<Output = Result<T, E>> + Unpin,
    ) -> Option<Result<T, E>> {
        let Releases {
            begun, answered, ..
        } = self.releases;
        let number = begun.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let start = Moment::now();
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let look = self.permit.as_ref().map(|_| nth(limit, LOOKS));
            let pause = look.unwrap_or(left).min(left);
            let before = answered.load(Ordering::Relaxed);
            let answer = timer::timeout(pause, &mut release).await;
            if matches!(answer, Some(Ok(_))) {
                answered.fetch_max(number, Ordering::Relaxed);
            }
            if answer.is_some() || pause == left {
                return answer;
            }
            let last = answered.load(Ordering::Relaxed);
            if last == before || last > number {
                self.permit = None;
            }
        }
    }
}
