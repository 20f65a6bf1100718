//! Doubles for tests of code that uses locks. Not for tests of a backend, and not a store: use `lock-memory` where
//! timing matters.
//!
//! [`MockLock`](crate::MockLock) is for code that is given a lock: see [`guard`](fn@guard).
//! [`MockLockBackend`](crate::MockLockBackend) is for code that is given [`Locks`], where their store is to answer one thing
//! exactly, here that it wants other credentials:
//!
//! ```
//! use std::sync::Arc;
//!
//! use lock_core::{BackendError, Capabilities, LockError, Locks, MockLockBackend};
//!
//! /// The code under test: 200, 409 if the order is being charged already, 503 if that may change, 500 if it will not.
//! async fn charge(locks: &Locks, order: u32) -> u16 {
//!     match locks.with(("order", order), async |_guard| Ok::<_, LockError>(())).await {
//!         Ok(()) => 200,
//!         Err(error) if error.is_busy() => 409,
//!         Err(LockError::Backend { transient: false, .. }) => 500,
//!         Err(_) => 503,
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let mut store = MockLockBackend::new();
//! store.expect_capabilities().returning(Capabilities::new);
//! store.expect_wakeups().returning(|| None);
//! store
//!     .expect_try_acquire()
//!     .withf(|request| request.key.as_str() == "order:7")
//!     .once() // what cannot help is not tried again
//!     .returning(|_| Err(BackendError::permanent("no such user")));
//!
//! let locks = Locks::from_arc(Arc::new(store));
//! assert_eq!(charge(&locks, 7).await, 500);
//! # }
//! ```

use std::sync::Arc;

use async_trait::async_trait;
pub use mockall;

use crate::backend::{
    AcquireRequest, Attempt, Capabilities, Grant, Holder, LockBackend, Ownership, RenewRequest,
    Wakeups,
};
use crate::error::{BackendError, LockError};
use crate::fencing::{FencingRange, FencingToken};
use crate::guard::LockGuard;
use crate::key::LockKey;
use crate::locks::Locks;
use crate::name::LockName;

/// A held guard of the lock `key` without a store: it is renewed for ever and released into nothing. For what a mocked
/// [`Lock`](crate::Lock) returns.
///
/// # Errors
///
/// [`LockError::Invalid`] for a key that no lock may have; [`LockError::NoRuntime`] outside a tokio runtime.
///
/// ```
/// use lock_core::{Lock, LockError, MockLock, mock};
///
/// async fn charge(lock: &dyn Lock) -> Result<&'static str, LockError> {
///     let guard = lock.try_acquire().await?;
///     guard.release().await?;
///     Ok("charged")
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), LockError> {
/// let guard = mock::guard("order:7").await?;
/// let mut lock = MockLock::new();
/// lock.expect_try_acquire().return_once(|| Ok(guard));
/// assert_eq!(charge(&lock).await?, "charged");
/// # Ok(()) }
/// ```
pub async fn guard(key: impl LockName) -> Result<LockGuard, LockError> {
    Locks::from_arc(Arc::new(NoStore))
        .lock(key)
        .try_acquire()
        .await
}

/// Grants everything and keeps nothing.
#[derive(Debug)]
pub(crate) struct NoStore;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for NoStore {
    async fn try_acquire<'a>(&self, _: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        let token = FencingToken::new(1);
        Ok(Attempt::Granted(Grant::new(Some(FencingRange::new(
            token, token,
        )))))
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        renewals.iter().map(|_| Ok(Ownership::Held)).collect()
    }

    async fn release(&self, _: &LockKey, _: &crate::Owner) -> Result<Ownership, BackendError> {
        Ok(Ownership::Held)
    }

    async fn inspect(&self, _: &LockKey) -> Result<Option<Holder>, BackendError> {
        Ok(None)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_fencing(true).with_any_ttl(true)
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        None
    }
}
