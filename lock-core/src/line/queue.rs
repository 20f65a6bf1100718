//! Who stands in one line, in order. Plain data: nothing here wakes anybody.

use std::collections::VecDeque;
use std::task::Waker;

use super::Wants;
use crate::acquire::AtStore;

/// The waiters of one line, by rank. Most lines never have any.
#[derive(Default)]
pub(super) struct Queue(Option<Box<Waiting>>);

#[derive(Default)]
struct Waiting {
    waiters: VecDeque<Waiter>,
    /// What the last head had at the store, for the next.
    at_store: Option<Box<AtStore>>,
}

pub(super) struct Waiter {
    /// Who came earlier has a lower one.
    pub(super) rank: u64,
    pub(super) waker: Option<Waker>,
    /// It was passed over, and has not shown up since.
    pub(super) sleeps: bool,
    pub(super) wants: Wants,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters().next().is_none()
    }

    fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.0.iter().flat_map(|waiting| &waiting.waiters)
    }

    /// Keeps what a head had at the store for the next. What a holder had left for the next before is kept if it had
    /// nothing itself; what is not kept is returned.
    pub(super) fn keep(&mut self, at_store: Option<Box<AtStore>>) -> Option<Box<AtStore>> {
        let at_store = at_store?;
        let waiting = self.0.get_or_insert_default();
        waiting.at_store.replace(at_store)
    }

    /// What was kept for the next head.
    pub(super) fn take_kept(&mut self) -> Option<Box<AtStore>> {
        self.0.as_mut()?.at_store.take()
    }

    /// How many stand before `rank`.
    pub(super) fn before(&self, rank: u64) -> usize {
        let (Ok(index) | Err(index)) = self.index(rank);
        index
    }

    fn index(&self, rank: u64) -> Result<usize, usize> {
        let Some(waiting) = &self.0 else {
            return Err(0);
        };
        let rank_of = |waiter: &Waiter| waiter.rank;
        waiting.waiters.binary_search_by_key(&rank, rank_of)
    }

    /// Puts a waiter where its rank belongs.
    pub(super) fn insert(&mut self, rank: u64, wants: Wants) {
        let (Ok(index) | Err(index)) = self.index(rank);
        let waiter = Waiter {
            rank,
            waker: None,
            sleeps: false,
            wants,
        };
        let waiting = self.0.get_or_insert_default();
        waiting.waiters.insert(index, waiter);
    }

    pub(super) fn remove(&mut self, rank: u64) -> Option<Waiter> {
        let index = self.index(rank).ok()?;
        self.0.as_mut()?.waiters.remove(index)
    }

    pub(super) fn find(&mut self, rank: u64) -> Option<&mut Waiter> {
        let index = self.index(rank).ok()?;
        self.0.as_mut()?.waiters.get_mut(index)
    }

    /// Whose turn it is: that of the first who does not sleep, or else of the first.
    pub(super) fn first(&mut self) -> Option<&mut Waiter> {
        let awake = self.waiters().position(|waiter| !waiter.sleeps);
        let waiting = self.0.as_mut()?;
        waiting.waiters.get_mut(awake.unwrap_or_default())
    }

    /// How many who do not sleep stand before `rank`.
    pub(super) fn awake_before(&self, rank: u64) -> usize {
        let before = self.waiters().take(self.before(rank));
        before.filter(|waiter| !waiter.sleeps).count()
    }

    pub(super) fn is_awake(&self, rank: u64) -> bool {
        let waiter = self
            .index(rank)
            .ok()
            .and_then(|index| self.0.as_ref()?.waiters.get(index));
        waiter.is_some_and(|waiter| !waiter.sleeps)
    }

    /// Whoever stands before `rank` has had its chance.
    pub(super) fn pass_over_before(&mut self, rank: u64) {
        let end = self.before(rank);
        let waiters = self.0.iter_mut().flat_map(|waiting| &mut waiting.waiters);
        waiters.take(end).for_each(|waiter| waiter.sleeps = true);
    }

    pub(super) fn wakers(&mut self) -> impl Iterator<Item = Waker> {
        let waiters = self.0.iter_mut().flat_map(|waiting| &mut waiting.waiters);
        waiters.filter_map(|waiter| waiter.waker.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants() -> Wants {
        Wants {
            ttl: std::time::Duration::from_secs(1),
            label: None,
            passing: crate::policy::PassingOn::never(),
        }
    }

    fn ranks(queue: &Queue) -> Vec<u64> {
        queue.waiters().map(|waiter| waiter.rank).collect()
    }

    #[test]
    fn who_comes_back_stands_where_it_stood() {
        let mut queue = Queue::default();
        for rank in [3, 5, 9, 4] {
            queue.insert(rank, wants());
        }
        assert_eq!(ranks(&queue), [3, 4, 5, 9]);
        assert!(queue.remove(4).is_some() && queue.remove(4).is_none());
        assert_eq!(ranks(&queue), [3, 5, 9]);
    }

    #[test]
    fn who_was_passed_over_comes_last_until_it_shows_up() {
        let mut queue = Queue::default();
        for rank in [3, 5, 9] {
            queue.insert(rank, wants());
        }
        queue.pass_over_before(9);
        assert_eq!((queue.awake_before(9), queue.awake_before(10)), (0, 1));
        assert_eq!(queue.first().unwrap().rank, 9);
        queue.remove(9);
        assert_eq!(queue.first().unwrap().rank, 3, "all sleep");
        queue.find(5).unwrap().sleeps = false;
        assert_eq!(queue.first().unwrap().rank, 5);
        assert!(!queue.is_awake(3) && queue.is_awake(5) && !queue.is_awake(7));
    }
}
