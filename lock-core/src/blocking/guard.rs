//! What a thread holds while it holds a lock. What its calls mean is written at the async
//! [`LockGuard`](crate::LockGuard).

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::error::{LockError, LossReason};
use crate::fencing::FencingToken;
use crate::guard::LossHandle;
use crate::key::LockKey;
use crate::lease::Released;
use crate::ticket::Ticket;
use crate::timer;

/// A held lock, for threads: [`crate::LockGuard`] with calls that block.
///
/// It is renewed while the thread computes. Dropping it releases the lock in the background
/// ([`GuardPolicy`](crate::GuardPolicy)), also while a panic unwinds; a drop never blocks, but that of the last thing that
/// belongs to its [`Locks`](super::Locks).
#[must_use = "dropping the guard releases the lock"]
#[clippy::has_significant_drop]
pub struct LockGuard {
    // Before what it is released by.
    guard: crate::LockGuard,
    shared: Arc<Shared>,
}

impl LockGuard {
    pub(super) fn new(shared: &Arc<Shared>, guard: crate::LockGuard) -> Self {
        Self {
            guard,
            shared: Arc::clone(shared),
        }
    }

    /// What is locked.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        self.guard.key()
    }

    /// See [`crate::LockGuard::fencing_token`].
    #[must_use]
    pub fn fencing_token(&self) -> Option<FencingToken> {
        self.guard.fencing_token()
    }

    /// Whether the lock is still held: a comparison with the deadline, without I/O. Once false it stays false.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.guard.is_held()
    }

    /// Like [`is_held`](Self::is_held), for use with `?`.
    ///
    /// # Errors
    ///
    /// [`LockError::Lost`] with the reason.
    pub fn check(&self) -> Result<(), LockError> {
        self.guard.check()
    }

    /// How long the lock is held yet if it is not renewed; zero if it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// See [`crate::LockGuard::deadline`].
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.guard.deadline()
    }

    /// Waits until the lock is lost, for `limit` at the most: the reason, or `None` if it is held yet.
    #[must_use]
    pub fn lost_within(&self, limit: Duration) -> Option<LossReason> {
        let loss = self.guard.loss();
        let lost = async move { timer::timeout(limit, pin!(loss.lost())).await };
        self.shared.driver.wait(lost).ok().flatten()
    }

    /// A handle that tells other threads and tasks of the loss, also after this guard is gone.
    #[must_use]
    pub fn loss(&self) -> LossHandle {
        self.guard.loss()
    }

    /// Says that the holder makes progress: see [`crate::RenewalPolicy::while_progressing`].
    pub fn checkpoint(&self) {
        self.guard.checkpoint();
    }

    /// Adds `additional` to what remains of the entry. Takes one op timeout at the most.
    ///
    /// # Errors
    ///
    /// See [`crate::LockGuard::extend`].
    pub fn extend(&self, additional: Duration) -> Result<(), LockError> {
        let lease = self.guard.lease();
        self.shared
            .driver
            .wait(async move { lease.extend(additional).await })?
    }

    /// Sets what remains of the entry to `ttl`. Takes one op timeout at the most.
    ///
    /// # Errors
    ///
    /// See [`crate::LockGuard::renew_for`].
    pub fn renew_for(&self, ttl: Duration) -> Result<(), LockError> {
        let lease = self.guard.lease();
        self.shared
            .driver
            .wait(async move { lease.renew_for(ttl).await })?
    }

    /// Gives the lock back and says what was found. Takes one op timeout at the most.
    ///
    /// # Errors
    ///
    /// See [`crate::LockGuard::release`].
    pub fn release(self) -> Result<Released, LockError> {
        self.shared.driver.wait(self.guard.release())?
    }

    /// Stops renewing and leaves the entry to its ttl: see [`crate::LockGuard::leave_to_expire`].
    pub fn leave_to_expire(self) {
        self.guard.leave_to_expire();
    }

    /// Makes a ticket out of the lock, with which another process can resume it. Takes one op timeout at the most.
    ///
    /// # Errors
    ///
    /// Gives the guard back: see [`crate::LockGuard::into_ticket`].
    #[allow(clippy::result_large_err, reason = "the guard is given back")]
    pub fn into_ticket(self) -> Result<Ticket, (Self, LockError)> {
        let lease = self.guard.lease();
        let handed_over = async move { crate::LockGuard::hand_over(&lease).await };
        match self.shared.driver.wait(handed_over) {
            Ok(Ok(ticket)) => Ok(ticket),
            Ok(Err(error)) | Err(error) => Err((self, error)),
        }
    }

    pub(super) fn finish(self, failed: bool) -> Result<(), LockError> {
        self.shared.driver.wait(self.guard.finish(failed))?
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guard.fmt(f)
    }
}
