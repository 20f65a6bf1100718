//! One operation at a time that the holder asks for: extending, handing over. Not the automatic renewal: that is in `turn.rs`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::state::State;
use super::{Lease, RETRY_PAUSE};
use crate::backend::{Ownership, Renew};
use crate::clock::{Deadline, Moment};
use crate::error::{BackendError, BackendErrorKind, LockError, LossReason};
use crate::observe;
use crate::policy::{MIN_TTL, check_ttl, nth};
use crate::shield::Shield;
use crate::timer;

impl Lease {
    /// Sets what is left of the entry to `target`, which is counted from now.
    pub(crate) async fn renew_for(self: &Arc<Self>, target: Duration) -> Result<(), LockError> {
        check_ttl("ttl", target)?;
        self.prolong(|_| target, Renew::Exactly).await
    }

    /// Adds `additional` to what is left of the entry.
    pub(crate) async fn extend(self: &Arc<Self>, additional: Duration) -> Result<(), LockError> {
        self.prolong(|left| left.saturating_add(additional), Renew::AtLeast)
            .await
    }

    async fn prolong(
        self: &Arc<Self>,
        target: impl FnOnce(Duration) -> Duration,
        how: Renew,
    ) -> Result<(), LockError> {
        if !self.store.capabilities.any_ttl {
            let what =
                "extend and renew_for; its locks are renewed with their own ttl only".to_owned();
            return Err(LockError::Unsupported {
                key: self.key.clone(),
                what,
            });
        }
        self.check_held()?;
        self.store.renewer(&self.key)?;
        let called = Moment::now();
        let operation = self.begin_operation().await?;
        self.check_held()?;
        let start = Moment::now();
        let (target, how, left, frozen) = {
            let state = self.state();
            let left = state.ttl.saturating_sub(state.asked.until(&start));
            let target = target(left);
            let how = if target >= left { Renew::AtLeast } else { how };
            (target, how, left, state.frozen)
        };
        check_ttl("what would be left", target)?;
        if frozen && target > left {
            return Err(self.frozen());
        }
        let limit = self.terms.op_timeout().saturating_sub(called.until(&start));
        let call = operation.run(Prolongation {
            start,
            target,
            how,
            limit,
            for_holder: true,
        });
        Shield::new(self.renewer.runtime(), call).await
    }

    /// Renews the entry for the whole ttl, for a guard that was passed a lease with less. Takes one op timeout at the most.
    pub(crate) async fn renew_in_full(self: &Arc<Self>) -> Result<(), LockError> {
        let called = Moment::now();
        let operation = self.begin_operation().await?;
        if self.has_enough() {
            // Its first renewal was under way.
            return self.check_held().map(drop);
        }
        let start = Moment::now();
        let call = operation.run(Prolongation {
            start,
            target: self.terms.ttl(),
            how: Renew::AtLeast,
            limit: self.terms.op_timeout().saturating_sub(called.until(&start)),
            for_holder: true,
        });
        Shield::new(self.renewer.runtime(), call).await
    }

    /// Has the entry end at `end`, once no operation is under way any more. Nobody holds it, and nobody waits for that.
    pub(super) fn trim(self: &Arc<Self>, end: Deadline) {
        if !self.store.capabilities.any_ttl {
            return;
        }
        let (lease, call) = (Arc::clone(self), self.store.kept_call());
        self.renewer.runtime().spawn(async move {
            if let Ok(operation) = lease.begin_operation().await {
                let start = Moment::now();
                let trimming = Prolongation {
                    start,
                    target: end.left(&start).max(MIN_TTL),
                    how: Renew::Exactly,
                    limit: lease.terms.op_timeout(),
                    for_holder: false,
                };
                // What the store did not hear leaves the entry to the ttl that it has.
                drop(operation.run(trimming).await);
            }
            drop(call);
        });
    }

    /// Waits for operations in flight, at most for one op timeout.
    pub(super) async fn begin_operation(self: &Arc<Self>) -> Result<Operation, LockError> {
        let first = Operation::begin(self, &mut self.state());
        if let Some(operation) = first {
            return Ok(operation);
        }
        let news = self.changed.get_or_init(Box::default);
        let begun = pin!(async {
            loop {
                // Before the look: who ends an operation after that finds it.
                let over = news.notified();
                let begun = {
                    let mut state = self.state();
                    let begun = Operation::begin(self, &mut state);
                    state.awaited |= begun.is_none();
                    begun
                };
                match begun {
                    Some(operation) => return operation,
                    None => over.await,
                }
            }
        });
        let begun = timer::timeout(self.terms.op_timeout(), begun).await;
        begun.ok_or_else(|| self.occupied())
    }

    /// Nothing was sent, because an operation before this one took all the time.
    fn occupied(&self) -> LockError {
        let source = BackendError::transient("a renewal before this is still unanswered");
        LockError::from_backend(&self.key, source)
    }

