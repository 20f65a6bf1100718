//! The locks of the whole process, for code that is not handed any. Not another kind of lock.

use std::ops::AsyncFnOnce;
use std::sync::OnceLock;

use crate::error::LockError;
use crate::guard::LockGuard;
use crate::locks::Locks;
use crate::name::LockName;

static INSTALLED: OnceLock<Locks> = OnceLock::new();

/// What errors call them.
const WHAT: &str = "global locks";

impl Locks {
    /// Makes these the locks of the whole process, which [`global`](Self::global), [`with_lock`] and `#[locked]` use.
    /// Once, early in `main`; they stay until the process ends.
    ///
    /// A library is better off with a [`Locks`] that it is given, and so are tests that must not share theirs.
    ///
    /// # Errors
    ///
    /// [`LockError::Invalid`] if there are global locks already. They stay as they are.
    pub fn install_global(self) -> Result<(), LockError> {
        INSTALLED.set(self).map_err(|_| {
            LockError::invalid(
                WHAT,
                "they are installed already, and stay as they are; install them once, early in main",
            )
        })
    }

    /// The locks of the whole process.
    ///
    /// # Errors
    ///
    /// [`LockError::Invalid`] if none were installed.
    pub fn global() -> Result<&'static Self, LockError> {
        INSTALLED.get().ok_or_else(|| {
            LockError::invalid(
                WHAT,
                "there are none; call Locks::install_global early in main, or name the locks to use",
            )
        })
    }
}

/// [`Locks::with`] on the locks of the whole process: takes the lock called `name`, runs `body` with its guard, and
/// releases it. If the lock is lost, the body is dropped where it stands. For other options than those of the global
/// locks: `Locks::global()?.lock(name).with_ttl(..).with(..)`.
///
/// # Errors
///
/// [`LockError::Invalid`] if no locks were [installed](Locks::install_global); otherwise those of
/// [`DistributedLock::with`](crate::DistributedLock::with).
///
/// # Cancel safety
///
/// See [`DistributedLock::with`](crate::DistributedLock::with).
///
/// ```
/// use lock_core::{LockError, Locks, with_lock};
///
/// # async fn doc(locks: Locks) -> Result<(), LockError> {
/// locks.install_global()?;
/// let sum = with_lock(("sum", 2026), async |_guard| Ok::<_, LockError>(1 + 1)).await?;
/// assert_eq!(sum, 2);
/// # Ok(()) }
/// ```
pub async fn with_lock<T, E, F>(name: impl LockName, body: F) -> Result<T, E>
where
    E: From<LockError>,
    F: AsyncFnOnce(&LockGuard) -> Result<T, E>,
{
    Locks::global()?.with(name, body).await
}
