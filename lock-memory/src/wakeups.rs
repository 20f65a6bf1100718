//! Subscriptions to wake-ups. Not a line of waiters: this store serves them in no order.

use std::fmt;

use async_trait::async_trait;
use lock_core::{BackendError, LockKey, Place, Wakeup, Wakeups};
use tokio::sync::watch;

use crate::backend::MemoryBackend;
use crate::store::Store;

/// The subscriptions of one key. There is one exactly as long as somebody subscribes to the key.
pub(crate) struct Watched {
    /// Changes with each wake-up; a receiver notices also a change from before it looked.
    changes: watch::Sender<()>,
    /// Counted under the shard's mutex, which a receiver's own drop would not be.
    subscriptions: usize,
}

impl Store {
    /// Wakes all who subscribe to `key`.
    pub(crate) fn wake(&self, key: &LockKey) {
        let told = self.shard(key).told(key);
        told.tell();
    }
}

/// Those who subscribe to a key, if there are any.
#[must_use = "nobody is woken before this is told"]
pub(crate) struct Told(Option<watch::Sender<()>>);

impl Told {
    pub(crate) fn of(watched: Option<&Watched>) -> Self {
        Self(watched.map(|watched| watched.changes.clone()))
    }

    /// Wakes them. Not under a mutex: wakers are somebody else's code.
    pub(crate) fn tell(self) {
        if let Some(changes) = self.0 {
            changes.send_replace(());
        }
    }
}

#[async_trait]
impl Wakeups for MemoryBackend {
    async fn subscribe(
        &self,
        key: &LockKey,
        _place: Option<&Place>,
    ) -> Result<Box<dyn Wakeup>, BackendError> {
        self.network.call(|| self.watch(key)).await
    }

    async fn leave(&self, _key: &LockKey, _place: &Place) -> Result<(), BackendError> {
        Ok(())
    }
}

impl MemoryBackend {
    fn watch(&self, key: &LockKey) -> Box<dyn Wakeup> {
        let mut shard = self.store.shard(key);
        let watched = shard.watched.entry(key.clone()).or_insert_with(|| Watched {
            changes: watch::Sender::new(()),
            subscriptions: 0,
        });
        watched.subscriptions = watched.subscriptions.saturating_add(1);
        let changes = watched.changes.subscribe();
        drop(shard);
        Box::new(Subscription {
            backend: self.clone(),
            key: key.clone(),
            changes,
        })
    }
}

struct Subscription {
    backend: MemoryBackend,
    key: LockKey,
    changes: watch::Receiver<()>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Wakeup for Subscription {
    async fn notified(&mut self) {
        // A copy looks, so that a wake-up which is held up is not used up by a wait that is dropped.
        if self.changes.clone().changed().await.is_err() {
            // The sender lives as long as its last subscription, so this is never reached.
            std::future::pending().await
        }
        self.backend.network.connected().await;
        self.changes.mark_unchanged();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut shard = self.backend.store.shard(&self.key);
        let left = shard.watched.get_mut(&self.key).map(|watched| {
            watched.subscriptions = watched.subscriptions.saturating_sub(1);
            watched.subscriptions
        });
        if left == Some(0) {
            shard.watched.remove(&self.key);
        }
    }
}
