//! The head of a line: who alone may talk to the store for a key. Not what it says there.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::{NoTaker, Promise, Shard, Stage, Standing, Taken, Told, Wants};
use crate::acquire::AtStore;
use crate::backend::Holder;
use crate::clock::Moment;
use crate::key::LockKey;
use crate::lease::Lease;
use crate::observe::contained;
use crate::renewer::Renewer;
use crate::store::Store;

/// The turn to talk to the store. Dropped, it goes to the next in line.
pub(crate) struct Head {
    spot: Spot,
    /// Where it stands if it has to stand in line again.
    rank: u64,
    /// What it has at the store while it waits there.
    pub(crate) at_store: Option<Box<AtStore>>,
    /// The lease that was passed on with the turn.
    pub(crate) passed: Option<Arc<Lease>>,
    /// It was on offer to somebody else, who did not come.
    pub(crate) took_over: bool,
    /// How long it is to wait before it asks.
    pub(crate) rest: Duration,
    /// Nobody stood in line when it came, and it has not asked yet.
    is_alone: bool,
}

/// The first spot in a line, which a lease keeps until it is over. Dropped, it goes to the next.
pub(crate) struct Spot {
    store: Arc<Store>,
    key: LockKey,
    /// The stage that it is the first of: the line may be at another by now. Zero is none.
    turn: u64,
}

/// How one attempt, which does not stand in line, found the line.
pub(crate) enum Found {
    Free(Head),
    Busy(Holder),
}

/// How somebody who waits found the line.
pub(crate) enum Entered {
    Head(Head),
    Stands(Standing),
}

impl Head {
    pub(super) fn new(store: &Arc<Store>, key: &LockKey, rank: u64, taken: Taken) -> Self {
        Self {
            spot: Spot::new(store, key, taken.turn),
            rank,
            at_store: taken.at_store,
            passed: taken.lease,
            took_over: taken.took_over,
            rest: taken.rest,
            is_alone: false,
        }
    }

    /// The head of a new line.
    fn first(store: &Arc<Store>, key: &LockKey, turn: u64) -> Self {
        Self {
            spot: Spot::new(store, key, turn),
            rank: turn,
            at_store: None,
            passed: None,
            took_over: false,
            rest: Duration::ZERO,
            is_alone: true,
        }
    }

    /// For one attempt that is made now, within `patience`: busy if a guard of this process is valid or others stand in
    /// line.
    pub(crate) fn at_once(
        store: &Arc<Store>,
        key: &LockKey,
        now: Moment,
        patience: Duration,
    ) -> Found {
        let promise = Promise::asks(now, patience);
        let (seen, waiting, told) = {
            let mut shard = store.lines.shard(key);
            if let Some(turn) = shard.enter(key, promise) {
                return Found::Free(Self::first(store, key, turn));
            }
            let Some(line) = shard.lines.get(key) else {
                return Found::Busy(Holder::new());
            };
            (line.seen(None), !line.queue.is_empty(), line.told.clone())
        };
        if let Some(holder) = seen.local_holder() {
            return Found::Busy(holder);
        }
        // A holder that is being released, and nobody who waits for that.
        let is_nobodys = matches!(seen.stage, Stage::Held(_)) && !waiting;
        let late = match seen.late(now, None) {
            Err(_) if is_nobodys => Ok(Duration::ZERO),
            late => late,
        };
        if let Ok(late) = late {
            let mut shard = store.lines.shard(key);
            let taken = shard.take_over(key, &seen, late, None, promise);
            drop(shard);
            if let Some(mut taken) = taken {
                // Its deadline is over, or it would be a holder: nobody takes it any more.
                if let Some(lease) = taken.lease.take() {
                    contained(|| _ = lease.shut_down());
                }
                return Found::Free(Self::new(store, key, taken.turn, taken));
            }
        }
        Found::Busy(told.map_or_else(Holder::new, |told| told.holder()))
    }

