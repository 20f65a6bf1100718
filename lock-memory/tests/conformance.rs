//! lock-memory keeps every promise of a backend, in virtual time and, across threads, in real time.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_core::{BackendError, ForceRelease, LockKey, PassingOn};
use lock_memory::{MemoryBackend, lock_core};
use lock_testkit::{Fixture, Gap};

const ENDLESS: u16 = u16::MAX;

/// In virtual time or not, and passed on so many times, within an hour or the default time.
struct Memory<const PAUSED: bool, const TIMES: u16 = 64> {
    store: MemoryBackend,
    /// All that were made, to be cut off together.
    clients: Mutex<Vec<MemoryBackend>>,
    is_stopped: AtomicBool,
}

fn refuse(client: &MemoryBackend) {
    client.fail_until_healed(BackendError::transient("connection refused"));
}

impl<const PAUSED: bool, const TIMES: u16> Fixture for Memory<PAUSED, TIMES> {
    type Backend = MemoryBackend;
    const PAUSED: bool = PAUSED;
    const PASSING_ON: PassingOn = match TIMES {
        ENDLESS => PassingOn::at_most(ENDLESS).within(Duration::from_secs(3600)),
        times => PassingOn::at_most(times),
    };
    // It keeps no line, and nothing but locks, in the memory of one process, which it ends with: no connection leads there.
    const GAPS: &[Gap] = &[
        Gap::Order,
        Gap::SurvivesRestart,
        Gap::Obstruct,
        Gap::Restart,
        Gap::CutConnections,
        Gap::Processes,
    ];

    async fn start() -> Self {
        Self {
            store: MemoryBackend::new(),
            clients: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        }
    }

    async fn client(&self) -> MemoryBackend {
        let client = self.store.client();
        if self.is_stopped.load(Ordering::SeqCst) {
            refuse(&client);
        }
        self.clients.lock().unwrap().push(client.clone());
        client
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.store.evict(key.as_str());
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        self.store.expire(key.as_str());
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        Some(Arc::new(self.store.client()))
    }

    /// To those who ask, a store that refuses them.
    async fn stop(&self) -> bool {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.clients.lock().unwrap().iter().for_each(refuse);
        true
    }

    /// To those who ask, a store that they are cut off from.
    async fn stall(&self, stalled: bool) -> bool {
        for client in self.clients.lock().unwrap().iter() {
            if stalled {
                client.partition();
            } else {
                client.heal();
            }
        }
        true
    }
}

mod paused {
    lock_testkit::conformance!(super::Memory<true>);
}

mod never_passed_on {
    lock_testkit::conformance!(super::Memory<true, 0>);
}

mod passed_on_for_long {
    lock_testkit::conformance!(super::Memory<true, { super::ENDLESS }>);
}

mod real_time {
    lock_testkit::conformance!(super::Memory<false>);
}
