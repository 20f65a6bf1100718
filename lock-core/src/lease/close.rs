//! How a lease is closed: released, left to expire, or handed over. Not what a background release does: that is a
//! [`Compensation`].

use std::sync::Arc;
use std::time::Duration;

use super::Lease;
use crate::backend::Ownership;
use crate::clock::Moment;
use crate::compensation::Compensation;
use crate::error::{LockError, LossReason};
use crate::observe;
use crate::shield::Shield;
use crate::timer;

/// How a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Released {
    /// The entry was ours and is gone: the lock was held until now.
    Released,
    /// There was no entry any more: the lock had expired before.
    Expired,
    /// The entry is somebody else's: the lock had been taken over before.
    TakenOver,
}

/// What becomes of an entry when its lease is closed.
enum Closing {
    /// It is to be released; it lasts at least until `asked + ttl`.
    Send { asked: Moment, ttl: Duration },
    /// It is known to be gone.
    Gone(Released),
    /// The lease was closed before, for this reason.
    Before(LossReason),
}

impl Lease {
    /// Ends the lease, and says whether its entry is to be released now: not if that was done before, or it is known
    /// to be gone.
    fn close(&self, reason: LossReason) -> Closing {
        let mut state = self.state();
        let closed = std::mem::replace(&mut state.closed, true);
        let ended = state.ended;
        self.end_locked(&mut state, reason);
        match ended {
            Some(LossReason::Absent) => Closing::Gone(Released::Expired),
            Some(LossReason::Taken) => Closing::Gone(Released::TakenOver),
            Some(reason) if closed => Closing::Before(reason),
            _ => Closing::Send {
                asked: state.asked,
                ttl: state.ttl,
            },
        }
    }

    /// Ends the lease and leaves its entry to the ttl.
    pub(crate) fn leave_to_expire(&self) {
        self.close(LossReason::Released);
    }

    /// Releases the entry; the caller waits for the answer, at most for one op timeout.
    pub(crate) async fn release(
        self: &Arc<Self>,
        reason: LossReason,
    ) -> Result<Released, LockError> {
        let (asked, ttl) = match self.close(reason) {
            Closing::Send { asked, ttl } => (asked, ttl),
            Closing::Gone(answer) => return Ok(answer),
            Closing::Before(reason) => {
                return Err(LockError::Lost {
                    key: self.key.clone(),
                    reason,
                });
            }
        };
        let lease = Arc::clone(self);
        let call = async move {
            let _call = lease.store.call();
            let compensation = lease.compensation(asked, ttl);
            let answer = lease.call_release().await;
            observe::released(&lease.key, &answer);
            if answer.is_ok() {
                compensation.settle();
            }
            answer
        };
        Shield::new(self.renewer.runtime(), call).await
    }

    async fn call_release(&self) -> Result<Released, LockError> {
        let release = self.backend().release(&self.key, &self.owner);
        match timer::timeout(self.terms.op_timeout, release).await {
            Some(Ok(Ownership::Held)) => Ok(Released::Released),
            // A client that sends again by itself may have been answered about the second copy.
            Some(Ok(Ownership::Absent)) if self.store.capabilities.resends => {
                Ok(Released::Released)
            }
            Some(Ok(Ownership::Absent)) => Ok(Released::Expired),
            Some(Ok(Ownership::Taken)) => Ok(Released::TakenOver),
            Some(Err(error)) => Err(LockError::from_backend(&self.key, error)),
            None => Err(self.unanswered("release")),
        }
    }

    /// Releases the entry in the background.
    pub(crate) fn release_in_background(&self, reason: LossReason) {
        if let Closing::Send { asked, ttl } = self.close(reason) {
            drop(self.compensation(asked, ttl));
        }
    }

    fn compensation(&self, asked: Moment, ttl: Duration) -> Compensation {
        let op_timeout = self.terms.op_timeout;
        Compensation::of_entry(
            &self.store,
            &self.renewer,
            &self.key,
            &self.owner,
            op_timeout,
            ttl,
            asked,
        )
    }

    /// Ends the lease for its holder and leaves the entry to whoever resumes it. Fails, and changes nothing, while the
    /// outcome of an operation is unknown.
    pub(crate) async fn hand_over(self: &Arc<Self>) -> Result<Duration, LockError> {
        let _operation = self.begin_operation().await?;
        let remaining = self.check_held()?;
        let mut state = self.state();
        if state.uncertain || state.frozen {
            return Err(self.uncertain());
        }
        state.closed = true;
        self.end_locked(&mut state, LossReason::Released);
        Ok(remaining)
    }
}
