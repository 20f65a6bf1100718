//! fencelock, on each of its stores.

use std::sync::Arc;
use std::time::Duration;

use fencelock::{
    AcquireRequest, Attempt, FredBackend, LockBackend, LockGuard, LockKey, Locks, MemoryBackend,
    Owner, Ownership, RedisBackend, Released, RenewalPolicy,
};

use crate::client::{Client, Target};
use crate::contestants::raw;

fn locks(backend: impl LockBackend, target: &Target) -> Locks {
    Locks::new(backend).with_ttl(target.ttl)
}

async fn take(locks: &Locks, key: &str) -> LockGuard {
    locks.lock(key).acquire().await.expect("granted")
}

async fn give_back(guard: LockGuard) {
    let answer = guard.release().await;
    if !matches!(answer, Ok(Released::Released)) {
        // What it was worth to hold it, the figures say.
        eprintln!("not released: {answer:?}");
    }
}

/// fencelock with `redis`.
#[derive(Clone)]
pub(crate) struct OnRedis(Locks);

impl Client for OnRedis {
    type Held = LockGuard;

    const SENDS: &[&str] = &["evalsha", "eval", "subscribe", "unsubscribe"];

    fn name() -> String {
        "fencelock (redis)".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        let backend = RedisBackend::connect(&target.url).await;
        Self(locks(backend.expect("a connection"), target))
    }

    async fn take(&self, key: &str) -> LockGuard {
        take(&self.0, key).await
    }

    async fn give_back(&self, guard: LockGuard) {
        give_back(guard).await;
    }
}

/// fencelock with `fred`.
#[derive(Clone)]
pub(crate) struct OnFred(Locks);

impl Client for OnFred {
    type Held = LockGuard;

    const SENDS: &[&str] = OnRedis::SENDS;

    fn name() -> String {
        "fencelock (fred)".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        let backend = FredBackend::connect(&target.url).await;
        Self(locks(backend.expect("a connection"), target))
    }

    async fn take(&self, key: &str) -> LockGuard {
        take(&self.0, key).await
    }

    async fn give_back(&self, guard: LockGuard) {
        give_back(guard).await;
    }
}

/// fencelock with `redis`, whose locks are not renewed.
#[derive(Clone)]
pub(crate) struct OnRedisUnrenewed(Locks);

impl Client for OnRedisUnrenewed {
    type Held = LockGuard;

    const SENDS: &[&str] = OnRedis::SENDS;

    fn name() -> String {
        "fencelock (redis), no renewal".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        let locks = OnRedis::connect(target).await.0;
        Self(locks.with_renewal(RenewalPolicy::never()))
    }

    async fn take(&self, key: &str) -> LockGuard {
        take(&self.0, key).await
    }

    async fn give_back(&self, guard: LockGuard) {
        give_back(guard).await;
    }
}

/// fencelock with `memory`, the lock named each time.
#[derive(Clone)]
pub(crate) struct InMemory(Locks);

impl Client for InMemory {
    type Held = LockGuard;

    fn name() -> String {
        "fencelock (memory)".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        Self(locks(MemoryBackend::new(), target))
    }

    async fn take(&self, key: &str) -> LockGuard {
        take(&self.0, key).await
    }

    async fn give_back(&self, guard: LockGuard) {
        give_back(guard).await;
    }
}

/// lock-memory without lock-core around it: what is left above this is what lock-core costs.
#[derive(Clone)]
pub(crate) struct MemoryStore {
    backend: Arc<dyn LockBackend>,
    ttl: Duration,
}

impl Client for MemoryStore {
    type Held = (LockKey, Owner);

    fn name() -> String {
        "lock-memory alone".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        Self {
            backend: Arc::new(MemoryBackend::new()),
            ttl: target.ttl,
        }
    }

    async fn take(&self, key: &str) -> (LockKey, Owner) {
        let key = LockKey::new(key).expect("a key");
        let owner = Owner::from_exposed(raw::token());
        loop {
            let request = AcquireRequest::new(&key, &owner, self.ttl);
            let attempt = self.backend.try_acquire(request).await;
            if let Attempt::Granted(_) = attempt.expect("an answer") {
                return (key, owner);
            }
            // It does not wait by itself.
            tokio::task::yield_now().await;
        }
    }

    async fn give_back(&self, (key, owner): (LockKey, Owner)) {
        let released = self.backend.release(&key, &owner).await;
        assert!(matches!(released, Ok(Ownership::Held)));
    }
}
