//! The lines of this process: who wants the same lock stands in one line, and its head alone talks to the store. Not the
//! store's line, and no guarantee: what excludes is the store's entry, whatever happens here.
//!
//! # What is kept
//!
//! One map from key to line for each backend instance ([`Lines`], shared by the clones of a [`Locks`](crate::Locks)), in
//! shards under short mutexes. A line is there while it has a head, a holder or a waiter, and is removed with the last of
//! them: memory is O(held + waiting). Under a mutex nothing but the map is touched: no lease, no waker, no destructor of
//! anything that came from outside, which all run once it is unlocked.
//!
//! # Stages
//!
//! ```text
//!            enter                 granted                  released, lost, expired
//! (no line) ───────▶ Asking(head) ─────────▶ Held(lease) ────────────────────────────┐
//!                      ▲    │ gives up, dropped    ▲  │                              │
//!                      │    └──────────────────────│──│──▶ somebody waits?  ◀────────┘
//!                      │                   takes it│  │passed on   │ yes     │ no
//!                      │                  Offered(waiter, lease)   ▼      (no line)
//!                      └───────── takes it ────────────── Offered(waiter)
//! ```
//!
//! - *Asking*: a [`Head`] attempts, or waits at the store. It says by when it looks again.
//! - *Held*: the head was granted, and is kept in the [`Lease`] until its entry was released, or the lease is lost. A local
//!   attempt is answered busy, in the name of the lease, while that is valid.
//! - *Offered*: the head went, and the first in line was woken to become the next; or the holder let go, and with the turn
//!   its lease is on offer, so that the store need not be asked (`lease/passing.rs`).
//!
//! Each stage has a number of its own. A head whose number is not the line's any more (see below) has no say.
//!
//! # Who wakes whom
//!
//! The end of a head wakes the first in line, and a waiter that leaves with the turn on offer to it wakes the next. A
//! shutdown wakes all. Nobody else is woken, and nothing here has a task or a timer of its own. (The renewer looks at a
//! lease that is on offer after the claim time: alone in line, a waiter that nobody polls would keep it from other
//! processes.)
//!
//! # Who holds nobody up
//!
//! A waiter, and a head, may be dropped at each of its await points: their destructors leave the line. One that is not
//! dropped and not polled either (on a runtime that nobody drives, in a branch that nobody polls) is passed over: each
//! waiter looks at the line, the first every [`CLAIM`] and the last every [`LONGEST_LOOK`], and takes the turn of
//!
//! - a head that did not look again when it said it would, a claim time later;
//! - a waiter that did not take its turn within the claim time;
//! - a lease whose deadline is over (a leaked guard, a runtime that has ended), at once;
//! - a lease whose release was not answered within its op timeout and a claim time (nobody polls it any more), at once;
//! - a head that sleeps without the store's wake-ups for longer than twice the waiter's own longest delay.
//!
//! The first in line may do so at once, those behind after 1, 2, 3 claim times for every doubling of the number of waiters
//! before them, so that the order is kept among the living and any number of the dead costs little. The dead keep
//! their places, but get no turn before they show up again.
//!
//! # What the next head inherits
//!
//! What the head had at the store ([`AtStore`]): its subscription, so that a key in line has one, and its place in the
//! store's line. Now and then it also has to rest before it asks, so that other processes get their turn (`run.rs`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::acquire::AtStore;
use crate::backend::Holder;
use crate::clock::Moment;
use crate::error::LockError;
use crate::key::{KeyHash, LockKey};
use crate::lease::Lease;
use crate::observe::contained;
use crate::owner::Owner;
use crate::policy::{GuardPolicy, MIN_DELAY, PassingOn, Terms};

mod head;
mod queue;
mod run;
mod standing;

pub(crate) use head::{Entered, Found, Head, Spot};
use queue::Queue;
use run::Run;
pub(crate) use standing::Standing;

/// How long the turn is on offer to one waiter before others may take it.
pub(crate) const CLAIM: Duration = Duration::from_millis(250);

/// Nobody in line looks at it less often.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// A power of two.
const SHARDS: usize = 32;

/// The lines of one backend instance.
pub(crate) struct Lines {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    lines: HashMap<LockKey, Line, KeyHash>,
    /// The last number that was given away.
    number: u64,
}

struct Line {
    /// The number of this stage.
    turn: u64,
    stage: Stage,
    queue: Queue,
    /// What the store answered last.
    told: Option<Box<Told>>,
    /// There as soon as somebody stood in line.
    run: Option<Box<Run>>,
}

