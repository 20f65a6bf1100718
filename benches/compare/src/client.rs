//! What a contestant can do, in its own words. Not what is measured.

use std::future::Future;
use std::time::Duration;

/// Where the server is and how long a grant shall last.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) ttl: Duration,
}

impl Target {
    pub(crate) fn ttl_millis(&self) -> i64 {
        i64::try_from(self.ttl.as_millis()).expect("a short time")
    }
}

/// A contestant: whoever can take a key and give it back. A clone shares what the contestant says is shared.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    /// What it hands out for a key.
    type Held: Send + 'static;

    /// The commands that it sends itself; those that its scripts call are not counted.
    const SENDS: &[&str] = &[];

    fn name() -> String;

    /// A client with a connection of its own to the server.
    fn connect(target: &Target) -> impl Future<Output = Self> + Send;

    /// Takes `key`, and waits as it does if it is busy.
    fn take(&self, key: &str) -> impl Future<Output = Self::Held> + Send;

    fn give_back(&self, held: Self::Held) -> impl Future<Output = ()> + Send;
}

/// Whoever lets contestants take part in a workload.
pub(crate) trait Enter {
    fn enter<C: Client>(&mut self);
}

/// The same contestant once more: how far apart two of the same come out is what the run cannot tell apart.
#[derive(Clone)]
pub(crate) struct Again<C>(C);

impl<C: Client> Client for Again<C> {
    type Held = C::Held;

    const SENDS: &[&str] = C::SENDS;

    fn name() -> String {
        format!("{}, again", C::name())
    }

    async fn connect(target: &Target) -> Self {
        Self(C::connect(target).await)
    }

    async fn take(&self, key: &str) -> C::Held {
        self.0.take(key).await
    }

    async fn give_back(&self, held: C::Held) {
        self.0.give_back(held).await;
    }
}
