//! lock-memory keeps every promise of a backend, in virtual time and, across threads, in real time.

use std::sync::Arc;

use lock_core::{ForceRelease, LockKey};
use lock_memory::{MemoryBackend, lock_core};
use lock_testkit::{Fixture, Gap};

struct Memory<const PAUSED: bool>(MemoryBackend);

impl<const PAUSED: bool> Fixture for Memory<PAUSED> {
    type Backend = MemoryBackend;
    const PAUSED: bool = PAUSED;
    const GAPS: &[Gap] = &[
        Gap::Order,
        Gap::SurvivesRestart,
        Gap::Obstruct,
        Gap::Restart,
        Gap::Stop,
        Gap::Stall,
        Gap::CutConnections,
    ];

    async fn start() -> Self {
        Self(MemoryBackend::new())
    }

    async fn client(&self) -> MemoryBackend {
        self.0.client()
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.0.evict(key.as_str());
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        self.0.expire(key.as_str());
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        Some(Arc::new(self.0.client()))
    }
}

mod paused {
    lock_testkit::conformance!(super::Memory<true>);
}

mod real_time {
    lock_testkit::conformance!(super::Memory<false>);
}
