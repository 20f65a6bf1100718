//! The honest store keeps every promise: the model and the cases agree.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{BackendCall, BackendError, ForceRelease, LockBackend as _, LockKey, Observed};
use lock_testkit::{Effect, Fixture, Gap, Op, Scripted};

/// With `LATENCY` the clients are a network away, so that their calls can be dropped halfway.
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
        let store = Scripted::honest();
        let capabilities = store.capabilities().with_order(true);
        let store = store.with_capabilities(capabilities);
        Self(store.with_latency(Duration::from_millis(LATENCY)))
    }

    async fn client(&self) -> Scripted {
        self.0.clone()
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.0.evict(key.as_str());
        true
    }

    async fn stop(&self) -> bool {
        for op in Op::ALL {
            let error = BackendError::transient("connection refused");
            self.0.on(op).always(Effect::FailBefore(error));
        }
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

/// A backend around a backend is one.
struct Watched(Scripted);

impl Fixture for Watched {
    type Backend = Observed<Scripted>;
    const PAUSED: bool = true;
    const GAPS: &[Gap] = &[
        Gap::Order,
        Gap::SurvivesRestart,
        Gap::Expire,
        Gap::Obstruct,
        Gap::Restart,
        Gap::Stop,
        Gap::Stall,
        Gap::CutConnections,
        Gap::Processes,
    ];

    async fn start() -> Self {
        Self(Scripted::honest())
    }

    async fn client(&self) -> Self::Backend {
        Observed::new(self.0.clone(), |_: &BackendCall<'_>| {})
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.0.evict(key.as_str());
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        Some(Arc::new(self.0.inner().clone()))
    }
}

mod observed {
    lock_testkit::conformance!(super::Watched);
}

mod near {
    lock_testkit::conformance!(super::Honest<0>);
}

mod far {
    lock_testkit::conformance!(super::Honest<2>);
}
