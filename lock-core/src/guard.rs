//! What a caller holds while it holds a lock, and how it hears that it lost it. Not the lease behind it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::clock::Moment;
use crate::error::{LockError, LossReason};
use crate::fencing::FencingToken;
use crate::key::LockKey;
use crate::lease::{Lease, Released};
use crate::policy::GuardPolicy;
use crate::ticket::Ticket;

/// A held lock.
///
/// The guard is a *lease*: until its deadline you are alone, if clocks run at normal speed and the store keeps its data.
/// It is renewed in the background unless the [`RenewalPolicy`](crate::RenewalPolicy) says otherwise. Before each
/// write that must not come late, ask [`is_held`](Self::is_held); where even that is too weak, send the
/// [`fencing_token`](Self::fencing_token) along and let the resource refuse older ones.
///
/// Dropping the guard releases the lock in the background, on the runtime on which it was taken
/// ([`GuardPolicy`]); where that runtime has ended, the entry ends with its ttl. A drop never blocks and never
/// panics. A guard may move to other tasks, threads and runtimes.
#[must_use = "dropping the guard releases the lock"]
#[clippy::has_significant_drop]
pub struct LockGuard {
    lease: Arc<Lease>,
    /// What a drop does; nothing once the lock was let go.
    policy: Option<GuardPolicy>,
}

impl LockGuard {
    /// A guard that nobody received yet: dropped now, it releases whatever the policy is.
    pub(crate) fn new(lease: Arc<Lease>) -> Self {
        Self {
            lease,
            policy: Some(GuardPolicy::Release),
        }
    }

    /// The same guard on its way to the caller.
    pub(crate) fn received(mut self) -> Self {
        self.policy = Some(self.lease.terms().guard());
        self
    }

