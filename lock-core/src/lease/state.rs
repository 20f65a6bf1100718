//! What is known of a lease, and its lock. Plain arithmetic on moments; nothing here acts but to wake who waits.

use std::ops::{Deref, DerefMut};
use std::sync::{MutexGuard, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::Lease;
use crate::clock::{Deadline, Moment};
use crate::error::LossReason;
use crate::key::LockKey;
use crate::line::Spot;
use crate::observe;
use crate::policy::{Terms, validity};
use crate::renewer::Link;

/// What is known of one lease.
pub(super) struct State {
    pub(super) granted: Moment,
    /// The entry was last confirmed to last for `ttl` from `asked` on.
    pub(super) asked: Moment,
    pub(super) ttl: Duration,
    /// Until then its holder believes in it. Once it is closed, until then those who stand in line wait for it.
    pub(super) deadline: Deadline,
    /// Until then the entry may last, by what was sent and may have been applied unheard.
    pub(super) latest: Deadline,
    /// The deadline may not rise any more, because an old request to shorten the entry may yet arrive.
    pub(super) frozen: bool,
    /// The last operation was not answered.
    pub(super) uncertain: bool,
    /// A renewal, extension or hand-over is under way: one at a time. Given back by [`Operation`](super::operation::Operation)
    /// or, of a renewal that a turn began, when it is not sent after all, was answered, or is dropped.
    pub(super) operating: bool,
    /// Somebody waits for the end of that.
    pub(super) awaited: bool,
    /// When its holder last said that it gets on, if it did since the grant.
    pub(super) progress: Option<Box<Moment>>,
    pub(super) ended: Option<LossReason>,
    /// The entry was released, or is left to its ttl on purpose: nothing more is sent.
    pub(super) closed: bool,
    pub(super) link: Option<Link>,
    /// Its last renewal ended in a panic, perhaps because of a lock it was sent with, or because of this one.
    pub(super) alone: bool,
    /// It is on its way to the next in line: see `passing.rs`.
    pub(super) on_offer: bool,
    /// The number of the first spot in line, which goes on when the lease is over; zero without one.
    pub(super) turn: u64,
}

/// The state while it is locked. Those who wait for news are woken once it is unlocked: their wakers may ask the lease
/// something at once, or panic, which is nobody's business but theirs.
pub(super) struct Locked<'a> {
    // Dropped first.
    state: MutexGuard<'a, State>,
    news: News<'a>,
}

struct News<'a> {
    changed: &'a OnceLock<Box<Notify>>,
    told: bool,
    ended: Option<(&'a LockKey, Moment, LossReason)>,
    /// Dropped last.
    spot: Option<Spot>,
}

impl<'a> Locked<'a> {
    pub(super) fn new(state: MutexGuard<'a, State>, changed: &'a OnceLock<Box<Notify>>) -> Self {
        let news = News {
            changed,
            told: false,
            ended: None,
            spot: None,
        };
        Self { state, news }
    }

    /// Wakes those who wait for news.
    pub(super) fn tell(&mut self) {
        self.news.told = true;
    }

    /// The operation that was under way is over.
    pub(super) fn operated(&mut self) {
        self.operating = false;
        if std::mem::take(&mut self.awaited) {
            self.tell();
        }
    }

    /// Ends `lease`, whose state this is, and tells of it. A lock that is lost is anybody's; for one that is released, the
    /// spot in line goes on with the store's answer.
    pub(super) fn end(&mut self, lease: &'a Lease, reason: LossReason) {
        self.ended = Some(reason);
        if !matches!(reason, LossReason::Released | LossReason::ShutDown) {
            self.news.spot = lease.take_spot(&mut self.state);
        }
        self.news.ended = Some((&lease.key, self.granted, reason));
        self.tell();
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for News<'_> {
    fn drop(&mut self) {
        if let Some(changed) = self.changed.get().filter(|_| self.told) {
            observe::contained(|| changed.notify_waiters());
        }
        if let Some((key, granted, reason)) = self.ended {
            observe::ended(key, granted, reason);
        }
    }
}

impl State {
    /// Of an entry of `ttl`, asked for at `asked`, whose holder counts from `granted`.
    pub(super) fn new(asked: Moment, ttl: Duration, granted: Moment) -> Self {
        Self {
            granted,
            asked,
            ttl,
            deadline: asked.after(validity(ttl)),
            latest: asked.after(ttl),
            frozen: false,
            uncertain: false,
            operating: false,
            awaited: false,
            progress: None,
            ended: None,
            closed: false,
            link: None,
            alone: false,
            on_offer: false,
            turn: 0,
        }
    }

    /// The store is about to be asked for an entry of at least `ttl`.
    pub(super) fn asks(&mut self, asked: Moment, ttl: Duration) {
        self.latest = self.latest.later(asked.after(ttl));
    }

    pub(super) fn remaining(&self, terms: &Terms, now: Moment) -> Duration {
        if self.ended.is_some() {
            return Duration::ZERO;
        }
        self.deadline.left(&now).min(self.hold_left(terms, now))
    }

    pub(super) fn hold_left(&self, terms: &Terms, now: Moment) -> Duration {
        match terms.hold_limit() {
            Some(limit) => left(limit, &self.granted, &now),
            None => Duration::MAX,
        }
    }

    pub(super) fn is_stuck(&self, terms: &Terms, now: Moment) -> bool {
        let progress = self.progress.as_deref().unwrap_or(&self.granted);
        terms
            .progress_period()
            .is_some_and(|period| progress.until(&now) > period)
    }
}

/// What is left of `of`, which began at `since`.
pub(super) fn left(of: Duration, since: &Moment, now: &Moment) -> Duration {
    of.saturating_sub(since.until(now))
}