#[derive(Clone)]
enum Stage {
    Asking(Promise),
    Held(Weak<Lease>),
    Offered(Offer),
}

/// The turn, on offer to the waiter of rank `to`, and perhaps a lease with it.
#[derive(Clone)]
struct Offer {
    to: u64,
    since: Moment,
    lease: Option<Arc<Lease>>,
}

/// What a waiter wants of a lease that is passed on to it.
#[derive(Debug, Clone)]
pub(crate) struct Wants {
    pub(crate) ttl: Duration,
    pub(crate) label: Option<Arc<str>>,
    pub(crate) passing: PassingOn,
}

/// A head looks again within `patience` from `since` on.
#[derive(Clone, Copy)]
struct Promise {
    since: Moment,
    patience: Duration,
    /// Until then it hears nothing.
    sleeps: bool,
}

impl Wants {
    /// Whether such a lease may be passed on to it at all.
    pub(crate) fn takes(&self, terms: &Terms, owner: &Owner) -> bool {
        let is_released = terms.guard() == GuardPolicy::Release;
        is_released && self.passing.is_on() && self.fits(terms, owner)
    }

    /// Whether a lease of `owner` with these terms is what it would have been granted: what others see of it tells the truth.
    pub(crate) fn fits(&self, terms: &Terms, owner: &Owner) -> bool {
        self.ttl == terms.ttl() && owner.has_label(self.label.as_deref())
    }
}

impl Promise {
    /// The head sends an attempt at `since`.
    fn asks(since: Moment, patience: Duration) -> Self {
        Self {
            since,
            patience,
            sleeps: false,
        }
    }
}

/// What is known of the lock from the store.
#[derive(Clone)]
pub(crate) enum Told {
    Busy(Holder, Moment),
    Failed(LockError),
}

impl Told {
    /// Somebody has the lock of whom nothing is known.
    fn nothing(now: Moment) -> Self {
        Self::Busy(Holder::new(), now)
    }

    /// The holder, as far as it is known now.
    fn holder(self) -> Holder {
        match self {
            Self::Busy(mut holder, when) => {
                let gone = when.elapsed();
                holder.remaining = holder.remaining.map(|left| left.saturating_sub(gone));
                holder
            }
            Self::Failed(_) => Holder::new(),
        }
    }

    /// The error of a wait that is over, for a caller who waited for `waited`.
    pub(crate) fn give_up(self, key: &LockKey, waited: Duration) -> LockError {
        match self {
            Self::Failed(error) => error,
            busy => LockError::TimedOut {
                key: key.clone(),
                waited,
                holder: busy.holder(),
            },
        }
    }
}

/// What somebody who wants the turn sees of a line.
struct Seen {
    turn: u64,
    stage: Stage,
    /// How many stand before it.
    before: usize,
    /// The turn is on offer to somebody who was passed over before.
    missed: bool,
}

/// The turn, just taken, and wakers that are dropped once the line is unlocked.
struct Taken {
    turn: u64,
    at_store: Option<Box<AtStore>>,
    lease: Option<Arc<Lease>>,
    /// It was on offer to somebody else, who did not come.
    took_over: bool,
    /// How long to wait before asking, so that others may have it.
    rest: Duration,
    _wakers: (Option<Waker>, Option<Waker>),
}

/// What is left to be done once the line is unlocked, because it runs what others wrote.
#[derive(Default)]
struct Afterwards {
    waker: Option<Waker>,
    _gone: (Option<Line>, Option<Box<AtStore>>),
}

/// What a waiter leaves behind, once the line is unlocked.
#[derive(Default)]
struct Left {
    taken: Option<Taken>,
    waker: Option<Waker>,
    afterwards: Afterwards,
}

/// Nobody in line takes the lease as it is.
struct NoTaker;

impl Afterwards {
    fn run(self) {
        if let Some(waker) = self.waker {
            contained(|| waker.wake());
        }
    }
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    fn shard(&self, key: &LockKey) -> MutexGuard<'_, Shard> {
        let index = key.part_of(SHARDS);
        let shard = self.shards.get(index).unwrap_or(&self.shards[0]);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everybody who stands in a line: they find the store closed.
    pub(crate) fn close(&self) {
        for shard in &self.shards {
            let wakers: Vec<Waker> = {
                let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                let lines = shard.lines.values_mut();
                lines.flat_map(|line| line.queue.wakers()).collect()
            };
            for waker in wakers {
                contained(|| waker.wake());
            }
        }
    }
}

