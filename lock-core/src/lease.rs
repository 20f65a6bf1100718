//! One lease: what the store granted to one owner, from the grant to the end. Not who in this process holds it, and
//! not when it is renewed: that is the renewer's.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::backend::{LockBackend, Ownership, Renew, RenewRequest};
use crate::clock::Moment;
use crate::compensation::Compensation;
use crate::error::{BackendError, LockError, LossReason};
use crate::key::LockKey;
use crate::owner::Owner;
use crate::policy::{Terms, check_ttl, nth, part_of, validity};
use crate::renewer::{Link, Renewer};
use crate::shield::Shield;
use crate::store::Store;
use crate::timer;

/// A loss is told this much before the deadline, because timers are as late as this.
const SIGNAL_LEAD: Duration = Duration::from_millis(1);

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

pub(crate) struct Lease {
    store: Arc<Store>,
    renewer: Arc<Renewer>,
    key: LockKey,
    owner: Owner,
    terms: Terms,
    /// One renewal, extension or hand-over at a time.
    operation: Semaphore,
    /// Told when the lease ended and when its deadline fell.
    changed: Notify,
    state: Mutex<State>,
}

struct State {
    granted: Moment,
    /// The entry lasts at least until `asked + ttl`, and its holder believes in it until `asked + validity(ttl)`.
    asked: Moment,
    ttl: Duration,
    /// The deadline may not rise any more, because an old request to shorten the entry may yet arrive.
    frozen: bool,
    /// The last operation was not answered.
    uncertain: bool,
    progress: Moment,
    ended: Option<LossReason>,
    /// The entry was released, or is left to its ttl on purpose: nothing more is sent.
    closed: bool,
    link: Option<Link>,
}

/// What the renewer is to do about a lease whose turn has come.
pub(crate) enum Turn {
    /// Renew the entry for `ttl`.
    Renew { operation: Operation, ttl: Duration },
    /// Look again after that time.
    Wait(Duration),
    /// Nothing, ever: it ended.
    Over,
}

