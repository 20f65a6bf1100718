//! What happens to a call on its way to the honest store and back.

use std::collections::VecDeque;
use std::time::Duration;

use lock_core::BackendError;

use super::{Op, Scripted};

/// What happens to one call.
///
/// If the caller drops its future, what was not yet applied never is, except with
/// [`DelayBeforeDetached`](Self::DelayBeforeDetached).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Effect {
    /// Applied and answered truthfully: for a queue such as "the second one fails".
    Honest,
    /// Waits for the test's answer: see [`Scripted::next_call`].
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
    /// Applied after the delay *even if the caller drops its future before*: a request that is stuck in the
    /// network. It counts from the first poll, and runs on the caller's runtime.
    DelayBeforeDetached(Duration),
    /// Applied at once, answered after the delay.
    DelayAfter(Duration),
    /// Applied after the delay, answered after as much again.
    DelayBoth(Duration),
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
    pub(super) fn take(&mut self) -> Effect {
        self.next
            .pop_front()
            .or_else(|| self.always.clone())
            .unwrap_or(Effect::Honest)
    }
}

/// The script of one method of a [`Scripted`] backend: see [`Scripted::on`].
#[derive(Debug)]
pub struct Script<'a> {
    pub(super) backend: &'a Scripted,
    pub(super) op: Op,
}

impl Script<'_> {
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

    /// From now on every call is answered honestly.
    pub fn clear(&self) -> &Self {
        self.change(|plan| *plan = Plan::default());
        self
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        change(self.backend.state().plans.entry(self.op).or_default());
    }
}
