//! The entries, each step under one short mutex. Not the trait, and no waiting.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendError, Busy, Deadline, FencingRange, FencingToken, Forced,
    Grant, Holder, KeyHasher, LockKey, MAX_TOKENS, Moment, Owner, Ownership, Renew, RenewRequest,
};

use crate::wakeups::{Told, Watched};

/// Keys that share a shard wait for each other, for well under a microsecond. A power of two.
const SHARDS: usize = 64;

/// A shard is not swept before it has this many entries.
const SWEEP_FROM: usize = 16;

/// Fencing tokens stay below this, so that every store and every JSON reader can carry them: 2^53 - 64.
const TOKENS_END: u64 = (1 << 53) - 64;

/// A key is hashed when it is made, and not here.
type KeyHash = BuildHasherDefault<KeyHasher>;

#[derive(Default)]
pub(crate) struct Store {
    shards: Shards,
    /// The greatest fencing token given so far, of all keys. It is only counted up under the mutex of the
    /// key that gets the token, so the tokens of one key grow in the order of its grants.
    newest: AtomicU64,
}

struct Shards([Apart; SHARDS]);

/// On cache lines of its own, so that who writes to one shard does not slow down who writes to the next.
#[derive(Default)]
#[repr(align(128))]
struct Apart(Mutex<Shard>);

impl Default for Shards {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Apart::default()))
    }
}

impl Store {
    pub(crate) fn try_acquire(
        &self,
        request: &AcquireRequest<'_>,
    ) -> Result<Attempt, BackendError> {
        let mut shard = self.shard(request.key);
        let now = Moment::now();
        shard.sweep(&now);
        let slot = shard.entries.entry(request.key.clone());
        if let Some(entry) = entry_at(&slot, &now) {
            if entry.owner == *request.owner {
                return Ok(Attempt::Granted(entry.grant));
            }
            if request.from != Some(&entry.owner) {
                return Ok(Attempt::Busy(Busy::new(entry.holder(&now))));
            }
        } else if request.from.is_some() {
            return Ok(Attempt::Busy(Busy::default()));
        }
        let grant = Grant::new(Some(self.reserve(request.tokens)?));
        slot.insert_entry(Entry {
            owner: request.owner.clone(),
            grant,
            ends: now.after(request.ttl),
        });
        Ok(Attempt::Granted(grant))
    }

    pub(crate) fn renew(&self, renewal: &RenewRequest<'_>) -> Ownership {
        let mut shard = self.shard(renewal.key);
        let now = Moment::now();
        let Some(entry) = shard.entry_mut(renewal.key, &now) else {
            return Ownership::Absent;
        };
        if entry.owner != *renewal.owner {
            return Ownership::Taken;
        }
        let ends = now.after(renewal.ttl);
        entry.ends = match renewal.how {
            Renew::AtLeast => entry.ends.later(ends),
            Renew::Exactly => ends,
        };
        Ownership::Held
    }

    pub(crate) fn release(&self, key: &LockKey, owner: &Owner) -> Ownership {
        let told = {
            let mut shard = self.shard(key);
            let Some(entry) = shard.entry(key, &Moment::now()) else {
                return Ownership::Absent;
            };
            if entry.owner != *owner {
                return Ownership::Taken;
            }
            shard.entries.remove(key);
            shard.told(key)
        };
        told.tell();
        Ownership::Held
    }

    /// Deletes the entry of `key` whoever owns it, and reserves a token above its owner's.
    pub(crate) fn force_release(&self, key: &LockKey) -> Result<Option<Forced>, BackendError> {
        let (forced, told) = {
            let mut shard = self.shard(key);
            let now = Moment::now();
            let Some(holder) = shard.entry(key, &now).map(|entry| entry.holder(&now)) else {
                return Ok(None);
            };
            let range = self.reserve(1)?;
            shard.entries.remove(key);
            (Forced::new(holder, Some(range.first())), shard.told(key))
        };
        told.tell();
        Ok(Some(forced))
    }

    pub(crate) fn inspect(&self, key: &LockKey) -> Option<Holder> {
        let now = Moment::now();
        self.shard(key)
            .entry(key, &now)
            .map(|entry| entry.holder(&now))
    }

    pub(crate) fn len(&self) -> usize {
        let unexpired = |shard: &Apart| {
            let now = Moment::now();
            lock(shard)
                .entries
                .values()
                .filter(|entry| entry.remaining(&now).is_some())
                .count()
        };
        self.shards.0.iter().map(unexpired).sum()
    }