impl Lease {
    /// A lease whose request was sent at `asked`. Not linked to its renewer yet.
    pub(crate) fn new(
        store: &Arc<Store>,
        renewer: &Arc<Renewer>,
        key: LockKey,
        owner: Owner,
        terms: Terms,
        asked: Moment,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            renewer: Arc::clone(renewer),
            key,
            owner,
            terms,
            operation: Semaphore::new(1),
            changed: Notify::new(),
            state: Mutex::new(State {
                granted: asked,
                asked,
                ttl: terms.ttl,
                frozen: false,
                uncertain: false,
                progress: asked,
                ended: None,
                closed: false,
                link: None,
            }),
        })
    }

    pub(crate) fn key(&self) -> &LockKey {
        &self.key
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(crate) fn backend(&self) -> &dyn LockBackend {
        &*self.store.backend
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What the holder may believe.

    /// How long the holder may believe in the lease yet: zero if it ended, for whatever reason. No I/O, and right even
    /// if no task of ours has run since the grant.
    pub(crate) fn remaining(&self) -> Duration {
        let state = self.state();
        state.remaining(&self.terms, Moment::now())
    }

    /// The same, or how the lease ended. An end that only the clock knows of is noted.
    pub(crate) fn check(&self) -> Result<Duration, LossReason> {
        let mut state = self.state();
        let now = Moment::now();
        self.note_deadline(&mut state, now);
        match state.ended {
            Some(reason) => Err(reason),
            None => Ok(state.remaining(&self.terms, now)),
        }
    }

    /// Resolves when the lease ended, with the reason.
    pub(crate) async fn ended(&self) -> LossReason {
        loop {
            let changed = self.changed.notified();
            match self.check() {
                Err(reason) => return reason,
                Ok(remaining) => {
                    timer::timeout(remaining.saturating_sub(SIGNAL_LEAD), changed).await;
                }
            }
        }
    }

    pub(crate) fn checkpoint(&self) {
        self.state().progress = Moment::now();
    }

    // How it ends.

    /// Ends the lease for its holder. The first reason stays.
    pub(crate) fn end(&self, reason: LossReason) {
        self.end_locked(&mut self.state(), reason);
    }

    fn end_locked(&self, state: &mut State, reason: LossReason) {
        if state.ended.is_none() {
            state.ended = Some(reason);
            self.changed.notify_waiters();
        }
        if let Some(link) = state.link.take() {
            self.renewer.unlink(link);
        }
    }

    /// Ends the lease if its time is over.
    fn note_deadline(&self, state: &mut State, now: Moment) {
        if state.ended.is_none() && state.remaining(&self.terms, now) <= SIGNAL_LEAD {
            let reason = if state.hold_left(&self.terms, now) <= SIGNAL_LEAD {
                LossReason::HeldTooLong
            } else if state.is_stuck(&self.terms, now) {
                LossReason::NoProgress
            } else {
                LossReason::Unconfirmed
            };
            self.end_locked(state, reason);
        }
    }

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
            return Err(LockError::Unknown {
                key: self.key.clone(),
                source: BackendError::unknown(
                    "the outcome of an operation on this lock is unknown, so it cannot be handed over now",
                ),
            });
        }
        state.closed = true;
        self.end_locked(&mut state, LossReason::Released);
        Ok(remaining)
    }

    // How it is prolonged.

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
        let called = Moment::now();
        let operation = self.begin_operation().await?;
        self.check_held()?;
        let start = Moment::now();
        let (target, how) = {
            let state = self.state();
            let left = state.ttl.saturating_sub(state.asked.until(&start));
            let target = target(left);
            let how = if target >= left { Renew::AtLeast } else { how };
            (target, how)
        };
        check_ttl("what would be left", target)?;
        let limit = self.terms.op_timeout.saturating_sub(called.until(&start));
        let call = operation.run(Prolongation {
            start,
            target,
            how,
            limit,
        });
        Shield::new(self.renewer.runtime(), call).await
    }

    /// Waits for operations in flight, at most for one op timeout.
    async fn begin_operation(self: &Arc<Self>) -> Result<Operation, LockError> {
        let free = self.operation.acquire();
        match timer::timeout(self.terms.op_timeout, free).await {
            Some(Ok(permit)) => {
                permit.forget();
                Ok(Operation(Arc::clone(self)))
            }
            _ => Err(LockError::Backend {
                key: self.key.clone(),
                source: BackendError::transient("a renewal before this is still unanswered"),
                transient: true,
            }),
        }
    }

    fn check_held(&self) -> Result<Duration, LockError> {
        self.check().map_err(|reason| LockError::Lost {
            key: self.key.clone(),
            reason,
        })
    }

    fn unanswered(&self, what: &str) -> LockError {
        let source = BackendError::unknown(format!(
            "no answer to {what} within {:?}",
            self.terms.op_timeout
        ));
        LockError::Unknown {
            key: self.key.clone(),
            source,
        }
    }

    /// The store confirmed that the entry lasts for `ttl` from `asked` on.
    fn confirm(&self, asked: Moment, ttl: Duration) {
        let mut state = self.state();
        let now = Moment::now();
        // What the holder has seen end does not come back.
        self.note_deadline(&mut state, now);
        state.uncertain = false;
        if state.ended.is_some() || state.frozen {
            return;
        }
        if left(validity(ttl), &asked, &now) > left(validity(state.ttl), &state.asked, &now) {
            state.asked = asked;
            state.ttl = ttl;
        }
    }

    /// The deadline falls to that of `ttl` from `asked` on, before the store is asked for it.
    fn shorten(&self, asked: Moment, ttl: Duration) {
        let mut state = self.state();
        let now = Moment::now();
        if left(validity(ttl), &asked, &now) < left(validity(state.ttl), &state.asked, &now) {
            state.asked = asked;
            state.ttl = ttl;
        }
        if self.store.capabilities.resends {
            state.frozen = true;
        }
        self.changed.notify_waiters();
    }

    /// An operation was not answered.
    fn doubt(&self, how: Renew) {
        let mut state = self.state();
        state.uncertain = true;
        state.frozen |= how == Renew::Exactly;
    }

    // What the renewer does with it.

    /// Links the lease for its first renewal, or for its deadline.
    pub(crate) fn start_renewing(self: &Arc<Self>) {
        // From half the interval on, so that locks taken together are not renewed together.
        self.link_for_renewal(0.5);
    }

    fn link_for_renewal(self: &Arc<Self>, earliest: f64) {
        let ttl = {
            let state = self.state();
            state.ttl.min(self.terms.ttl)
        };
        let interval = self.terms.renewal.interval(ttl).unwrap_or(Duration::MAX);
        let share = earliest + (1.0 - earliest) * fastrand::f64();
        let due = part_of(interval, share);
        // Early by a sixteenth is early enough to be sent together with others.
        self.link(due, nth(interval, 16));
    }

    /// Links the lease `after` from now, or at its deadline if that comes first.
    pub(crate) fn link(self: &Arc<Self>, after: Duration, slack: Duration) {
        if self.store.is_closed() {
            // It was on its way when the store was closed.
            self.release_in_background(LossReason::ShutDown);
        }
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        if let Some(link) = state.link.take() {
            self.renewer.unlink(link);
        }
        let deadline = state
            .remaining(&self.terms, Moment::now())
            .saturating_sub(SIGNAL_LEAD);
        let slack = if after < deadline {
            slack
        } else {
            Duration::ZERO
        };
        state.link = Some(self.renewer.link(self, after.min(deadline), slack));
    }

    /// What to do now that the renewer came to this lease.
    pub(crate) fn turn(self: &Arc<Self>) -> Turn {
        let mut state = self.state();
        let now = Moment::now();
        state.link = None;
        self.note_deadline(&mut state, now);
        if state.ended.is_some() {
            return Turn::Over;
        }
        let remaining = state.remaining(&self.terms, now);
        let Some(interval) = self.terms.renewal.interval(state.ttl.min(self.terms.ttl)) else {
            return Turn::Wait(remaining);
        };
        if state.frozen {
            return Turn::Wait(remaining);
        }
        if state.is_stuck(&self.terms, now) {
            return Turn::Wait(nth(interval, 4));
        }
        let Ok(permit) = self.operation.try_acquire() else {
            return Turn::Wait(nth(interval, 4));
        };
        permit.forget();
        let ttl = self.terms.ttl.max(left(state.ttl, &state.asked, &now));
        Turn::Renew {
            operation: Operation(Arc::clone(self)),
            ttl,
        }
    }
}

