//! Taking a lock: one attempt, and the one loop that waits and tries again. Not when to try: that is the policy's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::backend::{AcquireRequest, Attempt, Busy, Grant, Holder, Place};
use crate::clock::Moment;
use crate::compensation::Compensation;
use crate::error::{BackendError, LockError, LossReason};
use crate::guard::LockGuard;
use crate::key::LockKey;
use crate::lease::Lease;
use crate::line::{Entered, Found, Head, Wants};
use crate::observe;
use crate::owner::Owner;
use crate::policy::{LockOptions, Terms, validity};
use crate::renewer::Renewer;
use crate::shield::Shield;
use crate::store::Store;
use crate::timer;

mod at_store;
#[cfg(all(test, feature = "mock"))]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests with helpers")]
mod entropy_tests;
mod place;
mod waiting;

pub(crate) use at_store::AtStore;
use place::KeptPlace;
use waiting::{Last, Waiting};

/// Somebody who wants a lock: everything that was checked before the first request.
pub(crate) struct Acquirer<'a> {
    store: &'a Arc<Store>,
    renewer: Arc<Renewer>,
    key: &'a LockKey,
    options: &'a LockOptions,
    terms: Terms,
}

/// How an attempt ended that was not granted. Boxed, because what is granted is handed through many hands.
struct Refused {
    outcome: Outcome,
    head: Option<Head>,
}

enum Outcome {
    Busy(Holder, Option<Duration>),
    Failed {
        error: LockError,
        released: Option<oneshot::Receiver<()>>,
    },
}

/// What somebody waits for who was not granted the lock at once.
enum Waits {
    ToEnter(Entered),
    ToTryAgain(Box<Refused>),
}

impl<'a> Acquirer<'a> {
    /// Checks everything that can be checked without I/O.
    pub(crate) fn new(
        store: &'a Arc<Store>,
        key: &'a LockKey,
        options: &'a LockOptions,
    ) -> Result<Self, LockError> {
        let terms = options.terms()?;
        store.check_open(key)?;
        let renewer = store.renewer(key)?;
        Ok(Self {
            store,
            renewer,
            key,
            options,
            terms,
        })
    }

    /// One attempt.
    pub(crate) async fn try_acquire(&self) -> Result<LockGuard, LockError> {
        let start = Moment::now();
        let telling = Telling::new(self.key, start);
        let result = observe::in_acquire_span(self.key, self.attempt_once(start)).await;
        telling.of(result)
    }

    /// One attempt to take the lock over from `from`.
    pub(crate) async fn resume(&self, from: &Owner) -> Result<LockGuard, LockError> {
        let start = Moment::now();
        let telling = Telling::new(self.key, start);
        let result = observe::in_acquire_span(self.key, self.take_over(from, start)).await;
        telling.of(result)
    }

    /// Attempts until one is granted, the policy gives up, or an attempt fails in a way that no retry mends.
    pub(crate) async fn acquire(&self) -> Result<LockGuard, LockError> {
        let start = Moment::now();
        let telling = Telling::new(self.key, start);
        let result = observe::in_acquire_span(self.key, self.attempt_until_granted(start)).await;
        telling.of(result)
    }

    async fn attempt_once(&self, start: Moment) -> Result<LockGuard, LockError> {
        let head = match self.enter_at_once(start) {
            Ok(head) => head,
            Err(holder) => {
                return Err(LockError::Busy {
                    key: self.key.clone(),
                    holder,
                });
            }
        };
        let attempt = self.attempt(Some(head), None, start).await;
        attempt.map_err(|refused| match refused.outcome {
            Outcome::Busy(holder, _) => LockError::Busy {
                key: self.key.clone(),
                holder,
            },
            Outcome::Failed { error, .. } => error,
        })
    }