    /// For somebody who waits, and as the head asks within `patience`.
    pub(crate) fn or_stand(
        store: &Arc<Store>,
        key: &LockKey,
        now: Moment,
        patience: Duration,
        wants: impl FnOnce() -> Wants,
    ) -> Entered {
        let promise = Promise::asks(now, patience);
        let mut shard = store.lines.shard(key);
        if let Some(turn) = shard.enter(key, promise) {
            drop(shard);
            return Entered::Head(Self::first(store, key, turn));
        }
        let rank = shard.next();
        if let Some(line) = shard.lines.get_mut(key) {
            line.queue.insert(rank, wants());
        }
        drop(shard);
        Entered::Stands(Standing::new(store, key, rank, patience))
    }

    /// Promises to look again within `patience`; until then it `sleeps` or hears the store. Whether it is still the head.
    pub(crate) fn promise(&self, now: Moment, patience: Duration, sleeps: bool) -> bool {
        let (mut shard, spot) = (self.spot.shard(), &self.spot);
        let Some(line) = shard.at(&spot.key, spot.turn) else {
            return false;
        };
        line.stage = Stage::Asking(Promise {
            since: now,
            patience,
            sleeps,
        });
        true
    }

    /// Tells those who stand in line, and who comes, what the store said.
    pub(crate) fn tell(&self, told: Told) {
        let others = match &told {
            Told::Busy(_, when) => Some(*when),
            Told::Failed(_) => None,
        };
        let told = Some(Box::new(told));
        let (mut shard, spot) = (self.spot.shard(), &self.spot);
        let told = match shard.at(&spot.key, spot.turn) {
            Some(line) => {
                if let Some((when, run)) = others.zip(line.run.as_mut()) {
                    run.ends(when);
                }
                std::mem::replace(&mut line.told, told)
            }
            None => told,
        };
        drop(shard);
        drop(told);
    }

    /// Whether the next in line behind it takes a lease that `fits`, now that it asks.
    pub(crate) fn is_followed(&mut self, fits: impl FnOnce(&Wants) -> bool) -> bool {
        if std::mem::take(&mut self.is_alone) {
            return false;
        }
        let (mut shard, spot) = (self.spot.shard(), &self.spot);
        shard
            .at(&spot.key, spot.turn)
            .and_then(|line| line.queue.first())
            .is_some_and(|next| fits(&next.wants))
    }

    /// Where it stands if it has to stand in line again.
    pub(crate) fn rank(&self) -> u64 {
        self.rank
    }

    /// Stands in line again, where it stood: somebody else took the turn meanwhile, or it is given on.
    pub(crate) fn stand_again(self, patience: Duration, wants: Wants) -> Entered {
        let (store, key) = (Arc::clone(&self.spot.store), self.spot.key.clone());
        Self::stand(&store, &key, self.rank, patience, wants)
    }

    /// Stands in line again, where it stood, without `lease`, which came with the turn. If nobody else takes that, it is released
    /// by `renewer`'s runtime, which is driven, unlike the giver's perhaps.
    pub(crate) fn decline(
        mut self,
        lease: &Arc<Lease>,
        renewer: &Arc<Renewer>,
        patience: Duration,
        wants: Wants,
    ) -> Entered {
        let (store, key) = (Arc::clone(&self.spot.store), self.spot.key.clone());
        let entered = Self::stand(&store, &key, self.rank, patience, wants);
        self.leave_at_store();
        contained(|| lease.put_back(self.spot.take(), renewer));
        entered
    }

    /// Leaves what it has at the store to the next in line, if there is one.
    fn leave_at_store(&mut self) {
        let Some(at_store) = self.at_store.take() else {
            return;
        };
        let (mut shard, spot) = (self.spot.shard(), &self.spot);
        let line = shard.at(&spot.key, spot.turn);
        let replaced = match line.filter(|line| !line.queue.is_empty()) {
            Some(line) => line.queue.keep(Some(at_store)),
            None => Some(at_store),
        };
        drop(shard);
        drop(replaced);
    }

    /// Stands in line at `rank`.
    pub(crate) fn stand(
        store: &Arc<Store>,
        key: &LockKey,
        rank: u64,
        patience: Duration,
        wants: Wants,
    ) -> Entered {
        let mut shard = store.lines.shard(key);
        let Some(line) = shard.lines.get_mut(key) else {
            drop(shard);
            return Self::or_stand(store, key, Moment::now(), patience, || wants);
        };
        line.queue.insert(rank, wants);
        drop(shard);
        Entered::Stands(Standing::new(store, key, rank, patience))
    }

