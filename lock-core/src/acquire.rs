//! Taking a lock: one attempt, and the one loop that waits and tries again. Not when to try: that is the policy's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::backend::{AcquireRequest, Attempt, Busy, Holder, Place, Wakeup};
use crate::clock::Moment;
use crate::compensation::Compensation;
use crate::error::{BackendError, LockError};
use crate::guard::LockGuard;
use crate::key::LockKey;
use crate::lease::Lease;
use crate::owner::Owner;
use crate::policy::{Delays, LockOptions, MIN_DELAY, Terms, part_of, validity};
use crate::renewer::Renewer;
use crate::shield::Shield;
use crate::store::Store;
use crate::timer;

/// How much of the re-check interval is left to chance.
const RECHECK_JITTER: f64 = 0.25;

/// The longest pause between attempts that the holder's remaining time suggested.
const MAX_EXPIRY_PAUSE: Duration = Duration::from_secs(1);

/// Somebody who wants a lock: everything that was checked before the first request.
pub(crate) struct Acquirer {
    store: Arc<Store>,
    renewer: Arc<Renewer>,
    key: LockKey,
    options: LockOptions,
    terms: Terms,
}

/// How one attempt ended.
enum Outcome {
    Granted(LockGuard),
    Busy(Holder, Option<Duration>),
    Failed {
        error: LockError,
        released: Option<oneshot::Receiver<()>>,
    },
}

impl Acquirer {
    /// Checks everything that can be checked without I/O.
    pub(crate) fn new(
        store: &Arc<Store>,
        key: &LockKey,
        options: &LockOptions,
    ) -> Result<Self, LockError> {
        let terms = options.terms()?;
        store.check_open(key)?;
        let renewer = store.renewer(key)?;
        Ok(Self {
            store: Arc::clone(store),
            renewer,
            key: key.clone(),
            options: options.clone(),
            terms,
        })
    }

    /// One attempt.
    pub(crate) async fn try_acquire(&self) -> Result<LockGuard, LockError> {
        match self.attempt(&mut None, None).await {
            Outcome::Granted(guard) => Ok(guard.received()),
            Outcome::Busy(holder, _) => Err(LockError::Busy {
                key: self.key.clone(),
                holder,
            }),
            Outcome::Failed { error, .. } => Err(error),
        }
    }

    /// One attempt to take the lock over from `from`.
    pub(crate) async fn resume(&self, from: &Owner) -> Result<LockGuard, LockError> {
        use crate::error::LossReason::{Absent, Taken};
        match self.attempt(&mut None, Some(from.clone())).await {
            Outcome::Granted(guard) => Ok(guard.received()),
            Outcome::Busy(holder, _) => {
                let reason = if holder == Holder::new() {
                    Absent
                } else {
                    Taken
                };
                Err(LockError::Lost {
                    key: self.key.clone(),
                    reason,
                })
            }
            Outcome::Failed { error, .. } => Err(error),
        }
    }

    /// Attempts until one is granted, the policy gives up, or an attempt fails in a way that no retry mends.
    pub(crate) async fn acquire(&self) -> Result<LockGuard, LockError> {
        let mut waiting = Waiting::new(self);
        loop {
            let last = match self.attempt(&mut waiting.place, None).await {
                Outcome::Granted(guard) => return Ok(guard.received()),
                Outcome::Failed { error, .. } if !error.is_retryable() => return Err(error),
                Outcome::Busy(holder, recheck) => Last::Busy(holder, recheck),
                Outcome::Failed { error, released } => Last::Failed(error, released),
            };
            waiting.until_next_attempt(last).await?;
        }
    }

