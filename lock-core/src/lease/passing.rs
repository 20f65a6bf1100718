//! How a lease goes to the next in line without a round trip: the store's entry stays, and another guard believes in it.
//! Not who is next: that is the line's.
//!
//! A guard has a [`Lease`] of its own, and so has the guard that the lease is passed on to: same key, owner and deadline,
//! the next fencing token. The giver's ends as released before the receiver can see anything, and has no say any more.
//! In between, while the receiver has not taken it, the lease is *on offer*: nobody believes in it and nobody renews it.
//! Exactly one ends that, because one mutex decides: the receiver by [`Lease::claim`], or, if the receiver went or did
//! not come in time, [`Lease::put_back`], which offers it to another or releases it, or [`Lease::shut_down`].

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::state::State;
use super::{Lease, SIGNAL_LEAD};
use crate::clock::Moment;
use crate::error::LossReason;
use crate::fencing::{FencingRange, FencingToken};
use crate::key::LockKey;
use crate::line::{CLAIM, Spot, Wants};
use crate::observe;
use crate::policy::{GuardPolicy, Terms, nth, validity};
use crate::renewer::Renewer;

/// The guards of one lease, one after the other, up to this one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series {
    /// When the store granted it.
    pub(super) since: Moment,
    /// How often it went on.
    times: u16,
}

impl Series {
    pub(super) fn new(since: Moment) -> Self {
        Self { since, times: 0 }
    }

    fn next(self) -> Self {
        Self {
            since: self.since,
            times: self.times.saturating_add(1),
        }
    }
}

impl Lease {
    /// Passes the lease on to the next in line, if it may: it is valid, none of its operations is in flight or of unknown
    /// outcome, nothing was sent that deletes or shortens it without an answer, its entry ends within the receiver's ttl,
    /// and the bound of the series is not reached. Whether it did; if not, it is held as before or ended, but not closed.
    pub(super) fn pass_on(self: &Arc<Self>) -> bool {
        if self.next_fencing().is_none() || self.store.is_closed() {
            return false;
        }
        // Before anything is changed, because it panics where tokio's clock is gone.
        let now = Moment::now();
        // A shutdown waits for a lease that is on its way to the line.
        let _call = self.store.call();
        let spot = {
            let mut state = self.state();
            self.note_deadline(&mut state, now);
            let in_doubt =
                state.uncertain || state.frozen || state.latest.left(&now) > self.terms.ttl();
            if state.ended.is_some() || state.closed || state.operating || in_doubt {
                return false;
            }
            let Some(spot) = self.take_spot(&mut state) else {
                return false;
            };
            self.end_locked(&mut state, LossReason::Released);
            (state.closed, state.on_offer) = (true, true);
            spot
        };
        self.offer(spot, now)
    }

    /// Offers the lease to the next in line. If nobody is, or wants it like that, it is not on offer any more.
    fn offer(self: &Arc<Self>, spot: Spot, now: Moment) -> bool {
        let spent = self.spent(&now);
        let fits =
            |wants: &Wants| wants.fits(&self.terms, &self.owner) && self.may_go_on(wants, spent);
        let spot = match spot.offer(self, now, fits) {
            Ok(()) => {
                self.watch_offer(now);
                return true;
            }
            Err(spot) => spot,
        };
        let mut state = self.state();
        if state.on_offer {
            (state.closed, state.on_offer) = (false, false);
            state.turn = spot.keep();
            return false;
        }
        // Shut down meanwhile.
        drop(state);
        drop(spot);
        true
    }

    /// How long ago the store granted it.
    pub(crate) fn spent(&self, now: &Moment) -> Duration {
        self.series.since.until(now)
    }

    /// Whether neither giver nor receiver have set a bound that is reached.
    pub(crate) fn may_go_on(&self, wants: &Wants, spent: Duration) -> bool {
        let times = self.series.times;
        self.terms.passing().allows(times, spent) && wants.passing.allows(times, spent)
    }

    /// The fencing tokens for the next guard and those after it; `None` if they are used up.
    fn next_fencing(&self) -> Option<Option<FencingRange>> {
        let Some(range) = self.fencing else {
            return Some(None);
        };
        let next = FencingToken::new(range.first().get().checked_add(1)?);
        (next <= range.last()).then(|| Some(FencingRange::new(next, range.last())))
    }

