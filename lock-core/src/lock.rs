//! Call this: a lock by its key. Not what a store implements.

use std::fmt::Debug;
use std::ops::AsyncFnOnce;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::acquire::Acquirer;
use crate::backend::Holder;
use crate::error::{BackendError, LockError};
use crate::guard::LockGuard;
use crate::key::LockKey;
use crate::locks::option_setters;
use crate::name::LockName;
use crate::policy::{GuardPolicy, LockOptions, PassingOn, RenewalPolicy, RetryPolicy};
use crate::shield::Shield;
use crate::store::Store;
use crate::timer;

/// Call this to take a lock; implement [`LockBackend`](crate::LockBackend) to bring a store.
///
/// [`DistributedLock`] implements it on any backend. The trait is for code that wants to be given any lock, a mock
/// in a test above all.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Lock: Debug + Send + Sync {
    /// What is locked.
    fn key(&self) -> &LockKey;

    /// See [`DistributedLock::try_acquire`].
    async fn try_acquire(&self) -> Result<LockGuard, LockError>;

    /// See [`DistributedLock::acquire`].
    async fn acquire(&self) -> Result<LockGuard, LockError>;

    /// See [`DistributedLock::status`].
    async fn status(&self) -> Result<Option<Holder>, LockError>;
}

/// One lock: a key, a backend, and how to take it. Made by [`Locks::lock`](crate::Locks::lock); cheap to clone.
///
/// It is not reentrant: whoever holds the lock and tries again finds it busy.
#[derive(Debug, Clone)]
pub struct DistributedLock {
    store: Arc<Store>,
    key: LockKey,
    /// What is wrong with the key, said when the lock is used.
    flaw: Option<LockError>,
    options: LockOptions,
}

impl DistributedLock {
    pub(crate) fn new(
        store: &Arc<Store>,
        prefix: &str,
        name: &impl LockName,
        options: LockOptions,
    ) -> Self {
        let (key, flaw) = LockKey::checked(prefix, name);
        Self {
            store: Arc::clone(store),
            key,
            flaw,
            options,
        }
    }

    option_setters!();

    pub(crate) fn map_options(mut self, change: impl FnOnce(LockOptions) -> LockOptions) -> Self {
        self.options = change(self.options);
        self
    }

    /// What is locked.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        &self.key
    }

    /// One attempt. Takes two op timeouts at the most; busy without a round trip while a guard of these locks (or of their
    /// clones) is valid, or others of them wait.
    ///
    /// # Errors
    ///
    /// [`LockError::Busy`] with the holder if somebody has the lock; [`LockError::Invalid`] and
    /// [`LockError::NoRuntime`] before anything is sent; [`LockError::Late`] if the answer took too long;
    /// [`LockError::Backend`], [`LockError::Unknown`], [`LockError::Conflict`] if the store failed or refused.
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, it leaves nothing behind: what it may have taken is given back in the background.
    pub async fn try_acquire(&self) -> Result<LockGuard, LockError> {
        self.acquirer()?.try_acquire().await
    }

    /// Takes the lock, waiting and trying again as the [`RetryPolicy`] says. Takes the wait and two op timeouts at the
    /// most. Who waits with these locks or their clones is served in order; only the first of them asks the store.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`] with the holder if somebody had the lock until the wait was over or the retries were used
    /// up; if the store failed then, its [`LockError::Backend`] or [`LockError::Unknown`]. Errors that no retry mends
    /// come at once: see [`try_acquire`](Self::try_acquire).
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, it leaves nothing behind: what it may have taken is given back in the background.
    pub async fn acquire(&self) -> Result<LockGuard, LockError> {
        self.acquirer()?.acquire().await
    }

    /// Who holds the lock now; `None` if it is free. Takes one op timeout at the most.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`], [`LockError::Unknown`] if the store did not answer, [`LockError::Conflict`] if the store
    /// has something else at the key.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn status(&self) -> Result<Option<Holder>, LockError> {
        self.check()?;
        let op_timeout = self.options.terms()?.op_timeout();
        self.store.check_open(&self.key)?;
        let renewer = self.store.renewer(&self.key)?;
        let (store, key) = (Arc::clone(&self.store), self.key.clone());
        let call = async move {
            let _call = store.call();
            match timer::timeout(op_timeout, store.backend.inspect(&key)).await {
                Some(answer) => answer.map_err(|error| LockError::from_backend(&key, error)),
                None => {
                    let message = format!("no answer to inspect within {:?}", op_timeout);
                    let source = BackendError::unknown(message);
                    Err(LockError::Unknown { key, source })
                }
            }
        };
        Shield::new(renewer.runtime(), call).await
    }

    /// Takes the lock, runs `body` with its guard, and releases it, or leaves it to expire if that is the
    /// [`GuardPolicy`]. If the lock is lost, the body is dropped where it
    /// stands; the deadline is compared before each of its polls.
    ///
    /// The body is an async closure, `async |guard| ..`, and not `|guard| async ..`. Where nothing else says what its error
    /// type is, its last line does: `Ok::<_, LockError>(())`.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire); the body's own; [`LockError::Lost`] if the lock was lost before the body
    /// was done, even if the body returned `Ok`. That a release failed is not an error: the body's result counts, and
    /// the release is tried again in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, it drops the body and lets go of the lock in the background; likewise if the body panics.
    pub async fn with<T, E, F>(&self, body: F) -> Result<T, E>
    where
        E: From<LockError>,
        F: AsyncFnOnce(&LockGuard) -> Result<T, E>,
    {
        let guard = self.acquire().await?;
        let result = guard.run_until_lost(body(&guard)).await?;
        guard.finish(result.is_err()).await?;
        result
    }

    fn check(&self) -> Result<(), LockError> {
        self.flaw.clone().map_or(Ok(()), Err)
    }

    fn acquirer(&self) -> Result<Acquirer<'_>, LockError> {
        self.check()?;
        Acquirer::new(&self.store, &self.key, &self.options)
    }
}

#[async_trait]
impl Lock for DistributedLock {
    fn key(&self) -> &LockKey {
        Self::key(self)
    }

    async fn try_acquire(&self) -> Result<LockGuard, LockError> {
        Self::try_acquire(self).await
    }

    async fn acquire(&self) -> Result<LockGuard, LockError> {
        Self::acquire(self).await
    }

    async fn status(&self) -> Result<Option<Holder>, LockError> {
        Self::status(self).await
    }
}
