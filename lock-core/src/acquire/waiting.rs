//! The one wait: in line for one's turn, and at the store until a wake-up, the end of the holder's entry, or the policy's
//! delay. Not the attempts.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Acquirer;
use super::at_store::{AtStore, Subscription};
use crate::backend::Holder;
use crate::clock::Moment;
use crate::error::LockError;
use crate::key::LockKey;
use crate::line::{Head, Standing, Told};
use crate::observe;
use crate::policy::{Delays, MIN_DELAY, part_of};
use crate::store::Store;
use crate::timer;

/// How much of the re-check interval is left to chance.
const RECHECK_JITTER: f64 = 0.25;

/// How long after a subscription failed it is tried again.
const RESUBSCRIBE_AFTER: Duration = Duration::from_secs(5);

/// The longest pause between attempts that the holder's remaining time suggested.
const MAX_EXPIRY_PAUSE: Duration = Duration::from_secs(1);

/// What the last attempt of a wait came to.
pub(super) enum Last {
    Busy(Holder, Option<Duration>),
    Failed(LockError, Option<oneshot::Receiver<()>>),
}

impl Last {
    fn told(&self, when: Moment) -> Told {
        match self {
            Self::Busy(holder, _) => Told::Busy(holder.clone(), when),
            Self::Failed(error, _) => Told::Failed(error.clone()),
        }
    }
}

