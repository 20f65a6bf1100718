//! How a lease is closed: released, left to expire, or handed over. Not what a background release does: that is a
//! [`Compensation`].

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Lease;
use crate::backend::Ownership;
use crate::clock::{Deadline, Moment};
use crate::compensation::Compensation;
use crate::error::{BackendError, LockError, LossReason};
use crate::key::LockKey;
use crate::line::{CLAIM, Spot};
use crate::observe;
use crate::policy::validity;
use crate::renewer::Renewer;
use crate::shield::Shield;
use crate::store::{Call, Store};
use crate::timer;

/// How a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Released {
    /// The entry was ours and is gone, or the lock went to the next in line of this process, for all that was known: it was
    /// held until now. On a backend whose client sends requests again by itself
    /// ([`Capabilities::resends`](crate::Capabilities::resends)) it may also have expired before.
    Released,
    /// There was no entry any more: the lock had expired before.
    Expired,
    /// The entry is somebody else's: the lock had been taken over before.
    TakenOver,
}

impl Released {
    /// What the store's answer to a release means.
    pub(crate) fn from_answer(
        store: &Store,
        key: &LockKey,
        answer: Result<Ownership, BackendError>,
    ) -> Result<Self, LockError> {
        match answer {
            Ok(Ownership::Held) => Ok(Self::Released),
            // A client that sends again by itself may have been answered about the second copy.
            Ok(Ownership::Absent) if store.capabilities.resends => Ok(Self::Released),
            Ok(Ownership::Absent) => Ok(Self::Expired),
            Ok(Ownership::Taken) => Ok(Self::TakenOver),
            Err(error) => Err(LockError::from_backend(key, error)),
        }
    }
}

/// What becomes of an entry when its lease is closed.
enum Closing {
    /// It is to be released `now`, if there is a clock; it may last until `latest`. Then the first spot in line goes on.
    Send {
        now: Option<Moment>,
        latest: Deadline,
        spot: Option<Spot>,
    },
    /// It is known to be gone.
    Gone(Released),
    /// The lease was closed before, for this reason.
    Before(LossReason),
}