    async fn take_over(&self, from: &Owner, start: Moment) -> Result<LockGuard, LockError> {
        // Nobody else can have it meanwhile, so that there is nothing to stand in line for.
        let attempt = self.attempt(None, Some(from.clone()), start).await;
        attempt.map_err(|refused| match refused.outcome {
            Outcome::Busy(holder, recheck) => {
                let gone = holder == Holder::new() && recheck.is_none();
                let reason = if gone {
                    LossReason::Absent
                } else {
                    LossReason::Taken
                };
                LockError::Lost {
                    key: self.key.clone(),
                    reason,
                }
            }
            Outcome::Failed { error, .. } => error,
        })
    }

    async fn attempt_until_granted(&self, start: Moment) -> Result<LockGuard, LockError> {
        let single = self.options.retry().is_single();
        let entered = if single {
            match self.enter_at_once(start) {
                Ok(head) => Entered::Head(head),
                Err(holder) => {
                    return Err(Waiting::new(self, start).give_up(Last::Busy(holder, None)));
                }
            }
        } else {
            let op_timeout = self.terms.op_timeout();
            Head::or_stand(self.store, self.key, start, op_timeout, || self.wants())
        };
        let waits = match entered {
            Entered::Stands(_) => Waits::ToEnter(entered),
            Entered::Head(head) => match self.attempt(Some(head), None, start).await {
                Ok(guard) => return Ok(guard),
                Err(refused) => Waits::ToTryAgain(refused),
            },
        };
        // Boxed, so that who need not wait is not burdened with what it takes to wait.
        Box::pin(self.wait_until_granted(start, waits)).await
    }

    async fn wait_until_granted(
        &self,
        start: Moment,
        mut waits: Waits,
    ) -> Result<LockGuard, LockError> {
        let mut waiting = Waiting::new(self, start);
        let op_timeout = self.terms.op_timeout();
        let mut asked = None;
        loop {
            let refused = match waits {
                Waits::ToTryAgain(refused) => refused,
                Waits::ToEnter(entered) => {
                    let mut head = match entered {
                        Entered::Head(head) => head,
                        Entered::Stands(standing) => {
                            asked = None;
                            waiting.until_turn(standing).await?
                        }
                    };
                    if let Some(lease) = head.passed.take() {
                        match self.receive(head, lease).await {
                            Ok(guard) => return Ok(guard),
                            Err(again) => waits = Waits::ToEnter(again?),
                        }
                        continue;
                    }
                    let now = asked.take().unwrap_or_else(Moment::now);
                    match self.attempt(Some(head), None, now).await {
                        Ok(guard) => return Ok(guard),
                        Err(refused) => refused,
                    }
                }
            };
            let Refused { outcome, head } = *refused;
            let last = match outcome {
                Outcome::Failed { error, .. } if !error.is_retryable() => return Err(error),
                Outcome::Busy(holder, recheck) => Last::Busy(holder, recheck),
                Outcome::Failed { error, released } => Last::Failed(error, released),
            };
            let Some(mut head) = head else {
                return Err(waiting.give_up(last));
            };
            waiting.until_next_attempt(last, &mut head).await?;
            let now = Moment::now();
            asked = Some(now);
            waits = Waits::ToEnter(if head.promise(now, op_timeout, false) {
                Entered::Head(head)
            } else {
                head.stand_again(op_timeout, self.wants())
            });
        }
    }

