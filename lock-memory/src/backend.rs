//! The backend, and the levers that tests pull. Not where entries live: that is the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, Capabilities, Holder, LockBackend, LockError, LockKey,
    Owner, Ownership, RenewRequest, Wakeups,
};

use crate::store::Store;

/// A client of a store in this process's memory.
///
/// A clone is another client of the same store; [`new`](Self::new) makes a new store. No method waits, needs a
/// runtime or spawns. Fencing tokens grow as long as the store lives, and start anew with a new store: a
/// resource that outlives the process needs a backend that does.
///
/// Entries whose ttl is over are dropped when their key is next used, or by a sweep that later grants pay
/// for: memory is bounded by about twice the greatest number of entries that were held at once.
///
/// The methods that take a key as `&str` want the whole key, prefix included, and are meant for tests.
#[derive(Clone, Default)]
pub struct MemoryBackend {
    pub(crate) store: Arc<Store>,
}

impl MemoryBackend {
    /// A client of a new, empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries there are whose ttl is not over.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether no key is held. At the end of a test: nothing was left behind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Deletes the entry of `key`, as an operator might, and wakes waiters. Whether there was one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lock_memory::{MemoryBackend, lock_core::*};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let backend = MemoryBackend::new();
    /// # let (key, owner) = (LockKey::new("order:7")?, Owner::fresh(None)?);
    /// # let ttl = Duration::from_secs(30);
    /// backend.try_acquire(AcquireRequest::new(&key, &owner, ttl)).await?;
    /// assert!(backend.evict("order:7"));
    ///
    /// let renewal = RenewRequest::new(&key, &owner, ttl, Renew::AtLeast);
    /// assert!(matches!(backend.renew(&[renewal]).await[..], [Ok(Ownership::Absent)]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn evict(&self, key: &str) -> bool {
        LockKey::new(key).is_ok_and(|key| {
            let was_held = self.store.remove(&key);
            self.store.wake(&key);
            was_held
        })
    }

    /// Ends the entry of `key` as if its ttl were over. Waiters are not woken, as no store wakes them then.
    /// Whether there was an entry.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lock_memory::{MemoryBackend, lock_core::*};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let backend = MemoryBackend::new();
    /// # let (key, owner) = (LockKey::new("order:7")?, Owner::fresh(None)?);
    /// backend.try_acquire(AcquireRequest::new(&key, &owner, Duration::from_secs(30))).await?;
    /// assert!(backend.expire("order:7"));
    /// assert_eq!(backend.release(&key, &owner).await?, Ownership::Absent);
    /// # Ok(())
    /// # }
    /// ```
    pub fn expire(&self, key: &str) -> bool {
        LockKey::new(key).is_ok_and(|key| self.store.remove(&key))
    }

    /// Makes another owner, labelled `label`, hold `key` for `ttl` from now on, whoever held it before.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lock_memory::{MemoryBackend, lock_core::*};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let backend = MemoryBackend::new();
    /// # let (key, owner) = (LockKey::new("order:7")?, Owner::fresh(None)?);
    /// # let ttl = Duration::from_secs(30);
    /// backend.try_acquire(AcquireRequest::new(&key, &owner, ttl)).await?;
    /// backend.steal("order:7", "thief", ttl)?;
    ///
    /// let renewal = RenewRequest::new(&key, &owner, ttl, Renew::AtLeast);
    /// assert!(matches!(backend.renew(&[renewal]).await[..], [Ok(Ownership::Taken)]));
    /// let holder = backend.inspect(&key).await?.unwrap_or_default();
    /// assert_eq!(holder.label.as_deref(), Some("thief"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`LockError::Invalid`] for what is no key or no label, [`LockError::Entropy`] without randomness.
    pub fn steal(&self, key: &str, label: &str, ttl: Duration) -> Result<(), LockError> {
        let (key, thief) = (LockKey::new(key)?, Owner::fresh(Some(label))?);
        self.store.steal(&key, thief, ttl);
        Ok(())
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for MemoryBackend {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        self.store.try_acquire(&request)
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        renewals
            .iter()
            .map(|renewal| Ok(self.store.renew(renewal)))
            .collect()
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        Ok(self.store.release(key, owner))
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        Ok(self.store.inspect(key))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_fencing(true)
            .with_wakeups(true)
            .with_hand_over(true)
            .with_any_ttl(true)
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        Some(Arc::new(self.clone()))
    }
}
