//! Backends that are wrong in one respect each, around the honest store.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lock_core::{ForceRelease, LockKey};
use lock_testkit::{Fixture, Gap};

mod attempt;
mod backend;
mod client;
mod flaw;
mod force;
mod reasons;
mod table;
mod wakeups;

use client::Broken;
pub(crate) use flaw::Flaw;
pub(crate) use reasons::Reason;
pub(crate) use table::TABLE;

thread_local! {
    /// The flaw of the backends that this thread starts.
    pub(crate) static FLAW: Cell<Flaw> = const { Cell::new(Flaw::Nothing) };
}

/// The fixture: a store whose clients all have this thread's [`FLAW`], in virtual time or not.
pub(crate) struct Zoo<const PAUSED: bool = true>(Broken);

impl<const PAUSED: bool> Fixture for Zoo<PAUSED> {
    type Backend = Broken;
    const PAUSED: bool = PAUSED;
    const GAPS: &[Gap] = &[Gap::Processes];

    async fn start() -> Self {
        Self(Broken::new(FLAW.get()))
    }

    async fn client(&self) -> Broken {
        self.0.client()
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.0.honest.evict(key.as_str());
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        self.0.honest.expire(key.as_str());
        true
    }

    async fn obstruct(&self, key: &LockKey) -> bool {
        let mut obstructed = self.0.store.obstructed.lock().unwrap();
        obstructed.insert(key.as_str().to_owned())
    }

    async fn stop(&self) -> bool {
        self.0.store.is_stopped.store(true, Ordering::SeqCst);
        true
    }

    async fn restart(&self) -> bool {
        match FLAW.get() {
            Flaw::ForgetsOnRestart | Flaw::ForgetsAndRenews => {
                self.0.honest.entries().keys().for_each(|key| {
                    self.0.honest.evict(key);
                })
            }
            Flaw::ForgetsTokensOnRestart => {
                let newest = self.0.store.newest.load(Ordering::SeqCst);
                self.0.store.forgotten.store(newest, Ordering::SeqCst);
            }
            _ => {}
        }
        self.cut_connections().await
    }

    async fn stall(&self, stalled: bool) -> bool {
        self.0.store.is_stalled.send_replace(stalled);
        true
    }

    async fn cut_connections(&self) -> bool {
        self.0.store.cuts.fetch_add(1, Ordering::SeqCst);
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        Some(Arc::new(self.0.client()))
    }
}
