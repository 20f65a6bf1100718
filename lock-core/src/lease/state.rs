//! What is known of a lease. Plain arithmetic on moments; nothing here acts.

use std::time::Duration;

use crate::clock::Moment;
use crate::error::LossReason;
use crate::policy::{Terms, validity};
use crate::renewer::Link;

/// What is known of one lease.
pub(super) struct State {
    pub(super) granted: Moment,
    /// The entry lasts at least until `asked + ttl`, and its holder believes in it until `asked + validity(ttl)`.
    pub(super) asked: Moment,
    pub(super) ttl: Duration,
    /// The deadline may not rise any more, because an old request to shorten the entry may yet arrive.
    pub(super) frozen: bool,
    /// The last operation was not answered.
    pub(super) uncertain: bool,
    pub(super) progress: Moment,
    pub(super) ended: Option<LossReason>,
    /// The entry was released, or is left to its ttl on purpose: nothing more is sent.
    pub(super) closed: bool,
    pub(super) link: Option<Link>,
}

impl State {
    pub(super) fn remaining(&self, terms: &Terms, now: Moment) -> Duration {
        if self.ended.is_some() {
            return Duration::ZERO;
        }
        left(validity(self.ttl), &self.asked, &now).min(self.hold_left(terms, now))
    }

    pub(super) fn hold_left(&self, terms: &Terms, now: Moment) -> Duration {
        match terms.renewal.hold_limit() {
            Some(limit) => left(limit, &self.granted, &now),
            None => Duration::MAX,
        }
    }

    pub(super) fn is_stuck(&self, terms: &Terms, now: Moment) -> bool {
        terms
            .renewal
            .progress_period()
            .is_some_and(|period| self.progress.until(&now) > period)
    }
}

/// What is left of `of`, which began at `since`.
pub(super) fn left(of: Duration, since: &Moment, now: &Moment) -> Duration {
    of.saturating_sub(since.until(now))
}
