//! What happens to a call on its way to the store and back.

use std::collections::VecDeque;
use std::time::Duration;

use lock_core::BackendError;

use super::{Op, Way};

/// What happens to one call.
///
/// If the caller drops its future, what was not yet applied never is, except where it says otherwise. Delays count from the
/// first poll; what outlives the caller runs on the caller's runtime, and ends with it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Effect {
    /// Applied and answered truthfully: for a queue such as "the second one fails".
    Honest,
    /// Waits for the test, which answers it or applies it late: see [`Faulty::next_call`](crate::Faulty::next_call).
    Ask,
    /// Not applied; answered with the error.
    FailBefore(BackendError),
    /// Applied; answered with the error.
    LoseReply(BackendError),
    /// Not applied, never answered.
    HangBefore,
    /// Applied, never answered.
    HangAfter,
    /// Applied after the delay, then answered.
    DelayBefore(Duration),
    /// Applied after the delay *even if the caller drops its future before*: a request that is stuck in the network.
    DelayBeforeDetached(Duration),
    /// Applied at once, answered after the delay.
    DelayAfter(Duration),
    /// Applied after the delay, answered after as much again.
    DelayBoth(Duration),
    /// Applied twice, as if the client had lost its connection and sent the request again; answered like the second time.
    Resend,
    /// Applied and answered truthfully; a copy of the request is kept for the test, which
    /// [applies](crate::Call::apply) it when it likes: see [`Faulty::next_call`](crate::Faulty::next_call).
    Copy,
    /// Not applied; the call panics.
    Panic,
}

/// The effects on one method, in the order of the calls.
#[derive(Debug, Default)]
pub(super) struct Plan {
    next: VecDeque<Effect>,
    always: Option<Effect>,
}

impl Plan {
    pub(super) fn take(&mut self) -> Option<Effect> {
        self.next.pop_front().or_else(|| self.always.clone())
    }
}

/// The script of one method: see [`Faulty::on`](crate::Faulty::on).
#[derive(Debug)]
pub struct Script<'a> {
    pub(super) way: &'a Way,
    pub(super) op: Op,
    pub(super) key: Option<String>,
}

impl Script<'_> {
    /// The script of the calls about one key (the whole key, prefix included), which go before those about any. A
    /// batch of renewals is one call: it meets the effect of its first key that has one.
    #[must_use]
    pub fn of(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Queues `effect` for one call, after those that are queued already.
    pub fn next(&self, effect: Effect) -> &Self {
        self.change(|plan| plan.next.push_back(effect));
        self
    }

    /// Sets `effect` for every call for which nothing is queued.
    pub fn always(&self, effect: Effect) -> &Self {
        self.change(|plan| plan.always = Some(effect));
        self
    }

    /// From now on nothing happens to these calls.
    pub fn clear(&self) -> &Self {
        self.change(|plan| *plan = Plan::default());
        self
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        let mut state = self.way.state();
        change(state.plans.entry((self.op, self.key.clone())).or_default());
    }
}
