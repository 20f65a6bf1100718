//! What the renewer does with a lease whose turn has come. Not the list of turns: that is the renewer's.

use std::sync::Arc;
use std::time::Duration;

use super::state::{Locked, left};
use super::{Lease, Operation, RETRY_PAUSE, SIGNAL_LEAD};
use crate::clock::Moment;
use crate::line::Head;
use crate::policy::{nth, part_of};
use crate::renewer::Link;

/// What the renewer is to do about a lease whose turn has come.
pub(crate) enum Turn {
    /// Renew the entry for `ttl`, and take no answer within `limit` for unknown.
    Renew {
        operation: Operation,
        ttl: Duration,
        limit: Duration,
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
            let (due, slack) = self.next_renewal(ttl, 0.5, age);
            self.link_locked(&mut state, now, due, slack);
        }
        self.end_if_closed();
    }

    /// Links the lease for its next renewal, now that its entry was confirmed by a call that still counts.
    pub(super) fn link_for_renewal(self: &Arc<Self>, earliest: f64) {
        let ttl = self.state().ttl;
        let (due, slack) = self.next_renewal(ttl, earliest, Duration::ZERO);
        self.link_at(Moment::now(), due, slack);
    }

    /// When it is to be renewed next, counted from `age` after its entry was confirmed, and how much sooner it may be.
    fn next_renewal(&self, ttl: Duration, earliest: f64, age: Duration) -> (Duration, Duration) {
        let terms = self.terms();
        let ttl = ttl.min(terms.ttl);
        let interval = terms.renewal.interval(ttl).unwrap_or(Duration::MAX);
        let share = earliest + (1.0 - earliest) * fastrand::f64();
        let due = part_of(interval, share).saturating_sub(age);
        // Early by a sixteenth is early enough to be sent together with others.
        (due, nth(interval, 16))
    }

    /// Links the lease `after` from now, or at its deadline if that comes first.
    pub(crate) fn link(self: &Arc<Self>, after: Duration, slack: Duration) {
        // A shutdown waits for a lease that is between two places in the list.
        let _call = self.store.call();
        self.link_at(Moment::now(), after, slack);
    }

    /// Whoever calls this counts as a call, for a shutdown to wait for.
    fn link_at(self: &Arc<Self>, now: Moment, after: Duration, slack: Duration) {
        self.link_locked(&mut self.state(), now, after, slack);
        self.end_if_closed();
    }

    /// Closed meanwhile: the shutdown may not have seen it in the list.
    fn end_if_closed(self: &Arc<Self>) {
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
            .remaining(&self.terms(), now)
            .saturating_sub(SIGNAL_LEAD);
        let slack = if after < deadline {
            slack
        } else {
            Duration::ZERO
        };
        state.link = Some(self.renewer.link(self, now, after.min(deadline), slack));
    }

    /// What to do now that the renewer came to this lease.
    pub(crate) fn turn(self: &Arc<Self>, link: Link) -> Turn {
        let mut state = self.state();
        let now = Moment::now();
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
        let remaining = state.remaining(&self.terms(), now);
        let current = state.ttl.min(self.terms().ttl);
        let Some(interval) = self.terms().renewal.interval(current) else {
            return Turn::Wait(remaining);
        };
        if state.frozen {
            return Turn::Wait(remaining);
        }
        if state.is_stuck(&self.terms(), now) {
            return Turn::Wait(nth(interval, 4));
        }
        let Some(operation) = Operation::begin(self, &mut state) else {
            return Turn::Wait(nth(interval, 4));
        };
        let ttl = self.terms().ttl.max(left(state.ttl, &state.asked, &now));
        // A renewal that hangs leaves time for another before the deadline.
        let spare = nth(current.saturating_sub(interval), 2);
        let limit = self.terms().op_timeout.min(spare);
        Turn::Renew {
            operation,
            ttl,
            limit,
            alone: std::mem::take(&mut state.alone),
        }
    }

    /// Links the lease for another try at a renewal that failed, several times within what remains.
    pub(super) fn link_for_retry(self: &Arc<Self>) {
        let interval = self
            .terms()
            .renewal
            .interval(self.terms().ttl)
            .unwrap_or(Duration::MAX);
        let least = RETRY_PAUSE.max(nth(self.terms().ttl, 100));
        let pause = nth(self.remaining(), 8).min(nth(interval, 4)).max(least);
        self.link(pause, Duration::ZERO);
    }
}
