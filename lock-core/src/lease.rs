//! One lease: what the store granted to one owner, from the grant to the end. Not who in this process holds it, and
//! not when it is renewed: that is the renewer's.

use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backend::{Holder, LockBackend, Renew};
use crate::clock::{Deadline, Moment};
use crate::error::{BackendError, LockError, LossReason};
use crate::fencing::FencingRange;
use crate::key::LockKey;
use crate::line::Spot;
use crate::owner::Owner;
use crate::policy::{Terms, validity};
use crate::renewer::Renewer;
use crate::store::Store;
use crate::timer;

mod close;
mod operation;
mod passing;
mod state;
mod turn;

pub use close::Released;
use passing::Series;
use state::{Locked, State, left};
pub(crate) use turn::Turn;

/// A loss is told this much before the deadline, because timers are as late as this.
const SIGNAL_LEAD: Duration = Duration::from_millis(1);

/// No retry of a renewal comes sooner.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Lease {
    store: Arc<Store>,
    renewer: Arc<Renewer>,
    key: LockKey,
    owner: Owner,
    /// The guard's own token is the first; the rest is for those that it may be passed on to.
    fencing: Option<FencingRange>,
    series: Series,
    terms: Terms,
    /// Told when the lease ended, when its deadline fell, and when an operation that somebody waits for is over. There as soon
    /// as somebody waited for that.
    changed: OnceLock<Box<Notify>>,
    state: Mutex<State>,
}

impl AsRef<Store> for Arc<Lease> {
    fn as_ref(&self) -> &Store {
        &self.store
    }
}