    /// Removes the entry of `key` and wakes nobody. Whether there was an unexpired one.
    pub(crate) fn remove(&self, key: &LockKey) -> bool {
        let removed = self.shard(key).entries.remove(key);
        removed.is_some_and(|entry| entry.remaining(&Moment::now()).is_some())
    }

    pub(crate) fn steal(&self, key: &LockKey, thief: Owner, ttl: Duration) {
        let mut shard = self.shard(key);
        let now = Moment::now();
        shard.sweep(&now);
        let grant = Grant::new(self.reserve(1).ok());
        let entry = Entry {
            owner: thief,
            grant,
            ends: now.after(ttl),
        };
        shard.entries.insert(key.clone(), entry);
    }

    /// The shard of `key`. Its mutex is never held over an await or while somebody else's code runs.
    #[allow(
        clippy::indexing_slicing,
        reason = "a remainder is smaller than its divisor"
    )]
    pub(crate) fn shard(&self, key: &LockKey) -> MutexGuard<'_, Shard> {
        // Other bits than those by which the map within goes.
        let hash = KeyHash::default().hash_one(key) >> 32;
        lock(&self.shards.0[hash as usize % SHARDS])
    }

    /// Reserves the next `tokens` fencing tokens. Called with the mutex of the key's shard held.
    fn reserve(&self, tokens: u16) -> Result<FencingRange, BackendError> {
        let tokens = u64::from(tokens.clamp(1, MAX_TOKENS));
        let last_after = |newest: u64| newest.checked_add(tokens).filter(|last| *last < TOKENS_END);
        self.newest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, last_after)
            .map(|newest| {
                let (first, last) = (newest.saturating_add(1), newest.saturating_add(tokens));
                FencingRange::new(FencingToken::new(first), FencingToken::new(last))
            })
            .map_err(|_| BackendError::permanent("the store has no fencing tokens left below 2^53"))
    }
}

/// A panic elsewhere leaves no shard half-written: each step writes once.
fn lock(shard: &Apart) -> MutexGuard<'_, Shard> {
    shard.0.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
pub(crate) struct Shard {
    entries: HashMap<LockKey, Entry, KeyHash>,
    pub(crate) watched: HashMap<LockKey, Watched, KeyHash>,
    sweep_at: usize,
}

impl Shard {
    fn entry(&self, key: &LockKey, now: &Moment) -> Option<&Entry> {
        self.entries
            .get(key)
            .filter(|entry| entry.remaining(now).is_some())
    }

    fn entry_mut(&mut self, key: &LockKey, now: &Moment) -> Option<&mut Entry> {
        self.entries
            .get_mut(key)
            .filter(|entry| entry.remaining(now).is_some())
    }

    /// Whom to tell that `key` is free, once the mutex is unlocked: wakers are somebody else's code.
    pub(crate) fn told(&self, key: &LockKey) -> Told {
        Told::of(self.watched.get(key))
    }

    /// Before an entry is set: sweeps if the shard has doubled since the last sweep. So it is a constant cost for each
    /// entry, and no entry of a forgotten key stays for ever.
    fn sweep(&mut self, now: &Moment) {
        if self.entries.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.entries
                .retain(|_, entry| entry.remaining(now).is_some());
            self.sweep_at = self.entries.len().saturating_mul(2);
            self.entries.shrink_to(self.sweep_at);
        }
    }
}

/// The entry that stands there and has not ended.
fn entry_at<'a>(slot: &'a Slot<'_, LockKey, Entry>, now: &Moment) -> Option<&'a Entry> {
    match slot {
        Slot::Occupied(slot) => Some(slot.get()).filter(|entry| entry.remaining(now).is_some()),
        Slot::Vacant(_) => None,
    }
}

struct Entry {
    owner: Owner,
    grant: Grant,
    ends: Deadline,
}

impl Entry {
    /// What is left of the ttl; `None` once it is over.
    fn remaining(&self, now: &Moment) -> Option<Duration> {
        Some(self.ends.left(now)).filter(|left| !left.is_zero())
    }

    fn holder(&self, now: &Moment) -> Holder {
        Holder::new()
            .with_label(self.owner.label().map(str::to_owned))
            .with_remaining(self.remaining(now))
            .with_fencing(self.grant.fencing.map(|range| range.last()))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
