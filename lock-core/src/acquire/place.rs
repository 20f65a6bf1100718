//! A waiter's place in the store's line, given up when the waiter goes.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::Place;
use crate::key::LockKey;
use crate::renewer::Renewer;
use crate::store::Store;
use crate::timer;

/// A place in the store's line that is ours. Dropped, it is given up.
pub(super) struct KeptPlace {
    pub(super) place: Place,
    store: Arc<Store>,
    renewer: Arc<Renewer>,
    key: LockKey,
    op_timeout: Duration,
    ours: bool,
}

impl KeptPlace {
    /// What becomes of the place that was kept when the store answers with `given`.
    pub(super) fn update(
        kept: &mut Option<Self>,
        given: Option<Place>,
        store: &Arc<Store>,
        renewer: &Arc<Renewer>,
        key: &LockKey,
        op_timeout: Duration,
    ) {
        match (kept.as_mut(), given) {
            (Some(kept), Some(place)) if kept.place == place => {
                // It may be inherited from a head on another runtime.
                kept.renewer = Arc::clone(renewer);
            }
            (_, Some(place)) => {
                *kept = Some(Self {
                    place,
                    store: Arc::clone(store),
                    renewer: Arc::clone(renewer),
                    key: key.clone(),
                    op_timeout,
                    ours: true,
                });
            }
            (_, None) => Self::spend(kept),
        }
    }

    /// The store has taken the place back.
    pub(super) fn spend(kept: &mut Option<Self>) {
        if let Some(mut kept) = kept.take() {
            kept.ours = false;
        }
    }
}

impl Drop for KeptPlace {
    fn drop(&mut self) {
        let Some(wakeups) = self.store.wakeups.as_ref().filter(|_| self.ours) else {
            return;
        };
        let wakeups = Arc::clone(wakeups);
        let (key, place, op_timeout) = (self.key.clone(), self.place.clone(), self.op_timeout);
        let call = self.store.kept_call();
        self.renewer.runtime().spawn(async move {
            timer::timeout(op_timeout, wakeups.leave(&key, &place)).await;
            drop(call);
        });
    }
}