    /// Takes a lease that was passed on. If that fails, the line is stood in again, unless the store is closed.
    async fn receive(
        &self,
        head: Head,
        lease: Arc<Lease>,
    ) -> Result<LockGuard, Result<Entered, LockError>> {
        let op_timeout = self.terms.op_timeout();
        // A shutdown waits for a lease that is on its way from one guard to the next.
        let call = self.store.call();
        // Who it is on offer to was looked at when it was offered.
        let wants = self.wants();
        let may_go_on = !head.took_over || lease.may_go_on(&wants, lease.spent(&Moment::now()));
        let claimed = if may_go_on && wants.fits(lease.terms(), lease.owner()) {
            lease.claim(&self.renewer, self.key, self.terms)
        } else {
            None
        };
        let Some(claimed) = claimed else {
            let again = head.decline(&lease, &self.renewer, op_timeout, wants);
            return Err(Ok(again));
        };
        let rank = head.rank();
        claimed.begin(Some(head), Moment::now());
        drop(call);
        let guard = LockGuard::new(Arc::clone(&claimed));
        // Whose lease was released by then, or is about to be.
        self.store.check_open(self.key).map_err(Err)?;
        if claimed.has_enough() {
            return Ok(guard);
        }
        let renewed = claimed.renew_in_full().await.is_ok();
        if renewed && claimed.validity_left() >= self.terms.min_validity() {
            return Ok(guard);
        }
        // Whatever the renewal came to, a grant of its own may be had. Nobody else gets this lease.
        let again = Head::stand(self.store, self.key, rank, op_timeout, self.wants());
        claimed.release_in_background(LossReason::Released);
        Err(Ok(again))
    }

    /// What it takes for a lease to be passed on to it.
    fn wants(&self) -> Wants {
        Wants {
            ttl: self.terms.ttl(),
            label: self.options.shared_label(),
            passing: self.terms.passing(),
        }
    }

    /// The turn for one attempt, or the holder to whom it would be busy.
    fn enter_at_once(&self, now: Moment) -> Result<Head, Holder> {
        let patience = self.terms.op_timeout();
        match Head::at_once(self.store, self.key, now, patience) {
            Found::Free(head) => Ok(head),
            Found::Busy(holder) => Err(holder),
        }
    }

    /// One call to the store with a fresh owner, whose validity counts from `asked` on, which is now or before. A grant that is
    /// too late is given back, and what may have been granted without our knowing too. Gives `head` back unless the lock was
    /// granted.
    async fn attempt(
        &self,
        head: Option<Head>,
        from: Option<Owner>,
        asked: Moment,
    ) -> Result<LockGuard, Box<Refused>> {
        let owner = match Owner::fresh(self.options.label()) {
            Ok(owner) => owner,
            Err(error) => {
                let released = None;
                let outcome = Outcome::Failed { error, released };
                return Err(Box::new(Refused { outcome, head }));
            }
        };
        let asking = Asking {
            store: Arc::clone(self.store),
            renewer: Arc::clone(&self.renewer),
            key: self.key.clone(),
            terms: self.terms,
            owner,
            from,
            asked,
        };
        let call = call(asking, head);
        Shield::new(self.renewer.runtime(), call).await
    }
}

/// Tells how an acquisition ended, also if its future was dropped.
struct Telling<'a> {
    key: &'a LockKey,
    start: Moment,
    told: bool,
}

impl<'a> Telling<'a> {
    fn new(key: &'a LockKey, start: Moment) -> Self {
        Self {
            key,
            start,
            told: false,
        }
    }

    /// Tells of `result`, and hands its guard to the caller.
    fn of(mut self, result: Result<LockGuard, LockError>) -> Result<LockGuard, LockError> {
        self.told = true;
        observe::acquired(self.key, self.start, &result);
        result.map(LockGuard::received)
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.told {
            observe::cancelled(self.key, self.start);
        }
    }
}

/// What one attempt is made of. The call owns it, because it may outlive its caller.
struct Asking {
    store: Arc<Store>,
    renewer: Arc<Renewer>,
    key: LockKey,
    terms: Terms,
    owner: Owner,
    from: Option<Owner>,
    asked: Moment,
}