    /// One call to the store with a fresh owner. A grant that is too late is given back, and what may have been granted
    /// without our knowing too.
    async fn attempt(&self, place: &mut Option<KeptPlace>, from: Option<Owner>) -> Outcome {
        let owner = match Owner::fresh(self.options.label()) {
            Ok(owner) => owner,
            Err(error) => {
                return Outcome::Failed {
                    error,
                    released: None,
                };
            }
        };
        let call = call(
            Arc::clone(&self.store),
            Arc::clone(&self.renewer),
            self.key.clone(),
            self.terms,
            owner,
            place.take(),
            from,
        );
        let (outcome, kept) = Shield::new(self.renewer.runtime(), call).await;
        *place = kept;
        outcome
    }
}

async fn call(
    store: Arc<Store>,
    renewer: Arc<Renewer>,
    key: LockKey,
    terms: Terms,
    owner: Owner,
    mut place: Option<KeptPlace>,
    from: Option<Owner>,
) -> (Outcome, Option<KeptPlace>) {
    let _call = store.call();
    let asked = Moment::now();
    let compensation =
        Compensation::of_attempt(&store, &renewer, &key, &owner, terms.op_timeout, terms.ttl);
    let request = AcquireRequest::new(&key, &owner, terms.ttl)
        .with_place(place.as_ref().map(|kept| &kept.place))
        .with_from(from.as_ref());
    let answer = timer::timeout(terms.op_timeout, store.backend.try_acquire(request)).await;
    let answer = answer.unwrap_or_else(|| {
        Err(BackendError::unknown(format!(
            "no answer to acquire within {:?}",
            terms.op_timeout
        )))
    });
    let outcome = match answer {
        Ok(Attempt::Granted(grant)) => {
            if let Some(kept) = place.take() {
                kept.forget();
            }
            let remaining = validity(terms.ttl).saturating_sub(asked.elapsed());
            if store.is_closed() {
                Outcome::Failed {
                    error: LockError::Closed { key },
                    released: Some(compensation.granted().start()),
                }
            } else if remaining < terms.min_validity || remaining.is_zero() {
                let released = Some(compensation.granted().start());
                Outcome::Failed {
                    error: LockError::Late { key, remaining },
                    released,
                }
            } else {
                let lease = Lease::new(&store, &renewer, key.clone(), owner, terms, asked);
                compensation.settle();
                lease.start_renewing();
                Outcome::Granted(LockGuard::new(
                    lease,
                    grant.fencing.map(|range| range.first()),
                ))
            }
        }
        Ok(Attempt::Busy(Busy {
            holder,
            place: given,
            recheck,
        })) => {
            compensation.settle();
            KeptPlace::update(&mut place, given, &store, &renewer, &key, terms.op_timeout);
            Outcome::Busy(holder, recheck)
        }
        Err(error) if !error.may_have_been_applied() => {
            compensation.settle();
            Outcome::Failed {
                error: LockError::from_backend(&key, error),
                released: None,
            }
        }
        Err(error) => {
            let error = LockError::from_backend(&key, error);
            Outcome::Failed {
                error,
                released: Some(compensation.start()),
            }
        }
    };
    (outcome, place)
}

/// A place in the store's line that is ours. Dropped, it is given up.
struct KeptPlace {
    place: Place,
    store: Arc<Store>,
    renewer: Arc<Renewer>,
    key: LockKey,
    op_timeout: Duration,
    ours: bool,
}

impl KeptPlace {
    fn update(
        kept: &mut Option<Self>,
        given: Option<Place>,
        store: &Arc<Store>,
        renewer: &Arc<Renewer>,
        key: &LockKey,
        op_timeout: Duration,
    ) {
        match (kept.as_mut(), given) {
            (Some(kept), Some(place)) if kept.place == place => {}
            (_, Some(place)) => {
                *kept = Some(Self {
                    place,
                    store: Arc::clone(store),
                    renewer: Arc::clone(renewer),
                    key: key.clone(),
                    op_timeout,
                    ours: true,
                });
            }
            (_, None) => {
                if let Some(kept) = kept.take() {
                    kept.forget();
                }
            }
        }
    }

    /// The store has taken it back.
    fn forget(mut self) {
        self.ours = false;
    }
}

