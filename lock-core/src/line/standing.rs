//! Standing in a line: until it is one's turn. Not how long one wants to: that is the waiter's.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::{CLAIM, Head, Promise, Taken, Told};
use crate::clock::Moment;
use crate::key::LockKey;
use crate::observe::contained;
use crate::store::Store;

/// A waiter in a line. Dropped, it leaves.
pub(crate) struct Standing {
    store: Arc<Store>,
    key: LockKey,
    rank: u64,
    /// How long its first attempt as the head takes at most.
    patience: Duration,
    stands: bool,
}

impl Standing {
    pub(super) fn new(store: &Arc<Store>, key: &LockKey, rank: u64, patience: Duration) -> Self {
        Self {
            store: Arc::clone(store),
            key: key.clone(),
            rank,
            patience,
            stands: true,
        }
    }

    /// Takes the turn if it is ours, or if somebody holds it up; otherwise says when to look again at the latest.
    /// `pace` is the waiter's own longest delay.
    pub(crate) fn look(&mut self, pace: Option<Duration>) -> Result<Head, Duration> {
        let now = Moment::now();
        let promise = Promise::asks(now, self.patience);
        let (taken, seen) = {
            let mut shard = self.store.lines.shard(&self.key);
            match shard.take_offer(&self.key, self.rank, || promise, None) {
                Ok(taken) => (Some(taken), None),
                Err(_) => {
                    let line = shard.lines.get(&self.key);
                    (None, line.map(|line| line.seen(Some(self.rank))))
                }
            }
        };
        if let Some(taken) = taken {
            return Ok(self.becomes(taken));
        }
        let Some(seen) = seen else {
            return Err(CLAIM);
        };
        let late = match seen.late(now, pace) {
            Ok(late) => late,
            Err(left) => return Err(seen.next_look(left)),
        };
        let rank = Some(self.rank);
        let mut shard = self.store.lines.shard(&self.key);
        let taken = shard.take_over(&self.key, &seen, late, rank, promise);
        drop(shard);
        match taken {
            Some(taken) => Ok(self.becomes(taken)),
            None => Err(seen.next_look(CLAIM)),
        }
    }

    /// Resolves when it is our turn, and to nothing when the store is closed.
    ///
    /// Dropping the future changes nothing: a turn that came meanwhile is found by the next look.
    pub(crate) async fn turn(&mut self) -> Option<Head> {
        poll_fn(|context| {
            let waker = Some(context.waker().clone());
            let promise = || Promise::asks(Moment::now(), self.patience);
            let taken = {
                let mut shard = self.store.lines.shard(&self.key);
                shard.take_offer(&self.key, self.rank, promise, waker)
            };
            match taken {
                Ok(taken) => Poll::Ready(Some(self.becomes(taken))),
                // Looked at after the waker was left, so that a shutdown either is seen or wakes.
                Err(_) if self.store.is_closed() => Poll::Ready(None),
                Err(_) => Poll::Pending,
            }
        })
        .await
    }

    /// What is known of the lock.
    pub(crate) fn told(&self) -> Told {
        let now = Moment::now();
        let (seen, told) = {
            let shard = self.store.lines.shard(&self.key);
            match shard.lines.get(&self.key) {
                Some(line) => (Some(line.seen(Some(self.rank))), line.told.clone()),
                None => (None, None),
            }
        };
        match (seen.and_then(|seen| seen.local_holder()), told) {
            (Some(holder), _) => Told::Busy(holder, now),
            (None, Some(told)) => *told,
            (None, None) => Told::nothing(now),
        }
    }

    fn becomes(&mut self, taken: Taken) -> Head {
        self.stands = false;
        Head::new(&self.store, &self.key, self.rank, taken)
    }
}

impl Standing {
    fn leave(&mut self) {
        let left = {
            let mut shard = self.store.lines.shard(&self.key);
            shard.leave(&self.key, self.rank)
        };
        left.afterwards.run();
        if let Some(taken) = left.taken {
            // Dropped at once, it puts back the lease that was on offer.
            drop(self.becomes(taken));
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        if self.stands {
            contained(|| self.leave());
        }
    }
}
