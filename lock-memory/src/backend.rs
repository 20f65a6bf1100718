//! The backend, and the levers that tests pull. Not where entries live: that is the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, Capabilities, ForceRelease, Forced, Holder, LockBackend,
    LockError, LockKey, Owner, Ownership, RenewRequest, Wakeups,
};

use crate::network::{Fault, Network};
use crate::store::Store;

/// A client of a store in this process's memory.
///
/// A clone shares the store and the way to it, [`client`](Self::client) only the store; [`new`](Self::new) makes a new
/// store. No method waits (but see [`partition`](Self::partition)), needs a runtime or spawns. Fencing tokens grow as long as the store lives, and start anew with a new store: a
/// resource that outlives the process needs a backend that does.
///
/// Entries whose ttl is over are dropped when their key is next used, or by a sweep that later grants pay
/// for: memory is bounded by about twice the greatest number of entries that were held at once.
///
/// The methods that take a key as `&str` want the whole key, prefix included, and are meant for tests.
#[derive(Clone, Default)]
pub struct MemoryBackend {
    pub(crate) store: Arc<Store>,
    pub(crate) network: Arc<Network>,
}

impl MemoryBackend {
    /// A client of a new, empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another client of the same store, with a way of its own to it: what [`partition`](Self::partition),
    /// [`fail_next`](Self::fail_next) and [`lose_next_reply`](Self::lose_next_reply) do to this one does not concern it.
    #[must_use]
    pub fn client(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            network: Arc::default(),
        }
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

    /// Makes the next call of this client fail with `error` without being applied. A call is an attempt, a batch of
    /// renewals, a release or an inspection. Pulled again, it concerns the call after that.
    ///
    /// ```
    /// # use lock_memory::{MemoryBackend, lock_core::*};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), LockError> {
    /// let backend = MemoryBackend::new();
    /// let lock = Locks::new(backend.clone()).lock("order:7");
    ///
    /// backend.fail_next(BackendError::permanent("access denied"));
    /// assert!(matches!(lock.acquire().await, Err(LockError::Backend { .. })));
    /// assert!(lock.acquire().await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_next(&self, error: BackendError) {
        self.network.add(Fault::Fail(error));
    }

    /// Makes every call of this client fail with `error` without being applied, until it is [healed](Self::heal): a store that is
    /// down. (One that does not answer is a [`partition`](Self::partition).) Wake-ups arrive as before.
    ///
    /// ```
    /// # use lock_memory::{MemoryBackend, lock_core::*};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), LockError> {
    /// let backend = MemoryBackend::new();
    /// let lock = Locks::new(backend.clone()).lock("order:7");
    ///
    /// backend.fail_until_healed(BackendError::transient("connection refused"));
    /// let error = lock.try_acquire().await.unwrap_err();
    /// assert!(matches!(error, LockError::Backend { transient: true, .. }));
    /// backend.heal();
    /// assert!(lock.try_acquire().await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_until_healed(&self, error: BackendError) {
        self.network.refuse(Some(error));
    }

    /// Loses the reply to the next call of this client: it is applied, and answered with
    /// [`BackendErrorKind::Unknown`](lock_core::BackendErrorKind::Unknown). What a call is, and what happens if the lever
    /// is pulled again: see [`fail_next`](Self::fail_next).
    ///
    /// ```
    /// # use lock_memory::{MemoryBackend, lock_core::*};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), LockError> {
    /// let backend = MemoryBackend::new();
    /// let guard = Locks::new(backend.clone()).lock("order:7").acquire().await?;
    ///
    /// backend.lose_next_reply();
    /// assert!(matches!(guard.release().await, Err(LockError::Unknown { .. })));
    /// assert!(backend.is_empty(), "it was released all the same");
    /// # Ok(())
    /// # }
    /// ```
    pub fn lose_next_reply(&self) {
        self.network.add(Fault::LoseReply);
    }

    /// Cuts this client off until it is [healed](Self::heal): a call made meanwhile is neither applied nor ever answered, so
    /// that the caller's op timeout ends it, and no wake-up arrives. The store and the levers of a test go on.
    ///
    /// The example of [the crate](crate) uses it.
    pub fn partition(&self) {
        self.network.cut(true);
    }

    /// Ends a [`partition`](Self::partition) or [failures](Self::fail_until_healed): new calls are answered, and wake-ups that were
    /// held up arrive.
    pub fn heal(&self) {
        self.network.refuse(None);
        self.network.cut(false);
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
        self.network
            .call(|| self.store.try_acquire(&request))
            .await?
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let renew_all = || {
            renewals
                .iter()
                .map(|renewal| Ok(self.store.renew(renewal)))
                .collect()
        };
        match self.network.call(renew_all).await {
            Ok(answers) => answers,
            Err(error) => renewals.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        self.network.call(|| self.store.release(key, owner)).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        self.network.call(|| self.store.inspect(key)).await
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

#[async_trait]
impl ForceRelease for MemoryBackend {
    async fn force_release(&self, key: &LockKey) -> Result<Option<Forced>, BackendError> {
        self.network
            .call(|| self.store.force_release(key))
            .await
            .flatten()
    }
}