impl Shard {
    fn next(&mut self) -> u64 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// The number of a new line's head; none if there is a line already.
    fn enter(&mut self, key: &LockKey, promise: Promise) -> Option<u64> {
        let turn = self.next();
        let Entry::Vacant(vacant) = self.lines.entry(key.clone()) else {
            return None;
        };
        vacant.insert(Line {
            turn,
            stage: Stage::Asking(promise),
            queue: Queue::default(),
            told: None,
            run: None,
        });
        Some(turn)
    }

    /// The line of `key`, if its stage is still `turn`.
    fn at(&mut self, key: &LockKey, turn: u64) -> Option<&mut Line> {
        self.lines.get_mut(key).filter(|line| line.turn == turn)
    }

    /// The head has gone: the next in line is told, and without one there is no line. Where nobody else does it, the line
    /// `rests` now and then.
    fn end(
        &mut self,
        key: &LockKey,
        turn: u64,
        at_store: Option<Box<AtStore>>,
        rests: bool,
    ) -> Afterwards {
        let number = self.next();
        let Some(line) = self.at(key, turn) else {
            return Afterwards {
                waker: None,
                _gone: (None, at_store),
            };
        };
        if line.queue.is_empty() {
            return Afterwards {
                waker: None,
                _gone: (self.lines.remove(key), at_store),
            };
        }
        // First, because it panics where tokio's clock is gone.
        let now = Moment::now();
        let replaced = line.queue.keep(at_store);
        let was_held = matches!(line.stage, Stage::Held(_));
        if let Some(next) = line.queue.first().filter(|_| rests && was_held) {
            let passing = next.wants.passing;
            let run = line.run.get_or_insert_with(|| Box::new(Run::new(now)));
            run.goes_on(passing, now);
        }
        Afterwards {
            waker: line.offer_turn(number, now),
            _gone: (None, replaced),
        }
    }

    /// A waiter has gone. If a lease was on offer to it, it takes that along, to put it back.
    fn leave(&mut self, key: &LockKey, rank: u64) -> Left {
        let number = self.next();
        let mut left = Left::default();
        let Some(line) = self.lines.get_mut(key) else {
            return left;
        };
        let offer = match &line.stage {
            Stage::Offered(offer) if offer.to == rank => {
                Some((offer.lease.is_some(), Moment::now()))
            }
            Stage::Asking(_) | Stage::Held(_) | Stage::Offered(_) => None,
        };
        if let Some((true, now)) = offer {
            let promise = Promise::asks(now, Duration::ZERO);
            left.taken = Some(line.take(number, Some(rank), promise));
            return left;
        }
        left.waker = line.queue.remove(rank).and_then(|waiter| waiter.waker);
        match (offer, line.queue.is_empty()) {
            (Some(_), true) => left.afterwards._gone = (self.lines.remove(key), None),
            (Some((_, now)), false) => left.afterwards.waker = line.offer_turn(number, now),
            (None, true) => left.afterwards._gone = (None, line.queue.take_kept()),
            (None, false) => {}
        }
        left
    }

    /// Makes whoever saw the line in this stage, late by so much, its head, unless others may take the turn before.
    /// `rank` is the waiter's; a newcomer has none.
    fn take_over(
        &mut self,
        key: &LockKey,
        seen: &Seen,
        late: Duration,
        rank: Option<u64>,
        promise: Promise,
    ) -> Option<Taken> {
        let turn = self.next();
        let line = self.at(key, seen.turn)?;
        let before = rank.unwrap_or(u64::MAX);
        let mut ahead = line.queue.awake_before(before);
        if let Stage::Offered(offer) = &line.stage {
            // It has its chance already.
            let counts = offer.to < before && line.queue.is_awake(offer.to);
            ahead = ahead.saturating_sub(usize::from(counts));
        }
        if late < CLAIM.saturating_mul(doublings(ahead)) {
            return None;
        }
        line.queue.pass_over_before(before);
        Some(line.take(turn, rank, promise))
    }

    /// Takes the turn if it is on offer to `rank`; otherwise `waker` is woken when it is, and the one before it returned.
    fn take_offer(
        &mut self,
        key: &LockKey,
        rank: u64,
        promise: impl FnOnce() -> Promise,
        waker: Option<Waker>,
    ) -> Result<Taken, Option<Waker>> {
        let turn = self.next();
        let Some(line) = self.lines.get_mut(key) else {
            return Err(waker);
        };
        if matches!(&line.stage, Stage::Offered(offer) if offer.to == rank) {
            let mut taken = line.take(turn, Some(rank), promise());
            taken._wakers.1 = waker;
            return Ok(taken);
        }
        let Some(waiter) = line.queue.find(rank) else {
            return Err(waker);
        };
        waiter.sleeps = false;
        match waker {
            Some(waker) => Err(waiter.waker.replace(waker)),
            None => Err(None),
        }
    }
}