impl State {
    fn remaining(&self, terms: &Terms, now: Moment) -> Duration {
        if self.ended.is_some() {
            return Duration::ZERO;
        }
        left(validity(self.ttl), &self.asked, &now).min(self.hold_left(terms, now))
    }

    fn hold_left(&self, terms: &Terms, now: Moment) -> Duration {
        match terms.renewal.hold_limit() {
            Some(limit) => left(limit, &self.granted, &now),
            None => Duration::MAX,
        }
    }

    fn is_stuck(&self, terms: &Terms, now: Moment) -> bool {
        terms
            .renewal
            .progress_period()
            .is_some_and(|period| self.progress.until(&now) > period)
    }
}

fn left(of: Duration, since: &Moment, now: &Moment) -> Duration {
    of.saturating_sub(since.until(now))
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

/// The one operation under way on a lease. Dropped without an answer, its outcome is unknown.
pub(crate) struct Operation(Arc<Lease>);

struct Prolongation {
    start: Moment,
    /// What is to be left at `start`.
    target: Duration,
    how: Renew,
    limit: Duration,
}

impl Operation {
    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.0
    }

    pub(crate) fn request(&self, ttl: Duration, how: Renew) -> RenewRequest<'_> {
        RenewRequest::new(&self.0.key, &self.0.owner, ttl, how)
    }

    /// Takes in the answer to an automatic renewal for `ttl` that was sent at `asked`; none means unknown. Then links
    /// the lease for the next one.
    pub(crate) fn renewed(
        self,
        asked: Moment,
        ttl: Duration,
        answer: Option<Result<Ownership, BackendError>>,
    ) {
        let lease = &self.0;
        match answer {
            Some(Ok(Ownership::Held)) => {
                lease.confirm(asked, ttl);
                lease.link_for_renewal(0.95);
            }
            Some(Ok(Ownership::Absent)) => lease.end(LossReason::Absent),
            Some(Ok(Ownership::Taken)) => lease.end(LossReason::Taken),
            Some(Err(error)) if !error.may_have_been_applied() => lease.link_for_retry(),
            Some(Err(_)) | None => {
                lease.doubt(Renew::AtLeast);
                lease.link_for_retry();
            }
        }
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
        } = asked_for;
        let mut last = lease.unanswered("renew");
        loop {
            let asked = Moment::now();
            let spent = start.until(&asked);
            let ttl = target.saturating_sub(spent);
            if spent >= limit || ttl.is_zero() {
                return Err(last);
            }
            if how == Renew::Exactly {
                lease.shorten(asked, ttl);
            }
            let doubt = Doubt {
                lease,
                how,
                answered: false,
            };
            let requests = [self.request(ttl, how)];
            let renew = lease.backend().renew(&requests);
            let answer = timer::timeout(limit.saturating_sub(spent), renew).await;
            let answer = answer.map(|answers| answers.into_iter().next());
            match answer.flatten() {
                Some(Ok(ownership)) => {
                    doubt.answered();
                    return lease.prolonged(asked, ttl, ownership);
                }
                Some(Err(error)) => {
                    let retry = lease_error_is_worth_a_retry(&error);
                    if !error.may_have_been_applied() {
                        doubt.answered();
                    }
                    last = LockError::from_backend(&lease.key, error);
                    if !retry {
                        return Err(last);
                    }
                    timer::sleep(RETRY_PAUSE.max(nth(limit, 16))).await;
                }
                None => return Err(last),
            }
        }
    }
}

/// No retry of a renewal comes sooner.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

fn lease_error_is_worth_a_retry(error: &BackendError) -> bool {
    use crate::error::BackendErrorKind::{Transient, Unknown};
    matches!(error.kind(), Transient | Unknown)
}

impl Lease {
    fn prolonged(
        self: &Arc<Self>,
        asked: Moment,
        ttl: Duration,
        ownership: Ownership,
    ) -> Result<(), LockError> {
        let reason = match ownership {
            Ownership::Held => {
                self.confirm(asked, ttl);
                self.link_for_renewal(0.95);
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

    /// Links the lease for another try at a renewal that failed, several times within what remains.
    fn link_for_retry(self: &Arc<Self>) {
        let interval = self
            .terms
            .renewal
            .interval(self.terms.ttl)
            .unwrap_or(Duration::MAX);
        let least = RETRY_PAUSE.max(nth(self.terms.ttl, 100));
        let pause = nth(self.remaining(), 8).min(nth(interval, 4)).max(least);
        self.link(pause, Duration::ZERO);
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.0.operation.add_permits(1);
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

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", &self.key)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}
