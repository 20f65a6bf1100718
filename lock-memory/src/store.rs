//! The entries, each step under one short mutex. Not the trait, and no waiting.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendError, Busy, Deadline, FencingRange, FencingToken, Forced,
    Grant, Holder, LockKey, MAX_TOKENS, Moment, Owner, Ownership, Renew, RenewRequest,
};

use crate::wakeups::Watched;

/// Keys that share a shard wait for each other, for well under a microsecond.
const SHARDS: usize = 64;

/// A shard is not swept before it has this many entries.
const SWEEP_FROM: usize = 16;

/// Fencing tokens stay below this, so that every store and every JSON reader can carry them: 2^53 - 64.
const TOKENS_END: u64 = (1 << 53) - 64;

pub(crate) struct Store {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// The greatest fencing token given so far, of all keys. It is only counted up under the mutex of the
    /// key that gets the token, so the tokens of one key grow in the order of its grants.
    newest: AtomicU64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            newest: AtomicU64::new(0),
        }
    }
}

impl Store {
    pub(crate) fn try_acquire(
        &self,
        request: &AcquireRequest<'_>,
    ) -> Result<Attempt, BackendError> {
        let mut shard = self.shard(request.key);
        let now = Moment::now();
        match shard.entry(request.key, &now) {
            Some(entry) if entry.owner == *request.owner => {
                return Ok(Attempt::Granted(entry.grant));
            }
            Some(entry) if request.from != Some(&entry.owner) => {
                return Ok(Attempt::Busy(Busy::new(entry.holder(&now))));
            }
            None if request.from.is_some() => return Ok(Attempt::Busy(Busy::default())),
            Some(_) | None => {}
        }
        let grant = Grant::new(Some(self.reserve(request.tokens)?));
        let entry = Entry {
            owner: request.owner.clone(),
            grant,
            ends: now.after(request.ttl),
        };
        shard.put(request.key, entry, &now);
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
        {
            let mut shard = self.shard(key);
            match shard.entry(key, &Moment::now()) {
                None => return Ownership::Absent,
                Some(entry) if entry.owner != *owner => return Ownership::Taken,
                Some(_) => shard.entries.remove(key),
            };
        }
        self.wake(key);
        Ownership::Held
    }

    /// Deletes the entry of `key` whoever owns it, and reserves a token above its owner's.
    pub(crate) fn force_release(&self, key: &LockKey) -> Result<Option<Forced>, BackendError> {
        let forced = {
            let mut shard = self.shard(key);
            let now = Moment::now();
            let Some(holder) = shard.entry(key, &now).map(|entry| entry.holder(&now)) else {
                return Ok(None);
            };
            let range = self.reserve(1)?;
            shard.entries.remove(key);
            Forced::new(holder, Some(range.first()))
        };
        self.wake(key);
        Ok(Some(forced))
    }

    pub(crate) fn inspect(&self, key: &LockKey) -> Option<Holder> {
        let now = Moment::now();
        self.shard(key)
            .entry(key, &now)
            .map(|entry| entry.holder(&now))
    }

    pub(crate) fn len(&self) -> usize {
        let unexpired = |shard: &Mutex<Shard>| {
            let now = Moment::now();
            lock(shard)
                .entries
                .values()
                .filter(|entry| entry.remaining(&now).is_some())
                .count()
        };
        self.shards.iter().map(unexpired).sum()
    }

    /// Removes the entry of `key` and wakes nobody. Whether there was an unexpired one.
    pub(crate) fn remove(&self, key: &LockKey) -> bool {
        let removed = self.shard(key).entries.remove(key);
        removed.is_some_and(|entry| entry.remaining(&Moment::now()).is_some())
    }

    pub(crate) fn steal(&self, key: &LockKey, thief: Owner, ttl: Duration) {
        let mut shard = self.shard(key);
        let now = Moment::now();
        let grant = Grant::new(self.reserve(1).ok());
        shard.put(
            key,
            Entry {
                owner: thief,
                grant,
                ends: now.after(ttl),
            },
            &now,
        );
    }

    /// The shard of `key`. Its mutex is never held over an await or while somebody else's code runs.
    #[allow(
        clippy::indexing_slicing,
        reason = "a remainder is smaller than its divisor"
    )]
    pub(crate) fn shard(&self, key: &LockKey) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key);
        lock(&self.shards[hash as usize % SHARDS])
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
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
pub(crate) struct Shard {
    entries: HashMap<LockKey, Entry>,
    pub(crate) watched: HashMap<LockKey, Watched>,
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

    /// Sets the entry of `key`, and sweeps if the shard has doubled since the last sweep: a constant cost for
    /// each entry, and no entry of a forgotten key stays for ever.
    fn put(&mut self, key: &LockKey, entry: Entry, now: &Moment) {
        if self.entries.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.entries
                .retain(|_, entry| entry.remaining(now).is_some());
            self.sweep_at = self.entries.len().saturating_mul(2);
            self.entries.shrink_to(self.sweep_at);
        }
        self.entries.insert(key.clone(), entry);
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