    /// Has the renewer look at it after the claim time, or at its deadline, if it is still on offer.
    fn watch_offer(self: &Arc<Self>, now: Moment) {
        let mut state = self.state();
        if state.on_offer {
            let after = CLAIM.min(state.deadline.left(&now));
            state.link = Some(self.renewer.link(self, now, after, Duration::ZERO));
        }
        drop(state);
        if self.store.is_closed() {
            self.shut_down();
        }
    }

    /// Takes the lease for a guard with `terms`, whose first moment this is. `None` if it is not on offer any more. It is in no
    /// list then: the caller counts as a call until it is in one again.
    pub(crate) fn claim(
        self: &Arc<Self>,
        renewer: &Arc<Renewer>,
        key: &LockKey,
        terms: Terms,
    ) -> Option<Arc<Self>> {
        let fencing = self.next_fencing()?;
        let now = Moment::now();
        let (asked, ttl, deadline, latest) = {
            let mut state = self.state();
            if !state.on_offer || state.deadline.left(&now) <= SIGNAL_LEAD {
                return None;
            }
            state.on_offer = false;
            if let Some(link) = state.link.take() {
                self.renewer.unlink(link);
            }
            (state.asked, state.ttl, state.deadline, state.latest)
        };
        let mut state = State::new(asked, ttl, now);
        (state.deadline, state.latest) = (deadline, latest);
        observe::passed_on(&self.key);
        Some(Arc::new(Self {
            store: Arc::clone(&self.store),
            renewer: Arc::clone(renewer),
            key: key.clone(),
            owner: self.owner.clone(),
            fencing,
            series: self.series.next(),
            terms,
            changed: OnceLock::new(),
            state: Mutex::new(state),
        }))
    }

    /// Whether a guard that was passed the lease has what a fresh grant would have given it: two thirds of the ttl, as any
    /// holder between two renewals, or all of it, if it is not renewed, or left to expire.
    pub(crate) fn has_enough(&self) -> bool {
        let (terms, ttl) = (&self.terms, self.terms.ttl());
        let is_renewed = terms.interval(ttl).is_some();
        let all = validity(ttl);
        let usual = if is_renewed && terms.guard() == GuardPolicy::Release {
            ttl.saturating_sub(nth(ttl, 3)).min(all)
        } else {
            all
        };
        self.validity_left() >= usual.max(terms.min_validity())
    }

    /// What is left of its validity; its holder may have it for less, by its own policy.
    pub(crate) fn validity_left(&self) -> Duration {
        self.deadline().left(&Moment::now())
    }

    /// Whoever was to take it has gone, or did not come in time: offers it to somebody else, or releases it on `renewer`'s
    /// runtime. `spot` is the line's first.
    pub(crate) fn put_back(self: &Arc<Self>, spot: Spot, renewer: &Arc<Renewer>) {
        let now = Moment::now();
        // A shutdown waits for a lease that is in no list.
        let _call = self.store.call();
        {
            let mut state = self.state();
            if let Some(link) = state.link.take() {
                self.renewer.unlink(link);
            }
            let is_valid = state.deadline.left(&now) > SIGNAL_LEAD;
            if state.on_offer && (!is_valid || self.store.is_closed()) {
                (state.closed, state.on_offer) = (false, false);
                state.turn = spot.keep();
                drop(state);
                return self.release_on(renewer, LossReason::Released);
            }
            if !state.on_offer {
                drop(state);
                drop(spot);
                return;
            }
        }
        if !self.offer(spot, now) {
            self.release_on(renewer, LossReason::Released);
        }
    }

    /// Releases it for good, held or on offer. Whether it was closed by this.
    pub(crate) fn shut_down(self: &Arc<Self>) -> bool {
        // Before it leaves the list, as in `release`.
        let _call = self.store.call();
        let is_open = {
            let mut state = self.state();
            if std::mem::take(&mut state.on_offer) {
                state.closed = false;
                if let Some(link) = state.link.take() {
                    self.renewer.unlink(link);
                }
            }
            !state.closed
        };
        self.release_in_background(LossReason::ShutDown);
        is_open
    }
}
