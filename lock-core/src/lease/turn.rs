//! What the renewer does with a lease whose turn has come. Not the list of turns: that is the renewer's.

use std::sync::Arc;
use std::time::Duration;

use super::operation::outcome_of;
use super::state::{Locked, left};
use super::{Lease, RETRY_PAUSE, SIGNAL_LEAD};
use crate::backend::{Ownership, Renew, RenewRequest};
use crate::clock::Moment;
use crate::error::{BackendError, BackendErrorKind, LossReason};
use crate::line::Head;
use crate::observe;
use crate::policy::nth;
use crate::renewer::Link;

/// Of these many parts of an interval some are left to chance.
const PARTS: u32 = 1024;

/// Once it was spread, an interval is at least as long: 95 %, so that what goes together does not do so for ever.
const LEAST_PARTS: u32 = 973;

/// What the renewer is to do about a lease whose turn has come.
pub(crate) enum Turn {
    /// Renew the entry for `ttl`, and take no answer within `limit` for unknown.
    /// That is the one operation under way until [`Lease::renewed`], or [`Lease::may_ask`] says no.
    Renew {
        ttl: Duration,
        limit: Duration,
        /// Its end, if it is not renewed.
        ends: Duration,
        /// Not in a batch with others.
        alone: bool,
    },
    /// Look again after that time.
    Wait(Duration),
    /// Nothing: it ended, or has another turn.
    Over,
}

impl Lease {
    /// Links the lease for its first renewal, or for its deadline, and keeps the turn in line until the entry is released or the
    /// lease is lost. Whoever calls this counts as a call, for a shutdown to wait for.
    pub(crate) fn begin(self: &Arc<Self>, head: Option<Head>, now: Moment) {
        let turn = head.map_or(0, |head| head.hold(self));
        {
            let mut state = self.state();
            state.turn = turn;
            let (ttl, age) = (state.ttl, state.asked.until(&now));
            // From half the interval on, so that locks taken together are not renewed together.
            let (due, slack) = self.next_renewal(ttl, PARTS / 2, age);
            self.link_locked(&mut state, now, due, slack);
        }
        self.end_if_closed();
    }

    /// Links the lease for its next renewal, now that its entry was confirmed by a call that still counts.
    pub(super) fn link_for_renewal(self: &Arc<Self>) {
        self.link_for_renewal_locked(&mut self.state(), Moment::now());
        self.end_if_closed();
    }

    fn link_for_renewal_locked(self: &Arc<Self>, state: &mut Locked<'_>, now: Moment) {
        let (due, slack) = self.next_renewal(state.ttl, LEAST_PARTS, Duration::ZERO);
        self.link_locked(state, now, due, slack);
    }

    /// When it is to be renewed next, counted from `age` after its entry was confirmed, and how much sooner it may be. From
    /// `earliest` of an interval's [`PARTS`] on.
    fn next_renewal(&self, ttl: Duration, earliest: u32, age: Duration) -> (Duration, Duration) {
        let Some(interval) = self.terms.interval(ttl.min(self.terms.ttl())) else {
            return (Duration::MAX, Duration::ZERO);
        };
        let parts = fastrand::u32(earliest..=PARTS);
        let due = nth(interval, PARTS).saturating_mul(parts);
        // Early by a sixteenth is early enough to be sent together with others.
        (due.saturating_sub(age), nth(interval, 16))
    }

    /// Links the lease `after` from now, or at its deadline if that comes first.
    pub(crate) fn link(self: &Arc<Self>, after: Duration, slack: Duration) {
        // A shutdown waits for a lease that is between two places in the list.
        let _call = self.store.call();
        self.link_locked(&mut self.state(), Moment::now(), after, slack);
        self.end_if_closed();
    }

    /// Links the lease at its deadline, if it has no place in the list.
    pub(crate) fn watch(self: &Arc<Self>) {
        let _call = self.store.call();
        {
            let mut state = self.state();
            if state.link.is_none() {
                self.link_locked(&mut state, Moment::now(), Duration::MAX, Duration::ZERO);
            }
        }
        self.end_if_closed();
    }

    /// Closed meanwhile: the shutdown may not have seen it in the list.
    pub(crate) fn end_if_closed(self: &Arc<Self>) {
        if self.store.is_closed() {
            self.shut_down();
        }
    }

    fn link_locked(
        self: &Arc<Self>,
        state: &mut Locked<'_>,
        now: Moment,
        after: Duration,
        slack: Duration,
    ) {
        if state.ended.is_some() {
            return;
        }
        if let Some(link) = state.link.take() {
            self.renewer.unlink(link);
        }
        let deadline = state
            .remaining(&self.terms, now)
            .saturating_sub(SIGNAL_LEAD);
        let slack = if after < deadline {
            slack
        } else {
            Duration::ZERO
        };
        state.link = Some(self.renewer.link(self, now, after.min(deadline), slack));
    }