impl Drop for KeptPlace {
    fn drop(&mut self) {
        let Some(wakeups) = self.store.wakeups.as_ref().filter(|_| self.ours) else {
            return;
        };
        let wakeups = Arc::clone(wakeups);
        let (key, place, op_timeout) = (self.key.clone(), self.place.clone(), self.op_timeout);
        let call = self.store.call();
        self.renewer.runtime().spawn(async move {
            timer::timeout(op_timeout, wakeups.leave(&key, &place)).await;
            drop(call);
        });
    }
}

/// What the last attempt of a wait came to.
enum Last {
    Busy(Holder, Option<Duration>),
    Failed(LockError, Option<oneshot::Receiver<()>>),
}

/// The state of one wait: from the first attempt to the last.
struct Waiting<'a> {
    acquirer: &'a Acquirer,
    start: Moment,
    limit: Option<Duration>,
    delays: Delays,
    /// When the policy wants the next attempt, counted from the start; `None` once it has been made.
    due: Option<Duration>,
    place: Option<KeptPlace>,
    wakeup: Subscription,
    /// The shortest pause that the holder's remaining time may suggest: doubled each time it was wrong.
    expiry_pause: Duration,
    /// When the last attempt ended.
    attempted: Moment,
}

/// A subscription and the place in line that it was made for.
enum Subscription {
    NotTried,
    None(Option<Place>),
    Some(Box<dyn Wakeup>, Option<Place>),
}

/// What a waiter waits for besides a wake-up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The end of the wait.
    Limit,
    /// The policy's delay.
    Policy,
    /// The end of the holder's entry.
    Expiry,
    /// The safety net under the wake-ups, ours or the store's.
    Hint,
}

impl<'a> Waiting<'a> {
    fn new(acquirer: &'a Acquirer) -> Self {
        let retry = acquirer.options.retry();
        Self {
            acquirer,
            start: Moment::now(),
            limit: retry.wait_limit(),
            delays: retry.delays(),
            due: None,
            place: None,
            wakeup: Subscription::NotTried,
            expiry_pause: MIN_DELAY,
            attempted: Moment::now(),
        }
    }

    /// Waits until it is time for another attempt, or gives up.
    async fn until_next_attempt(&mut self, last: Last) -> Result<(), LockError> {
        self.attempted = Moment::now();
        if self.left().is_some_and(|left| left.is_zero()) {
            return Err(self.give_up(last));
        }
        let counted = self.acquirer.options.retry().is_counted();
        let last = match last {
            Last::Failed(error, Some(released)) => {
                // The next attempt starts when the release of this one was answered or timed out.
                let limit = self
                    .left()
                    .unwrap_or(Duration::MAX)
                    .min(self.acquirer.terms.op_timeout);
                if self.draw_delay().is_none() {
                    return Err(error);
                }
                timer::timeout(limit, released).await;
                Last::Failed(error, None)
            }
            other => other,
        };
        let busy = matches!(last, Last::Busy(..));
        if busy && !(counted && self.draw_delay().is_none()) && self.subscribe().await {
            // What was released before the subscription was in force is found by this attempt.
            return Ok(());
        }
        let mut first = match self.wakeup {
            Subscription::Some(..) if busy && !counted => (self.recheck_interval(), Cause::Hint),
            _ => match self.draw_delay() {
                Some(due) => (due.saturating_sub(self.start.elapsed()), Cause::Policy),
                None => return Err(self.give_up(last)),
            },
        };
        if let Last::Busy(holder, recheck) = &last {
            if let Some(recheck) = recheck {
                first = sooner(first, (*recheck, Cause::Hint));
            }
            if let Some(remaining) = holder.remaining {
                // The store may have rounded down what remains.
                let hint = remaining.saturating_add(MIN_DELAY).max(self.expiry_pause);
                first = sooner(first, (hint, Cause::Expiry));
            }
        }
        if let Some(left) = self.left() {
            first = sooner(first, (left, Cause::Limit));
        }
        let (pause, cause) = first;
        if self.wait(pause.max(MIN_DELAY), busy).await? {
            self.expiry_pause = MIN_DELAY;
            return Ok(());
        }
        match cause {
            Cause::Limit => return Err(self.give_up(last)),
            Cause::Policy => self.due = None,
            Cause::Expiry => {
                self.expiry_pause = self.expiry_pause.saturating_mul(2).min(MAX_EXPIRY_PAUSE);
            }
            Cause::Hint => {}
        }
        Ok(())
    }

