//! Locks for threads: for command-line tools, and for code that `spawn_blocking` runs. Not another kind of lock: it is the
//! same guard, renewed while the caller computes, by a thread of the locks' own.
//!
//! ```
//! use lock_core::{LockError, blocking};
//!
//! fn nightly(locks: &blocking::Locks) -> Result<u64, LockError> {
//!     let guard = locks.lock("nightly").acquire()?;
//!     let mut rows = 0;
//!     for part in 0..100 {
//!         guard.check()?; // A thread cannot be stopped: it asks whether it still holds the lock.
//!         rows += part;
//!     }
//!     guard.release()?;
//!     Ok(rows)
//! }
//! ```
//!
//! A program that ends by returning from `main` leaves no lock behind. `std::process::exit` drops nothing: release before.
//!
//! A call blocks its thread until it is answered, and ends within the same bounds as the async one. It may be made on any
//! thread. On a thread that runs async code it works too, but holds up all that runs there, which includes the store's
//! client if that was connected there: use the async [`Locks`](crate::Locks), or `spawn_blocking`.

mod driver;
mod guard;
mod lock;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::error::{BackendError, LockError};
use crate::locks::SHUTDOWN_LIMIT;
use crate::name::LockName;
use crate::ticket::Ticket;
use driver::Driver;
pub use guard::LockGuard;
pub use lock::DistributedLock;

/// Locks on one backend, for threads. Cheap to clone; clones share everything.
///
/// Dropping the last of them, of their locks and of their guards waits for what is under way at the store, such as the
/// release of a guard that was dropped, for 5 s at the most, and ends their thread.
#[derive(Debug, Clone)]
pub struct Locks {
    shared: Arc<Shared>,
}

/// What locks and guards keep alive.
struct Shared {
    locks: crate::Locks,
    driver: Driver,
}

impl Locks {
    /// The same locks for threads, with prefix and options. Starts a thread that serves them.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the system has no thread to give.
    pub fn new(locks: crate::Locks) -> Result<Self, BackendError> {
        Ok(Self::with_driver(locks, Driver::start()?))
    }

    /// Locks that are made on their own thread, so that what their store's client runs in the background runs there.
    /// Necessary for each client that connects, unless it is connected on a runtime that goes on.
    ///
    /// # Errors
    ///
    /// The future's own, and [`BackendError`] if the system has no thread to give.
    ///
    /// ```
    /// # use lock_core::{BackendError, LockBackend, Locks, blocking};
    /// # async fn connect<B>(url: &str) -> Result<B, BackendError> { Err(BackendError::permanent(url)) }
    /// # fn doc<B: LockBackend>(url: String) -> Result<(), BackendError> {
    /// let locks = blocking::Locks::connect(async move {
    ///     let backend: B = connect(&url).await?; // RedisBackend::connect(&url)
    ///     Ok(Locks::new(backend).with_prefix("shop:"))
    /// })?;
    /// # Ok(()) }
    /// ```
    pub fn connect<F>(locks: F) -> Result<Self, BackendError>
    where
        F: Future<Output = Result<crate::Locks, BackendError>> + Send + 'static,
    {
        let driver = Driver::start()?;
        let locks = driver.wait(locks);
        let locks = locks.map_err(|error| BackendError::permanent(error.to_string()))??;
        Ok(Self::with_driver(locks, driver))
    }

    fn with_driver(locks: crate::Locks, driver: Driver) -> Self {
        Self {
            shared: Arc::new(Shared { locks, driver }),
        }
    }

    /// The lock called `name`: see [`crate::Locks::lock`].
    #[must_use]
    pub fn lock(&self, name: impl LockName) -> DistributedLock {
        DistributedLock::new(&self.shared, self.shared.locks.lock(name))
    }

    /// Takes the lock called `name`, runs `body` with its guard, and releases it: see [`DistributedLock::with`].
    ///
    /// # Errors
    ///
    /// See [`DistributedLock::with`].
    pub fn with<T, E, F>(&self, name: impl LockName, body: F) -> Result<T, E>
    where
        E: From<LockError>,
        F: FnOnce(&LockGuard) -> Result<T, E>,
    {
        self.lock(name).with(body)
    }

    /// Takes over the lock behind `ticket`: see [`crate::Locks::resume`].
    ///
    /// # Errors
    ///
    /// See [`crate::Locks::resume`].
    pub fn resume(&self, ticket: &Ticket) -> Result<LockGuard, LockError> {
        let (locks, ticket) = (self.shared.locks.clone(), ticket.clone());
        let guard = self
            .shared
            .driver
            .wait(async move { locks.resume(&ticket).await })??;
        Ok(LockGuard::new(&self.shared, guard))
    }

    /// Ends all use of the backend by these locks and all their clones, async ones too: see [`crate::Locks::shutdown`].
    /// Whether all that was under way was answered within 5 s.
    pub fn shutdown(&self) -> bool {
        let locks = self.shared.locks.clone();
        let done = self
            .shared
            .driver
            .wait(async move { locks.shutdown().await });
        done.unwrap_or(false)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let locks = self.locks.clone();
        let idle = self
            .driver
            .wait(async move { locks.idle_within(SHUTDOWN_LIMIT).await });
        // Whether or not it was: what is left ends with its ttl.
        drop(idle);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.locks.fmt(f)
    }
}