    /// What to do now, or a little later than `now`, that the renewer came to this lease.
    pub(crate) fn turn(self: &Arc<Self>, link: Link, now: Moment) -> Turn {
        let terms = &self.terms;
        let mut state = self.state();
        if state.link != Some(link) {
            // Linked anew since: another turn comes.
            return Turn::Over;
        }
        state.link = None;
        if state.on_offer {
            drop(state);
            // Nobody took it within the claim time.
            drop(Head::take_back(self));
            return Turn::Over;
        }
        self.note_deadline(&mut state, now);
        if state.ended.is_some() {
            return Turn::Over;
        }
        let remaining = state.remaining(terms, now);
        let current = state.ttl.min(terms.ttl());
        let Some(interval) = terms.interval(current) else {
            return Turn::Wait(remaining);
        };
        if state.frozen {
            return Turn::Wait(remaining);
        }
        if state.is_stuck(terms, now) || std::mem::replace(&mut state.operating, true) {
            return Turn::Wait(nth(interval, 4));
        }
        // A renewal that hangs leaves time for another before the deadline.
        let spare = nth(current.saturating_sub(interval), 2);
        Turn::Renew {
            ttl: terms.ttl().max(left(state.ttl, &state.asked, &now)),
            limit: terms.op_timeout().min(spare),
            ends: remaining.saturating_sub(SIGNAL_LEAD),
            alone: std::mem::take(&mut state.alone),
        }
    }

    // The automatic renewal that a turn began.

    /// Whether it is to be sent, at `asked`, to ask for `ttl`. If not, it is over.
    pub(crate) fn may_ask(&self, asked: Moment, ttl: Duration) -> bool {
        let mut state = self.state();
        self.note_deadline(&mut state, asked);
        if state.ended.is_some() {
            state.operated();
            return false;
        }
        state.asks(asked, ttl);
        true
    }

    pub(crate) fn renewal(&self, ttl: Duration, how: Renew) -> RenewRequest<'_> {
        RenewRequest::new(&self.key, &self.owner, ttl, how)
    }

    /// Takes in the answer to a renewal for `ttl` that was sent at `asked`; none means unknown. Then links the lease for the
    /// next one. Whoever calls this counts as a call.
    pub(crate) fn renewed(
        self: &Arc<Self>,
        asked: Moment,
        ttl: Duration,
        answer: Option<Result<Ownership, BackendError>>,
    ) {
        observe::renewed(&self.key, outcome_of(answer.as_ref()));
        {
            let mut state = self.state();
            let now = Moment::now();
            state.operated();
            match answer {
                Some(Ok(Ownership::Held)) => {
                    self.confirm_locked(&mut state, now, asked, ttl);
                    self.link_for_renewal_locked(&mut state, now);
                }
                Some(Ok(Ownership::Absent)) => self.end_locked(&mut state, LossReason::Absent),
                Some(Ok(Ownership::Taken)) => self.end_locked(&mut state, LossReason::Taken),
                // Something else stands where our entry stood.
                Some(Err(error)) if error.kind() == BackendErrorKind::Conflict => {
                    self.end_locked(&mut state, LossReason::Taken);
                }
                Some(Err(error)) if !error.may_have_been_applied() => {
                    self.link_for_retry(&mut state, now);
                }
                Some(Err(_)) | None => {
                    state.uncertain = true;
                    self.link_for_retry(&mut state, now);
                }
            }
        }
        self.end_if_closed();
    }

    /// The renewal was dropped without an answer: its backend panicked, or its runtime ended.
    pub(crate) fn renewal_dropped(self: &Arc<Self>, since: Moment) {
        // As in `link`.
        let _call = self.store.call();
        observe::renewed(&self.key, outcome_of(None));
        let mut now = since;
        observe::contained(|| now = Moment::now());
        {
            let mut state = self.state();
            state.operated();
            (state.alone, state.uncertain) = (true, true);
            self.link_for_retry(&mut state, now);
        }
        self.end_if_closed();
    }

    /// Links the lease for another try at a renewal that failed, several times within what remains.
    fn link_for_retry(self: &Arc<Self>, state: &mut Locked<'_>, now: Moment) {
        let ttl = self.terms.ttl();
        let interval = self.terms.interval(ttl).unwrap_or(Duration::MAX);
        let least = RETRY_PAUSE.max(nth(ttl, 100));
        let remaining = state.remaining(&self.terms, now);
        let pause = nth(remaining, 8).min(nth(interval, 4)).max(least);
        // Of many that failed together, many are tried again together.
        let slack = nth(pause, 4).min(pause.saturating_sub(least));
        self.link_locked(state, now, pause, slack);
    }
}
