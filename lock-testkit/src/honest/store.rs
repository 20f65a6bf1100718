//! The model as a backend: behind a mutex, with wake-ups.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Capabilities, ForceRelease, Forced,
    Holder, LockBackend, LockKey, Owner, Ownership, Place, RenewRequest, Wakeup, Wakeups,
};

use super::Honest;
use crate::faulty::{Subscribers, Subscription};

/// A store in memory that answers at once and keeps every promise: the [`Honest`] model as a backend. Clones share it.
///
/// [`Scripted`](crate::Scripted) puts it behind a script. By itself it is what a wrong backend is made from.
#[derive(Clone)]
pub struct HonestStore(Arc<Mutex<State>>);

struct State {
    model: Honest,
    capabilities: Capabilities,
    subscribers: Subscribers,
}

impl HonestStore {
    /// An empty store, which can all but keep a line of waiters, until it is declared, and survive a restart.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            model: Honest::new(),
            capabilities: Capabilities::new()
                .with_fencing(true)
                .with_wakeups(true)
                .with_hand_over(true)
                .with_any_ttl(true),
            subscribers: Subscribers::default(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn set_capabilities(&self, capabilities: Capabilities) {
        let mut state = self.state();
        state.capabilities = capabilities;
        state.model.set_fencing(capabilities.fencing);
        state.model.set_order(capabilities.order);
    }

    /// Gives the model to `look`, which may change it behind the clients' backs.
    pub fn with_model<T>(&self, look: impl FnOnce(&mut Honest) -> T) -> T {
        look(&mut self.state().model)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for HonestStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HonestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HonestStore").finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for HonestStore {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        let mut state = self.state();
        if request.from.is_some() && !state.capabilities.hand_over {
            let kind = BackendErrorKind::Unsupported;
            return Err(BackendError::new(kind, "no hand-over here"));
        }
        Ok(state.model.try_acquire(&request))
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let mut state = self.state();
        let answers = renewals.iter().map(|renewal| state.model.renew(renewal));
        answers.map(Ok).collect()
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        let mut state = self.state();
        let answer = state.model.release(key.as_str(), owner);
        if answer == Ownership::Held {
            state.subscribers.wake(key.as_str());
        }
        Ok(answer)
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        Ok(self.state().model.inspect(key.as_str()))
    }

    fn capabilities(&self) -> Capabilities {
        self.state().capabilities
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        if self.capabilities().wakeups {
            Some(Arc::new(self.clone()))
        } else {
            None
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ForceRelease for HonestStore {
    async fn force_release(&self, key: &LockKey) -> Result<Option<Forced>, BackendError> {
        let mut state = self.state();
        let forced = state.model.force_release(key.as_str());
        if forced.is_some() {
            state.subscribers.wake(key.as_str());
        }
        Ok(forced)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Wakeups for HonestStore {
    async fn subscribe(
        &self,
        key: &LockKey,
        place: Option<&Place>,
    ) -> Result<Box<dyn Wakeup>, BackendError> {
        let mut state = self.state();
        let subscription = state.subscribers.add(key);
        let Some(place) = place else {
            return Ok(Box::new(subscription));
        };
        state.model.join(key.as_str(), place);
        Ok(Box::new(InLine {
            store: self.clone(),
            key: key.clone(),
            place: place.clone(),
            subscription,
        }))
    }

    async fn leave(&self, key: &LockKey, place: &Place) -> Result<(), BackendError> {
        self.left(key, place);
        Ok(())
    }
}

impl HonestStore {
    /// Whose turn it is now finds out.
    fn left(&self, key: &LockKey, place: &Place) {
        let mut state = self.state();
        if state.model.leave(key.as_str(), place) {
            state.subscribers.wake(key.as_str());
        }
    }
}

/// The subscription of who stands in line, and leaves it by dropping this.
#[derive(Debug)]
struct InLine {
    store: HonestStore,
    key: LockKey,
    place: Place,
    subscription: Subscription,
}

#[async_trait]
impl Wakeup for InLine {
    async fn notified(&mut self) {
        self.subscription.notified().await;
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.store.left(&self.key, &self.place);
    }
}
