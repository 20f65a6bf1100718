//! The model: the simplest store that keeps every promise of the trait. Not fast, not shared, not async.

use std::collections::BTreeMap;
use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, Busy, Deadline, FencingRange, FencingToken, Forced, Grant, Holder,
    MAX_TOKENS, Moment, Owner, Ownership, Place, Renew, RenewRequest,
};

mod store;

pub use store::HonestStore;

/// A store as plain data: one step a method, nothing waits.
///
/// Compare a backend with it in a property test, or build a wrong backend from it. Keys are whole keys, prefix
/// included. Time is [`Moment`], so virtual in a paused test.
#[derive(Debug)]
pub struct Honest {
    kept: BTreeMap<String, Kept>,
    newest: u64,
    without_fencing: bool,
    /// What it counts in; zero is exactly.
    resolution: Duration,
    /// Whether waiters are served in order, the numbers of those in line with when each was last heard of, and how many
    /// were given.
    in_order: bool,
    lines: BTreeMap<String, BTreeMap<u64, Moment>>,
    numbers: u64,
    /// For how long nothing is heard of who has a place.
    patience: Duration,
}

/// What an oracle sees of a key: more than any client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who owns the entry.
    pub owner: Owner,
    /// How long the entry lasts yet.
    pub remaining: Duration,
}

#[derive(Debug)]
struct Kept {
    owner: Owner,
    grant: Grant,
    ends: Deadline,
}

impl Kept {
    fn remaining(&self) -> Duration {
        self.ends.left(&Moment::now())
    }
}