/// The state of one wait: from the first attempt to the last.
pub(super) struct Waiting<'a> {
    acquirer: &'a Acquirer<'a>,
    start: Moment,
    limit: Option<Duration>,
    delays: Delays,
    /// When the policy wants the next attempt, counted from the start; `None` once it has been made.
    due: Option<Duration>,
    /// The shortest pause that the holder's remaining time may suggest: doubled each time it was wrong.
    expiry_pause: Duration,
    /// When the last attempt ended.
    attempted: Moment,
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
    pub(super) fn new(acquirer: &'a Acquirer<'a>, start: Moment) -> Self {
        let retry = acquirer.options.retry();
        Self {
            acquirer,
            start,
            limit: retry.wait_limit(),
            delays: retry.delays(),
            due: None,
            expiry_pause: MIN_DELAY,
            attempted: start,
        }
    }

    /// Waits in line until it is our turn, or gives up.
    pub(super) async fn until_turn(&mut self, standing: Standing) -> Result<Head, LockError> {
        let head = self.until_first(standing).await?;
        let rest = head.rest.min(self.left().unwrap_or(Duration::MAX));
        if !rest.is_zero() && head.passed.is_none() {
            let patience = rest.saturating_add(self.acquirer.terms.op_timeout());
            head.promise(Moment::now(), patience, false);
            let store = self.acquirer.store;
            let closed = pin!(or_closed(store, pending::<()>()));
            timer::timeout(rest, closed).await;
            store.check_open(self.key())?;
        }
        Ok(head)
    }

    async fn until_first(&mut self, mut standing: Standing) -> Result<Head, LockError> {
        let retry = self.acquirer.options.retry();
        loop {
            let mut pause = match standing.look(retry.longest_delay()) {
                Ok(head) => return Ok(head),
                Err(pause) => pause,
            };
            if retry.is_counted() {
                // In line each delay is followed by an attempt that finds others before it.
                let Some(due) = self.draw_delay() else {
                    return Err(standing.told().give_up(self.key(), self.start.elapsed()));
                };
                pause = pause.min(due.saturating_sub(self.start.elapsed()));
            }
            if let Some(left) = self.left() {
                pause = pause.min(left);
            }
            observe::waiting(self.key(), pause);
            let limit = pause.max(MIN_DELAY);
            let turned = timer::timeout(limit, pin!(standing.turn())).await;
            match turned {
                Some(Some(head)) => return Ok(head),
                Some(None) => self.acquirer.store.check_open(self.key())?,
                None => {}
            }
            if self.left().is_some_and(|left| left.is_zero()) {
                return Err(standing.told().give_up(self.key(), self.start.elapsed()));
            }
            self.due = self.due.filter(|due| *due > self.start.elapsed());
        }
    }

    /// Waits as the head of the line until it is time for another attempt, or gives up.
    pub(super) async fn until_next_attempt(
        &mut self,
        last: Last,
        head: &mut Head,
    ) -> Result<(), LockError> {
        self.attempted = Moment::now();
        head.tell(last.told(self.attempted));
        if self.left().is_some_and(|left| left.is_zero()) {
            return Err(self.give_up(last));
        }
        let op_timeout = self.acquirer.terms.op_timeout();
        // At the most, the last release and a subscription are waited for.
        let patience = op_timeout.saturating_mul(2).saturating_add(MIN_DELAY);
        head.promise(self.attempted, patience, false);
        let counted = self.acquirer.options.retry().is_counted();
        let last = match last {
            Last::Failed(error, Some(released)) => {
                // The next attempt starts when the release of this one was answered or timed out.
                let limit = self.left().unwrap_or(Duration::MAX).min(op_timeout);
                if self.draw_delay().is_none() {
                    return Err(error);
                }
                timer::timeout(limit, released).await;
                Last::Failed(error, None)
            }
            other => other,
        };
        let at_store = head.at_store.get_or_insert_default();
        let busy = matches!(last, Last::Busy(..));
        if busy && !(counted && self.draw_delay().is_none()) && self.subscribe(at_store).await {
            // What was released before the subscription was in force is found by this attempt.
            return Ok(());
        }
        let wakes = busy && matches!(at_store.wakeup, Subscription::Some(..));
        let mut first = if wakes && !counted {
            self.due = None;
            (self.recheck_interval(), Cause::Hint)
        } else {
            match self.draw_delay() {
                Some(due) => (due.saturating_sub(self.start.elapsed()), Cause::Policy),
                None => return Err(self.give_up(last)),
            }
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
        let (pause, cause) = (first.0.max(MIN_DELAY), first.1);
        observe::waiting(self.key(), pause);
        head.promise(Moment::now(), pause, !wakes);
        let wakeup = head.at_store.as_mut().map(|at_store| &mut at_store.wakeup);
        if self.wait(pause, wakeup.filter(|_| wakes)).await? {
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

    fn key(&self) -> &'a LockKey {
        self.acquirer.key
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
    async fn subscribe(&mut self, at_store: &mut AtStore) -> bool {
        let acquirer = self.acquirer;
        let Some(wakeups) = &acquirer.store.wakeups else {
            return false;
        };
        let place = at_store.place.as_ref().map(|kept| kept.place.clone());
        let early = match &at_store.wakeup {
            Subscription::NotTried => Duration::ZERO,
            Subscription::None(_, when) if when.elapsed() > RESUBSCRIBE_AFTER => Duration::ZERO,
            // A store that moves us all the time must not make us spin.
            Subscription::None(tried, _) | Subscription::Some(_, tried) if *tried != place => {
                MIN_DELAY.saturating_sub(self.attempted.elapsed())
            }
            Subscription::None(..) | Subscription::Some(..) => return false,
        };
        let limit = self
            .left()
            .unwrap_or(Duration::MAX)
            .min(acquirer.terms.op_timeout());
        let subscribe = async {
            if !early.is_zero() {
                timer::sleep(early).await;
            }
            wakeups.subscribe(acquirer.key, place.as_ref()).await
        };
        let subscribed =
            timer::timeout(limit, pin!(or_closed(acquirer.store, pin!(subscribe)))).await;
        let in_force = matches!(subscribed, Some(Some(Ok(_))));
        at_store.wakeup = match subscribed.flatten() {
            Some(Ok(wakeup)) => Subscription::Some(wakeup, place),
            // The policy's delays serve instead.
            Some(Err(_)) | None => Subscription::None(place, Moment::now()),
        };
        in_force
    }

    /// Waits for `pause`; true if woken before.
    async fn wait(
        &self,
        pause: Duration,
        wakeup: Option<&mut Subscription>,
    ) -> Result<bool, LockError> {
        let store = self.acquirer.store;
        let attempted = self.attempted;
        let woken = async {
            match wakeup {
                Some(Subscription::Some(wakeup, _)) => {
                    wakeup.notified().await;
                    // A store that wakes us all the time must not make us spin.
                    let early = MIN_DELAY.saturating_sub(attempted.elapsed());
                    if !early.is_zero() {
                        timer::sleep(early).await;
                    }
                }
                _ => pending().await,
            }
        };
        let woken = timer::timeout(pause, pin!(or_closed(store, pin!(woken)))).await;
        store.check_open(self.key())?;
        Ok(woken.is_some())
    }

    pub(super) fn give_up(&self, last: Last) -> LockError {
        last.told(self.attempted)
            .give_up(self.key(), self.start.elapsed())
    }
}

/// What `future` resolves to, or `None` when the store is closed before.
async fn or_closed<F: Future + Unpin>(store: &Store, mut future: F) -> Option<F::Output> {
    let mut closed = pin!(store.closed());
    poll_fn(|context| {
        if closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut future).poll(context).map(Some)
    })
    .await
}

fn sooner(one: (Duration, Cause), other: (Duration, Cause)) -> (Duration, Cause) {
    if other.0 < one.0 { other } else { one }
}