    /// What is locked.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        self.lease.key()
    }

    /// The number that is greater than that of every earlier grant of this key. `None` if the backend has none.
    /// Renewing and extending do not change it.
    #[must_use]
    pub fn fencing_token(&self) -> Option<FencingToken> {
        self.lease.fencing().map(|range| range.first())
    }

    /// Whether the lock is still held: a comparison with the deadline, without I/O, right even if no task has run
    /// since the grant or the system was suspended. Once false it stays false.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Like [`is_held`](Self::is_held), for use with `?`.
    ///
    /// # Errors
    ///
    /// [`LockError::Lost`] with the reason.
    pub fn check(&self) -> Result<(), LockError> {
        match self.lease.check() {
            Ok(_) => Ok(()),
            Err(reason) => Err(LockError::Lost {
                key: self.key().clone(),
                reason,
            }),
        }
    }

    /// How long the lock is held yet if it is not renewed; zero if it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.lease.remaining()
    }

    /// When the lock ends if it is not renewed, on this process' monotonic clock: now + [`remaining`](Self::remaining),
    /// which also counts time that the system was suspended and is to be preferred.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let now = Moment::now().reading();
        now.after(self.remaining()).instant().into_std()
    }

    /// Resolves when the lock is lost, no later than the deadline, with the reason; at once if it is lost already.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn lost(&self) -> LossReason {
        self.lease.ended().await
    }

    /// A handle that tells other tasks of the loss, also after this guard is gone.
    #[must_use]
    pub fn loss(&self) -> LossHandle {
        LossHandle {
            lease: Arc::clone(&self.lease),
        }
    }

    /// Says that the holder makes progress: see [`RenewalPolicy::while_progressing`](crate::RenewalPolicy::while_progressing).
    pub fn checkpoint(&self) {
        self.lease.checkpoint();
    }

    /// Adds `additional` to what remains of the entry; what is then left must be 10 ms to 24 h. Automatic renewal goes
    /// on and does not shorten it. Takes one op timeout at the most.
    ///
    /// # Errors
    ///
    /// [`LockError::Lost`] if the lock is not held any more, [`LockError::Invalid`] if too much would be left,
    /// [`LockError::Unsupported`] if the backend cannot, [`LockError::NoRuntime`] outside a tokio runtime,
    /// [`LockError::Backend`] or [`LockError::Unknown`] if the store failed: the lock is then held as before.
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, a request that was sent is finished in the background. The deadline is right in either case.
    pub async fn extend(&self, additional: Duration) -> Result<(), LockError> {
        self.lease.extend(additional).await
    }

    /// Sets what remains of the entry to `ttl`, 10 ms to 24 h: less than now, or more. A shorter one counts from the
    /// moment it is sent, answered or not. Automatic renewal goes on. Takes one op timeout at the most.
    ///
    /// # Errors
    ///
    /// As for [`extend`](Self::extend).
    ///
    /// # Cancel safety
    ///
    /// As for [`extend`](Self::extend).
    pub async fn renew_for(&self, ttl: Duration) -> Result<(), LockError> {
        self.lease.renew_for(ttl).await
    }

    /// Gives the lock back and says what was found: [`Released::Released`] if it was held until now. The next in line of
    /// this process has it at once, without the store being asked, as far as [`PassingOn`](crate::PassingOn) lets it;
    /// this yields once, so that its task runs before the caller goes on. Takes one op timeout at the most.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] or [`LockError::Unknown`] if the store failed. The release is then tried again in the
    /// background until the entry has ended by itself. [`LockError::NoRuntime`] outside a tokio runtime: it is then released as
    /// by a drop. [`LockError::Lost`] if the locks were shut down before, which
    /// released it.
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, it goes on in the background.
    pub fn release(mut self) -> impl Future<Output = Result<Released, LockError>> + Send + use<> {
        // Also if the future is dropped before it is polled.
        self.policy = Some(GuardPolicy::Release);
        async move {
            let released = self.lease.release().await;
            self.policy.take();
            released
        }
    }

    /// Stops renewing and leaves the entry to its ttl, whatever the policy is: nobody gets the lock before, not the next in
    /// line either. The entry ends with the deadline of this guard and the drift: if a renewal was not answered, or is under
    /// way, and may have made it last longer, it is cut back in the background, where the backend can.
    pub fn leave_to_expire(mut self) {
        self.policy = Some(GuardPolicy::LeaveToExpire);
    }

    /// Runs `future` while the lock is held. The deadline is compared before each poll and after the last.
    ///
    /// # Errors
    ///
    /// [`LockError::Lost`] if the lock was lost before `future` was done; it was then dropped where it stood. Also if
    /// it was lost unnoticed and `future` is done.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `future`.
    ///
    /// ```
    /// # use lock_core::{LockError, LockGuard};
    /// # async fn write_report() -> u32 { 7 }
    /// # async fn doc(guard: LockGuard) -> Result<(), LockError> {
    /// let rows = guard.run(write_report()).await?;
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    pub async fn run<F: Future>(&self, future: F) -> Result<F::Output, LockError> {
        let output = self.run_until_lost(future).await?;
        self.check().map(|()| output)
    }

    /// The same, but what `future` came to counts even if the lock was lost meanwhile.
    pub(crate) async fn run_until_lost<F: Future>(
        &self,
        future: F,
    ) -> Result<F::Output, LockError> {
        let mut future = pin!(future);
        let mut lost = pin!(self.lost());
        poll_fn(|context| {
            if lost.as_mut().poll(context).is_ready() || !self.is_held() {
                let reason = self.lease.check().err().unwrap_or(LossReason::Unconfirmed);
                return Poll::Ready(Err(LockError::Lost {
                    key: self.key().clone(),
                    reason,
                }));
            }
            future.as_mut().poll(context).map(Ok)
        })
        .await
    }

    /// Lets go as the policy says, once what ran under the lock is done: whether it was held until then. If what ran
    /// failed, that counts more.
    pub(crate) async fn finish(self, failed: bool) -> Result<(), LockError> {
        if failed {
            let _ = self.let_go().await;
            return Ok(());
        }
        self.check()?;
        let key = self.key().clone();
        let reason = match self.let_go().await {
            Ok(Released::Expired) => LossReason::Absent,
            Ok(Released::TakenOver) => LossReason::Taken,
            Err(error @ LockError::Lost { .. }) => return Err(error),
            Ok(Released::Released) | Err(_) => return Ok(()),
        };
        Err(LockError::Lost { key, reason })
    }

    /// Lets go as the policy says. A lock that was left to expire counts as released.
    async fn let_go(self) -> Result<Released, LockError> {
        match self.policy {
            Some(GuardPolicy::Release) | None => self.release().await,
            Some(GuardPolicy::LeaveToExpire) => {
                self.leave_to_expire();
                Ok(Released::Released)
            }
        }
    }

    /// Makes a ticket out of the lock, with which another process can [`resume`](crate::Locks::resume) it. Waits for a
    /// renewal under way, at most for one op timeout. The lock is not renewed any more, and ends with its ttl unless
    /// it is resumed before.
    ///
    /// # Errors
    ///
    /// Gives the guard back with [`LockError::Lost`] if it is lost, [`LockError::Unsupported`] if the backend has no
    /// hand-over, [`LockError::Backend`] or [`LockError::Unknown`] while the outcome of an operation is unknown.
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, it drops the guard.
    pub async fn into_ticket(self) -> Result<Ticket, (Self, LockError)> {
        match Self::hand_over(&self.lease).await {
            Ok(ticket) => Ok(ticket),
            Err(error) => Err((self, error)),
        }
    }

    pub(crate) async fn hand_over(lease: &Arc<Lease>) -> Result<Ticket, LockError> {
        if !lease.store().capabilities.hand_over {
            return Err(LockError::Unsupported {
                key: lease.key().clone(),
                what: "handing a lock over".to_owned(),
            });
        }
        let remaining = lease.hand_over().await?;
        Ok(Ticket::new(
            lease.key().clone(),
            lease.owner().clone(),
            remaining,
        ))
    }

    /// For who does what this guard does in another way.
    #[cfg(feature = "blocking")]
    pub(crate) fn lease(&self) -> Arc<Lease> {
        Arc::clone(&self.lease)
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        match self.policy {
            Some(GuardPolicy::Release) => self.lease.let_go(),
            Some(GuardPolicy::LeaveToExpire) => self.lease.leave_to_expire(),
            None => {}
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("key", self.key())
            .field("fencing", &self.fencing_token())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// Tells of the loss of one held lock, in any task. Keeps nothing locked and nothing renewed.
#[derive(Clone)]
pub struct LossHandle {
    lease: Arc<Lease>,
}

impl LossHandle {
    /// Resolves when the lock is lost or its guard is gone, with the reason; at once if it is so already.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn lost(&self) -> LossReason {
        self.lease.ended().await
    }

    /// Whether the lock is still held: see [`LockGuard::is_held`].
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.lease.remaining().is_zero()
    }
}

impl fmt::Debug for LossHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossHandle")
            .field("held", &self.is_held())
            .finish_non_exhaustive()
    }
}
