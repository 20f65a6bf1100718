//! Subscriptions of the scripted backend.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use lock_core::{BackendError, LockKey, Place, Wakeup, Wakeups};
use tokio::sync::Notify;

use super::Scripted;
use super::request::{Reply, Request};

/// A subscription as the backend keeps it; dead once the subscriber has dropped its own.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) key: String,
    notify: Weak<Notify>,
}

impl Subscribed {
    pub(super) fn is_alive(&self) -> bool {
        self.notify.strong_count() > 0
    }

    pub(super) fn wake(&self) {
        if let Some(notify) = self.notify.upgrade() {
            notify.notify_one();
        }
    }
}

#[derive(Debug)]
struct Subscription(Arc<Notify>);

#[async_trait]
impl Wakeup for Subscription {
    async fn notified(&mut self) {
        self.0.notified().await;
    }
}

pub(super) fn subscription(key: &LockKey) -> (Subscribed, Box<dyn Wakeup>) {
    let notify = Arc::new(Notify::new());
    let kept = Subscribed {
        key: key.as_str().to_owned(),
        notify: Arc::downgrade(&notify),
    };
    (kept, Box::new(Subscription(notify)))
}

#[async_trait]
impl Wakeups for Scripted {
    async fn subscribe(
        &self,
        key: &LockKey,
        place: Option<&Place>,
    ) -> Result<Box<dyn Wakeup>, BackendError> {
        let request = Request::Subscribe {
            key: key.clone(),
            place: place.cloned(),
        };
        match self.call(request).await {
            Reply::Subscribe(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }

    async fn leave(&self, key: &LockKey, place: &Place) -> Result<(), BackendError> {
        match self
            .call(Request::Leave {
                key: key.clone(),
                place: place.clone(),
            })
            .await
        {
            Reply::Leave(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }
}
