//! Subscriptions: those of a store in memory, and those that a test wakes or keeps from waking.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use lock_core::{BackendError, LockKey, Place, Wakeup, Wakeups};
use tokio::sync::Notify;

use super::Way;
use super::request::{Reply, Request};

/// Who subscribes to what, as the side that wakes knows it.
#[derive(Debug, Default)]
pub(crate) struct Subscribers(Vec<Subscriber>);

/// Dead once the subscriber has dropped its own.
#[derive(Debug)]
struct Subscriber {
    key: String,
    notify: Weak<Notify>,
}

impl Subscribers {
    pub(crate) fn add(&mut self, key: &LockKey) -> Subscription {
        let notify = Arc::new(Notify::new());
        self.0.retain(|one| one.notify.strong_count() > 0);
        self.0.push(Subscriber {
            key: key.as_str().to_owned(),
            notify: Arc::downgrade(&notify),
        });
        Subscription(notify)
    }

    pub(crate) fn wake(&self, key: &str) {
        self.0
            .iter()
            .filter(|one| one.key == key)
            .filter_map(|one| one.notify.upgrade())
            .for_each(|notify| notify.notify_one());
    }

    pub(crate) fn alive(&self) -> usize {
        self.0
            .iter()
            .filter(|one| one.notify.strong_count() > 0)
            .count()
    }
}

#[derive(Debug)]
pub(crate) struct Subscription(Arc<Notify>);

#[async_trait]
impl Wakeup for Subscription {
    async fn notified(&mut self) {
        self.0.notified().await;
    }
}

/// A subscription at the backend inside.
#[derive(Debug)]
struct FaultyWakeup {
    inner: Box<dyn Wakeup>,
    of_test: Subscription,
    way: Arc<Way>,
}

impl Way {
    /// Notes a subscription that has come into force.
    pub(super) fn subscribed(
        self: &Arc<Self>,
        key: &LockKey,
        inner: Box<dyn Wakeup>,
    ) -> Box<dyn Wakeup> {
        let of_test = self.state().subscribers.add(key);
        Box::new(FaultyWakeup {
            inner,
            of_test,
            way: Arc::clone(self),
        })
    }
}

#[async_trait]
impl Wakeup for FaultyWakeup {
    async fn notified(&mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.of_test.notified() => return,
                () = self.inner.notified() => if !self.way.state().loses_wakeups {
                    return;
                },
            }
        }
    }
}

/// How a [`Faulty`](crate::Faulty) backend wakes.
#[derive(Debug)]
pub(super) struct FaultyWakeups(pub(super) Arc<Way>);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Wakeups for FaultyWakeups {
    async fn subscribe(
        &self,
        key: &LockKey,
        place: Option<&Place>,
    ) -> Result<Box<dyn Wakeup>, BackendError> {
        let request = Request::Subscribe {
            key: key.clone(),
            place: place.cloned(),
        };
        match self.0.call(request).await {
            Reply::Subscribe(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }

    async fn leave(&self, key: &LockKey, place: &Place) -> Result<(), BackendError> {
        let request = Request::Leave {
            key: key.clone(),
            place: place.clone(),
        };
        match self.0.call(request).await {
            Reply::Leave(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }
}