/// Resolves once those who were woken before had their turn to run. Not `yield_now`: that puts whoever calls it behind all who
/// are ready to run, so that a caller who comes back for the lock at once would find that it went down the whole line, and to
/// the store, meanwhile.
async fn after_who_was_woken() {
    let mut behind = false;
    poll_fn(|context| {
        if std::mem::replace(&mut behind, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Lease {
    /// Ends the lease, and says whether its entry is to be released now: not if that was done before, or it is known
    /// to be gone.
    fn close(&self, reason: LossReason) -> Closing {
        // A runtime or thread that is being torn down has no clock.
        let mut now = None;
        observe::contained(|| now = Some(Moment::now()));
        let mut state = self.state();
        let closed = std::mem::replace(&mut state.closed, true);
        let ended = state.ended;
        if !closed {
            if let Some(now) = now {
                let answer = now.after(self.terms.op_timeout().saturating_add(CLAIM));
                state.deadline = state.deadline.earlier(answer);
            }
            self.end_locked(&mut state, reason);
        }
        match ended {
            Some(LossReason::Absent) => Closing::Gone(Released::Expired),
            Some(LossReason::Taken) => Closing::Gone(Released::TakenOver),
            Some(reason) if closed => Closing::Before(reason),
            _ => {
                let (latest, spot) = (state.latest, self.take_spot(&mut state));
                Closing::Send { now, latest, spot }
            }
        }
    }

    /// Ends the lease and leaves its entry to the ttl. If the entry may have been made to last longer than the guard knew, it
    /// is cut back in the background.
    pub(crate) fn leave_to_expire(self: &Arc<Self>) {
        // As in `release`, until the request to cut it back is counted itself.
        let _call = self.store.call();
        let (end, latest, drift) = {
            let state = self.state();
            let drift = state.ttl.saturating_sub(validity(state.ttl));
            (state.asked.after(state.ttl), state.latest, drift)
        };
        let closing = self.close(LossReason::Released);
        // A runtime or thread that is being torn down has no clock, and leaves the entry as it is.
        observe::contained(|| {
            let now = Moment::now();
            let is_ours = matches!(closing, Closing::Send { .. });
            if is_ours && latest.left(&now).saturating_sub(end.left(&now)) > drift {
                self.trim(end);
            }
        });
    }

    /// Passes the lease on to the next in line, or releases the entry; the caller waits for the answer, at most for one op
    /// timeout. Where the store's client cannot work, because there is no runtime, that is done in the background.
    pub(crate) async fn release(self: &Arc<Self>) -> Result<Released, LockError> {
        // Before the lease leaves the list: a shutdown finds it there, or this call under way.
        let call = Call::at(Arc::clone(self));
        if self.pass_on() {
            drop(call);
            // The next in line was woken, and is to have it before the caller goes on, perhaps without an await.
            after_who_was_woken().await;
            return Ok(Released::Released);
        }
        let (now, latest, spot) = match self.close(LossReason::Released) {
            Closing::Send { now, latest, spot } => (now, latest, spot),
            Closing::Gone(answer) => return Ok(answer),
            Closing::Before(reason) => {
                return Err(LockError::Lost {
                    key: self.key.clone(),
                    reason,
                });
            }
        };
        if let Err(error) = self.store.renewer(&self.key) {
            drop(
                self.compensation(&self.renewer, latest)
                    .with_spot(spot, self),
            );
            return Err(error);
        }
        let call = async move {
            let lease = call.whose();
            let compensation = lease.compensation(&lease.renewer, latest);
            let answer = lease.call_release(now).await;
            observe::released(&lease.key, &answer);
            if answer.is_ok() {
                compensation.settle();
            }
            drop(spot);
            answer
        };
        Shield::new(self.renewer.runtime(), call).await
    }

    /// `now` is a moment of the poll in which this is first polled.
    async fn call_release(&self, now: Option<Moment>) -> Result<Released, LockError> {
        let release = self.backend().release(&self.key, &self.owner);
        let answer = timer::timeout_from(now, self.terms.op_timeout(), release).await;
        let answer = answer.unwrap_or_else(|| {
            let limit = self.terms.op_timeout();
            Err(BackendError::unknown(format!(
                "no answer to release within {limit:?}"
            )))
        });
        Released::from_answer(&self.store, &self.key, answer)
    }

    /// The same without waiting.
    pub(crate) fn let_go(self: &Arc<Self>) {
        // As in `release`.
        let _call = self.store.call();
        let mut passed_on = false;
        observe::contained(|| passed_on = self.pass_on());
        if !passed_on {
            self.release_in_background(LossReason::Released);
        }
    }

    /// Releases the entry in the background.
    pub(crate) fn release_in_background(self: &Arc<Self>, reason: LossReason) {
        self.release_on(&self.renewer, reason);
    }

    /// The same on `renewer`'s runtime, and on that of the lease too: one of them may not be driven, the other may be about to
    /// end.
    pub(super) fn release_on(self: &Arc<Self>, renewer: &Arc<Renewer>, reason: LossReason) {
        // As in `release`, until the release is counted itself.
        let _call = self.store.call();
        if let Closing::Send { latest, spot, .. } = self.close(reason) {
            drop(self.compensation(renewer, latest).with_spot(spot, self));
            if !Arc::ptr_eq(renewer, &self.renewer) {
                drop(self.compensation(&self.renewer, latest));
            }
        }
    }

    fn compensation<'a>(&'a self, renewer: &'a Renewer, latest: Deadline) -> Compensation<'a> {
        let op_timeout = self.terms.op_timeout();
        Compensation::of_entry(
            &self.store,
            renewer,
            &self.key,
            &self.owner,
            op_timeout,
            latest,
        )
    }

    /// Ends the lease for its holder and leaves the entry to whoever resumes it. Fails, and changes nothing, while the
    /// outcome of an operation is unknown.
    pub(crate) async fn hand_over(self: &Arc<Self>) -> Result<Duration, LockError> {
        let _operation = self.begin_operation().await?;
        let mut state = self.state();
        let now = Moment::now();
        self.note_deadline(&mut state, now);
        if let Some(reason) = state.ended {
            return Err(LockError::Lost {
                key: self.key.clone(),
                reason,
            });
        }
        if state.uncertain || state.frozen {
            return Err(self.uncertain());
        }
        let remaining = state.remaining(&self.terms, now);
        state.closed = true;
        self.end_locked(&mut state, LossReason::Released);
        let spot = self.take_spot(&mut state);
        drop(state);
        drop(spot);
        Ok(remaining)
    }
}
