//! The honest store keeps every promise: the model and the cases agree.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{BackendCall, BackendError, ForceRelease, LockBackend as _, LockKey, Observed};
use lock_testkit::{Effect, Fixture, Gap, Op, Scripted};

/// With `LATENCY` the clients are a network away: their calls can be dropped halfway, and each of them takes twice that.
struct Honest<const LATENCY: u64>(Scripted);

impl<const LATENCY: u64> Fixture for Honest<LATENCY> {
    type Backend = Scripted;
    const PAUSED: bool = true;
    const GAPS: &[Gap] = &[
        Gap::SurvivesRestart,
        Gap::Obstruct,
        Gap::Restart,
        Gap::Stall,
        Gap::CutConnections,
        Gap::Processes,
    ];

    async fn start() -> Self {
        Self(in_order().with_latency(Duration::from_millis(LATENCY)))
    }

    async fn client(&self) -> Scripted {
        self.0.clone()
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.0.evict(key.as_str());
        true
    }

    async fn stop(&self) -> bool {
        refuse_all(&self.0);
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        self.0.expire(key.as_str());
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        Some(Arc::new(self.0.inner().clone()))
    }
}

/// A backend around a backend is one; and a store that counts in whole seconds, as its fixture says, keeps every promise.
struct Watched(Scripted);

impl Fixture for Watched {
    type Backend = Observed<Scripted>;
    const PAUSED: bool = true;
    const RESOLUTION: Duration = Duration::from_secs(1);
    // What ends there, ends by itself.
    const GAPS: &[Gap] = &[
        Gap::SurvivesRestart,
        Gap::Expire,
        Gap::Obstruct,
        Gap::Restart,
        Gap::Stall,
        Gap::CutConnections,
        Gap::Processes,
    ];

    async fn start() -> Self {
        let store = in_order();
        store
            .inner()
            .with_model(|model| model.set_resolution(Self::RESOLUTION));
        Self(store)
    }

    async fn client(&self) -> Self::Backend {
        Observed::new(self.0.clone(), |_: &BackendCall<'_>| {})
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.0.evict(key.as_str());
        true
    }

    async fn stop(&self) -> bool {
        refuse_all(&self.0);
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        Some(Arc::new(self.0.inner().clone()))
    }
}

/// With a line of waiters.
fn in_order() -> Scripted {
    let store = Scripted::honest();
    let capabilities = store.capabilities().with_order(true);
    store.with_capabilities(capabilities)
}

fn refuse_all(store: &Scripted) {
    for op in Op::ALL {
        let error = BackendError::transient("connection refused");
        store.on(op).always(Effect::FailBefore(error));
    }
}

mod observed {
    lock_testkit::conformance!(super::Watched);
}

mod near {
    lock_testkit::conformance!(super::Honest<0>);
}

mod far {
    lock_testkit::conformance!(super::Honest<150>);
}
