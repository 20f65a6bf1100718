//! The lock libraries of others on Redis.

use std::sync::Arc;
use std::time::Duration;

use distributed_lock_core::traits::{DistributedLock as _, LockHandle, LockProvider};
use distributed_lock_redis::{RedisLockHandle, RedisLockProvider};
use rslock::{Lock, LockManager};

use crate::client::{Client, Target};

/// rslock as it comes: three tries up to 200 ms apart, for as long as it takes.
#[derive(Clone)]
pub(crate) struct Rslock {
    manager: LockManager,
    ttl: Duration,
}

impl Client for Rslock {
    type Held = Lock;

    const SENDS: &[&str] = &["set", "evalsha", "eval"];

    fn name() -> String {
        "rslock".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        Self {
            manager: LockManager::new(vec![target.url.as_str()]),
            ttl: target.ttl,
        }
    }

    async fn take(&self, key: &str) -> Lock {
        let taken = self
            .manager
            .acquire_no_guard(key.as_bytes(), self.ttl)
            .await;
        taken.expect("granted")
    }

    async fn give_back(&self, lock: Lock) {
        self.manager.unlock(&lock).await;
    }
}

/// The same, told to try again within `MS` milliseconds.
#[derive(Clone)]
pub(crate) struct RslockEvery<const MS: u64>(Rslock);

impl<const MS: u64> Client for RslockEvery<MS> {
    type Held = Lock;

    const SENDS: &[&str] = Rslock::SENDS;

    fn name() -> String {
        format!("rslock, {MS} ms")
    }

    async fn connect(target: &Target) -> Self {
        let mut rslock = Rslock::connect(target).await;
        rslock
            .manager
            .set_retry(u32::MAX, Duration::from_millis(MS));
        Self(rslock)
    }

    async fn take(&self, key: &str) -> Lock {
        self.0.take(key).await
    }

    async fn give_back(&self, lock: Lock) {
        self.0.give_back(lock).await;
    }
}

/// distributed-lock with `MS` milliseconds between two tries, for it does not wait by itself.
#[derive(Clone)]
pub(crate) struct DistributedLock<const MS: u64 = 100>(Arc<RedisLockProvider>);

impl<const MS: u64> Client for DistributedLock<MS> {
    type Held = RedisLockHandle;

    const SENDS: &[&str] = &["set", "evalsha", "eval"];

    fn name() -> String {
        if MS == 100 {
            "distributed-lock".to_owned()
        } else {
            format!("distributed-lock, {MS} ms")
        }
    }

    async fn connect(target: &Target) -> Self {
        let provider = RedisLockProvider::builder()
            .url(&target.url)
            .expiry(target.ttl)
            .extension_cadence(target.ttl / 3);
        Self(Arc::new(provider.build().await.expect("a connection")))
    }

    async fn take(&self, key: &str) -> RedisLockHandle {
        let lock = self.0.create_lock(key);
        loop {
            if let Some(handle) = lock.try_acquire().await.expect("an answer") {
                return handle;
            }
            tokio::time::sleep(Duration::from_millis(MS)).await;
        }
    }

    async fn give_back(&self, handle: RedisLockHandle) {
        handle.release().await.expect("an answer");
    }
}