impl Lease {
    /// A lease whose request was sent at `asked` and answered at `now`. Not linked to its renewer yet.
    #[allow(clippy::too_many_arguments, reason = "what a grant consists of")]
    pub(crate) fn new(
        store: Arc<Store>,
        renewer: Arc<Renewer>,
        key: LockKey,
        owner: Owner,
        fencing: Option<FencingRange>,
        terms: Terms,
        asked: Moment,
        now: Moment,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            renewer,
            key,
            owner,
            fencing,
            series: Series::new(now),
            terms,
            changed: OnceLock::new(),
            state: Mutex::new(State::new(asked, terms.ttl(), asked)),
        })
    }

    pub(crate) fn key(&self) -> &LockKey {
        &self.key
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(crate) fn fencing(&self) -> Option<FencingRange> {
        self.fencing
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(crate) fn backend(&self) -> &dyn LockBackend {
        &*self.store.backend
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// That of the runtime on which it was taken.
    pub(crate) fn renewer(&self) -> &Arc<Renewer> {
        &self.renewer
    }

    fn state(&self) -> Locked<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Locked::new(state, &self.changed)
    }

    fn take_spot(&self, state: &mut State) -> Option<Spot> {
        Spot::of(&self.store, &self.key, std::mem::take(&mut state.turn))
    }

    // What the holder may believe.

    /// How long the holder may believe in the lease yet: zero if it ended, for whatever reason. No I/O, and right even
    /// if no task of ours has run since the grant.
    pub(crate) fn remaining(&self) -> Duration {
        let state = self.state();
        state.remaining(&self.terms, Moment::now())
    }

    /// The same, or how the lease ended. An end that only the clock knows of is noted.
    pub(crate) fn check(&self) -> Result<Duration, LossReason> {
        let mut state = self.state();
        let now = Moment::now();
        self.note_deadline(&mut state, now);
        match state.ended {
            Some(reason) => Err(reason),
            None => Ok(state.remaining(&self.terms, now)),
        }
    }

    /// Until when those who stand in line wait for it: while it is held, until its end, and if its release was begun, no longer
    /// than for the answer to that.
    pub(crate) fn deadline(&self) -> Deadline {
        self.state().deadline
    }

    /// What others hear of the holder while there is one, or is about to be one again.
    pub(crate) fn as_holder(&self) -> Option<Holder> {
        let state = self.state();
        let now = Moment::now();
        let is_on_its_way = state.on_offer && !state.deadline.left(&now).is_zero();
        if state.remaining(&self.terms, now).is_zero() && !is_on_its_way {
            return None;
        }
        let holder = Holder::new()
            .with_label(self.owner.label().map(str::to_owned))
            .with_remaining(Some(left(state.ttl, &state.asked, &now)))
            .with_fencing(self.fencing.map(|range| range.last()));
        Some(holder)
    }

    /// Resolves when the lease ended, with the reason.
    pub(crate) async fn ended(&self) -> LossReason {
        // Before the first look: who ends the lease after that finds it.
        let news = self.changed.get_or_init(Box::default);
        loop {
            let changed = pin!(news.notified());
            match self.check() {
                Err(reason) => return reason,
                Ok(remaining) => {
                    timer::timeout(remaining.saturating_sub(SIGNAL_LEAD), changed).await;
                }
            }
        }
    }

    pub(crate) fn checkpoint(self: &Arc<Self>) {
        let now = Moment::now();
        let was_stuck = {
            let mut state = self.state();
            let was_stuck = state.is_stuck(&self.terms, now);
            match &mut state.progress {
                Some(progress) => **progress = now,
                None => state.progress = Some(Box::new(now)),
            }
            was_stuck
        };
        if was_stuck {
            // The next look might come after the deadline.
            self.link(Duration::ZERO, Duration::ZERO);
        }
    }

    // How it ends.

    /// Ends the lease for its holder. The first reason stays.
    pub(crate) fn end(&self, reason: LossReason) {
        self.end_locked(&mut self.state(), reason);
    }

    fn end_locked<'a>(&'a self, state: &mut Locked<'a>, reason: LossReason) {
        if state.ended.is_none() {
            state.end(self, reason);
        }
        if let Some(link) = state.link.take() {
            self.renewer.unlink(link);
        }
    }

    /// Ends the lease if its time is over.
    fn note_deadline<'a>(&'a self, state: &mut Locked<'a>, now: Moment) {
        if state.ended.is_none() && state.remaining(&self.terms, now) <= SIGNAL_LEAD {
            let reason = if state.hold_left(&self.terms, now) <= SIGNAL_LEAD {
                LossReason::HeldTooLong
            } else if state.is_stuck(&self.terms, now) {
                LossReason::NoProgress
            } else {
                LossReason::Unconfirmed
            };
            self.end_locked(state, reason);
        }
    }

    // What it knows of its deadline.

    fn check_held(&self) -> Result<Duration, LockError> {
        self.check().map_err(|reason| LockError::Lost {
            key: self.key.clone(),
            reason,
        })
    }

    fn unanswered(&self, what: &str) -> LockError {
        let source = BackendError::unknown(format!(
            "no answer to {what} within {:?}",
            self.terms.op_timeout()
        ));
        LockError::Unknown {
            key: self.key.clone(),
            source,
        }
    }

    fn uncertain(&self) -> LockError {
        let message = "an earlier operation on this lock was not answered and may yet take effect";
        LockError::Unknown {
            key: self.key.clone(),
            source: BackendError::unknown(message),
        }
    }

    /// The store confirmed that the entry lasts for `ttl` from `asked` on.
    fn confirm(&self, asked: Moment, ttl: Duration) {
        self.confirm_locked(&mut self.state(), Moment::now(), asked, ttl);
    }

    /// The same, now that it is `now`: read while the state is locked, so that whoever found before that it has ended did so
    /// before `now`.
    fn confirm_locked<'a>(
        &'a self,
        state: &mut Locked<'a>,
        now: Moment,
        asked: Moment,
        ttl: Duration,
    ) {
        // What the holder has seen end does not come back.
        self.note_deadline(state, now);
        state.uncertain = false;
        if state.ended.is_some() || state.frozen {
            return;
        }
        (state.asked, state.ttl) = (asked, ttl);
        state.deadline = state.deadline.later(asked.after(validity(ttl)));
    }

    /// The store is about to be asked for an entry of at least `ttl`.
    fn asks(&self, asked: Moment, ttl: Duration) {
        self.state().asks(asked, ttl);
    }

    /// The store has set the entry to `ttl`, no later than now.
    fn shortened(&self, ttl: Duration) {
        let mut state = self.state();
        if !self.store.capabilities.resends {
            state.latest = Moment::now().after(ttl);
        }
    }

    /// The deadline falls to that of `ttl` from `asked` on, before the store is asked for it.
    fn shorten(&self, asked: Moment, ttl: Duration) {
        let mut state = self.state();
        (state.asked, state.ttl) = (asked, ttl);
        state.deadline = state.deadline.earlier(asked.after(validity(ttl)));
        if self.store.capabilities.resends {
            state.frozen = true;
        }
        state.tell();
    }

    /// An operation was not answered.
    fn doubt(&self, how: Renew) {
        let mut state = self.state();
        state.uncertain = true;
        state.frozen |= how == Renew::Exactly;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let turn = std::mem::take(&mut state.turn);
        drop(Spot::of(&self.store, &self.key, turn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever holds a hundred thousand locks has as many of them.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_lease_is_small() {
        assert!(size_of::<Lease>() <= 328, "{}", size_of::<Lease>());
    }
}