impl Honest {
    /// An empty store.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            kept: BTreeMap::new(),
            newest: 0,
            without_fencing: false,
            resolution: Duration::ZERO,
            in_order: false,
            lines: BTreeMap::new(),
            numbers: 0,
            patience: Duration::from_secs(36),
        }
    }

    /// Whether grants carry fencing tokens from now on. They do at first.
    pub const fn set_fencing(&mut self, fencing: bool) {
        self.without_fencing = !fencing;
    }

    /// What the store counts in from now on: an entry lasts a whole number of it, rounded up, and what is left of it is
    /// told as one, rounded down. At first it counts exactly.
    pub const fn set_resolution(&mut self, resolution: Duration) {
        self.resolution = resolution;
    }

    /// Whether waiters are served in the order of their first attempts from now on. They are not at first.
    ///
    /// Who finds a key busy is given a number, and stands in line from [`join`](Self::join) until it is granted or
    /// [leaves](Self::leave). Who does not stand in line may take what nobody waits for.
    pub const fn set_order(&mut self, in_order: bool) {
        self.in_order = in_order;
    }

    /// For how long nothing may be heard of a waiter in line from now on. At first that is 36 seconds.
    ///
    /// Who is not heard of for longer is passed over until it tries again; all that wait are told to try again three times
    /// as often.
    pub const fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// See [`lock_core::LockBackend::try_acquire`].
    pub fn try_acquire(&mut self, request: &AcquireRequest<'_>) -> Attempt {
        self.forget_ended();
        let key = request.key.as_str();
        self.hear_of(key, request.place);
        match self.kept.get(key) {
            Some(kept) if kept.owner == *request.owner => return Attempt::Granted(kept.grant),
            Some(kept) if request.from != Some(&kept.owner) => {
                let busy = Busy::new(self.holder(kept));
                return Attempt::Busy(self.numbered(busy, request.place));
            }
            None if request.from.is_some() => return Attempt::Busy(Busy::default()),
            None if self
                .next_in_line(key)
                .is_some_and(|next| number(request.place) != Some(next)) =>
            {
                return Attempt::Busy(self.numbered(Busy::default(), request.place));
            }
            Some(_) | None => {}
        }
        if let Some(place) = request.place {
            self.leave(key, place);
        }
        Attempt::Granted(self.put(
            request.key.as_str(),
            request.owner,
            request.ttl,
            request.tokens,
        ))
    }

    /// A waiter stands in the line of `key`. See [`lock_core::Wakeups::subscribe`].
    pub fn join(&mut self, key: &str, place: &Place) {
        let line = self.lines.entry(key.to_owned()).or_default();
        line.extend(number(Some(place)).map(|number| (number, Moment::now())));
    }

    /// A waiter is no longer in the line of `key`. Whether it was, and others are. See [`lock_core::Wakeups::leave`].
    pub fn leave(&mut self, key: &str, place: &Place) -> bool {
        let (Some(line), Some(number)) = (self.lines.get_mut(key), number(Some(place))) else {
            return false;
        };
        let was_there = line.remove(&number).is_some();
        let are_others = !line.is_empty();
        if !are_others {
            self.lines.remove(key);
        }
        was_there && are_others
    }

    /// See [`lock_core::LockBackend::renew`]; one of its renewals.
    pub fn renew(&mut self, renewal: &RenewRequest<'_>) -> Ownership {
        self.forget_ended();
        let ends = Moment::now().after(self.counted(renewal.ttl));
        match self.kept.get_mut(renewal.key.as_str()) {
            None => Ownership::Absent,
            Some(kept) if kept.owner != *renewal.owner => Ownership::Taken,
            Some(kept) => {
                kept.ends = match renewal.how {
                    Renew::AtLeast => kept.ends.later(ends),
                    Renew::Exactly => ends,
                };
                Ownership::Held
            }
        }
    }

    /// See [`lock_core::LockBackend::release`].
    pub fn release(&mut self, key: &str, owner: &Owner) -> Ownership {
        self.forget_ended();
        match self.kept.get(key) {
            None => Ownership::Absent,
            Some(kept) if kept.owner != *owner => Ownership::Taken,
            Some(_) => {
                self.kept.remove(key);
                Ownership::Held
            }
        }
    }

    /// See [`lock_core::LockBackend::inspect`].
    #[must_use]
    pub fn inspect(&self, key: &str) -> Option<Holder> {
        self.kept
            .get(key)
            .filter(|kept| !kept.remaining().is_zero())
            .map(|kept| self.holder(kept))
    }

    /// See [`lock_core::ForceRelease::force_release`].
    pub fn force_release(&mut self, key: &str) -> Option<Forced> {
        self.forget_ended();
        let kept = self.kept.remove(key)?;
        let holder = self.holder(&kept);
        let fencing = self.reserve(1).fencing.map(|range| range.first());
        Some(Forced::new(holder, fencing))
    }

    /// Deletes the entry of `key`. Whether there was one.
    pub fn evict(&mut self, key: &str) -> bool {
        self.forget_ended();
        self.kept.remove(key).is_some()
    }

    /// Makes a new owner hold `key` for `ttl`, whoever held it before.
    pub fn steal(&mut self, key: &str, ttl: Duration) -> Owner {
        let thief = Owner::fresh(Some("thief")).expect("the system has randomness");
        self.put(key, &thief, ttl, 1);
        thief
    }

    /// The entries that have not ended, by whole key.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, Entry> {
        let entry = |kept: &Kept| Entry {
            owner: kept.owner.clone(),
            remaining: kept.remaining(),
        };
        self.kept
            .iter()
            .map(|(key, kept)| (key.clone(), entry(kept)))
            .filter(|(_, entry)| !entry.remaining.is_zero())
            .collect()
    }

    /// A waiter in the line of `key` shows that it lives.
    fn hear_of(&mut self, key: &str, place: Option<&Place>) {
        let line = self.lines.get_mut(key);
        let heard = line.zip(number(place));
        if let Some(heard) = heard.and_then(|(line, number)| line.get_mut(&number)) {
            *heard = Moment::now();
        }
    }

    /// The first of whom something was heard.
    fn next_in_line(&self, key: &str) -> Option<u64> {
        let line = self.lines.get(key).filter(|_| self.in_order)?;
        let mut living = line
            .iter()
            .filter(|(_, heard)| heard.elapsed() < self.patience);
        living.next().map(|(number, _)| *number)
    }

    /// `busy` with the number that `place` is, or with a new one.
    fn numbered(&mut self, busy: Busy, place: Option<&Place>) -> Busy {
        if !self.in_order {
            return busy;
        }
        let place = place.cloned().unwrap_or_else(|| {
            self.numbers += 1;
            Place::new(self.numbers.to_string())
        });
        busy.with_place(place).with_recheck(self.patience / 3)
    }

    fn put(&mut self, key: &str, owner: &Owner, ttl: Duration, tokens: u16) -> Grant {
        let grant = self.reserve(tokens);
        let kept = Kept {
            owner: owner.clone(),
            grant,
            ends: Moment::now().after(self.counted(ttl)),
        };
        self.kept.insert(key.to_owned(), kept);
        grant
    }

    fn reserve(&mut self, tokens: u16) -> Grant {
        let first = self.newest + 1;
        self.newest += u64::from(tokens.clamp(1, MAX_TOKENS));
        let range = FencingRange::new(FencingToken::new(first), FencingToken::new(self.newest));
        Grant::new((!self.without_fencing).then_some(range))
    }

    /// `ttl` as long as this store can count it.
    fn counted(&self, ttl: Duration) -> Duration {
        let told = self.told(ttl);
        if told < ttl {
            told + self.resolution
        } else {
            told
        }
    }

    /// The whole units in `time`.
    fn told(&self, time: Duration) -> Duration {
        let more = time.as_nanos().checked_rem(self.resolution.as_nanos());
        time - Duration::from_nanos(more.unwrap_or_default().try_into().unwrap_or_default())
    }

    fn holder(&self, kept: &Kept) -> Holder {
        Holder::new()
            .with_label(kept.owner.label().map(str::to_owned))
            .with_remaining(Some(self.told(kept.remaining())))
            .with_fencing(kept.grant.fencing.map(|range| range.last()))
    }

    fn forget_ended(&mut self) {
        self.kept.retain(|_, kept| !kept.remaining().is_zero());
    }
}

impl Default for Honest {
    fn default() -> Self {
        Self::new()
    }
}

fn number(place: Option<&Place>) -> Option<u64> {
    place?.as_str().parse().ok()
}