impl Line {
    fn take(&mut self, turn: u64, rank: Option<u64>, promise: Promise) -> Taken {
        self.turn = turn;
        let (lease, took_over) = match std::mem::replace(&mut self.stage, Stage::Asking(promise)) {
            Stage::Offered(offer) => (offer.lease, rank != Some(offer.to)),
            Stage::Asking(_) | Stage::Held(_) => (None, false),
        };
        let waiter = rank.and_then(|rank| self.queue.remove(rank));
        let rest = |run: &mut Box<Run>| run.take_rest(promise.since);
        Taken {
            turn,
            at_store: self.queue.take_kept(),
            lease,
            took_over,
            rest: self.run.as_mut().map_or(Duration::ZERO, rest),
            _wakers: (waiter.and_then(|waiter| waiter.waker), None),
        }
    }

    /// Offers the turn to the next in line, whose waker is returned.
    fn offer_turn(&mut self, turn: u64, now: Moment) -> Option<Waker> {
        let next = self.queue.first()?;
        self.turn = turn;
        self.stage = Stage::Offered(Offer {
            to: next.rank,
            since: now,
            lease: None,
        });
        next.waker.take()
    }

    /// Offers the turn with `lease` to the next in line, if it does not sleep and `fits` what it wants.
    fn offer_lease(
        &mut self,
        turn: u64,
        lease: &Arc<Lease>,
        now: Moment,
        fits: impl FnOnce(&Wants) -> bool,
    ) -> Result<Option<Waker>, NoTaker> {
        let next = self.queue.first().filter(|next| !next.sleeps);
        let next = next.filter(|next| fits(&next.wants)).ok_or(NoTaker)?;
        self.turn = turn;
        self.stage = Stage::Offered(Offer {
            to: next.rank,
            since: now,
            lease: Some(Arc::clone(lease)),
        });
        Ok(next.waker.take())
    }

    fn seen(&self, rank: Option<u64>) -> Seen {
        let missed = match &self.stage {
            Stage::Offered(offer) => !self.queue.is_awake(offer.to),
            Stage::Asking(_) | Stage::Held(_) => false,
        };
        Seen {
            turn: self.turn,
            stage: self.stage.clone(),
            before: self.queue.before(rank.unwrap_or(u64::MAX)),
            missed,
        }
    }
}

impl Seen {
    /// How late the turn is: the first in line may take it. If it is not, in how long it will be. `pace` is the longest
    /// delay of whoever sees this.
    fn late(&self, now: Moment, pace: Option<Duration>) -> Result<Duration, Duration> {
        let (since, limit) = match &self.stage {
            Stage::Asking(promise) => {
                let limit = promise.patience.saturating_add(CLAIM);
                let own = pace.filter(|_| promise.sleeps);
                let own = own.map_or(Duration::MAX, |pace| pace.saturating_mul(2));
                (promise.since, limit.min(own))
            }
            Stage::Offered(..) if self.missed => return Ok(Duration::MAX),
            Stage::Offered(offer) => (offer.since, CLAIM),
            Stage::Held(lease) => {
                let Some(lease) = lease.upgrade() else {
                    return Ok(Duration::MAX);
                };
                let end = lease.deadline();
                let left = end.left(&now);
                return if left.is_zero() {
                    Ok(end.past(&now))
                } else {
                    Err(left)
                };
            }
        };
        let elapsed = since.until(&now);
        elapsed
            .checked_sub(limit)
            .ok_or_else(|| limit.saturating_sub(elapsed))
    }

    /// When to look again, if the turn is late in `left`.
    fn next_look(&self, left: Duration) -> Duration {
        let usual = CLAIM.saturating_mul(doublings(self.before).saturating_add(1));
        left.clamp(MIN_DELAY, usual.min(LONGEST_LOOK))
    }

    /// The holder, if it is a guard of this process that is valid, or about to be made.
    fn local_holder(&self) -> Option<Holder> {
        match &self.stage {
            Stage::Asking(_) => None,
            Stage::Held(lease) => lease.upgrade()?.as_holder(),
            Stage::Offered(offer) => offer.lease.as_ref()?.as_holder(),
        }
    }
}

/// How often the number of those in front doubles: 0, 1, 2, 2, 3, 3, 3, 3, 4 ...
fn doublings(in_front: usize) -> u32 {
    usize::BITS.saturating_sub(in_front.leading_zeros())
}

#[cfg(all(test, feature = "mock"))]
#[allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
mod tests;
