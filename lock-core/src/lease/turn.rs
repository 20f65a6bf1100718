//! What the renewer does with a lease whose turn has come. Not the list of turns: that is the renewer's.

use std::sync::Arc;
use std::time::Duration;

use super::state::left;
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
    /// Links the lease for its first renewal, or for its deadline. Whoever calls this counts as a call, for a shutdown to wait for.
    pub(crate) fn start_renewing(self: &Arc<Self>, now: Moment) {
        let (ttl, age) = {
            let state = self.state();
            (state.ttl, state.asked.until(&now))
        };
        // From half the interval on, so that locks taken together are not renewed together.
        self.link_for_renewal_of(ttl, 0.5, age, now);
    }

    /// Links the lease for its next renewal, now that its entry was confirmed by a call that still counts.
    pub(super) fn link_for_renewal(self: &Arc<Self>, earliest: f64) {
        let ttl = self.state().ttl;
        self.link_for_renewal_of(ttl, earliest, Duration::ZERO, Moment::now());
    }

    fn link_for_renewal_of(
        self: &Arc<Self>,
        ttl: Duration,
        earliest: f64,
        age: Duration,
        now: Moment,
    ) {
        let ttl = ttl.min(self.terms().ttl);
        let interval = self.terms().renewal.interval(ttl).unwrap_or(Duration::MAX);
        let share = earliest + (1.0 - earliest) * fastrand::f64();
        let due = part_of(interval, share).saturating_sub(age);
        // Early by a sixteenth is early enough to be sent together with others.
        self.link_at(now, due, nth(interval, 16));
    }

    /// Links the lease `after` from now, or at its deadline if that comes first.
    pub(crate) fn link(self: &Arc<Self>, after: Duration, slack: Duration) {
        // A shutdown waits for a lease that is between two places in the list.
        let _call = self.store.call();
        self.link_at(Moment::now(), after, slack);
    }

    /// Whoever calls this counts as a call, for a shutdown to wait for.
    fn link_at(self: &Arc<Self>, now: Moment, after: Duration, slack: Duration) {
        self.link_anew(now, after, slack);
        if self.store.is_closed() {
            // Closed meanwhile: the shutdown may not have seen it in the list.
            self.shut_down();
        }
    }

    fn link_anew(self: &Arc<Self>, now: Moment, after: Duration, slack: Duration) {
        let mut state = self.state();
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