    /// Takes `lease` back from whoever it is on offer to, and who did not take it.
    pub(crate) fn take_back(lease: &Arc<Lease>) -> Option<Self> {
        let (store, key) = (lease.store(), lease.key());
        let promise = Promise::asks(Moment::now(), Duration::ZERO);
        let taken = {
            let mut shard = store.lines.shard(key);
            let turn = shard.next();
            let line = shard.lines.get_mut(key)?;
            let Stage::Offered(offer) = &line.stage else {
                return None;
            };
            if !offer
                .lease
                .as_ref()
                .is_some_and(|one| Arc::ptr_eq(one, lease))
            {
                return None;
            }
            if let Some(waiter) = line.queue.find(offer.to) {
                waiter.sleeps = true;
            }
            line.take(turn, None, promise)
        };
        Some(Self::new(store, key, taken.turn, taken))
    }

    /// The store granted it: `lease` is the holder from now on, and keeps the spot, whose number is returned, until it is over.
    pub(crate) fn hold(mut self, lease: &Arc<Lease>) -> u64 {
        let mut at_store = self.at_store.take();
        let (mut shard, spot) = (self.spot.shard(), &self.spot);
        let told = shard.at(&spot.key, spot.turn).and_then(|line| {
            line.stage = Stage::Held(Arc::downgrade(lease));
            if !line.queue.is_empty() {
                at_store = line.queue.keep(at_store.take());
            }
            line.told.take()
        });
        drop(shard);
        drop((told, at_store));
        std::mem::take(&mut self.spot.turn)
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let Some(lease) = self.passed.take() else {
            let at_store = self.at_store.take();
            return self.spot.end(at_store);
        };
        contained(|| {
            self.leave_at_store();
            let here = self.spot.store.renewer(&self.spot.key).ok();
            lease.put_back(self.spot.take(), here.as_ref().unwrap_or(lease.renewer()));
        });
    }
}

impl Spot {
    fn new(store: &Arc<Store>, key: &LockKey, turn: u64) -> Self {
        Self {
            store: Arc::clone(store),
            key: key.clone(),
            turn,
        }
    }

    /// The spot of that number, which a lease kept; zero is none.
    pub(crate) fn of(store: &Arc<Store>, key: &LockKey, turn: u64) -> Option<Self> {
        (turn != 0).then(|| Self::new(store, key, turn))
    }

    /// Its number, for a lease to keep: a lease knows the rest.
    pub(crate) fn keep(mut self) -> u64 {
        std::mem::take(&mut self.turn)
    }

    fn take(&mut self) -> Self {
        Self::new(&self.store, &self.key, std::mem::take(&mut self.turn))
    }

    fn shard(&self) -> MutexGuard<'_, Shard> {
        self.store.lines.shard(&self.key)
    }

    /// Offers `lease` to the next in line, if somebody is and it `fits`.
    pub(crate) fn offer(
        mut self,
        lease: &Arc<Lease>,
        now: Moment,
        fits: impl FnOnce(&Wants) -> bool,
    ) -> Result<(), Self> {
        let waker = {
            let mut shard = self.shard();
            let turn = shard.next();
            match shard.at(&self.key, self.turn) {
                Some(line) => line.offer_lease(turn, lease, now, fits),
                None => Err(NoTaker),
            }
        };
        let Ok(waker) = waker else {
            return Err(self);
        };
        self.turn = 0;
        if let Some(waker) = waker {
            contained(|| waker.wake());
        }
        Ok(())
    }

    fn end(&mut self, at_store: Option<Box<AtStore>>) {
        let turn = std::mem::take(&mut self.turn);
        if turn == 0 {
            return;
        }
        contained(|| {
            let (mut shard, rests) = (self.shard(), self.store.rests());
            let afterwards = shard.end(&self.key, turn, at_store, rests);
            drop(shard);
            afterwards.run();
        });
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        self.end(None);
    }
}