#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps room for its arguments twice"
)]
fn call(
    asking: Asking,
    mut head: Option<Head>,
) -> impl Future<Output = Result<LockGuard, Box<Refused>>> + Send + 'static {
    async move {
        let _call = asking.store.kept_call();
        if asking.store.is_closed() {
            // Closed before the call was counted: the shutdown does not wait for it.
            let (error, released) = (LockError::Closed { key: asking.key }, None);
            let outcome = Outcome::Failed { error, released };
            return Err(Box::new(Refused { outcome, head }));
        }
        let compensation = asking.compensation();
        let answer = asking.ask(&mut head).await;
        let outcome = match answer {
            Ok(Attempt::Granted(grant)) => {
                if let Some(at_store) = head.as_mut().and_then(|head| head.at_store.as_mut()) {
                    KeptPlace::spend(&mut at_store.place);
                }
                let now = Moment::now();
                let terms = &asking.terms;
                let remaining = validity(terms.ttl()).saturating_sub(asking.asked.until(&now));
                if asking.store.is_closed() {
                    let released = Some(compensation.granted().start());
                    let error = LockError::Closed { key: asking.key };
                    Outcome::Failed { error, released }
                } else if remaining < terms.min_validity() || remaining.is_zero() {
                    let released = Some(compensation.granted().start());
                    let key = asking.key;
                    let error = LockError::Late { key, remaining };
                    Outcome::Failed { error, released }
                } else {
                    compensation.settle();
                    let lease = asking.granted(grant, now);
                    lease.begin(head, now);
                    return Ok(LockGuard::new(lease));
                }
            }
            Ok(Attempt::Busy(Busy {
                holder,
                place,
                recheck,
            })) => {
                compensation.settle();
                if let Some(head) = &mut head {
                    asking.keep_place(head, place);
                }
                Outcome::Busy(holder, recheck)
            }
            // Where the client sends again by itself, an error speaks of the last copy only.
            Err(error) if !error.may_have_been_applied() && !asking.store.capabilities.resends => {
                compensation.settle();
                Outcome::Failed {
                    error: LockError::from_backend(&asking.key, error),
                    released: None,
                }
            }
            Err(error) => {
                let error = LockError::from_backend(&asking.key, error);
                Outcome::Failed {
                    error,
                    released: Some(compensation.start()),
                }
            }
        };
        Err(Box::new(Refused { outcome, head }))
    }
}

impl Asking {
    fn compensation(&self) -> Compensation<'_> {
        Compensation::of_attempt(
            &self.store,
            &self.renewer,
            &self.key,
            &self.owner,
            self.terms.op_timeout(),
            self.asked.after(self.terms.ttl()),
        )
    }

    /// Asks the store, for one op timeout at the most.
    async fn ask(&self, head: &mut Option<Head>) -> Result<Attempt, BackendError> {
        let terms = &self.terms;
        let is_followed = head
            .as_mut()
            .is_some_and(|head| head.is_followed(|next| next.takes(terms, &self.owner)));
        let tokens = if is_followed {
            terms.passing().tokens()
        } else {
            1
        };
        let at_store = head.as_ref().and_then(|head| head.at_store.as_deref());
        let place = at_store.and_then(|at_store| at_store.place.as_ref());
        let request = AcquireRequest::new(&self.key, &self.owner, terms.ttl())
            .with_tokens(tokens)
            .with_place(place.map(|kept| &kept.place))
            .with_from(self.from.as_ref());
        let attempt = self.store.backend.try_acquire(request);
        let answer = timer::timeout_from(Some(self.asked), terms.op_timeout(), attempt).await;
        answer.unwrap_or_else(|| {
            Err(BackendError::unknown(format!(
                "no answer to acquire within {:?}",
                terms.op_timeout()
            )))
        })
    }

    /// Makes a lease of what was granted.
    fn granted(self, grant: Grant, now: Moment) -> Arc<Lease> {
        let Self {
            store,
            renewer,
            key,
            terms,
            owner,
            asked,
            ..
        } = self;
        let fencing = grant.fencing;
        Lease::new(store, renewer, key, owner, fencing, terms, asked, now)
    }

    /// Keeps the place in the store's line that a busy answer gave.
    fn keep_place(&self, head: &mut Head, given: Option<Place>) {
        if given.is_none() && head.at_store.is_none() {
            return;
        }
        let kept = &mut head.at_store.get_or_insert_default().place;
        let op_timeout = self.terms.op_timeout();
        KeptPlace::update(
            kept,
            given,
            &self.store,
            &self.renewer,
            &self.key,
            op_timeout,
        );
    }
}
