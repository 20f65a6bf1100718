//! The head of a line: who alone may talk to the store for a key. Not what it says there.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::{Promise, Shard, Stage, Standing, Told};
use crate::acquire::AtStore;
use crate::backend::Holder;
use crate::clock::Moment;
use crate::key::LockKey;
use crate::lease::Lease;
use crate::store::Store;

/// The turn to talk to the store. Dropped, it goes to the next in line.
pub(crate) struct Head {
    spot: Spot,
    /// Where it stands if it has to stand in line again.
    rank: u64,
    /// What it has at the store while it waits there.
    pub(crate) at_store: Option<Box<AtStore>>,
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
    pub(super) fn new(
        store: &Arc<Store>,
        key: &LockKey,
        turn: u64,
        rank: u64,
        at_store: Option<Box<AtStore>>,
    ) -> Self {
        let spot = Spot {
            store: Arc::clone(store),
            key: key.clone(),
            turn,
        };
        Self {
            spot,
            rank,
            at_store,
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
        let free = |turn, at_store| Found::Free(Self::new(store, key, turn, turn, at_store));
        let (seen, waiting, told) = {
            let mut shard = store.lines.shard(key);
            if let Some(turn) = shard.enter(key, promise) {
                return free(turn, None);
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
            if let Some(taken) = taken {
                return free(taken.turn, taken.at_store);
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
    ) -> Entered {
        let promise = Promise::asks(now, patience);
        let mut shard = store.lines.shard(key);
        if let Some(turn) = shard.enter(key, promise) {
            drop(shard);
            return Entered::Head(Self::new(store, key, turn, turn, None));
        }
        let rank = shard.next();
        if let Some(line) = shard.lines.get_mut(key) {
            line.queue.insert(rank);
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
        let told = Some(Box::new(told));
        let (mut shard, spot) = (self.spot.shard(), &self.spot);
        let told = match shard.at(&spot.key, spot.turn) {
            Some(line) => std::mem::replace(&mut line.told, told),
            None => told,
        };
        drop(shard);
        drop(told);
    }

    /// Somebody else took the turn meanwhile: stands in line again, where it stood.
    pub(crate) fn stand_again(self, patience: Duration) -> Entered {
        let (store, key, rank) = (
            Arc::clone(&self.spot.store),
            self.spot.key.clone(),
            self.rank,
        );
        drop(self);
        {
            let mut shard = store.lines.shard(&key);
            if let Some(line) = shard.lines.get_mut(&key) {
                line.queue.insert(rank);
                drop(shard);
                return Entered::Stands(Standing::new(&store, &key, rank, patience));
            }
        }
        Self::or_stand(&store, &key, Moment::now(), patience)
    }

    /// The store granted it: `lease` is the holder from now on, and keeps the spot until it is over.
    pub(crate) fn hold(mut self, lease: &Arc<Lease>) -> Spot {
        let mut at_store = self.at_store.take();
        let spot = Spot {
            store: Arc::clone(&self.spot.store),
            key: self.spot.key.clone(),
            turn: std::mem::take(&mut self.spot.turn),
        };
        let mut shard = spot.shard();
        let told = shard.at(&spot.key, spot.turn).and_then(|line| {
            line.stage = Stage::Held(Arc::downgrade(lease));
            if !line.queue.is_empty() {
                std::mem::swap(&mut line.queue.at_store, &mut at_store);
            }
            line.told.take()
        });
        drop(shard);
        drop((told, at_store));
        spot
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.spot.end(self.at_store.take());
    }
}

impl Spot {
    fn shard(&self) -> MutexGuard<'_, Shard> {
        self.store.lines.shard(&self.key)
    }

    fn end(&mut self, at_store: Option<Box<AtStore>>) {
        let turn = std::mem::take(&mut self.turn);
        if turn != 0 {
            let afterwards = self.shard().end(&self.key, turn, at_store);
            afterwards.run();
        }
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        self.end(None);
    }
}