    /// The deadline cannot rise any more.
    fn frozen(&self) -> LockError {
        if self.store.capabilities.resends {
            let what =
                "prolonging a lock after it was shortened, since its client sends again by itself";
            return LockError::Unsupported {
                key: self.key.clone(),
                what: what.to_owned(),
            };
        }
        self.uncertain()
    }

    fn prolonged(
        self: &Arc<Self>,
        asked: Moment,
        ttl: Duration,
        ownership: Ownership,
    ) -> Result<(), LockError> {
        let reason = match ownership {
            Ownership::Held => {
                self.confirm(asked, ttl);
                self.link_for_renewal();
                return self.check_held().map(|_| ());
            }
            Ownership::Absent => LossReason::Absent,
            Ownership::Taken => LossReason::Taken,
        };
        self.end(reason);
        Err(LockError::Lost {
            key: self.key.clone(),
            reason,
        })
    }
}

/// The one operation under way on a lease. Dropped without an answer, its outcome is unknown.
pub(crate) struct Operation(Arc<Lease>);

struct Prolongation {
    start: Moment,
    /// What is to be left at `start`.
    target: Duration,
    how: Renew,
    limit: Duration,
    /// Not without one who holds the lock.
    for_holder: bool,
}

impl Operation {
    /// Begins an operation if none is under way. `state` is that of `lease`.
    fn begin(lease: &Arc<Lease>, state: &mut State) -> Option<Self> {
        if std::mem::replace(&mut state.operating, true) {
            return None;
        }
        Some(Self(Arc::clone(lease)))
    }

    /// Asks the store until it answers or the limit is over. Retries ask for what is left to the target.
    async fn run(self, asked_for: Prolongation) -> Result<(), LockError> {
        let lease = &self.0;
        let _call = lease.store.call();
        let Prolongation {
            start,
            target,
            how,
            limit,
            for_holder,
        } = asked_for;
        let mut last = lease.occupied();
        loop {
            let asked = Moment::now();
            let spent = start.until(&asked);
            let ttl = target.saturating_sub(spent);
            if spent >= limit {
                return Err(last);
            }
            if for_holder {
                // Left to itself by its caller, it may have outlived the guard.
                lease.check_held()?;
            }
            if how == Renew::Exactly {
                lease.shorten(asked, ttl);
                // The next renewal, or the deadline, comes sooner now.
                lease.link_for_renewal();
            } else {
                lease.asks(asked, ttl);
            }
            let doubt = Doubt {
                lease,
                how,
                answered: false,
            };
            let requests = [lease.renewal(ttl, how)];
            let renew = lease.backend().renew(&requests);
            let answer = timer::timeout(limit.saturating_sub(spent), renew).await;
            let answer = answer.and_then(|answers| answers.into_iter().next());
            observe::renewed(&lease.key, outcome_of(answer.as_ref()));
            match answer {
                Some(Ok(ownership)) => {
                    doubt.answered();
                    if how == Renew::Exactly {
                        lease.shortened(ttl);
                    }
                    return lease.prolonged(asked, ttl, ownership);
                }
                Some(Err(error)) if error.kind() == BackendErrorKind::Conflict => {
                    doubt.answered();
                    return lease.prolonged(asked, ttl, Ownership::Taken);
                }
                Some(Err(error)) => {
                    let retry = matches!(
                        error.kind(),
                        BackendErrorKind::Transient | BackendErrorKind::Unknown
                    );
                    if !error.may_have_been_applied() {
                        doubt.answered();
                    }
                    last = LockError::from_backend(&lease.key, error);
                    if !retry {
                        return Err(last);
                    }
                    let pause = RETRY_PAUSE.max(nth(limit, 16));
                    if start.elapsed().saturating_add(pause) >= limit {
                        return Err(last);
                    }
                    timer::sleep(pause).await;
                }
                None => return Err(lease.unanswered("renew")),
            }
        }
    }
}

pub(super) fn outcome_of(answer: Option<&Result<Ownership, BackendError>>) -> &'static str {
    match answer {
        Some(Ok(Ownership::Held)) => "held",
        Some(Ok(Ownership::Absent)) => "absent",
        Some(Ok(Ownership::Taken)) => "taken",
        Some(Err(error)) if !error.may_have_been_applied() => "failed",
        Some(Err(_)) | None => "unknown",
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        observe::contained(|| {
            self.0.state().operated();
        });
    }
}

/// Marks an operation as of unknown outcome unless it was answered: also if its future is dropped or panics.
struct Doubt<'a> {
    lease: &'a Lease,
    how: Renew,
    answered: bool,
}

impl Doubt<'_> {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.lease.doubt(self.how);
        }
    }
}
