//! A lock for threads. What its calls mean is written at the async [`DistributedLock`](crate::DistributedLock).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::guard::LockGuard;
use crate::backend::Holder;
use crate::error::LockError;
use crate::key::LockKey;
use crate::locks::option_setters;
use crate::policy::{GuardPolicy, LockOptions, PassingOn, RenewalPolicy, RetryPolicy};

/// One lock, for threads. Made by [`Locks::lock`](super::Locks::lock); cheap to clone.
#[derive(Clone)]
pub struct DistributedLock {
    lock: crate::DistributedLock,
    shared: Arc<Shared>,
}

impl DistributedLock {
    pub(super) fn new(shared: &Arc<Shared>, lock: crate::DistributedLock) -> Self {
        Self {
            lock,
            shared: Arc::clone(shared),
        }
    }

    option_setters!();

    fn map_options(mut self, change: impl FnOnce(LockOptions) -> LockOptions) -> Self {
        self.lock = self.lock.map_options(change);
        self
    }

    /// What is locked.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        self.lock.key()
    }

    /// One attempt. Takes two op timeouts at the most.
    ///
    /// # Errors
    ///
    /// See [`crate::DistributedLock::try_acquire`].
    pub fn try_acquire(&self) -> Result<LockGuard, LockError> {
        let lock = self.lock.clone();
        let guard = self
            .shared
            .driver
            .wait(async move { lock.try_acquire().await })??;
        Ok(LockGuard::new(&self.shared, guard))
    }

    /// Takes the lock, waiting and trying again as the [`RetryPolicy`] says. Takes the wait and two op timeouts at the
    /// most.
    ///
    /// # Errors
    ///
    /// See [`crate::DistributedLock::acquire`].
    pub fn acquire(&self) -> Result<LockGuard, LockError> {
        let lock = self.lock.clone();
        let guard = self
            .shared
            .driver
            .wait(async move { lock.acquire().await })??;
        Ok(LockGuard::new(&self.shared, guard))
    }

    /// Who holds the lock now; `None` if it is free. Takes one op timeout at the most.
    ///
    /// # Errors
    ///
    /// See [`crate::DistributedLock::status`].
    pub fn status(&self) -> Result<Option<Holder>, LockError> {
        let lock = self.lock.clone();
        self.shared
            .driver
            .wait(async move { lock.status().await })?
    }

    /// Takes the lock, runs `body` with its guard on this thread, and releases the lock, or leaves it to expire if that is
    /// the [`GuardPolicy`]. Nobody can stop a thread: a body that takes long asks [`LockGuard::check`] now and then.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire); the body's own; [`LockError::Lost`] if the lock was lost before the body was
    /// done, even if the body returned `Ok`. That a release failed is not an error: the body's result counts, and the
    /// release is tried again in the background.
    pub fn with<T, E, F>(&self, body: F) -> Result<T, E>
    where
        E: From<LockError>,
        F: FnOnce(&LockGuard) -> Result<T, E>,
    {
        let guard = self.acquire()?;
        let result = body(&guard);
        guard.finish(result.is_err())?;
        result
    }
}

impl fmt::Debug for DistributedLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}