    /// What is left of the wait; `None` without a limit.
    fn left(&self) -> Option<Duration> {
        self.limit
            .map(|limit| limit.saturating_sub(self.start.elapsed()))
    }

    /// When the policy wants the next attempt, counted from the start; `None` when it gives up.
    fn draw_delay(&mut self) -> Option<Duration> {
        if self.due.is_none() {
            self.due = self
                .delays
                .next()
                .map(|delay| self.start.elapsed().saturating_add(delay));
        }
        self.due
    }

    fn recheck_interval(&self) -> Duration {
        let share = 1.0 - RECHECK_JITTER * fastrand::f64();
        part_of(self.acquirer.options.recheck(), share)
    }

    /// Subscribes if that was not tried yet for this place in line; true if a subscription has just come into force.
    async fn subscribe(&mut self) -> bool {
        let acquirer = self.acquirer;
        let Some(wakeups) = &acquirer.store.wakeups else {
            return false;
        };
        let place = self.place.as_ref().map(|kept| kept.place.clone());
        match &self.wakeup {
            Subscription::NotTried => {}
            Subscription::None(tried) | Subscription::Some(_, tried) if *tried != place => {}
            Subscription::None(_) | Subscription::Some(..) => return false,
        }
        let limit = self
            .left()
            .unwrap_or(Duration::MAX)
            .min(acquirer.terms.op_timeout);
        let subscribed =
            timer::timeout(limit, wakeups.subscribe(&acquirer.key, place.as_ref())).await;
        let in_force = matches!(subscribed, Some(Ok(_)));
        self.wakeup = match subscribed {
            Some(Ok(wakeup)) => Subscription::Some(wakeup, place),
            // The policy's delays serve instead.
            Some(Err(_)) | None => Subscription::None(place),
        };
        in_force
    }

    /// Waits for `pause`; true if woken before.
    async fn wait(&mut self, pause: Duration, wakes: bool) -> Result<bool, LockError> {
        let store = &self.acquirer.store;
        let attempted = self.attempted;
        let woken = async {
            match &mut self.wakeup {
                Subscription::Some(wakeup, _) if wakes => {
                    wakeup.notified().await;
                    // A store that wakes us all the time must not make us spin.
                    let early = MIN_DELAY.saturating_sub(attempted.elapsed());
                    if !early.is_zero() {
                        timer::sleep(early).await;
                    }
                }
                _ => std::future::pending().await,
            }
        };
        let woken = timer::timeout(pause, or_closed(store, woken))
            .await
            .is_some();
        store.check_open(&self.acquirer.key)?;
        Ok(woken)
    }

    fn give_up(&self, last: Last) -> LockError {
        match last {
            Last::Failed(error, _) => error,
            Last::Busy(holder, _) => LockError::TimedOut {
                key: self.acquirer.key.clone(),
                waited: self.start.elapsed(),
                holder,
            },
        }
    }
}

/// Resolves when `future` does or when the store is closed.
async fn or_closed(store: &Store, future: impl Future<Output = ()>) {
    let mut closed = std::pin::pin!(store.closed());
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        if closed.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(());
        }
        future.as_mut().poll(context)
    })
    .await;
}

fn sooner(one: (Duration, Cause), other: (Duration, Cause)) -> (Duration, Cause) {
    if other.0 < one.0 { other } else { one }
}
